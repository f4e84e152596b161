"""How blocks do it: the whole analysis on a model whose blocks are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analyses import mechanism
from analyses.plumbing import copying_heads, workbench
from analyses.plumbing.frames import StudyData
from analyses.plumbing.workbench import Workbench
from interp.statistics import paired_difference
from tests.analyses.test_time_maps import singles
from tests.planted import Planted, PlantedBench

PLANTED = Planted(n_blocks=6, copier=2, brake=4, opener=1)


@pytest.fixture(scope="module")
def found(study: StudyData) -> pd.DataFrame:
    bench = PlantedBench.made(PLANTED, study, problems=20, thinking=64)
    small = {"CHAINS": 12, "TRIED": 6, "LOOPING": 10, "PROBED": 20, "PROBED_SAMPLES": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workbench, "of", classmethod(lambda *_: bench))
        patch.setattr(workbench, "candidates", singles)
        for name, value in small.items():
            patch.setattr(mechanism, name, value)
        patch.setattr(copying_heads, "HEADS", 1)
        patch.setattr(copying_heads, "DRAWS", 6)
        return mechanism._compute(study, {"benchmark": "planted", "thinking": 64})


def top(found: pd.DataFrame, part: str, name: str) -> int:
    rows = found[(found["part"] == part) & (found["name"] == name)]
    assert len(rows), (part, name)
    return int(rows.loc[rows["value"].idxmax(), "block"])


def test_what_is_written_is_traced_to_the_block_that_writes_it(found: pd.DataFrame) -> None:
    assert top(found, "contribution", "reflection") == PLANTED.opener
    assert top(found, "contribution", "loop") == PLANTED.copier
    rows = found[(found["part"] == "contribution") & (found["name"] == "loop, read by dense")]
    brake = rows.loc[rows["block"] == PLANTED.brake, "value"].item()
    assert brake < -5, "the lost block would have spoken against the loop"
    assert set(found["base"]) == {f"skip {PLANTED.brake}"}
    seen = found[(found["part"] == "lens") & (found["name"] == "loop")].set_index("block")["value"]
    assert seen[2] > seen[1] + 0.3


def test_the_copying_head_is_found_and_holds_the_loop(found: pd.DataFrame) -> None:
    heads = found[(found["part"] == "head") & (found["name"] == "induction")]
    best = heads.loc[heads["value"].idxmax()]
    assert (best["block"], best["head"]) == (PLANTED.copier, 0)
    assert PLANTED.brake not in set(heads["block"]), "it is not in the model that looped"
    cut = found[found["part"] == "ablation"].reset_index(drop=True)
    assert cut["name"][0] == f"induction heads {PLANTED.copier}.0"
    assert cut["value"][0] == -1
    random = cut[cut["name"].str.startswith("random")]
    assert len(random) == 6 and random["value"].max() > -0.5
    assert cut["name"].iloc[-1] == "induction less random" and cut["high"].iloc[-1] < 0


def test_rows_of_ablations_are_paired_differences() -> None:
    rng = np.random.default_rng(0)
    stays = rng.integers(0, 2, (4, 20)).astype(float)
    frame = copying_heads.ablations(stays, [(3, 1), (5, 0)])
    assert frame["name"].tolist() == [
        "induction heads 3.1 5.0", "random heads 1", "random heads 2", "random heads 3",
        "induction less random",
    ]  # fmt: skip
    for i in range(4):
        want = paired_difference(np.ones(20), stays[i])
        assert (frame["value"][i], frame["low"][i]) == pytest.approx((want.value, want.low))
    gap = paired_difference(stays[1:].mean(0), stays[0])
    assert (frame["value"][4], frame["p"][4]) == pytest.approx((gap.value, gap.p))
    as_many = (stays[1:].mean(1) <= stays[0].mean()).sum()
    assert frame["p"][0] == pytest.approx((1 + as_many) / 4)


def test_damage_is_the_divergence_of_the_block(found: pd.DataFrame) -> None:
    rows = found[found["part"] == "kl"].pivot(index="block", columns="name", values="value")
    assert set(rows.columns) == {"along dense", "along its own", "drift"}
    np.testing.assert_allclose(
        rows["drift"], rows["along its own"] - rows["along dense"], atol=1e-9
    )
    assert (rows["along dense"] > 0).all()
    assert rows["along its own"].idxmax() in (PLANTED.copier, PLANTED.brake)


def test_words_and_figure(found: pd.DataFrame, study: StudyData) -> None:
    lines = mechanism.text(found)
    assert f"reflection: block {PLANTED.opener} (" in lines[0]
    assert f"Without the induction heads {PLANTED.copier}.0" in lines[1]
    assert "skip 4" in mechanism.caption(found)
    whole = mechanism.figure(found, study)
    assert whole is not None and len(whole.axes) == found["part"].nunique()


def test_probes_with_too_few_events_are_left_out(found: pd.DataFrame) -> None:
    """Some answers here are wrong by chance alone: a probe there must be at chance."""
    rows = found[(found["part"] == "probe") & (found["name"].str.startswith("wrong"))]
    assert not (rows["p_holm"] < 0.01).any()


def test_a_study_without_chains_gives_nothing(study: StudyData) -> None:
    empty = StudyData({}, study.scores.iloc[:0], study.diversity.iloc[:0])
    assert len(mechanism.table(empty)) == 0 and not mechanism.in_store(empty)
    assert mechanism.figure(pd.DataFrame(), empty) is None
