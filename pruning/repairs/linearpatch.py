"""LinearPatch: a gain a channel, in a Hadamard-rotated basis. arXiv 2505.24680.

At a cut the stream x (row vectors) becomes x P with P = H diag(d) H^T, H a Hadamard matrix (so
that no channel holds an outlier alone) and d_k = sum_t |x_(l+n) H|_k / sum_t |x_l H|_k: the
magnitude that leaves the removed run over the one that enters the cut, channel by rotated channel,
over counted tokens. rotate=False leaves H out. d is positive, so P is symmetric and invertible.

The paper puts P between two blocks as a layer of its own. Into an ordinary checkpoint of the same
architecture P cannot be folded exactly: an RMS norm commutes only with a rotation times a number,
and P is one only where all d are equal (see `machinery.fold` for why no other way can be exact
either). The closest exact maps to P are numbers: that is Prune&Comp. What is done here is exact in
all but one factor a token: reads behind the cut take P, writes take its inverse, and the ratio
rms(x P) / rms(x), which differs from token to token, is replaced at each read by its mean. What
that leaves out is measured and recorded:
- `read_error`: the squared relative error of what the reads get, mean and worst over reads;
- `logit_error`: the distance of the logits from those of the hook, relative to their size, on the
  start of the first text;
- `kl_hook` beside `kl`: the KL divergence with P as a hook, exactly as in the paper.
`live(prune(model, plan), repaired.maps)` is the unfolded repair. (The other way, least squares into
the down-projection before the cut, leaves out a quarter of x P - x on the bundled reasoner, where
this leaves out a ten-thousandth of each read; and with the run itself as its target it is
ReplaceMe.)

Where the run starts the model, P goes into the embedding, which is exact. Elsewhere architectures
with a norm behind their sublayers are refused: nothing but a number passes that.
"""

from __future__ import annotations

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
from pruning.repairs.machinery.streams import CutErrors, at_cut
from pruning.surgery import prune


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
    """The pruned model with the patch of every cut folded in, all but a factor a token."""
    found = cuts(plan)
    refuse(model, [on_the_stream(cut, torch.eye(1)) for cut in found])
    calibration = Calibration.of(model, texts, part)
    width = model.d_model
    basis = hadamard(width) if rotate else torch.eye(width, dtype=torch.float64)
    pruned = prune(model, plan)
    maps: list[Map] = []
    entries = []
    for cut in found:
        each, entry = _patch(model, pruned, maps, cut, calibration, basis, batch_tokens)
        maps.append(each)
        entries.append(entry)
    with live(pruned, maps):
        wanted = first_logits(pruned, calibration)
        kl_hook = divergences(model, [pruned], calibration, batch_tokens)[0]
    gains = read_gains(pruned, maps, calibration, batch_tokens)
    fold(pruned, maps, gains.kappa)
    errors = list(gains.errors.values()) or [0.0]
    approximate = "approximate, one factor a token being replaced by its mean"
    record = {
        "cuts": entries,
        "fold": approximate if gains.errors else "exact",
        "read_error": {"mean": sum(errors) / len(errors), "worst": max(errors)},
        "logit_error": distance(first_logits(pruned, calibration), wanted),
        "kl_hook": kl_hook,
    }
    return Repaired(pruned, plan, record, tuple(maps))


def _patch(
    model: ReasoningModel,
    pruned: ReasoningModel,
    maps: list[Map],
    cut: Cut,
    calibration: Calibration,
    basis: Float[Tensor, "D D"],
    batch_tokens: int,
) -> tuple[Map, dict[str, Any]]:
    """The patch of one cut and what the record says of it."""
    errors = CutErrors()
    sums = torch.zeros(4, len(basis), dtype=torch.float64)  # |x|, |y|, xy, xx a rotated channel
    for batch in at_cut(model, pruned, maps, cut, calibration, batch_tokens):
        errors.add(batch)
        here = basis.to(batch.entering.device)
        x, y = batch.entering.double() @ here, batch.target.double() @ here
        sums += torch.stack(
            [x.abs().sum(0), y.abs().sum(0), (x * y).sum(0), x.square().sum(0)]
        ).cpu()
    gains = channel_gains(sums[0], sums[1])
    after = errors.target - float((2 * gains * sums[2] - gains.square() * sums[3]).sum())
    entry = errors.entry(
        cut, after, gain_mean=float(gains.mean()), gain_min=float(gains.min()),
        gain_max=float(gains.max()),
    )  # fmt: skip
    return on_the_stream(cut, basis @ (gains[:, None] * basis.T)), entry


def channel_gains(
    entering: Float[Tensor, " D"], leaving: Float[Tensor, " D"]
) -> Float[Tensor, " D"]:
    """d_k = leaving_k / entering_k, summed magnitudes; 1 for a channel that is zero throughout."""
    if ((entering > 0) & (leaving == 0)).any():
        raise UserError(
            "A channel that enters the cut is zero behind it on all calibration tokens: the patch "
            "could not be inverted. Give more texts, or rotate=True."
        )
    return torch.where((entering > 0) & (leaving > 0), leaving / entering, 1.0)
