"""The examples of CONTRIBUTING.md: each is one file, dropped in, and found everywhere by itself."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from interp.model.reasoning_model import ReasoningModel
from prunescope import cli
from tests.analyses import fake
from tests.registries import dropped_in

ROOT = Path(__file__).parents[2]
TEXT = ROOT.joinpath("CONTRIBUTING.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
FILES = re.findall(r"one file\n`([\w/]+)/(\w+)\.py`", TEXT)
REGISTRY_OF: dict[str, str] = {"analyses": "analyses.plumbing.catalogue"}


@pytest.fixture
def added(tmp_path: Path) -> Iterator[None]:
    """Every example, in the package that CONTRIBUTING.md says."""
    assert len(CODE) == len(FILES) == 5
    with ExitStack() as stack:
        for (folder, module), code in zip(FILES, CODE, strict=True):
            name = str(folder).replace("/", ".")
            package = importlib.import_module(name)
            registry = importlib.import_module(REGISTRY_OF.get(name, name)).REGISTRY
            own = tmp_path / "dropped" / module
            own.mkdir(parents=True)
            stack.enter_context(dropped_in(package, registry, own))(module, code)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up study."""
    return fake.write_study(tmp_path_factory.mktemp("study"))


def said(capsys: pytest.CaptureFixture[str], words: str, code: int = 0) -> str:
    """What a command prints."""
    try:
        found = cli.run(words.split())
    except SystemExit as left:
        found = int(left.code or 0)
    out = capsys.readouterr()
    assert found == code, out.err
    return out.out


@pytest.mark.usefixtures("added")
def test_help_lists_every_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command, names in (
        ("score", "middle svamp"), ("prune", "middle scaled"), ("study", "middle svamp yes-no"),
        ("report", "chain_lengths"),
    ):  # fmt: skip
        words = re.findall(r"[\w-]+", said(capsys, f"{command} --help"))
        assert set(names.split()) <= set(words), command


@pytest.mark.usefixtures("added")
def test_the_criterion_is_scored_compared_and_estimated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from pruning.criteria import at_once, score
    from pruning.plan import LayerPlan

    model = ReasoningModel.load("testbed")
    found = score("middle", model)
    assert (found.criterion, found.model) == ("middle", model.fingerprint())
    middle = (model.n_blocks // 2 - 1, model.n_blocks // 2)
    assert LayerPlan.lowest(found, remove=2).removed == middle
    assert "middle" in at_once()  # what --compare without names compares
    assert "middle" in said(capsys, "score --compare --estimate --machine cpu")
    assert "by middle" in said(capsys, "score --method middle --estimate --machine cpu")


@pytest.mark.usefixtures("added")
def test_the_benchmark_reads_a_file_and_is_estimated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from scaling.benchmarks import load_benchmark

    file = tmp_path / "svamp.jsonl"
    file.write_text(
        '{"ID": "chal-1", "Body": "Dan has 8 nuts.", "Question": "He eats 3. How many?", '
        '"Answer": "5.0"}\n',
        encoding="utf-8",
    )
    (problem,) = load_benchmark("svamp", file).problems
    assert problem.question == "Dan has 8 nuts. He eats 3. How many?"
    assert problem.answer == "5.0"
    words = "scale --benchmarks svamp --estimate --machine h200"  # nothing is downloaded
    assert re.search(r"svamp +\d", said(capsys, words))


@pytest.mark.usefixtures("added")
def test_the_repair_mends_and_is_estimated(capsys: pytest.CaptureFixture[str]) -> None:
    from pruning.plan import LayerPlan
    from pruning.repairs import mend

    model = ReasoningModel.load("testbed")
    plan = LayerPlan.without(model, 3)
    mended = mend("scaled", model, plan, factor=2.0)
    last: Any = model.blocks[-1]
    new: Any = mended.model.blocks[-1]
    assert new.mlp.down_proj.weight.allclose(2 * last.mlp.down_proj.weight)
    out = said(capsys, "prune --out x --blocks 3 --repair scaled --estimate --machine cpu")
    assert "repairing testbed by scaled" in out and re.search(r"repair +\d", out)
    assert "calibration " not in out  # it reads no texts


@pytest.mark.usefixtures("added")
def test_the_grader_judges_a_file_of_its_own(tmp_path: Path) -> None:
    from scaling.benchmarks import load_benchmark
    from scaling.grading import grade_text

    file = tmp_path / "own.jsonl"
    file.write_text('{"id": "odd", "question": "Is 3 odd?", "answer": "yes"}\n', encoding="utf-8")
    bench = load_benchmark("jsonl:yes-no", file)
    verdicts = [grade_text(bench, bench.problems[0], t).outcome for t in ("Yes.", "No", "3")]
    assert verdicts == ["correct", "wrong", "no answer"]


@pytest.mark.usefixtures("added")
def test_the_analysis_is_in_the_report(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analyses.plumbing import catalogue
    from analyses.report.page import write_report

    reported, names = catalogue.reported, ("diversity", "chain_lengths")
    monkeypatch.setattr(  # the others are drawn elsewhere
        catalogue, "reported", lambda study: tuple(a for a in reported(study) if a.name in names)
    )
    page = write_report(folder, tmp_path, text=fake.text).read_text(encoding="utf-8")
    assert "How long chains are" in page and "Mean thinking tokens." in page
    places = [page.index(f'id="{name}"') for name in names]
    assert places == sorted(places)
    assert (tmp_path / "tables" / "chain_lengths.csv").exists()


def test_the_analysis_runs_by_itself(folder: Path, tmp_path: Path) -> None:
    """As `python -m analyses.chain_lengths`, from a folder that the package is extended by."""
    ((_, module),) = [pair for pair in FILES if pair[0] == "analyses"]
    (tmp_path / f"{module}.py").write_text(CODE[FILES.index(("analyses", module))])
    start = (
        "import runpy, sys, analyses\n"
        f"analyses.__path__.append({str(tmp_path)!r})\n"
        f"sys.argv = ['x', '--study', {str(folder)!r}, '--out', {str(tmp_path)!r}]\n"
        f"runpy.run_module('analyses.{module}', run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{module}.png" in done.stdout
