"""The text of a chain as the report shows it: by lines, with its first wrong step marked.

A long chain keeps both ends and the lines around the first wrong step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyses.plumbing import style

HEAD, AROUND, TAIL = 10, 5, 4  # lines shown at the start, around the wrong step, at the end


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


def shown_chain(
    row: Mapping[str, Any],
    name: str,
    look: style.Look | None,
    text: Callable[[Sequence[int]], str] | None,
    most: int,
) -> ShownChain:
    """A chain's row as the report shows it.

    Args:
        row: row of the store; with token ids, if it was generated and `text` is given.
        name: readable name of the variant.
        look: look of the variant; None for a single block.
        text: token ids to text; None shows no text.
        most: characters of thinking to show.

    Returns:
        The chain.
    """
    from scaling.store.chain_row import answer_ids, thinking_ids

    colour = style.QUIET if look is None else look.colour
    outcome = str(row["outcome"])
    if row["scoring"] != "generate":
        chosen = TextPiece(f"\N{RIGHTWARDS ARROW} {row['extracted']}")
        return ShownChain(name, colour, outcome, "no thinking", (chosen,))
    at, kind = row.get("step_first_wrong"), row.get("step_kind")
    position = int(at) if at is not None and np.isfinite(at) else None
    label = str(kind) if isinstance(kind, str) and kind else ""
    note = f"First wrong step: {label}." if label else ""
    if row.get("looped") == 1:
        period = row.get("loop_period")
        note += " Ends in a loop"
        note += f" of {int(period)} tokens." if period is not None and period == period else "."
    if row["thinking_finish"] == "forced":
        note += " The budget ended its thinking."
    pieces: list[TextPiece] = []
    if text is not None:
        thinking, said = text(thinking_ids(row).tolist()), answer_ids(row)
        answer = "" if said is None else text(said.tolist())
        pieces = [
            *lines_around(thinking, position, label, most),
            TextPiece(f"\n\N{RIGHTWARDS ARROW} {answer[:most]}"),
        ]
    tokens = f"{int(row['thinking_tokens'])} thinking tokens"
    return ShownChain(name, colour, outcome, tokens, tuple(pieces), note.strip())


def lines_around(thinking: str, at: int | None, label: str, most: int) -> list[TextPiece]:
    """Split thinking into lines; of a long one leave out the middle.

    Args:
        thinking: text of the thinking.
        at: index of the word at which the first wrong step is; None where there is none.
        label: kind of the wrong step; it marks the line of that word.
        most: characters to show; of a longer text at most `HEAD` + 2 `AROUND` + 1 + `TAIL` lines
            are kept, each cut to its share.

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
    keep, longest = set(range(len(lines))), most
    if len(thinking) > most:
        keep = set(range(HEAD)) | set(range(len(lines) - TAIL, len(lines)))
        if wrong is not None:
            keep |= set(range(wrong - AROUND, wrong + AROUND + 1))
        longest = max(1, most // min(len(lines), HEAD + 2 * AROUND + 1 + TAIL))
    pieces: list[TextPiece] = []
    left_out = 0
    for i, line in enumerate(lines):
        if i not in keep:
            left_out += 1
            continue
        if left_out:
            pieces.append(TextPiece(f"… {left_out} lines …\n"))
            left_out = 0
        line = line if len(line) <= longest else line[:longest] + " …"
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
