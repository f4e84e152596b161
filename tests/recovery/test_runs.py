"""What a run must hold to: nothing trained, nothing changed; LoRA, resume, teacher, plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.errors import NonFiniteError, UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.plan import LayerPlan
from recovery.recovery_config import RecoveryConfig
from recovery.result import Recovered
from recovery.run import recover
from recovery.watching import Step
from tests.recovery.small import config, examples, farthest, model_of, saved, weights


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Recovered:
    """Two learning rates of LoRA, compared on held-out examples."""
    how = config("lora", rates=(1e-6, 1e-2), held_out=4, check_every=2, dropout=0.0)
    out = tmp_path_factory.mktemp("lora") / "run"
    return recover(base, how, out, plan=[1], data=examples(), teacher=None)


# ------------------------------------------------------------------------- laws


@pytest.mark.parametrize("method", ["lora", "full", "distill"])
def test_zero_steps_leave_the_checkpoint_bit_equal(method: Any, tmp_path: Path) -> None:
    stored = saved(tmp_path / "half", dtype=torch.bfloat16)
    found = recover(stored, config(method, steps=0), tmp_path / "run", data=examples(),
                    teacher=stored)  # fmt: skip
    before, after = weights(stored), weights(found.model)
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype
        assert torch.equal(before[name].view(torch.int16), after[name].view(torch.int16)), name
    assert found.steps == found.tokens == 0


def test_lora_merged_is_lora_attached(base: Path, lora: Recovered) -> None:
    from recovery.saving import attached

    beside = attached(model_of(lora.folder / "pruned"), lora.folder / "adapter")
    merged = lora.load()
    ids = torch.tensor([merged.prompt_ids("what is 3 + 4 ?")])
    with torch.no_grad():
        a, b = beside(ids).logits, merged.hf(ids).logits
        c = model_of(lora.folder / "pruned").hf(ids).logits
    assert (a - b).abs().max() < 1e-5
    assert (a - c).abs().max() > 1e-3  # it was trained


def test_the_better_rate_is_kept_and_both_are_reported(lora: Recovered) -> None:
    losses = {one["rate"]: one["held_out"] for one in lora.rates}
    assert set(losses) == {1e-6, 1e-2}
    assert lora.rate == min(losses, key=lambda rate: losses[rate])
    assert lora.held_out == min(losses.values())
    frame = lora.to_frame()
    assert set(frame["rate"]) == {1e-6, 1e-2}
    assert frame["held_out"].notna().sum() >= 4  # a look every two steps of four, for each rate


def test_what_pruning_said_travels_with_the_result(lora: Recovered, tmp_path: Path) -> None:
    assert lora.layer_map == (0, 2, 3)
    record = json.loads((lora.model / "pruning.json").read_text(encoding="utf-8"))
    assert record["layer_map"] == [0, 2, 3]
    assert record["plan"]["removed"] == [1]
    assert record["recovery"]["method"] == "lora"
    model = lora.load()
    assert model.layer_map == (0, 2, 3)
    assert model.n_dense == 4
    card = (lora.model / "README.md").read_text(encoding="utf-8")
    assert "Recovered by lora" in card
    assert "Nothing was trained" not in card
    again = recover(lora.model, config("full", steps=1), tmp_path / "again", data=examples())
    assert again.layer_map == (0, 2, 3)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("full", {}),
        ("lora", {"dropout": 0.1}),
        ("distill", {}),
        ("rl", {"batch": 8, "samples": 4, "micro": 4}),
    ],
)
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    method: Any,
    changes: dict[str, Any],
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped after its third step, so that the state of the second is gone on from."""
    from recovery import building

    def odd(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(len(ids) % 2) for ids in completion_ids]

    # Random weights are never right, and equal rewards teach nothing.
    monkeypatch.setattr(building, "verifier", lambda *_: odd)
    how = config(method, **changes)
    more: dict[str, Any] = {"plan": [1], "data": examples()}
    whole = recover(base, how, tmp_path / "whole", **more)

    def stop(step: Step) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(base, how, tmp_path / "parts", on_step=stop, **more)
    assert not (tmp_path / "parts" / "model").exists()
    parts = recover(base, how, tmp_path / "parts", **more)
    assert farthest(weights(whole.model), weights(parts.model)) <= 1e-6
    assert farthest(weights(whole.model), weights(tmp_path / "whole" / "pruned")) > 1e-4
    assert parts.tokens == whole.tokens
    assert parts.steps == whole.steps == how.steps
    assert [r["step"] for r in parts.rates[0]["history"]] == [1, 2, 3, 4]
    assert "going on from step 2" in (parts.folder / "log.txt").read_text(encoding="utf-8")


def test_a_state_without_its_mark_is_no_state(base: Path, tmp_path: Path) -> None:
    from recovery.run_folder import RunFolder

    states = tmp_path / "states"
    for step, whole in ((2, True), (4, False)):
        folder = states / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
        if whole:
            (folder / "complete.json").write_text("{}", encoding="utf-8")
    assert RunFolder(tmp_path).last_state(states) == states / "checkpoint-2"
    assert not (states / "checkpoint-4").exists()


