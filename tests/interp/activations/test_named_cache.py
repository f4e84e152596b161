"""Named activations against Hugging Face's hidden states, plain hooks and TransformerLens."""

from __future__ import annotations

import pytest
import torch

from interp.activations.forward_cache import names_of
from interp.chains.chain import Budget
from interp.errors import UserError
from interp.heads import HeadLens
from interp.interventions.interventions import AblateHeads, Scale, Skip, Variant
from interp.interventions.windows import Window
from interp.model.reasoning_model import ReasoningModel
from pruning.plan import LayerPlan
from pruning.surgery import prune
from tests.models import tiny
from tests.reference import skipped, slow_logits
from tests.tolerances import close_to

IDS = [2, 6, 8, 33, 37, 9, 10, 51, 3, 2, 7, 4, 20]


def hidden(model, ids):
    """Hugging Face's own: what enters every block, the normed stream, logits."""
    with torch.no_grad():
        out = model.hf(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
    return out.hidden_states, out.logits.float()


@pytest.mark.parametrize("arch", ["qwen3", "gemma2", "phi3", "olmo2", "gpt2", "granite"])
def test_streams_are_hugging_faces_hidden_states(arch: str) -> None:
    model = tiny(arch)
    cache = model.run_with_cache(IDS)
    states, logits = hidden(model, IDS)
    for block in range(model.n_blocks):
        torch.testing.assert_close(cache["resid_pre", block], states[block], **close_to(model))
        if block:
            same = cache["resid_post", block - 1]
            assert torch.equal(cache[f"blocks.{block}.hook_resid_pre"], same)
    torch.testing.assert_close(cache["ln_final.hook_out"], states[-1], **close_to(model))
    torch.testing.assert_close(cache["unembed.hook_out"], logits, **close_to(model))
    assert list(cache) == [n for n in cache.names if not n.endswith("hook_pattern")]


@pytest.mark.parametrize("arch", ["qwen3", "phi3"])
def test_parts_add_up_and_heads_make_attention(arch: str) -> None:
    model = tiny(arch)
    cache = model.run_with_cache(IDS, names=lambda name: "blocks.2" in name)
    pre, mid, post = (cache[f"resid_{side}", 2] for side in ("pre", "mid", "post"))
    near = close_to(model)
    torch.testing.assert_close(pre + cache["attn_out", 2], mid, **near)
    torch.testing.assert_close(mid + cache["mlp_out", 2], post, **near)
    projection = model.anatomy.output_projection(2)
    with torch.no_grad():
        torch.testing.assert_close(projection(cache["z", 2].flatten(-2)), cache["attn_out", 2])
    pattern = cache["pattern", 2]
    assert pattern.shape == (1, model.anatomy.n_heads, len(IDS), len(IDS))
    torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
    assert (pattern.triu(1) == 0).all()
    assert model.anatomy.config._attn_implementation == "sdpa"


def test_the_bundled_reasoner_as_transformer_lens_sees_it() -> None:
    """The same names, the same numbers: transformer-lens' bridge on a copy."""
    model = ReasoningModel.load("testbed")
    ids = model.prompt_ids("use 3 4 5 to make 17")
    cache = model.run_with_cache(ids, names=lambda _: True)
    with HeadLens(model) as lens, torch.no_grad():
        _, theirs = lens._bridge.run_with_cache(torch.tensor([ids]))
    common = [name for name in cache if name in theirs]
    ends = {name.split(".")[-1] for name in common}
    wanted = {"hook_embed", "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out"}
    assert wanted | {"hook_mlp_out", "hook_z", "hook_pattern", "hook_out"} <= ends
    assert len(common) == 7 * model.n_blocks + 3
    for name in common:
        want = theirs[name].float()
        size = float(want.abs().max())
        torch.testing.assert_close(
            cache[name], want.view(cache[name].shape), atol=2e-5 * size + 1e-6, rtol=0
        )


def test_dense_numbers_where_blocks_are_skipped_or_removed() -> None:
    model = tiny("qwen3", 5)
    skipped = model.run_with_cache(IDS, Skip(1))
    assert torch.equal(skipped["resid_pre", 1], skipped["resid_post", 1])
    assert "blocks.1.hook_attn_out" not in skipped.names
    with pytest.raises(UserError, match="a skipped block has no parts"):
        skipped["attn_out", 1]
    removed = prune(model, LayerPlan((1,), 5))
    cache = removed.run_with_cache(IDS)
    assert "blocks.1.hook_resid_pre" not in cache.names
    assert cache.layer_map == (0, 2, 3, 4)
    for name in cache:
        torch.testing.assert_close(cache[name], skipped[name], **close_to(model))


def test_interventions_and_windows_are_seen_as_they_leave_the_stream() -> None:
    model = tiny(ends=False)
    (chain,) = model.generate(["compute 3 + 4"], budget=Budget(12, 2))
    part = Variant("v", (Scale(1, 0.5, part="mlp"),))
    late = Variant("late", (Skip(1, window=Window(4)),))
    ids = [*chain.prompt_ids.tolist(), *chain.ids[:-1].tolist()]
    edits: dict[str, dict] = {
        "v": {(1, "mlp"): lambda delta: delta * 0.5},
        "late": {(1, "block"): skipped(chain, 4)},
    }
    for variant in (part, late):
        cache, seen = model.run_with_cache(chain, variant), {}
        logits = slow_logits(model, ids, edits[variant.name], seen)
        for block, (entered, left) in seen.items():
            torch.testing.assert_close(cache["resid_pre", block][0], entered, **close_to(model))
            torch.testing.assert_close(cache["resid_post", block][0], left, **close_to(model))
        torch.testing.assert_close(cache["unembed.hook_out"][0], logits, **close_to(model))
    without = model.run_with_cache(chain, AblateHeads(2, (0, 3)))
    assert (without["z", 2][..., [0, 3], :] == 0).all()
    assert (without["z", 2][..., [1, 2], :] != 0).any()
    plain = model.run_with_cache(ids)["mlp_out", 1]
    torch.testing.assert_close(
        model.run_with_cache(chain, part)["mlp_out", 1], plain * 0.5, **close_to(model)
    )


def test_several_texts_are_padded_and_each_row_is_as_alone() -> None:
    model = tiny()
    texts = ["compute 3 + 4", "use 3 7 to make 21", IDS[:5]]
    together = model.run_with_cache(texts)
    assert together.lengths == tuple(int(n) for n in together.lengths)
    for row, text in enumerate(texts):
        alone = model.run_with_cache(text)
        n = alone.lengths[0]
        assert together.lengths[row] == n
        assert torch.equal(together.tokens[row, :n], alone.tokens[0])
        for name in alone:
            torch.testing.assert_close(together[name][row, :n], alone[name][0], **close_to(model))
    asked = model.run_with_cache([{"role": "user", "content": "compute 3 + 4"}])
    assert torch.equal(asked.tokens, model.run_with_cache(texts[0]).tokens)


def test_only_what_is_asked_is_kept_and_computed() -> None:
    model = tiny()
    ran = []
    handles = [
        b.self_attn.register_forward_hook(lambda *_, i=i: ran.append(i))  # type: ignore[operator]
        for i, b in enumerate(model.blocks)
    ]
    cache = model.run_with_cache(IDS, names=["blocks.1.hook_resid_post"])
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]
    assert list(cache) == ["blocks.1.hook_resid_post"] and len(cache) == 1
    assert cache.get("blocks.2.hook_resid_post") is None
    with pytest.raises(UserError, match="was not kept: name it"):
        cache["resid_post", 2]
    with pytest.raises(UserError, match=r"Did you mean 'blocks\.1\.hook_resid_post'"):
        cache["blocks.1.hook_resid_pst"]
    with pytest.raises(TypeError):
        cache["blocks.1.hook_resid_post"] = torch.zeros(1)  # type: ignore[index]
    assert len(repr(model.run_with_cache(IDS))) < 200
    frame = model.run_with_cache(IDS).to_frame()
    assert frame["name"].tolist() == list(model.run_with_cache(IDS))
    assert frame.set_index("name").loc["blocks.3.hook_mlp_out", "block"] == 3


