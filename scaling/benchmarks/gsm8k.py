"""GSM8K: 1,319 school word problems, integer answers (Cobbe et al. 2021, arXiv 2110.14168).

Schema: question, answer ("... #### 18"). The gold answer is the text after the last "####". Worked
examples for few-shot prompts (examples/gsm8k.jsonl) were written for this project in this form.
"""

from __future__ import annotations

from scaling.benchmarks import benchmark
from scaling.problem import Problem
from scaling.prompting import PromptForm
from scaling.records import Hub, Record

QUESTION_AND_ANSWER = PromptForm("Q: {question}\nA:")
STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."


@benchmark(
    "gsm8k",
    version="1",
    grader="numeric",
    instruction=STEP_BY_STEP,
    hub=Hub("openai/gsm8k", "test", "main"),
    typical=(1319, 240),
    form=QUESTION_AND_ANSWER,
)
def gsm8k(record: Record) -> Problem:
    """Grade-school word problems with integer answers."""
    solution, mark, gold = record.text("answer").rpartition("####")
    if not mark or not gold.strip():
        raise record.wrong("answer", "expected a solution that ends with '#### NUMBER'.")
    return Problem(
        id=f"gsm8k/{record.index}",
        question=record.text("question"),
        answer=gold.strip().replace(",", ""),
        metadata={"solution": solution.strip()},
    )
