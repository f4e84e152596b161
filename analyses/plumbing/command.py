"""The command line that all analyses share: `python -m analyses.NAME --study DIR`.

Reads the study, writes DIR/figures/NAME.png and .svg and DIR/tables/NAME.csv, and prints their
paths; progress goes to standard error. `--estimate` prints what will be decoded and about how long
that takes, and decodes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from analyses.plumbing import catalogue, style
from analyses.plumbing.work_lines import WorkLines
from interp.errors import UserError
from interp.plumbing.command_line import File, Flag, Lines, Number, command, execute, parse
from interp.plumbing.work_listener import listening

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


def estimated(name: str, study: StudyData) -> Iterator[str]:
    """What an analysis will decode and read with the model, and about how long that takes here.

    Args:
        name: name of the analysis.
        study: the study.

    Yields:
        The lines of the estimate; one line where nothing will be decoded.
    """
    from analyses.plumbing import work

    analysis = catalogue.load(name)
    if analysis.stored is None or analysis.work is None:
        yield f"{name} decodes nothing: it reads what the study holds."
        return
    settings = analysis.stored.settings_of(study)
    if settings is None:
        yield f"{name} decodes nothing: this study has no benchmark that it could be tried on."
    elif analysis.stored.in_store(study):
        yield f"{name} decodes nothing: the study already keeps its result."
    else:
        bench = work.workbench_of(study, settings)
        yield from work.estimate(bench, name, analysis.work(bench, settings)).report()


def limited(name: str, study: StudyData, limit: int | None) -> StudyData:
    """A study with a limit on the problems of an analysis.

    Args:
        name: name of the analysis.
        study: the study.
        limit: problems at most; None for as many as usual.

    Returns:
        The study.

    Raises:
        UserError: the limit is below 2, or the analysis has no use for one.
    """
    if limit is None:
        return study
    if limit < 2:
        raise UserError(f"--limit {limit}: expected 2 or more, or nothing has an interval.")
    few, stored = replace(study, limit=limit), catalogue.load(name).stored
    usual = None if stored is None else stored.settings_of(study)
    if stored is None or (usual is not None and stored.settings_of(few) == usual):
        raise UserError(
            f"--limit {limit}: {name} reads the chains that the study has, all of them."
        )
    return few


@command
class AnalysisOptions:
    """What every analysis takes."""

    study: Path
    """Folder of the study."""
    out: File = None
    """Where to write (default: the study's folder)."""
    limit: Number = None
    """At most that many problems where the study's model decodes again (default: 24 to 120, as the
    analysis needs them). Each number has a result of its own."""
    estimate: Flag = False
    """Only say what will be decoded and read with the study's model (rows, tokens, passes) and
    about how long that takes on this machine, from a trial of a few seconds."""


@dataclass(frozen=True)
class AnalysisCommand:
    """One analysis on one study.

    Attributes:
        name: of the analysis.
        options: which study, and where to write.
        first: computes what the analysis keeps in the study, before its table is made. Where it
            cannot (the model is gone), that is said and the table is made of what there is.
    """

    name: str
    options: AnalysisOptions
    first: Callable[[StudyData], Any] | None = None

    def run(self) -> Lines:
        """Makes the table and the figure; yields the files written, or the lines of an estimate."""
        from analyses.plumbing.frames import StudyData

        study = limited(self.name, StudyData.read(self.options.study), self.options.limit)
        if self.options.estimate:
            yield from estimated(self.name, study)
            return
        with WorkLines() as lines, listening(lines):
            if self.first is not None:
                try:
                    self.first(study)
                except UserError as error:
                    sys.stderr.write(f"{error}\n")
            _, written = make(self.name, study, self.options.out or self.options.study)
        if not written:
            raise UserError(f"This study has no rows that {self.name} could be made of.")
        yield from map(str, written)


def main(
    file: str,
    arguments: list[str] | None = None,
    *,
    first: Callable[[StudyData], Any] | None = None,
) -> NoReturn:
    """Runs the analysis in `file` on the study that the command line names; exits.

    Args:
        file: the analysis's own file.
        arguments: the words of the command line; by default those of this process.
        first: see `AnalysisCommand`.
    """
    name = Path(file).stem
    prog, title = f"python -m analyses.{name}", catalogue.load(name).title

    def parsed() -> AnalysisCommand:
        return AnalysisCommand(name, parse(AnalysisOptions, prog, arguments, title), first)

    sys.exit(execute(parsed, f"analyses.{name}"))
