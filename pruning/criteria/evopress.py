"""EvoPress: evolutionary search over sets of blocks. arXiv 2410.14649.

A candidate is a set of n blocks to remove; its fitness is KL(dense || without the set), mean over
tokens. The (1 + lambda) search is that of the paper: the best of `initial` random sets becomes the
parent. In each generation, `offspring` sets differ from the parent by a few exchanges of a removed
block for a kept one (the smaller of two draws from 1 to `mutations`). Selection takes several
steps on more and more tokens, drawn anew each time; the parent takes part in the last step. If
trying every set on all tokens costs no more than the search, that is done instead.

The scores are those of single removals (by a sweep); `picks` holds the set found for each n up to
`remove`, or for the numbers in `sizes`. Sets for n and n + 1 need not nest. Cost:
docs/internals.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration
from pruning.cost import (
    runs_of_drawn,
    runs_of_neighbours,
    sets_cost,
    sweep_cost,
)
from pruning.criteria import Cost, ScoredBlocks, ScoringJob, criterion
from pruning.criteria.prefix import judge_sets
from pruning.criteria.shared_runs import scores_of, skipped
from pruning.criteria.steps import removals

Removed = tuple[int, ...]  # positions in the model, sorted
Texts = list[tuple[np.ndarray, np.ndarray]]  # ids, and which of them count
ATTEMPTS = 50  # draws per wanted offspring before the search accepts fewer


def generations_of(depth: int, n: int, asked: int | None) -> int:
    """The number of generations of one search.

    Args:
        depth: number of blocks L.
        n: number of removed blocks.
        asked: the number asked for. None: ceil(n (L - n) / 1.5), as in the paper.

    Returns:
        The number of generations.
    """
    return math.ceil(n * (depth - n) / 1.5) if asked is None else asked


def tried_sets(offspring: int, survivors: Sequence[int]) -> list[int]:
    """The number of sets that each selection step of a generation judges.

    Args:
        offspring: sets per generation.
        survivors: sets that survive each selection step.

    Returns:
        One number per step; the parent is counted in the last step.
    """
    tried = [offspring, *survivors[:-1]]
    tried[-1] += 1
    return tried


def search_tokens(
    total: int, initial: int, generations: int, tried: Sequence[int], tokens: Sequence[int]
) -> int:
    """The largest number of tokens that a search scores, over all sets.

    Args:
        total: scored tokens of the calibration texts.
        initial: random sets at the start.
        generations: number of generations.
        tried: sets judged in each selection step.
        tokens: tokens used in each selection step.

    Returns:
        The number of tokens; each set counts its own.
    """
    drawn = [min(t, total) for t in tokens]
    each = sum(n * t for n, t in zip(tried, drawn, strict=True))
    return initial * drawn[0] + generations * each


def _cost(
    job: ScoringJob,
    *,
    sizes: Sequence[int] | None,
    generations: int | None,
    offspring: int,
    initial: int,
    tokens: Sequence[int],
    survivors: Sequence[int],
    mutations: int,
) -> Cost:
    """Every set where that is cheaper; otherwise random sets, then neighbours of a parent.

    A selection step on all tokens judges each set only once, so there the expected number of
    different sets among the draws counts.
    """
    depth, total = job.n_blocks, sweep_cost(job)
    whole = max(1, job.tokens - job.texts)  # a text's first token has none before it
    tried = tried_sets(offspring, survivors)
    draws = range(1, mutations + 1)  # exchanges: the smaller of two draws
    exchanges = sum(m * (2 * (mutations - m) + 1) for m in draws) / mutations**2
    for n in sizes or range(1, job.steps() + 1):
        space, count = math.comb(depth, n), generations_of(depth, n, generations)
        if n == 1:  # the sweep knows single removals
            continue
        if space * whole <= search_tokens(whole, initial, count, tried, tokens):
            total += sets_cost(runs_of_drawn(depth, n), space, depth)
            continue
        start = min(initial, space)
        first = sets_cost(runs_of_drawn(depth, n, start), start, depth)
        total += first * (min(tokens[0], whole) / whole)
        for judged, scored in zip(tried, tokens, strict=True):
            sets = float(judged)
            if scored >= whole:
                sets = -space * math.expm1(-count * judged / space) / max(1, count)
            runs = runs_of_neighbours(depth, n, sets, exchanges)
            total += sets_cost(runs, sets, depth) * (count * min(scored, whole) / whole)
    return total


@criterion("evopress", paper="EvoPress, arXiv 2410.14649", cost=_cost, kind="search")
def evopress(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    remove: int | None = None,
    sizes: Sequence[int] | None = None,
    generations: int | None = None,
    offspring: int = 32,
    initial: int = 64,
    tokens: Sequence[int] = (2048, 32768),
    survivors: Sequence[int] = (2, 1),
    mutations: int = 3,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
) -> ScoredBlocks:
    """Find the best set of blocks for each number of removals.

    Args:
        model: the model to score.
        calibration: the calibration texts; the registered criterion makes them from its `texts`.
        remove: the largest number of removals. Default: a quarter of the blocks, at least 3.
        sizes: the numbers of removals to search for. Default: 1 to `remove`.
        generations: generations per search. Default: n (L - n) / 1.5, as in the paper.
        offspring: sets per generation.
        initial: random sets at the start.
        tokens: tokens used in each selection step.
        survivors: sets that survive each selection step; the last number must be 1.
        mutations: the largest number of exchanges per offspring.
        seed: the seed of the search.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The scores of single removals, and the best set found for each size.

    Raises:
        UserError: an argument is out of range, or the texts are unusable.
    """
    depth = model.n_blocks
    most = removals("evopress", remove, depth, depth - 1)
    wanted = sorted(set(range(1, most + 1) if sizes is None else sizes))
    if not wanted or wanted[0] < 1 or wanted[-1] >= depth:
        raise UserError(f"evopress(sizes={sizes}): expected numbers from 1 to {depth - 1}.")
    if len(tokens) != len(survivors) or not len(tokens) or survivors[-1] != 1 or min(tokens) < 1:
        raise UserError(
            f"evopress(tokens={tokens}, survivors={survivors}): expected two lists of one length, "
            "tokens of at least 1, and 1 as the last number of survivors."
        )
    for name, value in (("offspring", offspring), ("initial", initial), ("mutations", mutations)):
        if value < 1:
            raise UserError(f"evopress({name}={value}): expected at least 1.")
    single = skipped(model, calibration, batch_tokens)
    search = _EvolutionSearch(
        model, calibration, offspring, mutations, tokens, survivors, batch_tokens
    )
    picks: list[Removed] = [()] * wanted[-1]
    for n in wanted:
        count = generations_of(depth, n, generations)
        if n == 1:
            found: Removed = (int(np.argmin(single.mean_kl())),)
        elif math.comb(depth, n) * search.total <= search.cost(initial, count):
            found = search.best(list(combinations(range(depth), n)), search.texts)
        else:
            found = search.run(n, initial, count, np.random.default_rng([seed, n]))
        picks[n - 1] = tuple(model.layer_map[i] for i in found)
    return scores_of(single, "kl", picks=tuple(picks))


class _EvolutionSearch:
    """The search for one model and calibration set."""

    def __init__(
        self,
        model: ReasoningModel,
        calibration: Calibration,
        offspring: int,
        mutations: int,
        tokens: Sequence[int],
        survivors: Sequence[int],
        batch_tokens: int,
    ) -> None:
        self.model = model
        pairs = zip(calibration.sequences, calibration.counted(), strict=True)
        # Sorted by content, so that the order in which the texts were given does not change the
        # draws.
        self.texts: Texts = sorted(pairs, key=lambda pair: pair[0].tobytes() + pair[1].tobytes())
        self.offspring = offspring
        self.mutations = mutations
        self.steps = list(zip(tokens, survivors, strict=True))
        self.batch_tokens = batch_tokens
        self.total = int(sum(counted[1:].sum() for _, counted in self.texts))
        self.known: dict[Removed, float] = {}  # divergences on all texts

    def cost(self, initial: int, generations: int) -> int:
        """Tokens that a search scores at most."""
        tokens, survivors = zip(*self.steps, strict=True)
        tried = tried_sets(self.offspring, survivors)
        return search_tokens(self.total, initial, generations, tried, tokens)

    def run(self, n: int, initial: int, generations: int, rng: np.random.Generator) -> Removed:
        """The best set of `n` blocks that the search finds."""
        depth = self.model.n_blocks
        start: dict[Removed, None] = {}
        for _ in range(ATTEMPTS * initial):
            if len(start) == initial:
                break
            start[tuple(sorted(rng.choice(depth, size=n, replace=False).tolist()))] = None
        parent = self.best(list(start), self._draw(self.steps[0][0], rng))
        for _ in range(generations):
            few = self._mutate(parent, rng)
            for step, (tokens, survive) in enumerate(self.steps):
                if step == len(self.steps) - 1:
                    few.append(parent)
                texts = self._draw(tokens, rng)
                order = np.argsort(self.judge(few, texts), kind="stable")
                few = [few[i] for i in order[:survive]]
            parent = few[0]
        return parent

    def best(self, candidates: list[Removed], texts: Texts) -> Removed:
        """The candidate with the smallest divergence on the texts."""
        return candidates[int(np.argmin(self.judge(candidates, texts)))]

    def judge(self, candidates: list[Removed], texts: Texts) -> Float[np.ndarray, " C"]:
        """Divergences of the candidates; those on all texts are computed once and kept."""
        if texts is not self.texts:
            return self._divergences(candidates, texts)
        new = [c for c in dict.fromkeys(candidates) if c not in self.known]
        if new:
            self.known |= dict(zip(new, self._divergences(new, texts).tolist(), strict=True))
        return np.array([self.known[c] for c in candidates])

    def _mutate(self, parent: Removed, rng: np.random.Generator) -> list[Removed]:
        """Different sets, none equal to the parent."""
        depth = self.model.n_blocks
        found: dict[Removed, None] = {}
        for _ in range(ATTEMPTS * self.offspring):
            if len(found) == self.offspring:
                break
            child = set(parent)
            for _ in range(int(rng.integers(1, self.mutations + 1, size=2).min())):
                back = rng.choice(sorted(child))
                gone = rng.choice([i for i in range(depth) if i not in child])
                child = (child - {int(back)}) | {int(gone)}
            if child != set(parent):
                found[tuple(sorted(child))] = None
        return list(found)

    def _draw(self, tokens: int, rng: np.random.Generator) -> Texts:
        """Texts in random order, the last one cut, with `tokens` scored tokens in total."""
        if tokens >= self.total:
            return self.texts
        drawn: Texts = []
        left = tokens
        for i in rng.permutation(len(self.texts)):
            ids, counted = self.texts[i]
            scored = np.cumsum(np.r_[False, counted[1:]])  # nothing predicts the first token
            if scored[-1] == 0:
                continue
            end = int(np.searchsorted(scored, min(left, scored[-1]))) + 1
            drawn.append((ids[:end], counted[:end]))
            left -= int(scored[end - 1])
            if left <= 0:
                break
        return drawn

    def _divergences(self, candidates: Sequence[Removed], texts: Texts) -> Float[np.ndarray, " C"]:
        """KL per token from the dense model to the model without each set."""
        sequences, counted = [ids for ids, _ in texts], [mask for _, mask in texts]
        tables = judge_sets(self.model, candidates, sequences, counted, "kl", self.batch_tokens)
        return tables.divergence("kl").sum(1) / tables.counts.sum()
