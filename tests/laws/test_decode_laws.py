"""Laws 1, 2, 5, 6 and 7 of decoding, on every supported architecture, float32."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import pytest
import torch

from interp.chains.chain import Budget
from interp.decoding.generate import decode
from interp.decoding.request import Request, cross
from interp.decoding.sampling import Sampling
from interp.interventions.hooks import apply
from interp.interventions.interventions import Skip, Variant, dense
from interp.interventions.windows import Window
from interp.model.delimiters import Delimiters
from interp.model.reasoning_model import ReasoningModel
from tests.models import ARCHS, tiny
from tests.reference import same_chain, skipped, slow_logprobs
from tests.scripted import scripted
from tests.tolerances import logit_noise

GREEDY = Sampling(temperature=0.0)
LONG = Sampling(top_k=8)  # with ends=False: the ends of thinking and sequence are never drawn
PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7", "what ?"]


def close(model: ReasoningModel, a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, atol=logit_noise(model), rtol=0)


@pytest.mark.parametrize("arch", ARCHS)
def test_greedy_chains_equal_generate(arch: str) -> None:
    """Law 1: nothing ablated is the plain model, token for token and in its log-probabilities."""
    model = tiny(arch, ends=False)
    chains = model.generate(PROMPTS, budget=Budget(40, 6), sampling=GREEDY)
    for chain in chains:
        prompt = torch.from_numpy(chain.prompt_ids)[None]
        with torch.no_grad():
            want = cast("Any", model.hf).generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=chain.n_thinking,
                do_sample=False,
            )[0, prompt.shape[1] :]
        assert chain.n_thinking == 40
        assert chain.thinking_ids.tolist() == want.tolist()
        close(model, chain.logprob, slow_logprobs(model, chain))


@pytest.mark.parametrize("arch", ARCHS)
def test_rows_do_not_know_their_neighbours(arch: str) -> None:
    """Law 2, with law 5's noise: any batch, any order, any number of slots, row by row the same."""
    model = tiny(arch, ends=False)
    variants = (
        dense,
        Variant("no 0", (Skip(0),)),
        Variant("no 2", (Skip(2),)),
        Variant("no 1 late", (Skip(1, window=Window(5, 11)),)),
        Variant("no attention 3", (Skip(3, part="attention"),)),
        Variant("no mlp 0", (Skip(0, part="mlp"),)),
    )
    requests = cross(model, PROMPTS[:2], variants=variants, budgets=Budget(14, 3))
    together = {(c.problem, c.variant): c for c in decode(model, requests)}
    for slots, order in ((1, 1), (5, -1)):
        few = requests[:: 3 if slots == 1 else order]
        for chain in decode(model, few, slots=slots):
            assert same_chain(chain, together[chain.problem, chain.variant])
    for chain in together.values():  # and each is what one slow pass says
        edits = {
            "dense": {},
            "no 0": {(0, "block"): skipped(chain)},
            "no 2": {(2, "block"): skipped(chain)},
            "no 1 late": {(1, "block"): skipped(chain, 5, 11)},
            "no attention 3": {(3, "attention"): skipped(chain)},
            "no mlp 0": {(0, "mlp"): skipped(chain)},
        }[chain.variant]
        close(model, chain.logprob, slow_logprobs(model, chain, edits))


@pytest.mark.parametrize("arch", ["qwen3", "gemma3", "mistral"])
def test_skip_is_removal(arch: str) -> None:
    """Law 1: a live skip has the log-probabilities of the model with the block taken out."""
    for gone in (0, 2, 3):
        model = tiny(arch, ends=False)
        chains = model.generate(PROMPTS, variants=[Variant("x", (Skip(gone),))], budget=Budget(20))
        inner: Any = model.anatomy.base
        del inner.layers[gone]
        model.hf.config.num_hidden_layers -= 1
        if getattr(model.hf.config, "layer_types", None):
            types = list(model.hf.config.layer_types)
            del types[gone]
            model.hf.config.layer_types = types
        for chain in chains:
            close(model, chain.logprob, slow_logprobs(model, chain))