def test_the_teacher_and_the_callers_model_are_untouched(tmp_path: Path) -> None:
    from tests.models import tiny

    teacher = tiny("qwen3", 4)
    before = {k: v.clone() for k, v in teacher.hf.state_dict().items()}
    flags = [p.requires_grad for p in teacher.hf.parameters()]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in teacher.hf.modules())
    plan = LayerPlan.without(teacher, 2)
    found = recover(teacher, config("distill"), tmp_path / "run", plan=plan, data=examples())
    assert found.layer_map == (0, 1, 3)
    after = teacher.hf.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert [p.requires_grad for p in teacher.hf.parameters()] == flags
    assert all(p.grad is None for p in teacher.hf.parameters())
    assert "forward" not in teacher.hf.__dict__
    now = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in teacher.hf.modules())
    assert now == hooks
    assert not teacher.hf.training


def test_a_finished_run_is_read_and_not_done_again(lora: Recovered, base: Path) -> None:
    how = config("lora", rates=(1e-6, 1e-2), held_out=4, check_every=2, dropout=0.0)
    stamp = (lora.model / "model.safetensors").stat().st_mtime_ns
    again = recover(base, how, lora.folder, plan=[1], data=examples())
    assert again == lora
    assert (lora.model / "model.safetensors").stat().st_mtime_ns == stamp


def test_training_ends_at_its_tokens(base: Path, tmp_path: Path) -> None:
    how = config("full", steps=50, tokens=100, schedule="linear")
    found = recover(base, how, tmp_path / "run", data=examples())
    per_step = 4 * 11  # four examples of eleven tokens: seven of thinking, its end, answer, stop
    assert 100 <= found.tokens < 100 + per_step
    assert found.steps == -(-100 // per_step)
    rates = [row["learning_rate"] for row in found.rates[0]["history"]]
    assert rates[0] < rates[1]  # the warm-up
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] < how.rates[0] / 2


def test_self_learns_from_the_dense_models_answers(base: Path, tmp_path: Path) -> None:
    from recovery.answers import rows_of

    how = config("self", steps=2, thinking=24, answer=8, samples=2)
    found = recover(base, how, tmp_path / "run", plan=[3], data=examples())
    rows = list(rows_of(found.folder / "answers" / "train"))
    assert len(rows) == 32
    kept = [row for row in rows if row["ended"]]
    assert found.examples == len(kept)
    assert any(f"{len(kept)} of 32 answers of the dense model" in note for note in found.notes)
    dense = model_of(base)
    ends = set(dense.stop_ids)
    assert all(row["ids"][-1] in ends for row in kept)


def test_off_policy_distillation_learns_from_given_text(base: Path, tmp_path: Path) -> None:
    how = config("distill", on_policy=False, steps=4)
    found = recover(base, how, tmp_path / "run", plan=[1], data=examples())
    assert found.tokens == 4 * 4 * 11  # the data's own tokens, as long as they are
    losses = [row["loss"] for row in found.rates[0]["history"]]
    assert losses[-1] < losses[0]


def test_training_that_makes_it_worse_stops_and_the_best_look_is_kept(
    base: Path, tmp_path: Path
) -> None:
    how = config("full", rates=(0.5,), steps=40, held_out=4, check_every=1, save_every=1,
                 patience=2, schedule="constant", warmup=0.0, clip=0.0)  # fmt: skip
    found = recover(base, how, tmp_path / "run", data=examples())
    looks = [row["held_out"] for row in found.to_frame().to_dict("records") if row["held_out"] > 0]
    start, *looks = looks
    assert found.steps == len(looks) < 40
    assert found.steps == looks.index(min(looks)) + 1 + 2
    assert found.held_out == min(looks)
    assert start > 0


def test_bfloat16_and_gradient_checkpointing_train(base: Path, tmp_path: Path) -> None:
    plain = recover(base, config("full"), tmp_path / "plain", data=examples())
    again = config("full", gradient_checkpointing=True)
    checkpointed = recover(base, again, tmp_path / "again", data=examples())
    assert farthest(weights(plain.model), weights(checkpointed.model)) <= 1e-6
    half = recover(base, config("lora", bf16=True), tmp_path / "half", data=examples())
    losses = [row["loss"] for row in half.rates[0]["history"]]
    assert losses[-1] < losses[0]
    assert weights(half.model)["model.norm.weight"].dtype == torch.float32  # as it was stored


def test_the_adapter_alone_on_request(base: Path, tmp_path: Path) -> None:
    found = recover(base, config("lora", merge=False), tmp_path / "run", plan=[1], data=examples())
    assert not found.model.exists()
    content = json.loads((found.folder / "adapter" / "adapter_config.json").read_text())
    assert content["base_model_name_or_path"] == str(found.folder / "pruned")


