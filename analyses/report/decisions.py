"""What the study says about each removal: safe, unsafe, or cannot tell.

The rules are those of `analyses.report.removal_changes`. A removal is unsafe if it clearly lowers
accuracy, or clearly raises loops or chains without an answer, on any benchmark. It is safe if the
intervals rule out a change for the worse of more than `TOLERANCE` on all of them. Otherwise there
are too few problems, and `problems_needed` says how many there should be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyses.plumbing.tables import blocks_text
from analyses.report.removal_changes import Change, Removals

SAFE, UNSAFE, UNKNOWN = "Safe to remove", "Do not remove", "Cannot tell"
STUDIES = {SAFE: "No worse", UNSAFE: "Worse", UNKNOWN: UNKNOWN}  # said of a study, not a removal


@dataclass(frozen=True)
class Decision:
    """What the study says about one removal.

    Attributes:
        variant: name of the variant.
        kind: `SAFE`, `UNSAFE` or `UNKNOWN`.
        decisive: the changes that decided it, the worst first.
    """

    variant: str
    kind: str
    decisive: tuple[Change, ...]


def is_control(method: str) -> bool:
    """Whether a method only draws blocks ("random", "random@1"): not counted among the criteria."""
    return method.partition("@")[0] == "random"


def decide(removals: Removals, variant: str) -> Decision:
    """What the study says about one removal.

    Args:
        removals: the removals.
        variant: name of the variant.

    Returns:
        The decision.
    """
    harms = sorted(removals.harms(variant), key=lambda c: -c.worse)
    clear = [c for c in harms if c.clear and c.worse > 0]
    if clear:
        return Decision(variant, UNSAFE, tuple(clear))
    open_ = [c for c in harms if not c.ruled_out]
    if open_ or not harms:
        return Decision(variant, UNKNOWN, tuple(open_))
    return Decision(variant, SAFE, tuple(harms))


def decisions(removals: Removals) -> list[Decision]:
    """The decisions about all removals, in their order."""
    return [decide(removals, variant) for variant in removals.labels]


def subject(removals: Removals, variant: str) -> str:
    """A removal in words: "ShortGPT −2 (blocks 6 and 7)"."""
    label, blocks = removals.labels[variant], blocks_text(removals.removed[variant])
    return label if label == blocks else f"{label} ({blocks})"


def where(change: Change) -> str:
    """A change with its place in words: "countdown-4 .71 to .35"."""
    if change.outcome.column == "correct":
        return f"{change.benchmark} {change.levels}"
    return f"{change.outcome.name} on {change.benchmark} {change.levels}"


def needed_words(changes: Sequence[Change]) -> str:
    """How many problems there are, and how many would tell: "n = 12, about 310 needed"."""
    few, most = (f(c.n for c in changes) for f in (min, max))
    n = f"{few}" if few == most else f"{few} to {most}"
    return f"n = {n}, about {problems_needed(changes):,} needed"


def problems_needed(changes: Sequence[Change]) -> int:
    """Problems needed for all of these, in two digits; at least twice as many as there are."""
    n = max(max(c.needed, 2 * c.n) for c in changes)
    step = 10 ** max(0, len(str(n)) - 2)
    return -(-n // step) * step
