"""A study of a pruned checkpoint says everywhere that its "dense" is not the dense model."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyses.plumbing.frames import StudyData
from analyses.report import page, verdict
from interp.model.reasoning_model import ReasoningModel
from pruning.plan import LayerPlan
from pruning.surgery import prune
from scaling.study.variants import lacking
from tests.scaling.study.small_study import small_study


@pytest.mark.parametrize(
    ("layer_map", "n_dense", "lost"),
    [
        ((0, 1, 2), 3, ()),
        ((0, 2), 4, (1, 3)),
        ((0, 2), None, (1,)),  # without the number of blocks the last one is not missed
        ((), None, ()),
    ],
)
def test_blocks_that_a_map_lacks(
    layer_map: tuple[int, ...], n_dense: int | None, lost: tuple[int, ...]
) -> None:
    assert lacking(layer_map, n_dense) == lost


@pytest.mark.parametrize("blocks", [(), (7, 15)])
def test_the_runner_records_what_the_model_lacks(blocks: tuple[int, ...], tmp_path: Path) -> None:
    model = ReasoningModel.load("testbed")
    if blocks:
        model = prune(model, LayerPlan(removed=blocks, n_blocks=16, name="given"))
    study = StudyData.read(small_study(model, tmp_path / "study"))
    assert study.removed_before == blocks
    said = verdict.headline(study)
    assert ("without blocks 7 and 15" in said) == bool(blocks)
    written = page.write_report(tmp_path / "study").read_text(encoding="utf-8")
    assert ("The model itself is a pruned checkpoint" in written) == bool(blocks)
    assert ("<td>as given, without blocks 7 and 15</td>" in written) == bool(blocks)
    assert ("<td>dense</td>" in written) == (not blocks)
