"""Recording while decoding: the numbers of one slow pass over the finished chain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.chains.chain import Budget, Chain
from interp.chains.residual_record import NUMBERS, StreamRecord
from interp.decoding.generate import decode
from interp.decoding.request import cross, fork
from interp.decoding.sampling import Sampling
from interp.interventions.interventions import Scale, Skip, Variant, dense
from interp.interventions.windows import Window
from interp.kernels.stream_numbers import SINK_RATIO
from interp.model.reasoning_model import ReasoningModel
from tests.models import ARCHS, tiny
from tests.reference import look_every, skipped, slow_logits

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7"]
LONG = Sampling(top_k=8)


def slow_streams(model: ReasoningModel, chain: Chain, edits: dict) -> tuple[np.ndarray, ...]:
    """What enters and what leaves every block in the passes that chose the tokens: [S, L, D]."""
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    slow_logits(model, [*chain.prompt_ids.tolist(), *chain.ids.tolist()], edits, seen)
    first = len(chain.prompt_ids) - 1
    x, y = (
        torch.stack([seen[i][j] for i in range(model.n_blocks)], 1)[first:-1].numpy()
        for j in range(2)
    )
    return x, y


def check(model: ReasoningModel, chain: Chain, edits: dict, first: int = 0) -> None:
    record = chain.stream
    assert record is not None and record.layer_map == model.layer_map
    x, y = slow_streams(model, chain, edits)
    norm = np.linalg.norm
    want = dict(zip(NUMBERS, (norm(v, axis=-1) for v in (x, y, y - x)), strict=False))
    want["dot"] = (x * y).sum(-1)
    for name, values in want.items():
        got = getattr(record, name)
        assert got.shape == values.shape == (chain.n_tokens, model.n_blocks)
        assert np.isnan(got[:first]).all()
        np.testing.assert_allclose(got[first:], values[first:], rtol=1e-4, atol=1e-4)
    cosine = want["dot"] / (want["pre_norm"] * want["post_norm"])
    np.testing.assert_allclose(record.influence[first:], 1 - cosine[first:], atol=1e-5)


@pytest.mark.parametrize("stride", [1, 8])
@pytest.mark.parametrize("arch", ARCHS)
def test_live_is_a_slow_pass(arch: str, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    look_every(monkeypatch, stride)
    model = tiny(arch)
    variants = [
        dense,
        Variant("gone", (Skip(1),)),
        Variant("late", (Skip(0, window=Window(3)),)),
        Variant("half", (Scale(2, 0.5, part="mlp"),)),
    ]
    requests = cross(
        model, PROMPTS[:1], variants=variants, budgets=[Budget(6, 4), Budget(14, 3, waits=1)]
    )
    chains = list(decode(model, requests, slots=3, record=True))
    assert len(chains) == 8
    for chain in chains:
        edits = {
            "dense": {},
            "gone": {(1, "block"): skipped(chain)},
            "late": {(0, "block"): skipped(chain, 3)},
            "half": {(2, "mlp"): lambda delta: delta * 0.5},
        }[chain.variant]
        check(model, chain, edits)


def test_a_bypassed_block_moves_nothing_and_a_fork_has_no_record_of_its_prefix() -> None:
    model = tiny(ends=False)
    gone = Variant("gone", (Skip(2),))
    chain, other = model.generate(
        PROMPTS, variants=[gone], budget=Budget(12, 3), sampling=LONG, record=True
    )
    assert other.stream is not None
    for one in (chain, other):
        assert one.stream is not None
        np.testing.assert_allclose(one.stream.influence[:, 2], 0, atol=1e-6)
        assert (one.stream.delta_norm[:, 2] == 0).all()
        check(model, one, {(2, "block"): skipped(one)})
    (again,) = decode(model, fork(chain, 5, [gone]), sampling=LONG, record=True)
    check(model, again, {(2, "block"): skipped(again)}, first=5)
    (plain,) = decode(model, fork(chain, 5, [gone]), sampling=LONG)
    assert plain.stream is None and plain.ids.tolist() == again.ids.tolist()
    frame = chain.stream.to_frame()  # type: ignore[union-attr]
    assert len(frame) == chain.n_tokens * 4 and list(frame["block"][:4]) == [0, 1, 2, 3]


def test_torch_and_compiled_numbers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.decoding import recording

    model = tiny(ends=False)
    (a,) = model.generate(PROMPTS[:1], budget=Budget(12, 3), sampling=LONG, record=True)
    monkeypatch.setattr(recording, "kernels", lambda: None)
    (b,) = model.generate(PROMPTS[:1], budget=Budget(12, 3), sampling=LONG, record=True)
    assert a.stream is not None and b.stream is not None
    for name in NUMBERS:
        np.testing.assert_allclose(getattr(a.stream, name), getattr(b.stream, name), rtol=1e-5)


def test_sinks_and_zeros() -> None:
    numbers = np.ones((6, 2, 4), np.float32)
    numbers[:, :, 3] = 0.5  # dot
    numbers[2, 1, 0] = 2 * SINK_RATIO  # enters block 1 with a giant norm
    numbers[4, 0] = 0.0  # nothing in, nothing out
    record = StreamRecord.of(numbers, (3, 7))
    assert np.argwhere(record.sinks).tolist() == [[2, 1]]
    assert record.influence[4, 0] == 0 and record.influence[0, 0] == pytest.approx(0.5)
    numbers[:] = np.nan
    assert not StreamRecord.of(numbers, (3, 7)).sinks.any()
