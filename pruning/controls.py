"""Controls: what a plan must beat before its criterion deserves any credit.

`against_chance`: is the plan better than random plans, and than random plans that keep the first
two and the last two blocks? The p-value is the share of random plans of the same size that are at
least as good. If there are few subsets, all are tried and the p-value is exact. Otherwise
p = (1 + hits) / (1 + draws) with independent draws (Phipson and Smyth 2010), which is never 0.
If the plan is itself a random draw, p < alpha happens in at most alpha of the cases.

`noise_at_kl`: is it the missing blocks, or any disturbance of that size? The dense model gets
Gaussian noise on the weights of its blocks, W + sigma rms(W) e with e standard normal and the same
e at every sigma. Bisection finds the sigma at which KL(dense || noisy) on the calibration text
equals that of the plan.

Unstructured pruning, the third control, is in `pruning.weights`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import NonFiniteError, UserError
from interp.interventions.interventions import VariantLike
from interp.json_reader import short
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.notebook import as_table
from interp.plumbing.plots import axes_of
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration, Part
from pruning.distance import divergences, readings
from pruning.plan import LayerPlan
from pruning.surgery import prune
from pruning.weights.matrices import Matrix, matrices

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Quality = Callable[[LayerPlan], float]
NOTHING_LEFT = 1e3  # largest noise to weight ratio tried; it destroys the weights completely
ANY, INNER = "any blocks", "inner blocks"


# --------------------------------------------------------------------------- random plans


@brief
@dataclass(frozen=True)
class ChanceTest:
    """A plan's quality among random plans of its size.

    Attributes:
        reference: what the random plans were drawn from: "any blocks" or "inner blocks".
        plan: the plan under test.
        observed: its quality; larger is better.
        removed: the blocks (dense indices) that each random plan removes.
        qualities: quality of each random plan [N].
        exact: True if `removed` holds every possible plan once, False if it holds random draws.
        seed: the seed of the draws.
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
        """The p-value: how likely a random plan does at least as well."""
        hits = int((self.qualities >= self.observed).sum())
        if self.exact and self.plan.removed in self.removed:
            return hits / len(self.qualities)
        return (1 + hits) / (1 + len(self.qualities))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per random plan."""
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


@brief
@dataclass(frozen=True)
class AgainstChance:
    """A plan against random plans.

    Attributes:
        any_blocks: the test against plans that may remove any block.
        inner_blocks: the test against plans that keep the first and last blocks.
    """

    any_blocks: ChanceTest
    inner_blocks: ChanceTest

    def to_frame(self) -> pd.DataFrame:
        """Return one row per random plan of either reference."""
        both = (self.any_blocks, self.inner_blocks)
        return pd.concat([test.to_frame() for test in both], ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the qualities of the random plans as histograms, and the plan's as a line.

        Args:
            ax: the axes to draw on. Default: a new figure.

        Returns:
            The axes.
        """
        ax = axes_of(ax, (6.4, 3.2))
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


@checked
def against_chance(
    plan: LayerPlan,
    quality: Quality,
    *,
    draws: int = 199,
    seed: int = 0,
    spare_first: int = 2,
    spare_last: int = 2,
) -> AgainstChance:
    """Test a plan against random plans of its size.

    Args:
        plan: the plan under test; it must remove at least one block.
        quality: the value of a plan, larger is better (an accuracy, or minus a loss). It is called
            once for every distinct plan.
        draws: random plans of each reference. If there are no more subsets than this, each subset
            is
            tried once and the test is exact.
        seed: the seed of the draws.
        spare_first: first blocks that the inner plans never remove.
        spare_last: last blocks that the inner plans never remove.

    Returns:
        Both tests.

    Raises:
        UserError: `draws` is below 1, the plan removes nothing, or too few blocks are left to draw.
        NonFiniteError: `quality` returned inf or nan.
    """
    if draws < 1:
        raise UserError(f"draws={draws}: expected at least 1 random plan.")
    if not plan.removed:
        raise UserError(
            f"Plan {plan.name!r} removes nothing: expected a plan that removes at least one block."
        )
    known: dict[tuple[int, ...], float] = {}

    def worth(of: LayerPlan) -> float:
        if of.removed not in known:
            value = quality(of)
            try:
                known[of.removed] = float(value)
            except (TypeError, ValueError):
                raise UserError(
                    f"against_chance: quality({of.name!r}) returned {short(value)}: expected a "
                    "number."
                ) from None
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
    """Draw random plans that remove as many blocks of the same model, independently of each other.

    Args:
        plan: the plan whose size and model the random plans share.
        draws: how many plans.
        seed: the seed.
        spare_first: first blocks that are never removed.
        spare_last: last blocks that are never removed.

    Returns:
        `draws` plans; some may be equal.

    Raises:
        UserError: too few blocks are left to draw from.
    """
    open_blocks = _open(plan, spare_first, spare_last)
    rng = np.random.default_rng(seed)
    return [
        _like(plan, rng.choice(open_blocks, len(plan.removed), replace=False).tolist())
        for _ in range(draws)
    ]


def all_plans(plan: LayerPlan, spare_first: int = 0, spare_last: int = 0) -> Iterator[LayerPlan]:
    """Yield every plan that removes as many blocks of the same model.

    Args:
        plan: the plan whose size and model the others share.
        spare_first: first blocks that are never removed.
        spare_last: last blocks that are never removed.

    Yields:
        Each plan once.
    """
    for blocks in combinations(_open(plan, spare_first, spare_last), len(plan.removed)):
        yield _like(plan, list(blocks))


