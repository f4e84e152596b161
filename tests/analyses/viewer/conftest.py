"""Open studies for the tests of the viewer: a hostile one, and a real one of the reasoner."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from analyses.viewer.viewed_study import ViewedStudy
from scaling.store.study_file import FILE
from tests.analyses.viewer.hostile import TEXT, write_hostile_study


@pytest.fixture(scope="package")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewedStudy]:
    folder = write_hostile_study(tmp_path_factory.mktemp("hostile") / "study")
    with ViewedStudy(folder, text=TEXT, index_folder=folder.parent) as study:
        study.index_now()
        yield study


@pytest.fixture(scope="package")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three problems, dense and without block 0, decoded by the bundled reasoner."""
    from interp.model.reasoning_model import ReasoningModel
    from scaling.engines.local import LocalEngine
    from scaling.study.config import StudyConfig
    from scaling.study.runner import run_study

    folder = tmp_path_factory.mktemp("real") / "study"
    config = StudyConfig(
        benchmarks=("arithmetic",), limit=3, budgets=(12, 48), methods=("reverse-order",),
        remove=(2,), waits=(), blocks=False, out=folder,
    )  # fmt: skip
    run_study(config, engine=LocalEngine(ReasoningModel.load("testbed")))
    return folder


@pytest.fixture
def damaged(real_folder: Path, tmp_path: Path) -> Path:
    """The real study, one of whose problems has changed since it was written."""
    folder = tmp_path / "damaged"
    shutil.copytree(real_folder, folder)
    with closing(sqlite3.connect(folder / FILE)) as db, db:
        db.execute("UPDATE problems SET question = question || '?' WHERE position = 1")
    return folder


@pytest.fixture(scope="package")
def real(real_folder: Path) -> Iterator[ViewedStudy]:
    with ViewedStudy(real_folder, measure=True, index_folder=real_folder.parent) as study:
        study.index_now()
        yield study
