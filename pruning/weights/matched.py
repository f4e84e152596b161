"""What it takes for unstructured pruning and removing blocks to be compared at equal terms.

Equal parameters: `matched_sparsity`, the share of the blocks' weights that are as many as the
parameters of the plan's blocks.

Equal latency is another matter. Removing blocks makes every token cheaper. A zero is multiplied
like any number by dense kernels, so the model with zeros takes the time of the dense one, and no
sparsity meets the latency of the plan: the match is undefined, not large. Read the other way
round: at the latency of the model with zeros, the model to compare with lacks no block at all.
So `match_latency` measures all three side by side and says which case it is, on this machine,
with its kernels. It gives no sparsity where there is none.

Latencies are those of decoding, one token a pass through a cache. The models take turns, in an
order drawn anew each round, so what slows the machine down for a while slows all of them, and
ratios are taken within a round. Shapes: M models, R rounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.kv_cache import handing
from interp.model.reasoning_model import ReasoningModel
from pruning.plan import LayerPlan
from pruning.surgery import prune
from pruning.weights.matrices import matrices

if TYPE_CHECKING:
    import pandas as pd


def matched_sparsity(model: ReasoningModel, plan: LayerPlan) -> float:
    """The share of all blocks' weights (see `matrices`) that equals the plan's parameters."""
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


@dataclass(frozen=True)
class Latencies:
    """Milliseconds a decoded token, [M, R]; the first model is what the others are held against.

    nonzero: parameters that are not zero. batch, prompt_tokens, steps, device, dtype: of what.
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
        """How many times faster than the first: geometric mean over rounds, and its interval."""
        from scipy.stats import t

        if name not in self.names:
            raise UserError(f"No latency of {name!r} was taken; there are {list(self.names)}.")
        ratio = np.log(self.milliseconds[0] / self.milliseconds[self.names.index(name)])
        rounds = len(ratio)
        half = 0.0
        if name != self.names[0]:
            half = float(t.ppf(0.5 + level / 2, rounds - 1) * ratio.std(ddof=1) / rounds**0.5)
        mean = float(ratio.mean())
        return math.exp(mean), math.exp(mean - half), math.exp(mean + half)

    def to_frame(self) -> pd.DataFrame:
        """One row a model: median time a token, and how many times faster than the first."""
        import pandas as pd

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


def decode_latency(
    models: Mapping[str, ReasoningModel],
    *,
    prompt_tokens: int = 32,
    steps: int = 16,
    batch: int = 1,
    rounds: int = 10,
    seed: int = 0,
) -> Latencies:
    """Time a decoded token of several models side by side; the first is the base of the ratios."""
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
    for model in models.values():  # warm up: kernels are chosen, memory is taken
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
    """The time of decoding ids[:, prompt:], one token a pass, behind a prompt that is not timed."""
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


@dataclass(frozen=True)
class LatencyMatch:
    """Whether a model with zeros meets the latency of removed blocks, as measured.

    removed, zeros: their names in `latencies`, where the dense model is first.
    """

    latencies: Latencies
    removed: str
    zeros: str

    @property
    def verdict(self) -> Literal["met", "not met", "unclear"]:
        """met: the zeros save time, and as much as the blocks. not met: less, beyond noise."""
        _, r_low, r_high = self.latencies.speedup(self.removed)
        _, z_low, z_high = self.latencies.speedup(self.zeros)
        if z_high < r_low:
            return "not met"
        return "met" if z_low > 1.0 and z_low <= r_high else "unclear"

    @property
    def control(self) -> str | None:
        """The unstructured model that is as fast as the plan; None where there is none."""
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
        """The latencies, and the verdict in each row."""
        return self.latencies.to_frame().assign(latency_match=self.verdict)


def match_latency(
    model: ReasoningModel, plan: LayerPlan, zeros: ReasoningModel, **options: Any
) -> LatencyMatch:
    """Time the dense model, the plan and a model with zeros (`sparsify(...).model`).

    options: of `decode_latency`.
    """
    removed = prune(model, plan, share=True)
    names = ("dense", plan.name, zeros.name)
    if len(set(names)) < 3:
        raise UserError(f"Two of the models to time have one name: {list(names)}.")
    found = decode_latency(dict(zip(names, (model, removed, zeros), strict=True)), **options)
    return LatencyMatch(latencies=found, removed=plan.name, zeros=zeros.name)
