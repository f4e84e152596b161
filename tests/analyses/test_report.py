"""The report: true sentences, everything inside one file, nothing from a model unescaped."""

import html.parser
import re
from pathlib import Path

import numpy as np
import pytest

from analyses.plumbing import catalogue
from analyses.plumbing.frames import StudyData
from analyses.report import findings, pairs
from analyses.report import page as report
from interp.errors import UserError
from tests.analyses import fake

ALWAYS = [a.name for a in catalogue.analyses().values() if a.in_store is None]


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("report")
    path = report.write_report(folder, out, text=fake.text)
    assert path == out / "report.html"
    assert (out / "figures" / "block_effects.svg").exists()
    assert (out / "tables" / "block_effects.csv").exists()
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def lines(study: StudyData) -> dict[str, list[str]]:
    found = {name: catalogue.load(name).table(study) for name in ALWAYS}
    return {group.title: list(group.lines) for group in findings.findings(study, found)}


class Tags(html.parser.HTMLParser):
    """Open tags that were never closed, and every source and link."""

    VOID = frozenset({"meta", "img", "br", "link", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_from_outside(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert "script" not in tags.seen
    assert "link" not in tags.seen
    for source in tags.sources:
        assert source.startswith(("data:image/svg+xml;base64,", "#")), source[:80]
    assert tags.seen.count("img") == len(ALWAYS)


def test_text_of_chains_and_questions_is_escaped(page: str) -> None:
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>is</b>" not in page
    assert "&lt;b&gt;is&lt;/b&gt;" in page


def test_the_first_wrong_step_is_marked_in_the_sample_chains(page: str) -> None:
    marked = re.findall(r"<mark title=\"([^\"]+)\">([^<]*)</mark>", page)
    assert marked
    assert all(kind in ("arithmetic slip", "no conclusion") for kind, _ in marked)


def test_what_broke_first_is_what_was_made_to_break(lines: dict[str, list[str]]) -> None:
    said = lines["What broke first"]
    assert said[0].startswith("Countdown-4 broke first")
    assert "one block removed" in said[0]
    assert re.search(r"n = 40, p (<|=)", said[0])
    held = [line for line in said if line.startswith("Recall held")]
    assert held
    assert "no clear difference" in held[0]


def test_each_block_is_said_to_matter_for_what_it_was_made_to_carry(
    lines: dict[str, list[str]],
) -> None:
    said = " ".join(lines["Which block matters for what"])
    assert "Recall needs block 0" in said
    assert "Blocks 2 and 5 carry the chain rather than the answer" in said
    assert re.search(r"Losing block 5 raises the share of chains that search a branch twice", said)
    unmoved = [s for s in lines["Which block matters for what"] if s.startswith("No single block")]
    assert "reflections per 1k tokens" in unmoved[0]


def test_a_removal_that_is_free_is_called_no_clear_difference(study: StudyData) -> None:
    from analyses import accuracy_vs_removed

    found = accuracy_vs_removed.table(study)
    free = found[found["benchmark"] == "recall"]
    said = findings.what_broke(study, free)
    assert said[0].startswith("No clear difference from dense on any benchmark")
    assert "little could be seen" in said[0] or "is easily missed" in said[0]


def test_block_influence_is_said_to_be_wrong_about_its_lowest_block(
    lines: dict[str, list[str]],
) -> None:
    assert any(
        "lowest block, 2" in s and "not free" in s for s in lines["Does Block Influence tell?"]
    )


def test_pairs_are_right_dense_chains_beside_wrong_pruned_ones(study: StudyData) -> None:
    chosen = pairs.choose(study)
    assert 0 < len(chosen) <= pairs.MOST_PAIRS
    rows = study.rows("accuracy").set_index(["benchmark", "problem", "variant", "sample", "budget"])
    for benchmark, problem, variant, sample in chosen:
        budget = str(fake.BUDGETS[benchmark][-1])
        assert rows.loc[(benchmark, problem, "dense", sample, budget), "correct"] == 1
        assert rows.loc[(benchmark, problem, variant, sample, budget), "correct"] == 0


@pytest.mark.parametrize("at", [None, 0, 3, 160, 399])
def test_lines_around_mark_the_line_of_the_word_and_keep_both_ends(at: int | None) -> None:
    text = " ".join(f"a{i} b c ." for i in range(100))
    pieces = pairs.lines_around(text, at, "slip")
    marked = [p.text for p in pieces if p.mark]
    assert marked == ([] if at is None else [f"a{at // 4} b c ."])
    shown = "".join(p.text for p in pieces)
    assert shown.startswith("a0 b c .")
    assert "a99 b c ." in shown
    left_out = sum(int(n) for n in re.findall(r"… (\d+) lines …", shown))
    assert left_out + shown.count(" b c .") == 100


def test_without_the_tokenizer_the_report_says_so_and_stands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = (catalogue.load("accuracy_vs_removed"),)
    monkeypatch.setattr(catalogue, "reported", lambda _: one)
    monkeypatch.setattr(report, "findings", lambda *_: [])
    page = report.write_report(folder, tmp_path).read_text(encoding="utf-8")
    assert "the tokenizer could not be loaded" in page


def test_a_folder_without_a_study_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No study"):
        report.write_report(tmp_path)


def test_a_cell_says_what_the_number_is() -> None:
    assert report._cell("p_holm", 0.0001) == "< .001"
    assert report._cell("value", np.float64(0.5)) == ".50"
    assert report._cell("removed", (3, 4)) == "3 4"
    assert report._cell("value", float("nan")) == "–"
