"""Write the Unicode forms of mathematics as LaTeX."""

from __future__ import annotations

import re

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
