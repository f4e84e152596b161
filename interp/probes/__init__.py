"""Linear probes on the residual stream: does block l predict an event before it happens?

    masks = mark(chains, model)["loop"]                            # interp.diagnosis.events
    asked = foretell(masks, 8, [c.problem for c in chains])        # rows, labels, bins, folds
    features = gather(model, chains, asked.picks(len(chains)))
    found = probe(features, asked.labels, asked.problems, bins=asked.bins, folds=asked.folds)

`probe_ahead` does all of that for several horizons; `outcome` labels whole chains. Row s is the
pass that chose token s. A probe above chance proves little, so compare it with its controls: the
step alone, the last token read, and shuffled labels. docs/internals.md explains these and the cost.

Caveats: a probe shows what can be read out, not what the model uses. Intervals resample problems
but not fits: at a nominal .95 they covered .85 to .94 with 30 to 40 simulated problems. Negatives
from chains without the event let a probe find hard problems: compare `negatives_from="event"`.
"""

from interp.probes.features import STREAMS, gather
from interp.probes.horizons import Horizons, probe_ahead
from interp.probes.labels import Examples, foretell, outcome
from interp.probes.probe import Probes, probe
