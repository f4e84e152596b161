"""Grader for multiple choice: one of the letters that the problem offers.

No letter is a default: a model that loops gets "no answer", not an "A", which would be right one
time in four. Neither is a letter that only labels an option: a text that repeats the options, or
discusses them one by one, has not chosen.
"""

from __future__ import annotations

import re

from interp.errors import UserError
from scaling.grading import Grader, grader
from scaling.grading._boxes import boxed_answer
from scaling.grading._dressing import bare
from scaling.grading._extract import announced, own_part, taken_back
from scaling.problem import Problem

_LETTER = (
    r"[*_`'\"(<\[$]*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?[*(]*(?P<letter>[A-Za-z])[*)\]}'\"`$]*"
)
_STYLE = re.compile(r"\\(?:text[a-z]*|math[a-z]+|mbox|rm|bf)\s*(?:\{([^{}]*)\})?")
_OPTION = r"(?:(?:the[ \t]+)?(?:correct[ \t]+)?(?:option|choice|letter|answer)[ \t:]*)?"
_FILLER = r"(?:(?:therefore|thus|then|hence|so|clearly|definitely|probably|likely)\b,?[ \t]*)*"
# "C", "(C)", "**C**", "\\text{C}", "C. because ...", "option C", "C because ..."
_ALONE = re.compile(rf"\s*{_FILLER}{_OPTION}{_LETTER}\s*[.):,;!}}]*\s*(?:\$)?", re.I)
_LEADS = re.compile(
    rf"\s*{_FILLER}(?P<option>{_OPTION}){_LETTER}(?P<mark>[.):,;}}]*)(?P<rest>\s.*|[.):,;]\S.*|\\.*)",
    re.I | re.S,
)
# "The answer is Paris (B)."
_BEHIND = re.compile(
    r"(?!.*(?:\b(?:not|nor|never|except|but|wrong|could|might|maybe|perhaps)\b|n['’]t\b))"
    r"[^()\n]{1,79}\s\((?P<letter>[A-Z])\)\W*",
    re.IGNORECASE,
)
_MORE = re.compile(
    r"[\s)]*(?:[&;+/=<>→]+|->|through\b|followed\s+by\b|then\b|(?=\())\s*[(*]*[A-Z][)*]*(?=\W*$)"
    r"|(?:\.{3}|…)\s*[(*]*[A-Z][)*]*(?=\W*$)"
    r"|,\s*(?i:maybe|perhaps|possibly|or|and)\s+[(*]*[A-Z]\b(?!\w)"
    r"|(?:\.{3}|…)?[\s,]*(?:(?i:or|and)\s+(?!not\b)|/\s*)[(*]*[A-Za-z]\b(?!\w)|,\s*[(*]*[A-Z]\b[)*]*\s*(?:,|or|and|$)"
)
# Where a sentence chooses: "I pick B", "it must be (B)", "B is the correct answer".
_CHOSEN = re.compile(
    r"\b(?:choose|chose|pick|picked|select|go(?:ing)?[ \t]+with)[ \t]+"
    r"(?:(?:option|choice|answer|letter)[ \t]+)?[(*]*(?P<a>[A-Z])\b"
    r"|\b(?:(?:it|this|that|which|choice|option|statement|selection|correct"
    r"|best)(?:['’]s\b|:|[ \t]+"
    r"(?:is|(?:must|would|should)[ \t]+be|has[ \t]+to[ \t]+be))|[Ii]['’]d[ \t]+say|wrong,?[ \t]+so)"
    r"[ \t]+(?:option[ \t]+|choice[ \t]+)?(?:\((?P<b>[A-Z])\)|\**(?P<c>[A-Z])\**(?=[.,;!]|[ \t]*$))"
    r"|(?:^|[(*\s])(?P<d>[A-Z])\)?\**[ \t]+is[ \t]+(?:the[ \t]+)?(?:correct|right|best|true)\b"
    r"|(?:^|[.!?\n][ \t]*)(?:therefore|thus|hence|so),?[ \t]+(?:option[ \t]+|choice[ \t]+)?"
    r"[(*]*(?P<e>[A-Z])[)*]*[ \t]*(?=[.!]?[ \t]*$)",
    re.IGNORECASE | re.MULTILINE,
)
_CONDITION = re.compile(r"[ \t]*\b(?:if|unless|when|provided|assuming)\b", re.IGNORECASE)
_NEXT_LABEL = re.compile(r"\s*\n[ \t]*[*(]*([A-Z])[*]*[.):][ \t]")
_SAYS = re.compile(
    r"\s+(?:says|states|claims|suggests|describes|mentions|means|would|could|might)\b"
)
# In running text, "A" or "I" alone is more often a word than a choice.
_INSIDE = re.compile(r"\((?P<a>[A-Z])\)|\b(?P<b>[B-HJ-Z])\b(?!['’])|\b(?P<c>[AI])(?=[.):]|\s*$)")
_LABEL = re.compile(r"^[ \t]*[*(]*[A-Z][*]*[.):][*]*[ \t].*$", re.MULTILINE)
_LABELS_INSIDE = re.compile(r"(?:^|[\s(])([A-Z])[.:)][ \t]")
_DENIED = re.compile(
    r"(?:\bnot|n't|\bnor|\bneither)[ \t]+(?:option[ \t]+|choice[ \t]+)?[(*]*$", re.I
)
_REJECTED = re.compile(
    r"\W*(?:which\s+)?(?:(?:is|are|was|seems)\s+)?"
    r"(?:not\b|wrong|incorrect|false|isn't|cannot|can't)",
    re.IGNORECASE,
)


