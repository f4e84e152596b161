"""Probes: features equal to a slow pass, labels by their definition, controls that can say no."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager, suppress
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.chains.chain import Budget, Chain, Span
from interp.diagnosis import TESTBED
from interp.diagnosis.events import mark
from interp.errors import NonFiniteError, UserError
from interp.interventions.interventions import MeanDelta, Scale, Skip, Variant
from interp.interventions.patches import Patch
from interp.interventions.windows import Window
from interp.model.reasoning_model import ReasoningModel
from interp.probes import Examples, Probes, fitting, foretell, gather, outcome, probe, probe_ahead
from interp.probes.fitting import FitDesign, auc_of
from interp.probes.folds import shuffled
from pruning.plan import LayerPlan
from pruning.surgery import prune
from tests.chains import make_chain
from tests.drawing import max_examples
from tests.models import ARCHS, tiny, untyped
from tests.slow_streams import hooks_of, same_weights, snapshot, streams

PROMPTS, LENGTHS = (4, 1, 9, 2), (7, 15, 3, 30)
STREAMS = ("resid_pre", "resid_post", "delta")


def chain(
    model: ReasoningModel, prompt: int, length: int, seed: int = 0, problem: str = "0"
) -> Chain:
    """A chain of random ids: what it says does not matter here."""
    ids = np.random.default_rng((seed, prompt, length)).integers(6, model.vocab_size, 300)
    return make_chain(
        ids[prompt : prompt + length], ids[:prompt], problem=problem, seed=seed,
        thinking=Span(0, max(length - 2, 0)),
    )  # fmt: skip


def some_chains(model: ReasoningModel) -> list[Chain]:
    return [chain(model, p, n) for p, n in zip(PROMPTS, LENGTHS, strict=True)]


PICKS = ([6, 0, 3], [14], [], [0, 29, 5, 5])


def slow(model: ReasoningModel, chains: list[Chain], picks: Any, stream: str) -> np.ndarray:
    """Each pick by the definition: one chain at a time, row s at position P - 1 + s."""
    found = []
    for one, wanted in zip(chains, picks, strict=True):
        x = streams(model, [*one.prompt_ids, *one.ids])
        parts = {"resid_pre": x[:-1], "resid_post": x[1:], "delta": x[1:] - x[:-1]}
        found += [parts[stream][:, len(one.prompt_ids) - 1 + s] for s in wanted]
    return np.stack(found)


# ------------------------------------------------------------------------------- gather


@pytest.mark.parametrize("arch", ARCHS)
def test_gathered_streams_are_those_of_each_chain_alone(arch: str) -> None:
    model = tiny(arch, 3)
    chains = some_chains(model)
    for stream in STREAMS:
        found = gather(model, chains, PICKS, stream=stream, batch_tokens=40)
        assert found.dtype == np.float32 and found.shape == (8, 3, model.d_model)
        np.testing.assert_allclose(found, slow(model, chains, PICKS, stream), atol=1e-4, rtol=1e-5)


@max_examples(8)
@given(
    batch_tokens=st.integers(1, 120),
    chunk_tokens=st.one_of(st.none(), st.integers(1, 12)),
    seed=st.integers(0, 99),
)
def test_gathering_does_not_depend_on_batches_chunks_or_order(
    batch_tokens: int, chunk_tokens: int | None, seed: int
) -> None:
    model = tiny("qwen3", 3)
    chains = some_chains(model)
    whole = gather(model, chains, PICKS)
    order = np.random.default_rng(seed).permutation(len(chains))
    moved = gather(
        model,
        [chains[i] for i in order],
        [PICKS[i] for i in order],
        batch_tokens=batch_tokens,
        chunk_tokens=chunk_tokens,
    )
    ends = np.cumsum([0, *map(len, PICKS)]).tolist()
    back = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in order])
    np.testing.assert_allclose(moved, whole[back], atol=2e-5)


def test_gathering_some_blocks_gives_those_of_all_in_the_order_asked() -> None:
    model = tiny("gemma3", 4)
    chains = some_chains(model)
    whole = gather(model, chains, PICKS)
    gather(model, chains, PICKS, blocks=[2, 0])  # what a block gives is tried once
    calls: list[int] = []
    inner: Any = model.blocks[3]
    handle = inner.self_attn.register_forward_hook(lambda *_: calls.append(1))
    few = gather(model, chains, PICKS, blocks=[2, 0])
    handle.remove()
    np.testing.assert_allclose(few, whole[:, [2, 0]], atol=1e-6)
    assert not calls, "blocks above the last one asked for need not be computed"
    assert all("forward" not in block.__dict__ for block in model.blocks)


def test_a_variant_that_lacks_a_block_gathers_as_the_pruned_model() -> None:
    model = tiny("qwen3", 4)
    chains = some_chains(model)
    pruned = prune(model, LayerPlan.without(model, 1))
    live = gather(model, chains, PICKS, variant=Variant("x", (Skip(1),)), blocks=[0, 2, 3])
    gone = gather(pruned, chains, PICKS)
    np.testing.assert_allclose(live, gone, atol=1e-5)
    assert np.abs(live - gather(model, chains, PICKS, blocks=[0, 2, 3])).max() > 0.01
    with pytest.raises(UserError, match="was removed"):
        gather(pruned, chains, PICKS, blocks=[1])


@pytest.mark.parametrize("chunk_tokens", [None, 5])
def test_a_window_acts_where_it_acted_at_decoding(chunk_tokens: int | None) -> None:
    """Block 1 adds half from step 2 on: step s is position P + s."""
    model = tiny("llama", 3)
    chains = some_chains(model)
    half = Variant("half", (Scale(1, gain=0.5, window=Window(2)),))
    found = gather(model, chains, PICKS, variant=half, chunk_tokens=chunk_tokens)
    expected = []
    for one, wanted in zip(chains, PICKS, strict=True):
        step = torch.arange(len(one.prompt_ids) + one.n_tokens) - len(one.prompt_ids)
        gain = torch.where(step >= 2, 0.5, 1.0)[:, None]
        kept: dict[int, torch.Tensor] = {}

        def hook(i: int, args: Any, out: Any, gain: Any = gain, kept: Any = kept) -> Any:
            y = args[0] + gain * (out - args[0]) if i == 1 else out
            kept[i] = y[0]
            return y

        handles = [
            b.register_forward_hook(lambda _, args, out, i=i, hook=hook: hook(i, args, out))
            for i, b in enumerate(model.blocks)
        ]
        with torch.no_grad():
            model.hf(torch.tensor([[*one.prompt_ids, *one.ids]]), use_cache=False)
        for handle in handles:
            handle.remove()
        at = [len(one.prompt_ids) - 1 + s for s in wanted]
        expected.append(torch.stack([kept[i][at] for i in range(3)], dim=1).numpy())
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)
    assert np.abs(found - gather(model, chains, PICKS)).max() > 0.01


def test_gathering_what_is_too_large_is_refused_before_anything_runs() -> None:
    model = tiny("qwen3", 4)
    chains = some_chains(model)
    size = 4 * 8 * 4 * model.d_model
    assert gather(model, chains, PICKS, max_bytes=size).nbytes == size
    model.blocks[0].register_forward_pre_hook(lambda *_: pytest.fail("a pass was run"))
    with pytest.raises(UserError, match=r"8 rows x 4 blocks x 32 .* GiB.*fewer"):
        gather(model, chains, PICKS, max_bytes=size - 1)
    with pytest.raises(UserError, match=r"take 1\.19 GiB; allowed are 1\.00"):
        gather(model, chains[:1], [np.zeros(2_500_000, dtype=int)], max_bytes=2**30)


def test_gather_leaves_the_model_alone_and_its_hooks_are_gone_after_an_exception() -> None:
    model = tiny("qwen3", 3)
    chains = some_chains(model)
    before, hooks = snapshot(model), hooks_of(model)
    gather(model, chains, PICKS)
    assert same_weights(model, before) and hooks_of(model) == hooks
    with torch.no_grad():
        untyped(model.hf).get_input_embeddings().weight[int(chains[1].ids[3])] = torch.nan
    with pytest.raises(NonFiniteError, match=r"block \[0, 1, 2\]"):
        gather(model, chains, PICKS)
    assert hooks_of(model) == hooks
    assert all("forward" not in block.__dict__ for block in model.blocks)


def test_gather_refuses_what_makes_no_sense() -> None:
    model = tiny("qwen3", 2)
    chains = some_chains(model)
    assert gather(model, chains, [[]] * 4).shape == (0, 2, model.d_model)
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("4 chains but picks for 1", [[0]], {}),
        ("rows 0..6", [[7], [], [], []], {}),
        ("rows 0..6", [[-1], [], [], []], {}),
        ("np.flatnonzero", [np.ones(7, dtype=bool), [], [], []], {}),
        ("np.flatnonzero", [np.array([0.5]), [], [], []], {}),
        ("none twice", PICKS, {"blocks": [1, 1]}),
        ("at least one block", PICKS, {"blocks": []}),
        ("Block 2 is not there", PICKS, {"blocks": [2]}),
        ("Patch", PICKS, {"variant": Variant("x", (Patch(0, row=1),))}),
    ]
    for match, picks, options in cases:
        with pytest.raises(UserError, match=match):
            gather(model, chains, picks, **options)


# ------------------------------------------------------------------------------- labels


def draw_masks(seed: int, n: int = 12, size: int = 90) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(n):
        mask = np.zeros(rng.integers(1, size), dtype=bool)
        for begin in rng.integers(0, len(mask), size=rng.integers(0, 4)):
            mask[begin : begin + rng.integers(1, 12)] = True
        masks.append(mask)
    return masks


@max_examples(40)
@given(
    seed=st.integers(0, 10**6),
    ahead=st.integers(1, 12),
    negatives=st.integers(1, 2),
    bin_tokens=st.integers(1, 40),
    source=st.sampled_from(["all", "event", "never"]),
    per_event=st.one_of(st.none(), st.integers(1, 3)),
)
def test_examples_are_what_they_are_said_to_be(
    seed: int, ahead: int, negatives: int, bin_tokens: int, source: Any, per_event: int | None
) -> None:
    """Row by row from the definition: what was read, what comes, and what was matched."""
    masks = draw_masks(seed)
    within = [np.random.default_rng(seed).random(len(m)) < 0.9 for m in masks]
    problems = [i // 2 for i in range(len(masks))]
    ask: dict[str, Any] = {
        "within": within, "negatives": negatives, "bin_tokens": bin_tokens, "folds": 3,
        "negatives_from": source, "per_event": per_event, "seed": seed,
    }  # fmt: skip
    try:
        found = foretell(masks, ahead, problems, **ask)
    except UserError:
        return
    used: dict[int, int] = {}
    for c, s, label in zip(found.chains, found.rows, found.labels, strict=True):
        mask = masks[c].tolist()
        begins = [i for i in range(len(mask)) if mask[i] and (i == 0 or not mask[i - 1])]
        assert within[c][s]
        assert s == 0 or not mask[s - 1], "a token of the event has been read"
        assert s + ahead <= len(mask), "what comes is not known"
        coming = [b for b in begins if s <= b < s + ahead]
        assert bool(coming) == label
        if label:
            key = int(c) * 1000 + coming[0]
            used[key] = used.get(key, 0) + 1
        elif source != "all":
            assert any(mask) == (source == "event")
    assert per_event is None or max(used.values()) <= per_event
    where = list(zip(found.chains.tolist(), found.rows.tolist(), strict=True))
    assert where == sorted(set(where)), "sorted, and no row twice"
    np.testing.assert_array_equal(found.bins, found.rows // bin_tokens)
    np.testing.assert_array_equal(found.problems, found.chains // 2)
    for problem in set(found.problems.tolist()):
        assert len(set(found.folds[found.problems == problem])) == 1
    for cell in set(zip(found.bins, found.folds, strict=True)):
        here = (found.bins == cell[0]) & (found.folds == cell[1])
        assert (~found.labels[here]).sum() == negatives * found.labels[here].sum()
        for c in set(found.chains[here & found.labels]):
            assert (~found.labels[here & (found.chains != c)]).sum() >= negatives
    again = foretell(masks, ahead, problems, **ask)
    assert all(
        np.array_equal(getattr(found, f.name), getattr(again, f.name))
        for f in dataclasses.fields(found)
    )


def test_picks_come_back_in_the_order_of_the_examples() -> None:
    masks = draw_masks(3)
    found = foretell(masks, 5, list(range(12)), folds=3)
    picks = found.picks(len(masks))
    assert len(picks) == len(masks)
    np.testing.assert_array_equal(np.concatenate(picks), found.rows)
    np.testing.assert_array_equal(np.repeat(np.arange(12), [len(p) for p in picks]), found.chains)
    assert list(found.to_frame()) == "asked chain row label problem bin fold".split()


def test_matching_by_step_leaves_position_nothing_to_tell() -> None:
    """Loops begin late, so the step alone would tell; it does not among matched examples."""
    rng = np.random.default_rng(0)
    masks = [np.zeros(200, dtype=bool) for _ in range(80)]
    for mask in masks[:40]:
        mask[rng.integers(100, 190) :] = True
    problems = [i % 40 for i in range(80)]
    found = foretell(masks, 8, problems)
    assert found.labels.sum() == 160 and found.unmatched == 0
    assert found.position_auc == pytest.approx(0.5, abs=0.02)
    every = np.r_[found.rows[found.labels], np.tile(np.arange(193), 80)]
    anywhere = Examples(
        "unmatched", 0 * every, every, np.arange(len(every)) < 160, 0 * every, 0 * every, 0 * every
    )
    assert anywhere.position_auc > 0.7
    features = np.zeros((len(found), 1, 2), dtype=np.float32)
    features[:, 0, 0] = found.rows  # a residual that holds the position and nothing else
    ask: dict[str, Any] = {"rows": found.rows, "bins": found.bins, "permutations": 10}
    told = probe(features, found.labels, found.problems, folds=found.folds, **ask)
    assert told.baselines["position"].value == pytest.approx(0.5, abs=0.03)
    assert told.auc[0] == pytest.approx(0.5, abs=0.03)


def test_positives_without_a_match_are_left_out_and_counted() -> None:
    masks = [np.zeros(n, dtype=bool) for n in (60, 60, 20, 20)]
    masks[0][50] = masks[1][10] = True
    found = foretell(masks, 4, "abcd", per_event=None, bin_tokens=5, folds=2, seed=1)
    alone = foretell(
        masks, 4, "abcd", per_event=None, bin_tokens=5, folds=2, negatives_from="never"
    )
    assert found.labels.sum() + found.unmatched == alone.labels.sum() + alone.unmatched == 8
    assert alone.unmatched >= 4, "no chain without the event reaches row 47"


def test_foretell_refuses_what_makes_no_sense() -> None:
    masks = draw_masks(1)
    names = list(range(12))
    never = [np.zeros(30, dtype=bool)] * 4
    one_late = [np.zeros(99, dtype=bool), *never[:3]]
    one_late[0][90] = True
    cases: list[tuple[str, Any, Any, Any, dict[str, Any]]] = [
        ("ahead=0", masks, 0, names, {}),
        ("negatives=0", masks, 1, names, {"negatives": 0}),
        ("bin_tokens=0", masks, 1, names, {"bin_tokens": 0}),
        ("per_event=0", masks, 1, names, {"per_event": 0}),
        ("never begins within 3", never, 3, names[:4], {"folds": 2}),
        ("wider bins", one_late, 3, names[:4], {"folds": 2}),
        ("expected a boolean for each", [m.astype(int) for m in masks], 1, names, {}),
        ("a mask of `within` for 1 chains of 12", masks, 1, names, {"within": masks[:1]}),
        ("mask of `within` of chain 0", masks, 1, names, {"within": [masks[0][:-1], *masks[1:]]}),
        ("11 problems for 12 chains", masks, 1, names[:11], {}),
        ("12 problems cannot be cut into 13", masks, 1, names, {"folds": 13}),
    ]
    for match, given_masks, ahead, problems, options in cases:
        with pytest.raises(UserError, match=match):
            foretell(given_masks, ahead, problems, **options)


def test_outcome_asks_at_a_point_of_the_way() -> None:
    model = tiny("qwen3", 1)
    lengths = (12, 42, 4, 2, 22)
    chains = [chain(model, 2, n, problem=str(i)) for i, n in enumerate(lengths)]
    wrong = [True, False, True, False, True]  # thinking is all but the last two tokens
    half = outcome(chains, wrong, fraction=0.5, folds=2)
    assert half.chains.tolist() == [0, 1, 2, 4]  # chain 3 has no thinking
    assert half.rows.tolist() == [5, 20, 1, 10]
    assert half.labels.tolist() == [True, False, True, True]
    assert half.problems.tolist() == ["0", "1", "2", "4"]
    end = outcome(chains, wrong, before_end=0, folds=2)
    assert end.rows.tolist() == [10, 40, 2, 20], "all of the thinking read, the next is chosen"
    assert outcome(chains, wrong, fraction=1.0, folds=2).rows.tolist() == end.rows.tolist()
    far = outcome(chains, wrong, before_end=8, folds=2)
    assert far.rows.tolist() == [2, 32, 12], "chain 2 has not so many"
    whole = outcome(chains, wrong, before_end=1, part="chain", folds=2)
    assert whole.rows.tolist() == [10, 40, 2, 0, 20]
    quarter = outcome(chains, np.array(wrong), fraction=0.25, n_bins=2, folds=2)
    assert (quarter.bins == (quarter.rows > np.median(quarter.rows))).all()
    assert len(set(quarter.folds)) == 2


def test_outcome_refuses_what_makes_no_sense() -> None:
    model = tiny("qwen3", 1)
    chains = [chain(model, 2, 9, problem=str(i)) for i in range(4)]
    wrong = [True, False, True, False]
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("3 labels for 4 chains", wrong[:3], {"fraction": 0.5}),
        ("0 and 1", [2, 0, 1, 1], {"fraction": 0.5}),
        ("True or False", ["yes", "no", "yes", "no"], {"fraction": 0.5}),
        ("either fraction or before_end", wrong, {}),
        ("either fraction or before_end", wrong, {"fraction": 0.5, "before_end": 1}),
        ("from 0 to 1", wrong, {"fraction": 1.5}),
        ("0 tokens or more", wrong, {"before_end": -1}),
        ("from 1 to", wrong, {"fraction": 0.5, "n_bins": 0}),
        ("no chain has a thinking that long", wrong, {"before_end": 50}),
        ("cannot be cut into 5", wrong, {"fraction": 0.5}),
    ]
    for match, labels, options in cases:
        with pytest.raises(UserError, match=match):
            outcome(chains, np.array(labels), **options)


# ------------------------------------------------------------------------------- probes


def noise(seed: int, groups: int = 20, size: int = 3, blocks: int = 1, d: int = 3) -> Any:
    """Features and labels that go together by problem, and have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), size)
    own = rng.standard_normal((groups, blocks, d))[group]
    features = own + 0.5 * rng.standard_normal((len(group), blocks, d))
    labels = (rng.permutation(groups) < groups * 0.4)[group] ^ (rng.random(len(group)) < 0.05)
    return features.astype(np.float32), labels, group


