"""Procrustes: the best map of the stream that folds exactly, a rotation times a number.

At a cut the stream x becomes c x Q with Q orthogonal. An RMS norm commutes with no other maps, so
no others fold exactly (`machinery.fold`). This repair takes the one that is nearest, in least
squares, to what the removed run did:
    min over Q, c of sum_t |c x_t Q - y_t|^2 + lambda |Q - 1|^2,   x_t entering, y_t its target.
With X^T Y + lambda 1 = U S V^T: Q = U V^T (Schoenemann, 1966), c = tr(Q^T X^T Y) / |X|^2. lambda is
`ridge` times the mean of the diagonal of X^T X; it keeps directions that the texts do not cover.
ridge=None tries powers of ten on held-out texts (every fifth; the last of fewer than five) and fits
again on all with the best. On the calibration tokens the result is never further from the target
than plain removal, nor than any single number.

Prune&Comp is the case Q = 1. Architectures with a norm after their sublayers are refused, unless
the run starts the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import NonFiniteError, UserError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration, Part
from pruning.cost import FORWARD, Cost, RepairJob
from pruning.plan import LayerPlan
from pruning.repairs import Repaired, per_cut, repair
from pruning.repairs.machinery.cuts import Cut, cuts
from pruning.repairs.machinery.fold import checked, fold, refuse
from pruning.repairs.machinery.gains import read_gains
from pruning.repairs.machinery.live import Map, on_the_stream
from pruning.repairs.machinery.streams import CutBatch, CutErrors, fitted_cuts, held_out

RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)
RIDGE_OF_ONE_TEXT = 1.0


def _cost(job: RepairJob) -> Cost:
    """The fits, and the reading of gains."""
    return per_cut(job) + FORWARD


@repair("procrustes", paper="Schoenemann 1966, folded exactly", cost=_cost)
def procrustes(
    model: ReasoningModel,
    plan: LayerPlan,
    texts: Any,
    *,
    ridge: float | None = None,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Repaired:
    """Prune the model and fold a rotation times a number at every cut.

    Args:
        model: the model; it is not changed.
        plan: the plan.
        texts: calibration texts, as for `Calibration.of`.
        ridge: the strength of the pull towards no rotation. Default: chosen on held-out texts, or 1
            with a single text.
        part: which tokens of the texts count. Default: all.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The repaired model, its record and its maps.

    Raises:
        UserError: `ridge` is negative, or the architecture is not supported.
        NonFiniteError: an activation is inf or nan, or no rotation fits.
    """
    if ridge is not None and not ridge >= 0.0:
        raise UserError(f"ridge={ridge}: expected 0 or more, or None to choose it.")
    refuse(model, [on_the_stream(cut, torch.eye(1)) for cut in cuts(plan)])
    calibration = Calibration.of(model, texts, part)
    held = held_out(len(calibration.sequences))

    def fit(cut: Cut, batches: Iterator[CutBatch], errors: CutErrors) -> tuple[Map, float, Any]:
        fitted, tried = _sums(batches, held, model.d_model)
        chosen = ridge
        if chosen is None and tried.squares:
            chosen = min(RIDGES, key=lambda r: tried.error(*nearest(fitted, r)))
        elif chosen is None:
            chosen = RIDGE_OF_ONE_TEXT
        whole = fitted + tried
        rotation, gain = nearest(whole, chosen)
        turned = float((rotation - torch.eye(len(rotation))).norm())
        numbers = {"gain": gain, "turned": turned, "ridge": chosen}
        after = errors.target + whole.error(rotation, gain)
        return on_the_stream(cut, gain * rotation), after, numbers

    pruned, maps, entries = fitted_cuts(model, plan, calibration, batch_tokens, fit)
    gains = read_gains(pruned, maps, calibration, batch_tokens)
    with checked(pruned, maps, calibration):
        fold(pruned, maps, gains.kappa)
    return Repaired(pruned, plan, {"cuts": entries}, tuple(maps))


@dataclass(frozen=True)
class Sums:
    """Sums over tokens, float64.

    Attributes:
        cross: X^T Y [D, D].
        squares: |X|^2.
    """

    cross: Float[Tensor, "D D"]
    squares: float

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.cross + other.cross, self.squares + other.squares)

    def error(self, rotation: Float[Tensor, "D D"], gain: float) -> float:
        """|c X Q - Y|^2 - |Y|^2, for a rotation Q and a number c.

        Args:
            rotation: Q [D, D].
            gain: c.

        Returns:
            The squared error minus |Y|^2.
        """
        return gain * gain * self.squares - 2 * gain * float((rotation * self.cross).sum())


def _sums(batches: Iterator[CutBatch], held: Bool[Tensor, " N"], width: int) -> tuple[Sums, Sums]:
    """The sums of the texts to fit on, and of the held-out texts."""
    nothing = Sums(torch.zeros(width, width, dtype=torch.float64), 0.0)
    halves = [nothing, nothing]
    for batch in batches:
        out = held.to(batch.texts.device)[batch.texts]
        for half, rows in enumerate((~out, out)):
            x, y = batch.entering[rows].double(), batch.target[rows].double()
            halves[half] += Sums((x.T @ y).cpu(), float(x.square().sum()))
    return halves[0], halves[1]


def nearest(sums: Sums, ridge: float) -> tuple[Float[Tensor, "D D"], float]:
    """Q and c, the rotation and the number nearest to the target.

    Args:
        sums: sums over the tokens to fit on.
        ridge: the strength of the pull towards no rotation.

    Returns:
        Q [D, D] and c.

    Raises:
        NonFiniteError: c is not a finite number above 0.
    """
    cross, squares = sums.cross, sums.squares
    pull = ridge * squares / len(cross) * torch.eye(len(cross), dtype=cross.dtype)
    u, _, v = torch.linalg.svd(cross + pull)
    rotation = u @ v
    gain = float((rotation * cross).sum()) / squares if squares else 0.0
    if not 0.0 < gain < float("inf"):
        raise NonFiniteError(
            f"The stream after the cut does not correlate with the one before it (c = {gain:g}), "
            "so no rotation can repair it. Use another plan or repair."
        )
    return rotation, gain
