"""Default sizes of a study per benchmark; this is the only place for them.

The bundled reasoner's study is sized to end within 10 minutes on 2 CPU cores (about 4,500 tokens
per second in all), `quick` within 2. The user's own model gets `GENERIC`: the sizes of the
published study, to be reduced with --limit, --budgets and --samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

TESTBED_BENCHMARKS = ("recall", "arithmetic", "countdown-3", "countdown-4", "countdown-5")
GENERIC_BENCHMARKS = ("mmlu", "gsm8k", "math500", "aime24")
METHODS = ("shortgpt", "reverse-order", "random", "perplexity", "skip-kl")
REMOVE = (1, 2, 3)
WAITS = (1, 2)
CALIBRATION_PROBLEMS = 8  # per generated benchmark
PLAIN_ANSWER = 64  # tokens of an answer that a budget forces from a model without delimiters


@dataclass(frozen=True)
class Workload:
    """The work on one benchmark. A 0 leaves a part out.

    Problems are always the first n of one list, so the parts share chains where they can.

    Attributes:
        problems: problems for accuracy against blocks removed: one sample, at every budget (budgets
            nest, so the smaller ones cost only their answers).
        budgets: thinking tokens.
        answer: answer tokens.
        parallel_problems: problems with several samples at the largest budget, for dense and the
            first method's plans.
        parallel_samples: samples per problem of these.
        wait_problems: problems with "wait" extensions, for the same variants.
        block_problems: problems on which every single block is skipped in turn.
        block_samples: samples per problem of these.
    """

    problems: int
    budgets: tuple[int, ...] = (1024,)
    answer: int = 24
    parallel_problems: int = 0
    parallel_samples: int = 8
    wait_problems: int = 0
    block_problems: int = 0
    block_samples: int = 1


TESTBED = {
    "recall": Workload(problems=200, block_problems=200),
    "arithmetic": Workload(problems=100, budgets=(16, 32, 64, 128), block_problems=96),
    "countdown-3": Workload(problems=64, budgets=(64, 128, 256, 512), block_problems=48),
    "countdown-4": Workload(
        problems=48,
        budgets=(64, 128, 256, 512, 1024),
        parallel_problems=24,
        wait_problems=32,
        block_problems=32,
        block_samples=2,
    ),
    "countdown-5": Workload(problems=32, budgets=(64, 128, 256, 512, 1024)),
}

QUICK = {
    "recall": Workload(problems=60, block_problems=60),
    "arithmetic": Workload(problems=32, budgets=(32, 64), block_problems=24),
    "countdown-3": Workload(problems=16, budgets=(64, 128, 256), block_problems=12),
    "countdown-4": Workload(
        problems=12,
        budgets=(64, 128, 256, 512),
        parallel_problems=6,
        parallel_samples=4,
        wait_problems=8,
    ),
}
QUICK["countdown-5"] = replace(QUICK["countdown-4"], wait_problems=0)  # not a quick default
QUICK_BENCHMARKS = ("recall", "arithmetic", "countdown-3", "countdown-4")
QUICK_REMOVE = (1, 2)
QUICK_WAITS = (1,)

GENERIC = Workload(
    problems=10**9,  # all problems of the benchmark
    budgets=(512, 1024, 2048, 4096, 8192),
    answer=1024,
    parallel_problems=30,
    wait_problems=30,
    block_problems=30,
)

QUICK_GENERIC = Workload(
    problems=16,
    budgets=(512, 1024, 2048),
    answer=512,
    parallel_problems=8,
    parallel_samples=4,
    wait_problems=8,
)
