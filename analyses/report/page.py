"""The report: one self-contained HTML file with the verdict, figures and tables of a study.

It begins with the verdict (`analyses.report.verdict`) and the table at a glance
(`analyses.report.glance`), whose cells link to the chains behind them
(`analyses.report.chain_appendix`). Then come every analysis with figure, captions and table, and
the study's settings. Styles and figures are inside the file; the template escapes all text from
models and problems. The figures are also beside it as PNG and SVG, the tables as CSV.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
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
from analyses.plumbing.tokenizer_text import TokenizerText
from analyses.report.advice import advice, warnings
from analyses.report.captions import captions
from analyses.report.chain_appendix import appendix
from analyses.report.figure_svg import inline_svg
from analyses.report.glance import dense_name, glance
from analyses.report.glossary import GLOSSARY
from analyses.report.removal_changes import plans, single_blocks
from analyses.report.verdict import headline
from interp.plumbing.arguments import checked

if TYPE_CHECKING:
    import pandas as pd

REPORT = "report.html"
GLANCES = {"accuracy": "Every removal at a glance", "blocks": "Every block alone"}
CHAINS = "The chains behind the numbers"
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
        svg: the figure, as matplotlib wrote it.
        name: what its ids begin with in the page.
        alt: alternative text.
        caption: caption.
        width: width in CSS pixels.
        height: height in CSS pixels.
    """

    svg: str
    name: str
    alt: str
    caption: str
    width: int
    height: int

    def inline(self, links: Mapping[tuple[str, str, str], str]) -> str:
        """The figure as a part of the page."""
        from markupsafe import Markup

        size = (self.width, self.height)
        return Markup(inline_svg(self.svg, self.name, self.alt, size, links))


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
        said: what the figures show, in sentences.
        figures: the figures.
        tables: the tables.
    """

    id: str
    title: str
    text: tuple[str, ...]
    said: tuple[str, ...]
    figures: tuple[Image, ...]
    tables: tuple[Sheet, ...]


@checked
def write_report(
    study: str | Path | StudyData,
    out: str | Path | None = None,
    *,
    text: Callable[[Sequence[int]], str] | None = None,
    trust_remote_code: bool = False,
    on_step: Callable[[str], None] | None = None,
) -> Path:
    """Write the report of a study.

    Args:
        study: folder of the study, or its frames.
        out: where to write; None is the folder of the study.
        text: token ids to text, for the sample chains; None uses the tokenizer of the study's
            model.
        trust_remote_code: whether that tokenizer may run its own code. The study's own setting does
            not count, because a study may come from somebody else.
        on_step: called with the title of each part before it is made.

    Returns:
        The path of the report.

    Raises:
        UserError: there is no study, it has no chains yet, or there is no place to write to.
    """
    from interp.errors import UserError

    if not isinstance(study, StudyData):
        study = StudyData.read(study)
    place = out or study.folder
    if place is None:
        raise UserError("This study was made in memory: say in `out` where its report goes.")
    target = Path(place)
    if not any(len(frame) for frame in study.purposes.values()):
        raise UserError(
            f"The study in {str(study.folder)!r} has no chains yet; run it, then report."
        )
    found: dict[str, pd.DataFrame] = {}
    sections = []
    for analysis in catalogue.reported(study):  # what was computed is shown
        if on_step is not None:
            on_step(analysis.title)
        asked = analysis.as_kept(study)
        found[analysis.name], written = make(analysis.name, asked, target)
        section = _section(analysis, asked, found, written)
        if section is not None:
            sections.append(section)
    decode, note = decoder_of(study, text, trust_remote_code)
    html = render(study, sections, decode, note)
    return write_whole(target / REPORT, html)


def render(
    study: StudyData,
    sections: Sequence[Section],
    text: Callable[[Sequence[int]], str] | None,
    note: str = "",
) -> str:
    """Render the HTML of a report.

    Args:
        study: the study.
        sections: the sections.
        text: token ids to text; None shows chains without their text.
        note: why chains are shown without it; empty where they are not.

    Returns:
        The HTML.
    """
    sides = {"accuracy": plans(study), "blocks": single_blocks(study)}
    groups, links = appendix(study, list(sides.items()), text)
    tables = {name: glance(study, sides[name], title, links) for name, title in GLANCES.items()}
    contents = [{"id": s.id, "title": s.title} for s in sections]
    if groups:
        contents.append({"id": "chains", "title": CHAINS})
    contents.append({"id": "made", "title": "How this was made"})
    model = str(study.config.get("model", "the model"))
    return filled(
        kicker="study",
        links=links,
        reference=style.DENSE,
        title=f"What removing blocks does to {model_name(model)}",
        byline=byline(study),
        warnings=warnings(study),
        headline=headline(study),
        tables=[table for table in tables.values() if table is not None],
        advice=advice(study),
        contents=contents,
        sections=sections,
        groups=groups,
        chains_note=note,
        folder=shlex.quote(str(study.folder or "STUDY")),
        settings=settings(study),
    )


def filled(**parts: Any) -> str:
    """The template of the report with what a page shows; styles and glossary are the same.

    Args:
        **parts: the variables of `report.html.jinja`.

    Returns:
        The HTML.
    """
    import jinja2
    from markupsafe import Markup

    here = resources.files("analyses.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False, lstrip_blocks=True
    )
    environment.filters["unbroken"] = _unbroken
    template = environment.from_string((here / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        css=Markup((here / "report.css").read_text(encoding="utf-8")),
        version=version("prunescope"),
        glossary=GLOSSARY,
        chains_title=CHAINS,
        database="study.sqlite",
        **parts,
    )


def write_whole(path: Path, html: str) -> Path:
    """Write a page, so that no reader sees half of it.

    Args:
        path: the file.
        html: the page.

    Returns:
        The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".html.partial")
    partial.write_text(html, encoding="utf-8", errors="replace")  # a lone surrogate in a setting
    partial.replace(path)
    return path


