"""Sampling noise as a hash of (seed, problem, sample, step, vocabulary entry).

All variants of one sample share their noise (common random numbers, with the Gumbel-max trick).
The noise of a chain does not depend on what is decoded in the same batch.

Shapes: B rows, V vocabulary. There is no loop over rows and no transfer to the host.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, Int

from interp.kernels.splitmix import GOLDEN, mix, mix_


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
    keys: Int[torch.Tensor, " B"],
    steps: Int[torch.Tensor, " B"],
    vocab: int | Int[torch.Tensor, "B K"],
) -> Float[torch.Tensor, "B V"]:
    """Uniform numbers in (0, 1), with full relative precision near 0.

    Args:
        keys: the noise key of each row, int64 [B].
        steps: the step of each row, int64 [B].
        vocab: vocabulary size V, or the vocabulary entries of each row, int64 [B, K].

    Returns:
        float32 [B, V], or [B, K].
    """
    start = step_start(keys, steps)
    if isinstance(vocab, int):
        vocab = torch.arange(vocab, dtype=torch.int64, device=keys.device)
    bits = start[:, None] + (vocab + 1) * GOLDEN  # [B, V]
    bits = mix_(bits, torch.empty_like(bits))
    bits >>= 24
    bits &= 2**40 - 1
    return bits.to(torch.float32).add_(0.5).mul_(2.0**-40).clamp_(max=1 - 2.0**-24)


def gumbel(
    keys: Int[torch.Tensor, " B"],
    steps: Int[torch.Tensor, " B"],
    vocab: int | Int[torch.Tensor, "B K"],
) -> Float[torch.Tensor, "B V"]:
    """Standard Gumbel noise for each (key, step, vocabulary entry).

    Args:
        keys: the noise key of each row, int64 [B].
        steps: the step of each row, int64 [B].
        vocab: vocabulary size V, or the vocabulary entries of each row, int64 [B, K].

    Returns:
        float32 [B, V], or [B, K].
    """
    # -log1p(-u) is a standard exponential. Its small values decide which token wins, and they are
    # exact.
    return uniform(keys, steps, vocab).neg_().log1p_().neg_().log_().neg_()
