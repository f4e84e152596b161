"""Criteria: each against a slow implementation written from its paper, and their common laws.

The slow ones take one text at a time, keep everything, and use float64 numpy (or plain autograd),
and nothing from `interp.activations.reducers`, `interp.replay.teacher_forced` or
`interp.replay.block_sweep`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pruning.criteria
from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.work_listener import Heard, listening
from pruning.calibration import Calibration
from pruning.cost import checked_cost
from pruning.criteria import Cost, ScoringJob, criteria, criteria_table, criterion, score
from pruning.criteria.block_influence import block_influence, influence
from pruning.criteria.taylor import taylor
from pruning.plan import LayerPlan
from pruning.scores import Scores
from pruning.surgery import prune
from tests.models import tiny, untyped
from tests.registries import forget
from tests.slow_streams import (
    hooks_of,
    logprobs,
    plant_identity,
    same_weights,
    snapshot,
    streams,
    texts,
)

LENGTHS = (6, 17, 4, 9)
DATA_DRIVEN = (
    "angular",
    "chain-aware",
    "chain-survival",
    "cka",
    "evopress",
    "perplexity",
    "shortgpt",
    "skip-kl",
    "sleb",
    "swap-kl",
    "taylor+",
)
# What removes sublayers, and what generates answers, has its twins in files of its own
ELSEWHERE = {"blockpruner", "finercut", "llm-drop", "task-greedy"}
OPTIONS: dict[str, dict[str, Any]] = {"taylor+": {"protect_first": 0, "protect_last": 0}}


def run(name: str, model: ReasoningModel, data: Any, **options: Any) -> Scores:
    return score(name, model, data, **OPTIONS.get(name, {}), **options)


# ----------------------------------------------------------------- slow implementations


def slow_shortgpt(model: ReasoningModel, data: list[np.ndarray]) -> np.ndarray:
    every = np.concatenate([streams(model, ids) for ids in data], axis=1)
    unit = every / np.linalg.norm(every, axis=-1, keepdims=True)
    return 1 - (unit[:-1] * unit[1:]).sum(-1).mean(-1)


def slow_survival(model: ReasoningModel, data: list[np.ndarray]) -> np.ndarray:
    """The share of texts lost: each is kept with the product of its tokens' affinities."""
    found = []
    for l in model.layer_map:
        pruned = prune(model, LayerPlan.without(model, l))
        kept = []
        for ids in data:
            p, q = (np.exp(logprobs(hf, ids))[:-1] for hf in (model.hf, pruned.hf))
            kept.append(np.prod(np.sqrt(p * q).sum(-1)))
        found.append(1 - np.mean(kept))
    return np.array(found)


def slow_angular(model: ReasoningModel, data: list[np.ndarray]) -> np.ndarray:
    """d(a, b) for all a < b at the last token, [L+1, L+1]."""
    depth = model.n_blocks + 1
    out = np.zeros((depth, depth))
    for ids in data:
        last = streams(model, ids)[:, -1]
        for a in range(depth):
            for b in range(a + 1, depth):
                cos = last[a] @ last[b] / np.linalg.norm(last[a]) / np.linalg.norm(last[b])
                out[a, b] += math.acos(min(1.0, cos)) / math.pi / len(data)
    return out


