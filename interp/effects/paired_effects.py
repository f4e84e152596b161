"""The effect of each block on an outcome, paired with the dense model.

A table of outcomes has one row per chain (or per problem, for outcomes of all its chains), with
columns `benchmark`, `problem`, `sample`, `variant`, `block` (dense index; empty in dense rows) and
outcomes, such as correct, looped, tokens, reflection_per_1k. Every row of a variant is paired with
the dense row of the same problem and sample (same noise), changes are averaged within a problem,
and the problem is the unit of inference. The p value is that of a sign-flip test over problems.

Shapes: R rows of effects (group x block), P problems (of all groups), L blocks of one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.errors import UserError, check_known, did_you_mean
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of, marks
from interp.statistics import holm, paired_difference, problem_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEYS = ("benchmark", "problem", "sample", "variant", "block")
# the Okabe-Ito palette, for colour-blind readers; markers are for print without colour
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvPX"


@brief
@dataclass(frozen=True)
class Effects:
    """The effect of every block on one outcome, one entry per group and block.

    Attributes:
        outcome: Name of the outcome.
        by: Names of the columns that define the groups.
        groups: Values of the `by` columns of each entry, [R].
        blocks: Dense indices, [R].
        values: Mean paired change, variant - dense, [R].
        low: Lower limits of the change (`paired_difference`), [R].
        high: Upper limits of the change, [R].
        p: Two-sided p values of the sign-flip test over problems, [R].
        p_holm: The p values with Holm's correction across the blocks of a group (or all groups),
            [R].
        dense: Mean dense outcome of the pairs, [R].
        variant: Mean outcome of the variant in the pairs, [R].
        sd: Standard deviation of the per-problem changes, for `smallest_effect`, [R].
        n_problems: Problems with a pair, [R].
        n_samples: Pairs, [R].
        level: Confidence level of the intervals.
        changes: Mean change of each problem, [R, P]; nan where the group lacks it.
    """

    outcome: str
    by: tuple[str, ...]
    groups: tuple[tuple[Any, ...], ...]
    blocks: Int[np.ndarray, " R"]
    values: Float[np.ndarray, " R"]
    low: Float[np.ndarray, " R"]
    high: Float[np.ndarray, " R"]
    p: Float[np.ndarray, " R"]
    p_holm: Float[np.ndarray, " R"]
    dense: Float[np.ndarray, " R"]
    variant: Float[np.ndarray, " R"]
    sd: Float[np.ndarray, " R"]
    n_problems: Int[np.ndarray, " R"]
    n_samples: Int[np.ndarray, " R"]
    level: float
    changes: Float[np.ndarray, "R P"] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per group and block."""
        table: dict[str, Any] = {
            name: [group[i] for group in self.groups] for i, name in enumerate(self.by)
        }
        table |= {"block": self.blocks, "outcome": [self.outcome] * len(self.blocks)}
        columns = ("low", "high", "p", "p_holm", "dense", "variant", "sd")
        table |= {"effect": self.values} | {name: getattr(self, name) for name in columns}
        table |= {"n_problems": self.n_problems, "n_samples": self.n_samples}
        return pd.DataFrame(table)

    def rows(self, group: tuple[Any, ...]) -> Int[np.ndarray, " L"]:
        """Find the entries of one group.

        Args:
            group: Values of the `by` columns.

        Returns:
            Indices of the entries, [L], by block.
        """
        return np.array([i for i, g in enumerate(self.groups) if g == group], dtype=np.int64)

    def only(self, **values: Any) -> Effects:
        """Select the groups whose `by` columns have the given values.

        Args:
            **values: Values by name of the `by` column, such as `part="mlp"`.

        Returns:
            The effects of these groups.

        Raises:
            UserError: A name is not in `by`, or no group has these values.
        """
        for name in values:
            check_known(name, self.by, "column of `by`")
        wanted = [
            r
            for r, group in enumerate(self.groups)
            if all(group[self.by.index(name)] == value for name, value in values.items())
        ]
        if not wanted:
            known = list(dict.fromkeys(self.groups))
            raise UserError(f"No effects with {values}; the groups of {self.by} are {known}.")
        rows = np.array(wanted)
        parts = {
            f.name: value[rows]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), np.ndarray)
        }
        return replace(self, groups=tuple(self.groups[r] for r in wanted), **parts)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the effect over the blocks with intervals, one colour and marker per group.

        Markers are filled where Holm's p is under 1 - level.

        Args:
            ax: The axes to draw on; default: new ones.

        Returns:
            The axes.
        """
        axes = axes_of(ax, (7, 3.5))
        axes.axhline(0, color="0.6", linewidth=0.8)
        groups = list(dict.fromkeys(self.groups))
        for i, group in enumerate(groups):
            rows = self.rows(group)
            x = self.blocks[rows] + (i - (len(groups) - 1) / 2) * 0.6 / len(groups)
            colour = COLOURS[i % len(COLOURS)]
            line = axes.vlines(x, self.low[rows], self.high[rows], colors=colour, linewidth=1.4)
            sure = self.p_holm[rows] < 1 - self.level
            marker = MARKERS[i % len(MARKERS)]
            marks(axes, x, self.values[rows], sure, colour, marker=marker, size=4.5)
            line.set_label(" ".join(map(str, group)) or "all")
        axes.set_xlabel("block (dense index)")
        axes.set_ylabel(f"change in {self.outcome}")
        axes.set_xticks(np.unique(self.blocks))
        if len(groups) > 1:
            axes.legend(frameon=False, fontsize="small")
        return axes


@checked
def block_effects(
    frame: pd.DataFrame,
    outcome: str,
    by: Sequence[str] = ("benchmark",),
    *,
    dense: str = "dense",
    level: float = 0.95,
    family: Literal["group", "all"] = "group",
    seed: int = 0,
) -> Effects:
    """Compute the paired effect of every block on an outcome, for each group of the `by` columns.

    A pair with a nan on either side is left out. Rows of other variants without a block are left
    out (a plan of several blocks is not an effect of one).

    Args:
        frame: The table of outcomes (see the module).
        outcome: Name of the column with the outcome, a number or boolean.
        by: Columns that define the groups. A column that dense rows leave empty (a sublayer, a
            window) is not used for pairing.
        dense: Name of the dense variant.
        level: Confidence level of the intervals.
        family: Holm's correction within each group of `by` ("group"), or across all of them
            ("all").
        seed: Seed of the sign-flip test, where it draws.

    Returns:
        The effects, one entry per group and block with at least one pair.

    Raises:
        UserError: A column is missing, the outcome is not a number, a key appears twice, or there
            are no pairs.
    """
    _check_columns(frame, (*KEYS, outcome, *by))
    check_known(family, ("group", "all"), "family")
    is_dense = frame["variant"] == dense
    control: pd.DataFrame = frame.loc[is_dense]
    treated: pd.DataFrame = frame.loc[~is_dense & frame["block"].notna()]
    if control.empty or treated.empty:
        lacking = f"variant {dense!r}" if control.empty else "a variant with a block"
        raise UserError(f"block_effects: no row of {lacking}; a dense row is needed for each pair.")
    for part in (control, treated):
        try:
            part[outcome].astype(float)
        except (TypeError, ValueError):
            raise UserError(
                f"block_effects: outcome {outcome!r} is not a number in every row; make it one "
                "(for example outcome == 'correct')."
            ) from None
    paired_by = [
        name for name in by if name not in KEYS[1:] and not bool(np.any(control[name].isna()))
    ]
    keys = list(dict.fromkeys(["benchmark", "problem", "sample", *paired_by]))
    _check_unique(control, keys, f"dense ({dense!r})")
    _check_unique(treated, list(dict.fromkeys([*keys, *by, "block"])), "variant")
    pairs = treated.merge(
        control[[*keys, outcome]], on=keys, suffixes=("", "__dense"), validate="many_to_one"
    )
    if pairs.empty:
        raise UserError(f"block_effects: no variant row has a dense row with the same {keys}.")
    return _estimate(pairs, outcome, tuple(by), level, family, seed)


def effects_of_pairs(
    pairs: pd.DataFrame,
    outcome: str,
    by: Sequence[str] = ("benchmark",),
    *,
    level: float = 0.95,
    family: Literal["group", "all"] = "group",
    seed: int = 0,
) -> Effects:
    """Compute paired effects from rows that hold both sides: `outcome` and `{outcome}__dense`.

    For outcomes whose dense side depends on what it is compared with, such as diversity at the
    length that both sides have.

    Args:
        pairs: The table, with the columns benchmark, problem, sample, block and those of `by`.
        outcome: Name of the outcome.
        by: Columns that define the groups.
        level: Confidence level of the intervals.
        family: Holm's correction within each group of `by` ("group"), or across all of them
            ("all").
        seed: Seed of the sign-flip test, where it draws.

    Returns:
        The effects, one entry per group and block with at least one pair.

    Raises:
        UserError: A column is missing, a key appears twice, or the outcome is nan in every pair.
    """
    _check_columns(pairs, ("benchmark", "problem", "sample", "block", *by))
    _check_columns(pairs, (outcome, f"{outcome}__dense"))
    check_known(family, ("group", "all"), "family")
    _check_unique(
        pairs, list(dict.fromkeys(["benchmark", "problem", "sample", *by, "block"])), "paired"
    )
    return _estimate(pairs, outcome, tuple(by), level, family, seed)


def _estimate(
    pairs: pd.DataFrame, outcome: str, by: tuple[str, ...], level: float, family: str, seed: int
) -> Effects:
    columns = {name: index for index, name in enumerate(dict.fromkeys(_problems(pairs)))}
    groups, blocks, found, changes = [], [], [], []
    for key, part in pairs.groupby([*by, "block"], sort=True, dropna=False):
        *group, block = cast("tuple[Any, ...]", key)
        a, b = _tables(part, outcome)
        kept = (np.isfinite(a) & np.isfinite(b)).any(axis=1)
        if not kept.any():
            continue  # the outcome is nan in the whole group, so there is no effect
        found.append(paired_difference(a, b, level=level, seed=seed))
        row = np.full(len(columns), np.nan)
        place = np.array([columns[name] for name in dict.fromkeys(_problems(part))])
        with np.errstate(invalid="ignore"):
            row[place[kept]] = np.nanmean((b - a)[kept], axis=1)
        groups.append(tuple(group))
        blocks.append(int(block))
        changes.append(row)
    if not found:
        raise UserError(
            f"block_effects: outcome {outcome!r} is nan in every pair; expected a number in one."
        )
    p = np.array([one.p for one in found])
    corrected = np.empty_like(p)
    for group in set(groups):
        same = np.array([g == group or family == "all" for g in groups])
        corrected[same] = holm(p[same])

    def column(name: str) -> np.ndarray:
        return np.array([getattr(one, name) for one in found])

    return Effects(
        outcome=outcome,
        by=by,
        groups=tuple(groups),
        blocks=np.array(blocks, dtype=np.int64),
        values=column("value"),
        low=column("low"),
        high=column("high"),
        p=p,
        p_holm=corrected,
        dense=column("dense"),
        variant=column("variant"),
        sd=column("sd"),
        n_problems=column("n_problems"),
        n_samples=column("n_samples"),
        level=level,
        changes=np.stack(changes),
    )


def _problems(frame: pd.DataFrame) -> list[tuple[Any, Any]]:
    return list(zip(frame["benchmark"], frame["problem"], strict=True))


def _tables(part: pd.DataFrame, outcome: str) -> tuple[np.ndarray, np.ndarray]:
    """Dense and variant outcomes [problems, samples], problems in order of appearance.

    The k-th pair of a problem goes to column k; the order of samples does not matter.
    """
    names = _problems(part)
    return problem_table(part[f"{outcome}__dense"], names), problem_table(part[outcome], names)


def _check_columns(frame: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        if name not in frame.columns:
            raise UserError(
                "block_effects: " + did_you_mean(name, map(str, frame.columns), "column")
            )


def _check_unique(frame: pd.DataFrame, keys: list[str], what: str) -> None:
    twice = frame.duplicated(keys)
    if twice.any():
        one = frame.loc[twice, keys].iloc[0].to_dict()
        raise UserError(
            f"block_effects: {int(twice.sum())} {what} rows appear twice for the same {keys}, "
            f"such as {one}; choose one budget, or add the column that separates them to `by`."
        )
