"""Events of finished chains: which tokens belong to a reflection, a loop, an answer, a decision.

`mark(chains, model)` gives for every event a boolean mask [S] a chain, which is what the averages
by event take (`interp.influence_profile`, `interp.lens`, `interp.replay.divergence`,
`interp.heads`, `interp.probes`). Row s is the pass that CHOSE token s. Tokens that the engine wrote
belong to no event.

| event | the tokens |
|---|---|
| `all` | every token that the model chose |
| `thinking`, `answer` | of that span |
| `reflection` | that open a reflection ("wait"), loops left out |
| `after reflection` | the `near` tokens behind one |
| `loop`, `before loop` | from a loop's first token on; the `near` tokens before it |
| `end of thinking` | that close the thinking |
| `decision`, `sure` | with more than `decision` nats of entropy; with less than a tenth of it |

The whole chain is known here, so events may look ahead, as those of a window that acts while
decoding (`interp.interventions.windows`) cannot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from interp.chains.chain import Chain
from interp.chains.masks import Masks
from interp.diagnosis.loops import find_loop
from interp.diagnosis.reflection_lexicon import NATURAL, Lexicon, reflections
from interp.diagnosis.token_text import NUMBER, Pieces, Reads, read
from interp.errors import UserError

DECISION = 0.5  # nats
NEAR = 16  # tokens


def mark(
    chains: Sequence[Chain],
    model: Reads,
    *,
    lexicon: Lexicon | None = None,
    decision: float = DECISION,
    near: int = NEAR,
) -> Masks:
    """For every event one mask [S] a chain. lexicon: which words reflect (default `NATURAL`)."""
    if not chains:
        raise UserError("mark: no chain was given.")
    if near < 1 or not decision > 0:
        raise UserError(f"mark(near={near}, decision={decision}): expected 1 or more, over 0.")
    pieces = Pieces(model)
    found = [_mark(chain, pieces, lexicon or NATURAL, decision, near) for chain in chains]
    return {name: [masks[name] for masks in found] for name in found[0]}


def _mark(
    chain: Chain, model: Reads, lexicon: Lexicon, decision: float, near: int
) -> dict[str, Bool[np.ndarray, " S"]]:
    size = chain.n_tokens
    own = ~chain.forced
    names = ("thinking", "answer", "reflection", "after reflection", "loop", "before loop")
    masks = {name: np.zeros(size, dtype=bool) for name in ("all", *names, "end of thinking")}
    masks["all"][:] = True
    for name, span in (("thinking", chain.thinking), ("answer", chain.answer)):
        if span is None or not len(span):
            continue
        inside = slice(span.start, span.stop)
        masks[name][inside] = True
        reading = read(model, chain.ids[inside])
        loop = find_loop(chain.ids[inside], reading.mask(NUMBER))
        if loop is not None:
            onset = span.start + loop.onset
            masks["loop"][onset : span.stop] = True
            masks["before loop"][max(span.start, onset - near) : onset] = True
        seen = reflections(reading, lexicon, loop=loop, forced=chain.forced[inside])
        for position in (span.start + seen.positions).tolist():
            masks["reflection"][position] = True
            masks["after reflection"][position + 1 : min(position + 1 + near, span.stop)] = True
    if chain.thinking_finish == "end" and chain.answer is not None:
        masks["end of thinking"][chain.thinking.stop : chain.answer.start] = True
    with np.errstate(invalid="ignore"):
        masks["decision"] = chain.entropy > decision
        masks["sure"] = chain.entropy < decision / 10
    return {name: mask & own for name, mask in masks.items()}
