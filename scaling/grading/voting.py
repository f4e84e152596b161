"""Which answers vote together in a majority vote: equal ones, however they are written."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from scaling.grading import get_grader
from scaling.grading._dressing import bare, same_text
from scaling.grading._reader import understood
from scaling.grading._tree import Node
from scaling.grading.numbers import read_number

__all__ = ["candidate", "candidates_of"]


def candidate(extracted: str) -> str:
    r"""The candidate that one answer votes for, by itself.

    Equal numbers are one candidate: "90", `90^\circ`, "$90". So are formulas with the same tree:
    `\frac43` and `\frac{4}{3}`, `\text{(C)}` and "C".

    Args:
        extracted: an extracted answer.

    Returns:
        The candidate.
    """
    number = read_number(extracted)
    if number is not None:
        return str(number)
    found = understood(bare(extracted))
    return same_text(extracted) if found is None else _written(found)


def candidates_of(extracted: Sequence[str]) -> list[str]:
    """The candidates of the answers to one problem, equal ones joined.

    Args:
        extracted: the extracted answers.

    Returns:
        The candidate of each answer. Formulas that the `math` grader finds equal share one; two
        numbers never need that comparison.
    """
    mine = [candidate(text) for text in extracted]
    chosen: dict[str, tuple[str, str]] = {}  # candidate -> (the one it joins, its text)
    for text, name in zip(extracted, mine, strict=True):
        if name in chosen:
            continue
        joined = name
        if understood(bare(text)) is not None:
            for other, other_text in list(chosen.values()):
                both_numbers = read_number(text) is not None and read_number(other_text) is not None
                if not both_numbers and _same(other_text, text):
                    joined = other
                    break
        chosen[name] = (joined, text)
    return [chosen[name][0] for name in mine]


@lru_cache(maxsize=65536)
def _same(one: str, two: str) -> bool:
    from scaling.grading.math_expression import Math

    judge = get_grader("math")
    assert isinstance(judge, Math)
    return judge.same(one, two) or judge.same(two, one)


def _written(node: Node) -> str:
    number = "" if node.kind != "num" else str(node.number)
    inside = ",".join(map(_written, node.args))
    name = node.value.lower() if node.kind == "text" else "" if node.kind == "num" else node.value
    return f"{node.kind if inside or node.kind == 'text' else ''}{name}{number}" + (
        f"({inside})" if inside else ""
    )
