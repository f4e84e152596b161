"""The testbed's problems: four kinds, from no chain to a long one, each with an exact verifier.

| kind | question | like |
|---|---|---|
| recall | "what is the fruit of moro ?", four options scored by likelihood | MMLU |
| arithmetic | "compute 3 + 4 x 2 - 5", evaluated left to right | GSM8K |
| countdown-3 | "use 3 7 2 to make 23": every number once, left to right | MATH500 |
| countdown-4, countdown-5 | the same with four and five numbers | AIME |

Training and test problems are disjoint: a hash of a problem's content decides its split, whatever
the order of its numbers (another order is another problem of the same split). Facts are the
exception, because recall needs facts seen before: there the split decides only which wrong options
are offered.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

from interp.errors import UserError, check_known
from testbed.vocabulary import ENTITIES, OPERATORS, RELATIONS

KINDS = ("recall", "arithmetic", "countdown-3", "countdown-4", "countdown-5")
SMALLEST_NUMBER, LARGEST_NUMBER = 2, 15
# A search keeps its values small enough that adding any number of the pool stays in the vocabulary.
SMALLEST_VALUE, LARGEST_VALUE = 1, 84
SMALLEST_TARGET = 10
TEST_SHARE = 10  # one problem in ten is a test problem
# The largest mean number of thinking tokens of an undisturbed search: it sets the difficulty.
LONGEST_MEAN_SEARCH = {3: 400, 4: 380, 5: 800}


@dataclass(frozen=True)
class GeneratedProblem:
    """One question.

    Attributes:
        kind: one of `KINDS`.
        id: unique name.
        question: the words of the question.
        answer: the gold answer.
        choices: the options of a recall problem.
        numbers: the pool of a countdown, or the numbers of an expression.
        target: the value to reach; 0 for recall.
    """

    kind: str
    id: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    target: int = 0


def apply(value: int, operator: str, number: int) -> int:
    """Compute value (+|-|x) number.

    Args:
        value: the left operand.
        operator: "+", "-" or "x".
        number: the right operand.

    Returns:
        The result.

    Raises:
        UserError: unknown operator.
    """
    if operator == "+":
        return value + number
    if operator == "-":
        return value - number
    if operator == "x":
        return value * number
    raise UserError(f"Unknown operator {operator!r}; known: {' '.join(OPERATORS)}.")


def content(problem: GeneratedProblem) -> str:
    """What a problem is about, whatever the order of its pool."""
    if not problem.kind.startswith("countdown"):
        return problem.id
    return f"{problem.kind}/{' '.join(map(str, sorted(problem.numbers)))}/{problem.target}"


def is_test(key: str) -> bool:
    """Whether the problem with this `content` belongs to the test split (a fixed hash)."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % TEST_SHARE == 0


def generate(kind: str, n: int, seed: int = 0, split: str = "test") -> list[GeneratedProblem]:
    """Generate different problems of one kind.

    The same arguments give the same problems on every machine.

    Args:
        kind: one of `KINDS`.
        n: how many problems.
        seed: the seed.
        split: "train" or "test".

    Returns:
        `n` problems.

    Raises:
        UserError: unknown kind or split, or the kind has fewer than `n` problems.
    """
    check_known(kind, KINDS, "testbed kind")
    check_known(split, ("train", "test"), "split")
    if n < 1:
        raise UserError(f"{n} problems asked for; expected at least 1.")
    found: dict[str, GeneratedProblem] = {}
    misses = 0
    for problem in stream(kind, seed, split):
        if problem.id in found:
            misses += 1
            if misses > 20_000:
                raise UserError(
                    f"{kind} has about {len(found)} {split} problems and {n} were asked for; "
                    f"ask for fewer."
                )
            continue
        found[problem.id] = problem
        if len(found) == n:
            break
    return list(found.values())


def stream(kind: str, seed: int | str, split: str) -> Iterator[GeneratedProblem]:
    """Yield problems of one kind without end; ids may repeat.

    Args:
        kind: one of `KINDS`.
        seed: the seed.
        split: "train" or "test".

    Yields:
        Problems.
    """
    rng = random.Random(f"{kind}/{seed}/{split}")
    if kind == "recall":
        yield from _recalls(rng)
    while True:
        problem = _arithmetic(rng) if kind == "arithmetic" else _countdown(kind, rng)
        if problem is not None and is_test(content(problem)) == (split == "test"):
            yield problem


# ---------------------------------------------------------------- facts


@lru_cache(maxsize=1)
def facts() -> dict[tuple[str, str], str]:
    """(entity, relation) -> value: 256 facts, fixed by a hash."""
    return {
        (entity, relation): values[
            int.from_bytes(hashlib.sha256(f"{entity}/{relation}".encode()).digest()[:8], "big")
            % len(values)
        ]
        for entity in ENTITIES
        for relation, values in RELATIONS.items()
    }


def _recalls(rng: random.Random) -> Iterator[GeneratedProblem]:
    keys = list(facts())
    while True:
        rng.shuffle(keys)
        for entity, relation in keys:
            value = facts()[entity, relation]
            others = rng.sample([v for v in RELATIONS[relation] if v != value], 3)
            choices = [value, *others]
            rng.shuffle(choices)
            yield GeneratedProblem(
                kind="recall",
                id=f"recall/{entity}/{relation}/{'-'.join(sorted(others))}",
                question=f"what is the {relation} of {entity} ?",
                answer=value,
                choices=tuple(choices),
            )


# ---------------------------------------------------------------- arithmetic


