"""The work of a study, counted before it runs: requests that cost alike, with their budgets.

The count is exact, from the same cells that the study is cut into. It needs no model and no plan,
because the choice of removed blocks changes no count. The tokens of a request are not known in
advance; `Part.tokens` gives them for chains that use a given share of the tokens allowed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.chains.chain import Budget
from scaling.problem import Benchmark, Problem
from scaling.prompting import prompt_length
from scaling.store.chain_row import LIKELIHOOD
from scaling.study.cells import cut, wanted
from scaling.study.config import StudyConfig

SHARE = 0.5  # of the tokens allowed: what is assumed where nothing was measured
CHARS_A_TOKEN = 4.0  # of English text under the tokenizers of today's models
TEMPLATE_TOKENS = 40  # a chat template


@dataclass(frozen=True)
class Part:
    """Requests that cost alike: one benchmark, one kind of variant, one set of budgets.

    Attributes:
        benchmark: name of the benchmark.
        kind: "dense", "plan" or "block".
        removed: number of removed blocks.
        budgets: the budgets; empty if choices are scored by their likelihood.
        requests: number of requests.
        chains: rows of all requests together.
        prompt: mean tokens of a prompt.
        thinks: whether the chains think.
    """

    benchmark: str
    kind: str  # dense, plan or block
    removed: int
    budgets: tuple[Budget, ...]  # empty where choices are scored by their likelihood
    requests: int
    chains: int
    prompt: float
    thinks: bool

    @property
    def key(self) -> tuple[Any, ...]:
        """What a trial measures it under."""
        labels = tuple(b.label for b in self.budgets)
        return (self.benchmark, self.kind, self.removed, labels)

    @property
    def cap(self) -> int:
        """Thinking tokens of a request at most."""
        return max((b.thinking for b in self.budgets), default=0) if self.thinks else 0

    @property
    def answers(self) -> int:
        """Answer tokens of a request at most: one answer per budget."""
        return sum(b.answer for b in self.budgets)

    @property
    def longest(self) -> float:
        """Tokens of a row at most: prompt, thinking and one answer."""
        return self.prompt + self.cap + max((b.answer for b in self.budgets), default=0)

    def thinking(self, share: float) -> float:
        """Thinking tokens of a request; at each "wait" chains take `share` of what is left."""
        if not self.thinks:
            return 0.0
        return max(
            (b.thinking * (1 - (1 - share) ** (b.waits + 1)) for b in self.budgets), default=0.0
        )

    def tokens(self, share: float) -> float:
        """Tokens decoded for a request: the longest thinking once, and every answer."""
        return self.thinking(share) + share * self.answers

    def stored(self, tokens: float) -> float:
        """Tokens that its rows keep, where a request decodes `tokens`: budgets share thinking."""
        thinking = max(0.0, tokens - SHARE * self.answers) if self.budgets else 0.0
        return sum(min(thinking, b.thinking) + SHARE * b.answer for b in self.budgets)


def parts_of(config: StudyConfig, benchmarks: Sequence[Benchmark], n_blocks: int) -> list[Part]:
    """Count the requests of a study, grouped by what they cost. It needs no model and no plan.

    Args:
        config: the settings of the study.
        benchmarks: the benchmarks, with their problems.
        n_blocks: number of blocks of the model.

    Returns:
        One part per benchmark, kind of variant, number of removed blocks and set of budgets.
    """
    kinds: dict[str, tuple[str, str]] = {"dense": ("dense", "")}
    removed = {"dense": 0}
    for method in config.methods:
        for count in config.remove_counts:
            kinds[f"{method}-{count}"] = ("plan", method)
            removed[f"{method}-{count}"] = count
    for block in range(n_blocks):
        kinds[f"skip {block}"] = ("block", "single")
        removed[f"skip {block}"] = 1
    found: list[Part] = []
    for bench in benchmarks:
        asked: dict[tuple[str, str, int], list[Budget]] = {}
        for key, budget in wanted(bench, cut(config, bench, kinds)).items():
            budgets = asked.setdefault((key.variant, key.problem, key.sample), [])
            if budget is not None:
                budgets.append(budget)
        counted = Counter(
            (kinds[variant][0], removed[variant], tuple(sorted(budgets, key=_order)))
            for (variant, _, _), budgets in asked.items()
        )
        characters = [prompt_length(bench.prompt(p)) for p in bench.problems]
        prompt = float(np.mean(characters)) / CHARS_A_TOKEN
        for (kind, count, budgets), n in counted.items():
            found.append(
                Part(
                    benchmark=bench.name,
                    kind=kind,
                    removed=count,
                    budgets=budgets,
                    requests=n,
                    chains=n * max(1, len(budgets)),
                    prompt=prompt + TEMPLATE_TOKENS,
                    thinks=bench.thinking and bench.scoring != LIKELIHOOD,
                )
            )
    return found


def _order(budget: Budget) -> tuple[int, int]:
    return budget.waits, budget.thinking


def typical_size(name: str) -> tuple[int, int] | None:
    """(problems, mean characters of a question) of a public benchmark, where it states them."""
    from scaling.benchmarks import benchmarks

    entry = benchmarks().get(name.partition(":")[0])
    return None if entry is None else entry.typical


def sized_benchmarks(config: StudyConfig) -> list[Benchmark]:
    """The study's benchmarks, those of the Hub as stand-ins of the right size.

    Nothing is downloaded: a file of the caller's is read, what a program makes is made, and of a
    public set the number of problems and the length of a question are known.
    """
    from scaling.benchmarks import benchmarks, load_benchmark, with_prompting

    found = []
    for name in config.benchmark_names:
        limit = config.workload(name).problems
        entry = benchmarks().get(name.partition(":")[0])
        size = typical_size(name)
        if name in config.data or entry is None or size is None:
            bench = load_benchmark(name, config.data.get(name), limit, config.seed)
            found.append(with_prompting(bench, config.prompts, has_template=True))
            continue
        n, chars = size
        choices = ("A", "B", "C", "D") if entry.scoring == LIKELIHOOD else ()
        problems = tuple(
            Problem(str(i), f"{i} ".ljust(chars, "x"), "A", choices) for i in range(min(n, limit))
        )
        bench = Benchmark(
            name,
            entry.version,
            problems,
            entry.scoring,
            entry.grader,
            entry.thinking,
            entry.instruction,
        )
        found.append(with_prompting(bench, config.prompts, has_template=True, stand_in=True))
    return found
