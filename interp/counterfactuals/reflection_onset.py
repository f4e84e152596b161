"""Where in the blocks a reflection comes about: read by the lens, and by a direction to steer with.

arXiv 2602.01999 describes stages: control (how long to think), pivot (words that turn or
conclude), overt (the words of the reflection). Everything here compares places at which a
reflection began with places of the same chain at which one could have begun and did not, behind
the same token (`reflection_pairs`): the problem, the token read and nearly the step are held fixed.

- `word_trajectories`: log-probability of sets of words by block, at the place and just before it.
- `steering_directions`: the mean difference of the streams by block, to be added by `Steer`.

Row s of a chain is the pass that CHOSE token s. Shapes: K pairs, P problems, L blocks, R = L + 1
rows of a lens (the embedding first), D residual width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from interp.chains.chain import Chain
from interp.diagnosis.events import mark
from interp.diagnosis.openers import places_of
from interp.diagnosis.reflection_lexicon import Lexicon, lexicon_of
from interp.diagnosis.token_text import Pieces, read
from interp.errors import UserError
from interp.interventions.interventions import VariantLike
from interp.lens import lens
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.probes import gather
from interp.statistics import paired_difference, with_holm

AT, BEFORE = "at", "before"


@brief
@dataclass(frozen=True)
class ReflectionPairs:
    """Places where a reflection began, each with a place of the same chain where none did.

    Attributes:
        chain: Number of the chain of each pair, [K].
        reflected: Row that chose the first token of the reflection, [K].
        matched: Row of the other place, [K]; no place is used twice.
        read: Token read at both places of each pair, [K].
        problems: Problem of each chain.
        unmatched: Reflections without a place left to compare with.
    """

    chain: Int[np.ndarray, " K"]
    reflected: Int[np.ndarray, " K"]
    matched: Int[np.ndarray, " K"]
    read: Int[np.ndarray, " K"]
    problems: tuple[str, ...]
    unmatched: int

    def __len__(self) -> int:
        return len(self.chain)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per pair: problem, chain, reflected, matched."""
        names = [self.problems[c] for c in self.chain.tolist()]
        rows = {"chain": self.chain, "reflected": self.reflected, "matched": self.matched}
        return pd.DataFrame({"problem": names, **rows})

    def by_problem(self, values: Float[np.ndarray, "K ..."]) -> Float[np.ndarray, "P ..."]:
        """Average values of pairs within each problem.

        Args:
            values: One value or vector per pair, [K, ...]; nan counts as missing.

        Returns:
            The means, [P, ...]; nan where a problem has no value.
        """
        unit, names = pd.factorize(self.to_frame()["problem"])
        flat = np.asarray(values, dtype=float).reshape(len(self), -1)
        there = np.isfinite(flat)
        sums, counts = (np.zeros((len(names), flat.shape[1])) for _ in range(2))
        np.add.at(sums, unit, np.where(there, flat, 0.0))
        np.add.at(counts, unit, there)
        with np.errstate(invalid="ignore"):
            return (sums / counts).reshape(len(names), *np.shape(values)[1:])


@checked
def reflection_pairs(
    model: ReasoningModel, chains: Sequence[Chain], lexicon: Lexicon | None = None
) -> ReflectionPairs:
    """Match every reflection in the thinking with the nearest place that did not open one.

    Both places are behind the same token, or a comparison would show mostly what was just read.
    Places are those where a reflection may begin (`Lexicon.boundaries`). A reflection that begins
    elsewhere has no place like it and is left out, as are loops and forced tokens.

    Args:
        model: The model with the tokenizer.
        chains: Finished chains.
        lexicon: The words that reflect; default: the model's own.

    Returns:
        The pairs.

    Raises:
        UserError: There are no chains, or no reflection has a place to compare with.
    """
    words, pieces = lexicon_of(model, lexicon), Pieces(model)
    marks = mark(chains, model, lexicon=words)
    found: list[tuple[int, int, int, int]] = []
    unmatched = 0
    for c, chain in enumerate(chains):
        span = chain.thinking
        free = ~chain.forced & ~marks["loop"][c]
        reading = read(pieces, chain.ids[span.start : span.stop])
        places = places_of(reading, words, free[span.start : span.stop]) + span.start
        opened = marks["reflection"][c][places]
        before = np.concatenate([chain.prompt_ids[-1:], chain.ids])  # row s read before[s]
        rest = places[~opened].tolist()
        for row in places[opened].tolist():
            alike = [other for other in rest if before[other] == before[row]]
            if not alike:
                unmatched += 1
                continue
            near = min(alike, key=lambda other: abs(other - row))
            rest.remove(near)
            found.append((c, row, near, int(before[row])))
    if not found:
        raise UserError(
            f"reflection_pairs: no reflection of the lexicon {words.name!r} has a place of its "
            "chain to be compared with; expected one or more: pass more chains."
        )
    chain, reflected, matched, behind = np.array(found, dtype=np.int64).T
    return ReflectionPairs(
        chain, reflected, matched, behind, tuple(c.problem for c in chains), unmatched
    )


