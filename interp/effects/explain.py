"""How much of the effects of blocks a score explains, and for which blocks it is most wrong.

Per outcome, group and score: `correlation` (Spearman over blocks, with the signed effect or with
its size, a permutation p value, Holm over the scores); `partial` (with depth, each control, and all
of them held fixed); `disattenuated` (correlation / sqrt(product of both reliabilities), Spearman
1904); `explained` (correlation^2 / that product, at most 1: the product is the share of the rank
variance that the score can explain at most; nan where it is under `LEAST_RELIABILITY`, as the
effects are noise); `mistakes` (rank of the size minus rank of the score; above 0 is dangerous: the
score calls the block safe and its loss costs much).

Caveats: the intervals of `explained` take the reliabilities as known; the correction for
attenuation is exact for linear correlations, close for ranks; the size of pure noise is positive;
and about 18 blocks cannot distinguish a correlation of .3 from none. Shapes: L blocks of one group,
P problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from interp.effects.block_scores import BlockScores, as_scores, split_half
from interp.effects.paired_effects import Effects
from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of, marks
from interp.statistics import (
    Correlation,
    partial_interval,
    resample_means,
    spearman,
    spearman_interval,
    with_holm,
)
from interp.statistics.intervals import check_level

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_RELIABILITY = 0.05
DEPTH = "depth"
PERMUTATIONS = 4999
Of = Literal["effect", "size"]


@dataclass(frozen=True)
class Explanation:
    """One score against one group of effects; arrays have one entry per block.

    Attributes:
        outcome: Name of the outcome.
        group: Values of the `by` columns of the effects.
        score: Name of the score.
        of: "effect" (signed) or "size" (absolute value).
        correlation: Spearman's correlation of the score with the effect or its size.
        p: Two-sided permutation p value of the correlation.
        partial: Partial correlations by what is held fixed: "depth", each control, "all".
        score_reliability: Reliability of the score; nan where it is unknown.
        effect_reliability: Split-half reliability of the effects or their sizes.
        blocks: Dense indices, [L].
        scores: The scores, [L].
        effects: The signed effects, [L].
        low: Lower limits of the effects, [L].
        high: Upper limits of the effects, [L].
        p_holm: Holm-corrected p values of the effects, [L].
        gap: Rank of the size minus rank of the score, [L].
        gap_low: Lower limits of the gaps (problems resampled), [L].
        gap_high: Upper limits of the gaps, [L].
    """

    outcome: str
    group: tuple[Any, ...]
    score: str
    of: Of
    correlation: Correlation
    p: float
    partial: dict[str, Correlation]
    score_reliability: float
    effect_reliability: float
    blocks: Int[np.ndarray, " L"] = field(repr=False)
    scores: Float[np.ndarray, " L"] = field(repr=False)
    effects: Float[np.ndarray, " L"] = field(repr=False)
    low: Float[np.ndarray, " L"] = field(repr=False)
    high: Float[np.ndarray, " L"] = field(repr=False)
    p_holm: Float[np.ndarray, " L"] = field(repr=False)
    gap: Float[np.ndarray, " L"] = field(repr=False)
    gap_low: Float[np.ndarray, " L"] = field(repr=False)
    gap_high: Float[np.ndarray, " L"] = field(repr=False)

    @property
    def explainable(self) -> float:
        """Largest share of the variance of the ranks that the score can explain; nan for noise.

        A score of unknown reliability counts as exact, which makes this share larger and the
        explained part of it smaller.
        """
        score = 1.0 if np.isnan(self.score_reliability) else self.score_reliability
        share = score * self.effect_reliability
        return share if share >= LEAST_RELIABILITY else float("nan")

    @property
    def explained(self) -> tuple[float, float, float]:
        """Share of the explainable that is explained, and the limits of its interval."""
        r, whole = self.correlation, self.explainable
        ends = (r.low**2, r.high**2)
        low = 0.0 if r.low <= 0 <= r.high else min(ends)
        return (
            float(np.minimum(r.value**2 / whole, 1.0)),
            float(np.minimum(low / whole, 1.0)),
            float(np.minimum(max(ends) / whole, 1.0)),
        )

    @property
    def disattenuated(self) -> float:
        """The correlation if score and effects were known exactly, in [-1, 1]."""
        return float(np.clip(self.correlation.value / np.sqrt(self.explainable), -1, 1))

    def mistakes(self) -> pd.DataFrame:
        """Return a table with one row per block, the score's worst mistakes first.

        Returns:
            Columns: score, effect with interval, gap with interval, `kind` ("underrated": called
            safe, costs much; or "overrated"), and `clear`: whether the interval of the gap is on
            one side of 0, and for an underrated block that of its effect too (blocks without effect
            share a rank above that of some scores).
        """
        clear = self._clear()
        found = pd.DataFrame(
            {
                "block": self.blocks,
                "score": self.scores,
                "effect": self.effects,
                "low": self.low,
                "high": self.high,
                "p_holm": self.p_holm,
                "gap": self.gap,
                "gap_low": self.gap_low,
                "gap_high": self.gap_high,
                "clear": clear,
                "kind": np.where(
                    self.gap > 0, "underrated", np.where(self.gap < 0, "overrated", "")
                ),
            }
        )
        order = np.lexsort((self.blocks, -np.abs(self.gap)))
        return found.iloc[order].reset_index(drop=True)

    def _clear(self) -> Bool[np.ndarray, " L"]:
        matters = (self.low > 0) | (self.high < 0)
        return ((self.gap_low > 0) & matters) | (self.gap_high < 0)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the effect over the score, one point per block; clear mistakes are named.

        Args:
            ax: The axes to draw on; default: new ones.

        Returns:
            The axes.
        """
        axes = axes_of(ax, (5, 3.6))
        axes.axhline(0, color="0.5", lw=0.8)
        axes.vlines(self.scores, self.low, self.high, color="#0072B2", lw=1.0, alpha=0.6)
        clear = self._clear()
        sure = self.p_holm < 1 - self.correlation.level
        sides = (
            (clear & (self.gap > 0), "^", "#D55E00"),  # underrated: called safe, costs much
            (clear & (self.gap < 0), "v", "#009E73"),
            (~clear, "o", "#0072B2"),
        )
        for side, marker, colour in sides:
            x, y = self.scores[side], self.effects[side]
            marks(axes, x, y, sure[side], colour, marker=marker, size=5, zorder=3)
        for i in np.flatnonzero(clear):
            axes.annotate(
                str(self.blocks[i]), (self.scores[i], self.effects[i]), xytext=(5, 3),
                textcoords="offset points", fontsize=7.5,
            )  # fmt: skip
        axes.set_xlabel(self.score)
        axes.set_ylabel(f"change in {self.outcome}")
        return axes


