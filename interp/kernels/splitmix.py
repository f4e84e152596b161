"""The finalizer of splitmix64, a hash of 64-bit integers, for torch's int64 tensors."""

from __future__ import annotations

import torch
from jaxtyping import Int

# Constants of splitmix64 (Steele, Lea, Flood 2014), as signed 64-bit numbers: torch's int64
# products wrap around, as splitmix64 requires.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
MIX_2 = 0x94D049BB133111EB - 2**64


def mix(x: Int[torch.Tensor, ...]) -> Int[torch.Tensor, ...]:
    """The finalizer of splitmix64: a bijection of 64-bit integers that scatters its input.

    Args:
        x: int64, any shape.

    Returns:
        int64, the same shape.
    """
    x = (x ^ ((x >> 30) & (2**34 - 1))) * MIX_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * MIX_2
    return x ^ ((x >> 31) & (2**33 - 1))


def mix_(x: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
    """`mix` in place, with a buffer of the same shape: one step's noise holds B x V numbers."""
    for shift, multiplier in ((30, MIX_1), (27, MIX_2), (31, None)):
        torch.bitwise_right_shift(x, shift, out=spare)
        spare &= 2 ** (64 - shift) - 1  # shifting a negative number right fills with ones
        x ^= spare
        if multiplier is not None:
            x *= multiplier
    return x
