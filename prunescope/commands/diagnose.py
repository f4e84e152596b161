"""The command that looks at texts of any model."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import tyro

from interp.plumbing.command_line import File, Lines, OutOptions, Word, command
from prunescope.commands.output import Command, Result
from prunescope.commands.shared import table


@command
class Diagnose(Command, OutOptions):
    """Find loops, reflections and wrong equations in texts of any model.

    prunescope diagnose answers.jsonl --out diagnosis.csv
    """

    ENTRIES: ClassVar = {
        "texts": "a row per text: its loop, reflections and more",
        "n": "number of texts",
        "loops": "how many end in a loop",
        "reflections": "number of reflections in all of them",
        "equations": "number of equations that could be read in all of them",
        "slips": "how many of those do not hold",
        "file": "the table that --out names",
    }
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
        yield from table(frame, "texts", self.out, most=20)
        loops = int((frame["loop"] != "").sum())
        total = int(frame["reflections"].sum())
        stated, slips = int(frame["equations"].sum()), int(frame["slips"].sum())
        said = f"{loops} of {len(frame)} texts end in a loop; {total} reflections."
        said += f" {slips} of {stated} equations do not hold."
        yield Result(
            said, n=len(frame), loops=loops, reflections=total, equations=stated, slips=slips
        )
