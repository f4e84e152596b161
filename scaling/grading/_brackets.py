r"""Read what stands in brackets: groups, tuples, intervals, sets, matrices."""

from __future__ import annotations

import re
from fractions import Fraction

from scaling.grading._tidy import tidy
from scaling.grading._token_stream import DEEPEST, TokenStream, is_whole
from scaling.grading._tokens import NotUnderstoodError, Token, tokens
from scaling.grading._tree import Node

_MATE = {"(": ")", "[": "]", "{": "}", "{{": "}}", "<(": ">)", "lfloor": "rfloor",
         "lceil": "rceil"}  # fmt: skip
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
          "ten": 10, "twelve": 12, "sixteen": 16}  # fmt: skip


class Brackets(TokenStream):
    def bracket(self) -> Node:
        left = self.take().value
        mate = _MATE[left]
        if self.sees("close", mate):
            self.take()
            if left in ("{{", "{"):
                return Node("set")
            raise self.wrong()
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.wrong()
        if left == "{{" and self.sees("sym") and self.peek(1) == Token("op", "|"):
            self.tokens[self.at + 1] = Token("op", ":")
        bars, self.bars = self.bars, 0
        inside = self.items()
        self.bars = bars
        self.depth -= 1
        right = self.take()
        if right.kind != "close":
            raise self.wrong()
        if left in ("lfloor", "lceil"):
            if right.value != mate:
                raise self.wrong()
            return Node("call", self.scalars(inside), "floor" if left == "lfloor" else "ceil")
        several = inside.kind == "list"
        if left in ("(", "[") and right.value in (")", "]"):
            return self.enclosed(left, right.value, inside, several)
        if right.value != mate:
            raise self.wrong()
        if left == "{{" and inside.kind == "rel":
            return _described(inside)
        if left == "{{" or (left == "{" and several):
            return Node("set", inside.args if several else (inside,))
        if left == "<(":
            return Node("tuple", inside.args if several else (inside,), "()")
        return inside

    def enclosed(self, left: str, right: str, inside: Node, several: bool) -> Node:
        """Round or square brackets: a tuple, an interval, or a group."""
        if several:
            if inside.value != "," or (left + right not in ("()", "[]") and len(inside.args) != 2):
                raise self.wrong()
            rows = {(part.kind, part.value, len(part.args)) for part in inside.args}
            if left + right == "[]" and len(rows) == 1 and rows.pop()[:2] == ("tuple", "[]"):
                return Node("matrix", tuple(Node("row", row.args) for row in inside.args))
            return Node("tuple", inside.args, left + right)
        if left + right not in ("()", "[]"):
            raise self.wrong()
        if self.sees("op", "_") and is_whole(inside):
            return self.based(inside.value)
        return inside

    def based(self, digits: str) -> Node:
        self.take()
        if self.sees("open", "{"):
            self.take()
            base = self.take()
            self.expect("close", "}")
        else:
            base = self.take()
        value = base.value if base.kind == "num" else str(_BASES.get(base.value.lower(), ""))
        if not (digits.isdigit() and value.isdigit()):
            raise self.wrong()
        if value == "10":
            return Node("num", value=digits, number=Fraction(int(digits)))
        return Node("based", value=f"{digits.lstrip('0') or '0'}_{value}")

    def matrix(self) -> Node:
        content = self.take().value
        if content.startswith("|"):
            raise self.wrong()
        rows: list[Node] = []
        content = re.sub(r"\\hline|\\\\\[[^\]]*\]", lambda m: "" if "h" in m[0] else r"\\", content)
        for line in re.split(r"\\\\", content):
            if line.strip():
                cells = tuple(
                    type(self)(tokens(tidy(cell)), cell).whole() for cell in line.split("&")
                )
                rows.append(Node("row", self.scalars(*cells)))
        if not rows or len({len(row.args) for row in rows}) != 1:
            raise self.wrong()
        return Node("matrix", tuple(rows))


def _described(inside: Node) -> Node:
    r"""The condition of `\{x : 0 < x < 1\}` and `\{x \in \mathbb{R} : x > 0\}`."""
    sides, operators = list(inside.args), inside.value.split()
    if operators[0] == "in" and len(sides) > 2 and sides[1].kind == "ratio":
        if sides[1].args[0] != Node("sym", value="\\mathbbR"):
            raise NotUnderstoodError("set")
        sides, operators = [sides[1].args[1], *sides[2:]], operators[1:]
    elif sides[0].kind == "ratio" and len(sides[0].args) == 2 and sides[0].args[0].kind == "sym":
        sides[0] = sides[0].args[1]
    else:
        return Node("set", (inside,))
    return Node("rel", tuple(sides), " ".join(operators))
