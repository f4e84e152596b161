"""Laws 1, 2, 5, 6, 8 and 10 on every architecture of `tests.architectures`, in float32.

Chains of the generic decoder are those of `generate` and of slow passes without a cache; those of
the fast decoder, where it takes the model, are the same. A checkpoint without some blocks has the
logits of the live `Skip`.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

from interp.chains.chain import Budget, Chain
from interp.decoding import decoder_choice
from interp.decoding.decoder_choice import GENERIC, runner_for
from interp.decoding.generate import decode
from interp.decoding.generic_runner import GenericRunner
from interp.decoding.request import cross, fork
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.hooks import apply, bypass
from interp.interventions.interventions import MeanDelta, Scale, Skip, Variant, dense
from interp.interventions.patches import Patch
from interp.interventions.windows import Window
from interp.model.attention import STANDARD
from interp.model.kv_cache import handing
from interp.model.reasoning_model import ReasoningModel
from pruning.criteria import score
from pruning.folder import prune_folder
from pruning.plan import LayerPlan
from pruning.surgery import prune, save
from tests import architectures
from tests.laws.test_replay_laws import replayed_logprobs
from tests.models import config, tiny, tokenizer
from tests.reference import same_chain, skipped, slow_logits, slow_logprobs
from tests.tolerances import logit_noise

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7"]  # of different length
GREEDY = Sampling(temperature=0.0)
LONG = Sampling(top_k=8)  # with ends=False, the ends of thinking and sequence are never drawn
NOT_HERE = [kind for kind in architectures.TABLE if kind not in transformers.CONFIG_MAPPING]
ALL = [
    pytest.param(kind, marks=pytest.mark.skipif(kind in NOT_HERE, reason="not in transformers"))
    for kind in architectures.TABLE
]
# where a rule by period, or what a configuration demands, allows only some blocks to be removed
REMOVED = {"jamba": (0,), "zamba2": (1, 2), "olmo_hybrid": (0,), "zaya": (1, 2)}


@cache
def model_of(kind: str) -> ReasoningModel:
    return tiny(kind, architectures.BLOCKS, ends=False)


def close(model: ReasoningModel, a: np.ndarray, b: np.ndarray) -> None:
    # a recurrent state is a longer sum than a product of matrices
    np.testing.assert_allclose(a, b, atol=4 * logit_noise(model), rtol=0)


def untouched(model: ReasoningModel) -> None:
    for module in model.hf.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert "forward" not in module.__dict__


@pytest.mark.parametrize("kind", ALL)
def test_chains_are_those_of_generate(kind: str) -> None:
    """Laws 1 and 10: greedy tokens, log-probabilities and the recorded stream."""
    model = model_of(kind)
    options: dict[str, Any] = {"budget": Budget(7, 2), "sampling": GREEDY, "record": True}
    (chain,) = model.generate(PROMPTS[1:], decoder="generic", **options)
    prompt = torch.from_numpy(chain.prompt_ids)[None]
    with torch.no_grad():
        wanted = cast("Any", model.hf).generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=7, do_sample=False
        )[0, prompt.shape[1] :]
    assert chain.ids[:7].tolist() == wanted.tolist() and len(wanted) == 7
    close(model, chain.logprob, slow_logprobs(model, chain))
    assert runner_for(model, "auto").__name__ == (
        "ModelRunner" if kind in architectures.STANDARD else "GenericRunner"
    )
    seen: dict[int, Any] = {}
    slow_logits(model, [*chain.prompt_ids.tolist(), *chain.ids.tolist()], seen=seen)
    assert chain.stream is not None
    for index in range(model.n_blocks):
        before, after = (x[len(chain.prompt_ids) - 1 : -1].norm(dim=-1) for x in seen[index])
        np.testing.assert_allclose(chain.stream.pre_norm[:, index], before, rtol=1e-4)
        np.testing.assert_allclose(chain.stream.post_norm[:, index], after, rtol=1e-4)
    if kind in architectures.STANDARD:
        (other,) = model.generate(PROMPTS[1:], **options)
        assert same_chain(other, chain)


@pytest.mark.parametrize("kind", ALL)
def test_rows_come_and_go(kind: str) -> None:
    """Laws 2, 5, 6 and 10: any batch gives the same rows, each with its own interventions."""
    model = model_of(kind)
    before = model.fingerprint()
    variants = (
        dense,
        Variant("no 0", (Skip(0),)),
        Variant("no 2 late", (Skip(2, window=Window(2, 5)), Scale(3, gain=0.5))),
    )
    # the smaller budget answers from a place to which a row goes back
    budgets = (Budget(3, 1), Budget(7, 1))
    requests = cross(model, PROMPTS, variants=variants, budgets=budgets)

    def made(requests: Any, **options: Any) -> dict[Any, Chain]:
        chains = decode(model, requests, sampling=LONG, **options)
        return {(c.problem, c.variant, c.budget): c for c in chains}

    together = made(requests, decoder="generic")
    others = [made(requests[-1:], decoder="generic", slots=1)]
    if kind in architectures.STANDARD:
        others.append(made(requests[::-1], slots=4))
    for chains in others:
        for key, chain in chains.items():
            assert same_chain(chain, together[key])
    for chain in (chain for chain in together.values() if chain.problem == "1"):
        edits = {
            "dense": {},
            "no 0": {(0, "block"): skipped(chain)},
            "no 2 late": {
                (2, "block"): skipped(chain, 2, 5),
                (3, "block"): lambda delta: delta / 2,
            },
        }[chain.variant]
        close(model, chain.logprob, slow_logprobs(model, chain, edits))
    long, short = (together["0", "dense", b] for b in budgets[::-1])
    assert long.thinking_ids[:3].tolist() == short.thinking_ids.tolist()
    untouched(model)
    assert model.fingerprint() == before


def whole_and_cached(hf: Any, ids: torch.Tensor) -> torch.Tensor:
    """The logits of one pass without a cache, and of a prompt and then a token at a time."""
    prompt, store = ids.shape[1] - 3, DynamicCache(config=hf.config)
    with torch.no_grad():
        out = [hf(ids, use_cache=False).logits]
        for start, stop in [(0, prompt), *((i, i + 1) for i in range(prompt, ids.shape[1]))]:
            out.append(hf(ids[:, start:stop], use_cache=True, **handing(hf, store)).logits)
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("kind", ALL)
def test_skip_is_the_block_removed_saved_and_reloaded(kind: str, tmp_path: Path) -> None:
    """Law 8, on blocks of one kind and of mixed kinds."""
    model = model_of(kind)
    ids = torch.tensor(np.random.default_rng(1).integers(6, model.vocab_size, (2, 14)))
    plan = LayerPlan.without(model, *REMOVED.get(kind, (0, 2)))
    with apply(model, plan):
        live = whole_and_cached(model.hf, ids)
    found: Any = AutoModelForCausalLM.from_pretrained(
        save(model, plan, tmp_path / "out"),
        output_loading_info=True,
        attn_implementation=cast("Any", model.hf.config)._attn_implementation,
    )
    hf, info = found
    assert not any(info.values()), info
    close(model, whole_and_cached(hf.eval(), ids).numpy(), live.numpy())
    assert (whole_and_cached(model.hf, ids) - live).abs().max() > 1e-2
    untouched(model)


@pytest.mark.parametrize("kind", ["qwen3_next", "bamba", "gemma4_text", "lfm2_moe"])
def test_a_folder_is_pruned_without_loading(kind: str, tmp_path: Path) -> None:
    model = model_of(kind)
    model.hf.save_pretrained(tmp_path / "dense")
    model.tokenizer.save_pretrained(tmp_path / "dense")
    prune_folder(tmp_path / "dense", [0, 2], tmp_path / "out")
    found: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    hf, info = found
    assert not any(info.values()), info
    ids = torch.arange(6, 20)[None]
    in_memory = prune(model, LayerPlan.without(model, 0, 2)).hf
    close(model, whole_and_cached(hf.eval(), ids).numpy(), whole_and_cached(in_memory, ids).numpy())


@pytest.mark.parametrize(
    ("kind", "gone", "why"),
    [
        ("jamba", (2,), r"no period describes .* positions \[1, 2\] of 3"),
        ("olmo_hybrid", (0, 2), "at least one 'linear_attention' layer"),
        ("zaya", (0,), r"router_states_scale"),
    ],
)
def test_blocks_that_a_rule_cannot_do_without_are_refused(
    kind: str, gone: tuple[int, ...], why: str
) -> None:
    model = model_of(kind)
    plan = LayerPlan.without(model, *gone)
    with pytest.raises(UserError, match=f"{why}.*Remove others, or run the plan live"):
        prune(model, plan)


@pytest.mark.parametrize(("kind", "gone"), [("jamba", (1, 2)), ("jamba", (0, 1)), ("zamba2", (3,))])
def test_rules_of_shared_and_periodic_blocks_are_refitted(kind: str, gone: tuple[int, ...]) -> None:
    """What is left has another period, or fewer adapters in the module that blocks share."""
    model = model_of(kind)
    plan = LayerPlan.without(model, *gone)
    ids = torch.arange(6, 20)[None]
    with apply(model, plan):
        live = whole_and_cached(model.hf, ids)
    close(model, whole_and_cached(prune(model, plan).hf, ids).numpy(), live.numpy())
    untouched(model)


def test_two_shared_modules_take_turns() -> None:
    """Zamba2 with two: removing one hybrid block would give its successors the other module."""
    kinds = ["linear_attention", "hybrid", "hybrid", "hybrid", "hybrid"]
    model = tiny("zamba2", 5, ends=False, num_mem_blocks=2, layers_block_type=kinds)
    ids = torch.arange(6, 20)[None]
    plan = LayerPlan.without(model, 1, 2)
    with apply(model, plan):
        live = whole_and_cached(model.hf, ids)
    close(model, whole_and_cached(prune(model, plan).hf, ids).numpy(), live.numpy())
    with pytest.raises(UserError, match="Remove others, or run the plan live"):
        prune(model, LayerPlan.without(model, 1))


@pytest.mark.parametrize("kind", ["qwen3_next", "llama4_text"])
def test_interventions_row_by_row(kind: str) -> None:
    """Means and patches of blocks and sublayers, forks and stop strings on the generic decoder."""
    model = model_of(kind)
    mean = torch.linspace(-1, 1, model.d_model)
    stream = torch.randn(4, model.d_model, generator=torch.Generator().manual_seed(0))

    def patched(chain: Chain, delta: torch.Tensor) -> torch.Tensor:
        new, start = delta.clone(), len(chain.prompt_ids) + 3
        new[start : start + 4] = stream
        return new

    variants = (
        dense,
        Variant("mean", (MeanDelta(1, mean=mean, part="attention"),)),
        Variant("patch", (Patch(2, stream=stream, first=3),)),
        Variant("mlp", (Skip(1, part="mlp"), Skip(0, part="attention"))),
    )
    chains = model.generate(PROMPTS, variants, Budget(10, 2), sampling=LONG)
    for chain in chains:
        edits: dict[Any, Any] = {
            "dense": {},
            "mean": {(1, "attention"): lambda delta: mean.expand_as(delta)},
            "patch": {(2, "block"): lambda delta, chain=chain: patched(chain, delta)},
            "mlp": {(1, "mlp"): skipped(chain), (0, "attention"): skipped(chain)},
        }[chain.variant]
        close(model, chain.logprob, slow_logprobs(model, chain, edits))
    first = chains[0]
    (again,) = decode(model, fork(first, 4), sampling=LONG)
    assert again.ids.tolist() == first.ids.tolist() and again.forced[:4].all()
    words = model.text(first.ids[-2:-1].tolist())
    (cut,) = model.generate(PROMPTS[:1], budget=Budget(10, 2), sampling=LONG, stop=[words])
    assert (cut.finish, cut.ids.tolist()) == ("stop", first.ids[:-1].tolist())


@pytest.mark.parametrize("kind", ["qwen3_5_text", "gpt_oss"])
def test_replay_is_live_recording(kind: str) -> None:
    """Law 3: chains are read in whole rows where the blocks take no masks made here."""
    model = model_of(kind)
    variant = Variant("late", (Skip(1, window=Window(2)),))
    chains = list(model.generate(PROMPTS, [variant], Budget(8, 2), sampling=LONG))
    for chain, found in zip(chains, replayed_logprobs(model, chains, variant, 6), strict=True):
        close(model, np.where(chain.forced, np.nan, found), chain.logprob)


@pytest.mark.parametrize("kind", ["bamba", "granitemoehybrid", "falcon_h1", "zaya"])
def test_a_bypassed_block_returns_what_its_model_expects(kind: str) -> None:
    """Blocks that return tuples, or tensors whatever their annotation says."""
    model = model_of(kind)
    ids = torch.tensor(np.random.default_rng(1).integers(6, model.vocab_size, (2, 9)))
    with torch.no_grad(), apply(model, Variant("none", (Skip(0), Skip(1)))):
        wanted = model.hf(ids, use_cache=False).logits
    with torch.no_grad(), bypass(model, [0, 1]):
        found = model.hf(ids, use_cache=False).logits
    close(model, found.numpy(), wanted.numpy())


def test_a_skipped_block_hands_on_the_state_that_it_was_given() -> None:
    """ZAYA's routers read the block before: rows that skip it read the one before that."""
    model = model_of("zaya")
    ids = torch.tensor(np.random.default_rng(1).integers(6, model.vocab_size, (3, 9)))
    without = {gone: prune(model, LayerPlan.without(model, gone)).hf for gone in (1, 2)}
    with torch.no_grad():
        plain = model.hf(ids, use_cache=False).logits
        alone = {gone: hf(ids, use_cache=False).logits for gone, hf in without.items()}
        with apply(model, [Variant("1", (Skip(1),)), dense, Variant("2", (Skip(2),))]):
            found = model.hf(ids, use_cache=False).logits
    wanted = torch.stack([alone[1][0], plain[1], alone[2][2]])
    close(model, found.numpy(), wanted.numpy())
    with torch.no_grad(), apply(model, [Variant("0", (Skip(0),)), dense, dense]):
        mixed = model.hf(ids, use_cache=False).logits
    with torch.no_grad(), bypass(model, [0]):
        first = model.hf(ids[:1], use_cache=False).logits[0]
    close(model, mixed.numpy(), torch.stack([first, plain[1], plain[2]]).numpy())


