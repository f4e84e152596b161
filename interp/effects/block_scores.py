"""Scores of blocks with their reliability, for comparison with effects.

Block Influence is itself an estimate: other texts give slightly other values. Its split-half
reliability is the rank correlation over blocks between its values on two halves of the texts (for
chains: of the problems), averaged over random halvings, and extended to the whole set with the
formula of Spearman and Brown (1910): r = 2 r' / (1 + r'). Where only an interval is known,
classical test theory gives reliability = 1 - mean(se^2) / var(values).

Shapes: L blocks, N texts or problems, H halvings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from interp.activations.reducers import PerTextResult
from interp.chains.chain import Chain
from interp.errors import NonFiniteError, UserError, check_known
from interp.json_reader import short
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.statistics import spearman

HALVINGS = 50


@runtime_checkable
class ScoresLike(Protocol):
    """Scores of blocks: `values` [L]; a `layer_map`, if present, gives their dense indices."""

    @property
    def values(self) -> Any:
        """The scores, [L]."""
        ...


@checked
@brief
@dataclass(frozen=True)
class BlockScores:
    """One score for every block.

    Attributes:
        name: Name of the score.
        values: The scores, [L]; all finite.
        layer_map: Dense index of each entry.
        reliability: Reliability of the scores over blocks, in [0, 1]; nan where it is unknown.
    """

    name: str
    values: Float[np.ndarray, " L"]
    layer_map: tuple[int, ...]
    reliability: float = field(default=float("nan"))

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.layer_map),):
            raise UserError(
                f"Scores {self.name!r}: values of shape {self.values.shape} for "
                f"{len(self.layer_map)} blocks; expected one score per block."
            )
        if not np.isfinite(self.values).all():
            bad = [
                b for b, v in zip(self.layer_map, self.values, strict=True) if not np.isfinite(v)
            ]
            raise NonFiniteError(
                f"Scores {self.name!r} of block {bad} are inf or nan; expected finite scores."
            )

    @classmethod
    def of_texts(
        cls, name: str, result: PerTextResult, quantity: str | None = None, *, seed: int = 0
    ) -> BlockScores:
        """Make scores from the per-text sums of a reducer, such as `BlockInfluence().result()`.

        Args:
            name: Name of the score.
            result: The result of the reducer.
            quantity: Name of its table; default: the first one.
            seed: Seed of the halvings.

        Returns:
            The scores with their split-half reliability over texts.
        """
        sums, counts = result.sums(quantity)
        return cls(
            name, result.values(quantity), result.layer_map, split_half(sums, counts, seed=seed)
        )

    @classmethod
    def of_chains(
        cls,
        name: str,
        chains: Sequence[Chain],
        masks: Sequence[Bool[np.ndarray, " _"]] | None = None,
        quantity: str = "influence",
        *,
        seed: int = 0,
    ) -> BlockScores:
        """Make scores from recorded chains, as a mean over tokens.

        Args:
            name: Name of the score.
            chains: Chains decoded with `record=True`, or passed through `recorded`.
            masks: One mask [S] per chain, for the tokens of one event (`mark(chains,
                model)[event]`). Default: all tokens that the model chose.
            quantity: One of `interp.influence_profile.QUANTITIES`.
            seed: Seed of the halvings.

        Returns:
            The scores with their split-half reliability over problems.

        Raises:
            UserError: The quantity is unknown, there are no chains, a chain has no record, the
                chains come from models with different blocks, or the event has no tokens.
        """
        from interp.influence_profile import QUANTITIES

        check_known(quantity, QUANTITIES, "quantity")
        records = [c.stream for c in chains]
        if not chains or any(r is None for r in records):
            raise UserError(
                f"Scores {name!r}: no chain, or one without a record of its residual stream: "
                "decode with record=True, or pass `recorded(model, chains)`."
            )
        first = records[0]
        assert first is not None
        problems = {p: i for i, p in enumerate(dict.fromkeys(c.problem for c in chains))}
        sums, counts = np.zeros((2, len(first.layer_map), len(problems)))
        several = [~c.forced for c in chains] if masks is None else masks
        if len(several) != len(chains):
            raise UserError(f"Scores {name!r}: {len(several)} masks for {len(chains)} chains.")
        for chain, record, mask in zip(chains, records, several, strict=True):
            assert record is not None
            if record.layer_map != first.layer_map:
                raise UserError(
                    "The chains come from models with different blocks; expected one layer_map: "
                    "score them separately."
                )
            values = QUANTITIES[quantity](record).astype(np.float64)  # [S, L]
            here = mask[:, None] & np.isfinite(values)
            column = problems[chain.problem]
            sums[:, column] += np.where(here, values, 0.0).sum(0)
            counts[:, column] += here.sum(0)
        if not (counts.sum(1) > 0).all():
            raise UserError(
                f"Scores {name!r}: no token of these chains is in the event; expected "
                "at least one: use other chains or another event."
            )
        means = sums.sum(1) / counts.sum(1)
        return cls(name, means, first.layer_map, split_half(sums, counts, seed=seed))

    @classmethod
    def of_interval(
        cls,
        name: str,
        values: Float[np.ndarray, " L"],
        low: Float[np.ndarray, " L"],
        high: Float[np.ndarray, " L"],
        layer_map: Sequence[int],
        level: float = 0.95,
    ) -> BlockScores:
        """Make scores from values and their intervals, assumed to be normal.

        Args:
            name: Name of the score.
            values: The scores, [L].
            low: Lower limits, [L].
            high: Upper limits, [L].
            layer_map: Dense index of each entry.
            level: Confidence level of the intervals.

        Returns:
            The scores, with reliability 1 - mean(se^2) / var(values), at least 0.
        """
        from scipy.stats import norm

        error = (high - low) / 2 / float(norm.ppf(0.5 + level / 2))
        spread = float(np.var(values, ddof=1)) if len(values) > 1 else 0.0
        known = bool(np.isfinite(error).all()) and spread > 0
        reliability = 1 - float(np.mean(error**2)) / spread if known else float("nan")
        return cls(name, values, tuple(int(b) for b in layer_map), max(reliability, 0.0))

    def by_block(self) -> dict[int, float]:
        """Return the scores by dense index."""
        return dict(zip(self.layer_map, self.values.tolist(), strict=True))

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per block."""
        columns = {"block": list(self.layer_map), "score": self.name, "value": self.values}
        return pd.DataFrame(columns | {"reliability": self.reliability})


