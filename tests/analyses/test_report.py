"""The report: true sentences, everything inside one file, nothing from a model unescaped."""

import html.parser
import json
import re
import shlex
import socket
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import pytest

from analyses import accuracy_vs_removed
from analyses.plumbing import catalogue, style
from analyses.plumbing.frames import StudyData, prepared
from analyses.plumbing.tables import signed
from analyses.report import (
    advice,
    chain_appendix,
    chain_captions,
    chain_text,
    decisions,
    removal_captions,
    verdict,
)
from analyses.report import page as report
from analyses.report import removal_changes as changes
from analyses.report.captions import captions
from analyses.report.glance import glance
from analyses.viewer.links import key_of
from interp.errors import UserError
from interp.plumbing.command_line import parse
from interp.statistics import smallest_effect
from prunescope.commands.studies import Study
from scaling.store.study_store import Store
from scaling.study.variants import REMOVED_BEFORE
from tests.analyses import fake

ALWAYS = [a.name for a in catalogue.analyses().values() if a.in_store is None]


@pytest.fixture(scope="module")
def page(report_page: Path) -> str:
    assert (report_page.parent / "figures" / "block_effects.svg").exists()
    assert (report_page.parent / "tables" / "block_effects.csv").exists()
    return report_page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def lines(study: StudyData) -> dict[str, list[str]]:
    found = {name: catalogue.load(name).table(study) for name in ALWAYS}
    return {name: captions(name, study, found) for name in found}


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
        own = ("#", chain_appendix.VIEWER)
        assert source.startswith(own), source[:80]
    # all but the two readings of answers, which agree in this study
    assert tags.seen.count("figure") == len(ALWAYS) - 1
    assert tags.seen.count("img") == 0


def test_a_point_of_a_figure_links_to_its_chains(page: str, folder: Path) -> None:
    figures = re.findall(r"<figure>.*?</figure>", page, re.S)
    links = [re.findall(r'<a href="#([^"]+)" aria-label="([^"]+)"', f) for f in figures]
    assert sum(map(bool, links)) >= 2
    groups = dict(re.findall(r'class="group" id="([^"]+)">\s*<h3>([^<]+)</h3>', page))
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for anchor, name in (pair for found in links for pair in found):
        assert anchor in ids
        group = groups["-".join(anchor.split("-")[:2])]
        variant, benchmark = name.removeprefix("chains of ").rsplit(", ", 1)
        assert group.endswith(f", {benchmark}")
        assert group.startswith(variant) or variant.removeprefix("skip") in group
    assert "#chains:" not in page and "xmlns:cc" not in page


def test_text_of_chains_and_questions_is_escaped(page: str) -> None:
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>is</b>" not in page
    assert "&lt;b&gt;is&lt;/b&gt;" in page


def test_the_first_wrong_step_is_marked_in_the_chains(page: str) -> None:
    marked = re.findall(r"<mark title=\"([^\"]+)\">([^<]*)</mark>", page)
    assert marked
    assert all(kind in ("arithmetic slip", "no conclusion") for kind, _ in marked)


# ---------------------------------------------------------------------- captions


def test_what_broke_first_is_what_was_made_to_break(lines: dict[str, list[str]]) -> None:
    said = lines["accuracy_vs_removed"]
    assert said[0].startswith("Countdown-4 broke first")
    assert "one block removed" in said[0]
    assert re.search(r"n = 40, p (<|=)", said[0])
    (held,) = [line for line in said if line.startswith("Recall held")]
    assert "a loss of more than .10 is ruled out" in held


def test_each_block_is_said_to_matter_for_what_it_was_made_to_carry(
    lines: dict[str, list[str]],
) -> None:
    said = " ".join(lines["block_effects"])
    assert "Recall needs block 0" in said
    assert "without blocks 1–5 a loss of more than .10 is ruled out" in said
    assert "Blocks 2 and 5 carry the chain rather than the answer" in said
    assert re.search(r"Losing block 5 raises the share of chains that search a branch twice", said)
    (unmoved,) = [s for s in lines["block_effects"] if s.startswith("Too few problems")]
    assert "reflections per 1k tokens" in unmoved