def test_passes_that_begin_in_the_middle_need_blocks_of_one_stream() -> None:
    model = model_of("zaya")
    with pytest.raises(UserError, match=r"hand a state from one to the next.*such as shortgpt"):
        score("skip-kl", model, PROMPTS)
    assert np.isfinite(score("shortgpt", model, PROMPTS).values).all()
    untouched(model)


@pytest.mark.parametrize("kind", ["gemma4_text", "qwen3_next", "lfm2", "nemotron_h"])
def test_blocks_of_different_kinds_cannot_change_places(kind: str) -> None:
    model = model_of(kind)
    with pytest.raises(UserError, match=r"blocks 0 and 1 are of different kinds.*skip-kl"):
        score("swap-kl", model, PROMPTS)
    untouched(model)


def test_natural_ends_waits_and_single_token_prompts() -> None:
    """Law 7 where rows go back over ends that the model chose, and a row that read nothing."""
    model = tiny("qwen3_5_text", architectures.BLOCKS, seed=1)
    budgets = (Budget(5, 2), Budget(16, 2), Budget(16, 2, waits=1))
    kinds = set()
    prompts = [[7], [9, 8, 7], [11]]
    once = model.generate(prompts, budget=budgets, samples=3)
    for budget in budgets:
        alone = model.generate(prompts, budget=budget, samples=3, slots=2)
        same = [chain for chain in once if chain.budget == budget]
        for one, other in zip(same, alone, strict=True):
            assert same_chain(one, other) and one.thinking_finish == other.thinking_finish
            kinds.add((one.thinking_finish, one.waits))
            close(model, one.logprob, slow_logprobs(model, one))
    assert {finish for finish, _ in kinds} == {"end", "forced"}
    assert max(waits for _, waits in kinds) > 0


