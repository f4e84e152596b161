"""Swap-KL: how far the next-token distribution moves when two neighbours change places.

arXiv 2605.16234. Interchange: KL(dense || model with blocks l and l+1 exchanged), mean over
tokens, in nats; it is low where the two nearly commute. Replacement: one of the two runs in both
places; the larger KL of the two ways counts. The two protocols disagree about which blocks are
safe (the paper finds interchange the better guide).

A block's score is the distance to its nearer neighbour, so the two blocks of the nearest pair have
equal scores. Of equals, the weaker goes first (smaller mean norm of what it adds), as in the paper.
Weights change places; slots keep their mask and positions (attention types can differ by depth).

The cost is one pass and L(L-1)/2 block evaluations, twice that for replacement.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from interp.errors import UserError, check_known
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.work_listener import tell
from interp.replay.batching import BATCH_TOKENS
from interp.replay.block_sweep import check_readout
from interp.replay.teacher_forced import scored_batches
from interp.statistics.jackknife import jackknife
from pruning.calibration import Calibration
from pruning.criteria import Cost, ScoredBlocks, ScoringJob, criterion
from pruning.criteria.prefix import SwappableBlocks, Tables, check_swappable

# (blocks that run in slots l and l + 1, counted from l; the first slot in which anything changes)
ARRANGEMENTS = {"interchange": (((1, 0), 0),), "replacement": (((1, 1), 0), ((0, 0), 1))}


def _cost(job: ScoringJob, *, protocol: str) -> Cost:
    """For each pair, the two swapped blocks and all above; plus the pass they branch off."""
    depth, ways = job.n_blocks, len(ARRANGEMENTS[protocol])
    runs = ways * (depth * (depth + 1) / 2 - 1) + depth
    return Cost(forwards=runs / depth, readouts=ways * (depth - 1) + 1.0)


@criterion("swap-kl", paper="interchange-KL of arXiv 2605.16234", cost=_cost)
@torch.no_grad()
def swap_kl(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    protocol: str = "interchange",
    batch_tokens: int = BATCH_TOKENS,
) -> ScoredBlocks:
    """Score each block by the KL per token of a swap with its nearer neighbour.

    Args:
        model: the model to score.
        calibration: the calibration texts; the registered criterion makes them from its `texts`.
        protocol: "interchange" or "replacement".
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The scores in nats per token, with a 95 % jackknife interval over texts.

    Raises:
        UserError: `protocol` is unknown, the model has one block, neighbours are of different
            kinds, or the texts are unusable.
    """
    check_known(protocol, ARRANGEMENTS, "protocol")
    depth = model.n_blocks
    if depth < 2:
        raise UserError("swap-kl: a model of one block has no neighbours to swap.")
    check_swappable(model)
    ways = ARRANGEMENTS[protocol]
    pairs, n_texts = depth - 1, len(calibration.sequences)
    counted = calibration.counted()
    check_readout(model, calibration.sequences[0])
    tables = Tables(model, pairs * len(ways), n_texts, "kl")
    added = torch.zeros(depth, dtype=torch.float64)
    for batch, targets in scored_batches(model, calibration.sequences, counted, batch_tokens):
        tables.count(targets)
        walk = SwappableBlocks(model, batch.ids)
        added += _norms(walk, batch.mask & batch.pad(counted))
        finals = []
        for l in range(pairs):
            tell("trying", l, pairs, what="swaps")
            for blocks, start in ways:
                stream = walk.entering[l + start]
                for slot in range(start, 2):
                    stream = walk.run_in(l + slot, l + blocks[slot], stream)
                for above in range(l + 2, depth):
                    stream = walk.run_in(above, above, stream)
                finals.append(model.final_norm(targets.pick(stream)))
            walk.entering[l] = walk.entering[-1]  # frees x_l, which no pair above needs
        base = model.final_norm(targets.pick(walk.entering[-1]))
        tables.add(base, dict(enumerate(finals)), targets)
    kl = tables.divergence("kl").reshape(pairs, len(ways), n_texts)
    # [L, ways, N] each; the first and last block have one neighbour, which is used twice
    below, above = kl[[0, *range(pairs)]], kl[[*range(pairs), pairs - 1]]
    counts = np.broadcast_to(tables.counts, (depth, n_texts))
    ways_of = [table[:, w] for w in range(len(ways)) for table in (below, above)]
    return ScoredBlocks(
        _nearer(*(table.sum(-1) for table in (counts, *ways_of))),
        jackknife(_nearer, counts, *ways_of),
        n_tokens=int(tables.counts.sum()),
        tie_break=tuple(added.tolist()),
        label="" if protocol == "interchange" else "swap-kl, replacement",
    )


def _nearer(counts: np.ndarray, *distances: np.ndarray) -> np.ndarray:
    """The smaller of the distances to the block below and above, each the larger of its ways."""
    below, above = (np.maximum.reduce(distances[side::2]) for side in (0, 1))
    return np.minimum(below, above) / counts


def _norms(walk: SwappableBlocks, counted: torch.Tensor) -> torch.Tensor:
    """Norms of what each block adds, summed over the tokens that count: [L]."""
    sums = []
    for before, after in pairwise(walk.entering):
        delta = after.float() - before.to(after.device).float()
        norm = torch.linalg.vector_norm(delta, dim=-1)
        sums.append(norm.masked_fill(~counted.to(norm.device), 0.0).sum().cpu().double())
    return torch.stack(sums)
