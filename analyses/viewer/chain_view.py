"""One chain as the page shows it: its text by token, its marks, the forks of its problem.

The text is decoded whole and then cut at tokens, so the bytes of one character that a byte-level
vocabulary spreads over several tokens are joined: they form one unit of the text. A unit is what
can be pointed at. Marks are ranges of tokens [start, stop), found by the measures that the study
itself uses (`interp.diagnosis`, `testbed.verify`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from interp.chains.chain import Chain, Span
from interp.diagnosis import NATURAL, TESTBED, Pieces, find_episodes, find_loop, read, reflections
from interp.diagnosis.loops import Loop, marks_of
from interp.diagnosis.token_text import NUMBER, TokenizedText
from scaling.problem import Problem


@dataclass(frozen=True)
class TextMark:
    """A range of a chain's tokens that means something.

    Attributes:
        kind: "forced", "reflection", "loop", "left loop", "wrong", "corrected" or "closing".
        label: what it is, in words.
        start: first token.
        stop: token behind the last one.
    """

    kind: str
    label: str
    start: int
    stop: int


LONGEST_CHARACTER = 8  # tokens that may spell one character


def units(
    reading: TokenizedText, ids: Sequence[int], pieces: Pieces
) -> tuple[list[str], list[int]]:
    """Cut a text at its tokens.

    Args:
        reading: the text of S tokens.
        ids: the tokens.
        pieces: decodes tokens.

    Returns:
        The texts of the units, which joined are the whole text, and the first token of each. Tokens
        without a text of their own belong to the unit that holds their character.
    """
    size = len(reading)
    texts: list[str] = []
    firsts: list[int] = []
    starts = [0, *reading.starts[1:].tolist(), len(reading.text)]
    first = 0
    for token in range(1, size + 1):
        if token < size and starts[token] == starts[first]:
            continue  # no text yet, such as a byte of a longer character
        text = reading.text[starts[first] : starts[token]]
        if not text and texts:
            break  # the last bytes, of a character that was cut
        cuts = [(first, 0), *_characters(text, ids[first:token], pieces, first)]
        ends = [at for _, at in cuts[1:]] + [len(text)]
        for (place, start), end in zip(cuts, ends, strict=True):
            firsts.append(place)
            texts.append(text[start:end])
        first = token
    return texts, firsts


def _characters(text: str, ids: Sequence[int], pieces: Pieces, first: int) -> list[tuple[int, int]]:
    """Where tokens that have no text alone spell whole characters: (token, offset) of each cut."""
    cuts, begin, at = [], 0, 0
    for stop in range(1, len(ids)):
        if stop - begin > LONGEST_CHARACTER:
            break  # bytes that are no character
        said = pieces.text(list(ids[begin:stop]), skip_special=False)
        if not said or "\ufffd" in said or not text.startswith(said, at):
            continue
        begin, at = stop, at + len(said)
        cuts.append((first + begin, at))
    return cuts


def chain_marks(chain: Chain, problem: Problem, pieces: Pieces) -> list[TextMark]:
    """Everything that is marked in a chain, by position.

    Args:
        chain: the chain.
        problem: its problem; steps are checked on the testbed's own.
        pieces: decodes tokens.

    Returns:
        The marks.
    """
    own_kind = "numbers" in problem.metadata and "kind" in problem.metadata
    lexicon = TESTBED if own_kind else NATURAL
    found = [TextMark("forced", "written by the engine", a, b) for a, b in runs(chain.forced)]
    spans = [("thinking", chain.thinking), ("answer", chain.answer), ("reopened", chain.reopened)]
    full = [(name, span) for name, span in spans if span is not None and len(span)]
    looped = False
    for i, (name, span) in enumerate(full):
        ids, forced = chain.ids[span.start : span.stop], chain.forced[span.start : span.stop]
        reading = read(pieces, ids)
        numbers = reading.mask(NUMBER)
        loop = None if looped else find_loop(ids, numbers)
        if loop is not None:
            looped = True
            found += _passes(loop, ids, numbers, span)
        if i == 0:  # what the diagnosis counts: the thinking, or the answer of a chain without
            ended = chain.thinking_finish == "end" if name == "thinking" else chain.finish == "stop"
            for episode in find_episodes(ids, numbers, ended=ended):
                if loop is None or episode.start < loop.onset:
                    label = f"loop of {episode.period} tokens, left" if episode.escaped else "loop"
                    a, b = span.start + episode.start, span.start + episode.stop
                    found.append(TextMark("left loop", label, a, b))
            seen = reflections(reading, lexicon, loop=loop, forced=forced)
            for at, kind in zip((span.start + seen.positions).tolist(), seen.kinds, strict=True):
                found.append(TextMark("reflection", kind, at, at + 1))
            if own_kind and name == "thinking":
                found += _wrong_steps(chain, problem, pieces, reading)
    if chain.answer is not None and chain.thinking.stop < chain.answer.start:
        closing = (chain.thinking.stop, chain.answer.start)
        found.append(TextMark("closing", "end of the thinking", *closing))
    return sorted(found, key=lambda mark: (mark.start, mark.stop, mark.kind))


def runs(mask: Bool[np.ndarray, " S"]) -> list[tuple[int, int]]:
    """The ranges [start, stop) in which a mask is True."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(np.int8), 0]))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _passes(
    loop: Loop, ids: Int[np.ndarray, " T"], numbers: Bool[np.ndarray, " T"], span: Span
) -> list[TextMark]:
    """A mark per pass of a loop; in a template a run of numbers counts as one token."""
    places = np.arange(len(ids))
    if loop.kind == "template":
        places = np.flatnonzero(marks_of(ids, numbers)[1])
    places = places[places >= loop.onset]
    edges = [*places[:: loop.period].tolist(), loop.onset + loop.wasted]
    return [
        TextMark("loop", f"loop ({loop.kind}), pass {i}", span.start + a, span.start + b)
        for i, (a, b) in enumerate(pairwise(edges), start=1)
        if b > a
    ]


