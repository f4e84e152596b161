"""The chains behind the numbers: for every removal and benchmark, the worst and some typical ones.

Each is shown beside the dense chain of the same problem, with the same sampling noise. The
selection is made by rule and bounded, so that the page stays small; the store holds all chains.

| chosen for | rule |
|---|---|
| accuracy | lost (dense solves it): without an answer first, then longest; and the median length |
| loops, no answer | the chain that loops longest; the longest without an answer |
| reflection, length | the chain that differs most from its dense chain |
| typical | the chain of median length |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.plumbing import style
from analyses.plumbing.frames import StudyData, largest_budget
from analyses.report.chain_text import ShownChain, shown_chain
from analyses.report.removal_changes import BEHAVIOURS, OUTCOMES, Removals
from analyses.viewer.links import HOST, PORT, chain_address, selection_address
from scaling.store.chain_row import Key, unpack

if TYPE_CHECKING:
    import pandas as pd

    from scaling.store.study_store import Store

VIEWER = f"http://{HOST}:{PORT}/"  # where `prunescope view STUDY` shows the study
MOST_PAIRS = 400  # pairs of chains in a report
MOST_TEXT = 4_000_000  # characters of all chains together
LONGEST_TEXT = 12_000  # characters of one chain
KEYS = ["problem", "sample"]
SOURCE = "source"  # column of rows from several studies: the folder of their store
STORED = "stored"  # and the variant that they have there


@dataclass(frozen=True)
class ChainPair:
    """A removal's chain and the dense one on the same problem, with the same noise.

    Attributes:
        anchor: its anchor.
        why: why it was chosen.
        title: name of the problem.
        question: the question.
        answer: the right answer.
        chains: the two chains, dense first.
        viewer: address of the whole chain in the viewer, beside dense; empty where none shows it.
    """

    anchor: str
    why: str
    title: str
    question: str
    answer: str
    chains: tuple[ShownChain, ...]
    viewer: str


@dataclass(frozen=True)
class ChainGroup:
    """The chains of one removal on one benchmark.

    Attributes:
        anchor: its anchor.
        title: the removal and the benchmark.
        counts: what became of the chains, in words.
        pairs: the chosen chains.
        viewer: address of all its chains in the viewer; empty where none shows them.
    """

    anchor: str
    title: str
    counts: str
    pairs: tuple[ChainPair, ...]
    viewer: str


@dataclass(frozen=True)
class _Choice:
    """A chosen row with its dense row, and the outcomes that it stands for."""

    row: dict[str, Any]
    dense: dict[str, Any]
    why: tuple[str, ...]


def appendix(
    study: StudyData,
    sides: Sequence[tuple[str, Removals]],
    text: Callable[[Sequence[int]], str] | None,
) -> tuple[list[ChainGroup], dict[tuple[str, str, str], str]]:
    """Choose the chains and find their texts.

    Args:
        study: the study.
        sides: pairs of a purpose ("accuracy", "blocks") and its removals.
        text: token ids to text; None shows verdicts and lengths only.

    Returns:
        The groups, and the anchor of every cell by (variant, benchmark, outcome).
    """
    cells = [
        (removals, name, benchmark, part)
        for purpose, removals in sides
        for name, benchmark, part in _parts(study, purpose, removals)
    ]
    each = max(1, min(6, MOST_PAIRS // max(1, len(cells))))
    chosen = [
        (removals, name, benchmark, part, _choose(part, benchmark == removals.longest)[:each])
        for removals, name, benchmark, part in cells
    ]
    n = sum(len(found) for *_, found in chosen)
    most = min(LONGEST_TEXT, MOST_TEXT // max(1, 2 * n))
    groups: list[ChainGroup] = []
    links: dict[tuple[str, str, str], str] = {}
    with _opened(study) as stores:
        texts = _Texts(study, stores, text, most)
        for i, (removals, name, benchmark, part, found) in enumerate(chosen):
            anchor, label, pairs = f"chains-{i}", removals.labels[name], []
            links |= dict.fromkeys([(name, benchmark, o) for o in OUTCOMES], anchor)
            for k, choice in enumerate(found):
                own = f"{anchor}-{k}"
                links |= dict.fromkeys(
                    [(name, benchmark, o) for o in choice.why if o in BEHAVIOURS], own
                )
                pairs.append(texts.pair(choice, own, label, removals.reference))
            all_ = {"benchmark": benchmark, "variant": name, "budget": str(part["budget"].iloc[0])}
            viewer = "" if SOURCE in part else VIEWER + selection_address(all_)
            counts = _counts(part, removals.reference)
            title = f"{label}, {benchmark}"
            groups.append(ChainGroup(anchor, title, counts, tuple(pairs), viewer))
    return groups, links


@contextmanager
def _opened(study: StudyData) -> Iterator[dict[str, Store]]:
    """The stores that hold the study's rows, by folder; none for rows made in memory."""
    from scaling.store.study_store import Store

    folders = {} if study.folder is None else {str(study.folder): None}
    for rows in study.purposes.values():
        folders |= dict.fromkeys(rows[SOURCE]) if SOURCE in rows else {}
    with ExitStack() as stack:
        yield {f: stack.enter_context(Store(f, read_only=True)) for f in folders}