def slow_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate as the mean over all ordered quadruples of different tokens."""
    k, l = x @ x.T, y @ y.T
    n, total, count = len(x), 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q])
                        count += 1
    return total / count


def slow_cka(model: ReasoningModel, data: list[np.ndarray]) -> np.ndarray:
    out = []
    kept = [streams(model, ids) for ids in data]
    for l in range(model.n_blocks):
        xy = sum(slow_hsic(x[l], x[l + 1]) for x in kept)
        xx = sum(slow_hsic(x[l], x[l]) for x in kept)
        yy = sum(slow_hsic(x[l + 1], x[l + 1]) for x in kept)
        out.append(1 - xy / math.sqrt(xx * yy))
    return np.array(out)


def slow_loss(model: ReasoningModel, data: list[np.ndarray]) -> float:
    """Loss a token over all texts."""
    parts = []
    for ids in data:
        logp = logprobs(model.hf, ids)
        parts += [-logp[t, ids[t + 1]] for t in range(len(ids) - 1)]
    return float(np.mean(parts))


def without(model: ReasoningModel, *blocks: int) -> ReasoningModel:
    return prune(model, LayerPlan.without(model, *blocks))


def slow_perplexity(model: ReasoningModel, data: list[np.ndarray]) -> np.ndarray:
    base = slow_loss(model, data)
    return np.array([slow_loss(without(model, l), data) - base for l in model.layer_map])


def slow_skip_kl(model: ReasoningModel, data: list[np.ndarray]) -> np.ndarray:
    out = []
    for l in model.layer_map:
        gaps = []
        for ids in data:
            base, other = logprobs(model.hf, ids), logprobs(without(model, l).hf, ids)
            gaps += list((np.exp(base) * (base - other)).sum(-1)[:-1])
        out.append(np.mean(gaps))
    return np.array(out)


def slow_swap_kl(model: ReasoningModel, data: list[np.ndarray]) -> np.ndarray:
    """The nearer neighbour's KL, two blocks of a copy having changed places in the list."""
    depth = model.n_blocks
    pair = []
    for l in range(depth - 1):
        hf = without(model).hf
        layers = hf.model.layers
        layers[l], layers[l + 1] = layers[l + 1], layers[l]
        gaps = []
        for ids in data:
            base, other = logprobs(model.hf, ids), logprobs(hf, ids)
            gaps += list((np.exp(base) * (base - other)).sum(-1)[:-1])
        pair.append(np.mean(gaps))
    return np.array([min(pair[max(l - 1, 0) : l + 1]) for l in range(depth)])


def slow_taylor(model: ReasoningModel, data: list[np.ndarray]) -> np.ndarray:
    """Autograd of the mean loss over all tokens, one text at a time, on a copy."""
    hf = without(model).hf
    hf.requires_grad_(True)
    tokens = sum(len(ids) - 1 for ids in data)
    for ids in data:
        row = torch.tensor(ids)[None]
        logits = hf(row, use_cache=False).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum") / tokens
        loss.backward()
    return np.array(
        [
            sum(
                float((w * untyped(w.grad)).abs().sum().detach())
                for module in block.modules()
                if isinstance(module, torch.nn.Linear)
                for w in [module.weight]
            )
            for block in hf.model.layers
        ]
    )


SLOW = {
    "shortgpt": slow_shortgpt,
    "angular": lambda model, data: np.diagonal(slow_angular(model, data), 1),
    "cka": slow_cka,
    "evopress": slow_skip_kl,
    "perplexity": slow_perplexity,
    "chain-aware": slow_survival,
    "chain-survival": slow_survival,
    "skip-kl": slow_skip_kl,
    "sleb": slow_perplexity,
    "swap-kl": slow_swap_kl,
    "taylor+": slow_taylor,
}


@pytest.mark.parametrize("name", DATA_DRIVEN)
@pytest.mark.parametrize("arch", ["qwen3", "gemma2"])
def test_against_the_slow_implementation(name: str, arch: str) -> None:
    model = tiny(arch, 4)
    data = texts(model, LENGTHS)
    found = run(name, model, data, batch_tokens=40)
    np.testing.assert_allclose(found.values, SLOW[name](model, data), rtol=2e-4, atol=2e-5)
    assert found.criterion == name
    assert found.layer_map == (0, 1, 2, 3)
    assert found.calibration == Calibration.of(model, data).hash
    assert found.model == model.fingerprint()


def test_every_criterion_that_reads_text_has_a_slow_twin_here() -> None:
    reading = {name for name, c in criteria().items() if c.needs_texts}
    assert reading - ELSEWHERE == set(DATA_DRIVEN) == set(SLOW)
    assert reading >= ELSEWHERE


def test_sleb_follows_the_greedy_path() -> None:
    model = tiny("qwen3", 6)
    data = texts(model, LENGTHS)
    gone: tuple[int, ...] = ()
    expected = []
    for _ in range(3):
        left = [l for l in range(6) if l not in gone]
        losses = [slow_loss(without(model, *gone, l), data) for l in left]
        gone += (left[int(np.argmin(losses))],)
        expected.append(set(gone))
    scores = run("sleb", model, data, remove=3)
    assert [set(scores.lowest(n)) for n in (1, 2, 3)] == expected
    for remove in (0, 6):
        with pytest.raises(UserError, match="expected 1 to 5"):
            run("sleb", model, data, remove=remove)


def test_angular_removes_the_best_run_of_neighbours() -> None:
    model = tiny("qwen3", 6)
    data = texts(model, LENGTHS)
    distance = slow_angular(model, data)
    scores = run("angular", model, data)
    for n in range(1, 6):
        start = min(range(6 - n + 1), key=lambda l: distance[l, l + n])
        assert scores.lowest(n) == tuple(range(start, start + n))


