"""One model in several threads: the chains and logits of one thread, and no wait without an end."""

from __future__ import annotations

import copy
import gc
import io
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import interp.model.holding as under_test
from interp.activations.capture import capture
from interp.activations.reducers import BlockInfluence
from interp.chains.chain import Budget
from interp.decoding.generate import decode
from interp.decoding.request import cross
from interp.decoding.sampling import Sampling
from interp.errors import PruneScopeError
from interp.interventions.hooks import apply
from interp.interventions.interventions import Skip, Variant, dense
from interp.interventions.windows import Window
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.replay.block_sweep import sweep
from interp.replay.teacher_forced import replay
from tests.models import tiny

QUESTIONS = ["use 3 7 to make 21", "compute 3 + 4 x 2", "what ?"]
SOME = Sampling(top_k=8)
GONE = Variant("gone", (Skip(1),))
LATE = Variant("late", (Skip(0, window=Window(3)), Skip(2, part="mlp")))
IDS = torch.tensor([[2, 6, 8, 33, 37, 9, 10, 51]])


def chains(model: ReasoningModel, variant: Variant, record: bool = False) -> list[list[int]]:
    found = model.generate(
        QUESTIONS, [variant], Budget(24, 8), samples=2, sampling=SOME, record=record
    )
    return [c.ids.tolist() for c in found]


@torch.inference_mode()
def logits(model: ReasoningModel) -> torch.Tensor:
    return model.hf(input_ids=IDS, use_cache=False).logits


def reloaded(model: ReasoningModel) -> Any:
    """The model as another process gets it."""
    torch.save(model.hf, file := io.BytesIO())
    file.seek(0)
    return torch.load(file, weights_only=False)


def all_at_once(*work: Callable[[], Any]) -> list[Any]:
    """The results of functions begun together, a thread each."""
    together = threading.Barrier(len(work))

    def begun(one: Callable[[], Any]) -> Any:
        together.wait(10)
        return one()

    with ThreadPoolExecutor(len(work)) as pool:
        return [f.result(60) for f in [pool.submit(begun, one) for one in work]]


def untouched(model: ReasoningModel) -> bool:
    return all(
        not m._forward_hooks and not m._forward_pre_hooks and "forward" not in m.__dict__
        for m in model.hf.modules()
    )


@pytest.mark.parametrize("arch", ["qwen3", "gemma2"])
@pytest.mark.parametrize("turn", range(5))
def test_two_threads_decode_what_one_does(arch: str, turn: int) -> None:
    model = tiny(arch)
    before, how = logits(model), model.hf.config._attn_implementation
    variants = [dense, GONE, LATE]
    alone = [chains(model, v) for v in variants]
    assert alone[0] != alone[1]
    together = all_at_once(*(lambda v=v: chains(model, v) for v in variants))
    assert together == alone
    assert torch.equal(logits(model), before)
    assert model.hf.config._attn_implementation == how
    assert untouched(model)


def test_two_wrappers_of_one_model_share_the_hold() -> None:
    model = tiny("qwen3")
    twin = ReasoningModel.load(model.hf, model.tokenizer)
    alone = [chains(model, dense), chains(model, GONE)]
    assert all_at_once(lambda: chains(model, dense), lambda: chains(twin, GONE)) == alone
    assert untouched(model)


def test_plain_passes_beside_decoding_are_right() -> None:
    model = tiny("qwen3")
    alone, before = chains(model, GONE, record=True), logits(model)
    over = threading.Event()

    def decoding() -> list[list[list[int]]]:
        try:
            return [chains(model, GONE, record=True) for _ in range(4)]
        finally:
            over.set()

    def passes() -> list[torch.Tensor]:
        found = []
        while not over.is_set():
            found.append(logits(model))
        return found

    made, through_root = all_at_once(decoding, passes)
    assert made == [alone] * 4
    assert len(through_root) > 4 and all(torch.equal(one, before) for one in through_root)


def test_a_pass_under_way_ends_before_hooks_open() -> None:
    model = tiny("qwen3")
    before = logits(model)
    inside, go_on = threading.Event(), threading.Event()

    def dawdle(*_: Any) -> None:
        if threading.current_thread().name == "slow":
            inside.set()
            assert go_on.wait(10)

    handle = model.blocks[1].register_forward_pre_hook(dawdle)
    slow: list[torch.Tensor] = []
    first = threading.Thread(target=lambda: slow.append(logits(model)), name="slow")
    first.start()
    assert inside.wait(10)
    opened = threading.Event()

    def second() -> None:
        with apply(model, Variant("gone", (Skip(2), Skip(3)))):
            opened.set()

    other = threading.Thread(target=second)
    other.start()
    assert not opened.wait(0.1)  # the pass is in block 1
    go_on.set()
    first.join(10)
    other.join(10)
    handle.remove()
    assert opened.is_set() and torch.equal(slow[0], before) and untouched(model)


