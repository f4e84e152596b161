"""Stop strings: texts that end an answer, wherever they lie across tokens.

An answer's own tokens are decoded in a window at its end, long enough for any way to spell the
longest string; and only when a token could complete one: its text holds the string's last
character, or is not text of its own (part of a character).
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
    """Finds where an answer ends by one of `strings`."""

    def __init__(self, model: ReasoningModel, strings: Sequence[str]) -> None:
        if isinstance(strings, str):
            strings = (strings,)
        if any(not isinstance(s, str) or not s for s in strings):
            raise UserError(f"stop={list(strings)}: expected texts of at least one character.")
        self.model, self.strings = model, tuple(strings)
        self.window = max((len(s.encode()) for s in self.strings), default=0) + 1
        self._completes = np.full(model.vocab_size, -1, np.int8)  # -1: not looked at yet

    def __bool__(self) -> bool:
        return bool(self.strings)

    def may_complete(self, tokens: Int[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
        """Which tokens can be the last of a stop string."""
        for token in np.unique(tokens[self._completes[tokens] < 0]).tolist():
            # a token alone may lose the space before it: its second of two has it
            text = self._text(np.array([token, token]))
            self._completes[token] = _PART in text or any(s[-1] in text for s in self.strings)
        return self._completes[tokens] == 1

    def found(self, ids: Int[np.ndarray, " S"]) -> int | None:
        """Tokens before the stop string in which `ids` have just ended, or None.

        A token that holds both answer and stop string belongs to the stop string.
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
