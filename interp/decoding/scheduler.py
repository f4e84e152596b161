"""Long chains, many at once: continuous batching with row-wise interventions.

Every request (problem x sample x variant) takes a slot of one batch; when it is done a waiting one
takes its place, so the batch stays full and the weights are read once a step for all variants.
Rows are kept dense (slots 0..n-1), each with its own length in the key/value cache.

Requests of one prompt share its prefill, unless their variant changes how it is read. The prefill
stops before the last token that is given: reading that one is every row's first pass of its own
(step -1, or the last step of a fork's prefix). Budgets nest: see `interp.decoding.sequence`. Noise
is keyed by (seed, problem, sample, step): see `interp.decoding.sampling`.

The device runs a few passes between two looks of the host; what a row generates past its own end
is thrown away. The host's tables are in `interp.decoding.batch`, the
device's side in `interp.decoding.model_runner`. The model is as it was whenever the generator is
suspended.

Where memory runs out, the last half of the rows goes back to the waiting ones and fewer slots are
used from then on: chains depend on neither, so none changes and none is lost.
"""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from interp.chains.chain import Budget, Chain, Finish, ThinkingFinish
from interp.chains.periods import LOOP_CHECK, certain_period, loop_from, loop_start
from interp.decoding.batch import SlotTable
from interp.decoding.memory import most_columns, out_of_memory, slots_that_fit
from interp.decoding.model_runner import ModelRunner, StepOutput
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.decoding.sequence import Row, Task, finish_answer, finish_without_answer
from interp.decoding.stop_strings import StopStrings
from interp.decoding.thread_tuner import ThreadTuner
from interp.errors import NonFiniteError
from interp.interventions.hooks import reject_row_patches
from interp.interventions.interventions import VariantLike
from interp.interventions.windows import NEVER
from interp.model.kv_cache import Prefix

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel


Progress = Callable[[int, int, int], None]
PREFILL_TOKENS = 8192  # padded tokens in one prefill pass
LOOP_EVERY = 64  # steps between two looks for a loop that ends a row
REPORT_EVERY = 16  # strides between two progress reports


@dataclass
class _Shared:
    """A computed prefill and how many waiting requests still want row `row` of it."""

    prefix: Prefix
    row: int