def test_block_influence_is_said_to_be_wrong_about_its_lowest_block(
    lines: dict[str, list[str]],
) -> None:
    assert any("lowest block, 2" in s and "not free" in s for s in lines["bi_vs_effects"])


# ---------------------------------------------------------------------- report against store


def counted(folder: Path, where: str) -> tuple[int, int]:
    """Looping chains and all chains of the store, straight from SQLite."""
    sql = (
        "SELECT COALESCE(SUM(json_extract(c.diagnosis, '$.looped')), 0), COUNT(*) FROM chains c "
        "JOIN variants v USING (variant) JOIN cells e ON e.benchmark = c.benchmark AND e.variant = "
        "c.variant AND e.budget = c.budget AND c.sample < e.samples AND c.position < e.n_problems "
        f"WHERE c.scoring = 'generate' AND {where}"
    )
    with closing(sqlite3.connect(folder / "study.sqlite")) as db:
        looped, n = db.execute(sql).fetchone()
    return int(looped), int(n)


def test_loops_are_those_of_the_store(folder: Path, lines: dict[str, list[str]]) -> None:
    said = " ".join(lines["loop_anatomy"]).replace(",", "")
    for where, whose in (
        ("e.purpose = 'accuracy' AND v.kind = 'dense'", "of the dense model"),
        ("e.purpose = 'accuracy' AND v.kind = 'plan'", "of removals"),
        ("e.purpose = 'blocks' AND v.kind = 'block'", "without a single block"),
    ):
        looped, n = counted(folder, where)
        assert f"{looped} of {n} chains {whose}" in said
    most, n = counted(folder, "e.purpose = 'blocks' AND c.variant = 'skip 2'")
    assert f"most without block 2 ({most} of {n})" in said


def test_loops_of_blocks_alone_are_not_denied() -> None:
    """As in a quick study: no plan loops, and skipped blocks do."""
    rows = {"scoring": "generate", "waits_allowed": 0, "thinking_budget": 8, "benchmark": "b"}
    plan = pd.DataFrame(
        [{**rows, "variant": v, "kind": k, "looped": 0} for v, k in (("dense", "dense"),
                                                                    ("shortgpt-1", "plan"))]
    )  # fmt: skip
    block = pd.DataFrame(
        [{**rows, "variant": f"skip {b}", "kind": "block", "block": float(b), "looped": int(b > 0)}
         for b in (0, 1, 1)]
    )  # fmt: skip
    study = StudyData({"accuracy": plan, "blocks": block}, pd.DataFrame(), pd.DataFrame())
    said = chain_captions.looping(study, pd.DataFrame())
    assert said == [
        "0 of 1 chains of the dense model end in a loop, 0 of 1 chains of removals.",
        "2 of 3 chains without a single block end in a loop, most without block 1 (2 of 2).",
    ]


def test_every_cell_of_the_table_is_the_stores_own_difference(folder: Path, page: str) -> None:
    with closing(sqlite3.connect(folder / "study.sqlite")) as db:
        right = {
            (b, p, v): o == "correct"
            for b, p, v, budget, o in db.execute(
                "SELECT benchmark, problem, variant, budget, outcome FROM chains WHERE sample = 0"
            )
            if budget in ("likelihood", str(fake.BUDGETS.get(b, (0,))[-1]))
        }
    rows = re.findall(r'<th scope="row"><span class="sign[^>]*>.</span>(.*?)</th>(.*?)</tr>', page)
    names = [v for v in fake.VARIANTS if v != "dense"]
    label = {style.pretty(v): v for v in names} | {
        f"block {b}": f"skip {b}" for b in range(fake.BLOCKS)
    }
    assert len(rows) == len(names)
    for head, cells in rows:
        variant = label[head.split("<")[0]]
        shown = re.findall(r"<a href=\"#[^\"]+\">([^<]*)</a>", cells)
        for benchmark, text in zip(fake.PROBLEMS, shown, strict=False):
            change = np.mean([
                right[benchmark, f"{benchmark}/{i}", variant]
                - float(right[benchmark, f"{benchmark}/{i}", "dense"])
                for i in range(fake.PROBLEMS[benchmark])
            ])  # fmt: skip
            assert text == signed(float(change)), (variant, benchmark)


