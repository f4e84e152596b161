"""How far two computations of the same float32 values may lie apart, from the arithmetic.

The same sums are taken in another order by another kernel (AVX2, AVX-512, a cache, a batch), so
results differ by rounding. A fixed 1e-5 holds on one processor for models of one size.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.repairs.machinery.wiring import norm_offset

EPS = torch.finfo(torch.float32).eps
SIGMAS = 4.0  # of thousands of compared values none should lie outside by chance


def logit_noise(model: ReasoningModel) -> float:
    """Bound on the rounding in a logit or log-probability of a model in float32.

    A product of matrices sums n terms; with rounding errors of either sign its relative error is
    about eps sqrt(n). A logit lies behind 4 products of every block (into and out of attention
    and MLP) and the head; their errors are independent, so they add in quadrature. The size of
    a logit is that of its row of the head (times the final norm's gain): the norm gives the stream
    a mean square of 1. A log-probability is a difference of logits, so its own size, which may be
    near 0, says nothing. (Tiny models differ from float64 by a tenth to half of this bound.)
    """
    hf: Any = model.hf
    config = hf.config
    longest = max(config.hidden_size, getattr(config, "intermediate_size", None) or 0)
    products = 4 * model.n_blocks + 1
    return SIGMAS * EPS * math.sqrt(longest * products) * _logit_size(model)


def close_to(model: ReasoningModel) -> dict[str, Any]:
    """The bound as options of `torch.testing.assert_close`."""
    return {"atol": logit_noise(model), "rtol": 0.0}


def _logit_size(model: ReasoningModel) -> float:
    norm: Any = model.final_norm
    gain: Any = 1.0  # of a norm without weights
    if (weight := getattr(norm, "weight", None)) is not None:
        try:
            gain = norm_offset(model, norm) + weight.detach().float()
        except UserError:  # no RMS norm: a layer norm multiplies by its weight, or by 1 + weight
            gain = 1.0 + weight.detach().float().abs()
    head: Any = model.head
    return float((head.weight.detach().float() * gain).norm(dim=-1).max())


def kl_noise(model: ReasoningModel) -> float:
    """Bound on the KL divergence, in nats, that rounding alone makes of two equal models.

    In exact arithmetic logits that are d apart make at most d^2 / 2. In float32 each term
    p (log p - log q) also carries the rounding of its two logarithms: eps times their size, about
    that of a logit plus log V, weighted by p.
    """
    return logit_noise(model) ** 2 / 2 + EPS * (_logit_size(model) + math.log(model.vocab_size))
