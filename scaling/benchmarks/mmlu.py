"""MMLU: knowledge questions with four options (Hendrycks et al. 2021, arXiv 2009.03300).

Schema: question, choices (4 texts), answer (0-3 or a letter), subject (or type). "mmlu" compares
the log-probabilities of the four letters after an empty thinking span; "mmlu-text" those of the
options' texts, per character, after the question alone; "mmlu-generate" lets the model think and
answer with a letter. A few questions of the public data set occur twice: the first is kept.
"""

from __future__ import annotations

from scaling.benchmarks import benchmark
from scaling.problem import Problem, lettered, letters
from scaling.prompting import PromptForm
from scaling.records import Hub, Record

HUB = Hub("cais/mmlu", "test", "all")
HEADER = "The following are multiple choice questions (with answers){about}."


def _options(record: Record) -> tuple[str, ...]:
    options = record.texts("choices", "options")
    if not 2 <= len(options) <= 26:
        raise record.wrong("choices", f"expected 2 to 26 options, got {len(options)}.")
    return options


def _subject(record: Record) -> dict[str, str]:
    return {"subject": record.fields.get("subject") or record.fields.get("type") or ""}


def _problem(record: Record) -> Problem:
    options = _options(record)
    names = letters(len(options))
    return Problem(
        id=f"mmlu/{record.index}",
        question=lettered(record.text("question"), options),
        answer=names[record.index_in(len(options), "answer")],
        choices=names,
        metadata=_subject(record),
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
    form=PromptForm("{question}\nAnswer:", HEADER),
)
def mmlu(record: Record) -> Problem:
    """Knowledge questions with four options, by likelihood."""
    return _problem(record)


@benchmark(
    "mmlu-text",
    version="1",
    grader="choice",
    scoring="likelihood",
    thinking=False,
    hub=HUB,
    drop_repeats=True,
    typical=(14042, 300),
    form=PromptForm(header="The following are questions (with answers){about}."),
    by_length=True,
)
def mmlu_text(record: Record) -> Problem:
    """Knowledge questions, by the likelihood of the options' texts per character."""
    options = _options(record)
    return Problem(
        id=f"mmlu-text/{record.index}",
        question=record.text("question"),
        answer=options[record.index_in(len(options), "answer")],
        choices=tuple(dict.fromkeys(options)),  # a few public questions list a text twice
        metadata=_subject(record),
    )


@benchmark(
    "mmlu-generate",
    version="1",
    grader="choice",
    instruction="Please reason, then put the letter of the right option within \\boxed{}.",
    hub=HUB,
    drop_repeats=True,
    typical=(14042, 450),
    form=PromptForm("Q: {question}\nA: Let's think step by step.", HEADER),
)
def mmlu_generate(record: Record) -> Problem:
    """Knowledge questions with four options, generated."""
    return _problem(record)
