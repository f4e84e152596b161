"""Block x window maps and forks: against decoding from the start, and the laws of windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.chains.chain import Budget, Chain
from interp.chains.noise import noise_key
from interp.counterfactuals.edits import ALL, Edit, ablated, fork_point, rerun, restored
from interp.counterfactuals.forks import along, around_loops, handover
from interp.counterfactuals.window_maps import (
    TimeMap,
    before_steps,
    changed_blocks,
    time_map,
    usual_windows,
)
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.diagnosis.loops import Loop
from interp.errors import UserError
from interp.interventions.interventions import MeanDelta, Skip, Variant, dense
from interp.interventions.timeline import steps_inside
from interp.interventions.windows import (
    Answer,
    AtTokens,
    ChainWindows,
    Site,
    Thinking,
    When,
    Window,
)
from interp.statistics import holm, paired_difference
from tests.models import tiny
from tests.reference import same_chain, skipped, slow_logprobs

LONG = Sampling(top_k=8)
PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7", "what ?"]
BUDGET = Budget(20, 4)


@pytest.fixture(scope="module")
def model():
    return tiny(ends=True, seed=3)


@pytest.fixture(scope="module")
def chains(model) -> list[Chain]:
    return list(model.generate(PROMPTS, budget=BUDGET, sampling=LONG, samples=2))


def judge(chain: Chain) -> dict[str, float]:
    """Numbers that depend on every token, so that equal outcomes mean equal chains."""
    ids = chain.ids.astype(float)
    return {"hash": float((ids * np.sqrt(2 + np.arange(len(ids)))).sum()), "tokens": len(ids)}


def all_from_the_start(model, chains: list[Chain], variants: list[Variant]) -> list[list[Chain]]:
    """The slow way: every chain decoded whole under each variant."""
    found = model.generate(PROMPTS, variants=variants, budget=BUDGET, sampling=LONG, samples=2)
    by_key = {(c.variant, c.problem, c.sample): c for c in found}
    return [[by_key[v.name, c.problem, c.sample] for c in chains] for v in variants]


def from_the_start(model, chains: list[Chain], variant: Variant) -> list[Chain]:
    return all_from_the_start(model, chains, [variant])[0]


def windows_of(model, chains: list[Chain]) -> dict[str, When | None]:
    starts = [None if i == 1 else 2 * i for i in range(len(chains))]
    stops = [None if s is None or s % 4 else s + 3 for s in starts]
    return {
        **usual_windows(model, 20, ("wait", "try", "7"), after=2),
        "everything": Window(-1),
        "thinking": Thinking(),
        "own": ChainWindows.of(chains, starts, stops),
        "never": AtTokens((3,)) & Window(500),
    }


def test_a_rerun_is_the_chain_decoded_from_the_start(model, chains) -> None:
    """Whatever the window, whatever the base: forking where it opens changes nothing."""
    cut = Variant("cut", (Skip(2, window=Window(4)),))
    for base, old in ((dense, chains), (cut, from_the_start(model, chains, cut))):
        edits = [
            Edit(name, block, ablated(base, block, when), when)
            for name, when in windows_of(model, chains).items()
            for block in (0, 3)
        ]
        if base is cut:
            edits += [
                Edit(name, 2, restored(base, 2, when), when)
                for name, when in windows_of(model, chains).items()
            ]
        got = {(e, c): chain for e, c, chain in rerun(model, old, edits, sampling=LONG)}
        alone = [Variant(f"w{e}", edit.variant.interventions()) for e, edit in enumerate(edits)]
        slow = all_from_the_start(model, old, alone)
        for e, edit in enumerate(edits):
            for c, chain in enumerate(slow[e]):
                found = got.get((e, c), old[c])
                assert same_chain(found, chain), (edit.name, edit.block, c)
                assert (found.thinking, found.answer) == (chain.thinking, chain.answer)
                never = not len(steps_inside(old[c], edit.when))
                assert ((e, c) not in got) == never
        assert not any(edits[e].name == "never" for e, _ in got)


def test_a_map_holds_what_each_variant_decoded_alone_gives(model, chains) -> None:
    windows = windows_of(model, chains)
    found = time_map(model, chains, windows, judge, blocks=[0, 3], sampling=LONG)
    pairs = [(w, l) for w in range(len(windows)) for l in range(2)]
    cut = [
        Variant(f"{name} {block}", (Skip(block, window=when),))
        for name, when in windows.items()
        for block in (0, 3)
    ]
    slow = dict(zip(pairs, all_from_the_start(model, chains, cut), strict=True))
    for w, when in enumerate(windows.values()):
        for l in range(2):
            for c, chain in enumerate(slow[w, l]):
                assert found.after["hash"][w, l, c] == judge(chain)["hash"]
                inside = len(steps_inside(chain, when))
                assert found.inside[w, l, c] == inside
    name = list(windows).index
    whole = found.changes("hash")[name("whole")]
    assert np.array_equal(whole, found.changes("hash")[name("everything")])
    assert (found.changes("hash")[name("never")] == 0).all()
    assert (whole != 0).any(), "the blocks do nothing here: nothing was tested"


def test_windows_that_share_no_step_add_up_to_their_union_in_the_passes_of_one_chain(
    model, chains
) -> None:
    """What disjoint windows change separately the whole changes at once: prompt and chain."""
    for chain in chains:
        prompt = steps_inside(chain, Window.prefill_only())
        rest = steps_inside(chain, Window.decode_only())
        assert np.array_equal(np.concatenate([prompt, rest]), steps_inside(chain, None))
    (chain,) = (chains[0],)
    both = Variant(
        "both",
        (Skip(1, window=Window.prefill_only()), Skip(1, window=Window.decode_only())),
    )
    (found,) = model.generate(PROMPTS[:1], variants=[both], budget=BUDGET, sampling=LONG, samples=1)
    want = slow_logprobs(model, found, {(1, "block"): skipped(found)})
    np.testing.assert_allclose(found.logprob, want, atol=1e-5)


def test_effects_are_paired_differences_with_holm_over_windows_and_blocks() -> None:
    rng = np.random.default_rng(0)
    shape = (2, 3, 12)
    before = rng.integers(0, 2, 12).astype(float)
    after = rng.integers(0, 2, shape).astype(float)
    inside = np.ones(shape, dtype=np.int64)
    inside[1, 2] = 0
    after[1, 2] = before
    problems = tuple(f"p{i // 2}" for i in range(12))
    found = TimeMap(
        "dense", False, "block", ("a", "b"), (4, 7, 9), problems, (0, 1) * 6, 0, tuple(range(10)),
        {"right": before}, {"right": after}, inside,
    )  # fmt: skip
    frame = found.to_frame().set_index(["window", "block"])
    for w, window in enumerate("ab"):
        for l, block in enumerate((4, 7, 9)):
            want = paired_difference(before.reshape(6, 2), after[w, l].reshape(6, 2))
            row = frame.loc[(window, block)]
            assert row["effect"] == pytest.approx(want.value)
            assert (row["low"], row["high"]) == pytest.approx((want.low, want.high))
            assert row["reached"] == (0.0 if (w, l) == (1, 2) else 1.0)
    assert np.isnan(frame.loc[("b", 9), "p"]), "nothing came there: there is nothing to test"
    np.testing.assert_allclose(frame["p_holm"], holm(frame["p"].to_numpy()))
    with pytest.raises(UserError, match="right"):
        found.changes("rigth")
    ax = found.plot("right")
    assert [t.get_text() for t in ax.get_xticklabels()] == ["4", "7", "9"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


def test_a_block_lost_from_a_step_on_is_the_windowed_skip(model, chains) -> None:
    points = {"early": [2] * len(chains), "own": [3 * i % 7 for i in range(len(chains))]}
    found = handover(model, chains, points, judge, blocks=[0, 2], sampling=LONG)
    assert found.reproduced == 1.0
    for l, block in enumerate((0, 2)):
        slow = from_the_start(model, chains, ablated(dense, block, Window(2)))
        assert found.effects.after["hash"][0, l].tolist() == [judge(c)["hash"] for c in slow]
    frame = found.to_frame()
    assert set(frame["doing"]) == {"lose"} and set(frame["window"]) == {"early", "own"}


def test_a_restoration_gives_back_one_block_or_all(model, chains) -> None:
    cut = Variant("cut", (Skip(0), Skip(2, window=Window(1)), Skip(3)))
    old = from_the_start(model, chains, cut)
    points = {"late": [6] * len(old)}
    found = handover(model, old, points, judge, base=cut, restore=True, sampling=LONG)
    assert found.effects.blocks == (0, 2, 3, ALL) == changed_blocks(cut)
    slow = {
        0: (Skip(0, window=~Window(6)), Skip(2, window=Window(1)), Skip(3)),
        2: (Skip(0), Skip(2, window=Window(1, 6)), Skip(3)),
        ALL: tuple(Skip(b, window=Window(a, 6)) for b, a in ((0, -1), (2, 1), (3, -1))),
    }
    for block, steps in slow.items():
        want = from_the_start(model, old, Variant("x", steps))
        l = found.effects.blocks.index(block)
        assert found.effects.after["hash"][0, l].tolist() == [judge(c)["hash"] for c in want]
    # Given back before anything was read, the whole variant is dense again.
    assert restored(cut, ALL, None).interventions() == ()


@given(
    spans=st.lists(st.tuples(st.integers(-1, 9), st.integers(1, 5)), min_size=1, max_size=4),
    data=st.data(),
)
def test_spans_are_each_rows_own(spans, data) -> None:
    keys = [noise_key(0, str(i), 0) for i in range(len(spans))]
    when = ChainWindows({k: (a, a + n) for k, (a, n) in zip(keys, spans, strict=True)})
    rows = data.draw(st.lists(st.integers(0, len(spans)), min_size=1, max_size=6))
    known = [*keys, noise_key(0, "stranger", 0)]
    at = Site(
        torch.arange(-1, 14)[None].expand(len(rows), -1), torch.tensor([known[r] for r in rows])
    )
    got = when.active(at)
    for r, row in enumerate(rows):
        want = [row < len(spans) and spans[row][0] <= s < sum(spans[row]) for s in range(-1, 14)]
        assert got[r].tolist() == want
    assert when.earliest == min(a for a, _ in spans)


def test_points_lie_where_they_say(chains) -> None:
    points = along(chains, (0.0, 0.5))
    assert list(points) == ["from 0%", "from 50%"]
    for chain, step in zip(chains, points["from 50%"], strict=True):
        assert step == (chain.n_thinking // 2 if chain.n_thinking >= 4 else None)
    loop = Loop("exact", period=5, onset=40, repeats=6.0, wasted=30)
    template = Loop("template", period=4, onset=3, repeats=10.0, wasted=70)
    around = around_loops([loop, None, template], before=8, passes=2)
    assert list(around.values()) == [[32, None, 0], [50, None, 17]]
    span = before_steps(chains[:3], [32, None, 4], 8)
    assert sorted(span.spans.values()) == [(0, 4), (24, 32)]


def test_a_fork_keeps_nothing_of_the_engines_and_leaves_something_to_choose(model) -> None:
    (chain,) = model.generate(PROMPTS[:1], budget=Budget(8, 4, waits=2), sampling=LONG, samples=1)
    for step in range(-1, chain.n_tokens):
        kept = fork_point(chain, step)
        assert not chain.forced[:kept].any()
        assert kept <= min(step + 1, chain.n_thinking, 7)
        assert Request(chain.problem, (1,), prefix=tuple(chain.ids[:kept].tolist()))


def test_what_cannot_be_mapped(model, chains) -> None:
    windows: dict[str, When | None] = {"answer": Answer()}
    with pytest.raises(UserError, match="no chain"):
        time_map(model, [], windows, judge)
    with pytest.raises(UserError, match="no window"):
        time_map(model, chains, {}, judge)
    with pytest.raises(UserError, match="pass the chains that it wrote"):
        time_map(model, chains, windows, judge, base=Variant("other", (Skip(0),)))
    with pytest.raises(UserError, match="changes no block"):
        time_map(model, chains, windows, judge, restore=True)
    with pytest.raises(UserError, match="does nothing to block 3"):
        restored(Variant("cut", (Skip(0),)), 3, None)
    with pytest.raises(UserError, match="the same problem, sample and seed"):
        list(rerun(model, [chains[0], chains[0]], []))
    with pytest.raises(UserError, match="told apart"):
        ChainWindows.of([chains[0], chains[0]], [1, 2])
    with pytest.raises(UserError, match="no chain"):
        ChainWindows({})
    with pytest.raises(UserError, match=r"span \[4, 4\)"):
        ChainWindows({1: (4, 4)})
    with pytest.raises(UserError, match="parts=0"):
        usual_windows(model, 20, parts=0)
    with pytest.raises(UserError, match="one or more from 0"):
        along(chains, (1.0,))
    mean = Variant("mean", (MeanDelta(1, mean=torch.zeros(model.d_model)),))
    assert restored(mean, 1, Window(3)).interventions()[0].window is not None
