"""What the subcommands share besides options: folders, tables, the report's progress."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from interp.plumbing.command_line import Lines
from prunescope import progress
from prunescope.commands.output import Result, files

if TYPE_CHECKING:
    import pandas as pd

    from analyses.plumbing.frames import StudyData
    from analyses.report.glance import GlanceTable


def report(study: StudyData, out: Path | None = None, trust_remote_code: bool = False) -> Path:
    """Write a report, saying which part is being made."""
    from analyses.plumbing import catalogue
    from analyses.report.page import write_report

    parts = len(catalogue.analyses())
    with progress.bar(total=parts, bar_format="{desc:<40} {n}/{total}") as bar:

        def step(title: str) -> None:
            bar.set_description_str(f"report: {title}")
            bar.update()

        return write_report(study, out, trust_remote_code=trust_remote_code, on_step=step)


def preset_name(preset: str | None) -> str:
    """What a preset adds to the name of a folder."""
    return Path(preset).stem if preset else ""


def default_folder(model: str, quick: bool, what: str = "") -> Path:
    """studies/MODEL, studies/MODEL-quick: folders that do not clash."""
    name = re.sub(r"[^\w.-]+", "-", Path(model).name if Path(model).exists() else model).strip("-")
    return Path("studies") / "-".join([name or "model", *([what] if what else []),
                                       *(["quick"] if quick else [])])  # fmt: skip


def table(
    frame: pd.DataFrame,
    name: str,
    out: Path | None = None,
    *,
    columns: Sequence[str] = (),
    rows: pd.Series | None = None,
    most: int = 400,
) -> Lines:
    """A frame as text, as an entry, and as CSV where `out` names a file.

    Args:
        frame: the table; the entry and the file have all of it.
        name: its entry.
        out: the file.
        columns: the columns that the text shows; all where none are named.
        rows: which rows the text shows; all where this is None.
        most: the maximum of rows that the text shows.
    """
    shown = (frame if rows is None else frame[rows]).head(most)
    shown = shown[list(columns)] if columns else shown
    text = shown.to_string(index=False, float_format=lambda v: f"{v:.3f}", na_rep="")
    left = len(frame) - len(shown)
    more = f"\n... {left} more rows" * (left > 0)
    yield Result(text + more, **{name: frame})
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(out, index=False)
        yield files("Table", "file", out)


def glance_text(found: GlanceTable) -> str:
    """The report's first table as text: changes from the reference, "*" where they are clear."""
    rows = [
        ["", "", *(c.name for c in found.columns)],
        ["", "n", *(c.n for c in found.columns)],
        [found.dense, "", *(c.dense for c in found.columns)],
    ]
    for row in found.rows:
        label = f"{row.label} ({row.blocks})" if row.blocks else row.label
        clear = [bool(c.interval) and not {"faint", "hint"} & {*c.look.split()} for c in row.cells]
        cells = [c.text + "*" * sure for c, sure in zip(row.cells, clear, strict=True)]
        rows.append([label, row.decision, *cells])
    rows.append(["smallest visible", "", *(c.visible for c in found.columns)])
    what = f"accuracy by benchmark, then the chains of {found.longest}; * is clear"
    return f"{found.title} ({what})\n{aligned(rows, left=2)}"


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of text as columns.

    Args:
        rows: the cells.
        left: how many columns begin at the left; numbers end at the right.

    Returns:
        The lines.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
