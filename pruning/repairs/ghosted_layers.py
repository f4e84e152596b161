"""Ghosted Layers: an unconstrained linear map on the stream at a cut. arXiv 2605.15491.

At a cut the stream x (row vectors) becomes x + x W. With D = y - x, where y is the stream that the
whole model has after the removed run, over counted tokens (rows):
    W = (X^T X + lambda 1)^-1 X^T D,  lambda = ridge x mean diag X^T X,
the minimum of |x W - D|^2 + lambda |W|^2, so the map is never further from y on its own tokens than
plain removal. ridge=0 is plain least squares, the shortest solution where that is not unique.

Differences from the paper: one map per run of neighbouring blocks, and cuts are fitted from the
first to the last on the stream of the model repaired so far (there: one map per removed block, all
fitted on the streams of the whole model); its lambda is 1e-6, not relative.

W need not be invertible and is no rotation, so it cannot be folded past a norm: the map stays a
hook, `with repaired.applied()`, and `save_repaired` refuses. If the run starts the
model, the map goes into the embedding, which is exact (a tied head is untied).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration, Part
from pruning.plan import LayerPlan
from pruning.repairs import Repaired, folds_into_weights, per_cut, repair
from pruning.repairs.machinery.cuts import Cut
from pruning.repairs.machinery.fold import checked, fold
from pruning.repairs.machinery.live import Map, on_the_stream
from pruning.repairs.machinery.normal_equations import NormalEquations
from pruning.repairs.machinery.streams import CutBatch, CutErrors, fitted_cuts

RIDGE = 1e-6


@repair("ghosted-layers", paper="Ghosted Layers, arXiv 2605.15491", cost=per_cut, on_stream=True)
def ghosted_layers(
    model: ReasoningModel,
    plan: LayerPlan,
    texts: Any,
    *,
    ridge: float = RIDGE,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Repaired:
    """Prune the model and fit x -> x + x W at every cut.

    Args:
        model: the model; it is not changed.
        plan: the plan.
        texts: calibration texts, as for `Calibration.of`.
        ridge: lambda over the mean diagonal of X^T X.
        part: which tokens of the texts count. Default: all.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The pruned model with its maps, to be applied live; folded if the run starts the model.

    Raises:
        UserError: `ridge` is below 0.
        NonFiniteError: an activation is inf or nan.
    """
    if not ridge >= 0.0:
        raise UserError(f"ridge={ridge}: expected 0 or more.")
    calibration = Calibration.of(model, texts, part)
    pruned, maps, entries = fitted_cuts(
        model, plan, calibration, batch_tokens, partial(_fit, ridge)
    )
    folded = folds_into_weights(plan)
    if folded:
        with checked(pruned, maps, calibration):
            fold(pruned, maps)
    record = {"cuts": entries, "fold": "exact" if folded else "none: the maps are hooks"}
    return Repaired(pruned, plan, record, tuple(maps), folded)


def _fit(
    ridge: float, cut: Cut, batches: Iterator[CutBatch], _errors: CutErrors
) -> tuple[Map, float, dict[str, Any]]:
    """The map of one cut, and its entry in the record."""
    whole: NormalEquations | None = None
    for batch in batches:
        sums = NormalEquations.of(batch.entering, batch.target - batch.entering, diagonal=False)
        whole = sums if whole is None else whole + sums
    assert whole is not None
    matrix = whole.solve(ridge, "identity")
    return on_the_stream(cut, matrix), whole.error(matrix), {"ridge": ridge}