def test_hooks_are_gone_after_an_exception() -> None:
    """Law 6: whatever stops decoding, the model is as it was."""
    model = model_of("bamba")
    requests = cross(model, PROMPTS, variants=[dense, Variant("no 0", (Skip(0),))])
    handle = model.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(decode(model, requests))
    handle.remove()
    untouched(model)


def test_rows_that_memory_has_no_room_for_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that fails leaves some blocks a token ahead, so all rows are read again."""
    model = model_of("qwen3_next")
    options: dict[str, Any] = {"budget": Budget(12, 3), "samples": 3, "sampling": LONG}
    wanted = model.generate(PROMPTS, **options)
    plain, passes = GenericRunner._logits, []

    def short(self: GenericRunner, n: int, used: int) -> torch.Tensor:
        passes.append(n)
        if len(passes) == 5:
            model.blocks[1].register_forward_pre_hook(fail)
        return plain(self, n, used)

    def fail(module: Any, _: Any) -> None:
        module._forward_pre_hooks.clear()
        raise torch.OutOfMemoryError

    monkeypatch.setattr(GenericRunner, "_logits", short)
    with pytest.warns(UserWarning, match="Out of memory"):
        found = model.generate(PROMPTS, **options, slots=4)
    assert all(same_chain(a, b) for a, b in zip(found, wanted, strict=True))
    assert max(passes[5:]) == 2


def test_the_choice_of_a_decoder(caplog: pytest.LogCaptureFixture) -> None:
    hybrid = model_of("qwen3_next")
    with caplog.at_level(logging.INFO, "interp.decoding.decoder_choice"):
        assert runner_for(hybrid, "auto") is GenericRunner
    assert "generic decoder (fast decoder: it has blocks of type linear_attention" in caplog.text
    with pytest.raises(UserError, match=r"fast decoder: it has blocks.*Use the decoder auto"):
        hybrid.generate(PROMPTS, budget=Budget(4, 2), decoder="fast")
    with pytest.raises(UserError, match="expected one of auto, fast, generic"):
        hybrid.generate(PROMPTS, budget=Budget(4, 2), decoder=cast("Any", "quick"))


def test_a_model_may_prefer_a_decoder() -> None:
    """The choice is the model's own, goes to models made from it, and a call may overrule it."""
    plain = model_of("qwen3")
    generic = ReasoningModel.load(plain.hf, plain.tokenizer, decoder="generic")
    assert runner_for(plain, "auto").__name__ == "ModelRunner"
    for model in (generic, prune(generic, LayerPlan.without(generic, 1))):
        assert runner_for(model, "auto") is GenericRunner
        assert runner_for(model, "fast").__name__ == "ModelRunner"
    fast = ReasoningModel.load(model_of("qwen3_next").hf, tokenizer(), decoder="fast")
    with pytest.raises(UserError, match="Use the decoder auto"):
        fast.generate(PROMPTS, budget=Budget(4, 2))


