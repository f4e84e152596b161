"""The parts by themselves: writing, rewards, schedules, memory, configurations, changes."""

from __future__ import annotations

import copy
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from interp.chains.chain import Budget
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from recovery import configs
from recovery.building import verifier
from recovery.changes import block_changes
from recovery.examples import TrainingSet
from recovery.libraries import quiet
from recovery.trainers import rate_factor, trimmed
from recovery.training_memory import GIB, QWEN3_8B, TrainedShape, memory
from recovery.writing import Writer, own_tokens
from tests.chains import make_chain
from tests.models import tiny
from tests.recovery.small import config, examples, saved, weights


def test_only_the_models_own_tokens_are_its_completion() -> None:
    assert own_tokens(make_chain(range(5), forced=(2, 3))) == [0, 1]
    assert own_tokens(make_chain(range(2))) == [0, 1]


def test_a_writer_repeats_itself_and_leaves_the_model_training() -> None:
    model = tiny("qwen3")
    writer = Writer(model, Budget(6, 4), Sampling(), seed=3)
    prompts = [model.prompt_ids("what is 3 + 4 ?")] * 2
    model.hf.train()
    first = writer.write(model.hf, prompts, "step 1/0", samples=2)
    assert model.hf.training
    assert len(first) == 4
    assert first == writer.write(model.hf, prompts, "step 1/0", samples=2)
    assert first != writer.write(model.hf, prompts, "step 2/0", samples=2)
    assert len({tuple(row) for row in first}) > 1  # another row and sample, other noise
    assert all(1 <= len(row) <= 10 for row in first)


def test_a_writer_writes_outside_mixed_precision() -> None:
    """Queries under autocast would be bfloat16 and the cache's keys float32: Triton refuses."""
    model = tiny("qwen3")
    writer = Writer(model, Budget(6, 4), Sampling(), seed=3)
    prompts = [model.prompt_ids("what is 3 + 4 ?")]
    plain = writer.write(model.hf, prompts, "step 1/0")
    hf: Any = copy.deepcopy(model.hf)
    forward = torch.autocast("cpu", torch.bfloat16)(type(hf).forward)
    hf.forward = mixed = MethodType(forward, hf)  # as accelerate does it
    seen: list[bool] = []
    hf.model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    assert writer.write(hf, prompts, "step 1/0") == plain
    assert seen and not any(seen)
    assert hf.forward is mixed


def test_the_reward_is_the_verifiers_word() -> None:
    model = tiny("qwen3")
    (example,) = examples(1)  # 2 + 3
    reward = verifier(model, [TrainingSet("t", (example,)), None])
    stop = [model.stop_ids[0]]

    def of(text: str, end: list[int]) -> float:
        return reward(prompts=[example.id], completion_ids=[model.encode(text) + end])[0]

    assert of("try 2 + 3 = 5 yes . </think> 5", stop) == 1.0
    assert of("try 2 + 3 = 6 yes . </think> 6", stop) == 0.0
    assert of("try 2 + 3 = 5 yes .", stop) == 0.0  # never ended its thinking
    assert of("try 2 + 3 = 5 yes . </think> 5", []) == 0.0  # cut: 5 might have become 57
    assert reward(prompts=[example.id], completion_ids=[[]]) == [0.0]


def test_padding_of_the_whole_batch_is_no_part_of_a_rows_pass() -> None:
    inputs = {
        "prompt_ids": torch.tensor([[0, 0, 5, 6], [0, 7, 8, 9]]),
        "prompt_mask": torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]]),
        "completion_ids": torch.tensor([[1, 2, 0, 0, 0], [3, 0, 0, 0, 0]]),
        "completion_mask": torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]),
        "old_per_token_logps": torch.arange(10.0).view(2, 5),
        "advantages": torch.ones(2),
        "num_items_in_batch": torch.tensor(3),
    }
    found = trimmed(inputs)
    assert found["prompt_ids"].tolist() == [[0, 5, 6], [7, 8, 9]]
    assert found["completion_ids"].tolist() == [[1, 2], [3, 0]]
    assert found["old_per_token_logps"].tolist() == [[0, 1], [5, 6]]
    assert found["advantages"] is inputs["advantages"]
    assert inputs["prompt_ids"].shape == (2, 4)


@pytest.mark.parametrize("method", ["distill", "rl"])
def test_the_loss_does_not_see_padding(method: Any, tmp_path: Path) -> None:
    """The same batch with and without padding, through TRL's loss."""
    from recovery.building import TrainingJob, build
    from recovery.trainers import OnPrompts, WatchedTrainer
    from recovery.watching import Log, Watch

    base = saved(tmp_path / "tiny")
    train = TrainingSet("t", tuple(examples(8)))
    how = config(method, batch=4, samples=4, micro=4)
    log = Log(tmp_path / "log", False)
    watch = Watch(log, tokens=None, looks=False, on_step=None, stage="t", rate=1e-3)
    job = TrainingJob(how, str(base), train, None, tiny("qwen3", seed=1), log, torch.device("cpu"))
    with quiet():
        trainer = build(job, how, tmp_path / "states", watch)
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        inputs["advantages"] = torch.arange(4.0) - 1.5  # equal rewards have none
        tight = OnPrompts.compute_loss(trainer, trainer.model, dict(inputs)).detach()
        wide = dict(inputs)
        for name, value in inputs.items():
            if torch.is_tensor(value) and value.ndim == 2:
                pad = (3, 0) if name.startswith("prompt") else (0, 5)
                wide[name] = torch.nn.functional.pad(value, pad)
        loose = WatchedTrainer.compute_loss(trainer, trainer.model, wide).detach()
    assert float(tight) == pytest.approx(float(loose), rel=1e-5, abs=1e-7)
    assert abs(float(tight)) > 1e-4


