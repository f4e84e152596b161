"""Planted ground truth: models written by hand, in which it is known which block carries what.

The maps name that block, in the window in which it acts, and the others show no effect more often
than chance allows.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from interp.chains.chain import Chain
from interp.counterfactuals.edits import ALL
from interp.counterfactuals.forks import along, around_loops, handover
from interp.counterfactuals.window_maps import time_map, usual_windows
from interp.diagnosis.events import mark
from interp.diagnosis.loops import find_loop
from interp.heads import HeadLens
from interp.interventions.interventions import AblateHeads, Skip, Variant, dense
from interp.interventions.windows import Window
from interp.lens import contributions
from tests.planted import NEVER, WORD, Planted, chains_of, judge, pair

N = 24
ALPHA = 0.05


@cache
def carriers():
    planted = Planted(n_blocks=5, copier=2, answerer=1)
    model = planted.model()
    return planted, model, chains_of(model, N, thinking=64)


@cache
def reflecting():
    planted = Planted(n_blocks=5, opener=3, ends=-1.0)
    model = planted.model()
    return planted, model, chains_of(model, N, thinking=64)


@cache
def braked():
    planted = Planted(n_blocks=5, copier=1, brake=3)
    model = planted.model()
    return planted, model, chains_of(model, N)


@cache
def mapped(which):
    _, model, chains = which()
    windows = usual_windows(model, 64, ("wait",))
    if which is carriers:  # its chains are long
        windows = {name: windows[name] for name in ("whole", "prompt", "chain", "0-15", "answer")}
    return time_map(model, chains, windows, judge, stop_on_loop=False).to_frame()


def named(frame, outcome: str, window: str) -> set[int]:
    """The blocks with a clear effect."""
    rows = frame[(frame["outcome"] == outcome) & (frame["window"] == window)]
    return set(rows.loc[rows["p_holm"] < ALPHA, "block"].astype(int))


def test_the_models_do_what_was_written() -> None:
    planted, _, chains = carriers()
    outcomes = [judge(chain) for chain in chains]
    assert np.mean([o["looped"] for o in outcomes]) > 0.3
    assert np.mean([o["correct"] for o in outcomes]) > 0.8
    looping = next(find_loop(c.thinking_ids) for c in chains if judge(c)["looped"])
    assert looping is not None and looping.period == planted.period
    assert planted.neutral == (0, 3, 4)
    held = braked()[2]
    assert np.mean([judge(c)["looped"] for c in held]) == 0
    assert min(pair(0)) > max(WORD["wait"], WORD["yes"]) and NEVER < -10


@pytest.mark.parametrize(
    ("which", "outcome", "block", "windows", "blind"),
    [
        (carriers, "looped", "copier", ["whole", "chain"], ["prompt", "answer"]),
        (carriers, "correct", "answerer", ["whole", "chain", "answer"], ["prompt", "0-15"]),
        (reflecting, "waits", "opener", ["whole", "chain"], ["prompt", "answer"]),
    ],
    ids=["copier", "answerer", "opener"],
)
def test_the_map_names_the_block_in_the_windows_in_which_it_acts(
    which, outcome: str, block: str, windows: list[str], blind: list[str]
) -> None:
    planted, frame = which()[0], mapped(which)
    for window in windows:
        assert named(frame, outcome, window) == {getattr(planted, block)}, window
    for window in blind:
        assert named(frame, outcome, window) == set(), window
    rows = frame[(frame["outcome"] == outcome) & (frame["window"] == windows[0])]
    assert rows.loc[rows["effect"].abs().idxmax(), "block"] == getattr(planted, block)


def test_losing_the_brake_starts_loops_and_giving_it_back_ends_them() -> None:
    planted, model, chains = braked()
    lost = handover(model, chains, along(chains, (0.25,)), judge, stop_on_loop=False)
    assert lost.reproduced == 1.0
    frame = lost.to_frame()
    assert named(frame, "looped", "from 25%") == {planted.brake}
    assert planted.brake is not None
    gone = Variant("pruned", (Skip(0), Skip(planted.brake)))
    looping = [c for c in chains_of(model, N, gone) if judge(c)["looped"]]
    assert len(looping) > N / 2
    points = around_loops([find_loop(c.thinking_ids) for c in looping], before=8)
    back = handover(model, looping, points, judge, base=gone, restore=True, stop_on_loop=False)
    assert back.reproduced == 1.0
    for point in points:
        # Block 0 trades two numbers; only the brake, alone or with it, ends a loop.
        assert named(back.to_frame(), "looped", point) == {planted.brake, ALL}, point


def test_windows_agree_with_the_whole() -> None:
    """The answerer acts in one pass, so every window that holds it does what the whole does."""
    frame = mapped(carriers).set_index(["outcome", "window", "block"])["effect"]
    for window in ("chain", "answer"):
        assert frame["correct", window, 1] == frame["correct", "whole", 1]
    frame = mapped(reflecting).set_index(["outcome", "window", "block"])["effect"]
    whole = frame["waits", "whole", 3]
    parts = [frame["waits", w, 3] for w in ("0-15", "16-31", "32-47", "48-63")]
    assert all(part <= 0 for part in parts)
    assert sum(parts) == pytest.approx(whole, abs=0.5 * abs(whole))


def test_what_each_block_writes_and_which_head_copies() -> None:
    planted, model, chains = carriers()
    looping = [c for c in chains if judge(c)["looped"]]
    rows = []
    for chain in looping:
        loop = find_loop(chain.thinking_ids)
        mask = np.zeros(chain.n_tokens, dtype=bool)
        mask[loop.onset + loop.period : chain.thinking.stop] = True  # type: ignore[union-attr]
        rows.append(mask)
    writer, opening, reflective = reflecting()
    marks = mark(reflective, opening)["reflection"]
    opens = [m & (c.ids == WORD["wait"]) for m, c in zip(marks, reflective, strict=True)]
    for read, few, events, block in (
        (model, looping, {"loop": rows}, planted.copier),
        (opening, reflective, {"opens": opens}, writer.opener),
    ):
        frame = contributions(read, few, events=events).by_event()
        frame = frame[(frame["part"] == "block") & (frame["target"] == "chosen")]
        assert frame.loc[frame["mean"].idxmax(), "block"] == block
    with HeadLens(model) as reader:
        scores = reader.scores(looping, rows, periods=[planted.period] * len(looping))
    best = np.unravel_index(scores.mean("period").argmax(), scores.mean("period").shape)
    assert (int(best[0]), int(best[1])) == (planted.copier, 0)
    assert scores.mean("period")[best] > 0.95
    variants = [dense] + [
        Variant(f"head {b}.{h}", (AblateHeads(b, heads=(h,)),))
        for b, h in ((2, 0), (2, 1), (0, 0), (4, 3))
    ]
    after = {
        v.name: np.mean([judge(c)["looped"] for c in chains_of(model, N, v)]) for v in variants
    }
    assert after.pop("head 2.0") == 0
    assert min(after.values()) > 0.5


@pytest.mark.parametrize(
    "n_seeds", [4, pytest.param(60, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_blocks_that_carry_nothing_are_named_no_more_often_than_chance_allows(n_seeds: int) -> None:
    """Uncorrected p < .05 on the neutral blocks, over seeds: at or under the nominal level."""
    planted = Planted(n_blocks=5, copier=2, copy=5.5, ends=1.0)
    model = planted.model()
    windows = {"whole": None, "chain": Window.decode_only()}
    p, alive, wrong = [], [], 0
    for seed in range(n_seeds):
        chains = chains_of(model, 20, seed=seed + 1, thinking=48)
        found = time_map(
            model, chains, windows, lambda c: judge(c) | copied(c, planted.period),
            blocks=planted.neutral, stop_on_loop=False,
        )  # fmt: skip
        assert (found.changes("copied") != 0).any(), "these blocks do nothing at all"
        frame = found.to_frame()
        part = frame[frame["outcome"].isin(["looped", "waits", "copied", "length"])]
        p += part["p"].tolist()
        alive += frame.loc[frame["outcome"] == "copied", "p"].tolist()
        wrong += bool((part["p_holm"] < ALPHA).any())
    # Tests of one seed go together (windows, outcomes), so the bound is for a tenth as many.
    tests = len(p) // 10
    assert np.mean(np.array(p) < ALPHA) <= binom.ppf(0.999, tests, ALPHA) / tests
    assert wrong <= binom.ppf(0.999, n_seeds, 4 * ALPHA)
    # The test is alive: p values of an outcome with many values fall under every level.
    assert np.quantile(alive, 0.5) < 0.9
    assert n_seeds < 20 or 0.03 < np.mean(np.array(alive) < 0.1) < 0.2


def copied(chain: Chain, period: int) -> dict[str, float]:
    """The share of tokens that are those a period before: numbers enter it alike."""
    ids = chain.thinking_ids
    share = np.mean(ids[period:] == ids[:-period]) if len(ids) > period else 0.0
    return {"copied": float(share), "length": float(len(ids))}
