"""BlockPruner: greedy removal of attention and MLP sublayers by loss. arXiv 2406.10594.

Each step tries all remaining sublayers and removes the one without which perplexity is lowest
(here its logarithm, the mean loss per token). Scores are those of the first step: the rise of the
loss without the sublayer, in nats per token.

The result is a ranking of sublayers: use `SublayerPlan.lowest(scores, remove=n)`.
"""

from __future__ import annotations

from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration
from pruning.criteria import criterion
from pruning.criteria.sublayer_greedy import Measure, greedy_cost, greedy_sublayers
from pruning.sublayers import SublayerScores

RISE = Measure(lambda tables: tables.loss[:-1] - tables.loss[-1])


@criterion(
    "blockpruner",
    paper="BlockPruner, arXiv 2406.10594",
    cost=greedy_cost,
    kind="greedy",
    removes="sublayers",
)
def blockpruner(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    remove: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> SublayerScores:
    """Find the greedy order of sublayers by loss.

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
    return greedy_sublayers("blockpruner", model, calibration, RISE, remove, batch_tokens)
