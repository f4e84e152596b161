"""Requests to the decoder, and how to make them: `cross` from prompts, `fork` from a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from interp.chains.chain import Budget, Budgets, Chain, budgets_of
from interp.chains.noise import noise_key
from interp.errors import UserError
from interp.interventions.interventions import Intervention, VariantLike, dense
from interp.model.chat import RawPrompt
from interp.plumbing.arguments import checked

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel


@checked
@dataclass(frozen=True)
class Request:
    """One sample of one problem under one variant, at one or more budgets.

    Attributes:
        problem: name of the problem.
        prompt_ids: token ids of the prompt, up to where the model continues: after the start of
            thinking, or after an empty thinking (then the model only answers, and only the
            answer tokens of the budgets count).
        variant: the variant of the model; the dense model by default.
        sample: number of the sample; with the seed and the problem it determines the noise.
        seed: seed of the noise.
        budgets: the budgets, each at most once; each gives one chain.
        prefix: token ids with which the chain begins, as if the model had chosen them (see
            `fork`). Steps and budgets count them. Empty by default.
        answering: whether the model answers at once, so only the answer tokens of the budgets
            count. A prompt that closes the thinking says so itself; the plain format has no mark
            for it.
    """

    problem: str
    prompt_ids: tuple[int, ...]
    variant: VariantLike = dense
    sample: int = 0
    seed: int = 0
    budgets: tuple[Budget, ...] = (Budget(),)
    prefix: tuple[int, ...] = ()
    answering: bool = False

    def __post_init__(self) -> None:
        """Refuses invalid values with a UserError."""
        if not self.prompt_ids:
            raise UserError(f"Problem {self.problem!r} has an empty prompt: expected token ids.")
        if not self.budgets:
            raise UserError(f"Problem {self.problem!r} has no budget: give at least one Budget.")
        if len(set(self.budgets)) < len(self.budgets):
            raise UserError(
                f"Problem {self.problem!r} names a budget twice: {self.budgets}. Expected each "
                "budget once."
            )

    @property
    def key(self) -> int:
        """Key of the noise. All variants and budgets of one sample share it."""
        return noise_key(self.seed, self.problem, self.sample)

    @property
    def prefill_key(self) -> tuple[Any, ...]:
        """Key of the prefill: requests with equal keys share their prefill."""
        if not self.changes:
            return (self.read, None)
        chain = self.key if any(one.by_chain for one in self.changes) else None
        return (self.read, self.variant.name, len(self.prompt_ids), chain)

    @property
    def read(self) -> tuple[int, ...]:
        """Token ids before the first chosen token: the prompt and the prefix."""
        return self.prompt_ids + self.prefix

    @property
    def changes(self) -> tuple[Intervention, ...]:
        """The interventions that change the keys and values of the prompt or the prefix."""
        last = len(self.prefix) - 2 if self.prefix else -1
        return tuple(one for one in self.variant.interventions() if one.touches(last))


def check(model: ReasoningModel, requests: Sequence[Request]) -> None:
    """Refuses requests that cannot be decoded, before anything is computed.

    Args:
        model: the model.
        requests: the requests.

    Raises:
        UserError: a prompt is too long or from another tokenizer, a prefix leaves nothing to
            decode, a request occurs twice, two variants share a name, or a budget has waits and
            the thinking format has no word for them.
    """
    seen: dict[tuple[str, str, int, int], Request] = {}
    names: dict[str, VariantLike] = {}
    for r in requests:
        if len(r.read) >= model.max_positions:
            raise UserError(
                f"The prompt of problem {r.problem!r} has {len(r.read)} tokens; "
                f"{model.name} has {model.max_positions} positions, and an answer needs some. "
                "Shorten the prompt or use a model with more positions."
            )
        if r.prefix:
            _check_prefix(model, r)
        if min(r.read) < 0 or max(r.read) >= model.vocab_size:
            raise UserError(
                f"The prompt of problem {r.problem!r} has token ids outside "
                f"0..{model.vocab_size - 1}: it was made with another tokenizer. Encode it with "
                f"the tokenizer of {model.name}."
            )
        key = (r.problem, r.variant.name, r.sample, r.seed)
        if key in seen:
            raise UserError(
                f"Asked twice for problem {r.problem!r}, variant {r.variant.name!r}, sample "
                f"{r.sample}, seed {r.seed}: give each problem and each variant its own name."
            )
        seen[key] = r
        known = names.setdefault(r.variant.name, r.variant)
        if known is not r.variant and known != r.variant:
            raise UserError(
                f"Two different variants are named {r.variant.name!r}: give each its own name."
            )
        if any(b.waits for b in r.budgets) and not model.delimiter_ids.wait:
            raise UserError(
                'A budget has waits, but the thinking format has no word for "wait" that the '
                "tokenizer can spell: pass delimiters=Delimiters(..., wait=...), --wait-word WORD, "
                "or budgets without waits."
            )


def _check_prefix(model: ReasoningModel, r: Request) -> None:
    """Refuses a prefix after which there is no thinking left to decode."""
    if model.delimiter_ids.closed_in(r.read):
        raise UserError(
            f"Problem {r.problem!r}: thinking ends before the fork at token {len(r.prefix)}. "
            "Fork a chain inside its thinking."
        )
    if short := [b.label for b in r.budgets if b.thinking <= len(r.prefix)]:
        raise UserError(
            f"Problem {r.problem!r}: a fork at token {len(r.prefix)} leaves nothing of the budget "
            f"{', '.join(short)}. Use budgets with more than {len(r.prefix)} thinking tokens."
        )


@checked
def fork(
    chain: Chain,
    at: int,
    variants: Sequence[VariantLike] = (dense,),
    *,
    budgets: Budgets | None = None,
) -> list[Request]:
    """Makes requests that continue from the first tokens of a chain, one per variant.

    They keep the problem, sample, seed and noise of the chain. So the chain's own variant
    reproduces it, and another variant differs only by its effect after the fork.

    A variant without a window also changes how the given tokens are read. `Window(at)` limits it
    to what comes after: step `at` reads the first token that the fork chooses.

    Args:
        chain: the chain to fork.
        at: generated tokens to keep; inside the chain's thinking.
        variants: the variants to continue with; the dense model by default.
        budgets: budgets of the requests; the chain's own by default. They count the kept tokens.

    Returns:
        One request per variant.

    Raises:
        UserError: `at` is outside the chain's thinking.
    """
    if not 0 <= at <= chain.thinking.stop:
        raise UserError(
            f"Cannot fork chain {chain.problem!r} at token {at}: expected a position in "
            f"its thinking, 0 to {chain.thinking.stop}."
        )
    chosen = chain.budget if budgets is None else budgets
    allowed = budgets_of(chosen)
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
    budgets: Budgets = Budget(),
    samples: int = 1,
    seed: int = 0,
    problem_ids: Sequence[str] | None = None,
    thinking: bool = True,
) -> list[Request]:
    """Makes requests for prompts x variants x samples, in that order.

    Args:
        model: the model whose tokenizer and chat template make the prompts.
        prompts: questions, lists of messages ("role" and "content"), or lists of token ids.
        variants: variants of the model; only the dense model by default.
        budgets: one or more budgets of every request.
        samples: samples per prompt and variant.
        seed: seed of the noise.
        problem_ids: a unique name for each prompt; "0", "1", ... by default.
        thinking: whether prompts start the thinking; if False, they contain an empty thinking and
            the model answers at once. Prompts of token ids are used unchanged.

    Returns:
        The requests.

    Raises:
        UserError: there is no prompt, variant or sample, or `problem_ids` do not fit the prompts.
    """
    if isinstance(prompts, str):
        raise UserError("prompts is one string: expected a list of prompts. Pass [prompt].")
    if not len(prompts):
        raise UserError("prompts is empty: expected at least one prompt.")
    if samples < 1:
        raise UserError(f"samples={samples}: expected 1 or more.")
    chosen = (dense,) if variants is None else tuple(variants)
    if not chosen:
        raise UserError("variants is empty: expected at least one, or None for the dense model.")
    allowed = budgets_of(budgets)
    names = [str(i) for i in range(len(prompts))] if problem_ids is None else list(problem_ids)
    if len(names) != len(prompts):
        raise UserError(
            f"{len(names)} problem_ids for {len(prompts)} prompts: expected one name per prompt."
        )
    if len(set(names)) < len(names):
        twice = sorted({n for n in names if names.count(n) > 1})[:3]
        raise UserError(
            f"problem_ids repeat {', '.join(map(repr, twice))}: expected a unique name per prompt."
        )
    requests = []
    for name, prompt in zip(names, prompts, strict=True):
        ids = _ids(model, prompt, thinking)
        # otherwise the prompt itself says that its thinking is closed
        unmarked = model.delimiter_ids.plain or isinstance(prompt, RawPrompt)
        answering = not thinking and unmarked
        for variant in chosen:
            for sample in range(samples):
                requests.append(
                    Request(name, ids, variant, sample, seed, allowed, answering=answering)
                )
    return requests


def _ids(model: ReasoningModel, prompt: Any, thinking: bool) -> tuple[int, ...]:
    """Returns the token ids of a prompt; ids that the caller gave stay as they are."""
    if _is_ids(prompt):
        return tuple(int(i) for i in cast("Sequence[int]", prompt))
    return tuple(model.prompt_ids(prompt, thinking=thinking))


def _is_ids(prompt: Any) -> bool:
    """Whether a prompt is a list of token ids."""
    if isinstance(prompt, (str, bytes)) or not isinstance(prompt, (Sequence, np.ndarray)):
        return False
    return len(prompt) > 0 and all(isinstance(i, (int, np.integer)) for i in prompt)
