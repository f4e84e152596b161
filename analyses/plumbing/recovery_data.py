"""The data of a recovery study: every measured model, and rows of its outcomes.

Each model of the study has its own study, on the same problems with the same noise. The frames made
here have the columns benchmark, problem, sample and an outcome, so any two models pair. The table
and the figure are in `analyses.recovery`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.plumbing.frames import StudyData, largest_budget
from analyses.plumbing.outcome_columns import with_derived
from analyses.plumbing.tokenizer_text import TokenizerText
from interp.errors import UserError

DENSE, BEFORE = "dense", "untrained"
CHAIN = ("correct", "no_answer", "entered", "persisted", "reflection_per_1k", "slips_per_1k")
CHAIN += ("thinking_tokens",)
SAMPLES = ("self_bleu", "vendi", "answer_entropy")


@dataclass(frozen=True, eq=False)
class MeasuredModel:
    """One model of the study: the dense one, a pruned one, or a trained one.

    Attributes:
        plan: name of the plan; "" for the dense model.
        method: name of the recovery method; "" where untrained.
        removed: dense indices of the blocks removed.
        data: the study that measured this model.
        run: the result of its training: tokens, rate, seconds.
    """

    plan: str
    method: str
    removed: tuple[int, ...]
    data: StudyData
    run: dict[str, Any]

    @property
    def label(self) -> str:
        """The method, or "dense" or "untrained"."""
        return DENSE if not self.plan else self.method or BEFORE

    @cached_property
    def chains(self) -> pd.DataFrame:
        """One row per problem at the largest budget, with columns derived from the chain."""
        rows = largest_budget(self.data.rows("accuracy"))
        return with_loops(with_derived(rows), self.data)


@dataclass(frozen=True, eq=False)
class RecoveryData:
    """A recovery study.

    Attributes:
        folder: its folder.
        settings: its settings.
        units: its measured models in the study's order, dense first.
    """

    folder: Path
    settings: dict[str, Any]
    units: tuple[MeasuredModel, ...]

    @classmethod
    def read(cls, folder: str | Path) -> RecoveryData:
        """The measured models of the study in `folder`; those not measured yet are left out."""
        from recovery.study import Unit, measured_folder, plans_of, read, run_folder

        place = Path(folder)
        settings, plans = read(place)["settings"], plans_of(place)
        wanted = [Unit()]
        for plan in plans:
            wanted += [Unit(plan), *(Unit(plan, method) for method in settings["methods"])]
        found = []
        for unit in wanted:
            where = measured_folder(place, unit)
            if not (where / "done").is_file():
                continue
            record = run_folder(place, unit) / "recovery.json"
            run = json.loads(record.read_text(encoding="utf-8")) if unit.method else {}
            removed = tuple(plans[unit.plan].removed) if unit.plan else ()
            data = StudyData.read(where)
            found.append(
                MeasuredModel(unit.plan, unit.method, removed, data, run.get("result", {}))
            )
        if not found or found[0].plan:
            raise UserError(f"{place}: the dense model is not measured yet; run the study on.")
        return cls(place, settings, tuple(found))

    @property
    def dense(self) -> MeasuredModel:
        """The dense model."""
        return self.units[0]

    def before(self, unit: MeasuredModel) -> MeasuredModel | None:
        """The untrained model of a unit's plan; None if it is not measured."""
        same = (u for u in self.units if u.plan == unit.plan and not u.method)
        return next(same, None)

    @property
    def plans(self) -> list[str]:
        """Names of the measured plans."""
        return list(dict.fromkeys(u.plan for u in self.units if u.plan))

    @cached_property
    def worst(self) -> str:
        """The plan that lost most accuracy, over the generated benchmarks."""
        loss = {}
        for unit in self.units:
            if unit.plan and not unit.method:
                rows = unit.chains[unit.chains["scoring"] == "generate"]
                loss[unit.plan] = float(rows.groupby("benchmark")["correct"].mean().mean())
        if not loss:
            raise UserError(f"{self.folder}: no plan is measured yet; run the study on.")
        return min(loss, key=lambda plan: loss[plan])


# ------------------------------------------------------------------------- rows to outcomes


