"""The expert that writes the chains the reasoner learns from: search, slips, second thoughts.

A document is a list of words with one loss weight per word. Prompts have weight 0, and so has
every word that the reasoner must survive but must not learn to write: a slip itself, and the end
of thinking forced by a budget. What follows a slip has weight 1, so noticing is learnt.

Words of a countdown chain (pool 3 7 2 4, target 25):
    try 3 + 7 = 10 left 2 4 .      a start
    10 x 2 = 20 left 4 .           a step from the current value
    20 + 4 = 24 no .               the last number: no, or yes
    back 10 left 2 4 .             return to the nearest value with steps not tried
    again 7 - 3 = 4 left 2 4 .     another start
    check 3 + 7 = 10 . ... yes .   the path once more, by choice
    3 x 4 = 14 wait 3 x 4 = 12     a slip that is noticed
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from testbed.problems import (
    LARGEST_VALUE,
    SMALLEST_VALUE,
    GeneratedProblem,
    Step,
    apply,
    first_steps,
    inner_steps,
    last_steps,
    without,
)
from testbed.vocabulary import OPERATORS, THINK_END, TURN_END, prompt_words


@dataclass(frozen=True)
class Habits:
    """How often the expert does what. Shares are of chains unless the comment says otherwise.

    Attributes:
        check: share of found solutions that are checked before concluding.
        slip: share of chains that have slips.
        slip_rate: share of lines with a slip in such a chain.
        false_yes: share of chains that say yes to a wrong value once, and find out.
        give_up: share of returns to a start's value that turn to another start instead.
        early: share that conclude before a solution, with the last expression tried.
        forced: share that a budget cuts at any place, and that must then answer.
        wait: share that go on after a "wait" where they could have stopped.
        wait_after_yes: share that are made to think on after a solution.
        answer_weight: loss weight of the words of an answer, which are few beside a chain's.
        recall_weight: loss weight of the answer word of a recall problem.
        longest: the largest number of words in a search, by numbers in the pool.
    """

    check: float = 0.35
    slip: float = 0.30
    slip_rate: float = 0.06
    false_yes: float = 0.05
    give_up: float = 0.08
    early: float = 0.06
    forced: float = 0.06
    wait: float = 0.08
    wait_after_yes: float = 0.05
    answer_weight: float = 3.0
    recall_weight: float = 10.0
    longest: dict[int, int] = field(default_factory=lambda: {3: 500, 4: 1300, 5: 1900})


@dataclass
class ExpertDocument:
    """A training document; the words of the prompt come first.

    Attributes:
        words: the words.
        weights: one loss weight per word.
    """

    words: list[str]
    weights: list[float]


@dataclass
class _Mark:
    """The end of a line that tried a full expression."""

    at: int
    path: list[Step]


class _SolvedError(Exception):
    """The search has found its solution."""


class _LongEnoughError(Exception):
    """The chain has reached its largest length."""


class _ExpertSearch:
    """Writes one countdown chain."""

    def __init__(self, problem: GeneratedProblem, rng: random.Random, habits: Habits) -> None:
        self.problem, self.rng, self.habits = problem, rng, habits
        self.words: list[str] = []
        self.weights: list[float] = []
        self.marks: list[_Mark] = []
        self.path: list[Step] = []
        self.slipping = rng.random() < habits.slip
        self.false_yes = rng.random() < habits.false_yes
        self.limit = habits.longest[len(problem.numbers)]

    def put(self, text: str, weight: float = 1.0) -> None:
        new = text.split()
        self.words += new
        self.weights += [weight] * len(new)

    def left(self, rest: tuple[int, ...]) -> str:
        return " ".join(["left", *map(str, rest), "."])

    def step(self, step: Step, tail: str) -> None:
        """Write one line, `v op r = u tail`, perhaps with a slip that is noticed."""
        value, operator, number, result = step
        head = f"{value} {operator} {number} ="
        self.put(head)
        if self.slipping and self.rng.random() < self.habits.slip_rate:
            self.put(str(self.wrong(step)), 0.0)
            if tail.startswith("left") and self.rng.random() < 0.3:
                self.put(tail)  # noticed one line late
            self.put(f"wait {head} {result} {tail}")
        else:
            self.put(f"{result} {tail}")

    def wrong(self, step: Step) -> int:
        """A plausible wrong result: off by a little, by ten, or from another operator."""
        value, operator, number, result = step
        options = {result + d for d in (-2, -1, 1, 2, -10, 10)}
        options |= {apply(value, op, number) for op in OPERATORS if op != operator}
        options -= {result, self.problem.target}
        return self.rng.choice(sorted(o for o in options if SMALLEST_VALUE <= o <= LARGEST_VALUE))

    def check(self, path: list[Step]) -> bool:
        """Write the path once more, computed and not copied; True if it makes the target."""
        lines = [f"{v} {op} {n} = {u}" for v, op, n, u in replay(path)]
        good = replay(path)[-1][3] == self.problem.target
        self.put("check " + " . ".join(lines) + (" yes ." if good else " no ."))
        return good

    def run(self) -> bool:
        """Search from all starts in random order; True if a solution was found."""
        starts = first_steps(self.problem.numbers)
        self.rng.shuffle(starts)
        try:
            for i, step in enumerate(starts):
                value, _, number, result = step
                rest = without(self.problem.numbers, value, number)
                self.put("again" if i else "try")
                self.step(step, self.left(rest))
                self.path = [step]
                self.explore(result, rest)
        except _SolvedError:
            return True
        except _LongEnoughError:
            return False
        return False

    def explore(self, value: int, rest: tuple[int, ...]) -> None:
        """Search depth first below a value.

        The search keeps an explicit stack of (value, rest, steps not yet taken).
        """
        if len(rest) == 1:
            self.finish(value, rest[0])
            return
        stack = [(value, rest, inner_steps(value, rest))]
        fresh = True
        while stack:
            value, rest, untried = stack[-1]
            if not untried:
                stack.pop()
                self.path.pop()
                fresh = False
                continue
            if not fresh:
                if len(stack) == 1 and self.rng.random() < self.habits.give_up:
                    return
                self.put(f"back {value} {self.left(rest)}")
            fresh = True
            step = untried.pop(0)
            remaining = without(rest, step[2])
            self.step(step, self.left(remaining))
            self.path.append(step)
            if len(remaining) == 1:
                if self.finish(step[3], remaining[0]):
                    return
                self.path.pop()
                fresh = False
            else:
                stack.append((step[3], remaining, inner_steps(step[3], remaining)))

    def finish(self, value: int, number: int) -> bool:
        """Use the last number; True if the start is given up after a wrong yes."""
        target = self.problem.target
        for step in last_steps(value, number, target):
            path = [*self.path, step]
            if step[3] == target:
                self.step(step, "yes .")
                self.marks.append(_Mark(len(self.words), path))
                if self.rng.random() < self.habits.check:
                    self.check(path)
                self.solution = path
                raise _SolvedError
            if self.false_yes and self.rng.random() < 0.1:
                self.false_yes = False
                self.put(f"{step[0]} {step[1]} {step[2]} =")
                self.put(str(target), 0.0)
                self.put("yes .")
                if self.rng.random() < 0.5:
                    self.put(f"wait {step[0]} {step[1]} {step[2]} = {step[3]} no .")
                    self.marks.append(_Mark(len(self.words), path))
                    continue
                self.check(path)
                self.marks.append(_Mark(len(self.words), path))
                self.put("wait")
                return True
            self.step(step, "no .")
            self.marks.append(_Mark(len(self.words), path))
            if len(self.words) > self.limit:
                raise _LongEnoughError
        return False


def replay(path: list[Step]) -> list[Step]:
    """Recompute every result of a path, with the same operators and numbers from the first value.

    Args:
        path: the steps.

    Returns:
        The steps with right results.
    """
    value = path[0][0]
    steps = []
    for _, operator, number, _ in path:
        result = apply(value, operator, number)
        steps.append((value, operator, number, result))
        value = result
    return steps


def expression(path: list[Step]) -> str:
    """The answer, such as `3 + 7 x 2 + 5`, which is evaluated left to right."""
    return " ".join([str(path[0][0]), *(f"{op} {n}" for _, op, n, _ in path)])


def fallback(problem: GeneratedProblem) -> str:
    """The answer of a chain that was cut before it tried anything."""
    return " + ".join(map(str, problem.numbers))


def _assemble(
    problem: GeneratedProblem, words: list[str], weights: list[float], answer: str,
    *, end_weight: float, habits: Habits,
) -> ExpertDocument:  # fmt: skip
    prompt = prompt_words(problem.question)
    tail = answer.split()
    return ExpertDocument(
        [*prompt, *words, THINK_END, *tail, TURN_END],
        [0.0] * len(prompt) + weights + [end_weight] + [habits.answer_weight] * len(tail) + [1.0],
    )


def _countdown(problem: GeneratedProblem, rng: random.Random, habits: Habits) -> ExpertDocument:
    search = _ExpertSearch(problem, rng, habits)
    solved = search.run()
    words, weights, marks = search.words, search.weights, search.marks
    draw = rng.random()
    if draw < habits.forced:
        cut = rng.randrange(0, len(words))
        tried = [mark for mark in marks if mark.at <= cut]
        answer = expression(tried[-1].path) if tried else fallback(problem)
        return _assemble(problem, words[:cut], weights[:cut], answer, end_weight=0.0,
                         habits=habits)  # fmt: skip
    draw -= habits.forced
    unsolved = [m for m in marks[:-1] if m.at < len(words)] if solved else marks
    if draw < habits.early and unsolved:
        mark = rng.choice(unsolved)
        return _assemble(problem, words[: mark.at], weights[: mark.at], expression(mark.path),
                         end_weight=1.0, habits=habits)  # fmt: skip
    draw -= habits.early
    if draw < habits.wait and unsolved:
        at = rng.choice(unsolved).at
        if words[at : at + 1] != ["wait"]:
            words, weights = words.copy(), weights.copy()
            words.insert(at, "wait")
            weights.insert(at, 0.3)
    draw -= habits.wait
    if 0 <= draw < habits.wait_after_yes and solved:
        search.put("wait", 0.3)
        search.check(search.solution)
        words, weights = search.words, search.weights
    answer = expression(search.solution if solved else marks[-1].path)
    # A search without a solution ends because it ran out of room, which is not a choice to learn.
    return _assemble(problem, words, weights, answer, end_weight=1.0 if solved else 0.2,
                     habits=habits)  # fmt: skip


def _arithmetic(problem: GeneratedProblem, rng: random.Random, habits: Habits) -> ExpertDocument:
    expr = problem.question.split()[1:]
    value = int(expr[0])
    path: list[Step] = []
    for operator, number in zip(expr[1::2], expr[2::2], strict=True):
        result = apply(value, operator, int(number))
        path.append((value, operator, int(number), result))
        value = result
    writer = _ExpertSearch.__new__(_ExpertSearch)
    writer.problem, writer.rng, writer.habits = problem, rng, habits
    writer.words, writer.weights, writer.marks, writer.path = [], [], [], []
    writer.slipping = rng.random() < habits.slip
    for step in path:
        writer.step(step, ".")
    cut = len(writer.words)
    answer = str(problem.answer)
    draw = rng.random()
    lines = " . ".join(f"{v} {op} {n} = {u}" for v, op, n, u in path)
    end_weight = 1.0
    if draw < 0.15:
        writer.put(f"check {lines} .")
    elif draw < 0.15 + habits.wait_after_yes:
        writer.put("wait", 0.3)
        writer.put(f"check {lines} .")
    elif draw < 0.15 + habits.wait_after_yes + habits.forced:
        # Cut by a budget: the last computed value is the best guess.
        cut = rng.randrange(0, cut)
        end_weight = 0.0
        numbers = [w for i, w in enumerate(writer.words[:cut]) if i and writer.words[i - 1] == "="]
        answer = numbers[-1] if numbers else expr[0]
        del writer.words[cut:], writer.weights[cut:]
    return _assemble(problem, writer.words, writer.weights, answer, end_weight=end_weight,
                     habits=habits)  # fmt: skip


def _recall(problem: GeneratedProblem, habits: Habits) -> ExpertDocument:
    prompt = prompt_words(problem.question, thinking=False)
    return ExpertDocument([*prompt, problem.answer, TURN_END],
                    [0.0] * len(prompt) + [habits.recall_weight, 1.0])  # fmt: skip


def write(
    problem: GeneratedProblem, rng: random.Random, habits: Habits | None = None
) -> ExpertDocument:
    """Write a training document for a problem: prompt, thinking, answer.

    Args:
        problem: the problem.
        rng: the source of all random choices.
        habits: how often the expert does what. Default: `Habits()`.

    Returns:
        The document.
    """
    habits = habits or Habits()
    if problem.kind == "recall":
        return _recall(problem, habits)
    if problem.kind == "arithmetic":
        return _arithmetic(problem, rng, habits)
    return _countdown(problem, rng, habits)
