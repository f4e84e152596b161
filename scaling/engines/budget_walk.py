"""All chains of one request on a server: budgets as in `interp.decoding.sequence`.

The thinking of the largest budget is requested first. Where a budget is spent, or an end of
thinking is to be replaced by "wait", the engine's own tokens are appended to the prefix and the
server continues from there. The same `SequenceState` as in the local decoder decides at each
token, so budgets, waits, forks, forced ends and early ends of loops mean the same.

Long generations are requested in pieces that end at fixed token counts. A server restart then costs
at most one piece, a loop is found before the whole budget is spent, and a chain at a small budget
is a prefix of the chain at a larger one. Each piece has its own seed: a hash of the run's seed, the
problem, the sample and the place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from interp.chains.chain import Budget, Chain, Finish, ThinkingFinish
from interp.chains.periods import certain_period
from interp.decoding.forced_line import ForcedLine
from interp.decoding.request import Request
from interp.decoding.row_events import LOOP_EVERY
from interp.decoding.sampling import Sampling
from interp.decoding.sequence import (
    SequenceState,
    SlotRecord,
    Task,
    finish_answer,
    finish_plain,
    finish_without_answer,
)
from interp.decoding.stop_strings import StopStrings
from interp.decoding.thinking_marks import ThinkingMarks
from interp.model.delimiters import DelimiterIds
from scaling.engines.dialects import Ask, Said

__all__ = ["PIECE", "Walk", "seed_of"]

PIECE = 4096  # most tokens per request


def seed_of(request: Request, start: int, phase: str, waits: int) -> int:
    """The seed of the piece that begins at token `start`; budgets do not enter it.

    Args:
        request: the request, for its seed, problem and sample.
        start: tokens already generated.
        phase: the phase of the task (thinking or answer).
        waits: "wait"s written so far.

    Returns:
        A seed in [0, 2^31).
    """
    what = repr((request.seed, request.problem, request.sample, start, phase, waits))
    digest = hashlib.blake2b(what.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33


@dataclass
class _Made:
    """The tokens so far, who wrote each, and their log-probabilities."""

    tokens: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    logprob: list[float] = field(default_factory=list)

    def back_to(self, task: Task) -> None:
        for column in (self.tokens, self.forced, self.logprob):
            del column[task.cut :]
        self.write(task.script)

    def write(self, tokens: tuple[int, ...]) -> None:
        """Append tokens that the engine writes itself."""
        self.tokens += tokens
        self.forced += [True] * len(tokens)
        self.logprob += [float("nan")] * len(tokens)

    def record(self) -> SlotRecord:
        logprob = np.array(self.logprob, dtype=np.float64)
        return SlotRecord(
            tokens=np.array(self.tokens, dtype=np.int64),
            logprob=logprob,
            entropy=np.full_like(logprob, np.nan),  # no server gives it
            forced=np.array(self.forced, dtype=bool),
        )


@dataclass
class Walk:
    """All chains of one request.

    Attributes:
        request: the request.
        delimiter_ids: token ids of the thinking format.
        marks: finds the end of thinking.
        stop: the strings that end an answer.
        line: finds the end of a forced answer of the plain format.
        stop_ids: token ids that end a sequence.
        max_positions: positions that the server has.
        layer_map: dense index of each block of the served model.
        sampling: sampling settings.
        ask: sends one `Ask` to the server.
        stop_on_loop: whether to end chains that certainly loop.
        piece: most tokens per request to the server.
    """

    request: Request
    delimiter_ids: DelimiterIds
    marks: ThinkingMarks
    stop: StopStrings
    line: ForcedLine
    stop_ids: tuple[int, ...]
    max_positions: int
    layer_map: tuple[int, ...]
    sampling: Sampling
    ask: Callable[[Ask], Said]
    stop_on_loop: bool = False
    piece: int = PIECE

    def chains(self) -> Iterator[Chain]:
        """Yield one chain per budget, each as soon as it is finished."""
        self.row = SequenceState.begin(self.request, self.delimiter_ids, self.max_positions)
        self.made = _Made()
        self.made.write(self.request.prefix)
        task: Task | None = self.row.task
        while task is not None:
            self.made.back_to(task)
            yield from self._task()
            task = self.row.next_task()
            if task is not None:
                self.row.enter(task)

    def _task(self) -> Iterator[Chain]:
        """Run the task that the row has just entered, to its end."""
        row = self.row
        if not row.fits:
            task = row.task
            yield from self._unanswered(
                task.cut, task.cut, task.budgets, "positions", task.thinking_finish
            )
            return
        while True:
            said = self._go_on()
            for token, logprob in zip(said.ids, said.logprob.tolist(), strict=True):
                self.made.tokens.append(token)
                self.made.forced.append(False)
                self.made.logprob.append(logprob)
                thinking = row.thinking
                chains = self._event(len(self.made.tokens))
                if chains is not None:
                    yield from chains
                    return
                if row.thinking != thinking:  # the answer begins; later tokens are not part of it
                    break

    def _go_on(self) -> Said:
        row, n = self.row, len(self.made.tokens)
        return self.ask(
            Ask(
                ids=self.request.prompt_ids + tuple(self.made.tokens),
                limit=min(row.limit - n, self.piece - n % self.piece),
                ends=self.delimiter_ids.think_end if row.thinking else (),
                seed=seed_of(self.request, n, row.task.phase, row.task.waits),
                sampling=self.sampling,
            )
        )

    def _event(self, count: int) -> list[Chain] | None:
        """The chains that end at token `count` - 1 (perhaps none); None while the task goes on."""
        row, tokens = self.row, self.made.tokens
        stopped = tokens[-1] in self.stop_ids
        if not row.thinking:
            kept = None if stopped else self._answer_before(count)
            if stopped or kept is not None:
                how: Finish = "stop"
            elif count >= row.limit:
                how = "positions" if row.limited_by_positions else "cut"
            elif self._loops(row.task.start, count):
                how = "looped"
            else:
                return None
            record = self.made.record()
            return finish_answer(row, record, count, how, self.layer_map, self.marks, kept)
        if (n := self._thinking_before(count)) is not None:
            here = row.thinking_ended(n, count)
            if row.ids.plain:  # the answer is inside
                return finish_plain(row, self.made.record(), count, n, here, self.layer_map)
            if here and count < row.max_tokens:
                row.answer_here(n, count, here)
                return None
            return self._unanswered(count, n, here, "positions", "end")
        if stopped:  # the model ended everything inside its thinking
            inside = row.thinking_stopped(count - 1)
            return self._unanswered(count, count - 1, inside, "stop", "end")
        if count >= row.limit:
            stranded = row.thinking_cut(count)
            return self._unanswered(count, count, stranded, "positions", "forced")
        if self._loops(0, count):
            row.thinking_looped(count)
            return []
        return None

    def _thinking_before(self, count: int) -> int | None:
        """Tokens before an end of thinking that the model's last token completes, or None."""
        start = self.row.task.start
        own = np.array(self.made.tokens[start:count], dtype=np.int64)
        if not len(own) or not self.marks.may_end(own[-1:])[0]:
            return None
        found = self.marks.before_end(own)
        return None if found is None else start + found

    def _answer_before(self, count: int) -> int | None:
        """Tokens before the string or line break that ends the answer here, or None."""
        start = self.row.task.start
        own = np.array(self.made.tokens[start:count], dtype=np.int64)
        found = None
        if self.stop and self.stop.may_complete(own[-1:])[0]:
            found = self.stop.found(own)
        if found is None and self.line and self.row.task.forced:
            found = self.line.found(own)
        return None if found is None else start + found

    def _loops(self, begin: int, count: int) -> bool:
        if not self.stop_on_loop or count % LOOP_EVERY:
            return False
        ids = np.array(self.made.tokens[begin:count], dtype=np.int64)
        return len(ids) > 0 and certain_period(ids) is not None

    def _unanswered(
        self,
        count: int,
        thinking_stop: int,
        budgets: tuple[Budget, ...],
        how: Finish,
        end: ThinkingFinish,
    ) -> list[Chain]:
        record = self.made.record()
        return finish_without_answer(
            self.row, record, count, thinking_stop, budgets, how, end, self.layer_map
        )
