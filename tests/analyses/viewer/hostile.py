"""A study whose texts try to break or inject something, with a made-up tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analyses.plumbing.tokenizer_text import TokenizerText
from interp.chains.chain import Budget, Span
from scaling.grading import Verdict
from scaling.problem import Problem
from scaling.store.chain_row import ChainRow, chain_row
from scaling.store.study_store import Store
from tests.chains import make_chain

HOSTILE = [
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "</script><script>window.hacked=1</script>",
    "<!--",
    "]]>",
    "{{7*7}}${window.hacked=1}",
    "javascript:window.hacked=1",
    "\u202egnp.evil\u202c",  # right-to-left override
    "\u05e9\u05dc\u05d5\u05dd",  # Hebrew
    "\x1b[31mred\x1b[0m",  # ANSI
    "\x00\x07\x7f\x85",
    "\ud800",  # a lone surrogate
    "\udfff",
    "\u2028\u2029",
    "\U0001f600",
    "'\"&<>",
    "\r\n",
]
PLAIN = ["wait", "check", "3", "+", "4", "=", "7", "."]
WORDS = [*PLAIN, *HOSTILE]
NAMES = ["dense", "<b>skip</b> 1", 'a/b?c#d"e']
QUESTION = "what is <i>3 + 4</i>?\x1b[1m \u202e"


class FakeTokenizer:
    """Words of a list, joined by spaces."""

    name_or_path = "hostile"

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The words."""
        return " ".join(WORDS[int(i)] for i in ids)

    def batch_decode(
        self, rows: Sequence[Sequence[int]], skip_special_tokens: bool = False
    ) -> list[str]:
        """The words of each row."""
        return [self.decode(row) for row in rows]


TEXT = TokenizerText(FakeTokenizer())
LONG = 30_000


def write_hostile_study(folder: Path) -> Path:
    """Two problems under three variants; one chain is of 30,000 tokens."""
    every = list(range(len(WORDS)))
    with Store(folder) as store:
        store.claim({"model": "hostile"}, {})
        store.put("variants", [
            {"variant": name, "kind": kind, "method": "m", "n_removed": len(removed),
             "removed": json.dumps(removed), "plan": ""}
            for name, kind, removed in zip(NAMES, ("dense", "block", "plan"), ([], [1], [1, 2]),
                                           strict=True)
        ])  # fmt: skip
        rows = []
        for position, name in enumerate(("<p>/1", "long")):
            store.put("problems", [
                {"benchmark": "b<1>", "problem": name, "position": position, "question": QUESTION,
                 "answer": "7", "choices": "[]", "metadata": json.dumps({"x": "\ud800"})}
            ])  # fmt: skip
            for v, variant in enumerate(NAMES):
                ids = [0, 2, 3, 4, 5, 6, 7, *(every if v == 0 else every[::-1]), 6]
                if name == "long" and v == 1:
                    ids = [*(every * (LONG // len(every) + 1))[: LONG - 1], 6]
                rows.append(_row(Problem(name, QUESTION, "7"), position, variant, ids, v))
        store.add_chains(rows)
    return folder


def _row(problem: Problem, position: int, variant: str, ids: list[int], v: int) -> ChainRow:
    thinking = len(ids) - 1
    chain = make_chain(
        np.array(ids), [0] * 5, problem=problem.id, variant=variant, budget=Budget(32768, 8),
        thinking=Span(0, thinking), answer=Span(thinking, len(ids)), finish="stop",
        thinking_finish="end", forced=[3],
    )  # fmt: skip
    outcome = "correct" if v == 0 else "wrong"
    said = "7" if v == 0 else "<script>window.hacked=1</script>"
    diagnosis = {"loop": None, "step_kind": "<i>slip</i>" if v else "", "reflections": v}
    verdict = Verdict(outcome, said, outcome, outcome)
    return chain_row("b<1>", problem, position, chain, verdict, diagnosis)
