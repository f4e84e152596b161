"""A study's rows as the analyses read them.

`StudyData.read(folder)` opens the store without touching it and hands out pandas frames; the
analyses are pure functions of a `StudyData`, so a test can build one from rows of its own.

Columns every frame of chains has: benchmark, problem, variant, kind ("dense", "plan", "block"),
method, n_removed, removed (tuple of dense indices), block (the skipped block of a "block" variant),
budget, thinking_budget, waits_allowed, sample, outcome, correct (1.0 or 0.0), tokens, finish, and
whatever the diagnosis adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

PURPOSES = ("accuracy", "sequential", "waits", "parallel", "blocks")


@dataclass(frozen=True, eq=False)  # compared by identity, so that what is made of it can be kept
class StudyData:
    """The frames of one study.

    chains: one row a chain, each once. purposes: the chains each question was asked on. scores: one
    row a criterion and block. diversity: one row a problem, variant and budget. config, meta: what
    was asked, of what.
    """

    purposes: Mapping[str, pd.DataFrame]
    scores: pd.DataFrame
    diversity: pd.DataFrame
    config: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    sessions: pd.DataFrame | None = None
    folder: Path | None = None

    @classmethod
    def read(cls, folder: str | Path) -> StudyData:
        """The frames of the study in `folder`; a study still running reads as far as it is."""
        from scaling.store.study_store import Store

        with Store(folder, read_only=True) as store:
            variants = {
                row["variant"]: row for row in store.frame("variants").to_dict(orient="records")
            }
            diversity = store.frame("diversity")
            measures = [json.loads(text) for text in diversity.pop("measures")]
            for name in sorted({key for row in measures for key in row}):
                diversity[name] = [row.get(name) for row in measures]
            known = [(v, r["kind"], r["method"], r["n_removed"]) for v, r in variants.items()]
            for i, column in enumerate(("kind", "method", "n_removed"), start=1):
                lookup = {row[0]: row[i] for row in known}
                diversity[column] = [lookup.get(v) for v in diversity["variant"]]
            return cls(
                purposes={p: prepared(store.rows(p)) for p in PURPOSES},
                scores=store.frame("scores"),
                diversity=with_removed(
                    diversity.assign(
                        removed=[
                            variants[v]["removed"] if v in variants else "[]"
                            for v in diversity["variant"]
                        ]
                    )
                ),
                config=store.config(),
                meta=store.meta(),
                sessions=store.frame("sessions"),
                folder=Path(folder),
            )

    def rows(self, purpose: str) -> pd.DataFrame:
        """The chains of one purpose; an empty frame where the study has none."""
        import pandas as pd

        found = self.purposes.get(purpose)
        return pd.DataFrame() if found is None else found

    @cached_property
    def benchmarks(self) -> list[str]:
        """Benchmarks from no chain to the longest: by the mean length of the dense thinking."""
        import pandas as pd

        frames = [f for f in self.purposes.values() if len(f)]
        if not frames:
            return []
        rows = pd.concat(frames)[["benchmark", "variant", "thinking_tokens"]]
        lengths = rows[rows["variant"] == "dense"].groupby("benchmark")["thinking_tokens"].mean()
        names = dict.fromkeys(rows["benchmark"])
        return sorted(names, key=lambda name: (float(lengths.get(name, np.inf)), str(name)))

    @cached_property
    def variants(self) -> list[tuple[str, str, int]]:
        """(variant, method, blocks removed) of dense and the plans, dense first."""
        found: dict[str, tuple[str, str, int]] = {}
        for frame in self.purposes.values():
            if not len(frame):
                continue
            part = frame[frame["kind"] != "block"].drop_duplicates("variant")
            for row in part.to_dict(orient="records"):
                found[row["variant"]] = (row["variant"], row["method"], int(row["n_removed"]))
        methods = list(self.config.get("methods") or [])

        def place(item: tuple[str, str, int]) -> tuple[int, int, str, int]:
            name, method, n = item
            known = methods.index(method) if method in methods else len(methods)
            return (0 if name == "dense" else 1, known, method, n)

        return sorted(found.values(), key=place)


def prepared(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the store with the columns the analyses share."""
    frame = with_removed(frame)
    if "outcome" in frame:
        frame["correct"] = (frame["outcome"] == "correct").astype(float)
        frame["no_answer"] = (frame["outcome"] == "no answer").astype(float)
    return frame


def with_removed(frame: pd.DataFrame) -> pd.DataFrame:
    """`removed` as a tuple of dense indices, and `block` for the single-block variants."""
    frame = frame.copy()
    if "removed" not in frame:
        frame["removed"] = [()] * len(frame)
    frame["removed"] = [as_blocks(value) for value in frame["removed"]]
    frame["block"] = [
        float(removed[0]) if kind == "block" and len(removed) == 1 else np.nan
        for kind, removed in zip(frame["kind"], frame["removed"], strict=True)
    ]
    return frame


def as_blocks(value: Any) -> tuple[int, ...]:
    """A list of blocks however it is kept: JSON text, a list, a tuple, nothing."""
    if isinstance(value, str):
        value = json.loads(value) if value.strip() else []
    if value is None or isinstance(value, float):  # nan: nothing is kept
        return ()
    return tuple(int(v) for v in value)


def largest_budget(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each benchmark, the chains at its largest thinking budget and without "wait"."""
    if not len(frame):
        return frame
    plain = frame[frame["waits_allowed"] == 0]
    most = plain.groupby("benchmark")["thinking_budget"].transform("max")
    return plain[plain["thinking_budget"] == most]
