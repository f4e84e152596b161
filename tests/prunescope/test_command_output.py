"""What commands say to machines: one JSON object with the documented entries, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.plumbing import work_lines
from interp.plumbing.command_line import EXIT_CODES
from interp.plumbing.work_listener import tell
from prunescope import cli, command_line_page, progress
from prunescope.commands import Study
from prunescope.commands.output import ALWAYS, plain
from prunescope.commands.recover import Bar
from prunescope.progress import StudyBar
from scaling.study.study_progress import Event
from tests.analyses.fake import write_study
from tests.prunescope.test_exchange_command import LINE

TINY = "--benchmarks arithmetic --limit 2 --budgets 8 16"
CALLS = {
    "study": f"study {TINY} --methods shortgpt --remove 1 --samples 1 --waits --no-blocks --out s",
    "score": "score --texts texts.txt --out scores.csv",
    "prune": "prune --blocks 3 --out pruned",
    "scale": f"scale {TINY} --samples 2 --waits 1 --out scale",
    "diagnose": "diagnose texts.txt --out diagnosis.csv",
    "effects": f"effects {TINY} --out effects",
    "judge": "judge first --estimate",
    "recover": "recover --out x --blocks 3 --limit 40 --estimate --machine cpu",
    "recover-study": "recover-study --quick --estimate --machine cpu",
    "report": "report first",
    "compare": "compare first second --out changes.csv --html page.html",
    "view": "view s --where variant=dense --export view.html",
    "rescue": "rescue first rescued",
    "import-lm-eval": "import-lm-eval log.jsonl --benchmark gsm8k --model testbed --out imported",
    "export-lm-eval": "export-lm-eval s --out logs",
    "doctor": "doctor --rows 4",
    "testbed train": "testbed train --estimate --machine a100",
    "testbed evaluate": "testbed evaluate --problems 2 --parallel-problems 2 --samples 2",
    "completion": "completion bash",
}
ENTRIES = {" ".join(path): command.ENTRIES for path, command in cli.leaves()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two studies, texts and a log."""
    folder = tmp_path_factory.mktemp("here")
    for seed, name in enumerate(("first", "second")):
        write_study(folder / name, seed)
    (folder / "texts.txt").write_text("try 3 + 4 = 7 left 2 .\nback 3 .\n", encoding="utf-8")
    (folder / "log.jsonl").write_text(json.dumps(LINE) + "\n", encoding="utf-8")
    with contextlib.chdir(folder):  # to be looked at by other commands; "study" goes on with it
        assert cli.run([*CALLS["study"].split(), "--no-report", "--quiet"]) == 0
    return folder


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(made / "cache"))
    return made


def spoken(capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, dict[str, Any], str]:
    """Run a command with --json: its code, its object, its standard error."""
    capsys.readouterr()
    code = cli.run([*words.split(), "--json"])
    said = capsys.readouterr()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return code, json.loads(said.out, parse_constant=refuse), said.err


def test_every_command_is_called() -> None:
    assert set(CALLS) == set(ENTRIES)
    assert all(ENTRIES.values())


