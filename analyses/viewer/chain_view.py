"""One chain as the page shows it: its text by token, its marks, the forks of its problem.

Text and marks are those of `interp.diagnosis.chain_marks`; on the testbed's own problems its
verifier marks wrong steps too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Int

from interp.chains.chain import Chain
from interp.diagnosis import NATURAL, TESTBED, Pieces, read
from interp.diagnosis.chain_marks import TextMark, chain_marks, in_order, units
from interp.diagnosis.token_text import TokenizedText
from scaling.problem import Problem


def problem_marks(chain: Chain, problem: Problem, pieces: Pieces) -> list[TextMark]:
    """Everything that is marked in a chain, by position.

    Args:
        chain: the chain.
        problem: its problem; steps are checked on the testbed's own.
        pieces: decodes tokens.

    Returns:
        The marks.
    """
    if "numbers" not in problem.metadata or "kind" not in problem.metadata:
        return chain_marks(chain, pieces, NATURAL)
    found = chain_marks(chain, pieces, TESTBED)
    if len(chain.thinking):
        found += _wrong_steps(chain, problem, pieces, read(pieces, chain.thinking_ids))
    return in_order(found)


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
        "marks": [asdict(mark) for mark in problem_marks(chain, problem, pieces)],
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
