"""Angular distance: the best run of neighbouring blocks. Gromov et al., arXiv 2403.17887.

d(l, n) = arccos(cos(x_l, x_{l+n})) / pi at the last counted token of each text. x_L is the output
of the last block (before the final norm). To remove n blocks, the run l..l+n-1 with the smallest
d(l, n) goes: `picks`. The scores shown are d(l, 1), each block on its own.

It needs one forward pass. The angle is computed from |u - v| of the unit vectors, because arccos
of a cosine near 1 loses digits.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.capture import CapturedBatch, Reducer, zeros_beside
from interp.errors import NonFiniteError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration
from pruning.criteria import FORWARD, ScoredBlocks, criterion
from pruning.criteria.shared_runs import reduced


@criterion("angular", paper="arXiv 2403.17887", cost=FORWARD, kind="contiguous")
def angular(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> ScoredBlocks:
    """Score each block by d(l, 1), and find the best run of n blocks for every n.

    Args:
        model: the model to score.
        calibration: the calibration texts; the registered criterion makes them from its `texts`.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The scores, with a 95 % t interval over texts.

    Raises:
        UserError: the texts are unusable.
        NonFiniteError: the residual stream holds inf or nan.
    """
    from scipy.stats import t

    angles = reduced(model, calibration, LastTokenAngles(), batch_tokens)
    depth, n = model.n_blocks, len(calibration.sequences)
    mean, error = angles.mean_and_error()
    values = np.diagonal(mean, 1)
    half = np.full(depth, np.nan)
    if n > 1:
        half = float(t.ppf(0.975, n - 1)) * np.diagonal(error, 1)
    picks = []
    for run in range(1, depth):
        start = int(np.argmin(np.diagonal(mean, run)))
        picks.append(tuple(model.layer_map[start : start + run]))
    return ScoredBlocks(values.copy(), (values - half, values + half), n, picks=tuple(picks))


class LastTokenAngles(Reducer):
    """Sums of d(a, b) and its square over texts, for all 0 <= a, b <= L: [L+1, L+1]."""

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        """Start empty sums on the device of the last block."""
        last = model.blocks[-1]
        size = (model.n_blocks + 1, model.n_blocks + 1)
        self.n_texts = n_texts
        self.sums = zeros_beside(last, *size, dtype=torch.float64)
        self.squares = zeros_beside(last, *size, dtype=torch.float64)
        self.streams: list[Tensor] = []

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        """Keep the unit vectors of one block's batch; after the last block, add all angles."""
        if index == 0:
            steps = torch.arange(batch.mask.shape[1], device=batch.mask.device)
            self.last = (batch.mask * steps).argmax(-1)
            self.streams = [self._unit(x)]
        self.streams.append(self._unit(y))
        if index == self.sums.shape[0] - 2:
            units = torch.stack(self.streams, dim=1)  # [B, L+1, D]
            exact = "donot_use_mm_for_euclid_dist"  # |u|^2 + |v|^2 - 2uv would lose digits
            half = (torch.cdist(units, units, compute_mode=exact) / 2).clamp_max(1.0)
            angle = (2 / math.pi) * torch.asin(half).to(self.sums.dtype)
            self.sums += angle.sum(0)
            self.squares += angle.square().sum(0)
            self.streams = []

    def _unit(self, stream: Tensor) -> Float[Tensor, "B D"]:
        """The last counted token of every row, scaled to length 1."""
        last = self.last.to(stream.device)
        rows = torch.arange(len(last), device=stream.device)
        chosen = torch.nn.functional.normalize(stream[rows, last].float(), dim=-1)
        return chosen.to(self.sums.device)

    def mean_and_error(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean over texts and its standard error, [L+1, L+1] each.

        Raises:
            NonFiniteError: the residual stream holds inf or nan.
        """
        mean = self.sums.double().cpu().numpy() / self.n_texts
        if not np.isfinite(mean).all():
            raise NonFiniteError(
                "The residual stream holds inf or nan: load the model in float32 or bfloat16."
            )
        spread = self.squares.double().cpu().numpy() / self.n_texts - mean**2
        return mean, np.sqrt(np.maximum(spread, 0) / max(self.n_texts - 1, 1))
