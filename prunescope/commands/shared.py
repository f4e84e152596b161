"""What the subcommands share besides options: folders, tables, the report's progress."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from interp.plumbing.command_line import Lines

if TYPE_CHECKING:
    import pandas as pd


def report(folder: Path, out: Path | None = None, trust_remote_code: bool = False) -> Path:
    """Write a report, saying which part is being made."""
    import sys

    from tqdm import tqdm

    from analyses.plumbing import catalogue
    from analyses.report.page import write_report

    with tqdm(total=len(catalogue.analyses()), leave=False, disable=not sys.stderr.isatty(),
              bar_format="{desc:<40} {n}/{total}") as bar:  # fmt: skip

        def step(title: str) -> None:
            bar.set_description_str(f"report: {title}")
            bar.update()

        return write_report(folder, out, trust_remote_code=trust_remote_code, on_step=step)


def preset_name(preset: str | None) -> str:
    """What a preset adds to the name of a folder."""
    return Path(preset).stem if preset else ""


def default_folder(model: str, quick: bool, what: str = "") -> Path:
    """studies/MODEL, studies/MODEL-quick: folders that do not clash."""
    name = re.sub(r"[^\w.-]+", "-", Path(model).name if Path(model).exists() else model).strip("-")
    return Path("studies") / "-".join([name or "model", *([what] if what else []),
                                       *(["quick"] if quick else [])])  # fmt: skip


def table(frame: pd.DataFrame, out: Path | None = None, most: int = 400) -> Lines:
    """A frame as lines of text, and as CSV where `out` names a file."""
    shown = frame.head(most).to_string(index=False, float_format=lambda v: f"{v:.3f}", na_rep="")
    yield from shown.splitlines()
    if len(frame) > most:
        yield f"... {len(frame) - most} more rows"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(out, index=False)
        yield f"Table: {out}"
