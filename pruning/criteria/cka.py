"""CKA: 1 - CKA(x_l, y_l) with linear kernels and unbiased HSIC.

Kornblith et al. (arXiv 1905.00414) for CKA, Song et al. (2012) for the unbiased HSIC, Nguyen et
al. (arXiv 2010.15327) for summing HSIC over minibatches. Here a minibatch is one whole text, so
padding, batching and order do not change the score. Three numbers per text and block are kept. A
text needs at least 4 tokens that count.

Each text's stream is centred first, which does not change the unbiased HSIC and avoids
cancellation.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.capture import CapturedBatch, Reducer, same_numbers, zeros_beside
from interp.errors import NonFiniteError, UserError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from interp.statistics.jackknife import jackknife
from pruning.calibration import Calibration
from pruning.criteria import FORWARD, ScoredBlocks, criterion
from pruning.criteria.shared_runs import reduced

LEAST = 4


@criterion("cka", paper="arXiv 1905.00414, 2010.15327", cost=FORWARD)
def cka(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> ScoredBlocks:
    """Score each block by 1 - CKA of its input and output.

    Args:
        model: the model to score.
        calibration: the calibration texts; the registered criterion makes them from its `texts`.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The scores, with a 95 % jackknife interval over texts.

    Raises:
        UserError: a text has fewer than 4 tokens that count.
        NonFiniteError: the residual stream holds inf or nan.
    """
    for index, mask in enumerate(calibration.counted()):
        if mask.sum() < LEAST:
            raise UserError(
                f"Calibration text {index} has {int(mask.sum())} tokens that count: unbiased CKA "
                f"needs at least {LEAST}. Drop it."
            )
    tables = reduced(model, calibration, Hsic(), batch_tokens).tables()  # [3, L, N]
    return ScoredBlocks(_one_minus_cka(*tables.sum(-1)), jackknife(_one_minus_cka, *tables))


def _one_minus_cka(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """1 - CKA; a stream that does not vary (HSIC 0) is scored as unchanged."""
    size = np.sqrt(np.maximum(xx * yy, 0.0))
    return 1.0 - np.divide(xy, size, out=np.ones_like(xy), where=size > 0)


class Hsic(Reducer):
    """Unbiased HSIC(x, y), HSIC(x, x), HSIC(y, y) of every text at every block."""

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        """Start empty sums beside each block."""
        self.sums = [zeros_beside(block, n_texts, 3) for block in model.blocks]
        self._left: tuple[Tensor, _Stream, Tensor] | None = None

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        """Add the HSIC of each text in a batch at one block."""
        mask = batch.mask.to(y.device)
        if self._left is not None and same_numbers(self._left[0], x):
            entering, xx = self._left[1:]
        else:
            entering = _Stream(x, mask)
            xx = entering.hsic(entering)
        leaving = _Stream(y, mask)
        yy = leaving.hsic(leaving)
        self._left = None if index == len(self.sums) - 1 else (y, leaving, yy)
        each = torch.stack([entering.hsic(leaving), xx, yy], dim=-1)
        self.sums[index].index_add_(0, batch.texts.to(y.device), each)

    def tables(self) -> Float[np.ndarray, "3 L N"]:
        """HSIC of (x, y), (x, x) and (y, y) per block and text, float64 [3, L, N].

        Raises:
            NonFiniteError: the residual stream holds inf or nan.
        """
        table = np.stack([s.double().cpu().numpy() for s in self.sums])
        if not np.isfinite(table).all():
            raise NonFiniteError(
                "The residual stream holds inf or nan: load the model in float32 or bfloat16."
            )
        return np.moveaxis(table, -1, 0)


class _Stream:
    """The centred tokens of each text (tokens that do not count are zero), ready for HSIC.

    Song et al., eq. 5, for K and L without their diagonals: with centred tokens, the rows of K sum
    to -|x_i|^2, and tr(KL) is |X^T Y|^2 minus the diagonals' share. The D x D product is used for
    texts with more than D tokens, the T x T matrices of inner products for shorter ones.
    """

    def __init__(self, x: Float[Tensor, "B T D"], mask: Tensor) -> None:
        counted = mask.float()
        self.n = counted.sum(-1)
        x = x.float()
        mean = (counted[:, None] @ x) / self.n[:, None, None]  # [B, 1, D]
        self.x = (x - mean).mul_(counted[..., None])
        self.squares = torch.linalg.vector_norm(self.x, dim=-1).square()
        self.gram: Tensor | None = None
        if x.shape[1] <= x.shape[2]:
            self.gram = self.x @ self.x.mT  # [B, T, T]
            self.gram.diagonal(dim1=1, dim2=2).zero_()

    def hsic(self, other: _Stream) -> Float[Tensor, " B"]:
        """Unbiased HSIC of linear kernels, per text."""
        n, diagonal = self.n, (self.squares * other.squares).sum(-1)
        if self.gram is not None and other.gram is not None:
            trace = (self.gram.flatten(1) * other.gram.flatten(1)).sum(-1)
        else:
            trace = torch.linalg.matrix_norm(self.x.mT @ other.x).square() - diagonal
        outer = self.squares.sum(-1) * other.squares.sum(-1) / ((n - 1) * (n - 2))
        return (trace + outer - 2 / (n - 2) * diagonal) / (n * (n - 3))
