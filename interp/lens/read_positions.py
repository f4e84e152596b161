"""Which positions of chains a lens reads, and the events that select them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from interp.chains.chain import Chain
from interp.errors import UserError, check_known
from interp.plumbing.brief_repr import brief
from interp.replay.batching import Ids
from interp.statistics.jackknife import jackknife_ratio

Events = Mapping[str, Sequence[np.ndarray]]
UNITS = ("problem", "chain")
ALL = "all"  # the event of a call that names none
NO_TOKEN = -1  # nothing was chosen here


@brief
@dataclass(frozen=True)
class Places:
    """The positions that a result holds, and the events that selected them.

    Attributes:
        chain: number of the chain of each position [K].
        step: step of each position [K].
        lengths: number of steps of each chain [N].
        problems: problem of each chain; a plain sequence is a problem of its own.
        events: event -> True for the positions that lie in it [K].
    """

    chain: Int[np.ndarray, " K"]
    step: Int[np.ndarray, " K"]
    lengths: Int[np.ndarray, " N"]
    problems: tuple[str, ...]
    events: dict[str, Bool[np.ndarray, " K"]]

    def __len__(self) -> int:
        return len(self.chain)

    @property
    def at(self) -> Int[np.ndarray, " K"]:
        """Number of each position among all steps of all chains [K]."""
        return starts_of(self.lengths)[self.chain] + self.step

    def inside(self, events: Events | None) -> dict[str, Bool[np.ndarray, " K"]]:
        """Which positions lie in each event.

        Args:
            events: for each event one mask [S] per chain, or step numbers; None for the events of
                the call.

        Returns:
            event -> bool [K].

        Raises:
            UserError: a mask does not fit its chain, or an event has positions that were not read.
        """
        if events is None:
            return self.events
        found = {}
        for name, marks in events.items():
            marked = _marked(name, marks, self.lengths)
            found[name] = marked[self.at]
            if missing := int(marked.sum() - found[name].sum()):
                raise UserError(
                    f"Event {name!r} has {missing} positions that were not read: "
                    "name it in the call that reads them."
                )
        return found

    def means(
        self, values: Float[np.ndarray, "R K"], inside: Bool[np.ndarray, " K"], unit: str
    ) -> dict[str, Any]:
        """Mean of each row over some positions, with its jackknife interval over units.

        Positions where a value is nan (no target there) do not count.

        Args:
            values: [R, K].
            inside: the positions that count [K].
            unit: the independent units, "problem" or "chain".

        Returns:
            "mean", "low" and "high", each [R], and the numbers of positions and units.

        Raises:
            UserError: the unit is unknown.
        """
        check_known(unit, UNITS, "unit")
        names = {p: i for i, p in enumerate(dict.fromkeys(self.problems))}
        of_chain = np.array([names[p] for p in self.problems])
        units = self.chain if unit == "chain" else of_chain[self.chain]
        used = inside & ~np.isnan(values).any(axis=0)
        present, column = np.unique(units[used], return_inverse=True)
        sums = np.zeros((len(present), len(values)))
        np.add.at(sums, column, values[:, used].T.astype(np.float64))
        counts = np.bincount(column, minlength=len(present)).astype(np.float64)
        counts = np.broadcast_to(counts, (len(values), len(present)))
        with np.errstate(invalid="ignore"):
            mean = sums.sum(0) / counts.sum(1)
        low, high = jackknife_ratio(np.ascontiguousarray(sums.T), counts)
        size = {"positions": int(used.sum()), f"{unit}s": len(present)}
        return {"mean": mean, "low": low, "high": high, **size}

    def by_event(
        self,
        rows: Sequence[tuple[dict[str, Any], Float[np.ndarray, "R K"]]],
        events: Events | None,
        unit: str,
    ) -> pd.DataFrame:
        """Means of several tables over the positions of each event, with their intervals.

        Args:
            rows: For each table, its columns of names and its values.
            events: for each event one mask [S] per chain, or step numbers; None for the events of
                the call.
            unit: the independent units of the intervals, "problem" or "chain".

        Returns:
            One row per event and row of a table.

        Raises:
            UserError: the unit is unknown, there is no event, or one has positions that were not
                read.
        """
        tables = [
            pd.DataFrame({"event": event} | head | self.means(values, inside, unit))
            for event, inside in self.inside(events).items()
            for head, values in rows
        ]
        if not tables:
            raise UserError("by_event: no event was given; expected at least one, or events=None.")
        return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class Text:
    """One sequence to read.

    Attributes:
        ids: token ids [T].
        first: the position of step 0.
        chosen: the token that each step chose [S]; -1 if none is known.
        problem: name of its problem.
        chain: the chain, or None for a plain sequence.
    """

    ids: Int[np.ndarray, " T"]
    first: int
    chosen: Int[np.ndarray, " S"]
    problem: str
    chain: Chain | None = None


def read_texts(chains: Sequence[Chain | Ids]) -> list[Text]:
    """Turn chains or plain sequences into texts.

    Args:
        chains: chains, or sequences of token ids; not both.

    Returns:
        One text each.

    Raises:
        UserError: there is none, kinds are mixed, or one cannot be read.
    """
    if not len(chains):
        raise UserError("No chain given: expected at least one chain or sequence of token ids.")
    if len({isinstance(one, Chain) for one in chains}) > 1:
        raise UserError("Chains and plain sequences in one call: expected one or the other.")
    found = []
    for n, one in enumerate(chains):
        if isinstance(one, Chain):
            if not len(one.prompt_ids):
                raise UserError(
                    f"Chain {n} has no prompt: expected a pass that chose its first token."
                )
            ids = np.concatenate([one.prompt_ids, one.ids])
            found.append(Text(ids, len(one.prompt_ids) - 1, one.ids, one.problem, one))
            continue
        ids = np.asarray(one, dtype=np.int64)
        if ids.ndim != 1:
            raise UserError(f"Sequence {n} has shape {ids.shape}: expected token ids [T].")
        chosen = np.append(ids[1:], NO_TOKEN)[: len(ids)]
        found.append(Text(ids, 0, chosen, f"sequence {n}"))
    return found


def starts_of(lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Number of the first step of each chain, among all steps of all chains.

    Args:
        lengths: steps per chain [N].

    Returns:
        [N].
    """
    return np.cumsum(lengths) - lengths


