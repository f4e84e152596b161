"""Law 1 and law 8: a live Skip equals the block removed, saved and reloaded.

For every architecture, in float32 to 1e-5: logits of whole passes and of cached passes (prompt,
then token by token), block 0 included, single rows and rows of different variants in one batch.
The checkpoint loads with no missing, unexpected or newly initialised weight.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false
# Hugging Face modules are untyped from the outside: their children are `Tensor | Module`.

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from interp.interventions import apply, dense
from interp.model import ReasoningModel
from pruning.plan import LayerPlan
from pruning.surgery import prune, save
from tests.models import ARCHS, tiny

REMOVED = ((0,), (3,), (1, 2), (0, 2, 4))
CLOSE = {"atol": 1e-5, "rtol": 0.0}
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
            step = hf(ids[:, start:stop], past_key_values=cache, use_cache=True)
            out.append(step.logits)
    return torch.cat(out, dim=1)


def reloaded(model: ReasoningModel, plan: LayerPlan, folder: Path) -> Any:
    """The saved checkpoint through AutoModelForCausalLM, its loading checked."""
    save(model, plan, folder)
    attention = model.hf.config._attn_implementation
    hf, info = AutoModelForCausalLM.from_pretrained(
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
        torch.testing.assert_close(whole(hf, ids), live, **CLOSE)
        torch.testing.assert_close(cached(hf, ids), live_cached, **CLOSE)
        torch.testing.assert_close(whole(hf, ids)[1], rows[1], **CLOSE)
        torch.testing.assert_close(cached(hf, ids)[1], rows_cached[1], **CLOSE)
    torch.testing.assert_close(live, live_cached, **CLOSE)
    plain = whole(model.hf, ids)
    torch.testing.assert_close(rows[0], plain[0], **CLOSE)
    assert (plain - live).abs().max() > 1e-2  # the blocks did something


@pytest.mark.parametrize("arch", ARCHS)
def test_removing_nothing_gives_the_plain_model(arch: str, tmp_path: Path) -> None:
    model = tiny(arch, 3)
    ids = ids_of(model)
    hf = reloaded(model, LayerPlan.without(model), tmp_path / "out")
    torch.testing.assert_close(whole(hf, ids), whole(model.hf, ids), **CLOSE)


def test_a_checkpoint_cannot_pass_with_its_tail_cut_instead_of_its_middle(tmp_path: Path) -> None:
    """The law can fail: the same number of blocks removed elsewhere gives other logits."""
    model = tiny("qwen3", 5)
    ids = ids_of(model)
    middle = reloaded(model, LayerPlan.without(model, 1), tmp_path / "middle")
    tail = reloaded(model, LayerPlan.without(model, 4), tmp_path / "tail")
    assert (whole(middle, ids) - whole(tail, ids)).abs().max() > 1e-2