def slow_auc(scores: np.ndarray, labels: np.ndarray, fold: np.ndarray) -> float:
    """Share of (positive, negative) pairs of one fold in order, a tie being half of one."""
    won = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in np.flatnonzero(labels)
        for j in np.flatnonzero(~labels)
        if fold[i] == fold[j]
    ]
    return float(np.mean(won)) if won else float("nan")


@max_examples(60)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 30), ties=st.integers(1, 30))
def test_auc_is_the_share_of_pairs_in_order(seed: int, n: int, ties: int) -> None:
    """With weights: the same as each example written down so many times."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, ties, n).astype(float), rng.random(n) < 0.5
    fold, weights = rng.integers(0, 3, n), rng.integers(0, 4, (2, n))
    found = auc_of(scores, labels, fold)
    assert found[0] == pytest.approx(slow_auc(scores, labels, fold), nan_ok=True)
    for row, value in zip(weights, auc_of(scores, labels, fold, weights), strict=True):
        again = np.repeat(np.arange(n), row)
        expected = slow_auc(scores[again], labels[again], fold[again])
        assert value == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("d", [5, 90])
def test_a_probe_is_a_standardised_logistic_regression_held_out_by_problem(d: int) -> None:
    """For few features and for more than twice the rows, which go through inner products."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels, group = noise(1, groups=12, blocks=2, d=d)
    features *= np.geomspace(1e-3, 1e3, d, dtype=np.float32)
    fold = np.arange(12)[group] % 3
    found = probe(features, labels, group, folds=fold, C=0.7, permutations=10)
    for l in range(2):
        scores = np.zeros(len(labels))
        for n in range(3):
            train, test = fold != n, fold == n
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.7 / d, tol=1e-8))
            model.fit(features[train, l].astype(float), labels[train])
            share = labels[train].mean()
            scores[test] = model.decision_function(features[test, l].astype(float))
            scores[test] -= np.log(share / (1 - share))
        np.testing.assert_allclose(found.scores[l], scores, atol=1e-2)
        assert found.auc[l] == pytest.approx(slow_auc(found.scores[l], labels, fold))
        right = [(found.scores[l][labels == y] > 0) == y for y in (True, False)]
        assert found.balanced_accuracy[l] == pytest.approx(np.mean([r.mean() for r in right]))


