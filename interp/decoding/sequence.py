"""The state of one sequence on the host: what it decodes now, and what comes next.

All budgets of a request share one decoding, a small tree that one row walks. Thinking runs to the
largest budget. For a smaller budget the row later goes back to where it ended (the keys and values
are still in the cache), the decoder writes the end of thinking, and the model answers. If a budget
allows "wait"s, thinking continues from where the model ended it.

Each such branch is a `Task`. Tasks run from the latest branch point to the earliest, so going back
never destroys what another task needs.

Positions count generated tokens from 0. `cut` tokens are kept when a task begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from interp.chains.chain import Budget, Chain, Finish, Span, ThinkingFinish
from interp.chains.residual_record import StreamRecord
from interp.decoding.drafts import Drafter
from interp.decoding.request import Request
from interp.decoding.thinking_marks import ThinkingMarks
from interp.interventions.timeline import answer_from
from interp.interventions.windows import NEVER
from interp.model.delimiters import DelimiterIds

Phase = Literal["thinking", "answer"]


@dataclass(frozen=True)
class Task:
    """One branch of a request: go back to `cut` tokens, write `script`, then continue in `phase`.

    Attributes:
        cut: generated tokens to keep.
        script: token ids that the decoder writes before the model chooses again.
        phase: whether the model then thinks or answers.
        budgets: the budgets that this task serves.
        waits: "wait"s written so far.
        thinking_stop: tokens of thinking; meaningful only in the answer phase.
        thinking_finish: how thinking ended; meaningful only in the answer phase.
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
        """Position of the first token that the model chooses."""
        return self.cut + len(self.script)

    @property
    def forced(self) -> bool:
        """Whether the decoder ends the thinking and asks for the answer."""
        return self.phase == "answer" and self.thinking_finish in ("forced", "looped")


@dataclass
class SequenceState:
    """The state of a row: its current task and the tasks that wait.

    Attributes:
        request: the request that is decoded.
        ids: token ids of the thinking format.
        max_tokens: generated tokens that fit into the model's positions.
        task: the current task.
        tasks: tasks of this row that have not begun.
        limit: number of generated tokens at which the current task ends at the latest.
        limited_by_positions: whether the model's positions set the limit, not a budget.
        loop_at: number of generated tokens when a loop was found; None if none was found.
        drafter: drafts the row's next tokens.
    """

    request: Request
    ids: DelimiterIds
    max_tokens: int
    task: Task
    tasks: list[Task] = field(default_factory=list)
    limit: int = 0
    limited_by_positions: bool = False
    loop_at: int | None = None
    drafter: Drafter = field(default_factory=Drafter)

    @classmethod
    def begin(cls, request: Request, ids: DelimiterIds, max_positions: int) -> SequenceState:
        """Begins a request, in its answer if the prompt closes the thinking already.

        Args:
            request: the request.
            ids: token ids of the thinking format.
            max_positions: positions of the model, in tokens.

        Returns:
            The state before the first generated token.
        """
        if request.answering or ids.closed_in(request.prompt_ids):
            task = Task(0, (), "answer", request.budgets, thinking_finish="none")
        else:
            task = Task(len(request.prefix), (), "thinking", request.budgets)
        sequence = cls(request, ids, max_positions - len(request.prompt_ids), task)
        sequence.enter(task)
        return sequence

    @property
    def thinking(self) -> bool:
        """Whether the current task is in the thinking phase."""
        return self.task.phase == "thinking"

    @property
    def answer_from(self) -> int:
        """First step of the answer, or `NEVER` while there is none."""
        return NEVER if self.thinking else answer_from(self.task.start)

    @property
    def open_budgets(self) -> tuple[Budget, ...]:
        """The budgets whose chain is not finished yet."""
        return tuple(b for task in (self.task, *self.tasks) for b in task.budgets)

    def enter(self, task: Task) -> None:
        """Makes a task the current one and sets the limit.

        Args:
            task: the task.
        """
        self.task = task
        if task.phase == "thinking":
            want = max(b.thinking for b in task.budgets)
        else:
            want = task.start + max(b.answer for b in task.budgets)
        self.limit = min(want, self.max_tokens)
        self.limited_by_positions = want > self.max_tokens

    def next_task(self) -> Task | None:
        """Removes and returns the task with the latest cut, or None if none is left."""
        if not self.tasks:
            return None
        self.tasks.sort(key=lambda t: t.cut)
        return self.tasks.pop()

    # ---------------------------------------------------------------- events of thinking

    def thinking_ended(self, n: int, closed: int) -> tuple[Budget, ...]:
        """Handles that the model ended its thinking; other branches become tasks.

        Args:
            n: tokens of thinking before its end.
            closed: tokens with its end: the delimiter, or in the plain format the token or string
                that ends the sequence.

        Returns:
            The budgets that answer here. Smaller budgets ended before; budgets with "wait"s left
            continue to think.
        """
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
        """Handles that the model ended the sequence inside its thinking, without an answer.

        Args:
            n: tokens of thinking.

        Returns:
            The budgets that have no answer. Smaller budgets ended before and become tasks.
        """
        self._fork([b for b in self.task.budgets if n >= b.thinking])
        return tuple(b for b in self.task.budgets if n < b.thinking)

    def thinking_cut(self, n: int) -> tuple[Budget, ...]:
        """Handles that thinking reached its limit without an end.

        Args:
            n: tokens of thinking.

        Returns:
            The budgets that allow more tokens than the model has positions for.
        """
        stranded = tuple(b for b in self.task.budgets if b.thinking > n)
        self._fork([b for b in self.task.budgets if b.thinking <= n])
        return stranded

    def thinking_looped(self, n: int) -> None:
        """Handles that thinking certainly loops: every larger budget answers from here.

        Args:
            n: tokens of thinking.
        """
        self._fork([b for b in self.task.budgets if b.thinking <= n])
        larger = tuple(b for b in self.task.budgets if b.thinking > n)
        if larger:
            self.tasks.append(self._answer(n, larger, "looped"))

    def split(self, n: int) -> list[Task]:
        """Takes the tasks out that another row can do now.

        Args:
            n: tokens generated so far.

        Returns:
            The waiting tasks, and answer tasks for the budgets that thinking has passed, if it goes
            on for other budgets.
        """
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
        """Adds an answer task at the end of each of these thinking budgets."""
        for cut in sorted({b.thinking for b in budgets}):
            same = tuple(b for b in budgets if b.thinking == cut)
            self.tasks.append(self._answer(cut, same, "forced"))

    def _answer(self, cut: int, budgets: tuple[Budget, ...], how: ThinkingFinish) -> Task:
        """Returns the task that ends thinking after `cut` tokens and answers."""
        return Task(cut, self.ids.closing, "answer", budgets, self.task.waits, cut, how)

    def answer_here(self, n: int, closed: int, budgets: tuple[Budget, ...]) -> None:
        """Continues with the answer after the model ended its thinking.

        Args:
            n: tokens of thinking before the delimiter.
            closed: tokens with the delimiter.
            budgets: the budgets that answer here.
        """
        self.enter(Task(closed, (), "answer", budgets, self.task.waits, n, "end"))

    @property
    def fits(self) -> bool:
        """Whether the model's positions leave room for a token that the model chooses."""
        return self.task.start < self.max_tokens


