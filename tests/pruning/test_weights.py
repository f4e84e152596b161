"""Unstructured pruning: against slow implementations written from the papers, and its laws.

The slow ones take one text at a time, unpadded, keep everything, use float64 numpy, and take
nothing from `pruning.weights`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from interp.chains.chain import Budget
from interp.errors import NonFiniteError, UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration
from pruning.plan import LayerPlan
from pruning.surgery import prune, write_checkpoint
from pruning.weights import (
    Sparse,
    decode_latency,
    match_latency,
    matched_sparsity,
    sparsify,
)
from pruning.weights.allocation import owl_sparsities
from pruning.weights.matched import Latencies, LatencyMatch
from pruning.weights.matrices import lowest_in_groups, lowest_in_rows, lowest_of_all, matrices
from tests.chains import make_chain
from tests.models import ARCHS, tiny, untyped
from tests.slow_streams import hooks_of, same_weights, snapshot, texts

LENGTHS = (6, 17, 4, 9)


def zeros_of(model: ReasoningModel) -> dict[str, np.ndarray]:
    """Where every weight of the blocks is zero, by its name in the model."""
    return {
        name: (weight == 0).numpy()
        for name, weight in model.hf.state_dict().items()
        if ".layers." in name and weight.ndim >= 2
    }


# ----------------------------------------------------------------- slow implementations


def inputs(hf: Any, block: Any, data: list[np.ndarray]) -> dict[str, np.ndarray]:
    """What goes into each matrix of a block, [N, I] in float64; an expert's under name/e."""
    kept: dict[str, list[np.ndarray]] = {}

    def keep(name: str, x: torch.Tensor) -> None:
        kept.setdefault(name, []).append(x.detach().flatten(0, -2).double().numpy())

    def experts(name: str) -> Any:
        def hook(module: Any, args: tuple[Any, ...]) -> None:
            x, sent = args[0], args[1]
            for e in range(module.num_experts):
                mine = x[[i for i, to in enumerate(sent.tolist()) if e in to]]
                keep(f"{name}.gate_up_proj/{e}", mine)
                gate, up = (mine @ module.gate_up_proj[e].T).chunk(2, dim=-1)
                keep(f"{name}.down_proj/{e}", nn.functional.silu(gate) * up)

        return hook

    handles = []
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear):
            handles.append(
                untyped(module).register_forward_pre_hook(
                    lambda _, args, name=name: keep(name, args[0])
                )
            )
        elif hasattr(module, "num_experts") and hasattr(module, "down_proj"):
            handles.append(module.register_forward_pre_hook(experts(name)))
    for ids in data:
        with torch.no_grad():
            hf(torch.tensor(ids)[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(parts) for name, parts in kept.items()}


def weight_of(block: Any, name: str) -> torch.Tensor:
    """The matrix that `inputs` calls `name`."""
    path, _, expert = name.partition("/")
    if expert:
        return block.get_parameter(path).detach()[int(expert)]
    return block.get_submodule(path).weight.detach()


def slow_wanda(
    model: ReasoningModel, data: list[np.ndarray], shares: list[float], again: bool
) -> Any:
    """Wanda: in each row the lowest |W_ij| ||X_j||; again: inputs behind what was pruned."""
    hf = copy.deepcopy(model.hf)
    dense = [inputs(hf, block, data) for block in hf.model.layers]
    for l, block in enumerate(hf.model.layers):
        for name, x in (inputs(hf, block, data) if again else dense[l]).items():
            weight = weight_of(block, name)
            importance = np.abs(weight.double().numpy()) * np.sqrt((x**2).sum(0))
            for row, values in enumerate(importance):
                lowest = sorted(range(len(values)), key=lambda j: values[j])
                weight[row, lowest[: round(shares[l] * len(values))]] = 0.0
    return hf


def slow_outliers(model: ReasoningModel, data: list[np.ndarray], times: float) -> np.ndarray:
    """OWL's D: per block the share of all its scores over `times` their mean."""
    found = []
    for block in model.hf.model.layers:
        scores = np.concatenate(
            [
                (np.abs(weight_of(block, n).double().numpy()) * np.sqrt((x**2).sum(0))).ravel()
                for n, x in inputs(model.hf, block, data).items()
            ]
        )
        found.append((scores > times * scores.mean()).mean())
    return np.array(found)


def same_zeros(found: Sparse, slow: Any) -> bool:
    expected = {
        name: (weight == 0).numpy()
        for name, weight in slow.state_dict().items()
        if ".layers." in name and weight.ndim >= 2
    }
    return all((zeros == expected[name]).all() for name, zeros in zeros_of(found.model).items())


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("arch", ["qwen3", "qwen3_moe", "phi3", "gemma2"])
def test_wanda_against_the_slow_implementation(arch: str, sequential: bool) -> None:
    model = tiny(arch, 3)
    data = texts(model, LENGTHS)
    found = sparsify(model, 0.5, data, sequential=sequential, batch_tokens=40)
    assert same_zeros(found, slow_wanda(model, data, [0.5] * 3, again=sequential))
    assert found.share == pytest.approx(0.5)


def test_pruned_inputs_are_not_the_dense_ones() -> None:
    """The two ways of the test above differ, so that each of them says something."""
    model = tiny("qwen3", 3)
    data = texts(model, LENGTHS)
    one, other = (sparsify(model, 0.5, data, sequential=s) for s in (True, False))
    first, last = "model.layers.0.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"
    assert (zeros_of(one.model)[last] != zeros_of(other.model)[last]).any()
    same = "model.layers.0.self_attn.q_proj.weight"  # reads the embeddings, pruned or not
    assert (zeros_of(one.model)[same] == zeros_of(other.model)[same]).all()
    assert first in zeros_of(one.model)


@pytest.mark.parametrize("arch", ARCHS)
def test_magnitude_zeroes_the_smallest_of_each_matrix(arch: str) -> None:
    model = tiny(arch, 2)
    found = sparsify(model, 0.3, method="magnitude")
    for own in matrices(model):
        for matrix in own:
            k = round(0.3 * matrix.weight.numel())
            edge = matrix.weight.abs().flatten().sort().values[k - 1]
            new = next(
                m.weight
                for few in matrices(found.model)
                for m in few
                if (m.block, m.name) == (matrix.block, matrix.name)
            )
            gone = new == 0
            assert int(gone.sum()) == k
            assert (matrix.weight.abs()[gone] <= edge).all()
            assert torch.equal(new[~gone], matrix.weight[~gone])
    others = [n for n in snapshot(model) if n not in zeros_of(model)]
    now = found.model.hf.state_dict()
    assert all(torch.equal(now[n], w) for n, w in snapshot(model).items() if n in others)


def planted(model: ReasoningModel) -> ReasoningModel:
    """Blocks with different shares of outliers."""
    with torch.no_grad():
        for l, block in enumerate(model.blocks):
            for weight in block.parameters():
                if weight.ndim == 2:
                    weight.view(-1)[:: 40 - 6 * l] *= 12.0
    return model


def test_owl_against_the_slow_implementation() -> None:
    model = planted(tiny("qwen3", 4))
    data = texts(model, LENGTHS)
    ratios = slow_outliers(model, data, 5.0)
    assert len(set(ratios)) == 4
    # As published: densities from (D - min) / (max - min) 2 lambda, shifted to the mean 1 - S.
    density = (ratios - ratios.min()) / np.ptp(ratios) * 2 * 0.08
    shares = 1 - (density - density.mean() + 0.5)
    found = sparsify(model, 0.5, data, allocation="owl", batch_tokens=40)
    frame = found.to_frame().groupby("block")[["zeros", "weights"]].sum()
    np.testing.assert_allclose(frame["zeros"] / frame["weights"], shares, atol=1e-3)
    assert found.share == pytest.approx(0.5, abs=1e-3)
    # Rows are even to within one weight, so the slow masks differ by no more than that.
    slow = slow_wanda(model, data, list(shares), again=True).state_dict()
    for name, zeros in zeros_of(found.model).items():
        if "layers.0." in name:
            assert (zeros != (slow[name] == 0).numpy()).sum() <= zeros.shape[0]


ratios_of_blocks = st.lists(st.floats(0, 0.2), min_size=2, max_size=8)


@given(ratios_of_blocks, st.floats(0.2, 0.8), st.floats(0, 0.1), st.sampled_from(["code", "range"]))
def test_owl_shares_average_to_the_share_asked_for(
    ratios: list[float], sparsity: float, spread: float, rule: Any
) -> None:
    d, sizes = np.array(ratios), np.arange(1.0, len(ratios) + 1)
    found = owl_sparsities(sparsity, d, sizes, spread, rule)
    assert np.average(found, weights=sizes) == pytest.approx(sparsity)
    order = np.argsort(d, kind="stable")
    assert (np.diff(found[order]) <= 1e-9).all()  # more outliers, fewer zeros
    if rule == "range":
        assert (np.abs(found - sparsity) <= spread + 1e-9).all()
    elif np.ptp(d) > 1e-9:
        assert np.ptp(found) == pytest.approx(2 * spread, abs=1e-9)


def test_the_share_may_leave_a_block_whole_but_not_below() -> None:
    d, sizes = np.array([0.0, 0.0, 0.0, 0.2]), np.ones(4)
    with pytest.raises(UserError, match='rule="range"'):
        owl_sparsities(0.1, d, sizes, 0.1, "code")
    assert owl_sparsities(0.1, d, sizes, 0.1, "range").min() == pytest.approx(0.0)
    for spread in (-0.1, 0.3):
        with pytest.raises(UserError, match="spread="):
            owl_sparsities(0.2, d, sizes, spread)
    with pytest.raises(UserError, match="Did you mean 'code'"):
        owl_sparsities(0.2, d, sizes, 0.1, "codes")


# ------------------------------------------------------------------------- what goes


@st.composite
def score_tables(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    values = draw(st.lists(st.integers(0, 9), min_size=rows * columns, max_size=rows * columns))
    table = torch.tensor(values, dtype=torch.float32).reshape(rows, columns)
    return table, draw(st.integers(0, rows * columns))


@given(score_tables())
def test_rows_lose_their_lowest_evenly_and_the_total_is_exact(
    drawn: tuple[torch.Tensor, int],
) -> None:
    scores, zeros = drawn
    gone = lowest_in_rows(scores, zeros)
    assert int(gone.sum()) == zeros
    each = gone.sum(1)
    assert int(each.max() - each.min()) <= 1
    for row, out in zip(scores, gone, strict=True):
        if out.any() and not out.all():
            assert row[out].max() <= row[~out].min()


@given(score_tables())
def test_a_matrix_loses_its_lowest_and_the_total_is_exact(
    drawn: tuple[torch.Tensor, int],
) -> None:
    scores, zeros = drawn
    gone = lowest_of_all(scores, zeros)
    assert int(gone.sum()) == zeros
    if 0 < zeros < scores.numel():
        assert scores[gone].max() <= scores[~gone].min()


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
def test_of_every_group_of_neighbours_the_best_stay(rows: int, groups: int, seed: int) -> None:
    scores = torch.rand(rows, 4 * groups, generator=torch.Generator().manual_seed(seed))
    gone = lowest_in_groups(scores, 2, 4)
    for row, out in zip(scores, gone, strict=True):
        for start in range(0, 4 * groups, 4):
            few, left = row[start : start + 4], out[start : start + 4]
            assert int(left.sum()) == 2
            assert few[left].max() <= few[~left].min()


def test_two_of_four() -> None:
    model = tiny("qwen3", 2)
    data = texts(model, LENGTHS)
    for method in ("wanda", "magnitude"):
        found = sparsify(model, 0.5, data, method=method, pattern=(2, 4))
        for zeros in zeros_of(found.model).values():
            assert (zeros.reshape(len(zeros), -1, 4).sum(-1) == 2).all()
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"pattern": (4, 2)}, "0 < n < m"),
        ({"pattern": (1, 4)}, "0.75"),
        ({"pattern": (2, 4), "allocation": "owl"}, "uniform"),
    ]
    for options, message in mistakes:
        with pytest.raises(UserError, match=message):
            sparsify(model, 0.5, data, **options)
    with pytest.raises(UserError, match="expected a multiple of 5"):
        sparsify(model, 0.4, data, pattern=(3, 5))