def as_scores(name: str, scores: Any) -> BlockScores:
    """Convert scores of any form to `BlockScores`.

    Args:
        name: Name of the score.
        scores: `BlockScores`, any object with `values` (and `layer_map`), a mapping from dense
            index to score, or an array whose index is the dense index.

    Returns:
        The scores; their reliability is nan unless `scores` has one.

    Raises:
        UserError: The values do not fit the blocks.
        NonFiniteError: A score is inf or nan.
    """
    if isinstance(scores, BlockScores):
        return scores
    if isinstance(scores, Mapping):
        if odd := [block for block in scores if not isinstance(block, (int, np.integer))]:
            raise UserError(f"Scores {name!r}: {odd[0]!r} is no dense index of a block.")
        return BlockScores(
            name,
            np.array([float(v) for v in scores.values()]),
            tuple(int(b) for b in scores),
        )
    try:
        values = np.asarray(getattr(scores, "values", scores), dtype=float)
    except (TypeError, ValueError):
        values = np.zeros(())
    if not values.ndim:
        raise UserError(f"Scores {name!r}: {short(scores)} is no array of scores, one per block.")
    blocks = getattr(scores, "layer_map", None) or range(len(values))
    return BlockScores(name, values, tuple(int(b) for b in blocks))


def split_half(
    sums: Shaped[np.ndarray, "L N"],
    counts: Shaped[np.ndarray, "L N"],
    *,
    size: bool = False,
    halvings: int = HALVINGS,
    seed: int = 0,
) -> float:
    """Estimate the reliability over blocks of the means sum / count, from halves of the N units.

    Args:
        sums: Sums per block and unit (text or problem), [L, N].
        counts: Numbers of summands per block and unit, [L, N].
        size: Whether to use the absolute value of the means.
        halvings: Number of random halvings.
        seed: Seed of the halvings.

    Returns:
        The reliability, in [0, 1]; nan with fewer than 4 units or 3 blocks.
    """
    total = sums.shape[1]
    if total < 4 or sums.shape[0] < 3:
        return float("nan")
    rng = np.random.default_rng(seed)
    first = rng.random((halvings, total)).argsort(axis=1) < total // 2  # [H, N]
    means = []
    for half in (first, ~first):
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((half @ sums.T) / (half @ counts.T.astype(float)))  # [H, L]
    kept = np.isfinite(means[0]).all(axis=1) & np.isfinite(means[1]).all(axis=1)
    if size:
        means = [np.abs(m) for m in means]
    r = spearman(means[0][kept], means[1][kept])
    r = r[np.isfinite(r)]
    if not r.size:
        return float("nan")
    mean = float(r.mean())
    return max(2 * mean / (1 + mean), 0.0) if mean > -1 else 0.0
