"""A chain as a row of the store, and back.

Everything in a row follows from the chain, its problem and the study's settings, and not from
clock, batch or process. This is why a study that was killed and resumed ends with the same rows as
one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int

from interp.chains.chain import Budget, Chain, Span
from scaling.grading import Verdict
from scaling.problem import Problem

if TYPE_CHECKING:
    import pandas as pd

    Stored = Mapping[Any, Any] | pd.Series  # a row of `Store.rows(ids=True)`

LIKELIHOOD = "likelihood"  # the budget's name where nothing is generated


class Key(NamedTuple):
    """The values that identify a chain in a study.

    Attributes:
        benchmark: name of the benchmark.
        problem: id of the problem.
        variant: name of the variant.
        budget: label of the budget.
        sample: number of the sample, from 0.
    """

    benchmark: str
    problem: str
    variant: str
    budget: str
    sample: int


@dataclass(frozen=True)
class ChainRow:
    """One row of the table `chains`.

    Attributes:
        values: values by column (see docs/store.md).
    """

    values: dict[str, Any]

    @property
    def key(self) -> Key:
        """The row's key."""
        return Key(*(self.values[name] for name in Key._fields))


def pack(array: np.ndarray) -> bytes:
    """Compress an array's bytes with zlib."""
    return zlib.compress(np.ascontiguousarray(array).tobytes(), 6)


def unpack(blob: bytes, dtype: Any) -> np.ndarray:
    """Restore an array that `pack` compressed.

    Args:
        blob: the compressed bytes.
        dtype: dtype of the array.

    Returns:
        The array, one-dimensional.
    """
    return np.frombuffer(zlib.decompress(blob), dtype=dtype).copy()


def _hash(ids: np.ndarray) -> str:
    return hashlib.sha256(ids.astype("<i4").tobytes()).hexdigest()[:12]


def _number(value: float) -> float | None:
    """A float as SQLite stores it; nan becomes NULL."""
    return None if math.isnan(value) else float(value)


def plain(value: Any) -> Any:
    """Convert a diagnosis value for JSON: numpy scalars to Python's, nan and infinity to null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in value]
    return value


def chain_row(
    benchmark: str,
    problem: Problem,
    position: int,
    chain: Chain,
    verdict: Verdict,
    diagnosis: Mapping[str, Any],
) -> ChainRow:
    """Make the row of a generated chain.

    Args:
        benchmark: name of the benchmark.
        problem: the problem.
        position: position of the problem in the benchmark, from 0.
        chain: the chain.
        verdict: its verdict.
        diagnosis: its diagnosis, stored as one JSON object.

    Returns:
        The row.
    """
    own = ~chain.forced
    entropy = chain.entropy[own]
    return ChainRow(
        {
            "benchmark": benchmark,
            "problem": problem.id,
            "variant": chain.variant,
            "budget": chain.budget.label,
            "sample": chain.sample,
            "position": position,
            "scoring": "generate",
            "seed": chain.seed,
            "thinking_budget": chain.budget.thinking,
            "answer_budget": chain.budget.answer,
            "waits_allowed": chain.budget.waits,
            **_verdict(verdict),
            "finish": chain.finish,
            "thinking_finish": chain.thinking_finish,
            "waits": chain.waits,
            "prompt_tokens": len(chain.prompt_ids),
            "thinking_tokens": chain.n_thinking,
            "answer_tokens": chain.n_answer,
            "tokens": chain.n_tokens,
            "forced_tokens": int(chain.forced.sum()),
            "mean_logprob": _number(chain.mean_logprob),
            "mean_entropy": _number(float(entropy.mean())) if entropy.size else None,
            "diagnosis": json.dumps(plain(diagnosis), sort_keys=True),
            "thinking_start": chain.thinking.start,
            "thinking_stop": chain.thinking.stop,
            "answer_start": chain.answer.start if chain.answer else None,
            "answer_stop": chain.answer.stop if chain.answer else None,
            "ids_hash": _hash(chain.ids),
            "ids": pack(chain.ids.astype("<i4")),
            "forced": pack(chain.forced.astype(np.uint8)),
        }
    )


def stored_chain(
    row: Stored,
    prompt_ids: Sequence[int] | np.ndarray,
    layer_map: tuple[int, ...] = (),
    *,
    plain: bool = False,
) -> Chain:
    """The generated chain that a stored row came from.

    Args:
        row: A row of `Store.rows(ids=True)` whose answer was generated.
        prompt_ids: Token ids of the prompt [P]; the store keeps only their number.
        layer_map: Dense index of each block of the model that generated the chain.
        plain: Whether that model's thinking format has no delimiters.

    Returns:
        The chain. Log-probabilities and entropies are not stored per token: they are nan.
    """
    ids = np.asarray(row["ids"], dtype=np.int64)
    unknown = np.full(len(ids), np.nan, dtype=np.float32)
    thinking_budget, answer_budget, waits = (
        int(row[name]) for name in ("thinking_budget", "answer_budget", "waits_allowed")
    )
    return Chain(
        problem=str(row["problem"]),
        variant=str(row["variant"]),
        sample=int(row["sample"]),
        seed=int(row["seed"]),
        budget=Budget(thinking_budget, answer_budget, waits),
        prompt_ids=np.asarray(prompt_ids, dtype=np.int64),
        ids=ids,
        forced=np.asarray(row["forced"], dtype=bool),
        thinking=_thinking(row),
        answer=_answer(row),
        plain=plain,
        reopened=_reopened(row),
        finish=row["finish"],
        thinking_finish=row["thinking_finish"],
        waits=int(row["waits"]),
        logprob=unknown,
        entropy=unknown,
        layer_map=layer_map,
    )


def thinking_ids(row: Stored) -> Int[np.ndarray, " T"]:
    """Token ids of a stored row's thinking [T], delimiters excluded."""
    thinking = _thinking(row)
    return row["ids"][thinking.start : thinking.stop]


