"""The decoder's own behaviour: ends, spans, budgets, limits, slots, loops, errors, ways through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.chains.chain import Budget, Chain
from interp.chains.periods import certain_period
from interp.decoding.block_backend import candidates
from interp.decoding.generate import decode
from interp.decoding.request import Request, cross
from interp.decoding.sampling import Sampling
from interp.errors import NonFiniteError, UserError
from interp.interventions.interventions import Skip, Variant, dense
from interp.interventions.patches import Patch
from interp.kernels import library
from interp.model.delimiters import Delimiters
from interp.model.reasoning_model import ReasoningModel
from tests.backends import use
from tests.models import tiny, tiny_hf, tokenizer
from tests.reference import look_every, same_chain
from tests.scripted import scripted

END, EOS = 5, 3
PROMPTS = ["use 3 7 to make 21", "compute 3 + 4", "what ?"]


PROMPT = (2, 6, 8, 33, 37, 9, 10, 51, 3, 2, 7, 4)


def one(
    model: ReasoningModel,
    budget: Budget | list[Budget],
    prompt: tuple[int, ...] = PROMPT,
    stop_on_loop: bool = False,
) -> list[Chain]:
    budgets = (budget,) if isinstance(budget, Budget) else tuple(budget)
    request = Request("p", prompt, budgets=budgets)
    chains = decode(model, [request], sampling=Sampling(top_k=8), stop_on_loop=stop_on_loop)
    found = {c.budget: c for c in chains}
    return [found[b] for b in budgets]


def test_a_natural_end_and_a_stop() -> None:
    model = scripted({6: END, 9: EOS}, len(PROMPT))
    (c,) = one(model, Budget(20, 10))
    assert (c.finish, c.thinking_finish, c.n_tokens) == ("stop", "end", 10)
    assert (c.thinking.start, c.thinking.stop) == (0, 6)
    assert c.answer is not None and (c.answer.start, c.answer.stop) == (7, 9)
    assert c.ids[6] == END and c.ids[9] == EOS and not c.forced.any()
    assert np.isfinite(c.logprob).all() and np.isfinite(c.entropy).all()


def test_forced_ends_at_every_budget_and_answer_caps() -> None:
    model = scripted({6: END, 9: EOS}, len(PROMPT))
    four, six, seven, short = one(model, [Budget(4, 5), Budget(6, 5), Budget(7, 5), Budget(7, 2)])
    assert four.thinking_finish == six.thinking_finish == "forced"
    assert seven.thinking_finish == short.thinking_finish == "end"
    assert four.ids[4] == END and four.forced.tolist() == [False] * 4 + [True] + [False] * 5
    assert np.isnan(four.logprob[4]) and np.isfinite(four.logprob[[3, 5]]).all()
    assert (four.finish, four.n_answer) == ("stop", 4) and four.n_tokens == 10
    assert six.forced[6] and six.finish == "stop" and six.n_answer == 2
    assert seven.finish == "stop" and not seven.forced.any()
    assert short.finish == "cut" and short.n_answer == 2 and short.n_tokens == 9


def test_wait_extends_what_remains() -> None:
    model = scripted({6: END, 12: END, 16: EOS}, len(PROMPT))
    wait = model.encode("wait")[0]
    none, once, twice, short = one(
        model, [Budget(30, 4), Budget(30, 4, 1), Budget(30, 4, 2), Budget(7, 4, 1)]
    )
    assert (none.waits, none.n_thinking) == (0, 6)
    assert (once.waits, once.n_thinking, once.thinking_finish) == (1, 12, "end")
    assert once.ids[6] == wait and once.forced.sum() == 1 and once.finish == "stop"
    assert twice.waits == 2 and twice.ids[12] == wait and twice.forced.sum() == 2
    assert (short.waits, short.thinking_finish) == (0, "end")  # no room for a word after "wait"


def test_the_end_of_the_sequence_inside_thinking() -> None:
    model = scripted({5: EOS}, len(PROMPT))
    small, large = one(model, [Budget(4, 3), Budget(20, 3)])
    assert large.answer is None and large.finish == "stop" and large.n_tokens == 6
    assert large.n_answer == 0 and large.answer_ids.size == 0
    assert small.thinking_finish == "forced" and small.answer is not None


def test_delimiters_of_several_tokens_and_an_answer_prefix() -> None:
    hf = tiny_hf(ends=False)
    words = Delimiters("use", "to make", answer_prefix="is the", wait="no yes")
    prompt = tuple(40 if i in (9, 10) else i for i in PROMPT)  # its thinking is not closed
    model = ReasoningModel.load(hf, tokenizer(), delimiters=words)
    to, make = model.encode("to make")
    (c,) = one(model, Budget(5, 3), prompt)
    assert c.ids[5:9].tolist() == [to, make, *model.encode("is the")]
    assert c.forced.tolist() == [False] * 5 + [True] * 4 + [False] * 3
    said = scripted({2: to, 4: to, 5: make, 8: EOS}, len(PROMPT))
    model = ReasoningModel.load(said.hf, tokenizer(), delimiters=words)
    five, six, waits = one(model, [Budget(5, 9), Budget(6, 9), Budget(20, 9, 1)], prompt)
    assert (five.thinking_finish, five.n_thinking) == ("forced", 5)
    assert (six.thinking_finish, six.n_thinking) == ("end", 4)
    assert six.answer is not None and (six.answer.start, six.answer.stop) == (6, 8)
    assert waits.waits == 1 and waits.ids[4:6].tolist() == list(model.delimiter_ids.wait)


def test_prompts_without_thinking() -> None:
    model = tiny(ends=False)
    (c,) = model.generate(PROMPTS[:1], budget=Budget(9, 5), thinking=False)
    assert (c.thinking_finish, c.n_thinking) == ("none", 0)
    assert c.answer is not None and (c.answer.start, c.answer.stop) == (0, 5) and c.finish == "cut"


def test_positions_run_out() -> None:
    model = tiny(ends=False, max_position_embeddings=30)
    room = 30 - len(PROMPT)
    a, b, c = one(model, [Budget(100, 5), Budget(room, 5), Budget(room - 4, 9)])
    assert a.finish == "positions" and a.answer is None and a.n_tokens == room
    assert b.finish == "positions" and b.answer is None
    assert c.finish == "positions" and c.n_answer == 3 and c.n_tokens == room
    with pytest.raises(UserError, match="30 positions"):
        list(decode(model, [Request("p", tuple(PROMPT) * 3)]))


@pytest.mark.parametrize("slots", [1, 2, 5, 64])
def test_slots_change_nothing(slots: int) -> None:
    model = tiny()
    variants = [dense, Variant("a", (Skip(0),)), Variant("b", (Skip(2), Skip(3)))]
    requests = cross(
        model, PROMPTS, variants=variants, samples=3, budgets=[Budget(9, 3), Budget(25, 4, 1)]
    )
    want = {(c.problem, c.variant, c.sample, c.budget): c for c in decode(model, requests)}
    got = list(decode(model, requests, slots=slots))
    assert len(got) == len(want) == 54
    for c in got:
        assert same_chain(c, want[c.problem, c.variant, c.sample, c.budget])


@pytest.mark.parametrize("stride", [3, 8])
def test_looking_seldom_changes_nothing(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does, looking only every few passes, gives the chains of looking at each."""
    model = tiny()
    budgets = [Budget(9, 3), Budget(25, 4, 1)]
    requests = cross(model, PROMPTS, samples=4, budgets=budgets)
    want = {(c.problem, c.sample, c.budget): c for c in decode(model, requests)}
    look_every(monkeypatch, stride)
    for c in decode(model, requests, slots=5):
        other = want[c.problem, c.sample, c.budget]
        assert same_chain(c, other) and (c.finish, c.waits) == (other.finish, other.waits)


