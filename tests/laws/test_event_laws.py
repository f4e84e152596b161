"""Windows at events, forks and stop strings: decoding does what one slow pass over the chain says.

The slow pass knows the finished chain; the decoder, only what was there so far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.chains.chain import Budget, Chain
from interp.chains.periods import LOOP_CHECK, certain_period
from interp.decoding.generate import decode
from interp.decoding.model_runner import ModelRunner
from interp.decoding.request import cross, fork
from interp.decoding.row_events import LOOP_EVERY
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.hooks import apply
from interp.interventions.interventions import MeanDelta, Skip, Variant, dense
from interp.interventions.patches import Patch
from interp.interventions.windows import AfterLoop, Answer, AtTokens, Thinking, When, Window
from interp.model.reasoning_model import ReasoningModel
from tests.models import ARCHS, tiny, tiny_hf, tokenizer
from tests.reference import Edit, look_every, skipped, slow_logprobs
from tests.tolerances import logit_noise

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7"]
GREEDY = Sampling(temperature=0.0)
LONG = Sampling(top_k=8)


def close(model: ReasoningModel, a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, atol=logit_noise(model), rtol=0)


def gone_where(chain: Chain, steps: np.ndarray) -> Edit:
    """A delta set to zero at these steps (a boolean a generated token)."""

    def edit(delta: torch.Tensor) -> torch.Tensor:
        mask = np.zeros(delta.shape[0], dtype=bool)
        mask[len(chain.prompt_ids) :] = steps
        return torch.where(torch.from_numpy(mask)[:, None], 0.0, delta)

    return edit


def reading(chain: Chain, tokens: set[int], after: int = 0) -> np.ndarray:
    hits = [int(t) in tokens for t in chain.ids]
    return np.array([any(hits[max(0, s - after) : s + 1]) for s in range(len(hits))])


def answering(chain: Chain) -> np.ndarray:
    """The passes that choose the answer's tokens read from one token before it on."""
    out = np.zeros(chain.n_tokens, dtype=bool)
    if chain.answer is not None:
        out[max(chain.answer.start - 1, 0) :] = True
    return out


def looping(chain: Chain) -> np.ndarray:
    """From `LOOP_CHECK` steps after the look that finds a loop, a look every `LOOP_CHECK`."""
    out = np.zeros(chain.n_tokens, dtype=bool)
    spans = [chain.thinking, chain.answer]
    for span in (s for s in spans if s is not None):
        for n in range(LOOP_CHECK, len(span) + 1, LOOP_CHECK):
            if certain_period(chain.ids[span.start : span.start + n]) is not None:
                out[span.start + n - 1 + LOOP_CHECK :] = True
                return out
    return out


