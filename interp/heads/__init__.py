"""Attention heads at chosen events of long chains: what they attend to, and what they contribute.

`HeadLens(model)` puts transformer-lens' `TransformerBridge` on a COPY of the model (the bridge
replaces modules and attends eagerly) and reads chains with a key/value cache in pieces, so a window
deep in a chain is exact at any length. `AblateHeads` (`interp.interventions.interventions`) does
the same ablation while decoding, without transformer-lens.

An event is a row of a chain: row s is the pass that CHOSE generated token s, at position P - 1 + s.
Verified: Qwen 2, Qwen 3, Qwen 3 MoE, Llama, Mistral, Gemma 2, Gemma 3 (text), Phi 3, OLMo 2. Every
lens also checks itself on a probe of 48 tokens and refuses a model that is not rendered faithfully.

Caveats: eager attention in pieces is slow, so use it on windows, not on whole studies; the copy
needs as much memory as the model; one device only; the probe does not reach past a sliding window
of more than 48 tokens. docs/internals.md has an example. Blocks are named by dense index.
"""

from __future__ import annotations

from interp.heads.head_lens import HeadLens
from interp.heads.head_names import Head, head_write
from interp.heads.pattern_scores import SCORES, score_patterns
from interp.heads.results import EFFECTS, HeadEffects, HeadScores, Patterns
