"""Lines: where the steps of a chain's thinking end, counted in tokens.

Prose is split into sentences and lines (`restatement.sentences`), a formal grammar at its full
stops and line breaks. Thinking with too few of these is split every `every` tokens instead.
Several measurements act line by line: forced answers (`interp.counterfactuals.answer_commitment`),
resampled lines (`interp.counterfactuals.line_importance`), and similarity of lines before a loop.
"""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Int

from interp.chains.chain import Chain, TextDecoder
from interp.diagnosis.reflection_lexicon import Lexicon, lexicon_of
from interp.diagnosis.restatement import sentences
from interp.diagnosis.token_text import read
from interp.errors import UserError
from interp.plumbing.arguments import checked

FORMAL = re.compile(r"\.(?=\s|\Z)|\n+")
FEWEST = 3  # lines; thinking with fewer is split by tokens


@checked
def line_ends(
    chain: Chain,
    model: TextDecoder,
    *,
    lexicon: Lexicon | None = None,
    every: int = 16,
    most: int | None = None,
) -> Int[np.ndarray, " K"]:
    """Find how many tokens of a chain are kept when it is cut after each of its lines.

    Args:
        chain: A finished chain.
        model: Decodes token ids; pass one `Pieces(model)` for many chains.
        lexicon: Tells prose from a formal grammar; default: the model's own.
        every: Tokens per line where the thinking has fewer than 3 lines.
        most: Most lines; where there are more, neighbours are joined, evenly over the chain.

    Returns:
        Tokens kept, rising: 0 (no line yet), then the end of each line; the last is the whole
        thinking. Only 0 for a chain without thinking.

    Raises:
        UserError: `every` or `most` is below 1.
    """
    if every < 1 or (most is not None and most < 1):
        raise UserError(f"line_ends(every={every}, most={most}): expected 1 or more.")
    start, stop = chain.thinking.start, chain.thinking.stop
    if stop <= start:
        return np.zeros(1, dtype=np.int64)
    reading = read(model, chain.ids[start:stop])
    if lexicon_of(model, lexicon).prose:
        chars = [b for _, b in sentences(reading.text)]
    else:
        chars = [m.end() for m in FORMAL.finditer(reading.text)]
    # a token belongs to the line in which it begins
    ends = np.searchsorted(reading.starts, np.array(chars, dtype=np.int64), side="left") + start
    ends = np.unique(ends[(ends > start) & (ends < stop)])
    if len(ends) + 1 < FEWEST:
        ends = np.arange(start + every, stop, every)
    ends = np.r_[0, ends, stop].astype(np.int64)
    if most is not None and len(ends) - 1 > most:
        ends = ends[np.linspace(0, len(ends) - 1, most + 1).round().astype(int)]
    return ends
