"""import-lm-eval and export-lm-eval: out and in again, and every mistake in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunescope import cli
from scaling.store.study_store import Store

LINE: dict[str, Any] = {
    "doc_id": 0,
    "doc": {"question": "Tom has 1 apple and buys 3. How many?", "answer": "1 + 3.\n#### 4"},
    "target": "4",
    "arguments": {"gen_args_0": {"arg_0": "Q <think>", "arg_1": {"until": ["Q:"]}}},
    "resps": [["1 + 3 = 4 </think> 4"]],
    "filtered_resps": ["4"],
    "filter": "strict-match",
    "metrics": ["exact_match"],
    "exact_match": 0.0,
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "samples_gsm8k.jsonl"
    file.write_text(json.dumps(LINE) + "\n", encoding="utf-8")
    return file


def importing(log: Path, out: Path, *more: str) -> list[str]:
    return ["import-lm-eval", str(log), "--benchmark", "gsm8k", "--model", "testbed",
            "--out", str(out), *more]  # fmt: skip


def test_in_and_out_again(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, logs = tmp_path / "study", tmp_path / "logs"
    assert cli.run(importing(log, out)) == 0
    said = capsys.readouterr().out
    assert "1 chains of dense on gsm8k" in said
    assert "0 are the grader's, 1 are not" in said  # the log calls a right answer wrong
    assert cli.run(importing(log, out, "--variant", "pruned", "--removed", "3", "4")) == 0
    with Store(out, read_only=True) as store:
        rows = store.rows()
    assert dict(zip(rows["variant"], rows["outcome"], strict=True)) == {
        "dense": "correct", "pruned": "correct",
    }  # fmt: skip
    assert cli.run(["report", str(out)]) == 0  # a study like any other
    capsys.readouterr()
    assert cli.run(["export-lm-eval", str(out), "--out", str(logs)]) == 0
    assert "2 logs" in capsys.readouterr().out
    (file,) = (logs / "pruned").glob("samples_gsm8k_*.jsonl")
    again = json.loads(file.read_text(encoding="utf-8"))
    assert again["exact_match"] == 1.0 and again["target"] == "4"
    assert cli.run(importing(file, tmp_path / "again")) == 0
    with Store(tmp_path / "again", read_only=True) as store:
        assert store.rows()["outcome"].tolist() == ["correct"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("samples_gsm8k.jsonl", "nowhere.jsonl"), "no file"),
        (("gsm8k", "gsm9k"), "Did you mean 'gsm8k'"),
        (("testbed", "tesbed"), "'tesbed'"),
        (("dense", "pruned"), "name the blocks"),
    ],
)
def test_mistakes_of_an_import(
    change: tuple[str, str], said: str, log: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    old, new = change
    words = importing(log, tmp_path / "study", "--variant", "dense")
    words = [w.replace(old, new) if w == old or w.endswith(f"/{old}") else w for w in words]
    assert cli.run(words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_a_bad_line_is_said_with_its_place(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log.open("a", encoding="utf-8") as file:
        other = {**LINE["doc"], "question": "And of 2?"}
        file.write(json.dumps({**LINE, "doc_id": 1, "doc": other, "resps": None}) + "\n")
    assert cli.run(importing(log, tmp_path / "study")) == 2
    assert "line 2, field 'resps'" in capsys.readouterr().err
    log.write_text("{\n", encoding="utf-8")
    assert cli.run(importing(log, tmp_path / "study")) == 2
    assert "line 1" in capsys.readouterr().err


def test_mistakes_of_an_export(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = str(tmp_path / "logs")
    assert cli.run(["export-lm-eval", str(tmp_path / "nowhere"), "--out", logs]) == 2
    assert "No study" in capsys.readouterr().err
    assert cli.run(importing(log, tmp_path / "study")) == 0
    assert cli.run(["export-lm-eval", str(tmp_path / "study"), "--out", str(log)]) == 2
    assert "is a file" in capsys.readouterr().err
    words = ["export-lm-eval", str(tmp_path / "study"), "--out", logs, "--model", "tesbed"]
    assert cli.run(words) == 2
    assert "'tesbed'" in capsys.readouterr().err
    assert not Path(logs).exists()
