"""The page of a comparison of studies: the report's look, verdict first, chains at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analyses.plumbing.frames import StudyData
from analyses.report import page
from analyses.report.chain_appendix import appendix
from interp.errors import UserError

PAGE = "comparison.html"
TITLE = "Studies side by side"


def write_page(comparison: Any, path: Path, trust_remote_code: bool = False) -> Path:
    """Write the page.

    Args:
        comparison: the comparison (`analyses.report.study_comparison.StudyComparison`).
        path: the file.
        trust_remote_code: whether the tokenizer that decodes the chains may run its own code.

    Returns:
        The file.

    Raises:
        UserError: the path is a folder.
    """
    if path.is_dir():
        raise UserError(f"{str(path)!r} is a folder; name a file, such as {PAGE!r}.")
    first = comparison.studies[0]
    text, note = page.decoder_of(first.data, None, trust_remote_code)
    together = StudyData({"studies": comparison.rows}, pd.DataFrame(), pd.DataFrame())
    groups, links = appendix(together, [("studies", comparison.removals)], text)
    numbers = page.as_sheet(comparison.to_frame(), "All numbers")
    pairs = page.as_sheet(pd.DataFrame([p.__dict__ for p in comparison.pairings]), "Pairing")
    section = page.Section(
        "compared", "What was compared", (), tuple(comparison.notes), (), (numbers, pairs)
    )
    contents = [{"id": section.id, "title": section.title}]
    contents += [{"id": "chains", "title": page.CHAINS}] if groups else []
    contents.append({"id": "made", "title": "How this was made"})
    models = [f"{s.label}: {s.data.config.get('model', 'model not recorded')}" for s in
              comparison.studies]  # fmt: skip
    html = page.filled(
        kicker="comparison",
        links=links,
        reference=comparison.first,
        title=TITLE,
        byline=" · ".join(models),
        warnings=[],
        headline=comparison.headline,
        tables=comparison.glances(links),
        advice=[],
        contents=contents,
        sections=[section],
        groups=groups,
        chains_note=note,
        folder="",
        settings=[
            (f"{s.label} · {key}", value)
            for s in comparison.studies
            for key, value in [("folder", str(s.data.folder)), *page.settings(s.data)]
        ],
    )
    return page.write_whole(path, html)