# ------------------------------------------------------------------------------ laws


@pytest.mark.parametrize("method", ["wanda", "magnitude"])
def test_the_callers_model_is_untouched_and_the_dtype_is_kept(method: Any) -> None:
    model = tiny("qwen3", 3)
    untyped(model.hf).to(torch.bfloat16)
    before, hooks = snapshot(model), hooks_of(model)
    found = sparsify(model, 0.5, texts(model, LENGTHS), method=method)
    assert same_weights(model, before)
    assert hooks_of(model) == hooks_of(found.model) == hooks
    assert found.model.dtype == torch.bfloat16
    with torch.no_grad():
        for weight in found.model.hf.parameters():
            weight.zero_()
    assert same_weights(model, before)


def test_batches_padding_and_order_change_no_zero() -> None:
    model = tiny("qwen3_moe", 3)
    data = texts(model, (*LENGTHS, 13, 8))
    alone = zeros_of(sparsify(model, 0.5, data, batch_tokens=1).model)
    for order, batch_tokens in (((5, 3, 1, 0, 2, 4), 33), (range(6), 999)):
        other = sparsify(model, 0.5, [data[i] for i in order], batch_tokens=batch_tokens)
        different = sum((alone[n] != z).sum() for n, z in zeros_of(other.model).items())
        assert different <= 2  # two scores may tie to float noise