@brief
@dataclass(frozen=True)
class WordTrajectories:
    """Log-probability of sets of words by block, with a reflection less without one.

    Attributes:
        sets: Names of the sets.
        blocks: Dense index of each of the R rows; -1 for the embedding.
        before: Number of rows before the place that "before" averages.
        with_reflection: By (set, "at" or "before"), means over each problem's pairs in nats,
            [P, R].
        without: The same at the matched places.
        n_pairs: Number of pairs.
    """

    sets: tuple[str, ...]
    blocks: tuple[int, ...]
    before: int
    with_reflection: dict[tuple[str, str], Float[np.ndarray, "P R"]]
    without: dict[tuple[str, str], Float[np.ndarray, "P R"]]
    n_pairs: int

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per set, moment and block.

        Returns:
            Columns: words, when, block; value, low, high and p of the difference paired by
            problem, in nats; p_holm over all sets and blocks of a moment; before and after, the
            means without and with a reflection; n, the problems.
        """
        rows: list[dict[str, Any]] = []
        for (words, when), own in self.with_reflection.items():
            for r, block in enumerate(self.blocks):
                gap = paired_difference(self.without[words, when][:, r], own[:, r])
                row = {"words": words, "when": when, "block": block, **gap.cells(), "p": gap.p}
                row |= {"before": gap.dense, "after": gap.variant, "n": gap.n_problems}
                rows.append(row)
        return with_holm(pd.DataFrame(rows), "when")


@checked
def word_trajectories(
    model: ReasoningModel,
    chains: Sequence[Chain],
    pairs: ReflectionPairs,
    sets: Mapping[str, Collection[int]],
    *,
    before: int = 4,
    variant: VariantLike | None = None,
) -> WordTrajectories:
    """Read sets of words by the logit lens, at reflections and at the matched places.

    Args:
        model: The model.
        chains: The chains that the pairs are of.
        pairs: The places.
        sets: Name -> token ids, whose probabilities are added.
        before: Rows before each place over which "before" averages.
        variant: The variant that reads the chains; None for the model as it is.

    Returns:
        The trajectories.

    Raises:
        UserError: There is no set, one is empty or unknown, or `before` is below 1.
    """
    if not sets or before < 1:
        raise UserError(
            f"word_trajectories(sets={list(sets)}, before={before}): expected at least one set of "
            "tokens, and 1 or more rows."
        )
    # [2, K, 1 + before]: reflected and matched, the place itself first
    rows = np.stack([pairs.reflected, pairs.matched])[..., None] - np.arange(before + 1)
    wanted = [np.unique(r[r >= 0]) for r in (rows[:, pairs.chain == c] for c in range(len(chains)))]
    found = lens(
        model, chains, {name: sorted(ids) for name, ids in sets.items()}, {"places": wanted},
        variant=variant,
    )  # fmt: skip
    # rows and positions both come in order of chain and step
    width = int(found.places.lengths.max())
    keys = found.places.chain * width + found.places.step
    at = np.searchsorted(keys, pairs.chain[:, None] * width + rows)  # [2, K, 1 + before]
    at[rows < 0] = len(keys)  # before the chain's first row: the column of nan appended below
    own: dict[tuple[str, str], np.ndarray] = {}
    others: dict[tuple[str, str], np.ndarray] = {}
    for name in sets:
        table = np.pad(
            found.logprob[name].astype(float), ((0, 0), (0, 1)), constant_values=np.nan
        ).T
        for side, into in enumerate((own, others)):
            values = table[at[side]]  # [K, 1 + before, R]
            there = np.isfinite(values[:, 1:])
            sums = np.where(there, values[:, 1:], 0.0).sum(1)
            with np.errstate(invalid="ignore"):
                means = sums / there.sum(1)
            into[name, AT] = pairs.by_problem(values[:, 0])
            into[name, BEFORE] = pairs.by_problem(means)
    return WordTrajectories(tuple(sets), found.blocks, before, own, others, len(pairs))


@brief
@dataclass(frozen=True)
class SteeringDirections:
    """The mean difference of the stream at reflections, by block.

    Attributes:
        blocks: Dense index of each block.
        vectors: Mean over problems of (reflected - matched) of the stream that leaves each block,
            [L, D].
        told_apart: Share of pairs in which the reflected place lies further along the direction of
            the OTHER problems than its matched place, [L]; .5 by chance.
        problems: Number of problems.
    """

    blocks: tuple[int, ...]
    vectors: Float[np.ndarray, "L D"]
    told_apart: Float[np.ndarray, " L"]
    problems: int

    def of(self, block: int) -> torch.Tensor:
        """The direction behind a block.

        Args:
            block: Dense index.

        Returns:
            float32 [D]; its norm is that of the mean difference.

        Raises:
            UserError: The block has no direction here.
        """
        if block not in self.blocks:
            raise UserError(f"Block {block} has no direction here: expected one of {self.blocks}.")
        return torch.from_numpy(self.vectors[self.blocks.index(block)]).float()

    def random(self, block: int, seed: int) -> torch.Tensor:
        """A random direction of the same norm, as a control.

        Args:
            block: Dense index.
            seed: Seed of the draw.

        Returns:
            float32 [D].
        """
        own = self.of(block)
        drawn = np.random.default_rng((seed, block)).standard_normal(len(own))
        return torch.from_numpy(drawn / np.linalg.norm(drawn)).float() * own.norm()

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per block: norm of the direction, told_apart."""
        norms = np.linalg.norm(self.vectors, axis=1)
        rows = {"block": list(self.blocks), "norm": norms, "told_apart": self.told_apart}
        return pd.DataFrame(rows)


