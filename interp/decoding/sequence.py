"""The host's side of decoding: what each row is doing, and what it does next.

A request is decoded once, as a small tree walked in one row. Its thinking runs to the largest
budget; wherever a budget ends earlier, the row later goes back to that point (its keys and values
are still there), has the end of thinking written for it, and answers. Where a budget grants
"wait"s, the thinking is taken up again from where it ended. A point to go back to is a `Task`;
tasks are done from the latest point to the earliest, so going back never destroys what another
task needs.

Index i counts generated tokens; `cut` tokens are kept when a task begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from interp.chains.chain import Budget, Chain, Finish, Span, ThinkingFinish
from interp.chains.residual_record import StreamRecord
from interp.decoding.request import Request
from interp.interventions.timeline import answer_from
from interp.interventions.windows import NEVER
from interp.model.delimiters import DelimiterIds

Phase = Literal["thinking", "answer"]


@dataclass(frozen=True)
class Task:
    """Go back to `cut` tokens, have `script` written, and go on in `phase` for `budgets`.

    thinking_stop, thinking_finish: settled for an answer, not yet known while thinking.
    """

    cut: int
    script: tuple[int, ...]
    phase: Phase
    budgets: tuple[Budget, ...]
    waits: int = 0
    thinking_stop: int = 0
    thinking_finish: ThinkingFinish = "forced"

    @property
    def start(self) -> int:
        """Index of the first token the model chooses itself."""
        return self.cut + len(self.script)


@dataclass
class SequenceState:
    """One row's place in its request's tree."""

    request: Request
    ids: DelimiterIds
    max_tokens: int  # generated tokens that fit into the model's positions
    task: Task
    tasks: list[Task] = field(default_factory=list)
    limit: int = 0
    limited_by_positions: bool = False
    loop_at: int | None = None  # generated tokens there were when a loop was found

    @classmethod
    def begin(cls, request: Request, ids: DelimiterIds, max_positions: int) -> SequenceState:
        if ids.closed_in(request.prompt_ids):
            task = Task(0, (), "answer", request.budgets, thinking_finish="none")
        else:
            task = Task(len(request.prefix), (), "thinking", request.budgets)
        sequence = cls(request, ids, max_positions - len(request.prompt_ids), task)
        sequence.enter(task)
        return sequence

    @property
    def thinking(self) -> bool:
        return self.task.phase == "thinking"

    @property
    def answer_from(self) -> int:
        """The first step of the answer, or `NEVER` while there is none."""
        return NEVER if self.thinking else answer_from(self.task.start)

    @property
    def open_budgets(self) -> tuple[Budget, ...]:
        """Those that no chain was made for yet."""
        return tuple(b for task in (self.task, *self.tasks) for b in task.budgets)

    def enter(self, task: Task) -> None:
        self.task = task
        if task.phase == "thinking":
            want = max(b.thinking for b in task.budgets)
        else:
            want = task.start + max(b.answer for b in task.budgets)
        self.limit = min(want, self.max_tokens)
        self.limited_by_positions = want > self.max_tokens

    def next_task(self) -> Task | None:
        """The task with the latest cut, taken off the list."""
        if not self.tasks:
            return None
        self.tasks.sort(key=lambda t: t.cut)
        return self.tasks.pop()

    # ---------------------------------------------------------------- events of thinking

    def thinking_ended(self, n: int) -> tuple[Budget, ...]:
        """The model closed its thinking after n tokens (the delimiter follows them).

        Returns the budgets that answer right here; what the others do becomes tasks.
        """
        closed = n + len(self.ids.think_end)
        level = self.task.waits
        inside = [b for b in self.task.budgets if closed <= b.thinking]
        self._fork([b for b in self.task.budgets if closed > b.thinking])
        wait = self.ids.wait
        again = [
            b
            for b in inside
            if b.waits > level and n + len(wait) < b.thinking and n + len(wait) < self.max_tokens
        ]
        if again:
            self.tasks.append(Task(n, wait, "thinking", tuple(again), waits=level + 1))
        return tuple(b for b in inside if b not in again)

    def thinking_stopped(self, n: int) -> tuple[Budget, ...]:
        """The model ended the whole sequence after n tokens of thinking, without an answer.

        Returns the budgets that saw it; smaller ones were cut before and are answered.
        """
        self._fork([b for b in self.task.budgets if n >= b.thinking])
        return tuple(b for b in self.task.budgets if n < b.thinking)

    def thinking_cut(self, n: int) -> tuple[Budget, ...]:
        """n tokens of thinking and no end. Returns the budgets that positions leave stranded."""
        stranded = tuple(b for b in self.task.budgets if b.thinking > n)
        self._fork([b for b in self.task.budgets if b.thinking <= n])
        return stranded

    def thinking_looped(self, n: int) -> None:
        """Certainly looping after n tokens: every larger budget is answered from here."""
        self._fork([b for b in self.task.budgets if b.thinking <= n])
        larger = tuple(b for b in self.task.budgets if b.thinking > n)
        if larger:
            self.tasks.append(self._answer(n, larger, "looped"))

    def split(self, n: int) -> list[Task]:
        """Tasks another row may do now: those waiting, and the budgets thinking has passed."""
        ready, self.tasks = self.tasks, []
        if self.thinking:
            passed = [b for b in self.task.budgets if b.thinking <= n]
            if passed and len(passed) < len(self.task.budgets):
                self._fork(passed)
                ready += self.tasks
                self.tasks = []
                rest = tuple(b for b in self.task.budgets if b not in passed)
                task = self.task
                self.enter(Task(task.cut, task.script, "thinking", rest, task.waits))
        return ready

    def _fork(self, budgets: Sequence[Budget]) -> None:
        for cut in sorted({b.thinking for b in budgets}):
            same = tuple(b for b in budgets if b.thinking == cut)
            self.tasks.append(self._answer(cut, same, "forced"))

    def _answer(self, cut: int, budgets: tuple[Budget, ...], how: ThinkingFinish) -> Task:
        return Task(cut, self.ids.closing, "answer", budgets, self.task.waits, cut, how)

    def answer_here(self, n: int, budgets: tuple[Budget, ...]) -> None:
        """Goes on into the answer after a natural end at n."""
        cut = n + len(self.ids.think_end)
        self.enter(Task(cut, (), "answer", budgets, self.task.waits, n, "end"))

    @property
    def fits(self) -> bool:
        """Whether positions leave room for a token of its own."""
        return self.task.start < self.max_tokens


@dataclass
class SlotRecord:
    """What was generated in one slot: views into the decoder's tables, columns [0, n)."""

    tokens: np.ndarray
    logprob: np.ndarray
    entropy: np.ndarray
    forced: np.ndarray
    stream: np.ndarray | None = None