@contextmanager
def written(model: ReasoningModel, block: int, marked: set[tuple[int, ...]], size: float) -> Any:
    """While open, `block` writes a fixed direction into rows whose first ids are marked."""
    rows: list[torch.Tensor] = []
    direction = torch.zeros(model.d_model)
    direction[::3] = size

    def look(_: Any, args: Any, kwargs: Any) -> None:
        rows[:] = [kwargs["input_ids"]]

    def write(_: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        hit = torch.tensor([tuple(ids[:4].tolist()) in marked for ids in rows[0]])
        return out + hit[:, None, None] * direction

    handles = [
        model.anatomy.base.register_forward_pre_hook(look, with_kwargs=True),
        model.blocks[block].register_forward_hook(write),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_a_direction_written_by_a_block_is_found_from_that_block_on() -> None:
    """Law: at chance, inside the control, before; near 1 from there on. Through a real model."""
    model = tiny("qwen3", 4)
    chains = [chain(model, 4, 12, seed=i, problem=str(i // 2)) for i in range(120)]
    labels = np.random.default_rng(0).random(120) < 0.5
    asked = outcome(chains, labels, fraction=0.5)
    marked = {tuple(c.prompt_ids.tolist()) for c, y in zip(chains, labels, strict=True) if y}
    with written(model, 2, marked, size=3.0):
        features = gather(model, chains, asked.picks(120))
        entering = gather(model, chains, asked.picks(120), stream="resid_pre", blocks=[2, 3])
    ask: dict[str, Any] = {"folds": asked.folds, "draws": 200, "permutations": 10}
    found = probe(features, asked.labels, asked.problems, **ask)
    assert (found.auc[2:] > 0.97).all()
    assert (found.p_holm[2:] < 1e-3).all()
    assert (found.selectivity[2:] > 0.4).all()
    assert (found.balanced_accuracy[2:] > 0.9).all()
    assert (found.auc[:2] < found.control_high[:2]).all()
    assert (found.p_holm[:2] > 0.05).all()
    assert (found.low[:2] < 0.5).all() and (found.low[2:] > 0.9).all()
    before = probe(entering, asked.labels, asked.problems, blocks=[2, 3], **ask)
    assert before.blocks == (2, 3)
    assert before.auc[0] == pytest.approx(found.auc[1]) and before.auc[1] > 0.97


def test_noise_is_found_no_more_often_than_said() -> None:
    """p under clustered noise is near uniform; a shuffle example by example would not do."""
    p, free, spread = [], [], []
    for seed in range(2):
        features, labels, group = noise(seed, groups=21, blocks=24)
        found = probe(features, labels, group, folds=3, permutations=10, draws=100, seed=seed)
        p += found.p.tolist()
        spread.append(found.null.std(axis=1).mean())
        assert found.control_mean.mean() == pytest.approx(0.5, abs=0.05)
        ratio = found.auc.std() / spread[-1]
        assert 0.6 < ratio < 1.6, "the control spreads as the AUC itself does"
        alone = np.arange(len(labels))  # as if each example were a problem of its own
        rng = np.random.default_rng(seed)
        again = [shuffled(labels, alone, 0 * alone, rng) for _ in range(60)]
        trial = FitDesign(np.arange(21)[group] % 3, group, (1.0,), None)
        scores, _ = trial.scores(features[:, 0], np.stack(again))
        free += [slow_auc(s, y, trial.fold) for s, y in zip(scores, again, strict=True)]
    assert np.std(free) < 0.75 * np.mean(spread)
    assert np.mean(np.array(p) < 0.05) <= 0.1
    assert np.mean(np.array(p) < 0.25) == pytest.approx(0.25, abs=0.15)
    assert np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.2)


def test_what_tells_problems_apart_and_no_more_is_at_chance() -> None:
    """Held out example by example, the same features tell everything: that is the leak."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold, cross_val_score

    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 6)
    labels = (np.arange(30) % 2 == 0)[rng.permutation(30)][group]
    features = rng.standard_normal((30, 6, 64))[group].astype(np.float32)
    for l in range(6):
        cut = KFold(5, shuffle=True, random_state=0)
        plain = LogisticRegression()
        leaked = cross_val_score(plain, features[:, l], labels, cv=cut, scoring="roc_auc")
        assert leaked.min() > 0.99
    found = probe(features, labels, group, permutations=10)
    assert (found.p_holm > 0.05).all() and found.auc.mean() == pytest.approx(0.5, abs=0.12)
    assert ((found.low < 0.5) & (found.high > 0.5)).mean() >= 0.5


@max_examples(40)
@given(seed=st.integers(0, 10**6))
def test_a_shuffle_gives_a_problem_the_labels_of_another(seed: int) -> None:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(6), 4)
    strata = np.tile([0, 0, 1, 1], 6)
    labels = rng.random(24) < 0.5
    found = shuffled(labels, group, strata, rng)
    given_up = sorted(labels.reshape(6, 4).tolist())
    assert sorted(found.reshape(6, 4).tolist()) == given_up, "problems of equal size swap whole"
    order = rng.permutation(24)
    sizes = rng.permutation(np.repeat(np.arange(5), rng.integers(1, 9, 5)))
    constant = (rng.random(5) < 0.5)[sizes]
    moved = shuffled(constant, sizes, 0 * sizes, rng)
    for g in range(5):
        assert len(set(moved[sizes == g])) == 1, "a problem's labels stay together"
    kept = shuffled(labels[order], group[order], np.arange(24), rng)
    np.testing.assert_array_equal(kept, labels[order])


def test_shuffles_stay_inside_bins_and_folds() -> None:
    """Labels that go with the bin leave the control as good as the probe: position is held."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(24), 2)
    bins = np.arange(24)[group] // 4 % 2
    labels = bins == 1
    features = (labels[:, None, None] + 0.1 * rng.standard_normal((48, 1, 2))).astype(np.float32)
    ask: dict[str, Any] = {"folds": np.arange(24)[group] % 4, "permutations": 10}
    held = probe(features, labels, group, bins=bins, **ask)
    assert held.auc[0] == held.control_mean[0] == 1 and held.p[0] == 1
    loose = probe(features, labels, group, **ask)
    assert loose.control_mean[0] < 0.7 and loose.p[0] < 0.05


def test_a_fold_of_one_problem_still_has_a_control() -> None:
    """Inside such a fold nothing can be shuffled, so it is done across folds."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(12), 4)
    labels = rng.random(48) < 0.5
    features = (labels[:, None, None] + 0.1 * rng.standard_normal((48, 1, 2))).astype(np.float32)
    found = probe(features, labels, group, folds=12, permutations=10)
    assert found.auc[0] > 0.99 and found.control_high[0] < 0.95 and found.p[0] < 0.05


def test_baselines_say_what_position_and_text_tell() -> None:
    features, labels, group = noise(5, groups=20, size=6)
    rng = np.random.default_rng(0)
    rows = np.where(labels, 50, 0) + rng.integers(0, 20, len(labels))
    tokens = np.where(labels, 3, 4) + 2 * (rng.random(len(labels)) < 0.1)
    hot = (tokens[:, None] == np.unique(tokens)).astype(float)
    ask: dict[str, Any] = {"rows": rows, "baselines": {"token": hot, "nothing": 0 * hot}}
    found = probe(features, labels, group, permutations=10, **ask)
    assert list(found.baselines) == ["position", "token", "nothing"]
    assert found.baselines["position"].value > 0.95
    assert found.baselines["token"].value > 0.95
    assert found.baselines["nothing"].value == 0.5
    assert found.baselines["token"].n_problems == 20
    frame = found.to_frame()
    assert (
        list(frame)
        == (
            "block auc low high control_mean control_high p p_holm selectivity balanced_accuracy "
            "position_auc token_auc nothing_auc n n_groups n_positive"
        ).split()
    )
    assert frame["n"][0] == 120 and frame["n_groups"][0] == 20
    assert frame["n_positive"][0] == labels.sum()
    model = tiny("qwen3", 1)
    chains = [chain(model, 3, 9, seed=i, problem=str(i)) for i in range(6)]
    examples = outcome(chains, [True, False] * 3, before_end=7, part="chain", folds=2)
    examples = dataclasses.replace(examples, rows=np.array([0, 1, 2, 3, 0, 1]))
    last = [c.prompt_ids[-1] if s == 0 else c.ids[s - 1] for c, s in zip(chains, examples.rows)]  # noqa: B905
    table = examples.last_tokens(chains)
    assert (table.sum(axis=1) == 1).all() and table.shape == (6, len(set(last)))
    same = np.array(last)[:, None] == np.array(last)
    np.testing.assert_array_equal(table @ table.T == 1, same)


def test_components_and_several_strengths() -> None:
    """The signal lies in the largest component; a C that crushes everything is not taken."""
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(20), 4)
    labels = rng.random(80) < 0.5
    features = 0.1 * rng.standard_normal((80, 1, 40)) + np.where(labels, 0.3, -0.3)[:, None, None]
    features = features.astype(np.float32)
    whole = probe(features, labels, group, permutations=10)
    first = probe(features, labels, group, permutations=10, components=1)
    assert whole.auc[0] > 0.99 and first.auc[0] > 0.99
    assert not np.allclose(whole.scores, first.scores)
    wide = probe(np.tile(features, (1, 1, 5)), labels, group, permutations=10, components=1)
    np.testing.assert_allclose(np.abs(wide.scores), np.abs(first.scores), rtol=0.05, atol=0.05)


def test_each_training_part_takes_the_strength_that_serves_it() -> None:
    """A difference of two noisy features tells all; crushed weights see the first one only."""
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(20), 4)
    labels = rng.random(80) < 0.5
    both = rng.standard_normal(80)
    features = np.stack([both + 0.5 * labels, both + 0.01 * rng.standard_normal(80)], axis=1)
    features = features[:, None].astype(np.float32)
    crushed, free, several = (
        probe(features, labels, group, permutations=10, C=c) for c in (1e-6, [1e4], [1e4, 1e-6])
    )
    assert crushed.auc[0] < 0.9 < 0.99 < free.auc[0]
    np.testing.assert_array_equal(several.scores, free.scores)
    assert several.null.mean() == pytest.approx(0.5, abs=0.1)


def test_the_same_seed_gives_the_same_probes() -> None:
    features, labels, group = noise(3, blocks=2)
    one, same, other = (
        probe(features, labels, group, folds=4, permutations=10, seed=s) for s in (1, 1, 2)
    )
    for field in dataclasses.fields(Probes):
        a, b = getattr(one, field.name), getattr(same, field.name)
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
    assert not np.array_equal(one.null, other.null)
    flags = probe(features.astype(np.float64), labels.astype(int), group.astype(str), folds=4)
    assert flags.n_positive == one.n_positive and flags.blocks == (0, 1)


def test_a_fit_that_is_cut_short_is_counted_and_says_no_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, labels, group = noise(4, d=12)
    assert probe(features, labels, group, C=1e6, permutations=10).unconverged == 0
    monkeypatch.setattr(fitting, "MAX_ITERATIONS", 1)
    assert probe(features, labels, group, C=1e6, permutations=10).unconverged > 0


def test_features_that_do_not_vary_are_at_chance() -> None:
    """The delta of a skipped block is zero, whichever way the features go."""
    _, labels, group = noise(6)
    for d in (4, 200):
        constant = np.ones((len(labels), 1, d), dtype=np.float32)
        found = probe(constant, labels, group, folds=3, permutations=10)
        assert found.auc[0] == 0.5 and found.p[0] == 1 and found.low[0] == 0.5


def test_probe_refuses_what_makes_no_sense() -> None:
    features, labels, group = noise(7, groups=6, blocks=2)
    few = np.zeros(18, dtype=bool)
    few[:2] = True
    two = np.arange(18) % 9 == 0
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("17 rows of features for 18", features[:-1], {}),
        ("18 rows of features for 17", features, {"labels": labels[:-1], "groups": group[:-1]}),
        (r"expected \[K, L, D\]", features[:, 0], {}),
        ("17 groups for 18", features, {"groups": group[:-1]}),
        ("17 rows for 18", features, {"rows": np.arange(17)}),
        ("17 bins for 18", features, {"bins": np.arange(17)}),
        ("17 folds for 18", features, {"folds": np.arange(17)}),
        ("17 text for 18", features, {"baselines": {"text": np.zeros((17, 1))}}),
        ("baseline 'text'", features, {"baselines": {"text": np.zeros(18)}}),
        ("baseline 'text'", features, {"baselines": {"text": np.full((18, 1), np.nan)}}),
        ("18 of 18 examples are True|0 of 18 examples are", features, {"labels": few | True}),
        ("2 of 18 examples are True, in 1 problems", features, {"labels": few}),
        ("6 problems cannot be cut into 7", features, {"folds": 7}),
        ("cannot be cut into 1 ", features, {"folds": 1}),
        ("lies in several folds", features, {"folds": np.arange(18) % 3}),
        ("no test part with both", features, {"folds": group, "labels": group < 3}),
        (
            "training part without",
            features,
            {"folds": 1 * two[3 * group], "labels": two[3 * group]},
        ),
        ("one truth value", features, {"labels": np.arange(18)}),
        ("rising", features, {"blocks": [1, 0]}),
        ("one dense index each", features, {"blocks": [1]}),
        ("positive number", features, {"C": 0.0}),
        ("positive number", features, {"C": []}),
        ("components=0", features, {"components": 0}),
        ("permutations=9", features, {"permutations": 9}),
        ("draws=10", features, {"draws": 10}),
        ("level", features, {"level": 1.0}),
    ]
    for match, given_features, options in cases:
        ask = {"labels": labels, "groups": group, "folds": 3} | options
        with pytest.raises(UserError, match=match):
            probe(given_features, **ask)
    features[3, 1, 0] = np.inf
    with pytest.raises(NonFiniteError, match=r"block \[7\]"):
        probe(features, labels, group, blocks=[4, 7])


def test_plots_show_blocks_control_and_baselines() -> None:
    features, labels, group = noise(8, blocks=3)
    rows = np.arange(len(labels))
    found = probe(features, labels, group, blocks=[0, 3, 9], rows=rows, folds=3, permutations=10)
    _, ax = plt.subplots()
    assert found.plot(ax) is ax
    legend = ax.get_legend()
    assert legend is not None
    shown = [text.get_text() for text in legend.get_texts()]
    assert {"probe", "position", "shuffled labels"} <= set(shown)
    assert ax.get_xticks().tolist() == [0, 3, 9]
    assert found.plot() is not ax
    plt.close("all")


# ----------------------------------------------------------------------------- horizons


def test_probe_ahead_is_its_three_steps_for_each_horizon() -> None:
    model = tiny("qwen3", 3)
    chains = [chain(model, 2 + i % 3, 40, seed=i, problem=str(i // 2)) for i in range(24)]
    forced = np.arange(40) % 7 == 0
    chains = [dataclasses.replace(c, forced=forced) for c in chains]
    rng = np.random.default_rng(0)
    masks = [np.arange(40) >= rng.integers(10, 70) for _ in chains]
    ask: dict[str, Any] = {"permutations": 10, "draws": 100}
    found = probe_ahead(model, chains, masks, (1, 6), blocks=[2, 0], folds=3, seed=4, **ask)
    for ahead, examples, probes in zip((1, 6), found.examples, found.probes, strict=True):
        names = [c.problem for c in chains]
        alone = foretell(masks, ahead, names, within=[~forced] * 24, folds=3, seed=4)
        np.testing.assert_array_equal(alone.rows, examples.rows)
        assert not forced[examples.rows].any()
        features = gather(model, chains, alone.picks(24), blocks=[0, 2])
        by_hand = probe(
            features, alone.labels, alone.problems, blocks=[0, 2], rows=alone.rows,
            bins=alone.bins, folds=alone.folds, seed=4,
            baselines={"last_token": alone.last_tokens(chains)}, **ask,
        )  # fmt: skip
        np.testing.assert_allclose(by_hand.scores, probes.scores, atol=1e-4)
        assert probes.blocks == (0, 2)
        assert set(probes.baselines) == {"position", "last_token"}
    frame = found.to_frame()
    assert frame["ahead"].tolist() == [1, 1, 6, 6] and frame["block"].tolist() == [0, 2, 0, 2]
    _, ax = plt.subplots()
    assert found.plot(ax) is ax
    legend = ax.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["within 1", "within 6"]
    plt.close("all")
    with pytest.raises(UserError, match="no horizon"):
        probe_ahead(model, chains, masks, ())
    with pytest.raises(UserError, match="mask of chain 0"):
        probe_ahead(model, chains, [masks[0][1:], *masks[1:]])
    hooks = hooks_of(model)
    with suppress(UserError):
        wide = Variant("wide", (MeanDelta(1, mean=torch.zeros(3)),))
        probe_ahead(model, chains, masks, (1,), variant=wide, folds=3)
    assert hooks_of(model) == hooks


def test_the_bundled_reasoner_knows_that_it_is_about_to_check() -> None:
    model = ReasoningModel.load("testbed")
    draw = np.random.default_rng(0).integers(2, 10, (24, 4)).tolist()
    prompts = [f"{a} {b} {c} {d} -> {a * b + c}" for a, b, c, d in draw]
    chains = model.generate(prompts, budget=Budget(80, 8), samples=2)
    masks = mark(chains, model, lexicon=TESTBED)["reflection"]
    ask: dict[str, Any] = {"permutations": 10, "draws": 200, "per_event": 1}
    found = probe_ahead(model, chains, masks, (1, 8), blocks=[0, 15], folds=3, **ask)
    now, soon = found.probes
    assert now.auc[1] > 0.9 and now.p_holm[1] < 0.01
    assert now.auc[1] > soon.auc[1] > 0.6
    assert now.baselines["position"].value == pytest.approx(0.5, abs=0.1)
    assert isinstance(found.examples[0], Examples)
