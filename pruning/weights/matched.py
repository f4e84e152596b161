"""Comparing unstructured pruning and removed blocks at equal parameters or equal latency.

Equal parameters: `matched_sparsity` is the share of the blocks' weights that equals the number of
parameters of the plan's blocks.

Equal latency: removing blocks makes every token cheaper, but dense kernels multiply a zero like
any number. So the model with zeros takes the time of the dense one, and no sparsity meets the
latency of the plan: the match is undefined, not large. At the latency of the model with zeros, the
model to compare with lacks no block. `match_latency` therefore measures all three on this machine
and says which case applies; it gives no sparsity where there is none.

Latencies are of decoding, one token per forward pass with a cache. The models run in a new random
order each round and ratios are taken within a round, so that a slow phase of the machine affects
all models. Shapes: M models, R rounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.kv_cache import handing
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table
from pruning.plan import LayerPlan
from pruning.surgery import prune
from pruning.weights.matrices import matrices


@checked
def matched_sparsity(model: ReasoningModel, plan: LayerPlan) -> float:
    """The share of all blocks' weights that equals the plan's number of parameters.

    Args:
        model: the dense model.
        plan: the plan.

    Returns:
        The share, below 1 (see `matrices` for which weights are meant).

    Raises:
        UserError: the plan is for another model, or removes more parameters than the matrices have.
    """
    plan.check(model)
    gone = [b for l, b in zip(model.layer_map, model.blocks, strict=True) if l in plan.removed]
    removed = sum(weight.numel() for block in gone for weight in block.parameters())
    prunable = sum(matrix.weight.numel() for own in matrices(model) for matrix in own)
    if removed >= prunable:
        raise UserError(
            f"Plan {plan.name!r} removes {removed:,} parameters, and the blocks' matrices have "
            f"{prunable:,} weights in all: no sparsity matches it. Remove fewer blocks."
        )
    return removed / prunable


@as_table
@dataclass(frozen=True)
class Latencies:
    """Decoding latencies of several models; the first model is the base of the ratios.

    Attributes:
        names: the models.
        milliseconds: time per decoded token [M, R].
        nonzero: parameters of each model that are not zero.
        batch: rows decoded at the same time.
        prompt_tokens: tokens in the cache before timing starts.
        steps: decoded tokens per round and row.
        device: the device of the first model.
        dtype: the dtype of the first model.
    """

    names: tuple[str, ...]
    milliseconds: Float[np.ndarray, "M R"]
    nonzero: tuple[int, ...]
    batch: int
    prompt_tokens: int
    steps: int
    device: str
    dtype: str

    def speedup(self, name: str, level: float = 0.95) -> tuple[float, float, float]:
        """How many times faster than the first model: geometric mean over rounds.

        Args:
            name: the model.
            level: the level of the t interval over rounds.

        Returns:
            The ratio and the bounds of its interval.

        Raises:
            UserError: the model was not timed.
        """
        from scipy.stats import t

        if name not in self.names:
            raise UserError(f"{name!r} was not timed; expected one of {list(self.names)}.")
        ratio = np.log(self.milliseconds[0] / self.milliseconds[self.names.index(name)])
        rounds = len(ratio)
        half = 0.0
        if name != self.names[0]:
            half = float(t.ppf(0.5 + level / 2, rounds - 1) * ratio.std(ddof=1) / rounds**0.5)
        mean = float(ratio.mean())
        return math.exp(mean), math.exp(mean - half), math.exp(mean + half)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per model: median time per token, and speed relative to the first."""
        rows = []
        for name, times, nonzero in zip(self.names, self.milliseconds, self.nonzero, strict=True):
            value, low, high = self.speedup(name)
            rows.append(
                {
                    "model": name,
                    "nonzero_parameters": nonzero,
                    "ms_per_token": float(np.median(times)),
                    "speedup": value,
                    "speedup_low": low,
                    "speedup_high": high,
                    "rounds": len(times),
                    "batch": self.batch,
                    "device": self.device,
                    "dtype": self.dtype,
                }
            )
        return pd.DataFrame(rows)


