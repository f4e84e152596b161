"""The verdict: one sentence, then what is safe to remove, what is not, and what cannot be told.

The rules are those of `analyses.report.changes`. A removal is unsafe if it clearly lowers accuracy,
or clearly raises loops or chains without an answer, on any benchmark. It is safe if the intervals
rule out a change for the worse of more than `TOLERANCE` on all of them. Otherwise there are too few
problems, and the report says how many are needed and which command measures them.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analyses.plumbing import style
from analyses.plumbing.frames import StudyData
from analyses.plumbing.tables import blocks_text, listing, share, signed
from analyses.report.changes import TOLERANCE, Change, Removals, plans, single_blocks

SAFE, UNSAFE, UNKNOWN = "Safe to remove", "Do not remove", "Cannot tell"
MOST_NAMED = 3


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


@dataclass(frozen=True)
class Advice:
    """One of the three lists.

    Attributes:
        kind: `SAFE`, `UNSAFE` or `UNKNOWN`.
        lines: pairs (subject, reason).
        command: the command that would decide; empty where there is none.
    """

    kind: str
    lines: tuple[tuple[str, str], ...]
    command: str = ""


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


def _moved(change: Change) -> str:
    """A change with its place as a clause: "arithmetic falls from 1.00 to .00"."""
    place = change.benchmark
    if change.outcome.column != "correct":
        place = f"{change.outcome.name} on {place}"
    return f"{place} {'falls' if change.found.value < 0 else 'rises'} from {change.levels}"


def _at_worst(change: Change) -> str:
    """What the interval does not rule out: "countdown-3 may lose up to .36 (.81 to .69 here)"."""
    bound = share(change.at_worst)
    if change.outcome.column == "correct":
        return f"{change.benchmark} may lose up to {bound} ({change.levels} here)"
    place = f"{change.outcome.name} on {change.benchmark}"
    return f"{place} may rise by up to {bound} ({change.levels} here)"


# ---------------------------------------------------------------------- the sentence


def headline(study: StudyData) -> str:
    """The verdict in one sentence, or two where blocks say why.

    Args:
        study: the study.

    Returns:
        The text.
    """
    removals, blocks = plans(study), single_blocks(study)
    if removals.labels:
        said = _of_removals(study, removals, "Removing")
        return said if any(d.kind == UNSAFE for d in decisions(removals)) else said + _vital(blocks)
    return _of_removals(study, blocks, "Skipping") if blocks.labels else _without_removals(study)


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


def _of_removals(study: StudyData, removals: Removals, verb: str) -> str:
    made = [d for d in decisions(removals) if not is_control(removals.methods[d.variant])]
    made = made or decisions(removals)
    size = {d.variant: len(removals.removed[d.variant]) for d in made}
    unsafe = [d for d in made if d.kind == UNSAFE]
    if unsafe:
        fewest = min(size[d.variant] for d in unsafe)
        first = [d for d in unsafe if size[d.variant] == fewest]
        return _harm(study, removals, max(first, key=_loss), verb)
    safe = [d for d in made if d.kind == SAFE]
    if safe:
        best = max(safe, key=lambda d: size[d.variant])
        worst = best.decisive[0]
        return (
            f"{verb} {_named(removals, best.variant)} is safe on these benchmarks: a loss of more "
            f"than {share(TOLERANCE)} is ruled out on all of them (the largest change for the "
            f"worse: {where(worst)}, {worst.said})."
        )
    every = decisions(removals)
    changes = [c for d in every for c in d.decisive]
    if not changes:
        return "No removal can be compared with dense: they share no problem."
    worst = max(changes, key=lambda c: c.worse)
    said = f"Too few problems to tell: none of the {len(every)} removals changes anything clearly"
    if worst.worse > 0:
        without = blocks_text(removals.removed[worst.variant])
        said += f" (at worst {where(worst)} without {without})"
    n = f"{_problems(changes):,}"
    return f"{said}; about {n} problems are needed to see a change of {share(TOLERANCE)}."


def _loss(decision: Decision) -> float:
    return max(c.worse for c in decision.decisive)


def _named(removals: Removals, variant: str) -> str:
    """The blocks first: "blocks 6 and 7 (ShortGPT −2)"."""
    label, blocks = removals.labels[variant], blocks_text(removals.removed[variant])
    return blocks if label == blocks else f"{blocks} ({label})"


def _harm(study: StudyData, removals: Removals, decision: Decision, verb: str) -> str:
    """What a harmful removal keeps, what it breaks, what its chains do, and which block is why."""
    variant = decision.variant
    accuracy = removals.of(variant)
    parts = []
    kept = [c for c in accuracy if c.ruled_out]
    if kept:
        said = [f"{c.benchmark} ({c.levels})" for c in kept[-2:]]
        parts.append(f"keeps {listing(said)}")
    lost = sorted((c for c in accuracy if c.clear and c.worse > 0), key=lambda c: -c.worse)
    if lost:
        parts.append(f"{_falls(lost[0])} {lost[0].benchmark} ({lost[0].levels})")
    tail = []
    place = lost[0].benchmark if lost else decision.decisive[0].benchmark
    for outcome, words in (("looped", "loop"), ("no_answer", "give no answer")):
        change = removals.changes.get((variant, place, outcome))
        if change is not None and change.clear and change.worse > 0:
            of, now, before = "its" if lost else f"{place}'s", *_percent(change)
            tail.append(f"{now} of {of} chains now {words} (dense {before})")
            break
    if lost and (why := _why(study, removals, lost[0])):
        tail.append(why)
    sentence = f"{verb} {_named(removals, variant)} {' but '.join(parts)}"
    if not parts:
        sentence = f"{verb} {_named(removals, variant)} breaks chains"
    return "; ".join([sentence, *tail]) + "."


def _falls(change: Change) -> str:
    """A loss of accuracy as a verb."""
    left = change.found.variant / change.found.dense if change.found.dense > 0 else math.nan
    if left <= 0.1:
        return "destroys"
    return "halves" if 0.4 <= left <= 0.6 else "lowers" if left > 0.6 else "breaks"


def _percent(change: Change) -> tuple[str, str]:
    return f"{100 * change.found.variant:.0f} %", f"{100 * change.found.dense:.0f} %"


def _why(study: StudyData, removals: Removals, loss: Change) -> str:
    """The member that alone costs at least half of the loss, where a single one does."""
    blocks = single_blocks(study)
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
    from analyses.plumbing.frames import largest_budget
    from analyses.plumbing.tables import estimate

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


# ---------------------------------------------------------------------- the lists


def advice(study: StudyData) -> list[Advice]:
    """The three lists over plans and single blocks; an empty list is left out.

    Args:
        study: the study.

    Returns:
        The lists.
    """
    found = []
    sides = [(r, decisions(r)) for r in (plans(study), single_blocks(study))]
    for kind in (SAFE, UNSAFE, UNKNOWN):
        lines = []
        for removals, made in sides:
            mine = [d for d in made if d.kind == kind]
            if removals.methods and set(removals.methods.values()) == {"single"}:
                lines += _together(removals, mine)
            else:
                lines += [(subject(removals, d.variant), _reason(d)) for d in mine]
        if lines:
            command = next_command(study, sides[0][1]) if kind == UNKNOWN else ""
            found.append(Advice(kind, tuple(lines), command))
    return found


def _reason(decision: Decision) -> str:
    """Why one removal is in its list."""
    if not decision.decisive:
        return "it shares no problem with dense"
    if decision.kind == UNSAFE:
        said = [f"{where(c)} ({c.said})" for c in decision.decisive[:MOST_NAMED]]
        more = len(decision.decisive) - len(said)
        return listing(said) + (f", and {more} more" if more else "")
    if decision.kind == SAFE:
        return _at_worst(max(decision.decisive, key=lambda c: c.at_worst))
    suspected = [c for c in decision.decisive if c.suspected]
    if suspected:
        said = [f"{where(c)} ({c.said})" for c in suspected[:MOST_NAMED]]
        return f"suspected: {listing(said)}; {needed_words(decision.decisive)}"
    worst = max(decision.decisive, key=lambda c: c.at_worst)
    return f"{_at_worst(worst)}; {needed_words(decision.decisive)}"


def needed_words(changes: Sequence[Change]) -> str:
    """How many problems there are, and how many would tell: "n = 12, about 310 needed"."""
    few, most = (f(c.n for c in changes) for f in (min, max))
    n = f"{few}" if few == most else f"{few} to {most}"
    return f"n = {n}, about {_problems(changes):,} needed"


def _problems(changes: Sequence[Change]) -> int:
    """Problems needed for all of these, in two digits; at least twice as many as there are."""
    n = max(max(c.needed, 2 * c.n) for c in changes)
    step = 10 ** max(0, len(str(n)) - 2)
    return -(-n // step) * step


def _together(removals: Removals, made: Sequence[Decision]) -> list[tuple[str, str]]:
    """Single blocks of one list in one line, so that 36 blocks do not fill the page."""
    if not made:
        return []
    blocks = [removals.removed[d.variant][0] for d in made]
    who = "each of " * (len(blocks) > 1) + f"{blocks_text(blocks)} alone"
    changes = [c for d in made for c in d.decisive]
    if not changes:
        return [(who, "no shared problem with dense")]
    worst = max(changes, key=lambda c: c.worse)
    if made[0].kind != UNSAFE:
        worst = max(changes, key=lambda c: c.at_worst)
    block = f"block {removals.removed[worst.variant][0]}: " * (len(blocks) > 1)
    if made[0].kind == UNSAFE:
        return [(who, f"worst, {block}{where(worst)} ({worst.said})")]
    if made[0].kind == SAFE:
        return [(who, f"at worst, {block}{_at_worst(worst)}")]
    suspected = {removals.removed[c.variant][0] for c in changes if c.suspected}
    named = f"suspected: {blocks_text(sorted(suspected))}; " if suspected else ""
    return [(who, f"{named}at worst, {block}{_at_worst(worst)}; {needed_words(changes)}")]


def next_command(study: StudyData, made: Sequence[Decision]) -> str:
    """The command that measures the undecided plans on enough problems.

    Args:
        study: the study.
        made: the decisions about its plans.

    Returns:
        The command; empty where no plan is undecided, or the study was not made by `study`.
    """
    unknown = [d for d in made if d.kind == UNKNOWN and d.decisive]
    model, removals = study.config.get("model"), plans(study)
    if not unknown or not model or not study.config.get("methods"):
        return ""
    methods = dict.fromkeys(removals.methods[d.variant] for d in unknown)
    counts = sorted({len(removals.removed[d.variant]) for d in unknown})
    open_ = [c for d in unknown for c in d.decisive]
    places = [b for b in removals.benchmarks if b in {c.benchmark for c in open_}]
    words: list[Any] = ["prunescope", "study", "--model", model, "--benchmarks", *places]
    words += ["--methods", *methods, "--remove", *counts, "--limit", _problems(open_)]
    temperature = (study.config.get("sampling") or [1.0])[0]
    words += ["--temperature", f"{temperature:g}"] if temperature != 1 else []
    words += ["--seeds", study.config["seed"]] if study.config.get("seed") else []
    words += ["--no-blocks", "--out", f"{study.folder or 'study'}-more"]
    return shlex.join(map(str, words))


# ---------------------------------------------------------------------- what the reader must know


def warnings(study: StudyData) -> list[str]:
    """What must be said before any number: a smoke test, a reference that is pruned itself.

    Args:
        study: the study.

    Returns:
        The sentences.
    """
    said = []
    if is_smoke_test(study):
        said.append(
            "Smoke test. This study has the sizes of --quick or smaller: it shows that everything "
            "runs and what a report looks like. Do not decide anything by its numbers; leave "
            "--quick away for that."
        )
    if study.removed_before:
        said.append(
            f"The model itself is a pruned checkpoint, without {blocks_text(study.removed_before)} "
            f"of the dense model. Where this report says “{style.DENSE}”, it means this checkpoint "
            "as given; nothing here compares it with the model it was pruned from."
        )
    return said


def is_smoke_test(study: StudyData) -> bool:
    """Whether every benchmark has at most as many problems as with --quick."""
    from scaling.study import defaults

    loads = study.config.get("workloads") or {}
    return bool(loads) and all(
        load.get("problems", math.inf) <= defaults.QUICK.get(name, defaults.QUICK_GENERIC).problems
        for name, load in loads.items()
    )
