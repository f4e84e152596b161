"""Loops, reflection, diversity and ties as tables of a study: what they hold, and in what order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import bi_vs_effects, diversity, loop_anatomy, reflection
from analyses.plumbing.command import main
from analyses.plumbing.derived import derived
from analyses.plumbing.frames import StudyData
from analyses.plumbing.replayed import chain_rows, variants_of
from interp.diagnosis import diversity as measures_of
from interp.interventions.interventions import Skip
from tests.analyses import fake


def test_ties_say_what_share_of_the_explainable_is_explained(study: StudyData) -> None:
    found = bi_vs_effects.table(study)
    assert set(found["score"]) == {bi_vs_effects.BI}
    assert {"partial_depth", "explained", "explained_low", "worst", "p_holm"} <= set(found.columns)
    known = found[found["explained"].notna()]
    assert ((known["explained_low"] <= known["explained"]) & (known["explained"] <= 1)).all()
    noise = found[found["effect_reliability"] < 0.05]
    assert noise["explained"].isna().all()


def test_block_influences_lowest_block_is_underrated_where_it_was_made_to_be(
    study: StudyData,
) -> None:
    dots = bi_vs_effects.points(study)
    wrong = dots[dots["underrated"]]
    assert set(wrong.loc[wrong["benchmark"] == "countdown-4", "block"]) <= {2, 5}
    assert 2 in set(wrong["block"])  # the lowest score, and its loss costs


def test_scores_on_chains_are_used_where_the_study_keeps_them(tmp_path: Path) -> None:
    from tests.analyses.fake import write_study

    study = StudyData.read(write_study(tmp_path / "study"))
    settings = bi_vs_effects.settings_of(study)
    assert settings is not None
    blocks = list(range(fake.BLOCKS))
    rows = [
        {"block": b, "score": name, "value": float(b == at), "reliability": 0.9}
        for name, at in (("reflections", 5), ("norm", 1))
        for b in blocks
    ]
    derived(study, "bi_vs_effects", settings, lambda: pd.DataFrame(rows))
    found = bi_vs_effects.table(study)
    assert set(found["score"]) == {bi_vs_effects.BI, "reflections"}
    assert found["partial_norm"].notna().any()
    assert bi_vs_effects.figure(found, study) is not None


def test_diversity_is_measured_at_equal_length_and_number(study: StudyData) -> None:
    found = diversity.table(study)
    rows = chain_rows(study, "parallel")
    mine = rows[rows["benchmark"] == "countdown-4"]
    names = list(dict.fromkeys(mine["variant"]))
    values: dict[str, list[float]] = {name: [] for name in names}
    for problem in dict.fromkeys(mine["problem"]):
        ids = {
            name: [
                row["ids"][row["thinking_start"] : row["thinking_stop"]]
                for row in mine[(mine["variant"] == name) & (mine["problem"] == problem)]
                .sort_values("sample")
                .to_dict("records")
            ]
            for name in names
        }
        fewest = min(len(few) for few in ids.values())
        length = min(len(one) for few in ids.values() for one in few[:fewest])
        if length < 8:
            continue
        for name in names:
            values[name].append(measures_of(ids[name][:fewest], length=length).self_bleu)
    part = found[found["outcome"] == "self_bleu"].set_index("variant")
    for name in names:
        assert part.loc[name, "value"] == pytest.approx(np.mean(values[name]))
    assert found["accuracy"].notna().sum() == (found["outcome"] != "correct").sum()
    assert "correct" in set(found["outcome"])


def test_the_loop_table_takes_rates_and_chances_where_they_are(tmp_path: Path) -> None:
    from tests.analyses.fake import write_study

    study = StudyData.read(write_study(tmp_path / "study"))
    settings = loop_anatomy.settings_of(study)
    if settings is None:
        pytest.skip("no chain of the made-up study loops")
    rows = [
        {
            "benchmark": settings["benchmark"], "variant": "shortgpt-1", "method": "shortgpt",
            "n_removed": 1, "outcome": loop_anatomy.ESCAPE, "pass": p, "value": 0.5 / p,
            "low": 0.2 / p, "high": 0.8 / p, "problems": 3, "chains": 4, "trapped": 0.0,
        }
        for p in (1, 2, 3)
    ]  # fmt: skip
    derived(study, "loop_anatomy", settings, lambda: pd.DataFrame(rows))
    found = loop_anatomy.table(study)
    assert (found["outcome"] == loop_anatomy.ESCAPE).sum() == 3
    figure = loop_anatomy.figure(found, study)
    assert figure is not None
    assert any(ax.get_xlabel() == "pass of the loop" for ax in figure.axes)


def test_entry_rates_are_over_all_tokens() -> None:
    rows = pd.DataFrame(
        {
            "benchmark": "b", "problem": ["p", "q"], "variant": "dense", "outcome": "x",
            "loop_entries": [1.0, 0.0], "loop_tokens": [50.0, 0.0], "tokens": [150.0, 900.0],
        }
    )  # fmt: skip
    found = pd.DataFrame(
        [{"benchmark": "b", "variant": "dense", "outcome": "loop_entries_per_1k", "value": 5.0,
          "low": 0.0, "high": 9.0}]
    )  # fmt: skip
    one = loop_anatomy._with_rates(found, rows).iloc[0]
    assert one["value"] == pytest.approx(1000 / 1001)
    assert one["low"] < one["value"] < one["high"]


def test_kept_reflections_are_rows_and_panels(tmp_path: Path) -> None:
    from tests.analyses.fake import write_study

    study = StudyData.read(write_study(tmp_path / "study"))
    settings = reflection.settings_of(study)
    assert settings is not None
    rows = [
        {"benchmark": settings["benchmark"], "variant": name, "method": method, "n_removed": n,
         "outcome": outcome, "value": value, "low": value - 0.1, "high": value + 0.1, "p": 0.01,
         "p_holm": 0.02, "problems": 9, "chains": 20}
        for name, method, n in study.variants
        for outcome, value in (("opener_mass", 0.2), ("gain", -0.1))
    ]  # fmt: skip
    derived(study, "reflection", settings, lambda: pd.DataFrame(rows))
    found = reflection.table(study)
    assert {"opener_mass", "gain"} <= set(found["outcome"])
    figure = reflection.figure(found, study)
    assert figure is not None
    labels = {ax.get_xlabel() for ax in figure.axes}
    assert {reflection.COLUMNS["opener_mass"], reflection.COLUMNS["gain"]} <= labels


def test_what_is_computed_first_is_of_the_study_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from interp.errors import UserError

    seen: list[Path | None] = []

    def gone(study: StudyData) -> None:
        seen.append(study.folder)
        raise UserError("the model is gone")

    with pytest.raises(SystemExit) as left:  # said, and the table is made all the same
        main("step_errors.py", ["--study", str(folder), "--out", str(tmp_path)], first=gone)
    assert left.value.code == 0
    assert seen == [folder]
    said = capsys.readouterr()
    assert "the model is gone" in said.err
    assert "step_errors.csv" in said.out
    for wrong in (["--study", str(tmp_path / "none")], ["--study"], []):
        with pytest.raises(SystemExit) as left:
            main("step_errors.py", wrong, first=gone)
        assert left.value.code == 2
    assert seen == [folder]


def test_a_variants_interventions_are_its_removed_blocks(study: StudyData) -> None:
    found = variants_of(chain_rows(study))
    assert found["dense"] is None
    for name, (kind, _, removed) in fake.VARIANTS.items():
        if kind == "plan":
            one = found[name]
            assert one is not None
            assert one.interventions() == tuple(Skip(b) for b in removed)
