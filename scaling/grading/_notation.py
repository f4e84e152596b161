"""The notation of answers as data: commands, functions, units, separators, Unicode forms."""

from __future__ import annotations

import re

RELATION_SIGNS = ("=", "<", ">", "<=", ">=", "!=", "in", "~")
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arccot arcsec arccsc "
    "asin acos atan tg ctg arctg cis log ln lg exp sqrt cbrt abs max min gcd lcm floor ceil "
    "factorial binomial"
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
    "some none exist exists solution solutions answer wait base squared cubed "
    "factorial halves thirds fourths quarters fifths sixths eighths tenths hundredths thousandths "
    "lakh crore gross below negative wrong incorrect false maybe perhaps less fewer".split()
)
# No unit either, though a sentence may say them beside its value.
NO_UNITS = LOGIC | frozenset(
    "divided multiplied added subtracted raised over under short score mil bn tn debt loss either "
    "neither nor".split()
)


SPACE = re.compile(
    r"(?:\s|~|\$|\\[,;:! >\n]|\\\$|\\\(|\\\)|\\\[|\\\]"
    r"|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|[lL]arge|LARGE|[hH]uge|small|normalsize|bf|rm|it|ldotp|limits|nolimits"
    r"|checkmark|quad|qquad|thinspace|hspace\*?\{[^{}]*\}|hfill)(?![a-zA-Z])\.?)+"
)
# A separator of thousands; the group behind it has three digits.
THIN = r"(?:\\thinspace\s*|\\,|\\;|\\:|\\!|\\ |~|\{\\,\}|(?<=\d) (?=\d))"
GROUPED = re.compile(
    rf"\d{{1,3}}(?:(?:(?:\{{,\}}(?:\\!)?|,\s*\\[!,]\s*|\\text\{{,\}}|,)\d{{3}})+|(?:{THIN}\d{{3}})+"
    r"|(?:'\d{3})+|(?:_\d{3}){2,})(?!\d)(?:\.\d+)?"
)
# 1.234.567 and 1.234,50; 3{,}14
POINTED = re.compile(r"\d{1,3}(?:\.\d{3}){2,}(?!\d)|\d{1,3}(?:\.\d{3})+,\d{1,2}(?!\d)|\d+\{,\}\d+")
PLAIN = re.compile(r"\d+\.\d+|\d+\.(?!\w)|\.(?=\d|\s*\\(?:overline|bar|dot))\d*|\d+")
REPEATING = re.compile(
    r"\s*\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))(?:(\d*)\s*\\dot\s*\{?(\d)\}?)?|(?<=\.)\((\d+)\)"
)
EXPONENT = re.compile(r"[eE][-+]?\d{1,5}(?![\w.])")
COMMAND = re.compile(r"\\([a-zA-Z]+)\*?")
TEXT_COMMANDS = frozenset(
    "text textbf textit textrm textsf texttt textnormal mathrm mbox hbox operatorname mathsf "
    "mathit textsc emph mathtt".split()
)
WRAPPERS = frozenset(
    "mathbf boldsymbol bm boxed fbox underline ensuremath mathbb Bbb mathcal mathop bold "
    "pmb".split()
)
RELATIONS = {
    "le": "<=", "leq": "<=", "leqslant": "<=", "leqq": "<=", "lt": "<", "gt": ">", "ge": ">=",
    "geq": ">=", "geqslant": ">=", "geqq": ">=", "ne": "!=", "neq": "!=", "in": "in",
    "approx": "~", "sim": "~", "colon": ":", "mid": ":",
}  # fmt: skip
OPERATORS = {
    "cdot": "*", "times": "*", "div": "/", "ast": "*", "pm": "pm", "mp": "mp", "cup": "cup",
    "cap": "cap", "setminus": "setminus", "backslash": "setminus", "prime": "'", "circ": "deg",
    "degree": "deg", "deg": "deg", "%": "%", "percent": "%", "over": "over", "choose": "choose",
    "bigcup": "cup", "lor": "or", "vee": "or", "land": "and", "wedge": "and",
}  # fmt: skip
OPEN = {"langle": "<(", "lfloor": "lfloor", "lceil": "lceil", "lvert": "|", "lbrace": "{{",
         "lbrack": "["}  # fmt: skip
CLOSE = {"rangle": ">)", "rfloor": "rfloor", "rceil": "rceil", "rvert": "|", "rbrace": "}}",
          "rbrack": "]"}  # fmt: skip
SYMBOLS = {"infty": "oo", "infinity": "oo", "oo": "oo", "inf": "oo", "pi": "pi",
            "emptyset": "empty", "varnothing": "empty", "imath": "i", "jmath": "j"}  # fmt: skip
BUILDERS = {"frac": "frac", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "nicefrac": "frac",
             "sfrac": "frac", "sqrt": "sqrt",
             "binom": "binom", "dbinom": "binom", "tbinom": "binom"}  # fmt: skip
BLANKS = ("quad", "qquad", "hfill", "checkmark")
TWO = {"<=": "<=", ">=": ">=", "!=": "!=", "==": "=", "**": "^", "=<": "<=", "=>": None}
# "9 m", "9 m/s^2": behind a number and a space, at the end.
SPACED_UNIT = re.compile(
    r"(?:[mshgLJNWVKAC]|in|Pa|Hz)(?:/(?:s|h|m|L|min|kg|mol)(?:\^\{?[1-3]\}?)?)?(?:\^\{?-?[1-3]\}?)?\.?$"
)
CASED_UNITS = frozenset("kWh kW kJ kN kPa MPa Hz kHz MHz GHz mol eV keV MeV GeV mL kV".split())
LETTER_UNIT = re.compile(r"[msghLJNWVK](?:/[a-z]{1,3})?(?:\^\{?-?[1-3]\}?)?")  # m, m/s^2
NUMBER_FIRST = re.compile(r"(?:\\?\$)?\s*-?\d[\d.,\s]*\s[A-Za-z]")
LABELLED = re.compile(r"[A-Za-z ]+:\s*(?:\\?\$)?-?[\d.,]+")
TIMES = re.compile(r"\s*\d")
BOTH_NAMES = re.compile(r"\s*(?:,\s*and|,|and|or|&)\s+")
KNOWN_COMMANDS = (
    FUNCTIONS | GREEK | RELATIONS.keys() | OPERATORS.keys() | SYMBOLS.keys() | BUILDERS.keys()
)
