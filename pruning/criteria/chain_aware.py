"""Chain-aware search: the set of blocks without which most of the model's chains survive.

Removals do not add up, so whole sets are judged, by two measures of chains:

1. Along the dense model's chains: the share of them lost (`chain_survival`). A beam search over
   sets keeps `width` sets of each size and extends them by every remaining block.
2. Along the pruned model's own chains, for the `finalists` of each size. They answer the prompts
   in one batch with the same noise, and the dense model reads the result. With q the pruned and p
   the dense model, x = sum_s log q(s) - log p(s) nats; the share lost is
   1 - mean exp(-max(0, x) / `patience`). See docs/internals.md for why.

The finalist with the smallest sum of both shares wins. Without prompts (plain texts), or with
finalists=0, the first measure decides alone. The scores are those of single removals; `picks`
holds the set of each size, and these sets need not nest. Memory: L + 1 streams of one batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.chains.chain import Budget
from interp.decoding.generate import generate
from interp.errors import UserError
from interp.interventions.interventions import Skip, Variant
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from interp.replay.teacher_forced import losses
from pruning.calibration import Calibration, Part
from pruning.cost import runs_of_extended, sets_cost
from pruning.criteria import Cost, ScoredBlocks, ScoringJob, criterion
from pruning.criteria.chain_survival import HERE, WINDOW, Survival
from pruning.criteria.steps import removals

if TYPE_CHECKING:
    from interp.decoding.sampling import Sampling

Removed = tuple[int, ...]  # positions in the model, sorted
PATIENCE = 10.0
ANSWER = 64  # tokens of the answer in the default budget


def _cost(job: ScoringJob, *, width: int, finalists: int) -> Cost:
    """The beam search over sets, and decoding and rereading the finalists' chains."""
    depth, runs, total = job.n_blocks, min(finalists, width), Cost()
    for n in range(1, job.steps() + 1):
        parents = min(width, math.comb(depth, n - 1))
        sets = min(parents * (depth - n + 1), math.comb(depth, n))
        total += sets_cost(runs_of_extended(depth, n, parents), sets, depth)
        few = min(runs, width, sets)
        if few > 1:
            total += Cost(forwards=few, readouts=few, generations=few)
    return replace(total, steps=job.steps())


@criterion("chain-aware", paper=HERE, cost=_cost, kind="search", calibrates=False)
def chain_aware(
    model: ReasoningModel,
    texts: Any,
    *,
    remove: int | None = None,
    width: int = 6,
    finalists: int = 4,
    window: int = WINDOW,
    patience: float = PATIENCE,
    budget: Budget | None = None,
    sampling: Sampling | None = None,
    slots: int | None = None,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
    seed: int = 0,
) -> ScoredBlocks:
    """The best set found for each number of removals up to `remove` (default: a quarter).

    Args:
        model: the model to score.
        texts: calibration texts, as for `Calibration.of`.
        remove: the largest number of removals. Default: a quarter of the blocks, at least 3.
        width: sets kept per size in the beam search.
        finalists: sets per size whose own chains are decoded; 0 skips that measure.
        window: the largest number of tokens in one piece of a chain.
        patience: nats by which a free-running chain may differ before a share of 1 - 1/e counts as
            lost. 10 did best of 1 to 10 in trials on training problems.
        budget: tokens of the finalists' chains. Default: the longest of the calibration.
        sampling: how the finalists' chains are sampled. Default: that of `generate`.
        slots: sequences that decode at the same time. Default: that of `generate`.
        part: which tokens of the texts count. Default: the generated ones if there are any.
        batch_tokens: the largest number of tokens per forward pass.
        seed: the seed of the finalists' chains.

    Returns:
        The scores of single removals, and the best set for each size.

    Raises:
        UserError: an argument is out of range, or the texts are unusable.
    """
    most = removals("chain-aware", remove, model.n_blocks, model.n_blocks - 1)
    if width < 1 or finalists < 0 or not patience > 0:
        raise UserError(
            f"chain-aware(width={width}, finalists={finalists}, patience={patience}): expected a "
            "width of 1 or more, 0 or more finalists, and a patience above 0."
        )
    survival = Survival.of(model, texts, part, window, batch_tokens)
    own = survival.calibration
    runs = min(finalists, width) if all(own.prompts) and own.part == "generated" else 0
    free = FreeRuns(model, own, budget, sampling, slots, seed, patience, batch_tokens)
    beam: list[Removed] = [()]
    picks: list[Removed] = []
    single: Float[np.ndarray, "L N"] | None = None
    for _ in range(most):
        sets = sorted({_with(s, i) for s in beam for i in range(model.n_blocks) if i not in s})
        lost = survival.lost(sets)
        if single is None:
            single = lost
        share = lost.sum(1) / survival.sizes.sum()
        order = np.argsort(share, kind="stable")[:width]
        beam = [sets[i] for i in order]
        found = share[order[: max(1, runs)]]
        if runs > 1 and len(beam) > 1:
            found = found + free.share(beam[:runs])
        picks.append(beam[int(np.argmin(found))])
    assert single is not None
    sets = tuple(tuple(model.layer_map[i] for i in pick) for pick in picks)
    return survival.scores(single, picks=sets)


def _with(removed: Removed, index: int) -> Removed:
    return tuple(sorted((*removed, index)))


class FreeRuns:
    """How likely the dense model finds the chains that pruned models write."""

    def __init__(
        self,
        model: ReasoningModel,
        own: Calibration,
        budget: Budget | None,
        sampling: Sampling | None,
        slots: int | None,
        seed: int,
        patience: float,
        batch_tokens: int,
    ) -> None:
        self.model, self.patience, self.batch_tokens = model, patience, batch_tokens
        pairs = zip(own.sequences, own.prompts, strict=True)
        prompts = [(ids[:p].tolist(), len(ids) - p) for ids, p in pairs]
        prompts.sort()  # by content: the order in which texts were given must not enter the noise
        self.prompts = [ids for ids, _ in prompts]
        self.options: dict[str, Any] = {
            "budget": budget or Budget(max(n for _, n in prompts), ANSWER),
            "sampling": sampling,
            "slots": slots,
            "seed": seed,
        }

    def share(self, sets: Sequence[Removed]) -> Float[np.ndarray, " C"]:
        """The share of chains lost under each set.

        Args:
            sets: positions of the removed blocks of each set.

        Returns:
            One share per set, float64 [C].
        """
        model = self.model
        variants = [
            Variant(f"set {n}", tuple(Skip(model.layer_map[i]) for i in s))
            for n, s in enumerate(sets)
        ]
        names = [str(i) for i in range(len(self.prompts))]
        chains = generate(
            model, self.prompts, variants, stop_on_loop=True, problem_ids=names, **self.options
        )
        sequences = [np.concatenate([c.prompt_ids, c.ids]).astype(np.int64) for c in chains]
        chosen = [np.r_[np.zeros(len(c.prompt_ids), bool), ~c.forced] for c in chains]
        dense, _ = losses(model, sequences, scored=chosen, batch_tokens=self.batch_tokens)
        own = np.array([-np.sum(c.logprob[~c.forced], dtype=np.float64) for c in chains])
        lost = -np.expm1(-np.maximum(dense - own, 0.0) / self.patience)
        place = {v.name: i for i, v in enumerate(variants)}
        rows = np.array([place[c.variant] for c in chains])
        return np.bincount(rows, lost, len(sets)) / np.bincount(rows, minlength=len(sets))
