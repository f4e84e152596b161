"""LLM-Streamline: the block that takes the place of a run is trained, kept, numbered and saved."""

# Hugging Face modules are untyped from the outside: their children are `Tensor | Module`.

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from interp.errors import NonFiniteError, UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration
from pruning.distance import divergences
from pruning.plan import LayerPlan
from pruning.repairs import Repaired, mend, save_repaired
from pruning.repairs.llm_streamline import BlockTraining, split
from pruning.surgery import prune
from tests.models import ARCHS, tiny, untyped
from tests.slow_streams import plant_identity, same_weights, snapshot, streams, texts
from tests.tolerances import close_to

LENGTHS = (18, 12, 18, 9, 15, 18, 12, 16, 18, 11)
FEW = {"steps": 12, "look": 4, "batch_texts": 4, "measure": False}


def streamlined(model: ReasoningModel, *blocks: int, **options: Any) -> Repaired:
    plan = LayerPlan.without(model, *blocks)
    return mend("llm-streamline", model, plan, texts(model, LENGTHS), **(FEW | options))


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(((got - wanted) ** 2).sum() / (wanted**2).sum())


def whole(hf: Any) -> torch.Tensor:
    ids = torch.randint(6, 50, (2, 16), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return hf(ids, use_cache=False).logits


@pytest.mark.parametrize("arch", ARCHS)
def test_a_run_becomes_one_trained_block_of_an_ordinary_checkpoint(
    arch: str, tmp_path: Path
) -> None:
    model = tiny(arch, 5)
    repaired = streamlined(model, 1, 2, 3)
    assert repaired.plan.removed == (2, 3)
    assert repaired.model.layer_map == (0, 1, 4)
    (cut,) = repaired.record["cuts"]
    assert cut["removed"] == [1, 2, 3]
    assert cut["error_repaired"] < cut["error_start"]
    others = {i: dict(model.blocks[l].named_parameters()) for i, l in ((0, 0), (2, 4))}
    for index, wanted in others.items():
        for name, weight in repaired.model.blocks[index].named_parameters():
            assert torch.equal(weight, wanted[name])
    trained = dict(repaired.model.blocks[1].named_parameters())
    start = dict(model.blocks[1].named_parameters())
    assert all(not torch.equal(trained[name], start[name]) for name in start)
    save_repaired(repaired, tmp_path / "out")
    hf, info = untyped(AutoModelForCausalLM).from_pretrained(
        tmp_path / "out",
        output_loading_info=True,
        attn_implementation=model.hf.config._attn_implementation,
    )
    assert not any(info.values()), info
    torch.testing.assert_close(whole(hf.eval()), whole(repaired.model.hf), **close_to(model))


def test_the_errors_are_those_of_the_model_that_is_returned() -> None:
    """Without texts held out: the block's own output against the run's, text by text."""
    model = tiny("qwen3", 6)
    data = texts(model, LENGTHS)
    repaired = streamlined(model, 2, 3, 4, held_out=0.0)
    (cut,) = repaired.record["cuts"]
    dense = [streams(model, ids) for ids in data]
    wanted = np.concatenate([x[5] for x in dense])
    entering = np.concatenate([x[2] for x in dense])
    start = np.concatenate([x[3] for x in dense])
    got = np.concatenate([streams(repaired.model, ids)[3] for ids in data])
    assert cut["error_removed"] == pytest.approx(relative(entering, wanted), rel=1e-4)
    assert cut["error_start"] == pytest.approx(relative(start, wanted), rel=1e-4)
    assert cut["error_repaired"] == pytest.approx(relative(got, wanted), rel=1e-3)
    assert cut["on_held_out"] is False
    assert cut["tokens"] == len(wanted)


def test_a_second_run_learns_on_what_the_first_one_hands_on() -> None:
    model = tiny("qwen3", 7)
    data = texts(model, LENGTHS)
    repaired = streamlined(model, 1, 2, 4, 5, held_out=0.0)
    assert repaired.model.layer_map == (0, 1, 3, 4, 6)
    second = repaired.record["cuts"][1]
    wanted = np.concatenate([streams(model, ids)[6] for ids in data])
    ours = [streams(repaired.model, ids) for ids in data]
    assert second["error_removed"] == pytest.approx(
        relative(np.concatenate([x[3] for x in ours]), wanted), rel=1e-3
    )
    assert second["error_repaired"] == pytest.approx(
        relative(np.concatenate([x[4] for x in ours]), wanted), rel=1e-3
    )


@pytest.mark.parametrize("blocks", [(0, 1), (3, 4), (0, 1, 3, 4)], ids=str)
def test_runs_at_either_end(blocks: tuple[int, ...]) -> None:
    model = tiny("llama", 5)
    repaired = streamlined(model, *blocks)
    kept = {l for l in blocks if l - 1 not in blocks}
    assert set(repaired.model.layer_map) == (set(range(5)) - set(blocks)) | kept
    for cut in repaired.record["cuts"]:
        assert cut["error_repaired"] < cut["error_start"]


def test_a_block_that_does_it_already_is_left_as_it_is() -> None:
    model = tiny("qwen3", 5)
    plant_identity(model, 3)
    repaired = streamlined(model, 2, 3)  # block 2 alone does what 2 and 3 did
    (cut,) = repaired.record["cuts"]
    assert cut["error_start"] == cut["error_repaired"] == 0.0
    torch.testing.assert_close(whole(repaired.model.hf), whole(model.hf), **close_to(model))
    assert same_weights(repaired.model, snapshot(prune(model, LayerPlan.without(model, 3))))


def test_the_run_is_learned_better_than_it_is_removed() -> None:
    """With enough steps, on texts held out, and in the divergence of texts never seen."""
    model = tiny("qwen3", 5)
    with torch.no_grad():  # runs that one block can learn: they add less
        for block in untyped(model.blocks[2:4]):
            block.self_attn.o_proj.weight *= 0.3
            block.mlp.down_proj.weight *= 0.3
    plan = LayerPlan.without(model, 2, 3)
    data = texts(model, (20,) * 40)
    repaired = mend("llm-streamline", model, plan, data, steps=60, measure=False)
    (cut,) = repaired.record["cuts"]
    assert cut["on_held_out"] is True
    assert cut["error_repaired"] < 0.75 * cut["error_start"] < 0.75 * cut["error_removed"]
    fresh = Calibration.of(model, texts(model, (20,) * 8, seed=9))
    shorter = prune(model, LayerPlan.without(model, 3))
    removed, start, fixed = divergences(model, [plan, shorter, repaired.model], fresh)
    assert fixed < start < removed


def test_training_stops_when_it_no_longer_helps_and_keeps_the_best() -> None:
    model = tiny("qwen3", 5)
    seen: list[tuple[int, int, float]] = []
    repaired = streamlined(
        model, 2, 3, steps=400, lr=0.3, look=2, patience=3, warmup=0.0,
        progress=lambda *at: seen.append(at),
    )  # fmt: skip
    (cut,) = repaired.record["cuts"]
    assert cut["steps"] == seen[-1][0] < 400
    assert [step for step, _, _ in seen] == list(range(2, cut["steps"] + 1, 2))
    assert all(steps == 400 for _, steps, _ in seen)
    best = min(cut["error_start"], *(error for _, _, error in seen))
    assert cut["error_repaired"] == pytest.approx(best)
    assert all(error >= best for _, _, error in seen[-3:])
    judges = [texts(model, LENGTHS)[text] for text in split(len(LENGTHS), 0.1, seed=0)[1]]
    got = np.concatenate([streams(repaired.model, ids)[3] for ids in judges])
    wanted = np.concatenate([streams(model, ids)[4] for ids in judges])
    assert relative(got, wanted) == pytest.approx(best, rel=1e-3)
    assert best < 0.9 * seen[-1][2]
    assert "progress" not in repaired.record["options"]


def test_another_seed_is_another_training() -> None:
    model = tiny("qwen3", 5)
    first, again, other = (streamlined(model, 2, 3, seed=seed) for seed in (0, 0, 1))
    assert same_weights(first.model, snapshot(again.model))
    assert not same_weights(first.model, snapshot(other.model))
    assert other.record["options"]["seed"] == 1


def test_passes_of_a_few_texts_add_up_to_the_step_of_all() -> None:
    model = tiny("qwen3", 5)
    one, many = (streamlined(model, 2, 3, batch_tokens=size) for size in (4096, 20))
    for a, b in zip(one.model.hf.parameters(), many.model.hf.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=0)


def test_texts_are_split_once_and_for_all() -> None:
    learn, judge = split(20, 0.1, seed=3)
    assert sorted(learn + judge) == list(range(20))
    assert len(judge) == 2
    assert split(20, 0.1, seed=3) == (learn, judge) != split(20, 0.1, seed=4)
    assert split(3, 0.0, seed=0)[1] == []
    assert len(split(2, 0.1, seed=0)[1]) == 1


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine() -> None:
    training = BlockTraining(100, 1e-3, 8, 0.0, 0.1, 20, 5)
    rates = [training.rate(step) for step in range(100)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(rates[10:], (1 + np.cos(np.pi * np.arange(90) / 90)) / 2)


def test_bad_requests_are_refused() -> None:
    model = tiny("qwen3", 5)
    with pytest.raises(UserError, match=r"block \[2\] alone"):
        streamlined(model, 2)
    with pytest.raises(UserError, match=r"block \[4\] alone"):
        streamlined(model, 1, 2, 4)
    wrong = [
        ({"steps": 0}, "steps=0"),
        ({"batch_texts": 0}, "batch_texts=0"),
        ({"look": 0}, "look=0"),
        ({"patience": 0}, "patience=0"),
        ({"lr": 0.0}, "lr above 0"),
        ({"warmup": 1.0}, "warmup in"),
        ({"weight_decay": -1.0}, "weight_decay 0 or more"),
        ({"held_out": 1.0}, "held_out=1.0"),
        ({"held_out": -0.1}, "held_out=-0.1"),
    ]
    for options, match in wrong:
        with pytest.raises(UserError, match=match):
            streamlined(model, 2, 3, **options)
    plan = LayerPlan.without(model, 2, 3)
    with pytest.raises(UserError, match="leaves none to hold out"):
        mend("llm-streamline", model, plan, [[7, 8, 9]])
    assert mend("llm-streamline", model, plan, [[7, 8, 9]], held_out=0.0, steps=2, look=1)


def test_an_error_that_is_not_finite_stops_the_training() -> None:
    model = tiny("qwen3", 5)
    with pytest.raises(NonFiniteError, match="use a lower lr"):
        streamlined(model, 2, 3, lr=1e30, warmup=0.0, look=1)
    assert all(p.grad is None for p in model.hf.parameters())


def test_nothing_is_left_behind_when_training_is_interrupted() -> None:
    model = tiny("qwen3", 5)
    before = snapshot(model)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streamlined(model, 2, 3, progress=stop)
    assert same_weights(model, before)
    assert all(not b._forward_pre_hooks and "forward" not in b.__dict__ for b in model.blocks)