class Scheduler:
    def __init__(
        self,
        model: ReasoningModel,
        requests: Sequence[Request],
        sampling: Sampling,
        slots: int | None,
        stop: StopStrings,
        stop_on_loop: bool,
        progress: Progress | None,
        how: dict[str, Any],
    ) -> None:
        self.model, self.stop = model, stop
        self.stop_on_loop, self.progress = stop_on_loop, progress
        variants: dict[str, VariantLike] = {}
        for r in requests:
            variants.setdefault(r.variant.name, r.variant)
        reject_row_patches(list(variants.values()))
        self.variant_number = {name: i for i, name in enumerate(variants)}
        self.stop_ids = np.asarray(model.stop_ids)
        self.end_ids = model.delimiter_ids.think_end

        grouped: dict[Any, list[Request]] = {}  # one prompt's requests together: one prefill
        for r in requests:
            grouped.setdefault(r.prefill_key, []).append(r)
        self.waiting = deque(r for group in grouped.values() for r in group)
        self.wanting = Counter(r.prefill_key for r in requests)
        self.shared: dict[Any, _Shared] = {}

        longest = max(most_columns(model, r) for r in requests)
        self.slots = min(slots_that_fit(model, longest, slots), len(requests) * 4)
        self.batch = max(1, self.slots // 16)  # requests admitted together
        self.passes = ModelRunner(
            model, list(variants.values()), sampling, slots=self.slots, longest=longest, **how
        )
        self.rows: list[Row] = []
        self.threads = ThreadTuner(None if model.device.type == "cpu" else (1,))
        self.table = SlotTable(self.slots, model.n_blocks, bool(how["record"]))
        self.moved = self.dirty = True  # rows came or went; a row's state was set by the host
        self.made = self.finished = 0
        self.total = sum(len(r.budgets) for r in requests)

    def close(self) -> None:
        self.rows.clear()
        self.shared.clear()

    # ---------------------------------------------------------------- the loop

    def run(self) -> Iterator[Chain]:
        turns = 0
        while self.waiting or self.rows:
            try:
                self._fill()
                outcome = self._stride()
            except RuntimeError as error:
                if not out_of_memory(error) or self.slots == 1:
                    raise
                self._shrink()
                continue
            chains, broken = self._take(outcome)
            self.finished += len(chains)
            turns += 1
            if self.progress and (chains or turns % REPORT_EVERY == 0):
                self.progress(self.made, self.finished, self.total)
            yield from chains
            if broken is not None:
                raise broken

    def _shrink(self) -> None:
        """Half the slots. Rows without one are decoded again later, for what is still open."""
        self.slots //= 2
        warnings.warn(f"Out of memory: going on with {self.slots} rows at a time.", stacklevel=4)
        for row in reversed(self.rows[self.slots :]):
            again = replace(row.request, budgets=row.open_budgets)
            self.waiting.appendleft(again)
            self.wanting[again.prefill_key] += 1
        del self.rows[self.slots :]
        self.batch = max(1, self.slots // 16)
        self.shared.clear()  # it is read again where it is still wanted
        self.passes.shrink(self.slots)
        self.moved = True

    # ---------------------------------------------------------------- filling slots

    def _fill(self) -> None:
        """Waiting requests into free slots, a few at a time; then, at the end, spare tasks."""
        free = self.slots - len(self.rows)
        if self.waiting and (free >= self.batch or not self.rows):
            self._admit(min(free, len(self.waiting)))
        elif not self.waiting and free:
            self._spread(free)

    def _admit(self, count: int) -> None:
        new = [self.waiting[i] for i in range(count)]
        self._prefill(new)
        first = len(self.rows)
        by_prefix: dict[int, tuple[Prefix, list[int], list[int]]] = {}
        for slot, request in enumerate(new, start=first):
            if (have := self.shared.get(request.prefill_key)) is not None:
                _, slots, picks = by_prefix.setdefault(id(have.prefix), (have.prefix, [], []))
                slots.append(slot)
                picks.append(have.row)
        for prefix, slots, picks in by_prefix.values():
            width = max(len(new[s - first].read) for s in slots)
            self.passes.admit(slots, prefix, picks, width)
        for slot, request in enumerate(new, start=first):  # nothing runs out of memory from here
            self.waiting.popleft()
            row = Row.begin(request, self.model.delimiter_ids, self.model.max_positions)
            if request.prefix:
                self.table.given(slot, request.prefix)
                if self._watches(row):
                    row.loop_at = loop_start(self.table.tokens[slot, : len(request.prefix)])
            self.rows.append(row)
            self._enter(slot)
            if self.passes.moments is not None:
                self.passes.moments.clear(slot)
            key = request.prefill_key
            self.wanting[key] -= 1
            if not self.wanting[key]:
                self.shared.pop(key, None)
        self.moved = True

    def _prefill(self, new: list[Request]) -> None:
        """Keys and values of everything given and not yet computed, all but its last token."""
        todo: dict[Any, Request] = {}
        for r in new:
            if r.prefill_key not in self.shared and len(r.read) > 1:
                todo.setdefault(r.prefill_key, r)
        items = sorted(todo.items(), key=lambda item: len(item[1].read))
        while items:
            width = len(items[-1][1].read) - 1  # the longest sets the width of its pass
            count = max(1, min(len(items), PREFILL_TOKENS // width))
            part, items = items[-count:], items[:-count]
            numbers = [self.variant_number[r.variant.name] for _, r in part]
            prefix = self.passes.read([r for _, r in part], numbers, width)
            for i, (key, _) in enumerate(part):
                self.shared[key] = _Shared(prefix, i)

    def _spread(self, free: int) -> None:
        """No request waits: rows' open tasks go to free slots, so the last rows end sooner."""
        for slot in range(len(self.rows)):
            row = self.rows[slot]
            tasks = row.split(int(self.table.step[slot])) if free > 0 else []
            self.table.limit[slot] = row.limit
            for task in sorted(tasks, key=lambda t: -t.cut):
                if free <= 0 or not self._fits(row, task):
                    row.tasks.append(task)
                    continue
                self._copy(slot, len(self.rows), task.cut)
                twin = Row(row.request, row.ids, row.max_tokens, task, loop_at=row.loop_at)
                twin.enter(task)
                self.rows.append(twin)
                self._enter(len(self.rows) - 1)
                self.moved = True
                free -= 1

    @staticmethod
    def _fits(row: Row, task: Task) -> bool:
        return task.start < row.max_tokens

    def _copy(self, source: int, target: int, cut: int) -> None:
        columns = max(int(self.table.prompt[source]) + cut - 1, 0)
        self.passes.fork(source, target, columns)
        self.table.fork(source, target, cut)

    def _enter(self, slot: int) -> None:
        self.table.enter(slot, self.rows[slot])
        self.dirty = True

    def _watches(self, row: Row) -> bool:
        return row.request.variant.name in self.passes.watches_loops

    # ---------------------------------------------------------------- device passes

    def _stride(self) -> StepOutput:
        """Some passes over all rows."""
        n, table = len(self.rows), self.table
        used = int((table.prompt[:n] + table.step[:n]).max())
        passes = max(1, min(self.passes.stride, self.model.max_positions - used))
        table.widen(int(table.step[:n].max()) + passes)
        if self.moved or self.dirty:
            names = [r.request.variant.name for r in self.rows]
            numbers = [self.variant_number[name] for name in names] if self.moved else None
            self.passes.place(table, numbers)
            self.moved = self.dirty = False
        with self.threads.stride(n * passes):
            return self.passes.run(n, used, passes, self._script(n, passes))

    def _script(self, n: int, passes: int) -> np.ndarray | None:
        """Tokens the engine writes in this stride, -1 where the model chooses: [n, passes]."""
        table = self.table
        written = np.flatnonzero(table.step[:n] < table.own[:n])
        if not written.size:
            return None
        script = np.full((n, passes), -1, np.int64)
        for slot in written:
            task = self.rows[slot].task
            rest = task.script[int(table.step[slot]) - task.cut :][:passes]
            script[slot, : len(rest)] = rest
        return script

    # ---------------------------------------------------------------- what came out

    def _take(self, out: StepOutput) -> tuple[list[Chain], NonFiniteError | None]:
        """Writes the stride into the tables and deals with every row where something happened."""
        tokens, table = out.tokens, self.table
        n, passes = tokens.shape
        slots = np.arange(n)[:, None]
        index = table.step[:n, None] + np.arange(passes)
        forced = index < table.own[:n, None]
        table.tokens[slots, index] = tokens
        table.logprob[slots, index] = np.where(forced, np.nan, out.logprob)
        table.entropy[slots, index] = np.where(forced, np.nan, out.entropy)
        table.forced[slots, index] = forced
        if table.stream is not None and out.stream is not None:
            table.stream[slots, index] = out.stream

        thinks = table.thinks[:n, None]
        ended = self._ends(slots, index, tokens) & thinks & ~forced
        stopped = np.isin(tokens, self.stop_ids) & ~forced
        event = ended | stopped | (index + 1 >= table.limit[:n, None]) | ~out.finite
        if self.stop:
            event |= self.stop.may_complete(tokens) & ~thinks & ~forced
        if self.stop_on_loop:
            event |= ((index + 1) % LOOP_EVERY == 0) & ~forced
        if self.passes.watches_loops:
            event |= self._looks(n, index) & ~forced
        table.step[:n] += passes
        table.last[:n] = tokens[:, -1]
        self.made += n * passes
        chains: list[Chain] = []
        broken: NonFiniteError | None = None
        gone: list[int] = []
        kept = np.full(n, passes)  # passes of the stride that a row's chain keeps
        for slot in np.flatnonzero(event.any(1)).tolist():
            for k in np.flatnonzero(event[slot]).tolist():
                count = int(index[slot, k]) + 1
                if not out.finite[slot, k]:
                    broken = broken or _non_finite(self.rows[slot], count - 1)
                    break
                happened = self._event(
                    slot, count, bool(ended[slot, k]), bool(stopped[slot, k]), chains
                )
                if happened == "nothing":
                    continue
                self.made -= passes - 1 - k
                kept[slot] = k + 1
                if happened == "done":
                    gone.append(slot)
                elif happened == "on":
                    self.dirty |= self.passes.watches_events
                    if k + 1 < passes:  # throw away what came after
                        table.step[slot], table.last[slot] = count, tokens[slot, k]
                        self.dirty = True
                break
        if (moments := self.passes.moments) is not None:
            moments.fold(kept)
            for slot in gone:
                moments.done(slot)
        self._drop(gone)
        return chains, broken

    def _ends(self, slots: np.ndarray, index: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Where a token completes the end of thinking."""
        ends = tokens == self.end_ids[-1]
        if len(self.end_ids) > 1 and ends.any():
            own = self.table.own[: len(tokens), None]
            for j, part in enumerate(reversed(self.end_ids[:-1]), start=1):
                at = index - j
                ends &= (at >= own) & (self.table.tokens[slots, np.maximum(at, 0)] == part)
        return ends

    def _looks(self, n: int, index: np.ndarray) -> np.ndarray:
        """Where a row with a window after a loop is to be looked at, counted in its phase."""
        begins = np.where(self.table.thinks[:n], 0, self.table.own[:n])[:, None]
        watched = np.array([self._watches(row) for row in self.rows])[:, None]
        unknown = (self.table.loop_from[:n] == NEVER)[:, None]
        return watched & unknown & ((index + 1 - begins) % LOOP_CHECK == 0)

    def _event(
        self, slot: int, count: int, ended: bool, stopped: bool, chains: list[Chain]
    ) -> Literal["nothing", "on", "next", "done"]:
        """Something may have happened at token `count` - 1 of a row.

        "on": it goes on into its answer; "next": another task of its request began in the slot;
        "done": the slot is free.
        """
        row, table = self.rows[slot], self.table
        record = table.record(slot)
        layer_map = self.model.layer_map

        def cut_short(
            stop: int, budgets: tuple[Budget, ...], how: Finish, end: ThinkingFinish
        ) -> None:
            chains.extend(
                finish_without_answer(row, record, count, stop, budgets, how, end, layer_map)
            )

        if not row.thinking:
            kept = None if stopped or not self.stop else self._stopped_by_string(slot, count)
            if stopped or kept is not None:
                how: Finish = "stop"
            elif count >= row.limit:
                how = "positions" if row.limited_by_positions else "cut"
            elif self._loops(table.tokens[slot, row.task.start : count]):
                how = "looped"
            else:
                self._watch(slot, row.task.start, count)
                return "nothing"
            chains.extend(finish_answer(row, record, count, how, layer_map, kept))
        elif ended:
            n = count - len(self.end_ids)
            here = row.thinking_ended(n)
            if here and count < row.max_tokens:
                row.answer_here(n, here)
                table.own[slot], table.limit[slot] = count, row.limit
                table.thinks[slot], table.answer_from[slot] = False, row.answer_from
                return "on"
            cut_short(n, here, "positions", "end")
        elif stopped:  # the model ended everything inside its thinking
            inside = row.thinking_stopped(count - 1)
            cut_short(count - 1, inside, "stop", "end")
        elif count >= row.limit:
            stranded = row.thinking_cut(count)
            cut_short(count, stranded, "positions", "forced")
        elif self._loops(table.tokens[slot, :count]):
            row.thinking_looped(count)
        else:
            self._watch(slot, 0, count)
            return "nothing"
        return "next" if self._next(slot, chains) else "done"

    def _stopped_by_string(self, slot: int, count: int) -> int | None:
        """Where the answer ends if it has just ended in a stop string."""
        start = self.rows[slot].task.start
        kept = self.stop.found(self.table.tokens[slot, start:count])
        return None if kept is None else start + kept

    def _loops(self, ids: np.ndarray) -> bool:
        """Whether a row is to be ended for looping, looked at every `LOOP_EVERY` tokens."""
        return self.stop_on_loop and len(ids) > 0 and certain_period(ids) is not None

    def _watch(self, slot: int, begin: int, count: int) -> None:
        """Opens the windows after a loop where the row, now of `count` tokens, has come into one.

        begin: the first token of what the row is in, its thinking or its answer.
        """
        row, table = self.rows[slot], self.table
        due = (count - begin) % LOOP_CHECK == 0 and table.loop_from[slot] == NEVER
        if not due or not self._watches(row):
            return
        if certain_period(table.tokens[slot, begin:count]) is not None:
            row.loop_at = count
            table.loop_from[slot] = loop_from(count)
            self.dirty = True

    def _next(self, slot: int, chains: list[Chain]) -> bool:
        """Begins the row's next task in its slot; False when it has none left."""
        row = self.rows[slot]
        while (task := row.next_task()) is not None:
            row.enter(task)
            if row.fits:
                self._enter(slot)
                return True
            chains.extend(
                finish_without_answer(
                    row,
                    self.table.record(slot),
                    task.cut,
                    task.cut,
                    task.budgets,
                    "positions",
                    task.thinking_finish,
                    self.model.layer_map,
                )
            )
        return False

    def _drop(self, gone: list[int]) -> None:
        """Frees slots; the last rows move into the holes, so that rows stay dense."""
        for slot in sorted(gone, reverse=True):
            row = self.rows.pop()
            last = len(self.rows)
            if slot != last:
                columns = int(self.table.prompt[last] + self.table.step[last]) - 1
                self.passes.fork(last, slot, max(columns, 0))
                self.table.move(last, slot)
                if self.passes.moments is not None:
                    self.passes.moments.move(last, slot)
                self.rows[slot] = row
            self.moved = True


def _non_finite(row: Row, step: int) -> NonFiniteError:
    r = row.request
    return NonFiniteError(
        f"A logit is not a finite number: variant {r.variant.name!r}, problem {r.problem!r}, "
        f"sample {r.sample}, step {step}. Chains finished before are kept; leave this variant "
        "out, or load the model in float32."
    )
