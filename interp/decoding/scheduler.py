"""The scheduler: continuous batching with one variant per row.

A request (problem x sample x variant) takes a slot of the batch. When it is finished, a waiting
request takes the slot, so the batch stays full and a pass reads the weights once for all variants.
Requests with the same prompt share its prefill, unless their variant changes how it is read. The
prefill omits the last given token: each row reads it in its first own pass.

The device runs a stride of a few passes before the host looks at the tokens. What a row generated
past its end is discarded. If memory runs out, the last half of the rows returns to the waiting
requests and the number of slots is halved. Chains do not depend on the slots or on the other rows,
so none changes or is lost. `interp.decoding.sequence` explains how budgets nest, and
`interp.decoding.sampling` why the noise does not depend on the batch.

Shapes: n rows in use, k passes of a stride.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.chains.chain import Chain
from interp.decoding.batch import Batch
from interp.decoding.decode_options import DecodeOptions
from interp.decoding.decoder_choice import runner_for
from interp.decoding.memory import most_columns, out_of_memory, slots_that_fit
from interp.decoding.prefill import common_tokens
from interp.decoding.request import Request
from interp.decoding.row_events import LOOP_EVERY, RowEvents
from interp.decoding.sequence import SequenceState
from interp.decoding.step_output import StepOutput
from interp.decoding.stop_strings import StopStrings
from interp.decoding.thinking_marks import ThinkingMarks
from interp.errors import NonFiniteError
from interp.interventions.hooks import reject_row_patches
from interp.interventions.interventions import VariantLike
from interp.model.kv_cache import Prefix

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

PREFILL_TOKENS = 8192  # maximum number of tokens in one prefill pass, with padding
ENOUGH_TOKENS = 1024  # a pass of more tokens leaves out requests that would be padded a lot
PADDED = 7 / 8  # of the longest request, which no request of such a pass falls below
REPORT_EVERY = 16  # strides between two progress reports


@dataclass
class _SharedPrefill:
    """A computed prefill that waiting requests still need.

    Attributes:
        prefix: keys and values of several prompts.
        row: the row of this prompt.
    """

    prefix: Prefix
    row: int


class Scheduler:
    """Puts requests into the batch and handles what its rows generate.

    Attributes:
        model: the model.
        options: how to decode.
        stop_ids: end-of-sequence token ids.
        marks: finds the end of thinking.
        waiting: requests without a slot; requests with one prompt are neighbors, and among them
            those with one prefill.
        wanting: number of waiting requests per prefill key.
        prefills: computed prefills by prefill key.
        batch: the rows in use.
        stop: the strings that end an answer.
        events: decides what happened to a row.
        made: tokens generated so far.
        finished: chains finished so far.
        total: chains to make in all.
    """

    def __init__(
        self, model: ReasoningModel, requests: Sequence[Request], options: DecodeOptions
    ) -> None:
        """Orders the requests and allocates the batch.

        Args:
            model: the model.
            requests: at least one request, already checked (`interp.decoding.request.check`).
            options: how to decode.

        Raises:
            UserError: a variant patches single rows or a block that is not there.
        """
        self.model, self.options = model, options
        variants: dict[str, VariantLike] = {}
        for r in requests:
            variants.setdefault(r.variant.name, r.variant)
        reject_row_patches(list(variants.values()))
        self.stop_ids = np.asarray(model.stop_ids)

        by_prompt: dict[Any, dict[Any, list[Request]]] = {}  # one prefill, one run of requests
        for r in requests:
            by_prompt.setdefault(r.read, {}).setdefault(r.prefill_key, []).append(r)
        groups = (group for same in by_prompt.values() for group in same.values())
        self.waiting = deque(r for group in groups for r in group)
        self.wanting = Counter(r.prefill_key for r in requests)
        self.prefills: dict[Any, _SharedPrefill] = {}

        longest = max(most_columns(model, r) for r in requests)
        row = runner_for(model, options.decoder).row_bytes(model, longest)
        slots = min(slots_that_fit(model, longest, options.slots, row), len(requests) * 4)
        self.batch = Batch(
            model,
            list(variants.values()),
            options,
            slots=slots,
            longest=longest,
            common=common_tokens(requests),
        )
        self.stop = StopStrings(model, options.stop)
        self.marks = ThinkingMarks(model, self.stop)
        self.events = RowEvents(self.batch, self.stop, self.marks, options.stop_on_loop)
        self.made = self.finished = 0
        self.total = sum(len(r.budgets) for r in requests)

    def close(self) -> None:
        """Releases sequences and prefills."""
        self.batch.sequences.clear()
        self.prefills.clear()

    # ---------------------------------------------------------------- the loop

    def run(self) -> Iterator[Chain]:
        """Decodes all requests.

        Yields:
            Every chain, as soon as it is finished.

        Raises:
            NonFiniteError: a logit is not a finite number; chains finished before are yielded.
            torch.OutOfMemoryError: not even one row fits into memory.
        """
        try:
            yield from self._run()
        finally:
            self.batch.threads.release()

    def _run(self) -> Iterator[Chain]:
        turns = 0
        while self.waiting or len(self.batch):
            self.batch.threads.hold()
            try:
                self._fill()
                output = self.batch.stride()
            except RuntimeError as error:
                if not out_of_memory(error) or self.batch.slots == 1:
                    raise
                self._shrink()
                continue
            chains, broken = self._take(output)
            self.finished += len(chains)
            turns += 1
            if self.options.progress and (chains or turns % REPORT_EVERY == 0):
                self.options.progress(self.made, self.finished, self.total)
            if chains:
                self.batch.threads.release()  # the caller has its own number meanwhile
            yield from chains
            if broken is not None:
                raise broken

    def _shrink(self) -> None:
        """Halves the slots. Rows that lose theirs are decoded again later, for open budgets."""
        slots = self.batch.slots // 2
        warnings.warn(f"Out of memory: going on with {slots} rows at a time.", stacklevel=4)
        self.prefills.clear()  # computed again when needed
        for sequence in reversed(self.batch.shrink(slots)):
            again = replace(sequence.request, budgets=sequence.open_budgets)
            self.waiting.appendleft(again)
            self.wanting[again.prefill_key] += 1

    # ---------------------------------------------------------------- filling slots

    def _fill(self) -> None:
        """Fills free slots with waiting requests, a few at a time; at the end with open tasks."""
        free = self.batch.slots - len(self.batch)
        together = max(1, self.batch.slots // 16)
        if self.waiting and (free >= together or not len(self.batch)):
            self._admit(min(free, len(self.waiting)))
        elif not self.waiting and free:
            self._spread(free)

    def _admit(self, count: int) -> None:
        """Moves the first `count` waiting requests into free slots."""
        new = [self.waiting[i] for i in range(count)]
        self._prefill(new)
        first = len(self.batch)
        by_prefix: dict[int, tuple[Prefix, list[int], list[int]]] = {}
        for slot, request in enumerate(new, start=first):
            if (have := self.prefills.get(request.prefill_key)) is not None:
                _, slots, picks = by_prefix.setdefault(id(have.prefix), (have.prefix, [], []))
                slots.append(slot)
                picks.append(have.row)
        for prefix, slots, picks in by_prefix.values():
            width = max(len(new[s - first].read) for s in slots)
            self.batch.load(slots, prefix, picks, width)
        for request in new:  # nothing allocates memory from here on, so no request is lost
            self.waiting.popleft()
            self.batch.add(request)
            key = request.prefill_key
            self.wanting[key] -= 1
            if not self.wanting[key]:
                self.prefills.pop(key, None)

    def _prefill(self, new: list[Request]) -> None:
        """Computes the missing keys and values of all given tokens but the last of each request."""
        todo: dict[Any, Request] = {}
        for r in (*new, *self._neighbors(len(new))):
            if r.prefill_key not in self.prefills and len(r.read) > 1:
                todo.setdefault(r.prefill_key, r)
        # requests with one prompt side by side, because they share blocks
        items = sorted(todo.items(), key=lambda item: (len(item[1].read), item[1].read))
        while items:
            width = len(items[-1][1].read) - 1  # the longest request sets the width of its pass
            count = max(1, min(len(items), PREFILL_TOKENS // width))
            while len(items[-count][1].read) < PADDED * width and width * count > ENOUGH_TOKENS:
                count -= 1
            part, items = items[-count:], items[:-count]
            prefix = self.batch.prefill([r for _, r in part], width)
            for i, (key, _) in enumerate(part):
                self.prefills[key] = _SharedPrefill(prefix, i)

    def _neighbors(self, count: int) -> Iterator[Request]:
        """Yields waiting requests with the same prompt as the last of the first `count`."""
        prompt = self.waiting[count - 1].read
        most = PREFILL_TOKENS // len(prompt)
        for r in itertools.islice(self.waiting, count, count + most):
            if r.read != prompt:
                return
            yield r

    def _spread(self, free: int) -> None:
        """Moves open tasks of rows to free slots when no request waits, so the end comes sooner."""
        batch = self.batch
        for slot, sequence in enumerate(list(batch.sequences)):
            tasks = sequence.split(int(batch.table.step[slot])) if free > 0 else []
            batch.table.limit[slot] = sequence.limit
            for task in sorted(tasks, key=lambda t: -t.cut):
                if free <= 0 or task.start >= sequence.max_tokens:
                    sequence.tasks.append(task)
                    continue
                batch.fork(slot, task)
                free -= 1

    # ---------------------------------------------------------------- what came out

    def _take(self, output: StepOutput) -> tuple[list[Chain], NonFiniteError | None]:
        """Writes the stride into the table and handles every row with an event."""
        batch, tokens = self.batch, output.tokens  # [n, k]
        n, passes = tokens.shape
        index, forced = batch.table.write(output)  # [n, k] each
        thinks = batch.table.thinks[:n, None]
        ended = self.marks.may_end(tokens) & thinks & ~forced
        stopped = np.isin(tokens, self.stop_ids) & ~forced
        event = ended | stopped | (index + 1 >= batch.table.limit[:n, None]) | ~output.finite
        if self.stop:
            event |= self.stop.may_complete(tokens) & ~thinks & ~forced
        if self.events.line:
            event |= self.events.line.may_complete(tokens) & ~thinks & ~forced
        if self.options.stop_on_loop:
            event |= ((index + 1) % LOOP_EVERY == 0) & ~forced
        if batch.runner.watches_loops:
            event |= self.events.looks(index) & ~forced
        counts = np.full(n, passes) if output.counts is None else output.counts
        event &= np.arange(passes) < counts[:, None]

        self.made += int(counts.sum())
        chains: list[Chain] = []
        broken: NonFiniteError | None = None
        done: list[int] = []
        kept = counts.copy()  # tokens of the stride that the chain of each row keeps
        for slot in np.flatnonzero(event.any(1)).tolist():
            for k in np.flatnonzero(event[slot]).tolist():
                count = int(index[slot, k]) + 1
                if not output.finite[slot, k]:
                    broken = broken or _non_finite(batch.sequences[slot], count - 1)
                    break
                what = self.events.happened(
                    slot, count, bool(ended[slot, k]), bool(stopped[slot, k]), chains
                )
                if what == "nothing":
                    continue
                self.made -= int(counts[slot]) - 1 - k
                kept[slot] = k + 1
                if what == "done":
                    done.append(slot)
                elif what == "answer":
                    batch.rewind(slot, count)
                    if batch.runner.state.watches_events:
                        batch.state_changed()
                break
        batch.settle(kept, done)
        batch.remove(done)
        return chains, broken


def _non_finite(sequence: SequenceState, step: int) -> NonFiniteError:
    """Returns the error that names the request and the step."""
    r = sequence.request
    return NonFiniteError(
        f"A logit is not a finite number: variant {r.variant.name!r}, problem {r.problem!r}, "
        f"sample {r.sample}, step {step}. Expected finite logits. Chains finished before are kept; "
        "leave this variant out, or load the model in float32."
    )
