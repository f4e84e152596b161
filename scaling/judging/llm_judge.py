"""A language model as a judge, at any endpoint that speaks the OpenAI chat protocol.

Two tasks: whether an answer and the gold answer are the same (`Judge.compare`), and how often a
chain verifies, backtracks, sets subgoals and works backward (`Judge.count`).

The judge is asked at temperature 0 and is blind: which of two answers is the gold one is decided by
a hash of the item and never said, and the verdict is symmetric. It may abstain ("cannot tell").
What cannot be had (an endpoint that is down, slow, busy, or talks nonsense) is an error on that one
item, kept apart from any verdict; it is no 0, is not cached, and the next run asks again.

Caveat: temperature 0 is not determinism; the cache is what makes a second run give the same table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from interp.errors import UserError
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
GIVE_UP = 12  # failures of the endpoint in a row, after which the rest is not asked
FIRST = Retry(tries=3, patience=20.0)
_AWAY = ("down", "timeout", "rate limit", "server error")


@dataclass(frozen=True)
class Item:
    """An answer to be compared with the gold one."""

    question: str
    gold: str
    answer: str


@dataclass(frozen=True)
class Judgement:
    """The verdict on an item, or the error that stands in its place; one of the two is None."""

    verdict: JudgedVerdict | None
    error: str | None = None
    cached: bool = False


@dataclass(frozen=True)
class BehaviourCount:
    """Counts by kind of a text, or the error in their place; one of the two is None.

    parts: in how many questions a long text was asked.
    """

    counts: Mapping[str, int] | None
    error: str | None = None
    cached: bool = False
    parts: int = 1


@dataclass(frozen=True)
class Planned:
    """The questions of a task: all, the different ones among them, and of those the ones that no
    cache answers, with the characters that these send."""

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
    """Whether the gold answer is shown first: a fair coin, the same for the same item."""
    text = repr((item.question, *sorted((item.gold, item.answer)), item.gold))
    return bool(hashlib.sha256(text.encode()).digest()[0] & 1)


class Judge:
    """A judge at `url`, and what it has answered already.

    key_env: the environment variable with the endpoint's key (this machine's endpoints need none).
    cache: a file; None keeps answers for this object's life. concurrency: questions under way.
    timeout: seconds for an answer. max_tokens: of an answer, a reasoning judge's thinking included.
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
            raise UserError("The judge has no name: say which model of the endpoint is to judge.")
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
        """The endpoint."""
        return self._endpoint.url

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the cache."""
        self.cache.close()

    def check(self) -> None:
        """Ask whether the model is there, before anything is judged.

        UserError where it is not or the key is refused; EndpointError where nobody answers.
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
        """Whether each answer is the gold one, in the order of `items`; equal items asked once."""
        return [
            Judgement(reply.value, reply.error, reply.cached)
            for reply in self._replies([self._same(item) for item in items], read_verdict)
        ]

    def count(self, texts: Sequence[str]) -> list[BehaviourCount]:
        """How often each chain's text does each of `KINDS`, in the order of `texts`.

        A long text is asked in parts, cut at ends of lines, and its counts are summed; a part that
        fails is an error of the whole. A text without a word is counted without being asked.
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
        """What judging would ask, and what is known already; nobody is asked."""
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
        """An answer or an error to every question, asking each different one once."""
        found: dict[Hashable, _Reply] = {}
        left: dict[Hashable, _Question] = {}
        for question in questions:
            kept = self.cache.get(question.key)
            if kept is not None:
                found[question.key] = _Reply(kept, None, cached=True)
            else:
                left.setdefault(question.key, question)
        endpoint = self._endpoint.again()
        failed = [0]  # in a row; threads may miss one of each other's, which only costs a question

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
            text = _content(reply)
            value = read(text)
            if value is None:
                raise EndpointError("nonsense", f"no verdict in the answer {text[-120:]!r}")
            return value

        return endpoint.post("chat/completions", body, read=answer)


def _content(reply: dict[str, Any]) -> str:
    """The text of a chat completion."""
    choices = reply.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, str):
        raise EndpointError("nonsense", "an answer without a message")
    return content


def _refuse_key(error: EndpointError) -> None:
    if error.status in (401, 403):
        raise UserError(str(error)) from None


def _parts(text: str) -> list[str]:
    """A text in parts of at most LONGEST_TEXT characters, cut at ends of lines where it has any."""
    parts, rest = [], text.strip()
    while len(rest) > LONGEST_TEXT:
        cut = rest.rfind("\n", 1, LONGEST_TEXT)
        cut = cut if cut > 0 else LONGEST_TEXT
        parts.append(rest[:cut].strip())
        rest = rest[cut:].strip()
    parts.append(rest)
    return [part for part in parts if part]