def finish_answer(
    sequence: SequenceState,
    record: SlotRecord,
    n: int,
    how: Finish,
    layer_map: tuple[int, ...],
    kept: int | None = None,
) -> list[Chain]:
    """Chains of all budgets of an answer that ended with n tokens; small answer caps cut it.

    kept: where the answer ends if a stop string did it (else a stop token, which is the last).
    """
    task = sequence.task
    chains = []
    for budget in task.budgets:
        total, finish = n, how
        if n - task.start > budget.answer or (n - task.start == budget.answer and how != "stop"):
            total, finish = task.start + budget.answer, "cut"
        stop = (total - 1 if kept is None else kept) if finish == "stop" else total
        span = Span(task.start, stop)
        chains.append(_chain(sequence, record, budget, total, span, finish, layer_map))
    return chains


def finish_without_answer(
    sequence: SequenceState,
    record: SlotRecord,
    n: int,
    thinking_stop: int,
    budgets: Sequence[Budget],
    how: Finish,
    thinking_finish: ThinkingFinish,
    layer_map: tuple[int, ...],
) -> list[Chain]:
    """Chains that never reached an answer."""
    task = Task(
        0, (), "thinking", tuple(budgets), sequence.task.waits, thinking_stop, thinking_finish
    )
    return [_chain(sequence, record, b, n, None, how, layer_map, task) for b in budgets]


def _chain(
    sequence: SequenceState,
    record: SlotRecord,
    budget: Budget,
    n: int,
    answer: Span | None,
    finish: Finish,
    layer_map: tuple[int, ...],
    task: Task | None = None,
) -> Chain:
    task = task or sequence.task
    request = sequence.request
    return Chain(
        problem=request.problem,
        variant=request.variant.name,
        sample=request.sample,
        seed=request.seed,
        budget=budget,
        prompt_ids=np.asarray(request.prompt_ids, dtype=np.int64),
        ids=record.tokens[:n].copy(),
        forced=record.forced[:n].copy(),
        thinking=Span(0, task.thinking_stop),
        answer=answer,
        finish=finish,
        thinking_finish=task.thinking_finish,
        waits=task.waits,
        logprob=record.logprob[:n].copy(),
        entropy=record.entropy[:n].copy(),
        layer_map=layer_map,
        stream=None if record.stream is None else StreamRecord.of(record.stream[:n], layer_map),
    )
