"""What to do: what is safe to remove, what is not, what would tell, and what to know first."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analyses.plumbing import style
from analyses.plumbing.frames import StudyData
from analyses.plumbing.tables import blocks_text, capital, listing, share
from analyses.report.decisions import (
    SAFE,
    UNKNOWN,
    UNSAFE,
    Decision,
    decisions,
    needed_words,
    problems_needed,
    subject,
    where,
)
from analyses.report.removal_changes import Change, Removals, at_chance, plans, single_blocks
from scaling.study.variants import DTYPE

MOST_NAMED = 3


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


def _at_worst(change: Change) -> str:
    """What the interval does not rule out: "countdown-3 may lose up to .36 (.81 to .69 here)"."""
    bound = share(change.at_worst)
    if change.outcome.column == "correct":
        return f"{change.benchmark} may lose up to {bound} ({change.levels} here)"
    place = f"{change.outcome.name} on {change.benchmark}"
    return f"{place} may rise by up to {bound} ({change.levels} here)"


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
    words += ["--methods", *methods, "--remove", *counts, "--limit", problems_needed(open_)]
    words += [*_as_before(study, places), "--samples", 1, "--waits", "--no-blocks"]
    return shlex.join(map(str, [*words, "--out", f"{study.folder or 'study'}-more"]))


def _as_before(study: StudyData, places: Sequence[str]) -> list[Any]:
    """The options that change what is measured, where the study did not leave them out.

    Files of `--data` and `--shots-from` are not in the store.

    Args:
        study: the study.
        places: the benchmarks of the command.

    Returns:
        Words of a command.
    """
    from scaling.study import defaults

    config, words = study.config, list[Any]()
    loads = config.get("workloads")
    own = [loads.get(b) for b in places] if isinstance(loads, Mapping) else []
    budgets = [max(load.get("budgets") or (0,)) for load in own if isinstance(load, Mapping)]
    usual = [max(defaults.TESTBED.get(b, defaults.GENERIC).budgets, default=0) for b in places]
    if len(set(budgets)) == 1 and budgets != usual and budgets[0]:
        words += ["--budgets", budgets[0]]
    match config.get("sampling"):
        case [int() | float() as temperature, int() as top_k, int() | float() as top_p]:
            words += ["--temperature", f"{temperature:g}"] if temperature != 1 else []
            words += ["--top-k", top_k] if top_k else []
            words += ["--top-p", f"{top_p:g}"] if top_p != 1 else []
    words += ["--seeds", config["seed"]] if config.get("seed") else []
    words += ["--calibration", config["calibration"]] if config.get("calibration") else []
    asked = config.get("prompts")
    if isinstance(asked, Mapping):
        if asked.get("chat_template") not in (None, "auto"):
            words += ["--chat-template", asked["chat_template"]]
        bare = [b for b in asked.get("without_template") or () if b in places]
        words += ["--without-template", *bare] if bare else []
        shots = asked.get("shots")
        told = shots.items() if isinstance(shots, Mapping) else ()
        some = [f"{name}={n}" for name, n in told if name in places]
        words += ["--shots", *some] if some else []
    precision = study.meta.get(DTYPE)
    words += ["--dtype", precision] if precision and precision != "float32" else []
    return words


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
    for benchmark, level in at_chance(study.rows("accuracy")).items():
        said.append(
            f"{capital(style.DENSE)} is not clearly better than a guess on {benchmark} ({level}), "
            "so no removal can show a loss there: its numbers are shown, and no judgement rests on "
            "them. Worked examples or another form of the question may help (docs/prompts.md)."
        )
    return said


def is_smoke_test(study: StudyData) -> bool:
    """Whether every benchmark has at most as many problems as with --quick."""
    from scaling.study import defaults

    loads = study.config.get("workloads")
    if not isinstance(loads, Mapping) or not loads:
        return False
    for name, load in loads.items():
        n = load.get("problems") if isinstance(load, Mapping) else None
        most = defaults.QUICK.get(name, defaults.QUICK_GENERIC).problems
        if not isinstance(n, int) or n > most:
            return False
    return True
