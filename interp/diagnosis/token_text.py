"""From token ids to text and back: which tokens spell which characters.

Loops and reflections are found in words but counted in tokens, so each needs to know where a
token's text lies. Pieces are decoded one by one and looked up in the decoded whole from left to
right; that works for byte-level, sentence-piece and word-level tokenizers alike, whatever they
put between pieces. A piece that is not text of its own (part of a multi-byte character) starts
where the one before it ended.

S tokens; starts and stops are character offsets [S].
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

_NUMBER_WORD = (
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen"
    r"|fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty"
    r"|ninety|hundred|thousand|million|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth"
    r"|tenth|eleventh|twelfth|(?:thir|four|fif|six|seven|eigh|nine)teenth"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)tieth|hundredth|thousandth)"
)
NUMBER = re.compile(
    # a text cut inside a number may end in its decimal point
    rf"\d+(?:[.,]\d+)*(?:st|nd|rd|th|[.,]\Z)?|\b{_NUMBER_WORD}(?:-{_NUMBER_WORD})*\b",
    re.IGNORECASE,
)
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d|[^\w\s]|_")


@runtime_checkable
class Reads(Protocol):
    """What diagnosis asks of a model: turn ids into text."""

    def text(self, ids: Any, skip_special: bool = True) -> str: ...


class Pieces:
    """A model's `text`, with each single token decoded only once; for many chains of one model."""

    def __init__(self, model: Reads) -> None:
        self._model = model
        self._pieces: dict[int, str] = {}

    def text(self, ids: Any, skip_special: bool = True) -> str:
        return self._model.text(ids, skip_special=skip_special)

    def piece(self, token: int) -> str:
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self._model.text([token], skip_special=False)
        return found


@dataclass(frozen=True)
class TokenizedText:
    """A text and the characters [starts[i], stops[i]) of each of its S tokens (or words)."""

    text: str
    starts: Int[np.ndarray, " S"]
    stops: Int[np.ndarray, " S"]

    def __len__(self) -> int:
        return int(self.starts.shape[0])

    def token_at(self, char: int) -> int:
        """The token that spells character `char`."""
        return int(np.searchsorted(self.stops, char, side="right"))

    def mask(self, pattern: re.Pattern[str]) -> Bool[np.ndarray, " S"]:
        """True for tokens whose text begins inside a match of `pattern`."""
        change = np.zeros(len(self.text) + 2, dtype=np.int32)
        for match in pattern.finditer(self.text):
            change[match.start()] += 1
            change[match.end()] -= 1
        inside = np.cumsum(change) > 0
        return inside[self.starts] & (self.stops > self.starts)


def read(model: Reads, ids: Sequence[int] | Int[np.ndarray, " S"]) -> TokenizedText:
    """The text of `ids` (special tokens included), aligned."""
    pieces = model if isinstance(model, Pieces) else Pieces(model)
    tokens = [int(i) for i in ids]
    text = pieces.text(tokens, skip_special=False)
    starts = np.zeros(len(tokens), dtype=np.int64)
    stops = np.zeros(len(tokens), dtype=np.int64)
    cursor = 0
    for position, token in enumerate(tokens):
        piece = pieces.piece(token).strip()
        # A bounded look ahead: a piece that is not there must not swallow half of the text.
        found = text.find(piece, cursor, cursor + len(piece) + 8) if piece else -1
        starts[position] = found if found >= 0 else cursor
        cursor = found + len(piece) if found >= 0 else cursor
        stops[position] = cursor
    return TokenizedText(text, starts, stops)


def words(text: str) -> TokenizedText:
    """Plain text as words, single digits and single marks: what stands for tokens without ids."""
    spans = [match.span() for match in WORD.finditer(text)]
    table = np.array(spans, dtype=np.int64).reshape(-1, 2)
    return TokenizedText(text, table[:, 0].copy(), table[:, 1].copy())


def word_ids(reading: TokenizedText) -> Int[np.ndarray, " S"]:
    """One whole number a distinct word of the reading."""
    index: dict[str, int] = {}
    spans = zip(reading.starts.tolist(), reading.stops.tolist(), strict=True)
    found = [index.setdefault(reading.text[a:b], len(index)) for a, b in spans]
    return np.array(found, dtype=np.int64)
