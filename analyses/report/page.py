"""The report: one self-contained HTML file with the findings, figures and tables of a study.

It begins with sentences computed from the data (`analyses.report.findings`), then shows every
analysis with figure, caption and table, sample chains side by side, and the study's settings.
Styles and figures are inside the file; the template escapes all text from models and problems. The
figures are also beside it as PNG and SVG, the tables as CSV.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses import judge
from analyses.plumbing import catalogue, style
from analyses.plumbing.command import make
from analyses.plumbing.frames import StudyData
from analyses.plumbing.tables import number, share
from analyses.report.findings import findings
from analyses.report.pairs import ChainPair, chain_pairs, tokenizer_text
from interp.plumbing.arguments import checked

if TYPE_CHECKING:
    import pandas as pd

REPORT = "report.html"
READING = (
    "Intervals are 95 %, over problems, each for itself. Differences are paired: the same "
    "problems, the same sampling noise. p values are from sign-flip tests and Holm-corrected "
    "within an outcome; “no clear difference” means p ≥ .05 after that, not that there is none."
    " Blocks are numbered from 0 in the dense model, always."
)
_WITH_ENDS = ("change", "gain", "strict", "lenient", "kappa", "agreed")
_SHARES = {f"{name}{end}" for name in _WITH_ENDS for end in ("", "_low", "_high")} | {
    "value", "low", "high", "effect", "dense", "variant_value", "spearman", "reliability",
    "ceiling", "wasted_share", "share", "share_of_end", "accuracy", "difference",
}  # fmt: skip
_NAMES = {
    "p_holm": "p (Holm)",
    "n_removed": "removed",
    "removed": "blocks",
    "change": "change",
    "change_low": "low",
    "change_high": "high",
    "gain_low": "low",
    "gain_high": "high",
    "n_problems": "problems",
    "n_samples": "chains",
    "thinking_budget": "budget",
    "waits_allowed": "waits",
    "dense": "dense",
    "variant": "variant",
}


@dataclass(frozen=True)
class Image:
    """A figure as the template embeds it.

    Attributes:
        source: data URL of the SVG.
        alt: alternative text.
        caption: caption.
        width: width in CSS pixels.
        height: height in CSS pixels.
    """

    source: str
    alt: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class Sheet:
    """A table as the template shows it.

    Attributes:
        title: heading.
        head: column names.
        rows: cells as text.
        numeric: for each column, whether it holds numbers.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


@dataclass(frozen=True)
class Section:
    """One question: figures and tables under a heading.

    Attributes:
        id: anchor.
        title: heading.
        text: paragraphs before the figures.
        figures: the figures.
        tables: the tables.
    """

    id: str
    title: str
    text: tuple[str, ...]
    figures: tuple[Image, ...]
    tables: tuple[Sheet, ...]


