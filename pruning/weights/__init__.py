"""Unstructured pruning: single weights set to zero, as the control for removing whole blocks.

`sparsify` sets a share of the weights of every block's matrices to zero, chosen by:
- "magnitude": the smallest |W_ij| of each matrix;
- "wanda" (arXiv 2306.11695): the smallest |W_ij| ||X_j||_2 of each row (output), X_j being input
  channel j over the calibration text. As in the paper, blocks are pruned in order, and the inputs
  of a block come through the pruned blocks before it (`sequential`; L/2 forwards instead of one).
The share is the same in every block, or follows the outliers (OWL, arXiv 2310.05175, see
`allocation`). With a `LayerPlan` in place of a share, as many weights are zeroed as the plan's
blocks have parameters (`matched.matched_sparsity`).

Rows differ by at most one zero, so that the total is exact. Dense kernels multiply zeros like any
number, so zeros save no time and no memory (`matched.match_latency` measures it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import UserError, check_known
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration, Part
from pruning.plan import LayerPlan
from pruning.surgery import prune
from pruning.weights.allocation import (
    OUTLIER,
    SPREAD,
    outlier_ratios,
    owl_sparsities,
    wanda_scores,
)
from pruning.weights.matched import LatencyMatch, decode_latency, match_latency, matched_sparsity
from pruning.weights.matrices import (
    Matrix,
    input_norms,
    lowest_in_groups,
    lowest_in_rows,
    lowest_of_all,
    matrices,
)

METHODS = ("wanda", "magnitude")
ALLOCATIONS = ("uniform", "owl")


@brief
@dataclass(frozen=True)
class Sparse:
    """A copy of a model with weights set to zero.

    Attributes:
        model: the new model.
        method: "wanda" or "magnitude".
        allocation: "uniform" or "owl".
        sparsity: the share asked for.
        table: per matrix: block (dense index), name, weights, zeros (also those that were zero
            before).
        calibration: hash of the calibration text, empty if none was used.
        n_tokens: calibration tokens that count.
    """

    model: ReasoningModel
    method: str
    allocation: str
    sparsity: float
    table: tuple[tuple[int, str, int, int], ...]
    calibration: str = ""
    n_tokens: int = 0

    @property
    def zeros(self) -> int:
        """The number of zeros in all the matrices together."""
        return sum(row[3] for row in self.table)

    @property
    def share(self) -> float:
        """Zeros over weights, of all the matrices together."""
        return self.zeros / sum(row[2] for row in self.table)

    @property
    def record(self) -> dict[str, Any]:
        """What was done, for pruning.json (`pruning.surgery.write_checkpoint`)."""
        return {
            "method": self.method,
            "allocation": self.allocation,
            "sparsity": self.sparsity,
            "zeros": self.zeros,
            "calibration": self.calibration,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return one row per matrix: weights, zeros, sparsity."""
        frame = pd.DataFrame(self.table, columns=["block", "matrix", "weights", "zeros"])  # pyright: ignore[reportArgumentType]
        frame["sparsity"] = frame["zeros"] / frame["weights"]
        return frame.assign(method=self.method, allocation=self.allocation)


