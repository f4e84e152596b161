"""What every block did to the residual stream, for each token of one chain.

Four numbers per token and block: the norms of what enters the block (`pre_norm`), of what leaves it
(`post_norm`) and of what it adds (`delta_norm`), and the inner product of the first two (`dot`).
Block Influence (ShortGPT, arXiv 2403.03853) is 1 - dot / (pre_norm post_norm). Because the numbers
are per token, they can be averaged later over any part of the chain: by step, at events that only
the finished chain shows, with or without sinks (`interp.influence_profile`).

Shapes: S generated tokens, L blocks; float32 whatever the model's dtype. As in `Chain.logprob`, row
s belongs to the pass that CHOSE token s, which reads token s - 1 or the end of the prompt. Tokens
that were given (the prefix of a fork) have nan rows if the record was made while decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.plumbing.brief_repr import brief

NUMBERS = ("pre_norm", "post_norm", "delta_norm", "dot")


@brief
@dataclass(frozen=True)
class StreamRecord:
    """The residual record of one chain.

    Attributes:
        pre_norm: norm of the stream entering each block [S, L].
        post_norm: norm of the stream leaving it [S, L].
        delta_norm: norm of what the block adds [S, L].
        dot: inner product of the entering and the leaving stream [S, L].
        layer_map: dense index of each block, in the model's order.
    """

    pre_norm: Float[np.ndarray, "S L"]
    post_norm: Float[np.ndarray, "S L"]
    delta_norm: Float[np.ndarray, "S L"]
    dot: Float[np.ndarray, "S L"]
    layer_map: tuple[int, ...]

    @classmethod
    def of(cls, numbers: Float[np.ndarray, "S L 4"], layer_map: tuple[int, ...]) -> StreamRecord:
        """Build a record from the four numbers of each token and block.

        Args:
            numbers: pre, post, delta and dot along the last axis [S, L, 4]; copied.
            layer_map: dense index of each block.

        Returns:
            The record.
        """
        pre, post, delta, dot = np.moveaxis(numbers, -1, 0).copy()
        return cls(pre, post, delta, dot, layer_map)

    @property
    def cosine(self) -> Float[np.ndarray, "S L"]:
        """Cosine of entering and leaving stream [S, L]: 1 if both are zero, 0 if only one is."""
        import torch

        from interp.kernels.stream_numbers import cosine

        return cosine(*map(torch.from_numpy, (self.dot, self.pre_norm, self.post_norm))).numpy()

    @property
    def influence(self) -> Float[np.ndarray, "S L"]:
        """Block Influence of every token and block [S, L]."""
        return 1.0 - self.cosine

    @property
    def sinks(self) -> Bool[np.ndarray, "S L"]:
        """Tokens whose norm at a block is over 100 times the chain's median there [S, L]."""
        return _sinks(self.pre_norm) | _sinks(self.post_norm)

    def to_frame(self) -> pd.DataFrame:
        """One row per token and block."""
        steps, depth = self.pre_norm.shape
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
