"""`prunescope recover`: options in, one call, the checkpoint's place out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from interp.errors import UserError
from prunescope import cli
from prunescope.commands import Recover
from recovery.recovery_config import RecoveryConfig
from tests.recovery.small import saved
from tests.recovery.test_data import written

ASKED = {"role": "user", "content": "what is 3 + 4 ?"}
SAID = {"role": "assistant", "content": "<think> 3 + 4 = 7 </think> 7"}
RECORD = {"messages": [ASKED, SAID]}


def test_a_pruned_model_is_trained_and_goes_into_the_next_command(
    tmp_path: Path, capsys: Any
) -> None:
    base = saved(tmp_path / "tiny")
    data = written(tmp_path / "data.jsonl", *[{**RECORD, "id": i} for i in range(8)])
    out = tmp_path / "run"
    code = cli.run(["recover", "--model", str(base), "--blocks", "2", "--method", "lora",
                    "--rates", "1e-3", "--max-steps", "2", "--batch", "2", "--held-out", "0",
                    "--data", str(data), "--out", str(out)])  # fmt: skip
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "Overlap with evaluation problems was not checked" in said.out
    assert "Rate 1.0e-03: 2 steps" in said.out
    assert f"Checkpoint: {out / 'model'}" in said.out
    assert f"Adapter: {out / 'adapter'}" in said.out
    assert re.search(r"^[\w -]+: \d+ %", said.err, re.MULTILINE)  # progress, without a terminal
    lines = [json.loads(x) for x in (out / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 2
    assert cli.run(["prune", "--model", str(out / "model"), "--blocks", "3",
                    "--out", str(tmp_path / "less")]) == 0  # fmt: skip
    record = json.loads((tmp_path / "less" / "pruning.json").read_text(encoding="utf-8"))
    assert record["layer_map"] == [0, 1]


def test_options_become_settings() -> None:
    out = Path("x")
    plain = Recover(out=out)._config()
    assert plain == RecoveryConfig("lora")
    paper = Recover(out=out, method="full", preset="paper", batch=8)._config()
    assert (paper.epochs, paper.batch, paper.context) == (5.0, 8, 32768)
    off = Recover(out=out, method="distill", off_policy=True, no_merge=True, packing=True)._config()
    assert (off.on_policy, off.merge, off.packing) == (False, False, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "lorra"], "Did you mean 'lora'"),
        (["--plan", "x.json"], "there is no such file"),
        (["--plan", "x.json", "--blocks", "1"], "not by both"),
        (["--data", "nowhere.jsonl"], "No file 'nowhere.jsonl'"),
        (["--preset", "papers"], "Did you mean 'paper'"),
        (["--blocks", "99", "--data", "FILE"], "block 99 is not there"),
        (["--blocks", "1"], "words of the bundled reasoner"),
    ],
)
def test_a_mistake_is_said(options: list[str], said: str, tmp_path: Path, capsys: Any) -> None:
    base = saved(tmp_path / "tiny")
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps({"question": "what is 2 + 3 ?", "answer": "5"}), encoding="utf-8")
    options = [str(file) if word == "FILE" else word for word in options]
    assert cli.run(["recover", "--model", str(base), "--out", str(tmp_path / "o"), *options]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_what_is_measured_is_the_testbeds_unless_it_is_named(tmp_path: Path) -> None:
    from recovery.overlap import measured_benchmarks

    names = [b.name for b in measured_benchmarks("testbed", "s1k")]
    assert "countdown-4" in names
    assert [b.name for b in measured_benchmarks("other", "testbed:arithmetic")] == names
    assert measured_benchmarks("other", "s1k") == []
    file = tmp_path / "mine.jsonl"
    file.write_text('{"id": "a", "question": "2 + 2?", "answer": "4"}\n', encoding="utf-8")
    found = measured_benchmarks("other", "s1k", ["arithmetic"], {"jsonl:numeric": str(file)})
    assert [b.name for b in found] == ["arithmetic", "jsonl:numeric"]
    with pytest.raises(UserError, match="Did you mean 'arithmetic'"):
        measured_benchmarks("other", "s1k", ["arithmetik"])
