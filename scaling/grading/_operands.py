"""Read one operand: a number, symbol, function, command or words."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from scaling.grading._brackets import Brackets
from scaling.grading._notation import CURRENCIES, RELATION_SIGNS
from scaling.grading._token_stream import flat
from scaling.grading._tokens import Token
from scaling.grading._tree import Node

_ABOUT = ("about", "approximately", "approx.", "roughly", "around", "exactly", "all", "all real",
          "for all", "all real numbers", "all values of", "all real values of")  # fmt: skip
_UNIT = {"text", "sym"}
_NAMES = {"tg": "tan", "ctg": "cot", "arctg": "arctan"}


class Operands(Brackets):
    def argument(self) -> Node:
        r"""One argument of a command: a group, or the one digit or symbol of `\frac12`."""
        if self.sees("open", "{"):
            return self.bracket()
        token = self.peek()
        if token is not None and token.kind == "num" and token.value.isdigit():
            digit, rest = token.value[0], token.value[1:]
            if rest:
                self.tokens[self.at] = Token("num", rest, Fraction(int(rest)))
            else:
                self.at += 1
            return Node("num", value=digit, number=Fraction(int(digit)))
        if token is not None and token.kind in ("sym", "cmd", "text"):
            return self.primary()
        raise self.wrong()

    def primary(self) -> Node:
        token = self.peek()
        if token is None:
            raise self.wrong()
        if token.kind == "num":
            return self.number()
        if token.kind == "sym":
            return self.symbol()
        if token.kind == "fn":
            return self.function()
        if token.kind == "cmd":
            return self.command()
        if token.kind == "open":
            return self.bracket()
        if token.kind == "matrix":
            return self.matrix()
        if token.kind == "text":
            return self.words()
        if token == Token("op", "|"):
            self.take()
            self.bars += 1
            inside = self.sum()
            self.bars -= 1
            self.expect("op", "|")
            return Node("call", self.scalars(inside), "abs")
        raise self.wrong()

    def number(self) -> Node:
        token = self.take()
        found = Node("num", value=token.value, number=token.number, exact=token.exact)
        if self.sees("op", "_"):
            return self.based(token.value)
        above, stroke, below = self.peek(), self.peek(1), self.peek(2)
        if above and stroke and below and stroke == Token("op", "/"):
            parts = (token, above, below)
            if all(part.kind == "num" and part.value.isdigit() for part in parts):
                self.at += 3  # "12 1/2"
                if below.number == 0:
                    raise self.wrong()
                return Node("num", value="", number=token.number + above.number / below.number)
        return found

    def symbol(self) -> Node:
        name = self.take().value
        if self.sees("op", "_"):
            self.take()
            name += "_" + self.subscript()
        while self.sees("op", "'"):
            name += self.take().value
        if self.sees("op", "_"):
            raise self.wrong()
        if name.rstrip("'") in ("f", "g", "h") and self.sees("open", "("):
            inside = self.bracket()
            parts = inside.args if inside.kind == "tuple" else (inside,)
            return Node("call", self.scalars(*parts), name)
        if len(name) == 1 and name.isupper() and self.sees("open", "("):  # a point, or C(5, 2)
            before, inside = self.at, self.bracket()
            if inside.kind == "tuple" and inside.value == "()":
                return Node("call", self.scalars(*inside.args), name)
            self.at = before
        return Node("sym", value=name)

    def subscript(self) -> str:
        """The tokens of a subscript as one name."""
        if not self.sees("open", "{"):
            token = self.take()
            if token.kind not in ("num", "sym", "text"):
                raise self.wrong()
            return token.value
        depth, said = 0, []
        while True:
            token = self.take()
            depth += (token.kind == "open") - (token.kind == "close")
            if depth == 0:
                return " ".join(said)
            if token != Token("open", "{"):
                said.append(token.value)

    def function(self) -> Node:
        name = self.take().value
        name = re.sub(r"^a(?:rc)?(sin|cos|tan|cot)$", r"arc\1", _NAMES.get(name, name))
        base = power = None
        while self.sees("op", "^", "_"):
            if self.take().value == "_":
                base = self.argument() if self.sees("open", "{") else self.factor()
            else:
                negative = self.sees("op", "-") and bool(self.take())
                power = self.bracket() if self.sees("open", "{") else self.number()
                power = Node("neg", self.scalars(power)) if negative else power
        if self.sees("open", "("):
            inside = self.bracket()
            args = inside.args if inside.kind == "tuple" else (inside,)
        elif self.sees("open", "{{"):
            args = self.bracket().args
        else:
            args = (self.bare_argument(),)
        if power is not None and flat(power) == "-1" and name in ("sin", "cos", "tan", "cot"):
            name, power = "arc" + name, None
        if base is not None:
            if name != "log":
                raise self.wrong()
            args = (*args, base)
        args = tuple(map(_radians, self.scalars(*args)))
        if name == "cis":
            i, e = Node("sym", value="i"), Node("sym", value="e")
            found = Node("pow", (e, Node("mul", (i, *args))))
        else:
            found = Node("call", args, "ln" if name == "log" else name)
        return Node("pow", (found, *self.scalars(power))) if power is not None else found

    def bare_argument(self) -> Node:
        r"""The argument of `\sin 2x`: factors up to a sign or another function."""
        negative = self.sees("op", "-") and bool(self.take())
        found = self.factor()
        while True:
            token = self.peek()
            if token is not None and (token.kind == "sym" or token == Token("cmd", "frac")):
                found = Node("mul", self.scalars(found, self.factor()))
            elif self.sees("op", "/") and (found.kind != "call"):
                self.take()
                found = Node("div", self.scalars(found, self.factor()))
            else:
                return Node("neg", self.scalars(found)) if negative else found

    def command(self) -> Node:
        name = self.take().value
        if name == "sqrt":
            index = None
            if self.sees("open", "["):
                index = self.bracket()
            if self.sees("num"):
                inside = self.number()  # \sqrt13 is the root of 13, as models write it
            elif self.sees("open", "("):
                inside = self.bracket()
            else:
                inside = self.argument()
            args = (inside,) if index is None else (inside, index)
            return Node("call", self.scalars(*args), "sqrt" if index is None else "root")
        above, below = self.argument(), self.argument()
        if name == "frac" and "text" in (kinds := {above.kind, below.kind}) and kinds <= _UNIT:
            return Node("text", value=f"{above.value}/{below.value}")
        if name == "binom":
            return Node("call", self.scalars(above, below), "binomial")
        return Node("div", self.scalars(above, below))

    def words(self) -> Node:
        """Words where a value may stand: a name, or an answer in words."""
        said: list[str] = []
        first = self.peek()
        if first is not None and first.value.lower().strip(". ") in CURRENCIES:
            following = self.peek(1)
            if following is not None and following.kind == "num":
                self.take()
                return self.number()
        while self.sees("text") or (said and self.sees("sym") and self.peek(1) is None):
            said.append(self.take().value)
        following = self.peek()
        if following is not None and " ".join(said).strip().lower() in _ABOUT:
            return self.product()
        if following is not None and not (
            following.kind in ("sep", "close")
            or (following.kind == "op" and following.value in RELATION_SIGNS)
        ):
            raise self.wrong()
        return Node("text", value=" ".join(said))


def _radians(node: Node) -> Node:
    """The argument of a function, in radians where it is in degrees."""
    if node.kind == "unit" and node.value == "degrees":
        half_turn = Node("num", value="180", number=Fraction(180))
        return Node("div", (Node("mul", (*node.args, Node("sym", value="pi"))), half_turn))
    return replace(node, args=tuple(map(_radians, node.args)))
