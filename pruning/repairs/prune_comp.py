"""Prune&Comp: one number per cut compensates for the lost magnitude. arXiv 2507.18212.

The residual stream grows from block to block, so after a cut it is too small. It is multiplied by
alpha = E||x_(l+n)|| / E||x_l||, the norm after the removed run over the norm at the cut, means over
counted tokens (average="ratios": the mean of the tokens' own ratios, which a few sink tokens of
huge norm do not dominate).

Folded: writes after the cut are divided by alpha. Because norms are scale-invariant, this is the
same model as one with a multiplied stream, up to the norms' eps. (The paper scales the embedding
and the writes before the cut: the same model again, but a tied head must be untied.) If the run
starts the model, the embedding is multiplied and a tied head untied. It works for every
architecture and several cuts; after the last block only the final norm reads, and nothing changes.

Caveat: matching norms is not least squares. If the run rotates the stream much, the result may be
further from its target than plain removal: compare `error_repaired` and `error_removed`, and KL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from interp.errors import NonFiniteError, UserError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration, Part
from pruning.plan import LayerPlan
from pruning.repairs import Repaired, per_cut, repair
from pruning.repairs.machinery.cuts import Cut
from pruning.repairs.machinery.fold import checked, fold
from pruning.repairs.machinery.live import Map, on_the_stream
from pruning.repairs.machinery.streams import CutBatch, CutErrors, fitted_cuts

AVERAGES = ("norms", "ratios")


@repair("prune-comp", paper="Prune&Comp, arXiv 2507.18212", cost=per_cut)
def prune_comp(
    model: ReasoningModel,
    plan: LayerPlan,
    texts: Any,
    *,
    average: str = "norms",
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Repaired:
    """Prune the model and fold alpha at every cut.

    Args:
        model: the model; it is not changed.
        plan: the plan.
        texts: calibration texts, as for `Calibration.of`.
        average: "norms": the ratio of mean norms; "ratios": the mean of the tokens' ratios.
        part: which tokens of the texts count. Default: all.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The repaired model, its record and its maps.

    Raises:
        UserError: `average` is unknown.
        NonFiniteError: an activation is inf or nan, or alpha is not a finite number above 0.
    """
    if average not in AVERAGES:
        raise UserError(f"average={average!r}: expected one of {', '.join(AVERAGES)}.")
    calibration = Calibration.of(model, texts, part)

    def fit(cut: Cut, batches: Iterator[CutBatch], errors: CutErrors) -> tuple[Map, float, Any]:
        entering = leaving = ratios = dots = squares = 0.0
        for batch in batches:
            x, y = batch.entering.double(), batch.target.double()
            norm_x, norm_y = x.norm(dim=-1), y.norm(dim=-1)
            entering += float(norm_x.sum())
            leaving += float(norm_y.sum())
            ratios += float((norm_y / norm_x).sum())
            dots += float((x * y).sum())
            squares += float(x.square().sum())
        alpha = leaving / entering if average == "norms" else ratios / errors.tokens
        if not 0.0 < alpha < float("inf"):
            raise NonFiniteError(
                f"The stream after blocks {list(cut.removed)} has norm {leaving:g} against "
                f"{entering:g} before them: no factor can repair that. Use another plan or repair."
            )
        after = errors.target - 2 * alpha * dots + alpha * alpha * squares
        factor = torch.tensor(alpha, dtype=torch.float64)
        return on_the_stream(cut, factor), after, {"alpha": alpha}

    pruned, maps, entries = fitted_cuts(model, plan, calibration, batch_tokens, fit)
    with checked(pruned, maps, calibration):
        fold(pruned, maps)
    return Repaired(pruned, plan, {"cuts": entries}, tuple(maps))
