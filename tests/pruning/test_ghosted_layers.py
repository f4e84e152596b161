"""Ghosted Layers: what is fitted, what stays live, and which checkpoints exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.chains.chain import Budget
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.interventions import dense
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration
from pruning.distance import divergences
from pruning.plan import LayerPlan
from pruning.repairs import Repaired, live, mend, save_repaired
from pruning.surgery import prune
from scaling.study.calibration_source import CalibrationSource
from scaling.study.model_pruning import PruneConfig, prune_model
from tests.models import tiny
from tests.pruning.test_repairs_fits import at_cut, relative
from tests.slow_streams import hooks_of, plant_identity, texts
from tests.tolerances import close_to

GREEDY = Sampling(temperature=0.0)
LENGTHS = (24, 15, 20, 9, 20, 24, 30)


def ghosted(model: ReasoningModel, *blocks: int, **options: Any) -> Repaired:
    plan = LayerPlan.without(model, *blocks)
    return mend("ghosted-layers", model, plan, texts(model, LENGTHS), batch_tokens=50, **options)


def logits(model: ReasoningModel) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(torch.tensor(texts(model, (17,), seed=5)[0])[None]).logits


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_the_map_is_that_of_numpy(ridge: float) -> None:
    model = tiny("llama", 5)
    x, y = at_cut(model, texts(model, LENGTHS), 2, 3)
    rows, wanted = x, y - x
    if ridge:  # rows of zeros pull the solution of plain least squares towards zero
        width = x.shape[1]
        pull = np.sqrt(ridge * np.mean(np.sum(x**2, 0))) * np.eye(width)
        rows, wanted = np.concatenate([x, pull]), np.concatenate([y - x, np.zeros_like(pull)])
    w = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    repaired = ghosted(model, 2, 3, ridge=ridge)
    (each,) = repaired.maps
    np.testing.assert_allclose(each.matrix.numpy(), np.eye(len(w)) + w, rtol=1e-3, atol=1e-4)
    (cut,) = repaired.record["cuts"]
    assert cut["error_removed"] == pytest.approx(relative(x, y), rel=1e-5)
    assert cut["error_repaired"] == pytest.approx(relative(x + x @ w, y), rel=1e-3)


def test_a_run_that_adds_nothing_is_repaired_to_the_whole_model() -> None:
    model = tiny("qwen3", 5)
    for block in (2, 3):
        plant_identity(model, block)
    repaired = ghosted(model, 2, 3)
    assert torch.equal(repaired.maps[0].matrix, torch.eye(model.d_model, dtype=torch.float64))
    with repaired.applied():
        torch.testing.assert_close(logits(repaired.model), logits(model), **close_to(model))


@settings(max_examples=8, deadline=None)
@given(
    st.sets(st.integers(0, 4), min_size=1, max_size=3), st.sampled_from([0.0, 1e-6, 1e-2, 1.0, 100])
)
def test_no_cut_is_worse_than_plain_removal(blocks: set[int], ridge: float) -> None:
    found = ghosted(tiny("qwen3", 5, seed=2), *blocks, ridge=ridge, measure=False)
    for cut in found.record["cuts"]:
        assert cut["error_repaired"] <= cut["error_removed"] * (1 + 1e-9) + 1e-12


def test_the_divergence_is_that_of_the_live_maps() -> None:
    model = tiny("qwen3", 6)
    repaired = ghosted(model, 1, 4)
    data = Calibration.of(model, texts(model, LENGTHS))
    with repaired.applied():
        (wanted,) = divergences(model, [repaired.model], data)
    kl = repaired.record["kl"]
    assert kl["repaired"] == pytest.approx(wanted) and kl["repaired"] < kl["removed"]
    assert divergences(model, [repaired.model], data)[0] == pytest.approx(kl["removed"])
    assert hooks_of(repaired.model) == 0 and len(repaired.maps) == 2


def test_the_decoder_runs_with_the_maps() -> None:
    model = tiny("qwen3", 5, ends=False)
    repaired = ghosted(model, 2, 3)
    ids = texts(model, (9,))[0].tolist()
    with repaired.applied():
        (chain,) = repaired.model.generate([ids], [dense], Budget(24, 4), sampling=GREEDY)
        whole = torch.tensor([[*ids, *chain.ids.tolist()]])
        with torch.no_grad():
            chosen = repaired.model.hf(whole).logits[0, len(ids) - 1 : -1].argmax(-1)
    free = ~chain.forced
    assert free.sum() > 4
    np.testing.assert_array_equal(chain.ids[free], chosen.numpy()[free])


# ------------------------------------------------------------------------------- checkpoints


def test_a_matrix_between_blocks_has_no_checkpoint(tmp_path: Path) -> None:
    for blocks in ((2, 3), (0, 3), (4,)):
        repaired = ghosted(tiny("qwen3", 5), *blocks, measure=False)
        assert not repaired.folded and "hooks" in repaired.record["fold"]
        with pytest.raises(UserError, match="no checkpoint of it") as refused:
            save_repaired(repaired, tmp_path / "out")
        assert "with repaired.applied()" in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_before_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("qwen3", 4)
    monkeypatch.setattr(ReasoningModel, "load", lambda *_, **__: model)

    def read(*_: Any) -> Any:
        raise AssertionError("nothing should be read")

    monkeypatch.setattr(CalibrationSource, "calibration", read)
    config = PruneConfig(model="m", blocks=(1, 2), repair="ghosted-layers")
    with pytest.raises(UserError, match="no checkpoint of it"):
        prune_model(config, tmp_path / "out")


def test_a_run_that_starts_the_model_goes_into_the_embedding(tmp_path: Path) -> None:
    model = tiny("qwen3", 5, tie_word_embeddings=True)
    repaired = ghosted(model, 0, 1)
    assert repaired.folded and repaired.record["fold"] == "exact"
    pruned = prune(model, repaired.plan)
    with live(pruned, repaired.maps):
        wanted = logits(pruned)
    torch.testing.assert_close(logits(repaired.model), wanted, atol=1e-4, rtol=1e-4)
    again = ReasoningModel.load(save_repaired(repaired, tmp_path / "out"))
    torch.testing.assert_close(logits(again), wanted, atol=1e-4, rtol=1e-4)


def test_bad_ridges_are_refused() -> None:
    for ridge, match in ((-1.0, "expected 0 or more"), (float("nan"), "expected a number")):
        with pytest.raises(UserError, match=match):
            ghosted(tiny("qwen3", 4), 2, ridge=ridge)