@checked
@torch.no_grad()
def sparsify(
    model: ReasoningModel,
    sparsity: float | LayerPlan,
    texts: Any = None,
    *,
    method: str = "wanda",
    allocation: str = "uniform",
    outlier: float = OUTLIER,
    spread: float = SPREAD,
    rule: str = "code",
    pattern: tuple[int, int] | None = None,
    sequential: bool = True,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Sparse:
    """Return a copy of `model` in which a share of the blocks' weights is zero.

    Args:
        model: the model; it is not changed.
        sparsity: the share, from 0 to below 1, or a plan whose number of parameters is matched.
        texts: calibration texts on which Wanda and OWL measure activations.
        method: "wanda" or "magnitude".
        allocation: "uniform" or "owl".
        outlier: OWL's M: a weight is an outlier if its score is over M times the block's mean.
        spread: OWL's lambda: how far a block's sparsity may be from the mean.
        rule: OWL's scale, "code" or "range" (see `allocation`).
        pattern: (n, m) keeps the n best of every m neighbours in a row, such as (2, 4) for sparse
            tensor cores; the share must then be 1 - n/m.
        sequential: whether Wanda measures each block's inputs through the blocks already pruned.
        part: which tokens of the texts count. Default: all.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The new model and its record.

    Raises:
        UserError: an argument is unknown or out of range, texts are missing, or the architecture is
            not supported.
        NonFiniteError: an activation is inf or nan.
    """
    _check(method, allocation, texts)
    if isinstance(sparsity, LayerPlan):
        sparsity = matched_sparsity(model, sparsity)
    if isinstance(sparsity, bool) or not 0 <= sparsity < 1:
        raise UserError(f"sparsity={sparsity!r}: expected a share of the weights, from 0 to 1.")
    sparsity = float(sparsity)
    calibration = Calibration.of(model, texts, part) if texts is not None else None
    new = prune(model, LayerPlan((), model.n_blocks, base=model.layer_map))
    blocks = matrices(new)
    _check_pattern(pattern, sparsity, allocation, blocks)
    shares = np.full(len(blocks), sparsity)
    dense: list[list[Tensor]] | None = None
    if calibration is not None and (allocation == "owl" or (method == "wanda" and not sequential)):
        flat = [matrix for own in blocks for matrix in own]
        every = iter(input_norms(new, flat, calibration, batch_tokens))
        dense = [[next(every) for _ in own] for own in blocks]
    if allocation == "owl" and dense is not None:
        sizes = np.asarray([sum(m.weight.numel() for m in own) for own in blocks], dtype=float)
        shares = owl_sparsities(
            sparsity, outlier_ratios(blocks, dense, outlier), sizes, spread, rule
        )
    table = []
    for l, own in enumerate(blocks):
        norms: list[Tensor | None] = [None] * len(own)
        if method == "wanda" and calibration is not None:
            if sequential or dense is None:
                norms = list(input_norms(new, own, calibration, batch_tokens, last=l))
            else:
                norms = list(dense[l])
        for matrix, norm in zip(own, norms, strict=True):
            matrix.weight.masked_fill_(_gone(matrix, norm, float(shares[l]), pattern), 0.0)
            zeros = int((matrix.weight == 0).sum())
            table.append((matrix.block, matrix.name, matrix.weight.numel(), zeros))
    new.name = f"{model.name} {method}-{sparsity:.3g}" + ("-owl" if allocation == "owl" else "")
    return Sparse(
        model=new,
        method=method,
        allocation=allocation,
        sparsity=sparsity,
        table=tuple(table),
        calibration=calibration.hash if calibration else "",
        n_tokens=calibration.n_tokens if calibration else 0,
    )


def _gone(
    matrix: Matrix,
    norm: Float[Tensor, " I"] | None,
    share: float,
    pattern: tuple[int, int] | None,
) -> Bool[Tensor, "O I"]:
    """Which weights of a matrix are set to zero; without input norms, chosen by magnitude."""
    scores = matrix.weight.float().abs() if norm is None else wanda_scores(matrix, norm)
    if pattern is not None:
        return lowest_in_groups(scores, *pattern)
    zeros = round(share * scores.numel())
    return lowest_of_all(scores, zeros) if norm is None else lowest_in_rows(scores, zeros)


def _check(method: str, allocation: str, texts: Any) -> None:
    check_known(method, METHODS, "method of unstructured pruning")
    check_known(allocation, ALLOCATIONS, "allocation")
    if texts is None and (method == "wanda" or allocation == "owl"):
        what = "Wanda" if method == "wanda" else "OWL"
        raise UserError(f"{what} measures activations: it needs calibration texts.")


def _check_pattern(
    pattern: tuple[int, int] | None,
    sparsity: float,
    allocation: str,
    blocks: list[list[Matrix]],
) -> None:
    if pattern is None:
        return
    keep, of = pattern
    if not 0 < keep < of:
        raise UserError(f"pattern={pattern}: expected (n, m) with 0 < n < m, such as (2, 4).")
    if allocation != "uniform" or abs(sparsity - (1 - keep / of)) > 1e-9:
        raise UserError(
            f"pattern={pattern} sets {1 - keep / of:.3g} of every block to zero: give exactly that "
            "as the sparsity, and a uniform allocation."
        )
    for matrix in (matrix for own in blocks for matrix in own):
        if matrix.weight.shape[1] % of:
            raise UserError(
                f"pattern={pattern}: {matrix.name} of block {matrix.block} has "
                f"{matrix.weight.shape[1]} inputs; expected a multiple of {of}."
            )
