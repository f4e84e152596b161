"""MMLU: four options, scored by the likelihood of the letter (Hendrycks et al. 2021, 2009.03300).

Schema: question, choices (4 texts), answer (0-3 or a letter), subject (or type). "mmlu" compares
the log-probabilities of the four letters after an empty thinking span; "mmlu-generate" lets the
model think and answer with a letter. A few questions of the public data set occur twice: the first
is kept.
"""

from __future__ import annotations

from scaling.benchmarks import benchmark
from scaling.problem import Problem, lettered, letters
from scaling.records import Hub, Record

HUB = Hub("cais/mmlu", "test", "all")


def _problem(record: Record) -> Problem:
    options = record.texts("choices", "options")
    if not 2 <= len(options) <= 26:
        raise record.wrong("choices", f"expected 2 to 26 options, got {len(options)}.")
    names = letters(len(options))
    return Problem(
        id=f"mmlu/{record.index}",
        question=lettered(record.text("question"), options),
        answer=names[record.index_in(len(options), "answer")],
        choices=names,
        metadata={"subject": record.fields.get("subject") or record.fields.get("type") or ""},
    )


@benchmark(
    "mmlu",
    version="1",
    grader="choice",
    scoring="likelihood",
    thinking=False,
    instruction="Answer with the letter of the right option only.",
    hub=HUB,
    drop_repeats=True,
    typical=(14042, 450),
)
def mmlu(record: Record) -> Problem:
    """Knowledge questions with four options, by likelihood."""
    return _problem(record)


@benchmark(
    "mmlu-generate",
    version="1",
    grader="choice",
    instruction="Please reason, then put the letter of the right option within \\boxed{}.",
    hub=HUB,
    drop_repeats=True,
    typical=(14042, 450),
)
def mmlu_generate(record: Record) -> Problem:
    """Knowledge questions with four options, generated."""
    return _problem(record)