@pytest.mark.parametrize("arch", ARCHS)
def test_windows_leave_the_past_alone(arch: str) -> None:
    """An ablation that starts at step t equals the plain model before t, and differs after."""
    model = tiny(arch, ends=False)
    t = 9
    for block in (0, 3):
        late = Variant("late", (Skip(block, window=Window(t)),))
        plain, cut = model.generate(
            PROMPTS[:1], variants=[dense, late], budget=Budget(16, 4), sampling=LONG
        )
        assert same_chain(plain, cut, upto=t + 1)
        assert abs(plain.entropy[t + 1] - cut.entropy[t + 1]) > 1e-4
        close(model, cut.logprob, slow_logprobs(model, cut, {(block, "block"): skipped(cut, t)}))
        ends = Variant("prompt only", (Skip(block, window=Window.prefill_only()),))
        (chain,) = model.generate(PROMPTS[:1], variants=[ends], budget=Budget(12, 4))
        close(
            model,
            chain.logprob,
            slow_logprobs(model, chain, {(block, "block"): skipped(chain, -1, 0)}),
        )


@pytest.mark.parametrize(("ends", "seed"), [(False, 0), (True, 0), (True, 2)])
def test_budgets_nest(ends: bool, seed: int) -> None:
    """Law 7: decoding once and forking answers is decoding each, with waits and answer caps."""
    model = tiny(seed=seed, ends=ends)
    budgets = (
        Budget(4, 3), Budget(8, 9), Budget(8, 2), Budget(70, 6),
        Budget(16, 5, waits=1), Budget(70, 3, waits=2), Budget(71, 7, waits=3),
    )  # fmt: skip
    requests = cross(
        model, PROMPTS, budgets=budgets, samples=2, variants=[dense, Variant("no 1", (Skip(1),))]
    )
    once = list(decode(model, requests, slots=7))
    assert len(once) == len(requests) * len(budgets)
    found = {(c.problem, c.variant, c.sample, c.budget): c for c in once}
    assert len(found) == len(once)
    apart = [dataclasses.replace(r, budgets=(b,)) for r in requests for b in budgets]
    kinds = set()
    for budget in budgets:
        for chain in decode(model, [r for r in apart if r.budgets == (budget,)]):
            other = found[chain.problem, chain.variant, chain.sample, chain.budget]
            assert same_chain(chain, other)
            for name in ("finish", "thinking_finish", "thinking", "answer", "waits"):
                assert getattr(chain, name) == getattr(other, name), name
            kinds.add((chain.finish, chain.thinking_finish, chain.waits))
    if ends:
        assert {k[1] for k in kinds} == {"end", "forced"}
        assert {k[2] for k in kinds} >= {0, 1}
    # the chain at a small budget is a prefix of the chain at a larger one
    for r in requests:
        long = found[r.problem, r.variant.name, r.sample, Budget(70, 6)]
        for b in budgets[:4]:
            short = found[r.problem, r.variant.name, r.sample, b]
            n = min(b.thinking, long.n_thinking)
            assert short.thinking_ids.tolist() == long.thinking_ids[:n].tolist()


