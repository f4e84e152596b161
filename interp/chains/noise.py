"""Sampling noise as a hash of (seed, problem, sample, step, vocabulary entry).

All variants of one sample share their noise (common random numbers, with the Gumbel-max trick).
The noise of a chain does not depend on what is decoded in the same batch.

Shapes: B rows, V vocabulary. There is no loop over rows and no transfer to the host.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, Int

# Constants of splitmix64 (Steele, Lea, Flood 2014), as signed 64-bit numbers: torch's int64
# products wrap around, as splitmix64 requires.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
MIX_2 = 0x94D049BB133111EB - 2**64


def noise_key(seed: int, problem: str, sample: int) -> int:
    """The key of one sample of one problem.

    Args:
        seed: seed of the run.
        problem: name of the problem.
        sample: number of the sample.

    Returns:
        A signed 64-bit integer.
    """
    digest = hashlib.blake2b(repr((seed, problem, sample)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


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


def _mix_(x: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
    """`mix` in place, with a buffer of the same shape: one step's noise holds B x V numbers."""
    for shift, multiplier in ((30, MIX_1), (27, MIX_2), (31, None)):
        torch.bitwise_right_shift(x, shift, out=spare)
        spare &= 2 ** (64 - shift) - 1  # shifting a negative number right fills with ones
        x ^= spare
        if multiplier is not None:
            x *= multiplier
    return x


def step_start(
    keys: Int[torch.Tensor, " B"], steps: Int[torch.Tensor, " B"]
) -> Int[torch.Tensor, " B"]:
    """Where the hash of each row's noise starts at this step.

    Args:
        keys: the noise key of each row, int64 [B].
        steps: the step of each row, int64 [B].

    Returns:
        int64 [B].
    """
    return mix(mix(keys) + steps * GOLDEN)


def uniform(
    keys: Int[torch.Tensor, " B"], steps: Int[torch.Tensor, " B"], vocab: int
) -> Float[torch.Tensor, "B V"]:
    """Uniform numbers in (0, 1), with full relative precision near 0.

    Args:
        keys: the noise key of each row, int64 [B].
        steps: the step of each row, int64 [B].
        vocab: vocabulary size V.

    Returns:
        float32 [B, V].
    """
    start = step_start(keys, steps)
    entry = torch.arange(1, vocab + 1, dtype=torch.int64, device=keys.device) * GOLDEN
    bits = start[:, None] + entry  # [B, V]
    bits = _mix_(bits, torch.empty_like(bits))
    bits >>= 24
    bits &= 2**40 - 1
    return bits.to(torch.float32).add_(0.5).mul_(2.0**-40).clamp_(max=1 - 2.0**-24)


def gumbel(
    keys: Int[torch.Tensor, " B"], steps: Int[torch.Tensor, " B"], vocab: int
) -> Float[torch.Tensor, "B V"]:
    """Standard Gumbel noise for each (key, step, vocabulary entry).

    Args:
        keys: the noise key of each row, int64 [B].
        steps: the step of each row, int64 [B].
        vocab: vocabulary size V.

    Returns:
        float32 [B, V].
    """
    # -log1p(-u) is a standard exponential. Its small values decide which token wins, and they are
    # exact.
    return uniform(keys, steps, vocab).neg_().log1p_().neg_().log_().neg_()
