"""Reading an equation in natural text: its tokens, where it begins and ends, and each side's value.

A run is a stretch of numbers, operators and equals signs; its sides stand between the equals signs.
A side is read by recursive descent, exactly, or not at all (None). `equations` says what is
compared. Offsets are characters of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 120  # tokens of one side; a longer one is dropped
LARGEST_POWER = 12
DIGITS = 30  # of one number
LOOK_BACK = 8  # tokens of a side that decide how the next one is read

_TOKEN = re.compile(
    r"""
    (?P<skip>[ \t\u00a0\u202f]+ | <<[^<>\n]*>> | \\[()\[\],;:!]\ ? | \\left\b | \\right\b | \\quad\b
        | \\(?:text|mathrm|mbox|textbf)\{[^{}\n]{0,60}\} | \\?[$£€&] | \\displaystyle\b)
    | (?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,]) | \d+\.\d+ | \d+ | (?<![\w.])\.\d+)
    | (?P<percent>\\?%)
    | (?P<fraction>\\[dt]?frac(?=\{))
    | (?P<operator>\*\* | [-+*/^×÷·−–⋅∗] | \\times\b | \\cdot\b | \\div\b)
    | (?P<equals>=(?![=>]))
    | (?P<open>[({\[] | \\boxed(?=\{))
    | (?P<close>[)}\]])
    | (?P<word>[^\W\d_](?:[^\W\d_]|['’-](?=[^\W\d_]))*)
    | (?P<line>\n)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPERATORS = {
    "×": "*", "·": "*", "⋅": "*", "∗": "*", "\\times": "*", "\\cdot": "*", "÷": "/", "\\div": "/",
    "−": "-", "–": "-", "**": "^",
}  # fmt: skip
_SPOKEN = {"times": "*", "plus": "+", "minus": "-", "x": "*", "X": "*", "of": "*"}
#: Words before an expression that make it part of something else.
_CHANGING = frozenset(
    "of times plus minus by than half twice double triple divided multiplied thrice quarter third"
    " less more square root log sin cos tan sqrt factorial mod modulo remainder average mean"
    " about roughly approximately nearly almost over per to".split()
)
#: Words that end an expression: what follows is said of something else.
_JOINING = frozenset("and or so is are was were be that which then because if has have had".split())
#: Words that stand for a number.
_AMOUNTS = frozenset(
    "hundred hundreds thousand thousands million millions billion dozen dozens half quarter"
    " percent pair pairs score k m bn mod remainder r".split()
)
#: Units that convert into one another: two of a row in one equation may make it right.
_SCALES = frozenset(
    "second seconds sec secs minute minutes min mins hour hours hr hrs day days week weeks month"
    " months year years decade decades century centuries inch inches foot feet ft yard yards mile"
    " miles meter meters metre metres cm mm km kilometer kilometers centimeter centimeters gram"
    " grams kg kilogram kilograms ounce ounces oz pound pounds lb lbs ton tons cent cents dollar"
    " dollars penny pennies nickel nickels dime dimes quarter quarters liter liters litre litres ml"
    " gallon gallons quart quarts pint pints cup cups tablespoon tablespoons teaspoon teaspoons"
    " trip trips degree degrees radians".split()
)


# ---------------------------------------------------------------------------- runs of tokens


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    stop: int


@dataclass
class EquationRun:
    """Tokens that may be an equation; sides are ranges of them, between the equals signs."""

    tokens: list[_Token]
    sides: list[tuple[int, int]]
    spoilt_before: bool
    spoilt_after: bool


_STARTS = ("number", "open", "fraction")


def _tokens(text: str) -> list[_Token]:
    found = []
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        if kind == "skip":
            continue
        said = match.group().strip()
        if kind == "operator":
            said = _OPERATORS.get(said, said)
        found.append(_Token(kind, said, match.start(), match.end()))
    return found


def read_runs(text: str) -> list[EquationRun]:
    """The longest stretches of numbers, operators and equals signs that have an equals sign."""
    if "=" not in text:
        return []
    tokens = _tokens(text)
    found: list[EquationRun] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token.kind not in (*_STARTS, "operator"):
            at += 1
            continue
        run, at = _run(tokens, at, text)
        if len(run.sides) > 1:
            found.append(run)
    return found


def _run(tokens: list[_Token], first: int, text: str) -> tuple[EquationRun, int]:
    """The run that begins at a token, and the token behind it."""
    kept: list[_Token] = []
    sides: list[tuple[int, int]] = []
    begin, at, spoilt_after = 0, first, False
    while at < len(tokens):
        token = tokens[at]
        if token.kind == "line":
            if at + 1 < len(tokens) and tokens[at + 1].kind == "equals" and kept:
                at += 1
                continue
            break
        if token.kind == "equals":
            sides.append((begin, len(kept)))
            begin = len(kept)
            at += 1
            continue
        side = kept[max(begin, len(kept) - LOOK_BACK) :]
        if token.kind == "word":
            stop, meaning = _words(tokens, at, side, text)
            if meaning is None:
                spoilt_after = _names(token, side, text)
                break
            kept += meaning
            at = stop
            continue
        if token.kind == "number" and side and side[-1].kind in ("number", "percent", "unit"):
            spoilt_after = side[-1].kind == "number"  # a mixed number, or digits with spaces
            break
        if token.kind == "other":
            spoilt_after = _spoils(token, text)
            break
        kept.append(token)
        at += 1
    sides.append((begin, len(kept)))
    return EquationRun(kept, sides, _spoilt_before(tokens, first, text), spoilt_after), max(
        at, first + 1
    )


def _words(
    tokens: list[_Token], at: int, kept: list[_Token], text: str
) -> tuple[int, list[_Token] | None]:
    """Words inside an expression: an operator, or the unit of a number; None: they end it."""
    last = kept[-1] if kept else None
    after_value = last is not None and last.kind in ("number", "percent", "close", "unit")
    stop = at
    while stop < len(tokens) and tokens[stop].kind == "word" and stop - at < 5:
        stop += 1
    words = tokens[at:stop]
    following = tokens[stop].kind if stop < len(tokens) else "line"
    spoken = [
        i for i, w in enumerate(words) if w.text in _SPOKEN or w.text in ("divided", "multiplied")
    ]
    if after_value and spoken and following in _STARTS:
        i = spoken[-1]
        tail = [w.text for w in words[i:]]
        if len(tail) == 1 and tail[0] in _SPOKEN:
            sign = _SPOKEN[tail[0]]
        elif tail in (["divided", "by"], ["multiplied", "by"]):
            sign = "/" if tail[0] == "divided" else "*"
        else:
            return stop, None
        if tail[0] == "of" and last is not None and last.kind != "percent" and not _divides(kept):
            return stop, None  # "3 of 4": not a product
        units = [_Token("unit", w.text.lower(), w.start, w.stop) for w in words[:i]]
        return stop, [*units, _Token("operator", sign, words[i].start, words[-1].stop)]
    if after_value and following in ("operator", "equals", "close"):
        if any(w.text.lower() in _JOINING for w in words) or _negative(tokens, stop, text):
            return at, None
        return stop, [_Token("unit", w.text.lower(), w.start, w.stop) for w in words]
    if last is not None and last.kind == "open" and following == "close":
        return stop, [_Token("unit", w.text.lower(), w.start, w.stop) for w in words]
    return at, None  # the unit of the last number, or other text: the expression is over


def _negative(tokens: list[_Token], at: int, text: str) -> bool:
    """Whether a minus belongs to the number behind it: "is -5"."""
    sign = tokens[at]
    return (
        sign.text == "-"
        and text[sign.stop : sign.stop + 1].isdigit()
        and (text[sign.start - 1 : sign.start].isspace())
    )


def _names(word: _Token, side: list[_Token], text: str) -> bool:
    """Whether a word behind a value is a variable ("6x", "(1/2)y", "3 * n")."""
    if not side:
        return True
    glued = text[side[-1].stop : word.start] == ""
    return (
        side[-1].kind == "operator"
        or (len(word.text) == 1 and word.text not in "aA")
        or (glued and side[-1].kind == "close")
    )


def _divides(kept: list[_Token]) -> bool:
    return any(t.text == "/" for t in kept[-4:]) or any(t.kind == "fraction" for t in kept[-8:])


def _spoils(token: _Token, text: str) -> bool:
    """Whether a sign behind an expression makes it another one."""
    if token.text == ":" and text[token.stop : token.stop + 1].isdigit():
        return True  # a time of day, or a ratio
    return token.text not in ".,;:!?\"'’”“`|~_<>•→⇒✓✅"


def _spoilt_before(tokens: list[_Token], first: int, text: str) -> bool:
    """Whether what stands before a run makes its first side another one."""
    if first == 0:
        return False
    before = tokens[first - 1]
    if before.kind == "line":
        return False
    if before.kind == "other":
        left = text[before.start - 1 : before.start]
        if (before.text == ":" and left.isdigit()) or (before.text == "_" and left.isalnum()):
            return True  # a time of day; an index, as in F_2
        return before.text not in ".,;:!?\"'’”“`|~_>•→⇒#"
    if before.kind != "word":
        return before.kind not in ("equals", "close", "unit")
    if tokens[first].kind == "operator" and not _negative(tokens, first, text):
        return True  # "the books - 135"
    if text[before.stop : tokens[first].start] == "" or len(before.text) == 1:
        return before.text not in "aA" or before.stop == tokens[first].start
    at = first - 1
    while at >= 0 and tokens[at].kind == "word":
        if tokens[at].text.lower() in _CHANGING and at == first - 1:
            return True
        at -= 1
    return at >= 0 and tokens[at].kind == "operator" and first - 1 - at <= 3


# ------------------------------------------------------------------------------------ a side


@dataclass(frozen=True)
class EquationSide:
    """One side of an equation, read."""

    written: str
    start: int
    stop: int
    values: tuple[Fraction, ...]  # with % as hundredths, and as it stands
    lead: tuple[Fraction, ...]  # values of the first number, for running sums
    operators: int
    exact: bool  # no division, no decimals
    decimals: int  # of a lone number
    lone: bool  # a single number
    scales: frozenset[str]


class _UnreadableError(Exception):
    """This side is not plain arithmetic."""


def read_side(tokens: list[_Token], text: str) -> EquationSide | None:
    """Read one side; None where it is not plain arithmetic."""
    tokens = _undressed(tokens, text)
    units = frozenset(t.text for t in tokens if t.kind == "unit")
    signs = [t for t in tokens if t.kind != "unit"]
    if not signs or len(signs) > LONGEST or units & _AMOUNTS or any(len(u) < 2 for u in units):
        return None
    scales = units & _SCALES
    if len({_singular(s) for s in scales}) > 1:
        return None
    try:
        reader = _Reader(signs, text, percent=Fraction(1, 100))
        values = [reader.whole()]
        if any(t.kind == "percent" for t in signs):
            values.append(_Reader(signs, text, percent=Fraction(1)).whole())
    except _UnreadableError:
        return None
    numbers = [t for t in signs if t.kind == "number"]
    lone = len(numbers) == 1 and reader.operators == 0
    lead = (_number(numbers[0]),) if signs[0].kind == "number" and reader.operators else ()
    places = len(numbers[0].text.partition(".")[2]) if lone else 0
    exact = not reader.divides and not any("." in t.text for t in numbers)
    exact = exact and not any(t.kind == "percent" for t in signs)
    return EquationSide(
        " ".join(t.text for t in signs), signs[0].start, signs[-1].stop, tuple(values), lead,
        reader.operators, exact, places, lone, frozenset(map(_singular, scales)),
    )  # fmt: skip


def _singular(word: str) -> str:
    return {"feet": "foot", "pennies": "penny"}.get(word, word.removesuffix("s"))


def _undressed(tokens: list[_Token], text: str) -> list[_Token]:
    """Without list marks in front, the stars of bold type, and brackets that lack a partner."""
    kept = list(tokens)
    while kept and kept[0].kind == "operator" and kept[0].text in "-+*^":
        spaced = text[kept[0].stop : kept[0].stop + 1] in (" ", "\t") or kept[0].text in "*^"
        begins = not text[: kept[0].start].rpartition("\n")[2].strip(" \t>*")
        if not ((spaced and begins) or kept[0].text in "*^"):
            break
        kept.pop(0)
    while kept and kept[-1].kind == "operator" and kept[-1].text in "*^":
        if text[kept[-1].stop : kept[-1].stop + 1].isalnum():
            break  # "* n", not bold type
        kept.pop()
    while kept and kept[0].kind == "open" and _open(kept) > 0:
        kept.pop(0)
    while kept and kept[-1].kind == "close" and _open(kept) < 0:
        kept.pop()
    return kept


def _open(tokens: list[_Token]) -> int:
    return sum((t.kind == "open") - (t.kind == "close") for t in tokens)


def _number(token: _Token) -> Fraction:
    digits = token.text.replace(",", "")
    if len(digits) > DIGITS:
        raise _UnreadableError
    return Fraction(digits if digits[0] != "." else f"0{digits}")


class _Reader:
    """Recursive descent over the tokens of one side."""

    def __init__(self, tokens: list[_Token], text: str, percent: Fraction) -> None:
        self._tokens, self._text, self._percent, self._at = tokens, text, percent, 0
        self.operators, self.divides = 0, False

    def whole(self) -> Fraction:
        """The value of all tokens."""
        value = self._sum()
        if self._at < len(self._tokens):
            raise _UnreadableError
        return value

    def _next(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _sign(self, wanted: str) -> str | None:
        token = self._next()
        if token is None or token.kind != "operator" or token.text not in wanted:
            return None
        self._at += 1
        return token.text

    def _sum(self) -> Fraction:
        value = self._product()
        while sign := self._sign("+-"):
            self.operators += 1
            other = self._product()
            value = value + other if sign == "+" else value - other
        return value

    def _product(self) -> Fraction:
        value, divided = self._power(), False
        while True:
            sign = self._sign("*/")
            if sign is None:
                token, before = self._next(), self._tokens[self._at - 1]
                if token is None or token.kind not in _STARTS or before.kind == "percent":
                    return value
                glued = self._text[before.stop : token.start].strip("$ ") == ""
                if (
                    divided
                    or not glued
                    or "open" not in (token.kind, before.kind.replace("close", "open"))
                ):
                    raise _UnreadableError  # 6/2(3) can be read in two ways
                sign = "*"
            self.operators += 1
            other = self._power()
            if sign == "*":
                value *= other
                continue
            self.divides = divided = True
            if other == 0:
                raise _UnreadableError
            value /= other

    def _power(self) -> Fraction:
        value = self._signed()
        if self._sign("^"):
            self.operators += 1
            exponent = self._power()
            if exponent.denominator != 1 or abs(exponent) > LARGEST_POWER or abs(value) > 10**6:
                raise _UnreadableError
            if value == 0 and exponent < 0:
                raise _UnreadableError
            value = value ** int(exponent)
        return value

    def _signed(self) -> Fraction:
        if self._sign("-"):
            return -self._power()
        if self._sign("+"):
            return self._power()
        return self._atom()

    def _atom(self) -> Fraction:
        token = self._next()
        if token is None:
            raise _UnreadableError
        self._at += 1
        if token.kind == "number":
            value = _number(token)
            if (mark := self._next()) is not None and mark.kind == "percent":
                self._at += 1
                value *= self._percent
            return value
        if token.kind == "fraction":
            self.operators += 1
            self.divides = True
            above, below = self._bracket(), self._bracket()
            if below == 0:
                raise _UnreadableError
            return above / below
        if token.kind == "open":
            self._at -= 1
            return self._bracket()
        raise _UnreadableError

    def _bracket(self) -> Fraction:
        token = self._next()
        if token is None or token.kind != "open":
            raise _UnreadableError
        self._at += 2 if token.text == "\\boxed" else 1
        value = self._sum()
        token = self._next()
        if token is None or token.kind != "close":
            raise _UnreadableError
        self._at += 1
        return value