@pytest.mark.parametrize("waits", [0, 1])
@pytest.mark.parametrize("plain", [False, True])
def test_budgets_around_a_natural_end(plain: bool, waits: int) -> None:
    """Law 7 where an end of one or several tokens straddles the budget: one closing, never two."""
    use, make, to, eos = 8, 10, 9, 3
    words = (
        Delimiters.plain("is the", "wait") if plain else Delimiters("use", "to make", "", "wait")
    )
    said = {5: eos, 9: eos, 20: eos} if plain else {5: to, 6: make, 9: to, 10: make, 20: eos}
    prompt = (2, 6, 33, 37, 51, 3, 2, 7, use)
    model = scripted(said, len(prompt), words)
    budgets = tuple(Budget(n, 4, waits) for n in range(3, 16))
    once = {
        c.budget: c for c in decode(model, [Request("p", prompt, budgets=budgets)], sampling=LONG)
    }
    ends = []
    for budget in budgets:
        (alone,) = decode(model, [Request("p", prompt, budgets=(budget,))], sampling=LONG)
        chain = once[budget]
        assert same_chain(chain, alone) and chain.thinking_finish == alone.thinking_finish
        assert chain.waits == alone.waits and chain.thinking == alone.thinking
        ids = chain.ids.tolist()
        if not plain:
            assert chain.answer is not None
            before = ids[: chain.answer.start]
            assert sum(before[i : i + 2] == [to, make] for i in range(len(before))) == 1
        ends.append((chain.thinking_finish, chain.waits, tuple(ids)))
    last = ends[-1]
    assert last[0] == "end" and last[1] == waits
    past = next(i for i, end in enumerate(ends) if end[:2] == last[:2])
    assert {end[:2] for end in ends[:past]} <= {("forced", 0), ("forced", 1), ("end", 0)}
    assert all(end == last for end in ends[past:])  # identical once past the end


def test_same_seed_same_chains_other_sample_other_noise() -> None:
    """Law 5; and variants of one sample share their noise."""
    model = tiny(ends=False)
    same = Variant("same", (Skip(1, window=Window(500)),))  # never in force
    kwargs = {"budget": Budget(20, 4), "samples": 3, "variants": [dense, same]}
    first = model.generate(PROMPTS, seed=5, **kwargs)
    again = model.generate(PROMPTS[::-1], seed=5, problem_ids=["2", "1", "0"], **kwargs)
    twin = {(c.problem, c.variant, c.sample): c for c in again}
    chains = {}
    for c in first:
        assert same_chain(c, twin[c.problem, c.variant, c.sample])
        chains[c.problem, c.variant, c.sample] = c
    for p in ("0", "1", "2"):
        assert len({tuple(chains[p, "dense", s].ids) for s in range(3)}) == 3
        for s in range(3):
            assert same_chain(chains[p, "dense", s], chains[p, "same", s])
    other = model.generate(PROMPTS, seed=6, **kwargs)
    assert all(a.ids.tolist() != b.ids.tolist() for a, b in zip(first, other, strict=True))


def test_hooks_are_gone_after_an_exception() -> None:
    """Law 6: whatever stops decoding, the model is as it was."""
    model = tiny(ends=False)
    before = {k: v.clone() for k, v in model.hf.state_dict().items()}
    variants = [dense, Variant("no 0", (Skip(0),)), Variant("no 2", (Skip(2, part="mlp"),))]

    def untouched() -> None:
        for module in model.hf.modules():
            assert not module._forward_hooks and not module._forward_pre_hooks
            assert "forward" not in module.__dict__
        assert model.hf.config._attn_implementation == "sdpa"
        for key, value in model.hf.state_dict().items():
            assert torch.equal(value, before[key])

    def stumble(*_: int) -> None:
        raise KeyboardInterrupt

    requests = cross(model, PROMPTS, variants=variants, budgets=Budget(20, 4))
    with pytest.raises(KeyboardInterrupt):
        list(decode(model, requests, progress=stumble))
    untouched()
    chains = decode(model, requests, slots=3)
    next(chains)
    untouched()  # while the generator is suspended, too
    chains.close()
    untouched()
    handle = model.blocks[3].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(decode(model, requests))
    handle.remove()
    untouched()
    with pytest.raises(ZeroDivisionError), apply(model, variants):
        raise ZeroDivisionError
    untouched()
    list(decode(model, requests[1:2]))  # one row that skips block 0 for good: it is bypassed
    untouched()
