"""Hadamard matrices: orthogonal matrices whose entries all have the same magnitude.

Sylvester doubles a matrix of order n to order 2n (scipy). Paley builds one of order q + 1 from a
prime q = 3 mod 4, and one of order 2 (q + 1) from a prime q = 1 mod 4. A width D uses the smallest
Paley order m with D = m 2^k: 4096 = 2^12, 3072 = 12 x 256, 2560 = 20 x 128, 3584 = 28 x 128,
1152 = 36 x 32.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError


def hadamard(width: int) -> Float[Tensor, "D D"]:
    """Build an orthogonal matrix with entries +-1 / sqrt(width).

    Args:
        width: the order.

    Returns:
        The matrix [D, D], float64; its columns are directions.

    Raises:
        UserError: no construction is known for this order.
    """
    import scipy.linalg

    odd = width // (width & -width) if width > 0 else 0
    order = odd
    while 0 < order <= width:
        core = _paley(order)
        if core is not None:
            rest = torch.from_numpy(scipy.linalg.hadamard(width // order)).double()
            return torch.kron(core, rest) / math.sqrt(width)
        order *= 2
    raise UserError(
        f"No Hadamard matrix of order {width} is built here: expected 1, 2, or a multiple of 4 of "
        "the form (q + 1) 2^k or 2 (q + 1) 2^k with a prime q. Use rotate=False."
    )


def _paley(order: int) -> Float[Tensor, "M M"] | None:
    """The +-1 matrix of exactly this order; None if Paley gives none."""
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if order % 4 == 0 and _is_prime(order - 1):  # q = order - 1 = 3 mod 4
        skew = _bordered(order - 1, -1.0)
        return skew + torch.eye(order, dtype=torch.float64)
    q = order // 2 - 1
    if order % 4 == 0 and q % 4 == 1 and _is_prime(q):
        symmetric = _bordered(q, 1.0)
        plus = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        minus = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        return torch.kron(symmetric, plus) + torch.kron(torch.eye(q + 1).double(), minus)
    return None


def _bordered(q: int, sign: float) -> Float[Tensor, "M M"]:
    """The quadratic character chi(i - j) mod q, with a border of ones (`sign` below)."""
    squares = {i * i % q for i in range(1, q)}
    chi = torch.tensor([0.0, *(1.0 if i in squares else -1.0 for i in range(1, q))])
    index = torch.arange(q)
    out = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    out[1:, 1:] = chi[(index[:, None] - index[None, :]) % q].double()
    out[0, 1:] = 1.0
    out[1:, 0] = sign
    return out


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))
