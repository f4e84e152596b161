"""Fused blocks and plain torch: the same chains, log-probabilities and recorded streams."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest
import torch

from interp.chains.chain import Budget, Chains
from interp.chains.residual_record import NUMBERS
from interp.decoding import fused_blocks
from interp.decoding.fused_blocks import FusedBlock
from interp.interventions.interventions import Skip, Variant, dense
from interp.kernels import library
from interp.model.reasoning_model import ReasoningModel
from tests.backends import fused, use
from tests.models import tiny_hf, tokenizer
from tests.reference import same_chain

needs_kernels = pytest.mark.skipif(library.kernels() is None, reason="no C compiler here")
# every width of vector that this processor can run: 16 (AVX-512), 8 (AVX2), 4 (SSE, NEON)
BUILDS = [*library.builds(), *(["x86-64"] if platform.machine() == "x86_64" else [])]
# widths that end inside a panel of columns, heads of several sizes, groups of 1, 2 and 3
SHAPES: dict[str, dict[str, Any]] = {
    "half a panel": {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 16,
    },
    "one head a group": {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 48},
    "wide heads": {
        "hidden_size": 128,
        "intermediate_size": 16,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 128,
    },
}


def both(
    model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, rows: int, build: str
) -> list[Chains]:
    """Chains by fused blocks and by plain torch, recorded, some rows without block 1."""
    prompts = [f"compute {i} + 4 x 2 - 5" for i in range(rows)]
    ask: dict[str, Any] = {
        "variants": [dense, Variant("no 1", (Skip(1),))],
        "budget": Budget(9, 3),
        "record": True,
    }
    taken = []
    run = FusedBlock.__call__
    with monkeypatch.context() as patch:
        patch.setattr(
            FusedBlock, "__call__", lambda self, *a, **k: (taken.append(1), run(self, *a, **k))[1]
        )
        use(patch, fused(build))
        found = [model.generate(prompts, **ask)]
    assert taken, "else this compares plain torch with itself"
    with monkeypatch.context() as patch:
        use(patch)
        found.append(model.generate(prompts, **ask))
    return found


@needs_kernels
@pytest.mark.parametrize("rows", [1, 3, 29])  # with the variant: 2, 6 and 58 rows a pass
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("arch", ["qwen2", "qwen3", "llama", "mistral"])
def test_fused_blocks_are_the_blocks(
    arch: str, build: str, shape: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SHAPES[shape] | ({"attention_bias": True} if arch == "llama" else {})
    if arch == "qwen2":  # it has no head width of its own
        heads = options.get("num_attention_heads", 4)
        options["hidden_size"] = heads * options.pop("head_dim")
    model = ReasoningModel.load(tiny_hf(arch, 3, ends=False, **options), tokenizer())
    for ours, theirs in zip(*both(model, monkeypatch, rows, build), strict=True):
        assert same_chain(ours, theirs)
        assert ours.stream is not None and theirs.stream is not None
        for name in NUMBERS:
            np.testing.assert_allclose(
                getattr(ours.stream, name), getattr(theirs.stream, name), atol=1e-4, rtol=1e-4
            )


@needs_kernels
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are shared out among threads; each number is summed in the same order."""
    model = ReasoningModel.load(tiny_hf("qwen3", ends=False), tokenizer())
    prompts = [f"use {i} 7 to make 21" for i in range(40)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        many = model.generate(prompts, budget=Budget(12, 3))
        torch.set_num_threads(2)
        few = model.generate(prompts, budget=Budget(12, 3))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(many, few, strict=True):
        assert np.array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.logprob, b.logprob)


@needs_kernels
def test_panels_hold_the_matrix() -> None:
    weight = torch.randn(5, 48)
    found = library.panels(weight, 32)
    assert found.shape == (2, 5, 32)
    assert torch.equal(found[0], weight[:, :32])
    assert torch.equal(found[1, :, :16], weight[:, 32:]) and not found[1, :, 16:].any()
    assert torch.equal(library.panels(weight, 16), weight.unflatten(1, (3, 16)).transpose(0, 1))


@needs_kernels
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("rows", [1, 5, 13, 50])
def test_the_packed_head_is_the_head(build: str, rows: int) -> None:
    found = library.kernels(build)
    assert found is not None
    torch.manual_seed(rows)
    head = torch.nn.Linear(40, 208, bias=False)  # ends inside a panel
    x = torch.randn(rows, 1, 40)
    with torch.inference_mode():
        got = fused_blocks.FusedHead(head, found)(x)
        # a sum of 40 products of order 1 / sqrt(40)
        torch.testing.assert_close(got, head(x), atol=2e-6, rtol=1e-5)


@needs_kernels
def test_chains_with_a_packed_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same chains; the head is itself again afterwards, and a hook on it still runs."""
    model = ReasoningModel.load(tiny_hf("qwen3", 3, ends=False, vocab_size=96), tokenizer())
    plain = model.generate(["use 3 7 to make 21"], budget=Budget(12, 3))
    monkeypatch.setattr(fused_blocks, "LARGE_HEAD", 1)
    use(monkeypatch, fused(library.builds()[0]))
    ran, run = [], fused_blocks.FusedHead.__call__
    monkeypatch.setattr(
        fused_blocks.FusedHead, "__call__", lambda self, x: (ran.append(1), run(self, x))[1]
    )
    seen = []
    handle = model.head.register_forward_hook(lambda *_: seen.append(1))
    packed = model.generate(["use 3 7 to make 21"], budget=Budget(12, 3))
    handle.remove()
    assert ran and len(seen) >= len(ran)
    assert same_chain(plain[0], packed[0])
    assert "forward" not in model.head.__dict__
    monkeypatch.setattr(fused_blocks, "available_bytes", lambda _: 0)
    assert fused_blocks.fuse_head(model) is None
