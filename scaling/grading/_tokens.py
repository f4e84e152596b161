r"""Split a mathematical text into tokens: LaTeX, plain text, and the text of algebra systems alike.

Every character must belong to a token, or the text is not understood: `NotUnderstoodError` is the
only other result. A reader that takes the number it finds and drops the rest accepts
`\ge 7`, `7!` and `7 \text{ million}` for 7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from scaling.grading import _notation as notation
from scaling.grading._tidy import tidy


class NotUnderstoodError(Exception):
    """The text is not an expression that the reader knows as a whole."""


@dataclass(frozen=True)
class Token:
    """One token.

    Attributes:
        kind: "num", "sym", "fn", "cmd", "op", "open", "close", "sep", "text" or "matrix".
        value: the operator, name or content; for a number its digits as written.
        number: the exact value of a number.
        exact: whether a number is exact; False for a decimal fraction of 12 digits or more, six of
            them behind the point, which may be rounded.
    """

    kind: str
    value: str
    number: Fraction = Fraction(0)
    exact: bool = True


def group(text: str, start: int) -> tuple[str, int]:
    """The content of the brace group that opens at `start`.

    Args:
        text: any text.
        start: position of the opening brace.

    Returns:
        The content and the position behind the closing brace.

    Raises:
        NotUnderstoodError: there is no balanced group at `start`.
    """
    if not text.startswith("{", start):
        raise NotUnderstoodError(text)
    depth, position = 0, start
    while position < len(text):
        letter = text[position]
        if letter == "\\":
            position += 1
        elif letter == "{":
            depth += 1
        elif letter == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : position], position + 1
        position += 1
    raise NotUnderstoodError(text)


def tokens(text: str, lists: bool = False) -> list[Token]:
    """Split `text` into tokens.

    Args:
        text: the text, as `tidy` returns it.
        lists: whether "1,234" is a list of two numbers, and not one number.

    Returns:
        The tokens.

    Raises:
        NotUnderstoodError: a part of the text is no token.
    """
    return _Tokenizer(text, lists).run()


class _Tokenizer:
    def __init__(self, text: str, lists: bool) -> None:
        self.text, self.lists = text, lists
        self.at = 0
        self.depth = 0  # open brackets, inside which a comma separates
        self.found: list[Token] = []

    def run(self) -> list[Token]:
        while self.at < len(self.text):
            space = notation.SPACE.match(self.text, self.at)
            if space:
                self.at = space.end()
                continue
            letter = self.text[self.at]
            if letter.isascii() and (letter.isdigit() or letter == "."):
                self._number()
            elif letter == "\\":
                self._command()
            elif letter.isalpha():
                self._letters()
            else:
                self._sign(letter)
        return self.found

    def add(self, kind: str, value: str) -> None:
        self.found.append(Token(kind, value))

    def _number(self) -> None:
        grouped = None if self.lists else notation.GROUPED.match(self.text, self.at)
        if grouped and self.depth and re.fullmatch(r"\d+(,[1-9]\d\d)+", grouped[0]):
            grouped = None  # "(1,234)" is a point
        pointed = notation.POINTED.match(self.text, self.at)
        match = grouped or pointed or notation.PLAIN.match(self.text, self.at)
        if match is None:
            if self.at == len(self.text) - 1:  # the full stop at the end
                self.at += 1
                return
            raise NotUnderstoodError(self.text)
        written = match[0]
        if match is pointed:
            written = re.sub(r",|\{,\}", ";", written).replace(".", "").replace(";", ".")
        digits = re.sub(r"[^\d.]", "", written)
        self.at = match.end()
        value = Fraction(f"0{digits}0" if digits.endswith(".") else digits)
        repeating = notation.REPEATING.match(self.text, self.at) if "." in digits else None
        if repeating:
            period = "".join(part for part in repeating.groups() if part)
            places = len(digits.partition(".")[2])
            value += Fraction(int(period), (10 ** len(period) - 1) * 10**places)
            self.at = repeating.end()
        exponent = notation.EXPONENT.match(self.text, self.at)
        if exponent and not repeating:
            value *= Fraction(10) ** int(exponent[0][1:])
            self.at = exponent.end()
            digits += exponent[0]
        places = len(digits.partition(".")[2])  # 10^20 + 0.5 is written to its last digit
        rounded = places >= 6 and len(digits.strip("0.")) >= 12 and not repeating
        self.found.append(Token("num", digits, value, not rounded))

    def _command(self) -> None:
        text = self.text
        if text.startswith("\\\\", self.at):
            raise NotUnderstoodError(text)
        for sign, token in (("\\{", Token("open", "{{")), ("\\}", Token("close", "}}")),
                            ("\\%", Token("op", "%")), ("\\|", Token("op", "|")),
                            ("\\&", Token("sep", "and")),
                            ("\\_", Token("op", "_"))):  # fmt: skip
            if text.startswith(sign, self.at):
                self.at += len(sign)
                self.depth += (token.kind == "open") - (token.kind == "close")
                self.found.append(token)
                return
        match = notation.COMMAND.match(text, self.at)
        if match is None:
            raise NotUnderstoodError(text)
        name, self.at = match[1], match.end()
        if name in notation.TEXT_COMMANDS:
            self._in_words(name)
        elif name == "equiv" and re.search(r"\\[pb]mod", self.text):
            self.add("op", "=")
        elif name in ("pmod", "bmod") and "\\equiv" in self.text:
            modulus = re.compile(r"\s*(?:\{[^{}]*\}|\d+)\s*").match(self.text, self.at)
            if modulus is None:
                raise NotUnderstoodError(text)
            self.at = modulus.end()
        elif name == "pmod":  # a residue; its modulus is spelled in letters
            modulus, self.at = group(text, self._skip())
            self.add("text", "residue" + "".join(chr(ord("a") + ord(x) % 26) for x in modulus))
        elif name == "begin":
            self._environment()
        elif name in ("color", "textcolor", "colorbox", "tag", "label", "phantom", "hphantom"):
            _, self.at = group(text, self._skip())
        elif name in notation.WRAPPERS:
            if name in ("mathbb", "Bbb", "mathcal"):
                start = self._skip()
                if text.startswith("{", start):
                    content, self.at = group(text, start)
                else:
                    content, self.at = text[start : start + 1], start + 1
                self.add("sym", "\\" + name.replace("Bbb", "mathbb") + content.strip())
            elif text.startswith("{", self._skip()):
                content, self.at = group(text, self._skip())
                self.found += _Tokenizer(content, self.lists).run()
        else:
            self._named(name)

    def _skip(self) -> int:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.at

    def _named(self, name: str) -> None:
        r"""A command of mathematics; `\cotx` is `\cot x`."""
        if name not in notation.KNOWN_COMMANDS and (
            name[:-1] in notation.FUNCTIONS or name[:-1] in notation.BLANKS
        ):
            self.at -= 1
            name = name[:-1]
        if name in notation.BLANKS:
            return
        if name in notation.BUILDERS:
            self.add("cmd", notation.BUILDERS[name])
        elif name in notation.RELATIONS:
            self.add("op", notation.RELATIONS[name])
        elif name in notation.OPERATORS:
            value = notation.OPERATORS[name]
            self.add("sep" if value in ("and", "or") else "op", value)
        elif name in notation.OPEN:
            self.depth += 1
            self.add("op" if notation.OPEN[name] == "|" else "open", notation.OPEN[name])
        elif name in notation.CLOSE:
            self.depth -= 1
            self.add("op" if notation.CLOSE[name] == "|" else "close", notation.CLOSE[name])
        elif name in notation.SYMBOLS:
            self.add("sym", notation.SYMBOLS[name])
        elif name in notation.FUNCTIONS:
            self.add("fn", name)
        elif name in ("triangle", "angle", "measuredangle", "overline", "overrightarrow", "vec",
                      "hat", "bar"):  # fmt: skip
            self._named_figure(name)
        elif name in notation.GREEK:
            self.add("sym", name)
        else:
            raise NotUnderstoodError(self.text)

    def _named_figure(self, name: str) -> None:
        r"""`\angle ABC`, `\overline{AB}`: one name."""
        start = self._skip()
        if self.text.startswith("{", start):
            letters, self.at = group(self.text, start)
        else:
            match = re.compile(r"[A-Za-z]+").match(self.text, start)
            letters = match[0] if match else ""
            self.at = match.end() if match else start
        letters = letters.strip().removeprefix("\\").replace("math", "")
        if name in ("hat", "vec", "bar") and letters in ("i", "j", "k"):
            self.add("sym", letters)  # a basis vector, as in bold type
            return
        if not re.fullmatch(r"[A-Za-z]'?(?:[A-Za-z_0-9']*)", letters):
            raise NotUnderstoodError(self.text)
        self.add("sym", f"{name} {letters}")

    def _in_words(self, name: str) -> None:
        content, self.at = group(self.text, self._skip())
        words = content.strip().strip("~").strip()
        lower = words.lower().strip(",;: ")
        if not words or re.fullmatch(r"\\?\$", words):
            return
        between = self.found[-1].kind if self.found else ""
        if lower in ("and", "or"):
            self.add("sep", lower)
        elif words == "U" and between == "close":
            self.add("op", "cup")
        elif lower == "x" and between == "num":
            self.add("op", "*")
        elif (
            not between
            and len(parts := notation.BOTH_NAMES.split(words)) > 1
            and all(re.fullmatch(r"[A-Z]|[A-Za-z]{3,}", part) for part in parts)
        ):
            for part in parts:  # \text{A and C}
                kind = "sym" if len(part) == 1 else "text"
                self.found += [Token("sep", ","), Token(kind, part)]
            del self.found[0]
        elif words in ("°", r"$^\circ$", r"^\circ", r"$^{\circ}$"):
            self.add("op", "deg")
        elif words in notation.FUNCTIONS and not (words == "min" and between == "num"):
            self.add("fn", words)
        elif notation.LETTER_UNIT.fullmatch(words) and between in ("num", "text"):
            self.add("text", words)
        elif not re.search(
            r"[a-zA-Z]{2}|[A-Za-z][\s.](?!\s*[=+])", re.sub(r"\\[a-zA-Z]+\s*", "", words)
        ):
            self.found += _Tokenizer(tidy(words), self.lists).run()
        elif name == "operatorname" and words not in notation.SHORT_UNITS:
            self.add("sym", words)
        elif notation.NUMBER_FIRST.match(words):  # \text{18 dollars}
            self.found += _Tokenizer(tidy(words), self.lists).run()
        elif notation.LABELLED.fullmatch(words):  # \text{Total: 18}
            label, _, rest = words.partition(":")
            self.add("text", label + ":")
            self.found += _Tokenizer(tidy(rest), self.lists).run()
        else:
            self.add("text", words)

    def _environment(self) -> None:
        name, self.at = group(self.text, self._skip())
        system = name.rstrip("*") in ("cases", "aligned", "align", "gathered")
        if not system and not re.fullmatch(r"[pbvBV]?(?:small)?matrix|array", name.rstrip("*")):
            raise NotUnderstoodError(self.text)
        if name == "array":
            _, self.at = group(self.text, self._skip())
        end = f"\\end{{{name}}}"
        close = self.text.find(end, self.at)
        content = self.text[self.at : close]
        if close < 0 or "\\begin" in content:
            raise NotUnderstoodError(self.text)
        self.at = close + len(end)
        if system:  # equations of unknowns; "x & \\text{if} ..." is not understood
            rows = [row.strip().rstrip(",") for row in content.split("\\\\") if row.strip()]
            if not all(re.fullmatch(r"[A-Za-z]\s*&?=[^&]*", row) for row in rows):
                raise NotUnderstoodError(self.text)
            self.found += _Tokenizer(", ".join(rows).replace("&", ""), self.lists).run()
            return
        content = re.sub(r"\\cr(?![a-zA-Z])", r"\\\\", content)
        self.add("matrix", ("|" if name[0] in "vV" else "") + content)

    def _letters(self) -> None:
        match = re.compile(r"[^\W\d_]+").match(self.text, self.at)
        if match is None:
            raise NotUnderstoodError(self.text)
        run, self.at = match[0], match.end()
        lower = run.lower()
        split = re.fullmatch(r"(a?sin|a?cos|a?tan|cot|sec|csc|log|ln|sqrt)([a-z]|pi|theta)", run)
        between = self.found and self.found[-1].kind == "close"
        if run == "U" and between and re.match(r"\s*(?:\\left)?\s*[(\[]", self.text[self.at :]):
            self.add("op", "cup")
        elif lower in ("and", "or") or lower == "union":
            self.add("op" if lower == "union" else "sep", "cup" if lower == "union" else lower)
        elif run in notation.FUNCTIONS:
            self.add("fn", run)
        elif run in ("pi", "Pi", "infty", "oo", "inf", "Infinity", "infinity"):
            self.add("sym", "pi" if lower == "pi" else "oo")
        elif run in notation.GREEK:
            self.add("sym", run)
        elif split:
            self.add("fn", split[1])
            self.add("sym", split[2])
        elif (
            run in ("x", "X")
            and self.found
            and self.found[-1].kind == "num"
            and notation.TIMES.match(self.text, self.at)
        ):  # 1.5 x 10^3, 9 x 2
            self.add("op", "*")
        elif (
            self.found
            and self.found[-1].kind == "num"
            and self.text[match.start() - 1].isspace()
            and (unit := notation.SPACED_UNIT.match(self.text, match.start()))
        ):
            self.at = unit.end()
            self.add("text", unit[0].rstrip("."))
        elif len(run) == 1 and run.isascii():
            self.add("sym", run)
        elif (
            lower in notation.SHORT_UNITS
            or run in notation.CASED_UNITS
            or lower in notation.LOGIC
            or _is_word(run)
        ):
            self.add("text", run)
        elif run.isascii():
            for letter in run:
                self.add("sym", letter)
        else:
            raise NotUnderstoodError(self.text)

    def _sign(self, letter: str) -> None:
        two = self.text[self.at : self.at + 2]
        if two in notation.TWO:
            value = notation.TWO[two]
            if value is None:
                raise NotUnderstoodError(self.text)
            self.add("op", value)
            self.at += 2
            return
        self.at += 1
        if letter in "([":
            self.depth += 1
            self.add("open", letter)
        elif letter in ")]":
            self.depth -= 1
            self.add("close", letter)
        elif letter in "{}":
            self.add("open" if letter == "{" else "close", letter)
        elif letter in "+-*/^_!|=<>:'%&":
            self.add("op", letter)
        elif letter == "°":
            self.add("op", "deg")
        elif letter in ",;":
            self.add("sep", letter)
        else:
            raise NotUnderstoodError(self.text)


def _is_word(run: str) -> bool:
    """Whether a run of letters is a word of a language, and not a product of variables."""
    if len(run) < 3 or (run.isupper() and len(run) < 5):
        return False
    return bool(re.search("[aeiouyAEIOUY]", run)) and not re.fullmatch(r"[a-d]+|[x-z]+", run)
