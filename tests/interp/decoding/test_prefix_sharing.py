"""Variants of a prompt share the blocks that they leave as they are, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.chains.chain import Budget
from interp.decoding.generate import decode
from interp.decoding.prefill import common_tokens as common
from interp.decoding.prefix_sharing import SharedRows
from interp.decoding.request import Request, cross
from interp.interventions.interventions import (
    AblateHeads,
    MeanDelta,
    ResampleDelta,
    Scale,
    Skip,
    Variant,
    dense,
)
from interp.interventions.windows import ChainWindows, Window
from tests.models import tiny
from tests.reference import same_chain

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7", "what ?"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=12))
def test_every_request_has_its_own_row_where_it_is_changed(asked: list[tuple[int, int]]) -> None:
    prompts, changes = [p for p, _ in asked], [c for _, c in asked]
    shared = SharedRows.of(prompts, changes)
    assert sorted(shared.requests) == list(range(len(asked)))
    assert shared.n_rows(0) == len(set(prompts)) + sum(c == 0 for c in changes) - sum(
        max(c for p, c in asked if p == prompt) == 0 for prompt in set(prompts)
    )
    assert list(shared.begins) == sorted(shared.begins)
    for block in range(5):
        places = shared.places(block).tolist()
        assert max(places) < shared.n_rows(block)
        for i, place in enumerate(places):
            assert prompts[shared.requests[place]] == prompts[i]
        own = [place for place, change in zip(places, changes, strict=True) if change <= block]
        assert len(set(own)) == len(own)  # a row that a variant has changed belongs to nobody else
        for i, place in enumerate(places):
            if changes[i] > block:
                assert changes[shared.requests[place]] > block


def test_the_work_is_what_the_variants_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row-passes of each block in one prefill; then every chain alone is the same."""
    model = tiny("qwen3", ends=False)
    n = model.n_blocks
    variants = (
        dense,
        Variant("late", (Skip(0, window=Window(3, 6)),)),
        *(Variant(f"no {b}", (Skip(b),)) for b in range(n)),
        Variant("mean 2", (MeanDelta(2, torch.full((model.d_model,), 0.1)),)),
        Variant("mlp 1", (Scale(1, 0.5, part="mlp"),)),
        Variant("two", (Skip(3), Scale(1, 0.0, part="attention"))),
    )
    requests = cross(model, PROMPTS, variants=variants, budgets=Budget(8, 2))
    rows: Counter[int] = Counter()

    def count(index: int) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            out = output[0] if isinstance(output, tuple) else output
            if out.shape[1] > 1:
                rows[index] += out.shape[0]

        return hook

    handles = [b.register_forward_hook(count(i)) for i, b in enumerate(model.blocks)]
    together = {(c.problem, c.variant): c for c in decode(model, requests)}
    for handle in handles:
        handle.remove()
    firsts = [n, *range(n), 2, 1, 1]  # "late" reads the prompt as the dense model does
    assert dict(rows) == {b: len(PROMPTS) * sum(f <= b or f == n for f in firsts) for b in range(n)}
    for request in requests:
        (alone,) = decode(model, [request])
        assert same_chain(alone, together[request.problem, request.variant.name])


