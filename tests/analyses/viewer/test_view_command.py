"""`prunescope view`: the address it prints answers, and --export writes what is selected."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from prunescope import cli
from tests.analyses.viewer.hostile import write_hostile_study


def view(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run the command; its code and what it said."""
    code = cli.run(["view", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_the_selection_is_written_into_one_file(
    real_folder: Path, cached: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = cached / "page.html"
    code, said, error = view(
        capsys,
        real_folder,
        "--where",
        "variant=dense",
        "budget=12|48",
        "--search",
        "=",
        "--export",
        out,
    )
    assert code == 0, error
    (n,) = re.findall(rf"Page: {out} \((\d+) chains, [\d.]+ MB\)", said)
    island = re.findall(r'id="data">(.*?)</script>', out.read_text(encoding="utf-8"))[0]
    chains = json.loads(island)["chains"]
    assert len(chains) == int(n) > 0
    assert {chain["variant"] for chain in chains} == {"dense"}
    assert all("=" in "".join(chain["texts"]) for chain in chains)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--where", "variant"), "expected NAME=VALUE"),
        (("--no-questions",), "--no-questions is for --export"),
        (("--where", "colour=red"), "benchmark"),
        (("--where", "variant=dens"), "dense"),
        (("--port", "99999"), "choose another one with --port"),
        (("--tokenizer", "/nowhere/model"), "/nowhere/model"),
    ],
)
def test_a_mistake_is_said(
    real_folder: Path,
    cached: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    code, _, error = view(capsys, real_folder, *words)
    assert code == 2 and said in error


def test_a_folder_without_a_study_and_a_study_without_chains(
    tmp_path: Path, cached: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from scaling.store.study_store import Store

    code, _, error = view(capsys, tmp_path / "nothing")
    assert code == 2 and "run one first" in error
    with Store(tmp_path / "empty") as store:
        store.claim({"model": "testbed"}, {})
    code, _, error = view(capsys, tmp_path / "empty")
    assert code == 2 and "no chains yet" in error


def test_a_study_whose_tokenizer_is_gone_says_what_to_do(
    tmp_path: Path, cached: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = view(capsys, write_hostile_study(tmp_path / "study"))
    assert code == 2 and "--tokenizer" in error


@pytest.mark.parametrize("export", [False, True])
def test_a_damaged_study_ends_it_with_what_to_do(
    damaged: Path, cached: Path, capsys: pytest.CaptureFixture[str], export: bool
) -> None:
    words = ("--export", cached / "page.html") if export else ("--port", "0")
    code, _, error = view(capsys, damaged, *words)
    assert code == 2 and "1 of problems" in error and "prunescope rescue" in error
    assert not (cached / "page.html").exists()


def test_it_serves_until_it_is_stopped(real_folder: Path, cached: Path) -> None:
    words = [sys.executable, "-m", "prunescope", "view", str(real_folder), "--port", "0"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cached), "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Opening ")  # at once
        line = process.stdout.readline()
        (address,) = re.findall(r"^Viewer: (http://127\.0\.0\.1:\d+/)#/$", line)
        with urllib.request.urlopen(f"{address}api/overview", timeout=60) as answer:
            table = json.loads(answer.read())["table"]
        assert len(table["cols"]["variant"]) > 0
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130)