def test_the_rate_by_tokens_warms_up_and_falls_to_nothing() -> None:
    for schedule in ("cosine", "linear"):
        values = [rate_factor(x, schedule, 0.1) for x in np.linspace(0, 1, 101)]
        assert 0 < values[0] < 0.05
        assert max(values) == pytest.approx(1.0, abs=1e-2)
        assert values[-1] == pytest.approx(0.0, abs=1e-9)
        assert values[10:] == sorted(values[10:], reverse=True)
    assert rate_factor(0.9, "constant", 0.1) == 1.0


# ------------------------------------------------------------------------- memory on paper


@pytest.mark.parametrize("arch", ["qwen3", "llama"])
def test_the_parameters_on_paper_are_those_of_the_model(arch: str) -> None:
    model = tiny(arch)
    shape = TrainedShape.of(model.hf.config)
    wanted = sum(p.numel() for p in model.hf.parameters())
    per_head = 0 if arch == "qwen3" else 2 * shape.head_width * shape.blocks  # norms of q and k
    assert shape.parameters - per_head == wanted


def test_lora_on_paper_is_what_peft_adds() -> None:
    from peft import get_peft_model

    from recovery.building import lora
    from recovery.recovery_config import RecoveryConfig

    hf = tiny("qwen3").hf
    shape = TrainedShape.of(hf.config)
    with quiet():
        adapted = get_peft_model(hf, lora(RecoveryConfig("lora", rank=4), hf))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert shape.lora(4) == trained


def test_what_qwen3_8b_takes_at_32k() -> None:
    assert QWEN3_8B.parameters == 8_190_735_360
    whole = memory(QWEN3_8B, context=32768, gpus=8)
    assert 16 * QWEN3_8B.parameters / 8 == pytest.approx(
        whole.weights + whole.gradients + whole.adam, rel=1e-6
    )
    assert whole.gpu < 72 * GIB  # leaves a tenth of 80 GB for allocator and communication
    one = memory(QWEN3_8B, context=32768, gpus=1)
    assert one.gpu > 80 * GIB
    adapters = memory(QWEN3_8B, context=32768, gpus=8, lora_rank=16, sharded=False)
    assert adapters.gpu < 72 * GIB
    offloaded = memory(QWEN3_8B, context=32768, gpus=2, offload_adam=True)
    assert offloaded.gpu < 72 * GIB < memory(QWEN3_8B, context=32768, gpus=2).gpu
    assert offloaded.host == 8 * QWEN3_8B.parameters // 2 * 2
    no_tiles = memory(QWEN3_8B, context=32768, gpus=8, fused_head=False)
    assert no_tiles.gpu - whole.gpu > 40 * GIB  # why the fused head matters
    assert (whole.to_frame()["gpu"] > 0).all()
    with pytest.raises(UserError, match="at least 1"):
        memory(QWEN3_8B, context=0)


# ------------------------------------------------------------------------- configurations


def test_every_configuration_is_one_that_accelerate_takes() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    assert {"ddp", "fsdp2", "gloo", "zero3", "zero3_offload"} == set(configs.names())
    for name in configs.names():
        content: dict[str, Any] = yaml.safe_load(configs.path(name).read_text(encoding="utf-8"))
        found: Any = load_config_from_file(str(configs.path(name)))
        assert found.num_processes == content["num_processes"]
        assert str(found.distributed_type).endswith(content["distributed_type"])
    with pytest.raises(UserError, match="Did you mean 'fsdp2'"):
        configs.path("fsdp")


# ------------------------------------------------------------------------- changes by block


def test_the_change_of_a_block_is_read_off_the_files(tmp_path: Path) -> None:
    before = saved(tmp_path / "before")
    after = saved(tmp_path / "after")
    changed = weights(after)
    for name in changed:
        if ".layers.2." in name:
            changed[name] = changed[name] * 1.5
    save_file(changed, after / "model.safetensors", metadata={"format": "pt"})
    (before / "pruning.json").write_text('{"layer_map": [0, 3, 5, 6]}', encoding="utf-8")
    found = block_changes(before, after)
    assert found.blocks.tolist() == [0, 3, 5, 6]
    np.testing.assert_allclose(found.change, [0, 0, 0.5, 0], atol=1e-6)
    assert found.outside == 0
    assert found.to_frame()["block"].tolist() == [0, 3, 5, 6]
    other = saved(tmp_path / "other", n_blocks=3)
    with pytest.raises(UserError, match="other weights"):
        block_changes(before, other)
    assert torch.equal(weights(before)["model.norm.weight"], weights(after)["model.norm.weight"])


def test_what_was_trained_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from recovery.saving import with_trained

    base = tiny("qwen3", 2)
    trained = tmp_path / "trained"
    base.hf.save_pretrained(trained)
    assert with_trained(base, trained, adapter=False) is base
    weights = load_file(trained / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, trained / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 that the model needs missing"):
        with_trained(base, trained, adapter=False)


def test_an_adapter_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    from recovery.saving import attached

    adapter = tmp_path / "adapter"
    hf: Any = tiny("qwen3", 2).hf
    lora = LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM")
    with quiet():
        get_peft_model(hf, lora).save_pretrained(str(adapter))
    attached(tiny("qwen3", 2), adapter)
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    del weights[next(key for key in weights if "layers.1." in key)]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="missing adapter keys"):
        attached(tiny("qwen3", 2), adapter)
    file.rename(adapter / "adapter_model.bin")  # PEFT would read it as a pickle
    with pytest.raises(UserError, match="holds no adapter_model"):
        attached(tiny("qwen3", 2), adapter)
