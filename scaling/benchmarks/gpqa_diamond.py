"""GPQA-Diamond: 198 graduate questions with four options (Rein et al. 2023, arXiv 2311.12022).

Schema: Question, Correct Answer, Incorrect Answer 1-3, Record ID. The data set is gated, and its
authors ask that no example be posted in plain text, so this repository holds none. The options are
shuffled by a hash of the record's id: the right one is not always A, and it never moves.
"""

from __future__ import annotations

import random

from scaling.benchmarks import benchmark
from scaling.problem import Problem, lettered, letters
from scaling.records import Hub, Record


@benchmark(
    "gpqa_diamond",
    version="1",
    grader="choice",
    instruction="Please reason, then put the letter of the right option within \\boxed{}.",
    hub=Hub("Idavidrein/gpqa", "train", "gpqa_diamond"),
    typical=(198, 600),
)
def gpqa_diamond(record: Record) -> Problem:
    """Graduate-level science questions with four options."""
    correct = record.text("Correct Answer").strip()
    options = [correct]
    options += [record.text(f"Incorrect Answer {i}").strip() for i in (1, 2, 3)]
    given = record.fields.get("Record ID") not in (None, "")
    identity = record.text("Record ID") if given else str(record.index)
    random.Random(f"gpqa/{identity}").shuffle(options)
    return Problem(
        id=f"gpqa/{identity}",
        question=lettered(record.text("Question").strip(), tuple(options)),
        answer=letters(4)[options.index(correct)],
        choices=letters(4),
        metadata={"domain": record.fields.get("High-level domain") or ""},
    )
