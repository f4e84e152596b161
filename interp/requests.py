"""What is asked of the decoder: requests, and the crossing of prompts with variants and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from interp.chains import Budget
from interp.errors import UserError
from interp.interventions import VariantLike, dense, touches_prefill
from interp.sampling import noise_key

if TYPE_CHECKING:
    from interp.model import ReasoningModel


@dataclass(frozen=True)
class Request:
    """One sample of one problem under one variant, at every budget asked for.

    prompt_ids ends where the model is to go on: after the start of thinking, or after an empty
    thinking (then there is only an answer, and of the budgets only `answer` counts).
    """

    problem: str
    prompt_ids: tuple[int, ...]
    variant: VariantLike = dense
    sample: int = 0
    seed: int = 0
    budgets: tuple[Budget, ...] = (Budget(),)

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise UserError(f"Problem {self.problem!r} has an empty prompt.")
        if not self.budgets:
            raise UserError(f"Problem {self.problem!r} has no budget: give at least one Budget.")
        if len(set(self.budgets)) < len(self.budgets):
            raise UserError(f"Problem {self.problem!r} names a budget twice: {self.budgets}.")

    @property
    def key(self) -> int:
        """What its noise is keyed by: the variant and the budget are not part of it."""
        return noise_key(self.seed, self.problem, self.sample)

    @property
    def prefill_key(self) -> tuple[Any, ...]:
        """Requests with equal keys share the keys and values of their prompt."""
        return (self.prompt_ids, self.variant.name if touches_prefill(self.variant) else None)


def check(model: ReasoningModel, requests: Sequence[Request]) -> None:
    """Refuses what cannot be decoded, before anything is computed."""
    seen: dict[tuple[str, str, int, int], Request] = {}
    names: dict[str, VariantLike] = {}
    for r in requests:
        if len(r.prompt_ids) >= model.max_positions:
            raise UserError(
                f"The prompt of problem {r.problem!r} has {len(r.prompt_ids)} tokens; "
                f"{model.name} has {model.max_positions} positions, and an answer needs some."
            )
        if min(r.prompt_ids) < 0 or max(r.prompt_ids) >= model.vocab_size:
            raise UserError(
                f"The prompt of problem {r.problem!r} has token ids outside "
                f"0..{model.vocab_size - 1}: it was made with another tokenizer."
            )
        key = (r.problem, r.variant.name, r.sample, r.seed)
        if key in seen:
            raise UserError(
                f"Asked twice for problem {r.problem!r}, variant {r.variant.name!r}, sample "
                f"{r.sample}: problems and variants need names of their own."
            )
        seen[key] = r
        known = names.setdefault(r.variant.name, r.variant)
        if known is not r.variant and known != r.variant:
            raise UserError(f"Two different variants are named {r.variant.name!r}.")
        if any(b.waits for b in r.budgets) and not model.delimiter_ids.wait:
            raise UserError(
                'A budget asks for waits, but the delimiters have no "wait": '
                "pass delimiters=Delimiters(..., wait=...)."
            )


def cross(
    model: ReasoningModel,
    prompts: Sequence[Any],
    *,
    variants: Sequence[VariantLike] | None = None,
    budgets: Budget | Sequence[Budget] = Budget(),
    samples: int = 1,
    seed: int = 0,
    problem_ids: Sequence[str] | None = None,
    thinking: bool = True,
) -> list[Request]:
    """Requests for prompts x variants x samples, in that order.

    A prompt is a question, a list of messages, or a list of token ids. Problems are named
    "0", "1", ... unless `problem_ids` says otherwise.
    """
    if isinstance(prompts, str):
        raise UserError("prompts is one string: expected a list of prompts.")
    if not len(prompts):
        raise UserError("No prompt: expected at least one.")
    if samples < 1:
        raise UserError(f"samples={samples}: expected 1 or more.")
    chosen = (dense,) if variants is None else tuple(variants)
    if not chosen:
        raise UserError("No variant: expected at least one (dense).")
    allowed = (budgets,) if isinstance(budgets, Budget) else tuple(budgets)
    names = [str(i) for i in range(len(prompts))] if problem_ids is None else list(problem_ids)
    if len(names) != len(prompts):
        raise UserError(f"{len(names)} problem_ids for {len(prompts)} prompts.")
    if len(set(names)) < len(names):
        twice = sorted({n for n in names if names.count(n) > 1})[:3]
        raise UserError(f"problem_ids repeat: {', '.join(map(repr, twice))}.")
    requests = []
    for name, prompt in zip(names, prompts, strict=True):
        ids = _ids(model, prompt, thinking)
        for variant in chosen:
            for sample in range(samples):
                requests.append(Request(name, ids, variant, sample, seed, allowed))
    return requests


def _ids(model: ReasoningModel, prompt: Any, thinking: bool) -> tuple[int, ...]:
    if not isinstance(prompt, str) and len(prompt) and not isinstance(prompt[0], dict):
        return tuple(int(i) for i in cast("Sequence[int]", prompt))
    return tuple(model.prompt_ids(prompt, thinking=thinking))
