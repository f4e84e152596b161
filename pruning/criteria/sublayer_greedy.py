"""Greedy removal of sublayers: shared code of BlockPruner and FinerCut.

Each step tries every remaining sublayer on top of those already removed, and removes the one that
does least harm. The prefix is shared: a candidate in block l runs only from x_l on, so the 2L
sublayers of L blocks cost about L forward passes per step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.work_listener import tell
from interp.replay.batching import BATCH_TOKENS
from interp.replay.block_sweep import check_readout
from interp.replay.chunked_forward import forward
from interp.replay.shared_prefix import Base, SharedPrefix
from interp.replay.teacher_forced import scored_batches
from interp.statistics.jackknife import jackknife_ratio
from pruning.calibration import Calibration
from pruning.cost import Cost, ScoringJob
from pruning.criteria import criterion
from pruning.criteria.prefix import Tables
from pruning.criteria.steps import removals
from pruning.scores import Scores
from pruning.sublayers import PARTS, Sublayer, SublayerScores


@dataclass(frozen=True)
class Measure:
    """What a candidate is judged by: its harm.

    Attributes:
        harm: computes the harm per candidate and text, summed over tokens, from the tables: [C, N].
        divergence: the divergences from the dense model that `harm` reads.
    """

    harm: Callable[[Tables], Float[np.ndarray, "C N"]]
    divergence: tuple[str, ...] = ()


def greedy_cost(job: ScoringJob) -> Cost:
    """Cost of trying every remaining sublayer at every removal.

    A candidate runs the other half of its block and all blocks above. In addition there is the
    trunk that candidates branch off, and from the second removal on the dense model to compare
    with.

    Args:
        job: the model and calibration set to score.

    Returns:
        The cost per text.
    """
    steps = job.steps(2 * job.n_blocks - 1)
    left = np.arange(2 * job.n_blocks, 2 * job.n_blocks - steps, -1.0)
    above = (job.n_blocks + 1) / 2 / job.n_blocks  # passes of a candidate, on average
    forwards = float((left * above).sum()) + 2 * steps - 1
    return Cost(forwards, readouts=float((left + 2).sum()), steps=steps)


def greedy_criterion(name: str, paper: str, measure: Measure) -> Callable[..., Scores]:
    """Register the criterion that removes the sublayer of least harm, one after another.

    Args:
        name: the criterion's name.
        paper: its source.
        measure: what candidates are judged by.

    Returns:
        The registered function.
    """

    def greedy(
        model: ReasoningModel,
        calibration: Calibration,
        *,
        remove: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> SublayerScores:
        """Find the greedy order of sublayers.

        Args:
            model: the model to score.
            calibration: the calibration texts; the registered criterion makes them from its
                `texts`.
            remove: the largest number of removals. Default: a quarter of the blocks, at least 3.
            batch_tokens: the largest number of tokens per forward pass.

        Returns:
            Scores of the first step, and the order of removal.

        Raises:
            UserError: `remove` is out of range, or the texts are unusable.
        """
        return greedy_sublayers(name, model, calibration, measure, remove, batch_tokens)

    register = criterion(name, paper=paper, cost=greedy_cost, kind="greedy", removes="sublayers")
    return register(greedy)


@torch.no_grad()
def greedy_sublayers(
    name: str,
    model: ReasoningModel,
    calibration: Calibration,
    measure: Measure,
    remove: int | None,
    batch_tokens: int,
) -> SublayerScores:
    """Find the greedy order of removal of sublayers.

    Args:
        name: the criterion's name.
        model: the model to score.
        calibration: the token sequences.
        measure: what candidates are judged by.
        remove: the largest number of removals. None: a quarter of the number of blocks, at least 3.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The scores of the first step (harm per token, with a 95 % jackknife interval over texts),
        and the order of removal.

    Raises:
        UserError: `remove` is out of range, or the texts are unusable.
    """
    every = [Sublayer(l, part) for l in model.layer_map for part in PARTS]
    steps = removals(name, remove, model.n_blocks, len(every) - 1, "sublayers")
    check_readout(model, calibration.sequences[0])
    removed: list[Sublayer] = []
    first: tuple[np.ndarray, np.ndarray] | None = None
    for _ in range(steps):
        left = [sublayer for sublayer in every if sublayer not in removed]
        tables = _step(model, calibration, removed, left, measure, batch_tokens)
        harm = measure.harm(tables)
        first = first or (harm, tables.counts)
        removed.append(left[int(np.argmin(harm.sum(1)))])
    assert first is not None
    sums, counts = first
    low, high = jackknife_ratio(sums, np.broadcast_to(counts, sums.shape))
    return SublayerScores(
        criterion=name,
        values=sums.sum(1) / counts.sum(),
        low=low,
        high=high,
        layer_map=tuple(sublayer.block for sublayer in every),
        parts=tuple(sublayer.part for sublayer in every),
        n_tokens=int(counts.sum()),
        followed=tuple(removed),
    )


def _step(
    model: ReasoningModel,
    calibration: Calibration,
    removed: list[Sublayer],
    candidates: list[Sublayer],
    measure: Measure,
    batch_tokens: int,
) -> Tables:
    """Loss and divergences of every candidate on top of what is already removed."""
    tables = Tables(model, len(candidates), len(calibration.sequences), *measure.divergence)
    counted = calibration.counted()
    base = Base(model)
    for block, part in removed:
        base = base.without(model.layer_map.index(block), part)
    for batch, targets in scored_batches(model, calibration.sequences, counted, batch_tokens):
        tables.count(targets)
        dense = targets.pick(forward(model, batch.ids)) if measure.divergence and removed else None
        trunk, finals = SharedPrefix(base, batch.ids), []
        for tried, sublayer in enumerate(candidates):
            tell("skipping", tried, len(candidates), what="halves of blocks")
            index = model.layer_map.index(sublayer.block)
            stream = trunk.run(base, index, trunk.entering[index], sublayer.part)
            for above in range(index + 1, model.n_blocks):
                stream = trunk.run(base, above, stream)
            finals.append(model.final_norm(targets.pick(stream)))
        if dense is None:
            dense = model.final_norm(targets.pick(trunk.entering[-1]))
        tables.add(dense, dict(enumerate(finals)), targets)
    return tables
