"""Prune&Comp: one number a cut makes up for the lost magnitude. arXiv 2507.18212.

The residual stream grows from block to block, so behind a cut it enters too small. It is multiplied
by alpha = E||x_(l+n)|| / E||x_l||, the norm that leaves the removed run over the norm that enters
the cut, means over counted tokens (average="ratios": the mean of the tokens' own ratios, which a
few sink tokens of huge norm do not decide).

Folded: writes behind the cut are divided by alpha, which by the scale invariance of the norms is
the same model as one whose stream was multiplied, exactly but for the norms' eps. (The paper
scales the embedding and the writes before the cut instead: again the same model, but then a tied
head must be untied.) Where the run starts the model, the embedding is multiplied, and a tied head
is untied. Works for every architecture and several cuts (each alpha is measured with the earlier
ones at work); behind the last block only the final norm reads, and nothing changes.

Caveat: matching norms is not least squares. Where the run turns the stream much, the matched
stream may be further from its target than the plain one: compare `error_repaired` and
`error_removed`, and the KL divergences.
"""

from __future__ import annotations

from typing import Any

import torch

from interp.errors import NonFiniteError, UserError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration, Part
from pruning.plan import LayerPlan
from pruning.repairs import Repaired, per_cut, repair
from pruning.repairs.machinery.cuts import cuts
from pruning.repairs.machinery.fold import checked, fold
from pruning.repairs.machinery.live import Map, on_the_stream
from pruning.repairs.machinery.streams import CutErrors, at_cut
from pruning.surgery import prune

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
    """The pruned model with alpha folded in at every cut. average: "norms" or "ratios"."""
    if average not in AVERAGES:
        raise UserError(f"average={average!r}: expected one of {', '.join(AVERAGES)}.")
    calibration = Calibration.of(model, texts, part)
    pruned = prune(model, plan)
    maps: list[Map] = []
    entries = []
    for cut in cuts(plan):
        errors = CutErrors()
        entering = leaving = ratios = dots = squares = 0.0
        for batch in at_cut(model, pruned, maps, cut, calibration, batch_tokens):
            errors.add(batch)
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
                f"The stream behind blocks {list(cut.removed)} has norm {leaving:g} against "
                f"{entering:g} before them: no number makes up for that."
            )
        after = errors.target - 2 * alpha * dots + alpha * alpha * squares
        entries.append(errors.entry(cut, after, alpha=alpha))
        maps.append(on_the_stream(cut, torch.tensor(alpha, dtype=torch.float64)))
    with checked(pruned, maps, calibration):
        fold(pruned, maps)
    return Repaired(pruned, plan, {"cuts": entries}, tuple(maps))
