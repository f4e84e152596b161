"""Endings, extraction and equal cost: the report shows what `scaling` counts, number by number."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from analyses import endings, equal_cost, extraction, sequential_scaling
from analyses.plumbing import style
from analyses.plumbing.frames import StudyData, largest_budget
from scaling.curves.outcomes import ended


def test_endings_are_counted_chain_by_chain(study: StudyData) -> None:
    found = endings.table(study)
    rows = largest_budget(study.rows("accuracy"))
    rows = rows[rows["scoring"] == "generate"]
    assert "recall" in set(study.rows("accuracy")["benchmark"])  # scored, nothing written
    assert "recall" not in set(found["benchmark"])
    assert found["chains"].sum() == len(rows)
    rows = rows.assign(end=ended(rows))
    keys = ["benchmark", "variant", "end", "outcome"]
    counts = rows.groupby(keys).size()
    for row in found.to_dict("records"):
        assert row["chains"] == counts.get(tuple(row[k] for k in keys), 0)
    shares = found.groupby(["benchmark", "variant"])["share"].sum()
    np.testing.assert_allclose(shares, 1.0)


def test_bars_of_endings_are_the_shares(study: StudyData) -> None:
    found = endings.table(study)
    ax = endings.plot(found, "countdown-4", study)
    bars: Any = ax.patches
    widths = sorted(round(bar.get_width(), 9) for bar in bars)
    part = found[found["benchmark"] == "countdown-4"]
    assert widths == sorted(round(float(v), 9) for v in part["share"])
    (line,) = endings.text(found)
    looped = part[(part["end"] == "looped") & (part["outcome"] == "correct")]
    assert looped["chains"].sum() == 0  # a loop was made to have no answer
    assert "0% of the" in line and "looped" in line


def test_readings_stand_side_by_side(study: StudyData) -> None:
    found = extraction.table(study)
    rows = endings.generated(study)
    one = found[(found["benchmark"] == "countdown-4") & (found["variant"] == "shortgpt-2")].iloc[0]
    own = rows[(rows["benchmark"] == "countdown-4") & (rows["variant"] == "shortgpt-2")]
    assert one["strict"] == pytest.approx((own["strict_outcome"] == "correct").mean())
    assert one["lenient"] == pytest.approx((own["lenient_outcome"] == "correct").mean())
    assert extraction.text(found) == [f"The two readings differ on 0 of {len(rows):,} chains."]
    other = found.assign(saved=[3, *[0] * (len(found) - 1)], disagree=1)
    assert "3 of" in extraction.text(other)[0]
    assert extraction.figure(found, study) is None  # nothing differs: the sentence says it
    alone = other.assign(disagree=(other["benchmark"] == "recall").astype(int))
    drawn = extraction.figure(other, study)
    assert drawn is not None and len(drawn.axes) == other["benchmark"].nunique()
    few = extraction.figure(alone.assign(disagree=alone.index == 0), study)
    assert few is not None and len(few.axes) == 1
    ax = extraction.plot(found, "countdown-4", study)
    drawn = {round(float(np.atleast_1d(line.get_xdata())[0]), 6) for line in ax.get_lines()}
    assert round(float(one["lenient"]), 6) in drawn


def test_equal_cost_is_that_of_the_measurement(study: StudyData) -> None:
    found = equal_cost.table(study)
    kept = sequential_scaling.equal_cost(study)
    assert len(found) == len(kept)
    assert set(found["variant"]) == {v for v, _, _ in study.variants} - {"dense"}
    told = found[(found["benchmark"] == "countdown-4") & found["difference"].notna()]
    ax = equal_cost.plot(found, "countdown-4", "spent", study)
    drawn = np.concatenate([np.atleast_1d(line.get_ydata()) for line in ax.get_lines()])
    heights = {round(float(y), 9) for y in drawn}
    for name, _, _ in sequential_scaling.drawn(study):
        for value in told.loc[told["variant"] == name, "difference"]:
            assert round(float(value), 9) in heights
    (line,) = equal_cost.text(found)
    clear = found[(found["p_holm"] < 0.05) & (found["difference"] < 0)]
    assert f"{len(clear)} are clearly below dense" in line


@pytest.mark.parametrize("ratio", [1.0, 1.04, 1.3, 2.0, 8.0])
@pytest.mark.parametrize("unit", ["", "s"])
def test_labels_of_costs_do_not_touch(study: StudyData, ratio: float, unit: str) -> None:
    found = equal_cost.table(study)
    axis = "seconds" if unit else "spent"
    part = found[(found["benchmark"] == "countdown-4") & (found["axis"] == "spent")]
    part = part[part["difference"].notna()].copy()
    part["axis"] = axis
    part["cost"] = np.geomspace(0.21, 0.21 * ratio, len(part)) * (1 if unit else 1.15e9)
    with style.style():
        whole, (ax, *_) = style.panels(3, columns=3, width=3.6, height=3.1)
        equal_cost.plot(part, "countdown-4", axis, study, ax)
        whole.draw_without_rendering()
        boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
        names = [text.get_window_extent() for text in ax.texts]
        zero = next(line for line in ax.get_lines() if set(np.atleast_1d(line.get_ydata())) == {0})
        end = zero.get_window_extent().x1
    assert 1 <= len(boxes) <= 3
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert names
    assert all(box.x0 >= end - 1 for box in names)  # the line of dense strikes no name through
