"""Diagnosis of chains: loops, reflection and repetition of one; diversity between several.

`diagnose` makes one flat row of one chain, for tables; `diversity` is of a problem's samples.
"""

from __future__ import annotations

from interp.chains import Chain
from interp.diagnosis.diversity import Diversity, diversity, repetition
from interp.diagnosis.loops import Loop, find_loop, text_loop
from interp.diagnosis.reading import NUMBER, Pieces, Reading, Reads, read, words
from interp.diagnosis.reflection import NATURAL, TESTBED, Lexicon, Reflection, reflections

WINDOW = 128  # tokens over which repetition is measured


def diagnose(
    chain: Chain, model: Reads, lexicon: Lexicon | None = None
) -> dict[str, str | int | float | None]:
    """One flat row: loop, reflections and repetition of a chain.

    model: anything with `text(ids, skip_special)`; hand in one `Pieces(model)` for many chains,
    so that a token is decoded once. lexicon: default `NATURAL`.

    The loop is looked for at the end of the thinking, then of the answer (`loop_in` says where).
    loop_onset counts from the first generated token. Loop fields are None without a loop but for
    loop_wasted, which is 0. Reflections are those of the thinking (of the answer, for a chain
    without thinking), loop and forced tokens left out; per-1k fields are nan where no token
    remains. repetition: of 4-grams in windows of 128 tokens; nan for a shorter chain.
    """
    pieces = model if isinstance(model, Pieces) else Pieces(model)
    spans = [("thinking", chain.thinking), ("answer", chain.answer)]
    readings = {
        name: (span, read(pieces, chain.ids[span.start : span.stop]))
        for name, span in spans
        if span is not None and len(span)
    }
    loop, loop_in, onset = None, None, None
    for name, (span, reading) in readings.items():
        loop = find_loop(chain.ids[span.start : span.stop], reading.mask(NUMBER))
        if loop is not None:
            loop_in, onset = name, span.start + loop.onset
            break
    row: dict[str, str | int | float | None] = {
        "loop": loop.kind if loop else None,
        "looped": int(loop is not None),
        "loop_in": loop_in,
        "loop_period": loop.period if loop else None,
        "loop_onset": onset,
        "loop_repeats": loop.repeats if loop else None,
        "loop_wasted": loop.wasted if loop else 0,
    }
    lexicon = NATURAL if lexicon is None else lexicon
    main = "thinking" if "thinking" in readings else "answer"
    if main in readings:
        span, reading = readings[main]
        ids, forced = chain.ids[span.start : span.stop], chain.forced[span.start : span.stop]
        own_loop = loop if loop_in == main else None
        found = reflections(reading, lexicon, loop=own_loop, forced=forced)
        row["repetition"] = repetition(ids, window=WINDOW)
    else:
        found = reflections("", lexicon)
        row["repetition"] = float("nan")
    row["reflections"] = found.total
    row["reflection_per_1k"] = found.rate()
    for kind in lexicon.kinds:
        name = kind.replace(" ", "_")
        row[f"{name}"] = found.counts[kind]
        row[f"{name}_per_1k"] = found.rate(kind)
    return row


__all__ = [
    "NATURAL",
    "TESTBED",
    "WINDOW",
    "Diversity",
    "Lexicon",
    "Loop",
    "Pieces",
    "Reading",
    "Reads",
    "Reflection",
    "diagnose",
    "diversity",
    "find_loop",
    "read",
    "reflections",
    "repetition",
    "text_loop",
    "words",
]
