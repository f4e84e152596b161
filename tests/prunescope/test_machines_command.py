"""--estimate, --machine, --ray, and rescue on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunescope import cli
from prunescope.commands.studies import Rescue
from tests.analyses.fake import write_study

SMALL = ["--benchmarks", "arithmetic", "--limit", "4", "--budgets", "8"]


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "config.json"
    shape = {
        "model_type": "qwen3",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 100,
    }
    file.write_text(json.dumps(shape), encoding="utf-8")
    return file


@pytest.mark.parametrize("command", ["study", "scale", "effects"])
def test_an_estimate_runs_nothing(
    command: str,
    config_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--model", str(config_file), *SMALL, "--estimate", "--machine", "a100"]
    assert cli.run([command, *options]) == 0
    said = capsys.readouterr().out
    assert "nothing was run" in said
    assert "arithmetic" in said
    assert "Assumed:" in said
    assert "A100" in said
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--estimate", "--machine", "h20"], "Did you mean 'h200'"),
        (["--estimate"], "name a machine"),
        (["--estimate", "--machine", "h200", "--methods", "shortgtp"], "'shortgpt'"),
        (["--estimate", "--machine", "h200", "--remove", "8"], "Cannot remove 8 blocks of 8"),
        (["--ray-workers", "2"], "--ray local"),
    ],
)
def test_mistakes_are_said_before_anything_is_loaded(
    options: list[str],
    said: str,
    config_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["study", "--model", str(config_file), *SMALL, *options]) == 2
    assert said in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.chdir(tmp_path)
    assert cli.run(["study", *SMALL, "--ray", "127.0.0.1:1"]) == 2
    assert "Nothing answers at '127.0.0.1:1'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rescue_copies_and_says_how_to_go_on(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    lines = list(Rescue(study=study, out=tmp_path / "new").run())
    assert any("chains" in line for line in lines)
    assert lines[-1].endswith(f"--out {tmp_path / 'new'}")
