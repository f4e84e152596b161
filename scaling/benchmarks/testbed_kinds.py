"""The testbed's five kinds: problems made by program, from one fact to a long search.

Facts are scored by the likelihood of the four option values after an empty thinking: naming the
letter of an option is a skill of its own, which a model of this size does not have while it knows
the fact. The other kinds are generated and judged by the testbed's exact verifier.
"""

from __future__ import annotations

from scaling.benchmarks import generated
from scaling.problem import Problem


def _problems(kind: str, n: int, seed: int) -> list[Problem]:
    from testbed.problems import generate

    return [
        Problem(
            id=p.id,
            question=p.question,
            answer=p.answer,
            choices=tuple(p.choices),
            metadata={"kind": p.kind, "numbers": list(p.numbers), "target": p.target},
        )
        for p in generate(kind, n, seed, split="test")
    ]


@generated(
    "recall", version="1", grader="testbed", default_limit=100, scoring="likelihood", thinking=False
)
def recall(n: int, seed: int) -> list[Problem]:
    """Facts with four options (MMLU's part)."""
    return _problems("recall", n, seed)


@generated("arithmetic", version="1", grader="testbed", default_limit=100)
def arithmetic(n: int, seed: int) -> list[Problem]:
    """Two to four steps, left to right (GSM8K's part)."""
    return _problems("arithmetic", n, seed)


@generated("countdown-3", version="1", grader="testbed", default_limit=100)
def countdown_3(n: int, seed: int) -> list[Problem]:
    """A search over three numbers (MATH500's part)."""
    return _problems("countdown-3", n, seed)


@generated("countdown-4", version="1", grader="testbed", default_limit=100)
def countdown_4(n: int, seed: int) -> list[Problem]:
    """A search over four numbers (AIME's part)."""
    return _problems("countdown-4", n, seed)


@generated("countdown-5", version="1", grader="testbed", default_limit=100)
def countdown_5(n: int, seed: int) -> list[Problem]:
    """A search over five numbers, up to a thousand tokens (AIME's part)."""
    return _problems("countdown-5", n, seed)
