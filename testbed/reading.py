"""The reader of chains: checks the testbed's grammar line by line against what is true.

`CountdownReader` follows a countdown chain and keeps the state of the search (the values reached,
the numbers left at each, the steps tried). `ArithmeticReader` follows the steps of an expression.
Both collect `Slip`s; `testbed.verify` makes a report of them. After a slip, the reader goes on from
what the chain wrote, so one slip is counted once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from testbed.problems import GeneratedProblem, apply
from testbed.vocabulary import OPERATORS


@dataclass
class Slip:
    """One thing in a chain that is wrong.

    Attributes:
        kind: the kind of slip (see `testbed.verify`).
        at: index of the word where it is.
        noticed: whether the chain noticed it.
        mended: whether the chain corrected it.
    """

    kind: str
    at: int
    noticed: bool = False
    mended: bool = False


def is_number(word: str) -> bool:
    """Whether a word is a number in ASCII digits."""
    return word.isascii() and word.isdigit()


@dataclass
class _Node:
    """A value that the search reached: the numbers left, and whether no slip led to it."""

    value: int
    rest: tuple[int, ...]
    right: bool
    tried: set[tuple[str, int]] = field(default_factory=set)


@dataclass
class _Line:
    """The newest step line: its operands, the slip it made (if any), the node it started from."""

    key: tuple[int, str, int]
    start: bool
    slip: Slip | None
    node: _Node | None  # the node that the step started from; None for a start


class CountdownReader:
    """Reads a countdown chain word by word.

    Attributes:
        problem: the problem.
        words: the words of the thinking.
        i: index of the next word.
        slips: what is wrong, in the order of reading.
        lines: lines read.
        starts: starts read.
        checks: checks read.
        waits: waits read.
        repeated: steps tried again.
        reached: whether a line made the target by a right path.
    """

    def __init__(self, problem: GeneratedProblem, words: list[str]) -> None:
        self.problem, self.words = problem, words
        self.i = 0
        self.slips: list[Slip] = []
        self.nodes: list[_Node] = []
        self.here: _Node | None = None
        self.begun: set[tuple[int, str, int]] = set()
        self.last: _Line | None = None
        self.written: dict[tuple[int, str, int], Slip] = {}
        self.lines = self.starts = self.checks = self.waits = self.repeated = 0
        self.reached = False

    # -- words

    def peek(self, ahead: int = 0) -> str:
        """The word `ahead` words after the next one; "" past the end."""
        at = self.i + ahead
        return self.words[at] if at < len(self.words) else ""

    def slip(self, kind: str, at: int) -> Slip:
        """Record a slip.

        Args:
            kind: the kind of slip.
            at: index of the word where it is.

        Returns:
            The slip.
        """
        found = Slip(kind, at)
        self.slips.append(found)
        return found

    def at_step(self) -> bool:
        """Whether the next words are a step `v op n = u`."""
        return (
            is_number(self.peek())
            and self.peek(1) in OPERATORS
            and is_number(self.peek(2))
            and self.peek(3) == "="
            and is_number(self.peek(4))
        )

    def cut(self) -> bool:
        """Whether the rest is a line that the end of the thinking cut short."""
        return "." not in self.words[self.i :]

    def skip_line(self) -> None:
        """Move to the word after the next full stop."""
        while self.i < len(self.words) and self.words[self.i] != ".":
            self.i += 1
        self.i += 1

    # -- grammar

    def read(self) -> None:
        """Read all words."""
        while self.i < len(self.words):
            word, begin = self.peek(), self.i
            if word == ".":
                self.i += 1
            elif word in ("try", "again"):
                self.i += 1
                if self.at_step():
                    self.starts += 1
                    self.step(start=True)
                else:
                    self.strange(begin)
            elif word == "back":
                self.back()
            elif word == "check":
                self.check()
            elif word == "wait":
                self.waits += 1
                self.i += 1
                if self.at_step():
                    self.again_after_wait()
            elif self.at_step():
                self.step(start=False)
            else:
                self.strange(begin)

    def strange(self, begin: int) -> None:
        """Record an unreadable line (unless it was cut short) and skip it."""
        if not self.cut():
            self.slip("unreadable", begin)
        self.skip_line()

    def operands(self) -> tuple[tuple[int, str, int], int, int]:
        """Read a step: (value, operator, number), the written result, the index of the result."""
        key = (int(self.peek()), self.peek(1), int(self.peek(2)))
        at = self.i + 4
        result = int(self.peek(4))
        self.i += 5
        return key, result, at

    def step(self, *, start: bool) -> None:
        """Read a step line; `start` if it begins a search."""
        begin = self.i
        key, result, at = self.operands()
        self.lines += 1
        value, _, number = key
        pool = tuple(self.problem.numbers)
        origin: _Node | None = None
        if start:
            self.nodes, self.written = [], {}
            rest = _less(pool, value, number)
            if rest is None:
                self.slip("copying slip", begin)
                rest = _less_any(pool, value, number)
            right = True
            if key in self.begun:
                self.repeated += 1
                self.slip("repeated branch", begin)
            self.begun.add(key)
        else:
            origin = self.here if self.here and self.here.value == value else self.find(value)
            if origin is None:
                self.slip("lost state", begin)
                origin = _Node(value, self.here.rest if self.here else pool, False)
                self.nodes.append(origin)
            rest = _less(origin.rest, number)
            if rest is None:
                self.slip("copying slip", begin + 2)
                rest = _less_any(origin.rest, number)
            if (key[1], number) in origin.tried:
                self.repeated += 1
                self.slip("repeated branch", begin)
            origin.tried.add((key[1], number))
            right = origin.right
        slip = None
        if result != apply(*key):
            slip = self.slip("arithmetic slip", at)
            self.written[key] = slip
        self.last = _Line(key, start, slip, origin)
        self.land(result, rest, right and slip is None, origin)

    def land(self, result: int, rest: tuple[int, ...], right: bool, origin: _Node | None) -> None:
        """Read what follows a result: "left ...", "yes", "no", or a "wait" that repeats the line.

        Args:
            result: the written result.
            rest: the numbers left.
            right: whether every result up to here is right.
            origin: the node that the step started from.
        """
        word = self.peek()
        if word == "left":
            self.left(rest)
            self.here = _Node(result, rest, right)
            self.nodes.append(self.here)
        elif word in ("yes", "no"):
            at = self.i
            self.i += 1
            is_target = result == self.problem.target
            whole = not rest
            if whole and right and is_target:
                self.reached = True
            if word == "yes" and not (is_target and whole):
                self.slip("false yes", at)
            if word == "no" and is_target and whole and right:
                self.slip("missed solution", at)
            # The number is used in this line only: the search stays at the value before it.
            self.here = origin or self.here
            if self.last is not None and self.last.node is None:
                self.here = None
        elif word == "wait" or self.i >= len(self.words):
            self.here = origin or _Node(result, rest, right)
        elif word == ".":
            self.here = _Node(result, rest, right)
            self.nodes.append(self.here)
        else:
            self.strange(self.i)

    def left(self, rest: tuple[int, ...]) -> None:
        """Read "left ..." and compare it with the numbers that are left."""
        begin = self.i
        said = self.stated_left()
        if said is not None and sorted(said) != sorted(rest):
            self.slip("copying slip", begin)

    def back(self) -> None:
        """Read "back ...": a return to a value reached before."""
        begin = self.i
        self.i += 1
        if not is_number(self.peek()):
            self.strange(begin)
            return
        value = int(self.peek())
        self.i += 1
        self.lines += 1
        stated = self.stated_left()
        node = self.find(value, stated)
        if node is None:
            self.slip("lost state", begin)
            node = _Node(value, stated or (), False)
            self.nodes.append(node)
        elif stated is not None and sorted(stated) != sorted(node.rest):
            self.slip("copying slip", begin)
        self.here = node

    def stated_left(self) -> tuple[int, ...] | None:
        """The numbers after "left", or None if the line was cut before its end."""
        if self.peek() != "left":
            return None
        self.i += 1
        said = []
        while is_number(self.peek()):
            said.append(int(self.peek()))
            self.i += 1
        return tuple(said) if self.i < len(self.words) else None

    def find(self, value: int, rest: tuple[int, ...] | None = None) -> _Node | None:
        """The newest node of this start with a value.

        Args:
            value: the value.
            rest: the numbers left, if the chain states them; a node that matches them is preferred.

        Returns:
            The node, or None.
        """
        same = [n for n in reversed(self.nodes) if n.value == value and n.rest]
        if rest is not None:
            for node in same:
                if sorted(node.rest) == sorted(rest):
                    return node
        return same[0] if same else None

    def again_after_wait(self) -> None:
        """Read a line after "wait": the last line repeated, or the search going on."""
        key = (int(self.peek()), self.peek(1), int(self.peek(2)))
        if self.last is None or key != self.last.key:
            self.step(start=False)
            return
        last = self.last
        _, result, at = self.operands()
        self.lines += 1
        right = result == apply(*key)
        if last.slip is not None:
            last.slip.noticed = True
            last.slip.mended = right
        if not right:
            last = _Line(key, last.start, self.slip("arithmetic slip", at), last.node)
        self.last = last
        self.repeat(last, result, right)

    def repeat(self, last: _Line, result: int, right: bool) -> None:
        """Go on from the result of a line that was repeated.

        Args:
            last: the line.
            result: the result that was written this time.
            right: whether it is right.
        """
        _, _, number = last.key
        pool = tuple(self.problem.numbers)
        if last.start:
            rest = _less_any(pool, last.key[0], number)
            self.nodes = []
        else:
            rest = _less_any(last.node.rest if last.node else pool, number)
        was = last.node.right if last.node else True
        self.land(result, rest, was and right, last.node)

    def check(self) -> None:
        """Read "check v op n = u . u op n = w . yes ." and recompute every line."""
        self.checks += 1
        self.i += 1
        path: list[int] = []
        value: int | None = None
        clean = True
        while self.at_step():
            begin = self.i
            key, result, at = self.operands()
            if value is not None and key[0] != value:
                self.slip("lost state", begin)
                clean = False
            path += [key[0], key[2]] if value is None else [key[2]]
            before = self.written.get(key)
            if result != apply(*key):
                self.slip("arithmetic slip", at)
                clean = False
            elif before is not None:
                before.noticed = before.mended = True
            value = result
            if self.peek() == "." and is_number(self.peek(1)):
                self.i += 1
        whole = sorted(path) == sorted(self.problem.numbers)
        if self.peek() in ("yes", "no"):
            at = self.i
            good = value == self.problem.target and whole and clean
            if self.peek() == "yes" and not good and clean:
                self.slip("false yes", at)
            if self.peek() == "no" and good:
                self.slip("missed solution", at)
            if self.peek() == "no":
                # A yes that the check takes back counts as noticed, whatever the reason for it.
                for slip in self.slips:
                    if slip.kind == "false yes" and slip.at < at:
                        slip.noticed = slip.mended = True
            self.reached = self.reached or good
            self.i += 1


def _less(pool: tuple[int, ...], *used: int) -> tuple[int, ...] | None:
    left = list(pool)
    for number in used:
        if number not in left:
            return None
        left.remove(number)
    return tuple(left)


def _less_any(pool: tuple[int, ...], *used: int) -> tuple[int, ...]:
    left = list(pool)
    for number in used:
        if number in left:
            left.remove(number)
    return tuple(left)


class ArithmeticReader(CountdownReader):
    """Reads an arithmetic chain: the expression's steps, in order."""

    def __init__(self, problem: GeneratedProblem, words: list[str]) -> None:
        super().__init__(problem, words)
        expression = problem.question.split()[1:]
        self.plan = list(zip(expression[1::2], map(int, expression[2::2]), strict=True))
        self.begin_value = int(expression[0])
        self.value, self.done = self.begin_value, 0

    def step(self, *, start: bool) -> None:
        """Read a step line and compare it with the expression's next step."""
        begin = self.i
        key, result, at = self.operands()
        self.lines += 1
        slip = None
        if self.done >= len(self.plan) or key[1:] != self.plan[self.done]:
            self.slip("copying slip", begin)
        elif key[0] != self.value:
            self.slip("lost state", begin)
        if result != apply(*key):
            slip = self.slip("arithmetic slip", at)
            self.written[key] = slip
        self.last = _Line(key, start, slip, None)
        self.advance(result)

    def advance(self, result: int) -> None:
        """Go on to the expression's next step from a written result."""
        self.value = result
        self.done += 1
        if self.done == len(self.plan) and result == self.problem.target:
            self.reached = True

    def repeat(self, last: _Line, result: int, right: bool) -> None:
        """Take the step of the expression again, with the result that was written this time."""
        self.done -= 1
        self.advance(result)

    def back(self) -> None:
        """Refuse "back": an expression has nothing to return to."""
        self.strange(self.i)

    def check(self) -> None:
        """Read the whole expression once more; there is no yes or no."""
        self.checks += 1
        self.i += 1
        kept = self.value, self.done
        self.value, self.done, last = self.begin_value, 0, self.last
        while self.at_step():
            key = (int(self.peek()), self.peek(1), int(self.peek(2)))
            before = self.written.pop(key, None)
            n = len(self.slips)
            self.step(start=False)
            if before is not None and len(self.slips) == n:
                before.noticed = before.mended = True
            if self.peek() == "." and is_number(self.peek(1)):
                self.i += 1
        if self.done == 0:
            self.value, self.done, self.last = *kept, last
