"""BlockPruner: greedy removal of attention and MLP sublayers by loss. arXiv 2406.10594.

Each step tries all remaining sublayers and removes the one without which perplexity is lowest
(here its logarithm, the mean loss per token). Scores are those of the first step: the rise of the
loss without the sublayer, in nats per token.

The result is a ranking of sublayers: use `SublayerPlan.lowest(scores, remove=n)`.
"""

from __future__ import annotations

from pruning.criteria.sublayer_greedy import Measure, greedy_criterion

RISE = Measure(lambda tables: tables.loss[:-1] - tables.loss[-1])
blockpruner = greedy_criterion("blockpruner", "BlockPruner, arXiv 2406.10594", RISE)
