"""Loops, reflections and wrong equations of plain texts, whatever model wrote them."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from interp.diagnosis.equations import equations
from interp.diagnosis.loops import text_loop
from interp.diagnosis.reflection_lexicon import reflections
from interp.diagnosis.token_text import words
from interp.plumbing.arguments import checked

FIELDS = ("text", "response", "output", "answer")  # of a record, where answers usually are


@checked
def diagnose_texts(texts: Iterable[str]) -> pd.DataFrame:
    """Diagnoses texts word by word, without a tokenizer.

    Args:
        texts: the texts.

    Returns:
        One row per text: `row` (from 0), `words`; `loop` ("" without one), `period`, `onset`,
        `wasted` of the loop it ends in, in words; `reflections`, `per_1k` words, and the count of
        each kind of reflection; `equations` that could be read before the loop, and those of them
        that do not hold, `slips`.
    """
    rows = []
    for number, text in enumerate(texts):
        loop = text_loop(text)
        reading = words(text)
        found = reflections(reading)
        stated = equations(text[: int(reading.starts[loop.onset])] if loop else text)
        rows.append(
            {
                "row": number,
                "words": found.tokens,
                "loop": loop.kind if loop else "",
                "period": loop.period if loop else None,
                "onset": loop.onset if loop else None,
                "wasted": loop.wasted if loop else 0,
                "reflections": found.total,
                "per_1k": found.rate(),
                **found.counts,
                "equations": len(stated),
                "slips": len(stated.slips),
            }
        )
    return pd.DataFrame(rows)