def test_every_number_links_to_chains_of_its_removal_on_its_benchmark(
    folder: Path, page: str
) -> None:
    ids = set(re.findall(r' id="([^"]+)"', page))
    links = re.findall(r'href="#([^"]+)"', page)
    assert set(links) <= ids
    chains = re.findall(r'href="http://[^/]*/#/chain/([^"?]+)', page)
    with Store(folder, read_only=True) as store:
        assert {key_of(link) for link in chains} <= store.done()
    assert len(chains) == page.count('class="pair"')
    cells = re.findall(r'title="([^"]*)"><a href="#(chains-\d+)', page)
    assert len(cells) == (len(fake.VARIANTS) - 1) * (len(fake.PROBLEMS) + 4)
    titles = dict(re.findall(r'<article class="group" id="([^"]+)">\s*<h3>([^<]*)</h3>', page))
    for title, anchor in cells:
        benchmark = re.match(r"[^,]*, ([^:]*):", title)
        assert benchmark is not None
        assert titles[anchor].endswith(f", {benchmark[1]}")


def test_no_removal_is_called_safe_that_was_made_to_harm(study: StudyData) -> None:
    for removals in (changes.plans(study), changes.single_blocks(study)):
        for decision in decisions.decisions(removals):
            removed = fake.VARIANTS[decision.variant][2]
            harmful = bool({0, 2, 5} & set(removed))
            assert decision.kind == (decisions.UNSAFE if harmful else decisions.SAFE), (
                decision.variant
            )


def test_the_headline_names_what_was_made_to_break_and_what_held(study: StudyData) -> None:
    said = verdict.headline(study)
    assert said.startswith("Removing block 5 (Reverse-order")
    assert re.search(r"keeps recall .* but halves countdown-4 \(\.\d\d to \.\d\d\)", said)


def planted(n: int, plan_fails: float, block_fails: dict[int, float]) -> StudyData:
    """Blocks 2 and 3 removed together, and alone; what fails loops. `quick` loses nothing."""

    def rows(variant: str, kind: str, removed: tuple[int, ...], fails: float) -> pd.DataFrame:
        one = {"kind": kind, "variant": variant, "method": {"plan": "shortgpt"}.get(kind, kind)}
        frame = pd.DataFrame([
            {**one, "benchmark": b, "problem": f"{b}/{i}", "position": i, "sample": 0,
             "budget": "64", "thinking_budget": 64, "waits_allowed": 0, "scoring": "generate",
             "outcome": "no answer" if (lost := b == "slow" and i < fails * n) else "correct",
             "looped": int(lost), "thinking_tokens": 10 if b == "quick" else 60,
             "reflection_per_1k": 1.0, "n_removed": len(removed), "removed": json.dumps(removed)}
            for b in ("quick", "slow") for i in range(n)
        ])  # fmt: skip
        return prepared(frame)

    dense = rows("dense", "dense", (), 0.0)
    plan = rows("shortgpt-2", "plan", (2, 3), plan_fails)
    blocks = [rows(f"skip {b}", "block", (b,), fails) for b, fails in block_fails.items()]
    purposes = {"accuracy": pd.concat([dense, plan]), "blocks": pd.concat([dense, *blocks])}
    return StudyData(purposes, pd.DataFrame(), pd.DataFrame())


def test_the_headline_says_what_chains_do_now_and_which_block_is_why() -> None:
    said = verdict.headline(planted(50, 0.5, {2: 0.0, 3: 0.4}))
    assert said == (
        "Removing blocks 2 and 3 (ShortGPT\u2009−2) keeps quick (1.00 to 1.00) but halves slow "
        "(1.00 to .50); 50 % of its chains now loop (dense 0 %); block 3 is why (alone −.40)."
    )


@pytest.mark.parametrize("alone", [{2: 0.4, 3: 0.4}, {2: 0.0, 3: 0.0}, {2: 0.0, 3: 0.2}, {}])
def test_no_block_is_blamed_that_is_not_alone_in_it(alone: dict[int, float]) -> None:
    """Two do harm, none does, the one costs less than half, or no block was skipped."""
    study = planted(50, 0.5, alone)
    assert "is why" not in verdict.headline(study)


