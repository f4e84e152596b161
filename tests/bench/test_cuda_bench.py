"""The benchmark for a CUDA machine runs to its end without one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from bench import cuda


@pytest.mark.skipif(torch.cuda.is_available(), reason="a dry run on the CPU")
def test_a_dry_run_measures_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    monkeypatch.setattr(cuda, "GENERATED", 8)
    monkeypatch.setattr(
        sys, "argv", ["bench.cuda", "--shapes", "tiny", "--rows", "6", "--tokens", "40",
                      "--loop-rows", "2", "--skip-tests", "--out", str(file)],
    )  # fmt: skip
    cuda.main()
    found = json.loads(file.read_text())
    assert found == json.loads(capsys.readouterr().out.splitlines()[-1])
    for stage in ("dense", "record", "variants", "generate", "loops"):
        assert isinstance(found[f"tiny {stage}"], dict), found[f"tiny {stage}"]
    assert 0 < found["tiny dense"]["ratio_to_bound"] < 1
    assert found["tiny loops"]["equal_chains"] == "2 of 2"


def test_a_stage_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    stages = cuda.Stages(tmp_path / "f.json", minutes=1)

    def broken() -> None:
        raise RuntimeError("no such kernel")

    assert stages.stage("first", broken) is None
    assert stages.stage("second", lambda: {"rate": 1}) == {"rate": 1}
    late = cuda.Stages(tmp_path / "g.json", minutes=-1)
    late.stage("third", lambda: {"rate": 1})
    assert "no time left" in late.figures["third"]
    assert "no such kernel" in json.loads((tmp_path / "f.json").read_text())["first"]
