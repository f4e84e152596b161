"""One row per chain, as the page lists and filters it.

The page holds the whole table (100,000 chains are about 4 MB) and filters it itself, so a filter is
not a request. `select` answers the same questions for an export.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import UserError, did_you_mean
from scaling.store.chain_row import Key
from scaling.store.study_store import Store

if TYPE_CHECKING:
    import pandas as pd

# name of a filter: its column; "block" is answered by the variants
FILTERS = {
    "benchmark": "benchmark",
    "problem": "problem",
    "variant": "variant",
    "block": "removed",
    "budget": "budget",
    "sample": "sample",
    "verdict": "outcome",
    "ending": "finish",
    "thinking": "thinking_finish",
    "loop": "loop",
    "wrong": "step_kind",
}
NUMBERS = {"tokens": "tokens", "thinking_tokens": "thinking_tokens", "reflections": "reflections"}
NONE = "none"  # where a chain has no loop, no wrong step
_KINDS = ("dense", "plan", "block")


@dataclass(frozen=True)
class ChainTable:
    """The chains of a study in the order of the page: benchmark, problem, variant, budget, sample.

    Attributes:
        rows: the columns of `FILTERS` and `NUMBERS`, texts where the filter compares texts.
        removed: the blocks that each variant lacks (dense indices).
    """

    rows: pd.DataFrame
    removed: Mapping[str, tuple[int, ...]]

    @classmethod
    def read(cls, store: Store) -> ChainTable:
        """Read the table of a study.

        Args:
            store: the open study.

        Returns:
            The table.
        """
        order = ["benchmark", "position", "place", "thinking_budget", "waits_allowed", "sample"]
        columns = list(dict.fromkeys([*FILTERS.values(), *NUMBERS.values()]))
        columns.remove("removed")
        frame = store.columns([*columns, "position", "thinking_budget", "waits_allowed"])
        variants = store.frame("variants")
        removed = {
            str(name): tuple(map(int, json.loads(text)))
            for name, text in zip(variants["variant"], variants["removed"], strict=True)
        }
        kinds = dict(zip(variants["variant"], variants["kind"], strict=True))
        for name in ("loop", "step_kind"):
            frame[name] = frame[name].fillna("").replace("", NONE)
        for name in NUMBERS.values():
            frame[name] = frame[name].fillna(0).astype(np.int64)
        place = {
            name: i
            for i, name in enumerate(
                sorted(
                    dict.fromkeys(frame["variant"]),
                    key=lambda v: (_KINDS.index(kinds.get(v, "plan")), natural(v)),
                )
            )
        }
        frame["place"] = [place[name] for name in frame["variant"]]
        frame = frame.sort_values(order, kind="stable").reset_index(drop=True)
        return cls(frame[columns], removed)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def keys(self) -> list[Key]:
        """The key of every row."""
        return [Key(*row) for row in self.rows[list(Key._fields)].itertuples(index=False)]

    @cached_property
    def row_of(self) -> dict[Key, int]:
        """The row of every key."""
        return {key: i for i, key in enumerate(self.keys)}

    def values(self, name: str) -> list[Any]:
        """The values that a filter can take, in natural order; dense comes first.

        Args:
            name: name of the filter.

        Returns:
            The values.
        """
        if name == "block":
            present = set(self.rows["variant"].unique())
            return sorted({b for v, blocks in self.removed.items() if v in present for b in blocks})
        found = self.rows[FILTERS[name]].unique().tolist()
        if name == "variant":
            return found  # the order of the rows
        return sorted(found, key=lambda value: (value == NONE, natural(str(value))))

    def columns(self, rows: np.ndarray | None = None) -> dict[str, Any]:
        """The table as the page reads it.

        Args:
            rows: only these rows; default: all.

        Returns:
            `dims`: by filter, its values; `cols`: by filter, the index of each row's value, and by
            number, the number; `removed`: for each value of `variant`, its blocks.
        """
        part = self if rows is None else ChainTable(self.rows.iloc[rows], self.removed)
        dims = {name: part.values(name) for name in FILTERS if name != "block"}
        cols: dict[str, list[int]] = {}
        for name, values in dims.items():
            index = {value: i for i, value in enumerate(values)}
            cols[name] = [index[value] for value in part.rows[FILTERS[name]].tolist()]
        cols |= {name: part.rows[column].tolist() for name, column in NUMBERS.items()}
        removed = [list(self.removed.get(name, ())) for name in dims["variant"]]
        return {"dims": {**dims, "block": part.values("block")}, "cols": cols, "removed": removed}

    def select(self, where: Mapping[str, str], found: Iterable[int] | None = None) -> np.ndarray:
        """The rows that pass filters.

        Args:
            where: value by filter; several values of one filter are joined by "|".
            found: rows that a search has found; None: all.

        Returns:
            Row numbers, ascending.

        Raises:
            UserError: a filter or a value that the study does not have.
        """
        keep = np.ones(len(self), dtype=bool)
        for name, wanted in where.items():
            if name not in FILTERS:
                raise UserError(did_you_mean(name, FILTERS, "filter"))
            known = [str(value) for value in self.values(name)]
            values = wanted.split("|")
            for value in values:
                if value not in known:
                    raise UserError(did_you_mean(value, known, f"value of the filter {name!r}"))
            if name == "block":
                blocks = set(map(int, values))
                lacking = [v for v, removed in self.removed.items() if blocks & set(removed)]
                keep &= self.rows["variant"].isin(lacking).to_numpy()
            else:
                keep &= self.rows[FILTERS[name]].astype(str).isin(values).to_numpy()
        if found is not None:
            hit = np.zeros(len(self), dtype=bool)
            hit[list(found)] = True
            keep &= hit
        return np.flatnonzero(keep)


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key under which "skip 9" comes before "skip 10"."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", text)
        if part
    ]