def test_replay_sweep_and_capture_beside_decoding() -> None:
    model = tiny("qwen3")
    texts = [IDS[0].numpy()] * 3

    def influence() -> np.ndarray:
        replay(model, texts, [reducer := BlockInfluence()], batch_tokens=8)
        return np.asarray(reducer.result().values())

    def swept() -> np.ndarray:
        return np.asarray(sweep(model, texts, batch_tokens=8).loss)

    def captured() -> torch.Tensor:
        with capture(model, BlockInfluence(), n_texts=1):
            return logits(model)

    work = [lambda: chains(model, LATE), influence, swept, captured]
    alone = [one() for one in work]
    for _ in range(3):
        for got, want in zip(all_at_once(*work), alone, strict=True):
            assert np.array_equal(np.asarray(got, dtype=object), np.asarray(want, dtype=object))
    assert untouched(model)


def test_a_generator_left_half_way_holds_nothing() -> None:
    model = tiny("qwen3")
    requests = cross(model, QUESTIONS, variants=[dense, GONE], budgets=Budget(24, 8))
    generator = decode(model, requests, sampling=SOME)
    next(generator)  # suspended
    assert untouched(model)
    (there,) = all_at_once(lambda: chains(model, GONE))
    assert there == chains(model, GONE)
    del generator
    gc.collect()
    assert all_at_once(lambda: chains(model, GONE)) == [there]


def test_what_is_open_in_a_dropped_generator_is_closed_by_whichever_thread() -> None:
    model = tiny("qwen3")

    def opened() -> Any:
        with apply(model, GONE):
            yield

    generator = opened()
    all_at_once(lambda: next(generator))  # opened by a thread that is over
    with pytest.raises(PruneScopeError, match="ended with hooks open"):
        logits(model)
    generator.close()
    assert untouched(model)
    logits(model)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_inside_lets_go(error: type[BaseException]) -> None:
    model = tiny("qwen3")

    def stop(*_: Any) -> None:
        raise error

    handle = model.blocks[2].register_forward_pre_hook(stop)
    with pytest.raises(error):
        chains(model, LATE)
    handle.remove()
    assert untouched(model)
    assert all_at_once(lambda: chains(model, GONE)) == [chains(model, GONE)]


def test_nested_in_one_thread() -> None:
    model = tiny("qwen3")
    want = chains(model, GONE)
    with holding(model), capture(model, BlockInfluence(), n_texts=64), holding(model):
        logits(model)
        assert len(chains(model, GONE)) == len(want)
    assert untouched(model) and all_at_once(lambda: chains(model, GONE)) == [want]


def test_another_thread_waits_until_hooks_are_gone() -> None:
    model = tiny("qwen3")
    before, done = logits(model), threading.Event()
    found: list[torch.Tensor] = []

    def plain() -> None:
        found.append(logits(model))
        done.set()

    with apply(model, GONE):
        other = threading.Thread(target=plain)
        other.start()
        assert not done.wait(0.1)
        assert not torch.equal(logits(model), before)
    other.join(10)
    assert torch.equal(found[0], before)


def test_two_threads_that_wait_for_each_other_are_told() -> None:
    a, b = tiny("qwen3"), tiny("qwen3")
    together = threading.Barrier(2)

    def both(first: ReasoningModel, second: ReasoningModel) -> str:
        with holding(first):
            together.wait(10)
            try:
                with holding(second):
                    return "held"
            except PruneScopeError as error:
                return str(error)

    found = all_at_once(lambda: both(a, b), lambda: both(b, a))
    (refused,) = set(found) - {"held"}
    assert found.count("held") == 1 and "would wait for each other's models" in refused


def test_a_long_wait_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "PATIENCE", 0.05)
    monkeypatch.setattr(under_test, "POLL", 0.02)
    model = tiny("qwen3")
    held, over = threading.Event(), threading.Event()

    def keep() -> None:
        with holding(model):
            held.set()
            over.wait(10)

    owner = threading.Thread(target=keep, name="keeper")
    owner.start()
    assert held.wait(10)
    threading.Timer(0.3, over.set).start()
    with pytest.warns(UserWarning, match=r"has waited 0 s .* 'keeper'"):
        logits(model)
    owner.join(10)


def test_models_are_copied_pickled_and_collected_as_ever() -> None:
    model = tiny("qwen3")
    before = logits(model)
    chains(model, GONE)
    for twin in (copy.deepcopy(model.hf), reloaded(model)):
        assert torch.equal(twin(input_ids=IDS, use_cache=False).logits, before)
    with holding(model):  # a copy made meanwhile is nobody's
        twins = [copy.deepcopy(model.hf), reloaded(model)]
        for twin in twins:
            (there,) = all_at_once(lambda t=twin: t(input_ids=IDS, use_cache=False).logits)
            assert torch.equal(there, before)
    gone = weakref.ref(model.hf)
    del model
    gc.collect()
    assert gone() is None


def test_the_hold_costs_next_to_nothing() -> None:
    model = tiny("qwen3")
    began = time.perf_counter()
    for _ in range(200):
        with holding(model):
            pass
    each = (time.perf_counter() - began) / 200
    assert each < 1e-3  # some 10 us; a stride takes milliseconds
