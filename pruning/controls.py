"""Controls: what a plan must beat before its criterion deserves any credit.

`against_chance`: is the plan better than plans drawn at random, and than random plans that spare
the first two and the last two blocks (which every criterion learns to do)? A permutation p-value
for each: the share of random plans of the same size that are at least as good. With few subsets
all of them are tried and the p-value is exact; else p = (1 + hits) / (1 + draws) with independent
draws (Phipson and Smyth 2010), which is never 0. A p-value under alpha comes up in at most alpha
of the cases where the plan is one more random draw.

`noise_at_kl`: is it the missing blocks, or any disturbance of that size? The dense model with
Gaussian noise on the weights of its blocks, scaled so that its next-token distribution on the
calibration text is as far from the dense model's as the plan's: W + sigma rms(W) e, with e
standard normal, the same e at every sigma, and sigma found by bisection on KL(dense || noisy).

Unstructured pruning, the third control, is in `pruning.weights`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import NonFiniteError, UserError
from interp.interventions.interventions import VariantLike
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration, Part
from pruning.distance import divergences
from pruning.plan import LayerPlan
from pruning.surgery import prune
from pruning.weights.matrices import Matrix, matrices

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Quality = Callable[[LayerPlan], float]
NOTHING_LEFT = 1e3  # the noise over the weights: nothing is left of them long before
ANY, INNER = "any blocks", "inner blocks"


# --------------------------------------------------------------------------- random plans


@dataclass(frozen=True)
class ChanceTest:
    """A plan's quality among random plans of its size. reference: what they were drawn from.

    qualities [N]: of the random plans; exact: they are all there are, each once.
    """

    reference: str
    plan: LayerPlan
    observed: float
    removed: tuple[tuple[int, ...], ...]
    qualities: Float[np.ndarray, " N"]
    exact: bool
    seed: int

    @property
    def p(self) -> float:
        """How likely a random plan does as well."""
        hits = int((self.qualities >= self.observed).sum())
        if self.exact and self.plan.removed in self.removed:
            return hits / len(self.qualities)
        return (1 + hits) / (1 + len(self.qualities))

    def to_frame(self) -> pd.DataFrame:
        """One row a random plan."""
        import pandas as pd

        return pd.DataFrame(
            {
                "reference": self.reference,
                "removed": list(self.removed),
                "quality": self.qualities,
                "plan": self.plan.name,
                "plan_quality": self.observed,
                "p": self.p,
                "exact": self.exact,
                "seed": self.seed,
            }
        )


@dataclass(frozen=True)
class AgainstChance:
    """A plan against random plans of any blocks, and of inner blocks only."""

    any_blocks: ChanceTest
    inner_blocks: ChanceTest

    def to_frame(self) -> pd.DataFrame:
        """One row a random plan of either reference."""
        import pandas as pd

        both = (self.any_blocks, self.inner_blocks)
        return pd.concat([test.to_frame() for test in both], ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """How good the random plans are, and the plan among them."""
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
        every = np.concatenate([self.any_blocks.qualities, self.inner_blocks.qualities])
        edges = np.histogram_bin_edges(every, bins=min(30, 5 + len(every) // 10))
        for test, colour in ((self.any_blocks, "#9aa5b1"), (self.inner_blocks, "#4c72b0")):
            weights = np.full(len(test.qualities), 1 / len(test.qualities))
            label = f"random, {test.reference} (p = {test.p:.3g})"
            ax.hist(
                test.qualities,
                edges.tolist(),
                weights=weights,
                color=colour,
                alpha=0.6,
                label=label,
            )
        name = self.any_blocks.plan.name
        ax.axvline(self.any_blocks.observed, color="#c44e52", label=name)
        ax.set_xlabel("quality")
        ax.set_ylabel("share of random plans")
        ax.legend(fontsize="small")
        return ax


def against_chance(
    plan: LayerPlan,
    quality: Quality,
    *,
    draws: int = 199,
    seed: int = 0,
    spare_first: int = 2,
    spare_last: int = 2,
) -> AgainstChance:
    """Hold a plan against random plans of its size.

    quality: what a plan is worth, larger is better (an accuracy, minus a loss); called once for
    every distinct plan. draws: random plans of each kind; where there are no more subsets than
    that, each is tried once. spare_first, spare_last: blocks that the inner plans never remove.
    """
    if draws < 1:
        raise UserError(f"draws={draws}: expected at least 1 random plan.")
    if not plan.removed:
        raise UserError(f"Plan {plan.name!r} removes nothing: there is no chance to beat.")
    known: dict[tuple[int, ...], float] = {}

    def worth(of: LayerPlan) -> float:
        if of.removed not in known:
            known[of.removed] = float(quality(of))
            if not math.isfinite(known[of.removed]):
                raise NonFiniteError(
                    f"The quality of {of.name!r} is {known[of.removed]}: expected a finite number."
                )
        return known[of.removed]

    observed = worth(plan)
    tests = []
    for name, first, last in ((ANY, 0, 0), (INNER, spare_first, spare_last)):
        exact = n_plans(plan, first, last) <= draws
        if exact:
            others = list(all_plans(plan, first, last))
        else:
            others = random_plans(plan, draws, seed, spare_first=first, spare_last=last)
        tests.append(
            ChanceTest(
                reference=name,
                plan=plan,
                observed=observed,
                removed=tuple(other.removed for other in others),
                qualities=np.array([worth(other) for other in others]),
                exact=exact,
                seed=seed,
            )
        )
    return AgainstChance(*tests)


def random_plans(
    plan: LayerPlan, draws: int, seed: int = 0, *, spare_first: int = 0, spare_last: int = 0
) -> list[LayerPlan]:
    """Plans that remove as many blocks of the same model, drawn independently of each other."""
    open_blocks = _open(plan, spare_first, spare_last)
    rng = np.random.default_rng(seed)
    return [
        _like(plan, rng.choice(open_blocks, len(plan.removed), replace=False).tolist())
        for _ in range(draws)
    ]


def all_plans(plan: LayerPlan, spare_first: int = 0, spare_last: int = 0) -> Iterator[LayerPlan]:
    """Every plan that removes as many blocks of the same model."""
    for blocks in combinations(_open(plan, spare_first, spare_last), len(plan.removed)):
        yield _like(plan, list(blocks))


def n_plans(plan: LayerPlan, spare_first: int = 0, spare_last: int = 0) -> int:
    """How many `all_plans` gives."""
    return math.comb(len(_open(plan, spare_first, spare_last)), len(plan.removed))


def _open(plan: LayerPlan, first: int, last: int) -> tuple[int, ...]:
    if first < 0 or last < 0:
        raise UserError("spare_first and spare_last cannot be below 0.")
    found = plan.base[first : len(plan.base) - last]
    if len(found) < len(plan.removed):
        raise UserError(
            f"Sparing the first {first} and the last {last} of {plan.n_blocks} blocks leaves "
            f"{len(found)}, and the plan removes {len(plan.removed)}. Spare fewer."
        )
    return found


def _like(plan: LayerPlan, blocks: list[int]) -> LayerPlan:
    """A plan that removes other blocks of the same model."""
    return LayerPlan(
        removed=tuple(blocks),
        n_blocks=plan.n_blocks,
        name="random " + ",".join(map(str, sorted(blocks))),
        criterion="random",
        model=plan.model,
        base=plan.base,
    )


# ---------------------------------------------------------------------------------- noise


@dataclass(frozen=True)
class Noised:
    """The dense model with noise. kl: what was reached, target: what was asked, nats a token.

    sigma: the noise over the root mean square of each matrix. trail: (sigma, kl) as tried.
    """

    model: ReasoningModel
    sigma: float
    kl: float
    target: float
    seed: int
    calibration: str
    n_tokens: int
    trail: tuple[tuple[float, float], ...]

    @property
    def record(self) -> dict[str, Any]:
        """What was done, for pruning.json (`pruning.surgery.write_checkpoint`)."""
        return {
            "noise": {"sigma": self.sigma, "kl": self.kl, "target": self.target, "seed": self.seed},
            "calibration": self.calibration,
        }

    def to_frame(self) -> pd.DataFrame:
        """One row a scale that was tried."""
        import pandas as pd

        frame = pd.DataFrame(self.trail, columns=["sigma", "kl"])  # pyright: ignore[reportArgumentType]
        return frame.assign(target=self.target, seed=self.seed, n_tokens=self.n_tokens)


@torch.no_grad()
def noise_at_kl(
    model: ReasoningModel,
    texts: Any,
    like: float | VariantLike | ReasoningModel,
    *,
    seed: int = 0,
    tolerance: float = 0.02,
    most: int = 40,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Noised:
    """A new model: `model` with noise on its blocks' matrices, as far from it as `like` is.

    like: a plan, any other variant, another model, or the divergence itself in nats a token.
    tolerance: how far the divergence may be off, as a share of it. most: scales to try. One seed
    gives one noise on one kind of device.
    """
    if not 0 < tolerance < 1 or most < 2:
        raise UserError("noise_at_kl: expected a tolerance between 0 and 1, and most >= 2.")
    calibration = Calibration.of(model, texts, part)

    def distance(other: ReasoningModel | VariantLike) -> float:
        return divergences(model, [other], calibration, batch_tokens)[0]

    target = float(like) if isinstance(like, (int, float)) else distance(like)
    if not target > 0 or not math.isfinite(target):
        raise UserError(f"A divergence of {target} nats a token: expected a number above 0.")
    new = prune(model, LayerPlan((), model.n_blocks, base=model.layer_map))
    pairs = [
        pair
        for old, own in zip(matrices(model), matrices(new), strict=True)
        for pair in zip(old, own, strict=True)
    ]
    trail: list[tuple[float, float]] = []

    def at(sigma: float) -> float:
        for index, (old, own) in enumerate(pairs):
            _add_noise(old, own, sigma, seed, index)
        trail.append((sigma, distance(new)))
        return trail[-1][1]

    low, high = 0.0, math.inf  # KL below and above the target
    sigma = 0.01
    while len(trail) < most and sigma < NOTHING_LEFT:
        kl = at(sigma)
        if abs(kl - target) <= tolerance * target:
            break
        low, high = (sigma, high) if kl < target else (low, sigma)
        sigma = _next(sigma, kl, target, low, high)
    else:
        nearest = min(trail, key=lambda tried: abs(tried[1] - target))
        raise UserError(
            f"No noise gives a divergence of {target:.4g} nats a token: {len(trail)} scales were "
            f"tried, the nearest gave {nearest[1]:.4g}. Noise cannot take a model arbitrarily far, "
            "nor, in half precision, arbitrarily little: allow a larger tolerance, or use float32."
        )
    new.name = f"{model.name} noise at KL {target:.3g} (seed {seed})"
    return Noised(
        model=new,
        sigma=sigma,
        kl=trail[-1][1],
        target=target,
        seed=seed,
        calibration=calibration.hash,
        n_tokens=calibration.n_tokens,
        trail=tuple(trail),
    )


def _next(sigma: float, kl: float, target: float, low: float, high: float) -> float:
    """The next scale: KL grows with sigma squared while small; bisect where that leaves the way."""
    guess = sigma * min(8.0, max(1 / 8, math.sqrt(target / kl))) if kl > 0 else 8 * sigma
    if low < guess < high and not (low > 0 and high / low < 1.05):
        return guess
    return math.sqrt(low * high) if low > 0 else high / 2


def _add_noise(old: Matrix, own: Matrix, sigma: float, seed: int, index: int) -> None:
    """own = old + sigma rms(old) e, with the e of (seed, matrix)."""
    draw = torch.Generator(device=old.weight.device)
    draw.manual_seed((seed * 1_000_003 + index) % 2**63)
    weight: Tensor = old.weight.float()
    noise = torch.randn(weight.shape, generator=draw, device=weight.device)
    own.weight.copy_(weight + sigma * weight.square().mean().sqrt() * noise)
