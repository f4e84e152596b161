"""Alarms: a change at a known point is found, and no change is called one at the stated rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.diagnosis.cusum import NEVER, EarlyWarning, cusum_path, early_warning
from interp.errors import UserError

LENGTH, CHANGE, ONSET = 200, 80, 120


def noise(rng: np.random.Generator, n: int, size: int = LENGTH) -> list[np.ndarray]:
    """Series with memory, as the statistics of a chain have."""
    shocks = rng.normal(size=(n, size + 20))
    made = np.zeros_like(shocks)
    for t in range(1, size + 20):
        made[:, t] = 0.5 * made[:, t - 1] + shocks[:, t]
    return list(made[:, 20:])


def watched(seed: int, shift: float, events: int = 20, controls: int = 60) -> EarlyWarning:
    rng = np.random.default_rng(seed)
    series = noise(rng, events + controls)
    for one in series[:events]:
        one[CHANGE:] += shift
    onsets = [ONSET] * events + [None] * controls
    return early_warning(series, onsets, [f"p{i}" for i in range(len(series))], seed=seed)


@pytest.mark.parametrize("shift", [3.0, -3.0])
def test_a_known_change_is_found_soon_after_it(shift: float) -> None:
    found = watched(0, shift)
    assert found.detected().value == 1
    leads = found.leads()
    assert (leads > 0).all() and abs(float(np.median(leads)) - (ONSET - CHANGE)) < 15
    beyond = found.beyond_chance()
    assert beyond is not None and beyond.low > 0.5 and beyond.p < 1e-6
    whole = found.beyond_controls()
    assert whole.low > 0.5 and whole.value == pytest.approx(1 - found.false_alarms().value)
    frame = found.to_frame()
    assert (frame["part"] == "event").sum() == 20 and frame["lead"].notna().sum() == 20


def test_the_cells_of_a_row_and_some_of_the_events() -> None:
    found = watched(0, 3.0)
    row, beyond = found.cells(), found.beyond_chance()
    assert beyond is not None and (row["value"], row["p"]) == (beyond.value, beyond.p)
    assert (row["n"], row["detected"], row["chance"]) == (20, 1.0, beyond.dense)
    assert row["lead"] == np.median(found.leads())
    whole = found.cells(whole=True)
    assert whole["value"] == found.beyond_controls().value
    assert whole["false_alarms"] == row["false_alarms"] == found.false_alarms().value
    mask = np.zeros(len(found.problems), dtype=bool)
    mask[[0, 3]] = True
    few = found.only(mask)
    assert few.cells()["n"] == 2 and few.cells()["n_controls"] == row["n_controls"]
    assert few.problems[:2] == ("p0", "p3") and len(few.problems) == 62
    assert few.onsets[:2].tolist() == found.onsets[[0, 3]].tolist()


def test_without_a_change_alarms_keep_to_the_stated_rate() -> None:
    """False alarms of new chains, and the p value of detections that are none."""
    runs = [watched(seed, 0.0) for seed in range(150)]
    assert np.mean([r.false_alarms().value for r in runs]) == pytest.approx(0.1, abs=0.02)
    p = np.array([r.hazard_p() for r in runs])
    assert np.mean(p < 0.05) <= 0.07
    gains = [b.value for r in runs if (b := r.beyond_chance()) is not None]
    assert abs(np.mean(gains)) < 0.02, "shorter exposure to false alarms is not a gain"


def test_longer_chains_are_no_evidence() -> None:
    """Chains with the event are watched far longer; chance is taken at the same length."""
    rng = np.random.default_rng(3)
    p = []
    for seed in range(120):
        series = noise(rng, 20, 400) + noise(rng, 40, 400) + noise(rng, 40, 40)
        onsets = [390] * 20 + [None] * 80
        names = [f"p{i}" for i in range(100)]
        p.append(early_warning(series, onsets, names, seed=seed).hazard_p())
    assert np.mean(np.array(p) < 0.05) <= 0.075


@given(st.lists(st.floats(-5, 5), max_size=40), st.floats(0, 2))
def test_the_sum_is_pages_recursion(values: list[float], drift: float) -> None:
    up = down = 0.0
    want = []
    for value in values:
        up, down = max(0.0, up + value - drift), max(0.0, down - value - drift)
        want.append(max(up, down))
    got = cusum_path(np.array(values, dtype=float), 0.0, 1.0, drift)
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_missing_numbers_add_nothing() -> None:
    path = cusum_path(np.array([2.0, np.nan, 2.0]), 0.0, 1.0)
    np.testing.assert_allclose(path, [1.5, 1.0, 2.5])


def test_a_constant_statistic_never_raises_an_alarm() -> None:
    series = [np.ones(30)] * 50
    found = early_warning(series, [20] * 10 + [None] * 40, [f"p{i}" for i in range(50)])
    assert (found.alarms == NEVER).all() and found.hazard_p() == 1
    assert found.leads().size == 0


def test_chance_is_that_of_the_others_still_at_risk() -> None:
    rng = np.random.default_rng(0)
    series = noise(rng, 1, 100) + noise(rng, 40, 30)
    found = early_warning(series, [90] + [None] * 40, [f"p{i}" for i in range(41)])
    assert np.isnan(found.chance()).all() and found.beyond_chance() is None
    assert found.hazard_p() == 1, "the only chain at risk says nothing"
    found = watched(0, 0.0)
    alarms = np.full(len(found.alarms), NEVER)
    event, other = np.flatnonzero(found.events)[:2].tolist()
    control = np.flatnonzero(found.testing)[0]
    alarms[[event, control]] = 5
    told = replace(found, alarms=alarms)
    others = 20 + int(found.testing.sum()) - 1
    assert told.chance()[0] == pytest.approx(1 / others)
    assert told.chance()[int(other)] == pytest.approx(2 / others)
    late = replace(told, alarms=np.where(alarms == 5, ONSET, alarms))
    assert late.chance().max() == 0, "an alarm at the event is too late"


def test_an_alarm_counts_only_before_the_event() -> None:
    found = watched(0, 3.0)
    late = replace(found, onsets=np.where(found.events, CHANGE, found.onsets))
    assert found.alarmed[found.events].all()
    assert late._alarmed_by(np.flatnonzero(found.events), CHANGE).mean() < 0.2


def test_what_cannot_be_watched_is_refused() -> None:
    one, names = [np.zeros(10)] * 3, ["a", "b", "c"]
    cases = [
        (one, [1, None], names, {}, "one of each per chain"),
        (one, [1, None, None], ["a", "b", "b"], {}, "occurs twice"),
        (one, [1, None, None], names, {"rate": 1.0}, "between 0 and 1"),
        (one, [None] * 3, names, {}, "no chain has the event"),
        (one, [11, None, None], names, {}, "lies outside"),
        (one, [1, None, None], names, {}, "at least 18"),
    ]
    for series, onsets, problems, more, said in cases:
        with pytest.raises(UserError, match=said):
            early_warning(series, onsets, problems, **more)
    for wrong in ({"scale": 0.0}, {"scale": 1.0, "drift": -1.0}):
        with pytest.raises(UserError, match="scale > 0"):
            cusum_path(np.zeros(3), 0.0, **wrong)
