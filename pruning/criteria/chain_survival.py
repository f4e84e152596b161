"""Chain survival: how much of the model's own chains a pruned model would still have written.

A long chain is right only if nothing in it goes wrong: damage adds up along a chain, and a lost
chain is lost only once. For a piece of a chain with tokens 1..S, p the dense and q the pruned
model, both reading the same tokens,

    survival = prod_s sum_v sqrt(p_s(v) q_s(v)),    score = 1 - mean over pieces of survival.

The sum is the Bhattacharyya coefficient of the two next-token distributions (docs/internals.md
says why). Pieces are chains cut into equal parts of at most `window` tokens, so that not every
very long chain counts as lost. Calibrate on the model's own chains: then only generated tokens
count unless `part` says otherwise. A comparison with other criteria is in
docs/criterion_contest.md. This file scores single removals (one-shot); `chain_aware` searches sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from interp.statistics.jackknife import jackknife_ratio
from pruning.calibration import Calibration, Part
from pruning.cost import runs_of_drawn, sets_cost
from pruning.criteria import Cost, ScoredBlocks, ScoringJob, criterion
from pruning.criteria.prefix import judge_sets

WINDOW = 512
HERE = "this project, docs/criterion_contest.md"


def _cost(job: ScoringJob) -> Cost:
    """Every block alone, judged as a set."""
    return sets_cost(runs_of_drawn(job.n_blocks, 1), job.n_blocks, job.n_blocks)


@criterion("chain-survival", paper=HERE, cost=_cost, calibrates=False)
def chain_survival(
    model: ReasoningModel,
    texts: Any,
    *,
    window: int = WINDOW,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> ScoredBlocks:
    """Score each block by the share of the model's chains lost without it.

    Args:
        model: the model to score.
        texts: calibration texts, as for `Calibration.of`.
        window: the largest number of tokens in one piece of a chain.
        part: which tokens of the texts count. Default: the generated ones if every text has some.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The scores, with a 95 % jackknife interval over chains.

    Raises:
        UserError: `window` is below 1, or no token is scored.
    """
    survival = Survival.of(model, texts, part, window, batch_tokens)
    lost = survival.lost([(i,) for i in range(model.n_blocks)])
    return survival.scores(lost)


@dataclass(frozen=True)
class Survival:
    """Survival of the chains of a calibration under sets of removed blocks.

    Attributes:
        model: the dense model.
        calibration: the chains.
        pieces: for each chain, the number of the piece that each token belongs to, int64 [T];
            pieces are numbered through all chains.
        sizes: the number of pieces of each chain [N].
        batch_tokens: the largest number of tokens per forward pass.
    """

    model: ReasoningModel
    calibration: Calibration
    pieces: tuple[np.ndarray, ...]
    sizes: Float[np.ndarray, " N"]
    batch_tokens: int

    @classmethod
    def of(
        cls, model: ReasoningModel, texts: Any, part: Part | None, window: int, batch_tokens: int
    ) -> Survival:
        """Cut the counted tokens of a calibration into pieces.

        Args:
            model: the dense model.
            texts: calibration texts, as for `Calibration.of`.
            part: which tokens count. Default: the generated ones if every text has some.
            window: the largest number of tokens in one piece.
            batch_tokens: the largest number of tokens per forward pass.

        Returns:
            The survival measure.

        Raises:
            UserError: `window` is below 1, or no token is scored.
        """
        if window < 1:
            raise UserError(f"window={window}: expected a number of tokens, 1 or more.")
        calibration = Calibration.of(model, texts, part)
        if part is None and any(calibration.prompts) and _generated(calibration):
            calibration = Calibration.of(model, calibration, "generated")
        pieces, sizes, first = [], [], 0
        for counted in calibration.counted():
            scored = np.flatnonzero(counted[1:]) + 1  # nothing predicts a text's first token
            number = -(-len(scored) // window)
            own = np.full(len(counted), first, dtype=np.int64)
            for i, few in enumerate(np.array_split(scored, max(1, number))):
                own[few] = first + i
            pieces.append(own)
            sizes.append(number)
            first += max(1, number)
        if not any(sizes):
            raise UserError(
                "No token to score: give texts of 2 tokens or more, and a `part` that they have."
            )
        return cls(
            model, calibration, tuple(pieces), np.array(sizes, dtype=np.float64), batch_tokens
        )

    def lost(self, sets: Sequence[tuple[int, ...]]) -> Float[np.ndarray, "C N"]:
        """The number of pieces of each chain lost under each set of blocks.

        Args:
            sets: positions of the removed blocks of each set.

        Returns:
            Pieces lost, float64 [C, N].
        """
        tables = judge_sets(
            self.model,
            sets,
            self.calibration.sequences,
            self.calibration.counted(),
            "apart",
            self.batch_tokens,
            self.pieces,
        )
        gone = -np.expm1(-np.maximum(tables.divergence("apart"), 0.0))  # [C, pieces]
        first = np.array([own.min() for own in self.pieces])
        return np.add.reduceat(gone, first, axis=1)

    def scores(self, lost: Float[np.ndarray, "L N"], **more: Any) -> ScoredBlocks:
        """The scores of single removals, by jackknife.

        Args:
            lost: pieces of each chain lost without each block [L, N].
            **more: other fields of `ScoredBlocks`.

        Returns:
            The scores, with a 95 % jackknife interval over chains.
        """
        return ScoredBlocks(
            lost.sum(1) / self.sizes.sum(),
            jackknife_ratio(lost, np.broadcast_to(self.sizes, lost.shape)),
            calibration=self.calibration,
            **more,
        )

    def share(self, sets: Sequence[tuple[int, ...]]) -> Float[np.ndarray, " C"]:
        """The share of all pieces lost under each set.

        Args:
            sets: positions of the removed blocks of each set.

        Returns:
            One share per set, float64 [C].
        """
        return self.lost(sets).sum(1) / self.sizes.sum()


def _generated(calibration: Calibration) -> bool:
    """Whether every sequence has tokens after its prompt."""
    pairs = zip(calibration.sequences, calibration.prompts, strict=True)
    return all(prompt < len(ids) for ids, prompt in pairs)
