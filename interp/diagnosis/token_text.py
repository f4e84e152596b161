"""Align token ids with text: which tokens spell which characters.

Loops and reflections are found in words but counted in tokens, so both need to know where the text
of a token is. Each token is decoded alone and searched in the decoded whole from left to right.
That works for byte-level, sentence-piece and word-level tokenizers, whatever they put between
tokens. A token without text of its own (part of a multi-byte character) starts where the previous
one ended.

Shapes: S tokens; starts and stops are character offsets [S].
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from interp.chains.chain import TextDecoder

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


class Pieces:
    """Wraps a model's `text`, and decodes each single token only once.

    Make one for many chains of one model.
    """

    def __init__(self, model: TextDecoder) -> None:
        self._model = model
        self._pieces: dict[int, str] = {}
        self.lexicon_name: str = getattr(model, "lexicon_name", "")

    def text(self, ids: Any, skip_special: bool = True) -> str:
        """Decode token ids to text, as the model does.

        Args:
            ids: Token ids.
            skip_special: Whether special tokens are left out.

        Returns:
            The text.
        """
        return self._model.text(ids, skip_special=skip_special)

    def piece(self, token: int) -> str:
        """Decode one token, special or not, and remember its text.

        Args:
            token: The token id.

        Returns:
            The text of the token alone.
        """
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self._model.text([token], skip_special=False)
        return found


@dataclass(frozen=True)
class TokenizedText:
    """A text and the character range [starts[i], stops[i]) of each of its S tokens (or words).

    Attributes:
        text: The text.
        starts: First character of each token, [S].
        stops: Character behind each token, [S].
    """

    text: str
    starts: Int[np.ndarray, " S"]
    stops: Int[np.ndarray, " S"]

    def __len__(self) -> int:
        return int(self.starts.shape[0])

    def token_at(self, char: int) -> int:
        """Find the token that spells a character.

        Args:
            char: Character offset in the text.

        Returns:
            Index of the token; S for a character behind the last one.
        """
        return int(np.searchsorted(self.stops, char, side="right"))

    def mask(self, pattern: re.Pattern[str]) -> Bool[np.ndarray, " S"]:
        """Mark the tokens whose text begins inside a match of a pattern.

        Args:
            pattern: Compiled regular expression.

        Returns:
            Boolean mask, [S].
        """
        change = np.zeros(len(self.text) + 2, dtype=np.int32)
        for match in pattern.finditer(self.text):
            change[match.start()] += 1
            change[match.end()] -= 1
        inside = np.cumsum(change) > 0
        return inside[self.starts] & (self.stops > self.starts)


def read(model: TextDecoder, ids: Sequence[int] | Int[np.ndarray, " S"]) -> TokenizedText:
    """Decode ids to text, special tokens included, and align the tokens with it.

    Args:
        model: Decodes token ids; pass one `Pieces(model)` for many chains.
        ids: Token ids, [S].

    Returns:
        The text with the character range of each token.
    """
    pieces = model if isinstance(model, Pieces) else Pieces(model)
    tokens = [int(i) for i in ids]
    text = pieces.text(tokens, skip_special=False)
    starts = np.zeros(len(tokens), dtype=np.int64)
    stops = np.zeros(len(tokens), dtype=np.int64)
    cursor = 0
    for position, token in enumerate(tokens):
        piece = pieces.piece(token).strip()
        # The search is bounded: a piece that is absent must not skip half of the text.
        found = text.find(piece, cursor, cursor + len(piece) + 8) if piece else -1
        starts[position] = found if found >= 0 else cursor
        cursor = found + len(piece) if found >= 0 else cursor
        stops[position] = cursor
    return TokenizedText(text, starts, stops)


def words(text: str) -> TokenizedText:
    """Split plain text into words, single digits and single marks, in place of tokens.

    Args:
        text: The text.

    Returns:
        The text with the character range of each word.
    """
    spans = [match.span() for match in WORD.finditer(text)]
    table = np.array(spans, dtype=np.int64).reshape(-1, 2)
    return TokenizedText(text, table[:, 0].copy(), table[:, 1].copy())


def word_ids(reading: TokenizedText) -> Int[np.ndarray, " S"]:
    """Number the distinct words of a text.

    Args:
        reading: The text with the ranges of its words.

    Returns:
        One integer per word, [S], int64; equal words have equal numbers.
    """
    index: dict[str, int] = {}
    spans = zip(reading.starts.tolist(), reading.stops.tolist(), strict=True)
    found = [index.setdefault(reading.text[a:b], len(index)) for a, b in spans]
    return np.array(found, dtype=np.int64)
