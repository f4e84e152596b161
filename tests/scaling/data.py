"""Where the real data files lie: $PRUNESCOPE_DATA, or shared/data beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def data_file(name: str) -> Path:
    """The path of a real data file; skips the test where it is not."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("PRUNESCOPE_DATA") or beside)
    if not (folder / name).is_file():
        pytest.skip(f"no {name} in {folder}; set PRUNESCOPE_DATA to the folder of real data")
    return folder / name
