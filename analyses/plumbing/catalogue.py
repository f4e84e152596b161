"""The analyses in the order of the report. To add one, write its file and name it here.

Each is a module with TITLE, CAPTION (or `caption(found)`), `table(study)` and `figure(found,
study)`, and optionally `text(found)`: paragraphs for the report.
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
#: Computed with the model in a few minutes, then stored in the study
#: (`analyses.plumbing.derived`).
COMPUTED = ("ablations", "time_maps", "mechanism", "sets")

#: Made from the tables that `prunescope judge` wrote into the study's folder, if it was run.
JUDGED = ("judge", "judged_behaviours")


@runtime_checkable
class Analysis(Protocol):
    """The parts of an analysis that the report and the shared command use.

    Attributes:
        TITLE: heading.
        CAPTION: caption of the figure.
    """

    TITLE: str
    CAPTION: str

    def table(self, study: StudyData) -> pd.DataFrame:
        """The table of a study; empty where the study has nothing for it."""
        ...

    def figure(self, found: pd.DataFrame, study: StudyData) -> Figure | None:
        """Draw the figure.

        Args:
            found: the result of `table`.
            study: the study.

        Returns:
            The figure; None where there is nothing to draw.
        """
        ...


def load(name: str) -> Analysis:
    """The analysis called `name`; UserError with the nearest name if there is none."""
    from interp.errors import UserError, did_you_mean

    known = (*NAMES, *COMPUTED, *JUDGED)
    if name not in known:
        raise UserError(did_you_mean(name, known, "analysis"))
    return cast("Analysis", importlib.import_module(f"analyses.{name}"))


def in_store(study: StudyData) -> tuple[str, ...]:
    """Those of `COMPUTED` and `JUDGED` that this study already holds."""
    every = (*COMPUTED, *JUDGED)
    return tuple(n for n in every if importlib.import_module(f"analyses.{n}").in_store(study))


def caption_of(analysis: Analysis, found: pd.DataFrame) -> str:
    """The caption of an analysis's figure.

    Args:
        analysis: the analysis.
        found: its table.

    Returns:
        The caption.
    """
    own = getattr(analysis, "caption", None)
    return own(found) if own is not None else analysis.CAPTION


def text_of(analysis: Analysis, found: pd.DataFrame) -> list[str]:
    """The paragraphs before an analysis's figure.

    Args:
        analysis: the analysis.
        found: its table.

    Returns:
        The paragraphs; none for an analysis without text.
    """
    own = getattr(analysis, "text", None)
    return own(found) if own is not None else []
