"""The testbed's five kinds of generated problems, from one fact to a long search.

Facts are scored by the likelihood of the four option values after an empty thinking span: naming
the letter of an option is a separate skill, which a model of this size lacks while it knows the
fact. The other kinds are generated and graded by the testbed's exact verifier.
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
    """Facts with four options (the counterpart of MMLU)."""
    return _problems("recall", n, seed)


@generated("arithmetic", version="1", grader="testbed", default_limit=100)
def arithmetic(n: int, seed: int) -> list[Problem]:
    """Two to four steps, left to right (the counterpart of GSM8K)."""
    return _problems("arithmetic", n, seed)


@generated("countdown-3", version="1", grader="testbed", default_limit=100)
def countdown_3(n: int, seed: int) -> list[Problem]:
    """A search over three numbers (the counterpart of MATH500)."""
    return _problems("countdown-3", n, seed)


@generated("countdown-4", version="1", grader="testbed", default_limit=100)
def countdown_4(n: int, seed: int) -> list[Problem]:
    """A search over four numbers (the counterpart of AIME)."""
    return _problems("countdown-4", n, seed)


@generated("countdown-5", version="1", grader="testbed", default_limit=100)
def countdown_5(n: int, seed: int) -> list[Problem]:
    """A search over five numbers, up to a thousand tokens (the counterpart of AIME)."""
    return _problems("countdown-5", n, seed)
