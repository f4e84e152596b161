"""The tokens of one answer, taken from the front, with the checks that every part needs."""

from __future__ import annotations

from abc import ABC, abstractmethod

from scaling.grading._tokens import NotUnderstoodError, Token
from scaling.grading._tree import SCALARS, Node, exact_value

DEEPEST = 40  # nested brackets


class TokenStream(ABC):
    """Tokens not yet read; the kinds of expressions that hold one another are abstract."""

    def __init__(self, found: list[Token], text: str) -> None:
        self.tokens, self.text = found, text
        self.at = 0
        self.depth = 0
        self.bars = 0  # open absolute values

    @abstractmethod
    def items(self) -> Node:
        """Read items up to the next closing bracket, or the end."""

    @abstractmethod
    def sum(self) -> Node:
        """Read terms joined by signs."""

    @abstractmethod
    def product(self) -> Node:
        """Read factors."""

    @abstractmethod
    def factor(self) -> Node:
        """Read one factor with its powers."""

    def whole(self) -> Node:
        """Read all of the tokens."""
        found = self.items()
        if self.peek() is not None:
            raise self.wrong()
        return found

    def wrong(self) -> NotUnderstoodError:
        return NotUnderstoodError(self.text[:60])

    def peek(self, ahead: int = 0) -> Token | None:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else None

    def sees(self, kind: str, *values: str) -> bool:
        token = self.peek()
        return token is not None and token.kind == kind and (not values or token.value in values)

    def take(self) -> Token:
        token = self.peek()
        if token is None:
            raise self.wrong()
        self.at += 1
        return token

    def expect(self, kind: str, *values: str) -> Token:
        if not self.sees(kind, *values):
            raise self.wrong()
        return self.take()

    def scalars(self, *nodes: Node) -> tuple[Node, ...]:
        if any(node.kind not in SCALARS for node in nodes):
            raise self.wrong()
        return nodes


def is_whole(node: Node) -> bool:
    return node.kind == "num" and node.value.isdigit()


def flat(node: Node) -> str:
    value = exact_value(node)
    return str(value) if value is not None else "?"
