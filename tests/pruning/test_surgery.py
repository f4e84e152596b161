"""Surgery: configuration, files and refusals. That the logits are right is in tests/laws."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    GenerationConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

from interp.errors import PruneScopeError, UserError
from interp.model.block_order import shorten
from interp.model.reasoning_model import ReasoningModel
from pruning import checkpoint
from pruning.criteria import score
from pruning.model_card import plan_card
from pruning.plan import LayerPlan
from pruning.surgery import prune, save, write_checkpoint
from tests.models import tiny, untyped
from tests.slow_streams import hooks_of, same_weights, snapshot


def test_the_callers_model_is_untouched_and_shares_nothing() -> None:
    model = tiny("qwen3", 4)
    before, hooks, config = snapshot(model), hooks_of(model), model.hf.config.to_dict()
    pruned = prune(model, LayerPlan.without(model, 1))
    with torch.no_grad():
        for weight in pruned.hf.parameters():
            weight.zero_()
    assert same_weights(model, before)
    assert hooks_of(model) == hooks
    assert model.hf.config.to_dict() == config
    assert [untyped(b).self_attn.layer_idx for b in model.blocks] == [0, 1, 2, 3]
    assert (model.n_blocks, pruned.n_blocks) == (4, 3)
    assert pruned.hf.num_parameters() < model.hf.num_parameters()


def test_saving_leaves_the_callers_model_as_it_was(tmp_path: Path) -> None:
    model = tiny("qwen3", 4)
    before, config = snapshot(model), model.hf.config.to_dict()
    save(model, LayerPlan.without(model, 1), tmp_path / "out")
    assert same_weights(model, before)
    now = model.hf.config.to_dict()
    assert {k: v for k, v in now.items() if k != "architectures"} == {
        k: v for k, v in config.items() if k != "architectures"
    }


def test_blocks_are_numbered_anew_and_lists_lose_the_removed_entries() -> None:
    model = tiny("gemma3", 6)
    types = model.hf.config.layer_types
    pruned = prune(model, LayerPlan.without(model, 0, 3))
    config = pruned.hf.config
    assert config.num_hidden_layers == 4
    assert config.layer_types == [types[i] for i in (1, 2, 4, 5)] != types[:4]
    assert [untyped(b).self_attn.layer_idx for b in pruned.blocks] == [0, 1, 2, 3]
    assert [untyped(b).self_attn.layer_type for b in pruned.blocks] == config.layer_types
    assert pruned.layer_map == (1, 2, 4, 5)


def test_lists_that_are_not_per_block_keep_their_entries() -> None:
    config = Gemma3TextConfig(num_hidden_layers=3, eos_token_id=[1, 5, 7])
    config.architectures = ["a", "b", "c"]
    shorten(config, [2], 3)
    assert config.eos_token_id == [1, 5, 7]
    assert config.architectures == ["a", "b", "c"]
    assert config.layer_types is not None and len(config.layer_types) == 1


def moe(**rules: Any) -> ReasoningModel:
    return tiny("qwen3_moe", 6, **rules)


@pytest.mark.parametrize(
    "rules",
    [{"decoder_sparse_step": 2}, {"mlp_only_layers": [1, 4]}, {}],
    ids=["every second", "listed", "all"],
)
def test_experts_stay_in_the_blocks_that_had_them(rules: dict[str, Any], tmp_path: Path) -> None:
    model = moe(**rules)
    kinds = [type(b.mlp).__name__ for b in model.blocks]
    pruned = prune(model, LayerPlan.without(model, 0, 3))
    wanted = [kinds[i] for i in (1, 2, 4, 5)]
    assert [type(b.mlp).__name__ for b in pruned.blocks] == wanted
    folder = save(model, LayerPlan.without(model, 0, 3), tmp_path / "out")
    again = ReasoningModel.load(folder)
    assert [type(b.mlp).__name__ for b in again.blocks] == wanted
    assert isinstance(again.hf.config, Qwen3MoeConfig)


def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    model = tiny("qwen3", 4, tie_word_embeddings=True)
    pruned = prune(model, LayerPlan.without(model, 2))
    assert pruned.head.weight is pruned.hf.get_input_embeddings().weight
    assert pruned.head.weight is not model.head.weight
    folder = save(model, LayerPlan.without(model, 2), tmp_path / "tied")
    again = ReasoningModel.load(folder)
    tied = untyped(again.hf).get_input_embeddings().weight
    assert untyped(again.head).weight.data_ptr() == tied.data_ptr()
    torch.testing.assert_close(again.head.weight, model.head.weight)


def test_the_folder_holds_all_that_a_checkpoint_needs(tmp_path: Path) -> None:
    model = tiny("qwen3", 5)
    model.hf.generation_config = GenerationConfig(
        temperature=0.6, top_p=0.95, do_sample=True, use_cache=False, eos_token_id=3
    )
    model.hf.config.use_cache = False
    plan = LayerPlan.lowest(score("shortgpt", model, ["use 3 7 to make 21", "wait check"]), 2)
    folder = save(model, plan, tmp_path / "deep" / "out")
    record = json.loads((folder / "pruning.json").read_text())
    assert record["layer_map"] == list(plan.kept)
    assert record["n_blocks"] == 5
    assert sorted(record["removed"]) == list(plan.removed)
    assert record["criterion"] == "shortgpt"
    assert record["calibration"] == plan.calibration != ""
    assert record["fingerprint"] == model.fingerprint()
    assert LayerPlan.from_json(json.dumps(record["plan"])) == plan
    card = (folder / "README.md").read_text()
    assert "shortgpt" in card
    assert str(list(plan.removed)) in card
    assert plan.calibration in card
    assert plan.scores is not None
    for block, value in enumerate(plan.scores):
        gone = "removed" if block in plan.removed else ""
        assert f"| {block} | {value:.6g} | {gone} |" in card
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == model.tokenizer.get_vocab()
    again = ReasoningModel.load(folder)
    assert again.layer_map == plan.kept
    assert again.n_dense == 5
    assert again.delimiters == model.delimiters
    assert again.prompt_ids("use 3 7") == model.prompt_ids("use 3 7")
    assert again.hf.config.use_cache is True
    config = again.hf.generation_config
    assert config is not None
    assert (config.temperature, config.top_p, config.use_cache) == (0.6, 0.95, True)
    assert {p.name for p in tmp_path.iterdir()} == {"deep"}
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"out"}


def test_maps_compose_when_pruned_again(tmp_path: Path) -> None:
    dense = tiny("qwen3", 6)
    first = save(dense, LayerPlan.without(dense, 0, 3), tmp_path / "first")
    once = ReasoningModel.load(first)
    assert once.layer_map == (1, 2, 4, 5)
    second = save(once, LayerPlan.without(once, 2), tmp_path / "second")
    twice = ReasoningModel.load(second)
    assert twice.layer_map == (1, 4, 5)
    assert twice.n_dense == 6
    assert json.loads((second / "pruning.json").read_text())["removed"] == [0, 2, 3]
    at_once = prune(dense, LayerPlan.without(dense, 0, 2, 3))
    ids = torch.randint(6, 40, (2, 15))
    with torch.no_grad():
        torch.testing.assert_close(twice.hf(ids).logits, at_once.hf(ids).logits)
    with pytest.raises(UserError, match="block 2 is not there"):
        LayerPlan.without(twice, 2)


def test_half_precision_is_kept(tmp_path: Path) -> None:
    model = tiny("qwen3", 3)
    untyped(model.hf).to(torch.bfloat16)
    folder = save(model, LayerPlan.without(model, 1), tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


def test_no_weight_is_copied_for_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("qwen3", 4)
    own = {p.data_ptr() for p in model.hf.parameters()}
    saved: list[int] = []

    def spy(self: PreTrainedModel, folder: Any, **_: Any) -> None:
        saved.extend(p.data_ptr() for p in self.parameters())

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", spy)
    save(model, LayerPlan.without(model, 1), tmp_path / "out")
    assert saved
    assert set(saved) < own


def test_a_model_that_was_changed_otherwise_is_written_as_it_is(tmp_path: Path) -> None:
    model = tiny("qwen3", 4)
    changed = prune(model, LayerPlan.without(model, 2))
    with torch.no_grad():
        untyped(changed.blocks[0]).mlp.down_proj.weight.mul_(1.5)
    changed.hf.config.use_cache = False
    before, config = snapshot(changed), changed.hf.config.to_dict()
    record = {"repair": "a half more", "numbers": [1, 2.5], "layer_map": [0, 1, 3]}
    folder = write_checkpoint(changed, tmp_path / "out", record, "# A card\n")
    assert same_weights(changed, before)
    assert changed.hf.config.to_dict() == config
    content = json.loads((folder / "pruning.json").read_text(encoding="utf-8"))
    assert content == {**record, "layer_map": [0, 1, 3], "n_blocks": 4}
    assert (folder / "README.md").read_text(encoding="utf-8") == "# A card\n"
    again = ReasoningModel.load(folder)
    assert same_weights(again, before)
    assert (again.layer_map, again.n_dense, again.hf.config.use_cache) == ((0, 1, 3), 4, True)
    with pytest.raises(ValueError, match="layer_map"):
        write_checkpoint(changed, tmp_path / "no", {"layer_map": [0, 1, 2]}, "")
    assert not (tmp_path / "no").exists()


def test_the_card_says_where_a_plan_was_published() -> None:
    model = tiny("qwen3", 4)
    plan = LayerPlan((1,), 4, criterion="shortgpt", source="a paper, table 9")
    card = plan_card(model, plan, "It was trained for a week.")
    assert "a paper, table 9" in card
    assert "It was trained for a week." in card
    assert "Nothing was trained" not in card


def test_a_model_that_shares_its_weights_takes_no_memory() -> None:
    model = tiny("qwen3", 4)
    shared = prune(model, LayerPlan.without(model, 0), share=True)
    own = {p.data_ptr() for p in model.hf.parameters()}
    assert {p.data_ptr() for p in shared.hf.parameters()} < own
    assert shared.n_blocks == 3
    assert [untyped(b).self_attn.layer_idx for b in model.blocks] == [0, 1, 2, 3]


# ---------------------------------------------------------------------------- refusals


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    model = tiny("qwen3", 3)
    plan = LayerPlan.without(model, 1)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match="not an empty folder"):
        save(model, plan, tmp_path / "used")
    assert [p.name for p in (tmp_path / "used").iterdir()] == ["mine.txt"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="not an empty folder"):
        save(model, plan, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert (save(model, plan, tmp_path / "empty") / "config.json").is_file()


@pytest.mark.parametrize(
    "failure",
    [OSError(28, "No space left on device"), RuntimeError("planted"), KeyboardInterrupt()],
)
def test_no_half_checkpoint_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    model = tiny("qwen3", 3)
    real = PreTrainedModel.save_pretrained

    def full_disk(self: PreTrainedModel, folder: Any, **options: Any) -> None:
        real(self, folder, **options)
        assert any(Path(folder).glob("*.safetensors"))
        raise failure

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full_disk)
    expected = PruneScopeError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected) as caught:
        save(model, LayerPlan.without(model, 1), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    if isinstance(failure, OSError):
        assert "No space left" in str(caught.value)
        assert not isinstance(caught.value, UserError)  # not the caller's mistake


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes: the system refuses the write itself."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_the_system_refuses_leaves_nothing(tmp_path: Path) -> None:
    model = tiny("qwen3", 3, intermediate_size=256)
    plan = LayerPlan.without(model, 1)
    with small_files(60_000), pytest.raises(PruneScopeError, match="nothing was left") as caught:
        save(model, plan, tmp_path / "out")
    assert not isinstance(caught.value, UserError)
    assert not list(tmp_path.iterdir())
    assert save(model, plan, tmp_path / "out").is_dir()


def test_a_disk_without_room_is_found_out_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("qwen3", 3)
    room = types.SimpleNamespace(free=1000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: room)
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", lambda *_, **__: pytest.fail("wrote"))
    with pytest.raises(PruneScopeError, match=r"it takes 0\.00 GB and the disk has"):
        save(model, LayerPlan.without(model, 1), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_plan_for_another_model_is_refused(tmp_path: Path) -> None:
    plan = LayerPlan.without(tiny("qwen3", 4), 1)
    for other in (tiny("qwen3", 3), tiny("qwen3", 4, seed=5)):
        with pytest.raises(UserError, match="Plan 'without 1'"):
            prune(other, plan)
        with pytest.raises(UserError, match="Plan 'without 1'"):
            save(other, plan, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_architecture_that_its_configuration_would_not_rebuild_is_refused() -> None:
    """A block whose setting follows from its position by a rule that surgery does not know."""
    model = tiny("qwen3", 4)
    for index, block in enumerate(model.blocks):
        untyped(block).self_attn.scaling = 0.1 * (index + 1)
    with pytest.raises(UserError, match=r"scaling.*run the plan live"):
        prune(model, LayerPlan.without(model, 1))
    model = tiny("qwen3", 4)
    model.hf.config.num_kv_shared_layers = 2
    with pytest.raises(UserError, match="share keys and values"):
        prune(model, LayerPlan.without(model, 1))


# ---------------------------------------------------------------------------- memory

MEASURE = """
    import sys
    from pathlib import Path
    import torch
    import transformers
    from tests.models import config, tokenizer
    from interp.model.reasoning_model import ReasoningModel
    from pruning.checkpoint import plan_record
    from pruning.folder import prune_folder
    from pruning.plan import LayerPlan
    from pruning.surgery import prune, save, write_checkpoint

    def peak():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(l.split()[1]) for l in lines if l.startswith("VmHWM")) * 1024

    arch, work = sys.argv[1], Path(sys.argv[2])
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16}
    if arch == "qwen3_moe":
        sizes = {"hidden_size": 512, "moe_intermediate_size": 512, "num_experts": 16}
    conf = config(arch, 8, head_dim=64, **sizes)
    hf = transformers.AutoModelForCausalLM.from_config(conf, dtype=torch.float32)
    model = ReasoningModel.load(hf, tokenizer(), name="large")
    size = sum(weight.nbytes for weight in hf.parameters())
    plan = LayerPlan.without(model, 0, 3)
    save(model, LayerPlan.without(model), work / "dense")  # warm: all is imported
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
    start = peak()
    record = plan_record(model, plan, model.fingerprint())
    write_checkpoint(
        prune(model, plan, share=True), work / "saved", record, "", shard_bytes=2**25
    )
    saved = peak() - start
    del model, hf
    Path("/proc/self/clear_refs").write_text("5")
    start = peak()
    prune_folder(work / "dense", [0, 3], work / "streamed")
    print(size, saved, peak() - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="counts Linux's peak memory")
@pytest.mark.parametrize("arch", ["qwen3", "qwen3_moe"])
def test_neither_saving_nor_streaming_holds_the_model_a_second_time(
    arch: str, tmp_path: Path
) -> None:
    """Beside the model at most a shard or two of 32 MiB; from a folder, next to nothing."""
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE), arch, str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    size, saved, streamed = map(int, ran.stdout.split())
    assert size > 300 * 2**20
    assert saved < 80 * 2**20
    assert streamed < 32 * 2**20
