"""Task-greedy: remove the block that costs the fewest correct answers. arXiv 2602.01997.

Each step lets the model answer every prompt without each remaining block, on top of those already
removed, and removes the block without which most answers are right. All candidates decode in one
batch, with the same noise for a sample of a prompt. The paper never removes block 0
(`protect_first`). The cost is (blocks left) x prompts x samples chains per removal.

Accuracy on a few dozen prompts is coarse, so candidates tie. Of equals, the block goes without
which the dense model's own answers have the lowest loss (by a sweep); the paper takes the deepest.
Scores are of the first step: the accuracy lost, paired with the dense model's chains.

This package knows no task, so `accept` says which answers are right. If the budget cuts an answer,
its last word is dropped, because it may be incomplete; a chain without an answer is never right.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.chains.chain import Budget, Chain, answer_texts
from interp.decoding.generate import generate
from interp.errors import UserError
from interp.interventions.interventions import Skip, Variant, dense
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from interp.replay.block_sweep import sweep
from interp.statistics import paired_difference
from pruning.calibration import Calibration
from pruning.cost import sweep_cost
from pruning.criteria import Cost, ScoredBlocks, ScoringJob, criterion
from pruning.criteria.steps import removals

if TYPE_CHECKING:
    from interp.decoding.sampling import Sampling

Accept = Callable[[int, str], bool]
HOW = (
    "pass accept=..., a function (number of the prompt, text of the answer) -> bool, or a list "
    "with the gold answer of each prompt (or a function of its answer's text)."
)


def _cost(job: ScoringJob, *, samples: int, protect_first: int) -> Cost:
    """The dense chains; per removal, chains without each remaining block, and a sweep."""
    free = job.n_blocks - protect_first
    steps = job.steps(min(free, job.n_blocks - 1))
    total = Cost(generations=samples)
    for gone in range(steps):
        total += sweep_cost(job, job.n_blocks - gone) + Cost(generations=samples * (free - gone))
    return replace(total, steps=steps)


@criterion("task-greedy", paper="arXiv 2602.01997", cost=_cost, kind="greedy", calibrates=False)
def task_greedy(
    model: ReasoningModel,
    texts: Any,
    *,
    accept: Any = None,
    remove: int | None = None,
    samples: int = 1,
    budget: Budget | None = None,
    sampling: Sampling | None = None,
    thinking: bool = True,
    protect_first: int = 1,
    slots: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    seed: int = 0,
) -> ScoredBlocks:
    """Find the greedy order of removal by accuracy.

    Args:
        model: the model to score.
        texts: prompts: questions, lists of messages, token ids, chains (their prompts are used), or
            a Calibration with prompts.
        accept: which answers are right: a function (number of the prompt, text of the answer) ->
            bool, or a list with, per prompt, its gold answer or a function of the answer's text.
        remove: the largest number of removals. Default: a quarter of the blocks, at least 3.
        samples: chains per prompt.
        budget: tokens per chain. Default: that of `generate`.
        sampling: how chains are sampled. Default: that of `generate`.
        thinking: whether prompts ask the model to think.
        protect_first: first blocks that are never removed; they score inf.
        slots: sequences that decode at the same time. Default: that of `generate`.
        batch_tokens: the largest number of tokens per forward pass of the sweep.
        seed: the seed of the chains.

    Returns:
        The scores of the first step (accuracy lost, 95 % interval), and the order of removal.

    Raises:
        UserError: an argument is unusable, or the dense model answers no prompt acceptably.
    """
    if protect_first < 0:
        raise UserError(
            f"task-greedy: protect_first={protect_first}: expected a number of at least 0."
        )
    free = list(model.layer_map[protect_first:])
    steps = removals("task-greedy", remove, model.n_blocks, min(len(free), model.n_blocks - 1))
    prompts = _prompts(model, texts, thinking)
    options: dict[str, Any] = {"budget": budget, "samples": samples, "sampling": sampling}
    exam = _Exam(model, prompts, _acceptor(accept, len(prompts)), samples, seed, options, slots)
    before, chains = exam.take([dense])
    if not before[0].any():
        raise UserError(
            "task-greedy: the model answers none of the prompts acceptably as it is, so no removal "
            "can cost an answer. Give easier prompts, a larger budget, or check `accept`."
        )
    own = Calibration.of(model, chains, "generated")
    tried: list[_Step] = []
    removed: tuple[int, ...] = ()
    picks = []
    for _ in range(steps):
        left = tuple(l for l in free if l not in removed)
        found = sweep(
            model,
            own.sequences,
            blocks=left,
            removed=removed,
            scored=own.counted(),
            batch_tokens=batch_tokens,
        )
        sets = [(*removed, l) for l in left]
        right, _ = exam.take([Variant(f"without {gone}", tuple(map(Skip, gone))) for gone in sets])
        tried.append(_Step(left, right, found.mean_loss()))
        removed += (tried[-1].best,)
        picks.append(removed)
    values, low, high, ties = tried[0].scores(model, before[0])
    return ScoredBlocks(
        values,
        (low, high),
        picks=tuple(picks),
        tie_break=tuple(ties.tolist()),
        calibration=own,
    )


@dataclass(frozen=True)
class _Exam:
    """The prompts, and the function that says which answers are right."""

    model: ReasoningModel
    prompts: list[list[int]]
    accept: Accept
    samples: int
    seed: int
    options: dict[str, Any]
    slots: int | None

    def take(self, variants: Sequence[Variant]) -> tuple[Float[np.ndarray, "V P S"], list[Chain]]:
        """Which answers are right [V, P, S], and the chains; all variants decode in one batch."""
        names = _names(self.prompts)
        places = {v.name: i for i, v in enumerate(variants)}
        right = np.zeros((len(variants), len(self.prompts), self.samples))
        chains = generate(
            self.model,
            self.prompts,
            variants,
            seed=self.seed,
            problem_ids=names,
            slots=self.slots,
            **self.options,
        )
        for chain in chains:
            prompt, text = names.index(chain.problem), _answer(self.model, chain)
            judged = text is not None and self.accept(prompt, text)
            right[places[chain.variant], prompt, chain.sample] = judged
        return right, list(chains)


@dataclass(frozen=True)
class _Step:
    """One step: the blocks tried, the right answers without each, the loss that breaks ties."""

    blocks: tuple[int, ...]
    right: Float[np.ndarray, "F P S"]
    loss: Float[np.ndarray, " F"]

    @property
    def best(self) -> int:
        """The block to remove."""
        keys = zip(-self.right.mean((1, 2)), self.loss, (-l for l in self.blocks), strict=True)
        return min(zip(keys, self.blocks, strict=True))[1]

    def scores(
        self, model: ReasoningModel, before: Float[np.ndarray, "P S"]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Accuracy lost without each block, its interval, and the loss: [L] each."""
        values, ties = np.full(model.n_blocks, np.inf), np.zeros(model.n_blocks)
        low, high = np.full((2, model.n_blocks), np.nan)
        for block, right, loss in zip(self.blocks, self.right, self.loss, strict=True):
            i = model.layer_map.index(block)
            gained = paired_difference(before, right)
            values[i], ties[i] = 0.0 - gained.value, loss
            low[i], high[i] = 0.0 - gained.high, 0.0 - gained.low
        return values, low, high, ties


