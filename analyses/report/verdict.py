"""The verdict: one sentence about the removals, two where single blocks must stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analyses.plumbing.frames import StudyData, largest_budget
from analyses.plumbing.tables import blocks_text, estimate, listing, share, signed
from analyses.report.decisions import (
    SAFE,
    UNSAFE,
    Decision,
    decisions,
    is_control,
    problems_needed,
    where,
)
from analyses.report.removal_changes import TOLERANCE, Change, Removals, plans, single_blocks


@dataclass(frozen=True)
class Phrases:
    """How the verdict speaks of what is compared: removals of one study, or studies.

    Attributes:
        subject: what a variant is called at the beginning of a sentence.
        safe: what is said of one that is safe.
        harmless: what is said where none of n does clear harm.
        without: names a variant behind its worst change.
    """

    subject: Callable[[str], str]
    safe: str
    harmless: Callable[[int], str]
    without: Callable[[str], str]


def removal_phrases(removals: Removals, verb: str) -> Phrases:
    """The phrases for removals of one study.

    Args:
        removals: the removals.
        verb: "Removing" or "Skipping".

    Returns:
        The phrases.
    """
    return Phrases(
        subject=lambda variant: f"{verb} {_named(removals, variant)}",
        safe="is safe on these benchmarks",
        harmless=lambda n: f"none of the {n} removals does clear harm",
        without=lambda variant: f" without {blocks_text(removals.removed[variant])}",
    )


def headline(study: StudyData) -> str:
    """The verdict in one sentence, or two where blocks say why.

    Args:
        study: the study.

    Returns:
        The text.
    """
    removals, blocks = plans(study), single_blocks(study)
    if removals.labels:
        said = _of_removals(removals, blocks, "Removing")
        return said if any(d.kind == UNSAFE for d in decisions(removals)) else said + _vital(blocks)
    return _of_removals(blocks, blocks, "Skipping") if blocks.labels else _without_removals(study)


def _vital(blocks: Removals) -> str:
    """A sentence about the single blocks that must stay; empty where none is known."""
    unsafe = [d for d in decisions(blocks) if d.kind == UNSAFE]
    if not unsafe:
        return ""
    worst = max(unsafe, key=_loss).decisive[0]
    found = blocks_text([blocks.removed[d.variant][0] for d in unsafe])
    return (
        f" {found.capitalize()} must stay: without {blocks.labels[worst.variant]} alone, "
        f"{_moved(worst)}."
    )


def _of_removals(removals: Removals, blocks: Removals, verb: str) -> str:
    made = [d for d in decisions(removals) if not is_control(removals.methods[d.variant])]
    made = made or decisions(removals)
    size = {d.variant: len(removals.removed[d.variant]) for d in made}
    phrases = removal_phrases(removals, verb)
    unsafe = [d for d in made if d.kind == UNSAFE]
    if unsafe:
        fewest = min(size[d.variant] for d in unsafe)
        first = [d for d in unsafe if size[d.variant] == fewest]
        return sentence(removals, [max(first, key=_loss)], phrases, blocks)
    safe = [d for d in made if d.kind == SAFE]
    if safe:
        return sentence(removals, [max(safe, key=lambda d: size[d.variant])], phrases)
    every = decisions(removals)
    if not any(d.decisive for d in every):
        if removals.changes:
            return "Dense is not clearly better than a guess: no removal can show a loss."
        return "No removal can be compared with dense: they share no problem."
    return sentence(removals, every, phrases)


def sentence(
    removals: Removals,
    made: Sequence[Decision],
    phrases: Phrases,
    blocks: Removals | None = None,
) -> str:
    """The verdict about one variant, or about several of which nothing is known.

    Args:
        removals: what is compared.
        made: the decision about the variant; several where none is known to be safe or not.
        phrases: how it is said.
        blocks: every block alone, where a study has them: one of them may be why.

    Returns:
        The sentence.
    """
    first = made[0]
    if first.kind == UNSAFE:
        return _harm(removals, first, phrases, blocks)
    better = _better(removals, first.variant) if len(made) == 1 else []
    if first.kind == SAFE:
        worst = first.decisive[0]
        gains = f"raises {listing(better)} and " if better else ""
        return (
            f"{phrases.subject(first.variant)} {gains}{phrases.safe}: a loss of more "
            f"than {share(TOLERANCE)} is ruled out on all of them (the largest change for the "
            f"worse: {where(worst)}, {worst.said})."
        )
    changes = [c for d in made for c in d.decisive]
    worst = max(changes, key=lambda c: c.worse)
    at_worst = ""
    if worst.worse > 0:
        at_worst = f" (at worst {where(worst)}{phrases.without(worst.variant)})"
    n = f"{problems_needed(changes):,}"
    if better:
        return (
            f"{phrases.subject(first.variant)} raises {listing(better)}; too few problems to tell "
            f"whether it does harm elsewhere{at_worst}: about {n} are needed to see a change of "
            f"{share(TOLERANCE)}."
        )
    return (
        f"Too few problems to tell: {phrases.harmless(len(made))}{at_worst}; about {n} problems "
        f"are needed to see a change of {share(TOLERANCE)}."
    )


def _better(removals: Removals, variant: str) -> list[str]:
    """The benchmarks on which accuracy is clearly higher, the largest gain first."""
    gains = [c for c in removals.of(variant) if c.clear and c.worse < 0]
    return [f"{c.benchmark} ({c.levels})" for c in sorted(gains, key=lambda c: c.worse)]


def _loss(decision: Decision) -> float:
    return max(c.worse for c in decision.decisive)


def _named(removals: Removals, variant: str) -> str:
    """The blocks first: "blocks 6 and 7 (ShortGPT −2)"."""
    label, blocks = removals.labels[variant], blocks_text(removals.removed[variant])
    return blocks if label == blocks else f"{blocks} ({label})"


def _harm(removals: Removals, decision: Decision, phrases: Phrases, blocks: Removals | None) -> str:
    """What a harmful removal keeps, what it breaks, what its chains do, and which block is why."""
    variant = decision.variant
    accuracy = removals.of(variant)
    good = []
    if better := _better(removals, variant):
        good.append(f"raises {listing(better)}")
    kept = [c for c in accuracy if c.ruled_out and not (c.clear and c.worse < 0)]
    if kept:
        said = [f"{c.benchmark} ({c.levels})" for c in kept[-2:]]
        good.append(f"keeps {listing(said)}")
    parts = [listing(good)] if good else []
    lost = sorted((c for c in accuracy if c.clear and c.worse > 0), key=lambda c: -c.worse)
    if lost:
        parts.append(f"{_falls(lost[0])} {lost[0].benchmark} ({lost[0].levels})")
    tail = []
    place = lost[0].benchmark if lost else decision.decisive[0].benchmark
    for outcome, words in (("looped", "loop"), ("no_answer", "give no answer")):
        change = removals.changes.get((variant, place, outcome))
        if change is not None and change.clear and change.worse > 0:
            of, now, before = "its" if lost else f"{place}'s", *_percent(change)
            tail.append(f"{now} of {of} chains now {words} ({removals.reference} {before})")
            break
    if lost and blocks is not None and (why := _why(blocks, removals, lost[0])):
        tail.append(why)
    said = f"{phrases.subject(variant)} {' but '.join(parts)}"
    if not parts:
        said = f"{phrases.subject(variant)} breaks chains"
    return "; ".join([said, *tail]) + "."


def _falls(change: Change) -> str:
    """A loss of accuracy as a verb."""
    left = change.found.variant / change.found.dense if change.found.dense > 0 else math.nan
    if left <= 0.1:
        return "destroys"
    return "halves" if 0.4 <= left <= 0.6 else "lowers" if left > 0.6 else "breaks"


def _percent(change: Change) -> tuple[str, str]:
    return f"{100 * change.found.variant:.0f} %", f"{100 * change.found.dense:.0f} %"


def _why(blocks: Removals, removals: Removals, loss: Change) -> str:
    """The member that alone costs at least half of the loss, where a single one does."""
    members = set(removals.removed[loss.variant])
    if len(members) < 2:
        return ""
    alone = {
        next(iter(blocks.removed[c.variant])): c
        for (_, benchmark, outcome), c in blocks.changes.items()
        if benchmark == loss.benchmark and outcome == "correct"
    }
    clear = [b for b in members if b in alone and alone[b].clear and alone[b].worse > 0]
    if len(clear) != 1 or alone[clear[0]].worse < loss.worse / 2:
        return ""
    return f"block {clear[0]} is why (alone {signed(alone[clear[0]].found.value)})"


def _without_removals(study: StudyData) -> str:
    """The sentence of a study that removes nothing: accuracy at the largest budget."""
    rows = next((largest_budget(study.rows(p)) for p in study.purposes if len(study.rows(p))), None)
    if rows is None or not len(rows):
        return "The study has no chains at a plain budget yet."
    said = []
    for benchmark in [b for b in study.benchmarks if b in set(rows["benchmark"])]:
        one = estimate(rows[rows["benchmark"] == benchmark], "correct")
        said.append(
            f"{share(one['value'])} [{share(one['low'])}, {share(one['high'])}] of {benchmark} "
            f"(n = {one['problems']})"
        )
    lacks = study.removed_before
    who = f"The checkpoint as given, without {blocks_text(lacks)}," if lacks else "The model"
    return f"{who} solves {listing(said)}; this study removed no block and compares nothing."


def _moved(change: Change) -> str:
    """A change with its place as a clause: "arithmetic falls from 1.00 to .00"."""
    place = change.benchmark
    if change.outcome.column != "correct":
        place = f"{change.outcome.name} on {place}"
    return f"{place} {'falls' if change.found.value < 0 else 'rises'} from {change.levels}"
