"""What every block did to the residual stream, token by token of one chain.

Four numbers a token and block are kept: the norms of what entered the block (`pre`), of what left
it (`post`) and of what it added (`delta`), and the inner product of the first two (`dot`). Block
Influence (ShortGPT, arXiv 2403.03853) is 1 - dot / (pre post). Kept token by token they can be
averaged over any part of the chain afterwards: by step, at events that only the finished chain
shows, with sinks or without (`interp.influence_profile`).

Shapes: S generated tokens, L blocks. Row s belongs to the pass that CHOSE token s (it reads token
s - 1, or the end of the prompt), as `Chain.logprob` does. Rows of tokens that were given (the
prefix of a fork) are nan when recorded while decoding. All in float32, whatever the model's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = ("pre", "post", "delta", "dot")


@dataclass(frozen=True)
class StreamRecord:
    """One chain's record. layer_map: position in this model -> dense index."""

    pre: Float[np.ndarray, "S L"]
    post: Float[np.ndarray, "S L"]
    delta: Float[np.ndarray, "S L"]
    dot: Float[np.ndarray, "S L"]
    layer_map: tuple[int, ...]

    @classmethod
    def of(cls, numbers: Float[np.ndarray, "S L 4"], layer_map: tuple[int, ...]) -> StreamRecord:
        """From the four numbers side by side, copied."""
        pre, post, delta, dot = np.moveaxis(numbers, -1, 0).copy()
        return cls(pre, post, delta, dot, layer_map)

    @property
    def cosine(self) -> Float[np.ndarray, "S L"]:
        """Of what enters and what leaves; two zero vectors are equal, a zero and another not."""
        import torch

        from interp.kernels.stream_numbers import cosine

        return cosine(*map(torch.from_numpy, (self.dot, self.pre, self.post))).numpy()

    @property
    def influence(self) -> Float[np.ndarray, "S L"]:
        """Block Influence of every token and block."""
        return 1.0 - self.cosine

    @property
    def sinks(self) -> Bool[np.ndarray, "S L"]:
        """Tokens whose norm at a block is over 100 times the chain's median there."""
        return _sinks(self.pre) | _sinks(self.post)

    def to_frame(self) -> pd.DataFrame:
        """One row a token and block."""
        import pandas as pd

        steps, depth = self.pre.shape
        columns = {name: getattr(self, name).ravel() for name in (*NUMBERS, "influence", "sinks")}
        return pd.DataFrame(
            {
                "token": np.repeat(np.arange(steps), depth),
                "block": np.tile(np.asarray(self.layer_map), steps),
                **columns,
            }
        )


def _sinks(norms: Float[np.ndarray, "S L"]) -> Bool[np.ndarray, "S L"]:
    """Tokens that were not recorded (nan) are no sinks, and count for no median."""
    import torch

    from interp.kernels.stream_numbers import sinks

    known = np.isfinite(norms).all(axis=1)
    if not known.any():
        return np.zeros(norms.shape, dtype=bool)
    return sinks(torch.from_numpy(norms.T), torch.from_numpy(known)).numpy().T
