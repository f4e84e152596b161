"""Attention heads at chosen events of long chains: what they attend to, and what they are worth.

`HeadLens(model)` puts transformer-lens' `TransformerBridge` on a COPY of the model (the bridge
replaces modules and attends eagerly; the caller's model is neither changed nor slowed) and reads
chains through it with a key/value cache: the prefix in pieces, then the window of interest. So a
window deep in a chain is exact at any length, and no more than one piece of attention is held.

    with HeadLens(model) as lens:
        lens.patterns(chain, blocks=[3], start=100, stop=140)
        scores = lens.scores(chains, events, periods=periods)     # HeadScores
        effects = lens.ablate(chains, events, heads=[(3, 0)])     # HeadEffects

An event is a row of a chain: row s is the pass that CHOSE generated token s, at position P-1+s of
prompt and chain together, so it reads token s-1. Write q for that position, x for the ids, A for
the pattern; a score is a mean over events of (`score_patterns`):

| score | of the query at q | defined where |
|---|---|---|
| induction | sum of A[q, k] over k < q with x[k-1] = x[q] (prefix matching, Olsson et al. 2022, arXiv 2209.11895) | there is such a k |
| duplicate | sum of A[q, k] over k < q with x[k] = x[q] | there is such a k |
| previous | A[q, q-1] | q > 0 |
| period | A[q, q-p+1]: p is the loop's period, so this is where the next token was copied from | p is given, q-p+1 >= 0 |
| prompt | sum of A[q, k] over the prompt | q is past the prompt |
| first | A[q, 0], the sink | always |
| entropy | of A[q], in nats | always |
| distance | mean of q - k under A[q], in tokens | always |

In a loop most keys are repeats, so even a head that attends to everything scores high: `chance`
is what uniform attention over all of 0..q would get.

A head is ablated by changing its output z_h (before the output projection) to zero or to its
mean; heads are rows of one batch beside an untouched row. While decoding, the intervention
`AblateHeads` (`interp.interventions.interventions`) does the same to chosen rows and steps, without
transformer-lens.

Verified against Hugging Face's own eager attention and plain hooks: Qwen 2, Qwen 3, Qwen 3 MoE,
Llama, Mistral, Gemma 2, Gemma 3 (text), Phi 3, OLMo 2, with grouped keys, sliding windows and
soft caps. Every lens checks itself when it opens, on a probe of 48 tokens that goes through the
model once: the logits must be the model's, and the patterns must be what mixes the values. A model
that transformer-lens does not render faithfully is refused.

Shapes: L blocks looked at, H heads, Q queries, K keys, N chains, M scores, R ablated heads, d head
width. Blocks are named by their dense index. Caveats: eager attention in pieces is slow, so this
is for windows, not for whole studies; the copy takes as much memory as the model; one device only;
the probe does not reach past a sliding window of more than 48 tokens.
"""  # noqa: E501

from __future__ import annotations

from interp.heads.head_lens import HeadLens
from interp.heads.head_names import Head, head_write
from interp.heads.pattern_scores import SCORES, score_patterns
from interp.heads.results import EFFECTS, HeadEffects, HeadScores, Patterns

__all__ = [
    "EFFECTS",
    "SCORES",
    "Head",
    "HeadEffects",
    "HeadLens",
    "HeadScores",
    "Patterns",
    "head_write",
    "score_patterns",
]
