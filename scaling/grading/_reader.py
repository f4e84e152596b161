"""Read a mathematical answer as a whole, into a tree; or not at all.

`read` knows the notation of answers: numbers with separators, units, percent and bases; LaTeX and
the text of algebra systems; lists, tuples, sets, intervals, relations, matrices, words. It imports
no algebra system, is linear in the length of the text, and never guesses: a text with any part that
it does not know raises `NotUnderstoodError`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from scaling.grading._arithmetic import Arithmetic
from scaling.grading._notation import RELATION_SIGNS
from scaling.grading._tidy import tidy
from scaling.grading._tokens import NotUnderstoodError, tokens
from scaling.grading._tree import Node

LONGEST = 2000  # characters; far more than any gold answer of a benchmark


@lru_cache(maxsize=4096)
def read(text: str, lists: bool = False) -> Node:
    """Read the whole of `text` as one answer.

    Args:
        text: an extracted answer.
        lists: whether "1,234" is a list of two numbers, and not one number.

    Returns:
        The tree.

    Raises:
        NotUnderstoodError: some part of the text was not understood.
    """
    if len(text) > LONGEST:
        raise NotUnderstoodError(text[:60])
    named = _named_quantity(text)
    if named is not None:
        return Node("rel", (Node("sym", value=named[0]), read(named[1], lists)), "=")
    based = _BASED.fullmatch(text.strip())
    if (
        based
        and based["base"] != "10"
        and re.search(r"\d|[A-F]{2}", digits := based["digits"].upper())
    ):
        return Node("based", value=f"{digits.lstrip('0') or '0'}_{based['base']}")
    try:
        found = _Parser(tokens(tidy(text), lists), text).whole()
    except (RecursionError, ValueError, OverflowError):
        raise NotUnderstoodError(text[:60]) from None
    return found


# A left side that names one quantity, whatever it says inside: a limit, sum or integral, a
# probability or expectation, a derivative, an inverse function, "Area of ABC".
_QUANTITY = re.compile(
    r"\\(?:lim|sum|prod|i{0,2}int|oint|Pr|deg|dim|max|min|sup|#|triangle|mathbb\s*\{?[EP]\b|operatorname|frac\s*\{\s*d)"
    r"|(?:[EPV]|Var|Cov|\\(?:mathrm|text)\s*\{(?:Var|Cov|E|P)\})\s*(?:\\left)?\s*[\[(]"
    r"|[fgh]\s*\^\s*\{\s*-\s*1\s*\}|\\text\s*\{[A-Za-z ]+\}\s*(?:[A-Z(\\]|$)"
)


# 1A_{16}, (101)_2, 101_{\text{base 2}}, 101 (base 2)
_BASED = re.compile(
    r"(?:[({]|\\(?:text|mathrm)\s*\{)*(?P<digits>[0-9A-F]+)[)}]*\s*"
    r"(?:_(?:[({\s]|base|\\(?:text|mathrm)\s*\{)*|(?:[({\s~]|\\text\s*\{)*(?:in\s+)?base[\s}~]*)"
    r"(?P<base>\d+)[)}\s]*"
)


def _named_quantity(text: str) -> tuple[str, str] | None:
    """The sides of `NAME = value` where NAME is a quantity of `_QUANTITY`; None for other texts."""
    if not _QUANTITY.match(text.strip()):
        return None
    depth, places = 0, []
    for at, letter in enumerate(text):
        depth += (letter in "{([") - (letter in "})]")
        if letter in "=<>" and depth == 0:
            places.append(at)
    if len(places) != 1 or text[places[0]] != "=":
        return None
    name = re.sub(r"\s|\\[,;:!]|\\left|\\right", "", text[: places[0]])
    return name, text[places[0] + 1 :].strip()


def understood(text: str) -> Node | None:
    """`read(text)`, or None where the text is not understood."""
    try:
        return read(text)
    except NotUnderstoodError:
        return None


class _Parser(Arithmetic):
    def items(self) -> Node:
        """Items between separators; groups of items where there are semicolons."""
        groups: list[Node] = []
        current: list[Node] = []
        words: set[str] = set()
        while True:
            current.append(self.relation())
            if current[-1].kind == "unit" and self.sees("num"):  # 2 hours 30 minutes
                continue
            if not self.sees("sep"):
                break
            seps: list[str] = []
            while self.sees("sep"):
                seps.append(self.take().value)
            if self.peek() is None or self.sees("close"):
                if any(sep in ("and", "or") for sep in seps):
                    raise self.wrong()
                break
            if ";" in seps:
                groups.append(_listed(current, words))
                current, words = [], set()
            else:
                words.update(seps)
        if not groups:
            return _listed(current, words)
        groups.append(_listed(current, words))
        return Node("list", tuple(groups), ",")

    def relation(self) -> Node:
        """Expressions joined by relations; a leading `=` says nothing, a leading `>` does."""
        sides: list[Node] = []
        operators: list[str] = []
        first = self.peek()
        labelled = first is not None and first.kind == "text" and first.value.rstrip()[-1:] == ":"
        if labelled and self.peek(1) is not None:  # "Total: 18"
            self.take()
        if self.sees("op", "=", "~"):
            self.take()
        elif self.sees("op", *RELATION_SIGNS):
            sides.append(Node("sym", value=""))
        else:
            sides.append(self.ratio())
        if not sides:
            sides.append(self.ratio())
        while self.sees("op", *RELATION_SIGNS):
            operators.append(self.take().value)
            sides.append(self.ratio())
        if not operators:
            return sides[0]
        return Node("rel", tuple(sides), " ".join(operators))

    def ratio(self) -> Node:
        parts = [self.union()]
        while self.sees("op", ":"):
            self.take()
            parts.append(self.union())
        return Node("ratio", tuple(parts)) if len(parts) > 1 else parts[0]

    def union(self) -> Node:
        found = self.sum()
        while self.sees("op", "cup", "cap", "setminus", "over", "choose"):
            operator = self.take().value
            other = self.sum()
            if operator == "over":
                found = Node("div", self.scalars(found, other))
            elif operator == "choose":
                found = Node("call", self.scalars(found, other), "binomial")
            else:
                found = Node(operator, (found, other))
        return found


def _listed(items: list[Node], words: set[str]) -> Node:
    if len(items) == 1:
        return items[0]
    kind = "or" if "or" in words else "and" if words == {"and"} else ","
    return Node("list", tuple(items), kind)
