"""Chains for tests: whatever a test does not name is the plainest value there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.chains.chain import Budget, Chain, Span

Ids = Sequence[int] | np.ndarray


def make_chain(ids: Ids, prompt_ids: Ids = (0,), *, forced: Ids = (), **fields: Any) -> Chain:
    """A chain of these tokens, by default all of them thinking that the budget cut.

    Args:
        ids: Token ids of everything after the prompt [S].
        prompt_ids: Token ids of the prompt [P].
        forced: Positions in `ids` that the engine wrote, not the model.
        **fields: Any other field of `Chain`.
    """
    n = len(ids)
    plain: dict[str, Any] = {
        "problem": "p",
        "variant": "dense",
        "sample": 0,
        "seed": 0,
        "budget": Budget(),
        "prompt_ids": np.asarray(prompt_ids, dtype=np.int64),
        "ids": np.asarray(ids, dtype=np.int64),
        "forced": np.isin(np.arange(n), np.asarray(forced, dtype=np.int64)),
        "thinking": Span(0, n),
        "answer": None,
        "finish": "cut",
        "thinking_finish": "forced",
        "waits": 0,
        "logprob": np.zeros(n),
        "entropy": np.zeros(n),
    }
    return Chain(**(plain | fields))


def answered_chain(thinking: Ids, end: int, answer: Ids, **fields: Any) -> Chain:
    """A chain that closed its thinking with the token `end`, answered and stopped.

    Args:
        thinking: Token ids of the thinking, delimiters excluded.
        end: The token that closes it.
        answer: Token ids of the answer.
        **fields: Any other argument of `make_chain`.
    """
    ids, n = [*thinking, end, *answer], len(thinking)
    closed: dict[str, Any] = {
        "thinking": Span(0, n),
        "answer": Span(n + 1, len(ids)),
        "finish": "stop",
        "thinking_finish": "end",
    }
    return make_chain(ids, **(closed | fields))
