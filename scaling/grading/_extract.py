r"""Find the announced answer in a text: boxes, "answer is", headings, and lines like "#### 12".

Nothing here knows what a number or a letter is. A grader asks for the box, then for the announced
passages from the last to the first, and takes the first that it can read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from scaling.grading._boxes import BOX_COMMAND
from scaling.grading._dressing import bare
from scaling.grading._notation import LOGIC

REACH = 400  # characters of an announced passage
_TRIES = 12  # announcements that are looked at, from the last


_DRESS = r"[*_`]*"
_VERB = (
    r"(?:is|are|equals|was|will[ \t]+be|would[ \t]+be|should[ \t]+be|must[ \t]+be"
    r"|has[ \t]+to[ \t]+be|comes[ \t]+(?:out[ \t]+)?to(?:[ \t]+be)?)"
)
_ANNOUNCED = re.compile(
    r"(?:(?P<mark>####(?!#))"
    rf"|(?:^|\n)[ \t]*{_DRESS}(?P<short>A){_DRESS}[ \t]*:{_DRESS}"
    rf"|(?:^|\n)[ \t]*{_DRESS}ans{_DRESS}[.:]+{_DRESS}"
    r"|答案(?:[是为：:]\s*)+|\banswer[ \t]+of\b|\banswer[ \t]+[-–—][ \t]"
    rf"|\banswers?(?:,[^,\n]{{1,20}},|[ \t]+(?:here|choice|option|to[ \t]+[^\n.:]{{1,60}}?))?"
    rf"{_DRESS}(?:['’]s\b|['\"]?[ \t]*(?:[=:⇒→]|\b{_VERB}(?![A-Za-z]))){_DRESS}[ \t]*:?{_DRESS}"
    rf"|\banswer{_DRESS}[.:]?{_DRESS}[ \t]*(?=\n|\$|\\\[|\\\()"
    r"|[<\[]answer[>\]])",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:if|suppose|assume|assuming|imagine|whether|say|unless|perhaps|maybe|could|might"
    r"|wrong|incorrect|tempting|mistaken)\b"
    r"[^.\n!?]*$",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"(?:not|n't|never)\b"
    r"|\S{1,12}(?:\?|(?:,?[ \t]+which)?[ \t]+(?:is|was)[ \t]+(?:wrong|incorrect|not\b)"
    r"|[ \t]*\((?:wrong|incorrect|not\b(?![ \t]+[\d$\\-])))",
    re.IGNORECASE,
)
# Where the text takes back what it announced: "Wait, no", "That is wrong", "Actually, it is 41".
_TAKEN_BACK = re.compile(
    r"[.!?\n…][\s*]*(?:(?:(?:oh|hmm+|wait|oops|sorry|but)\b[\s,.!…]*)+no\b"
    r"|no\b[\s,.!:;…]*(?=(?:that|this|it|wait)\b|[-$\\(]*\d|\(?(?-i:[A-Z])\)?[ \t]*(?:[.!\n]|$))"
    r"|(?:(?:oh|hmm+|wait|oops|sorry|but|no)\b[\s,.!…]*)*"
    r"(?:\b(?:that|this|it|which)(?:['’]s|[ \t]+(?:is|was|seems|looks))[ \t]+(?:wrong|incorrect"
    r"|a[ \t]+mistake|an[ \t]+error|not[ \t]+(?:right|correct|the[ \t]+answer))\b"
    r"|\bactually[ \t]*,?[ \t]+(?:(?:it|that)(?:['’]s|[ \t]+(?:is|should[ \t]+be))[ \t]+)?"
    r"(?:[-$\\(]*\d[\d.,/]*[)$]*|\(?(?-i:[A-Z])\)?)[ \t]*(?:[.!\n]|$)"
    r"|\bcorrection\b[ \t]*[:,]))",
    re.IGNORECASE,
)
_REVERSED = re.compile(
    r"(?P<value>\$[^$\n]{1,200}\$|\\\([^\n]{1,200}?\\\)|(?<![^\s*$])-?\d[\d.,/]*\**)"
    r"[ \t]*(?:is|are)[ \t]+(?:our|the|my)[ \t]+(?:final[ \t]+|correct[ \t]+)*answer\b"
)
# The last sentence, where it draws a conclusion about one value.
_SENTENCE = r"(?:[^.!?\n]|\.(?=\d))"
_CONCLUSION = re.compile(
    r"(?:^|[.!?:\n]|\s(?=(?-i:Therefore|Thus|Hence)))[\s*]*"
    r"(?:(?:final[ \t]+)?(?:result|solution|total(?:[ \t]+\w+)?)\**[ \t]*[:=]\**|it['’]s"
    r"|it[ \t]+is"
    r"|(?:(?:therefore|thus|hence|so|finally|in[ \t]+(?:total|conclusion)|the|we|i)"
    r"(?![A-Za-z])"
    rf"{_SENTENCE}{{0,200}}?)(?:\b(?:{_VERB}|equals?|get|gives?|it['’]s)(?![A-Za-z])[ \t]*:?|=))"
    rf"\s*(?P<value>{_SENTENCE}{{1,200}})[.!]?\**\s*$",
    re.IGNORECASE,
)
# "The total is 23, so he has 41 left": the sentence concludes another value.
_GOES_ON = re.compile(
    r"\d[^\d]*[\s,;](?:so|therefore|thus|hence|leaving|leaves)\b.*\d", re.IGNORECASE
)
_DOUBTED = re.compile(
    r"\b(?:if|suppose|assume|not|maybe|perhaps|whether|wrong|incorrect|mistaken|unlikely|either)\b",
    re.IGNORECASE,
)
# Where the next question begins: a base model goes on with problems of its own.
_NEXT = re.compile(
    r"\n\s*(?:[#*]+[ \t]*)?(?:(?:next[ \t]+)?(?:question|problem|exercise|example)|q|human|user"
    r"|instruction|input)\**[ \t]*\d*[ \t]*\**[ \t]*[:.](?=\s|\*|$)"
    r"|<\|(?:im_start|im_end|endoftext|eot_id|end_of_text)\|>|</s>",
    re.IGNORECASE,
)


def own_part(text: str) -> str:
    """`text` up to the next question that follows an announced answer; all of it if none does."""
    text = re.sub(r"\s*I hope (?:it|this|that) is correct\.?\s*$", "", text)
    text = re.sub(r"<\|begin_of_box\|>(.*?)<\|end_of_box\|>", r"\\boxed{\1}", text)
    text = re.sub(r"(?:<\|[a-z_]+\|>|</s>|<eos>|<end_of_turn>)\s*$|<<[^<>\n]*>>", "", text)
    first = _ANNOUNCED.search(text)
    opened = re.search(BOX_COMMAND, text)
    starts = [match.start() for match in (first, opened) if match is not None]
    if not starts:
        return text
    following = _NEXT.search(text, min(starts))
    return text[: following.start()] if following else text


def announced(text: str, short: bool = True) -> Iterator[str]:
    """The passages that the text announces as its answer, from the last to the first.

    Args:
        text: any text.
        short: whether "A:" at the start of a line announces one; among the options of a
            multiple-choice question it does not.

    Yields:
        The text behind the announcement, to the end of its line, formula or element.
    """
    found: list[tuple[int, str]] = []
    for match in list(_ANNOUNCED.finditer(text))[-_TRIES:]:
        if match["short"] and not short:
            continue
        before = text[max(0, match.start() - 80) : match.start()]
        if not match["mark"] and not match["short"] and _SUPPOSED.search(before):
            continue
        rest = _passage(text, match.end())
        if match[0][-1] in ">]":
            rest = re.split(r"[<\[]/(?i:answer)", text[match.end() : match.end() + REACH])[
                0
            ].strip()
        elif match[0].rstrip(": ")[-1] in "'\"":  # {"answer": 7}
            rest = re.split(r"(?<=.)['\"]|[}\n]\s*$|\}$", rest)[0].strip("'\"")
        if rest and not _DENIED.match(rest) and not taken_back(text, match.end()):
            found.append((match.end(), rest))
    for match in list(_REVERSED.finditer(text))[-_TRIES:]:
        found.append((match.end(), match["value"]))
    for _, rest in sorted(found, key=lambda pair: pair[0], reverse=True):
        yield rest
    last = _CONCLUSION.search(text, max(0, len(text) - 2 * REACH)) if short and not found else None
    if (
        last
        and not _DOUBTED.search(last[0])
        and not _GOES_ON.search(last["value"])
        and not _DENIED.match(last["value"].strip())
    ):
        yield last["value"].strip()


def taken_back(text: str, start: int) -> bool:
    """Whether a text takes back what it announces.

    Args:
        text: the text.
        start: where what it announces begins.

    Returns:
        Whether a sentence behind it says "no", "that is wrong", or another value.
    """
    value = re.compile(r"\s*\S+?(?=[.!?…]*(?:\s|$))").match(text, start)
    behind = text[value.end() : start + REACH] if value else ""
    return _TAKEN_BACK.search(behind) is not None


def _passage(text: str, start: int) -> str:
    """The line behind `start`, the next one if that is empty, or the whole of a display formula."""
    piece = re.sub(r"</?[a-z]{1,6}>", "", text[start : start + REACH])
    stripped = piece.lstrip(" \t\n*_`")
    if piece[: len(piece) - len(stripped)].count("\n") > 3:
        return ""
    for left, right in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")):
        if stripped.startswith(left):
            close = stripped.find(right, len(left))
            if close > 0 and "\n" in stripped[:close]:
                return stripped[: close + len(right)]
            break
    return stripped.partition("\n")[0].strip()


def last_announced(text: str) -> str | None:
    """The last announced passage; None where there is none."""
    return next(announced(text), None)


_FILLER = re.compile(
    r"(?:\s|[*_`:=,→]|\.{3}|(?:therefore|thus|then|hence|so|simply|just|clearly|exactly|now|indeed|still"
    r"|actually|equal[ \t]+to|equals|given[ \t]+by|the[ \t]+(?:number|value)"
    r"|about|approximately|roughly|around)\b(?![\w-]))*",
    re.IGNORECASE,
)
_ENDS = re.compile(
    r"\s*(?:,?\s+(?:because|since|as|which|so|where|therefore|thus|hence|but|given|assuming|from"
    r"|by|meaning|due|rounded|i\.e\.|in[ \t]+total|altogether|not"
    r"|and[ \t]+(?:not|that|so|this|the|it|he|she|they|we)"
    r"|for[ \t]+(?:the|each|every)(?![ \t]+\d)"
    r"|in[ \t]+(?:the|all|this)|of[ \t]+(?:them|the|these))\b"
    r"|\s+\((?=[A-Za-z])|\s+[-–—]\s+(?=[A-Za-z])|;|[.!](?=\s|$)|\.[*_]|✅)",
)
_FORMULA = re.compile(
    r"\$\$(.{1,300}?)\$\$|\$(?! )([^$\n]{1,300}?)(?<! )\$(?!\d)"
    r"|\\\((.{1,300}?)\\\)|\\\[(.{1,300}?)\\\]"
    r"|\$ ([^$\n]{1,300}?) \$",
    re.DOTALL,
)


def formulas(text: str) -> list[re.Match[str]]:
    """The formulas between dollar signs or LaTeX brackets."""
    return list(_FORMULA.finditer(text))


def formula_content(match: re.Match[str]) -> str:
    """The content of a match of `formulas`."""
    return next(part for part in match.groups() if part is not None).strip()


# A whole sentence in place of an answer: "Answer: the sum is 7", "Answer: Tom has 7 apples".
_CLAIM = re.compile(
    r"[A-Za-z][^$\\]*?\b(?:is|are|was|were|has|have|had|gets?|needs?|takes?|made|makes?|can|started"
    r"|earn(?:s|ed)|spen[dt]s?|costs?|pa(?:ys|id)|that)\b\s*(?P<value>.+)"
)
_CHANGES = re.compile(
    r"\b(?:"
    + "|".join(sorted(LOGIC - {"is", "are", "was", "and", "for", "solutions", "all"}))
    + r")\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.,/])[-−]?\\?\$?\d[\d,]*(?:\.\d+)?(?![\w/^]|[.,]\d)")


def candidates(passage: str) -> Iterator[str]:
    """What an announced passage may give as the answer: all of it, or what precedes its prose.

    Args:
        passage: a result of `announced`.

    Yields:
        Texts to read, the fullest first.
    """
    said = without_filler(re.sub(r"(?<![\w*])\*\*([^*\n]+)\*\*(?=[\s.,;:!?]|$)", r"\1", passage))
    yield from _joined_formulas(said)
    if not re.search(r"[$\\]", said):
        said = said.rstrip().rstrip("!:,;")  # an exclamation, and no factorial
    end = next((match for match in _ENDS.finditer(said) if match.start() > 0), None)
    prose = end is not None and re.match(r";\s+[a-z]{2,}\s+[a-z]{2}", said[end.start() :])
    if end is not None and (prose or re.search("[a-z]", end[0])):  # "7, as shown"
        yield bare(said[: end.start()])
    yield bare(said)
    if end is not None:
        yield bare(said[: end.start()])
    sentence = re.match(rf"(?!\$){_SENTENCE}*", said)
    claim = _CLAIM.match(sentence[0]) if sentence else None
    if claim and not _CHANGES.search(claim[0]):
        yield from _joined_formulas(claim["value"])
        yield bare(claim["value"])
        numbers = _NUMBER.findall(claim[0])
        if len(numbers) == 1:
            yield numbers[0]  # "Answer: Tom has 7 apples."


_BETWEEN = re.compile(r"\s*(?P<said>,|;|&|\band\b|\bor\b)(?:\s|and\b|or\b)*(?=\$|\\\(|\\\[)|")


def _joined_formulas(said: str) -> Iterator[str]:
    """The formula that the passage begins with, and those that "and" or a comma joins to it."""
    match = _FORMULA.match(said)
    parts: list[str] = []
    words = ""
    while match is not None:
        parts.append(formula_content(match))
        between = _BETWEEN.match(said, match.end())
        words = said[match.end() :]
        if between is None or between["said"] is None:
            break
        match = _FORMULA.match(said, between.end())
    if not parts:
        return
    magnitude = re.match(r"\s*(?:hundred|thousand|million|billion|trillion|dozen)\b", words)
    yield ", ".join(parts) + (magnitude[0] if magnitude else "")


def without_filler(text: str) -> str:
    """`text` without "therefore", "is equal to" and the like at its start."""
    filler = _FILLER.match(text)
    return text[filler.end() :] if filler else text
