"""Kappa: the number that stands for rms(s A) / rms(s) at each read when a matrix is folded.

A read after the cut goes through an RMS norm, n(s A) = g * (s A) / rms(s A), and a folded read can
only compute g * (s A) / (kappa rms(s)): see `fold`. With rho = rms(s A) / rms(s) per token, the
folded read is rho / kappa times the right one. kappa = E[rho^2] / E[rho] minimises
E[(1 - rho / kappa)^2]. The minimum, 1 - E[rho]^2 / E[rho^2], is the squared relative error of the
read: 0 for a rotation times a number, small for a map that treats all directions nearly alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import batches
from pruning.calibration import Calibration
from pruning.repairs.machinery.fold import inverse_products, read_of
from pruning.repairs.machinery.live import Map, live, times
from pruning.repairs.machinery.streams import forward_to, position, tap_input
from pruning.repairs.machinery.wiring import norms


@dataclass(frozen=True)
class Gains:
    """The kappas of all reads.

    Attributes:
        kappa: name of the read -> kappa.
        errors: name of the read -> squared relative error that remains.
    """

    kappa: Mapping[str, float]
    errors: Mapping[str, float]


@torch.no_grad()
def read_gains(
    model: ReasoningModel, maps: Sequence[Map], calibration: Calibration, batch_tokens: int
) -> Gains:
    """Measure kappa of every read after the first map of the stream, over the counted tokens.

    Args:
        model: the pruned model, not yet folded.
        maps: the maps.
        calibration: the token sequences.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        Kappas and errors; empty if no map is on the stream.
    """
    stream = [each for each in maps if each.site == "stream"]
    first = min((position(model, e.block) for e in stream), default=model.n_blocks)
    places = [(index, norm, read_of(part)) for index, norm, part in norms(model, first) if stream]
    inverses = inverse_products(model, maps)
    sums = {name: torch.zeros(3, dtype=torch.float64) for _, _, name in places}
    counted = calibration.counted()
    for batch in batches(model, calibration.sequences, batch_tokens) if places else ():
        mask = batch.mask & batch.pad(counted)
        with ExitStack() as stack:
            stack.enter_context(live(model, maps))
            taps = {n: stack.enter_context(tap_input(model, norm)) for _, norm, n in places}
            forward_to(model, batch.ids, model.n_blocks)
        for index, _, name in places:
            seen = taps[name].pop()
            mapped = seen[mask.to(seen.device)].float()
            plain = times(mapped, inverses[index].to(mapped))
            rho = (mapped.norm(dim=-1) / plain.norm(dim=-1)).cpu().double()
            rho = rho[rho.isfinite()]  # a stream of zeros has no direction
            sums[name] += torch.stack([torch.ones_like(rho), rho, rho.square()], -1).sum(0)
    kappa, errors = {}, {}
    for name, (n, total, squares) in sums.items():
        kappa[name] = float(squares / total)
        errors[name] = max(0.0, 1.0 - float(total.square() / (n * squares)))
    return Gains(kappa, errors)
