"""Where a forced answer of the plain format ends: with the line that gives it.

A plain model has no end of its answer but the end of the sequence. After the forced sentence
("Final Answer:") it often goes on with an explanation, another question or a loop, up to the whole
answer budget. What it was asked for is one line: the first with a letter or a digit, where no
display formula, brace or box is open and which does not announce the next one (":").

Shapes: S tokens of an answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int

from interp.decoding.stop_strings import StopStrings

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

_OPENS = re.compile(r"\\\[|\\\(|\\begin\b|(?<!\\)\{")
_CLOSES = re.compile(r"\\\]|\\\)|\\end\b|(?<!\\)\}")
LONGEST = 256  # tokens of an answer that are read; a longer line is left to the answer budget


class ForcedLine:
    """Finds the end of the line in which a forced answer of the plain format is given.

    It is false in a boolean context where the rule does not apply: with delimiters, and where no
    sentence asks for the answer.

    Attributes:
        model: the model whose tokenizer decodes the tokens.
    """

    def __init__(self, model: ReasoningModel) -> None:
        """Prepares the rule.

        Args:
            model: the model whose tokenizer and thinking format are used.
        """
        ids = model.delimiter_ids
        self.model = model
        self._applies = ids.plain and bool(ids.answer_prefix)
        self._breaks = StopStrings(model, ["\n"])

    def __bool__(self) -> bool:
        """Returns whether the rule applies to the model."""
        return self._applies

    def may_complete(self, tokens: Int[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
        """Marks the tokens that hold a line break.

        Args:
            tokens: token ids, of any shape.

        Returns:
            One boolean per token, in the same shape.
        """
        return self._breaks.may_complete(tokens)

    def found(self, ids: Int[np.ndarray, " S"]) -> int | None:
        """Returns the number of tokens before the line break that ends the answer.

        Args:
            ids: token ids of the answer so far, [S]; the last one was just chosen.

        Returns:
            Tokens of the answer, or None if its line has not ended with the last token.
        """
        if not len(ids) or len(ids) > LONGEST or not self._breaks.may_complete(ids[-1:])[0]:
            return None
        text = self.model.text(ids.tolist(), skip_special=False)
        before = self.model.text(ids[:-1].tolist(), skip_special=False)
        # a token such as ".\n" ends the line and belongs to it; "\n" and "\n\n" do not
        end = text.find("\n", len(before.rstrip("\n")))
        if end < 0 or not gives_answer(text[:end]):
            return None
        return len(ids) if text[len(before) : end].strip() else len(ids) - 1


def gives_answer(text: str) -> bool:
    """Whether the text of an answer, up to a line break, may be all of it.

    Args:
        text: the lines so far.

    Returns:
        False for a text without a letter or digit outside LaTeX commands, with an open formula or
        brace, or whose last line ends with a colon.
    """
    if not re.search(r"[^\W_]", re.sub(r"\\[A-Za-z]+", "", text)):
        return False
    if text.rstrip(" \t*_`").endswith(":") or text.count("$$") % 2:
        return False
    return len(_OPENS.findall(text)) <= len(_CLOSES.findall(text))
