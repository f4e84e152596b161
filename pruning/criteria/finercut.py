"""FinerCut: greedy removal of sublayers by how little the output changes. arXiv 2405.18218.

Each step removes the attention or MLP sublayer whose absence changes the next-token distribution
least, always compared with the DENSE model; no correct token is needed. The paper compares several
distances between outputs. Here it is the Jensen-Shannon divergence, mean over tokens, in nats (0
to ln 2); it is bounded, so no single token can dominate.

The result is a ranking of sublayers: use `SublayerPlan.lowest(scores, remove=n)`.
"""

from __future__ import annotations

from pruning.criteria.sublayer_greedy import Measure, greedy_criterion

MOVED = Measure(lambda tables: tables.divergence("js"), divergence=("js",))
finercut = greedy_criterion("finercut", "FinerCut, arXiv 2405.18218", MOVED)