def test_angular_interval_is_that_of_a_mean_over_texts() -> None:
    from scipy.stats import t

    model = tiny("qwen3", 3)
    data = texts(model, (5, 9, 7, 12, 6))
    each = np.stack([np.diagonal(slow_angular(model, [ids]), 1) for ids in data])
    half = t.ppf(0.975, 4) * each.std(0, ddof=1) / math.sqrt(5)
    scores = run("angular", model, data)
    np.testing.assert_allclose(scores.high - scores.values, half, rtol=1e-3)


def test_taylor_protects_the_ends() -> None:
    model = tiny("qwen3", 8)
    data = texts(model, LENGTHS)
    scores = taylor(model, data)
    assert np.isinf(scores.values).tolist() == [True] * 4 + [False] * 2 + [True] * 2
    assert set(scores.lowest(2)) == {4, 5}
    with pytest.raises(UserError, match="protected"):
        scores.lowest(3)
    with pytest.raises(UserError, match="below 0"):
        taylor(model, data, protect_first=-1)


def test_taylor_leaves_gradients_as_they_were() -> None:
    model = tiny("qwen3", 3)
    parameters = list(model.hf.parameters())
    parameters[0].requires_grad_(False)
    parameters[2].grad = torch.ones_like(parameters[2])
    before = [p.requires_grad for p in parameters]
    run("taylor+", model, texts(model, LENGTHS))
    assert [p.requires_grad for p in parameters] == before
    assert [p.grad is None for p in parameters].count(False) == 1
    assert torch.equal(parameters[2].grad, torch.ones_like(parameters[2]))


def test_magnitude_is_the_sum_of_powers_of_the_weights() -> None:
    model = tiny("llama", 3)
    for p in (1.0, 2.0):
        expected = [
            sum(
                float((m.weight.detach().double().abs() ** p).sum())
                for m in block.modules()
                if isinstance(m, torch.nn.Linear)
            )
            for block in model.blocks
        ]
        np.testing.assert_allclose(score("magnitude", model, p=p).values, expected, rtol=1e-6)
    with pytest.raises(UserError, match="above 0"):
        score("magnitude", model, p=0)


def test_reverse_order_takes_the_last_and_random_takes_its_seed() -> None:
    model = tiny("qwen3", 6)
    assert score("reverse-order", model).lowest(3) == (5, 4, 3)
    orders = {score("random", model, seed=s).ranking for s in range(30)}
    assert len(orders) > 20
    assert score("random", model, seed=3).ranking == score("random", model, seed=3).ranking
    first = [score("random", model, seed=s).lowest(1)[0] for s in range(600)]
    counts = np.bincount(first, minlength=6)
    assert counts.min() > 60  # 100 expected, sd 9
    one = score("random", model, seed=1)
    assert set(one.lowest(2)) < set(one.lowest(3))


# ------------------------------------------------------------------------ common laws


@pytest.mark.parametrize("planted", [0, 2, 4])
@pytest.mark.parametrize("name", [*DATA_DRIVEN, "magnitude"])
def test_a_block_that_does_nothing_is_removed_first(name: str, planted: int) -> None:
    """The texts are the model's own, as in use: on random ids a block may well do harm."""
    model = tiny("qwen3", 5)
    plant_identity(model, planted)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = torch.randint(6, model.vocab_size, (16, 1))
        data = untyped(model.hf).generate(
            start,
            attention_mask=torch.ones_like(start),
            max_new_tokens=24,
            min_new_tokens=24,
            do_sample=True,
            top_k=0,
            pad_token_id=1,
        )
    scores = run(name, model, list(data.numpy()))
    assert scores.lowest(1) == (planted,)
    if name != "magnitude":
        assert scores.values[planted] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("name", DATA_DRIVEN)
def test_batch_size_padding_and_order_change_no_score(name: str) -> None:
    model = tiny("qwen3", 4)
    data = texts(model, (*LENGTHS, 13, 8))
    alone = run(name, model, data, batch_tokens=1)
    for order, batch_tokens in (((5, 3, 1, 0, 2, 4), 1), ((4, 0, 2, 5, 1, 3), 33), (range(6), 999)):
        other = run(name, model, [data[i] for i in order], batch_tokens=batch_tokens)
        for field in ("values", "low", "high"):
            a, b = getattr(alone, field), getattr(other, field)
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
        assert other.calibration == alone.calibration
        assert other.lowest(2) == alone.lowest(2)


