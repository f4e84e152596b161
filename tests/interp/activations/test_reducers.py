"""Reducers: equal to capturing everything and reducing afterwards, in any batching."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.activations.capture import CapturedBatch, Reducer, capture
from interp.activations.reducers import BlockInfluence, Moments, ResidualNorms
from interp.errors import NonFiniteError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.teacher_forced import replay
from interp.statistics.jackknife import jackknife_ratio
from tests.drawing import max_examples
from tests.models import ARCHS, tiny, untyped
from tests.slow_streams import hooks_of, same_weights, snapshot, streams, texts

LENGTHS = (5, 19, 2, 11)


def slow_influence(model: ReasoningModel, sequences: list[np.ndarray], sinks: bool) -> np.ndarray:
    """1 - cos token by token, in float64, in plain loops over everything kept."""
    values: list[list[float]] = [[] for _ in range(model.n_blocks)]
    for ids in sequences:
        x = streams(model, ids)
        norm = np.linalg.norm(x, axis=-1)
        for l in range(model.n_blocks):
            for t in range(len(ids)):
                huge = [norm[k, t] > 100 * np.median(norm[k]) for k in (l, l + 1)]
                if sinks or not any(huge):
                    cos = x[l, t] @ x[l + 1, t] / norm[l, t] / norm[l + 1, t]
                    values[l].append(1 - cos)
    return np.array([np.mean(v) for v in values])


@pytest.mark.parametrize("arch", ARCHS)
def test_influence_is_the_mean_of_one_minus_cosine(arch: str) -> None:
    model = tiny(arch, 3)
    sequences = texts(model, LENGTHS)
    replay(model, sequences, [influence := BlockInfluence()], batch_tokens=40)
    found = influence.result().values()
    np.testing.assert_allclose(found, slow_influence(model, sequences, True), atol=1e-6)


def test_the_last_block_is_scored_before_the_final_norm() -> None:
    model = tiny("qwen3", 3)
    (ids,) = texts(model, [30])
    with torch.no_grad():  # a norm whose gains differ turns the stream
        untyped(model.final_norm).weight.copy_(torch.linspace(0.1, 3.0, model.d_model))
    replay(model, [ids], [influence := BlockInfluence()])
    with torch.no_grad():
        kept = model.hf(torch.tensor(ids)[None], output_hidden_states=True).hidden_states
    after_norm = float(1 - torch.cosine_similarity(kept[-2], kept[-1], dim=-1).mean())
    found = influence.result().values()[-1]
    assert found == pytest.approx(slow_influence(model, [ids], True)[-1], abs=1e-6)
    assert abs(found - after_norm) > 1e-3


def test_sinks_are_left_out_of_the_second_figure_only() -> None:
    model = tiny("llama", 3)
    with torch.no_grad():  # token 7 enters 500 times as long as the others
        untyped(model.hf).get_input_embeddings().weight[7] *= 500
    sequences = [np.where(ids == 7, 8, ids) for ids in texts(model, [20, 13])]
    sequences[0][4] = 7
    replay(model, sequences, [influence := BlockInfluence()])
    result = influence.result()
    with_sinks = slow_influence(model, sequences, True)
    without = slow_influence(model, sequences, False)
    np.testing.assert_allclose(result.values("influence"), with_sinks, atol=1e-6)
    np.testing.assert_allclose(result.values("without_sinks"), without, atol=1e-6)
    assert result.n_tokens("influence") == 33
    assert result.n_tokens("without_sinks") == 32
    assert (with_sinks < without).all()  # the sink hardly turns, and pulls the score down


@max_examples(12)
@given(
    lengths=st.lists(st.integers(1, 24), min_size=1, max_size=6),
    batch_tokens=st.integers(1, 80),
    seed=st.integers(0, 99),
)
def test_batching_padding_and_order_change_nothing(
    lengths: list[int], batch_tokens: int, seed: int
) -> None:
    model = tiny("qwen3", 2)
    sequences = texts(model, lengths, seed)
    replay(model, sequences, [one := BlockInfluence()], batch_tokens=1)
    order = np.random.default_rng(seed).permutation(len(sequences))
    shuffled = [sequences[i] for i in order]
    replay(model, shuffled, [many := BlockInfluence()], batch_tokens=batch_tokens)
    for name in BlockInfluence.quantities:
        alone, counts = one.result().tables[name]
        together, counts_together = many.result().tables[name]
        np.testing.assert_allclose(together, alone[:, order], atol=2e-5)
        np.testing.assert_array_equal(counts_together, counts[:, order])


def test_only_counted_tokens_enter() -> None:
    model = tiny("qwen3", 3)
    sequences = texts(model, LENGTHS)
    counted = [np.arange(len(ids)) >= len(ids) // 2 for ids in sequences]
    influence, norms = BlockInfluence(), ResidualNorms()
    replay(model, sequences, [influence, norms], counted=counted)
    expected = {"influence": [], "resid_pre": [], "resid_post": [], "delta": []}
    for ids, mask in zip(sequences, counted, strict=True):
        x = streams(model, ids)[:, mask]
        norm = np.linalg.norm(x, axis=-1)
        cos = (x[:-1] * x[1:]).sum(-1) / norm[:-1] / norm[1:]
        expected["influence"].append(1 - cos)
        expected["resid_pre"].append(norm[:-1])
        expected["resid_post"].append(norm[1:])
        expected["delta"].append(np.linalg.norm(x[1:] - x[:-1], axis=-1))
    for name, parts in expected.items():
        result = influence.result() if name == "influence" else norms.result()
        np.testing.assert_allclose(result.values(name), np.concatenate(parts, 1).mean(1), rtol=1e-5)


@pytest.mark.parametrize("stream", ["resid_pre", "resid_post", "delta"])
@pytest.mark.parametrize("full", [False, True])
def test_moments_are_those_of_the_kept_streams(stream: str, full: bool) -> None:
    model = tiny("gemma3", 3)
    sequences = texts(model, LENGTHS)
    replay(model, sequences, [moments := Moments(stream, full)], batch_tokens=30)
    kept = np.concatenate([streams(model, ids) for ids in sequences], axis=1)  # [L+1, tokens, D]
    value = {"resid_pre": kept[:-1], "resid_post": kept[1:], "delta": kept[1:] - kept[:-1]}[stream]
    np.testing.assert_allclose(moments.mean().numpy(), value.mean(1), atol=1e-5)
    second = np.einsum("lti,ltj->lij", value, value) / value.shape[1]
    wanted = second if full else np.diagonal(second, axis1=1, axis2=2)
    np.testing.assert_allclose(moments.second_moment().numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_unknown_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="resid_pre"):
        Moments("resid_mid")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    """Norms near 3000: their product is far over float16's 65504."""
    model = tiny("llama", 3)
    with torch.no_grad():
        for weight in (w for b in model.blocks for n, w in b.named_parameters() if "_proj" in n):
            weight.mul_(4)
        untyped(model.hf).get_input_embeddings().weight.mul_(3000)
    untyped(model.hf).to(dtype)
    sequences = texts(model, [12, 7])
    replay(model, sequences, [influence := BlockInfluence()])
    expected = slow_influence(model, sequences, True)
    assert np.linalg.norm(streams(model, sequences[0])[0], axis=-1).min() > 300
    found = influence.result().values()
    assert ((found > 0) & (found < 0.5)).all()
    # the kept streams of a padded and an unpadded half-precision pass differ in the last bits
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=1e-5)