@pytest.mark.parametrize(
    ("fails", "verb"), [(1.0, "destroys"), (0.7, "breaks"), (0.5, "halves"), (0.3, "lowers")]
)
def test_the_verb_fits_the_loss(fails: float, verb: str) -> None:
    assert f" but {verb} slow " in verdict.headline(planted(50, fails, {}))


def test_a_removal_that_changes_nothing_is_safe_with_enough_problems_only() -> None:
    assert "is safe on these benchmarks" in verdict.headline(planted(60, 0.0, {}))
    assert verdict.headline(planted(8, 0.0, {})).startswith("Too few problems to tell")


def test_blocks_that_must_stay_are_named_where_no_plan_does_harm() -> None:
    said = verdict.headline(planted(60, 0.0, {2: 0.0, 3: 0.5}))
    assert said.endswith("Block 3 must stay: without block 3 alone, slow falls from 1.00 to .50.")


# ---------------------------------------------------------------------- few problems


def few(study: StudyData, n: int, **more: Any) -> StudyData:
    """The study on its first problems only."""
    cut = {k: f[f["position"] < n] if len(f) else f for k, f in study.purposes.items()}
    return replace(study, purposes=cut, **more)


def test_with_few_problems_nothing_is_called_safe_and_the_number_needed_is_said(
    study: StudyData,
) -> None:
    small = few(study, 6)
    made = decisions.decisions(changes.plans(small))
    assert {d.kind for d in made} == {decisions.UNKNOWN}
    said = verdict.headline(small)
    assert said.startswith("Too few problems to tell")
    assert re.search(r"about [\d,]+ problems are needed", said)
    whole = " ".join([said, *(w for a in advice.advice(small) for line in a.lines for w in line)])
    assert "no clear difference" not in whole.lower()
    for lines in (removal_captions.what_broke(small),):
        assert all("held" not in line or "ruled out" in line for line in lines)
        assert any("too few problems to tell" in line and "needed" in line for line in lines)


def test_no_change_is_visible_where_no_test_could_come_out(study: StudyData) -> None:
    small = changes.plans(few(study, 6)).of("shortgpt-1")
    assert all(c.n < changes.least_problems(c.tests) and np.isinf(c.visible) for c in small)
    for change in changes.plans(study).of("shortgpt-1"):
        assert np.isfinite(change.visible)
        enough = smallest_effect(change.found.sd or 0.1, change.needed, tests=change.tests)
        assert enough <= changes.TOLERANCE or change.needed == changes.least_problems(change.tests)


def test_the_command_that_would_tell_is_one_that_the_program_takes(study: StudyData) -> None:
    small = few(study, 6, config={**study.config, "model": "testbed"})
    (unknown,) = [a for a in advice.advice(small) if a.kind == decisions.UNKNOWN]
    program, name, *words = shlex.split(unknown.command)
    assert (program, name) == ("prunescope", "study")
    options = parse(Study, "prunescope study", words, "")
    (limit,) = options.limit
    assert int(limit) > 6
    assert set(options.benchmarks) <= set(fake.PROBLEMS)
    assert options.out is not None and options.out.name != Path(str(study.folder)).name


def test_the_command_measures_what_the_study_measured(study: StudyData) -> None:
    loads = {name: {"problems": 6, "budgets": [512]} for name in fake.PROBLEMS}
    prompts = {"chat_template": "no", "shots": {"recall": 3, "other": 2},
               "without_template": ["countdown-4", "other"]}  # fmt: skip
    settings = {"model": "testbed", "workloads": loads, "sampling": [0.7, 20, 0.9], "seed": 3,
                "calibration": 32, "prompts": prompts}  # fmt: skip
    meta = {**study.meta, "model dtype": "bfloat16"}
    small = replace(few(study, 6, config={**study.config, **settings}), meta=meta)
    (unknown,) = [a for a in advice.advice(small) if a.kind == decisions.UNKNOWN]
    options = parse(Study, "prunescope study", shlex.split(unknown.command)[2:], "")
    (made,) = options.configs()
    assert made.budgets == (512,) and made.samples == 1 and made.wait_counts == ()
    assert (made.temperature, made.top_k, made.top_p, made.seed) == (0.7, 20, 0.9, 3)
    assert (made.calibration, made.dtype, made.blocks) == (32, "bfloat16", False)
    assert made.prompts.chat_template == "no"
    assert set(made.prompts.without_template) == {"countdown-4"} & set(made.benchmarks)
    assert dict(made.prompts.shots) == {b: 3 for b in ("recall",) if b in made.benchmarks}


