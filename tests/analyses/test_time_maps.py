"""When each block is needed: the whole analysis on a model whose blocks are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import time_maps
from analyses.plumbing import workbench
from analyses.plumbing.frames import StudyData
from analyses.plumbing.workbench import Workbench, fitting_budget, longest_solved, most_looping
from interp.diagnosis.loops import Loop
from interp.interventions.interventions import Skip, Variant
from tests.chains import make_chain
from tests.planted import Planted, PlantedBench

PLANTED = Planted(n_blocks=4, copier=1, brake=2, answerer=3)


def singles(bench: Workbench) -> list[Variant]:
    return [Variant(f"skip {b}", (Skip(b),)) for b in bench.model.layer_map]


@pytest.fixture(scope="module")
def bench(study: StudyData) -> PlantedBench:
    return PlantedBench.made(PLANTED, study, problems=24, thinking=64)


@pytest.fixture(scope="module")
def found(bench: PlantedBench, study: StudyData) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workbench, "of", classmethod(lambda *_: bench))
        patch.setattr(workbench, "candidates", singles)
        patch.setattr(time_maps, "PROBLEMS", 20)
        patch.setattr(time_maps, "TRIED", 6)
        patch.setattr(time_maps, "LOOPING", 10)
        return time_maps._compute(study, {"benchmark": "planted", "thinking": 64})


def clear(found: pd.DataFrame, part: str, window: str, outcome: str) -> set[int]:
    rows = found[(found["part"] == part) & (found["window"] == window)]
    rows = rows[rows["outcome"] == outcome]
    assert len(rows), (part, window)
    return set(rows.loc[rows["p_holm"] < 0.05, "block"].astype(int))


def test_the_analysis_names_the_blocks_that_were_planted(found: pd.DataFrame) -> None:
    for window, blocks in (("whole", {3}), ("answer", {3}), ("prompt", set()), ("0-15", set())):
        assert clear(found, "map", window, "correct") == blocks, window
    assert clear(found, "map", "whole", "looped") == {2}
    assert clear(found, "lose", "from 25%", "looped") == {2}
    ahead = found[(found["part"] == "before") & (found["outcome"] == "looped")].set_index("block")
    assert set(ahead.index) == {0, 1, 3}, "the block that the variant lacks is not lost again"
    assert (ahead["before"] == 1).all() and (ahead["base"] == "skip 2").all()
    assert (ahead["reached"] > 0.5).all() and (ahead["passes"] <= 16).all()
    points = set(found.loc[found["part"] == "restore", "window"])
    assert len(points) == 2
    for point in points:
        assert clear(found, "restore", point, "looped") == {2}
    assert set(found.loc[found["part"] == "restore", "base"]) == {"skip 2"}
    assert (found["reproduced"].dropna() == 1).all()


def test_the_variant_that_loops_most_is_found(bench: PlantedBench) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workbench, "candidates", singles)
        got = most_looping(bench, 6, 10)
        assert got.variant is not None and got.variant.name == "skip 2"
        assert len(got.chains) == 10 and 0 < len(got.looping) <= 10
        assert all(bench.loop(chain) is not None for chain in got.looping)
        patch.setattr(workbench, "candidates", lambda b: singles(b)[:1])
        assert most_looping(bench, 4, 8).variant is None


class CountedLoops(Workbench):
    """A bench without a model: of `skip b`, the chains of the first `loops[b]` problems loop."""

    loops: tuple[int, ...]
    decoded: list[str]

    def __init__(self, loops: tuple[int, ...]) -> None:
        self.__dict__.update(loops=loops, decoded=[])

    def decode(self, variants: Any, problems: int, *_: Any, **__: Any) -> Any:
        self.decoded.extend(v.name for v in variants)
        return {
            v.name: [make_chain([1], variant=v.name, problem=str(i)) for i in range(problems)]
            for v in variants
        }

    def loop(self, chain: Any) -> Any:
        block = int(chain.variant.removeprefix("skip "))
        return Loop("exact", 0, 2, 3, 1) if int(chain.problem) < self.loops[block] else None


@pytest.mark.parametrize(
    ("loops", "spared", "chosen"),
    [
        ((1, 10, 7, 8), 0.0, 1),
        ((1, 10, 7, 8), 0.2, 3),
        ((1, 10, 7, 9), 0.2, 2),
        ((10, 9, 10, 9), 0.2, 0),  # none leaves enough: the one that loops most
        ((10, 9, 9, 9, 2), 0.2, 0),  # it gives way three times, and not for ever
        ((0, 0), 0.2, None),
    ],
)
def test_one_that_loops_too_much_gives_way(
    loops: tuple[int, ...], spared: float, chosen: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = [Variant(f"skip {b}", (Skip(b),)) for b in range(len(loops))]
    monkeypatch.setattr(workbench, "candidates", lambda _: variants)
    bench: Any = CountedLoops(loops)
    got = most_looping(bench, 10, 10, spared=spared)
    if chosen is None:
        assert got.variant is None
    else:
        assert got.variant is variants[chosen]
        assert len(got.chains) == 10 and len(got.looping) == loops[chosen]
    assert len(bench.decoded) <= len(loops) + 4


def test_words_and_figure_say_what_the_table_says(found: pd.DataFrame, study: StudyData) -> None:
    lines = time_maps.text(found)
    assert "whole: 3 (" in lines[0] and "answer: 3 (" in lines[0]
    assert any(line.startswith("Losing block 2") and "starts loops" in line for line in lines)
    assert any(line.startswith("Giving back block 2 to skip 2") for line in lines)
    assert "planted" in time_maps.caption(found)
    whole = time_maps.figure(found, study)
    assert whole is not None
    windows = found.loc[found["part"] == "map", "window"].nunique()
    assert len(whole.axes) == windows + 3 + 1 + 1
    ax = time_maps.plot(found, "map", "answer", "correct")
    rows = found[(found["part"] == "map") & (found["window"] == "answer")]
    rows = rows[rows["outcome"] == "correct"]
    drawn = {
        (int(x), round(float(y), 9))
        for line in ax.get_lines()
        if line.get_marker() == "o"
        for x, y in zip(*map(np.asarray, line.get_data()), strict=True)
    }
    want = zip(rows["block"], rows["effect"].round(9), strict=True)
    assert drawn == {(int(b), float(e)) for b, e in want}


def test_the_benchmark_is_the_longest_that_dense_solves(study: StudyData) -> None:
    assert longest_solved(study) == "countdown-4"
    rows = study.rows("accuracy").copy()
    hard = rows["benchmark"] == "countdown-4"
    rows.loc[hard, "correct"] = 0.0
    other = StudyData({"accuracy": rows}, study.scores, study.diversity)
    assert longest_solved(other) == "arithmetic"
    assert longest_solved(StudyData({}, study.scores, study.diversity)) is None


def test_the_budget_is_the_smallest_that_most_dense_chains_end_within(study: StudyData) -> None:
    rows = study.rows("accuracy")
    mine = rows[(rows["benchmark"] == "countdown-4") & (rows["variant"] == "dense")]
    lengths = mine["thinking_tokens"].to_numpy()
    for share in (0.0, 0.5, 0.9, 1.01):
        got = fitting_budget(study, "countdown-4", share)
        fits = [b for b in (64, 128, 256, 512) if np.mean(lengths < b) >= share]
        assert got == (fits[0] if fits else 512)


def test_a_study_without_chains_gives_nothing(study: StudyData) -> None:
    empty = StudyData({}, study.scores.iloc[:0], study.diversity.iloc[:0])
    assert len(time_maps.table(empty)) == 0 and not time_maps.in_store(empty)
    assert time_maps.figure(pd.DataFrame(), empty) is None
