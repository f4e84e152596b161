"""FLOPs from a configuration: what torch counts, the formula, and laws of chains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from interp.errors import UserError
from interp.model.kv_cache import handing
from scaling.costs.flops import BlockCost, ModelCost
from tests.drawing import max_examples
from tests.models import ARCHS, config


def counted(hf: Any, ids: torch.Tensor) -> list[int]:
    """What torch counts for each token, read one by one with a cache."""
    cache, found = transformers.DynamicCache(config=hf.config), []
    for i in range(ids.shape[1]):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            hf(ids[:, i : i + 1], use_cache=True, **handing(hf, cache))
        found.append(counter.get_total_flops())
    return found


def eager(conf: Any) -> Any:
    """A model whose every product goes through operators that torch counts."""
    options = {"experts_implementation": "eager"} if conf.model_type == "qwen3_moe" else {}
    return transformers.AutoModelForCausalLM.from_config(
        conf, attn_implementation="eager", dtype=torch.float32, **options
    ).eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("arch", ARCHS)
def test_every_token_costs_what_torch_counts(arch: str, tied: bool) -> None:
    """15 tokens, over windows of 9; grouped queries, gated MLPs, experts, tied heads."""
    conf = config(arch, n_blocks=4, tie_word_embeddings=tied)
    cost = ModelCost.of(conf)
    ids = torch.randint(5, 40, (1, 15), generator=torch.Generator().manual_seed(0))
    assert counted(eager(conf), ids) == [cost.token(t) for t in range(1, 16)]


@pytest.mark.parametrize("arch", ["gemma3", "qwen3_moe"])
def test_a_removed_block_costs_what_a_model_without_it_costs(arch: str) -> None:
    """The block that goes has another window, or no experts."""
    special = {"mlp_only_layers": [1]} if arch == "qwen3_moe" else {}
    whole = ModelCost.of(config(arch, n_blocks=4, **special))
    assert len(set(whole.blocks)) == 2
    less = config(arch, n_blocks=3, **({} if arch == "qwen3_moe" else {
        "layer_types": ["full_attention", "full_attention", "sliding_attention"]}))  # fmt: skip
    assert whole.without([1]) == ModelCost.of(less)
    ids = torch.randint(5, 40, (1, 12), generator=torch.Generator().manual_seed(1))
    assert counted(eager(less), ids) == [whole.without([1]).token(t) for t in range(1, 13)]
    with pytest.raises(UserError, match="which are removed"):
        whole.without(1)


def test_the_formula_of_the_notes() -> None:
    """2 N + 2 V d + 4 L H d_h t, N counted from the matrices of the model itself."""
    conf = config("qwen3", n_blocks=3)
    hf = eager(conf)
    n = sum(w.numel() for name, w in hf.named_parameters() if w.ndim == 2 and "layers" in name)
    v, d = conf.vocab_size, conf.hidden_size
    for t in (1, 7, 300):
        wanted = 2 * n + 2 * v * d + 4 * 3 * conf.num_attention_heads * conf.head_dim * t
        assert ModelCost.of(conf).token(t) == wanted
    assert ModelCost.of(conf).weights_read == n + v * d


COSTS = [ModelCost.of(config(arch)) for arch in ("qwen3", "mistral", "gemma3")]


@max_examples(20)
@given(st.sampled_from(COSTS), st.integers(1, 40), st.integers(0, 40), st.sets(st.integers(0, 3)))
def test_a_chain_is_the_sum_of_its_passes(
    cost: ModelCost, prompt: int, new: int, removed: set[int]
) -> None:
    if len(removed) == 4:
        return
    less = cost.without(removed)
    passes = sum(less.token(t) for t in range(1, prompt + new)) if new else 0
    wanted = passes - 2 * less.head * (prompt - 1) if new else 0  # the prompt meets the head once
    assert cost.chain(prompt, new, removed).item() == wanted
    assert less.head == cost.head


def test_chains_are_counted_elementwise() -> None:
    cost = COSTS[1]
    prompt, new = np.array([3, 30, 5]), np.array([0, 50, 1])
    one_by_one = [cost.chain(int(p), int(n)).item() for p, n in zip(prompt, new, strict=True)]
    np.testing.assert_array_equal(cost.chain(prompt, new), one_by_one)
    several = [cost.chain(3, int(n)).item() for n in new]
    np.testing.assert_array_equal(cost.chain(3, new), several)


def test_the_head_does_not_shrink() -> None:
    """A quarter of the blocks saves less than a quarter, the less the larger the vocabulary."""
    saved = [
        1 - model.without(1).token(10) / model.token(10)
        for model in (ModelCost.of(config("llama", vocab_size=v)) for v in (50, 500, 5000))
    ]
    assert 0.25 > saved[0] > saved[1] > saved[2]


def test_a_published_model() -> None:
    """Qwen3-8B: 6.95e9 weights outside the embeddings (its card says 6.95B), 152 thousand words."""
    conf = transformers.Qwen3Config(
        hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, vocab_size=151936, tie_word_embeddings=False,
    )  # fmt: skip
    cost = ModelCost.of(conf)
    assert cost.weights_read - cost.head == pytest.approx(6.95e9, rel=0.003)
    assert cost.token(1) == pytest.approx(2 * (6.95e9 + 0.622e9), rel=0.003)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: ModelCost.of(transformers.MambaConfig()),
        lambda: ModelCost.of(config("gemma3", layer_types=["full_attention"] * 4)).without([4]),
        lambda: COSTS[0].without(4),
        lambda: COSTS[0].without([0, 1, 2, 3]),
        lambda: COSTS[0].token(0),
        lambda: COSTS[0].chain(0, 3),
        lambda: COSTS[0].chain(np.array([1]), np.array([-1])),
    ],
)
def test_mistakes_are_user_errors(mistake: Any) -> None:
    with pytest.raises(UserError, match=r".{30,}"):
        mistake()


def test_a_block_of_unknown_attention_is_refused() -> None:
    conf = config("qwen3")
    conf.layer_types = ["full_attention", "linear_attention"] * 2
    with pytest.raises(UserError, match="linear_attention"):
        ModelCost.of(conf)
    assert BlockCost(3, 4, 1).weights == 7
