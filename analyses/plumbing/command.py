"""The command line that all analyses share: `python -m analyses.NAME --study DIR`.

Reads the study, writes DIR/figures/NAME.png and .svg and DIR/tables/NAME.csv, and prints their
paths.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.plumbing import catalogue, style
from interp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from analyses.plumbing.frames import StudyData


def make(name: str, study: StudyData, folder: Path) -> tuple[pd.DataFrame, list[Path]]:
    """Make the table and the figure of one analysis.

    Args:
        name: name of the analysis.
        study: the study.
        folder: where to write.

    Returns:
        The table, and the files written (none where the table is empty).
    """
    analysis = catalogue.load(name)
    found = analysis.table(study)
    written = []
    if len(found):
        path = folder / "tables" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        found.to_csv(path, index=False)
        written.append(path)
        figure = analysis.figure(found, study)
        if figure is not None:
            names = style.save(figure, folder / "figures", name)
            written += [folder / "figures" / n for n in names]
    return found, written


def main(file: str, arguments: list[str] | None = None) -> None:
    """Run an analysis on the study named on the command line, and exit.

    Args:
        file: the analysis's file.
        arguments: arguments; None takes those of the process.
    """
    name = Path(file).stem
    analysis = catalogue.load(name)
    computes = "Generates with the study's model, and keeps the table in the study."
    parser = argparse.ArgumentParser(
        prog=f"python -m analyses.{name}",
        description=analysis.title,
        epilog=computes if analysis.decodes else None,
    )
    parser.add_argument("--study", type=Path, required=True, help="folder of a study")
    parser.add_argument("--out", type=Path, help="where to write (default: the study's folder)")
    given = parser.parse_args(arguments)
    try:
        from analyses.plumbing.frames import StudyData

        study = StudyData.read(given.study)
        _, written = make(name, study, given.out or given.study)
        if not written:
            raise UserError(f"This study has no rows that {name} could be made of.")
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    sys.stdout.write("".join(f"{path}\n" for path in written))
    sys.exit(0)
