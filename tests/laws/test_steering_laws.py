"""Suppress, Steer and Neurons: laws against dense, Skip, changed weights and slow passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp.chains.chain import Budget, Chain
from interp.counterfactuals.edits import Edit, rerun
from interp.decoding.generate import decode
from interp.decoding.request import fork
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.hooks import apply
from interp.interventions.interventions import Skip, Steer, Variant, dense
from interp.interventions.neurons import Neurons
from interp.interventions.suppress import Suppress
from interp.interventions.windows import AtTokens, Thinking, Window
from interp.model.reasoning_model import ReasoningModel
from interp.replay.divergence import divergence
from tests.models import ARCHS, tiny, tiny_hf, tokenizer
from tests.reference import same_chain, slow_logits, slow_logprobs
from tests.tolerances import logit_noise

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7"]
IDS = [2, 6, 8, 33, 37, 9, 10, 51, 3, 2, 7, 4, 20, 21, 22, 40]
LONG = Sampling(top_k=8)
WITH_NEURONS = [arch for arch in ARCHS if arch != "qwen3_moe"]
DIRECTION = torch.linspace(-1, 1, 32)
RULED_OUT = (20, 21, 22, 23, 30)


def logits(model: ReasoningModel, *rows: Any) -> torch.Tensor:
    with torch.no_grad(), apply(model, rows):
        return model.hf(torch.tensor([IDS] * len(rows)), use_cache=False).logits


def down(model: ReasoningModel, block: int) -> Any:
    return model.anatomy.down_projection(block)


def by_variant(chains) -> dict[str, list[Chain]]:
    found: dict[str, list[Chain]] = {}
    for chain in chains:
        found.setdefault(chain.variant, []).append(chain)
    return found


@pytest.mark.parametrize("arch", WITH_NEURONS)
def test_what_changes_nothing_is_dense_to_the_bit(arch: str) -> None:
    model = tiny(arch)
    nothing = [
        Suppress(), Steer(1, direction=DIRECTION, strength=0.0),
        Steer(2, direction=DIRECTION, strength=0.0, part="mlp"), Neurons(0, (1, 5), scale=1.0),
    ]  # fmt: skip
    plain, *others = logits(model, dense, *nothing)
    for got in others:
        assert torch.equal(got, plain)


@pytest.mark.parametrize("decoder", ["fast", "generic"])
def test_what_changes_nothing_is_dense_live(decoder: Any) -> None:
    model = tiny(ends=False)
    variants = [
        dense, Suppress(), Steer(1, direction=DIRECTION, strength=0.0), Neurons(0, (1,), scale=1.0),
    ]  # fmt: skip
    chains = model.generate(
        PROMPTS, variants=variants, budget=Budget(20, 4), sampling=LONG, decoder=decoder
    )
    plain, *others = by_variant(chains).values()
    assert len(others) == 3
    for other in others:
        assert all(same_chain(a, b) for a, b in zip(plain, other, strict=True))


@pytest.mark.parametrize("arch", WITH_NEURONS)
def test_all_neurons_ablated_are_the_mlp_ablated(arch: str) -> None:
    model = tiny(arch)
    every = tuple(range(down(model, 1).in_features))
    gone, skipped, plain = logits(model, Neurons(1, every), Skip(1, part="mlp"), dense)
    assert torch.equal(gone, skipped)
    assert (gone - plain).abs().max() > 1e-2


@pytest.mark.parametrize("decoder", ["fast", "generic"])
@pytest.mark.parametrize("arch", WITH_NEURONS)
def test_scaled_neurons_live_are_scaled_columns(arch: str, decoder: Any) -> None:
    """Rows of different neurons in one batch: each is the model with those columns scaled."""
    model = tiny(arch, ends=False)
    cases = [Neurons(1, (3, 7)), Neurons(1, (3,), scale=-1.0), Neurons(2, (40, 0), scale=2.5)]
    chains = by_variant(
        model.generate(
            PROMPTS, variants=[dense, *cases], budget=Budget(20, 4), sampling=LONG, decoder=decoder
        )
    )
    plain = chains.pop("dense")
    assert list(chains) == ["neurons 1 indices=(3, 7)", "neurons 1 indices=(3,) scale=-1.0",
                            "neurons 2 indices=(40, 0) scale=2.5"]  # fmt: skip
    for chain in plain:
        np.testing.assert_allclose(
            chain.logprob, slow_logprobs(model, chain), atol=logit_noise(model), rtol=0
        )
    for case, own in zip(cases, chains.values(), strict=True):
        changed = tiny(arch, ends=False)
        with torch.no_grad():
            down(changed, case.block).weight[:, list(case.indices)] *= case.scale
        for chain, other in zip(own, plain, strict=True):
            want = slow_logprobs(changed, chain)
            np.testing.assert_allclose(chain.logprob, want, atol=logit_noise(model), rtol=0)
            assert not same_chain(chain, other)


@pytest.mark.parametrize("decoder", ["fast", "generic"])
@pytest.mark.parametrize("part", ["block", "attention", "mlp"])
def test_a_direction_is_added_live_as_in_one_slow_pass(part: Any, decoder: Any) -> None:
    model = tiny(ends=False)
    steered = Steer(2, direction=DIRECTION, strength=-3.0, part=part, window=Window(3, 9))
    (chain,) = model.generate(
        PROMPTS[:1], variants=[steered], budget=Budget(20, 4), sampling=LONG, decoder=decoder
    )

    def edit(delta: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(len(delta)) - len(chain.prompt_ids)
        return delta - 3.0 * DIRECTION * ((steps >= 3) & (steps < 9))[:, None]

    want = slow_logprobs(model, chain, {(2, part): edit})
    np.testing.assert_allclose(chain.logprob, want, atol=logit_noise(model), rtol=0)
    assert np.nanmax(np.abs(want - slow_logprobs(model, chain))) > 0.05


@pytest.mark.parametrize("decoder", ["fast", "generic"])
@pytest.mark.parametrize("arch", ["qwen3", "gemma2", "qwen3_moe"])
def test_suppressed_tokens_are_never_chosen(arch: str, decoder: Any) -> None:
    """Gemma 2 caps its logits softly, which would make a finite number of -inf."""
    model = tiny(arch, ends=False)
    chains = by_variant(
        model.generate(
            PROMPTS, variants=[dense, Suppress(RULED_OUT)], budget=Budget(30, 4), samples=3,
            decoder=decoder,
        )
    )  # fmt: skip
    plain, own = chains["dense"], chains["suppress 20 21 22 23 30"]
    assert any(np.isin(c.ids, RULED_OUT).any() for c in plain)
    for chain in own:
        assert not np.isin(chain.ids, RULED_OUT).any()
        ids = [*chain.prompt_ids.tolist(), *chain.ids.tolist()]
        raw = slow_logits(model, ids)
        raw[:, list(RULED_OUT)] = -torch.inf
        logp = raw.log_softmax(-1)[len(chain.prompt_ids) - 1 :]
        want = logp[torch.arange(chain.n_tokens), torch.from_numpy(chain.ids)].numpy()
        got = np.where(chain.forced, want, chain.logprob)
        np.testing.assert_allclose(got, want, atol=logit_noise(model), rtol=0)


def test_the_noise_is_shared_by_what_is_left() -> None:
    """Ruling out what was not drawn changes no token, and otherwise none before it was drawn."""
    model = tiny(ends=False)
    (plain,) = model.generate(PROMPTS[:1], budget=Budget(40, 4))
    drawn = np.unique(plain.ids)
    rest = tuple(int(t) for t in range(6, model.vocab_size) if t not in drawn)
    (same,) = model.generate(PROMPTS[:1], variants=[Suppress(rest)], budget=Budget(40, 4))
    assert np.array_equal(same.ids, plain.ids)
    token = int(plain.ids[12])
    first = int(np.flatnonzero(plain.ids == token)[0])
    (other,) = model.generate(PROMPTS[:1], variants=[Suppress((token,))], budget=Budget(40, 4))
    assert np.array_equal(other.ids[:first], plain.ids[:first]) and other.ids[first] != token


def test_windows_limit_all_three() -> None:
    model = tiny(ends=False)
    every = tuple(range(6, model.vocab_size))
    late = [
        Suppress(every[:-20], window=Window(9)),
        Steer(1, direction=DIRECTION, strength=4.0, window=Window(9)),
        Neurons(2, tuple(range(48)), window=Window(9)),
    ]
    (plain, *others) = model.generate(
        PROMPTS[:1], variants=[dense, *late], budget=Budget(24, 4), sampling=LONG
    )
    for other in others:
        assert same_chain(plain, other, upto=10)
        assert abs(plain.entropy[10] - other.entropy[10]) > 1e-4
    assert not np.isin(others[0].thinking_ids[10:], every[:-20]).any()
    at = AtTokens((int(plain.ids[5]),))
    (watched,) = model.generate(
        PROMPTS[:1], variants=[Suppress(every[:-1], window=at)], budget=Budget(24, 4)
    )
    hits = np.flatnonzero(watched.ids[:23] == plain.ids[5])
    assert len(hits) and set(watched.ids[hits + 1].tolist()) <= {*range(6), every[-1]}
    thinks = Suppress(every[:-1], window=Thinking())
    assert thinks.name == f"suppress {' '.join(map(str, every[:-1]))} Thinking()"


@pytest.mark.parametrize("decoder", ["fast", "generic"])
def test_a_fork_is_the_chain_decoded_from_the_start(decoder: Any) -> None:
    model = tiny(ends=False)
    how: dict[str, Any] = {"sampling": LONG, "decoder": decoder}
    chains = list(model.generate(PROMPTS, budget=Budget(24, 4), **how))
    when = Window(7)
    changes = [
        Suppress(RULED_OUT, window=when), Steer(1, direction=DIRECTION, window=when),
        Neurons(1, (2, 9), scale=-1.0, window=when),
    ]  # fmt: skip
    variants = [Variant(f"v{i}", (one,)) for i, one in enumerate(changes)]
    edits = [Edit(v.name, 0, v, when) for v in variants]
    whole = by_variant(model.generate(PROMPTS, variants=variants, budget=Budget(24, 4), **how))
    found = list(rerun(model, chains, edits, sampling=LONG)) if decoder == "fast" else []
    for e, c, chain in found:
        assert same_chain(chain, whole[f"v{e}"][c])
    forked = [r for chain in chains for r in fork(chain, 8, variants)]
    again = by_variant(decode(model, forked, **how))
    for name, own in whole.items():
        by_problem = {c.problem: c for c in again[name]}
        assert all(np.array_equal(c.ids, by_problem[c.problem].ids) for c in own)
    assert any(not np.array_equal(whole["v0"][i].ids, c.ids) for i, c in enumerate(chains))


def test_rows_of_one_batch_do_not_know_each_other() -> None:
    model = tiny(ends=False)
    variants = [
        dense, Suppress(RULED_OUT), Steer(0, direction=DIRECTION, strength=2.0), Neurons(3, (4,)),
        Variant("all", (Neurons(3, (4, 5), scale=-1.0), Skip(1), Suppress((20,)),
                        Steer(2, direction=DIRECTION, part="mlp"))),
    ]  # fmt: skip
    together = by_variant(model.generate(PROMPTS, variants=variants, budget=Budget(20, 4)))
    for variant in variants:
        alone = model.generate(PROMPTS, variants=[variant], budget=Budget(20, 4))
        for a, b in zip(alone, together[variant.name], strict=True):
            assert same_chain(a, b)


def test_a_forced_token_is_written_all_the_same() -> None:
    model = tiny(ends=False)
    (end,) = model.encode("</think>")
    (chain,) = model.generate(PROMPTS[:1], variants=[Suppress((end,))], budget=Budget(8, 3))
    assert chain.thinking_finish == "forced" and chain.ids[8] == end and chain.forced[8]


def test_steered_and_scaled_chains_replay_as_they_were_decoded() -> None:
    model = tiny(ends=False)
    both = Variant(
        "both", (Steer(1, direction=DIRECTION, window=Window(2)), Neurons(2, (1, 7), scale=-1.0))
    )
    chains = model.generate(PROMPTS, variants=[both], budget=Budget(12, 2), sampling=LONG)
    found = divergence(model, chains, both, dense)
    for chain, logprob in zip(chains, found.quantities["logprob"], strict=True):
        own = ~chain.forced
        np.testing.assert_allclose(logprob[own], chain.logprob[own], atol=logit_noise(model))


def test_mistakes_are_named() -> None:
    model = tiny(n_blocks=2)
    live = {"budget": Budget(4, 2)}
    with pytest.raises(UserError, match=r"block 1 has neurons 0\.\.47"):
        model.generate(PROMPTS[:1], variants=[Neurons(1, (48,))], **live)
    with pytest.raises(UserError, match="none twice"):
        Neurons(1, (1, 1))
    with pytest.raises(UserError, match="expected neurons"):
        Neurons(1)
    with pytest.raises(UserError, match=r"part='mlp': expected one of neurons"):
        Neurons(1, (1,), part="mlp")
    with pytest.raises(UserError, match=r"direction=\.\.\.\) has shape \[3\]: expected \[32\]"):
        model.generate(PROMPTS[:1], variants=[Steer(0, direction=torch.ones(3))], **live)
    with pytest.raises(UserError, match="is missing: expected a tensor"):
        model.generate(PROMPTS[:1], variants=[Steer(0)], **live)
    with pytest.raises(UserError, match="expected token ids"):
        Suppress((-1,))
    with pytest.raises(UserError, match="leave one to choose"):
        model.generate(PROMPTS[:1], variants=[Suppress(tuple(range(model.vocab_size)))], **live)
    with pytest.raises(UserError, match=f"up to id {model.vocab_size}"):
        model.generate(PROMPTS[:1], variants=[Suppress((model.vocab_size,))], **live)
    chains = model.generate(PROMPTS[:1], variants=[Suppress((20,))], **live)
    with pytest.raises(UserError, match="chooses none"):
        divergence(model, chains, Suppress((20,)), dense)
    mixed = ReasoningModel.load(tiny_hf("qwen3_moe", 2), tokenizer(), name="experts")
    with pytest.raises(UserError, match="has one per expert"):
        mixed.generate(PROMPTS[:1], variants=[Neurons(0, (1,))], **live)
    for each in (model, mixed):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in each.hf.modules())
