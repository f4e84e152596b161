"""Events of a row: its thinking ends, it stops, it is cut, it loops, its next task begins.

The scheduler finds the tokens at which an event is possible. `RowEvents` decides which event it
is, updates the sequence and makes the chains that it finishes.

Shapes: n rows in use, k passes of a stride.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from interp.chains.chain import Budget, Chain, Finish, ThinkingFinish
from interp.chains.periods import LOOP_CHECK, certain_period, loop_from
from interp.decoding.batch import Batch
from interp.decoding.forced_line import ForcedLine
from interp.decoding.sequence import (
    SequenceState,
    finish_answer,
    finish_plain,
    finish_without_answer,
)
from interp.decoding.stop_strings import StopStrings
from interp.decoding.thinking_marks import ThinkingMarks
from interp.interventions.windows import NEVER

# no event; the row continues with its answer; its slot begins another task; its slot is free
Happened = Literal["nothing", "answer", "next", "done"]
LOOP_EVERY = 64  # tokens between two checks for a loop that ends a row


class RowEvents:
    """Decides and applies the events of the rows of a batch.

    Attributes:
        batch: the rows.
        stop: the strings that end an answer.
        stop_on_loop: whether a row that certainly loops ends there.
        layer_map: index in this model -> dense index, recorded in every chain.
        marks: finds the end of thinking.
        line: finds the end of a forced answer of the plain format.
    """

    def __init__(
        self, batch: Batch, stop: StopStrings, marks: ThinkingMarks, stop_on_loop: bool
    ) -> None:
        """Keeps the batch and the rules that end a row.

        Args:
            batch: the rows.
            stop: the strings that end an answer.
            marks: finds the end of thinking.
            stop_on_loop: whether a row that certainly loops ends there.
        """
        self.batch, self.stop, self.stop_on_loop = batch, stop, stop_on_loop
        self.marks, self.line = marks, ForcedLine(batch.model)
        self.layer_map = batch.model.layer_map

    def happened(
        self, slot: int, count: int, ended: bool, stopped: bool, chains: list[Chain]
    ) -> Happened:
        """Decides what happened to a row at token `count` - 1, and applies it.

        Args:
            slot: slot of the row.
            count: generated tokens of the row, this one included.
            ended: whether this token may complete the end of thinking.
            stopped: whether this token is an end-of-sequence token.
            chains: list to which finished chains are appended.

        Returns:
            "nothing": no event. "answer": thinking ended and the row continues with its answer.
            "next": the slot begins the sequence's next task. "done": the slot can be freed.
        """
        sequence = self.batch.sequences[slot]
        if not sequence.thinking:
            how, kept = self._answer_finish(sequence, slot, count, stopped)
            if how is None:
                self._watch(slot, sequence.task.start, count)
                return "nothing"
            record = self.batch.table.record(slot)
            chains += finish_answer(sequence, record, count, how, self.layer_map, self.marks, kept)
        elif ended and (n := self._thinking_before(sequence, slot, count)) is not None:
            here = sequence.thinking_ended(n, count)
            if sequence.ids.plain:  # the answer is inside
                record = self.batch.table.record(slot)
                chains += finish_plain(sequence, record, count, n, here, self.layer_map)
            elif here and count < sequence.max_tokens:
                self._go_on(slot, n, here, count)
                return "answer"
            else:
                self._without_answer(slot, count, n, here, "positions", "end", chains)
        elif stopped:  # the model ended the sequence inside its thinking
            n = count - 1
            inside = sequence.thinking_stopped(n)
            self._without_answer(slot, count, n, inside, "stop", "end", chains)
        elif count >= sequence.limit:
            stranded = sequence.thinking_cut(count)
            self._without_answer(slot, count, count, stranded, "positions", "forced", chains)
        elif self._loops(slot, 0, count):
            sequence.thinking_looped(count)
        else:
            self._watch(slot, 0, count)
            return "nothing"
        return "next" if self._next(slot, chains) else "done"

    def _thinking_before(self, sequence: SequenceState, slot: int, count: int) -> int | None:
        """Returns the tokens before an end of thinking that the last token completes, or None."""
        start = sequence.task.start
        found = self.marks.before_end(self.batch.table.tokens[slot, start:count])
        return None if found is None else start + found

    def _answer_finish(
        self, sequence: SequenceState, slot: int, count: int, stopped: bool
    ) -> tuple[Finish | None, int | None]:
        """Returns how an answer ends here, or None, and the step where a stop string cuts it."""
        start = sequence.task.start
        if stopped:
            return "stop", None
        if self.stop:
            found = self.stop.found(self.batch.table.tokens[slot, start:count])
            if found is not None:
                return "stop", start + found
        if self.line and sequence.task.forced:
            found = self.line.found(self.batch.table.tokens[slot, start:count])
            if found is not None:
                return "stop", start + found
        if count >= sequence.limit:
            return ("positions" if sequence.limited_by_positions else "cut"), None
        return ("looped" if self._loops(slot, start, count) else None), None

    def _go_on(self, slot: int, n: int, budgets: tuple[Budget, ...], count: int) -> None:
        """Continues a row with its answer after the model ended its thinking at token n."""
        sequence, table = self.batch.sequences[slot], self.batch.table
        sequence.answer_here(n, count, budgets)
        table.own[slot], table.limit[slot] = count, sequence.limit
        table.thinks[slot], table.answer_from[slot] = False, sequence.answer_from

    def _without_answer(
        self,
        slot: int,
        count: int,
        thinking_stop: int,
        budgets: tuple[Budget, ...],
        how: Finish,
        end: ThinkingFinish,
        chains: list[Chain],
    ) -> None:
        """Makes the chains of budgets that never reach an answer."""
        sequence, record = self.batch.sequences[slot], self.batch.table.record(slot)
        chains += finish_without_answer(
            sequence, record, count, thinking_stop, budgets, how, end, self.layer_map
        )

    def _loops(self, slot: int, begin: int, count: int) -> bool:
        """Whether a row ends here because it loops, looked at every `LOOP_EVERY` tokens only.

        Other events of a row must not add looks: the chains of one sample would end at different
        tokens of the same loop.
        """
        if not self.stop_on_loop or count % LOOP_EVERY or count <= begin:
            return False
        return certain_period(self.batch.table.tokens[slot, begin:count]) is not None

    def _watch(self, slot: int, begin: int, count: int) -> None:
        """Opens the windows after a loop if the row, `count` tokens long, now loops.

        `begin` is the first token of the row's current phase, thinking or answer.
        """
        sequence, table = self.batch.sequences[slot], self.batch.table
        due = (count - begin) % LOOP_CHECK == 0 and table.loop_from[slot] == NEVER
        if not due or not self.batch.watches_loops(sequence):
            return
        if certain_period(table.tokens[slot, begin:count]) is not None:
            sequence.loop_at = count
            table.loop_from[slot] = loop_from(count)
            self.batch.state_changed()

    def looks(self, index: np.ndarray) -> np.ndarray:
        """Marks the tokens at which rows with a window after a loop are checked for a loop.

        A check is due every `LOOP_CHECK` tokens, counted from the start of the row's phase.

        Args:
            index: step of every token of the stride, [n, k].

        Returns:
            Whether a check is due, [n, k].
        """
        n, table = len(index), self.batch.table
        begins = np.where(table.thinks[:n], 0, table.own[:n])[:, None]  # [n, 1]
        watched = np.array([self.batch.watches_loops(s) for s in self.batch.sequences])[:, None]
        unknown = (table.loop_from[:n] == NEVER)[:, None]
        return watched & unknown & ((index + 1 - begins) % LOOP_CHECK == 0)

    def _next(self, slot: int, chains: list[Chain]) -> bool:
        """Begins the next task of a sequence in its slot; returns False when none is left."""
        sequence = self.batch.sequences[slot]
        while (task := sequence.next_task()) is not None:
            sequence.enter(task)
            if sequence.fits:
                self.batch.enter(slot)
                return True
            how = task.thinking_finish
            self._without_answer(slot, task.cut, task.cut, task.budgets, "positions", how, chains)
        return False