def test_default_batch_counts_every_token_and_gives_each_row_its_text() -> None:
    model = tiny("qwen3", 2)
    sequences = texts(model, [9, 9])
    influence = BlockInfluence()
    with torch.no_grad(), capture(model, influence, n_texts=2):
        model.hf(torch.tensor(np.stack(sequences)))
    replay(model, sequences, [other := BlockInfluence()])
    np.testing.assert_allclose(
        influence.result().tables["influence"][0], other.result().tables["influence"][0], atol=1e-5
    )


def test_state_grows_with_texts_and_blocks_only() -> None:
    model = tiny("qwen3", 3)
    sizes = []
    for length in (4, 40):
        replay(model, texts(model, [length] * 5), [influence := BlockInfluence()])
        sizes.append(influence.table.numel())
        assert not influence._numbers  # nothing of a token is kept after the pass
    assert sizes[0] == sizes[1] == 3 * 5 * 4


def test_hooks_are_gone_after_an_exception_and_nothing_is_changed() -> None:
    model = tiny("qwen3", 3)
    before, hooks = snapshot(model), hooks_of(model)

    class Failing(Reducer):
        def begin(self, model: ReasoningModel, n_texts: int) -> None: ...

        def update(self, index: int, x: Any, y: Any, batch: CapturedBatch) -> None:
            if index == 1:
                raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        replay(model, texts(model, [6]), [BlockInfluence(), Failing()])
    assert hooks_of(model) == hooks
    with suppress(KeyError), capture(model, BlockInfluence(), n_texts=1):
        assert hooks_of(model) > hooks
        raise KeyError
    assert hooks_of(model) == hooks
    assert same_weights(model, before)


