"""The command that looks at texts of any model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from prunescope.commands.shared import File, Lines, Word, read_texts, table


@dataclass(frozen=True)
class Diagnose:
    """Find loops and reflections in texts of any model.

    prunescope diagnose answers.jsonl --out diagnosis.csv
    """

    file: tyro.conf.Positional[Path]
    """Texts: .jsonl (one of the fields text, response, output, answer) or .txt (a text a line)."""
    field: Word = None
    """The field of a .jsonl that holds the text."""
    out: File = None
    """Write a row a text here (.csv)."""

    def run(self) -> Lines:
        import pandas as pd

        from interp.diagnosis import reflections, text_loop

        rows = []
        for number, record in enumerate(read_texts(self.file, self.field)):
            loop = text_loop(record["text"])
            found = reflections(record["text"])
            rows.append(
                {
                    "row": number,
                    "words": found.tokens,
                    "loop": loop.kind if loop else "",
                    "period": loop.period if loop else None,
                    "onset": loop.onset if loop else None,
                    "wasted": loop.wasted if loop else 0,
                    "reflections": found.total,
                    "per_1k": found.rate(),
                    **found.counts,
                }
            )
        frame = pd.DataFrame(rows)
        yield from table(frame, self.out, most=20)
        loops = int((frame["loop"] != "").sum())
        total = int(frame["reflections"].sum())
        yield f"{loops} of {len(frame)} texts end in a loop; {total} reflections."