@dataclass
class SlotRecord:
    """What was generated in one slot: views of the rows of `SlotTable`.

    Attributes:
        tokens: token ids, [columns], int64.
        logprob: log-probability of each token in nats, [columns], float32.
        entropy: entropy of each choice in nats, [columns], float32.
        forced: whether the token was given or written, not chosen, [columns], bool.
        stream: recorded numbers of the residual stream, [columns, L, 4], float32, or None.
    """

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
    marks: ThinkingMarks,
    kept: int | None = None,
) -> list[Chain]:
    """Makes the chains of all budgets of a finished answer.

    A budget that allows fewer answer tokens cuts the answer. An answer that opens the thinking
    again ends there: what follows is thinking beyond the budget (`Chain.reopened`).

    Args:
        sequence: the sequence, in its answer.
        record: what its slot has generated.
        n: generated tokens.
        how: how the answer ended.
        layer_map: index in this model -> dense index.
        marks: finds where the answer opens the thinking again.
        kept: position before the stop string that ended the answer; None if no stop string
            did. A stop token is always the last token.

    Returns:
        One chain per budget of the current task.
    """
    task = sequence.task
    chains = []
    for budget in task.budgets:
        total, finish = n, how
        if n - task.start > budget.answer or (n - task.start == budget.answer and how != "stop"):
            total, finish = task.start + budget.answer, "cut"
        stop = (total - 1 if kept is None else kept) if finish == "stop" else total
        opened = marks.opened_in(record.tokens[task.start : stop])
        end = stop if opened is None else task.start + opened
        chain = _chain(sequence, record, budget, total, Span(task.start, end), finish, layer_map)
        chains.append(chain if opened is None else replace(chain, reopened=Span(end, stop)))
    return chains


def finish_plain(
    sequence: SequenceState,
    record: SlotRecord,
    n: int,
    thinking_stop: int,
    budgets: Sequence[Budget],
    layer_map: tuple[int, ...],
) -> list[Chain]:
    """Makes the chains of budgets whose completion ended by itself in the plain format.

    The answer is announced inside, so the answer's span is empty and stands at its end.

    Args:
        sequence: the sequence.
        record: what its slot has generated.
        n: generated tokens, with the token or stop string that ended the completion.
        thinking_stop: tokens before that.
        budgets: the budgets that end here.
        layer_map: index in this model -> dense index.

    Returns:
        One chain per budget.
    """
    task = Task(0, (), "thinking", tuple(budgets), sequence.task.waits, thinking_stop, "end")
    answer = Span(thinking_stop, thinking_stop)
    return [_chain(sequence, record, b, n, answer, "stop", layer_map, task) for b in budgets]


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
    """Makes the chains of budgets that never reach an answer.

    Args:
        sequence: the sequence.
        record: what its slot has generated.
        n: generated tokens to keep.
        thinking_stop: tokens of thinking.
        budgets: the budgets without an answer.
        how: how the chain ended.
        thinking_finish: how thinking ended.
        layer_map: index in this model -> dense index.

    Returns:
        One chain per budget.
    """
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
    """Copies what a slot has generated into a chain."""
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
        plain=sequence.ids.plain,
        logprob=record.logprob[:n].copy(),
        entropy=record.entropy[:n].copy(),
        layer_map=layer_map,
        stream=None if record.stream is None else StreamRecord.of(record.stream[:n], layer_map),
    )
