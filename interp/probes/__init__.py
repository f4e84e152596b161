"""Linear probes on the residual stream: does block l foretell an event before it shows?

    masks = mark(chains, model)["loop"]                            # interp.diagnosis.events
    asked = foretell(masks, 8, [c.problem for c in chains])        # rows, labels, bins, folds
    features = gather(model, chains, asked.picks(len(chains)))
    found = probe(features, asked.labels, asked.problems, bins=asked.bins, folds=asked.folds)

`probe_ahead` is all of that for several horizons; `outcome` labels whole chains (a wrong answer).
A probe above chance proves little, so each stands beside its controls, and what it claims is the
distance to them:

| control | what it is |
|---|---|
| position | the same probe on the step alone; `foretell` matches examples by step beforehand |
| text | the same probe on the last token read, or on whatever else is handed in |
| shuffled labels | the same probe, each problem's labels given to another of its fold and bin |

AUC less the mean of the last control is the selectivity (after Hewitt and Liang, arXiv 1909.03368).

A probe is a logistic regression on standardised features, cross-validated by problem: no problem
lies in training and test at once, for features tell problems apart with ease. AUC is the share of
(positive, negative) pairs of one test fold that are put in order, over the pairs of all folds.
Pairs across folds are left out: their scores come from different fits, and pooling them biases an
AUC without signal to below .5 (Parker, Guenter and Bedo 2007, BMC Bioinformatics 8:326).

Labels of one problem go together, and so do its features: labels shuffled one by one give a
control that is too narrow. In simulations without signal, with features and labels clustered by
problem (and ridge regression for speed), p < .05 came up in 8 to 27 % of cases for labels shuffled
one by one, and in 4 % for the shuffle used here. p takes the AUC for one more draw beside the M
shuffled ones, all normal (Student's t with M - 1 degrees), so 20 shuffles can give a small p;
`null` holds them all.

Positions: row s is the pass that chose generated token s, at sequence position P - 1 + s.
Shapes: K examples, L blocks (dense indices), D residual width, S tokens of a chain.

Cost: L x folds x (1 + permutations) fits, and 3 times as many more for each of several C. One fit
takes, on one core, 2 ms (400 x 32), 14 ms (4000 x 128) or 60 ms (1600 x 2048). Where D is over
twice the rows, features are first rotated onto the principal components of the rows, once a fold,
which changes no fit: 1000 x 8192 with the defaults takes 5 s a block. `components` keeps only the
first of them: faster, and blind to directions of small variance.

Caveats: a probe shows what can be read out, not what the model uses. The interval resamples
problems but keeps the fits: at a nominal .95 it covered .85 to .94 with 30 to 40 simulated
problems, and it shrinks to a point at an AUC of 1. Negatives of chains where the event never
happens let a probe find hard problems instead of coming events: compare `negatives_from="event"`.
A loop begins with the first token of its first pass, before anything is repeated; a mask from
onset + period on asks for the first repeated token instead.
"""

from interp.probes.features import STREAMS, gather
from interp.probes.horizons import Horizons, probe_ahead
from interp.probes.labels import Examples, foretell, outcome
from interp.probes.probe import Probes, probe

__all__ = ["STREAMS", "Examples", "Horizons", "Probes", "foretell", "gather", "outcome"]
__all__ += ["probe", "probe_ahead"]
