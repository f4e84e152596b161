"""Read sums, products, powers and units."""

from __future__ import annotations

import re
from fractions import Fraction

from scaling.grading._notation import MAGNITUDES, NO_UNITS
from scaling.grading._operands import Operands
from scaling.grading._token_stream import DEEPEST, flat, is_whole
from scaling.grading._tokens import Token
from scaling.grading._tree import SCALARS, Node

_POWER = re.compile(r"(?<=[A-Za-z])\^?\{?-?[1-3]\}?")  # m^2, s^{-1}
_MORE_THAN_UNIT = re.compile(r"[\d=<>+]")


class Arithmetic(Operands):
    def sum(self) -> Node:
        found: Node | None = None
        while True:
            sign = self.take().value if self.sees("op", "+", "-", "pm", "mp") else ""
            if found is not None and not sign:
                return found
            while sign in ("+", "-") and self.sees("op", "+", "-"):  # "+ -3"
                sign = "-" if (self.take().value == "-") != (sign == "-") else "+"
            term = self.product()
            if not sign and found is None:
                found = term
                continue
            if sign == "-" and found is not None and term.kind == "set":
                found = Node("setminus", (found, term))  # R - {2}
                continue
            term = self.scalars(term)[0]
            before = () if found is None else self.scalars(found)
            if sign in ("pm", "mp"):
                found = Node(sign, (*before, term))
                continue
            term = Node("neg", (term,)) if sign == "-" else term
            found = Node("add", (*before, term)) if before else term

    def product(self) -> Node:
        found = self.factor()
        while True:
            token = self.peek()
            if token is None:
                return found
            if token.kind == "op" and token.value in ("*", "/"):
                self.take()
                if (found.kind == "unit" and self._names_unit()) or (
                    token.value == "/" and self.sees("text") and found.kind in SCALARS
                ):
                    stroke = "/" if token.value == "/" else " "
                    found = self.unit(found, stroke)
                    continue
                negative = self.sees("op", "-") and bool(self.take())
                other = self.factor()
                kind = "mul" if token.value == "*" else "div"
                found = Node(kind, self.scalars(found, other))
                found = Node("neg", (found,)) if negative else found
            elif token.kind == "text":
                found = self.unit(found)
            elif token == Token("op", "%"):  # of the whole product: 25/2 %
                self.take()
                found = Node("percent", self.scalars(found))
            elif token.kind == "matrix":
                found = _scaled(self.scalars(found)[0], self.matrix())
            elif self._multiplies(token):
                if found.kind == "unit" and found.value != "degrees":
                    raise self.wrong()
                mixed = is_whole(found) and token == Token("cmd", "frac")
                other = self.factor()
                if other.kind == "text":  # \frac{\text{km}}{\text{h}}
                    found = Node("unit", self.scalars(found), other.value)
                elif mixed and other.kind == "div" and all(map(is_whole, other.args)):
                    found = Node("add", (found, other))  # 12\frac{1}{2}
                else:
                    found = Node("mul", self.scalars(found, other))
            else:
                return found

    def _multiplies(self, token: Token) -> bool:
        if token.kind in ("sym", "fn", "cmd"):
            return True
        if token.kind == "num":  # 7!3!
            return self.tokens[self.at - 1] == Token("op", "!")
        if token.kind == "open":
            return token.value in ("(", "{", "lfloor", "lceil")
        return token == Token("op", "|") and not self.bars

    def _names_unit(self) -> bool:
        """Whether a unit follows a stroke, as in km/h."""
        return self.sees("text") or self.sees("sym", "h", "s", "m", "L")

    def unit(self, found: Node, joint: str = " ") -> Node:
        """A value with its unit in words, or with a magnitude such as "million"."""
        if found.kind not in SCALARS:
            raise self.wrong()
        words: list[str] = [] if self.sees("text") else [self.take().value]
        while self.sees("text"):
            words += re.sub(r"\\[,;:! ]|[~,.;]", " ", self.take().value).split()
        said = [word.lower() for word in words]
        if (any(word in NO_UNITS for word in said) and said != ["times"]) or any(
            _MORE_THAN_UNIT.search(_POWER.sub("", word)) for word in said
        ):
            raise self.wrong()
        while said and said[0] in MAGNITUDES:
            found = Node("mul", (found, Node("num", number=Fraction(MAGNITUDES[said.pop(0)]))))
        if any(word in MAGNITUDES for word in said):
            raise self.wrong()
        if not said:
            return found
        if said in (["pct"], ["percent"], ["per", "cent"]):
            return Node("percent", (found,))
        power = ""
        if self.sees("op", "^"):
            self.take()
            sign = "-" if self.sees("op", "-") and self.take() else ""
            power = f"^{sign}{flat(self.argument())}"
        before = found.args[0] if found.kind == "unit" else found
        earlier = found.value + joint if found.kind == "unit" else ""
        return Node("unit", (before,), earlier + " ".join(said) + power)

    def factor(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.wrong()
        found = self.postfix(self.primary())
        self.depth -= 1
        return found

    def postfix(self, found: Node) -> Node:
        while True:
            if self.sees("op", "!"):
                self.take()
                if self.sees("op", "!"):
                    raise self.wrong()
                found = Node("call", self.scalars(found), "factorial")
            elif self.sees("op", "deg"):
                self.take()
                found = self.degrees(found)
            elif self.sees("op", "^"):
                self.take()
                if self._degree():
                    found = self.degrees(found)
                    continue
                negative = self.sees("op", "-") and bool(self.take())
                power = self.argument() if self.sees("open", "{") else self.factor()
                if power.kind == "text" and power.value in ("th", "st", "nd", "rd"):
                    continue
                power = Node("neg", self.scalars(power)) if negative else power
                return self.postfix(Node("pow", self.scalars(found, power)))
            else:
                return found

    def degrees(self, found: Node) -> Node:
        """A number of degrees, perhaps of a named scale."""
        if self.sees("sym", "C", "F") or self.sees("text", "C", "F"):
            self.take()
        return Node("unit", self.scalars(found), "degrees")

    def _degree(self) -> bool:
        r"""Take `\circ` or `{\circ}` behind `^`, or the letter o that stands for it at the end."""
        ahead = 1 if self.sees("open", "{") else 0
        letter = self.peek(ahead) == Token("sym", "o") and self.peek(1 + 2 * ahead) is None
        if self.peek(ahead) != Token("op", "deg") and not letter:
            return False
        if ahead and self.peek(2) != Token("close", "}"):
            raise self.wrong()
        self.at += 3 if ahead else 1
        return True


def _scaled(factor: Node, matrix: Node) -> Node:
    rows = (tuple(Node("mul", (factor, cell)) for cell in row.args) for row in matrix.args)
    return Node("matrix", tuple(Node("row", row) for row in rows))
