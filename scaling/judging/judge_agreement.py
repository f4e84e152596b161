"""Agreement of a judge and the rule grader: Cohen's kappa, with an interval.

kappa = (p_o - p_e) / (1 - p_e), with p_o the share of items on which the two agree and p_e the
share on which they would agree by chance, given how often each says "correct" (Cohen 1960). Where
both say the same of every item, p_e = 1 and kappa is undefined: nan, not 1.

The interval is from the posterior of the table's four probabilities, Dirichlet(1/2 + counts)
(Jeffreys' prior), because a bootstrap of a table without disagreement has zero width. Rows of one
problem are not independent, so the counts are scaled down to the number of problems.

Left out and counted: abstentions, errors, and rows without an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from interp.errors import UserError
from interp.plumbing.notebook import as_table
from interp.statistics import Interval, cohen_kappa, mean_interval, problem_table

if TYPE_CHECKING:
    import pandas as pd

    from scaling.judging.llm_judge import Judgement

__all__ = ["JudgeAgreement", "agreement", "kappa_interval"]

DRAWS = 20_000  # draws from the posterior


@as_table
@dataclass(frozen=True)
class JudgeAgreement:
    """Judge against rule grader on `n` items.

    Attributes:
        kappa: Cohen's kappa with its interval.
        agreed: share of items on which both agree, with its interval.
        both_correct: items that both call correct.
        rule_only: items that only the rule grader calls correct.
        judge_only: items that only the judge calls correct.
        both_wrong: items that both call wrong.
        abstained: items on which the judge abstained.
        errors: items without a verdict because of an error.
        judge: name of the judge's model.
        version: version of the judge's prompt.
    """

    kappa: Interval
    agreed: Interval
    both_correct: int
    rule_only: int
    judge_only: int
    both_wrong: int
    abstained: int
    errors: int
    judge: str = ""
    version: str = ""

    @property
    def n(self) -> int:
        """Items with a verdict of both."""
        return self.both_correct + self.rule_only + self.judge_only + self.both_wrong

    def to_frame(self) -> pd.DataFrame:
        """A single row."""
        import pandas as pd

        row = {k: v for k, v in asdict(self).items() if k not in ("kappa", "agreed")}
        both = self.kappa.cells("kappa", "kappa_") | self.agreed.cells("agreed", "agreed_")
        both |= {"level": self.kappa.level, "n": self.n, "n_problems": self.kappa.n_problems}
        return pd.DataFrame([both | row])


def agreement(
    correct: Sequence[bool],
    judgements: Sequence[Judgement],
    problems: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    judge: str = "",
    version: str = "",
) -> JudgeAgreement:
    """Compare the rule grader's outcomes with a judge's verdicts on the same items.

    Args:
        correct: whether the rule grader calls each item correct.
        judgements: the judge's verdicts.
        problems: the problem of each item; None treats every item as its own problem.
        level: confidence level of the intervals.
        judge: name of the judge's model.
        version: version of the judge's prompt.

    Returns:
        Kappa, the share of agreement, and the counts.

    Raises:
        UserError: lengths that differ, or no item with a verdict.
    """
    names = [str(i) for i in range(len(correct))] if problems is None else list(problems)
    if not len(correct) == len(judgements) == len(names):
        raise UserError(
            f"{len(correct)} outcomes, {len(judgements)} judgements and {len(names)} problems: "
            f"expected as many of each."
        )
    seen = [
        (bool(c), j.verdict == "same", p)
        for c, j, p in zip(correct, judgements, names, strict=True)
        if j.verdict in ("same", "different")
    ]
    errors = sum(j.error is not None for j in judgements)
    if not seen:
        raise UserError(
            f"No item has a verdict of the judge ({errors} errors, "
            f"{len(judgements) - errors} abstentions): there is nothing to compare."
        )
    of = [p for _, _, p in seen]
    rule, judged = (np.array([one[side] for one in seen]) for side in (0, 1))
    table = np.array(
        [[np.sum(rule & judged), np.sum(rule & ~judged)],
         [np.sum(~rule & judged), np.sum(~rule & ~judged)]]
    )  # fmt: skip
    kappa, n = float(cohen_kappa(table)), len(set(of))
    low, high = kappa_interval(table, n_effective=n, level=level)
    method = "dirichlet" if n == len(seen) else "dirichlet, a problem one row"
    return JudgeAgreement(
        kappa=Interval(kappa, low, high, level, n, len(seen), method),
        agreed=mean_interval(problem_table(rule == judged, of), level),
        both_correct=int(table[0, 0]),
        rule_only=int(table[0, 1]),
        judge_only=int(table[1, 0]),
        both_wrong=int(table[1, 1]),
        abstained=sum(j.verdict == "cannot tell" for j in judgements),
        errors=errors,
        judge=judge,
        version=version,
    )


def kappa_interval(
    table: Int[np.ndarray, "2 2"], *, n_effective: float | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Posterior limits of Cohen's kappa for counts of two raters over two classes.

    Args:
        table: counts, first rater in rows, second in columns: [2, 2].
        n_effective: number of independent items that the counts are worth; None takes all of them.
        level: probability of the interval.

    Returns:
        The lower and upper limit.

    Raises:
        UserError: `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise UserError(f"level={level!r}: expected a probability between 0 and 1, such as 0.95.")
    total = int(table.sum())
    scale = 1.0 if n_effective is None or total == 0 else min(1.0, n_effective / total)
    drawn = np.random.default_rng(0).dirichlet(table.reshape(-1) * scale + 0.5, DRAWS)
    kappa = cohen_kappa(drawn.reshape(-1, 2, 2))
    tail = (1 - level) / 2
    low, high = np.quantile(kappa, [tail, 1 - tail])
    return float(low), float(high)
