"""A chain: one generated answer as token ids, with its spans and the reason why it ended.

Shapes: S generated tokens. They include the tokens that the engine writes into the chain: a forced
end of thinking, an answer prefix, a "Wait". All per-token arrays have length S; P is the number of
prompt tokens.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, overload, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from interp.chains.residual_record import StreamRecord
from interp.errors import UserError, printable
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import escaped, table_html

FEW = 6  # chains whose text a notebook shows
SHOWN = 12_000  # characters of a chain that a notebook shows
Finish = Literal["stop", "cut", "looped", "positions"]
ThinkingFinish = Literal["end", "forced", "looped", "none"]


@checked
@dataclass(frozen=True)
class Budget:
    """How many tokens a chain may spend.

    Attributes:
        thinking: thinking tokens allowed, at least 1. The model's own tokens and the "Wait" tokens
            count together. For no thinking at all, use prompts with `thinking=False`.
        answer: tokens allowed after the end of thinking, at least 1.
        waits: how many times an early end of thinking is replaced by "Wait", as long as thinking
            tokens remain (s1, arXiv 2501.19393). 0 means never.
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
        """Short name for tables: the thinking tokens, and the "Wait" extensions if any."""
        return f"{self.thinking}" + (f"+{self.waits}wait" if self.waits else "")


#: What a caller may say: one budget or several, each as a `Budget` or as its thinking tokens.
Budgets = Budget | int | Sequence[Budget | int]


def budgets_of(given: Budgets) -> tuple[Budget, ...]:
    """Read one or several budgets.

    Args:
        given: a budget or several; a number stands for `Budget(number)`.

    Returns:
        The budgets.
    """
    each = given if isinstance(given, Sequence) else (given,)
    return tuple(one if isinstance(one, Budget) else Budget(one) for one in each)


@checked
@dataclass(frozen=True)
class Span:
    """Half-open range [start, stop) of generated positions.

    Attributes:
        start: index of the first generated token in the span.
        stop: index after the last one.
    """

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@checked
@dataclass(frozen=True, repr=False)
class Chain:
    """One generated answer.

    Attributes:
        problem: name of the problem.
        variant: name of the variant that generated the chain.
        sample: number of the sample, from 0.
        seed: seed of the sampling noise.
        budget: the tokens allowed.
        prompt_ids: token ids of the prompt [P].
        ids: token ids of everything after the prompt [S].
        forced: True where the engine, not the model, wrote the token [S].
        thinking: span of the thinking in `ids`, delimiters excluded.
        answer: span of the answer in `ids`, delimiters excluded; None when the chain ended before
            an answer began. In the plain format, a completion that ended by itself has an empty
            answer at the end of its thinking: what it announces is inside (`answer_texts`).
        finish: why the chain ended: "stop" (end-of-sequence token), "cut" (answer budget spent),
            "looped" (stopped early because it certainly loops) or "positions" (no position of the
            model was left).
        thinking_finish: why thinking ended: "end" (the model closed it), "forced" (budget spent),
            "looped", or "none" (a prompt without thinking).
        waits: how many "Wait" extensions were used.
        logprob: log-probability of every token under the model's own distribution at temperature 1,
            in nats [S]; nan where the engine wrote the token without running the model.
        entropy: entropy of that distribution, in nats [S]; nan likewise.
        layer_map: dense index of each block of the model that generated the chain.
        stream: norms and products of the residual stream at each block, in the pass that chose each
            token, if they were recorded. The streams themselves: `gather`, `run_with_cache`.
        plain: whether the thinking format has no delimiters, so the whole completion thinks.
        reopened: what follows where the answer opened the thinking again; None if it did not. The
            answer stops before it. It counts as thinking, beyond the budget.
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
    plain: bool = False
    reopened: Span | None = None

    #: Draws a chain for a notebook; `interp.diagnosis.chain_html`, a floor above, sets it.
    drawer: ClassVar[Callable[[Chain], str] | None] = None
    #: Set by `Chains`, weakly and not pickled: a chain that is kept does not keep its model.
    _decoder: ClassVar[Callable[[], TextDecoder | None]] = staticmethod(lambda: None)

    @property
    def decoder(self) -> TextDecoder | None:
        """What turns the chain's ids into text; None if its model is gone or was never known."""
        return self._decoder()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_decoder"}

    @property
    def text(self) -> str:
        """The whole generated text, delimiters included.

        Raises:
            UserError: The chain does not know the model that can decode it.
        """
        if self.decoder is None:
            raise UserError(
                "This chain does not know its model (it was read from a file, or the model is "
                "gone): model.text(chain.ids) gives its text."
            )
        return self.decoder.text(self.ids.tolist(), skip_special=False)

    @property
    def name(self) -> str:
        """The chain in a line: problem, variant, sample, lengths and how it ended."""
        return (
            f"problem {self.problem!r}, {self.variant!r}, sample {self.sample}: "
            f"{self.n_thinking} thinking + {self.n_answer} answer tokens, thinking "
            f"{self.thinking_finish}, {self.finish}"
        )

    def __repr__(self) -> str:
        said = "" if self.decoder is None else f", {printable(self.text, 120)!r}"
        return f"Chain({printable(self.name, 240)}{said})"

    def _repr_html_(self) -> str:
        if Chain.drawer is not None:
            return Chain.drawer(self)
        text = self.text if self.decoder is not None else str(self.ids.tolist())
        return f"<p>{escaped(self.name)}</p><pre>{escaped(text, SHOWN)}</pre>"

    def to_frame(self) -> pd.DataFrame:
        """One row per generated token: id, text (if known), part, forced, logprob, entropy."""
        parts = np.full(self.n_tokens, "", dtype=object)
        for part, span in (
            ("thinking", self.thinking),
            ("answer", self.answer),
            ("reopened", self.reopened),
        ):
            if span is not None:
                parts[span.start : span.stop] = part
        columns: dict[str, Any] = {"token": np.arange(self.n_tokens), "id": self.ids}
        if (model := self.decoder) is not None:
            texts = (model.text([i], skip_special=False) for i in self.ids.tolist())
            columns["text"] = list(map(_encodable, texts))
        columns |= {"part": parts, "forced": self.forced}
        return pd.DataFrame({**columns, "logprob": self.logprob, "entropy": self.entropy})

    @property
    def thinking_ids(self) -> Int[np.ndarray, " T"]:
        """Token ids of the thinking span."""
        return self.ids[self.thinking.start : self.thinking.stop]

    @property
    def answer_ids(self) -> Int[np.ndarray, " T"]:
        """Token ids of the answer span; empty when there is no answer."""
        return self.ids[self.answer.start : self.answer.stop] if self.answer else self.ids[:0]

    @property
    def n_thinking(self) -> int:
        """Number of thinking tokens, with those after an answer that opened it again."""
        return len(self.thinking) + (len(self.reopened) if self.reopened else 0)

    @property
    def n_answer(self) -> int:
        """Number of answer tokens, 0 when there is no answer."""
        return len(self.answer) if self.answer else 0

    @property
    def n_tokens(self) -> int:
        """Number of generated tokens S, forced ones included."""
        return int(self.ids.shape[0])

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability per token over the model's own tokens, in nats (nan if none)."""
        own = self.logprob[~self.forced]
        return float(np.mean(own)) if own.size else float("nan")