def _answer(model: ReasoningModel, chain: Chain) -> str | None:
    """The answer's text; None if the chain has no answer."""
    texts = answer_texts(chain, model)
    if not texts:
        return None
    text = texts[0].strip()
    return text if chain.finish == "stop" else re.sub(r"[\w.,/]+$", "", text).strip()


def _acceptor(accept: Any, n_prompts: int) -> Accept:
    """`accept` as one function."""
    if accept is None:
        raise UserError(f"task-greedy needs to know which answers are right: {HOW}")
    if callable(accept):
        return lambda index, text: bool(accept(index, text))
    if isinstance(accept, str) or not isinstance(accept, Sequence):
        raise UserError(f"task-greedy: accept is {type(accept).__name__}; {HOW}")
    if len(accept) != n_prompts:
        raise UserError(f"task-greedy: {len(accept)} accepted answers for {n_prompts} prompts.")
    for index, gold in enumerate(accept):
        if not isinstance(gold, str) and not callable(gold):
            raise UserError(f"task-greedy: accept[{index}] is {type(gold).__name__}; {HOW}")

    def right(index: int, text: str) -> bool:
        gold = accept[index]
        return text.split() == gold.split() if isinstance(gold, str) else bool(gold(text))

    return right


def _prompts(model: ReasoningModel, texts: Any, thinking: bool) -> list[list[int]]:
    """Token ids of every prompt."""
    if isinstance(texts, Calibration):
        texts = [ids[:n] for ids, n in zip(texts.sequences, texts.prompts, strict=True)]
        if not all(map(len, texts)):
            raise UserError("task-greedy: the calibration texts have no prompts; give questions.")
    if isinstance(texts, (str, Chain)) or not isinstance(texts, Sequence) or not len(texts):
        raise UserError("task-greedy: expected a list of prompts (questions, messages, ids).")
    found: list[list[int]] = []
    for item in texts:
        if isinstance(item, Chain):
            found.append([int(i) for i in item.prompt_ids])
        elif isinstance(item, str) or (len(item) and isinstance(item[0], dict)):
            found.append(model.prompt_ids(item, thinking=thinking))
        else:
            found.append([int(i) for i in item])
    return found


def _names(prompts: list[list[int]]) -> list[str]:
    """Names by content, so that a prompt's noise does not depend on its place in the list."""
    names = [hashlib.sha256(repr(ids).encode()).hexdigest()[:16] for ids in prompts]
    seen: Counter[str] = Counter()
    for i, name in enumerate(names):
        seen[name] += 1
        names[i] = name if seen[name] == 1 else f"{name}-{seen[name]}"
    return names
