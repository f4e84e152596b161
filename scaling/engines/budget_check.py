"""Check that a server counts tokens as requested. Run it once before a long study.

For each budget the server is asked twice for that many tokens with one seed. The reply is compared
with the server's own count and with the request: a server that adds a special token to a prompt,
exceeds its budget, or counts other tokens than it sends would distort every budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table
from scaling.engines.dialects import Ask
from scaling.engines.server import ServerEngine

__all__ = ["BudgetCheck", "BudgetRow", "check_budget"]

QUESTION = "What is 17 times 23?"


@dataclass(frozen=True)
class BudgetRow:
    """The result for one budget.

    Attributes:
        budget: tokens requested.
        tokens: tokens received.
        counted: completion tokens as the server counts them; None where it does not say.
        prompt_sent: prompt tokens sent.
        prompt_counted: prompt tokens as the server counts them; None where it does not say.
        ended: whether the completion ended by itself.
        repeats: whether the same seed gave the same tokens again. False on a server whose batching
            is not deterministic: its chains are valid, but cannot be reproduced.
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
        """Whether the budget was kept and every count is the same on both sides."""
        spent = self.tokens == self.budget or (self.ended and self.tokens < self.budget)
        same_prompt = self.prompt_counted in (None, self.prompt_sent)
        return spent and same_prompt and self._counted_alike

    @property
    def _counted_alike(self) -> bool:
        if self.counted is None:
            return True
        # A text server is asked for one more token; its count may leave out the end token.
        least = self.tokens - 1 if self.ended else self.tokens
        return least <= self.counted <= self.tokens + (not self.ended)


@as_table
@dataclass(frozen=True)
class BudgetCheck:
    """The results for all budgets.

    Attributes:
        kind: the kind of server.
        served: name of the model at the server.
        exact: whether token ids came from the server itself.
        rows: one result per budget.
    """

    kind: str
    served: str
    exact: bool
    rows: tuple[BudgetRow, ...]

    @property
    def obeys(self) -> bool:
        """Whether every budget was kept and every count agreed."""
        return all(row.obeys for row in self.rows)

    def to_frame(self) -> pd.DataFrame:
        """One row per budget."""
        same = {"kind": self.kind, "served": self.served, "exact": self.exact}
        return pd.DataFrame([{**same, **asdict(row), "obeys": row.obeys} for row in self.rows])


@checked
def check_budget(
    engine: ServerEngine,
    budgets: Sequence[int] = (1, 16, 256),
    *,
    question: str = QUESTION,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> BudgetCheck:
    """Ask the server for each number of thinking tokens, and count the tokens that it sends.

    Args:
        engine: the engine whose server is checked.
        budgets: numbers of tokens, each 1 or more.
        question: any question; its chat prompt opens the thinking.
        sampling: sampling settings; None takes the defaults.
        seed: seed of both requests.

    Returns:
        Whether each budget was kept, with the counts.

    Raises:
        UserError: a budget below 1, or more than the server has room for.
    """
    if not budgets or min(budgets) < 1:
        raise UserError(f"budgets={list(budgets)}: expected numbers of tokens, each 1 or more.")
    prompt = tuple(engine.prompt_ids(question, thinking=True))
    room = engine.max_positions - len(prompt)
    if max(budgets) > room:
        raise UserError(
            f"budgets={list(budgets)}: the server has room for {room} tokens; lower the budgets."
        )
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
