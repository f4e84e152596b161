"""Importance of lines: outcomes that one line decides, and a model in which no line decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest

from interp.chains.chain import Budget, Chain, Span
from interp.counterfactuals import line_importance as module
from interp.counterfactuals.line_importance import line_importance, regrouped
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.diagnosis.reflection_lexicon import TESTBED
from interp.errors import UserError
from interp.interventions.interventions import Skip, Variant, dense
from interp.model.reasoning_model import ReasoningModel
from tests.chains import answered_chain, make_chain
from tests.planted import END, NUMBERS, WORD, Planted, chains_of, judge

ANCHOR, LINES, WIDTH, NEEDED = 3, 6, 4, 1
YES, NO, STOP = WORD["yes"], WORD["no"], WORD["."]
BLIND = [Variant(f"skip {b}", (Skip(b),)) for b in range(3)]


@pytest.fixture(scope="module")
def model() -> ReasoningModel:
    return Planted(n_blocks=3).model()


def chain_of(name: str) -> Chain:
    """Lines of three numbers: line k says 3 k, 3 k + 1, 3 k + 2."""
    ids = [t for k in range(LINES) for t in (*(NUMBERS[3 * k + j] for j in range(3)), STOP)]
    return answered_chain(ids, END, [YES], prompt_ids=[WORD["what"], WORD["<think>"]], problem=name,
                          budget=Budget(64, 4))  # fmt: skip


def scripted(model, requests: list[Request], **_: object) -> Iterator[Chain]:
    """Continuations whose answer is the anchor's: yes with it, no without; else a coin.

    From before the anchor, three in four continuations write another line there. Without block
    `NEEDED` the answer is a coin whatever was written.
    """
    for r in requests:
        rng = np.random.default_rng([r.sample, len(r.prefix), crc32(r.variant.name.encode())])
        whole = chain_of(r.problem)
        ids = whole.thinking_ids.copy()
        kept = len(r.prefix)
        for k in range(kept // WIDTH, LINES):
            if rng.random() < 0.75:
                ids[k * WIDTH] = NUMBERS[29]
        a = (ANCHOR - 1) * WIDTH
        there = np.array_equal(ids[a : a + WIDTH], whole.ids[a : a + WIDTH])
        blind = r.variant.name == f"skip {NEEDED}"
        yes = rng.random() < (0.5 if blind else 0.95 if there else 0.05)
        yield replace(
            answered_chain(ids, END, [YES if yes else NO], problem=r.problem, sample=r.sample),
            variant=r.variant.name,
        )


def answer(chain: Chain) -> int | None:
    return int(chain.answer_ids[0]) if chain.n_answer else None


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> list[Chain]:
    monkeypatch.setattr(module, "decode", scripted)
    return [chain_of(f"p{i}") for i in range(12)]


def test_the_line_that_decides_is_the_anchor(model: ReasoningModel, chains: list[Chain]) -> None:
    found = line_importance(model, chains, answer, n=24, lexicon=TESTBED)
    frame = found.to_frame()
    assert set(found.anchors().values()) == {ANCHOR}
    by_line = frame.groupby("line")["importance"].mean()
    assert by_line[ANCHOR] > 0.7
    assert by_line.drop(ANCHOR).abs().max() < 0.15
    sure = frame.groupby("line")["p"].apply(lambda p: (p < 0.05).mean())
    assert sure[ANCHOR] == 1 and sure.drop(ANCHOR).max() < 0.3
    assert (frame.loc[frame["line"] > ANCHOR, "agree"] > 0.7).all(), "the anchor was kept"
    assert frame["same"].mean() == pytest.approx(0.25, abs=0.05)


def test_it_vanishes_without_the_block_that_it_needs(
    model: ReasoningModel, chains: list[Chain]
) -> None:
    anchors = {(c.problem, c.sample): ANCHOR for c in chains}
    frame = line_importance(
        model, chains, answer, [dense, *BLIND], lines=anchors, n=24, lexicon=TESTBED
    ).to_frame()
    assert len(frame) == 12 * 4 and set(frame["line"]) == {ANCHOR}
    means = frame.groupby("variant")["importance"].mean()
    assert abs(means[f"skip {NEEDED}"]) < 0.15
    assert means.drop(f"skip {NEEDED}").min() > 0.7


def test_a_line_that_is_never_written_otherwise_has_no_importance(
    model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copies(model, requests: list[Request], **_: object) -> Iterator[Chain]:
        for r in requests:
            yield replace(chain_of(r.problem), sample=r.sample)

    monkeypatch.setattr(module, "decode", copies)
    found = line_importance(model, [chain_of("p")], answer, lexicon=TESTBED)
    assert found.to_frame()["importance"].isna().all() and (found.to_frame()["same"] == 1).all()
    assert found.anchors() == {}


def test_no_line_decides_where_the_answer_does_not_depend_on_the_thinking() -> None:
    """Real continuations of a bigram model: p below .05 in at most about one line of twenty."""
    model = Planted(n_blocks=2).model()
    chains = chains_of(model, 10, thinking=48)
    chains = [c for c in chains if len(c.thinking) > 8]
    found = line_importance(
        model, chains, lambda c: judge(c)["correct"], n=24, sampling=Sampling(), lexicon=TESTBED,
        stop_on_loop=False, regroupings=199,
    )  # fmt: skip
    frame = found.to_frame().dropna(subset=["importance"])
    assert len(frame) > 15
    assert (frame["p"] < 0.05).mean() <= 0.12
    assert abs(frame["importance"].mean()) < 0.06
    # The continuations are the model's own: with the chain's noise a fork repeats it.
    again = line_importance(
        model, chains, lambda c: judge(c)["correct"], n=24, sampling=Sampling(), lexicon=TESTBED,
        stop_on_loop=False, regroupings=199,
    )  # fmt: skip
    np.testing.assert_array_equal(again.rows["distance"], found.rows["distance"])


def test_continuations_think_no_longer_than_allowed(
    model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Request] = []

    def watched(model, requests: list[Request], **_: object) -> Iterator[Chain]:
        seen.extend(requests)
        return scripted(model, requests)

    monkeypatch.setattr(module, "decode", watched)
    for patience, want in ((1.0, 25), (2.0, 48), (9.0, 64)):
        seen.clear()
        line_importance(model, [chain_of("p")], answer, patience=patience, lexicon=TESTBED)
        assert {r.budgets[0].thinking for r in seen} == {want}


def test_distance_and_p_of_regroupings() -> None:
    rng = np.random.default_rng(0)
    distance, mean, p = regrouped(["a"] * 10, ["b"] * 10, 499, rng)
    assert distance == 1 and mean < 0.4 and p <= 2 / 500
    distance, mean, p = regrouped([1] * 6, [1] * 6, 99, rng)
    assert (distance, mean, p) == (0, 0, 1)
    distance, _, _ = regrouped([None, "a", "a", "b"], ["a", "b", "b", "b"], 99, rng)
    assert distance == pytest.approx(0.5)


def test_equal_laws_have_no_distance_on_average_and_nominal_p_values() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(600):
        one, other = rng.integers(0, 4, 12).tolist(), rng.integers(0, 4, 9).tolist()
        distance, mean, p = regrouped(one, other, 99, rng)
        found.append(((distance - mean) / (1 - mean), p))
    values = np.array(found)
    assert abs(values[:, 0].mean()) < 0.015
    assert np.mean(values[:, 1] <= 0.05) <= 0.07


def test_what_cannot_be_asked_is_refused(model: ReasoningModel) -> None:
    one = chain_of("p")
    cases = [
        ({"chains": []}, "at least one chain"),
        ({"variants": []}, "at least one chain and one variant"),
        ({"n": 3}, "n >= 4"),
        ({"regroupings": 5}, "regroupings from 19"),
        ({"regroupings": 100_001}, "to 100,000"),
        ({"patience": 0.5}, "patience >= 1"),
        ({"chains": [one, one]}, "occurs twice"),
        ({"lines": {("p", 0): LINES + 1}}, "no line 7"),
        ({"lines": {("q", 0): 1}}, "no line 1 of chain"),
        ({"chains": [make_chain([], thinking=Span(0, 0))]}, "no chain has a line"),
    ]
    for wrong, said in cases:
        given = {"chains": [one], "lexicon": TESTBED} | wrong
        with pytest.raises(UserError, match=said):
            line_importance(model, given.pop("chains"), answer, **given)
