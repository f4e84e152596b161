"""Does a server count tokens as it is asked to? To be run once before a long study.

For each budget the server is asked twice for that many tokens with one seed. What comes back is
held against the server's own count and against what was sent: a server that adds a special token to
a prompt, spends more than it may, or counts otherwise than it sends would bend every budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from interp.decoding.sampling import Sampling
from interp.errors import UserError
from scaling.engines.dialects import Ask
from scaling.engines.server import ServerEngine

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BudgetCheck", "BudgetRow", "check_budget"]

QUESTION = "What is 17 times 23?"


@dataclass(frozen=True)
class BudgetRow:
    """One budget. tokens: received; counted: by the server; prompt_*: of the prompt.

    repeats: whether the same seed gave the same tokens again (False on a server whose batching is
    not deterministic: its chains then hold once and cannot be had again).
    """

    budget: int
    tokens: int
    counted: int | None
    prompt_sent: int
    prompt_counted: int | None
    ended: bool
    repeats: bool

    @property
    def obeys(self) -> bool:
        """Within the budget, ended or all of it, and every count the same on both sides."""
        spent = self.tokens == self.budget or (self.ended and self.tokens < self.budget)
        same_prompt = self.prompt_counted in (None, self.prompt_sent)
        return spent and same_prompt and self._counted_alike

    @property
    def _counted_alike(self) -> bool:
        if self.counted is None:
            return True
        # one token more is asked of a server of text; the end may be left out of the count
        least = self.tokens - 1 if self.ended else self.tokens
        return least <= self.counted <= self.tokens + (not self.ended)


@dataclass(frozen=True)
class BudgetCheck:
    """What a server did with each budget. exact: token ids came from the server itself."""

    kind: str
    served: str
    exact: bool
    rows: tuple[BudgetRow, ...]

    @property
    def obeys(self) -> bool:
        """Whether every budget was kept and every count agreed."""
        return all(row.obeys for row in self.rows)

    def to_frame(self) -> pd.DataFrame:
        """One row a budget."""
        import pandas as pd

        same = {"kind": self.kind, "served": self.served, "exact": self.exact}
        return pd.DataFrame([{**same, **asdict(row), "obeys": row.obeys} for row in self.rows])


def check_budget(
    engine: ServerEngine,
    budgets: Sequence[int] = (1, 16, 256),
    *,
    question: str = QUESTION,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> BudgetCheck:
    """Ask `engine`'s server for each number of thinking tokens, and count what comes.

    budgets: tokens, each 1 or more. question: any; its chat prompt opens the thinking.
    """
    if not budgets or min(budgets) < 1:
        raise UserError(f"budgets={list(budgets)}: expected numbers of tokens, each 1 or more.")
    prompt = tuple(engine.prompt_ids(question, thinking=True))
    room = engine.max_positions - len(prompt)
    if max(budgets) > room:
        raise UserError(f"budgets={list(budgets)}: the server has room for {room} tokens.")
    ends = engine.model.delimiter_ids.think_end
    rows = []
    for budget in budgets:
        ask = Ask(prompt, budget, ends, seed, sampling or Sampling())
        said, again = engine.ask(ask), engine.ask(ask)
        closed = tuple(said.ids[-len(ends) :]) == ends
        rows.append(
            BudgetRow(
                budget=budget,
                tokens=len(said.ids),
                counted=said.tokens,
                prompt_sent=len(prompt),
                prompt_counted=said.prompt_tokens,
                ended=closed or said.ids[-1] in engine.model.stop_ids,
                repeats=said.ids == again.ids,
            )
        )
    return BudgetCheck(engine.kind, engine.served, engine.exact, tuple(rows))
