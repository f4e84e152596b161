"""Where reflection is made: the whole analysis on a model in which one block writes its word."""

from __future__ import annotations

import pandas as pd
import pytest

from analyses import reflection_origin
from analyses.plumbing.frames import StudyData
from analyses.plumbing.workbench import Workbench
from interp.counterfactuals import reflection_onset
from interp.errors import UserError
from tests.planted import Planted, PlantedBench

OPENER = 2
PLANTED = Planted(n_blocks=5, opener=OPENER, heeds=True, ends=-4.0)


def computed(planted: Planted, study: StudyData, problems: int = 48) -> pd.DataFrame:
    bench = PlantedBench.made(planted, study, problems=problems, thinking=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workbench, "of", classmethod(lambda *_: bench))
        patch.setattr(reflection_origin, "PROBLEMS", problems)
        patch.setattr(reflection_origin, "RANDOM", 2)
        return reflection_origin._compute(study, {"benchmark": "planted", "thinking": 64})


@pytest.fixture(scope="module")
def found(study: StudyData) -> pd.DataFrame:
    return computed(PLANTED, study)


def test_words_rise_at_the_planted_block(found: pd.DataFrame) -> None:
    at = found[(found["part"] == "words") & (found["when"] == "at")]
    assert set(at["name"]) == {"overt"}, "no word of the other stages is in the vocabulary"
    assert at.loc[at["p_holm"] < 0.05, "block"].min() == OPENER
    told = found[found["part"] == "direction"]
    told = told.set_index("block")["value"]
    assert (told[[2, 3, 4]] > 0.8).all() and (told[[0, 1]] < 0.75).all()


def test_the_direction_steers_and_random_ones_do_not(found: pd.DataFrame) -> None:
    rows = found[(found["part"] == "steering") & (found["outcome"] == "reflections")]
    assert set(rows["block"]) <= {0, 1, 2, 3} and set(rows["when"]) == {"-1", "+1"}
    gap = rows[rows["name"] == "direction less random"].set_index(["block", "when"])
    clear = gap[gap["p_holm"] < 0.05]
    assert (clear["value"] > 0).any() and (clear.loc[clear["value"] > 0].index.get_level_values(1)
                                           == "+1").all()  # fmt: skip
    random = rows[rows["name"] == "random"]
    assert random["value"].abs().max() < gap["value"].max()
    assert (rows["n"] == 24).all(), "half of the problems are steered"


def test_ruled_out_words_are_gone_and_nothing_else_is(found: pd.DataFrame) -> None:
    rows = found[found["part"] == "suppress"].set_index(["name", "outcome"])
    assert set(rows.index.get_level_values(0)) == {"reflection"}, "verification has the same words"
    gone = rows.loc["reflection", "reflections"]
    assert gone["after"] == 0 and gone["before"] > 0.5 and gone["p_holm"] < 0.05
    assert rows.loc["reflection", "correct"]["p_holm"] > 0.05


def test_words_and_figure_say_what_the_table_says(found: pd.DataFrame, study: StudyData) -> None:
    lines = reflection_origin.text(found)
    assert f"overt words clearly from block {OPENER} " in lines[0]
    assert any(line.startswith("Added to block") for line in lines)
    assert any(line.startswith("Without the words of reflection") for line in lines)
    none = reflection_origin.text(found.assign(p_holm=1.0))
    assert any(line.startswith("No direction") for line in none) and "nowhere" in none[0]
    unused = found["part"] == "suppress"  # words that no chain has
    still = found.assign(**{c: found[c].mask(unused, 0.0) for c in ("value", "low", "high")})
    assert any("open nothing here" in line for line in reflection_origin.text(still))
    assert "Planted" in reflection_origin.caption(found)
    whole = reflection_origin.figure(found, study)
    assert whole is not None and len(whole.axes) == 7


def test_reflections_without_a_like_place_can_still_be_ruled_out(
    found: pd.DataFrame, study: StudyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of real models on few problems: half of the work was thrown away with the other half."""

    def none(*_: object) -> None:
        raise UserError("no reflection has a place to be compared with")

    monkeypatch.setattr(reflection_onset, "reflection_pairs", none)
    alone = computed(PLANTED, study)
    whole = found[found["part"] == "suppress"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.drop(columns="pairs"), whole.drop(columns="pairs"))
    assert (alone["pairs"] == 0).all()
    lines = reflection_origin.text(alone)
    assert lines[0].startswith("Too few reflections") and lines[1].startswith("Without the words")
    drawn = reflection_origin.figure(alone, study)
    assert drawn is not None and len(drawn.axes) == 2


def test_what_does_not_reflect_gives_nothing(study: StudyData) -> None:
    assert len(computed(Planted(n_blocks=2, ends=4.0), study, problems=4)) == 0
    empty = StudyData({}, study.scores.iloc[:0], study.diversity.iloc[:0])
    assert len(reflection_origin.table(empty)) == 0 and not reflection_origin.in_store(empty)
    assert reflection_origin.figure(pd.DataFrame(), empty) is None