@checked
def steering_directions(
    model: ReasoningModel,
    chains: Sequence[Chain],
    pairs: ReflectionPairs,
    *,
    blocks: Sequence[int] | None = None,
) -> SteeringDirections:
    """Fit a direction to steer with at every block: where reflections begin less where not.

    Args:
        model: The model.
        chains: The chains that the pairs are of.
        pairs: The places.
        blocks: Dense indices; default: all.

    Returns:
        The directions.

    Raises:
        UserError: The pairs are of fewer than 2 problems.
    """
    picks = [
        np.concatenate([pairs.reflected[own], pairs.matched[own]])
        for own in (pairs.chain == c for c in range(len(chains)))
    ]
    streams = gather(model, chains, picks, blocks=blocks)  # [2 K, L, D], chain by chain
    starts = np.cumsum([0, *map(len, picks)])
    gap = np.empty((len(pairs), *streams.shape[1:]))
    for c, start in enumerate(starts[:-1].tolist()):
        own = np.flatnonzero(pairs.chain == c)
        here = streams[start : start + 2 * len(own)]
        gap[own] = here[: len(own)] - here[len(own) :]
    means = pairs.by_problem(gap)  # [P, L, D]
    if len(means) < 2:
        raise UserError(
            "steering_directions: reflections of 1 problem; expected 2 or more, because a "
            "direction is judged on problems that it was not fitted on."
        )
    unit, _ = pd.factorize(pairs.to_frame()["problem"])
    others = (means.sum(0) - means) / (len(means) - 1)  # [P, L, D]
    further = (np.sign((gap * others[unit]).sum(-1)) + 1) / 2  # [K, L]; a tie is a half
    return SteeringDirections(
        blocks=tuple(model.layer_map if blocks is None else blocks),
        vectors=means.mean(0).astype(np.float32),
        told_apart=pairs.by_problem(further).mean(0),
        problems=len(means),
    )
