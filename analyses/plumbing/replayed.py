"""Chains of the store as chains again, for what is read from them by a teacher-forced pass.

A few analyses read finished chains once more: the chance of leaving a loop, the probability of
opening a reflection, Block Influence along chains. They take the stored token ids (nothing is
decoded), and what they find is kept in the study (`analyses.plumbing.derived`). The report shows it
where it is kept; the analysis's own command computes it first (`first`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.plumbing import style
from analyses.plumbing.frames import StudyData, largest_budget, prepared

if TYPE_CHECKING:
    import pandas as pd

    from analyses.plumbing.workbench import Workbench
    from interp.chains.chain import Chain
    from interp.interventions.interventions import VariantLike


def first(compute: Callable[[StudyData], Any], arguments: list[str] | None = None) -> None:
    """Computes what is kept in the study that the command line names, before its table is made.

    Mistakes on the command line, or a folder without a study, are left for the command itself; it
    goes on where nothing could be computed (the model is gone), which is said.
    """
    from interp.errors import UserError

    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--study", type=Path)
    try:
        given, _ = parser.parse_known_args(arguments)
        study = None if given.study is None else StudyData.read(given.study)
    except (UserError, argparse.ArgumentError):
        return
    if study is None:
        return
    try:
        compute(study)
    except UserError as error:
        sys.stderr.write(f"{error}\n")


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
    from scaling.store.chain_row import stored_chain

    model, benchmark = bench.model, bench.benchmark
    wanted = set(rows["problem"])
    prompts = {
        p.id: model.prompt_ids(benchmark.prompt(p), thinking=benchmark.thinking)
        for p in benchmark.problems
        if p.id in wanted
    }
    return [
        stored_chain(row, prompts[row["problem"]], model.layer_map)
        for row in rows.to_dict(orient="records")
    ]


def variants_of(rows: pd.DataFrame) -> dict[str, VariantLike | None]:
    """What each variant of these rows lacks, as interventions; None for the dense model."""
    from interp.interventions.interventions import Skip, Variant

    few = rows.drop_duplicates("variant")
    found: dict[str, VariantLike | None] = {}
    for name, removed in zip(few["variant"], few["removed"], strict=True):
        steps = tuple(Skip(block) for block in removed)
        found[str(name)] = None if name == style.DENSE else Variant(str(name), steps)
    return found