def _arithmetic(rng: random.Random) -> GeneratedProblem | None:
    steps = rng.randint(2, 4)
    value = rng.randint(SMALLEST_NUMBER, LARGEST_NUMBER)
    words = [str(value)]
    numbers = [value]
    for _ in range(steps):
        number = rng.randint(SMALLEST_NUMBER, LARGEST_NUMBER)
        allowed = [
            op for op in OPERATORS if SMALLEST_VALUE <= apply(value, op, number) <= LARGEST_VALUE
        ]
        operator = rng.choice(allowed) if allowed else None
        if operator is None:
            return None
        value = apply(value, operator, number)
        words += [operator, str(number)]
        numbers.append(number)
    question = "compute " + " ".join(words)
    return GeneratedProblem("arithmetic", f"arithmetic/{' '.join(words)}", question, str(value),
                   numbers=tuple(numbers), target=value)  # fmt: skip


# ---------------------------------------------------------------- countdown

Step = tuple[int, str, int, int]  # (value, operator, number, result)


def first_steps(numbers: tuple[int, ...]) -> list[Step]:
    """Every first step: + and x in the pool's order, - from the larger number to the smaller."""
    steps = []
    for i, a in enumerate(numbers):
        for b in numbers[i + 1 :]:
            pairs = ((a, "+", b), (a, "x", b), (max(a, b), "-", min(a, b)))
            for value, operator, number in pairs:
                result = apply(value, operator, number)
                if SMALLEST_VALUE <= result <= LARGEST_VALUE:
                    steps.append((value, operator, number, result))
    return steps


def inner_steps(value: int, rest: tuple[int, ...]) -> list[Step]:
    """Every next step with at least two numbers left, in the order in which a search tries them.

    Args:
        value: the current value.
        rest: the numbers left.

    Returns:
        The steps whose result is in the vocabulary's range.
    """
    return [
        (value, operator, number, result)
        for number in rest
        for operator in OPERATORS
        if SMALLEST_VALUE <= (result := apply(value, operator, number)) <= LARGEST_VALUE
    ]


def last_steps(value: int, number: int, target: int) -> list[Step]:
    """The steps worth trying with the last number: up if the value is too small, otherwise down.

    Args:
        value: the current value.
        number: the last number.
        target: the value to reach.

    Returns:
        The steps.
    """
    if value >= target and value - number >= 0:
        operators = ["-"]
    elif value >= target:
        operators = ["+"]
    else:
        operators = ["+"] + (["x"] if value * number <= LARGEST_VALUE else [])
    return [(value, op, number, apply(value, op, number)) for op in operators]


def without(rest: tuple[int, ...], *used: int) -> tuple[int, ...]:
    """Remove one of each of the used numbers; the order is kept.

    Args:
        rest: the numbers.
        *used: numbers to remove.

    Returns:
        The numbers left.
    """
    left = list(rest)
    for number in used:
        left.remove(number)
    return tuple(left)


# Words per line: see testbed.expert, which writes them.
def _start_words(left: int) -> int:
    return 8 + left


def _search_words(value: int, rest: tuple[int, ...], target: int) -> tuple[int, int | None]:
    """(words of the whole search below a value, words up to its first solution or None)."""
    if len(rest) == 1:
        words = 0
        for *_, result in last_steps(value, rest[0], target):
            words += 7
            if result == target:
                return words, words
        return words, None
    words, solved = 0, None
    for i, (_, _, number, result) in enumerate(inner_steps(value, rest)):
        words += (3 + len(rest) if i else 0) + 6 + len(rest)
        below, hit = _search_words(result, without(rest, number), target)
        if hit is not None and solved is None:
            solved = words + hit
        words += below
    return words, solved


@lru_cache(maxsize=200_000)
def mean_search(numbers: tuple[int, ...], target: int) -> float:
    """Mean number of words of a search that takes its first steps in random order.

    With s starts that hold a solution and the others barren, a random order tries barren / (s + 1)
    barren starts before the first that holds a solution.

    Args:
        numbers: the pool.
        target: the value to reach.

    Returns:
        The mean number of words; inf if the problem has no solution.
    """
    barren: list[int] = []
    hits: list[int] = []
    for value, operator, number, result in first_steps(numbers):
        used = (value, number)
        rest = without(numbers, *used)
        opening = _start_words(len(rest))
        words, solved = _search_words(result, rest, target)
        del operator
        if solved is None:
            barren.append(opening + words)
        else:
            hits.append(opening + solved)
    if not hits:
        return float("inf")
    return sum(hits) / len(hits) + sum(barren) / (len(hits) + 1)


def _random_target(numbers: tuple[int, ...], rng: random.Random) -> int | None:
    order = rng.choice(list(permutations(numbers))) if len(numbers) < 5 else None
    if order is None:
        shuffled = list(numbers)
        rng.shuffle(shuffled)
        order = tuple(shuffled)
    value = order[0]
    for number in order[1:]:
        allowed = [
            op for op in OPERATORS if SMALLEST_VALUE <= apply(value, op, number) <= LARGEST_VALUE
        ]
        if not allowed:
            return None
        value = apply(value, rng.choice(allowed), number)
    return value


def _countdown(kind: str, rng: random.Random) -> GeneratedProblem | None:
    n = int(kind.rsplit("-", 1)[1])
    numbers = tuple(rng.sample(range(SMALLEST_NUMBER, LARGEST_NUMBER + 1), n))
    target = _random_target(numbers, rng)
    if target is None or target < SMALLEST_TARGET or target in numbers:
        return None
    if mean_search(numbers, target) > LONGEST_MEAN_SEARCH[n]:
        return None
    question = f"use {' '.join(map(str, numbers))} to make {target}"
    name = f"{kind}/{' '.join(map(str, numbers))}/{target}"
    return GeneratedProblem(kind, name, question, str(target), numbers=numbers, target=target)
