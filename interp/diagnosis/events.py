"""Mark events in finished chains: the tokens of a reflection, a loop, an answer, a decision.

`mark(chains, model)` gives for each event one boolean mask [S] per chain, the input of all averages
by event. Row s is the pass that CHOSE token s. Forced tokens belong to no event.

| event | tokens |
|---|---|
| `all` | every token that the model chose |
| `thinking`, `answer` | those of the span |
| `reflection`, `after reflection` | those that open one, outside loops; the `near` after it |
| `loop`, `before loop` | from the first token of a loop on; the `near` tokens before it |
| `end of thinking` | those that close the thinking |
| `decision`, `sure` | more than `decision` nats of entropy; less than a tenth of that |

Events may look ahead, unlike windows that act while decoding (`interp.interventions.windows`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from interp.chains.chain import Chain, TextDecoder
from interp.chains.masks import Masks
from interp.diagnosis.loops import find_loop
from interp.diagnosis.reflection_lexicon import Lexicon, lexicon_of, reflections
from interp.diagnosis.token_text import NUMBER, Pieces, read
from interp.errors import UserError
from interp.plumbing.arguments import checked

DECISION = 0.5  # nats
NEAR = 16  # tokens


@checked
def mark(
    chains: Sequence[Chain],
    model: TextDecoder,
    *,
    lexicon: Lexicon | None = None,
    decision: float = DECISION,
    near: int = NEAR,
) -> Masks:
    """Mark the events of finished chains.

    Args:
        chains: Finished chains.
        model: Decodes token ids to text.
        lexicon: The words that reflect; default: the model's own.
        decision: Entropy above which a token is a decision, in nats.
        near: Tokens that count as before a loop or after a reflection.

    Returns:
        For each event, one mask [S] per chain.

    Raises:
        UserError: There are no chains, `near` is below 1, or `decision` is not above 0.
    """
    if not chains:
        raise UserError("mark: no chain was given; expected at least one.")
    if near < 1 or not decision > 0:
        raise UserError(
            f"mark(near={near}, decision={decision}): expected near >= 1, decision > 0."
        )
    pieces = Pieces(model)
    words = lexicon_of(model, lexicon)
    found = [_mark(chain, pieces, words, decision, near) for chain in chains]
    return {name: [masks[name] for masks in found] for name in found[0]}


def _mark(
    chain: Chain, model: TextDecoder, lexicon: Lexicon, decision: float, near: int
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
