"""Law 1 and law 8: a live Skip equals the block removed, saved and reloaded.

For every architecture, in float32 to 1e-5: logits of whole passes and of cached passes (prompt,
then token by token), block 0 included, single rows and rows of different variants in one batch.
The checkpoint loads with no missing, unexpected or newly initialised weight. The same holds for
blocks removed from a folder that is never loaded, whose weights keep every byte.
"""

# Hugging Face modules are untyped from the outside: their children are `Tensor | Module`.

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, DynamicCache

from interp.interventions.hooks import apply
from interp.interventions.interventions import dense
from interp.model.kv_cache import handing
from interp.model.reasoning_model import ReasoningModel
from pruning.checkpoint import plan_record
from pruning.folder import prune_folder
from pruning.plan import LayerPlan
from pruning.surgery import prune, save, write_checkpoint
from tests.models import ARCHS, tiny, untyped
from tests.tolerances import close_to

REMOVED = ((0,), (3,), (1, 2), (0, 2, 4))
STEPS = 6


def ids_of(model: ReasoningModel, rows: int = 2, length: int = 18) -> torch.Tensor:
    draw = np.random.default_rng(1)
    return torch.tensor(draw.integers(6, model.vocab_size, size=(rows, length)))


def whole(hf: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return hf(ids, use_cache=False).logits


def cached(hf: Any, ids: torch.Tensor) -> torch.Tensor:
    """The logits of a prompt and then one token at a time, through a cache."""
    prompt = ids.shape[1] - STEPS
    cache = DynamicCache(config=hf.config)
    out = []
    with torch.no_grad():
        for start, stop in [(0, prompt), *((i, i + 1) for i in range(prompt, ids.shape[1]))]:
            step = hf(ids[:, start:stop], use_cache=True, **handing(hf, cache))
            out.append(step.logits)
    return torch.cat(out, dim=1)


def reloaded(model: ReasoningModel, plan: LayerPlan, folder: Path) -> Any:
    """The saved checkpoint through AutoModelForCausalLM, its loading checked."""
    return loaded(save(model, plan, folder), model)


def loaded(folder: Path, like: ReasoningModel) -> Any:
    """A checkpoint through AutoModelForCausalLM, its loading checked."""
    attention = like.hf.config._attn_implementation
    hf, info = untyped(AutoModelForCausalLM).from_pretrained(
        folder, output_loading_info=True, attn_implementation=attention
    )
    assert not any(info.values()), info
    assert len(info) >= 3  # missing, unexpected, mismatched were looked at
    return hf.eval()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("removed", REMOVED, ids=str)
def test_skip_live_is_the_block_removed_saved_and_reloaded(
    arch: str, removed: tuple[int, ...], tmp_path: Path
) -> None:
    model = tiny(arch, 5)
    plan = LayerPlan.without(model, *removed)
    ids = ids_of(model)
    with apply(model, plan):
        live, live_cached = whole(model.hf, ids), cached(model.hf, ids)
    with apply(model, [dense, plan]):
        rows, rows_cached = whole(model.hf, ids), cached(model.hf, ids)
    saved = reloaded(model, plan, tmp_path / "out")
    in_memory = prune(model, plan).hf
    for hf in (saved, in_memory):
        torch.testing.assert_close(whole(hf, ids), live, **close_to(model))
        torch.testing.assert_close(cached(hf, ids), live_cached, **close_to(model))
        torch.testing.assert_close(whole(hf, ids)[1], rows[1], **close_to(model))
        torch.testing.assert_close(cached(hf, ids)[1], rows_cached[1], **close_to(model))
    torch.testing.assert_close(live, live_cached, **close_to(model))
    plain = whole(model.hf, ids)
    torch.testing.assert_close(rows[0], plain[0], **close_to(model))
    assert (plain - live).abs().max() > 1e-2  # the blocks did something


@pytest.mark.parametrize("arch", ARCHS)
def test_removing_nothing_gives_the_plain_model(arch: str, tmp_path: Path) -> None:
    model = tiny(arch, 3)
    ids = ids_of(model)
    hf = reloaded(model, LayerPlan.without(model), tmp_path / "out")
    torch.testing.assert_close(whole(hf, ids), whole(model.hf, ids), **close_to(model))


def test_a_checkpoint_cannot_pass_with_its_tail_cut_instead_of_its_middle(tmp_path: Path) -> None:
    """The law can fail: the same number of blocks removed elsewhere gives other logits."""
    model = tiny("qwen3", 5)
    ids = ids_of(model)
    middle = reloaded(model, LayerPlan.without(model, 1), tmp_path / "middle")
    tail = reloaded(model, LayerPlan.without(model, 4), tmp_path / "tail")
    assert (whole(middle, ids) - whole(tail, ids)).abs().max() > 1e-2


def stored(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Every weight in a folder's files: dtype and bytes, as the safetensors library reads them."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (a file, not a mapping)
                weight = opened.get_tensor(key)
                assert key not in found
                found[key] = (str(weight.dtype), weight.view(torch.uint8).numpy().tobytes())
    return found


def expected(source: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """The weights of the blocks that stay, under their new names: written with no regard to how."""
    found = {}
    for key, weight in source.items():
        words = key.split(".")
        if "layers" in words:
            at = words.index("layers") + 1
            if int(words[at]) not in kept:
                continue
            words[at] = str(kept.index(int(words[at])))
        found[".".join(words)] = weight
    return found


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
@pytest.mark.parametrize("arch", ARCHS)
def test_a_folder_pruned_without_loading_is_the_model_pruned_and_saved(
    arch: str, tied: bool, tmp_path: Path
) -> None:
    model = tiny(arch, 5, tie_word_embeddings=tied)
    model.hf.save_pretrained(tmp_path / "dense", max_shard_size="40KB")
    model.tokenizer.save_pretrained(tmp_path / "dense")
    assert len(list((tmp_path / "dense").glob("*.safetensors"))) > 2
    source = ReasoningModel.load(tmp_path / "dense")
    plan = LayerPlan.without(source, 0, 3)
    folder = prune_folder(tmp_path / "dense", [0, 3], tmp_path / "out")
    assert stored(folder) == expected(stored(tmp_path / "dense"), [1, 2, 4])
    ids = ids_of(model)
    with apply(source, plan):
        live, live_cached = whole(source.hf, ids), cached(source.hf, ids)
    hf = loaded(folder, model)
    torch.testing.assert_close(whole(hf, ids), live, **close_to(model))
    torch.testing.assert_close(cached(hf, ids), live_cached, **close_to(model))
    in_memory = save(source, plan, tmp_path / "from memory")
    one, other = (ReasoningModel.load(place) for place in (folder, in_memory))
    assert one.fingerprint() == other.fingerprint()  # configuration, map and weights


@pytest.mark.parametrize("arch", ["qwen3", "qwen3_moe", "gemma3"])
def test_what_is_written_in_shards_is_what_is_written_at_once(arch: str, tmp_path: Path) -> None:
    model = tiny(arch, 5, tie_word_embeddings=arch == "qwen3")
    plan = LayerPlan.without(model, 0, 2)
    pruned = prune(model, plan)
    record = plan_record(model, plan, model.fingerprint())
    few = write_checkpoint(pruned, tmp_path / "few", record, "a card", shard_bytes=40_000)
    names = sorted(file.name for file in few.glob("*.safetensors"))
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    one = save(model, plan, tmp_path / "one")
    assert [file.name for file in one.glob("*.safetensors")] == ["model.safetensors"]
    assert stored(few) == stored(one)
    ids = ids_of(model)
    torch.testing.assert_close(
        whole(loaded(few, model), ids), whole(pruned.hf, ids), **close_to(model)
    )
    assert (few / "README.md").read_text(encoding="utf-8") == "a card"
