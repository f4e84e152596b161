"""The share of zeros in each block: the same in all (uniform), or less where outliers are (OWL).

OWL (arXiv 2310.05175): a block's outlier ratio D_l is the share of its weights whose Wanda score
is over M times the block's mean score. Blocks with more outliers keep more weights. The paper
requires that sparsities fall with D, average the target sparsity S, and stay within
[S - lambda, S + lambda]; it gives no formula. Two rules, linear in D, differ in the scale:
- "code": D is scaled to a width of 2 lambda, as in the authors' code. If one block is an extreme
  outlier, its sparsity can leave the paper's range.
- "range": the block farthest from the mean is lambda away, so all are within the paper's range.

The average is weighted by the number of weights, so that the total is S also if blocks differ in
size. Published choices: M = 5 or 7, lambda = .08. Shapes: L blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError, check_known
from pruning.weights.matrices import Matrix

RULES = ("code", "range")
OUTLIER = 5.0
SPREAD = 0.08


def wanda_scores(matrix: Matrix, norm: Float[Tensor, " I"]) -> Float[Tensor, "O I"]:
    """The Wanda score |W_ij| ||X_j||, float32.

    Args:
        matrix: the weight matrix [O, I].
        norm: ||X_j|| of its input channels [I].

    Returns:
        One score per weight [O, I].
    """
    return matrix.weight.float().abs() * norm.float()


def outlier_ratios(
    blocks: Sequence[Sequence[Matrix]],
    norms: Sequence[Sequence[Float[Tensor, " _"]]],
    outlier: float = OUTLIER,
) -> Float[np.ndarray, " L"]:
    """D: the share of each block's weights that score over `outlier` times the block's mean score.

    Args:
        blocks: the matrices of each block.
        norms: the input norms of each matrix, in the same order.
        outlier: the multiple M of the mean score, above 0.

    Returns:
        One ratio per block [L].

    Raises:
        UserError: `outlier` is not above 0.
    """
    if not outlier > 0:
        raise UserError(f"outlier={outlier}: expected a multiple of the mean score above 0.")
    found = []
    for own, inputs in zip(blocks, norms, strict=True):
        pairs = list(zip(own, inputs, strict=True))
        size = sum(matrix.weight.numel() for matrix in own)
        total = sum(float(wanda_scores(m, x).double().sum()) for m, x in pairs)
        edge = outlier * total / size
        found.append(sum(int((wanda_scores(m, x) > edge).sum()) for m, x in pairs) / size)
    return np.asarray(found)


def owl_sparsities(
    sparsity: float,
    ratios: Float[np.ndarray, " L"],
    sizes: Float[np.ndarray, " L"],
    spread: float = SPREAD,
    rule: str = "code",
) -> Float[np.ndarray, " L"]:
    """The sparsity of every block by OWL.

    Args:
        sparsity: the target S of all weights together.
        ratios: outlier ratio D of each block [L].
        sizes: number of weights of each block [L].
        spread: lambda.
        rule: "code" or "range" (see the module).

    Returns:
        One sparsity per block [L].

    Raises:
        UserError: an unknown rule, or a `spread` that leads to a sparsity outside 0 to 1.
    """
    check_known(rule, RULES, "rule of OWL")
    if not 0 <= spread <= min(sparsity, 1 - sparsity):
        raise UserError(
            f"spread={spread}: expected a number from 0 to {min(sparsity, 1 - sparsity):.3g}, so "
            f"that every block's sparsity around {sparsity:.3g} is a share."
        )
    away = ratios - np.average(ratios, weights=sizes)
    alike = np.ptp(ratios) <= 1e-9  # under one weight in a billion: rounding, not outliers
    width = np.ptp(ratios) / 2 if rule == "code" else np.abs(away).max()
    found = np.full_like(away, sparsity) if alike else sparsity - spread * away / width
    if found.min() < 0 or found.max() > 1:
        raise UserError(
            f"spread={spread} asks for a block of sparsity {found.min():.3g} or {found.max():.3g}: "
            'make it smaller, or use rule="range".'
        )
    return found