@checked
def write_report(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    text: Callable[[Sequence[int]], str] | None = None,
    trust_remote_code: bool = False,
    on_step: Callable[[str], None] | None = None,
) -> Path:
    """Write the report of a study.

    Args:
        folder: folder of the study.
        out: where to write; None is `folder`.
        text: token ids to text, for the sample chains; None uses the tokenizer of the study's
            model.
        trust_remote_code: whether that tokenizer may run its own code. The study's own setting does
            not count, because a study may come from somebody else.
        on_step: called with the title of each part before it is made.

    Returns:
        The path of the report.

    Raises:
        UserError: there is no study, or it has no chains yet.
    """
    from interp.errors import UserError

    study = StudyData.read(folder)
    target = Path(out or folder)
    if not any(len(frame) for frame in study.purposes.values()):
        raise UserError(f"The study in {str(folder)!r} has no chains yet; run it, then report.")
    found, sections = {}, []
    for analysis in catalogue.reported(study):  # what was computed is shown
        if on_step is not None:
            on_step(analysis.title)
        table, written = make(analysis.name, study, target)
        found[analysis.name] = table
        section = _section(analysis, table, written)
        if section is not None:
            sections.append(section)
    pairs, note = _pairs(study, text, trust_remote_code)
    html = render(study, found, sections, pairs, note)
    path = target / REPORT
    partial = path.with_suffix(".html.partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(path)
    return path


def render(
    study: StudyData,
    found: dict[str, pd.DataFrame],
    sections: Sequence[Section],
    pairs: Sequence[ChainPair],
    note: str = "",
) -> str:
    """Render the HTML of a report.

    Args:
        study: the study.
        found: tables by name of the analysis.
        sections: the sections.
        pairs: sample chains side by side.
        note: why there are no sample chains; empty where there are.

    Returns:
        The HTML.
    """
    import jinja2
    from markupsafe import Markup

    here = resources.files("analyses.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False, lstrip_blocks=True
    )
    template = environment.from_string((here / "report.html.jinja").read_text(encoding="utf-8"))
    contents = [{"id": s.id, "title": s.title} for s in sections]
    if pairs:
        contents.append({"id": "chains", "title": "Chains side by side"})
    contents.append({"id": "made", "title": "How this was made"})
    model = str(study.config.get("model", "the model"))
    return template.render(
        css=Markup((here / "report.css").read_text(encoding="utf-8")),
        title=f"What removing blocks does to {model_name(model)}",
        byline=byline(study),
        version=version("prunescope"),
        findings=findings(study, found),
        reading=READING,
        contents=contents,
        sections=sections,
        pairs=pairs,
        settings=settings(study, note),
        database="study.sqlite",
    )


def model_name(model: str) -> str:
    """The model's name in a heading."""
    return "the bundled reasoner" if model == "testbed" else Path(model).name


def byline(study: StudyData) -> str:
    """The line below the title: chains, benchmarks, variants, time, date."""
    keys = ["benchmark", "problem", "variant", "budget", "sample"]
    chains: set[Any] = set()
    for frame in study.purposes.values():
        if len(frame):
            chains |= set(frame[keys].itertuples(index=False, name=None))
    said = [
        f"{len(chains):,} chains",
        f"{len(study.benchmarks)} benchmarks",
        f"{len(study.variants)} variants and every block in turn"
        if len(study.rows("blocks"))
        else f"{len(study.variants)} variants",
    ]
    if study.sessions is not None and len(study.sessions):
        seconds = float(study.sessions["seconds"].sum())
        said.append(f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds")
        started = datetime.fromisoformat(str(study.sessions["started"].iloc[-1]))
        said.append(f"{started:%-d %B %Y}")
    return " · ".join(said)


def version(package: str) -> str:
    """The version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def settings(study: StudyData, note: str = "") -> list[tuple[str, str]]:
    """The study's settings, fingerprints and versions as rows.

    Args:
        study: the study.
        note: why there are no sample chains; empty where there are.

    Returns:
        Pairs (name, value).
    """
    rows = []
    for key, value in study.config.items():
        if isinstance(value, dict):
            for name, inner in value.items():
                rows.append((f"{key} · {name}", _flat(inner)))
        else:
            rows.append((key, _flat(value)))
    rows += [(key, str(value)) for key, value in sorted(study.meta.items())]
    packages = ("prunescope", "torch", "transformers", "numpy")
    if not judge.in_store(study):
        rows.append(("judge", f"none has read this study yet: prunescope judge {study.folder}"))
    rows.append(("report made with", ", ".join(f"{p} {version(p)}" for p in packages)))
    if note:
        rows.append(("chains", note))
    return rows


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_flat(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(_flat(v) for v in value) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def _pairs(
    study: StudyData, text: Callable[[Sequence[int]], str] | None, trust_remote_code: bool
) -> tuple[list[ChainPair], str]:
    """The sample chains, or the reason why there are none."""
    from interp.errors import UserError

    try:
        text = text or tokenizer_text(str(study.config.get("model")), trust_remote_code)
    except UserError as error:  # no tokenizer here; the rest of the report does not need it
        return [], f"not shown: the tokenizer could not be loaded ({error})"
    return chain_pairs(study, text), ""


def _section(
    analysis: catalogue.Analysis, table: pd.DataFrame, written: Sequence[Path]
) -> Section | None:
    if not len(table):
        return None
    figures = []
    for path in written:
        if path.suffix == ".svg":
            width, height = _size(path)
            caption = analysis.caption_of(table)
            figures.append(
                Image(_embedded(path), f"{analysis.title}. {caption}", caption, width, height)
            )
    sheet = as_sheet(table, "Table")
    text = tuple(analysis.text_of(table))
    return Section(analysis.name, analysis.title, text, tuple(figures), (sheet,))


def _embedded(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _size(path: Path) -> tuple[int, int]:
    """Width and height of a matplotlib SVG, in CSS pixels."""
    import re

    head = path.read_text(encoding="utf-8")[:2000]
    found = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', head)
    width, height = (float(v) for v in found.groups()) if found else (600.0, 400.0)
    return round(width * 96 / 72), round(height * 96 / 72)


def as_sheet(table: pd.DataFrame, title: str) -> Sheet:
    """A frame as text: two digits, true minus signs, no columns without values.

    Args:
        table: the frame.
        title: heading.

    Returns:
        The sheet.
    """
    shown = table.loc[:, [c for c in table.columns if c != "method" and table[c].notna().any()]]
    numeric = tuple(shown[c].dtype.kind in "fiu" for c in shown.columns)
    rows = tuple(
        tuple(_cell(column, value) for column, value in zip(shown.columns, row, strict=True))
        for row in shown.itertuples(index=False, name=None)
    )
    head = tuple(str(_NAMES.get(c, str(c).replace("_", " "))) for c in shown.columns)
    return Sheet(title, head, rows, numeric)


def _cell(column: str, value: Any) -> str:
    if column in ("removed", "blocks"):
        return " ".join(map(str, value)) or "–"
    if column == "variant" and isinstance(value, str):
        return style.pretty(value)
    if isinstance(value, (float, np.floating)):
        if not np.isfinite(value):
            return "–"
        if column.startswith("p") and column in ("p", "p_holm"):
            return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
        if column in _SHARES and abs(value) <= 1:
            return share(float(value))
        return number(float(value)) if value != int(value) else str(int(value))
    return str(value)
