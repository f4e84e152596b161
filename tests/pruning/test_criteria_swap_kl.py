"""Swap-KL: both protocols against copies with exchanged weights, ties, and refusals."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.criteria.swap_kl import swap_kl
from tests.models import tiny, untyped
from tests.slow_streams import hooks_of, logprobs, streams, texts

LENGTHS = (6, 17, 4, 9)


def with_weights_of(model: ReasoningModel, sources: dict[int, int]) -> Any:
    """A copy whose block i has the weights of block sources[i]."""
    hf = copy.deepcopy(model.hf)
    for target, source in sources.items():
        hf.model.layers[target].load_state_dict(model.blocks[source].state_dict())
    return hf


def kl(model: ReasoningModel, hf: Any, data: list[np.ndarray]) -> float:
    gaps = []
    for ids in data:
        base, other = logprobs(model.hf, ids), logprobs(hf, ids)
        gaps += list((np.exp(base) * (base - other)).sum(-1)[:-1])
    return float(np.mean(gaps))


@pytest.mark.parametrize("arch", ["qwen3", "gemma2", "gemma3"])
@pytest.mark.parametrize("protocol", ["interchange", "replacement"])
def test_against_exchanged_weights(arch: str, protocol: str) -> None:
    """In the Gemmas a slot with a sliding window keeps it, whatever weights run there."""
    model = tiny(arch, 4)
    data = texts(model, LENGTHS)
    pair = []
    for l in range(3):
        if protocol == "interchange":
            pair.append(kl(model, with_weights_of(model, {l: l + 1, l + 1: l}), data))
        else:
            ways = ({l: l + 1}, {l + 1: l})
            pair.append(max(kl(model, with_weights_of(model, way), data) for way in ways))
    expected = [min(pair[max(l - 1, 0) : l + 1]) for l in range(4)]
    found = swap_kl(model, data, protocol=protocol, batch_tokens=40)
    np.testing.assert_allclose(found.values, expected, rtol=2e-4, atol=2e-5)
    name = "swap-kl" if protocol == "interchange" else "swap-kl, replacement"
    assert (found.criterion, found.n_tokens) == (name, sum(LENGTHS) - len(LENGTHS))


def test_of_the_nearest_pair_the_weaker_goes_first() -> None:
    model = tiny("qwen3", 5)
    data = texts(model, LENGTHS)
    found = swap_kl(model, data)
    first, second = found.ranking[:2]
    assert abs(first - second) == 1
    assert found.values[first] == found.values[second]
    norms = np.zeros(5)
    for ids in data:
        kept = streams(model, ids)
        norms += np.linalg.norm(kept[1:] - kept[:-1], axis=-1).sum(-1)
    assert norms[first] < norms[second]
    assert found.tie_break is not None
    np.testing.assert_allclose(found.tie_break, norms, rtol=1e-4)


def test_two_blocks_with_the_same_weights_cannot_be_told_apart() -> None:
    model = tiny("qwen3", 4)
    model.blocks[2].load_state_dict(model.blocks[1].state_dict())
    data = texts(model, LENGTHS)
    for protocol in ("interchange", "replacement"):
        found = swap_kl(model, data, protocol=protocol)
        assert found.values[1] == found.values[2] == pytest.approx(0, abs=1e-6)
        assert set(found.lowest(2)) == {1, 2}
        assert found.values[[0, 3]].min() > 1e-3


def test_an_mlp_of_another_kind_goes_along_with_its_block() -> None:
    """Neighbours need the same attention only: a mixture of experts may stand beside an MLP."""
    model = tiny("qwen3_moe", 3, mlp_only_layers=[0])
    found = swap_kl(model, texts(model, LENGTHS))
    assert np.isfinite(found.values).all() and found.values.min() > 1e-4


def test_refusals_leave_no_hook() -> None:
    model = tiny("qwen3", 3)
    with pytest.raises(UserError, match="Did you mean 'interchange'"):
        swap_kl(model, texts(model, LENGTHS), protocol="interchang")
    with pytest.raises(UserError, match="one block"):
        swap_kl(tiny("qwen3", 1), texts(model, LENGTHS))
    with torch.no_grad():
        untyped(model.blocks[1]).mlp.down_proj.weight[0, 0] = torch.nan
    hooks = hooks_of(model)
    with pytest.raises(ArithmeticError):
        swap_kl(model, texts(model, LENGTHS))
    assert hooks_of(model) == hooks
