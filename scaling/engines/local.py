"""The local engine: the package's own decoder on a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.chains.chain import Chain
from interp.decoding.decoder_choice import runner_for
from interp.decoding.generate import decode
from interp.decoding.generic_runner import GenericRunner
from interp.decoding.memory import CPU_SLOTS
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.interventions import Variant
from interp.model.reasoning_model import ReasoningModel
from interp.replay.teacher_forced import continuation_logprobs
from pruning.repaired_plan import by_repair
from scaling.engines.engine import EngineText

if TYPE_CHECKING:
    from pruning.plan import LayerPlan
    from pruning.scores import Scores


class LocalEngine(EngineText):
    """An `Engine` over a loaded `ReasoningModel`.

    Args:
        model: the model.
        slots: rows decoded at a time; None lets the decoder choose.
    """

    def __init__(self, model: ReasoningModel, *, slots: int | None = None) -> None:
        super().__init__(model)
        self.model = model
        self.slots = slots
        self.on_tokens: Callable[[int], object] | None = None  # given to it: tokens of a `decode`

    @property
    def dtype(self) -> str:
        """The precision of the weights, such as "bfloat16"."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def about(self) -> str:
        """The device, the decoder and its backend for the blocks, as recorded in the store."""
        from interp.decoding.model_runner import choose

        device = self.model.device.type
        on = "" if device == "cpu" else f" on {device}"
        try:
            runner = runner_for(self.model, "auto")
        except UserError:  # likelihoods need no decoder
            return f"LocalEngine{on}: no decoder"
        if runner is GenericRunner:
            return f"LocalEngine{on}: generic decoder"
        how = "" if on else f", {choose(self.model, self.slots or CPU_SLOTS).backend.name}"
        return f"LocalEngine{on}: fast decoder{how}"

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

    def decode(
        self,
        requests: Sequence[Request],
        *,
        sampling: Sampling,
        stop_on_loop: bool,
        stop: Sequence[str] = (),
    ) -> Iterator[Chain]:
        """Yield chains as they finish; those of repaired models after those of the own model."""
        before = now = 0

        def told(tokens: int, *_: int) -> None:
            nonlocal now
            now = tokens
            if self.on_tokens is not None:
                self.on_tokens(before + tokens)

        for plan, part in by_repair(requests, lambda r: r.variant):
            before, now = before + now, 0
            if plan is not None:
                part = [replace(r, variant=Variant(r.variant.name)) for r in part]
            yield from decode(
                self.model if plan is None else plan.model_of(self.model),
                part,
                sampling=sampling,
                slots=self.slots,
                stop_on_loop=stop_on_loop,
                stop=stop,
                progress=told,
            )

    def option_logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        options: Sequence[Sequence[Sequence[int]]],
        variants: Sequence[Any],
    ) -> np.ndarray:
        """Log-probabilities of options in nats: [V, P, O]."""
        found: dict[str, np.ndarray] = {}
        for plan, part in by_repair(variants, lambda v: v):
            own = part if plan is None else [Variant(v.name) for v in part]
            model = self.model if plan is None else plan.model_of(self.model)
            table = continuation_logprobs(model, prompts, options, own)
            found |= {v.name: rows for v, rows in zip(part, table, strict=True)}
        return np.stack([found[v.name] for v in variants])

    def score(self, criterion: str, chains: Sequence[Chain], seed: int, remove: int) -> Scores:
        """Score the blocks by a criterion; a greedy one is followed for `remove` removals."""
        from pruning.criteria import criteria, score

        known = criteria().get(criterion)
        options = {"remove": remove} if known and "remove" in known.options else {}
        return score(criterion, self.model, list(chains), seed=seed, **options)

    def choose(self, repair: str, chains: Sequence[Chain], remove: int) -> LayerPlan:
        """The plan of a repair that chooses the blocks itself."""
        from pruning.repaired_plan import RepairedPlan

        return RepairedPlan.chosen(self.model, repair, list(chains), remove).plan
