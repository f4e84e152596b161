"""LaCo: both merging rules by their definitions, the search, and its limits."""

# Hugging Face modules are untyped from the outside: their children are `Tensor | Module`.

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from interp.errors import NonFiniteError, UserError
from interp.interventions.hooks import apply
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration
from pruning.plan import LayerPlan
from pruning.repairs import Repaired, mend, save_repaired
from pruning.surgery import prune
from tests.models import ARCHS, tiny, untyped
from tests.slow_streams import plant_identity, texts
from tests.tolerances import close_to

LENGTHS = (14, 9, 18)


def whole(hf: Any) -> torch.Tensor:
    ids = torch.randint(6, 50, (2, 16), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return hf(ids, use_cache=False).logits


def last_states(model: ReasoningModel, ids: Any) -> np.ndarray:
    """What the head reads, [T, D]."""
    with torch.no_grad():
        out = model.hf.model(torch.tensor(ids)[None], use_cache=False)[0]
    return out[0].double().numpy()


def cosine(model: ReasoningModel, other: ReasoningModel, data: Any) -> float:
    """Mean over texts of the cosine of all last states as one vector, one text at a time."""
    found = []
    for ids in data:
        a, b = last_states(model, ids).ravel(), last_states(other, ids).ravel()
        found.append(a @ b / np.sqrt((a @ a) * (b @ b)))
    return float(np.mean(found))


def almost_identity(arch: str, n_blocks: int, scale: float = 0.05) -> ReasoningModel:
    """A model whose blocks but the first add little, so that merging is mild."""
    model = tiny(arch, n_blocks)
    with torch.no_grad():
        for block in untyped(model.blocks[1:]):
            block.self_attn.o_proj.weight *= scale
            block.mlp.down_proj.weight *= scale
    return model


# ---------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize("rule", ["paper", "public"])
@pytest.mark.parametrize("norms", [False, True])
def test_weights_are_merged_by_the_rule(rule: str, norms: bool) -> None:
    model = tiny("qwen3", 6)
    plan = LayerPlan.without(model, 2, 3, 5)
    repaired = mend("laco", model, plan, rule=rule, norms=norms)
    into = {0: (0, ()), 1: (1, (2, 3)), 2: (4, (5,))}
    for index, (own, others) in into.items():
        theirs = [dict(model.blocks[i].named_parameters()) for i in (own, *others)]
        for name, weight in repaired.model.blocks[index].named_parameters():
            base = theirs[0][name]
            outside = name.split(".")[0] in ("input_layernorm", "post_attention_layernorm")
            if outside and not norms:
                wanted = base
            elif rule == "public":
                wanted = base.clone()  # the public code, step by step
                for other in theirs[1:]:
                    wanted = wanted + (other[name] - wanted)
            else:
                wanted = base + sum(other[name] - base for other in theirs[1:])
            torch.testing.assert_close(weight, wanted, atol=1e-6, rtol=1e-6)
    assert repaired.record["merges"] == [{"into": 1, "merged": [2, 3]}, {"into": 4, "merged": [5]}]
    assert repaired.record["rule"] == rule
    assert repaired.plan == plan


@pytest.mark.parametrize("arch", ARCHS)
def test_merged_is_the_model_with_the_merged_block_in_place(arch: str, tmp_path: Path) -> None:
    """A copy edited by hand and run with the others skipped; and the checkpoint reloaded."""
    model = tiny(arch, 5)
    plan = LayerPlan.without(model, 2, 3)
    repaired = mend("laco", model, plan)
    edited = ReasoningModel.load(copy.deepcopy(model.hf), model.tokenizer)
    inside = ("self_attn.", "mlp.")
    with torch.no_grad():
        sources = [dict(model.blocks[i].named_parameters()) for i in (1, 2, 3)]
        for name, weight in edited.blocks[1].named_parameters():
            if name.startswith(inside):
                weight.copy_(sources[1][name] + sources[2][name] - sources[0][name])
    with apply(edited, plan):
        wanted = whole(edited.hf)
    torch.testing.assert_close(whole(repaired.model.hf), wanted, **close_to(model))
    save_repaired(repaired, tmp_path / "out")
    hf, info = untyped(AutoModelForCausalLM).from_pretrained(
        tmp_path / "out",
        output_loading_info=True,
        attn_implementation=model.hf.config._attn_implementation,
    )
    assert not any(info.values()), info
    torch.testing.assert_close(whole(hf.eval()), wanted, **close_to(model))
    assert (wanted - whole(prune(model, plan).hf)).abs().max() > 1e-2


def test_the_public_rule_with_norms_is_removal_of_the_blocks_before() -> None:
    """W* = W_(l+m) throughout: the merged block is block l+m, so l..l+m-1 are what is gone."""
    model = tiny("llama", 6)
    merged = mend("laco", model, LayerPlan.without(model, 3, 4), rule="public", norms=True)
    removed = prune(model, LayerPlan.without(model, 2, 3))
    torch.testing.assert_close(whole(merged.model.hf), whole(removed.hf), **close_to(model))


def test_equal_blocks_merge_to_themselves() -> None:
    model = tiny("qwen3", 5)
    for block in model.blocks[3:]:
        block.load_state_dict(model.blocks[2].state_dict())
    plan = LayerPlan.without(model, 3, 4)
    for rule in ("paper", "public"):
        merged = mend("laco", model, plan, rule=rule)
        torch.testing.assert_close(
            whole(merged.model.hf), whole(prune(model, plan).hf), **close_to(model)
        )


# --------------------------------------------------------------------------------- the search


def by_hand(
    model: ReasoningModel, data: Any, size: int, interval: int, lowest: int, threshold: float
) -> tuple[list[tuple[int, list[int]]], ReasoningModel]:
    """The paper's loop over whole models, each candidate built and run on its own."""
    state, merges = model, []
    at = model.n_blocks - size
    while at >= lowest:
        most = min(size - 1, state.n_blocks - 1 - at)
        tried = None
        if most > 0:
            gone = state.layer_map[at + 1 : at + 1 + most]
            hf = copy.deepcopy(state.hf)
            other = ReasoningModel(
                hf, model.tokenizer, name="x", layer_map=state.layer_map, n_dense=model.n_blocks
            )
            with torch.no_grad():
                for name, weight in other.blocks[at].named_parameters():
                    if name.startswith(("self_attn.", "mlp.")):
                        own = weight.clone()
                        for k in range(1, most + 1):
                            weight += dict(other.blocks[at + k].named_parameters())[name] - own
            tried = prune(other, LayerPlan.without(other, *gone))
        if tried is not None and cosine(model, tried, data) > threshold:
            merges.append((state.layer_map[at], list(gone)))
            state = tried
            at = min(at - interval, state.n_blocks - size)
        else:
            at -= 1
    return merges, state


@pytest.mark.parametrize(("size", "interval"), [(2, 1), (3, 2), (4, 1), (4, 3)])
def test_the_search_is_the_papers_loop(size: int, interval: int) -> None:
    model = almost_identity("qwen3", 8, 0.3)
    data = texts(model, LENGTHS)
    tries = []  # the first candidate at every place: about half of them shall stand
    for at in range(1, 9 - size):
        plan = LayerPlan.without(model, *range(at + 1, at + size))
        tries.append(cosine(model, mend("laco", model, plan).model, data))
    threshold = float(np.median(tries)) - 1e-3
    merges, state = by_hand(model, data, size, interval, 1, threshold)
    assert merges
    found = mend(
        "laco", model, None, data, merge=size, interval=interval, threshold=threshold,
        batch_tokens=30,
    )  # fmt: skip
    assert [(m["into"], m["merged"]) for m in found.record["merges"]] == merges
    assert found.model.layer_map == found.plan.kept == state.layer_map
    torch.testing.assert_close(whole(found.model.hf), whole(state.hf), atol=1e-4, rtol=0)
    assert found.record["cosine"] == pytest.approx(cosine(model, state, data), abs=1e-5)
    assert found.record["cosine"] > threshold


def test_the_search_brings_its_plan() -> None:
    model = almost_identity("qwen3", 8)
    data = Calibration.of(model, texts(model, LENGTHS))
    found = mend("laco", model, None, data, remove=3)
    assert len(found.plan.removed) == 3
    assert found.plan.criterion == "laco"
    assert (found.plan.calibration, found.plan.model) == (data.hash, model.fingerprint())
    assert found.plan.name == "laco-3"
    assert set(found.record["kl"]) == {"removed", "repaired"}
    assert found.record["plan_given"] is None
    found.plan.check(model)
    again = mend("laco", model, found.plan, data)  # one run here: the merges are the plan's
    assert again.record["merges"] == found.record["merges"]
    torch.testing.assert_close(whole(again.model.hf), whole(found.model.hf))


@pytest.mark.parametrize("remove", [1, 2, 4, 5])
def test_the_search_stops_at_the_number_asked_for(remove: int) -> None:
    model = almost_identity("qwen3", 8)
    found = mend("laco", model, None, texts(model, LENGTHS), remove=remove, merge=3)
    assert found.model.n_blocks == 8 - remove
    gone = {block for merge in found.record["merges"] for block in merge["merged"]}
    assert gone == set(found.plan.removed)
    assert not gone & set(found.model.layer_map)


def test_the_search_keeps_to_its_range() -> None:
    model = almost_identity("qwen3", 10)
    data = texts(model, LENGTHS)
    options = {"merge": 2, "interval": 4, "threshold": 0.0}
    found = mend("laco", model, None, data, lowest=3, highest=8, **options)
    assert found.record["merges"] == [{"into": 6, "merged": [7]}]
    found = mend("laco", model, None, data, lowest=2, highest=8, **options)
    assert found.record["merges"] == [{"into": 6, "merged": [7]}, {"into": 2, "merged": [3]}]


def test_a_search_in_a_pruned_model_speaks_of_dense_blocks() -> None:
    dense = almost_identity("qwen3", 8)
    model = prune(dense, LayerPlan.without(dense, 0, 4))
    found = mend("laco", model, None, texts(model, LENGTHS), remove=2, merge=3, threshold=-1.0)
    assert found.record["merges"] == [{"into": 5, "merged": [6, 7]}]
    assert found.model.layer_map == (1, 2, 3, 5)


def test_a_merged_block_can_be_merged_again() -> None:
    model = almost_identity("qwen3", 6)
    found = mend("laco", model, None, texts(model, LENGTHS), merge=3, interval=1, threshold=-1.0)
    into = [merge["into"] for merge in found.record["merges"]]
    merged = {block for merge in found.record["merges"] for block in merge["merged"]}
    assert set(into) & merged
    assert set(found.model.layer_map) == set(range(6)) - merged


def test_blocks_of_other_shapes_are_passed_over_and_refused() -> None:
    model = tiny("qwen3_moe", 6, mlp_only_layers=[3])
    with pytest.raises(UserError, match="only blocks of the same shape"):
        mend("laco", model, LayerPlan.without(model, 3))
    found = mend("laco", model, None, texts(model, LENGTHS), merge=2, interval=1, threshold=-1.0)
    for merge in found.record["merges"]:
        assert 3 not in (merge["into"], *merge["merged"])


def test_identity_blocks_are_merged_at_no_loss() -> None:
    model = tiny("qwen3", 6)
    for block in (3, 4, 5):
        plant_identity(model, block)
    found = mend("laco", model, None, texts(model, LENGTHS), remove=2, rule="public", merge=3)
    assert found.record["cosine"] == pytest.approx(1.0)
    torch.testing.assert_close(whole(found.model.hf), whole(model.hf), **close_to(model))


# ---------------------------------------------------------------------------------- refusals


def test_bad_requests_are_refused() -> None:
    model = tiny("qwen3", 6)
    data = texts(model, LENGTHS)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"rule": "publik"}, "Did you mean 'public'"),
        ({"merge": 1}, "expected merge >= 2 and interval >= 1"),
        ({"interval": 0}, "expected merge >= 2 and interval >= 1"),
        ({"lowest": 4, "highest": 3}, "range within 0..6"),
        ({"lowest": 4, "merge": 3}, "range within 0..6"),
        ({"highest": 7}, "range within 0..6"),
        ({"remove": 6}, "expected 1 to 5"),
        ({"remove": 0}, "expected 1 to 5"),
        ({"threshold": 1.0}, "Lower `threshold`"),
        ({"threshold": 0.999, "remove": 2}, "merged 0 blocks of tiny-qwen3, not 2"),
    ]
    for options, match in wrong:
        with pytest.raises(UserError, match=match):
            mend("laco", model, None, data, **options)
    with pytest.raises(UserError, match="needs calibration texts"):
        mend("laco", model, None)
    with pytest.raises(UserError, match="give one of them"):
        mend("laco", model, LayerPlan.without(model, 2), data, remove=2)
    with pytest.raises(UserError, match="no block below it"):
        mend("laco", model, LayerPlan.without(model, 0, 3), data)


def test_a_last_state_that_is_not_finite_is_an_error() -> None:
    model = tiny("qwen3", 5)
    with torch.no_grad():
        untyped(model.final_norm).weight[0] = torch.nan
    data = texts(model, LENGTHS)
    with pytest.raises(NonFiniteError, match="last hidden state"):
        mend("laco", model, None, data, measure=False)


def test_what_is_measured_is_the_model_that_is_returned() -> None:
    model = almost_identity("gemma3", 6, 0.5)
    data = texts(model, LENGTHS)
    found: Repaired = mend("laco", model, LayerPlan.without(model, 3, 4), data, batch_tokens=20)
    assert found.record["cosine"] == pytest.approx(cosine(model, found.model, data), abs=1e-5)
