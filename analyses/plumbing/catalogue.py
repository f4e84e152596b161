"""The analyses: one file each in `analyses/`, which registers itself and is found by itself.

    register_analysis("endings", order=20, title=TITLE, caption=CAPTION, table=table, figure=figure)

at the end of `analyses/endings.py` puts it into the report, at its place in the order, and makes
`python -m analyses.endings --study DIR` work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from interp.plumbing.registry import Registry

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analyses.plumbing.frames import StudyData

    Table = Callable[[StudyData], pd.DataFrame]
    Draw = Callable[[pd.DataFrame, StudyData], Figure | None]


@dataclass(frozen=True)
class Analysis:
    """One question asked of a study.

    Args:
        name: of its module, its figure and its table.
        order: place in the report, low first.
        title: heading of its section.
        caption: of its figure, or a function of the table that says it.
        table: the numbers; without rows where the study has nothing to say.
        figure: a figure of the table, or None.
        text: paragraphs for the report, from the table.
        in_store: whether the study holds already what the table is made of. Without it the report
            always has the analysis; with it, once it is there.
        decodes: whether `table` generates with the study's model where nothing is kept yet.
    """

    name: str
    order: int
    title: str
    caption: str | Callable[[pd.DataFrame], str]
    table: Table
    figure: Draw
    text: Callable[[pd.DataFrame], list[str]] | None = None
    in_store: Callable[[StudyData], bool] | None = None
    decodes: bool = False

    def caption_of(self, found: pd.DataFrame) -> str:
        """The caption of its figure of this table."""
        return self.caption if isinstance(self.caption, str) else self.caption(found)

    def text_of(self, found: pd.DataFrame) -> list[str]:
        """Paragraphs that stand before its figure."""
        return [] if self.text is None else self.text(found)

    def reported(self, study: StudyData) -> bool:
        """Whether the study's report has it without computing anything anew."""
        return self.in_store is None or self.in_store(study)


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
    decodes: bool = False,
) -> Analysis:
    """Register the analysis of a module (the fields of `Analysis`).

    Raises:
        UserError: another module has the name.
    """
    made = Analysis(name, order, title, caption, table, figure, text, in_store, decodes)
    REGISTRY.add(name, made, table)
    return made


def analyses() -> Mapping[str, Analysis]:
    """Every analysis by name, in the order of the report."""
    found = sorted(REGISTRY.entries().values(), key=lambda a: (a.order, a.name))
    return MappingProxyType({a.name: a for a in found})


def load(name: str) -> Analysis:
    """The analysis of that name; UserError with the nearest name if there is none."""
    return REGISTRY.get(name)


def reported(study: StudyData) -> tuple[Analysis, ...]:
    """What the report of a study shows, in order."""
    return tuple(a for a in analyses().values() if a.reported(study))