def _unbroken(text: str) -> str:
    """A sentence whose "n = 40", "p < .001" and "Random −2" are not broken at a line's end."""
    text = text.replace(" = ", "\u00a0=\u00a0").replace(" < ", "\u00a0<\u00a0")
    return text.replace("\u2009", "\u202f")


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


def settings(study: StudyData) -> list[tuple[str, str]]:
    """The study's settings, fingerprints and versions as pairs (name, value)."""
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
    return rows


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_flat(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(_flat(v) for v in value) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def decoder_of(
    study: StudyData, text: Callable[[Sequence[int]], str] | None, trust_remote_code: bool
) -> tuple[Callable[[Sequence[int]], str] | None, str]:
    """The function from token ids to text, or the reason why there is none."""
    from interp.errors import UserError

    try:
        return text or TokenizerText.of(str(study.config.get("model")), trust_remote_code).text, ""
    except UserError as error:  # no tokenizer here; the rest of the report does not need it
        return None, f"Their text is not shown: the tokenizer could not be loaded ({error})."


def _section(
    analysis: catalogue.Analysis,
    study: StudyData,
    found: dict[str, pd.DataFrame],
    written: Sequence[Path],
) -> Section | None:
    table = found[analysis.name]
    if not len(table):
        return None
    figures = []
    for path in written:
        if path.suffix == ".svg":
            width, height = _size(path)
            caption = analysis.caption_of(table)
            figures.append(
                Image(
                    path.read_text(encoding="utf-8"),
                    path.stem,
                    f"{analysis.title}. {caption}",
                    caption,
                    width,
                    height,
                )
            )
    said = tuple(captions(analysis.name, study, found))
    text = tuple(analysis.text_of(table))
    sheet = as_sheet(table, "Table", study)
    return Section(analysis.name, analysis.title, text, said, tuple(figures), (sheet,))


def _size(path: Path) -> tuple[int, int]:
    """Width and height of a matplotlib SVG, in CSS pixels."""
    import re

    head = path.read_text(encoding="utf-8")[:2000]
    found = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', head)
    width, height = (float(v) for v in found.groups()) if found else (600.0, 400.0)
    return round(width * 96 / 72), round(height * 96 / 72)


def as_sheet(table: pd.DataFrame, title: str, study: StudyData | None = None) -> Sheet:
    """A frame as text: two digits, true minus signs, no columns without values.

    Args:
        table: the frame.
        title: heading.
        study: the study; its reference is named as what it is if it is a pruned checkpoint.

    Returns:
        The sheet.
    """
    table = table if study is None else _with_given(table, study)
    shown = table.loc[:, [c for c in table.columns if c != "method" and table[c].notna().any()]]
    numeric = tuple(shown[c].dtype.kind in "fiu" for c in shown.columns)
    rows = tuple(
        tuple(_cell(column, value) for column, value in zip(shown.columns, row, strict=True))
        for row in shown.itertuples(index=False, name=None)
    )
    head = tuple(str(_NAMES.get(c, str(c).replace("_", " "))) for c in shown.columns)
    return Sheet(title, head, rows, numeric)


def _with_given(table: pd.DataFrame, study: StudyData) -> pd.DataFrame:
    """The rows of a pruned checkpoint under its own name, with the blocks that it lacks."""
    lacks = study.removed_before
    if not lacks or "variant" not in table:
        return table
    given = table["variant"] == style.DENSE
    own: dict[str, Any] = {"variant": dense_name(study), "n_removed": len(lacks), "removed": lacks}
    return table.assign(**{
        column: [value if here else old for here, old in zip(given, table[column], strict=True)]
        for column, value in own.items() if column in table
    })  # fmt: skip


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