def _marked(
    name: str, marks: Sequence[np.ndarray], lengths: Int[np.ndarray, " N"]
) -> Bool[np.ndarray, " A"]:
    """All steps of all chains in one array, True inside the event."""
    if len(marks) != len(lengths):
        raise UserError(
            f"Event {name!r} has {len(marks)} masks for {len(lengths)} chains: expected one each."
        )
    found = []
    for n, (mark, length) in enumerate(zip(marks, lengths.tolist(), strict=True)):
        mark = np.asarray(mark)
        if mark.dtype == bool:
            if mark.shape != (length,):
                raise UserError(
                    f"Event {name!r}: the mask of chain {n} has shape {mark.shape}; the chain has "
                    f"{length} steps."
                )
            found.append(mark)
            continue
        if mark.size and not (np.issubdtype(mark.dtype, np.integer) and mark.ndim == 1):
            raise UserError(
                f"Event {name!r}, chain {n}: expected a boolean mask [S] or step numbers, got "
                f"{mark.dtype} of shape {mark.shape}."
            )
        if mark.size and not (mark.min() >= 0 and mark.max() < length):
            raise UserError(
                f"Event {name!r}: steps {mark.min()}..{mark.max()} of chain {n} are outside its "
                f"{length} steps (0..{length - 1})."
            )
        found.append(np.isin(np.arange(length), mark))
    return np.concatenate(found)


def find_places(texts: Sequence[Text], events: Events | None) -> Places:
    """Collect the positions that any event selects.

    Args:
        texts: the chains.
        events: for each event one mask [S] per chain, or step numbers; None selects every step.

    Returns:
        The positions.

    Raises:
        UserError: a mask does not fit its chain, or no position is selected.
    """
    lengths = np.array([len(t.chosen) for t in texts], dtype=np.int64)
    if events is None:
        marked = {ALL: np.ones(lengths.sum(), dtype=bool)}
    else:
        marked = {name: _marked(name, marks, lengths) for name, marks in events.items()}
    read = np.logical_or.reduce([*marked.values(), np.zeros(lengths.sum(), dtype=bool)])
    if not read.any():
        raise UserError("No position to read: the chains are empty, or no event has a step.")
    chain = np.repeat(np.arange(len(texts)), lengths)[read]
    step = np.flatnonzero(read) - starts_of(lengths)[chain]
    inside = {name: mark[read] for name, mark in marked.items()}
    return Places(chain, step, lengths, tuple(t.problem for t in texts), inside)
