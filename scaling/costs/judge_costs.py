"""What judging will cost: requests and tokens, by task. No request is sent.

Requests are counted exactly: the questions of `judge_study` with the same options, each different
one once, less what the cache answers. Tokens are characters over four, as for the tokenizers of
today's models; answers are one JSON object, unless the judge thinks first: then up to --max-tokens.
Retries after failures come on top.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from interp.plumbing.notebook import as_table
from scaling.costs.estimate import duration, quantity
from scaling.costs.study_work import CHARS_A_TOKEN
from scaling.judging.llm_judge import Planned

ANSWER = {"same": 9.0, "behaviours": 32.0}  # tokens of the JSON object that is asked for
WORDS = {"same": "verdicts", "behaviours": "counts of behaviours"}
OVERHEAD = 8.0  # tokens of a chat template around two messages
SECONDS = 2.0  # of an answer, assumed


@as_table
@dataclass(frozen=True)
class JudgeEstimate:
    """What judging a study will cost.

    Attributes:
        planned: the questions of each task.
        max_tokens: the largest number of tokens per answer.
        concurrency: requests that are open at the same time.
    """

    planned: tuple[Planned, ...]
    max_tokens: int
    concurrency: int

    @property
    def requests(self) -> int:
        """Requests that will be sent."""
        return sum(p.asked for p in self.planned)

    def tokens(self, planned: Planned, *, most: bool = False) -> float:
        """Tokens of the requests and answers of a task.

        Args:
            planned: the questions of the task.
            most: whether every answer takes `max_tokens`.

        Returns:
            The number of tokens.
        """
        answer = float(self.max_tokens) if most else min(ANSWER[planned.task], self.max_tokens)
        return self.sent(planned) + planned.asked * answer

    def sent(self, planned: Planned) -> float:
        """Tokens of the requests of a task.

        Args:
            planned: the questions of the task.

        Returns:
            The number of tokens.
        """
        return planned.characters / CHARS_A_TOKEN + planned.asked * OVERHEAD

    def to_frame(self) -> pd.DataFrame:
        """One row per task."""
        return pd.DataFrame(
            [
                {
                    **p.__dict__,
                    "sent_tokens": self.sent(p),
                    "tokens": self.tokens(p),
                    "most_tokens": self.tokens(p, most=True),
                }
                for p in self.planned
            ]
        )

    def report(self) -> Iterator[str]:
        """The estimate as lines of text."""
        yield "Estimate of judging; nobody was asked."
        for p in self.planned:
            yield (
                f"  {WORDS[p.task]}: {p.questions:,} questions, {p.different:,} different, "
                f"{p.different - p.asked:,} answered already: {p.asked:,} requests, "
                f"{quantity(self.sent(p))} tokens to the judge, "
                f"{quantity(self.tokens(p) - self.sent(p))} from it (at most "
                f"{quantity(self.tokens(p, most=True) - self.sent(p))})"
            )
        seconds = self.requests * SECONDS / self.concurrency
        yield f"  time {duration(seconds)}"
        yield "Assumed:"
        yield f"  - {CHARS_A_TOKEN:.0f} characters per token; a judge that does not think first"
        yield f"  - {SECONDS:.0f} s per answer, {self.concurrency} under way at a time; no retries"


def estimate_judging(
    planned: Sequence[Planned], *, max_tokens: int, concurrency: int
) -> JudgeEstimate:
    """Estimate the cost of what `Judge.planned` counted.

    Args:
        planned: the questions of each task.
        max_tokens: the largest number of tokens per answer.
        concurrency: requests that are open at the same time.

    Returns:
        The estimate.
    """
    return JudgeEstimate(tuple(planned), max_tokens, concurrency)