@pytest.mark.parametrize(
    ("prompt", "names", "match"),
    [
        ([], None, "no text was given"),
        (["a", []], None, "Text 1 has 0 tokens"),
        ([10**6], None, "outside the vocabulary"),
        (IDS, ["hook_embd"], "Did you mean 'hook_embed'"),
        (IDS, ["blocks.9.hook_resid_pre"], "is no activation"),
        (IDS, lambda name: False, "chose no name"),
    ],
)
def test_wrong_requests_are_refused(prompt, names, match: str) -> None:
    with pytest.raises(UserError, match=match):
        tiny().run_with_cache(prompt, names=names)


def test_a_result_that_would_be_too_large_is_refused_before_the_pass() -> None:
    with pytest.raises(UserError, match="Name fewer, or raise max_bytes"):
        tiny().run_with_cache(IDS, max_bytes=1000)


def test_a_failing_pass_leaves_no_hook() -> None:
    model = tiny()
    count = lambda: sum(len(m._forward_hooks) for m in model.hf.modules())  # noqa: E731
    before = count()
    with pytest.raises(UserError, match="Head 99"):
        model.run_with_cache(IDS, AblateHeads(1, (99,)))
    assert count() == before
    assert model.run_with_cache(IDS)["unembed.hook_out"].isfinite().all()


def test_blocks_of_mixed_kinds_have_the_names_of_their_parts() -> None:
    model = tiny("jamba")
    names = names_of(model)
    cache = model.run_with_cache(IDS)
    assert set(cache) <= set(names)
    states, _ = hidden(model, IDS)
    for block in range(model.n_blocks):
        torch.testing.assert_close(cache["resid_pre", block], states[block], **close_to(model))
