"""Studies side by side: what was planted comes out, and what cannot be paired is said."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.report import verdict
from analyses.report.study_comparison import (
    SAME_NOISE,
    SAME_PROBLEMS,
    UNPAIRED,
    StudyComparison,
    compare_studies,
)
from interp.errors import UserError
from scaling.store.study_store import Store
from tests.analyses.fake import planted_row

BUDGET = 64


@dataclass(frozen=True)
class Made:
    """One study: its chances of a right answer by benchmark, and what defines it."""

    chances: dict[str, float] = field(default_factory=lambda: {"arithmetic": 0.9, "sums": 0.7})
    problems: int = 60
    first: int = 0  # number of the first problem
    seed: int = 0
    temperature: float = 1.0
    budgets: tuple[int, ...] = (16, BUDGET)
    lacks: tuple[int, ...] = ()
    question: str = "what is {}"
    engine: str = "LocalEngine: torch"
    config: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """The study in `folder`; the noise of a problem depends on seed and problem only."""
        config = {"model": folder.name, "seed": self.seed, "sampling": [self.temperature, 0, 1.0]}
        loads = {b: {"problems": self.problems, "budgets": self.budgets} for b in self.chances}
        meta = {"removed before": json.dumps(self.lacks), "model fingerprint": folder.name}
        with Store(folder) as store:
            store.claim({**config, "workloads": loads, **self.config}, meta)
            store.put("variants", [
                {"variant": "dense", "kind": "dense", "method": "dense", "n_removed": 0,
                 "removed": "[]", "plan": ""}
            ])  # fmt: skip
            for benchmark, chance in self.chances.items():
                numbers = range(self.first, self.first + self.problems)
                store.put("problems", [
                    {"benchmark": benchmark, "problem": f"{benchmark}/{i}", "position": k,
                     "question": self.question.format(i), "answer": "9", "choices": "[]",
                     "metadata": "{}"}
                    for k, i in enumerate(numbers)
                ])  # fmt: skip
                cells, chains = [], []
                for budget in self.budgets:
                    for purpose in ("accuracy", "sequential"):
                        cells.append({"purpose": purpose, "benchmark": benchmark,
                                      "variant": "dense", "budget": str(budget or "likelihood"),
                                      "n_problems": self.problems, "samples": 1})  # fmt: skip
                    for i in numbers:
                        noise = np.random.default_rng([self.seed, i]).random(7)
                        chains.append(planted_row(
                            benchmark, i, "dense", budget, 0, bool(noise[6] < chance), self.lacks,
                            noise[:6], i - self.first,
                        ))  # fmt: skip
                store.put("cells", cells)
                store.add_chains(chains)
            store.put("sessions", [{"started": "2026-01-02T03:04:05+00:00", "seconds": 1.0,
                                    "decode_seconds": 1.0, "tokens": 1, "chains": 1,
                                    "engine": self.engine, "program": "1"}])  # fmt: skip
        return folder


def compared(tmp_path: Path, *studies: Made) -> StudyComparison:
    names = ("first", "other", "third")
    return compare_studies(
        [s.write(tmp_path / n) for s, n in zip(studies, names[: len(studies)], strict=True)]
    )


def test_a_planted_loss_comes_out_and_what_is_kept_is_said(tmp_path: Path) -> None:
    found = compared(tmp_path, Made(), Made({"arithmetic": 0.9, "sums": 0.3}, lacks=(3, 4)))
    (arithmetic, sums) = found.pairings
    assert arithmetic.kind == sums.kind == SAME_NOISE
    assert (sums.first, sums.other, sums.shared, sums.chains) == (60, 60, 60, 60)
    assert re.match(r"other keeps arithmetic \(.* to .*\) but \w+ sums \(", found.headline)
    assert found.decision("other") == "Worse"
    frame = found.to_frame().set_index(["benchmark", "outcome"])
    row = frame.loc["sums", "correct"]
    noise = np.array([np.random.default_rng([0, i]).random(7)[6] for i in range(60)])
    lost = -((noise < 0.7) & (noise >= 0.3)).mean()
    assert row["change"] == pytest.approx(lost)
    assert row["low"] <= row["change"] <= row["high"] < 0 and row["clear"]
    assert row["n_problems"] == 60 and 0 < row["smallest_visible"] < 0.4
    assert frame.loc["arithmetic", "correct"]["change"] == 0
    assert (frame["pairing"] == SAME_NOISE).all()
    (said,) = [d.said() for d in found.differences["other"] if d.key == "removed before"]
    assert "no block there and blocks 3 and 4 now" in said


def test_a_planted_gain_is_said_to_be_one(tmp_path: Path) -> None:
    low, high = Made({"sums": 0.3}), Made({"sums": 0.9})
    found = compared(tmp_path, low, high)
    assert re.match(r"other raises sums \(\.\d\d to \.\d\d\)", found.headline)
    assert found.decision("other") != "Worse"


def test_equal_studies_give_no_change_and_say_that_the_chains_are_the_same(tmp_path: Path) -> None:
    found = compared(tmp_path, Made(), Made())
    assert found.headline == (
        "other gives the same chains as first, token for token: 120 on arithmetic and sums."
    )
    assert (found.to_frame()["change"] == 0).all()
    assert not found.to_frame()["clear"].any()
    assert [d.key for d in found.differences["other"]] == ["model", "model fingerprint"]


def test_scored_options_are_the_same_where_the_choice_is(tmp_path: Path) -> None:
    high, low = Made({"recall": 0.9}, budgets=(0,)), Made({"recall": 0.3}, budgets=(0,))
    (tmp_path / "lost").mkdir()
    found = compared(tmp_path / "lost", high, low)
    (pairing,) = found.pairings
    frame = found.to_frame().set_index("outcome")
    assert frame.loc["correct", "change"] < -0.4
    assert pairing.equal < pairing.chains == 60  # they have no tokens, which are the same
    assert re.match(r"other \w+ recall \(", found.headline), found.headline
    assert f"problems: 60 problems, {pairing.equal} with the same choice." in pairing.said
    (tmp_path / "kept").mkdir()
    assert compared(tmp_path / "kept", high, high).headline == (
        "other chooses the same options as first: 60 on recall."
    )


def test_disjoint_problems_are_compared_unpaired_and_said_to_be(tmp_path: Path) -> None:
    other = Made({"arithmetic": 0.9, "sums": 0.2}, first=1000, problems=40)
    found = compared(tmp_path, Made(), other)
    assert {p.kind for p in found.pairings} == {UNPAIRED}
    assert all("no problem is shared" in p.said for p in found.pairings)
    assert "60 problems with 40" in found.pairings[0].said
    row = found.to_frame().set_index(["benchmark", "outcome"]).loc["sums", "correct"]
    assert row["clear"] and row["high"] < 0 and row["n_problems"] == 40
    assert "sums" in found.headline
    paired = compare_studies([tmp_path / "first", Made({"sums": 0.2}).write(tmp_path / "p")])
    same = paired.to_frame().set_index("outcome").loc["correct"]
    assert same["high"] - same["low"] < row["high"] - row["low"]  # pairing narrows


def test_problems_of_one_name_that_ask_something_else_are_not_paired(tmp_path: Path) -> None:
    found = compared(tmp_path, Made(), Made(question="how much is {}"))
    assert {p.kind for p in found.pairings} == {UNPAIRED}
    assert found.pairings[0].changed == 60
    assert "60 of the same name differ in question or answer" in found.pairings[0].said


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Made(seed=1), "the seed is 0 in first and 1 in other"),
        (Made(temperature=0.5), "the temperature is 1.0 in first and 0.5 in other"),
        (Made(engine="ServerEngine vllm"), "the engine is LocalEngine in first"),
    ],
)
def test_same_problems_with_other_noise(other: Made, words: str, tmp_path: Path) -> None:
    found = compared(tmp_path, Made(), other)
    assert {p.kind for p in found.pairings} == {SAME_PROBLEMS}
    assert any(words in note for note in found.notes)
    assert any("the sampling noise is not shared" in note for note in found.notes)


def test_nested_problems_and_budgets_are_compared_where_they_meet(tmp_path: Path) -> None:
    found = compared(tmp_path, Made(), Made(problems=45, budgets=(16,)))
    assert {(p.kind, p.shared, p.budgets) for p in found.pairings} == {(SAME_NOISE, 45, (16, 16))}
    assert "45 of 60 problems" in found.pairings[0].said
    apart = compare_studies([tmp_path / "first", Made(budgets=(32,)).write(tmp_path / "p")])
    assert "The thinking budgets differ (64 and 32 tokens" in apart.pairings[0].said


def test_three_studies_have_a_sentence_and_a_row_each(tmp_path: Path) -> None:
    found = compared(tmp_path, Made(), Made({"sums": 0.1, "odd": 0.5}), Made())
    assert re.match(r"other \w+ sums .*\. third gives the same chains as first", found.headline)
    assert found.left_out == {"other": ["odd"]}
    tables = {t.title: [row.label for row in t.rows] for t in found.glances()}
    assert tables == {"arithmetic": ["third"], "sums": ["other", "third"]}
    assert all(len(t.columns) == 5 for t in found.glances())


def test_few_problems_do_not_read_as_no_harm(tmp_path: Path) -> None:
    found = compared(tmp_path, Made(problems=6), Made({"sums": 0.4}, problems=6))
    assert found.headline.startswith("Too few problems to tell: other is not clearly worse")
    assert found.decision("other") == "Cannot tell"


def test_the_verdict_is_the_reports_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compared(tmp_path, Made(), Made({"sums": 0.1}))
    monkeypatch.setattr(verdict, "sentence", lambda *_: "the report's own")
    assert found.headline == "the report's own"


def test_the_page_shows_both_chains_and_needs_nothing(tmp_path: Path) -> None:
    found = compared(tmp_path, Made(), Made({"sums": 0.2}))
    page = found.write_html(tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and not re.search(r'(src|href)="https?:', page)
    assert "worst: first solves it" in page and "first solves" in page
    links = re.findall(r'href="#([^"]+)"', page)
    assert "chains-0" in links
    assert all(f'id="{link}"' in page for link in links)
    assert "smallest visible change" in page and "paired by problems and sampling noise" in page
    assert "Change from first" in page and "Not compared, as only first has it" in page


@pytest.mark.parametrize("n", [0, 1])
def test_one_study_is_no_comparison(n: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two"):
        compare_studies([Made().write(tmp_path / "a")][:n])


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    one = Made().write(tmp_path / "a")
    with pytest.raises(UserError, match="every study once"):
        compare_studies([one, tmp_path / "b" / ".." / "a"])
    with pytest.raises(UserError, match="No study"):
        compare_studies([one, tmp_path / "nowhere"])
    with pytest.raises(UserError, match="Unknown study 'c'"):
        compare_studies([one, Made().write(tmp_path / "c2")]).decision("c")
    with pytest.raises(UserError, match="2 different names"):
        compare_studies([one, Made().write(tmp_path / "b")], labels=["x", "x"])


def test_studies_without_a_common_benchmark_say_so(tmp_path: Path) -> None:
    found = compared(tmp_path, Made({"sums": 0.5}), Made({"odd": 0.5}))
    assert found.headline == "other and first have no benchmark in common."
    assert not len(found.to_frame())
    assert found.write_html(tmp_path / "p.html").is_file()


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    studies = [Made().write(tmp_path / place / "study") for place in ("a", "b")]
    assert [s.label for s in compare_studies(studies).studies] == ["a/study", "b/study"]


def test_models_that_need_the_same_blocks_are_said_to(tmp_path: Path) -> None:
    from tests.analyses.fake import write_study

    folders = [write_study(tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    found = compare_studies(folders)
    table = found.block_agreement.set_index(["benchmark", "outcome"])
    assert table.loc[("arithmetic", "correct"), "spearman"] > 0.8
    assert table.loc[("arithmetic", "correct"), "n_blocks"] == 6
    assert any("Which blocks two and one need on arithmetic" in note for note in found.notes)