def test_short_prompts_are_not_padded_to_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of many tokens holds prompts of nearly one length only."""
    from interp.decoding import scheduler
    from interp.decoding.model_runner import ModelRunner

    model = tiny("qwen3", ends=False)
    monkeypatch.setattr(scheduler, "ENOUGH_TOKENS", 60)
    seen, plain = [], ModelRunner.prefill

    def watch(self: Any, requests: Any, variants: Any, width: int) -> Any:
        seen.append((width, [len(r.read) - 1 for r in requests]))
        return plain(self, requests, variants, width)

    monkeypatch.setattr(ModelRunner, "prefill", watch)
    prompts = [list(range(5, 5 + n)) for n in (4, 5, 30, 31, 6, 29, 7)]
    chains = {c.problem: c for c in decode(model, cross(model, prompts, budgets=Budget(6, 2)))}
    assert len(chains) == len(prompts)
    assert sorted(n for _, lengths in seen for n in lengths) == [3, 4, 5, 6, 28, 29, 30]
    for width, lengths in seen:
        assert width == max(lengths)
        if width * len(lengths) > 60:
            assert min(lengths) >= 7 / 8 * width - 1
    assert len(seen) == 2


def test_samples_share_a_prompt_only_if_it_is_read_alike() -> None:
    """Draws keyed by the chain, and windows of each chain's own, change the prompt of each alone.

    Samples of a variant had all read the prompt with the draws of the first of them.
    """
    model = tiny("qwen3", ends=False)
    torch.manual_seed(0)
    pool = torch.randn(50, model.d_model)
    (first,) = model.generate(PROMPTS[:1], budget=Budget(4, 2))
    own = ChainWindows.of([first], [-1], [3])
    variants = (
        Variant("draws", (ResampleDelta(1, pool),)),
        Variant("windows", (Skip(1, window=own | Window(2, 4)),)),
    )
    requests = cross(model, PROMPTS[:1], variants=variants, samples=3, budgets=Budget(8, 2))
    together = {(c.variant, c.sample): c for c in decode(model, requests)}
    for request in requests:
        (alone,) = decode(model, [request])
        assert same_chain(alone, together[request.variant.name, request.sample])
    assert len({together["draws", s].logprob[0] for s in range(3)}) == 3


def test_what_all_prompts_begin_with_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once per state of the blocks, whatever the pass; and every chain is the one it is alone."""
    from interp.decoding import prefill, scheduler

    model = tiny("qwen3", ends=False)
    examples = [5 + i % 40 for i in range(50)]
    prompts = [examples + list(range(5, 5 + n)) for n in (4, 9, 30, 6, 12)]
    variants = (
        dense,
        Variant("late", (Skip(0, window=Window(3, 6)),)),
        Variant("no 2", (Skip(2),)),
        Variant("prompt", (Skip(1, window=Window.prefill_only()),)),
        Variant("heads", (AblateHeads(1, (0, 2)),)),
    )
    requests = cross(model, prompts, variants=variants, samples=2, budgets=Budget(8, 2))
    monkeypatch.setattr(scheduler, "PREFILL_TOKENS", 300)  # several passes
    read = Counter[int]()

    def count(_: Any, __: Any, output: Any) -> None:
        out = output[0] if isinstance(output, tuple) else output
        read[out.shape[1]] += 1

    handle = model.blocks[0].register_forward_hook(count)
    together = {(c.problem, c.variant, c.sample): c for c in decode(model, requests, slots=7)}
    handle.remove()
    assert common(requests) == (*examples, 5, 6)  # each keeps a token to read
    assert sum(n for width, n in read.items() if width == 52) <= 2
    assert max(width for width in read if width != 52) < 30
    monkeypatch.setattr(prefill, "LEAST_COMMON", 10**6)
    for chain in decode(model, requests):
        assert same_chain(chain, together[chain.problem, chain.variant, chain.sample])


@pytest.mark.parametrize(
    ("prompts", "n"),
    [
        (["a" * 50, "a" * 50], 0),  # one prompt
        (["a" * 40 + "b", "a" * 40 + "cd"], 39),
        (["a" * 40, "a" * 44], 38),
        (["a" * 20 + "b", "a" * 20 + "c"], 0),  # too few
        (["b" * 40, "a" * 40], 0),
    ],
)
def test_common_tokens(prompts: list[str], n: int) -> None:
    requests = [Request(str(i), tuple(map(ord, p)), dense) for i, p in enumerate(prompts)]
    assert len(common(requests)) == n


def test_too_many_states_are_not_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into one pass is read with its prompt, to the same chains."""
    from interp.decoding import prefill

    model = tiny("qwen3", ends=False)
    examples = [5 + i % 40 for i in range(50)]
    prompts = [examples + list(range(5, 5 + n)) for n in (4, 9)]
    variants = (dense, *(Variant(f"no {b}", (Skip(b),)) for b in range(model.n_blocks)))
    requests = cross(model, prompts, variants=variants, budgets=Budget(6, 2))
    want = {(c.problem, c.variant): c for c in decode(model, requests)}
    monkeypatch.setattr(prefill, "MOST_COMMON", 120)
    widest = []
    handle = model.blocks[0].register_forward_hook(
        lambda _, args, __: widest.append(args[0].shape[1]) if args[0].shape[1] > 1 else None
    )
    for chain in decode(model, requests):
        assert same_chain(chain, want[chain.problem, chain.variant])
    handle.remove()
    assert min(widest) > 50  # never the questions alone