def answer_ids(row: Stored) -> Int[np.ndarray, " T"] | None:
    """Token ids of a stored row's answer [T]; None where the chain was cut before one began."""
    answer = _answer(row)
    return None if answer is None else row["ids"][answer.start : answer.stop]


def _thinking(row: Stored) -> Span:
    return Span(int(row["thinking_start"]), int(row["thinking_stop"]))


def _answer(row: Stored) -> Span | None:
    """The answer's span; pandas reads the NULL of a missing one as None or as nan."""
    start, stop = row["answer_start"], row["answer_stop"]
    return None if start is None or math.isnan(start) else Span(int(start), int(stop))


def _reopened(row: Stored) -> Span | None:
    """The span after an answer that opened the thinking again; older stores do not say so."""
    answer = _answer(row)
    if answer is None or row.get("reopened") != 1:
        return None
    return Span(answer.stop, len(row["ids"]) - (row["finish"] == "stop"))


def likelihood_row(
    benchmark: str,
    problem: Problem,
    position: int,
    variant: str,
    prompt_tokens: int,
    logprobs: np.ndarray,
    verdict: Verdict,
    compared: np.ndarray | None = None,
) -> ChainRow:
    """Make the row of a problem that is scored by likelihood; no tokens are generated.

    Args:
        benchmark: name of the benchmark.
        problem: the problem with its choices.
        position: position of the problem in the benchmark, from 0.
        variant: name of the variant.
        prompt_tokens: number of prompt tokens.
        logprobs: log-probability of each choice, in nats: [choices].
        verdict: the verdict.
        compared: what the verdict compares, where it is not the log-probabilities: [choices].

    Returns:
        The row; its diagnosis holds `choice_logprobs` and `margin` (gold minus best other choice,
        of what is compared).
    """
    gold = problem.choices.index(problem.answer)
    scores = logprobs if compared is None else compared
    best_other = max(v for i, v in enumerate(scores) if i != gold)
    margin = float(scores[gold] - best_other)
    diagnosis = {"choice_logprobs": list(map(float, logprobs)), "margin": margin}
    return ChainRow(
        {
            "benchmark": benchmark,
            "problem": problem.id,
            "variant": variant,
            "budget": LIKELIHOOD,
            "sample": 0,
            "position": position,
            "scoring": LIKELIHOOD,
            "seed": 0,
            "thinking_budget": 0,
            "answer_budget": 0,
            "waits_allowed": 0,
            **_verdict(verdict),
            "finish": "stop",
            "thinking_finish": "none",
            "waits": 0,
            "prompt_tokens": prompt_tokens,
            "thinking_tokens": 0,
            "answer_tokens": 0,
            "tokens": 0,
            "forced_tokens": 0,
            "mean_logprob": _number(float(logprobs.max())),
            "mean_entropy": None,
            "diagnosis": json.dumps(plain(diagnosis), sort_keys=True),
            "thinking_start": 0,
            "thinking_stop": 0,
            "answer_start": None,
            "answer_stop": None,
            "ids_hash": _hash(np.zeros(0)),
            "ids": pack(np.zeros(0, "<i4")),
            "forced": pack(np.zeros(0, np.uint8)),
        }
    )


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "outcome": verdict.outcome,
        "strict_outcome": verdict.strict_outcome,
        "lenient_outcome": verdict.lenient_outcome,
        "extracted": verdict.extracted,
    }