def built(conf: Any) -> ReasoningModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(conf, dtype=torch.float32)
        for weight in hf.parameters():
            torch.nn.init.normal_(weight, 0.0, 0.15)
    return ReasoningModel.load(hf, tokenizer(), name="untested")


def test_an_untested_architecture_is_tried_first() -> None:
    """One that works is decoded; one with a cache of its own, or another stream, is refused."""
    sizes = config("llama").to_dict()
    sizes = {
        k: sizes[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "eos_token_id")
    }
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    fit = built(transformers.AutoConfig.for_model("arcee", **sizes))
    assert runner_for(fit, "auto") is GenericRunner
    (chain,) = fit.generate(PROMPTS[:1], budget=Budget(6, 2))
    close(fit, chain.logprob, slow_logprobs(fit, chain))
    own = built(transformers.AutoConfig.for_model("minimax", **sizes, num_local_experts=2))
    with pytest.raises(UserError, match="trial ended in ValueError: MiniMax uses cache of its own"):
        own.generate(PROMPTS, budget=Budget(4, 2))
    with pytest.raises(UserError, match="Scores and pruning may still work"):
        own.generate(PROMPTS, budget=Budget(4, 2), decoder="generic")


def test_a_cache_that_forgets_is_found_by_the_trial() -> None:
    """The trial compares numbers: it fails where a model does not keep its state in the cache."""
    model, plain = model_of("mamba"), GenericRunner._logits

    def forgetful(self: GenericRunner, n: int, used: int) -> torch.Tensor:
        layers: Any = self.rows.rows.cache.layers if self.rows.rows.cache else ()
        for layer in layers:
            for state in layer.recurrent_states.values():
                state.zero_()
        return plain(self, n, used)

    assert decoder_choice._differs(model) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GenericRunner, "_logits", forgetful)
        assert "nats from those of plain passes" in str(decoder_choice._differs(model))


def test_the_lists_are_those_of_the_table() -> None:
    assert sorted(STANDARD) == sorted(architectures.STANDARD)
    assert sorted(GENERIC) == sorted(architectures.GENERIC)
    assert len(architectures.TABLE) - len(NOT_HERE) >= 30


def test_the_documents_list_the_table() -> None:
    for document in architectures.DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert len(architectures.PLACE.findall(text)) == 2
        assert text == architectures.written(text), "run python -m tests.architectures"
