"""MATH-500: 500 competition problems with LaTeX answers (Lightman et al. 2023, arXiv 2305.20050).

Schema: problem, answer; optional solution, subject, level, unique_id.
"""

from __future__ import annotations

from scaling.benchmarks import benchmark
from scaling.problem import Problem
from scaling.prompting import PromptForm
from scaling.records import Hub, Record


@benchmark(
    "math500",
    version="1",
    grader="math",
    instruction="Please reason step by step, and put your final answer within \\boxed{}.",
    hub=Hub("HuggingFaceH4/MATH-500", "test"),
    typical=(500, 196),
    form=PromptForm("Problem:\n{question}\n\nSolution:"),
)
def math500(record: Record) -> Problem:
    """Competition mathematics with LaTeX answers."""
    keep = ("subject", "level")
    return Problem(
        id=f"math500/{record.fields.get('unique_id') or record.index}",
        question=record.text("problem", "question"),
        answer=record.text("answer"),
        metadata={k: record.fields[k] for k in keep if k in record.fields},
    )