def test_only_the_tokens_that_count_are_measured() -> None:
    model = tiny("qwen3", 2)
    chains = [make_chain([10, 11, 30], [7, 8, 9, 20]), make_chain([12, 13, 14, 40], [7, 8])]
    whole, generated = (sparsify(model, 0.5, chains, part=p) for p in ("all", "generated"))
    assert generated.n_tokens == 7
    assert generated.calibration == Calibration.of(model, chains, "generated").hash
    assert generated.calibration != whole.calibration
    # q_proj of block 0 reads a token's own embedding: the generated tokens alone decide.
    q = untyped(model.blocks[0]).self_attn.q_proj.weight.detach().double().numpy()
    ids = torch.tensor([10, 11, 30, 12, 13, 14, 40])
    with torch.no_grad():
        embedded = model.hf.get_input_embeddings()(ids)
        x = untyped(model.blocks[0]).input_layernorm(embedded).double().numpy()
    importance = np.abs(q) * np.sqrt((x**2).sum(0))
    expected = importance.argsort(1).argsort(1) < q.shape[1] // 2
    found = zeros_of(generated.model)["model.layers.0.self_attn.q_proj.weight"]
    assert (found == expected).all()


def test_nothing_asked_for_is_nothing_done() -> None:
    model = tiny("qwen3", 2)
    found = sparsify(model, 0.0, texts(model, LENGTHS))
    assert same_weights(found.model, snapshot(model))
    assert found.zeros == 0


