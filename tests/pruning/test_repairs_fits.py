"""What the repairs fit: held against slow references written from the definitions, in float64.

The streams come one text at a time from `tests.slow_streams`; of a plan with several cuts those of
the repaired model itself, cut after cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import NonFiniteError, UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration
from pruning.distance import divergences
from pruning.plan import LayerPlan
from pruning.repairs import live, mend
from pruning.repairs.linearpatch import channel_gains
from pruning.repairs.machinery.normal_equations import NormalEquations
from pruning.repairs.procrustes import Sums, nearest
from pruning.repairs.replaceme import RIDGES
from pruning.surgery import prune
from tests.models import tiny
from tests.slow_streams import streams, texts
from tests.tolerances import kl_noise

LENGTHS = (24, 15, 20, 9, 20, 24, 30)
FITTED = ("prune-comp", "linearpatch", "procrustes", "replaceme")


def at_cut(
    model: ReasoningModel, data: Sequence[Any], *blocks: int
) -> tuple[np.ndarray, np.ndarray]:
    """The stream entering a cut of neighbouring blocks, and leaving them: [tokens, D] each."""
    both = [streams(model, ids) for ids in data]
    return (
        np.concatenate([x[blocks[0]] for x in both]),
        np.concatenate([x[blocks[-1] + 1] for x in both]),
    )


def mlp_before(model: ReasoningModel, data: Sequence[Any], block: int) -> np.ndarray:
    """What the MLP of `block` adds, [tokens, D]."""
    seen: list[torch.Tensor] = []
    mlp: Any = model.anatomy.adds_mlp[block]
    handle = mlp.register_forward_hook(lambda _, args, out: seen.append(out[0]))
    with torch.no_grad():
        for ids in data:
            model.hf(torch.tensor(ids)[None])
    handle.remove()
    return torch.cat(seen).double().numpy()


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(((got - wanted) ** 2).sum() / (wanted**2).sum())


# --------------------------------------------------------------------- the fits, by definition


@pytest.mark.parametrize("average", ["norms", "ratios"])
def test_alpha_is_the_ratio_of_norms(average: str) -> None:
    model = tiny("qwen3", 5)
    data = texts(model, LENGTHS)
    x, y = at_cut(model, data, 2, 3)
    norm_x, norm_y = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    alpha = norm_y.mean() / norm_x.mean() if average == "norms" else (norm_y / norm_x).mean()
    plan = LayerPlan.without(model, 2, 3)
    repaired = mend("prune-comp", model, plan, data, average=average, batch_tokens=50)
    (cut,) = repaired.record["cuts"]
    assert cut["alpha"] == pytest.approx(alpha, rel=1e-5)
    assert cut["error_removed"] == pytest.approx(relative(x, y), rel=1e-5)
    assert cut["error_repaired"] == pytest.approx(relative(alpha * x, y), rel=1e-4)
    assert cut["tokens"] == len(x)
    assert (cut["before"], cut["after"]) == (1, 4)


@pytest.mark.parametrize("rotate", [True, False])
def test_linearpatch_is_a_gain_a_channel(rotate: bool) -> None:
    import scipy.linalg

    model = tiny("llama", 5)
    data = texts(model, LENGTHS)
    x, y = at_cut(model, data, 1, 2)
    h = scipy.linalg.hadamard(32) / 32**0.5 if rotate else np.eye(32)
    d = np.abs(y @ h).sum(0) / np.abs(x @ h).sum(0)
    p = h @ np.diag(d) @ h.T
    plan = LayerPlan.without(model, 1, 2)
    repaired = mend("linearpatch", model, plan, data, rotate=rotate, batch_tokens=50)
    np.testing.assert_allclose(repaired.maps[0].matrix.numpy(), p, rtol=1e-4, atol=1e-5)
    (cut,) = repaired.record["cuts"]
    assert (cut["gain_min"], cut["gain_max"]) == pytest.approx((d.min(), d.max()), rel=1e-4)
    assert cut["error_repaired"] == pytest.approx(relative(x @ p, y), rel=1e-3)


def test_procrustes_is_scipys() -> None:
    import scipy.linalg

    model = tiny("llama", 5)
    data = texts(model, LENGTHS)
    x, y = at_cut(model, data, 2)
    rotation, scale = scipy.linalg.orthogonal_procrustes(x, y)
    gain = scale / (x**2).sum()
    repaired = mend("procrustes", model, LayerPlan.without(model, 2), data, ridge=0.0)
    np.testing.assert_allclose(repaired.maps[0].matrix.numpy(), gain * rotation, atol=1e-4)
    (cut,) = repaired.record["cuts"]
    assert cut["gain"] == pytest.approx(gain, rel=1e-5)
    assert cut["error_repaired"] == pytest.approx(relative(gain * x @ rotation, y), rel=1e-4)


@pytest.mark.parametrize("toward", ["identity", "zero"])
@pytest.mark.parametrize("arch", ["qwen3", "qwen3_moe"])
def test_replaceme_is_ridge_least_squares(arch: str, toward: str) -> None:
    model = tiny(arch, 5)
    data = texts(model, LENGTHS)
    x, y = at_cut(model, data, 2, 3)
    m, ridge = mlp_before(model, data, 1), 0.3
    level = np.sqrt(ridge * (m**2).sum() / 32)  # the ridge as 32 more rows of the regression
    rest = x - m
    start = np.eye(32) if toward == "identity" else np.zeros((32, 32))
    rows = np.concatenate([m, level * np.eye(32)])
    goal = np.concatenate([y - rest, level * start])
    t = np.linalg.lstsq(rows, goal)[0]
    plan = LayerPlan.without(model, 2, 3)
    repaired = mend("replaceme", model, plan, data, ridge=ridge, toward=toward, batch_tokens=50)
    assert (repaired.maps[0].site, repaired.maps[0].block) == ("mlp", 1)
    np.testing.assert_allclose(repaired.maps[0].matrix.numpy(), t, atol=1e-4)
    (cut,) = repaired.record["cuts"]
    assert cut["error_repaired"] == pytest.approx(relative(m @ t + rest, y), rel=1e-3)
    assert cut["ridge"] == ridge


def test_replaceme_of_diagonal_form_is_least_squares_a_channel() -> None:
    model = tiny("gemma2", 5)
    data = texts(model, LENGTHS)
    x, y = at_cut(model, data, 2)
    m = mlp_before(model, data, 1)
    t = 1 + (m * (y - x)).sum(0) / (m**2).sum(0)
    plan = LayerPlan.without(model, 2)
    repaired = mend("replaceme", model, plan, data, form="diagonal", ridge=0.0)
    np.testing.assert_allclose(repaired.maps[0].matrix.numpy(), t, rtol=1e-4, atol=1e-5)
    (cut,) = repaired.record["cuts"]
    assert cut["error_repaired"] == pytest.approx(relative(x + m * (t - 1), y), rel=1e-4)


def test_the_ridge_is_chosen_on_held_out_texts() -> None:
    model = tiny("qwen3", 5)
    data = texts(model, LENGTHS)
    m = mlp_before(model, data, 1)
    x, y = at_cut(model, data, 2)
    text = np.repeat(np.arange(len(data)), LENGTHS)
    held = text == 4

    def error(ridge: float) -> float:
        fit = m[~held]
        whole = fit.T @ fit + ridge * (fit**2).sum() / 32 * np.eye(32)
        z = np.linalg.solve(whole, fit.T @ (y - x)[~held])
        return float(((m[held] @ z - (y - x)[held]) ** 2).sum())

    best = min(RIDGES, key=error)
    (cut,) = mend("replaceme", model, LayerPlan.without(model, 2), data).record["cuts"]
    assert cut["ridge"] == best
    gain = 1 - error(best) / float(((y - x)[held] ** 2).sum())
    assert cut["held_out_gain"] == pytest.approx(gain, rel=1e-3)
    one = mend("replaceme", model, LayerPlan.without(model, 2), [data[0]])
    assert "held_out_gain" not in one.record["cuts"][0]
    two = mend("replaceme", model, LayerPlan.without(model, 2), data[:2])
    assert "held_out_gain" in two.record["cuts"][0]


@pytest.mark.parametrize("name", FITTED)
def test_a_later_cut_is_fitted_on_what_the_repaired_model_hands_on(name: str) -> None:
    """The error recorded for the second cut is that of the model with the first one repaired."""
    model = tiny("qwen3", 6)
    data = texts(model, LENGTHS)
    plan = LayerPlan.without(model, 1, 3)
    repaired = mend(name, model, plan, data, measure=False)
    pruned = prune(model, plan)  # has blocks 0, 2, 4, 5
    wanted = np.concatenate([streams(model, ids)[4] for ids in data])
    with live(pruned, repaired.maps[:1]):
        entering = np.concatenate([streams(pruned, ids)[2] for ids in data])
    second = repaired.record["cuts"][1]
    assert second["error_removed"] == pytest.approx(relative(entering, wanted), rel=1e-4)
    tapped: list[torch.Tensor] = []
    with live(pruned, repaired.maps), torch.no_grad():
        handle = pruned.blocks[2].register_forward_pre_hook(
            lambda _, args: tapped.append(args[0][0])
        )
        for ids in data:
            pruned.hf(torch.tensor(ids)[None])
        handle.remove()
    got = torch.cat(tapped).double().numpy()
    assert second["error_repaired"] == pytest.approx(relative(got, wanted), rel=1e-3)


def test_only_counted_tokens_are_fitted_on() -> None:
    model = tiny("qwen3", 4)
    plan = LayerPlan.without(model, 2)
    data = texts(model, (20, 24, 18))
    calibration = Calibration.of(model, data)
    chains = Calibration(calibration.sequences, (6, 6, 6), "all", "x")
    repaired = mend("prune-comp", model, plan, chains, part="generated")
    generated = Calibration.of(model, chains, "generated")
    assert repaired.record["calibration"] == generated.hash
    assert repaired.record["n_tokens"] == 62 - 18
    (cut,) = repaired.record["cuts"]
    both = [streams(model, ids) for ids in data]
    x = np.concatenate([s[2][6:] for s in both])
    y = np.concatenate([s[3][6:] for s in both])
    assert cut["tokens"] == len(x) == 62 - 18
    alpha = np.linalg.norm(y, axis=1).mean() / np.linalg.norm(x, axis=1).mean()
    assert cut["alpha"] == pytest.approx(alpha, rel=1e-5)


# -------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("arch", ["qwen2", "qwen3_moe", "phi3"])
@pytest.mark.parametrize("name", ["procrustes", "replaceme"])
def test_least_squares_is_never_worse_than_plain_removal(name: str, arch: str) -> None:
    model = tiny(arch, 6)
    data = texts(model, LENGTHS)
    for blocks in ((1,), (0, 2, 3), (2, 5)):
        repaired = mend(name, model, LayerPlan.without(model, *blocks), data, measure=False)
        for cut in repaired.record["cuts"]:
            assert cut["error_repaired"] < cut["error_removed"]


def test_a_rotation_is_never_worse_than_a_number() -> None:
    model = tiny("llama", 6)
    data = texts(model, LENGTHS)
    for blocks in ((1,), (2, 3), (4, 5)):
        plan = LayerPlan.without(model, *blocks)
        errors = [
            mend(name, model, plan, data, measure=False).record["cuts"][0]["error_repaired"]
            for name in ("procrustes", "prune-comp")
        ]
        assert errors[0] < errors[1]


def test_fewer_tokens_than_channels_are_met_exactly() -> None:
    model = tiny("qwen3", 5)
    plan = LayerPlan.without(model, 2, 3)
    data = texts(model, (9, 8))
    repaired = mend("replaceme", model, plan, data, ridge=0.0)
    (cut,) = repaired.record["cuts"]
    assert cut["error_repaired"] < 1e-9 < 0.1 < cut["error_removed"]
    for ids in data:
        np.testing.assert_allclose(
            streams(repaired.model, ids)[2], streams(model, ids)[4], atol=1e-4
        )
    assert repaired.record["kl"]["repaired"] < kl_noise(model)


def equations(seed: int, diagonal: bool) -> tuple[np.ndarray, np.ndarray, NormalEquations]:
    draw = np.random.default_rng(seed)
    m, r = draw.normal(size=(40, 6)) * draw.uniform(0.1, 3, 6), draw.normal(size=(40, 6))
    tensors = torch.from_numpy(m).float(), torch.from_numpy(r).float()
    halves = [NormalEquations.of(tensors[0][rows], tensors[1][rows], diagonal) for rows in
              (slice(0, 13), slice(13, 40))]  # fmt: skip
    return m, r, halves[0] + halves[1]


@given(st.integers(0, 10**6), st.sampled_from([0.0, 1e-3, 1.0, 100.0]), st.booleans())
def test_the_solution_is_a_minimum(seed: int, ridge: float, diagonal: bool) -> None:
    """No step away from T lowers |M T + Y - y|^2 + lambda |T - T_0|^2."""
    m, r, sums = equations(seed, diagonal)
    draw = np.random.default_rng(seed + 1)
    level = ridge * (m**2).sum() / 6
    for toward in ("identity", "zero"):
        t = sums.solve(ridge, toward).numpy()
        full = np.diag(t) if diagonal else t
        start = np.eye(6) * (toward == "identity")

        def loss(t: np.ndarray, start: np.ndarray = start) -> float:
            return float(((m @ (t - np.eye(6)) - r) ** 2).sum() + level * ((t - start) ** 2).sum())

        best = loss(full)
        assert sums.error(torch.from_numpy(t)) == pytest.approx(
            best - level * ((full - start) ** 2).sum(), rel=1e-5
        )
        for _ in range(5):
            step = 1e-2 * draw.normal(size=(6, 6))
            assert loss(full + (np.diag(np.diag(step)) if diagonal else step)) >= best - 1e-9
        if toward == "identity":
            assert sums.error(torch.from_numpy(t)) <= sums.squares * (1 + 1e-9)


def test_a_linear_map_is_found_exactly() -> None:
    draw = torch.Generator().manual_seed(0)
    m, t = torch.randn(60, 8, generator=draw).double(), torch.randn(8, 8, generator=draw).double()
    sums = NormalEquations.of(m.float(), (m @ t - m).float(), False)
    torch.testing.assert_close(sums.solve(0.0, "identity"), t, atol=1e-5, rtol=0)
    torch.testing.assert_close(sums.solve(0.0, "zero"), t, atol=1e-5, rtol=0)
    x = torch.randn(60, 8, generator=draw).double()
    q = torch.linalg.qr(torch.randn(8, 8, generator=draw).double())[0]
    rotation, gain = nearest(Sums(x.T @ (2.5 * x @ q), float(x.square().sum())), 0.0)
    torch.testing.assert_close(rotation, q)
    assert gain == pytest.approx(2.5)
    d = torch.rand(8, generator=draw) + 0.5
    torch.testing.assert_close(channel_gains(x.abs().sum(0).float(), (d * x).abs().sum(0).float()),
                               d)  # fmt: skip


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 10.0]))
def test_procrustes_beats_every_other_rotation_and_number(seed: int, ridge: float) -> None:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(30, 5))
    y = x @ (np.eye(5) + 0.3 * draw.normal(size=(5, 5)))
    pull = ridge * (x**2).sum() / 5
    rotation, gain = nearest(Sums(torch.from_numpy(x.T @ y), float((x**2).sum())), ridge)
    q = rotation.numpy()
    np.testing.assert_allclose(q @ q.T, np.eye(5), atol=1e-9)
    ours = ((gain * x @ q - y) ** 2).sum()
    assert ours <= ((x - y) ** 2).sum() + 1e-9
    number = (x * y).sum() / (x**2).sum()
    assert ours <= ((number * x - y) ** 2).sum() + 1e-9

    def agreement(q: np.ndarray) -> float:
        return float((q * (x.T @ y + pull * np.eye(5))).sum())

    for _ in range(5):
        other = np.linalg.qr(q + 0.2 * draw.normal(size=(5, 5)))[0]
        assert agreement(other) <= agreement(q) + 1e-9


# ---------------------------------------------------------------------------------- refusals


def test_options_out_of_range_are_refused() -> None:
    model = tiny("qwen3", 4)
    plan, data = LayerPlan.without(model, 1), texts(model, LENGTHS)
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("prune-comp", {"average": "median"}, "norms, ratios"),
        ("replaceme", {"toward": "one"}, "'identity' or 'zero'"),
        ("replaceme", {"form": "banded"}, "'full' or 'diagonal'"),
        ("replaceme", {"ridge": -1.0}, "0 or more"),
        ("replaceme", {"ridge": float("nan")}, "not nan"),
        ("procrustes", {"ridge": -1.0}, "0 or more"),
        ("prune-comp", {"batch_tokens": 0}, "batch_tokens"),
        ("prune-comp", {"part": "prompt"}, "no such part"),
    ]
    for name, options, match in wrong:
        with pytest.raises(UserError, match=match):
            mend(name, model, plan, data, **options)


def test_a_width_without_a_hadamard_matrix_can_go_unrotated() -> None:
    model = tiny("llama", 4, hidden_size=44 // 2 * 3, num_attention_heads=3, num_key_value_heads=3)
    plan, data = LayerPlan.without(model, 1), texts(model, LENGTHS)
    with pytest.raises(UserError, match="rotate=False"):
        mend("linearpatch", model, plan, data)
    assert mend("linearpatch", model, plan, data, rotate=False).maps[0].matrix.shape == (66, 66)


def test_what_cannot_be_made_up_for_is_an_error() -> None:
    with pytest.raises(NonFiniteError, match="does not correlate"):
        nearest(Sums(torch.zeros(3, 3).double(), 1.0), 0.0)
    with pytest.raises(UserError, match="zero after it"):
        channel_gains(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0]))
    assert channel_gains(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 3.0])).tolist() == [1.0, 1.5]


# ------------------------------------------------------------------------ the bundled reasoner


def test_repairs_help_the_bundled_reasoner() -> None:
    """Fitted on some problems' texts, measured on others'."""
    from testbed.problems import generate

    model = ReasoningModel.load("testbed")
    problems = [p.question for k in ("arithmetic", "countdown-3") for p in generate(k, 8)]
    chains = [
        [*chain.prompt_ids.tolist(), *chain.ids.tolist()[:60]]
        for chain in model.generate(problems, seed=1)
    ]
    other = Calibration.of(model, chains[1::2])
    for blocks, helpful in (
        ((5, 6), ("prune-comp", "linearpatch", "replaceme")),
        ((8, 9, 10), ("procrustes", "replaceme")),
    ):
        plan = LayerPlan.without(model, *blocks)
        plain = divergences(model, [plan], other)[0]
        found = {
            name: divergences(
                model, [mend(name, model, plan, chains[::2], measure=False).model], other
            )[0]
            for name in helpful
        }
        assert all(value < plain for value in found.values()), (plain, found)