@grader("choice")
class Choice(Grader):
    """Grader for one of the problem's letters."""

    partial_words = False  # a letter cannot be cut in two

    def strict(self, text: str, problem: Problem) -> str | None:
        """A boxed, announced or chosen letter, or a text that begins with nothing but a letter."""
        text = own_part(text)
        opened, boxed = boxed_answer(text)
        if opened:
            if not boxed:
                return None
            inside = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", boxed)
            passages = [boxed, *announced(inside, short=False)]
            letters = [_letter(passage, problem, alone=False) for passage in passages]
            return next((letter for letter in letters if letter is not None), None)
        for passage in announced(text, short=False):
            letter = _letter(passage, problem, alone=False)
            behind = text[text.rfind(passage) + len(passage) :]
            following = _NEXT_LABEL.match(behind)
            goes_on = following and letter and ord(following[1]) == ord(letter) + 1  # the options
            if letter is not None and not goes_on:
                return letter
        chosen = [
            match
            for match in _CHOSEN.finditer(text)
            if not _MORE.match(text, match.end())
            and not _CONDITION.match(text, match.end())
            and next(filter(None, match.groups())) in problem.choices
        ]
        called = {match["d"] for match in chosen if match["d"]}  # "B is correct"
        if chosen:
            return None if len(called) > 1 else next(filter(None, chosen[-1].groups()))
        if len(_LABEL.findall(text)) > 1 or len(set(_LABELS_INSIDE.findall(text))) > 1:
            return None  # a list of the options
        if taken_back(text, 0):
            return None
        return _letter(re.sub(r"^\s*[*•-]\s+", "", text), problem, alone=len(text) > 400)

    def lenient(self, text: str, problem: Problem) -> str | None:
        """The strict letter, or the last one that stands alone and labels no option."""
        strict = self.strict(text, problem)
        text = own_part(text)
        if strict is not None or boxed_answer(text)[0]:
            return strict
        labels = _LABEL.findall(text)
        if len(labels) > 1:
            text = _LABEL.sub("", text)
        found = [
            m["a"] or m["b"] or m["c"]
            for m in _INSIDE.finditer(text)
            if not _DENIED.search(text[max(0, m.start() - 20) : m.start()])
        ]
        found = [letter for letter in found if letter in problem.choices]
        return found[-1] if found else None

    def equal(self, extracted: str, problem: Problem) -> bool:
        """Whether the letters are the same."""
        return extracted == problem.answer

    def check_gold(self, problem: Problem) -> None:
        """The choices must be letters, and the gold answer one of them."""
        if not problem.choices or any(not re.fullmatch("[A-Z]", c) for c in problem.choices):
            raise UserError(
                f"Problem {problem.id!r}: the grader 'choice' needs choices; the problem has "
                f"{list(problem.choices) or 'none'}."
            )


def _letter(text: str, problem: Problem, alone: bool) -> str | None:
    """The letter that a passage consists of, or begins with.

    Args:
        text: the passage.
        problem: the problem with its choices.
        alone: whether the passage must be nothing but the letter.

    Returns:
        The letter; None where there is none, or where the passage goes on as a sentence that
        rejects it, or that names another letter too.
    """
    text = _STYLE.sub(r"\1", text).strip(" ,{}\\")
    match = _ALONE.fullmatch(bare(text))
    if match is None and not alone:
        match = _LEADS.fullmatch(text) or _BEHIND.fullmatch(text)
        if match is not None and "rest" in match.groupdict() and not _begins(match):
            return None
    if match is None or match["letter"].upper() not in problem.choices:
        return None
    return match["letter"].upper()


def _begins(match: re.Match[str]) -> bool:
    """Whether a letter with text behind it is a choice, and not a word or a rejected option."""
    letter, mark, rest = match["letter"], match["mark"], match["rest"]
    if re.match(r"\s+[(*]*[A-Z][).*]*(?=\s*$|\s+[(*]*[A-Z]\b)", rest):  # "B C D"
        return False
    rejected = _REJECTED.match(rest)
    if rejected and not ("," in mark and rejected[0].strip().lower() == "not"):
        return False
    if _MORE.match(mark + rest):
        return False
    dressed = bool(mark) or "(" in match[0][: match.end("letter") - match.start()]
    if not mark and (_CONDITION.match(rest) or (match["option"] and _SAYS.match(rest))):
        return False
    if dressed or match["option"]:
        return letter.isupper() or bool(mark)
    if letter.islower():
        return False
    # "A Paris" is a sentence; "B Paris" is the letter with its option.
    return letter not in "AI" or bool(re.match(r"\s+(?:because|since|as|and\s+not)\b", rest))
