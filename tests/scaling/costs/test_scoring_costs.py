"""Scoring blocks costs what was said: FLOPs and chains counted while the criteria run."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from interp.chains.chain import Budget, Chain
from interp.decoding.generate import generate
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration as Sized
from pruning.cost import (
    ScoringJob,
    runs_of_drawn,
    runs_of_extended,
    runs_of_neighbours,
)
from pruning.criteria import criteria, score
from pruning.criteria.prefix import judge_sets
from pruning.plan import LayerPlan
from pruning.repairs import mend
from scaling.costs import measured_machine
from scaling.costs.decode_speed import Pace, pace_of
from scaling.costs.machines import machine
from scaling.costs.measured_machine import this_machine
from scaling.costs.model_shape import ModelShape
from scaling.costs.scoring_costs import (
    CalibrationSize,
    PlannedRepair,
    cost_of_criteria,
    estimate_scoring,
    flops_of,
    own_calibration,
    tried_share,
)
from scaling.study.config import StudyConfig
from tests import models
from tests.counting import counted, within

BLOCKS, PROMPTS = 6, 4


@pytest.fixture(scope="module")
def model() -> ReasoningModel:
    return models.tiny("qwen3", n_blocks=BLOCKS)


@pytest.fixture(scope="module")
def chains(model: ReasoningModel) -> list[Chain]:
    """Chains of the model itself, some ended by it and some by the budget."""
    prompts = [model.prompt_ids(f"what is {i} + 2 ?") for i in range(PROMPTS)]
    return list(model.generate(prompts, budget=Budget(40, 6)))


@pytest.mark.parametrize(
    ("name", "remove"),
    [
        ("shortgpt", None), ("angular", None), ("cka", None), ("taylor+", None),
        ("perplexity", None), ("skip-kl", None), ("chain-survival", None), ("swap-kl", None),
        ("sleb", 1), ("sleb", 4), ("blockpruner", 3), ("finercut", 2), ("evopress", 3),
    ],
)  # fmt: skip
def test_flops_of_a_criterion_are_counted_as_it_spends_them(
    name: str, remove: int | None, model: ReasoningModel, chains: list[Chain]
) -> None:
    options: dict[str, Any] = {} if remove is None else {"remove": remove}
    calibration = Sized.of(model, chains, "all")
    _, real = counted(lambda: score(name, model, calibration, **options))
    tokens = sum(map(len, calibration.sequences))
    cost = cost_of_criteria([name], BLOCKS, remove, tokens, len(chains))
    found = flops_of(cost, ModelShape.of(model.hf.config), tokens, len(chains))
    assert within(found, real), found / real


@pytest.mark.parametrize("name", ["chain-aware", "task-greedy"])
def test_chains_that_a_criterion_decodes_are_counted(
    name: str, model: ReasoningModel, chains: list[Chain], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Chain] = []

    def noted(*arguments: Any, **options: Any) -> Any:
        found = generate(*arguments, **options)
        made.extend(found)
        return found

    criterion = name.replace("-", "_")
    monkeypatch.setattr(f"pruning.criteria.{criterion}.generate", noted)
    given: Any = chains
    options: dict[str, Any] = {"remove": 2, "budget": Budget(40, 6)}
    if name == "task-greedy":
        given = [c.prompt_ids.tolist() for c in chains]
        options["accept"] = lambda _index, _text: True
    _, real = counted(lambda: score(name, model, given, **options))
    mean = float(np.mean([c.n_tokens for c in chains]))
    tokens = float(sum(len(c.prompt_ids) + c.n_tokens for c in chains))
    prompt = float(np.mean([len(c.prompt_ids) for c in chains]))
    calibration = CalibrationSize(PROMPTS, tokens, chain=(prompt, mean, 46.0))
    found = estimate_scoring(
        ModelShape.of(model.hf.config), [name], calibration, machine("cpu"), removals=2
    )
    line = next(line for line in found.lines if line.stage == "candidates' chains")
    assert line.chains == len(made)
    assert within(line.tokens, sum(c.n_tokens for c in made))
    assert line.most_tokens >= sum(c.n_tokens for c in made)
    assert within(found.total("flops"), real), found.total("flops") / real


def test_a_search_for_larger_sets_is_counted_within_half_again(chains: list[Chain]) -> None:
    """12 blocks: too many sets of three to try them all, so the search does draw and exchange."""
    deep = models.tiny("qwen3", n_blocks=12)
    calibration = Sized.of(deep, chains, "all")
    tokens = sum(map(len, calibration.sequences))
    options: dict[str, Any] = {
        "sizes": (3,), "generations": 4, "offspring": 8, "initial": 12,
        "tokens": (tokens // 4, tokens // 2),
    }  # fmt: skip
    _, real = counted(lambda: score("evopress", deep, calibration, remove=3, **options))
    cost = cost_of_criteria(["evopress"], 12, 3, tokens, len(chains), options)
    found = flops_of(cost, ModelShape.of(deep.hf.config), tokens, len(chains))
    assert within(found, real), found / real


def runs_counted(model: ReasoningModel, chain: Chain, sets: list[tuple[int, ...]]) -> int:
    """Runs of a block while `judge_sets` judges the sets on one text."""
    ran = [0]
    hooks = [
        block.register_forward_hook(lambda *_: ran.__setitem__(0, ran[0] + 1))
        for block in model.blocks
    ]
    calibration = Sized.of(model, [chain])
    judge_sets(model, sets, calibration.sequences, calibration.counted(), "kl")
    for hook in hooks:
        hook.remove()
    return ran[0]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_runs_for_all_sets_are_counted_exactly(
    n: int, model: ReasoningModel, chains: list[Chain]
) -> None:
    every = list(combinations(range(BLOCKS), n))
    ran = runs_counted(model, chains[0], every)
    assert runs_of_drawn(BLOCKS, n) == ran
    assert runs_of_drawn(BLOCKS, n, len(every)) == pytest.approx(ran)


def test_runs_for_sets_drawn_near_and_extended_are_those_expected(
    model: ReasoningModel, chains: list[Chain]
) -> None:
    rng, every = np.random.default_rng(0), list(combinations(range(BLOCKS), 3))
    drawn, near = [], []
    for _ in range(20):
        chosen = rng.choice(len(every), size=8, replace=False)
        drawn.append(runs_counted(model, chains[0], [every[i] for i in chosen]))
        parent = set(every[chosen[0]])
        close = [s for s in every if len(parent - set(s)) == 1]  # nine of them
        few = rng.choice(len(close), size=6, replace=False)
        near.append(runs_counted(model, chains[0], [close[i] for i in few]))
    assert runs_of_drawn(BLOCKS, 3, 8) == pytest.approx(np.mean(drawn), rel=0.1)
    assert runs_of_neighbours(BLOCKS, 3, 6) == pytest.approx(np.mean(near), rel=0.25)
    pairs = [(0, i) for i in range(1, BLOCKS)] + [(1, i) for i in range(2, BLOCKS)]
    ran = runs_counted(model, chains[0], pairs)
    assert ran <= runs_of_extended(BLOCKS, 2, 2) <= 1.5 * ran


def test_every_criterion_states_its_cost_in_numbers() -> None:
    for name, entry in criteria().items():
        cost = entry.price(ScoringJob(8, 2, 400, 4))
        assert (cost.passes > 0) == entry.needs_texts, name
        assert (cost.steps > 1) <= (entry.kind in ("greedy", "search")), name
    two = cost_of_criteria(["shortgpt", "sleb"], 8, 2, 400, 4)
    one = cost_of_criteria(["sleb"], 8, 2, 400, 4)
    assert two.passes == one.passes + 1
    fewer = cost_of_criteria(["evopress"], 8, 3, 400, 4, {"sizes": (2,)})
    assert fewer.passes < cost_of_criteria(["evopress"], 8, 3, 400, 4).passes
    twice = cost_of_criteria(["swap-kl"], 8, None, 400, 4, {"protocol": "replacement"})
    assert twice.passes > 1.5 * cost_of_criteria(["swap-kl"], 8, None, 400, 4).passes


def test_the_calibration_of_a_study_is_counted_and_its_length_tried(
    model: ReasoningModel, chains: list[Chain]
) -> None:
    from scaling.engines.local import LocalEngine
    from scaling.study.problem_sets import gather
    from scaling.study.variants import calibration_chains

    config = StudyConfig(
        benchmarks=("arithmetic", "countdown-3"), budgets=(12, 30), answer=5, methods=()
    )
    engine = LocalEngine(model)
    benches, spare = gather(config)
    real = calibration_chains(config, engine, benches, spare)
    found = own_calibration(config, BLOCKS, tried_share(config, engine))
    assert found.texts == len(real)
    assert within(found.written, sum(c.n_tokens for c in real))
    assert found.most == len(real) * 35
    assert found.tokens > found.written
    asked = own_calibration(config, BLOCKS, prompts_only=True)
    assert asked.written == 0 and asked.tokens == pytest.approx(found.tokens - found.written)
    lines = estimate_scoring(
        ModelShape.of(model.hf.config), ["shortgpt"], found, machine("cpu")
    ).lines
    assert [line.stage for line in lines] == ["calibration", "scoring"]
    assert lines[0].tokens == found.written


def test_a_measured_machine_is_one_like_those_by_name(model: ReasoningModel) -> None:
    device = this_machine(model)
    shape = ModelShape.of(model.hf.config)
    assert device.decoding is not None and min(device.decoding) > 0
    assert device.flops > 0 and device.number_bytes == 4
    assert isinstance(pace_of(shape, device, 10, 100), Pace)
    assert pace_of(shape, device, 10, 100).each == device.decoding[1]
    assert "measured by a trial" in device.about
    twice = replace(device, flops=2 * device.flops)
    calibration = CalibrationSize(4, 400.0)
    fast, slow = (
        estimate_scoring(shape, ["sleb"], calibration, d, removals=2) for d in (twice, device)
    )
    assert fast.seconds == pytest.approx(slow.seconds / 2)


def test_passes_of_few_and_of_many_rows_are_measured(
    model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen rows wait for the weights as one does; in a full batch the products take longer."""
    prompts, fixed, each, full = 0.05, 0.3, 0.001, 0.01

    def decoded(_: ReasoningModel, rows: int, tokens: int) -> tuple[float, int]:
        reading = prompts * rows if rows > measured_machine.ROWS else 0.0
        return reading + tokens * max(fixed + each * rows, full * rows), tokens

    monkeypatch.setattr(measured_machine, "_decoded", decoded)
    assert this_machine(model).decoding == pytest.approx((fixed, each, full))


