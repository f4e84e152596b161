"""Write the Unicode forms of mathematics as LaTeX."""

from __future__ import annotations

import re

_UNICODE = {
    "μm": r"\text{um}", "µm": r"\text{um}", "Ω": r"\text{ohm}", "¢": r"\text{ cents}",
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∗": "*", "÷": "/", "⁄": "/", "∕": "/", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ",
    "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∞": r"\infty ", "π": r"\pi ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm ", "∓": r"\mp ", "º": "°",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ",
    "ω": r"\omega ", "φ": r"\phi ", "μ": r"\mu ", "σ": r"\sigma ", "∠": r"\angle ",
    "ℝ": r"\mathbb{R}",
    "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}",
    "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}", "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}",
    "\u00a0": " ", "\u2009": r"\,", "\u202f": r"\,", "\u2006": r"\,", "\u2007": r"\,",
    "\u200a": r"\,", "\u2008": r"\,", "\u2005": r"\,", "\u2004": r"\,", "\u2003": " ",
    "\u2002": " ", "\u200b": "", "\ufeff": "", "’": "'", "′": "'", "（": "(", "）": ")", "，": ",",
    "£": "$", "€": "$", "¥": "$", "₹": "$", "✓": r"\checkmark ", "✅": r"\checkmark ",
    "：": ":", "；": ";", "。": ".", "⟨": r"\langle ", "⟩": r"\rangle ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ",
    "⌉": r"\rceil ", "→": r"\to ", "…": r"\ldots ",
}  # fmt: skip
_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUB = str.maketrans("₀₁₂₃₄₅₆₇₈₉₋₊ₙ", "0123456789-+n")
_FULL_WIDTH = {0xFF10 + digit: str(digit) for digit in range(10)}
# What leads to an answer or closes its proof, and is no part of it.
_LEADS = re.compile(
    r"(?:\\(?:Rightarrow|implies|therefore|rightarrow|to)(?![a-zA-Z])\s*|:\s)+"
    r"|.*\\(?:Rightarrow|implies)(?![a-zA-Z])",
    re.DOTALL,
)
_MODULUS = re.compile(
    r"\\text\s*\{\s*\(mod\s*(\d+)\)\s*\}|(?:\\pmod\s*|\(\s*\\?b?mod\s*(?=\d+\s*\)))(\d+)(?:\s*\))?"
)
_CLOSES = re.compile(
    r"(?:\s|\\,|\\\\|\\(?:blacksquare|square|Box|qed|nonumber|notag)(?![a-zA-Z]))+$"
)
_HALF_DAY = re.compile(  # 3:45 p.m.
    r"(\d)(?:\s|\\ |~|\\text\s*\{\s*)*([ap])\.?\s?m\b\.?\s*\}?", re.IGNORECASE
)
_ROOT = re.compile(r"([√∛])\s*(\d+|[A-Za-z]|(?=[({]))")


def _root(match: re.Match[str]) -> str:
    root = r"\sqrt" if match[1] == "√" else r"\sqrt[3]"
    return f"{root}{{{match[2]}}}" if match[2] else root


def tidy(text: str) -> str:
    """`text` with the Unicode forms of mathematics written as LaTeX."""
    for sign, latex in _UNICODE.items():
        if sign in text:
            text = text.replace(sign, latex)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + m[0].translate(_SUPER) + "}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉₋₊ₙ]+", lambda m: "_{" + m[0].translate(_SUB) + "}", text)
    text = re.sub(r"(?<![A-Za-z])\{([:=-])\}", r"\1", text.translate(_FULL_WIDTH))
    text = re.sub(r"(?<![\\A-Za-z}])\{\}(?=.)", "", text)  # 60{}^\circ
    text = _MODULUS.sub(r"\\pmod{\1\2}", text)
    text = re.sub(
        r"(?:\\text\s*\{\s*(?:negative|minus)\s*\}|(?:negative|minus)\s)\s*(?=\d)", "-", text
    )
    text = re.sub(r"\\(?:pounds|euro|yen)(?![a-zA-Z])|(?<![A-Za-z])Rs\.?\s*(?=\d)", "$", text)
    text = re.sub(r"\\textsuperscript\s*(?=\{)", "^", text)
    text = re.sub(r"\\not\s*=", r"\\ne ", text)
    text = re.sub(r"(?:US|\\(?:text|math)dollar(?![a-zA-Z]))\s*(?=\\?\$|\d)", "", text)
    lead = _LEADS.match(text)
    text = _CLOSES.sub("", text[lead.end() :] if lead else text)
    text = _HALF_DAY.sub(lambda m: m[1] + r"\text{" + m[2].lower() + "m}", text)
    text = _ROOT.sub(_root, text)
    return text.strip()
