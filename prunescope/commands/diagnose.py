"""The command that looks at texts of any model."""

from __future__ import annotations

from pathlib import Path

import tyro

from interp.plumbing.command_line import File, Lines, OutOptions, Word, command
from prunescope.commands.shared import table


@command
class Diagnose(OutOptions):
    """Find loops and reflections in texts of any model.

    prunescope diagnose answers.jsonl --out diagnosis.csv
    """

    file: tyro.conf.Positional[Path]
    """Texts: .jsonl (one of the fields text, response, output, answer) or .txt (one per line)."""
    field: Word = None
    """The field of a .jsonl that holds the text."""
    out: File = None
    """Write one row per text here (.csv)."""

    def run(self) -> Lines:
        from interp.diagnosis.text_table import FIELDS, diagnose_texts
        from pruning.calibration import read_texts

        frame = diagnose_texts(read_texts(self.file, self.field, fields=FIELDS, blank=True))
        yield from table(frame, self.out, most=20)
        loops = int((frame["loop"] != "").sum())
        total = int(frame["reflections"].sum())
        yield f"{loops} of {len(frame)} texts end in a loop; {total} reflections."
