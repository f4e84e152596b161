"""Backends: what can turn requests into chains.

`Engine` is the protocol a study needs; `scaling.engines.local.LocalEngine` fulfils it with the
package's own decoder, `scaling.engines.server.ServerEngine` with a model that vLLM, SGLang or
`transformers serve` serves. Nothing of a study knows which one it talks to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from interp.chains.chain import Chain

if TYPE_CHECKING:
    from interp.decoding.request import Request
    from interp.decoding.sampling import Sampling
    from pruning.scores import Scores

__all__ = ["Engine"]


@runtime_checkable
class Engine(Protocol):
    """What a study asks of a model."""

    model: Any

    @property
    def layer_map(self) -> tuple[int, ...]:
        """Dense index of each block the model has."""
        ...

    def fingerprint(self) -> str:
        """Identity of the weights and configuration."""
        ...

    def prompt_ids(self, question: str, *, thinking: bool) -> list[int]:
        """The ids of a prompt."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        ...

    def text(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of ids."""
        ...

    def decode(
        self, requests: Sequence[Request], *, sampling: Sampling, stop_on_loop: bool
    ) -> Iterator[Chain]:
        """Every chain as soon as it is finished."""
        ...

    def option_logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        options: Sequence[Sequence[Sequence[int]]],
        variants: Sequence[Any],
    ) -> np.ndarray:
        """Log-probability of each option of each prompt under each variant: [V, P, O]."""
        ...

    def score(self, criterion: str, chains: Sequence[Chain], seed: int, remove: int) -> Scores:
        """The blocks' scores by a criterion, calibrated on chains."""
        ...