def _parts(
    study: StudyData, purpose: str, removals: Removals
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The chains of each removal on each benchmark, with those of dense as columns "dense_..."."""
    rows = study.rows(purpose)
    rows = largest_budget(rows) if purpose == "accuracy" else rows
    if not len(rows):
        return
    dense = rows[rows["variant"] == style.DENSE]
    for name in removals.labels:
        mine = rows[rows["variant"] == name]
        for benchmark in removals.benchmarks:
            pair = [f[f["benchmark"] == benchmark] for f in (mine, dense)]
            both = pair[0].merge(pair[1].add_prefix("dense_"), how="inner",
                                 left_on=KEYS, right_on=[f"dense_{k}" for k in KEYS])  # fmt: skip
            if len(both):
                yield name, benchmark, both


def _choose(part: pd.DataFrame, behaviours: bool) -> list[_Choice]:
    """The chains of one cell that are shown; see the module's table."""
    why: dict[int, list[str]] = {}

    def take(rows: pd.DataFrame, what: str, *, middle: bool = False) -> None:
        if len(rows):
            index = rows.index[(len(rows) - 1) // 2 if middle else 0]
            why.setdefault(index, []).append(what)

    longest = part.sort_values(["thinking_tokens", *KEYS], ascending=False, kind="stable")
    lost = longest[(longest["correct"] == 0) & (longest["dense_correct"] == 1)]
    take(lost.sort_values("no_answer", ascending=False, kind="stable"), "correct")
    if behaviours:
        if "looped" in part:
            looped = longest[longest["looped"] == 1]
            if "loop_wasted" in part:
                looped = looped.sort_values("loop_wasted", ascending=False, kind="stable")
            take(looped, "looped")
        take(longest[longest["no_answer"] == 1], "no_answer")
        for outcome in ("reflection_per_1k", "thinking_tokens"):
            if outcome in part:
                moved = (longest[outcome] - longest[f"dense_{outcome}"]).abs()
                take(longest.loc[moved[moved > 0].sort_values(ascending=False).index], outcome)
    take(lost, "lost", middle=True)
    take(longest, "typical", middle=True)
    own = [c for c in part.columns if not c.startswith("dense_")]
    found = []
    for index, reasons in why.items():
        row = part.loc[index]
        dense = {c: row[f"dense_{c}"] for c in own if f"dense_{c}" in part}
        found.append(_Choice(row[own].to_dict(), dense, tuple(reasons)))
    return found


WHY = {
    "correct": "worst: {} solves it",
    "looped": "loops longest",
    "no_answer": "no answer",
    "reflection_per_1k": "reflection changes most",
    "thinking_tokens": "length changes most",
    "lost": "typical of the lost",
    "typical": "typical length",
}


def _counts(part: pd.DataFrame, reference: str) -> str:
    """What became of the chains of one cell, in words."""
    lost = int(((part["correct"] == 0) & (part["dense_correct"] == 1)).sum())
    won = int(((part["correct"] == 1) & (part["dense_correct"] == 0)).sum())
    said = f"{len(part)} chains: {lost} lost and {won} gained against {reference}"
    if "looped" in part and (part["looped"] == 1).any():
        said += f", {int((part['looped'] == 1).sum())} loop"
    if part["no_answer"].any():
        said += f", {int(part['no_answer'].sum())} without an answer"
    return f"{said}."


class _Texts:
    """Chosen rows as pairs; token ids are read from the store one problem at a time."""

    def __init__(
        self,
        study: StudyData,
        stores: Mapping[str, Store],
        text: Callable[[Sequence[int]], str] | None,
        most: int,
    ) -> None:
        self._study, self._stores, self._text, self._most = study, stores, text, most
        self._looks = style.looks(study.variants)
        self._dense: dict[tuple[Any, ...], ShownChain] = {}
        self._questions: dict[tuple[str, str], tuple[str, str]] = {}
        for store in stores.values():
            problems = store.frame("problems")[["benchmark", "problem", "question", "answer"]]
            for benchmark, problem, *said in problems.itertuples(index=False, name=None):
                self._questions.setdefault((benchmark, problem), (str(said[0]), str(said[1])))

    def pair(self, choice: _Choice, anchor: str, label: str, reference: str) -> ChainPair:
        """The chains of one choice, dense (the reference) first."""
        row, dense = choice.row, choice.dense
        key = tuple(dense[k] for k in ("benchmark", "problem", "budget", "sample"))
        if key not in self._dense:
            self._dense[key] = self._shown(dense, reference)
        benchmark, problem = str(row["benchmark"]), str(row["problem"])
        title = problem if problem.startswith(benchmark) else f"{benchmark}, {problem}"
        question, answer = self._questions.get((benchmark, problem), ("", ""))
        why = ", ".join(WHY[reason] for reason in choice.why).format(reference)
        chains = (self._dense[key], self._shown(row, label))
        viewer = ""
        if SOURCE not in row:
            viewer = VIEWER + chain_address(
                Key(*(row[k] for k in Key._fields)),
                beside=style.DENSE if row["scoring"] == "generate" else None,
            )
        return ChainPair(anchor, why, title, question, answer, chains, viewer)

    def _shown(self, row: dict[str, Any], label: str) -> ShownChain:
        text = self._text
        store = self._stores.get(str(row.get(SOURCE, self._study.folder)))
        if text is None or store is None or row["scoring"] != "generate":
            return shown_chain(row, label, self._looks.get(row["variant"]), None, self._most)
        stored = str(row.get(STORED, row["variant"]))
        samples = store.samples_of(row["benchmark"], row["problem"], stored, str(row["budget"]))
        ids = unpack(samples.loc[samples["sample"] == row["sample"], "ids"].iloc[0], np.int32)
        look = self._looks.get(row["variant"])
        return shown_chain({**row, "ids": ids}, label, look, text, self._most)
