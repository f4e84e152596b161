"""The user's own benchmark: a JSON, JSONL or parquet file and the name of a grader.

Fields: id, question, answer; optional choices (texts; they are shown under letters, and `answer` is
the right text or its letter). All other fields become metadata. Use it as "jsonl:numeric" (any
grader's name), or add a field "grader" to every record.
"""

from __future__ import annotations

from scaling.benchmarks import benchmark
from scaling.problem import Problem, lettered, letters
from scaling.records import Record


@benchmark("jsonl", version="1", grader="numeric")
def jsonl(record: Record) -> Problem:
    """Your own file: id, question, answer, optional choices; and the name of a grader."""
    identity, question = record.text("id"), record.text("question")
    answer = record.text("answer").strip()
    rest = {k: v for k, v in record.fields.items() if k not in _FIELDS}
    if record.fields.get("choices") is None:
        return Problem(identity, question, answer, metadata=rest)
    options = record.texts("choices")
    if not 2 <= len(options) <= 26:
        raise record.wrong("choices", f"expected 2 to 26 options, got {len(options)}.")
    if len(set(options)) != len(options):
        raise record.wrong("choices", "two options are the same.")
    names = letters(len(options))
    if answer in options:
        answer = names[options.index(answer)]
    elif answer.upper() in names:
        answer = answer.upper()
    else:
        raise record.wrong("answer", f"{answer!r} is not one of the choices, nor a letter of one.")
    return Problem(identity, lettered(question, options), answer, names, metadata=rest)


_FIELDS = ("id", "question", "answer", "choices", "grader")
