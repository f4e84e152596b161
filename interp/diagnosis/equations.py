r"""Arithmetic in natural text: every "a op b = c" of a chain is read and checked exactly.

A chain of words cannot be checked step by step, but its equations can. An equation is read whole
or not at all: an unknown sign, a variable, a function, a mix of units ("2 hours - 30 minutes"), a
mixed number or words that change the meaning ("half of 6 - 2 = 1") drop it, so that what is called
a slip is one. Read are decimals, commas of thousands, signs of money, percent, fractions, brackets,
powers, LaTeX (\frac, \times, \text) and units after numbers. GSM8K's notes "<<16-3=13>>" are left
out, and so is "6 people = 12 / 2", which states no calculation.

Each two neighbours of "a = b = c" are compared. A value may be rounded to the digits that are
written, or cut to a whole number, where the other side divides or has decimals. "2 + 3 = 5 + 4 = 9"
(a running sum) holds.

docs/diagnosis.md tells what is found in GSM8K's own solutions. Offsets are characters of the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import pandas as pd

from interp.diagnosis.equation_reading import EquationSide, read_runs, read_side
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table

FLOATS = Fraction(1, 10**9)  # "0.04999999999999999", as programs print it
NOTICED_WITHIN = 240  # characters behind a slip in which a reflection may notice it


@dataclass(frozen=True)
class Equation:
    """One equation of a text.

    Attributes:
        start: offset of its first character.
        stop: offset behind its last character.
        left: the left side, without units.
        right: the right side, without units.
        value: the exact value of the left side, as a float.
        holds: whether the sides are equal, up to the rounding that is written.
        noticed: whether a reflection begins within two lines behind it (only asked of slips).
        mended: whether the same left side stands later with a value that holds (only of slips).
    """

    start: int
    stop: int
    left: str
    right: str
    value: float
    holds: bool
    noticed: bool = False
    mended: bool = False


@as_table
@dataclass(frozen=True)
class Equations:
    """The equations of one chain.

    Attributes:
        found: all of them, in order.
    """

    found: tuple[Equation, ...]

    def __len__(self) -> int:
        return len(self.found)

    @property
    def slips(self) -> tuple[Equation, ...]:
        """Those that do not hold."""
        return tuple(e for e in self.found if not e.holds)

    @property
    def slips_per_100(self) -> float:
        """Slips per 100 equations; nan without an equation."""
        return 100 * len(self.slips) / len(self) if len(self) else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per equation."""
        columns = list(Equation.__dataclass_fields__)
        return pd.DataFrame([vars(e) for e in self.found], columns=columns)


@checked
def equations(text: str, reflections: Sequence[int] = ()) -> Equations:
    """Read and check the equations of a text.

    Args:
        text: the text.
        reflections: offset of the first character of each reflection, in order; a slip that one of
            them follows closely was noticed.

    Returns:
        The equations that could be read whole.
    """
    return read_equations(text, reflections)


def read_equations(text: str, reflections: Sequence[int] = ()) -> Equations:
    """The same for texts of tokens, which may hold half characters: nothing is refused."""
    found: list[Equation] = []
    for run in read_runs(text):
        sides = [read_side(run.tokens[a:b], text) for a, b in run.sides]
        if run.spoilt_before or (sides[0] is not None and sides[0].lone):
            sides[0] = None
        if run.spoilt_after:
            sides[-1] = None
        for left, right in pairwise(sides):
            if left is None or right is None or not (left.operators or right.operators):
                continue
            holds = _equal(left, right)
            if not holds and (left.scales != right.scales):
                continue  # "60 * 2 minutes = 2 hours": units that convert
            value = float(left.values[0])
            said = (left.written, right.written)
            found.append(Equation(left.start, right.stop, *said, value, holds))
    return Equations(tuple(_followed(found, text, reflections)))


def _followed(found: list[Equation], text: str, reflections: Sequence[int]) -> list[Equation]:
    """The equations, slips with what became of them."""
    right_later: set[str] = set()
    told: list[Equation] = []
    for equation in reversed(found):
        if equation.holds:
            right_later.add(equation.left)
            told.append(equation)
            continue
        near = text[equation.stop : equation.stop + NOTICED_WITHIN]
        lines = [m.start() for m in re.finditer(r"\n+", near)]
        reach = equation.stop + (lines[2] if len(lines) > 2 else len(near))
        noticed = any(equation.stop <= at < reach for at in reflections)
        mended = equation.left in right_later
        told.append(
            Equation(
                equation.start, equation.stop, equation.left, equation.right, equation.value,
                False, noticed, mended,
            )
        )  # fmt: skip
    return told[::-1]


def _equal(left: EquationSide, right: EquationSide) -> bool:
    """Whether two sides are equal, up to what rounding explains."""
    for a in left.values:
        if right.lead and a == right.lead[0]:
            return True  # a running sum
        for b in right.values:
            if a == b:
                return True
            lone = right if right.lone else left if left.lone else None
            other = left if lone is right else right
            if lone is None or (other.exact and lone.decimals == 0):
                continue
            # a written unit of the last place: rounded (half of it) or cut off
            unit = Fraction(1, 10**lone.decimals)
            short, full = (abs(b), abs(a)) if lone is right else (abs(a), abs(b))
            cut = abs(a - b) < unit and (short <= full if lone.decimals else min(short, full) >= 1)
            if abs(a - b) <= unit / 2 or cut or abs(a - b) <= abs(a) * FLOATS:
                return True
    return False
