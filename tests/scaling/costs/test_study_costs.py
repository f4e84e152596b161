"""Estimates: counts are the study's own, a named machine needs no weights, a trial comes close."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.chains.chain import Budget
from interp.errors import UserError
from scaling.costs.decode_speed import Pace, makespan, pace_of, rows_at_once, spread_lengths
from scaling.costs.estimate import Line
from scaling.costs.flops import ModelCost
from scaling.costs.machines import MACHINES, machine
from scaling.costs.model_shape import ModelShape, read_config
from scaling.costs.study_costs import estimate_on
from scaling.costs.study_work import Part, parts_of, sized_benchmarks
from scaling.costs.trial import estimate_here
from scaling.engines.local import LocalEngine
from scaling.store.study_file import FILE
from scaling.store.study_store import Store
from scaling.study.config import StudyConfig
from scaling.study.problem_sets import gather
from scaling.study.runner import local_engine, run_study
from tests import models

QWEN3_8B = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
    "max_position_embeddings": 40960,
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("qwen") / "config.json"
    file.write_text(json.dumps(QWEN3_8B), encoding="utf-8")
    return file


def config(out: Path, **changes: Any) -> StudyConfig:
    small: dict[str, Any] = {
        "benchmarks": ("recall", "arithmetic", "countdown-3"),
        "limit": 3,
        "budgets": (6, 12, 24),
        "answer": 4,
        "samples": 2,
        "waits": (1,),
        "remove": (1, 2),
        "methods": ("shortgpt", "random"),
        "out": out,
    }
    return StudyConfig(**(small | changes))


# ------------------------------------------------------------------ counting


def test_what_is_counted_is_what_a_study_decodes(tmp_path: Path) -> None:
    setting = config(tmp_path)
    engine = LocalEngine(models.tiny(n_blocks=3), slots=9)
    run_study(setting, engine=engine)
    benches, _ = gather(setting)
    parts = parts_of(setting, benches, n_blocks=3)
    with Store(tmp_path, read_only=True) as store:
        rows = store.rows()
    asked = rows.groupby(["benchmark", "problem", "variant", "sample"])
    requests = asked.size().reset_index(name="n")
    for name, own in rows.groupby("benchmark"):
        mine = [p for p in parts if p.benchmark == name]
        assert sum(p.chains for p in mine) == len(own)
        assert sum(p.requests for p in mine) == (requests["benchmark"] == name).sum()
        most = sum(p.requests * p.tokens(1.0) for p in mine)
        spent = asked["thinking_tokens"].max() + asked["answer_tokens"].sum()
        assert spent[name].sum() <= most
    generated = rows[rows["scoring"] == "generate"]
    caps = sum(p.requests * p.cap for p in parts)
    by_request = generated.groupby(["benchmark", "problem", "variant", "sample"])
    assert caps == by_request["thinking_budget"].max().sum()


def test_nested_budgets_cost_their_thinking_once() -> None:
    budgets = (Budget(10, 4), Budget(20, 4), Budget(20, 4, 1))
    part = Part("b", "dense", 0, budgets, 1, 3, 5.0, True)
    assert part.cap == 20
    assert part.tokens(1.0) == 20 + 12
    assert part.thinking(0.5) == 15.0  # half, and half of what is left after a "wait"
    assert Part("b", "dense", 0, budgets, 1, 3, 5.0, False).tokens(1.0) == 12
    assert part.stored(32) <= 10 + 20 + 20 + 12


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 12))
def test_makespan_is_that_of_a_batch_kept_full(lengths: list[int], rows: int) -> None:
    waiting, running, passes = list(reversed(lengths)), list[int](), 0
    while waiting or running:
        while waiting and len(running) < rows:
            running.append(waiting.pop())
        passes += 1
        running = [left - 1 for left in running if left > 1]
    assert makespan(np.array(lengths, dtype=float), rows) == passes


@given(st.floats(0.05, 1.0), st.integers(1, 2000), st.integers(1, 200))
def test_spread_lengths_have_their_mean_and_stay_in_range(share: float, cap: int, n: int) -> None:
    found = spread_lengths(share * cap, cap, n)
    assert found.shape == (n,)
    assert found.mean() == pytest.approx(share * cap)
    assert found.min() >= -1e-9
    assert found.max() <= max(cap, share * cap) + 1e-9


# ------------------------------------------------------------------ shapes and machines


@pytest.mark.parametrize("arch", models.ARCHS)
def test_a_shape_is_that_of_the_weights(arch: str) -> None:
    hf: Any = models.tiny(arch).hf
    found = ModelShape.of(hf.config)
    assert found.weights == sum(p.numel() for p in hf.parameters())
    assert found.cost == ModelCost.of(hf.config)
    assert found.vocab == hf.get_output_embeddings().weight.shape[0]


@pytest.mark.parametrize(
    "field", [{"num_hidden_layers": 0}, {"num_hidden_layers": -1}, {"num_key_value_heads": -2}]
)
def test_a_shape_without_blocks_or_heads_is_refused(
    qwen: Path, tmp_path: Path, field: dict[str, int]
) -> None:
    found = json.loads(qwen.read_text(encoding="utf-8")) | field
    found.pop("layer_types", None)  # it would contradict the number of blocks
    file = tmp_path / "config.json"
    file.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json"):
        ModelShape.of(file)


def test_qwen3_8b_by_its_configuration(qwen: Path) -> None:
    found = ModelShape.of(qwen)
    assert found.weights == 8_190_735_360  # as its card has it: 8.2 billion
    assert found.kv * 2 == 147_456  # bytes of a token in bfloat16
    assert ModelShape.of(qwen.parent).weights == found.weights


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "no such"}'])
def test_a_configuration_that_is_none_is_said(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"No model configuration|config\.json(:| holds)"):
        read_config(str(file))


def test_machines_by_name() -> None:
    assert machine("RTX 4090") is machine("rtx-4090") is MACHINES["rtx4090"]
    assert machine("cpu").memory > 1e8
    with pytest.raises(UserError, match="Did you mean 'h200'"):
        machine("h20")


def test_a_pass_is_bound_by_weights_or_by_rows(qwen: Path) -> None:
    shape, card = ModelShape.of(qwen), machine("h200")
    pace = pace_of(shape, card, context=1000, longest=9000)
    bandwidth = 4.8e12 * card.efficiency
    assert pace.fixed == pytest.approx(shape.weights * 2 / bandwidth)
    assert pace.each == pytest.approx(shape.kv * 2 * 1000 / bandwidth)
    short = pace_of(shape, card, context=10, longest=9000)  # now the products take longer
    assert short.each == pytest.approx(shape.cost.token(10) / (card.flops * card.efficiency))
    free = 141e9 - shape.weights * 2
    assert pace.rows == int(free / 2 // (shape.kv * 2 * 9000))
    assert Pace(1.0, 0.1, 2).seconds(np.array([3.0, 1.0, 1.0])) == pytest.approx(3 + 0.5)
    assert Pace(1.0, 0.1, 2, 0.6).seconds(np.array([3.0, 1.0, 1.0])) == pytest.approx(3 + 0.5)
    assert Pace(1.0, 0.1, 2, 0.8).seconds(np.array([3.0, 1.0, 1.0])) == pytest.approx(4.0)
    # sixteen rows waited for the weights, as one does: that says nothing of 128
    tried = replace(card, flops=1e11, efficiency=1.0, decoding=(0.3, 1e-9, 0.02))
    pace = pace_of(shape, tried, context=10, longest=600)
    many = np.full(1000, 50.0)
    assert pace.seconds(many) == pytest.approx(50_000 * 0.02)
    assert pace.seconds(many[:1]) == pytest.approx(50 * 0.3)
    small = machine("rtx4090")
    with pytest.raises(UserError, match="larger machine"):
        rows_at_once(ModelShape.of(models.config("qwen3", hidden_size=16384, num_hidden_layers=99,
                                            intermediate_size=65536)), small, 100)  # fmt: skip


# ------------------------------------------------------------------ whole estimates


def test_on_a_named_machine_no_weight_and_no_network_is_needed(qwen: Path) -> None:
    found = estimate_on(StudyConfig(model=str(qwen)), machine("h200"))
    frame = found.to_frame().set_index("stage")
    assert list(frame.index) == ["calibration", "mmlu", "gsm8k", "math500", "aime24"]
    assert frame.loc["mmlu", "chains"] == 14042 * 16 + 30 * 36
    assert frame.loc["mmlu", "tokens"] == 0
    assert (frame["most_tokens"] >= frame["tokens"]).all()
    assert (frame["most_seconds"] >= frame["seconds"]).all()
    assert 8e9 * 2 < found.memory < 141e9
    text = "\n".join(found.report())
    assert "40% is assumed" in text
    assert "H200" in text
    assert "public sets" in text


def test_a_slower_machine_takes_longer_and_longer_chains_more(qwen: Path) -> None:
    few = StudyConfig(model=str(qwen), limit=10)
    found = estimate_on(few, machine("h200"))
    slower = estimate_on(few, machine("a100"))
    assert slower.tokens == found.tokens
    assert slower.seconds > found.seconds
    no_faster = found.tokens * machine("h200").host
    assert found.seconds >= no_faster > 0
    host = estimate_on(few, replace(machine("h200"), host=1.0))
    generated = [line for line in host.lines if line.tokens and line.stage != "calibration"]
    assert generated and all(line.seconds >= line.tokens for line in generated)
    more = estimate_on(few, machine("h200"), share=0.9)
    assert found.tokens < more.tokens <= found.total("most_tokens")


def test_public_sets_are_not_read_and_own_files_are(qwen: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text('{"question": "1 + 1?", "answer": "#### 2"}\n', encoding="utf-8")
    setting = StudyConfig(model=str(qwen), benchmarks=("gsm8k",), data={"gsm8k": str(own)})
    assert [len(b) for b in sized_benchmarks(setting)] == [1]
    assert [len(b) for b in sized_benchmarks(StudyConfig(model=str(qwen), limit=40))] == [
        40, 40, 40, 30,
    ]  # fmt: skip
    with pytest.raises(UserError, match="Cannot remove 36 blocks of 36"):
        estimate_on(StudyConfig(model=str(qwen), remove=(36,)), machine("h200"))
    with pytest.raises(UserError, match="share"):
        estimate_on(setting, machine("h200"), share=0.0)


def test_a_trial_of_a_tiny_model_says_how_many_tokens(tmp_path: Path) -> None:
    setting = config(tmp_path / "real", limit=8)
    engine = LocalEngine(models.tiny(n_blocks=3), slots=9)
    found = estimate_here(setting, engine)
    assert not (tmp_path / "real").exists()  # nothing of the study itself was run
    real = run_study(setting, engine=engine)
    assert 1 / 1.5 < found.tokens / real.tokens < 1.5
    assert real.tokens < found.total("most_tokens")
    assert "measured here" in " ".join(found.assumptions)
    size = (tmp_path / "real" / FILE).stat().st_size
    assert 1 / 2 < found.disk / size < 2


def test_a_quick_trial_does_not_lower_the_most() -> None:
    line = Line("gsm8k", 96, 96, 3e4, 6e4, 1e12, 240.0, 250.0)
    assert (line.slower(0.5).seconds, line.slower(0.5).most_seconds) == (120.0, 250.0)
    assert (line.slower(2.0).seconds, line.slower(2.0).most_seconds) == (480.0, 500.0)


@pytest.mark.slow
def test_the_estimate_for_the_reasoner_is_within_half_again(tmp_path: Path) -> None:
    setting = StudyConfig(quick=True, out=tmp_path)
    engine = local_engine(setting)
    found = estimate_here(setting, engine)
    began = time.monotonic()
    real = run_study(setting, engine=engine)
    seconds = time.monotonic() - began
    assert 1 / 1.5 < found.tokens / real.tokens < 1.5
    assert 1 / 1.5 < found.seconds / seconds < 1.5
