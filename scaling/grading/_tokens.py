r"""Split a mathematical text into tokens: LaTeX, plain text, and the text of algebra systems alike.

Every character must belong to a token, or the text is not understood: `NotUnderstoodError` is the
only other result. A reader that takes the number it finds and drops the rest accepts
`\ge 7`, `7!` and `7 \text{ million}` for 7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction


class NotUnderstoodError(Exception):
    """The text is not an expression that the reader knows as a whole."""


@dataclass(frozen=True)
class Token:
    """One token.

    Attributes:
        kind: "num", "sym", "fn", "cmd", "op", "open", "close", "sep", "text" or "matrix".
        value: the operator, name or content; for a number its digits as written.
        number: the exact value of a number.
        exact: whether a number is exact; False for a decimal fraction of 12 digits or more, which
            may be rounded.
    """

    kind: str
    value: str
    number: Fraction = Fraction(0)
    exact: bool = True


FUNCTIONS = frozenset(
    "sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arccot arcsec arccsc "
    "asin acos atan log ln lg exp sqrt cbrt abs max min gcd lcm floor ceil factorial binomial"
    .split()
)  # fmt: skip
GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi "
    "rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi "
    "Omega ell hbar triangle angle measuredangle overline overrightarrow vec hat parallel perp"
    .split()
)  # fmt: skip
MAGNITUDES = {
    "dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9,
    "trillion": 10**12,
}  # fmt: skip
SHORT_UNITS = frozenset(
    "cm km mm kg mg ml ft mph kph kmh lb lbs oz hr hrs mi pct deg sq th st nd rd usd eur yd rad ms"
    .split()
)  # fmt: skip
CURRENCIES = frozenset("usd eur gbp rs inr dollars dollar us".split())
# Words that change what a value means: with one of them the text is more than value and unit.
LOGIC = frozenset(
    "to if iff mod modulo when where for else otherwise and or least most than not no "
    "about approximately almost nearly between unless is are was plus minus times only except "
    "unknown undefined half quarter third double twice up down but then such that all any each "
    "some none exist exists solution solutions answer wait base".split()
)

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∗": "*", "÷": "/", "⁄": "/", "∕": "/", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ",
    "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∞": r"\infty ", "π": r"\pi ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm ", "∓": r"\mp ", "º": "°",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ",
    "ω": r"\omega ", "φ": r"\phi ", "μ": r"\mu ", "σ": r"\sigma ", "∠": r"\angle ",
    "ℝ": r"\mathbb{R}",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}",
    "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}", "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}",
    "\u00a0": " ", "\u2009": r"\,", "\u202f": r"\,", "\u2006": r"\,", "\u2007": r"\,",
    "\u200a": r"\,", "\u2008": r"\,", "\u2005": r"\,", "\u2004": r"\,", "\u2003": " ",
    "\u2002": " ", "\u200b": "", "\ufeff": "", "’": "'", "′": "'", "（": "(", "）": ")", "，": ",",
    "£": "$", "€": "$", "¥": "$", "₹": "$", "✓": r"\checkmark ", "✅": r"\checkmark ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ",
    "⌉": r"\rceil ", "→": r"\to ", "…": r"\ldots ",
}  # fmt: skip
_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUB = str.maketrans("₀₁₂₃₄₅₆₇₈₉₋₊ₙ", "0123456789-+n")
_ROOT = re.compile(r"√\s*(\d+|[A-Za-z]|(?=[({]))")

_SPACE = re.compile(
    r"(?:\s|~|\$|\\[,;:! >\n]|\\\$|\\\(|\\\)|\\\[|\\\]"
    r"|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|[lL]arge|LARGE|[hH]uge|small|normalsize|bf|rm|it|ldotp|limits|nolimits"
    r"|checkmark|quad|qquad|thinspace|hspace\*?\{[^{}]*\}|hfill)(?![a-zA-Z])\.?)+"
)
_DIGITS = r"\d+"
# A separator of thousands; the group behind it has three digits.
_THIN = r"(?:\\,|\\;|\\:|\\!|\\ |~|\{\\,\}|(?<=\d) (?=\d))"
_GROUPED = re.compile(
    rf"\d{{1,3}}(?:(?:(?:\{{,\}}|,\s*\\[!,]\s*|\\text\{{,\}})\d{{3}})+|(?:,\d{{3}})+|(?:{_THIN}\d{{3}})+)"
    r"(?!\d)(?:\.\d+)?"
)
_PLAIN = re.compile(r"\d+\.\d+|\d+\.(?!\w)|\.\d+|\d+")
_REPEATING = re.compile(r"\s*\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))")
_EXPONENT = re.compile(r"[eE][-+]?\d{1,5}(?![\w.])")
_COMMAND = re.compile(r"\\([a-zA-Z]+)\*?")
_TEXT_COMMANDS = frozenset(
    "text textbf textit textrm textsf texttt textnormal mathrm mbox hbox operatorname mathsf "
    "mathit textsc emph mathtt".split()
)
_WRAPPERS = frozenset("mathbf boldsymbol bm boxed fbox underline ensuremath mathbb mathcal".split())
_RELATIONS = {
    "le": "<=", "leq": "<=", "leqslant": "<=", "leqq": "<=", "lt": "<", "gt": ">", "ge": ">=",
    "geq": ">=", "geqslant": ">=", "geqq": ">=", "ne": "!=", "neq": "!=", "in": "in",
    "approx": "~", "sim": "~", "colon": ":", "mid": ":",
}  # fmt: skip
_OPERATORS = {
    "cdot": "*", "times": "*", "div": "/", "ast": "*", "pm": "pm", "mp": "mp", "cup": "cup",
    "cap": "cap", "setminus": "setminus", "backslash": "setminus", "prime": "'", "circ": "deg",
    "degree": "deg", "deg": "deg", "%": "%", "percent": "%", "over": "over", "choose": "choose",
    "bigcup": "cup", "lor": "or", "vee": "or", "land": "and", "wedge": "and",
}  # fmt: skip
_OPEN = {"langle": "<(", "lfloor": "lfloor", "lceil": "lceil", "lvert": "|", "lbrace": "{{",
         "lbrack": "["}  # fmt: skip
_CLOSE = {"rangle": ">)", "rfloor": "rfloor", "rceil": "rceil", "rvert": "|", "rbrace": "}}",
          "rbrack": "]"}  # fmt: skip
_SYMBOLS = {"infty": "oo", "infinity": "oo", "oo": "oo", "inf": "oo", "pi": "pi",
            "emptyset": "empty", "varnothing": "empty", "imath": "i"}  # fmt: skip
_BUILDERS = {"frac": "frac", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "nicefrac": "frac",
             "sfrac": "frac", "sqrt": "sqrt",
             "binom": "binom", "dbinom": "binom", "tbinom": "binom"}  # fmt: skip
_BLANKS = ("quad", "qquad", "hfill", "checkmark")
_TWO = {"<=": "<=", ">=": ">=", "!=": "!=", "==": "=", "**": "^", "=<": "<=", "=>": None}
_LETTER_UNIT = re.compile(r"[msghLJNWVK](?:/[a-z]{1,3})?(?:\^\{?-?[1-3]\}?)?")  # m, m/s^2
_NUMBER_FIRST = re.compile(r"(?:\\?\$)?\s*-?\d[\d.,]*\s+[A-Za-z]")
_LABELLED = re.compile(r"[A-Za-z ]+:\s*(?:\\?\$)?-?[\d.,]+")
_TIMES = re.compile(r"\s*\d")
_KNOWN_COMMANDS = (
    FUNCTIONS | GREEK | _RELATIONS.keys() | _OPERATORS.keys() | _SYMBOLS.keys() | _BUILDERS.keys()
)


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


def tidy(text: str) -> str:
    """`text` with the Unicode forms of mathematics written as LaTeX."""
    for sign, latex in _UNICODE.items():
        if sign in text:
            text = text.replace(sign, latex)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + m[0].translate(_SUPER) + "}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉₋₊ₙ]+", lambda m: "_{" + m[0].translate(_SUB) + "}", text)
    text = re.sub(r"(?<![A-Za-z])\{([:=-])\}", r"\1", text)
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1]}}}" if m[1] else r"\sqrt", text)
    return text.strip()


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
            space = _SPACE.match(self.text, self.at)
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
        grouped = None if self.lists else _GROUPED.match(self.text, self.at)
        if grouped and self.depth and re.fullmatch(r"\d+(,[1-9]\d\d)+", grouped[0]):
            grouped = None  # "(1,234)" is a point
        match = grouped or _PLAIN.match(self.text, self.at)
        if match is None:
            if self.at == len(self.text) - 1:  # the full stop at the end
                self.at += 1
                return
            raise NotUnderstoodError(self.text)
        digits = re.sub(r"[^\d.]", "", match[0])
        self.at = match.end()
        value = Fraction((digits + "0") if digits.endswith(".") else digits)
        repeating = _REPEATING.match(self.text, self.at) if "." in digits else None
        if repeating:
            period = repeating[1] or repeating[2]
            places = len(digits.partition(".")[2])
            value += Fraction(int(period), (10 ** len(period) - 1) * 10**places)
            self.at = repeating.end()
        exponent = _EXPONENT.match(self.text, self.at)
        if exponent and not repeating:
            value *= Fraction(10) ** int(exponent[0][1:])
            self.at = exponent.end()
            digits += exponent[0]
        rounded = "." in digits and len(digits.strip("0.")) >= 12 and not repeating
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
        match = _COMMAND.match(text, self.at)
        if match is None:
            raise NotUnderstoodError(text)
        name, self.at = match[1], match.end()
        if name in _TEXT_COMMANDS:
            self._in_words(name)
        elif name == "equiv" and "\\pmod" in self.text:
            self.add("op", "=")
        elif name == "pmod" and "\\equiv" in self.text:
            _, self.at = group(self.text, self._skip())
        elif name == "begin":
            self._environment()
        elif name in ("color", "textcolor", "tag", "label", "phantom", "hphantom"):
            _, self.at = group(text, self._skip())
        elif name in _WRAPPERS:
            if name in ("mathbb", "mathcal"):
                start = self._skip()
                if text.startswith("{", start):
                    content, self.at = group(text, start)
                else:
                    content, self.at = text[start : start + 1], start + 1
                self.add("sym", "\\" + name + content.strip())
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
        if name not in _KNOWN_COMMANDS and (name[:-1] in FUNCTIONS or name[:-1] in _BLANKS):
            self.at -= 1
            name = name[:-1]
        if name in _BLANKS:
            return
        if name in _BUILDERS:
            self.add("cmd", _BUILDERS[name])
        elif name in _RELATIONS:
            self.add("op", _RELATIONS[name])
        elif name in _OPERATORS:
            value = _OPERATORS[name]
            self.add("sep" if value in ("and", "or") else "op", value)
        elif name in _OPEN:
            self.depth += 1
            self.add("op" if _OPEN[name] == "|" else "open", _OPEN[name])
        elif name in _CLOSE:
            self.depth -= 1
            self.add("op" if _CLOSE[name] == "|" else "close", _CLOSE[name])
        elif name in _SYMBOLS:
            self.add("sym", _SYMBOLS[name])
        elif name in FUNCTIONS:
            self.add("fn", name)
        elif name in ("triangle", "angle", "measuredangle", "overline", "overrightarrow", "vec",
                      "hat", "bar"):  # fmt: skip
            self._named_figure(name)
        elif name in GREEK:
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
        letters = letters.strip()
        if not re.fullmatch(r"[A-Za-z]'?(?:[A-Za-z_0-9']*)", letters):
            raise NotUnderstoodError(self.text)
        self.add("sym", f"{name} {letters}")

    def _in_words(self, name: str) -> None:
        content, self.at = group(self.text, self._skip())
        words = content.strip().strip("~").strip()
        lower = words.lower().strip(",;: ")
        if not words or re.fullmatch(r"\\?\$", words):
            return
        if lower in ("and", "or"):
            self.add("sep", lower)
        elif words in ("°", r"$^\circ$", r"^\circ", r"$^{\circ}$"):
            self.add("op", "deg")
        elif words in FUNCTIONS:
            self.add("fn", words)
        elif _LETTER_UNIT.fullmatch(words) and self.found and self.found[-1].kind == "num":
            self.add("text", words)
        elif not re.search(r"[a-zA-Z]{2}|[A-Za-z]\s", re.sub(r"\\[a-zA-Z]+\s*", "", words)):
            self.found += _Tokenizer(tidy(words), self.lists).run()
        elif name == "operatorname" and words not in SHORT_UNITS:
            self.add("sym", words)
        elif _NUMBER_FIRST.match(words):  # \text{18 dollars}
            self.found += _Tokenizer(tidy(words), self.lists).run()
        elif _LABELLED.fullmatch(words):  # \text{Total: 18}
            label, _, rest = words.partition(":")
            self.add("text", label + ":")
            self.found += _Tokenizer(tidy(rest), self.lists).run()
        else:
            self.add("text", words)

    def _environment(self) -> None:
        name, self.at = group(self.text, self._skip())
        if not re.fullmatch(r"[pbvBV]?(?:small)?matrix|array", name.rstrip("*")):
            raise NotUnderstoodError(self.text)
        if name == "array":
            _, self.at = group(self.text, self._skip())
        end = f"\\end{{{name}}}"
        close = self.text.find(end, self.at)
        content = self.text[self.at : close]
        if close < 0 or "\\begin" in content:
            raise NotUnderstoodError(self.text)
        self.at = close + len(end)
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
        elif run in FUNCTIONS:
            self.add("fn", run)
        elif run in ("pi", "Pi", "infty", "oo", "inf", "Infinity", "infinity"):
            self.add("sym", "pi" if lower == "pi" else "oo")
        elif run in GREEK:
            self.add("sym", run)
        elif split:
            self.add("fn", split[1])
            self.add("sym", split[2])
        elif (
            run == "x"
            and self.found
            and self.found[-1].kind == "num"
            and _TIMES.match(self.text, self.at)
        ):  # 1.5 x 10^3, 9 x 2
            self.add("op", "*")
        elif len(run) == 1 and run.isascii():
            self.add("sym", run)
        elif lower in SHORT_UNITS or lower in LOGIC or _is_word(run):
            self.add("text", run)
        elif run.isascii():
            for letter in run:
                self.add("sym", letter)
        else:
            raise NotUnderstoodError(self.text)

    def _sign(self, letter: str) -> None:
        two = self.text[self.at : self.at + 2]
        if two in _TWO:
            value = _TWO[two]
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
