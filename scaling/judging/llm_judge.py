"""A language model as a judge, at any endpoint that speaks the OpenAI chat protocol.

Two tasks: whether an answer equals the gold answer (`Judge.compare`), and how often a chain
verifies, backtracks, sets subgoals and works backward (`Judge.count`).

The judge is asked at temperature 0 and is blind: a hash of the item decides the order of the two
answers, the judge is not told which is the gold one, and the verdict is symmetric. It may abstain
("cannot tell"). A failure (an endpoint that is down, slow, busy or sends nonsense) is an error on
that one item, not a verdict and not a 0; it is not cached, and the next run asks again.

Caveat: temperature 0 is not deterministic; the cache makes a second run give the same table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from interp.errors import UserError
from interp.plumbing.arguments import checked
from scaling.engines.endpoint import Endpoint, EndpointError, Retry
from scaling.engines.threads import spread
from scaling.judging.prompts import (
    KINDS,
    VERSION,
    JudgedVerdict,
    behaviour_messages,
    read_counts,
    read_verdict,
    same_messages,
)
from scaling.judging.verdict_cache import JudgeCache, cache_key

__all__ = ["BehaviourCount", "Item", "Judge", "Judgement", "Planned", "gold_first"]

R = TypeVar("R")
LONGEST_TEXT = 20_000  # characters of a chain in one question; a longer one is asked in parts
GIVE_UP = 12  # consecutive endpoint failures after which no further question is asked
FIRST = Retry(tries=3, patience=20.0)
_AWAY = ("down", "timeout", "rate limit", "server error")


@dataclass(frozen=True)
class Item:
    """An answer to compare with the gold answer.

    Attributes:
        question: the question.
        gold: the gold answer.
        answer: the extracted answer.
    """

    question: str
    gold: str
    answer: str


@dataclass(frozen=True)
class Judgement:
    """The verdict on an item, or an error; exactly one of the two is None.

    Attributes:
        verdict: "same", "different" or "cannot tell".
        error: what went wrong.
        cached: whether the verdict came from the cache.
    """

    verdict: JudgedVerdict | None
    error: str | None = None
    cached: bool = False


@dataclass(frozen=True)
class BehaviourCount:
    """Behaviour counts of a text, or an error; exactly one of the two is None.

    Attributes:
        counts: count by kind of behaviour.
        error: what went wrong.
        cached: whether all counts came from the cache.
        parts: number of questions into which a long text was split.
    """

    counts: Mapping[str, int] | None
    error: str | None = None
    cached: bool = False
    parts: int = 1


@dataclass(frozen=True)
class Planned:
    """The questions of one task.

    Attributes:
        task: "same" or "behaviours".
        questions: number of questions.
        different: number of different ones.
        asked: number of those that the cache does not answer.
        characters: characters that these send.
    """

    task: str
    questions: int
    different: int
    asked: int
    characters: int


@dataclass(frozen=True)
class _Question:
    task: str
    messages: list[dict[str, str]]
    key: str


@dataclass(frozen=True)
class _Reply:
    value: Any
    error: str | None
    cached: bool


def gold_first(item: Item) -> bool:
    """Whether the gold answer is shown first: a fair coin, fixed per item."""
    text = repr((item.question, *sorted((item.gold, item.answer)), item.gold))
    return bool(hashlib.sha256(text.encode()).digest()[0] & 1)


@checked
class Judge:
    """A judge at an endpoint, with a cache of its answers.

    Args:
        url: the endpoint.
        model: name of the model at the endpoint.
        key_env: environment variable with the endpoint's key (not needed for this machine's
            endpoints).
        cache: file of the cache; None keeps answers in memory only.
        concurrency: questions under way.
        timeout: seconds for one answer.
        max_tokens: most tokens per answer, including a reasoning judge's thinking.
        retry: how often and how long to try; None takes the defaults of `Retry`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_env: str | None = "OPENAI_API_KEY",
        cache: str | Path | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        max_tokens: int = 1024,
        retry: Retry | None = None,
    ) -> None:
        if not model:
            raise UserError("The judge's model has no name: name a model of the endpoint.")
        for name, value in (("concurrency", concurrency), ("max_tokens", max_tokens)):
            if value < 1:
                raise UserError(f"{name}={value}: expected 1 or more.")
        self._endpoint = Endpoint(
            url, key_env=key_env, key_needed=True, timeout=timeout, retry=retry
        )
        self.model, self.concurrency, self.max_tokens = model, concurrency, max_tokens
        self.version = VERSION
        self.cache = JudgeCache(cache)

    def __repr__(self) -> str:
        return f"Judge({self._endpoint.url!r}, {self.model!r})"

    @property
    def url(self) -> str:
        """The endpoint's base URL."""
        return self._endpoint.url

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the cache."""
        self.cache.close()

    def check(self) -> None:
        """Check that the model answers, before anything is judged.

        Raises:
            UserError: the model is not there, or the key is refused.
            EndpointError: the endpoint does not answer.
        """
        try:
            listed = self._endpoint.models(retry=FIRST)
        except EndpointError as error:
            if error.kind in ("down", "timeout", "rate limit"):
                raise
            _refuse_key(error)
            listed = []  # not every endpoint has a list
        if self.model in listed:
            return
        body = {"model": self.model, "messages": [{"role": "user", "content": "1 + 1 ="}]}
        try:  # a list may lack a model that answers
            self._endpoint.post(
                "chat/completions", {**body, "max_tokens": 1}, retry=FIRST, read=lambda reply: reply
            )
        except EndpointError as error:
            _refuse_key(error)
            if error.kind != "refused":
                raise
            names = f" It lists: {', '.join(sorted(listed)[:8])}." if listed else ""
            raise UserError(
                f"The endpoint does not answer as model {self.model!r}: {error}{names}"
            ) from None

    # ---------------------------------------------------------------- the two tasks

    def compare(self, items: Sequence[Item]) -> list[Judgement]:
        """Judge whether each answer equals its gold answer; equal items are asked once.

        Args:
            items: the pairs to compare.

        Returns:
            Verdicts or errors, in the order of `items`.
        """
        return [
            Judgement(reply.value, reply.error, reply.cached)
            for reply in self._replies([self._same(item) for item in items], read_verdict)
        ]

    def count(self, texts: Sequence[str]) -> list[BehaviourCount]:
        """Count how often each text shows each behaviour of `KINDS`.

        A long text is asked in parts, cut at line ends, and the counts are summed; a failed part is
        an error of the whole text. An empty text is counted without asking.

        Args:
            texts: the thinking of chains.

        Returns:
            Counts or errors, in the order of `texts`.
        """
        parts = [_parts(text) for text in texts]
        flat = [part for few in parts for part in few]
        replies = iter(self._replies([self._behaviours(part) for part in flat], read_counts))
        found = []
        for few in parts:
            own = [next(replies) for _ in few]
            error = next((r.error for r in own if r.error is not None), None)
            summed = {k: sum(r.value[k] for r in own) for k in KINDS} if error is None else None
            cached = bool(own) and all(r.cached for r in own)
            found.append(BehaviourCount(summed, error, cached, len(few)))
        return found

    def planned(self, items: Sequence[Item], texts: Sequence[str] = ()) -> list[Planned]:
        """Count the questions that judging would ask and those the cache answers, without asking.

        Args:
            items: pairs to compare.
            texts: texts in which to count behaviours.

        Returns:
            One entry per task that has questions.
        """
        counted = [self._behaviours(part) for text in texts for part in _parts(text)]
        found = []
        for task, questions in (("same", [self._same(i) for i in items]), ("behaviours", counted)):
            different = {question.key: question for question in questions}
            new = [q for q in different.values() if self.cache.get(q.key) is None]
            sizes = [sum(len(m["content"]) for m in q.messages) for q in new]
            found.append(Planned(task, len(questions), len(different), len(new), sum(sizes)))
        return [one for one in found if one.questions]

    # ---------------------------------------------------------------- asking

    def _same(self, item: Item) -> _Question:
        pair = (item.gold, item.answer) if gold_first(item) else (item.answer, item.gold)
        return self._question("same", same_messages(item.question, *pair))

    def _behaviours(self, text: str) -> _Question:
        return self._question("behaviours", behaviour_messages(text))

    def _question(self, task: str, messages: list[dict[str, str]]) -> _Question:
        what = {
            "task": task,
            "version": self.version,
            "url": self._endpoint.url,
            "model": self.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        return _Question(task, messages, cache_key(what))

    def _replies(self, questions: Sequence[_Question], read: Callable[[str], Any]) -> list[_Reply]:
        """An answer or an error to every question; each different question is asked once."""
        found: dict[Hashable, _Reply] = {}
        left: dict[Hashable, _Question] = {}
        for question in questions:
            kept = self.cache.get(question.key)
            if kept is not None:
                found[question.key] = _Reply(kept, None, cached=True)
            else:
                left.setdefault(question.key, question)
        endpoint = self._endpoint.again()
        failed = [0]  # in a row; a race between threads costs at most one more question

        def ask(question: _Question) -> Iterator[tuple[_Question, _Reply]]:
            if failed[0] >= GIVE_UP:
                said = f"not asked: the endpoint failed {GIVE_UP} times in a row before"
                yield question, _Reply(None, said, cached=False)
                return
            try:
                value = self._ask(endpoint, question, read)
            except EndpointError as error:
                _refuse_key(error)
                failed[0] = failed[0] + 1 if error.kind in _AWAY else 0
                yield question, _Reply(None, f"{error.kind}: {error}", cached=False)
            else:
                failed[0] = 0
                yield question, _Reply(value, None, cached=False)

        asked = spread(list(left.values()), ask, threads=self.concurrency, stop=endpoint.stop)
        for question, reply in asked:
            if reply.error is None:
                self.cache.put(question.key, question.task, self.model, reply.value)
            found[question.key] = reply
        return [found[question.key] for question in questions]

    def _ask(self, endpoint: Endpoint, question: _Question, read: Callable[[str], R | None]) -> R:
        body = {
            "model": self.model,
            "messages": question.messages,
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }

        def answer(reply: dict[str, Any]) -> R:
            text = _content(reply, self.max_tokens)
            value = read(text)
            if value is None:
                raise EndpointError("nonsense", f"no verdict in the answer {text[-120:]!r}")
            return value

        return endpoint.post("chat/completions", body, read=answer)


def _content(reply: dict[str, Any], limit: int) -> str:
    """The whole text of a chat completion.

    Raises:
        EndpointError: there is none, or it was cut at the limit: what is there may be thinking.
    """
    choices = reply.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, str):
        raise EndpointError("nonsense", "an answer without a message")
    if isinstance(first, dict) and first.get("finish_reason") == "length":
        raise EndpointError("nonsense", f"an answer cut at {limit} tokens (raise --max-tokens)")
    return content


def _refuse_key(error: EndpointError) -> None:
    if error.status in (401, 403):
        raise UserError(str(error)) from None


def _parts(text: str) -> list[str]:
    """Split a text into parts of at most LONGEST_TEXT characters, at line ends where possible."""
    parts, rest = [], text.strip()
    while len(rest) > LONGEST_TEXT:
        cut = rest.rfind("\n", 1, LONGEST_TEXT)
        cut = cut if cut > 0 else LONGEST_TEXT
        parts.append(rest[:cut].strip())
        rest = rest[cut:].strip()
    parts.append(rest)
    return [part for part in parts if part]
