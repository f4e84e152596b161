"""The bounds on rounding hold rounding and nothing more: small faults lie far outside."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models import ARCHS, tiny
from tests.tolerances import kl_noise, logit_noise

BLOCK = 2


def logits(model: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    ids = torch.randint(6, 50, (2, 18), generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        return model.hf.to(dtype)(ids, use_cache=False).logits.double()


def kl(a: torch.Tensor, b: torch.Tensor) -> float:
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("arch", [arch for arch in ARCHS if arch != "qwen3_moe"])  # no float64
def test_float32_differs_from_float64_by_less(arch: str) -> None:
    model = tiny(arch, 5)
    bound = logit_noise(model)
    got = logits(model)
    assert (got - logits(model, torch.float64)).abs().max() < bound


def norm_left_out(block: Any) -> None:
    block.input_layernorm.weight.fill_(1.0)  # its gain alone


def wrong_column(block: Any) -> None:
    weight = block.self_attn.o_proj.weight
    weight[:, [0, 1]] = weight[:, [1, 0]]


def delta_gone(block: Any) -> None:
    block.mlp.down_proj.weight.zero_()


def one_thousandth(block: Any) -> None:
    block.mlp.gate_proj.weight.mul_(1.001)  # behind down_proj a norm could take it back


@pytest.mark.parametrize("fault", [norm_left_out, wrong_column, delta_gone, one_thousandth])
@pytest.mark.parametrize("arch", ["qwen3", "llama", "gemma3"])
def test_a_fault_lies_outside(arch: str, fault: Any) -> None:
    """Even the last is beyond the bound of logits; the others are, many times, that of a KL too."""
    model = tiny(arch, 5)
    right = logits(model)
    with torch.no_grad():
        fault(model.blocks[BLOCK])
    wrong = logits(model)
    small = fault is one_thousandth
    assert (wrong - right).abs().max() > (5 if small else 100) * logit_noise(model)
    if not small:
        assert kl(right, wrong) > 10 * kl_noise(model)
