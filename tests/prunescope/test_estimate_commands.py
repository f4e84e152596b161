"""--estimate of every long command: lines come out, nothing is run, mistakes are said first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunescope import cli, commands
from tests.scaling.costs.test_study_costs import QWEN3_8B

LONG = ("study", "score", "prune", "scale", "effects", "judge", "recover", "recover-study")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a configuration and a file of texts."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_8B), encoding="utf-8")
    (tmp_path / "texts.txt").write_text("1 + 1 = 2\n3 + 4 = 7\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_long_command_has_one() -> None:
    for name in LONG:
        assert "estimate" in cli.COMMANDS[name].__dataclass_fields__, name  # type: ignore[union-attr]
    assert "estimate" in commands.Train.__dataclass_fields__


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("score --method evopress --remove 3 --model config.json --machine h200", "by evopress"),
        ("score --compare shortgpt sleb --model config.json --machine a100", "shortgpt, sleb"),
        ("score --texts texts.txt --machine cpu", "on 2 texts"),
        ("score --texts texts.txt --model config.json --machine cpu", "4 characters per token"),
        ("score --method sleb --part prompt --benchmarks arithmetic", "measured by a trial"),
        ("prune --remove 2 --method sleb --model config.json --machine h200", "GB"),
        ("prune --out x --blocks 1 --estimate", "Nothing is scored"),
        ("prune --out x --blocks 3 4 7 --repair replaceme --machine cpu", "testbed by replaceme"),
        ("prune --out x --remove 2 --repair llm-streamline --machine h200", "by llm-streamline"),
        ("prune --out x --repair laco --texts texts.txt --machine cpu", "testbed by laco"),
        ("recover --out x --model config.json --blocks 3 --data s1k --preset paper --machine h200",
         "as the paper of s1K counts them"),
        ("recover --blocks 3 --limit 40 --method distill --machine cpu", "writing answers"),
        ("recover --out x --blocks 3 --limit 40 --max-steps 5", "measured by a trial"),
        ("recover-study --quick --machine cpu", "8 models measured"),
        ("testbed train --machine a100", "3.18 M parameters"),
    ],
)  # fmt: skip
def test_an_estimate_runs_nothing(
    words: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.iterdir())
    assert cli.run([*words.split(), *([] if "--estimate" in words else ["--estimate"])]) == 0
    out = capsys.readouterr().out
    assert said in out
    tried = "measured by a trial" in out
    assert ("only a trial was run" if tried else "nothing was run") in out or (
        "Nothing is scored" in out
    )
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("score --machine h200", "--machine without --estimate"),
        ("recover --out x --machine h200", "--machine without --estimate"),
        ("study --machine h200", "--machine without --estimate"),
        ("score --estimate --machine h20", "Did you mean 'h200'"),
        ("testbed train --estimate --machine h20", "Did you mean 'h200'"),
        ("score --estimate --model config.json", "name a machine"),
        ("recover --out x --estimate --model config.json --data s1k", "name a machine"),
        ("recover --out x --estimate --model config.json --machine h200", "without a tokenizer"),
        ("recover --out x --estimate --machine cpu --blocks " + " ".join(map(str, range(16))),
         "Cannot remove 16 blocks of 16"),
        ("recover --out x --estimate --machine cpu --method lorra", "Did you mean 'lora'"),
        ("prune --out x --estimate --remove 0", "at least 1"),
        ("prune --remove 2", "--out is missing"),
        ("recover --blocks 3", "--out is missing"),
        ("judge nowhere --estimate", "There is no study"),
    ],
)  # fmt: skip
def test_mistakes_are_said_before_anything_is_loaded(
    words: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.iterdir())
    assert cli.run(words.split()) == 2
    assert said in capsys.readouterr().err
    assert sorted(here.iterdir()) == before
