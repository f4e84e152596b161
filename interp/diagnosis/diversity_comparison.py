"""Compare the diversity of variants at equal length and equal sample count, beside their accuracy.

A variant that writes noise has the highest diversity; longer chains share more n-grams; more
samples raise the Vendi score. So for each problem the samples of all variants are cut to the
length of the shortest one, and to the smallest number of samples. A change of diversity always
comes with the change of accuracy of the same samples; `reading` states both in words.

Changes are paired by problem against the dense variant (`paired_difference`), with Holm's
correction over the variants of one measure.

Shapes: V variants, P problems.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.diagnosis.diversity_measures import Ids, diversity
from interp.errors import UserError, check_known
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of
from interp.statistics import holm, mean_interval, paired_difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Measures in [0, 1].
SHARES = ("self_bleu", "distinct_1", "distinct_2", "distinct_4", "edit_distance")
#: Measures; +1 where a higher value means more diverse, -1 where it means less.
MEASURES = {
    "self_bleu": -1,
    "distinct_1": 1,
    "distinct_2": 1,
    "distinct_4": 1,
    "edit_distance": 1,
    "vendi": 1,
    "common_prefix": -1,
    "branching_points": 1,
    "answer_entropy": 1,
}
LEAST_LENGTH = 8  # tokens; samples cut shorter than this are not compared
COLOURS = ("#1a1a1a", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "os^DvPX<>"


@brief
@dataclass(frozen=True)
class Beside:
    """Diversity measures per variant and problem, with the accuracy of the same samples.

    Attributes:
        variants: Names of the V variants, the dense one first.
        problems: The P problems that all variants have.
        dense: Name of the dense variant.
        values: For each measure in `MEASURES`, its values, [V, P].
        accuracy: Share of correct samples, [V, P].
        lengths: Tokens to which each problem's samples were cut, [P].
        n_samples: Samples per variant of each problem, [P].
        left_out: Problems that could not be compared.
    """

    variants: tuple[str, ...]
    problems: tuple[str, ...]
    dense: str
    values: dict[str, Float[np.ndarray, "V P"]] = field(repr=False)
    accuracy: Float[np.ndarray, "V P"] = field(repr=False)
    lengths: tuple[int, ...]
    n_samples: tuple[int, ...]
    left_out: int

    def to_frame(self, level: float = 0.95) -> pd.DataFrame:
        """Return a table with one row per measure and variant.

        Args:
            level: Confidence level of the intervals; `reading` uses Holm-corrected p < 1 - level.

        Returns:
            Value with interval, change from dense, accuracy and its change, p values, and
            `reading`: what both changes say together, in words.
        """
        base = self.variants.index(self.dense)
        rows = []
        for name, table in self.values.items():
            parts = []
            for v, variant in enumerate(self.variants):
                if not np.isfinite(table[v]).any():
                    continue
                value = mean_interval(table[v], level, (0.0, 1.0 if name in SHARES else np.inf))
                accuracy = mean_interval(self.accuracy[v], bounds=(0.0, 1.0))
                row = {"measure": name, "variant": variant, **value.cells()}
                row |= {"change": 0.0, "change_low": np.nan, "change_high": np.nan, "p": np.nan}
                row |= {"accuracy": accuracy.value, "accuracy_change": 0.0, "accuracy_p": np.nan}
                if v != base and (np.isfinite(table[v]) & np.isfinite(table[base])).any():
                    one = paired_difference(table[base], table[v], level=level)
                    other = paired_difference(self.accuracy[base], self.accuracy[v], level=level)
                    row |= one.cells("change", "change_")
                    row |= {"p": one.p, "accuracy_change": other.value, "accuracy_p": other.p}
                row["problems"] = value.n_problems
                parts.append(row)
            for key in ("p", "accuracy_p"):
                adjusted = holm(np.array([row[key] for row in parts], dtype=float))
                for row, p in zip(parts, adjusted.tolist(), strict=True):
                    row[f"{key}_holm"] = p
            for row in parts:
                row["reading"] = _reading(row, MEASURES[name], 1 - level)
            rows += parts
        return pd.DataFrame(rows)

    def plot(self, measure: str = "vendi", ax: Axes | None = None) -> Axes:
        """Draw one point per variant, with both intervals: accuracy on x, the measure on y.

        Args:
            measure: One of `MEASURES`.
            ax: The axes to draw on; default: new ones.

        Returns:
            The axes.

        Raises:
            UserError: The measure is unknown.
        """
        check_known(measure, self.values, "measure")
        axes = axes_of(ax, (5, 3.6))
        for v, name in enumerate(self.variants):
            if not np.isfinite(self.values[measure][v]).any():
                continue
            up, across = mean_interval(self.values[measure][v]), mean_interval(self.accuracy[v])
            colour = COLOURS[v % len(COLOURS)]
            axes.plot([across.low, across.high], [up.value] * 2, color=colour, lw=0.9)
            axes.plot([across.value] * 2, [up.low, up.high], color=colour, lw=0.9)
            axes.plot(
                [across.value],
                [up.value],
                ls="none",
                marker=MARKERS[v % len(MARKERS)],
                color=colour,
            )
            axes.annotate(
                name, (across.value, up.value), xytext=(6, 4), textcoords="offset points",
                color=colour, fontsize=8,
            )  # fmt: skip
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel("accuracy of the same samples")
        axes.set_ylabel(measure.replace("_", " "))
        return axes


def _reading(row: Mapping[str, Any], sign: int, alpha: float) -> str:
    """Diversity and accuracy in one sentence, so that noise is not reported as diversity alone."""
    if not row["p_holm"] < alpha:
        return "" if np.isnan(row["p_holm"]) else "no clear difference"
    more = "more diverse" if sign * row["change"] > 0 else "less diverse"
    if not row["accuracy_p_holm"] < alpha:
        return f"{more}, no clear difference in accuracy"
    return f"{more}, {'more' if row['accuracy_change'] > 0 else 'less'} accurate"


@checked
def diversity_beside(
    samples: Mapping[str, Mapping[str, Sequence[Ids]]],
    correct: Mapping[str, Mapping[str, Sequence[bool]]],
    answers: Mapping[str, Mapping[str, Sequence[Hashable | None]]] | None = None,
    *,
    dense: str = "dense",
    length: int | None = None,
) -> Beside:
    """Compare the diversity of variants, problem by problem, beside their accuracy.

    Problems are left out, and counted, where a variant lacks them, has fewer than 2 samples, or
    where fewer than 8 tokens remain.

    Args:
        samples: Token ids by variant and problem: `samples[variant][problem]` is a list of samples.
        correct: Verdicts in the same layout.
        answers: Answers in the same layout (None: no answer), for the answer entropy.
        dense: Name of the variant to compare with.
        length: Tokens to which all samples are cut. Default: for each problem, the length of its
            shortest sample in any variant.

    Returns:
        The measures per variant and problem.

    Raises:
        UserError: The dense variant is missing, samples and verdicts differ in number, or no
            problem can be compared.
    """
    if dense not in samples:
        raise UserError(f"diversity_beside: no samples of {dense!r} (variants: {sorted(samples)}).")
    variants = (dense, *(v for v in samples if v != dense))
    for v in variants:
        for problem, few in samples[v].items():
            for what, table in (("verdict", correct), ("answer", answers)):
                said = few if table is None else table.get(v, {}).get(problem, ())
                if len(said) != len(few):
                    raise UserError(
                        f"diversity_beside: variant {v!r}, problem {problem!r} has {len(few)} "
                        f"samples but {len(said)} {what}s; expected one {what} per sample."
                    )
    every = list(dict.fromkeys(p for v in variants for p in samples[v]))
    kept, lengths, sizes = [], [], []
    for problem in every:
        if not all(problem in samples[v] for v in variants):
            continue
        fewest = min(len(samples[v][problem]) for v in variants)
        rows = [row for v in variants for row in list(samples[v][problem])[:fewest]]
        size = min((len(row) for row in rows), default=0)
        size = size if length is None else (length if size >= length else 0)
        if fewest >= 2 and size >= LEAST_LENGTH:
            kept.append(problem)
            lengths.append(size)
            sizes.append(fewest)
    if not kept:
        raise UserError(
            "diversity_beside: no problem has two samples of every variant with "
            f"{LEAST_LENGTH if length is None else length} tokens or more; add "
            "samples, or cut to a smaller length."
        )
    names = [m for m in MEASURES if m != "answer_entropy" or answers is not None]
    values = {name: np.full((len(variants), len(kept)), np.nan) for name in names}
    accuracy = np.full((len(variants), len(kept)), np.nan)
    for v, variant in enumerate(variants):
        for p, (problem, size, n) in enumerate(zip(kept, lengths, sizes, strict=True)):
            said = answers[variant][problem][:n] if answers is not None else None
            right = list(correct[variant][problem])[:n]
            found = diversity(list(samples[variant][problem])[:n], said, right, length=size)
            accuracy[v, p] = found.accuracy
            for name in names:
                values[name][v, p] = getattr(found, name)
    return Beside(
        variants=variants,
        problems=tuple(kept),
        dense=dense,
        values=values,
        accuracy=accuracy,
        lengths=tuple(lengths),
        n_samples=tuple(sizes),
        left_out=len(every) - len(kept),
    )