@pytest.mark.parametrize("stride", [1, 8])
@pytest.mark.parametrize("arch", ARCHS)
def test_windows_at_events(arch: str, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    look_every(monkeypatch, stride)
    model = tiny(arch)
    some = set(range(10, 20))
    cases: dict[str, tuple[When, Callable[[Chain], np.ndarray]]] = {
        "at tokens": (AtTokens(tuple(some)), lambda c: reading(c, some)),
        "and after": (AtTokens((12, 13), after=4), lambda c: reading(c, {12, 13}, 4)),
        "answer": (Answer(), answering),
        "thinking": (Thinking(), lambda c: ~answering(c)),
        "both": (Thinking() & Window(3, 9), lambda c: ~answering(c) & at(c, 3, 9)),
        "not": (~Answer() & Window(0), lambda c: ~answering(c)),
    }

    def at(chain: Chain, start: int, stop: int) -> np.ndarray:
        steps = np.arange(chain.n_tokens)
        return (steps >= start) & (steps < stop)

    variants = [Variant(name, (Skip(1, window=when),)) for name, (when, _) in cases.items()]
    budgets = [Budget(8, 4), Budget(30, 12, waits=1)]
    chains = list(
        decode(model, cross(model, PROMPTS[:1], variants=variants, budgets=budgets), slots=7)
    )
    assert len(chains) == 1 * len(variants) * len(budgets)
    for chain in chains:
        edits = {(1, "block"): gone_where(chain, cases[chain.variant][1](chain))}
        close(model, chain.logprob, slow_logprobs(model, chain, edits))


def cyclic(seed: int) -> ReasoningModel:
    """A model that goes round in circles of seven words: each token's head is its predecessor."""
    hf = tiny_hf("qwen3", seed=seed, ends=False)
    with torch.no_grad():
        words = torch.arange(10, 45)
        before = words.view(5, 7).roll(1, dims=1).flatten()
        hf.model.embed_tokens.weight *= 30
        hf.lm_head.weight[words] = hf.model.embed_tokens.weight[before]
    return ReasoningModel.load(hf, tokenizer())


def test_what_else_is_watched_does_not_move_the_end_of_a_loop() -> None:
    """A row is looked at for loops every 64 tokens, whatever its variant and stop strings watch."""
    model = cyclic(0)
    watching = Variant("watching", (Skip(0, window=AfterLoop(), part="mlp"),))
    ends = []
    for variant, stop in ((dense, ()), (watching, ()), (dense, "w1 w2 never"), (dense, "a")):
        requests = cross(model, PROMPTS, variants=[variant], budgets=Budget(400, 200))
        chains = list(decode(model, requests, sampling=GREEDY, stop_on_loop=True, stop=stop))
        looped = [c for c in chains if c.thinking_finish == "looped"]
        assert looped, "these greedy chains loop; else nothing was tested"
        ends.append({c.problem: c.thinking.stop for c in looped})
        assert all(n % LOOP_EVERY == 0 for n in ends[-1].values())
    assert ends[0] == ends[2], "stop strings change nothing of the thinking"


@pytest.mark.parametrize("stride", [1, 8])
def test_a_window_after_a_loop(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In thinking and in an answer; a smaller budget does not know of a later loop."""
    look_every(monkeypatch, stride)
    looped = 0
    for seed in range(2):
        model = cyclic(seed)
        broken = Variant("x", (Skip(0, window=AfterLoop(), part="mlp"),))
        budgets = [Budget(20, 100), Budget(90, 5), Budget(140, 20)]
        requests = cross(model, PROMPTS, variants=[broken], budgets=budgets)
        for chain in decode(model, requests, sampling=GREEDY, slots=3):
            steps = looping(chain)
            looped += steps.any()
            edits = {(0, "mlp"): gone_where(chain, steps)}
            close(model, chain.logprob, slow_logprobs(model, chain, edits))
    assert looped >= 6, "these greedy chains loop; else nothing was tested"


@pytest.mark.parametrize("arch", ARCHS)
def test_a_fork_of_its_own_variant_is_the_chain(arch: str) -> None:
    """And with a block gone from step t on, it is that window's chain; all steps count."""
    model = tiny(arch, ends=False)
    late = Variant("late", (Skip(2, window=Window(7)),))
    gone = Variant("gone", (Skip(2),))
    words = Variant("words", (Skip(1, window=AtTokens(tuple(range(6, 30)), after=2)),))
    variants = [dense, late, gone, words]
    prompt = PROMPTS[ARCHS.index(arch) % 2 :][:1]
    whole = model.generate(prompt, variants=variants, budget=Budget(12, 4), sampling=LONG)
    for variant, chain in zip(variants, whole, strict=True):
        for at in (0, 1, 7):
            (again,) = decode(model, fork(chain, at, [variant]), sampling=LONG)
            assert again.ids.tolist() == chain.ids.tolist()
            assert again.forced[:at].all() and not again.forced[at:12].any()
            assert np.isnan(again.logprob[:at]).all()
            close(model, again.logprob[at:], chain.logprob[at:])
            assert (again.thinking, again.answer) == (chain.thinking, chain.answer)
    # all of its thinking is given: a larger budget goes on
    longer = [
        fork(c, 12, [v], budgets=Budget(17, 4))[0] for v, c in zip(variants, whole, strict=True)
    ]
    for more in decode(model, longer, sampling=LONG):
        chain = next(c for c in whole if c.variant == more.variant)
        assert more.ids[:12].tolist() == chain.ids[:12].tolist()
        assert len(more.thinking) == 17, "thinking that an answer opens again aside"
        close(model, more.logprob[12:], slow_logprobs_of(model, more)[12:])


def slow_logprobs_of(model, chain: Chain) -> np.ndarray:
    edits = {
        "dense": {},
        "late": {(2, "block"): skipped(chain, 7)},
        "gone": {(2, "block"): skipped(chain)},
        "words": {(1, "block"): gone_where(chain, reading(chain, set(range(6, 30)), 2))},
    }[chain.variant]
    return slow_logprobs(model, chain, edits)


def test_forks_side_by_side_share_what_they_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(ends=False)
    (chain,) = model.generate(PROMPTS[:1], budget=Budget(20, 4), sampling=LONG)
    read = []
    plain = ModelRunner.prefill
    monkeypatch.setattr(
        ModelRunner, "prefill", lambda self, r, *a: (read.append(len(r)), plain(self, r, *a))[1]
    )
    variants = [dense, *(Variant(f"no {b}", (Skip(b, window=Window(10)),)) for b in range(4))]
    chains = list(decode(model, fork(chain, 10, variants), sampling=LONG))
    assert read == [1]
    by_name = {c.variant: c for c in chains}
    assert by_name["dense"].ids.tolist() == chain.ids.tolist()
    for block in range(4):  # the first token after the fork is chosen by a pass before the window
        assert by_name[f"no {block}"].ids[:11].tolist() == chain.ids[:11].tolist()
        assert abs(by_name[f"no {block}"].entropy[11] - chain.entropy[11]) > 1e-6


def test_forks_that_cannot_be() -> None:
    model = tiny()
    (chain,) = model.generate(PROMPTS[:1], budget=Budget(8, 4))
    with pytest.raises(UserError, match="expected a position in its thinking"):
        fork(chain, chain.n_thinking + 1)
    full = fork(chain, chain.n_thinking, budgets=Budget(max(chain.n_thinking, 1), 3))
    with pytest.raises(UserError, match="leaves nothing of the budget"):
        list(decode(model, full))
    dense_at_answer = Variant("x", (Skip(0, window=Answer()),))
    end = model.delimiter_ids.think_end[0]
    closed = fork(chain, 0)[0]
    with pytest.raises(UserError, match="thinking ends before the fork"):
        list(decode(model, [replace(closed, prefix=(10, end))]))
    with pytest.raises(UserError, match="not known here"), apply(model, dense_at_answer):
        model.hf(torch.tensor([[6, 7]]))


def test_patch_from_stored_chains() -> None:
    """Each row takes the deltas of its own chain; others keep theirs; a short stream ends."""
    model = tiny(ends=False)
    a, b = model.generate(PROMPTS, budget=Budget(12, 2), sampling=LONG, problem_ids=["a", "b"])
    g = torch.Generator().manual_seed(3)
    streams = [torch.randn(5, 32, generator=g), torch.randn(8, 32, generator=g)]
    given = [torch.cat([torch.full((1, 32), 99.0), one]) for one in streams]  # row 0 is not used
    patch = Variant("patch", (Patch.chains(1, [a, b], given, part="mlp"),))
    chains = model.generate(
        [*PROMPTS, "what ?"], variants=[patch], budget=Budget(12, 2), sampling=LONG,
        problem_ids=["a", "b", "c"],
    )  # fmt: skip
    for chain, stream in zip(chains, [*streams, torch.zeros(0, 32)], strict=True):
        prompt = len(chain.prompt_ids)

        def edit(delta, stream=stream, prompt=prompt):
            new = delta.clone()
            n = min(len(stream), len(delta) - prompt)
            new[prompt : prompt + n] = stream[:n]
            return new

        close(model, chain.logprob, slow_logprobs(model, chain, {(1, "mlp"): edit}))
    with pytest.raises(UserError, match="one each"):
        Patch.chains(1, [a, b], given[:1])
    with pytest.raises(UserError, match="two chains"):
        Patch.chains(1, [a, a], given)
    with pytest.raises(UserError, match=f"1 to {a.n_tokens} rows, one per generated token"):
        Patch.chains(1, [a], [torch.zeros(a.n_tokens + 1, 32)])
    with pytest.raises(UserError, match="needs keys"):
        Patch(1, stream=torch.zeros(2, 3, 32))


def test_tensors_of_an_intervention_are_moved_once() -> None:
    model = tiny(ends=False)
    mean = torch.randn(32, dtype=torch.float64)
    chains = model.generate(
        PROMPTS[:1], variants=[Variant("m", (MeanDelta(1, mean=mean),))], budget=Budget(6, 2)
    )
    edit = {(1, "block"): lambda delta: mean.float().expand_as(delta)}
    close(model, chains[0].logprob, slow_logprobs(model, chains[0], edit))
    assert mean.dtype == torch.float64
