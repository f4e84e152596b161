"""Chains of the store as chains again, for what is read from them by a teacher-forced pass.

A few analyses read finished chains once more: the chance of leaving a loop, the probability of
opening a reflection, Block Influence along chains. They take the stored token ids (nothing is
decoded), and what they find is kept in the study (`analyses.plumbing.derived`). The report shows it
where it is kept; the analysis's own command computes it first (`analyses.plumbing.command`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.plumbing import style
from analyses.plumbing.frames import StudyData, largest_budget, prepared
from interp.chains.chain import Budget, Chain, Span

if TYPE_CHECKING:
    import pandas as pd

    from analyses.plumbing.workbench import Workbench
    from interp.interventions.interventions import VariantLike


def chain_rows(study: StudyData, purpose: str = "accuracy") -> pd.DataFrame:
    """The generated chains of one purpose with their token ids, at the largest budget."""
    from scaling.store.study_store import Store

    assert study.folder is not None
    with Store(study.folder, read_only=True) as store:
        rows = prepared(store.rows(purpose, ids=True))
    rows = largest_budget(rows)
    return rows[rows["scoring"] == "generate"] if len(rows) else rows


def stored_chains(bench: Workbench, rows: pd.DataFrame) -> list[Chain]:
    """Rows of `chain_rows` of the bench's benchmark as chains. Log-probabilities are not stored,
    and are nan."""
    prompts: dict[str, np.ndarray] = {}
    by_id = {p.id: p for p in bench.benchmark.problems}
    found = []
    records: list[dict[str, Any]] = rows.to_dict(orient="records")  # type: ignore[assignment]
    for row in records:
        name = row["problem"]
        if name not in prompts:
            question = bench.benchmark.prompt(by_id[name])
            ids = bench.model.prompt_ids(question, thinking=bench.benchmark.thinking)
            prompts[name] = np.asarray(ids, dtype=np.int64)
        ids = np.asarray(row["ids"], dtype=np.int64)
        start, stop = row["answer_start"], row["answer_stop"]
        answer = None if start is None or np.isnan(start) else Span(int(start), int(stop))
        found.append(
            Chain(
                problem=name,
                variant=row["variant"],
                sample=int(row["sample"]),
                seed=int(row["seed"]),
                budget=Budget(
                    max(int(row["thinking_budget"]), 1),
                    max(int(row["answer_budget"]), 1),
                    int(row["waits_allowed"]),
                ),
                prompt_ids=prompts[name],
                ids=ids,
                forced=np.asarray(row["forced"], dtype=bool),
                thinking=Span(int(row["thinking_start"]), int(row["thinking_stop"])),
                answer=answer,
                finish=row["finish"],
                thinking_finish=row["thinking_finish"],
                waits=int(row["waits"]),
                logprob=np.full(len(ids), np.nan, dtype=np.float32),
                entropy=np.full(len(ids), np.nan, dtype=np.float32),
                layer_map=bench.model.layer_map,
            )
        )
    return found


def variants_of(rows: pd.DataFrame) -> dict[str, VariantLike | None]:
    """What each variant of these rows lacks, as interventions; None for the dense model."""
    from interp.interventions.interventions import Skip, Variant

    few = rows.drop_duplicates("variant")
    found: dict[str, VariantLike | None] = {}
    for name, removed in zip(few["variant"], few["removed"], strict=True):
        steps = tuple(Skip(block) for block in removed)
        found[str(name)] = None if name == style.DENSE else Variant(str(name), steps)
    return found
