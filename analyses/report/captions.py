"""The sentences that stand below each figure, computed from the study and the figure's table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from analyses.plumbing.frames import StudyData
from analyses.report import block_captions, chain_captions, removal_captions

if TYPE_CHECKING:
    import pandas as pd


def captions(name: str, study: StudyData, found: Mapping[str, pd.DataFrame]) -> list[str]:
    """The sentences of one analysis.

    Args:
        name: name of the analysis.
        study: the study.
        found: tables by name of the analysis.

    Returns:
        The sentences; none for an analysis that has none, or an empty table.
    """
    table = found.get(name)
    if table is None or not len(table):
        return []
    match name:
        case "accuracy_vs_removed":
            return removal_captions.what_broke(study)
        case "sequential_scaling":
            return removal_captions.more_thinking(study)
        case "parallel_scaling":
            return removal_captions.more_samples(study, table)
        case "block_effects":
            return block_captions.which_block(study, table)
        case "bi_vs_effects":
            return block_captions.influence(study, table, found["block_effects"])
        case "step_errors":
            return chain_captions.wrong_steps(study, table)
        case "loop_anatomy":
            return chain_captions.looping(study, table)
        case "reflection":
            kinds = ("verification_per_1k", "backtracking_per_1k")
            return chain_captions.changed(study, table, kinds)
    return []