@pytest.mark.slow
def test_the_time_of_a_search_on_the_reasoner_is_within_half_again() -> None:
    reasoner = ReasoningModel.load("testbed")
    prompts = [reasoner.prompt_ids(f"make {n} from 2 , 3 , 7 , 8") for n in range(20, 28)]
    calibration = Sized.of(reasoner, list(reasoner.generate(prompts, budget=Budget(200, 8))), "all")
    tokens = float(sum(map(len, calibration.sequences)))
    found = estimate_scoring(
        replace(ModelShape.of(reasoner.hf.config), name="testbed"), ["sleb"],
        CalibrationSize(len(prompts), tokens), this_machine(reasoner), removals=6,
    )  # fmt: skip
    began = time.monotonic()
    score("sleb", reasoner, calibration, remove=6)
    assert within(found.seconds, time.monotonic() - began)


@pytest.mark.parametrize(
    ("name", "removed"),
    [("replaceme", (2, 4)), ("prune-comp", (2, 3)), ("procrustes", (2,)), ("linearpatch", (3,))],
)
def test_flops_of_a_repair_are_counted_as_it_spends_them(
    name: str, removed: tuple[int, ...], model: ReasoningModel, chains: list[Chain]
) -> None:
    calibration = Sized.of(model, chains, "all")
    plan = LayerPlan.without(model, *removed)
    _, real = counted(lambda: mend(name, model, plan, calibration))
    cuts = sum(l - 1 not in removed for l in removed)
    planned = PlannedRepair(name, len(removed), cuts, True, {})
    tokens = sum(map(len, calibration.sequences))
    cost = planned.cost(BLOCKS, len(chains))
    found = flops_of(cost, ModelShape.of(model.hf.config), tokens, len(chains))
    assert within(found, real, 2.0), found / real
