"""The command line: help that teaches, exit codes, one clear line for the caller's mistake."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.errors import NonFiniteError, UserError
from interp.kernels import library
from interp.model import loading
from prunescope import cli, commands
from prunescope.progress import StudyBar, describe, duration
from scaling.study.defaults import METHODS
from scaling.study.study_progress import Event
from tests.analyses.fake import write_study


def leaves(known: Any = cli.COMMANDS, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command as words."""
    found = []
    for name, command in known.items():
        here = (*path, name)
        found += leaves(command, here) if isinstance(command, dict) else [here]
    return found


@pytest.mark.parametrize("words", leaves(), ids=" ".join)
def test_help_of_every_command_teaches_by_example(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.run([*words, "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert f"prunescope {' '.join(words)} " in said
    assert re.search(rf"^prunescope {' '.join(words)} ", said, re.M), "no example"


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert cli.run(arguments) == 0
        said = capsys.readouterr().out
        assert all(f"  {name} " in said for name in cli.COMMANDS)
    assert cli.run(["testbed"]) == 0
    said = capsys.readouterr().out
    assert "train" in said
    assert "evaluate" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["studdy"], "Did you mean 'study'"),
        (["testbed", "trian"], "Did you mean 'train'"),
        (["study", "--benchmarks", "coutdown-4"], "Did you mean 'countdown-4'"),
        (["score", "--method", "shortgtp"], "Did you mean 'shortgpt'"),
        (["prune", "--method", "shortgtp", "--remove", "1", "--out", "x"], "'shortgpt'"),
        (["prune", "--out", "x"], "--remove N"),
        (["prune", "--out", "x", "--remove", "1", "--blocks", "1"], "--blocks L"),
        (["study", "--budgets", "0"], "budgets"),
        (["study", "--limit", "0"], "limit"),
        (["study", "--seeds", "1", "1"], "--seeds"),
        (["study", "--data", "gsm8k"], "NAME=FILE"),
        (["study", "--data", "gsm8k=/nowhere.jsonl"], "no file"),
        (["study", "--model", "tesbed"], "tesbed"),
        (["prune", "--blocks", "99", "--out", "x"], "99"),
        (["report", "/nowhere"], "No study"),
        (["diagnose", "/nowhere.txt"], "Cannot read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_callers_mistake_is_one_clear_line_and_exit_code_2(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert errors[-1].startswith("prunescope: ")
    assert said in errors[-1]
    assert not any("Traceback" in line for line in errors)


def test_an_unknown_option_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.run(["study", "--quik"])
    assert left.value.code == 2
    assert "--quick" in capsys.readouterr().err


def raising(error: BaseException) -> Any:
    def run(self: Any) -> Any:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "run the same command again"),
        (NonFiniteError("a logit is nan"), 1, "a logit is nan"),
        (OSError(28, "No space left on device"), 1, "No space left"),
    ],
)
def test_exit_codes_of_what_is_not_the_callers_mistake(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(commands.Study, "run", raising(error))
    assert cli.run(["study"]) == code
    assert said in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands.Study, "run", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.run(["study"])


def test_options_become_the_configuration() -> None:
    one, two = commands.Study(
        benchmarks=("arithmetic",), remove=(1, 4), budgets=(8, 16), seeds=(3, 5), limit=("7",)
    ).configs()
    assert (one.seed, two.seed) == (3, 5)
    assert one.out == Path("studies/testbed/seed-3")
    assert one.remove == (1, 4)
    assert one.workload("arithmetic").budgets == (8, 16)
    assert one.workload("arithmetic").problems == 7
    (usual,) = commands.Study(benchmarks=("countdown-4",)).configs()
    assert usual.workload("countdown-4").block_problems == 32
    (more,) = commands.Study(benchmarks=("countdown-4",), block_problems=40).configs()
    assert more.workload("countdown-4").block_problems == 40
    assert commands.Study(quick=True).configs()[0].out == Path("studies/testbed-quick")
    assert commands.default_folder("Qwen/Qwen3-8B", False) == Path("studies/Qwen-Qwen3-8B")


def test_a_preset_and_what_is_given_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "dev.json"
    file.write_text("{}", encoding="utf-8")
    (config,) = commands.Study(
        preset="paper-small",
        model="some.gguf",
        limit=("mmlu=9", "gsm8k=3"),
        keep=("math500.level=1,2",),
        shots=("gsm8k=8",),
        shots_from=(f"mmlu={file}",),
        device="cuda",
        dtype="bfloat16",
        top_p=0.95,
        top_k=20,
    ).configs()
    assert (config.top_p, config.top_k) == (0.95, 20)
    assert config.limit == {"mmlu": 9, "gsm8k": 3}
    assert config.keep == {"math500": {"level": ("1", "2")}}
    assert config.prompts.shots == {"mmlu": 5, "gsm8k": 8}
    assert config.prompts.shots_from == {"mmlu": str(file)}
    assert (config.temperature, config.blocks, config.samples) == (0.7, False, 8)
    assert (config.device, config.dtype) == ("cuda", "bfloat16")
    assert config.out == Path("studies/some.gguf-paper-small")
    (usual,) = commands.Study().configs()
    assert (usual.top_p, usual.top_k) == (1.0, 0)
    assert (usual.temperature, usual.blocks, usual.methods) == (1.0, True, METHODS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"limit": ("gsm8k",)}, "--limit 'gsm8k': expected NAME=N"),
        ({"shots": ("gsm8k=x",)}, "--shots 'gsm8k=x': expected NAME=N"),
        ({"shots": ("gsm8k=1", "gsm8k=2")}, "--shots names 'gsm8k' twice"),
        ({"shots_from": ("gsm8k=nowhere",)}, "--shots-from 'gsm8k=nowhere': there is no file"),
        ({"keep": ("level=1",)}, "--keep 'level=1': expected NAME.FIELD=VALUE"),
    ],
)
def test_an_option_in_another_form(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        commands.Study(benchmarks=("gsm8k", "arithmetic"), **given).configs()


def test_diagnose_finds_the_loop_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = "first we add . " + "so the answer is two plus two . " * 12
    rows = [{"response": "Wait, let me check that again. It is four."}, {"response": loop}]
    file = tmp_path / "answers.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    out = tmp_path / "diagnosis.csv"
    assert cli.run(["diagnose", str(file), "--out", str(out)]) == 0
    assert "1 of 2 texts end in a loop" in capsys.readouterr().out
    assert "exact" in out.read_text(encoding="utf-8").splitlines()[2]
    assert cli.run(["diagnose", str(file), "--field", "respnse"]) == 2
    assert "'response'" in capsys.readouterr().err
    file.write_text(json.dumps({"text": "She has 16 - 3 = 12 eggs, and 2 + 2 = 4."}), "utf-8")
    assert cli.run(["diagnose", str(file)]) == 0
    assert "1 of 2 equations do not hold." in capsys.readouterr().out


def test_report_of_a_study_without_its_model_still_comes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the analysis that asks for the model; the others: `test_command_output`."""
    from analyses.plumbing import catalogue

    some = tuple(map(catalogue.load, ("block_effects", "bi_vs_effects")))
    monkeypatch.setattr(catalogue, "reported", lambda _: some)
    folder = write_study(tmp_path / "study")
    assert cli.run(["report", str(folder)]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out
    assert "tokenizer could not be loaded" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_study_of_the_bundled_reasoner_from_command_to_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study"
    arguments = ["study", "--benchmarks", "arithmetic", "--limit", "3", "--budgets", "8", "16"]
    arguments += ["--methods", "shortgpt", "--remove", "1", "--samples", "2", "--waits", "1"]
    arguments += ["--out", str(out)]
    assert cli.run(arguments) == 0
    said = capsys.readouterr()
    assert str(out / "report.html") in said.out
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "the bundled reasoner" in page
    with sqlite3.connect(out / "study.sqlite") as db:
        before = db.execute("SELECT count(*) FROM chains").fetchone()[0]
    db.close()
    assert before >= 3 * 2 * 2
    written = (out / "report.html").stat().st_mtime_ns

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the weights are read")

    with monkeypatch.context() as patched:
        patched.setattr(loading, "load_weights", refuse)
        assert cli.run(arguments) == 0  # again: nothing is decoded twice, nor reported
    said = capsys.readouterr()
    assert "Nothing to do" in said.out and str(out / "report.html") in said.out
    assert (out / "report.html").stat().st_mtime_ns == written
    with sqlite3.connect(out / "study.sqlite") as db:
        assert db.execute("SELECT count(*) FROM chains").fetchone()[0] == before
    db.close()
    assert cli.run([*arguments, "--temperature", "0.5"]) == 2
    assert "another configuration" in capsys.readouterr().err


def test_prune_writes_a_checkpoint_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from interp.model.reasoning_model import ReasoningModel

    out = tmp_path / "pruned"
    assert cli.run(["prune", "--blocks", "3", "5", "--out", str(out)]) == 0
    assert "3 5" in capsys.readouterr().out
    dense = ReasoningModel.load("testbed")
    pruned = ReasoningModel.load(out)
    assert pruned.layer_map == tuple(l for l in range(dense.n_blocks) if l not in (3, 5))


def test_score_writes_a_row_a_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd

    from interp.model.reasoning_model import ReasoningModel

    texts = tmp_path / "texts.txt"
    texts.write_text("try 3 + 4 = 7 left 2 .\nback 3 left 4 2 .\n", encoding="utf-8")
    out = tmp_path / "scores.csv"
    assert cli.run(["score", "--texts", str(texts), "--out", str(out)]) == 0
    found = pd.read_csv(out)
    blocks = ReasoningModel.load("testbed").n_blocks
    assert found["block"].tolist() == list(range(blocks))
    assert sorted(found["rank"]) == list(range(blocks))
    assert ((found["score"] >= 0) & (found["score"] <= 2)).all()


def test_progress_says_how_long_it_will_take(capsys: pytest.CaptureFixture[str]) -> None:
    event = Event("progress", "arithmetic", chains=10, chains_total=40, tokens=100,
                  tokens_expected=400, rate=20.0, seconds=20.0, seconds_left=200.0)  # fmt: skip
    assert describe(event) == "10 of 40 chains, 20 tokens/s, about 3 min left"
    heard = Event("progress", "calibration", "trying 12 of 138 sets of blocks", chains_total=9)
    assert describe(heard) == heard.message
    with StudyBar() as bar:
        bar(Event("stage", "arithmetic", "40 chains"))
        bar(event)
    said = capsys.readouterr().err
    assert "arithmetic: 40 chains" in said
    assert "about 3 min left" in said
    assert duration(45) == "45 s"
    assert duration(8000) == "2 h 13 min"


def test_doctor_shows_processor_kernels_and_what_is_taken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["doctor", "--rows", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"]["4"] in ("torch", f"fused blocks ({library.builds()[0]})")
    assert found["packages"]["torch"] == torch.__version__ and found["memory"][0] > 2**28
    assert cli.run(["doctor", "--rows", "4"]) == 0
    lines = capsys.readouterr().out
    for word in ("Processor", "Memory", "Threads", "Kernels", "transformers", found["chosen"]["4"]):
        assert word in lines
