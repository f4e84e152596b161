"""From rows of the store to arrays of outcomes, [problems, samples], nan where a sample is missing.

A row's "outcome" is correct, wrong or no answer; an outcome here is 1 for correct and 0 for the
rest. No answer is not right, and is counted apart.

Two tables of outcomes as such: `crossed` (outcome against how the chain ended) and `extractors`
(strict against lenient reading of the same chains). `by_budget` lays the chains of one variant out
by thinking budget, for what compares budgets of the same problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.errors import UserError
from interp.statistics import jeffreys, mean_interval
from scaling.grading._extract import same_text
from scaling.grading.numbers import read_number

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES = ("correct", "wrong", "no answer")
ENDS = ("finished", "looped", "cut")
GROUP = ("benchmark", "variant", "budget")
NEEDED = ("benchmark", "problem", "variant", "budget", "sample", "outcome")


def check_rows(rows: pd.DataFrame, needed: Sequence[str] = NEEDED) -> None:
    """Refuse a table without rows, without a needed column, or with a chain twice."""
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
            f"{int(twice.sum())} rows occur twice, e.g. {first}; each chain counts once."
        )


def groups(
    rows: pd.DataFrame, keys: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """(key values, rows) in the order in which they first occur."""
    for values, part in rows.groupby(list(keys), sort=False):
        yield tuple(str(v) for v in (values if isinstance(values, tuple) else (values,))), part


def table(
    rows: pd.DataFrame, column: str = "outcome", problems: Sequence[str] | None = None
) -> Float[np.ndarray, "P N"]:
    """The values of one group as [problems, samples], problems sorted (or as given).

    "outcome" columns become 1 for correct and 0 otherwise; other columns are taken as numbers.
    """
    names = sorted(set(rows["problem"])) if problems is None else list(problems)
    place = {name: i for i, name in enumerate(names)}
    width = max(int(sample) for sample in rows["sample"]) + 1
    out = np.full((len(names), width), np.nan)
    values = rows[column]
    if column.endswith("outcome"):
        values = values == "correct"
    for problem, sample, value in zip(rows["problem"], rows["sample"], values, strict=True):
        if problem in place:
            out[place[problem], int(sample)] = float(value)
    return out


def share(values: Iterable[object]) -> float:
    """The share of true values; nan of none."""
    found = [bool(value) for value in values]
    return sum(found) / len(found) if found else float("nan")


def where(rows: pd.DataFrame, keep: Iterable[object]) -> pd.DataFrame:
    """The rows for which `keep` is true."""
    return rows.loc[np.asarray(list(keep), dtype=bool)]


def vote(extracted: object, outcome: str = "") -> str | None:
    """What an answer votes for: equal numbers are one candidate, and so are
    formulas that differ in spaces or in the size of a bracket; no answer does not vote."""
    if not isinstance(extracted, str) or outcome == "no answer":  # None, or nan in a table
        return None
    number = read_number(extracted)
    if number is not None:
        return str(number)
    return same_text(extracted)


# ------------------------------------------------------------------------ budgets side by side


@dataclass(frozen=True)
class BudgetTable:
    """One benchmark and variant: mean cost and accuracy of each problem at each thinking budget.

    budgets rise; cost and accuracy are [budgets, problems], means over samples. samples: the most
    samples of a problem.
    """

    budgets: tuple[int, ...]
    problems: tuple[str, ...]
    cost: Float[np.ndarray, "B P"]
    accuracy: Float[np.ndarray, "B P"]
    samples: int

    def of(self, problems: Sequence[str]) -> BudgetTable:
        """The same of these problems, in their order."""
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
    """Rows of one benchmark and variant by thinking budget, without "wait" extensions.

    axis: the column of costs; "spent" is thinking and answer tokens where there is no such column.
    Problems that lack a budget are left out: curves over budgets follow the same problems.
    """
    if axis == "spent" and axis not in rows.columns:
        rows = rows.assign(spent=rows["thinking_tokens"] + rows["answer_tokens"])
    if axis not in rows.columns:
        raise UserError(
            f"The rows have no column {axis!r}; add it with "
            "scaling.curves.equal_cost_comparison.with_costs, or use "
            "the axis 'spent'."
        )
    rows = where(rows, (rows["thinking_budget"] > 0) & (rows["waits_allowed"] == 0))
    parts = {int(budget): part for budget, part in rows.groupby("thinking_budget")}
    budgets = tuple(sorted(parts))
    shared = set.intersection(*(set(p["problem"]) for p in parts.values())) if parts else set()
    problems = sorted(shared)
    costs, right, samples = [], [], 0
    for budget in budgets:
        part = where(parts[budget], parts[budget]["problem"].isin(shared))
        if not problems:
            break
        samples = max(samples, int(part.groupby("problem").size().max()))
        costs.append(np.nanmean(table(part, axis, problems), axis=1))
        right.append(np.nanmean(table(part, "outcome", problems), axis=1))
    shape = (len(budgets), len(problems))
    cost = np.array(costs, dtype=float).reshape(shape)
    if not (np.isfinite(cost) & (cost > 0)).all():
        raise UserError(f"The column {axis!r} holds costs that are not positive numbers.")
    accuracy = np.array(right, dtype=float).reshape(shape)
    return BudgetTable(budgets, tuple(problems), cost, accuracy, samples)


# ------------------------------------------------------------------------------ outcomes as such


def ended(rows: pd.DataFrame) -> list[str]:
    """How each chain ended: "looped", "cut" (by a budget, in thinking or answer), "finished".

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
    """Outcome x how the chain ended: nine rows a group, with chains and their share of the group.

    share_of_end: the share among the chains that ended this way (nan where there are none), so
    "correct when finished" can be read off. Jeffreys' interval of it (low, high) is over chains:
    with several samples a problem it is too narrow.
    """
    import pandas as pd

    check_rows(rows, (*NEEDED, "finish", "thinking_finish"))
    rows = rows.assign(end=ended(rows))
    found: list[dict[str, Any]] = []
    for key, part in groups(rows, by):
        for end in ENDS:
            mine = where(part, part["end"] == end)
            for outcome in OUTCOMES:
                n = int((mine["outcome"] == outcome).sum())
                inside = jeffreys(n, len(mine)) if len(mine) else None
                found.append(
                    {
                        **dict(zip(by, key, strict=True)),
                        "end": end,
                        "outcome": outcome,
                        "chains": n,
                        "share": n / len(part),
                        "share_of_end": inside.value if inside else np.nan,
                        "low": inside.low if inside else np.nan,
                        "high": inside.high if inside else np.nan,
                    }
                )
    return pd.DataFrame(found)


