"""Episodes inside chains, how often chains fall into them, and whether they get out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interp.chains.chain import Chain
from interp.diagnosis import find_episodes, find_loop, loop_dynamics, words
from interp.diagnosis.token_text import NUMBER, word_ids
from interp.errors import UserError
from interp.statistics import rate
from tests.chains import answered_chain

DATA = Path(os.environ.get("PRUNESCOPE_DATA") or Path(__file__).parents[4] / "shared" / "data")
needs_data = pytest.mark.skipif(
    not (DATA / "loop_labels.jsonl").exists(),
    reason=f"no loop_labels.jsonl in {DATA}; set PRUNESCOPE_DATA to the folder of test data",
)
SMALL = {"min_tokens": 6, "min_repeats": 3.0}


class Numbers:
    """Token i is the word "t<i>", or the number i from 1000 on."""

    def text(self, ids, skip_special: bool = True) -> str:
        return " ".join(
            str(i) if i >= 1000 else "t" + "abcdefghij"[i % 10] * (i // 10 + 1) for i in ids
        )


def chain_of(ids: list[int], problem: str = "p", finish: str = "end", sample: int = 0) -> Chain:
    return answered_chain(ids, 999, [998], problem=problem, sample=sample, thinking_finish=finish)


def slow_runs(x: list[int], least: int, repeats: float) -> set[tuple[int, int, int]]:
    """Every maximal periodic stretch that is long enough, by trying everything."""
    found = set()
    for p in range(1, len(x)):
        a = 0
        while a + p < len(x):
            b = a + p
            while b < len(x) and x[b] == x[b - p]:
                b += 1
            if b - a >= least and b - a >= repeats * p:
                found.add((p, a, b))
            a = max(b - p, a) + 1
    return found


few = st.lists(st.integers(0, 2), min_size=1, max_size=5)


@given(st.lists(st.tuples(few, st.integers(1, 6)), min_size=1, max_size=4))
def test_the_episodes_are_the_longest_stretches_of_a_slow_search(parts) -> None:
    ids = [t for cycle, n in parts for t in cycle * n]
    found = find_episodes(ids, **SMALL)
    runs = slow_runs(ids, 6, 3.0)
    assert bool(found) == bool(runs)
    taken = np.zeros(len(ids), dtype=int)
    for one in found:
        taken[one.start : one.stop] += 1
        assert any(p == one.period and a <= one.start and one.stop <= b for p, a, b in runs)
        assert len(one) >= max(6, 3 * one.period)
        assert one.repeats == pytest.approx(len(one) / one.period)
        assert one.escaped == (one.stop < len(ids))
    assert (taken <= 1).all()
    if runs:  # the longest is never cut, and nothing that is still long enough is left over
        longest = max(b - a for _, a, b in runs)
        assert max(map(len, found)) == longest
        for p, a, b in runs:
            rest = 0
            for i in range(a, b):
                rest = 0 if taken[i] else rest + 1
                assert rest < max(6, 3 * p)


@given(st.lists(st.integers(0, 5), max_size=80), st.permutations(range(6)))
def test_names_of_tokens_do_not_matter(ids: list[int], names: list[int]) -> None:
    assert find_episodes(ids, **SMALL) == find_episodes([names[i] for i in ids], **SMALL)


@given(
    head=st.lists(st.integers(100, 200), max_size=40, unique=True),
    cycle=st.lists(st.integers(0, 20), min_size=1, max_size=25, unique=True),
    repeats=st.integers(4, 12),
    tail=st.lists(st.integers(300, 400), max_size=40, unique=True),
)
def test_doubling_a_loop_doubles_its_tokens_and_changes_nothing_else(
    head: list[int], cycle: list[int], repeats: int, tail: list[int]
) -> None:
    repeats = max(repeats, -(-64 // len(cycle)))
    (once,) = find_episodes(head + cycle * repeats + tail)
    (twice,) = find_episodes(head + cycle * 2 * repeats + tail)
    assert (once.start, once.period, once.kind) == (len(head), len(cycle), "exact")
    assert len(twice) == 2 * len(once)
    assert twice.repeats == 2 * once.repeats == 2 * repeats
    assert (once.start, once.period, once.escaped) == (twice.start, twice.period, twice.escaped)
    assert once.escaped == bool(tail)


def test_a_loop_that_lasts_is_an_episode_of_at_least_its_length() -> None:
    ids = [*range(100, 130), *([1, 2, 3, 3, 3] * 20)]
    loop, (one,) = find_loop(ids), find_episodes(ids)
    assert loop is not None
    assert (one.period, one.start, one.stop, one.escaped) == (5, loop.onset, len(ids), False)
    assert find_episodes(ids, ended=True)[0].escaped


def test_a_template_that_was_left_is_a_list_and_one_that_lasts_a_loop() -> None:
    line = [1, 2, 1000, 3, 4, 1001, 5]
    ids = [t if t < 1000 else t + 7 * k for k in range(12) for t in line]
    numbers = set(range(1000, 2000))
    (one,) = find_episodes(ids, numbers)
    assert (one.kind, one.period, one.start, one.stop) == ("template", 7, 0, len(ids))
    assert find_episodes([*ids, 9, 9, 8], numbers) == ()
    assert find_episodes(ids) == ()


def test_nested_repetition_is_one_episode_of_the_outer_period() -> None:
    outer = [7] * 70 + [8, 9]
    found = find_episodes(outer * 5)
    assert [(e.period, len(e)) for e in found] == [(72, 360)]


def test_a_long_chain_takes_no_time() -> None:
    import time

    rng = np.random.default_rng(0)
    healthy = rng.integers(0, 200, 20_000)
    start = time.perf_counter()
    assert find_episodes(healthy) == ()
    assert len(find_episodes(np.full(8_000, 7))) == 1
    assert time.perf_counter() - start < 15


@given(st.integers(0, 2**32 - 1))
def test_shuffled_healthy_text_has_no_episode(seed: int) -> None:
    text = "Let me see . The train leaves at 9 and needs 3 hours , so it arrives at 12 . " * 6
    reading = words(" ".join(np.random.default_rng(seed).permutation(text.split())))
    assert find_episodes(word_ids(reading), reading.mask(NUMBER)) == ()


@needs_data
def test_real_solutions_hold_the_labelled_loops_and_nothing_else() -> None:
    labels = [
        json.loads(line) for line in (DATA / "loop_labels.jsonl").read_text("utf-8").splitlines()
    ]
    looping = {(la["row"], la["key"]) for la in labels if la["is_loop"]}
    found = {}
    lines = (DATA / "gsm8k_gpt3_model_solutions.jsonl").read_text("utf-8").splitlines()
    for row, line in enumerate(lines[:1300:1]):
        for key, value in json.loads(line).items():
            if isinstance(value, dict):
                reading = words(value["solution"])
                seen = find_episodes(word_ids(reading), reading.mask(NUMBER))
                if seen:
                    found[row, key] = seen
    assert set(found) == {one for one in looping if one[0] < 1300}
    assert all(len(seen) == 1 and not seen[0].escaped for seen in found.values())
    lines = (DATA / "math_qwen_n8_with_rm_scores.jsonl").read_text("utf-8").splitlines()
    seen = []
    for text in (t for line in lines for t in json.loads(line)["response"]):
        reading = words(text)
        seen += find_episodes(word_ids(reading), reading.mask(NUMBER))
    # two samples of noise hold rows of one mark, one writes a product six times
    assert [(e.kind, e.period, e.escaped) for e in seen] == [("exact", 1, True)] * 3 + [
        ("exact", 13, True)
    ]


# --- rates


def test_a_rate_without_spread_between_problems_has_garwoods_interval() -> None:
    found = rate(np.array([2, 2, 2]), np.array([1000, 1000, 1000]))
    assert found.value == 2
    assert found.low == pytest.approx(stats.chi2.ppf(0.025, 12) / 2 / 3)
    assert found.high == pytest.approx(stats.chi2.ppf(0.975, 14) / 2 / 3)


def test_no_event_still_has_an_upper_limit_and_spread_widens() -> None:
    none = rate(np.zeros(5), np.full(5, 1000))
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(stats.chi2.ppf(0.975, 2) / 2 / 5)
    even = rate(np.full(10, 2), np.full(10, 500))
    odd = rate(np.array([20, *[0] * 9]), np.full(10, 500))
    assert even.value == odd.value
    assert odd.high - odd.low > 2 * (even.high - even.low)
    assert np.isnan(rate(np.zeros(2), np.zeros(2)).value)


def test_the_interval_of_a_rate_covers() -> None:
    """At the nominal rate for Poisson counts, and nearly so for clustered ones."""
    rng = np.random.default_rng(0)
    for shape, least in ((np.inf, 0.93), (1.0, 0.86)):
        hit = 0
        for _ in range(400):
            own = np.full(30, 1.0) if np.isinf(shape) else rng.gamma(shape, 1 / shape, 30)
            counts = rng.poisson(0.8 * own)
            found = rate(counts, np.full(30, 800))
            hit += found.low <= 1.0 <= found.high
        assert hit / 400 >= least


LOOP = [1, 2, 3, 4]
HEALTHY = [i % 700 for i in np.random.default_rng(0).permutation(700).tolist()]


def test_dynamics_count_entries_escapes_and_exposure() -> None:
    stays = chain_of(HEALTHY[:100] + LOOP * 25, "a", "forced")
    leaves = chain_of(HEALTHY[:300] + LOOP * 20 + HEALTHY[300:400], "b")
    never = chain_of(HEALTHY[:200], "b", sample=1)
    found = loop_dynamics([stays, leaves, never], Numbers(), edges=(0, 128, 256))
    assert (found.entry.events, found.entry.exposure) == (2, 100 + 1 + 300 + 1 + 100 + 200)
    assert (found.escape.events, found.escape.exposure) == (1, 99 + 79)
    assert found.persistence is not None
    assert (found.persistence.value, found.persistence.n_problems) == (0.5, 2)
    assert [one.events for one in found.hazards] == [1, 0, 1]
    assert sum(one.exposure for one in found.hazards) == found.entry.exposure
    frame = found.to_frame()
    assert list(frame["measure"].unique()) == [
        "entry",
        "escape",
        "persistence",
        "entry by position",
    ]
    ax = found.plot()
    assert ax.get_xlabel() == "position in the chain (tokens)"


def test_a_chain_that_concludes_out_of_its_loop_escaped() -> None:
    for finish, left in (("end", 1), ("forced", 0), ("looped", 0)):
        found = loop_dynamics([chain_of(HEALTHY[:50] + LOOP * 30, finish=finish)], Numbers())
        assert found.escape.events == left


def test_no_loop_has_no_persistence() -> None:
    found = loop_dynamics([chain_of(HEALTHY)], Numbers())
    assert found.persistence is None
    assert found.entry.events == 0
    assert np.isnan(found.escape.value)
    assert "persistence" not in set(found.to_frame()["measure"])


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: find_episodes([1] * 50, min_repeats=1.0),
        lambda: find_episodes(np.ones((2, 40), dtype=np.int64)),
        lambda: find_episodes(list(range(99)), np.ones(3, dtype=bool)),
        lambda: rate(np.ones(2), np.ones(3)),
        lambda: rate(np.ones(2), np.zeros(2)),
        lambda: rate(-np.ones(2), np.ones(2)),
        lambda: loop_dynamics([], Numbers()),
        lambda: loop_dynamics([chain_of(HEALTHY)], Numbers(), edges=(5, 3)),
    ],
)
def test_mistakes_are_user_errors(mistake) -> None:
    with pytest.raises(UserError):
        mistake()
