"""Stop strings: texts that end an answer, even when they span several tokens.

Two steps keep the check cheap. First, a token is a candidate only if its text holds the last
character of a stop string, or if it decodes to part of a character. Second, only at a candidate
are the last tokens of the answer decoded: a window long enough for any tokenization of the
longest stop string.

Shapes: n tokens to check, S tokens of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int

from interp.errors import UserError

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

_PART = "�"  # what an incomplete character decodes to


class StopStrings:
    """Finds where an answer ends with one of the stop strings.

    It is false in a boolean context when there are no stop strings.

    Attributes:
        model: the model whose tokenizer decodes the tokens.
        strings: the stop strings.
        window: tokens decoded at the end of an answer: the UTF-8 bytes of the longest stop
            string, plus one.
    """

    def __init__(self, model: ReasoningModel, strings: Sequence[str]) -> None:
        """Checks the stop strings.

        Args:
            model: the model whose tokenizer decodes the tokens.
            strings: the stop strings; a single string counts as one.

        Raises:
            UserError: a stop string is empty or not a string.
        """
        if isinstance(strings, str):
            strings = (strings,)
        if any(not isinstance(s, str) or not s for s in strings):
            raise UserError(
                f"stop={list(strings)}: expected strings of at least one character. Remove the "
                "empty strings and the entries that are not strings."
            )
        self.model, self.strings = model, tuple(strings)
        self.window = max((len(s.encode()) for s in self.strings), default=0) + 1
        self._completes = np.full(model.vocab_size, -1, np.int8)  # [V]; -1: not decoded yet

    def __bool__(self) -> bool:
        """Returns whether there are stop strings."""
        return bool(self.strings)

    def may_complete(self, tokens: Int[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
        """Marks the tokens that can be the last token of a stop string.

        Args:
            tokens: token ids, of any shape, int64.

        Returns:
            One boolean per token, in the same shape.
        """
        for token in np.unique(tokens[self._completes[tokens] < 0]).tolist():
            # Some tokenizers drop the space before the first token: decode the token twice.
            text = self._text(np.array([token, token]))
            self._completes[token] = _PART in text or any(s[-1] in text for s in self.strings)
        return self._completes[tokens] == 1

    def found(self, ids: Int[np.ndarray, " S"]) -> int | None:
        """Returns the number of tokens before a stop string at the end of an answer.

        A token that holds both answer text and part of a stop string counts as stop string.

        Args:
            ids: token ids of the answer so far, [S].

        Returns:
            Tokens of the answer without the stop string, or None if none was found.
        """
        first = max(0, len(ids) - self.window)
        text = self._text(ids[first:])
        at = min((i for s in self.strings if (i := text.find(s)) >= 0), default=-1)
        if at < 0:
            return None
        kept = next(
            m for m in range(len(ids), first - 1, -1) if len(self._text(ids[first:m])) <= at
        )
        return kept

    def _text(self, ids: np.ndarray) -> str:
        return self.model.text(ids.tolist(), skip_special=False) if len(ids) else ""
