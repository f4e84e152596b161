"""What a run is said to cost is what it costs: FLOPs and tokens counted while it trains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.errors import UserError
from recovery.examples import TrainingSet
from recovery.lengths import Lengths, lengths_of, tried_answers
from recovery.recovery_config import PAPER, RecoveryConfig
from recovery.recovery_study_costs import estimate_recovery_study, shape_without
from recovery.run import recover
from recovery.study import RecoveryStudy, Unit, measuring, units_of
from recovery.training_costs import _lora, estimate_recovery, steps_of
from recovery.training_memory import TrainedShape
from scaling.costs.machines import machine
from scaling.costs.model_shape import ModelShape
from scaling.costs.study_costs import estimate_on
from tests.counting import counted, within
from tests.recovery.small import config, examples, model_of, saved
from tests.scaling.costs.test_study_costs import QWEN3_8B


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def train() -> TrainingSet:
    return TrainingSet("sums", tuple(examples(16)))


RUNS: dict[str, dict[str, Any]] = {
    "lora": {"rates": (1e-4, 1e-2), "held_out": 4, "check_every": 2},
    "full": {"steps": None, "epochs": 2.0},
    "self": {"held_out": 4, "check_every": 2, "thinking": 80, "answer": 8, "context": 128},
    "distill": {"held_out": 4, "check_every": 4},
    "rl": {"samples": 2, "steps": 3},
}


@pytest.mark.parametrize("method", RUNS)
def test_flops_and_tokens_are_those_of_the_run(
    method: str, base: Path, train: TrainingSet, tmp_path: Path
) -> None:
    how = config(method, **RUNS[method])
    found, real = counted(
        lambda: recover(base, how, tmp_path / "run", data=train, teacher=str(base))
    )
    model = model_of(base)
    lengths = Lengths.of(model, train)
    share = tried_answers(model, train, how) if how.generates or method == "self" else 0.5
    said = estimate_recovery(how, ModelShape.of(str(base)), lengths, machine("cpu"), share=share)
    assert within(said.total("flops"), real), said.total("flops") / real
    line = next(line for line in said.lines if line.stage == "training")
    prompts = lengths.prompts.mean() * line.requests
    trained = sum(one["tokens"] for one in found.rates)  # with a loss, of every rate
    assert within(line.tokens - prompts, trained), (line.tokens - prompts) / trained
    assert sum(one["steps"] for one in found.rates) * how.batch == line.requests
    assert said.memory > 0 and said.disk > 0
    assert all(line.most_tokens >= line.tokens for line in said.lines)


def test_a_teacher_that_opines_costs_a_pass_more(base: Path, train: TrainingSet) -> None:
    lengths = Lengths.of(model_of(base), train)
    shape, cpu = ModelShape.of(str(base)), machine("cpu")
    whole = estimate_recovery(config("full"), shape, lengths, cpu)
    off = estimate_recovery(config("distill", on_policy=False), shape, lengths, cpu)
    assert off.total("flops") == pytest.approx(whole.total("flops") * 4 / 3)
    on = estimate_recovery(config("distill"), shape, lengths, cpu)
    assert {line.stage for line in on.lines} == {"training", "writing answers"}


def test_training_ends_at_whichever_limit_comes_first() -> None:
    ten = Lengths(np.full(10, 5.0), np.full(10, 20.0))
    assert steps_of(config("full", steps=None, epochs=2.0, batch=4), ten) == (6, 20.0)
    assert steps_of(config("full", steps=3, batch=4), ten) == (3, 12.0)
    assert steps_of(config("full", steps=None, tokens=100, batch=4), ten) == (2, 8.0)
    assert steps_of(config("rl", steps=None, samples=2, batch=4), ten)[0] == 5


def test_only_what_moves_and_what_is_computed_twice_is_counted(base: Path) -> None:
    shape, ten = ModelShape.of(str(base)), Lengths(np.full(10, 5.0), np.full(10, 20.0))
    every = {"weights": "all"}
    on_cpu = estimate_recovery(config("full", **every), shape, ten, machine("cpu"))
    on_gpu = estimate_recovery(config("full", **every), shape, ten, machine("h200"))
    assert on_gpu.total("flops") == pytest.approx(on_cpu.total("flops") * 4 / 3)
    adapters = estimate_recovery(config("lora"), shape, ten, machine("cpu"))
    few = estimate_recovery(config("lora", rank=1), shape, ten, machine("cpu"))
    assert few.total("flops") < adapters.total("flops") <= on_cpu.total("flops")
    assert few.memory < on_cpu.memory


def test_the_published_run_on_qwen3_8b(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(QWEN3_8B), encoding="utf-8")
    shape = shape_without(str(file), 2)
    assert shape.n_blocks == 34
    how = RecoveryConfig.preset("paper", "lora")
    lengths = lengths_of("s1k", str(file), limit=None, seed=0, grader="", trust_remote_code=False)
    found = estimate_recovery(how, shape, lengths, machine("h200"))
    tokens = next(line.tokens for line in found.lines if line.stage == "training")
    assert tokens == pytest.approx(PAPER["epochs"] * 4900 * 936, rel=0.01)
    assert TrainedShape.of(shape.config) == TrainedShape(34, 4096, 32, 8, 128, 12288, 151936)
    assert _lora(how, shape) == pytest.approx(
        TrainedShape(34, 4096, 32, 8, 128, 12288, 151936).lora(16), rel=1e-6
    )
    with pytest.raises(UserError, match="without a tokenizer"):
        lengths_of("x.jsonl", str(file), limit=None, seed=0, grader="", trust_remote_code=False)
    with pytest.raises(UserError, match="Cannot remove 36 blocks of 36"):
        shape_without(str(file), 36)


def test_mistakes_of_an_estimate(base: Path) -> None:
    shape, cpu = ModelShape.of(str(base)), machine("cpu")
    ten = Lengths(np.full(10, 5.0), np.full(10, 200.0))
    with pytest.raises(UserError, match="raise --context"):
        estimate_recovery(config("full"), shape, ten, cpu)
    with pytest.raises(UserError, match="share"):
        estimate_recovery(config("distill"), shape, ten, cpu, share=0.0)


def test_a_study_is_its_units(tmp_path: Path) -> None:
    study = RecoveryStudy.quick(out=tmp_path / "study", methods=("lora", "rl"))
    cpu = machine("cpu")
    measured = estimate_on(measuring(study, Unit(), study.model), cpu)
    lengths = Lengths(np.full(200, 20.0), np.full(200, 150.0))
    found = estimate_recovery_study(study, cpu, measured, lengths)
    plans = [f"{c}-{n}" for c, counts in study.wanted.items() for n in counts]
    units = len(units_of(study, dict.fromkeys(plans)))
    frame = found.to_frame().set_index("stage")
    chains = measured.to_frame().set_index("stage")["chains"]
    assert frame.loc["measuring countdown-4", "chains"] == units * chains["countdown-4"]
    assert {"lora", "rl"} < set(frame.index)
    more = replace(study, methods=("lora", "rl", "full"))
    assert estimate_recovery_study(more, cpu, measured, lengths).seconds > found.seconds
    assert not study.out.exists()
