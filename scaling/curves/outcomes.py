"""From rows of the store to arrays of outcomes, [problems, samples], nan where a sample is missing.

A row's "outcome" is correct, wrong or no answer; in an array it is 1 for correct and 0 otherwise.
"No answer" is not correct, and is also counted separately.

`crossed` counts outcomes against how the chains ended; `extractors` compares strict and lenient
readings of the same chains; `by_budget` arranges the chains of one variant by thinking budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import UserError
from interp.statistics import jeffreys, mean_interval, problem_table
from scaling.grading.voting import candidate, candidates_of

OUTCOMES = ("correct", "wrong", "no answer")
ENDS = ("finished", "looped", "cut")
GROUP = ("benchmark", "variant", "budget")
NEEDED = ("benchmark", "problem", "variant", "budget", "sample", "outcome")


def check_rows(rows: pd.DataFrame, needed: Sequence[str] = NEEDED) -> None:
    """Check that a table has rows, the needed columns, and no chain twice.

    Args:
        rows: rows of `Store.rows()`.
        needed: columns that must be present.

    Raises:
        UserError: a column is missing, there are no rows, or a chain occurs twice.
    """
    missing = [name for name in needed if name not in rows.columns]
    if missing:
        raise UserError(f"The rows lack {missing}; expected those of Store.rows().")
    if not len(rows):
        raise UserError("No rows: the study has no chains for this yet.")
    key = ["benchmark", "problem", "variant", "budget", "sample"]
    twice = rows.duplicated(key)
    if twice.any():
        first = rows.loc[twice, key].iloc[0].to_dict()
        raise UserError(
            f"{int(twice.sum())} rows occur twice, e.g. {first}; expected each chain once."
        )


def groups(
    rows: pd.DataFrame, keys: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Split rows by the values of some columns.

    Args:
        rows: the rows.
        keys: columns to group by.

    Yields:
        (values of the keys, rows), in the order in which the groups first occur.
    """
    for values, part in rows.groupby(list(keys), sort=False):
        yield tuple(str(v) for v in (values if isinstance(values, tuple) else (values,))), part


def table(
    rows: pd.DataFrame, column: str = "outcome", problems: Sequence[str] | None = None
) -> Float[np.ndarray, "P N"]:
    """Arrange one column as an array [problems, samples].

    Args:
        rows: rows of one benchmark, variant and budget.
        column: "outcome" columns become 1 for correct and 0 otherwise; other columns are read as
            numbers.
        problems: problem ids, in the order of the array's rows; None sorts those that occur.

    Returns:
        The values [P, N], float64; nan where a sample is missing.
    """
    order = sorted(set(rows["problem"])) if problems is None else problems
    rows = where(rows, rows["problem"].isin(order))
    values = rows[column] == "correct" if column.endswith("outcome") else rows[column]
    return problem_table(values, rows["problem"], rows["sample"], order)


def share(values: Iterable[object]) -> float:
    """The share of true values; nan if there are none."""
    found = [bool(value) for value in values]
    return sum(found) / len(found) if found else float("nan")


def where(rows: pd.DataFrame, keep: Iterable[object]) -> pd.DataFrame:
    """Select rows by a sequence of truth values.

    Args:
        rows: the rows.
        keep: for each row, whether to keep it.

    Returns:
        The kept rows.
    """
    return rows.loc[np.asarray(list(keep), dtype=bool)]


def vote(extracted: object, outcome: str = "") -> str | None:
    """The candidate that an answer votes for in a majority vote, by itself.

    Equal numbers are one candidate, and so are formulas written alike; `votes` also joins formulas
    that are equal as mathematics.

    Args:
        extracted: the extracted answer; None or nan where there is none.
        outcome: outcome of the chain.

    Returns:
        The candidate; None where there is no answer, which does not vote.
    """
    if not isinstance(extracted, str) or outcome == "no answer":  # None, or nan in a table
        return None
    return candidate(extracted)


def votes(extracted: Iterable[object], outcomes: Iterable[str]) -> list[str | None]:
    """The candidates that the answers to one problem vote for.

    Args:
        extracted: the extracted answers; None or nan where there is none.
        outcomes: outcomes of the chains.

    Returns:
        The candidate of each answer, equal answers sharing one; None where there is no answer.
    """
    answers = [
        text if isinstance(text, str) and outcome != "no answer" else None
        for text, outcome in zip(extracted, outcomes, strict=True)
    ]
    joined = iter(candidates_of([text for text in answers if text is not None]))
    return [None if text is None else next(joined) for text in answers]


# ------------------------------------------------------------------------ budgets side by side


@dataclass(frozen=True)
class BudgetTable:
    """One benchmark and variant: mean cost and accuracy of each problem at each thinking budget.

    Attributes:
        budgets: thinking budgets in tokens, rising.
        problems: problem ids.
        cost: mean cost over samples: [B, P].
        accuracy: mean accuracy over samples: [B, P].
        samples: the largest number of samples of a problem.
    """

    budgets: tuple[int, ...]
    problems: tuple[str, ...]
    cost: Float[np.ndarray, "B P"]
    accuracy: Float[np.ndarray, "B P"]
    samples: int

    def of(self, problems: Sequence[str]) -> BudgetTable:
        """The same table for `problems`, in their order."""
        place = {name: i for i, name in enumerate(self.problems)}
        chosen = np.array([place[name] for name in problems], dtype=int)
        return BudgetTable(
            self.budgets,
            tuple(problems),
            self.cost[:, chosen],
            self.accuracy[:, chosen],
            self.samples,
        )


