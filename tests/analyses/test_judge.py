"""A judge's section: there where a judge has read the study, and a line where none has."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import judge, judged_behaviours
from analyses.plumbing import catalogue
from analyses.plumbing.command import make
from analyses.plumbing.frames import StudyData
from analyses.report import page as report
from interp.errors import UserError
from scaling.judging import Judgement
from scaling.judging.judge_agreement import agreement
from scaling.judging.judge_study import AGREEMENT, VERDICTS, JudgedStudy

KEYS = ["benchmark", "problem", "variant", "budget", "sample"]


def points(line: Any) -> list[float]:
    """Where a line's points are, across."""
    return np.atleast_1d(line.get_xdata()).tolist()


def with_counts(study: StudyData) -> StudyData:
    """The made-up study, with the lexicon's counts that it lacks."""
    counted = {}
    for name, frame in study.purposes.items():
        rng = np.random.default_rng(1)
        kinds = {kind: rng.integers(0, 6, len(frame)) for kind in judged_behaviours.kinds()}
        counted[name] = frame.assign(**kinds)
    return replace(study, purposes=counted)


@pytest.fixture(scope="module")
def judged(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    """A copy that a judge has read: it differs on every tenth answer, and counts one more."""
    out = tmp_path_factory.mktemp("judged") / "study"
    shutil.copytree(folder, out)
    study = with_counts(StudyData.read(out))
    rows = study.rows("accuracy")
    rows = rows[rows["outcome"] != "no answer"].reset_index(drop=True)
    right = (rows["outcome"] == "correct").to_numpy()
    said = [
        Judgement("cannot tell") if i % 50 == 7
        else Judgement(None, "down: nobody answers") if i % 50 == 8
        else Judgement("same" if r != (i % 10 == 0) else "different")
        for i, r in enumerate(right)
    ]  # fmt: skip
    names = (rows["benchmark"] + "/" + rows["problem"]).tolist()
    found = {"all": agreement(right.tolist(), said, names, judge="<b>m</b>", version="1")}
    for benchmark in set(rows["benchmark"]):
        at = np.flatnonzero(rows["benchmark"] == benchmark)
        found[benchmark] = agreement(
            right[at].tolist(), [said[i] for i in at], [names[i] for i in at], judge="<b>m</b>"
        )
    verdicts = rows[[*KEYS, "outcome", "extracted"]].copy()
    verdicts["verdict"], verdicts["error"] = [s.verdict for s in said], [s.error for s in said]
    for kind in judged_behaviours.kinds():
        counts = (rows[kind] + 1).astype(object)
        counts[300:] = None  # on as many as were asked for
        verdicts[f"judged_{kind}"] = counts
    assert JudgedStudy(verdicts, found).write(out).is_file()
    return study


def test_the_agreement_is_the_judges_own_in_the_order_of_the_study(judged: StudyData) -> None:
    assert judged.folder is not None
    found = judge.table(judged)
    assert found["benchmark"].tolist() == [*judged.benchmarks, "all"]
    kept = pd.read_csv(judged.folder / "tables" / AGREEMENT).set_index("benchmark")
    shown = found.set_index("benchmark")
    assert shown["kappa"].equals(kept.loc[shown.index, "kappa"])
    whole: dict[str, Any] = shown.loc["all"].to_dict()
    crossed = [whole[name] for name in judge.CROSSED]
    assert sum(crossed) == whole["n"] and min(crossed) > 0
    (line,) = judge.text(found)
    agree = int(whole["both_correct"] + whole["both_wrong"])
    assert f"agree on {agree} of {int(whole['n'])} answers" in line
    assert f"{int(whole['abstained'])} abstentions" in line
    assert f"{int(whole['errors'])} errors" in line


def test_the_figure_draws_kappas_and_the_crossed_counts(judged: StudyData) -> None:
    found = judge.table(judged)
    ax = judge.plot(found)
    marks = [points(line)[0] for line in ax.get_lines() if line.get_marker() in ("o", "D")]
    assert marks == found["kappa"].tolist()
    bars: Any = judge.plot_crossed(found).patches
    widths = np.array([bar.get_width() for bar in bars]).reshape(len(judge.CROSSED), len(found))
    np.testing.assert_allclose(widths.sum(0), 1.0)
    np.testing.assert_allclose(widths[0], found["both_correct"] / found["n"])


def test_kappa_that_is_not_defined_is_no_number(judged: StudyData) -> None:
    found = judge.table(judged)
    none = found[found["benchmark"] == "all"].assign(kappa=np.nan)
    assert "kappa has no value" in judge.text(none)[0]
    assert judge.plot(none).get_lines()


def test_counts_are_those_of_the_same_chains(judged: StudyData) -> None:
    found = judged_behaviours.table(judged)
    np.testing.assert_allclose(found["judged"], found["lexicon"] + 1)
    np.testing.assert_allclose(found["difference"], 1.0)
    np.testing.assert_allclose(found["spearman"], 1.0)
    assert set(found["kind"]) == {k.replace("_", " ") for k in judged_behaviours.kinds()}
    each = found[found["kind"] == "verification"]
    assert each["chains"].sum() == 300 - sum(
        judged.rows("accuracy").query("outcome != 'no answer'")["benchmark"].iloc[:300] == "none"
    )
    one = each.iloc[0]
    ax = judged_behaviours.plot(found, one["benchmark"], "verification", judged)
    assert one["judged"] in [x for line in ax.get_lines() for x in points(line)]


def test_a_report_has_the_section_and_without_a_judge_a_line(
    judged: StudyData, study: StudyData, tmp_path: Path
) -> None:
    assert judged.folder is not None
    judge = catalogue.load("judge")
    assert judge not in catalogue.reported(study)
    assert dict(report.settings(study))["judge"].startswith("none has read this study yet")
    assert "judge" not in dict(report.settings(judged))
    assert judge in catalogue.reported(judged)
    found, files = make("judge", judged, tmp_path)
    section = report._section(judge, judged, {"judge": found}, files)
    assert section is not None
    page = report.render(judged, [section], None)
    assert judge.title.replace("'", "&#39;") in page
    assert "&lt;b&gt;m&lt;/b&gt;" in page  # the name of a judge is data, as all from outside
    assert "<b>m</b>" not in page
    assert {f.suffix for f in files} == {".csv", ".png", ".svg"}


def test_files_that_are_not_the_judges_are_said(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    shutil.copytree(folder, out)
    (out / "tables").mkdir(exist_ok=True)
    (out / "tables" / AGREEMENT).write_text("benchmark,kappa\nall,1\n", encoding="utf-8")
    with pytest.raises(UserError, match="kappa_low"):
        judge.table(StudyData.read(out))
    (out / "tables" / VERDICTS).write_text(
        ",".join([*KEYS, "outcome"]) + "\n", encoding="utf-8"
    )  # verdicts only: no behaviour was asked for
    assert not judged_behaviours.in_store(StudyData.read(out))
