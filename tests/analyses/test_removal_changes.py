"""When a change is called clear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyses.plumbing.outcome_columns import BY_COLUMN
from analyses.report.removal_changes import Change
from interp.statistics import paired_difference


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nothing_is_clear_that_its_interval_does_not_carry(sign: float) -> None:
    values = np.concatenate([np.full(12, 0.1), [5.0], np.zeros(10)])  # one problem makes it wide
    found = paired_difference((sign * values)[:, None], np.zeros((23, 1)))
    assert found.p < 0.05
    assert found.low < 0 < found.high
    change = Change("v", "b", BY_COLUMN["thinking_tokens"], found, found.p, 1)
    assert not change.clear
    apart = replace(found, low=0.1, high=0.3) if sign > 0 else replace(found, low=-0.3, high=-0.1)
    assert replace(change, found=apart).clear
    assert not replace(change, found=apart, p=0.2).clear
