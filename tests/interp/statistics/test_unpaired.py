"""Differences of independent groups: the p value is the share of relabellings as far apart."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.statistics import unpaired_difference

VALUES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=4)


@given(VALUES, VALUES)
@settings(deadline=None, max_examples=60)
def test_the_p_value_is_that_of_all_relabellings(one: list[float], two: list[float]) -> None:
    both = one + two
    found = unpaired_difference(np.array(one), np.array(two))
    apart = []
    for chosen in combinations(range(len(both)), len(one)):
        mine = [both[i] for i in chosen]
        rest = [x for i, x in enumerate(both) if i not in chosen]
        apart.append(abs(np.mean(mine) - np.mean(rest)))
    share = np.mean(np.array(apart) >= abs(np.mean(one) - np.mean(two)) - 1e-9)
    assert found.p == pytest.approx(share)
    assert found.value == pytest.approx(np.mean(two) - np.mean(one))


@pytest.mark.parametrize("turned", [False, True])
def test_one_against_many(turned: bool) -> None:
    """As where a single loop of a kind is compared with all chains that do not loop."""
    sides = [np.zeros(9), np.ones(1)]
    found = unpaired_difference(*(sides[::-1] if turned else sides))
    assert found.p == pytest.approx(0.1)
    assert found.value == (-1.0 if turned else 1.0)
    assert -1 <= found.low <= found.value <= found.high <= 1
    amounts = unpaired_difference(
        np.array([0.5]), np.array([2.0, 3.0])
    )  # one says nothing of its spread
    assert math.isnan(amounts.low) and amounts.p == pytest.approx(1 / 3)