@pytest.mark.parametrize("name", CALLS)
def test_a_command_prints_one_object_with_documented_entries(
    name: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "testbed evaluate":
        import testbed.evaluation as evaluation

        whole: Any = evaluation.evaluate
        only = lambda model, **o: whole(model, kinds=("arithmetic",), **o)  # noqa: E731
        monkeypatch.setattr(evaluation, "evaluate", only)
    code, found, error = spoken(capsys, CALLS[name])
    assert code == 0, error
    assert ALWAYS.keys() <= found.keys() <= ALWAYS.keys() | ENTRIES[name].keys()
    assert found.keys() - ALWAYS.keys()
    assert (found["command"], found["exit_code"], found["error"]) == (name, 0, None)
    if found["next"]:
        next_words = found["next"].split()
        assert next_words[0] == "prunescope" and next_words[1] in cli.COMMANDS


def test_tables_are_rows_and_the_numbers_are_those_of_the_files(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, found, _ = spoken(capsys, CALLS["compare"])
    written = pd.read_csv("changes.csv")
    assert [row["change"] for row in found["changes"]] == pytest.approx(written["change"].tolist())
    assert found["verdict"] and found["verdicts"].keys() == {"second"}
    assert Path(found["html"]).read_text(encoding="utf-8").count("<h1>") == 1
    assert {p["kind"] for p in found["pairings"]} <= {"same noise", "same problems", "unpaired"}


def test_a_report_of_two_studies_is_a_comparison(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found, _ = spoken(capsys, "report first second --out both")
    assert code == 0 and Path(found["html"]) == Path("both/comparison.html")
    assert Path(found["html"]).is_file()
    assert found.keys() <= ALWAYS.keys() | ENTRIES["report"].keys()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("report nowhere", 2, "No study"),
        ("studdy", 2, "Did you mean 'study'"),
        ("compare first", 2, "at least two"),
        ("scale --benchmarks coutdown-4", 2, "countdown-4"),
    ],
)
def test_a_mistake_is_in_the_object_too(
    words: str, code: int, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, found, error = spoken(capsys, words)
    assert left == found["exit_code"] == code and code in EXIT_CODES
    assert said in found["error"] and said in error
    assert found.keys() == ALWAYS.keys()


def test_a_wrong_option_and_a_defect_leave_an_object(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        cli.run(["study", "--quik", "--json"])
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2

    def broken(self: Any) -> Any:
        sys.stdout.write("a library talks\n")
        raise ZeroDivisionError("no")

    monkeypatch.setattr(Study, "run", broken)
    with pytest.raises(ZeroDivisionError):
        cli.run(["study", "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["exit_code"], found["error"]) == (1, "ZeroDivisionError: no")
    assert "a library talks" in said.err


def test_quiet_says_results_and_errors_only(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.run("rescue first rescued-quietly --quiet".split()) == 0
    said = capsys.readouterr()
    assert said.err == "" and "problems" in said.out
    assert cli.run("compare first second --quiet".split()) == 0
    said = capsys.readouterr()
    assert said.err == "" and "second" in said.out and "Next:" not in said.out
    assert len(said.out.splitlines()) == 1
    assert cli.run("report nowhere --quiet".split()) == 2
    assert "No study" in capsys.readouterr().err
    assert cli.run("compare first second".split()) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "Next: prunescope compare first second --html comparison.html"
    assert len(said) > 20


def test_progress_can_be_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.silenced(), StudyBar() as bar, progress.bar(total=2) as other:
        bar(Event("stage", "arithmetic", "40 chains"))
        bar(Event("progress", "arithmetic", seconds=100.0, seconds_left=20.0))
        other.update()
    assert capsys.readouterr().err == ""
    with progress.silenced(False), StudyBar() as bar:
        bar(Event("stage", "arithmetic", "40 chains"))
    assert "arithmetic" in capsys.readouterr().err


def test_long_work_is_heard_unless_it_is_silenced(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_lines, "LINE_EVERY", 0.0)
    with progress.heard():
        tell("trying", 12, 138, what="sets of blocks")
    assert "trying 12 of 138 sets of blocks, after 0 s" in capsys.readouterr().err
    with progress.silenced(), progress.heard():
        tell("trying", 12, 138, what="sets of blocks")
    tell("trying", 13, 138)
    assert capsys.readouterr().err == ""


def test_a_training_tells_of_the_answers_that_it_writes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Bar():
        tell("decoding", 3, 16, 700)
        tell("decoding", 4, 16, 720)  # within fifteen seconds
    assert capsys.readouterr().err == "  decoding 3 of 16 chains\n"
    tell("decoding", 5, 16, 900)
    assert capsys.readouterr().err == ""


def test_values_become_plain() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [np.nan, np.inf], "c": [(1, 2), ()]})
    assert plain(frame) == [{"a": 1, "b": None, "c": [1, 2]}, {"a": 2, "b": None, "c": []}]
    value = {1: np.float32(0.5), "p": Path("x"), "n": np.arange(2), "s": np.bool_(True), "t": None}
    assert plain(value) == {"1": 0.5, "p": "x", "n": [0, 1], "s": True, "t": None}
    assert plain(Event("note", "x", seconds_left=float("nan")))["seconds_left"] is None


def test_the_documentation_is_made_from_the_commands() -> None:
    written = command_line_page.FILE.read_text(encoding="utf-8")
    assert written == command_line_page.page(), "run: python -m prunescope.command_line_page"


def test_standard_output_of_a_process_is_the_object() -> None:
    code = "import sys; from prunescope.cli import main; main(['completion', 'fish', '--json'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["shell"] == "fish"


@pytest.mark.parametrize("words", [["study", "--help"], ["diagnose", "FILE"], []])
def test_a_reader_that_ends_early_is_no_error(words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "answers.txt"
    file.write_text("5 + 5 = 10\n" * 3, "utf-8")
    words = [str(file) if word == "FILE" else word for word in words]
    read, write = os.pipe()
    os.close(read)  # nobody reads: what `head` leaves behind once it has its lines
    try:
        found = subprocess.run(
            [sys.executable, "-m", "prunescope", *words],
            stdout=write, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(write)
    assert (found.returncode, found.stderr) == (141, "")
