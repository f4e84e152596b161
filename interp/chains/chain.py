"""A chain: one generated answer, kept as token ids, with its spans and how it came to an end.

Shapes: S generated tokens (the model's own and the ones written into the chain by the engine:
a forced end of thinking, an answer prefix, a "wait"). All per-token arrays have length S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, overload, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.chains.residual_record import StreamRecord
from interp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


Finish = Literal["stop", "cut", "looped", "positions"]
ThinkingFinish = Literal["end", "forced", "looped", "none"]


@dataclass(frozen=True)
class Budget:
    """How much a chain may spend.

    thinking: thinking tokens allowed, the model's own and "wait"s together (0 is an error;
        ask for `thinking=False` prompts instead).
    answer: tokens allowed after the end of thinking.
    waits: how many times an end of thinking is replaced by "wait", as long as thinking tokens
        remain (s1, arXiv 2501.19393).
    """

    thinking: int = 1024
    answer: int = 32
    waits: int = 0

    def __post_init__(self) -> None:
        for name, least in (("thinking", 1), ("answer", 1), ("waits", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"Budget({name}={value!r}): expected a whole number >= {least}.")

    @property
    def label(self) -> str:
        """Short name for tables: the thinking tokens, and the waits where there are any."""
        return f"{self.thinking}" + (f"+{self.waits}wait" if self.waits else "")


@dataclass(frozen=True)
class Span:
    """Half-open range [start, stop) of generated positions."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Chain:
    """One generated answer.

    ids: everything after the prompt. forced: True where the engine, not the model, wrote the
    token. thinking / answer: spans in `ids`, delimiters excluded; `answer` is None when the chain
    was cut before one began. finish: "stop" (end-of-sequence), "cut" (answer budget spent),
    "looped" (ended early as certainly looping), "positions" (the model's positions ran out).
    thinking_finish: "end" (the model closed it), "forced" (budget), "looped", "none" (a prompt
    without thinking). logprob / entropy: of every token under the model's own distribution at
    temperature 1, in nats; nan where the engine wrote the token without asking. stream: what each
    block did to the residual stream in the pass that chose each token, where it was recorded.
    """

    problem: str
    variant: str
    sample: int
    seed: int
    budget: Budget
    prompt_ids: Int[np.ndarray, " P"]
    ids: Int[np.ndarray, " S"]
    forced: Bool[np.ndarray, " S"]
    thinking: Span
    answer: Span | None
    finish: Finish
    thinking_finish: ThinkingFinish
    waits: int
    logprob: Float[np.ndarray, " S"]
    entropy: Float[np.ndarray, " S"]
    layer_map: tuple[int, ...] = field(default=(), repr=False)
    stream: StreamRecord | None = field(default=None, repr=False, compare=False)

    @property
    def thinking_ids(self) -> Int[np.ndarray, " T"]:
        return self.ids[self.thinking.start : self.thinking.stop]

    @property
    def answer_ids(self) -> Int[np.ndarray, " T"]:
        return self.ids[self.answer.start : self.answer.stop] if self.answer else self.ids[:0]

    @property
    def n_thinking(self) -> int:
        return len(self.thinking)

    @property
    def n_answer(self) -> int:
        return len(self.answer) if self.answer else 0

    @property
    def n_tokens(self) -> int:
        return int(self.ids.shape[0])

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability a token over the model's own tokens (nan if there is none)."""
        own = self.logprob[~self.forced]
        return float(np.mean(own)) if own.size else float("nan")


@runtime_checkable
class TextDecoder(Protocol):
    """What turns token ids into text: a model, a tokenizer's wrapper."""

    def text(self, ids: Sequence[int], skip_special: bool = True) -> str: ...


class Chains(Sequence[Chain]):
    """The chains of one call, with the model that can turn them into text."""

    def __init__(self, chains: Sequence[Chain], model: TextDecoder) -> None:
        self._chains = tuple(chains)
        self.model = model

    @overload
    def __getitem__(self, index: int) -> Chain: ...
    @overload
    def __getitem__(self, index: slice) -> Chains: ...
    def __getitem__(self, index: int | slice) -> Chain | Chains:
        if isinstance(index, slice):
            return Chains(self._chains[index], self.model)
        return self._chains[index]

    def __len__(self) -> int:
        return len(self._chains)

    def __repr__(self) -> str:
        names = sorted({chain.variant for chain in self._chains})
        return f"Chains(n={len(self)}, variants={names})"

    def text(self, index: int) -> str:
        """The whole generated text of chain `index`, delimiters included."""
        return self.model.text(self._chains[index].ids.tolist(), skip_special=False)

    def to_frame(self) -> pd.DataFrame:
        """One row a chain: keys, lengths, how it ended, thinking and answer as text."""
        import pandas as pd

        rows = [
            {
                "problem": c.problem,
                "variant": c.variant,
                "sample": c.sample,
                "seed": c.seed,
                "budget": c.budget.label,
                "thinking_tokens": c.n_thinking,
                "answer_tokens": c.n_answer,
                "tokens": c.n_tokens,
                "finish": c.finish,
                "thinking_finish": c.thinking_finish,
                "waits": c.waits,
                "mean_logprob": c.mean_logprob,
                "thinking": self.model.text(c.thinking_ids.tolist()),
                "answer": self.model.text(c.answer_ids.tolist()),
            }
            for c in self._chains
        ]
        return pd.DataFrame(rows)
