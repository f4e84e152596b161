"""The made-up study, written once for all tests of the analyses."""

from pathlib import Path

import pytest
from filelock import FileLock

from analyses.plumbing.frames import StudyData
from analyses.report.page import write_report
from tests.analyses.fake import text, write_study


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def study(folder: Path) -> StudyData:
    return StudyData.read(folder)


@pytest.fixture(scope="session")
def report_page(folder: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The report of the made-up study, written once for all processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    whole = (base if worker_id == "master" else base.parent) / "report of the made-up study"
    with FileLock(f"{whole}.lock"):
        if not whole.exists():
            write_report(folder, base / "report in the making", text=text).parent.rename(whole)
    return whole / "report.html"
