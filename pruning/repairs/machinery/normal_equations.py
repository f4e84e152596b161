"""Ridge least squares of a linear map from sums over tokens, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class NormalEquations:
    """Sums over tokens in float64, with R = y - Y - M; for a diagonal T only diagonals are kept.

    Attributes:
        gram: G = M^T M, [D, D] or [D].
        cross: C = M^T R, [D, D] or [D].
        squares: |R|^2.
    """

    gram: Float[Tensor, "*shape"]
    cross: Float[Tensor, "*shape"]
    squares: float

    @classmethod
    def of(
        cls, added: Float[Tensor, "K D"], left: Float[Tensor, "K D"], diagonal: bool
    ) -> NormalEquations:
        """Sum over the tokens of one batch.

        Args:
            added: M [K, D].
            left: R [K, D].
            diagonal: keep only the diagonals of G and C.

        Returns:
            The sums.
        """
        m, r = added.double(), left.double()
        squares = float(r.square().sum())
        if diagonal:
            return cls(m.square().sum(0), (m * r).sum(0), squares)
        return cls(m.T @ m, m.T @ r, squares)

    def __add__(self, other: NormalEquations) -> NormalEquations:
        return NormalEquations(
            self.gram + other.gram, self.cross + other.cross, self.squares + other.squares
        )

    def solve(self, ridge: float, toward: str) -> Float[Tensor, "*shape"]:
        """Solve for T.

        Args:
            ridge: lambda over the mean diagonal of G.
            toward: T_0: "identity" or "zero".

        Returns:
            T, [D, D] or [D], float64.
        """
        diagonal = self.gram.ndim == 1
        level = float((self.gram if diagonal else self.gram.diagonal()).mean())
        pull = torch.full_like(self.gram[0] if not diagonal else self.gram, ridge * level)
        identity = torch.ones_like(pull) if diagonal else torch.eye(len(pull)).to(self.gram)
        goal = self.cross + self.gram if toward == "zero" else self.cross
        if diagonal:
            whole = self.gram + pull
            change = torch.where(whole > 0, goal / whole, 0.0)
        else:
            change = _symmetric_solve(self.gram + pull.diag(), goal)
        return change if toward == "zero" else identity + change

    def error(self, t: Float[Tensor, "*shape"]) -> float:
        """The sum of squares |M T + Y - y|^2 = |R - M (T - 1)|^2."""
        if self.gram.ndim == 1:
            z = t - 1.0
            return float(self.squares - 2 * (z * self.cross).sum() + (z * z * self.gram).sum())
        z = t - torch.eye(len(t)).to(t)
        return float(self.squares - 2 * (z * self.cross).sum() + (z * (self.gram @ z)).sum())


def _symmetric_solve(whole: Float[Tensor, "D D"], goal: Float[Tensor, "D D"]) -> Tensor:
    """Solve by Cholesky; the shortest least-squares solution if the matrix is singular."""
    factor, failed = torch.linalg.cholesky_ex(whole)
    if not int(failed):
        solved = torch.cholesky_solve(goal, factor)
        if (whole @ solved - goal).norm() <= 1e-8 * goal.norm():
            return solved
    values, vectors = torch.linalg.eigh(whole)
    kept = values > values[-1].clamp_min(0.0) * len(values) * torch.finfo(values.dtype).eps
    inverse = torch.where(kept, 1.0 / values, 0.0)
    return vectors @ (inverse[:, None] * (vectors.T @ goal))
