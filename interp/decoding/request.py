"""What is asked of the decoder: requests, and the crossing of prompts with variants and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from interp.chains.chain import Budget, Chain
from interp.chains.noise import noise_key
from interp.errors import UserError
from interp.interventions.interventions import VariantLike, dense, touches

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel


@dataclass(frozen=True)
class Request:
    """One sample of one problem under one variant, at every budget asked for.

    prompt_ids ends where the model is to go on: after the start of thinking, or after an empty
    thinking (then there is only an answer, and of the budgets only `answer` counts).
    prefix: generated tokens that the chain begins with, as if the model had chosen them (a fork of
    a chain that is there; see `fork`). Steps and budgets count them.
    """

    problem: str
    prompt_ids: tuple[int, ...]
    variant: VariantLike = dense
    sample: int = 0
    seed: int = 0
    budgets: tuple[Budget, ...] = (Budget(),)
    prefix: tuple[int, ...] = ()

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
        return (self.read, self.variant.name if self._touched else None)

    @property
    def read(self) -> tuple[int, ...]:
        """What is there before the first token is chosen."""
        return self.prompt_ids + self.prefix

    @property
    def _touched(self) -> bool:
        """Whether the variant changes how the prompt and the prefix are read."""
        return touches(self.variant, len(self.prefix) - 2 if self.prefix else -1)


def check(model: ReasoningModel, requests: Sequence[Request]) -> None:
    """Refuses what cannot be decoded, before anything is computed."""
    seen: dict[tuple[str, str, int, int], Request] = {}
    names: dict[str, VariantLike] = {}
    for r in requests:
        if len(r.read) >= model.max_positions:
            raise UserError(
                f"The prompt of problem {r.problem!r} has {len(r.read)} tokens; "
                f"{model.name} has {model.max_positions} positions, and an answer needs some."
            )
        if r.prefix:
            _check_prefix(model, r)
        if min(r.read) < 0 or max(r.read) >= model.vocab_size:
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


def _check_prefix(model: ReasoningModel, r: Request) -> None:
    if model.delimiter_ids.closed_in(r.read):
        raise UserError(
            f"Problem {r.problem!r}: the thinking is closed before the fork at token "
            f"{len(r.prefix)}; fork a chain inside its thinking."
        )
    if short := [b.label for b in r.budgets if b.thinking <= len(r.prefix)]:
        raise UserError(
            f"Problem {r.problem!r}: a fork at token {len(r.prefix)} leaves nothing of the budget "
            f"{', '.join(short)}; give larger budgets."
        )


def fork(
    chain: Chain,
    at: int,
    variants: Sequence[VariantLike] = (dense,),
    *,
    budgets: Budget | Sequence[Budget] | None = None,
) -> list[Request]:
    """Requests that go on from the first `at` tokens of a chain, one a variant.

    They keep its problem, sample, seed and noise, so the chain's own variant reproduces it, and
    any other differs by what it does from there on. (A variant without a window also reads the
    given tokens in its own way; `Window(at)` limits it to what comes after: step `at` reads the
    first token that the fork chooses.) budgets: the chain's own unless given. at: inside the
    chain's thinking.
    """
    if not 0 <= at <= chain.n_thinking:
        raise UserError(
            f"Cannot fork chain {chain.problem!r} at token {at}: its thinking has "
            f"{chain.n_thinking} tokens."
        )
    chosen = chain.budget if budgets is None else budgets
    allowed = (chosen,) if isinstance(chosen, Budget) else tuple(chosen)
    prompt, prefix = tuple(chain.prompt_ids.tolist()), tuple(chain.ids[:at].tolist())
    return [
        Request(chain.problem, prompt, v, chain.sample, chain.seed, allowed, prefix)
        for v in variants
    ]


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
