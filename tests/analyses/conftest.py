"""The made-up study, written once for all tests of the analyses."""

from pathlib import Path

import pytest

from analyses.plumbing.frames import StudyData
from tests.analyses.fake import write_study


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def study(folder: Path) -> StudyData:
    return StudyData.read(folder)
