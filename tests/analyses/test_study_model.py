"""Analyses decode with a study's own weights, in the precision that they had there."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyses.plumbing.frames import StudyData
from analyses.plumbing.workbench import study_model
from analyses.report.study_comparison import compare_studies
from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from scaling.engines.local import LocalEngine
from scaling.study.variants import DTYPE
from tests.scaling.study.small_study import small_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = ReasoningModel.load("testbed", dtype="bfloat16")
    return small_study(model, tmp_path_factory.mktemp("half") / "study")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study as an earlier version wrote it, which did not say the precision."""
    model = ReasoningModel.load("testbed", dtype="bfloat16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalEngine, "dtype", None)
        return small_study(model, tmp_path_factory.mktemp("earlier") / "study")


@pytest.mark.parametrize("told", [True, False])
def test_the_precision_is_that_of_the_study(folder: Path, earlier: Path, told: bool) -> None:
    study = StudyData.read(folder if told else earlier)
    assert study.meta.get(DTYPE) == ("bfloat16" if told else None)
    assert str(study_model(study.config, study.meta).dtype) == "torch.bfloat16"


@pytest.mark.parametrize("told", [True, False])
def test_other_weights_are_refused(folder: Path, told: bool) -> None:
    study = StudyData.read(folder)
    meta = {**study.meta, "model fingerprint": "0" * 16}
    if not told:
        del meta[DTYPE]
    with pytest.raises(UserError, match="not the one that this study was made with"):
        study_model(study.config, meta)


def test_studies_in_two_precisions_are_told_apart(
    folder: Path, earlier: Path, tmp_path: Path
) -> None:
    whole = small_study(ReasoningModel.load("testbed"), tmp_path / "whole")

    def differing(other: Path) -> list[str]:
        found = compare_studies([whole, other], labels=["whole", "half"])
        return [d.key for d in found.differences["half"]]

    assert DTYPE in differing(folder)
    assert DTYPE not in differing(earlier)  # it does not say it
