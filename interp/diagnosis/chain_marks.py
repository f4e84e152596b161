"""What is marked in the text of a chain: loops, reflections, forced tokens; and its text by token.

The text is decoded whole and then cut at tokens, so the bytes of one character that a byte-level
vocabulary spreads over several tokens are joined: they form one unit of the text. A unit is what
can be pointed at. Marks are ranges of tokens [start, stop), found by the measures that the
diagnosis itself uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int

from interp.chains.chain import Chain, Span
from interp.diagnosis.episodes import find_episodes
from interp.diagnosis.equations import read_equations
from interp.diagnosis.loops import Loop, find_loop, marks_of
from interp.diagnosis.reflection_lexicon import Lexicon, reflections
from interp.diagnosis.token_text import NUMBER, Pieces, TokenizedText, read


@dataclass(frozen=True)
class TextMark:
    """A range of a chain's tokens that means something.

    Attributes:
        kind: "forced", "reflection", "loop", "left loop", "wrong", "corrected" or "closing".
        label: what it is, in words.
        start: first token.
        stop: token behind the last one.
    """

    kind: str
    label: str
    start: int
    stop: int


LONGEST_CHARACTER = 8  # tokens that may spell one character


def units(
    reading: TokenizedText, ids: Sequence[int], pieces: Pieces
) -> tuple[list[str], list[int]]:
    """Cut a text at its tokens.

    Args:
        reading: the text of S tokens.
        ids: the tokens.
        pieces: decodes tokens.

    Returns:
        The texts of the units, which joined are the whole text, and the first token of each. Tokens
        without a text of their own belong to the unit that holds their character.
    """
    size = len(reading)
    texts: list[str] = []
    firsts: list[int] = []
    starts = [0, *reading.starts[1:].tolist(), len(reading.text)]
    first = 0
    for token in range(1, size + 1):
        if token < size and starts[token] == starts[first]:
            continue  # no text yet, such as a byte of a longer character
        text = reading.text[starts[first] : starts[token]]
        if not text and texts:
            break  # the last bytes, of a character that was cut
        cuts = [(first, 0), *_characters(text, ids[first:token], pieces, first)]
        ends = [at for _, at in cuts[1:]] + [len(text)]
        for (place, start), end in zip(cuts, ends, strict=True):
            firsts.append(place)
            texts.append(text[start:end])
        first = token
    return texts, firsts


def _characters(text: str, ids: Sequence[int], pieces: Pieces, first: int) -> list[tuple[int, int]]:
    """Where tokens that have no text alone spell whole characters: (token, offset) of each cut."""
    cuts, begin, at = [], 0, 0
    for stop in range(1, len(ids)):
        if stop - begin > LONGEST_CHARACTER:
            break  # bytes that are no character
        said = pieces.text(list(ids[begin:stop]), skip_special=False)
        if not said or "\ufffd" in said or not text.startswith(said, at):
            continue
        begin, at = stop, at + len(said)
        cuts.append((first + begin, at))
    return cuts


def chain_marks(chain: Chain, pieces: Pieces, lexicon: Lexicon) -> list[TextMark]:
    """Everything that is marked in a chain without knowing its problem, by position.

    Args:
        chain: the chain.
        pieces: decodes tokens.
        lexicon: the words that reflect.

    Returns:
        The marks.
    """
    found = [TextMark("forced", "written by the engine", a, b) for a, b in runs(chain.forced)]
    spans = [("thinking", chain.thinking), ("answer", chain.answer), ("reopened", chain.reopened)]
    full = [(name, span) for name, span in spans if span is not None and len(span)]
    looped = False
    for i, (name, span) in enumerate(full):
        ids, forced = chain.ids[span.start : span.stop], chain.forced[span.start : span.stop]
        reading = read(pieces, ids)
        numbers = reading.mask(NUMBER)
        loop = None if looped else find_loop(ids, numbers)
        if loop is not None:
            looped = True
            found += _passes(loop, ids, numbers, span)
        if i == 0:  # what the diagnosis counts: the thinking, or the answer of a chain without
            ended = chain.thinking_finish == "end" if name == "thinking" else chain.finish == "stop"
            for episode in find_episodes(ids, numbers, ended=ended):
                if loop is None or episode.start < loop.onset:
                    label = f"loop of {episode.period} tokens, left" if episode.escaped else "loop"
                    a, b = span.start + episode.start, span.start + episode.stop
                    found.append(TextMark("left loop", label, a, b))
            seen = reflections(reading, lexicon, loop=loop, forced=forced)
            for at, kind in zip((span.start + seen.positions).tolist(), seen.kinds, strict=True):
                found.append(TextMark("reflection", kind, at, at + 1))
            if lexicon.prose:
                found += _slips(reading, span, loop)
    if chain.answer is not None and chain.thinking.stop < chain.answer.start:
        closing = (chain.thinking.stop, chain.answer.start)
        found.append(TextMark("closing", "end of the thinking", *closing))
    return in_order(found)


def _slips(reading: TokenizedText, span: Span, loop: Loop | None) -> list[TextMark]:
    """A mark per equation that does not hold, before the loop."""
    stop = len(reading.text) if loop is None else int(reading.starts[loop.onset])
    found = []
    for slip in read_equations(reading.text[:stop]).slips:
        first, last = reading.token_at(slip.start), reading.token_at(slip.stop - 1)
        kind = "corrected" if slip.mended else "wrong"
        said = f"{slip.left} is {slip.value:.6g}" + (", corrected" if slip.mended else "")
        found.append(TextMark(kind, said, span.start + first, span.start + last + 1))
    return found


def in_order(marks: Iterable[TextMark]) -> list[TextMark]:
    """Marks by position."""
    return sorted(marks, key=lambda mark: (mark.start, mark.stop, mark.kind))


def runs(mask: Bool[np.ndarray, " S"]) -> list[tuple[int, int]]:
    """The ranges [start, stop) in which a mask is True."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(np.int8), 0]))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _passes(
    loop: Loop, ids: Int[np.ndarray, " T"], numbers: Bool[np.ndarray, " T"], span: Span
) -> list[TextMark]:
    """A mark per pass of a loop; in a template a run of numbers counts as one token."""
    places = np.arange(len(ids))
    if loop.kind == "template":
        places = np.flatnonzero(marks_of(ids, numbers)[1])
    places = places[places >= loop.onset]
    edges = [*places[:: loop.period].tolist(), loop.onset + loop.wasted]
    return [
        TextMark("loop", f"loop ({loop.kind}), pass {i}", span.start + a, span.start + b)
        for i, (a, b) in enumerate(pairwise(edges), start=1)
        if b > a
    ]
