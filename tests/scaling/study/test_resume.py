"""Law 4: a study killed at any moment and run again ends with the rows of one that was not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scaling.study.same import disturb, same_rows

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


def test_killed_and_resumed_is_undisturbed(tmp_path: Path) -> None:
    said = disturb(tmp_path, "kill", times=3, seed=0)
    assert said["statuses"] == [0, 0]
    assert said["killed"]
    same_rows(tmp_path / "undisturbed", tmp_path / "disturbed")


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    said = disturb(tmp_path, "kill", times=20, seed=1)
    assert said["statuses"] == [0, 0]
    assert said["killed"] == 20  # every one of them while it was at work
    same_rows(tmp_path / "undisturbed", tmp_path / "disturbed")
