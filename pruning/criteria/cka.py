"""CKA: 1 - CKA(x_l, y_l), linear kernels, unbiased HSIC.

Kornblith et al. (arXiv 1905.00414) for CKA, Song et al. (2012) for the unbiased HSIC, Nguyen et
al. (arXiv 2010.15327) for summing HSIC over minibatches. A minibatch here is a text, whole:
so neither padding nor batching nor order enters the score, and state is three numbers a text and
block. A text needs at least 4 tokens that count.

Every text's stream is centred first; that changes no unbiased HSIC and keeps its digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import NonFiniteError, UserError
from interp.model import ReasoningModel
from interp.record import Batch, Reducer, jackknife, same_numbers, zeros_beside
from interp.replay import BATCH_TOKENS, replay
from pruning.calibration import Calibration, Part
from pruning.criteria import criterion
from pruning.scores import Scores

LEAST = 4


@criterion("cka", paper="arXiv 1905.00414, 2010.15327", cost="1 forward")
def cka(
    model: ReasoningModel,
    texts: Any,
    *,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Scores:
    """1 - CKA of what enters and what leaves each block."""
    calibration = Calibration.of(model, texts, part)
    counted = calibration.counted()
    for index, mask in enumerate(counted):
        if mask.sum() < LEAST:
            raise UserError(
                f"Calibration text {index} has {int(mask.sum())} tokens that count: unbiased CKA "
                f"needs at least {LEAST}. Drop it."
            )
    reducer = Hsic()
    replay(model, calibration.sequences, [reducer], counted=counted, batch_tokens=batch_tokens)
    tables = reducer.tables()  # [3, L, N]
    low, high = jackknife(_one_minus_cka, *tables)
    return Scores(
        criterion="cka",
        values=_one_minus_cka(*tables.sum(-1)),
        low=low,
        high=high,
        layer_map=model.layer_map,
        n_tokens=calibration.n_tokens,
        n_texts=len(counted),
        calibration=calibration.hash,
    )


def _one_minus_cka(xy: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """A stream that does not vary (HSIC 0) has nothing to compare: scored as unchanged."""
    size = np.sqrt(np.maximum(xx * yy, 0.0))
    return 1.0 - np.divide(xy, size, out=np.ones_like(xy), where=size > 0)


class Hsic(Reducer):
    """Unbiased HSIC(x, y), HSIC(x, x), HSIC(y, y) of every text at every block."""

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        self.sums = [zeros_beside(block, n_texts, 3) for block in model.blocks]
        self._left: tuple[Tensor, Tensor, Tensor] | None = None

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: Batch
    ) -> None:
        mask = batch.mask.to(y.device)
        n = mask.sum(-1).float()
        if self._left is not None and same_numbers(self._left[0], x):
            gram_x, xx = self._left[1:]
        else:
            gram_x = _gram(x, mask)
            xx = _hsic(gram_x, gram_x, n)
        gram_y = _gram(y, mask)
        yy = _hsic(gram_y, gram_y, n)
        self._left = None if index == len(self.sums) - 1 else (y, gram_y, yy)
        each = torch.stack([_hsic(gram_x, gram_y, n), xx, yy], dim=-1)
        self.sums[index].index_add_(0, batch.texts.to(y.device), each)

    def tables(self) -> Float[np.ndarray, "3 L N"]:
        """HSIC of (x, y), (x, x) and (y, y) by block and text."""
        table = np.stack([s.double().cpu().numpy() for s in self.sums])
        if not np.isfinite(table).all():
            raise NonFiniteError("The residual stream holds inf or nan.")
        return np.moveaxis(table, -1, 0)


def _gram(x: Tensor, mask: Tensor) -> Float[Tensor, "B T T"]:
    """Inner products of a text's centred tokens, the diagonal and uncounted tokens zero."""
    x = x.float().masked_fill(~mask[..., None], 0.0)
    mean = x.sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    x = (x - mean).masked_fill(~mask[..., None], 0.0)
    gram = x @ x.mT
    gram.diagonal(dim1=1, dim2=2).zero_()
    return gram


def _hsic(k: Float[Tensor, "B T T"], l: Float[Tensor, "B T T"], n: Tensor) -> Float[Tensor, " B"]:
    """Song et al., eq. 5, for matrices with a zero diagonal and n counted tokens."""
    row_k, row_l = k.sum(-1), l.sum(-1)
    trace = (k * l).sum((1, 2))
    outer = row_k.sum(-1) * row_l.sum(-1) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (row_k * row_l).sum(-1)
    return (trace + outer - cross) / (n * (n - 3))
