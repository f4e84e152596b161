"""The numbers per token are those that the study saw when it decoded the chain."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from analyses.viewer.viewed_study import ViewedStudy
from interp.errors import UserError
from pruning.plan import LayerPlan
from pruning.repaired_plan import RepairedPlan


def test_the_means_are_those_that_the_study_stored(real: ViewedStudy) -> None:
    assert {key.variant for key in real.table.keys} == {"dense", "reverse-order-2"}
    for row in range(len(real.table)):
        chain = real.chain(row)
        forced = np.zeros(len(chain["ids"]), dtype=bool)
        for mark in chain["marks"]:
            if mark["kind"] == "forced":
                forced[mark["start"] : mark["stop"]] = True
        for name, stored in (("logprob", "mean_logprob"), ("entropy", "mean_entropy")):
            numbers = np.array(chain["numbers"][name], dtype=float)
            assert len(numbers) == len(chain["ids"])
            assert numbers[~forced].mean() == pytest.approx(chain["facts"][stored], abs=2e-3)


def test_a_block_that_is_skipped_has_no_influence_and_dense_no_kl(real: ViewedStudy) -> None:
    rows = {key.variant: row for row, key in enumerate(real.table.keys)}
    dense, pruned = (real.chain(rows[name])["numbers"] for name in ("dense", "reverse-order-2"))
    blocks = dense["blocks"]
    (removed,) = {tuple(b) for v, b in real.table.removed.items() if v == "reverse-order-2"}
    assert len(removed) == 2
    influence = np.array(pruned["influence"], dtype=float)
    skipped = np.isin(blocks, removed)
    assert np.abs(influence[:, skipped]).max() < 1e-4
    assert influence[:, ~skipped].max() > 0.01
    assert np.array(dense["influence"], dtype=float)[:, skipped].max() > 0.01
    assert dense["kl"] is None
    assert min(pruned["kl"]) >= 0 and max(pruned["kl"]) > 0


def test_kl_along_a_dense_chain_is_zero_for_dense_only(real: ViewedStudy) -> None:
    row = next(row for row, key in enumerate(real.table.keys) if key.variant == "dense")
    assert set(real.kl(row, "dense")) == {0}
    along = real.kl(row, "reverse-order-2")
    assert len(along) == len(real.chain(row)["ids"]) and max(v or 0 for v in along) > 0


def test_without_the_weights_there_are_no_numbers(hostile: ViewedStudy) -> None:
    assert "numbers" not in hostile.chain(0)
    assert hostile.kl(0, "dense") == []
    assert hostile.overview["measured"] is False


def test_a_chain_that_cannot_be_read_again_says_why(
    real: ViewedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = real.numbers
    assert numbers is not None
    with pytest.raises(UserError, match="no variant 'nothing'"):
        real.kl(0, "nothing")
    plan = LayerPlan(removed=(1,), n_blocks=16)
    monkeypatch.setitem(cast("Any", numbers._variants), "laco-1", RepairedPlan(plan, "laco"))
    with pytest.raises(UserError, match="model of its own"):
        real.kl(0, "laco-1")
    monkeypatch.setattr(numbers._model, "prompt_ids", lambda *_, **__: [1, 2])
    chain = real.chain(0)
    assert "The prompt has 2 tokens here and had" in chain["unmeasured"]
    assert "numbers" not in chain and chain["texts"]
