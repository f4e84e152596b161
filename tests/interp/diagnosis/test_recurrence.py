"""Recurrence: against definitions written out, and on series that return to where they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.diagnosis.recurrence import (
    LONGEST_MATCH,
    hidden_recurrence,
    lagged_similarity,
    text_recurrence,
)
from interp.errors import UserError


@given(st.lists(st.integers(0, 2), max_size=30))
def test_text_recurrence_is_the_longest_suffix_seen_before(ids: list[int]) -> None:
    want = []
    for t in range(len(ids)):
        best = 0
        for j in range(t):
            n = 0
            while n <= j and ids[j - n] == ids[t - n]:
                n += 1
            best = max(best, n)
        want.append(min(best, LONGEST_MATCH))
    assert text_recurrence(np.array(ids, dtype=np.int64)).tolist() == want


def test_a_long_match_is_capped() -> None:
    assert text_recurrence(np.zeros(100, dtype=np.int64)).max() == LONGEST_MATCH


def test_hidden_recurrence_is_the_closest_earlier_stretch() -> None:
    rng = np.random.default_rng(0)
    streams, window = rng.normal(size=(40, 6)), 4
    got = hidden_recurrence(streams, window=window)
    assert np.isnan(got[: 2 * window - 1]).all()
    for t in range(2 * window - 1, 40):
        now = streams[t - window + 1 : t + 1].mean(0)
        past = [streams[j - window + 1 : j + 1].mean(0) for j in range(window - 1, t - window + 1)]
        cosines = [now @ one / np.linalg.norm(now) / np.linalg.norm(one) for one in past]
        assert got[t] == pytest.approx(max(cosines)), t


def test_a_return_is_seen_before_the_text_repeats() -> None:
    """The same states, in other words: hidden recurrence is one, text recurrence is not."""
    rng = np.random.default_rng(1)
    states = rng.normal(size=(16, 12))
    streams = np.concatenate([states, states])
    assert hidden_recurrence(streams)[-1] == pytest.approx(1)
    assert hidden_recurrence(rng.normal(size=(32, 12)))[-1] < 0.95
    assert text_recurrence(np.arange(32)).max() == 0


def test_similarity_at_a_lag() -> None:
    streams = np.array([[1.0, 0], [0, 1], [2, 0], [0, -3]])
    np.testing.assert_allclose(lagged_similarity(streams, 2), [np.nan, np.nan, 1, -1])
    assert np.isnan(lagged_similarity(streams, 9)).all()
    assert np.isnan(hidden_recurrence(streams)).all(), "too short for two stretches"


def test_senseless_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="window=0"):
        hidden_recurrence(np.zeros((3, 2)), window=0)
    with pytest.raises(UserError, match="lag=0"):
        lagged_similarity(np.zeros((3, 2)), 0)
