"""Stored chains as `Chain` objects again, for measures from a teacher-forced pass.

A few analyses read finished chains once more: the chance of leaving a loop, the probability of
opening a reflection, Block Influence along chains. They take the stored token ids (nothing is
decoded), and what they find is kept in the study (`analyses.plumbing.derived`). The report shows it
where it is kept; the analysis's own command computes it first (`analyses.plumbing.command`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses.plumbing import style
from analyses.plumbing.frames import StudyData, largest_budget, prepared

if TYPE_CHECKING:
    import pandas as pd

    from analyses.plumbing.workbench import Workbench
    from interp.chains.chain import Chain
    from interp.interventions.interventions import VariantLike


def chain_rows(study: StudyData, purpose: str = "accuracy", *, live: bool = False) -> pd.DataFrame:
    """The generated chains of one purpose with their token ids, at the largest budget.

    Args:
        study: the study, in a folder.
        purpose: name of the purpose.
        live: whether to leave out variants whose blocks were merged: they cannot be skipped live.

    Returns:
        One row per chain.
    """
    from scaling.store.study_store import Store
    from scaling.study.preflight import chooses, method_of

    assert study.folder is not None
    with Store(study.folder, read_only=True) as store:
        rows = prepared(store.rows(purpose, ids=True))
    rows = largest_budget(rows)
    if live and len(rows):
        rows = rows[[not chooses(method_of(str(m))[0]) for m in rows["method"]]]
    return rows[rows["scoring"] == "generate"] if len(rows) else rows


def stored_chains(bench: Workbench, rows: pd.DataFrame) -> list[Chain]:
    """Convert rows of `chain_rows` to chains.

    Args:
        bench: makes the prompts.
        rows: rows of the bench's benchmark.

    Returns:
        The chains; log-probabilities and entropies are not stored and are nan.
    """
    from scaling.store.chain_row import stored_chain

    model, benchmark = bench.model, bench.benchmark
    wanted = set(rows["problem"])
    prompts = {
        p.id: model.prompt_ids(benchmark.prompt(p), thinking=benchmark.thinking)
        for p in benchmark.problems
        if p.id in wanted
    }
    return [
        stored_chain(row, prompts[row["problem"]], model.layer_map, plain=model.delimiter_ids.plain)
        for row in rows.to_dict(orient="records")
    ]


def variants_of(rows: pd.DataFrame) -> dict[str, VariantLike | None]:
    """The interventions of each variant in some rows; None for the dense model."""
    from interp.interventions.interventions import Skip, Variant

    few = rows.drop_duplicates("variant")
    found: dict[str, VariantLike | None] = {}
    for name, removed in zip(few["variant"], few["removed"], strict=True):
        steps = tuple(Skip(block) for block in removed)
        found[str(name)] = None if name == style.DENSE else Variant(str(name), steps)
    return found
