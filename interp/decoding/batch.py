"""The decoder's tables on the host: one row a slot, what it is to read next and what it has made.

Rows are kept dense (slots 0..n-1). A slot's numbers move as one when a row moves, and its columns
are copied when a row is forked, so nothing about a row lies anywhere else but in its `Row` (what
it is doing) and in the key/value cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from interp.chains.periods import loop_from
from interp.decoding.sequence import Row, SlotRecord
from interp.interventions.timeline import NO_TOKEN
from interp.interventions.windows import NEVER

COLUMNS = 256  # to begin with
# of one row: the index of the next generated token; prompt tokens; where its task ends; the first
# index the model chooses itself; the token to be read next; the key of its noise; the first steps
# of its answer and after its loop
NUMBERS = ("step", "prompt", "limit", "own", "last", "noise", "answer_from", "loop_from")


class SlotTable:
    """Numbers [n] and columns [n, columns] of every slot. stream [n, columns, L, 4] if recorded."""

    def __init__(self, n: int, n_blocks: int, record: bool) -> None:
        for name in NUMBERS:
            setattr(self, name, np.zeros(n, np.int64))
        self.thinks = np.zeros(n, bool)
        self.fresh = np.ones(n, bool)  # whether its next pass is not a repetition of an earlier one
        self.tokens = np.zeros((n, COLUMNS), np.int64)
        self.logprob = np.full((n, COLUMNS), np.nan, np.float32)
        self.entropy = np.full((n, COLUMNS), np.nan, np.float32)
        self.forced = np.zeros((n, COLUMNS), bool)
        self.stream = np.zeros((n, COLUMNS, n_blocks, 4), np.float32) if record else None

    step: np.ndarray
    prompt: np.ndarray
    limit: np.ndarray
    own: np.ndarray
    last: np.ndarray
    noise: np.ndarray
    answer_from: np.ndarray
    loop_from: np.ndarray

    def _columns(self) -> Iterator[tuple[str, np.ndarray]]:
        for name in ("tokens", "logprob", "entropy", "forced", "stream"):
            if (table := getattr(self, name)) is not None:
                yield name, table

    def widen(self, columns: int) -> None:
        """Makes room for `columns` generated tokens a row."""
        have = self.tokens.shape[1]
        if columns <= have:
            return
        for name, table in list(self._columns()):
            shape = (table.shape[0], max(columns - have, have // 2), *table.shape[2:])
            blank = np.nan if name in ("logprob", "entropy") else 0
            more = np.full(shape, blank, table.dtype)
            setattr(self, name, np.concatenate([table, more], axis=1))

    def enter(self, slot: int, row: Row) -> None:
        """Brings a slot's numbers in line with the task that its row has just begun."""
        task, prompt = row.task, row.request.prompt_ids
        self.prompt[slot] = len(prompt)
        self.step[slot] = task.cut
        self.last[slot] = self.tokens[slot, task.cut - 1] if task.cut else prompt[-1]
        self.own[slot] = task.start
        self.limit[slot] = row.limit
        self.thinks[slot] = row.thinking
        self.noise[slot] = row.request.key
        self.answer_from[slot] = row.answer_from
        found = row.loop_at
        seen = found is not None and found <= task.cut
        self.loop_from[slot] = loop_from(found) if found is not None and seen else NEVER

    def given(self, slot: int, prefix: tuple[int, ...]) -> None:
        """Writes the tokens a chain is to begin with: nobody chose them here."""
        n = len(prefix)
        self.widen(n)
        self.tokens[slot, :n] = prefix
        self.forced[slot, :n] = True
        self.logprob[slot, :n] = self.entropy[slot, :n] = np.nan
        if self.stream is not None:
            self.stream[slot, :n] = np.nan

    def fork(self, source: int, target: int, cut: int) -> None:
        """Copies the first `cut` columns."""
        for _, table in self._columns():
            table[target, :cut] = table[source, :cut]

    def move(self, source: int, target: int) -> None:
        """Everything of one slot to another."""
        self.fork(source, target, int(self.step[source]))
        for name in (*NUMBERS, "thinks", "fresh"):
            table = getattr(self, name)
            table[target] = table[source]

    def record(self, slot: int) -> SlotRecord:
        stream = None if self.stream is None else self.stream[slot]
        return SlotRecord(
            self.tokens[slot], self.logprob[slot], self.entropy[slot], self.forced[slot], stream
        )

    def trail(self, n: int, reach: int) -> np.ndarray:
        """The last `reach` + 1 generated tokens up to the one to be read: [n, reach + 1]."""
        index = self.step[:n, None] - 1 + np.arange(-reach, 1)
        tokens = self.tokens[np.arange(n)[:, None], np.maximum(index, 0)]
        return np.where(index >= 0, tokens, NO_TOKEN)
