"""Read a mathematical answer as a whole, into a tree; or not at all.

`read` knows the notation of answers: numbers with separators, units, percent and bases; LaTeX and
the text of algebra systems; lists, tuples, sets, intervals, relations, matrices, words. It imports
no algebra system, is linear in the length of the text, and never guesses: a text with any part that
it does not know raises `NotUnderstoodError`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from scaling.grading._tokens import (
    CURRENCIES,
    LOGIC,
    MAGNITUDES,
    NotUnderstoodError,
    Token,
    tidy,
    tokens,
)
from scaling.grading._tree import SCALARS, Node, exact_value

LONGEST = 2000  # characters; far more than any gold answer of a benchmark
DEEPEST = 40  # nested brackets
_RELATIONS = ("=", "<", ">", "<=", ">=", "!=", "in", "~")
_MATE = {"(": ")", "[": "]", "{": "}", "{{": "}}", "<(": ">)", "lfloor": "rfloor",
         "lceil": "rceil"}  # fmt: skip
_POWER = re.compile(r"(?<=[A-Za-z])\^?\{?-?[1-3]\}?")  # m^2, s^{-1}
_ABOUT = ("about", "approximately", "approx.", "roughly", "around", "exactly")
_MORE_THAN_UNIT = re.compile(r"[\d=<>+]")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
          "ten": 10, "twelve": 12, "sixteen": 16}  # fmt: skip


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
    try:
        found = _Parser(tokens(tidy(text), lists), text).whole()
    except (RecursionError, ValueError, OverflowError):
        raise NotUnderstoodError(text[:60]) from None
    return found


# A left side that names one quantity, whatever it says inside: a limit, sum or integral, a
# probability or expectation, a derivative, an inverse function, "Area of ABC".
_QUANTITY = re.compile(
    r"\\(?:lim|sum|prod|i{0,2}int|oint|Pr|mathbb\s*\{?[EP]\b|operatorname|frac\s*\{\s*d)"
    r"|(?:[EPV]|Var|Cov|\\(?:mathrm|text)\s*\{(?:Var|Cov|E|P)\})\s*(?:\\left)?\s*[\[(]"
    r"|[fgh]\s*\^\s*\{\s*-\s*1\s*\}|\\text\s*\{[A-Za-z ]+\}\s*(?:[A-Z(\\]|$)"
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


class _Parser:
    def __init__(self, found: list[Token], text: str) -> None:
        self.tokens, self.text = found, text
        self.at = 0
        self.depth = 0
        self.bars = 0  # open absolute values

    # ------------------------------------------------------------------ the stream

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

    # ------------------------------------------------------------------ lists and relations

    def whole(self) -> Node:
        found = self.items()
        if self.peek() is not None:
            raise self.wrong()
        return found

    def items(self) -> Node:
        """Items between separators; groups of items where there are semicolons."""
        groups: list[Node] = []
        current: list[Node] = []
        words: set[str] = set()
        while True:
            current.append(self.relation())
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
        elif self.sees("op", *_RELATIONS):
            sides.append(Node("sym", value=""))
        else:
            sides.append(self.ratio())
        if not sides:
            sides.append(self.ratio())
        while self.sees("op", *_RELATIONS):
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

    def scalars(self, *nodes: Node) -> tuple[Node, ...]:
        if any(node.kind not in SCALARS for node in nodes):
            raise self.wrong()
        return nodes

    # ------------------------------------------------------------------ arithmetic

    def sum(self) -> Node:
        found: Node | None = None
        while True:
            sign = self.take().value if self.sees("op", "+", "-", "pm", "mp") else ""
            if found is not None and not sign:
                return found
            while self.sees("op", "+", "-"):  # "+ -3"
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
                if token.value == "/" and found.kind == "unit" and self._names_unit():
                    found = Node("unit", found.args, f"{found.value}/{self.take().value}")
                    continue
                negative = self.sees("op", "-") and bool(self.take())
                other = self.factor()
                kind = "mul" if token.value == "*" else "div"
                found = Node(kind, self.scalars(found, other))
                found = Node("neg", (found,)) if negative else found
            elif token.kind == "text":
                found = self.unit(found)
            elif self._multiplies(token):
                if found.kind == "unit" and found.value != "degrees":
                    raise self.wrong()
                mixed = _whole(found) and token == Token("cmd", "frac")
                other = self.factor()
                if mixed and other.kind == "div" and all(map(_whole, other.args)):
                    found = Node("add", (found, other))  # 12\frac{1}{2}
                else:
                    found = Node("mul", self.scalars(found, other))
            else:
                return found

    def _multiplies(self, token: Token) -> bool:
        if token.kind in ("sym", "fn", "cmd"):
            return True
        if token.kind == "open":
            return token.value in ("(", "{", "lfloor", "lceil")
        return token == Token("op", "|") and not self.bars

    def _names_unit(self) -> bool:
        """Whether a unit follows a stroke, as in km/h."""
        return self.sees("text") or self.sees("sym", "h", "s", "m", "L")

    def unit(self, found: Node) -> Node:
        """A value with its unit in words, or with a magnitude such as "million"."""
        if found.kind not in SCALARS:
            raise self.wrong()
        words: list[str] = []
        while self.sees("text"):
            words += re.sub(r"\\[,;:! ]|[~,.;]", " ", self.take().value).split()
        said = [word.lower() for word in words]
        if any(word in LOGIC for word in said) or any(
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
            power = "^" + _flat(self.argument())
        before = found.args[0] if found.kind == "unit" else found
        earlier = found.value + " " if found.kind == "unit" else ""
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
            elif self.sees("op", "%"):
                self.take()
                found = Node("percent", self.scalars(found))
            elif self.sees("op", "deg"):
                self.take()
                found = Node("unit", self.scalars(found), "degrees")
            elif self.sees("op", "^"):
                self.take()
                if self._degree():
                    found = Node("unit", self.scalars(found), "degrees")
                    continue
                if found.kind == "num" and self.sees("sym", "o") and self.peek(1) is None:
                    self.take()  # 15^o
                    found = Node("unit", (found,), "degrees")
                    continue
                negative = self.sees("op", "-") and bool(self.take())
                power = self.argument() if self.sees("open", "{") else self.factor()
                if power.kind == "text" and power.value in ("th", "st", "nd", "rd"):
                    continue
                power = Node("neg", self.scalars(power)) if negative else power
                return self.postfix(Node("pow", self.scalars(found, power)))
            else:
                return found

    def _degree(self) -> bool:
        r"""Take `\circ` or `{\circ}` behind `^`."""
        ahead = 1 if self.sees("open", "{") else 0
        if self.peek(ahead) != Token("op", "deg"):
            return False
        if ahead and self.peek(2) != Token("close", "}"):
            raise self.wrong()
        self.at += 3 if ahead else 1
        return True

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
        if token is not None and token.kind in ("sym", "cmd"):
            return self.primary()
        raise self.wrong()

    # ------------------------------------------------------------------ primaries

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
        return Node("based", value=f"{digits.lstrip('0') or '0'}_{value}")

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
        name = re.sub(r"^a(sin|cos|tan)$", r"arc\1", name)
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
        elif name in ("max", "min", "gcd", "lcm") and self.sees("open", "{{"):
            args = self.bracket().args
        else:
            args = (self.bare_argument(),)
        if power is not None and _flat(power) == "-1" and name in ("sin", "cos", "tan", "cot"):
            name, power = "arc" + name, None
        if base is not None:
            if name != "log":
                raise self.wrong()
            args = (*args, base)
        found = Node("call", self.scalars(*args), "ln" if name == "log" else name)
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
        if name == "binom":
            return Node("call", self.scalars(above, below), "binomial")
        return Node("div", self.scalars(above, below))

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
            if inside.value != "," or (left + right != "()" and len(inside.args) != 2):
                raise self.wrong()
            return Node("tuple", inside.args, left + right)
        if left + right not in ("()", "[]"):
            raise self.wrong()
        if self.sees("op", "_") and _whole(inside):
            return self.based(inside.value)
        return inside

    def matrix(self) -> Node:
        content = self.take().value
        if content.startswith("|"):
            raise self.wrong()
        rows: list[Node] = []
        content = re.sub(r"\\hline|\\\\\[[^\]]*\]", lambda m: "" if "h" in m[0] else r"\\", content)
        for line in re.split(r"\\\\", content):
            if line.strip():
                cells = tuple(read(cell.strip()) for cell in line.split("&"))
                rows.append(Node("row", self.scalars(*cells)))
        if not rows or len({len(row.args) for row in rows}) != 1:
            raise self.wrong()
        return Node("matrix", tuple(rows))

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
            or (following.kind == "op" and following.value in _RELATIONS)
        ):
            raise self.wrong()
        return Node("text", value=" ".join(said))


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


def _listed(items: list[Node], words: set[str]) -> Node:
    if len(items) == 1:
        return items[0]
    kind = "or" if "or" in words else "and" if words == {"and"} else ","
    return Node("list", tuple(items), kind)


def _whole(node: Node) -> bool:
    return node.kind == "num" and node.value.isdigit()


def _flat(node: Node) -> str:
    value = exact_value(node)
    return str(value) if value is not None else "?"