@brief
@dataclass(frozen=True)
class Explanations:
    """Every score against every group of effects on one outcome.

    Attributes:
        by: Names of the columns that define the groups.
        found: One entry per group, score and sign ("effect" or "size").
    """

    by: tuple[str, ...]
    found: tuple[Explanation, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per group, score and sign ("effect" or "size")."""
        rows = []
        for one in self.found:
            row: dict[str, Any] = dict(zip(self.by, one.group, strict=True))
            row |= {"outcome": one.outcome, "score": one.score, "of": one.of}
            row |= one.correlation.cells("spearman")
            row |= {"p": one.p, "n_blocks": one.correlation.n}
            for name, part in one.partial.items():
                row |= part.cells(f"partial_{name}", f"partial_{name}_")
            row |= {"score_reliability": one.score_reliability}
            row |= {"effect_reliability": one.effect_reliability}
            row |= {"explainable": one.explainable, "disattenuated": one.disattenuated}
            value, low, high = one.explained
            row |= {"explained": value, "explained_low": low, "explained_high": high}
            rows.append(row)
        return with_holm(pd.DataFrame(rows), [*self.by, "outcome", "of"])

    def of(self, score: str, group: tuple[Any, ...] | None = None, of: Of = "size") -> Explanation:
        """Return one score against one group.

        Args:
            score: Name of the score.
            group: Values of the `by` columns; may be left out where there is one group.
            of: "effect" (signed) or "size" (absolute value).

        Returns:
            The explanation.

        Raises:
            UserError: None or several match.
        """
        several = [e for e in self.found if e.score == score and e.of == of]
        if group is not None:
            several = [e for e in several if e.group == group]
        if len(several) != 1:
            known = sorted({(e.score, e.group) for e in self.found})
            raise UserError(
                f"Score {score!r}, group {group}: {len(several)} found, expected one; "
                f"there are {known}."
            )
        return several[0]


@checked
def explain(
    effects: Effects,
    scores: Mapping[str, Any],
    controls: Mapping[str, Any] | None = None,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Explanations:
    """Relate every score to the effects of every group.

    Args:
        effects: Effects of blocks on one outcome.
        scores: Scores by name, in any form that `as_scores` takes; pass `BlockScores` where their
            reliability is known.
        controls: Quantities of the blocks that are held fixed beside the depth, by name, in the
            same forms.
        draws: Bootstrap draws.
        level: Confidence level of the intervals.
        seed: Seed of the draws, permutations and halvings.

    Returns:
        One explanation per group, score and sign.

    Raises:
        UserError: There are no scores, a control is named "depth" or "all", a group has fewer than
            4 blocks or several effects of one block, or a score lacks a block.
    """
    tail = check_level(level)
    if not scores:
        raise UserError("explain: no score was given; expected at least one.")
    if DEPTH in (controls or {}) or "all" in (controls or {}):
        raise UserError('explain: controls may not be named "depth" or "all".')
    named = {name: as_scores(name, one) for name, one in scores.items()}
    held = {name: as_scores(name, one) for name, one in (controls or {}).items()}
    found = []
    for group in dict.fromkeys(effects.groups):
        rows = effects.rows(group)
        blocks = effects.blocks[rows]
        if len(blocks) < 4:
            raise UserError(f"explain: group {group} has {len(blocks)} blocks; expected 4 or more.")
        values, changes, noise = resampled(effects, rows, draws, seed)
        seen = np.isfinite(changes)
        fixed = {DEPTH: blocks.astype(float)}
        fixed |= {name: values_of(one, blocks) for name, one in held.items()}
        for name, one in named.items():
            score = values_of(one, blocks)
            size_ranks = _ranks(np.abs(noise))
            gaps = size_ranks - _ranks(score[None])
            low, high = np.quantile(gaps, [tail, 1 - tail], axis=0)
            gap = (_ranks(np.abs(values)[None]) - _ranks(score[None]))[0]
            for of in ("effect", "size"):
                y, again = (values, noise) if of == "effect" else (np.abs(values), np.abs(noise))
                options = {"y_replicates": again, "draws": draws, "level": level, "seed": seed}
                parts = {
                    what: partial_interval(score, y, [fixed[what]], **options) for what in fixed
                }
                if len(fixed) > 1:
                    parts["all"] = partial_interval(score, y, list(fixed.values()), **options)
                found.append(
                    Explanation(
                        outcome=effects.outcome,
                        group=group,
                        score=name,
                        of=of,
                        correlation=spearman_interval(score, y, **options),
                        p=permutation_p(score, y, seed),
                        partial=parts,
                        score_reliability=one.reliability,
                        effect_reliability=split_half(
                            np.where(seen, changes, 0.0), seen, size=of == "size", seed=seed
                        ),
                        blocks=blocks,
                        scores=score,
                        effects=values,
                        low=effects.low[rows],
                        high=effects.high[rows],
                        p_holm=effects.p_holm[rows],
                        gap=gap,
                        gap_low=np.minimum(low, gap),
                        gap_high=np.maximum(high, gap),
                    )
                )
    return Explanations(effects.by, tuple(found))


def resampled(
    effects: Effects, rows: Int[np.ndarray, " L"], draws: int, seed: int
) -> tuple[Float[np.ndarray, " L"], Float[np.ndarray, "L P"], Float[np.ndarray, "R L"]]:
    """The effects of one group, and what they would be on resampled problems.

    Args:
        effects: the effects.
        rows: the rows of the group, one per block.
        draws: number of resamples.
        seed: seed of the draws.

    Returns:
        The effects; their changes per problem, without problems that no block has; the effects on
        each resample that gives every block one (the effects themselves where none does).

    Raises:
        UserError: a block has several effects.
    """
    blocks = effects.blocks[rows].tolist()
    if len(set(blocks)) < len(blocks):
        raise UserError(
            f"Group {effects.groups[rows[0]]} has several effects of one block; expected one. Add "
            "the column that separates them to `by`."
        )
    values, changes = effects.values[rows], effects.changes[rows]
    changes = changes[:, np.isfinite(changes).any(axis=0)]
    noise = resample_means(changes, draws, seed)
    noise = noise[np.isfinite(noise).all(axis=1)]
    return values, changes, noise if len(noise) else values[None]


def values_of(scores: BlockScores, blocks: Int[np.ndarray, " L"]) -> Float[np.ndarray, " L"]:
    """The scores of these blocks, in their order.

    Args:
        scores: the scores.
        blocks: dense indices.

    Returns:
        One score per block.

    Raises:
        UserError: a block has no score.
    """
    by_block = scores.by_block()
    if absent := [b for b in blocks.tolist() if b not in by_block]:
        raise UserError(
            f"{scores.name!r} has no value for block {absent[0]} (it has {sorted(by_block)})."
        )
    return np.array([by_block[b] for b in blocks.tolist()], dtype=float)


def _ranks(values: Float[np.ndarray, "rows L"]) -> Float[np.ndarray, "rows L"]:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values, axis=1), dtype=float)


def permutation_p(x: Float[np.ndarray, " L"], y: Float[np.ndarray, " L"], seed: int) -> float:
    """Two-sided p value of no relation: how often shuffled blocks correlate as strongly."""
    seen = float(spearman(x[None], y[None])[0])
    if np.isnan(seen):
        return float("nan")
    rng = np.random.default_rng(seed)
    order = rng.random((PERMUTATIONS, len(x))).argsort(axis=1)
    shuffled = spearman(np.broadcast_to(x, order.shape), y[order])
    extreme = int((np.abs(shuffled) >= abs(seen) - 1e-12).sum())
    return (extreme + 1) / (PERMUTATIONS + 1)
