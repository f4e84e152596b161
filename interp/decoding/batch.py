"""The batch: the rows that are decoded together, and all their state.

A `Batch` owns all state of a row while it decodes: its `SequenceState` (its current task), its row
of the host's `SlotTable` (what it has generated), its keys and values and its entries on the device
(in `ModelRunner`), and the sums of its recorders. Rows are dense: slots 0..n-1 are in use. Rows are
added, forked, removed and moved only here, so that all this state stays together.

A stride is the few passes that the device runs before the host looks at the new tokens.

Shapes: n rows in use of `slots`, L blocks, k passes of a stride. Numbers are int64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from interp.chains.periods import LOOP_CHECK, loop_start
from interp.decoding.decode_options import DecodeOptions
from interp.decoding.decoder_choice import runner_for
from interp.decoding.drafts import CPU_LANES, CUDA_LANES, Draft, shares
from interp.decoding.free_cores import free_cores
from interp.decoding.request import Request
from interp.decoding.sequence import SequenceState, Task
from interp.decoding.slot_table import SlotTable
from interp.decoding.step_output import StepOutput
from interp.decoding.thread_tuner import ThreadTuner
from interp.interventions.interventions import VariantLike
from interp.interventions.windows import NEVER
from interp.model.kv_cache import Prefix

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel


class Batch:
    """The rows in use, on the host and on the device. Its length is the number of rows in use.

    Attributes:
        model: the model.
        slots: rows that there is room for.
        runner: the state on the device, and the forward passes.
        sequences: the current task of each row, by slot.
        table: what each row has generated, by slot.
    """

    def __init__(
        self,
        model: ReasoningModel,
        variants: Sequence[VariantLike],
        options: DecodeOptions,
        *,
        slots: int,
        longest: int,
        common: tuple[int, ...] = (),
    ) -> None:
        """Allocates the state of all slots.

        Args:
            model: the model.
            variants: all variants that requests may have.
            options: how to decode.
            slots: rows to make room for.
            longest: tokens of the longest sequence, its prompt included.
            common: tokens that all prompts begin with.
        """
        self.model, self.slots = model, slots
        most = CPU_LANES if model.device.type == "cpu" else CUDA_LANES
        self.runner = runner_for(model, options.decoder)(
            model,
            variants,
            options.sampling,
            slots=slots,
            longest=longest,
            lanes=max(slots, most) if options.drafts else slots,
            record=options.record,
            moments=options.moments,
            compiled=options.compiled,
        )
        self.runner.common = common
        self.sequences: list[SequenceState] = []
        self.table = SlotTable(slots, model.n_blocks, options.record)
        self._variant_number = {variant.name: i for i, variant in enumerate(variants)}
        self.threads = ThreadTuner(None if model.device.type == "cpu" else (1,), free=free_cores)
        self._moved = self._dirty = True  # rows came or went; the host changed the state of a row
        # row, and tokens ahead of it, of each lane of the last stride, if it had drafts
        self._lanes: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        """Returns the number of rows in use."""
        return len(self.sequences)

    # ---------------------------------------------------------------- rows come, fork and go

    def prefill(self, requests: Sequence[Request], width: int) -> Prefix:
        """Computes the keys and values of all given tokens but the last of each request.

        Args:
            requests: what to read, R requests.
            width: tokens of the longest one, without its last.

        Returns:
            Keys and values of columns [0, width), one row per request.
        """
        numbers = [self._variant_number[r.variant.name] for r in requests]
        return self.runner.prefill(requests, numbers, width)

    def load(self, slots: Sequence[int], prefix: Prefix, picks: Sequence[int], width: int) -> None:
        """Copies rows of a prefill into slots. Call `add` for each of these slots afterwards.

        Args:
            slots: slots to copy to.
            prefix: the prefill.
            picks: row of the prefill for each slot.
            width: columns that the slots need room for.
        """
        self.runner.load(slots, prefix, picks, width)

    def add(self, request: Request) -> None:
        """Begins a request in the next free slot. Load its keys and values first (`load`).

        Args:
            request: the request.
        """
        slot = len(self.sequences)
        sequence = SequenceState.begin(request, self.model.delimiter_ids, self.model.max_positions)
        if request.prefix:
            self.table.write_given(slot, request.prefix)
            if self.watches_loops(sequence):
                sequence.loop_at = loop_start(self.table.tokens[slot, : len(request.prefix)])
        self._put(sequence)

    def fork(self, source: int, task: Task) -> None:
        """Gives a task its own row in the next free slot, with a copy of all up to its cut.

        Args:
            source: slot of the row that the task belongs to.
            task: the task; the source no longer does it.
        """
        target, one = len(self.sequences), self.sequences[source]
        self.runner.copy_row(source, target, max(int(self.table.prompt[source]) + task.cut - 1, 0))
        self.table.copy(source, target, task.cut)
        twin = SequenceState(one.request, one.ids, one.max_tokens, task, loop_at=one.loop_at)
        twin.enter(task)
        self._put(twin)

    def _put(self, sequence: SequenceState) -> None:
        """Puts a sequence into the next free slot."""
        slot = len(self.sequences)
        self.sequences.append(sequence)
        self.enter(slot)
        self.runner.clear_recorders(slot)
        self._moved = True

    def enter(self, slot: int) -> None:
        """Updates host and device for the task that the sequence of a slot has begun."""
        self.table.enter(slot, self.sequences[slot])
        self._dirty = True

    def remove(self, slots: Iterable[int]) -> None:
        """Frees slots. The last rows move into the freed slots, so that rows stay dense."""
        for slot in sorted(slots, reverse=True):
            sequence = self.sequences.pop()
            last = len(self.sequences)
            if slot != last:
                columns = int(self.table.prompt[last] + self.table.step[last]) - 1
                self.runner.move_row(last, slot, max(columns, 0))
                self.table.move(last, slot)
                self.sequences[slot] = sequence
            self._moved = True

    def shrink(self, slots: int) -> list[SequenceState]:
        """Frees the memory of all but the first slots.

        Args:
            slots: slots to keep.

        Returns:
            The sequences that lost their slot.
        """
        self.slots = slots
        kept = self.runner.shrink(slots)
        lost, self.sequences = self.sequences[kept:], self.sequences[:kept]
        self._moved = True
        return lost

    # ---------------------------------------------------------------- a stride

    def stride(self) -> StepOutput:
        """Runs a few passes over all rows. Only `SlotTable.write` adds their output to the table.

        Returns:
            What the passes gave, on the host.
        """
        self._lanes = None
        if drafts := self._draft():
            return self._verify(drafts)
        n, table = len(self.sequences), self.table
        used = int((table.prompt[:n] + table.step[:n]).max())
        longest = 1 if self.threads.trying else self.runner.stride
        passes = max(1, min(longest, self.model.max_positions - used))
        table.widen(int(table.step[:n].max()) + passes)
        if self._moved or self._dirty:
            self._read_again(self.runner.behind(table.prompt[:n] + table.step[:n] - 1))
            self._place(np.arange(n), np.zeros(n, np.int64), None)
            self._moved = self._dirty = False
        with self.threads.stride(n * passes):
            return self.runner.decode(n, used, passes, self._script(n, passes))

    def _read_again(self, slots: Sequence[int]) -> None:
        """Reads again what was given and generated in slots whose state the device has not."""
        if not slots:
            return
        given = []
        for slot in slots:
            tokens = self.table.tokens[slot, : self.table.step[slot]]
            given.append(replace(self.sequences[slot].request, prefix=tuple(tokens.tolist())))
        width = max(len(request.read) for request in given)
        self.load(slots, self.prefill(given, width - 1), range(len(given)), width)

    def _place(self, rows: np.ndarray, ahead: np.ndarray, drafted: np.ndarray | None) -> None:
        """Sets the inputs of the next pass on the device.

        Args:
            rows: row of each lane, [lanes]; with drafts the lanes of a row are neighbors.
            ahead: tokens that each lane is ahead of its row, [lanes].
            drafted: the token that each lane reads, [lanes]; None without drafts.
        """
        table, watches = self.table, self.runner.state.watches_events
        variants = None
        if self._moved or drafted is not None:
            numbers = [self._variant_number[s.request.variant.name] for s in self.sequences]
            variants = [numbers[row] for row in rows]
        step = table.step[rows] + ahead
        self.runner.place(
            len(rows),
            variants,
            rows=None if drafted is None else rows,
            last=table.last[rows] if drafted is None else drafted,
            position=table.prompt[rows] + step - 1,
            index=step,
            noise=table.noise[rows],
            answer_from=table.answer_from[rows],
            loop_from=table.loop_from[rows],
            trail=table.trail(rows, step, self.runner.state.reach) if watches else None,
        )

    # ---------------------------------------------------------------- drafts

    def _draft(self) -> dict[int, Draft]:
        """Returns the drafts of the rows that repeat themselves, by slot; few rows leave lanes."""
        n, table = len(self.sequences), self.table
        free = self.runner.lanes - n
        if free <= 0 or not self.runner.drafts:
            return {}
        found: dict[int, Draft] = {}
        for slot, sequence in enumerate(self.sequences):
            step = int(table.step[slot])
            if step < table.own[slot]:  # the decoder writes the next tokens
                continue
            most = min(int(table.limit[slot]), sequence.max_tokens) - step - 1
            if self.watches_loops(sequence) and table.loop_from[slot] == NEVER:
                most = min(most, LOOP_CHECK - 1)  # a window may open after the next check
            if (draft := sequence.drafter.draft(table.tokens[slot, :step], most)) is not None:
                found[slot] = draft
        given = shares([len(draft) for draft in found.values()], free)
        return {
            slot: draft[:lanes]
            for (slot, draft), lanes in zip(found.items(), given, strict=True)
            if lanes
        }

    def _verify(self, drafts: dict[int, Draft]) -> StepOutput:
        """Runs one pass that reads every row's next token and the drafts after it.

        Args:
            drafts: token ids by slot.

        Returns:
            What the pass gave: of every row the first token, and one more for every draft token
            that it chose itself.
        """
        n, table = len(self.sequences), self.table
        sizes = np.array([1 + len(drafts.get(slot, ())) for slot in range(n)])
        first = np.cumsum(sizes) - sizes  # lane of each row's first token, [n]
        rows = np.repeat(np.arange(n), sizes)
        ahead = np.arange(len(rows)) - first[rows]
        width = int(sizes.max())
        steps = table.step[:n]
        table.widen(int(steps.max()) + width)
        tokens = table.last[rows]
        for slot, draft in drafts.items():
            tokens[first[slot] + 1 : first[slot] + sizes[slot]] = draft
            # the trails of the lanes look back on the draft
            table.tokens[slot, steps[slot] : steps[slot] + len(draft)] = draft
        self._place(rows, ahead, tokens)
        self._moved = self._dirty = True  # the next stride without drafts has one lane per row
        used = int((table.prompt[:n] + steps + sizes).max()) - 1
        script = self._script(n, 1)
        script = None if script is None else script[rows]
        with self.threads.stride(len(rows)):
            output = self.runner.decode(len(rows), used, 1, script)
        lane_of = first[:, None] + np.minimum(np.arange(width), sizes[:, None] - 1)  # [n, width]
        chosen = output.tokens[lane_of, 0]
        counts = np.ones(n, np.int64)
        for slot, draft in drafts.items():
            right = chosen[slot, : len(draft)] == draft
            counts[slot] += len(draft) if right.all() else int(right.argmin())
            drafter, now = self.sequences[slot].drafter, int(steps[slot] + counts[slot])
            drafter.learn(len(draft), int(counts[slot]) - 1, now)
        self._lanes = (rows, ahead)
        return output.by_row(lane_of, counts)

    def _script(self, n: int, passes: int) -> np.ndarray | None:
        """Returns the tokens that the decoder writes, [n, passes]: -1 where the model chooses."""
        table = self.table
        written = np.flatnonzero(table.step[:n] < table.own[:n])
        if not written.size:
            return None
        script = np.full((n, passes), -1, np.int64)
        for slot in written:
            task = self.sequences[slot].task
            rest = task.script[int(table.step[slot]) - task.cut :][:passes]
            script[slot, : len(rest)] = rest
        return script

    def rewind(self, slot: int, count: int) -> None:
        """Discards what a stride generated after the first tokens of a row.

        Args:
            slot: slot of the row.
            count: generated tokens to keep.
        """
        if count < self.table.step[slot]:
            self.table.step[slot] = count
            self.table.last[slot] = self.table.tokens[slot, count - 1]
            self._dirty = True

    def state_changed(self) -> None:
        """Marks the device as out of date, after the host changed what the windows depend on."""
        self._dirty = True

    def watches_loops(self, sequence: SequenceState) -> bool:
        """Whether the sequence's variant has a window that opens after a loop."""
        return sequence.request.variant.name in self.runner.watches_loops

    def settle(self, kept: np.ndarray, done: Sequence[int]) -> None:
        """Tells the recorders which passes of the stride count, and which rows are finished.

        Args:
            kept: number of passes of the stride that the chain of each row keeps, [n].
            done: slots whose chains are finished.
        """
        if (moments := self.runner.moments) is not None:
            moments.fold(kept, self._lanes)
            for slot in done:
                moments.done(slot)
