"""What happens to a row: its thinking ends, it stops, it is cut, it loops, its next task begins.

The scheduler sees at which tokens something may have happened; `RowEvents` decides what did, moves
the sequence on and makes the chains that are finished by it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from interp.chains.chain import Budget, Chain, Finish, ThinkingFinish
from interp.chains.periods import LOOP_CHECK, certain_period, loop_from
from interp.decoding.batch import Batch
from interp.decoding.sequence import SequenceState, finish_answer, finish_without_answer
from interp.decoding.stop_strings import StopStrings
from interp.interventions.windows import NEVER

# nothing; the row went on into its answer; another task began in its slot; the slot is free
Happened = Literal["nothing", "answer", "next", "done"]
LOOP_EVERY = 64  # steps between two looks for a loop that ends a row


class RowEvents:
    """Events of the rows of a batch."""

    def __init__(self, batch: Batch, stop: StopStrings, stop_on_loop: bool) -> None:
        self.batch, self.stop, self.stop_on_loop = batch, stop, stop_on_loop
        self.layer_map = batch.model.layer_map
        self.end_length = len(batch.model.delimiter_ids.think_end)

    def happened(
        self, slot: int, count: int, ended: bool, stopped: bool, chains: list[Chain]
    ) -> Happened:
        """Deals with what happened to a row at its token `count` - 1.

        Args:
            slot: the row.
            count: tokens generated, this one included.
            ended: whether this token completed the end of thinking.
            stopped: whether it is an end-of-sequence token.
            chains: finished chains are appended here.
        """
        sequence = self.batch.sequences[slot]
        if not sequence.thinking:
            how, kept = self._answer_finish(sequence, slot, count, stopped)
            if how is None:
                self._watch(slot, sequence.task.start, count)
                return "nothing"
            record = self.batch.table.record(slot)
            chains += finish_answer(sequence, record, count, how, self.layer_map, kept)
        elif ended:
            n = count - self.end_length
            here = sequence.thinking_ended(n)
            if here and count < sequence.max_tokens:
                self._go_on(slot, n, here, count)
                return "answer"
            self._without_answer(slot, count, n, here, "positions", "end", chains)
        elif stopped:  # the model ended everything inside its thinking
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

    def _answer_finish(
        self, sequence: SequenceState, slot: int, count: int, stopped: bool
    ) -> tuple[Finish | None, int | None]:
        """How an answer ends here, if it does, and where a stop string cuts it."""
        start = sequence.task.start
        if stopped:
            return "stop", None
        if self.stop:
            found = self.stop.found(self.batch.table.tokens[slot, start:count])
            if found is not None:
                return "stop", start + found
        if count >= sequence.limit:
            return ("positions" if sequence.limited_by_positions else "cut"), None
        return ("looped" if self._loops(slot, start, count) else None), None

    def _go_on(self, slot: int, n: int, budgets: tuple[Budget, ...], count: int) -> None:
        """The row goes on into its answer after thinking that ended by itself at n."""
        sequence, table = self.batch.sequences[slot], self.batch.table
        sequence.answer_here(n, budgets)
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
        sequence, record = self.batch.sequences[slot], self.batch.table.record(slot)
        chains += finish_without_answer(
            sequence, record, count, thinking_stop, budgets, how, end, self.layer_map
        )

    def _loops(self, slot: int, begin: int, count: int) -> bool:
        """Whether a row is to be ended for looping, looked at every `LOOP_EVERY` tokens."""
        if not self.stop_on_loop or count <= begin:
            return False
        return certain_period(self.batch.table.tokens[slot, begin:count]) is not None

    def _watch(self, slot: int, begin: int, count: int) -> None:
        """Opens the windows after a loop where the row, now of `count` tokens, has come into one.

        begin: the first token of what the row is in, its thinking or its answer.
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
        """Where a row with a window after a loop is to be looked at, counted in its phase: [n, k].

        index: step of every token of the stride, [n, k].
        """
        n, table = len(index), self.batch.table
        begins = np.where(table.thinks[:n], 0, table.own[:n])[:, None]
        watched = np.array([self.batch.watches_loops(s) for s in self.batch.sequences])[:, None]
        unknown = (table.loop_from[:n] == NEVER)[:, None]
        return watched & unknown & ((index + 1 - begins) % LOOP_CHECK == 0)

    def _next(self, slot: int, chains: list[Chain]) -> bool:
        """Begins the sequence's next task in its slot; False when it has none left."""
        sequence = self.batch.sequences[slot]
        while (task := sequence.next_task()) is not None:
            sequence.enter(task)
            if sequence.fits:
                self.batch.enter(slot)
                return True
            how = task.thinking_finish
            self._without_answer(slot, task.cut, task.cut, task.budgets, "positions", how, chains)
        return False
