"""FinerCut: greedy removal of sublayers by how little the output moves. arXiv 2405.18218.

Each step removes the attention or MLP sublayer whose absence moves the next-token distribution
least from that of the DENSE model, whatever was removed before; no right token is needed. The
paper compares several distances between outputs; here it is the Jensen-Shannon divergence, mean
over tokens, in nats (0 to ln 2), which no single lost token can dominate.

What comes out are sublayers: `SublayerPlan.lowest(scores, remove=n)`.
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
    """Greedy order by divergence for up to `remove` sublayers (default: a quarter of L)."""
    return greedy_sublayers("finercut", model, calibration, MOVED, remove, batch_tokens)