def test_prompts_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples and windowed variants of one prompt share its prefill; others have their own."""
    from interp.decoding.model_runner import ModelRunner

    model = tiny(ends=False)
    read: list[int] = []
    plain = ModelRunner.prefill

    def counting(self, requests, variants, width):
        read.append(len(requests))
        return plain(self, requests, variants, width)

    monkeypatch.setattr(ModelRunner, "prefill", counting)
    from interp.interventions.windows import Window

    variants = [dense, Variant("late", (Skip(0, window=Window(3)),)), Variant("x", (Skip(1),))]
    requests = cross(model, PROMPTS, variants=variants, samples=4, budgets=Budget(6, 2))
    assert len(list(decode(model, requests, slots=3))) == 36
    assert sum(read) == 3 * 2


def test_order_of_generate_and_progress() -> None:
    model = tiny()
    seen: list[tuple[int, int, int]] = []
    chains = model.generate(
        PROMPTS, variants=[dense, Variant("x", (Skip(1),))], samples=2,
        budget=[Budget(4, 2), Budget(8, 2)], problem_ids=["b", "a", "c"],
        progress=lambda *a: seen.append(a),
    )  # fmt: skip
    keys = [(c.problem, c.variant, c.sample, c.budget.thinking) for c in chains]
    want = [
        (p, v, s, b)
        for p in ("b", "a", "c")
        for v in ("dense", "x")
        for s in (0, 1)
        for b in (4, 8)
    ]
    assert keys == want
    assert seen[-1][1:] == (24, 24) and seen[-1][0] > 0
    assert list(chains.to_frame()["problem"].unique()) == ["b", "a", "c"]


def test_loops_are_ended_and_recorded() -> None:
    period = {i: 30 + i % 3 for i in range(200)}
    model = scripted(period, len(PROMPT))
    small, large = one(model, [Budget(40, 4), Budget(200, 4)], stop_on_loop=True)
    assert small.thinking_finish == "forced" and small.n_thinking == 40
    assert large.thinking_finish == "looped" and large.n_thinking == 64
    (plain,) = one(model, Budget(150, 4))
    assert plain.thinking_finish == "forced" and plain.n_thinking == 150
    answer = scripted({2: END} | {i: 30 + i % 3 for i in range(3, 200)}, len(PROMPT))
    (c,) = one(answer, Budget(20, 180), stop_on_loop=True)
    assert c.finish == "looped" and 64 <= c.n_answer <= 128


@given(st.lists(st.integers(0, 2), max_size=150), st.integers(1, 12), st.integers(0, 20))
def test_tail_period_against_its_definition(head: list[int], period: int, times: int) -> None:
    ids = np.array(head + [i % period for i in range(period * times)])
    want = None
    for p in range(1, len(ids) // 4 + 1):
        run = p
        while run < len(ids) and ids[-1 - run] == ids[-1 - run + p]:
            run += 1
        if run >= max(64, 4 * p):
            want = p
            break
    assert certain_period(ids) == want


def test_a_broken_logit_names_its_place_and_keeps_what_is_done() -> None:
    model = tiny(ends=False)
    bad = Variant("broken", (Patch(1, stream=torch.full((3, 32), float("nan")), first=6),))
    good = Request("p", PROMPT, budgets=(Budget(3, 1),))
    broken = Request("q", PROMPT, variant=bad, budgets=(Budget(20, 2),))
    chains = decode(model, [good, broken])
    assert next(chains).problem == "p"
    with pytest.raises(NonFiniteError, match=r"variant 'broken', problem 'q', sample 0, step 7"):
        next(chains)
    assert not any(m._forward_hooks for m in model.hf.modules())


def test_mistakes_are_named_before_anything_runs() -> None:
    model = tiny()

    def fails(match: str, *requests: Request, **kwargs) -> None:
        with pytest.raises(UserError, match=match):
            list(decode(model, requests, **kwargs))

    a = Request("p", PROMPT)
    fails("Asked twice", a, a)
    fails("named 'x'", Request("p", PROMPT, Variant("x", (Skip(0),))),
          Request("q", PROMPT, Variant("x", (Skip(1),))))  # fmt: skip
    fails("another tokenizer", Request("p", (1, 10_000)))
    fails("slots=0", a, slots=0)
    fails("Block 7 is not there", Request("p", PROMPT, Variant("x", (Skip(7),))))
    fails("while decoding", Request("p", PROMPT, Variant("x", (Patch(0, row=0),))))
    bad: dict[str, Any]
    for bad in ({"samples": 0}, {"problem_ids": ["a"]}, {"problem_ids": ["a", "a", "b"]}):
        with pytest.raises(UserError):
            cross(model, PROMPTS, **bad)
    for prompts in ([], "one string"):
        with pytest.raises(UserError):
            cross(model, prompts)
    with pytest.raises(UserError, match="names a budget twice"):
        Request("p", PROMPT, budgets=(Budget(), Budget()))
    with pytest.raises(UserError, match="empty prompt"):
        Request("p", ())
    silent = ReasoningModel.load(
        tiny_hf(), tokenizer(), delimiters=Delimiters("<think>", "</think>", wait="")
    )
    with pytest.raises(UserError, match="wait"):
        list(decode(silent, [Request("p", PROMPT, budgets=(Budget(8, 2, waits=1),))]))


@pytest.mark.parametrize("arch", ["qwen2", "qwen3", "llama", "mistral", "gemma3", "phi3", "olmo2"])
def test_every_way_through_the_blocks_gives_the_same_chains(
    arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fused blocks of every build, attention in the model's own blocks, and plain torch."""
    heads = {"head_dim": 16} if arch in ("qwen3", "mistral", "gemma3") else {}
    shape = {"hidden_size": 64, **heads} if arch in ("llama", "phi3", "olmo2") else heads
    model = tiny(arch, ends=False, **shape)
    variants = [dense, Variant("x", (Skip(1), Skip(2, part="mlp")))]
    requests = cross(model, PROMPTS, variants=variants, budgets=Budget(20, 4))

    def run() -> dict:
        return {(c.problem, c.variant): c for c in decode(model, requests)}

    use(monkeypatch)
    plain = run()
    for way in candidates(model)[:-1]:
        use(monkeypatch, way)
        for key, chain in run().items():
            assert same_chain(chain, plain[key]), way.name


@pytest.mark.skipif(library.kernels() is None, reason="no C compiler here")
def test_the_fused_way_is_taken_and_hooks_are_respected() -> None:
    from interp.decoding.fused_blocks import fuse, fused
    from interp.model.kv_cache import RowCache

    model = tiny("qwen3")
    short = fuse(model, RowCache(4, 8, 16))
    assert sorted(short) == [0, 1, 2, 3]
    mlp: Any = model.anatomy.mlp[2]
    handle = mlp.register_forward_hook(lambda *_: None)
    with fused(model, short):
        taken = ["forward" in b.__dict__ for b in model.blocks]
    handle.remove()
    assert taken == [True, True, False, True]
    assert not any("forward" in b.__dict__ for b in model.blocks)
    for arch in ("gemma2", "gemma3", "olmo2", "phi3", "qwen3_moe"):
        assert fuse(tiny(arch), RowCache(4, 8, 16)) == {}


def test_kernels_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNESCOPE_KERNELS", "0")
    assert library.kernels.__wrapped__() is None
    monkeypatch.setenv("PRUNESCOPE_KERNELS", "off")
    with pytest.raises(UserError, match=r"expected 0 .* auto"):
        library.kernels.__wrapped__()
