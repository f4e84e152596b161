"""What long work tells, and the lines that are written of it."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from analyses.plumbing import work_lines
from analyses.plumbing.work_lines import WorkLines
from interp.chains.chain import Budget
from interp.decoding.generate import generate
from interp.interventions.interventions import Skip, Variant, dense
from interp.interventions.programs import Repeat
from interp.plumbing.work_listener import Heard, listening, tell
from interp.replay.batching import batches
from tests.models import tiny


def test_decoding_is_heard_to_its_end() -> None:
    variants = [dense, Variant("no 1", (Skip(1),)), Variant("1 again", (Repeat(1),))]
    heard: list[Heard] = []
    with listening(heard.append):
        chains = generate(tiny(), [[1, 2, 3], [4, 5]], variants=variants, budget=Budget(5, 2))
    assert heard[-1] == Heard("decoding", 6, 6, heard[-1].tokens)
    assert heard[-1].tokens >= sum(chain.n_tokens for chain in chains)
    assert [h.done for h in heard] == sorted(h.done for h in heard)
    tell("decoding", 1, 2, 3)  # nobody listens any more
    assert heard[-1].done == 6


def test_a_caller_that_asked_for_progress_gets_it_alone() -> None:
    heard: list[Heard] = []
    told: list[tuple[int, int, int]] = []
    with listening(heard.append):
        generate(tiny(), [[1, 2, 3]], budget=Budget(3, 1), progress=lambda *got: told.append(got))
    assert told[-1][1:] == (1, 1)
    assert not heard


def test_reading_counts_sequences_and_tokens() -> None:
    sequences = [np.ones(n, dtype=np.int64) for n in (3, 5, 2, 7)]
    heard: list[Heard] = []
    with listening(heard.append):
        found = list(batches(tiny(), sequences, batch_tokens=8))
    assert len(heard) == len(found) > 1
    assert heard[-1] == Heard("reading", 4, 4, 17)
    assert [h.done for h in heard] == list(np.cumsum([len(b.texts) for b in found]))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_in_a_file_and_one_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0, 16.0, 20.0, 76.0])
    monkeypatch.setattr(work_lines.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    with WorkLines() as lines:
        for done, tokens in ((0, 0), (10, 1100), (11, 1200)):
            lines(Heard("decoding", done, 40, tokens))
        lines(Heard("reading", 3, 9, 70))
    assert file.getvalue().splitlines() == [
        "  decoding 10 of 40 chains, 100 tokens/s, after 16 s",
        "  reading 3 of 9 chains, after 1 min",
    ]
    clock = iter([0.0, 2.0, 2.1, 4.0])
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    with WorkLines() as lines:
        for done in (1, 2, 3):
            lines(Heard("decoding", done, 1000 if done < 3 else 4, 8))
    first, last, blank, end = shown.getvalue().split("\r")[1:]
    assert first.startswith("  decoding 1 of 1,000")
    assert last.startswith("  decoding 3 of 4 chains")
    assert (len(last), blank.strip(), end) == (max(len(last), len(first)), "", "")
