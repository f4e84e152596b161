"""Loops: invariants, a slow reference, and real chains with labels set by hand."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.chains.periods import tail_period
from interp.diagnosis import find_loop, text_loop, words
from interp.errors import UserError

DATA = Path(os.environ.get("PRUNESCOPE_DATA") or Path(__file__).parents[4] / "shared" / "data")
needs_data = pytest.mark.skipif(
    not (DATA / "loop_labels.jsonl").exists(),
    reason=f"no loop_labels.jsonl in {DATA}; set PRUNESCOPE_DATA to the folder of test data",
)

HEALTHY = (
    "Let me see . The train leaves at 9 and needs 3 hours , so it arrives at 12 . The bus is slower"
    " : it takes 5 hours , hence 14 . Wait , the bus left an hour earlier , so 13 . That means the"
    " train wins by 1 hour . The answer is therefore 1 ."
)


def slow_tail_period(symbols: list[int]) -> tuple[int, int] | None:
    """Try every period, count back from the end."""
    n = len(symbols)
    for p in range(1, n // 3 + 1):
        length = p
        while length < n and symbols[n - 1 - length] == symbols[n - 1 - length + p]:
            length += 1
        if length >= 30 and length >= 3 * p:
            return p, length
    return None


@given(st.data())
def test_the_search_is_the_slow_reference(data: st.DataObject) -> None:
    few = st.lists(st.integers(0, 2), min_size=1, max_size=14)
    head = data.draw(st.lists(st.integers(0, 2), max_size=25))
    cycle, tail = data.draw(few), data.draw(st.lists(st.integers(0, 2), max_size=2))
    symbols = head + cycle * data.draw(st.integers(1, 14)) + tail
    assert tail_period(symbols) == slow_tail_period(symbols)


@given(
    head=st.lists(st.integers(100, 200), max_size=40),
    cycle=st.lists(st.integers(0, 20), min_size=1, max_size=25, unique=True),
    repeats=st.integers(3, 30),
)
def test_doubling_a_loops_tokens_doubles_its_waste_and_nothing_else(
    head: list[int], cycle: list[int], repeats: int
) -> None:
    repeats = max(repeats, -(-30 // len(cycle)))
    once = find_loop(head + cycle * repeats)
    twice = find_loop(head + cycle * 2 * repeats)
    assert once is not None
    assert twice is not None
    assert once.wasted == repeats * len(cycle)
    assert twice.wasted == 2 * once.wasted
    assert twice.repeats == 2 * once.repeats == 2 * repeats
    assert (once.kind, once.period, once.onset) == (twice.kind, twice.period, twice.onset)
    assert (once.kind, once.period, once.onset) == ("exact", len(cycle), len(head))


@given(
    st.lists(st.integers(0, 5), max_size=90),
    st.permutations(range(6)),
)
def test_names_of_tokens_do_not_matter(ids: list[int], names: list[int]) -> None:
    assert find_loop(ids) == find_loop([names[i] for i in ids])


@given(st.integers(0, 2**32 - 1))
def test_shuffled_healthy_text_is_no_loop(seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(HEALTHY.split() * 4)
    assert text_loop(" ".join(shuffled)) is None


def test_three_repeats_of_ten_and_thirty_tokens_are_the_border() -> None:
    cycle = list(range(10))
    assert find_loop([99, *cycle * 3]) is not None
    assert find_loop([99, *(cycle * 3)[1:]]) is None
    assert find_loop([7] * 30) is not None
    assert find_loop([7] * 29) is None
    assert find_loop([]) is None
    assert find_loop([1, 2] * 5, min_tokens=10) is not None


def test_a_chain_that_escapes_is_not_in_a_loop() -> None:
    assert find_loop([1, 2, 3] * 20 + [4, 5]) is None


def template(values: list[int]) -> list[int]:
    """ "so v + 1 is" with number tokens 100 and up; several digits make several tokens."""
    ids = []
    for value in values:
        ids += [1, 2, *(100 + int(d) for d in str(value)), 3, 4, 5]
    return ids


@given(
    st.lists(st.integers(0, 99_999), min_size=6, max_size=12),
    st.lists(st.integers(6, 60), max_size=20),
)
def test_other_numbers_in_the_same_words_are_a_template(values: list[int], head: list[int]) -> None:
    ids = head + template(values)
    numbers = range(100, 110)
    found = find_loop(ids, numbers)
    assert found is not None
    if found.kind == "template":
        assert (found.period, found.onset) == (6, len(head))
        assert found.repeats == len(values)
        assert found.wasted == len(ids) - len(head)
        twice = find_loop(ids + template(values[::-1]), numbers)
        if twice is not None and twice.kind == "template":
            assert (twice.period, twice.onset) == (found.period, found.onset)
            assert twice.wasted == 2 * found.wasted
    mask = np.isin(ids, list(numbers))
    assert find_loop(np.array(ids), mask) == found


def test_a_template_needs_its_numbers_to_be_named() -> None:
    ids = template([3, 14, 159, 2, 65, 35, 8])
    assert find_loop(ids) is None
    assert find_loop(ids, set(range(100, 110))) is not None


def test_a_list_of_numbers_is_no_template() -> None:
    primes = [n for n in range(2, 200) if all(n % d for d in range(2, n))]
    assert text_loop("The primes are " + ", ".join(map(str, primes))) is None
    assert text_loop(" ".join(map(str, primes))) is None


def test_number_words_and_decimals_cut_short_are_numbers() -> None:
    ordinals = ["first", "second", "third", "fourth", "fifth", "twenty-first", "hundredth"]
    text = "".join(f"For the {o} glass he pays {i}.5 dollars . " for i, o in enumerate(ordinals))
    found = text_loop(text + "For the ninth glass he pays 12.")
    assert found is not None
    assert found.kind == "template"
    assert found.onset == 0


def test_thousands_of_long_chains_take_seconds() -> None:
    rng = np.random.default_rng(0)
    chains = [rng.integers(0, 300, 1200) for _ in range(1000)]
    chains += [np.r_[chain[:600], np.tile(chain[:40], 15)] for chain in chains]
    mask = np.arange(1200) % 9 == 0
    start = time.perf_counter()
    found = [find_loop(chain, mask) for chain in chains]
    assert time.perf_counter() - start < 30
    assert [f is not None for f in found] == [False] * 1000 + [True] * 1000


def test_time_is_linear_on_the_worst_chain() -> None:
    """Nearly periodic everywhere: where comparing each period alone would be quadratic."""
    size = 60_000
    chain = ([1] * 28 + [2]) * (size // 58) + ([1] * 28 + [3]) * 2
    start = time.perf_counter()
    assert find_loop(chain) is None
    assert time.perf_counter() - start < 15


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: find_loop([1] * 50, min_tokens=0),
        lambda: find_loop([1] * 50, min_repeats=1.0),
        lambda: find_loop(np.ones((2, 40), dtype=np.int64)),
        lambda: find_loop(list(range(50)), np.ones(3, dtype=bool)),
    ],
)
def test_mistakes_are_user_errors(mistake) -> None:
    with pytest.raises(UserError, match="find_loop"):
        mistake()


# --- real chains


def labelled() -> list[tuple[dict, str]]:
    solutions = [
        json.loads(line)
        for line in (DATA / "gsm8k_gpt3_model_solutions.jsonl").read_text("utf-8").splitlines()
    ]
    samples = [
        json.loads(line)
        for line in (DATA / "math_qwen_n8_with_rm_scores.jsonl").read_text("utf-8").splitlines()
    ]
    rows = []
    for line in (DATA / "loop_labels.jsonl").read_text("utf-8").splitlines():
        label = json.loads(line)
        if label["file"].startswith("gsm8k"):
            rows.append((label, solutions[label["row"]][label["key"]]["solution"]))
        else:
            index = int(label["key"].split("[")[1].rstrip("]"))
            rows.append((label, samples[label["row"]]["response"][index]))
    return rows


@needs_data
def test_every_labelled_loop_is_found_and_no_healthy_chain() -> None:
    for label, text in labelled():
        found = text_loop(text)
        if label["label"] == "exact_loop":
            assert found is not None, label
            assert found.kind == "exact", label
            onset = int(words(text).starts[found.onset])
            assert abs(onset - label["loop_onset_char"]) <= 3, (onset, label)
        elif label["label"] == "templated_loop":
            assert found is not None, label
            assert found.kind == "template", label
        else:
            assert found is None, (found, label)


@needs_data
def test_no_alarm_on_six_thousand_real_chains_without_a_loop() -> None:
    """The 9 labelled loops are all that is found in the whole files."""
    looping = {(la["row"], la["key"]) for la, _ in labelled() if la["is_loop"]}
    lines = (DATA / "gsm8k_gpt3_model_solutions.jsonl").read_text("utf-8").splitlines()
    found = set()
    for row, line in enumerate(lines):
        for key, value in json.loads(line).items():
            if isinstance(value, dict) and text_loop(value["solution"]) is not None:
                found.add((row, key))
    assert found == looping
    lines = (DATA / "math_qwen_n8_with_rm_scores.jsonl").read_text("utf-8").splitlines()
    healthy = [text for line in lines for text in json.loads(line)["response"]]
    assert len(healthy) == 800
    assert not any(text_loop(text) for text in healthy)
