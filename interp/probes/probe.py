"""A probe on each block, with its controls: `interp.probes` describes the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from interp.errors import NonFiniteError, UserError
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of
from interp.probes.fitting import FitDesign, against, auc_of
from interp.probes.folds import checked_folds, numbered, shuffled, strata_of
from interp.probes.labels import checked_labels
from interp.statistics import Interval, holm
from interp.statistics.intervals import check_level

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@checked
@brief
@dataclass(frozen=True)
class Probes:
    """What a probe on each block finds, together with its controls.

    Attributes:
        blocks: dense indices.
        auc: AUC of held-out predictions, over pairs within folds [L].
        low: lower bound of its interval at `level` [L].
        high: upper bound [L].
        balanced_accuracy: of held-out predictions, with the threshold at even odds [L].
        control_mean: mean AUC with shuffled labels [L].
        control_high: the AUC that one more shuffle exceeds with probability 1 - level [L].
        p: one-sided p-value of the AUC against the shuffles [L].
        p_holm: `p` corrected over the blocks (Holm) [L].
        baselines: AUC of other features of the same examples, by name.
        n: number of examples K.
        n_groups: number of problems.
        n_positive: number of positive examples.
        level: coverage of the intervals.
        seed: of folds, shuffles and resampling.
        unconverged: number of fits that the iteration limit ended.
        scores: held-out log-odds [L, K].
        null: AUCs of the M shuffles [L, M].
    """

    blocks: tuple[int, ...]
    auc: Float[np.ndarray, " L"]
    low: Float[np.ndarray, " L"]
    high: Float[np.ndarray, " L"]
    balanced_accuracy: Float[np.ndarray, " L"]
    control_mean: Float[np.ndarray, " L"]
    control_high: Float[np.ndarray, " L"]
    p: Float[np.ndarray, " L"]
    p_holm: Float[np.ndarray, " L"]
    baselines: Mapping[str, Interval]
    n: int
    n_groups: int
    n_positive: int
    level: float
    seed: int
    unconverged: int
    scores: Float[np.ndarray, "L K"] = field(repr=False)
    null: Float[np.ndarray, "L M"] = field(repr=False)

    @property
    def selectivity(self) -> Float[np.ndarray, " L"]:
        """AUC minus the mean of the shuffled-label control [L]."""
        return self.auc - self.control_mean

    def to_frame(self) -> pd.DataFrame:
        """One row per block; the baselines repeat in every row."""
        names = ["auc", "low", "high", "control_mean", "control_high", "p", "p_holm"]
        columns: dict[str, Any] = {"block": list(self.blocks)}
        columns |= {
            name: getattr(self, name) for name in [*names, "selectivity", "balanced_accuracy"]
        }
        columns |= {f"{name}_auc": one.value for name, one in self.baselines.items()}
        columns |= {name: getattr(self, name) for name in ("n", "n_groups", "n_positive")}
        return pd.DataFrame(columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """AUC by block with intervals, filled where Holm's p is small; control band, baselines.

        Args:
            ax: where to draw; default: a new figure.

        Returns:
            The axes.
        """
        axes = axes_of(ax, (7, 3.5))
        middle, top = self.control_mean, self.control_high
        axes.fill_between(
            self.blocks, 2 * middle - top, top, color="0.88", linewidth=0, label="shuffled labels"
        )
        for i, (name, one) in enumerate(self.baselines.items()):
            style = ("--", ":", "-.")[i % 3]
            axes.axhline(one.value, color=f"C{i + 1}", linestyle=style, linewidth=1, label=name)
        draw(self, axes, "C0", "probe")
        return axes


def draw(found: Probes, axes: Axes, colour: str, label: str, shift: float = 0.0) -> None:
    """Draw the AUCs of one set of probes.

    Args:
        found: the probes.
        axes: where to draw.
        colour: of lines and markers.
        label: for the legend.
        shift: how far to move the markers to the right, in blocks.
    """
    x, sure = np.array(found.blocks) + shift, found.p_holm < 1 - found.level
    axes.axhline(0.5, color="0.6", linewidth=0.8)
    axes.vlines(x, found.low, found.high, colors=colour, linewidth=1.4)
    axes.plot(x, found.auc, color=colour, linewidth=0.8, label=label)
    for shown, fill in ((sure, colour), (~sure, "white")):
        axes.plot(
            x[shown], found.auc[shown], "o", color=colour, markersize=4.5, markerfacecolor=fill
        )
    axes.set_xlabel("block (dense index)")
    axes.set_ylabel("AUC, problems held out")
    axes.set_xticks(found.blocks)
    axes.legend(frameon=False, fontsize="small")


@checked
def probe(
    features: Float[np.ndarray, "*_"],
    labels: Shaped[np.ndarray, "*_"],
    groups: Sequence[Any] | Shaped[np.ndarray, "*_"],
    *,
    blocks: Sequence[int] | None = None,
    rows: Int[np.ndarray, "*_"] | None = None,
    bins: Int[np.ndarray, "*_"] | None = None,
    baselines: Mapping[str, Shaped[np.ndarray, "*_"]] | None = None,
    folds: int | Int[np.ndarray, "*_"] = 5,
    C: float | Sequence[float] = 1.0,
    components: int | None = None,
    permutations: int = 20,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Probes:
    """Fit a probe on each block's features, with its controls.

    Args:
        features: [K, L, D].
        labels: booleans, or 0 and 1 [K].
        groups: the problem of each example [K].
        blocks: dense indices of the L axis, rising; default: 0, 1, ...
        rows: the step of each example [K], for the position baseline; None for no such baseline.
        bins: the bin of each example [K], within which labels are shuffled; None for one bin.
        baselines: name -> other features of the examples [K, F].
        folds: number of folds, or the fold of each example [K].
        C: inverse strength of the penalty, for features of mean square norm 1, so that it means the
            same at every D. Of several, each training part takes its own best, by cross-validation
            by problem inside it.
        components: principal components of the features to keep; None for all.
        permutations: number of shuffles M, at least 10.
        draws: number of bootstrap draws of problems for the intervals, at least 100.
        level: coverage of the intervals.
        seed: of folds, shuffles and resampling.

    Returns:
        The probes.

    Raises:
        UserError: an argument does not fit, or there are too few problems for the folds.
        NonFiniteError: features are inf or nan.
    """
    check_level(level)
    strengths = tuple(float(c) for c in np.atleast_1d(C))
    if not strengths or min(strengths) <= 0:
        raise UserError(f"probe(C={C}): expected a positive number, or several.")
    least = {"permutations": (permutations, 10), "draws": (draws, 100)}
    least["components"] = (1 if components is None else components, 1)
    for name, (value, bound) in least.items():
        if value < bound:
            raise UserError(f"probe({name}={value}): expected at least {bound}.")
    truth = checked_labels(labels)
    named = _checked_features(features, len(truth), blocks)
    each = {"groups": groups, "rows": rows, "bins": bins} | dict(baselines or {})
    each |= {"folds": folds if isinstance(folds, np.ndarray) else None}
    for name, values in each.items():
        if values is not None and len(values) != len(truth):
            raise UserError(
                f"probe: {len(values)} {name} for {len(truth)} labels: expected one each."
            )
    others = {"position": steps_as_features(rows)} if rows is not None else {}
    others |= {name: np.asarray(x, dtype=float) for name, x in (baselines or {}).items()}
    for name, x in others.items():
        if x.ndim != 2 or not np.isfinite(x).all():
            raise UserError(f"probe: baseline {name!r} {x.shape}: expected finite numbers [K, F].")
    group = numbered(groups)
    trial = FitDesign(checked_folds(truth, group, folds, seed), group, strengths, components)
    rng = np.random.default_rng(seed)
    n_groups = int(group.max()) + 1
    weights = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws)[:, group]
    strata = strata_of(trial.fold, group, bins)
    asked = np.stack([truth] + [shuffled(truth, group, strata, rng) for _ in range(permutations)])

    def interval(scores: np.ndarray) -> Interval:
        value = auc_of(scores, truth, trial.fold)[0]
        drawn = auc_of(scores, truth, trial.fold, weights)
        low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        size = (n_groups, len(truth))
        return Interval(float(value), float(low), float(high), level, *size, "problem bootstrap")

    told, scores, null, late = [], [], [], 0
    for index in range(len(named)):
        found, stopped = trial.scores(features[:, index], asked)
        late += stopped
        told.append(interval(found[0]))
        scores.append(found[0])
        shuffles = zip(found[1:], asked[1:], strict=True)
        null.append([auc_of(s, y, trial.fold)[0] for s, y in shuffles])
    auc, low, high = np.array([(one.value, one.low, one.high) for one in told]).T
    control = np.nan_to_num(np.array(null), nan=0.5)  # nan: a shuffle left no pair in any fold
    mean, top, p = against(auc, control, level)
    out = np.stack(scores)
    return Probes(
        blocks=named,
        auc=auc,
        low=low,
        high=high,
        balanced_accuracy=((out[:, truth] > 0).mean(1) + (out[:, ~truth] <= 0).mean(1)) / 2,
        control_mean=mean,
        control_high=top,
        p=p,
        p_holm=holm(p),
        baselines={
            name: interval(trial.scores(x, truth[None])[0][0]) for name, x in others.items()
        },
        n=len(truth),
        n_groups=n_groups,
        n_positive=int(truth.sum()),
        level=level,
        seed=seed,
        unconverged=late,
        scores=out,
        null=control,
    )


def steps_as_features(rows: np.ndarray) -> Float[np.ndarray, "K 3"]:
    """The step as features for the position baseline: the step, its square, and log(1 + step).

    Args:
        rows: the step of each example [K].

    Returns:
        float64 [K, 3].
    """
    step = np.asarray(rows, dtype=float)
    return np.stack([step, step**2, np.log1p(step)], axis=1)


def _checked_features(
    features: np.ndarray, n: int, blocks: Sequence[int] | None
) -> tuple[int, ...]:
    if features.ndim != 3 or 0 in features.shape:
        raise UserError(f"probe: features have shape {features.shape}; expected [K, L, D].")
    if len(features) != n:
        raise UserError(
            f"probe: {len(features)} rows of features for {n} labels: expected one each."
        )
    named = tuple(range(features.shape[1])) if blocks is None else tuple(map(int, blocks))
    if len(named) != features.shape[1] or any(b <= a for a, b in pairwise(named)):
        raise UserError(
            f"probe: blocks {named} for features of {features.shape[1]}; expected one dense index "
            "each, rising."
        )
    finite = [bool(np.isfinite(features[:, i]).all()) for i in range(len(named))]
    if bad := [block for block, fine in zip(named, finite, strict=True) if not fine]:
        raise NonFiniteError(
            f"probe: features of block {bad} hold inf or nan: check the weights, or use float32."
        )
    return named
