"""Choosing the next token, with noise that belongs to the token's place and not to the batch.

The noise of (seed, problem, sample, step, vocabulary entry) is a hash of these five, so a chain
does not depend on what is decoded beside it, a chain at a small budget is a prefix of the chain
at a larger one, and all variants of one sample share their noise: a difference between a pruned
chain and the dense one is the pruning's (common random numbers, the Gumbel-max trick).

Shapes: B rows, V vocabulary. No loop over rows, no host round trip.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from interp.chains.noise import gumbel
from interp.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. temperature 0 is greedy; top_k 0, top_p 1, min_p 0 filter nothing.

    Filters act after the temperature, in this order: top_k, top_p (the smallest set of tokens
    with at least that probability), min_p (at least that share of the best one's probability).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.temperature == float("inf"):
            raise UserError(f"temperature={self.temperature}: expected 0 (greedy) or more.")
        if self.top_k < 0 or int(self.top_k) != self.top_k:
            raise UserError(f"top_k={self.top_k}: expected a whole number, 0 for no limit.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: expected a number in (0, 1].")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p={self.min_p}: expected a number in [0, 1].")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def filtered(logits: Float[torch.Tensor, "B V"], how: Sampling) -> Float[torch.Tensor, "B V"]:
    """Logits after temperature and filters; what is filtered out is -inf."""
    scaled = logits / how.temperature
    off = float("-inf")
    if 0 < how.top_k < scaled.shape[-1]:
        least = torch.topk(scaled, how.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, off)
    if how.top_p < 1:
        order = torch.sort(scaled, dim=-1, descending=True)
        p = torch.softmax(order.values, dim=-1)
        before = torch.cumsum(p, dim=-1) - p
        drop = torch.zeros_like(before, dtype=torch.bool)
        drop.scatter_(1, order.indices, before >= how.top_p)
        scaled = scaled.masked_fill(drop, off)
    if how.min_p > 0:
        p = torch.softmax(scaled, dim=-1)
        scaled = scaled.masked_fill(p < how.min_p * p.amax(-1, keepdim=True), off)
    return scaled


def choose(
    logits: Float[torch.Tensor, "B V"],
    how: Sampling,
    keys: Int[torch.Tensor, " B"],
    steps: Int[torch.Tensor, " B"],
) -> Int[torch.Tensor, " B"]:
    """The next token of every row."""
    if how.greedy:
        return logits.argmax(-1)
    noise = gumbel(keys, steps, logits.shape[-1])
    plain = how.temperature == 1 and not how.top_k and how.top_p == 1 and not how.min_p
    return noise.add_(logits if plain else filtered(logits, how)).argmax(-1)


def measure(
    logits: Float[torch.Tensor, "B V"],
) -> tuple[Float[torch.Tensor, "B V"], Float[torch.Tensor, " B"], Float[torch.Tensor, " B"]]:
    """Log-probabilities, entropy in nats, and their normaliser (finite iff the logits are usable).

    An entry of -inf (a token the model rules out) is allowed and adds nothing to the entropy.
    """
    norm = torch.logsumexp(logits, dim=-1)
    logp = logits - norm[:, None]
    entropy = torch.special.entr(logp.exp()).sum(-1)
    return logp, entropy, norm
