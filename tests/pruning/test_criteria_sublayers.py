"""Sublayers: scores against copies without the sublayer, plans live and with zeroed weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import PruneScopeError, UserError
from interp.interventions.hooks import apply
from interp.interventions.interventions import Skip, VariantLike
from interp.model.reasoning_model import ReasoningModel
from pruning.criteria import criteria, score
from pruning.plan import LayerPlan
from pruning.sublayers import Sublayer, SublayerPlan, SublayerScores
from pruning.surgery import prune
from tests.models import ARCHS, tiny, untyped
from tests.slow_streams import (
    hooks_of,
    logprobs,
    plant_identity,
    same_weights,
    snapshot,
    streams,
    texts,
)

LENGTHS = (6, 17, 4, 9)
NAMES = ("blockpruner", "finercut", "llm-drop")
ALL: dict[str, Any] = {"llm-drop": {"sublayer": "both"}}


def run(name: str, model: ReasoningModel, data: Any, **options: Any) -> SublayerScores:
    found = score(name, model, data, **(ALL.get(name, {}) | options))
    assert isinstance(found, SublayerScores)
    return found


def silenced(model: ReasoningModel, gone: list[Sublayer]) -> Any:
    """A copy whose sublayers multiply what they add by zero."""
    hf = copy.deepcopy(model.hf)

    def nothing(_: Any, _args: Any, out: Any) -> Any:
        return (out[0] * 0, *out[1:]) if isinstance(out, tuple) else out * 0

    for block, part in gone:
        layer = hf.model.layers[block]
        (layer.self_attn if part == "attention" else layer.mlp).register_forward_hook(nothing)
    return hf


def slow_loss(hf: Any, data: list[np.ndarray]) -> float:
    parts = []
    for ids in data:
        logp = logprobs(hf, ids)
        parts += [-logp[t, ids[t + 1]] for t in range(len(ids) - 1)]
    return float(np.mean(parts))


def slow_js(model: ReasoningModel, hf: Any, data: list[np.ndarray]) -> float:
    parts = []
    for ids in data:
        p, q = np.exp(logprobs(model.hf, ids)), np.exp(logprobs(hf, ids))
        m = (p + q) / 2
        js = ((p * np.log(p / m)).sum(-1) + (q * np.log(q / m)).sum(-1)) / 2
        parts += list(js[:-1])
    return float(np.mean(parts))


def slow_cosines(model: ReasoningModel, data: list[np.ndarray]) -> dict[Sublayer, float]:
    """From the streams and what attention was heard to add (blocks without a norm behind)."""
    turned: dict[Sublayer, list[float]] = {}
    added: list[np.ndarray] = []

    def hear(_: Any, _args: Any, out: Any) -> None:
        added.append(out[0][0].double().numpy())

    for ids in data:
        added.clear()
        hooks = [layer.self_attn.register_forward_hook(hear) for layer in model.hf.model.layers]
        kept = streams(model, ids)
        for hook in hooks:
            hook.remove()
        for l in range(model.n_blocks):
            x, middle, y = kept[l], kept[l] + added[l], kept[l + 1]
            part: Any
            for part, a, b in (("attention", x, middle), ("mlp", middle, y)):
                size = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
                turned.setdefault(Sublayer(l, part), []).extend(1 - (a * b).sum(-1) / size)
    return {sublayer: float(np.mean(v)) for sublayer, v in turned.items()}


def slow(name: str, model: ReasoningModel, data: list[np.ndarray], gone: list[Sublayer]) -> Any:
    """Harm of every sublayer that is left, on top of `gone`."""
    if name == "llm-drop":
        return slow_cosines(model, data)
    left = [Sublayer(l, p) for l in range(model.n_blocks) for p in ("attention", "mlp")]
    left = [sublayer for sublayer in left if sublayer not in gone]
    if name == "finercut":
        return {s: slow_js(model, silenced(model, [*gone, s]), data) for s in left}
    base = slow_loss(silenced(model, gone), data)
    return {s: slow_loss(silenced(model, [*gone, s]), data) - base for s in left}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arch", ["qwen3", "llama"])
def test_against_the_slow_implementation(name: str, arch: str) -> None:
    model = tiny(arch, 3)
    data = texts(model, LENGTHS)
    found = run(name, model, data, batch_tokens=40)
    expected = slow(name, model, data, [])
    assert found.sublayers == tuple(expected)
    np.testing.assert_allclose(found.values, list(expected.values()), rtol=2e-4, atol=2e-5)
    assert ((found.low <= found.values) & (found.values <= found.high)).all()
    assert found.model == model.fingerprint()
    assert found.n_texts == len(data)


@pytest.mark.parametrize("name", ["blockpruner", "finercut"])
def test_the_greedy_path_goes_over_both_parts_of_a_block(name: str) -> None:
    model = tiny("qwen3", 3)
    data = texts(model, LENGTHS)
    gone: list[Sublayer] = []
    for _ in range(5):
        harm = slow(name, model, data, gone)
        gone.append(min(harm, key=harm.__getitem__))
    found = run(name, model, data, remove=5)
    assert found.followed == tuple(gone)
    assert found.lowest_sublayers(2) == tuple(gone[:2])
    assert found.removals()[1] == f"{gone[0]}, {gone[1]}"
    places = [found.sublayers.index(sublayer) for sublayer in gone]
    assert found.removal_ranks()[places].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="as far as it was followed"):
        found.lowest_sublayers(6)
    for remove in (0, 6):
        with pytest.raises(UserError, match="expected 1 to 5 sublayers"):
            run(name, model, data, remove=remove)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", NAMES)
def test_a_sublayer_that_does_nothing_is_removed_first(name: str, arch: str) -> None:
    model = tiny(arch, 3)
    dead = SublayerPlan.without(model, (1, "attention"), (1, "mlp")).zeroed(model)
    found = run(name, dead, texts(model, LENGTHS), **({} if name == "llm-drop" else {"remove": 2}))
    assert found.values[2:4] == pytest.approx(0, abs=1e-5)
    if name != "blockpruner":  # a loss may fall on random ids
        assert set(found.lowest_sublayers(2)) == {Sublayer(1, "attention"), Sublayer(1, "mlp")}


@pytest.mark.parametrize("name", NAMES)
def test_batch_size_padding_and_order_change_no_score(name: str) -> None:
    model = tiny("qwen3", 3)
    data = texts(model, (*LENGTHS, 13, 8))
    alone = run(name, model, data, batch_tokens=1)
    for order, batch_tokens in (((5, 3, 1, 0, 2, 4), 1), ((4, 0, 2, 5, 1, 3), 33), (range(6), 999)):
        other = run(name, model, [data[i] for i in order], batch_tokens=batch_tokens)
        for field in ("values", "low", "high"):
            np.testing.assert_allclose(
                getattr(other, field), getattr(alone, field), rtol=1e-4, atol=1e-5
            )
        assert other.lowest_sublayers(3) == alone.lowest_sublayers(3)


@pytest.mark.parametrize("name", NAMES)
def test_scoring_leaves_the_model_alone_and_keeps_dense_indices(name: str) -> None:
    model = tiny("qwen3", 4)
    pruned = prune(model, LayerPlan.without(model, 0, 2))
    before, hooks = snapshot(pruned), hooks_of(pruned)
    found = run(name, pruned, texts(model, LENGTHS))
    assert found.layer_map == (1, 1, 3, 3)
    assert same_weights(pruned, before)
    assert hooks_of(pruned) == hooks
    plan = SublayerPlan.lowest(found, remove=2)
    plan.check(pruned)
    assert {l for l, _ in plan.removed} <= {1, 3}


def test_llm_drop_takes_one_kind_or_both() -> None:
    model = tiny("qwen3", 3)
    data = texts(model, LENGTHS)
    both = run("llm-drop", model, data)
    for place, part in enumerate(("attention", "mlp")):
        found = run("llm-drop", model, data, sublayer=part)
        assert found.parts == (part,) * 3
        np.testing.assert_allclose(found.values, both.values[place::2], rtol=1e-6)
    with pytest.raises(UserError, match="Did you mean 'attention'"):
        run("llm-drop", model, data, sublayer="attentoin")


def test_llm_drop_in_half_precision() -> None:
    model = tiny("llama", 3)
    with torch.no_grad():
        untyped(model.hf.get_input_embeddings()).weight.mul_(2000)
        for block in untyped(model.blocks):
            block.self_attn.o_proj.weight.mul_(300)
            block.mlp.down_proj.weight.mul_(300)
    data = texts(model, LENGTHS)
    wide = run("llm-drop", model, data)
    untyped(model.hf).to(torch.float16)
    half = run("llm-drop", model, data)
    np.testing.assert_allclose(half.values, wide.values, rtol=0.05, atol=2e-3)


def test_blocks_that_scale_what_they_add_are_refused_by_cosine() -> None:
    model = tiny("llama", 2)

    def weaker(_: Any, args: Any, out: Any) -> Any:
        return args[0] + 0.2 * (out - args[0])

    hook = model.blocks[1].register_forward_hook(weaker)
    with pytest.raises(PruneScopeError, match="cannot be scored by cosine"):
        run("llm-drop", model, texts(model, LENGTHS))
    hook.remove()
    run("llm-drop", model, texts(model, LENGTHS))


# ------------------------------------------------------------------------- plans


@pytest.mark.parametrize("arch", ARCHS)
def test_a_zeroed_copy_has_the_logits_of_the_live_plan(arch: str) -> None:
    model = tiny(arch, 3)
    ids = torch.tensor(np.stack(texts(model, (15, 15))))
    plan = SublayerPlan.without(model, (0, "mlp"), (2, "attention"), (1, "mlp"), (1, "attention"))
    before = snapshot(model)
    with torch.no_grad(), apply(model, plan):
        live = model.hf(ids, use_cache=False).logits
    zeroed = plan.zeroed(model)
    with torch.no_grad():
        torch.testing.assert_close(zeroed.hf(ids).logits, live, rtol=0, atol=1e-5)
        assert not torch.allclose(model.hf(ids).logits, live, atol=1e-3)
    assert same_weights(model, before)


def test_a_zeroed_copy_is_an_ordinary_checkpoint(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny("qwen3", 3)
    ids = torch.tensor(np.stack(texts(model, (15, 15))))
    zeroed = SublayerPlan.without(model, (1, "mlp")).zeroed(model)
    zeroed.hf.save_pretrained(tmp_path)
    found, said = untyped(AutoModelForCausalLM).from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not said["missing_keys"] and not said["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, zeroed.hf(ids).logits)


def test_a_sublayer_that_writes_by_another_name_is_refused() -> None:
    model = tiny("llama", 2)
    mlp = untyped(model.blocks[0]).mlp
    mlp.writes = mlp.down_proj
    del mlp.down_proj
    mlp.forward = lambda x: mlp.writes(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
    with pytest.raises(UserError, match="0 mlp still adds"):
        SublayerPlan.without(model, (0, "mlp")).zeroed(model)


def test_a_plan_is_a_variant_that_decodes_like_its_zeroed_copy() -> None:
    model = tiny("qwen3", 3, ends=False)
    plan = SublayerPlan.without(model, (0, "attention"), (1, "attention"), (1, "mlp"), name="less")
    assert isinstance(plan, VariantLike)
    assert plan.interventions() == (Skip(1), Skip(0, part="attention"))
    from interp.chains.chain import Budget

    options: dict[str, Any] = {"budget": Budget(20, 4), "problem_ids": ["a", "b"]}
    prompts = [[2, 8, 9, 4], [2, 11, 4]]
    live = model.generate(prompts, [plan], **options)
    other = plan.zeroed(model).generate(prompts, **options)
    assert [c.ids.tolist() for c in live] == [c.ids.tolist() for c in other]
    assert {c.variant for c in live} == {"less"}


def test_plans_and_scores_refuse_what_does_not_fit() -> None:
    model = tiny("qwen3", 3)
    found = run("llm-drop", model, texts(model, LENGTHS))
    with pytest.raises(UserError, match=r"SublayerPlan\.lowest"):
        LayerPlan.lowest(found, remove=1)
    blocks = score("reverse-order", model)
    with pytest.raises(UserError, match=r"make the plan with LayerPlan\.lowest"):
        SublayerPlan.lowest(blocks, remove=1)
    with pytest.raises(UserError, match="from 0 to 6"):
        SublayerPlan.lowest(found, remove=7)
    with pytest.raises(UserError, match="block 9 is not there"):
        SublayerPlan.without(model, (9, "mlp"))
    with pytest.raises(UserError, match="named twice"):
        SublayerPlan.without(model, (1, "mlp"), (1, "mlp"))
    with pytest.raises(UserError, match="expected one of attention, mlp"):
        SublayerPlan((Sublayer(1, untyped("block")),), (0, 1, 2))
    plan = SublayerPlan.lowest(found, remove=2)
    assert plan.name == "llm-drop, both-2"
    with pytest.raises(UserError, match="fingerprint"):
        plan.check(tiny("qwen3", 3, seed=1))
    with pytest.raises(UserError, match="blocks"):
        plan.check(tiny("qwen3", 4))
    assert SublayerPlan.without(model).name == "nothing removed"
    assert criteria()["llm-drop"].removes == "sublayers"


def test_the_table_names_the_part_and_the_plot_shows_both() -> None:
    import matplotlib.pyplot as plt

    model = tiny("qwen3", 3)
    plant_identity(model, 1)
    found = run("llm-drop", model, texts(model, LENGTHS))
    frame = found.to_frame()
    assert frame["block"].tolist() == [0, 0, 1, 1, 2, 2]
    assert frame["part"].tolist() == ["attention", "mlp"] * 3
    assert sorted(frame["rank"]) == list(range(6))
    assert set(frame.sort_values("rank").head(2)["block"]) == {1}
    _, ax = plt.subplots()
    assert found.plot(ax) is ax
    assert len(ax.patches) == 6
    plt.close("all")
