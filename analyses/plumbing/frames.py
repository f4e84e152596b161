"""A study's rows as the analyses read them.

`StudyData.read(folder)` opens the store read-only and returns pandas frames. The analyses are pure
functions of a `StudyData`, so a test can build one from its own rows.

Columns of every frame of chains: benchmark, problem, variant, kind ("dense", "plan", "block"),
method, n_removed, removed (tuple of dense indices), block (the skipped block of a "block" variant),
budget, thinking_budget, waits_allowed, sample, outcome, correct (1.0 or 0.0), tokens, finish, and
the columns of the diagnosis.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.errors import UserError
from interp.model.checkpoint_files import folder_blocks
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from scaling.study.variants import REMOVED_BEFORE, lacking

PURPOSES = ("accuracy", "sequential", "waits", "parallel", "blocks")


@checked
@brief
@dataclass(frozen=True, eq=False)  # compared by identity, so that results can be cached by it
class StudyData:
    """The frames of one study.

    Attributes:
        purposes: by purpose ("accuracy", "sequential", ...), its chains, one row per chain.
        scores: one row per criterion and block.
        diversity: one row per problem, variant, budget and number of samples.
        config: the study's settings.
        meta: facts about the study: versions, fingerprints.
        sessions: one row per run of the study; None for rows made in memory.
        folder: folder of the study; None for rows made in memory.
        limit: problems that an analysis takes where it decodes with the study's model;
            None: as many as it usually does.
    """

    purposes: Mapping[str, pd.DataFrame]
    scores: pd.DataFrame
    diversity: pd.DataFrame
    config: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    sessions: pd.DataFrame | None = None
    folder: Path | None = None
    limit: int | None = None

    @classmethod
    def read(cls, folder: str | Path) -> StudyData:
        """The frames of the study in `folder`; a running study is read up to its last commit."""
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
        found = self.purposes.get(purpose)
        return pd.DataFrame() if found is None else found

    @cached_property
    def benchmarks(self) -> list[str]:
        """Benchmarks ordered by the mean length of the dense thinking, shortest first."""
        frames = [f for f in self.purposes.values() if len(f)]
        if not frames:
            return []
        rows = pd.concat(frames)[["benchmark", "variant", "thinking_tokens"]]
        lengths = rows[rows["variant"] == "dense"].groupby("benchmark")["thinking_tokens"].mean()
        names = dict.fromkeys(rows["benchmark"])
        return sorted(names, key=lambda name: (float(lengths.get(name, np.inf)), str(name)))

    @cached_property
    def removed_before(self) -> tuple[int, ...]:
        """Blocks of the dense model that the study's own model lacks: a pruned checkpoint's.

        A study made before this was recorded is asked for the pruning.json of its model's folder.
        """
        if REMOVED_BEFORE in self.meta:
            try:
                return as_blocks(self.meta[REMOVED_BEFORE])
            except (ValueError, TypeError):  # not what the runner writes: a stranger's file
                return ()
        place = str(self.config.get("model") or "")
        if not place or not Path(place).is_dir():
            return ()
        try:
            layer_map, n_dense = folder_blocks(place)
        except UserError:  # the folder was changed since: the study's own numbers stand
            return ()
        return lacking(layer_map or (), n_dense)

    @cached_property
    def variants(self) -> list[tuple[str, str, int]]:
        """Tuples (variant, method, blocks removed) of dense and the plans, dense first."""
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
    """Rows of the store with the columns that the analyses share."""
    frame = with_removed(frame)
    if "outcome" in frame:
        frame["correct"] = (frame["outcome"] == "correct").astype(float)
        frame["no_answer"] = (frame["outcome"] == "no answer").astype(float)
    return frame


def with_removed(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with `removed` as a tuple of dense indices, and `block` for single-block variants."""
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
    """Convert a stored list of blocks (JSON text, list, tuple or nothing) to a tuple."""
    if isinstance(value, str):
        value = json.loads(value) if value.strip() else []
    if value is None or isinstance(value, float):  # nan: no value
        return ()
    return tuple(int(v) for v in value)


def largest_budget(frame: pd.DataFrame) -> pd.DataFrame:
    """The chains at the largest thinking budget of each benchmark, without "wait" extensions."""
    if not len(frame):
        return frame
    plain = frame[frame["waits_allowed"] == 0]
    most = plain.groupby("benchmark")["thinking_budget"].transform("max")
    return plain[plain["thinking_budget"] == most]
