"""The host's table of what every row has generated.

Shapes: n rows in use of `slots`, L blocks, k passes of a stride. Numbers are int64.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interp.chains.periods import loop_from
from interp.decoding.sequence import SequenceState, SlotRecord
from interp.decoding.step_output import StepOutput
from interp.interventions.timeline import NO_TOKEN
from interp.interventions.windows import NEVER

COLUMNS = 256  # initial capacity of a row, in generated tokens
# the attributes of `SlotTable` that hold one number per slot
NUMBERS = ("step", "prompt", "limit", "own", "last", "noise", "answer_from", "loop_from")


class SlotTable:
    """The host's table of all slots: a few numbers per slot, and one column per generated token.

    A step is the index of a generated token. Columns grow as rows do (`widen`).

    Attributes:
        step: step of the next token, [slots].
        prompt: length of the prompt in tokens, [slots].
        limit: step at which the row's task ends, [slots].
        own: first step whose token the model chooses; the decoder writes the ones before, [slots].
        last: token that the next pass reads, [slots].
        noise: key of the row's sampling noise, [slots].
        answer_from: first step of the answer; `NEVER` while there is none, [slots].
        loop_from: first step after a loop; `NEVER` while none was found, [slots].
        thinks: whether the row is in its thinking, [slots], bool.
        tokens: generated token ids, [slots, columns].
        logprob: log-probability of each token in nats, [slots, columns], float32; nan where forced.
        entropy: entropy of each choice in nats, [slots, columns], float32; nan where forced.
        forced: whether the token was given or written, not chosen, [slots, columns], bool.
        stream: the numbers of `residual_record`, [slots, columns, L, 4], float32; None where
            nothing is recorded.
    """

    step: np.ndarray
    prompt: np.ndarray
    limit: np.ndarray
    own: np.ndarray
    last: np.ndarray
    noise: np.ndarray
    answer_from: np.ndarray
    loop_from: np.ndarray

    def __init__(self, slots: int, n_blocks: int, record: bool) -> None:
        """Allocates the table.

        Args:
            slots: number of slots.
            n_blocks: blocks of the model, L.
            record: whether to make room for the recorded residual stream.
        """
        for name in NUMBERS:
            setattr(self, name, np.zeros(slots, np.int64))
        self.thinks = np.zeros(slots, bool)
        self.tokens = np.zeros((slots, COLUMNS), np.int64)
        self.logprob = np.full((slots, COLUMNS), np.nan, np.float32)
        self.entropy = np.full((slots, COLUMNS), np.nan, np.float32)
        self.forced = np.zeros((slots, COLUMNS), bool)
        self.stream = np.zeros((slots, COLUMNS, n_blocks, 4), np.float32) if record else None

    def _columns(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the name and the array of everything that has one column per token."""
        for name in ("tokens", "logprob", "entropy", "forced", "stream"):
            if (table := getattr(self, name)) is not None:
                yield name, table

    def widen(self, columns: int) -> None:
        """Makes room for at least `columns` generated tokens per row."""
        have = self.tokens.shape[1]
        if columns <= have:
            return
        for name, table in list(self._columns()):
            shape = (table.shape[0], max(columns - have, have // 2), *table.shape[2:])
            blank = np.nan if name in ("logprob", "entropy") else 0
            more = np.full(shape, blank, table.dtype)
            setattr(self, name, np.concatenate([table, more], axis=1))

    def enter(self, slot: int, sequence: SequenceState) -> None:
        """Sets the numbers of a slot for the task that its sequence has just begun.

        Args:
            slot: the slot.
            sequence: the sequence in it.
        """
        task, prompt = sequence.task, sequence.request.prompt_ids
        self.prompt[slot] = len(prompt)
        self.step[slot] = task.cut
        self.last[slot] = self.tokens[slot, task.cut - 1] if task.cut else prompt[-1]
        self.own[slot] = task.start
        self.limit[slot] = sequence.limit
        self.thinks[slot] = sequence.thinking
        self.noise[slot] = sequence.request.key
        self.answer_from[slot] = sequence.answer_from
        found = sequence.loop_at
        seen = found is not None and found <= task.cut
        self.loop_from[slot] = loop_from(found) if found is not None and seen else NEVER

    def write_given(self, slot: int, prefix: tuple[int, ...]) -> None:
        """Writes the given tokens with which a chain begins, marked as forced.

        Args:
            slot: the slot.
            prefix: the token ids.
        """
        n = len(prefix)
        self.widen(n)
        self.tokens[slot, :n] = prefix
        self.forced[slot, :n] = True
        self.logprob[slot, :n] = self.entropy[slot, :n] = np.nan
        if self.stream is not None:
            self.stream[slot, :n] = np.nan

    def write(self, output: StepOutput) -> tuple[np.ndarray, np.ndarray]:
        """Appends what a stride gave to rows 0..n-1.

        Args:
            output: the output of k passes over n rows.

        Returns:
            The step of every new token, [n, k], and whether the decoder wrote it, [n, k].
        """
        n, passes = output.tokens.shape
        counts = np.full(n, passes) if output.counts is None else output.counts
        index = self.step[:n, None] + np.arange(passes)  # [n, k]
        forced = index < self.own[:n, None]
        # where a row drops drafts, it writes them too: its next tokens overwrite them
        slots = np.arange(n)[:, None]  # [n, 1], broadcast against index
        self.tokens[slots, index] = output.tokens
        self.logprob[slots, index] = np.where(forced, np.nan, output.logprob)
        self.entropy[slots, index] = np.where(forced, np.nan, output.entropy)
        self.forced[slots, index] = forced
        if self.stream is not None and output.stream is not None:
            self.stream[slots, index] = output.stream
        self.step[:n] += counts
        self.last[:n] = output.tokens[np.arange(n), counts - 1]
        return index, forced

    def copy(self, source: int, target: int, cut: int) -> None:
        """Copies the first columns of one slot to another; the numbers of the slot stay.

        Args:
            source: slot to copy from.
            target: slot to copy to.
            cut: columns to copy.
        """
        for _, table in self._columns():
            table[target, :cut] = table[source, :cut]

    def move(self, source: int, target: int) -> None:
        """Copies the columns and the numbers of one slot to another.

        Args:
            source: slot to copy from.
            target: slot to copy to.
        """
        self.copy(source, target, int(self.step[source]))
        for name in (*NUMBERS, "thinks"):
            table = getattr(self, name)
            table[target] = table[source]

    def record(self, slot: int) -> SlotRecord:
        """Returns what was generated in a slot, as views of the table."""
        stream = None if self.stream is None else self.stream[slot]
        return SlotRecord(
            self.tokens[slot], self.logprob[slot], self.entropy[slot], self.forced[slot], stream
        )

    def trail(self, rows: np.ndarray, step: np.ndarray, reach: int) -> np.ndarray:
        """Returns the last generated tokens before each lane's step.

        Args:
            rows: row of each lane, [lanes].
            step: step of the token that each lane chooses, [lanes].
            reach: tokens before the one that is read next.

        Returns:
            Token ids, [lanes, reach + 1]; `NO_TOKEN` before the first generated token.
        """
        index = step[:, None] - 1 + np.arange(-reach, 1)  # [lanes, reach + 1]
        tokens = self.tokens[rows[:, None], np.maximum(index, 0)]
        return np.where(index >= 0, tokens, NO_TOKEN)
