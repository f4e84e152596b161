"""ReplaceMe: a linear map on the last MLP before a cut, by ridge least squares. arXiv 2505.02819.

With M the output of the last kept block's MLP, Y the rest of the stream there and y the stream
after the removed run, over counted tokens (rows):
    min over T of  sum |M T + Y - y|^2 + lambda |T - T_0|^2,
and T is folded into the down-projection, W := T^T W (of every expert in a mixture). T_0 is the
identity (toward="identity": little data stays close to plain removal, and the fit is never worse
than it on its own tokens) or zero (toward="zero", as in the paper). With T = T_0 + Z and float64
sums G = M^T M, C = M^T (y - Y - M): (G + lambda 1) Z = C for the identity; lambda = ridge x mean
diag G. ridge=None tries powers of ten on held-out texts and fits again on all with the best.

If a norm follows the MLP (Gemma 2 and 3, OLMo 2), only one number per channel can be folded:
form="diagonal". If the run starts the model, M is the embedding, Y is nothing, and T is folded
exactly into the embedding (a tied head is untied).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration, Part
from pruning.plan import LayerPlan
from pruning.repairs import Repaired, per_cut, repair
from pruning.repairs.machinery.cuts import Cut, cuts
from pruning.repairs.machinery.fold import checked, fold, refuse
from pruning.repairs.machinery.live import Map
from pruning.repairs.machinery.normal_equations import NormalEquations
from pruning.repairs.machinery.streams import CutBatch, CutErrors, fitted_cuts, held_out

RIDGES = tuple(10.0**k for k in range(-6, 3))
RIDGE_OF_ONE_TEXT = 1e-1
FORMS = ("full", "diagonal")
TOWARD = ("identity", "zero")


@repair("replaceme", paper="ReplaceMe, arXiv 2505.02819", cost=per_cut)
def replaceme(
    model: ReasoningModel,
    plan: LayerPlan,
    texts: Any,
    *,
    ridge: float | None = None,
    toward: str = "identity",
    form: str = "full",
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Repaired:
    """Prune the model and fold T before every cut.

    Args:
        model: the model; it is not changed.
        plan: the plan.
        texts: calibration texts, as for `Calibration.of`.
        ridge: the strength of the pull towards T_0. Default: chosen on held-out texts (every fifth;
            the
            last of fewer than five), or 0.1 with a single text.
        toward: T_0: "identity", or "zero" as in the paper.
        form: a "full" matrix, or "diagonal" with one number per channel.
        part: which tokens of the texts count. Default: all.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The repaired model, its record and its maps.

    Raises:
        UserError: an argument is unknown or out of range, or the architecture is not supported.
        NonFiniteError: an activation is inf or nan.
    """
    if toward not in TOWARD:
        raise UserError(f"toward={toward!r}: expected 'identity' or 'zero'.")
    if form not in FORMS:
        raise UserError(f"form={form!r}: expected 'full' or 'diagonal'.")
    if ridge is not None and not ridge >= 0.0:
        raise UserError(f"ridge={ridge}: expected 0 or more, or None to choose it.")
    shape = torch.eye(1) if form == "full" else torch.ones(1)
    refuse(model, [_before(cut, shape) for cut in cuts(plan)])
    calibration = Calibration.of(model, texts, part)
    held = held_out(len(calibration.sequences)) if ridge is None else None
    fit = partial(_fit, held, ridge, toward, form)
    pruned, maps, entries = fitted_cuts(model, plan, calibration, batch_tokens, fit)
    with checked(pruned, maps, calibration):
        fold(pruned, maps)
    return Repaired(pruned, plan, {"cuts": entries}, tuple(maps))


def _fit(
    held: Bool[Tensor, " N"] | None,
    ridge: float | None,
    toward: str,
    form: str,
    cut: Cut,
    batches: Iterator[CutBatch],
    _errors: CutErrors,
) -> tuple[Map, float, dict[str, Any]]:
    """T of one cut, and its entry in the record."""
    halves: list[NormalEquations | None] = [None, None]  # texts to fit on, held-out texts
    for batch in batches:
        added = batch.entering if batch.mlp is None else batch.mlp
        left = batch.target - batch.entering
        out = torch.zeros_like(batch.texts, dtype=torch.bool)
        if held is not None:
            out = held.to(batch.texts.device)[batch.texts]
        for half, rows in enumerate((~out, out)):
            if rows.any():
                sums = NormalEquations.of(added[rows], left[rows], form == "diagonal")
                before = halves[half]
                halves[half] = sums if before is None else before + sums
    fitted, tried = halves
    whole = fitted if tried is None else (tried if fitted is None else fitted + tried)
    assert whole is not None
    if ridge is None:
        ridge = RIDGE_OF_ONE_TEXT
        if fitted is not None and tried is not None:
            ridge = min(RIDGES, key=lambda r: tried.error(fitted.solve(r, toward)))
    t = whole.solve(ridge, toward)
    numbers: dict[str, Any] = {"ridge": ridge}
    if fitted is not None and tried is not None and tried.squares:
        numbers["held_out_gain"] = 1.0 - tried.error(fitted.solve(ridge, toward)) / tried.squares
    return _before(cut, t), whole.error(t), numbers


def _before(cut: Cut, t: Float[Tensor, "*shape"]) -> Map:
    """The map T on the last MLP before the cut, or on the embedding if there is none."""
    return Map(t, cut.before, "embedding" if cut.before is None else "mlp")
