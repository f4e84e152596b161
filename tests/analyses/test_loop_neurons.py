"""One neuron that holds a loop: the whole analysis on a model in which there is one."""

from __future__ import annotations

import pandas as pd
import pytest

from analyses import loop_neurons
from analyses.plumbing import workbench
from analyses.plumbing.frames import StudyData
from analyses.plumbing.workbench import Workbench
from tests.analyses.test_time_maps import singles
from tests.planted import CLOSER, Planted, PlantedBench

PLANTED = Planted(n_blocks=4, closer=2, decoys=1, ends=-4.0)
SMALL = {"TRIED": 6, "PROBLEMS": 24, "LOOPING": 16, "SHORTLIST": 3, "TESTED": 2, "CONTROLS": 3}


def computed(planted: Planted, study: StudyData) -> pd.DataFrame:
    bench = PlantedBench.made(planted, study, problems=24, thinking=80)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workbench, "of", classmethod(lambda *_: bench))
        patch.setattr(workbench, "candidates", lambda bench: singles(bench)[1:2])
        for name, value in SMALL.items():
            patch.setattr(loop_neurons, name, value)
        return loop_neurons._compute(study, {"benchmark": "planted", "thinking": 80})


@pytest.fixture(scope="module")
def found(study: StudyData) -> pd.DataFrame:
    return computed(PLANTED, study)


def test_the_planted_neuron_is_named_and_no_other(found: pd.DataFrame) -> None:
    named = found[found["p_holm"] < 0.05]
    assert set(zip(named["block"], named["neuron"], strict=True)) == {(2, CLOSER)}
    assert (named["value"] > 0.5).all() and (found["n_neurons"] >= 24).all()
    bases = list(dict.fromkeys(found["base"]))
    assert len(bases) == 2 and bases[1] == bases[0].replace("skip", "skip attention")
    assert bases[0] == "skip 1" and 1 not in set(found.loc[found["base"] == bases[0], "block"])
    assert 1 in set(found.loc[found["base"] == bases[1], "block"]), "its own neurons are tried"


def test_words_and_figure_say_what_the_table_says(found: pd.DataFrame, study: StudyData) -> None:
    lines = loop_neurons.text(found)
    assert len(lines) == 2
    assert all(f"neuron {CLOSER} of block 2 ends 1.00 [" in line for line in lines), lines
    assert all("clearly more than random" in line for line in lines)
    assert "Planted" in loop_neurons.caption(found)
    whole = loop_neurons.figure(found, study)
    assert whole is not None and len(whole.axes) == 2
    none = found.assign(p_holm=1.0)
    assert "not clearly more than" in loop_neurons.text(none)[0]


def test_what_does_not_loop_gives_nothing(study: StudyData) -> None:
    assert len(computed(Planted(n_blocks=2, ends=-4.0), study)) == 0
    empty = StudyData({}, study.scores.iloc[:0], study.diversity.iloc[:0])
    assert len(loop_neurons.table(empty)) == 0 and not loop_neurons.in_store(empty)
    assert loop_neurons.figure(pd.DataFrame(), empty) is None