def with_loops(rows: pd.DataFrame, data: StudyData) -> pd.DataFrame:
    """Add the columns `entered` and `persisted` to generated chains.

    Args:
        rows: chains of one model.
        data: its study; without a folder the columns are nan.

    Returns:
        The rows: entered is 1 where a loop was entered; persisted is 1 where the last one was never
        left, nan where none was entered.
    """
    rows = rows.copy()
    rows["entered"] = rows["persisted"] = np.nan
    if data.folder is None or not len(rows):
        return rows
    from interp.diagnosis import NUMBER, Pieces, read
    from interp.diagnosis.episodes import find_episodes
    from scaling.store.chain_row import thinking_ids
    from scaling.store.study_store import Store

    with Store(data.folder, read_only=True) as store:
        kept = store.rows("accuracy", ids=True)
    keys = ["benchmark", "problem", "variant", "budget", "sample"]
    kept = rows[keys].merge(kept[[*keys, "ids", "thinking_start", "thinking_stop", "finish",
                                  "thinking_finish", "scoring"]], on=keys, how="left")  # fmt: skip
    # A recovery study has no option for a model's own code, so none may run.
    pieces = Pieces(TokenizerText.of(str(data.config["model"])))
    for index, row in zip(rows.index, kept.to_dict("records"), strict=True):
        if row["scoring"] != "generate":
            continue
        ids = thinking_ids(row)
        mask = read(pieces, ids).mask(NUMBER) if len(ids) else None
        found = find_episodes(ids, mask, ended=row["thinking_finish"] == "end")
        rows.loc[index, "entered"] = float(bool(found))
        if found:
            rows.loc[index, "persisted"] = float(not found[-1].escaped)
    return rows


def gains(unit: MeasuredModel) -> pd.DataFrame:
    """Accuracy gained per doubling of the thinking budget: one row per problem and sample."""
    rows = unit.data.rows("sequential")
    found = []
    for benchmark, part in rows.groupby("benchmark", sort=False) if len(rows) else []:
        budgets = sorted(int(b) for b in part["thinking_budget"].unique())
        if len(budgets) < 2:
            continue
        ends = [part[part["thinking_budget"] == b] for b in (budgets[0], budgets[-1])]
        keys = ["problem", "sample"]
        both = ends[0][[*keys, "correct"]].merge(ends[1][[*keys, "correct"]], on=keys)
        doublings = float(np.log2(budgets[-1] / budgets[0]))
        both["gain"] = (both["correct_y"] - both["correct_x"]) / doublings
        found.append(both.assign(benchmark=benchmark)[["benchmark", *keys, "gain"]])
    return pd.concat(found) if found else pd.DataFrame()


def passes(unit: MeasuredModel, k: int) -> pd.DataFrame:
    """pass@k of every problem with at least k samples.

    Args:
        unit: the model.
        k: number of samples.

    Returns:
        One row per problem.
    """
    from interp.statistics import pass_at_k

    rows = unit.data.rows("parallel")
    found = []
    for (benchmark, problem), part in rows.groupby(["benchmark", "problem"]) if len(rows) else []:
        if len(part) >= k:
            value = float(pass_at_k(len(part), int(part["correct"].sum()), k))
            found.append({"benchmark": benchmark, "problem": problem, "sample": 0,
                          f"pass@{k}": value})  # fmt: skip
    return pd.DataFrame(found)


def samples_of(unit: MeasuredModel) -> int:
    """The number of samples that every problem of the parallel part has."""
    rows = unit.data.rows("parallel")
    return int(rows.groupby(["benchmark", "problem"]).size().min()) if len(rows) else 0


def effect_changes(unit: MeasuredModel) -> pd.DataFrame:
    """The change in accuracy when each block is skipped: one row per problem, sample and block."""
    rows = unit.data.rows("blocks")
    if not len(rows):
        return pd.DataFrame()
    keys = ["benchmark", "problem", "sample"]
    whole = rows[rows["variant"] == DENSE][[*keys, "correct"]]
    skipped = rows[rows["block"].notna()][[*keys, "block", "correct"]]
    both = skipped.merge(whole, on=keys, suffixes=("", "_whole"))
    both["effect"] = both["correct"] - both["correct_whole"]
    return both[[*keys, "block", "effect"]]


def outcomes_of(unit: MeasuredModel) -> dict[tuple[str, str], pd.DataFrame]:
    """By outcome and benchmark, rows with the columns problem, sample and the outcome."""
    found: dict[tuple[str, str], pd.DataFrame] = {}

    def add(frame: pd.DataFrame, columns: Sequence[str]) -> None:
        if not len(frame):
            return
        for benchmark, part in frame.groupby("benchmark", sort=False):
            for column in columns:
                if column in part and part[column].notna().any():
                    found[column, str(benchmark)] = part[["problem", "sample", column]]

    add(unit.chains, CHAIN)
    add(gains(unit), ("gain",))
    k = samples_of(unit)
    for size in sorted({1, k // 2, k} - {0}) if k > 1 else ():
        add(passes(unit, size), (f"pass@{size}",))
    diverse = unit.data.diversity
    if len(diverse) and k > 1:
        whole = diverse[(diverse["variant"] == DENSE) & (diverse["samples"] == k)]
        add(whole.assign(sample=0), SAMPLES)
    return found