def by_budget(rows: pd.DataFrame, axis: str = "spent") -> BudgetTable:
    """Arrange the rows of one benchmark and variant by thinking budget, without "wait" extensions.

    Problems that lack a budget are left out, so that a curve over budgets follows the same
    problems.

    Args:
        rows: rows of one benchmark and variant.
        axis: column of costs; "spent" is computed as thinking plus answer tokens if the column is
            missing.

    Returns:
        Mean cost and accuracy by budget and problem.

    Raises:
        UserError: the cost column is missing or holds values that are not positive.
    """
    if axis == "spent" and axis not in rows.columns:
        rows = rows.assign(spent=rows["thinking_tokens"] + rows["answer_tokens"])
    if axis not in rows.columns:
        raise UserError(
            f"The rows have no column {axis!r}; add it with "
            "scaling.curves.equal_cost_comparison.with_costs, or use "
            "axis='spent'."
        )
    rows = where(rows, (rows["thinking_budget"] > 0) & (rows["waits_allowed"] == 0))
    budgets, at = np.unique(rows["thinking_budget"].to_numpy(np.int64), return_inverse=True)
    names, who = np.unique(rows["problem"].to_numpy(dtype=str), return_inverse=True)
    shape = (len(budgets), len(names))
    cells = at * len(names) + who

    def summed(values: Float[np.ndarray, " C"]) -> Float[np.ndarray, "B P"]:
        return np.bincount(cells, values, minlength=math.prod(shape)).reshape(shape)

    counts = summed(np.ones(len(rows)))
    shared = (counts > 0).all(axis=0)
    counts = counts[:, shared]
    cost = summed(rows[axis].to_numpy(dtype=float))[:, shared] / counts
    if not (np.isfinite(cost) & (cost > 0)).all():
        raise UserError(f"The column {axis!r} holds costs that are not positive numbers.")
    right = (rows["outcome"] == "correct").to_numpy(dtype=float)
    return BudgetTable(
        budgets=tuple(budgets.tolist()),
        problems=tuple(names[shared].tolist()),
        cost=cost,
        accuracy=summed(right)[:, shared] / counts,
        samples=int(counts.max(initial=0)),
    )


# ------------------------------------------------------------------------------ outcomes as such


def ended(rows: pd.DataFrame) -> list[str]:
    """How each chain ended: "looped", "cut" (by a budget, in thinking or answer) or "finished".

    A chain that was looping when its budget closed it counts as looped, not as cut.
    """
    found = rows["looped"] if "looped" in rows.columns else [0] * len(rows)
    ways = []
    for finish, thinking, seen in zip(rows["finish"], rows["thinking_finish"], found, strict=True):
        loop = "looped" in (finish, thinking) or (seen == seen and bool(seen))  # nan: not looked
        cut = thinking == "forced" or finish in ("cut", "positions")
        ways.append("looped" if loop else "cut" if cut else "finished")
    return ways


def crossed(rows: pd.DataFrame, by: Sequence[str] = GROUP) -> pd.DataFrame:
    """Count outcomes against how the chains ended: nine rows per group.

    Args:
        rows: rows of the store.
        by: columns that define a group.

    Returns:
        Chains, their share of the group, and share_of_end: the share among the chains that ended
        this way (nan if there are none), with Jeffreys' interval (low, high) over chains. With
        several samples per problem that interval is too narrow.
    """
    check_rows(rows, (*NEEDED, "finish", "thinking_finish"))
    rows = rows.assign(end=ended(rows))
    none: dict[str, Any] = dict.fromkeys(("share_of_end", "low", "high"), np.nan)
    found: list[dict[str, Any]] = []
    for key, part in groups(rows, by):
        for end in ENDS:
            mine = where(part, part["end"] == end)
            for outcome in OUTCOMES:
                n = int((mine["outcome"] == outcome).sum())
                share_of_end = jeffreys(n, len(mine)).cells("share_of_end") if len(mine) else none
                found.append(
                    {
                        **dict(zip(by, key, strict=True)),
                        "end": end,
                        "outcome": outcome,
                        "chains": n,
                        "share": n / len(part),
                        **share_of_end,
                    }
                )
    return pd.DataFrame(found)


def extractors(rows: pd.DataFrame, by: Sequence[str] = GROUP) -> pd.DataFrame:
    """Compare the strict and the lenient reading of the same chains.

    A variant that loses only by `saved` has lost the form of its answer, not the answer.

    Args:
        rows: rows of the store.
        by: columns that define a group.

    Returns:
        Per group: accuracy by each reading with intervals; `disagree`, chains on which they differ;
        `saved`, chains without an announced answer that the lenient reading finds correct;
        `guessed`, the same but wrong; `no_answer`, chains in which neither finds an answer.
    """
    check_rows(rows, (*NEEDED, "strict_outcome", "lenient_outcome"))
    found = []
    for key, part in groups(rows, by):
        strict = mean_interval(table(part, "strict_outcome"))
        lenient = mean_interval(table(part, "lenient_outcome"))
        silent = part["strict_outcome"] == "no answer"
        found.append(
            {
                **dict(zip(by, key, strict=True)),
                **strict.cells("strict", "strict_"),
                **lenient.cells("lenient", "lenient_"),
                "disagree": int((part["strict_outcome"] != part["lenient_outcome"]).sum()),
                "saved": int((silent & (part["lenient_outcome"] == "correct")).sum()),
                "guessed": int((silent & (part["lenient_outcome"] == "wrong")).sum()),
                "no_answer": int((silent & (part["lenient_outcome"] == "no answer")).sum()),
                "problems": strict.n_problems,
                "chains": len(part),
            }
        )
    return pd.DataFrame(found)