def test_the_end_of_a_capture_is_told_and_says_how_it_ended() -> None:
    model = tiny("qwen3", 2)
    ended: list[tuple[bool, int]] = []

    class Ending(BlockInfluence):
        def end(self, complete: bool) -> None:
            ended.append((complete, hooks_of(model)))

    replay(model, texts(model, [6]), [Ending()])
    with suppress(KeyError), capture(model, Ending(), n_texts=1):
        raise KeyError
    assert ended == [(True, 0), (False, 0)]


def test_half_a_row_left_by_a_failed_pass_does_not_enter_the_next() -> None:
    model = tiny("qwen3", 2)
    (ids,) = texts(model, [12])
    whole = torch.tensor(ids)[None]
    influence = BlockInfluence()
    with torch.no_grad(), capture(model, influence, n_texts=1) as recording:
        ones = torch.ones(1, 5, dtype=torch.bool)
        recording.batch = CapturedBatch(ones, torch.tensor([0]), first=0, last=False)
        model.hf(whole[:, :5])  # the rest of this row never comes
        recording.batch = CapturedBatch(torch.ones(1, 12, dtype=torch.bool), torch.tensor([0]))
        model.hf(whole)
    replay(model, [ids], [expected := BlockInfluence()])
    assert influence.result().n_tokens() == 12
    np.testing.assert_allclose(influence.result().values(), expected.result().values(), atol=1e-6)


def test_recording_changes_no_logit() -> None:
    model = tiny("qwen3", 3)
    ids = torch.tensor(np.stack(texts(model, [15, 15])))
    with torch.no_grad():
        plain = model.hf(ids).logits
        with capture(model, BlockInfluence(), ResidualNorms(), Moments(), n_texts=2):
            watched = model.hf(ids).logits
    assert torch.equal(plain, watched)


def test_nothing_in_a_hook_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("qwen3", 2)
    ids = torch.tensor(np.stack(texts(model, [8, 8])))
    batch = CapturedBatch(torch.ones(2, 8, dtype=torch.bool), torch.arange(2))
    reducers = (BlockInfluence(), ResidualNorms(), Moments(), Moments(full=True))

    def waits(*_: Any, **__: Any) -> Any:
        raise AssertionError("a hook waited for the device")

    with torch.no_grad(), capture(model, *reducers, n_texts=2) as recording:
        recording.batch = batch
        stream = untyped(model.hf).get_input_embeddings()(ids)
        for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
            monkeypatch.setattr(torch.Tensor, name, waits)
        for block in model.blocks:  # the blocks themselves may wait: only the hooks are looked at
            monkeypatch.setattr(block, "forward", lambda x: x * 1.5)
            block(stream)
        monkeypatch.undo()
    for reducer in reducers[:2]:
        assert (reducer.table[..., 1] == 8).all()


def test_a_stream_that_is_not_finite_is_an_error() -> None:
    model = tiny("qwen3", 2)
    with torch.no_grad():
        untyped(model.hf).get_input_embeddings().weight[9] = torch.nan
    replay(model, [np.array([8, 9, 10])], [influence := BlockInfluence()])
    with pytest.raises(NonFiniteError, match="block"):
        influence.result()


def test_jackknife_interval_is_that_of_leaving_each_text_out() -> None:
    from scipy.stats import t

    draw = np.random.default_rng(0)
    counts = draw.integers(1, 50, size=(3, 7)).astype(float)
    sums = counts * draw.random((3, 7))
    low, high = jackknife_ratio(sums, counts)
    for l in range(3):
        left = [np.delete(sums[l], i).sum() / np.delete(counts[l], i).sum() for i in range(7)]
        error = np.sqrt(6 / 7 * sum((v - np.mean(left)) ** 2 for v in left))
        half = t.ppf(0.975, 6) * error
        assert (low[l] + high[l]) / 2 == pytest.approx(sums[l].sum() / counts[l].sum())
        assert (high[l] - low[l]) / 2 == pytest.approx(half)


def test_jackknife_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    counts = draw.integers(5, 60, size=(600, 25)).astype(float)
    sums = draw.normal(0.3 * counts, np.sqrt(counts))
    low, high = jackknife_ratio(sums, counts)
    assert 0.91 < ((low < 0.3) & (high > 0.3)).mean() < 0.98


def test_one_text_has_no_interval_and_the_frame_says_so() -> None:
    model = tiny("qwen3", 2)
    replay(model, texts(model, [9]), [influence := BlockInfluence()])
    frame = influence.result().to_frame()
    assert list(frame["block"]) == [0, 1]
    assert frame["influence"].notna().all()
    assert frame["influence_low"].isna().all()
    assert (frame["influence_tokens"] == 9).all()
