"""Sample chains side by side: a correct dense chain and a pruned one that failed.

A rule chooses the pairs: on the benchmarks with the longest chains, for the first plan of each
method that is not a control, the first problem where dense is correct and the plan is not, and
whose kind of first wrong step has not been shown yet. The pairs illustrate; the tables say how
often.

Long chains are shown by lines, with both ends and the lines around the first wrong step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.plumbing import style
from analyses.plumbing.frames import StudyData, largest_budget, prepared

if TYPE_CHECKING:
    import pandas as pd

MOST_PAIRS = 3
HEAD, AROUND, TAIL = 10, 5, 4  # lines shown at the start, around the wrong step, at the end
LONGEST_LINE = 400  # characters


@dataclass(frozen=True)
class TextPiece:
    """A part of a chain's text.

    Attributes:
        text: the text.
        mark: what is wrong with it; empty where nothing is.
    """

    text: str
    mark: str = ""


@dataclass(frozen=True)
class ShownChain:
    """One chain as the report shows it.

    Attributes:
        name: readable name of the variant.
        colour: colour of the variant.
        outcome: verdict.
        tokens: number of thinking tokens, in words.
        pieces: the text.
        note: how it went wrong or ended.
    """

    name: str
    colour: str
    outcome: str
    tokens: str
    pieces: tuple[TextPiece, ...]
    note: str = ""

    @property
    def outcome_class(self) -> str:
        """The class of its verdict in the style sheet."""
        return "none" if self.outcome == "no answer" else self.outcome


@dataclass(frozen=True)
class ChainPair:
    """A dense chain and a pruned one on the same problem, with the same noise.

    Attributes:
        title: name of the problem.
        question: the question.
        chains: the two chains, dense first.
    """

    title: str
    question: str
    chains: tuple[ShownChain, ...]


def tokenizer_text(model: str, trust_remote_code: bool = False) -> Callable[[Sequence[int]], str]:
    """Load the model's tokenizer without its weights, to decode token ids.

    Args:
        model: "testbed", a folder or a Hub name, as named by the study (which may come from
            others).
        trust_remote_code: whether the model's own code may run, for a tokenizer that needs it.

    Returns:
        A function from token ids to text.

    Raises:
        UserError: the tokenizer is missing, damaged, or needs code that may not run.
    """
    from interp.model.checkpoint_files import locate
    from interp.model.loading import load_tokenizer

    tokenizer = load_tokenizer(locate(model, weights=False), trust_remote_code)
    return lambda ids: str(tokenizer.decode(list(map(int, ids)), skip_special_tokens=True))


def chain_pairs(study: StudyData, text: Callable[[Sequence[int]], str]) -> list[ChainPair]:
    """The pairs of a study.

    Args:
        study: the study; one in no folder has none.
        text: token ids to text.

    Returns:
        The pairs.
    """
    from scaling.store.study_store import Store

    if study.folder is None:
        return []
    chosen = choose(study)
    if not chosen:
        return []
    with Store(Path(study.folder), read_only=True) as store:
        rows = largest_budget(prepared(store.rows("accuracy", ids=True)))
        problems = store.frame("problems").set_index(["benchmark", "problem"])["question"]
    rows = rows.set_index(["benchmark", "problem", "variant", "sample"])
    look_of = style.looks(study.variants)
    pairs = []
    for benchmark, problem, variant, sample in chosen:
        shown = [
            shown_chain(rows.loc[(benchmark, problem, name, sample)], name, look_of[name], text)
            for name in (style.DENSE, variant)
        ]
        question = str(problems.get((benchmark, problem), ""))
        title = (
            str(problem) if str(problem).startswith(str(benchmark)) else f"{benchmark}, {problem}"
        )
        pairs.append(ChainPair(title, question, tuple(shown)))
    return pairs


def choose(study: StudyData) -> list[tuple[Any, Any, str, int]]:
    """The pairs to show, as tuples (benchmark, problem, variant, sample)."""
    rows = largest_budget(study.rows("accuracy"))
    if not len(rows):
        return []
    rows = rows[rows["scoring"] == "generate"]
    lengths = rows[rows["variant"] == style.DENSE].groupby("benchmark")["thinking_tokens"].mean()
    plans = [
        name for name, method, _ in study.variants if name != style.DENSE and method != "random"
    ]
    found: list[tuple[Any, Any, str, int]] = []
    shown: set[tuple[str, str]] = set()
    for benchmark in lengths.sort_values(ascending=False).index:
        here = rows[rows["benchmark"] == benchmark]
        right = here[(here["variant"] == style.DENSE) & (here["correct"] == 1)]
        for variant in plans:
            wrong = here[(here["variant"] == variant) & (here["correct"] == 0)]
            both = wrong.merge(
                right[["problem", "sample", "tokens"]],
                on=["problem", "sample"],
                suffixes=("", "_dense"),
            )
            both = both.assign(long=both["tokens"] + both["tokens_dense"]).sort_values("long")
            for row in both.to_dict("records"):
                kind = str(row.get("step_kind") or row["outcome"])
                if (str(benchmark), kind) in shown:
                    continue
                shown.add((str(benchmark), kind))
                found.append((benchmark, row["problem"], variant, int(row["sample"])))
                break
            if len(found) >= MOST_PAIRS:
                return found
    return found


def shown_chain(
    row: pd.Series, name: str, look: style.Look, text: Callable[[Sequence[int]], str]
) -> ShownChain:
    """A chain's row as the report shows it.

    Args:
        row: row of the store with token ids.
        name: name of the variant.
        look: look of the variant.
        text: token ids to text.

    Returns:
        The chain.
    """
    from scaling.store.chain_row import answer_ids, thinking_ids

    thinking, said = text(thinking_ids(row).tolist()), answer_ids(row)
    answer = "" if said is None else text(said.tolist())
    at, kind = row.get("step_first_wrong"), row.get("step_kind")
    position = int(at) if at is not None and np.isfinite(at) else None
    label = str(kind) if isinstance(kind, str) and kind else ""
    note = f"First wrong step: {label}." if label else ""
    if row.get("looped") == 1:
        note += f" Ends in a loop of period {int(row['loop_period'])}."
    if row["thinking_finish"] == "forced":
        note += " The budget ended its thinking."
    pieces = [
        *lines_around(thinking, position, label),
        TextPiece(f"\n\N{RIGHTWARDS ARROW} {answer}"),
    ]
    tokens = f"{int(row['thinking_tokens'])} thinking tokens"
    return ShownChain(
        style.pretty(name), look.colour, str(row["outcome"]), tokens, tuple(pieces), note.strip()
    )


def lines_around(thinking: str, at: int | None, label: str) -> list[TextPiece]:
    """Split thinking into lines, leaving out the middle.

    Args:
        thinking: text of the thinking.
        at: index of the word at which the first wrong step is; None where there is none.
        label: kind of the wrong step; it marks the line of that word.

    Returns:
        The pieces to show.
    """
    lines = split_lines(thinking)
    wrong, seen = None, 0
    if at is not None:
        for i, line in enumerate(lines):
            seen += len(line.split())
            if at < seen:
                wrong = i
                break
    keep = set(range(HEAD)) | set(range(len(lines) - TAIL, len(lines)))
    if wrong is not None:
        keep |= set(range(wrong - AROUND, wrong + AROUND + 1))
    pieces: list[TextPiece] = []
    left_out = 0
    for i, line in enumerate(lines):
        if i not in keep:
            left_out += 1
            continue
        if left_out:
            pieces.append(TextPiece(f"… {left_out} lines …\n"))
            left_out = 0
        line = line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + " …"
        pieces.append(TextPiece(line, label if i == wrong else ""))
        pieces.append(TextPiece("\n"))
    return pieces


def split_lines(thinking: str) -> list[str]:
    """The lines of a chain: its own, or after each full stop that stands alone (the testbed's)."""
    if "\n" in thinking.strip():
        return thinking.strip("\n").split("\n")
    words, lines = thinking.split(), [[]]
    for word in words:
        lines[-1].append(word)
        if word == ".":
            lines.append([])
    return [" ".join(line) for line in lines if line]
