"""The analyses: one file each in `analyses/`, which registers its analysis when it is imported.

    register_analysis("endings", order=20, title=TITLE, caption=CAPTION, table=table, figure=figure)

at the end of `analyses/endings.py` puts it into the report, at the place given by `order`, and
makes `python -m analyses.endings --study DIR` work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from interp.errors import UserError
from interp.plumbing.registry import Registry

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analyses.plumbing.derived import StoredTable
    from analyses.plumbing.frames import StudyData
    from analyses.plumbing.work import Stated

    Table = Callable[[StudyData], pd.DataFrame]
    Draw = Callable[[pd.DataFrame, StudyData], Figure | None]


@dataclass(frozen=True)
class Analysis:
    """One question asked of a study.

    Attributes:
        name: name of its module, its figure and its table.
        order: place in the report, low first.
        title: heading of its section.
        caption: caption of its figure, or a function from the table to the caption.
        table: computes the table; it has no rows if the study holds no data for it.
        figure: draws a figure of the table, or returns None.
        text: paragraphs for the report, from the table. Default: none.
        in_store: whether the study already holds the data of the table. Without it, the report
            always has the analysis; with it, only once the data are there.
        stored: for a table that is generated with the study's model once and then kept.
        work: what that generation does, in rows: an analysis with `stored` has it.
    """

    name: str
    order: int
    title: str
    caption: str | Callable[[pd.DataFrame], str]
    table: Table
    figure: Draw
    text: Callable[[pd.DataFrame], list[str]] | None = None
    in_store: Callable[[StudyData], bool] | None = None
    stored: StoredTable | None = None
    work: Stated | None = None

    @property
    def decodes(self) -> bool:
        """Whether `table` generates with the study's model if no result is stored yet."""
        return self.stored is not None

    def caption_of(self, found: pd.DataFrame) -> str:
        """The caption of the figure.

        Args:
            found: the table.

        Returns:
            The caption.
        """
        return self.caption if isinstance(self.caption, str) else self.caption(found)

    def text_of(self, found: pd.DataFrame) -> list[str]:
        """The paragraphs before the figure.

        Args:
            found: the table.

        Returns:
            The paragraphs; none if the analysis has no text.
        """
        return [] if self.text is None else self.text(found)

    def reported(self, study: StudyData) -> bool:
        """Whether the study's report has the analysis without computing anything.

        Args:
            study: the study.

        Returns:
            True without `in_store`, or if the data are there.
        """
        return self.in_store is None or self.in_store(self.as_kept(study))

    def as_kept(self, study: StudyData) -> StudyData:
        """The study with the limit on problems (`StudyData.limit`) of the result that it holds.

        Args:
            study: the study.

        Returns:
            The study; unchanged if it holds no result, or one of as many problems as usual.
        """
        return study if self.stored is None else self.stored.as_kept(study) or study


REGISTRY = Registry[Analysis](
    "analysis", "analyses", entry_points="prunescope.analyses", plural="analyses"
)


def register_analysis(
    name: str,
    *,
    order: int,
    title: str,
    caption: str | Callable[[pd.DataFrame], str],
    table: Table,
    figure: Draw,
    text: Callable[[pd.DataFrame], list[str]] | None = None,
    in_store: Callable[[StudyData], bool] | None = None,
    stored: StoredTable | None = None,
    work: Stated | None = None,
) -> Analysis:
    """Register the analysis of a module.

    Args:
        name: name of the module, the figure and the table.
        order: place in the report, low first.
        title: heading of its section.
        caption: caption of its figure, or a function from the table to the caption.
        table: computes the table from the study.
        figure: draws a figure of the table, or returns None.
        text: paragraphs for the report, from the table. Default: none.
        in_store: whether the study already holds the data of the table. Default: the report always
            has the analysis; with `stored`, once its result is there.
        stored: for a table that is generated with the study's model once and then kept.
        work: what that generation does, in rows (`analyses.plumbing.work`), for `--estimate`.

    Returns:
        The analysis.

    Raises:
        UserError: another module has the name, or of `stored` and `work` only one is given.
    """
    if (stored is None) != (work is None):
        raise UserError(
            f"Analysis {name!r}: expected `stored` and `work` together, because whoever runs what "
            "decodes asks first how long it takes (--estimate)."
        )
    if stored is not None:
        in_store = stored.in_store
    made = Analysis(name, order, title, caption, table, figure, text, in_store, stored, work)
    REGISTRY.add(name, made, table)
    return made


def analyses() -> Mapping[str, Analysis]:
    """Every analysis by name, in the order of the report."""
    found = sorted(REGISTRY.entries().values(), key=lambda a: (a.order, a.name))
    return MappingProxyType({a.name: a for a in found})


def load(name: str) -> Analysis:
    """The analysis of that name.

    Args:
        name: name of the analysis.

    Returns:
        The analysis.

    Raises:
        UserError: there is none; the message gives the nearest name.
    """
    return REGISTRY.get(name)


def reported(study: StudyData) -> tuple[Analysis, ...]:
    """The analyses that the report of a study shows.

    Args:
        study: the study.

    Returns:
        The analyses, in order.
    """
    return tuple(a for a in analyses().values() if a.reported(study))