@pytest.mark.parametrize(
    ("sizes", "smoke"),
    [
        ({"countdown-4": 12, "recall": 60}, True),
        ({"countdown-4": 12, "recall": 200}, False),
        ({"gsm8k": 16}, True),
        ({"gsm8k": 30}, False),
        ({}, False),
    ],
)
def test_a_study_of_quick_sizes_is_called_a_smoke_test(
    study: StudyData, sizes: dict[str, int], smoke: bool
) -> None:
    config = {"workloads": {name: {"problems": n} for name, n in sizes.items()}}
    said = advice.warnings(replace(study, config=config))
    assert any(line.startswith("Smoke test") for line in said) == smoke


@pytest.mark.parametrize(
    "config",
    [
        {"workloads": [1]},
        {"workloads": {"b": 3}},
        {"workloads": {"b": {"problems": "many"}}},
        {"sampling": "hot", "model": "m\ud800", "methods": "shortgpt"},
        {"sampling": [], "model": 3, "methods": ["x"]},
    ],
)
def test_settings_of_a_strangers_study_do_not_stop_the_report(
    study: StudyData, config: dict[str, Any]
) -> None:
    strange = few(study, 6, config=config, meta={REMOVED_BEFORE: "all"})
    assert advice.warnings(strange) == []
    assert advice.advice(strange)
    assert report.render(strange, [], None).encode(errors="replace")


# ---------------------------------------------------------------------- a pruned checkpoint


def test_a_pruned_checkpoint_is_not_called_dense_without_removals(study: StudyData) -> None:
    given = replace(study, meta={**study.meta, REMOVED_BEFORE: "[14, 17]"})
    assert any("blocks 14 and 17" in line for line in advice.warnings(given))
    sheet = report.as_sheet(accuracy_vs_removed.table(given), "Table", given)
    rows = [dict(zip(sheet.head, row, strict=True)) for row in sheet.rows]
    assert "dense" not in {row["variant"] for row in rows}
    (one, *_) = [row for row in rows if row["variant"] == "as given, without blocks 14 and 17"]
    assert (one["removed"], one["blocks"]) == ("2", "14 17")
    table = glance(given, changes.plans(given), "", {})
    assert table is not None
    assert table.dense == "as given, without blocks 14 and 17"


def test_an_older_study_asks_the_checkpoint_what_it_lacks(study: StudyData, tmp_path: Path) -> None:
    record = tmp_path / "pruning.json"
    older = replace(study, config={"model": str(tmp_path)})
    assert older.removed_before == ()
    record.write_text(json.dumps({"layer_map": [0, 1, 3], "n_blocks": 5}), encoding="utf-8")
    assert replace(older).removed_before == (2, 4)
    record.write_text('{"layer_map": "none"}', encoding="utf-8")
    assert replace(older).removed_before == ()


def test_a_study_without_removals_says_so(study: StudyData) -> None:
    rows = study.rows("sequential")
    only = {"sequential": rows[rows["variant"] == "dense"]}
    alone = replace(study, purposes=only)
    said = verdict.headline(alone)
    assert said.startswith("The model solves")
    assert said.endswith("this study removed no block and compares nothing.")
    assert advice.advice(alone) == []
    assert glance(alone, changes.plans(alone), "", {}) is None


# ---------------------------------------------------------------------- chains


def test_the_worst_chain_is_one_that_dense_solves(study: StudyData) -> None:
    sides = [
        ("accuracy", changes.plans(study)),
        ("blocks", changes.single_blocks(study)),
    ]
    groups, _ = chain_appendix.appendix(study, sides, fake.text)
    worst = [p for g in groups for p in g.pairs if p.why.startswith("worst")]
    assert worst
    for pair in worst:
        assert [chain.outcome == "correct" for chain in pair.chains] == [True, False]
    looped = [p for g in groups for p in g.pairs if "loops longest" in p.why]
    assert looped and all("Ends in a loop" in p.chains[1].note for p in looped)


