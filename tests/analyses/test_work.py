"""Estimates of analyses that decode: against what is decoded on models whose blocks are known."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.plumbing import catalogue, work, workbench
from analyses.plumbing.command import AnalysisCommand, AnalysisOptions
from analyses.plumbing.derived import derived
from analyses.plumbing.frames import StudyData
from analyses.plumbing.work import StudyLengths, Work, line_of
from analyses.plumbing.workbench import Workbench
from interp.chains.chain import Chain
from interp.decoding.memory import CPU_SLOTS
from interp.decoding.scheduler import Scheduler
from interp.errors import UserError
from scaling.costs.machines import Machine
from scaling.costs.measured_machine import ROWS
from scaling.costs.model_shape import ModelShape
from tests.analyses.test_time_maps import singles
from tests.planted import Planted, PlantedBench

DECODING = [a.name for a in catalogue.analyses().values() if a.decodes]
PLANTED = Planted(n_blocks=4, copier=1, brake=2, answerer=3, opener=0)
SMALL: dict[str, dict[str, int]] = {
    "ablations": {"PROBLEMS": 6, "CALIBRATION": 3, "DOSED": 2},
    "time_maps": {"PROBLEMS": 5, "TRIED": 4, "LOOPING": 4},
    "mechanism": {"CHAINS": 4, "TRIED": 4, "LOOPING": 4, "PROBED": 6},
    "layer_programs": {"PROBLEMS": 8, "TESTED": 2, "CALIBRATED": 2},
    "sets": {"PROBLEMS": 6},
    "reflection_origin": {"PROBLEMS": 12},
    "loop_neurons": {"TRIED": 6, "PROBLEMS": 24, "LOOPING": 16, "SHORTLIST": 3, "TESTED": 2,
                     "CONTROLS": 3},
    "commitment": {"PROBLEMS": 6, "LINES": 6, "TRIED": 4, "JOINED": 4},
    "anchors": {"PROBLEMS": 6, "CHAINS": 4, "LINES": 3, "SAMPLES": 4},
    "loop_warning": {"PROBLEMS": 24, "TRIED": 4, "HEATED": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(study: StudyData) -> PlantedBench:
    return PlantedBench.made(PLANTED, study, problems=24, thinking=48)


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> list[Chain]:
    """Every chain that is decoded, collected where all ways of decoding meet."""
    found: list[Chain] = []
    whole = Scheduler.run

    def run(self: Scheduler) -> Iterator[Chain]:
        for chain in whole(self):
            found.append(chain)
            yield chain

    monkeypatch.setattr(Scheduler, "run", run)
    return found


def decoded_tokens(chain: Chain) -> int:
    """Tokens of a chain that the model chose: those that a fork was given are forced."""
    return int((~chain.forced).sum())


@pytest.mark.parametrize("name", DECODING)
def test_rows_and_tokens_are_those_of_the_run(
    name: str, bench: PlantedBench, chains: list[Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, tried = importlib.import_module(f"analyses.{name}"), singles
    if name == "loop_neurons":  # needs a block with many neurons, and one neuron that closes loops
        made = Planted(n_blocks=4, closer=2, decoys=1, ends=-4.0)
        bench = PlantedBench.made(made, bench.study, problems=24, thinking=80)
        tried = lambda b: singles(b)[1:2]  # noqa: E731
    monkeypatch.setattr(Workbench, "of", classmethod(lambda *_: bench))
    for place in (workbench, work):
        monkeypatch.setattr(place, "candidates", tried)
    for constant, value in SMALL[name].items():
        assert hasattr(module, constant)
        monkeypatch.setattr(module, constant, value)
    settings: dict[str, Any] = {"benchmark": "planted", "thinking": 48, "seed": 0}
    settings["plans"] = {"two": (0, 1)}
    stated = catalogue.load(name).work
    assert stated is not None
    asked = [one for one in stated(bench, settings) if not one.passes]
    module._compute(bench.study, settings)
    exact = sum(one.rows for one in asked if one.expected is None)
    most = sum(one.rows for one in asked)
    assert 0 < exact <= len(chains) <= most
    if all(one.expected is None for one in asked):
        assert len(chains) == exact
    lengths = StudyLengths.of(bench)
    assert max(chain.n_tokens for chain in chains) <= lengths.most
    assert sum(map(decoded_tokens, chains)) <= most * lengths.most


def test_every_analysis_that_decodes_says_what_it_will_do() -> None:
    for name, analysis in catalogue.analyses().items():
        source = inspect.getsource(inspect.getmodule(analysis.table) or analysis.table)
        own = Path(inspect.getfile(importlib.import_module(f"analyses.{name}"))).read_text()
        calls = re.search(r"\.decode\(|most_looping\(|\bgenerate\(", source + own)
        assert bool(calls) == (analysis.work is not None), name
    assert set(DECODING) == set(SMALL)


def test_an_analysis_cannot_be_registered_without_its_work() -> None:
    stored = catalogue.load("sets").stored
    assert stored is not None
    parts: Any = {"order": 1, "title": "t", "caption": "c", "figure": lambda *_: None}
    with pytest.raises(UserError, match="`stored` and `work` together"):
        catalogue.register_analysis("unstated", table=stored.table, stored=stored, **parts)
    assert "unstated" not in catalogue.analyses()


# --------------------------------------------------------------------------------- arithmetic

MACHINE = Machine("slow", 1e9, 1e9, 1e12, 4, 8, "made up", 1.0, decoding=(0.01, 0.001, 0.0))
LENGTHS = StudyLengths(prompt=10.0, dense=20.0, altered=30.0, most=50.0, loops=0.5)


@pytest.fixture(scope="module")
def shape(bench: PlantedBench) -> ModelShape:
    return ModelShape.of(bench.model.hf.config)


def test_a_line_has_expected_and_largest_cost(shape: ModelShape) -> None:
    line = line_of(Work("x", 100, 40.0, share=0.5), LENGTHS, shape, MACHINE)
    assert (line.chains, line.tokens, line.most_tokens) == (100, 40 * 10.0, 100 * 50.0)
    # a pass of 8 rows takes 18 ms; 40 rows of 10 tokens are 50 passes if they are all as long
    assert line.seconds == pytest.approx(0.9, rel=0.3)
    exact = line_of(Work("x", 100, altered=True), LENGTHS, shape, MACHINE)
    assert exact.tokens == 100 * 30.0 and exact.seconds < exact.most_seconds
    none = line_of(Work("x", 100, 0.0), LENGTHS, shape, MACHINE)
    assert (none.tokens, none.seconds) == (0, 0) and none.most_tokens == 5000
    assert line_of(Work("x", 0), LENGTHS, shape, MACHINE).seconds == 0


def test_reading_costs_forward_passes(shape: ModelShape) -> None:
    line = line_of(Work("x", 4, passes=3, share=0.5), LENGTHS, shape, MACHINE)
    assert line.tokens == 3 * 4 * 20.0 and line.most_tokens == 3 * 4 * 60.0 and line.chains == 0
    assert line.seconds == pytest.approx(12 * float(shape.cost.chain(1, 20)) / 1e9)


def test_lengths_are_those_of_the_study(study: StudyData, bench: PlantedBench) -> None:
    rows = pd.concat([study.rows("accuracy"), study.rows("blocks")])
    rows = rows[(rows["benchmark"] == "countdown-4") & (rows["waits_allowed"] == 0)]
    rows = rows[rows["thinking_budget"] == rows["thinking_budget"].max()]
    assert {"plan", "block"} <= set(rows["kind"])
    named = replace(bench, benchmark=replace(bench.benchmark, name="countdown-4"))
    found = StudyLengths.of(named)
    spent = np.minimum(rows["thinking_tokens"], 48) + np.minimum(rows["answer_tokens"], 4)
    dense = rows["variant"] == "dense"
    closing = len(bench.model.delimiter_ids.closing)
    assert found.most == 52 + closing and closing
    assert found.dense == pytest.approx(spent[dense].mean())
    assert found.altered == pytest.approx(spent[~dense].mean())
    assert found.loops == rows[~dense].groupby("variant")["looped"].mean().max() > 0
    alone = {p: f[f["kind"] != "block"] for p, f in study.purposes.items() if "kind" in f}
    alone["blocks"] = study.rows("blocks").assign(benchmark="another", looped=0.875)
    elsewhere = replace(study, purposes=alone)
    assert StudyLengths.of(replace(named, study=elsewhere)).loops == 0.875, (
        "no block was tried here"
    )
    unknown = StudyLengths.of(bench)
    assert (unknown.dense, unknown.altered, unknown.loops) == (found.most / 2, found.most / 2, 1.0)


# ------------------------------------------------------------------------------- the command


def said(name: str, folder: Path) -> str:
    return "\n".join(AnalysisCommand(name, AnalysisOptions(study=folder, estimate=True)).run())


def test_the_estimate_decodes_only_a_trial(
    study: StudyData, bench: PlantedBench, chains: list[Chain], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    module = importlib.import_module("analyses.sets")
    monkeypatch.setattr(Workbench, "of", classmethod(lambda *_: bench))
    monkeypatch.setattr(module, "PROBLEMS", 6)
    assert study.folder is not None
    words = said("sets", study.folder)
    assert words.startswith("Estimate of sets on planted") and "only a trial was run" in words
    row = next(line for line in words.splitlines() if "each block skipped" in line)
    assert f" {5 * 6} " in row
    trial = 2 * (1 + ROWS) + 3 * CPU_SLOTS  # alone and a few, twice; full batches of few tokens
    assert 0 < len(chains) <= trial and all(c.problem.startswith("trial/") for c in chains)
    assert not (tmp_path / "tables").exists()


def test_what_needs_no_decoding_is_said(study: StudyData, tmp_path: Path) -> None:
    from tests.analyses.fake import write_study

    assert study.folder is not None
    assert "it reads what the study holds" in said("endings", study.folder)
    own = StudyData.read(write_study(tmp_path / "own"))
    stored = catalogue.load("anchors").stored
    assert stored is not None and own.folder is not None
    derived(own, "anchors", stored.settings_of(own), lambda: pd.DataFrame({"x": [1.0]}))
    assert "already keeps its result" in said("anchors", own.folder)


def test_a_limit_takes_the_first_problems(
    study: StudyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Workbench] = []
    module = importlib.import_module("analyses.sets")
    monkeypatch.setattr(workbench, "study_model", lambda *_: PLANTED.model())
    monkeypatch.setattr(work, "workbench_of", keeping(made, work.workbench_of))
    monkeypatch.setattr(module, "PROBLEMS", 6)
    assert study.folder is not None
    for limit, rows in ((None, 6), (4, 4), (2, 2), (100, 6)):
        options = AnalysisOptions(study=study.folder, estimate=True, limit=limit)
        words = "\n".join(AnalysisCommand("sets", options).run())
        row = next(line for line in words.splitlines() if "each block skipped" in line)
        assert f" {5 * rows} " in row
    everything = made[0].benchmark.problems
    for bench, limit in zip(made, (None, 4, 2, 100), strict=True):
        assert bench.benchmark.problems == everything[:limit]


def keeping(made: list[Workbench], make: Any) -> Any:
    def kept(*given: Any) -> Workbench:
        made.append(make(*given))
        return made[-1]

    return kept


@pytest.mark.parametrize(
    ("name", "limit", "said"),
    [
        ("sets", 1, "expected 2 or more"),
        ("sets", -4, "expected 2 or more"),
        ("endings", 4, "reads the chains that the study has"),
        ("reflection", 4, "reads the chains that the study has"),
    ],
)
def test_a_limit_without_use_is_refused(study: StudyData, name: str, limit: int, said: str) -> None:
    assert study.folder is not None
    with pytest.raises(UserError, match=said):
        list(AnalysisCommand(name, AnalysisOptions(study=study.folder, limit=limit)).run())


@pytest.mark.parametrize("name", DECODING)
def test_few_problems_are_enough_or_refused(
    name: str, study: StudyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"analyses.{name}")
    bench = PlantedBench.made(PLANTED, study, problems=2, thinking=48)
    monkeypatch.setattr(Workbench, "of", classmethod(lambda *_: bench))
    monkeypatch.setattr(workbench, "candidates", singles)
    for constant, value in SMALL[name].items():
        if constant not in ("PROBLEMS", "TRIED"):
            monkeypatch.setattr(module, constant, value)
    settings: dict[str, Any] = {"benchmark": "planted", "thinking": 48, "seed": 0}
    settings["plans"] = {"two": (0, 1)}
    with contextlib.suppress(UserError):
        found = module._compute(bench.study, settings)
        if len(found):
            assert all(catalogue.load(name).text_of(found))
            figure = module.figure(found, bench.study)
            assert figure is None or figure.axes


def test_help_teaches_the_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    from analyses.plumbing.command import main

    with pytest.raises(SystemExit):
        main("anchors.py", ["--help"])
    assert "--estimate" in (words := capsys.readouterr().out) and "trial" in words
