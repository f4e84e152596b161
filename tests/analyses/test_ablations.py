"""Halves of blocks and kinds of ablation: on a model whose blocks are known, and the arithmetic."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from analyses import ablations
from analyses.plumbing import catalogue
from analyses.plumbing.frames import StudyData
from analyses.plumbing.workbench import Workbench
from interp.effects import Effects, block_effects, dose_response
from interp.statistics import holm, paired_difference
from tests.planted import Planted, PlantedBench

# the brake is attention, the answerer an MLP that writes at one token, the rest write everywhere
PLANTED = Planted(n_blocks=4, copier=1, brake=2, answerer=3)


@pytest.fixture(scope="module")
def found(study: StudyData) -> pd.DataFrame:
    bench = PlantedBench.made(PLANTED, study, problems=26, thinking=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workbench, "of", classmethod(lambda *_: bench))
        patch.setattr(ablations, "PROBLEMS", 20)
        patch.setattr(ablations, "CALIBRATION", 6)
        patch.setattr(ablations, "DOSED", 2)
        return ablations._compute(study, {"benchmark": "planted", "thinking": 64})


def only(found: pd.DataFrame, outcome: str, ablation: str, part: str = "block") -> pd.DataFrame:
    rows = found[(found["outcome"] == outcome) & (found["ablation"] == ablation)]
    rows = rows[rows["part"] == part].set_index("block")
    assert len(rows), (outcome, ablation, part)
    return rows


def clear(found: pd.DataFrame, outcome: str, ablation: str, part: str = "block") -> set[int]:
    rows = only(found, outcome, ablation, part)
    return set(rows.index[rows["p_holm"] < 0.05])


def test_the_half_that_was_planted_is_named(found: pd.DataFrame) -> None:
    assert clear(found, "correct", "skip") == {3}
    assert clear(found, "correct", "skip", "mlp") == {3}
    assert clear(found, "correct", "skip", "attention") == set()
    assert clear(found, "looped", "skip") == {2}
    assert clear(found, "looped", "skip", "attention") == {2}
    assert clear(found, "looped", "skip", "mlp") == set()
    for outcome, half, block in (("correct", "mlp", 3), ("looped", "attention", 2)):
        rows = only(found, outcome, "skip", half)
        assert set(rows.index[rows["difference_p_holm"] < 0.05]) == {block}
        assert (rows["against"] == ("mlp" if half == "attention" else "attention")).all()
        whole = only(found, outcome, "skip")
        assert (whole["against"] == "attention + mlp").all()
        assert whole["difference"].to_numpy() == pytest.approx(0, abs=1e-9), "one half alone works"


def test_what_depends_on_the_token_is_lost_to_the_mean_and_what_does_not_is_kept(
    found: pd.DataFrame,
) -> None:
    for kind in ("mean", "resample"):
        assert clear(found, "correct", kind) == {3}
        assert clear(found, "looped", kind) == {2}
        rows = only(found, "correct", kind)
        assert (rows["against"] == "skip").all() and not (rows["difference_p_holm"] < 0.05).any()
    for block in PLANTED.neutral:  # they write the same everywhere: its mean is what they write
        rows = found[(found["block"] == block) & (found["ablation"].isin(("mean", "resample")))]
        assert (rows["effect"] == 0).all() and (rows["p"] == 1).all()
        skipped = only(found, "thinking_tokens", "skip").loc[block]
        change = only(found, "thinking_tokens", "mean").loc[block, "difference"]
        assert change == pytest.approx(-skipped["effect"])


def test_the_blocks_that_matter_most_are_scaled(found: pd.DataFrame) -> None:
    scaled = found[found["ablation"].str.startswith("scale")]
    assert set(scaled["ablation"]) == {f"scale {g:g}" for g in ablations.GAINS}
    assert scaled["block"].nunique() == 2 and {3} <= set(scaled["block"])
    doses = scaled[(scaled["outcome"] == "correct") & (scaled["block"] == 3)]
    assert doses["slope"].nunique() == 1 and (doses["slope_high"] < 0).all()
    half, most = (only(found, "correct", f"scale {g}").loc[3, "effect"] for g in ("0.25", "0.75"))
    assert only(found, "correct", "skip").loc[3, "effect"] <= half < most <= 0.1
    assert found.loc[~found["ablation"].str.startswith("scale"), "slope"].isna().all()


def test_a_row_an_outcome_ablation_part_and_block(found: pd.DataFrame) -> None:
    assert not found.duplicated(["outcome", "ablation", "part", "block"]).any()
    first = found.drop_duplicates(["ablation", "part"])[["ablation", "part"]].to_numpy().tolist()
    assert first[:5] == [["skip", "block"], ["skip", "attention"], ["skip", "mlp"],
                         ["mean", "block"], ["resample", "block"]]  # fmt: skip
    assert {"correct", "no_answer", "looped", "loop_entries_per_1k", "reflection_per_1k",
            "thinking_tokens"} <= set(found["outcome"])  # fmt: skip
    assert (found["n_problems"] <= 20).all()


def made_up(seed: int = 0) -> Effects:
    """One sample of 20 problems, three blocks, one pair of them not measured."""
    rng = np.random.default_rng(seed)
    groups = [("skip", p) for p in ("block", "attention", "mlp")]
    groups += [("mean", "block"), ("resample", "block"), ("scale 0.5", "block")]
    rows = []
    for i in range(20):
        head = {"benchmark": "b", "problem": f"q{i}", "sample": 0}
        rows.append({**head, "variant": "dense", "y": rng.normal(), "block": None})
        for kind, part in groups:
            for block in (4, 6, 9):
                y = np.nan if i == 3 and part == "mlp" else rng.normal() - 0.8 * (block == 6)
                rows.append({**head, "variant": f"{kind} {part} {block}", "block": block,
                             "ablation": kind, "part": part, "y": y})  # fmt: skip
    return block_effects(pd.DataFrame(rows), "y", by=("ablation", "part"))


def test_second_comparisons_are_paired_differences_of_what_they_name() -> None:
    effects = made_up()
    frame = ablations.rows_of(effects).set_index(["ablation", "part", "block"])
    change = {(*g, int(b)): c for g, b, c in
              zip(effects.groups, effects.blocks, effects.changes, strict=True)}  # fmt: skip
    for (kind, part, block), row in frame.iterrows():
        if kind == "scale 0.5":
            assert row["against"] == "" and np.isnan(row["difference"])
            continue
        others = (
            [("skip", "block")]
            if kind != "skip"
            else [("skip", p) for p in ("attention", "mlp") if p != part]
        )
        less = change[kind, part, block] - sum(change[*o, block] for o in others)
        kept = less[np.isfinite(less)]
        want = paired_difference(np.zeros_like(kept), kept)
        got = row[["difference", "difference_low", "difference_high", "difference_p"]]
        assert got.tolist() == pytest.approx([want.value, want.low, want.high, want.p])
    for _, part in frame.groupby(level=[0, 1]):
        p = part["difference_p"].to_numpy(float)
        np.testing.assert_allclose(part["difference_p_holm"], holm(p))
    slopes = dose_response(effects).to_frame().set_index("block")["slope"]
    for block, slope in slopes.items():
        assert frame.loc[("scale 0.5", "block", block), "slope"] == pytest.approx(slope)


def test_the_blocks_most_needed_are_those_of_both_outcomes_together() -> None:
    several = [made_up(seed) for seed in (1, 2)]
    size: dict[int, float] = dict.fromkeys((4, 6, 9), 0.0)
    for effects in several:
        rows = effects.only(ablation="skip", part="block").to_frame()
        for block, effect in zip(rows["block"], rows["effect"], strict=True):
            size[int(block)] += abs(effect)
    assert ablations.most_needed(several, 2) == sorted(sorted(size, key=lambda b: -size[b])[:2])
    assert ablations.most_needed(several, 9) == [4, 6, 9]


def test_words_and_figure_say_what_the_table_says(found: pd.DataFrame, study: StudyData) -> None:
    lines = ablations.text(found)
    assert lines[0] == (
        "Accuracy changes clearly without the MLP of block 3 (in block 3 clearly more than without "
        "the attention) (n = 20)."
    )
    assert lines[1].startswith("Skipping block 3 changes accuracy by −")
    assert lines[1].count("(no block clearly otherwise)") == 2
    assert (
        "without the attention of block 2 (in block 2 clearly more than without the MLP)"
        in (lines[2])
    )
    assert lines[-1].startswith("Accuracy as a block's contribution") and "block 3" in lines[-1]
    assert "Planted" in ablations.caption(found)
    whole = ablations.figure(found, study)
    assert whole is not None
    shown = [o for o in ablations.SHOWN if o in set(found["outcome"])]
    assert len(whole.axes) == 2 * len(shown) + 2
    ax = ablations.plot(found, "correct", ablations.HALVES)
    marks = {
        (round(float(x), 6), round(float(y), 6), to_hex(line.get_markerfacecolor()) != "#ffffff")
        for line in ax.get_lines()
        if str(line.get_marker()) in "os^"
        for x, y in zip(*map(np.asarray, line.get_data()), strict=True)
    }
    want = set()
    for i, (kind, part) in enumerate(ablations.HALVES):
        for block, row in only(found, "correct", kind, part).iterrows():
            x = float(block) + 0.27 * (i - 1)
            want.add((round(x, 6), round(row["effect"], 6), bool(row["p_holm"] < 0.05)))
    assert marks == want


def test_doses_pass_through_dense_and_end_with_their_names(found: pd.DataFrame) -> None:
    ax = ablations.plot_dose(found, "correct")
    curves = [c for line in ax.get_lines() if (c := np.asarray(line.get_data())).shape[1] > 5]
    assert len(curves) == 2
    for curve in curves:
        assert curve[0].tolist() == [0, 0.25, 0.5, 0.75, 1, 1.5]
        assert curve[1][4] == 0
    assert "block 3" in {text.get_text().strip() for text in ax.texts}


def test_a_study_without_chains_gives_nothing(study: StudyData) -> None:
    empty = StudyData({}, study.scores.iloc[:0], study.diversity.iloc[:0])
    assert len(ablations.table(empty)) == 0 and not ablations.in_store(empty)
    assert ablations.figure(pd.DataFrame(), empty) is None
    assert catalogue.load("ablations").decodes
