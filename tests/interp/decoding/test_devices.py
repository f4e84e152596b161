"""A model spread over devices by accelerate, and blocks compiled by torch: the same chains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from interp.chains.chain import Budget
from interp.decoding.generate import decode
from interp.decoding.request import cross
from interp.interventions.interventions import MeanDelta, Scale, Skip, Variant, dense
from interp.interventions.windows import AtTokens, Window
from interp.model.reasoning_model import ReasoningModel
from tests.models import tiny, tokenizer
from tests.reference import same_chain

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7", "what ?"]


def variants(mean: Any) -> list[Variant]:
    return [
        dense,
        Variant("no 1", (Skip(1),)),
        Variant("late", (Skip(2, window=Window(3)),)),
        Variant("half", (Scale(3, 0.5, part="mlp"), MeanDelta(0, mean=mean, part="attention"))),
        Variant("words", (Skip(3, window=AtTokens((10, 11, 12))),)),
    ]


@pytest.mark.parametrize("arch", ["qwen3", "gemma3"])
def test_blocks_offloaded_by_accelerate(arch: str, tmp_path: Path) -> None:
    """The one kind of spread there is without a second device: blocks on disk, wrapped forwards."""
    here = tiny(arch, ends=False)
    here.hf.save_pretrained(tmp_path / "m")
    tokenizer().save_pretrained(tmp_path / "m")
    names = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    places: dict[str, Any] = dict.fromkeys(names, "cpu")
    places |= {f"model.layers.{i}": "disk" if i in (1, 2) else "cpu" for i in range(4)}
    hf = AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", device_map=places, offload_folder=str(tmp_path / "o"), dtype=torch.float32
    )
    there = ReasoningModel.load(hf, tokenizer())
    assert any(p.device.type == "meta" for p in hf.parameters()), "else nothing is offloaded"
    mean = torch.randn(32)
    ask: dict[str, Any] = {"variants": variants(mean), "budget": Budget(14, 4)}
    for a, b in zip(
        here.generate(PROMPTS, record=True, **ask),
        there.generate(PROMPTS, record=True, **ask),
        strict=True,
    ):
        assert same_chain(a, b), a.variant
        assert a.stream is not None and b.stream is not None
        assert abs(a.stream.influence - b.stream.influence).max() < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler warns of itself
@pytest.mark.parametrize("arch", ["qwen3", "gemma2"])
def test_compiled_blocks(arch: str) -> None:
    model = tiny(arch)
    requests = cross(
        model, PROMPTS, variants=variants(torch.randn(32)), budgets=[Budget(9, 3), Budget(25, 4, 1)]
    )
    want = {(c.problem, c.variant, c.budget): c for c in decode(model, requests)}
    for c in decode(model, requests, slots=11, compiled=True):
        assert same_chain(c, want[c.problem, c.variant, c.budget]), c.variant
    assert not any("forward" in b.__dict__ for b in model.blocks)
