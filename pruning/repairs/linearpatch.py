"""LinearPatch: one gain per channel, in a Hadamard-rotated basis. arXiv 2505.24680.

At a cut the stream x (row vectors) becomes x P with P = H diag(d) H^T. H is a Hadamard matrix, so
that no channel alone holds an outlier (rotate=False leaves H out), and over counted tokens
d_k = sum_t |x_(l+n) H|_k / sum_t |x_l H|_k. d is positive, so P is symmetric and invertible.

The paper inserts P as a layer. Folding it is exact except for one factor per token: reads after
the cut take P, writes its inverse, and the ratio rms(x P) / rms(x), which differs per token, is
replaced at each read by its mean. Recorded: `read_error` (squared relative error at the reads, mean
and worst), `logit_error` (relative distance to the hook's logits on the start of the first text)
and `kl_hook` (KL with P as a hook, exactly as in the paper). `live(prune(model, plan),
repaired.maps)` is the unfolded repair. docs/internals.md says why no exact fold exists. If the run
starts the model, P goes into the embedding, which is exact; elsewhere architectures with a norm
after their sublayers are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration, Part
from pruning.cost import Cost, RepairJob
from pruning.distance import divergences
from pruning.plan import LayerPlan
from pruning.repairs import Repaired, per_cut, repair
from pruning.repairs.machinery.cuts import Cut, cuts
from pruning.repairs.machinery.fold import (
    distance,
    first_logits,
    fold,
    refuse,
)
from pruning.repairs.machinery.gains import read_gains
from pruning.repairs.machinery.hadamard import hadamard
from pruning.repairs.machinery.live import Map, live, on_the_stream
from pruning.repairs.machinery.streams import CutBatch, CutErrors, fitted_cuts


def _cost(job: RepairJob) -> Cost:
    """The fits, the divergence of the patch as a hook, and the reading of gains."""
    return per_cut(job) + Cost(forwards=3, readouts=2)


@repair("linearpatch", paper="LinearPatch, arXiv 2505.24680", cost=_cost)
def linearpatch(
    model: ReasoningModel,
    plan: LayerPlan,
    texts: Any,
    *,
    rotate: bool = True,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Repaired:
    """Prune the model and fold the patch of every cut, exact except for one factor per token.

    Args:
        model: the model; it is not changed.
        plan: the plan.
        texts: calibration texts, as for `Calibration.of`.
        rotate: whether gains are per channel of the Hadamard-rotated stream.
        part: which tokens of the texts count. Default: all.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The repaired model, its record and its maps.

    Raises:
        UserError: the architecture or its width is not supported, or the patch is not invertible.
        NonFiniteError: an activation is inf or nan.
    """
    refuse(model, [on_the_stream(cut, torch.eye(1)) for cut in cuts(plan)])
    calibration = Calibration.of(model, texts, part)
    width = model.d_model
    basis = hadamard(width) if rotate else torch.eye(width, dtype=torch.float64)
    fit = partial(_patch, basis)
    pruned, maps, entries = fitted_cuts(model, plan, calibration, batch_tokens, fit)
    with live(pruned, maps):
        wanted = first_logits(pruned, calibration)
        kl_hook = divergences(model, [pruned], calibration, batch_tokens)[0]
    gains = read_gains(pruned, maps, calibration, batch_tokens)
    fold(pruned, maps, gains.kappa)
    errors = list(gains.errors.values()) or [0.0]
    approximate = "approximate, one factor per token being replaced by its mean"
    record = {
        "cuts": entries,
        "fold": approximate if gains.errors else "exact",
        "read_error": {"mean": sum(errors) / len(errors), "worst": max(errors)},
        "logit_error": distance(first_logits(pruned, calibration), wanted),
        "kl_hook": kl_hook,
    }
    return Repaired(pruned, plan, record, tuple(maps))


def _patch(
    basis: Float[Tensor, "D D"], cut: Cut, batches: Iterator[CutBatch], errors: CutErrors
) -> tuple[Map, float, dict[str, Any]]:
    """The patch of one cut, and its entry in the record."""
    sums = torch.zeros(4, len(basis), dtype=torch.float64)  # |x|, |y|, xy, xx per rotated channel
    for batch in batches:
        here = basis.to(batch.entering.device)
        x, y = batch.entering.double() @ here, batch.target.double() @ here
        sums += torch.stack(
            [x.abs().sum(0), y.abs().sum(0), (x * y).sum(0), x.square().sum(0)]
        ).cpu()
    gains = channel_gains(sums[0], sums[1])
    after = errors.target - float((2 * gains * sums[2] - gains.square() * sums[3]).sum())
    numbers = {f"gain_{name}": float(getattr(gains, name)()) for name in ("mean", "min", "max")}
    return on_the_stream(cut, basis @ (gains[:, None] * basis.T)), after, numbers


def channel_gains(
    entering: Float[Tensor, " D"], leaving: Float[Tensor, " D"]
) -> Float[Tensor, " D"]:
    """d_k = leaving_k / entering_k; 1 for a channel that is always zero.

    Args:
        entering: summed magnitudes per channel before the run [D].
        leaving: summed magnitudes per channel after the run [D].

    Returns:
        The gains [D].

    Raises:
        UserError: a channel that enters is zero after the run, so the patch is not invertible.
    """
    if ((entering > 0) & (leaving == 0)).any():
        raise UserError(
            "A channel that enters the cut is zero after it on all calibration tokens, so the "
            "patch cannot be inverted. Give more texts, or rotate=True."
        )
    return torch.where((entering > 0) & (leaving > 0), leaving / entering, 1.0)
