r"""A law of graders: an answer that differs from the gold one in value is never accepted.

Answers are drawn as values with an exact equality of their own (fractions, points, intervals,
polynomials, numbers in a base, amounts of a unit), and written in the forms that models use. What
is perturbed is the value, by one digit, sign, unit, base, bracket, place or member; or the sentence
around it, so that it says something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scaling.grading import grade_text
from scaling.grading.math_expression import Math
from scaling.problem import Benchmark, Problem
from tests.drawing import max_examples
from tests.scaling.data import data_file

LETTERS = ("A", "B", "C", "D")
NAMES = ("x", "y", "n")
UNITS = ("cm", "km", "m", "feet", "hours", "kg")


@cache
def grader() -> Math:
    return Math()


def outcome(name: str, gold: str, text: str) -> str:
    problem = Problem("p", "q", gold, LETTERS if name == "choice" else ())
    return grade_text(Benchmark("b", "1", (problem,), grader=name), problem, text).strict_outcome


# ------------------------------------------------------------------ values and their forms


@dataclass(frozen=True)
class WrittenAnswer:
    """A kind of answer, and a value that is equal to another one if and only if it is the same."""

    kind: str
    value: Any


def number_forms(value: Fraction) -> Iterator[str]:
    above, below = value.numerator, value.denominator
    sign = "-" if above < 0 else ""
    if below == 1:
        yield str(above)
        yield f"{above}.0"
        yield f"{above:,}"
        yield rf"\text{{{above}}}"
    else:
        yield f"{above}/{below}"
        yield rf"\frac{{{above}}}{{{below}}}"
        yield rf"{sign}\dfrac{{{abs(above)}}}{{{below}}}"
        if abs(above) > below:
            whole, rest = divmod(abs(above), below)
            yield rf"{sign}{whole}\frac{{{rest}}}{{{below}}}"
    if 10**4 % below == 0:
        yield f"{float(value):.4f}"
        yield rf"{float(value):.4f}".rstrip("0").rstrip(".")


def polynomial(terms: tuple[tuple[str, Fraction], ...]) -> Iterator[str]:
    written = [rf"\frac{{{c.numerator}}}{{{c.denominator}}} {name}" for name, c in terms]
    yield " + ".join(written)
    yield " + ".join(reversed(written))
    yield " + ".join(f"({c})*{name}" for name, c in terms)


def forms(answer: WrittenAnswer) -> list[str]:
    value = answer.value
    if answer.kind == "number":
        return list(number_forms(value))
    if answer.kind == "amount":
        return [rf"{n} \text{{ {value[1]}}}" for n in number_forms(value[0])]
    if answer.kind == "based":
        return [f"{value[0]}_{{{value[1]}}}", f"{value[0]}_{value[1]}"]
    if answer.kind == "polynomial":
        return list(polynomial(value))
    if answer.kind == "interval":
        low, high, left, right = value
        plain = f"{'[' if left else '('}{low}, {high}{']' if right else ')'}"
        signs = [r"\le" if closed else "<" for closed in (left, right)]
        return [plain, f"{low} {signs[0]} x {signs[1]} {high}"]
    many = [next(number_forms(n)) for n in value]
    if answer.kind == "point":
        inside = ", ".join(many)
        return [f"({inside})", rf"\left({inside}\right)"]
    return [rf"\{{{', '.join(sorted(many))}\}}", ", ".join(many)]


numbers = st.builds(Fraction, st.integers(-999, 999), st.integers(1, 30))
names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)
answers = st.one_of(
    st.builds(lambda v: WrittenAnswer("number", v), numbers),
    st.builds(lambda v, u: WrittenAnswer("amount", (v, u)), numbers, st.sampled_from(UNITS)),
    st.builds(
        lambda n, base: WrittenAnswer("based", (n, base)),
        st.text("01234", min_size=2, max_size=6).filter(lambda text: text[0] != "0"),
        st.integers(5, 9),
    ),
    st.builds(
        lambda lo, size, left, right: WrittenAnswer("interval", (lo, lo + size, left, right)),
        st.integers(-50, 50),
        st.integers(1, 60),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        lambda v: WrittenAnswer("point", tuple(v)), st.lists(numbers, min_size=2, max_size=4)
    ),
    st.builds(
        lambda v: WrittenAnswer("set", frozenset(v)), st.sets(numbers, min_size=2, max_size=4)
    ),
    st.builds(
        lambda names, values: WrittenAnswer(
            "polynomial", tuple(zip(sorted(names), values, strict=False))
        ),
        names,
        st.lists(numbers.filter(bool), min_size=3, max_size=3),
    ),
)


def other_number(data: st.DataObject, value: Fraction) -> Fraction:
    ways = (
        -value,
        value + 1,
        value * 10,
        value / 10,
        value * 100,
        1 / value if value else value,
        value**2,
        value / 2,
        value + Fraction(1, 1000),
        Fraction(str(float(value)).replace("1", "7").partition("e")[0]),
    )
    return data.draw(st.sampled_from(ways))


def perturbed(data: st.DataObject, answer: WrittenAnswer) -> WrittenAnswer:
    """An answer of the same kind with one thing changed; perhaps of the same value."""
    value = answer.value
    if answer.kind == "number":
        return WrittenAnswer("number", other_number(data, value))
    if answer.kind == "amount":
        if data.draw(st.booleans()):
            return WrittenAnswer("amount", (value[0], data.draw(st.sampled_from(UNITS))))
        return WrittenAnswer("amount", (other_number(data, value[0]), value[1]))
    if answer.kind == "based":
        if data.draw(st.booleans()):
            return WrittenAnswer("based", (value[0], data.draw(st.integers(5, 9))))
        return WrittenAnswer("based", (data.draw(st.permutations(value)), value[1]))
    if answer.kind == "interval":
        at = data.draw(st.integers(0, 3))
        new = list(value)
        new[at] = not new[at] if at > 1 else new[at] + (-1 if at == 0 else 1)
        return WrittenAnswer("interval", tuple(new))
    if answer.kind == "polynomial":
        at = data.draw(st.integers(0, len(value) - 1))
        name, coefficient = value[at]
        if data.draw(st.booleans()):
            changed = (name, other_number(data, coefficient))
        else:
            changed = (data.draw(st.sampled_from("zwtXYN")), coefficient)
        return WrittenAnswer("polynomial", (*value[:at], changed, *value[at + 1 :]))
    many = list(value)
    way = data.draw(st.sampled_from(["drop", "add", "change", "order"]))
    if way == "drop":
        del many[data.draw(st.integers(0, len(many) - 1))]
    elif way == "add":
        many.append(data.draw(numbers))
    elif way == "order":
        many = data.draw(st.permutations(many))
    else:
        at = data.draw(st.integers(0, len(many) - 1))
        many[at] = other_number(data, many[at])
    assume(len(many) > 1)
    return WrittenAnswer(answer.kind, type(value)(many))


@max_examples(400)
@given(answer=answers, data=st.data())
def test_an_answer_of_another_value_is_refused(answer: WrittenAnswer, data: st.DataObject) -> None:
    other = perturbed(data, answer)
    gold = data.draw(st.sampled_from(forms(answer)))
    written = data.draw(st.sampled_from(forms(other)))
    if other.value != answer.value:
        assert not grader().same(gold, written)
    else:
        assert grader().same(gold, written)


@max_examples(150)
@given(answer=answers, data=st.data())
def test_an_answer_is_accepted_in_all_its_forms(answer: WrittenAnswer, data: st.DataObject) -> None:
    one, two = (data.draw(st.sampled_from(forms(answer))) for _ in range(2))
    assert grader().same(one, two)


# what cannot be a part of an answer without changing its value, on either side
AROUND = (
    "{}x", r"{}\pi", "{}^2", "{}_8", "{}i", "{}/2", r"{}\sqrt{{2}}", "{} + C",
    r"{}\text{{ million}}", r"{} \text{{ dozen}}", "{}, 17", "{} or 17", "{} to 17",
    "x > {}", r"x \le {}", r"x \ne {}", r"\pm {}", "1/({})", "2({})", "-({})", r"\sqrt{{{}}}",
    r"\log({})",
    "x^2 = {}", "not {}",
    "({}, 17)", r"\{{{}, 17\}}", "more than {}", "{} halves", "{} divided by 17", "{} plus 17",
)  # fmt: skip


@max_examples(300)
@given(value=numbers.filter(lambda v: abs(v) not in (0, 1, 17)), data=st.data())
def test_what_stands_around_a_number_is_a_part_of_it(value: Fraction, data: st.DataObject) -> None:
    written = data.draw(st.sampled_from(list(number_forms(value))))
    changed = data.draw(st.sampled_from(AROUND)).format(written)
    for name in ("math", "numeric"):
        assert outcome(name, str(value), rf"\boxed{{{changed}}}") != "correct", changed


# ------------------------------------------------------------------ answers of a benchmark


def by_text(gold: str) -> Iterator[str]:
    """Changes of the text of a gold answer that change its value."""
    for digit in re.finditer(r"\d", gold):
        yield gold[: digit.start()] + str((int(digit[0]) + 1) % 10) + gold[digit.end() :]
    for sign in re.finditer(r"[+-]", gold):
        yield gold[: sign.start()] + ("-" if sign[0] == "+" else "+") + gold[sign.end() :]
    for found in re.finditer(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}", gold):
        if found[1] != found[2]:
            yield (
                gold[: found.start()] + rf"\frac{{{found[2]}}}{{{found[1]}}}" + gold[found.end() :]
            )
    for old, new in (("sin", "cos"), (r"\sqrt", r"\sqrt[3]"), (r"\cup", r"\cap"), ("<", ">")):
        if old in gold:
            yield gold.replace(old, new, 1)


@cache
def benchmark_answers() -> list[str]:
    rows = json.loads(data_file("math500_test.json").read_text(encoding="utf-8"))
    return sorted({row["answer"] for row in rows if list(by_text(row["answer"]))})


@max_examples(300)
@given(data=st.data())
def test_a_changed_answer_of_math500_is_refused(data: st.DataObject) -> None:
    gold = data.draw(st.sampled_from(benchmark_answers()))
    changed = data.draw(st.sampled_from(list(by_text(gold))))
    assume(changed not in ("-0", "+0"))
    assert not grader().same(gold, changed), (gold, changed)
    assert grader().same(gold, gold)


# ------------------------------------------------------------------ sentences

GOLD, OTHER = "23", "41"
# {g} is the gold answer, {o} another; none of these gives the gold one
DENIALS = (
    "The answer is not {g}.", "The answer isn't {g}.", "The wrong answer is {g}.",
    "The answer is {g}, which is wrong.", "The answer is {g} (wrong).",
    "The answer is {g}? No, {o}.", "The answer is {g}. Wait, no.", "The answer is {g}... no, {o}.",
    "The answer is {g}. No, that is wrong. It should be {o}.",
    "The answer is {g}. Hmm, actually it is {o}.", "The answer is {g}. Actually, {o}.",
    "The answer is {g}. Correction: {o}.", "Answer: {g}\nWait, that is wrong. It should be {o}.",
    "The answer is {o}, not {g}.", "I first thought {g}, but the answer is {o}.",
    "The answer is {o}. A common wrong answer is {g}.", "The answer is {g} or {o}.",
    "The answer is either {g} or {o}.", "The answer is {g} and {o}.", "It could be {g}.",
    r"\boxed{{{g}}} is wrong. The answer is \boxed{{{o}}}.",
    r"\boxed{{{o}}}. Note: \boxed{{{g}}} is wrong", r"\boxed{{{g}}} or \boxed{{{o}}}",
    r"It is not \boxed{{{g}}}.", "<answer>not {g}</answer>", "<answer>{o}</answer> {g}",
)  # fmt: skip
SCALED = (
    "The answer is {g} divided by {o}.", "The answer is {g} for every {o}.",
    "The answer is {g} plus {o}.", "The total is {g}, so he has {o} left.",
    "The answer is half of {g}.", "The answer is {g} short.",
    "The answer is more than {g}.", "The answer is more than ${g}$.", "It is not ${g}$.",
    "The answer is at least ${g}$.", "The answer is a third of {g}", "The answer is {g} thousand.",
    r"x < \boxed{{{g}}}", r"$x \neq \boxed{{{g}}}$", r"\boxed{{{g}}} < x", r"\boxed{{{g}}}.5",
    r"\boxed{{{g}}}/2", r"2\boxed{{{g}}}", r"\boxed{{{g}}}\text{{ million}}",
)  # fmt: skip


@pytest.mark.parametrize("name", ["numeric", "integer", "math", "choice"])
@pytest.mark.parametrize("text", DENIALS)
def test_a_sentence_that_denies_an_answer_does_not_give_it(name: str, text: str) -> None:
    gold, other = ("B", "C") if name == "choice" else (GOLD, OTHER)
    said = text.format(g=gold, o=other)
    assert outcome(name, gold, said) != "correct"
    bracketed = text.format(g=f"({gold})", o=f"({other})")
    assert outcome(name, gold, bracketed) != "correct"


@pytest.mark.parametrize("name", ["numeric", "integer", "math"])
@pytest.mark.parametrize("text", SCALED)
def test_a_sentence_that_changes_an_answer_does_not_give_it(name: str, text: str) -> None:
    assert outcome(name, GOLD, text.format(g=GOLD, o=OTHER)) != "correct"


@pytest.mark.parametrize(
    "text",
    [
        "P(B)", "The answer is P(B)", "B & C", "B;C", "(B)(C)", "B = C", "B -> C", "B through D",
        "Option B says so. Option C says more.", "C is true. B is true.", "B, maybe C", "B... C",
        "The answer is: B. one\nC. two\nD. three", "Choose B if x > 0, C otherwise",
    ],
)  # fmt: skip
def test_a_letter_of_something_else_is_no_choice(text: str) -> None:
    assert outcome("choice", "B", text) != "correct"


@pytest.mark.parametrize("name", ["numeric", "integer", "math", "choice"])
@pytest.mark.parametrize(
    "text",
    [
        "The answer is {g}. Wait, let me check. Yes.",
        "The answer is {g}. No other value works.",
        "The answer is {g}. That is not {o}.",
        "The answer is {g}. If it were {o}, nothing would fit.",
        "The answer is {o}. Wait, no. The answer is {g}.",
        "The answer is {o}. That is wrong. So the answer is {g}.",
        r"\boxed{{{o}}} is wrong, so it is \boxed{{{g}}}.",
        r"It is \boxed{{{g}}}. This is not surprising.",
        "The answer is {g}...",
    ],
)
def test_doubts_that_end_well_keep_the_answer(name: str, text: str) -> None:
    gold, other = ("B", "C") if name == "choice" else (GOLD, OTHER)
    assert outcome(name, gold, text.format(g=gold, o=other)) == "correct"


@pytest.mark.parametrize(
    "text",
    [
        "B. No, because it is not.",
        "The answer is (B) No, it cannot.",
        "Answer: B) It would not melt.",
        "Answer: B. If the temperature rises, it melts.",
        "Answer: B. Rome\nA. Paris is wrong",
        "A is false. B is true.",
        "I choose B because A is wrong.",
        "The answer is B. No other fits.",
    ],
)
def test_a_choice_may_talk_about_its_option(text: str) -> None:
    assert outcome("choice", "B", text) == "correct"


@pytest.mark.parametrize("text", [r"n \ge \boxed{23}", r"\boxed{23} > 20", r"20 < \boxed{23}",
                                  "It comes to a total of $23$."])  # fmt: skip
def test_a_bound_beside_a_box_is_a_proof(text: str) -> None:
    assert outcome("math", "23", text) == "correct"


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("-1", r"\pm -1", False),
        ("(2, 2), (1, 3)", "[2, 2), (1, 3)", False),
        ("100000000001000000000", "100000000001000000000.5", False),
        ("0.333333333333", r"\frac{1}{3}", True),
        ("1, 2, 3", "1, 2, 3...", False),
        (r"\text{(B)}", "(B) is wrong", False),
        (r"\text{(B)}", "(B)/2", False),
        (r"\text{(B)}", r"\text{(B)} \frac{1}{2}", True),
        ("x < 23", r"x < 23", True),
    ],
)
def test_pairs(gold: str, answer: str, equal: bool) -> None:
    assert grader().same(gold, answer) is equal