def test_the_appendix_is_bounded(study: StudyData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_appendix, "MOST_PAIRS", 40)
    monkeypatch.setattr(chain_appendix, "MOST_TEXT", 20_000)
    groups, links = chain_appendix.appendix(study, [("accuracy", changes.plans(study))], fake.text)
    pairs = [pair for group in groups for pair in group.pairs]
    assert 0 < len(pairs) <= 40
    text = sum(len(p.text) for pair in pairs for c in pair.chains for p in c.pieces)
    assert text < 2 * 20_000  # the text itself, and notes of lines left out
    assert set(links.values()) <= {g.anchor for g in groups} | {p.anchor for p in pairs}


@pytest.mark.parametrize("at", [None, 0, 3, 160, 399])
def test_lines_around_mark_the_line_of_the_word_and_keep_both_ends(at: int | None) -> None:
    text = " ".join(f"a{i} b c ." for i in range(100))
    pieces = chain_text.lines_around(text, at, "slip", 600)
    marked = [p.text for p in pieces if p.mark]
    assert marked == ([] if at is None else [f"a{at // 4} b c ."])
    shown = "".join(p.text for p in pieces)
    assert shown.startswith("a0 b c .")
    assert "a99 b c ." in shown
    left_out = sum(int(n) for n in re.findall(r"… (\d+) lines …", shown))
    assert left_out + shown.count(" b c .") == 100


def test_a_text_that_fits_is_shown_whole_and_a_long_line_is_cut() -> None:
    text = " ".join(f"a{i} b c ." for i in range(100))
    whole = "".join(p.text for p in chain_text.lines_around(text, None, "", len(text)))
    assert whole.split() == text.split()
    long = "".join(p.text for p in chain_text.lines_around("x" * 5000, None, "", 300))
    assert long == "x" * 300 + " …\n"


def test_without_the_tokenizer_the_report_says_so_and_stands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = (catalogue.load("accuracy_vs_removed"),)
    monkeypatch.setattr(catalogue, "reported", lambda _: one)
    page = report.write_report(folder, tmp_path).read_text(encoding="utf-8")
    assert "the tokenizer could not be loaded" in page
    assert "thinking tokens" in page and "<mark" not in page


@pytest.mark.parametrize("model", ["nobody/none", "nobody/none:none.gguf"])
def test_the_report_of_a_model_of_the_hub_asks_no_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    asked: list[Any] = []

    def refuse(*place: Any, **_: Any) -> Any:
        asked.append(place)
        raise OSError("no network")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    study = StudyData.read(folder)
    study = replace(study, config={**study.config, "model": model})
    decode, note = report.decoder_of(study, None, False)
    assert decode is None and not asked
    assert "hf download" in note or "none.gguf" in note


def test_a_folder_without_a_study_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No study"):
        report.write_report(tmp_path)


def test_a_cell_says_what_the_number_is() -> None:
    assert report._cell("p_holm", 0.0001) == "< .001"
    assert report._cell("value", np.float64(0.5)) == ".50"
    assert report._cell("removed", (3, 4)) == "3 4"
    assert report._cell("value", float("nan")) == "–"


def test_a_benchmark_on_which_dense_guesses_is_no_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fake.BASE, "recall", 0.5)  # of two choices
    monkeypatch.setitem(fake.LOSS, "recall", {})
    guessing = StudyData.read(fake.write_study(tmp_path / "study"))
    assert set(changes.at_chance(guessing.rows("accuracy"))) == {"recall"}
    assert any(
        "not clearly better than a guess on recall" in line for line in advice.warnings(guessing)
    )
    assert "keeps recall" not in verdict.headline(guessing)
    removals = changes.plans(guessing)
    for variant in removals.labels:
        assert all(c.benchmark != "recall" for c in decisions.decide(removals, variant).decisive)
        assert not any(c.ruled_out for c in removals.of(variant) if c.benchmark == "recall")


def test_a_benchmark_with_headroom_is_evidence(study: StudyData) -> None:
    assert not changes.at_chance(study.rows("accuracy"))
