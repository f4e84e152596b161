"""The analyses in the order of the report. To add one, write its file and name it here.

Each is a module with TITLE, CAPTION (or `caption(found)`), `table(study)` and
`figure(found, study)`, and perhaps `text(found)`: paragraphs for the report.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analyses.plumbing.frames import StudyData

NAMES = (
    "accuracy_vs_removed",
    "endings",
    "extraction",
    "sequential_scaling",
    "equal_cost",
    "parallel_scaling",
    "block_effects",
    "bi_vs_effects",
    "step_errors",
    "loop_anatomy",
    "reflection",
    "diversity",
)
#: Computed through the engine in a few minutes and then kept in the study
#: (`analyses.plumbing.derived`).
COMPUTED = ("ablations", "time_maps", "mechanism", "sets")

#: Made of what `prunescope judge` left in the study's folder, where it did.
JUDGED = ("judge", "judged_behaviours")


@runtime_checkable
class Analysis(Protocol):
    """What the report and the shared command ask of an analysis."""

    TITLE: str
    CAPTION: str

    def table(self, study: StudyData) -> pd.DataFrame: ...
    def figure(self, found: pd.DataFrame, study: StudyData) -> Figure | None: ...


def load(name: str) -> Analysis:
    """The analysis of that name."""
    from interp.errors import UserError, did_you_mean

    known = (*NAMES, *COMPUTED, *JUDGED)
    if name not in known:
        raise UserError(did_you_mean(name, known, "analysis"))
    return cast("Analysis", importlib.import_module(f"analyses.{name}"))


def in_store(study: StudyData) -> tuple[str, ...]:
    """Of `COMPUTED` and `JUDGED`, those that this study holds already."""
    every = (*COMPUTED, *JUDGED)
    return tuple(n for n in every if importlib.import_module(f"analyses.{n}").in_store(study))


def caption_of(analysis: Analysis, found: pd.DataFrame) -> str:
    """The caption of its figure."""
    own = getattr(analysis, "caption", None)
    return own(found) if own is not None else analysis.CAPTION


def text_of(analysis: Analysis, found: pd.DataFrame) -> list[str]:
    """Paragraphs that stand before its figure."""
    own = getattr(analysis, "text", None)
    return own(found) if own is not None else []