def _wrong_steps(
    chain: Chain, problem: Problem, pieces: Pieces, reading: TokenizedText
) -> list[TextMark]:
    """Every slip that the testbed's verifier finds, and a wrong conclusion."""
    from scaling.grading.testbed_answer import testbed_problem
    from testbed.verify import check_chain

    answer = pieces.text(chain.answer_ids.tolist()) if chain.answer else None
    thinking = pieces.text(chain.thinking_ids.tolist())
    forced = chain.thinking_finish != "end"
    report = check_chain(testbed_problem(problem), thinking, answer, forced=forced)
    places = _word_tokens(chain.thinking_ids, pieces, reading)
    found = []
    for slip in report.slips:
        kind = "corrected" if slip.mended else "wrong"
        said = slip.kind + (", corrected" if slip.mended else ", noticed" if slip.noticed else "")
        if slip.at < len(places):
            at = chain.thinking.start + places[slip.at]
            found.append(TextMark(kind, said, at, at + 1))
    if report.kind and (report.first_wrong or 0) >= len(places) and chain.n_tokens:
        at = min(chain.answer.start if chain.answer else chain.thinking.stop, chain.n_tokens - 1)
        found.append(TextMark("wrong", report.kind, at, at + 1))
    return found


def _word_tokens(ids: Int[np.ndarray, " T"], pieces: Pieces, reading: TokenizedText) -> list[int]:
    """The token at which each word begins that the verifier reads: special tokens are left out."""
    found = []
    for match in re.finditer(r"\S+", reading.text):
        token = reading.token_at(match.start())
        if token < len(ids) and pieces.text([int(ids[token])]):
            found.append(token)
    return found


def chain_content(
    chain: Chain, problem: Problem, row: Mapping[str, Any], pieces: Pieces
) -> dict[str, Any]:
    """A chain as JSON for the page.

    Args:
        chain: the chain.
        problem: its problem.
        row: its row of the store.
        pieces: decodes tokens.

    Returns:
        JSON values.
    """
    texts, firsts = units(read(pieces, chain.ids), chain.ids.tolist(), pieces)
    facts = ("outcome", "strict_outcome", "lenient_outcome", "extracted", "finish", "scoring",
             "thinking_finish", "waits", "seed", "mean_logprob", "mean_entropy", "tokens",
             "thinking_tokens", "answer_tokens")  # fmt: skip
    answer = chain.answer or chain.reopened
    return {
        "benchmark": str(row["benchmark"]),
        "problem": chain.problem,
        "variant": chain.variant,
        "budget": str(row["budget"]),
        "sample": chain.sample,
        "question": problem.question,
        "gold": problem.answer,
        "facts": {name: _plain(row.get(name)) for name in facts},
        "ids": chain.ids.tolist(),
        "texts": texts,
        "firsts": firsts,
        "thinking": [chain.thinking.start, chain.thinking.stop],
        "answer": None if answer is None else [answer.start, answer.stop],
        "marks": [asdict(mark) for mark in chain_marks(chain, problem, pieces)],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def fork_tree(chains: Sequence[tuple[int, list[int]]]) -> dict[str, Any]:
    """The tree of chains that begin alike: a node per stretch that its chains share.

    Args:
        chains: row number and token ids of each chain.

    Returns:
        The root, as JSON: `start`, `stop` (tokens), `ends` (rows that end here), `rows` (all rows
        below) and `children`.
    """

    def node(some: list[tuple[int, list[int]]], start: int) -> dict[str, Any]:
        first, last = min(ids for _, ids in some), max(ids for _, ids in some)
        # what the smallest and the largest sequence share, all between them share
        limit = min(len(first), len(last))
        stop = next((i for i in range(start, limit) if first[i] != last[i]), limit)
        groups: dict[int, list[tuple[int, list[int]]]] = {}
        for row, ids in some:
            if len(ids) > stop:
                groups.setdefault(ids[stop], []).append((row, ids))
        return {
            "start": start,
            "stop": stop,
            "rows": [row for row, _ in some],
            "ends": [row for row, ids in some if len(ids) == stop],
            "children": [node(group, stop) for group in groups.values()],
        }

    return node(list(chains), 0)