def _encodable(text: str) -> str:
    """Text that a column of a table can hold: lone surrogates are replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


@runtime_checkable
class TextDecoder(Protocol):
    """Anything that turns token ids into text: a model, or a wrapper around a tokenizer."""

    def text(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Decode token ids.

        Args:
            ids: token ids.
            skip_special: whether to leave out special tokens.

        Returns:
            The text.
        """
        ...


def answer_texts(chain: Chain, model: TextDecoder) -> tuple[str, ...]:
    """The texts that hold a chain's answer: the first that announces one is graded.

    This is the only place that decides what of a chain may be graded. With delimiters it is the
    answer's span; unfinished thinking, and thinking that the answer opened again, are never read.
    In the plain format it is the answer that a budget forced, where there is one, and then the
    whole completion.

    Args:
        chain: a finished chain.
        model: decodes token ids.

    Returns:
        The texts; none for a chain with delimiters that was cut before an answer began.
    """
    own = () if chain.answer is None else (model.text(chain.answer_ids.tolist()),)
    if not chain.plain or chain.thinking_finish == "none":
        return own
    end = chain.answer.stop if chain.answer else chain.thinking.stop
    whole = model.text(chain.ids[:end].tolist())
    return (*own, whole) if chain.n_answer else (whole,)


@checked
class Chains(Sequence[Chain]):
    """The chains of one call, with the model that can turn them into text.

    Args:
        chains: the chains, in order.
        model: decodes their token ids.
    """

    def __init__(self, chains: Sequence[Chain], model: TextDecoder) -> None:
        self._chains = tuple(chains)
        self.model = model
        try:
            known = weakref.ref(model)
        except TypeError:  # a decoder without weak references
            return
        for chain in self._chains:
            object.__setattr__(chain, "_decoder", known)

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
        few = ", ".join(printable(repr(name), 40) for name in names[:8])
        return f"Chains(n={len(self)}, variants=[{few}{', ...' if len(names) > 8 else ''}])"

    def _repr_html_(self) -> str:
        drawn = [
            f"<details><summary>{escaped(chain.name, 200)}</summary>{chain._repr_html_()}</details>"
            for chain in self._chains[:FEW]
        ]
        return table_html(self.to_frame(), repr(self)) + "".join(drawn)

    def text(self, index: int) -> str:
        """The whole generated text of one chain, delimiters included.

        Args:
            index: position of the chain.

        Returns:
            The text, special tokens included.

        Raises:
            UserError: there is no such chain.
        """
        if not -len(self) <= index < len(self):
            raise UserError(f"Chains.text(index={index}): there are {len(self)} chains, from 0.")
        return self.model.text(self._chains[index].ids.tolist(), skip_special=False)

    def to_frame(self) -> pd.DataFrame:
        """One row per chain: keys, lengths, how it ended, thinking and answer as text."""
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
                "reopened": c.reopened is not None,
                "waits": c.waits,
                "mean_logprob": c.mean_logprob,
                "thinking": _encodable(self.model.text(c.thinking_ids.tolist())),
                "answer": _encodable(self.model.text(c.answer_ids.tolist())),
            }
            for c in self._chains
        ]
        return pd.DataFrame(rows)
