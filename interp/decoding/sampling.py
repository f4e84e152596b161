"""Sampling of the next token, with noise that does not depend on the batch.

The noise is a hash of (seed, problem, sample, step, vocabulary entry). Therefore a chain does not
depend on the other rows, and a chain at a small budget is a prefix of the chain at a larger one.
All variants of one sample share their noise, so the pruning alone makes a pruned chain differ
from the dense one (common random numbers, with the Gumbel-max trick).

Shapes: B rows, V vocabulary. There is no loop over rows, and nothing waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from interp.chains.noise import gumbel, step_start
from interp.errors import UserError
from interp.kernels.library import kernels
from interp.plumbing.arguments import checked

TIES = 64  # most tokens kept besides the top k because they tie with the last of them


@checked
@dataclass(frozen=True)
class Sampling:
    """How a token is chosen.

    The filters act after the temperature, in the order top_k, top_p, min_p. The defaults sample
    from the model's own distribution.

    Attributes:
        temperature: divisor of the logits; 0 is greedy decoding.
        top_k: keep the k most likely tokens, and ties with the last of them (at most 64 more);
            0 keeps all.
        top_p: keep the smallest set of most likely tokens with at least this probability
            (nucleus sampling); of equal tokens the first ones; 1 keeps all.
        min_p: keep the tokens with at least this share of the most likely token's probability;
            0 keeps all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Refuses invalid values with a UserError."""
        if not self.temperature >= 0 or self.temperature == float("inf"):
            raise UserError(f"temperature={self.temperature}: expected 0 (greedy) or more.")
        if self.top_k < 0 or int(self.top_k) != self.top_k:
            raise UserError(f"top_k={self.top_k}: expected a whole number, 0 for no limit.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p}: expected a number in (0, 1].")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p={self.min_p}: expected a number in [0, 1].")

    @property
    def unfiltered(self) -> bool:
        """Whether no token is ruled out."""
        return not self.top_k and self.top_p == 1 and not self.min_p

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.temperature == 0


def filtered(logits: Float[torch.Tensor, "B V"], how: Sampling) -> Float[torch.Tensor, "B V"]:
    """Returns the logits after temperature and filters.

    Args:
        logits: logits of each row, [B, V].
        how: the sampling options; the temperature must not be 0.

    Returns:
        Scaled logits, [B, V]; -inf for the tokens that a filter removes.
    """
    scaled = logits / how.temperature
    off = float("-inf")
    if 0 < how.top_k < scaled.shape[-1]:
        least = torch.topk(scaled, how.top_k, dim=-1).values[:, -1:]  # [B, 1]
        scaled = scaled.masked_fill(scaled < least, off)
    if how.top_p < 1:
        order = torch.sort(scaled, dim=-1, descending=True, stable=True)  # [B, V]
        p = torch.softmax(order.values, dim=-1)
        before = torch.cumsum(p, dim=-1) - p  # [B, V]: probability of all more likely tokens
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
    """Chooses the next token of every row.

    Sampling takes the argmax of logits plus Gumbel noise, which draws from their softmax.

    Args:
        logits: logits of each row, [B, V], float32.
        how: the sampling options.
        keys: noise key of each row (`interp.chains.noise.noise_key`), [B], int64.
        steps: index of the token to choose in each row, [B], int64.

    Returns:
        Token ids, [B], int64.
    """
    if how.greedy:
        return logits.argmax(-1)
    if 0 < how.top_k < logits.shape[-1] - TIES:  # only these few are sorted and need noise
        entries = logits.topk(how.top_k + TIES, dim=-1).indices.sort(-1).values  # [B, K]
        few = logits.gather(-1, entries)
        best = (filtered(few, how) + gumbel(keys, steps, entries)).argmax(-1, keepdim=True)
        return entries.gather(-1, best)[:, 0]
    noise = gumbel(keys, steps, logits.shape[-1])
    plain = how.temperature == 1 and how.unfiltered
    return noise.add_(logits if plain else filtered(logits, how)).argmax(-1)


def measure(
    logits: Float[torch.Tensor, "B V"],
) -> tuple[Float[torch.Tensor, " B"], Float[torch.Tensor, " B"]]:
    """Returns entropy and normalizer of each row.

    A logit of -inf (a token that the model rules out) is allowed and adds nothing to the entropy.

    Args:
        logits: logits of each row, [B, V], float32.

    Returns:
        Entropy in nats, [B]; log of the normalizer, [B], which is finite if and only if the logits
        are usable. A token's log-probability is its logit less the normalizer.
    """
    norm = torch.logsumexp(logits, dim=-1)
    p = (logits - norm[:, None]).exp_()  # [B, V]
    return torch.special.entr(p).sum(-1), norm


def choose_and_measure(
    logits: Float[torch.Tensor, "B V"],
    how: Sampling,
    keys: Int[torch.Tensor, " B"],
    steps: Int[torch.Tensor, " B"],
    *,
    triton: bool = False,
) -> tuple[Int[torch.Tensor, " B"], Float[torch.Tensor, " B"], Float[torch.Tensor, " B"]]:
    """Chooses the next token of every row and measures its distribution, in one reading if it can.

    Args:
        logits: logits of each row, [B, V].
        how: the sampling options.
        keys: noise key of each row, [B], int64.
        steps: index of the token to choose in each row, [B], int64.
        triton: whether Triton's kernels may be used.

    Returns:
        What `choose` and `measure` return, by compiled kernels where there are some.
    """
    if triton and how.unfiltered:
        from interp.kernels.triton_kernels import choose_and_measure as by_triton

        return by_triton(logits, how.temperature, step_start(keys, steps))
    logits = logits.float()
    if logits.device.type == "cpu" and (run := kernels()) is not None:
        heat = how.temperature if how.unfiltered else 0.0
        token, entropy, norm = run.choose(logits, heat, step_start(keys, steps))
        return token if how.unfiltered else choose(logits, how, keys, steps), entropy, norm
    entropy, norm = measure(logits)
    return choose(logits, how, keys, steps), entropy, norm