# ------------------------------------------------------------------------- what goes wrong


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_state(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recovery import trainers

    plain = trainers.SFTTrainer.compute_loss

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = plain(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 3 else loss

    monkeypatch.setattr(trainers.SFTTrainer, "compute_loss", broken)
    with pytest.raises(NonFiniteError, match=r"loss of step 4 is nan .*checkpoint-2"):
        recover(base, config("full"), tmp_path / "run", data=examples())
    monkeypatch.undo()
    found = recover(base, config("full"), tmp_path / "run", data=examples())  # it goes on
    whole = recover(base, config("full"), tmp_path / "whole", data=examples())
    assert farthest(weights(found.model), weights(whole.model)) <= 1e-6


def test_a_gradient_that_is_not_a_number_never_reaches_the_weights(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recovery import trainers

    plain = trainers.SFTTrainer.training_step

    def broken(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        loss = plain(self, model, *args, **kwargs)
        if self.state.global_step == 2:
            list(model.parameters())[-1].grad.view(-1)[0] = float("inf")
        return loss

    monkeypatch.setattr(trainers.SFTTrainer, "training_step", broken)
    with pytest.raises(NonFiniteError, match=r"gradient of step 3 is \w+ .*checkpoint-2"):
        recover(base, config("full"), tmp_path / "run", data=examples())


def test_no_space_left_keeps_the_last_state(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    from interp.errors import PruneScopeError

    plain = transformers.Trainer._save_optimizer_and_scheduler

    def full(self: Any, folder: str) -> None:
        if self.state.global_step == 4:
            raise OSError(28, "No space left on device")
        plain(self, folder)

    monkeypatch.setattr(transformers.Trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(PruneScopeError, match=r"No space left.*checkpoint-2 is kept"):
        recover(base, config("full"), tmp_path / "run", data=examples())
    states = tmp_path / "run" / "states"
    assert [f.name for f in states.rglob("checkpoint-*")] == ["checkpoint-2"]
    monkeypatch.undo()
    assert recover(base, config("full"), tmp_path / "run", data=examples()).steps == 4


def test_a_disk_without_room_is_said_before_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from types import SimpleNamespace

    from interp.errors import PruneScopeError

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(PruneScopeError, match="Free some space"):
        recover(base, config("full"), tmp_path / "run", data=examples())


def test_the_folder_of_another_run_is_refused(lora: Recovered, base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds another run: config is"):
        recover(base, config("lora", rates=(1e-3,)), lora.folder, plan=[1], data=examples())
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds no recovery\.json"):
        recover(base, config("full"), tmp_path, data=examples())
    other = saved(tmp_path / "other", seed=1)
    first = tmp_path / "first"
    recover(str(other), config("full", steps=0), first, data=examples())
    record = json.loads((first / "recovery.json").read_text(encoding="utf-8"))
    del record["result"]
    (first / "recovery.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match="data fingerprint"):
        recover(str(other), config("full", steps=0), first, data=examples(grader=""))


def test_several_gpus_without_a_launcher_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(UserError, match="accelerate launch"):
        recover(base, config("full"), tmp_path / "run", data=examples())


def test_a_teacher_with_another_tokenizer_is_refused(base: Path, tmp_path: Path) -> None:
    teacher = ReasoningModel.load("testbed")
    with pytest.raises(UserError, match="has another tokenizer than"):
        recover(base, config("distill"), tmp_path / "run", data=examples(), teacher=teacher)


def test_a_method_without_its_teacher_asks_for_one(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--teacher"):
        recover(base, config("self"), tmp_path / "run", data=examples())


def test_rates_cannot_be_compared_without_held_out_examples(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is held out"):
        recover(base, config("lora", rates=(1e-4, 1e-3)), tmp_path / "run", data=examples())


def test_targets_that_are_not_there_name_those_that_are(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\['w1'\].*q_proj"):
        recover(base, config("lora", targets=("w1",)), tmp_path / "run", data=examples())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "loras"}, "Did you mean 'lora'"),
        ({"method": "full", "weights": "lora"}, "trains no 'lora' weights"),
        ({"method": "full", "rates": (2.0,)}, "between 0 and 1"),
        ({"method": "full", "batch": 0}, "batch: 0"),
        ({"method": "rl", "samples": 1}, "at least 2"),
        ({"method": "rl", "samples": 3, "batch": 8}, "whole groups"),
        ({"method": "lora", "verified": True}, "works only with method self"),
        ({"method": "full", "epochs": 0.0}, "not above 0"),
    ],
)
def test_settings_that_cannot_be_are_said_at_once(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        RecoveryConfig(**changes)


def test_the_papers_schedule_is_a_preset() -> None:
    how = RecoveryConfig.preset("paper", "full")
    assert (how.rates, how.epochs, how.batch, how.context) == ((1e-5,), 5.0, 16, 32768)
    assert (how.schedule, how.warmup, how.weight_decay) == ("cosine", 0.05, 1e-4)
    assert RecoveryConfig("lora").rates == (1e-5, 1e-4, 2e-4, 5e-4)
    with pytest.raises(UserError, match="preset"):
        RecoveryConfig.preset("papers", "full")