def test_a_weight_that_is_not_finite_is_an_error_and_no_hook_stays() -> None:
    model = tiny("qwen3", 3)
    with torch.no_grad():
        untyped(model.blocks[1]).mlp.down_proj.weight[0, 0] = torch.inf
    hooks = hooks_of(model)
    with pytest.raises(NonFiniteError, match="block 2"):
        sparsify(model, 0.5, texts(model, LENGTHS))
    assert hooks_of(model) == hooks


def test_a_table_of_what_was_done(tmp_path: Path) -> None:
    dense = tiny("qwen3", 4)
    model = prune(dense, LayerPlan.without(dense, 1))
    found = sparsify(model, 0.25, texts(model, LENGTHS))
    frame = found.to_frame()
    assert sorted(set(frame["block"])) == [0, 2, 3]  # dense indices
    assert len(frame) == 3 * 7
    assert frame["zeros"].sum() == found.zeros
    assert set(frame["method"]) == {"wanda"}
    folder = write_checkpoint(found.model, tmp_path / "out", found.record, "# Sparse\n")
    again = ReasoningModel.load(folder)
    assert same_weights(again, snapshot(found.model))
    assert again.layer_map == (0, 2, 3)


@pytest.mark.parametrize(
    ("sparsity", "options", "message"),
    [
        (1.0, {}, "sparsity=1.0"),
        (-0.1, {}, "sparsity=-0.1"),
        (0.5, {"method": "wandb"}, "Did you mean 'wanda'"),
        (0.5, {"allocation": "owls"}, "Did you mean 'owl'"),
        (0.5, {"allocation": "owl", "outlier": 0.0}, "outlier"),
    ],
)
def test_what_makes_no_sense_is_refused(
    sparsity: float, options: dict[str, Any], message: str
) -> None:
    model = tiny("qwen3", 2)
    with pytest.raises(UserError, match=message):
        sparsify(model, sparsity, texts(model, LENGTHS), **options)


def test_activations_need_texts() -> None:
    model = tiny("qwen3", 2)
    with pytest.raises(UserError, match="Wanda measures activations"):
        sparsify(model, 0.5)
    with pytest.raises(UserError, match="OWL measures activations"):
        sparsify(model, 0.5, method="magnitude", allocation="owl")
    with pytest.raises(UserError, match="text 0 is empty"):
        sparsify(model, 0.5, [""])


# ------------------------------------------------------------------------- equal terms


@pytest.mark.parametrize("arch", ARCHS)
def test_at_equal_parameters_as_many_are_zero_as_were_removed(arch: str) -> None:
    model = tiny(arch, 5)
    plan = LayerPlan.without(model, 0, 3)
    removed = model.hf.num_parameters() - prune(model, plan).hf.num_parameters()
    found = sparsify(model, plan, method="magnitude")
    n_matrices = sum(map(len, matrices(model)))
    assert abs(found.zeros - removed) <= n_matrices / 2
    assert found.sparsity == matched_sparsity(model, plan)
    with_owl = sparsify(
        planted(model), plan_of(model, 0, 3), texts(model, LENGTHS), allocation="owl"
    )
    assert abs(with_owl.zeros - removed) <= n_matrices / 2 + 1