@checked
def decode_latency(
    models: Mapping[str, ReasoningModel],
    *,
    prompt_tokens: int = 32,
    steps: int = 16,
    batch: int = 1,
    rounds: int = 10,
    seed: int = 0,
) -> Latencies:
    """Time the decoding of several models side by side.

    Args:
        models: name -> model; the first is the base of the ratios.
        prompt_tokens: tokens in the cache before timing starts.
        steps: decoded tokens per round and row.
        batch: rows decoded at the same time.
        rounds: rounds, at least 2; every model runs once per round.
        seed: the seed of the token ids and of the order.

    Returns:
        Milliseconds per token.

    Raises:
        UserError: no model, or a number is too small.
    """
    given = {"prompt_tokens": prompt_tokens, "steps": steps, "batch": batch, "rounds": rounds - 1}
    if wrong := [name for name, value in given.items() if value < 1]:
        least = 2 if wrong[0] == "rounds" else 1
        raise UserError(f"{wrong[0]}: expected at least {least}.")
    if not models:
        raise UserError("No model to time: expected at least one.")
    first = next(iter(models.values()))
    draw = np.random.default_rng(seed)
    vocab = min(model.vocab_size for model in models.values())
    ids = torch.from_numpy(draw.integers(0, vocab, (batch, prompt_tokens + steps)))
    names = tuple(models)
    for model in models.values():  # warm up: kernels are chosen, memory is allocated
        _seconds(model, ids, prompt_tokens)
    taken = np.zeros((len(names), rounds))
    for turn in range(rounds):
        for m in draw.permutation(len(names)):
            taken[m, turn] = _seconds(models[names[m]], ids, prompt_tokens)
    return Latencies(
        names=names,
        milliseconds=1000 * taken / steps,
        nonzero=tuple(_nonzero(model) for model in models.values()),
        batch=batch,
        prompt_tokens=prompt_tokens,
        steps=steps,
        device=str(first.device),
        dtype=str(first.dtype).removeprefix("torch."),
    )


@torch.no_grad()
def _seconds(model: ReasoningModel, ids: Int[Tensor, "B T"], prompt: int) -> float:
    """The time to decode ids[:, prompt:], one token per pass; the prompt before is not timed."""
    from transformers import DynamicCache

    ids = ids.to(model.device)
    cache = DynamicCache(config=model.hf.config)
    hf: Any = model.hf
    hf(ids[:, :prompt], use_cache=True, logits_to_keep=1, **handing(hf, cache))
    _wait(model)
    start = time.perf_counter()
    for position in range(prompt, ids.shape[1]):
        hf(ids[:, position : position + 1], use_cache=True, **handing(hf, cache))
    _wait(model)
    return time.perf_counter() - start


def _wait(model: ReasoningModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def _nonzero(model: ReasoningModel) -> int:
    return sum(int(torch.count_nonzero(weight)) for weight in model.hf.parameters())


@as_table
@dataclass(frozen=True)
class LatencyMatch:
    """Whether a model with zeros reaches the latency of removed blocks, as measured.

    Attributes:
        latencies: the measurement; the dense model is first.
        removed: the name of the pruned model in `latencies`.
        zeros: the name of the model with zeros in `latencies`.
    """

    latencies: Latencies
    removed: str
    zeros: str

    @property
    def verdict(self) -> Literal["met", "not met", "unclear"]:
        """Whether the zeros save as much time as the removed blocks.

        "met": they save time, as much as the blocks. "not met": less, beyond noise. "unclear": the
        intervals overlap.
        """
        _, r_low, r_high = self.latencies.speedup(self.removed)
        _, z_low, z_high = self.latencies.speedup(self.zeros)
        if z_high < r_low:
            return "not met"
        return "met" if z_low > 1.0 and z_low <= r_high else "unclear"

    @property
    def control(self) -> str | None:
        """The unstructured model that is as fast as the plan; None if there is none."""
        return self.zeros if self.verdict == "met" else None

    def __str__(self) -> str:
        said = [
            f"{name}: {{:.2f}} times the dense model's speed [{{:.2f}}, {{:.2f}}].".format(
                *self.latencies.speedup(name)
            )
            for name in (self.removed, self.zeros)
        ]
        said.append(
            {
                "met": "The zeros meet the latency of the removed blocks.",
                "not met": "The zeros do not meet the latency of the removed blocks with these "
                "kernels, so no sparsity is matched to it. At the latency of the model with "
                "zeros, the model to compare with lacks no block.",
                "unclear": "Too noisy to tell the two apart: measure more rounds, or a larger "
                "model.",
            }[self.verdict]
        )
        return " ".join(said)

    def to_frame(self) -> pd.DataFrame:
        """Return the latencies, with the verdict in each row."""
        return self.latencies.to_frame().assign(latency_match=self.verdict)


@checked
def match_latency(
    model: ReasoningModel, plan: LayerPlan, zeros: ReasoningModel, **options: Any
) -> LatencyMatch:
    """Time the dense model, the plan, and a model with zeros (`sparsify(...).model`).

    Args:
        model: the dense model.
        plan: the plan.
        zeros: the model with zeros.
        **options: options of `decode_latency`.

    Returns:
        The latencies and the verdict.

    Raises:
        UserError: the plan is for another model, or two of the models have one name.
    """
    removed = prune(model, plan, share=True)
    names = ("dense", plan.name, zeros.name)
    if len(set(names)) < 3:
        raise UserError(f"Two of the models to time have the same name: {list(names)}; rename one.")
    found = decode_latency(dict(zip(names, (model, removed, zeros), strict=True)), **options)
    return LatencyMatch(latencies=found, removed=plan.name, zeros=zeros.name)