def n_plans(plan: LayerPlan, spare_first: int = 0, spare_last: int = 0) -> int:
    """The number of plans that `all_plans` yields.

    Args:
        plan: the plan whose size and model the others share.
        spare_first: first blocks that are never removed.
        spare_last: last blocks that are never removed.

    Returns:
        The number of plans.
    """
    return math.comb(len(_open(plan, spare_first, spare_last)), len(plan.removed))


def _open(plan: LayerPlan, first: int, last: int) -> tuple[int, ...]:
    """Dense indices of the blocks that a random plan may remove."""
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


@as_table
@dataclass(frozen=True)
class Noised:
    """The dense model with noise on the weights of its blocks.

    Attributes:
        model: the noisy model.
        sigma: noise over the root mean square of each matrix.
        kl: the divergence reached, in nats per token.
        target: the divergence asked for, in nats per token.
        seed: the seed of the noise.
        calibration: hash of the calibration text.
        n_tokens: tokens that count in the calibration.
        trail: (sigma, kl) of every scale tried, in order.
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
        """Return one row per scale tried: sigma and KL."""
        frame = pd.DataFrame(self.trail, columns=["sigma", "kl"])  # pyright: ignore[reportArgumentType]
        return frame.assign(target=self.target, seed=self.seed, n_tokens=self.n_tokens)


@checked
@torch.no_grad()
def noise_at_kl(
    model: ReasoningModel,
    texts: Any,
    like: float | VariantLike | ReasoningModel,
    *,
    seed: int = 0,
    tolerance: float = 0.02,
    most: int = 40,
    start: float = 0.01,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Noised:
    """Return a copy of `model` with noise on its blocks' matrices, as far from it as `like` is.

    Args:
        model: the dense model; it is not changed.
        texts: calibration texts, as for `Calibration.of`.
        like: a plan, any other variant, another model, or the divergence itself in nats per token.
        seed: the seed of the noise. One seed gives one noise per kind of device.
        tolerance: relative error allowed in the divergence, between 0 and 1.
        most: the largest number of scales to try, at least 2.
        start: the scale that is tried first; a good guess spares passes.
        part: which tokens of the texts count. Default: all.
        batch_tokens: tokens per forward pass.

    Returns:
        The noisy model and its record.

    Raises:
        UserError: an argument is out of range, the divergence is not above 0, or no scale reaches
            it.
    """
    if not 0 < tolerance < 1 or most < 2 or not 0 < start < NOTHING_LEFT:
        raise UserError(
            "noise_at_kl: expected a tolerance between 0 and 1, most >= 2, and a start above 0."
        )
    calibration = Calibration.of(model, texts, part)
    reference = list(readings(model, calibration, batch_tokens))  # once for all scales

    def distance(other: ReasoningModel | VariantLike) -> float:
        return divergences(model, [other], calibration, batch_tokens, reference=reference)[0]

    target = float(like) if isinstance(like, (int, float)) else distance(like)
    if not target > 0 or not math.isfinite(target):
        raise UserError(f"A divergence of {target} nats per token: expected a number above 0.")
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

    below: Tried | None = None
    above: Tried | None = None  # the nearest scales with a KL below and above the target
    sigma = start
    while len(trail) < most and sigma < NOTHING_LEFT:
        kl = at(sigma)
        if abs(kl - target) <= tolerance * target:
            break
        below, above = ((sigma, kl), above) if kl < target else (below, (sigma, kl))
        sigma = _next(below, above, target, len(trail))
    else:
        nearest = min(trail, key=lambda tried: abs(tried[1] - target))
        raise UserError(
            f"No noise gives a divergence of {target:.4g} nats per token: {len(trail)} scales were "
            f"tried, the nearest gave {nearest[1]:.4g}. Noise has a largest effect and, in half "
            "precision, a smallest one: allow a larger tolerance, or use float32."
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


Tried = tuple[float, float]  # a scale, and the KL that it gave


def _next(below: Tried | None, above: Tried | None, target: float, trials: int) -> float:
    """The next scale to try.

    KL grows with sigma squared while it is small. Once a scale on either side is known, a power law
    through both is taken in turn with their middle, so that no law of KL takes many trials.
    """
    if below is None or above is None:
        sigma, kl = below or above or (0.01, 0.0)
        guess = math.sqrt(target / kl) if kl > 0 else 8.0
        more = 1.1 if trials > 1 else 1.0  # beyond the target, so that the next is between two
        return sigma * (min(8.0, more * guess) if above is None else max(1 / 8, guess / more))
    share = 0.5
    if trials % 2 and below[1] > 0:
        share = math.log(target / below[1]) / math.log(above[1] / below[1])
    return below[0] * (above[0] / below[0]) ** min(0.95, max(0.05, share))


def _add_noise(old: Matrix, own: Matrix, sigma: float, seed: int, index: int) -> None:
    """Set own = old + sigma rms(old) e, where (seed, index of the matrix) determines e."""
    draw = torch.Generator(device=old.weight.device)
    draw.manual_seed((seed * 1_000_003 + index) % 2**63)
    weight: Tensor = old.weight.float()
    noise = torch.randn(weight.shape, generator=draw, device=weight.device)
    own.weight.copy_(weight + sigma * weight.square().mean().sqrt() * noise)