def extractors(rows: pd.DataFrame, by: Sequence[str] = GROUP) -> pd.DataFrame:
    """Strict and lenient reading side by side: accuracy by each, and where they differ.

    saved: chains without an announced answer that the lenient reading finds correct; guessed: the
    same, found wrong; no_answer: neither finds one. A variant that loses by `saved` has lost the
    form of its answer, not the answer.
    """
    import pandas as pd

    check_rows(rows, (*NEEDED, "strict_outcome", "lenient_outcome"))
    found = []
    for key, part in groups(rows, by):
        strict = mean_interval(table(part, "strict_outcome"))
        lenient = mean_interval(table(part, "lenient_outcome"))
        silent = part["strict_outcome"] == "no answer"
        found.append(
            {
                **dict(zip(by, key, strict=True)),
                "strict": strict.value,
                "strict_low": strict.low,
                "strict_high": strict.high,
                "lenient": lenient.value,
                "lenient_low": lenient.low,
                "lenient_high": lenient.high,
                "disagree": int((part["strict_outcome"] != part["lenient_outcome"]).sum()),
                "saved": int((silent & (part["lenient_outcome"] == "correct")).sum()),
                "guessed": int((silent & (part["lenient_outcome"] == "wrong")).sum()),
                "no_answer": int((silent & (part["lenient_outcome"] == "no answer")).sum()),
                "problems": strict.n_problems,
                "chains": len(part),
            }
        )
    return pd.DataFrame(found)