@pytest.mark.parametrize("name", ["shortgpt", "angular", "cka"])
def test_large_norms_in_half_precision_score_as_in_float32(name: str) -> None:
    model = tiny("llama", 3)
    with torch.no_grad():
        untyped(model.hf).get_input_embeddings().weight.mul_(2000)
        for block in model.blocks:
            for key, weight in block.named_parameters():
                if "o_proj" in key or "down_proj" in key:
                    weight.mul_(300)
    data = texts(model, LENGTHS)
    wide = run(name, model, data)
    untyped(model.hf).to(torch.float16)
    half = run(name, model, data)
    assert np.isfinite(half.values).all()
    np.testing.assert_allclose(half.values, wide.values, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("name", [*DATA_DRIVEN, "magnitude", "random", "reverse-order"])
def test_scoring_leaves_the_model_alone(name: str) -> None:
    model = tiny("qwen3", 4)
    before, hooks = snapshot(model), hooks_of(model)
    run(name, model, texts(model, LENGTHS))
    assert same_weights(model, before)
    assert hooks_of(model) == hooks
    assert all("forward" not in block.__dict__ for block in model.blocks)


@pytest.mark.parametrize("name", DATA_DRIVEN)
def test_whoever_listens_hears_how_far_it_is(name: str) -> None:
    model, heard = tiny("qwen3", 4), list[Heard]()
    with listening(heard.append):
        run(name, model, texts(model, LENGTHS))
    assert heard and all(0 <= one.done <= one.total for one in heard)
    tried = [one for one in heard if one.doing in ("trying", "skipping")]
    many = {"chain-aware", "chain-survival", "evopress", "perplexity", "skip-kl", "sleb", "swap-kl"}
    assert bool(tried) == (name in many)
    for before, after in pairwise(tried):  # counted one by one, from the start of each step
        assert after.done in (before.done + 1, 0)


@pytest.mark.parametrize("name", DATA_DRIVEN)
def test_a_pruned_model_is_scored_in_dense_indices(name: str) -> None:
    model = tiny("qwen3", 6)
    pruned = without(model, 0, 3)
    scores = run(name, pruned, texts(model, LENGTHS))
    assert scores.layer_map == (1, 2, 4, 5)
    plan = LayerPlan.lowest(scores, remove=2)
    assert set(plan.removed) < {1, 2, 4, 5}
    assert prune(pruned, plan).layer_map == plan.kept


@pytest.mark.parametrize("name", ["shortgpt", "perplexity", "skip-kl", "swap-kl", "cka", "angular"])
def test_intervals_hold_the_score(name: str) -> None:
    model = tiny("qwen3", 4)
    scores = run(name, model, texts(model, [9, 12, 10, 8, 15, 11]))
    assert ((scores.low <= scores.values) & (scores.values <= scores.high)).all()
    assert (scores.n_texts, scores.n_tokens > 5) == (6, True)


def test_block_influence_with_and_without_sinks() -> None:
    model = tiny("llama", 3)
    with torch.no_grad():
        untyped(model.hf).get_input_embeddings().weight[7] *= 500
    data = [[8, 9, 7, 10, 11, 12, 13], [14, 15, 16, 17]]
    both = influence(model, data)
    kept, left = block_influence(model, data), block_influence(model, data, sinks=False)
    np.testing.assert_array_equal(kept.values, both.values("influence"))
    np.testing.assert_array_equal(left.values, both.values("without_sinks"))
    assert (kept.values[:2] < left.values[:2]).all()  # at the last it is no longer a sink
    assert kept.n_tokens == 11


# ------------------------------------------------------------------------- registry


@pytest.fixture
def new_file() -> Iterator[Path]:
    """A criterion file dropped into the folder, and everything about it gone afterwards."""
    folder = Path(pruning.criteria.__file__).parent
    path = folder / "planted_for_a_test.py"
    path.write_text(
        "from pruning.criteria import Cost, criterion\n"
        "@criterion('planted', paper='none', cost=Cost(), needs_texts=False)\n"
        "def planted(model, *, slope=1.0):\n"
        "    return [slope * l for l in range(model.n_blocks)]\n"
    )
    try:
        yield path
    finally:
        path.unlink()
        forget(pruning.criteria.REGISTRY, "planted")
        sys.modules.pop("pruning.criteria.planted_for_a_test", None)
        for cached in (folder / "__pycache__").glob("planted_for_a_test*"):
            cached.unlink()


def test_a_new_criterion_is_one_new_file(new_file: Path) -> None:
    assert "planted" in criteria()
    assert score("planted", tiny("qwen3", 3), slope=2.0).values.tolist() == [0.0, 2.0, 4.0]


def test_the_registry_says_what_each_criterion_is() -> None:
    found = criteria()
    assert list(found) == sorted(found)
    assert all(c.paper for c in found.values())
    greedy = {name for name, c in found.items() if c.greedy}
    assert greedy >= {"blockpruner", "finercut", "sleb", "task-greedy"}
    assert found["angular"].kind == "contiguous"
    assert found["evopress"].kind == "search"
    assert found["shortgpt"].kind == "one-shot"
    assert {"blockpruner", "finercut", "llm-drop"} == {
        name for name, c in found.items() if c.removes == "sublayers"
    }
    assert {"random", "evopress", "task-greedy"} <= {name for name, c in found.items() if c.draws}
    assert found["sleb"].options == ("remove", "batch_tokens", "keep_bytes", "part")
    frame = criteria_table()
    assert frame["criterion"].tolist() == list(found)
    frame = frame.set_index("criterion")
    assert frame.loc["taylor+", "backwards"] == 1
    assert frame.loc["perplexity", "forwards"] == pytest.approx(33 / 2)
    assert criteria_table(16, 2).set_index("criterion").loc["sleb", "steps"] == 2


def test_costs_add_up_and_say_what_they_are() -> None:
    cost = Cost(forwards=1, backwards=1, readouts=3)
    assert cost.passes == 3
    both = cost + Cost(generations=1, steps=4) * 2
    assert both == Cost(1, 1, 3, 2, 4)
    assert str(both) == "1 forwards, 1 backwards, 3 readouts, 2 generations, in 4 steps"
    assert str(Cost()) == "nothing"


def test_a_cost_that_is_no_number_or_asks_for_no_option_is_refused() -> None:
    def function(model: ReasoningModel, calibration: Any, *, width: int = 2) -> Any: ...
    def wide(job: ScoringJob, *, widht: int) -> Cost: ...

    with pytest.raises(UserError, match=r"planted: cost='1 forward'; expected numbers such as"):
        checked_cost("planted", "1 forward", function)
    with pytest.raises(UserError, match="asks for widht, which is no option"):
        criterion("stated", paper="none", cost=wide)(function)
    assert "stated" not in criteria()


def test_a_cost_follows_the_options_of_its_criterion() -> None:
    job = ScoringJob(12, 3)
    searched = criteria()["chain-aware"]
    assert searched.price(job, {"width": 2}).passes < searched.price(job).passes
    assert searched.price(job, {"finalists": 0}).generations == 0 < searched.price(job).generations


def test_bad_requests_are_refused() -> None:
    model = tiny("qwen3", 3)
    with pytest.raises(UserError, match="Did you mean 'shortgpt'"):
        score("shortgtp", model, ["use 3"])
    with pytest.raises(UserError, match="Did you mean 'sinks'"):
        score("shortgpt", model, ["use 3"], sink=False)
    with pytest.raises(UserError, match="needs calibration texts"):
        score("shortgpt", model)
    with pytest.raises(UserError, match="needs at least 4"):
        score("cka", model, ["use 3 7"])
    with pytest.raises(ValueError, match="already"):

        @criterion("shortgpt", paper="none", cost=Cost())
        def other(model: ReasoningModel, texts: Any) -> Scores: ...


@pytest.mark.parametrize("names", [{}, {"__name__": "__main__"}, {"__name__": "a_notebook"}])
def test_a_criterion_of_a_script_or_a_notebook_scores(names: dict[str, Any]) -> None:
    """Code that `exec` ran has no module to be found in."""
    names = {**names, "criterion": criterion, "Cost": Cost}
    code = (
        "@criterion('of-a-script', paper='none', cost=Cost(), needs_texts=False)\n"
        "def of_a_script(model, *, slope: float = 1.0):\n"
        "    return [slope * l for l in range(model.n_blocks)]\n"
    )
    try:
        exec(code, names)  # noqa: S102
        assert score("of-a-script", tiny("qwen3", 4), slope=2.0).values.tolist() == [0, 2, 4, 6]
    finally:
        forget(pruning.criteria.REGISTRY, "of-a-script")
