"""Windows: where they are in force, against their definitions written out position by position."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.chains.periods import LOOP_CHECK, loop_start
from interp.errors import UserError
from interp.interventions.interventions import Skip
from interp.interventions.timeline import NO_TOKEN, Timeline, site
from interp.interventions.windows import NEVER, AfterLoop, Answer, AtTokens, Thinking, When, Window
from tests.models import tiny

KEYS = torch.zeros(1, dtype=torch.int64)


def inside(when: When, line: Timeline, start: int, stop: int) -> list[bool]:
    """In force at each position of [start, stop)."""
    at = site([line], start, stop, keys=KEYS, reach=when.reach)
    return when.active(at)[0].tolist()


@given(
    ids=st.lists(st.integers(0, 4), max_size=30),
    prompt=st.integers(1, 5),
    wanted=st.sets(st.integers(0, 4), min_size=1, max_size=2),
    after=st.integers(0, 6),
    cuts=st.lists(st.integers(1, 34), max_size=3),
)
def test_at_tokens_is_its_definition_however_the_passes_are_cut(ids, prompt, wanted, after, cuts):
    when = AtTokens(tuple(wanted), after=after)
    line = Timeline(prompt, np.array(ids, dtype=np.int64))
    total = prompt + len(ids)
    want = []
    for position in range(total):
        step = position - prompt
        recent = [ids[j] for j in range(max(0, step - after), step + 1)] if step >= 0 else []
        want.append(bool(set(recent) & wanted))
    edges = sorted({0, total, *(c for c in cuts if c < total)})
    got = [x for a, b in pairwise(edges) for x in inside(when, line, a, b)]
    assert got == want


def test_spans_combine() -> None:
    line = Timeline(2, np.arange(10), answer_from=6, loop_from=4)
    steps = np.maximum(np.arange(12) - 2, -1)
    cases: list[tuple[When, np.ndarray]] = [
        (Thinking(), (steps >= 0) & (steps < 6)),
        (Answer(), steps >= 6),
        (AfterLoop(), steps >= 4),
        (Answer() & Window(7, 9), (steps >= 7) & (steps < 9)),
        (Answer() | Window.prefill_only(), (steps >= 6) | (steps == -1)),
        (~Thinking(), (steps < 0) | (steps >= 6)),
        (~Thinking() & AtTokens((0, 7)), steps == 7),
    ]
    for when, want in cases:
        assert inside(when, line, 0, 12) == want.tolist(), when
        first = int(steps[want][0])
        assert when.earliest <= first, f"{when} is in force before it says that it can be"
    assert (AtTokens((1,), after=3) | Answer()).reach == 3
    assert (Answer() & AfterLoop()).watches_loops and not Answer().watches_loops


def test_a_prompt_token_is_no_event_and_a_short_row_keeps_its_own() -> None:
    lines = [Timeline(3, np.array([7, 1, 7])), Timeline(1, np.array([1]))]
    at = site(lines, 0, 6, keys=torch.zeros(2, dtype=torch.int64), reach=1)
    assert at.trail is not None and at.steps is not None
    assert at.trail[0].tolist() == [NO_TOKEN] * 4 + [7, 1, 7]
    assert at.trail[1].tolist() == [NO_TOKEN] * 2 + [1] + [NO_TOKEN] * 4
    assert at.steps[1].tolist() == [-1, 0, 1, 2, 3, 4]


def test_a_loop_opens_its_window_later() -> None:
    healthy = np.random.default_rng(0).permutation(60)
    ids = np.concatenate([healthy, np.tile([61, 62, 63], 60)])
    found = loop_start(ids)
    assert found is not None and found % LOOP_CHECK == 0
    assert found >= 60 + 64 > found - LOOP_CHECK  # 64 tokens of it must be there
    assert loop_start(healthy) is None
    assert Timeline.given(3, tuple(ids.tolist())).loop_from == found - 1 + LOOP_CHECK
    assert Timeline.given(3, tuple(healthy.tolist())).loop_from == NEVER


def test_words_become_their_first_tokens() -> None:
    model = tiny()
    assert AtTokens.of(model, ["wait", "check"]).ids == tuple(
        sorted(model.encode("wait") + model.encode("check"))
    )
    with pytest.raises(UserError, match="none of the words"):
        AtTokens.of(model, ["hippopotamus"])
    assert AtTokens.of(model, "wait") == AtTokens.of(model, ["wait"])


def test_what_cannot_be_a_window() -> None:
    with pytest.raises(UserError, match="at least one token"):
        AtTokens(())
    with pytest.raises(UserError, match="after=-1"):
        AtTokens((1,), after=-1)
    with pytest.raises((UserError, TypeError)):  # types are checked in tests
        Skip(0, window=(3, 5))  # type: ignore[arg-type]
    with pytest.raises((UserError, TypeError)):
        Answer() & 3  # type: ignore[operator]
    plain = site([Timeline(1, np.array([1]))], 0, 2, keys=KEYS)
    with pytest.raises(UserError, match="answer_from"):
        Answer().active(replace(plain, answer_from=None))
