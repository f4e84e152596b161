"""The local engine: the package's own decoder on a loaded model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.chains.chain import Chain
from interp.decoding.generate import decode
from interp.decoding.memory import CPU_SLOTS
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.model.reasoning_model import ReasoningModel
from interp.replay.teacher_forced import continuation_logprobs

if TYPE_CHECKING:
    from pruning.scores import Scores


class LocalEngine:
    """An `Engine` over a loaded `ReasoningModel`.

    Args:
        model: the model.
        slots: rows decoded at a time; None lets the decoder choose.
    """

    def __init__(self, model: ReasoningModel, *, slots: int | None = None) -> None:
        self.model = model
        self.slots = slots

    @property
    def about(self) -> str:
        """The engine and its backend for the blocks, as recorded in the store."""
        from interp.decoding.model_runner import choose

        if self.model.device.type != "cpu":
            return f"LocalEngine on {self.model.device.type}"
        return f"LocalEngine: {choose(self.model, self.slots or CPU_SLOTS).backend.name}"

    @property
    def layer_map(self) -> tuple[int, ...]:
        """Dense index of each block."""
        return tuple(self.model.layer_map)

    @property
    def provenance(self) -> dict[str, Any]:
        """The GGUF file that the weights come from; else empty."""
        return self.model.provenance

    def fingerprint(self) -> str:
        """Identity of weights and configuration."""
        return self.model.fingerprint()

    def prompt_ids(self, question: str, *, thinking: bool) -> list[int]:
        """Token ids of the chat prompt of a question."""
        return self.model.prompt_ids(question, thinking=thinking)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self.model.encode(text)

    def text(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Decode token ids to text."""
        return self.model.text(ids, skip_special)

    def decode(
        self, requests: Sequence[Request], *, sampling: Sampling, stop_on_loop: bool
    ) -> Iterator[Chain]:
        """Yield chains as they finish."""
        return decode(
            self.model, requests, sampling=sampling, slots=self.slots, stop_on_loop=stop_on_loop
        )

    def option_logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        options: Sequence[Sequence[Sequence[int]]],
        variants: Sequence[Any],
    ) -> np.ndarray:
        """Log-probabilities of options in nats: [V, P, O]."""
        return continuation_logprobs(self.model, prompts, options, variants)

    def score(self, criterion: str, chains: Sequence[Chain], seed: int, remove: int) -> Scores:
        """Score the blocks by a criterion; a greedy one is followed for `remove` removals."""
        from pruning.criteria import criteria, score

        known = criteria().get(criterion)
        options = {"remove": remove} if known and "remove" in known.options else {}
        return score(criterion, self.model, list(chains), seed=seed, **options)
