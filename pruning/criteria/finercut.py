"""FinerCut: greedy removal of sublayers by how little the output changes. arXiv 2405.18218.

Each step removes the attention or MLP sublayer whose absence changes the next-token distribution
least, always compared with the DENSE model; no correct token is needed. The paper compares several
distances between outputs. Here it is the Jensen-Shannon divergence, mean over tokens, in nats (0
to ln 2); it is bounded, so no single token can dominate.

The result is a ranking of sublayers: use `SublayerPlan.lowest(scores, remove=n)`.
"""

from __future__ import annotations

from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration
from pruning.criteria import criterion
from pruning.criteria.sublayer_greedy import Measure, greedy_cost, greedy_sublayers
from pruning.sublayers import SublayerScores

MOVED = Measure(lambda tables: tables.divergence("js"), divergence=("js",))


@criterion(
    "finercut",
    paper="FinerCut, arXiv 2405.18218",
    cost=greedy_cost,
    kind="greedy",
    removes="sublayers",
)
def finercut(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    remove: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> SublayerScores:
    """Find the greedy order of sublayers by divergence.

    Args:
        model: the model to score.
        calibration: the calibration texts; the registered criterion makes them from its `texts`.
        remove: the largest number of removals. Default: a quarter of the blocks, at least 3.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        Scores of the first step, and the order of removal.

    Raises:
        UserError: `remove` is out of range, or the texts are unusable.
    """
    return greedy_sublayers("finercut", model, calibration, MOVED, remove, batch_tokens)
