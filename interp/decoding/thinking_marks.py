"""Where thinking ends in generated tokens, and where an answer opens it again.

| format | its natural end |
|---|---|
| delimiters, the end a single token | that token |
| delimiters, the end of several tokens | its text, which a tokenizer may merge with its neighbors |
| plain | an end-of-sequence token, or a stop string |

Shapes: S tokens of a row's thinking or answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int

from interp.decoding.stop_strings import StopStrings

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel


class ThinkingMarks:
    """Finds the marks of a model's thinking format in tokens that the model chose.

    Attributes:
        plain: whether the format has no delimiters.
        stop: the strings that end a completion of the plain format; none otherwise.
    """

    def __init__(self, model: ReasoningModel, stop: StopStrings | None = None) -> None:
        """Prepares the marks.

        Args:
            model: the model whose tokenizer and thinking format are used.
            stop: the strings that end an answer.
        """
        ids, words = model.delimiter_ids, model.delimiters
        self.plain = ids.plain
        self.stop = stop if self.plain and stop else StopStrings(model, ())
        self._ends = np.asarray(model.stop_ids if self.plain else ids.think_end[:1], np.int64)
        end, start = words.think_end.strip(), words.think_start.strip()
        one = model.encode(start) if start else []
        self._starts = np.asarray(one if len(one) == 1 else (), np.int64)
        self._end = StopStrings(model, [end] if len(ids.think_end) > 1 else ())
        self._start = StopStrings(model, [start] if len(one) > 1 else ())

    def may_end(self, tokens: Int[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
        """Marks the tokens that can complete the end of thinking.

        Args:
            tokens: token ids, of any shape.

        Returns:
            One boolean per token, in the same shape.
        """
        if self._end:
            return self._end.may_complete(tokens)
        ends = np.isin(tokens, self._ends)
        return ends | self.stop.may_complete(tokens) if self.stop else ends

    def before_end(self, ids: Int[np.ndarray, " S"]) -> int | None:
        """Returns how many tokens stand before the end of thinking that the last token completes.

        Args:
            ids: the tokens of thinking that the model chose since the decoder last wrote some, [S].

        Returns:
            Tokens before the end, or None if the last token completes none.
        """
        if not len(ids):
            return None
        if self._end:
            return self._end.found(ids)
        if ids[-1] in self._ends:
            return len(ids) - 1
        return self.stop.found(ids) if self.stop else None

    def opened_in(self, ids: Int[np.ndarray, " S"]) -> int | None:
        """Returns how many tokens of an answer stand before it opens the thinking again.

        Args:
            ids: the tokens of the answer, [S].

        Returns:
            Tokens before the start of thinking; None if there is none, and in the plain format.
        """
        if not self._start:
            found = np.flatnonzero(np.isin(ids, self._starts))
            return int(found[0]) if len(found) else None
        for n in (np.flatnonzero(self._start.may_complete(ids)) + 1).tolist():
            if (kept := self._start.found(ids[:n])) is not None:
                return kept
        return None
