"""Arithmetic slips of a study: planted in the chains, found from columns and from stored tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import equation_slips
from analyses.plumbing import tokenizer_text
from analyses.plumbing.frames import StudyData
from interp.chains.chain import Budget, Chain, Span
from interp.diagnosis import diagnose
from interp.diagnosis.reflection_lexicon import NATURAL
from interp.diagnosis.token_text import Pieces
from scaling.grading import Verdict
from scaling.problem import Problem
from scaling.store.chain_row import chain_row
from scaling.store.study_store import Store
from tests.chains import make_chain

WORDS = ["She has 3 + 7 = 10 eggs.\n", "So 5 * 2 = 11 boxes.\n", "Wait, no.\n", "5 * 2 = 10.\n"]
RIGHT, WRONG, MENDED = [0, 0], [0, 1], [1, 2, 3, 0]
N = 24


class Decoder:
    """Text of ids by `WORDS`."""

    def text(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return "".join(WORDS[int(i)] for i in ids)


def chain_of(problem: str, variant: str, ids: list[int]) -> Chain:
    """A chain of plain text without an answer of its own."""
    return make_chain(
        np.array(ids), [0], problem=problem, variant=variant, budget=Budget(64, 8), plain=True,
        thinking=Span(0, len(ids)), answer=None, thinking_finish="end", finish="stop",
        logprob=np.zeros(len(ids)), entropy=np.zeros(len(ids)),
    )  # fmt: skip


def write(folder: Path, counted: bool) -> StudyData:
    """Dense chains without a slip; a variant with one in every chain, corrected in every second."""
    pieces = Pieces(Decoder())
    with Store(folder) as store:
        config = {"model": "words", "methods": ["shortgpt"], "workloads": {"sums": {}}, "seed": 0}
        store.claim(config, {"model fingerprint": "f00d"})
        plans = {"dense": ("dense", "dense", []), "shortgpt-1": ("plan", "shortgpt", [2])}
        store.put("variants", [
            {"variant": name, "kind": kind, "method": method, "n_removed": len(removed),
             "removed": json.dumps(removed), "plan": ""}
            for name, (kind, method, removed) in plans.items()
        ])  # fmt: skip
        problems = [Problem(f"sums/{i}", "how many", "9", ()) for i in range(N)]
        store.put("problems", [
            {"benchmark": "sums", "problem": p.id, "position": i, "question": p.question,
             "answer": "9", "choices": "[]", "metadata": "{}"}
            for i, p in enumerate(problems)
        ])  # fmt: skip
        size = {"n_problems": N, "samples": 1, "purpose": "accuracy", "budget": "64"}
        store.put("cells", [{"benchmark": "sums", "variant": name, **size} for name in plans])
        for i, problem in enumerate(problems):
            for name in plans:
                ids = RIGHT if name == "dense" else MENDED if i % 2 else WRONG
                chain = chain_of(problem.id, name, ids)
                row = dict(diagnose(chain, pieces, NATURAL))
                if not counted:
                    row = {key: v for key, v in row.items() if not key.startswith("equation")}
                verdict = Verdict("wrong", None, "wrong", "wrong")
                store.add_chains([chain_row("sums", problem, i, chain, verdict, row)])
    return StudyData.read(folder)


def value(found: pd.DataFrame, variant: str, outcome: str) -> float:
    """One cell of the table."""
    row = found[(found["variant"] == variant) & (found["outcome"] == outcome)]
    return float(row["value"].iloc[0])


@pytest.mark.parametrize("counted", [True, False], ids=["columns", "tokens"])
def test_the_planted_slips_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    study = write(tmp_path / "study", counted)
    if not counted:
        assert not len(equation_slips.table(study))  # nothing was read yet, and nothing decodes
        monkeypatch.setattr(
            tokenizer_text.TokenizerText,
            "of",
            classmethod(lambda cls, name: Decoder()),
        )
        equation_slips.STORED.table(study)
    found = equation_slips.table(study)
    assert value(found, "dense", "slips_per_100_equations") == 0
    # half of the chains: 1 of 2 equations; half: 1 of 3
    expected = (100 / 2 + 100 / 3) / 2
    assert value(found, "shortgpt-1", "slips_per_100_equations") == pytest.approx(expected)
    assert value(found, "shortgpt-1", "slips_noticed") == pytest.approx(0.5)
    assert value(found, "shortgpt-1", "slips_mended") == pytest.approx(0.5)
    row = found[
        (found["variant"] == "shortgpt-1") & (found["outcome"] == "slips_per_100_equations")
    ]
    assert float(row["p_holm"].iloc[0]) < 0.01
    assert equation_slips.figure(found, study) is not None


def test_chains_that_a_verifier_reads_need_no_equations(study: StudyData) -> None:
    assert equation_slips.settings_of(study) is None
    assert not len(equation_slips.table(study))