def plan_of(model: ReasoningModel, *blocks: int) -> LayerPlan:
    return LayerPlan.without(model, *blocks)


def test_no_sparsity_matches_a_plan_that_takes_nearly_all() -> None:
    model = tiny("qwen3", 2, head_dim=4, intermediate_size=4, hidden_size=4, num_attention_heads=1,
                 num_key_value_heads=1)  # fmt: skip
    assert matched_sparsity(model, LayerPlan.without(model, 0)) > 0.5  # norms count as well
    with pytest.raises(UserError, match="Plan"):
        matched_sparsity(model, LayerPlan((0,), 3))


def latencies(removed: float, zeros: float, noise: float) -> Latencies:
    """Made-up times of 12 rounds, with the machine slow in half of them."""
    draw = np.random.default_rng(0)
    base = np.where(np.arange(12) % 2, 10.0, 20.0)
    table = np.stack([base, base / removed, base / zeros])
    table = table * np.exp(draw.normal(0, noise, table.shape))
    return Latencies(("dense", "cut", "zeros"), table, (9, 8, 8), 1, 4, 4, "cpu", "float32")


@pytest.mark.parametrize(
    ("removed", "zeros", "noise", "verdict"),
    [
        (2.0, 1.0, 0.02, "not met"),
        (2.0, 1.4, 0.02, "not met"),
        (2.0, 2.0, 0.02, "met"),
        (2.0, 3.0, 0.02, "unclear"),  # faster than the plan: the match is at another sparsity
        (1.05, 1.0, 0.5, "unclear"),
    ],
)
def test_whether_zeros_meet_a_latency(
    removed: float, zeros: float, noise: float, verdict: str
) -> None:
    times = latencies(removed, zeros, noise)
    found = LatencyMatch(times, "cut", "zeros")
    assert found.verdict == verdict
    assert found.control == ("zeros" if verdict == "met" else None)
    assert ("no sparsity is matched" in str(found)) == (verdict == "not met")
    assert set(found.to_frame()["latency_match"]) == {verdict}
    value, low, high = times.speedup("cut")
    assert low <= value <= high
    if noise < 0.1:  # rounds are paired: a machine that is slow at times does not blur the ratio
        assert low <= removed <= high or abs(value - removed) < 0.05
        assert high - low < 0.1
    assert times.speedup("dense") == (1.0, 1.0, 1.0)
    with pytest.raises(UserError, match="'x' was not timed"):
        times.speedup("x")


def test_latencies_are_of_what_was_asked() -> None:
    model = tiny("qwen3", 3)
    plan = LayerPlan.without(model, 0)
    sparse = sparsify(model, 0.5, method="magnitude")
    before = snapshot(model)
    found = match_latency(
        model, plan, sparse.model, prompt_tokens=3, steps=2, rounds=3, batch=2, seed=1
    )
    frame = found.to_frame()
    assert list(frame["model"]) == ["dense", plan.name, sparse.model.name]
    assert (frame["ms_per_token"] > 0).all()
    n = model.hf.num_parameters()
    removed = n - prune(model, plan).hf.num_parameters()
    assert list(frame["nonzero_parameters"]) == [n, n - removed, n - sparse.zeros]
    assert found.latencies.milliseconds.shape == (3, 3)
    assert found.latencies.batch == 2
    assert same_weights(model, before)
    assert hooks_of(model) == hooks_of(tiny("qwen3", 3))
    for options in ({"rounds": 1}, {"steps": 0}, {"batch": 0}, {"prompt_tokens": 0}):
        with pytest.raises(UserError, match=next(iter(options))):
            decode_latency({"dense": model}, **options)
    with pytest.raises(UserError, match="No model"):
        decode_latency({})
    sparse.model.name = "dense"
    with pytest.raises(UserError, match="the same name"):
        match_latency(model, plan, sparse.model)
    assert Budget().thinking > 0


@pytest.mark.slow
def test_half_the_blocks_gone_is_faster_and_half_the_weights_zero_is_not() -> None:
    model = tiny("qwen3", 8, hidden_size=512, intermediate_size=1408, num_attention_heads=8,
                 head_dim=64, num_key_value_heads=4)  # fmt: skip
    plan = LayerPlan.without(model, 2, 3, 4, 5)
    sparse = sparsify(model, plan, method="magnitude")
    found = match_latency(model, plan, sparse.model, rounds=15)
    assert found.verdict == "not met", str(found)
    assert found.latencies.speedup(plan.name)[0] > 1.3
    assert 0.8 < found.latencies.speedup(sparse.model.name)[0] < 1.25
