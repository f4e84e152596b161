"""Labelled examples for probes: does an event begin within n tokens; how does a chain end?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from interp.chains.chain import Chain, Span
from interp.errors import UserError, did_you_mean
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.probes.fitting import auc_of
from interp.probes.folds import numbered, parts_of

TOKENS_KEPT = 256  # most columns of the last-token baseline


@brief
@dataclass(frozen=True)
class Examples:
    """Rows of chains with labels, sorted by chain and row, which is the order of `gather`.

    Attributes:
        asked: the question, for tables.
        chains: number of the chain of each example [K].
        rows: row of each example [K].
        labels: the answers [K].
        problems: problem of each example's chain [K].
        bins: step bin of each example, within which positions differ little [K].
        folds: the fold in which each problem is held out [K].
        unmatched: positives left out because no negative was left for them.
    """

    asked: str
    chains: Int[np.ndarray, " K"]
    rows: Int[np.ndarray, " K"]
    labels: Bool[np.ndarray, " K"]
    problems: Shaped[np.ndarray, " K"]
    bins: Int[np.ndarray, " K"]
    folds: Int[np.ndarray, " K"]
    unmatched: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def picks(self, n_chains: int) -> list[Int[np.ndarray, " k"]]:
        """The rows of each chain, for `gather`.

        Args:
            n_chains: number of chains.

        Returns:
            Rows [k] of each chain.
        """
        ends = np.searchsorted(self.chains, np.arange(n_chains + 1))
        return [self.rows[a:b] for a, b in pairwise(ends)]

    def last_tokens(self, chains: Sequence[Chain]) -> Float[np.ndarray, "K F"]:
        """One-hot of the last token read, for the most common tokens: a text baseline.

        Args:
            chains: the chains of the examples.

        Returns:
            float64 [K, F].
        """
        read = [
            int(chains[c].ids[s - 1] if s else chains[c].prompt_ids[-1])
            for c, s in zip(self.chains.tolist(), self.rows.tolist(), strict=True)
        ]
        _, column, count = np.unique(read, return_inverse=True, return_counts=True)
        common = np.argsort(-count, kind="stable")[:TOKENS_KEPT]
        return (column[:, None] == common).astype(np.float64)

    @property
    def position_auc(self) -> float:
        """AUC of the row number alone; 1/2 if it tells nothing."""
        return float(auc_of(self.rows.astype(float), self.labels, np.zeros(len(self)))[0])

    def to_frame(self) -> pd.DataFrame:
        """One row per example."""
        names = ("chains", "rows", "labels", "problems", "bins", "folds")
        columns = {name[:-1]: getattr(self, name) for name in names}
        return pd.DataFrame({"asked": self.asked} | columns)


@checked
def foretell(
    masks: Sequence[Shaped[np.ndarray, "*_"]],
    ahead: int,
    problems: Sequence[Any],
    *,
    within: Sequence[Shaped[np.ndarray, "*_"]] | None = None,
    per_event: int | None = 4,
    negatives: int = 1,
    negatives_from: Literal["all", "event", "never"] = "all",
    bin_tokens: int = 16,
    folds: int = 5,
    seed: int = 0,
) -> Examples:
    """Examples of "the event begins within the next `ahead` tokens".

    An event begins where its mask turns from False to True. Rows that have just read a token of the
    event, and rows whose next `ahead` tokens are not all generated, are never used. Each positive
    gets negatives from other chains in the same step bin, the nearest step first. Matches are made
    inside a
    fold: matches across folds would make the position that a probe learns work against it in the
    test.

    Args:
        masks: for each chain [S], True where a token belongs to the event
            (`interp.diagnosis.events.mark` makes some).
        ahead: horizon in tokens; 1 means the token chosen now.
        problems: the problem of each chain.
        within: for each chain [S], True for rows that may be used; default: all.
        per_event: at most this many positives are drawn before each beginning; None for all.
        negatives: negatives per positive.
        negatives_from: chains that give negatives: "all", those with the "event", or those that
            "never" have it.
        bin_tokens: width of the step bins, in tokens.
        folds: number of folds, cut by problem.
        seed: of draws and folds.

    Returns:
        The examples.

    Raises:
        UserError: an argument has a value that is not allowed, masks do not fit, or no positive has
            a negative.
    """
    for name, value in (("ahead", ahead), ("negatives", negatives), ("bin_tokens", bin_tokens)):
        if value < 1:
            raise UserError(f"foretell({name}={value}): expected 1 or more.")
    if per_event is not None and per_event < 1:
        raise UserError(f"foretell(per_event={per_event}): expected 1 or more, or None for all.")
    if negatives_from not in ("all", "event", "never"):
        known = ("all", "event", "never")
        raise UserError("foretell: " + did_you_mean(str(negatives_from), known, "negatives_from"))
    check_masks("mask", masks, masks)
    check_masks("mask of `within`", masks if within is None else within, masks)
    if len(problems) != len(masks):
        raise UserError(
            f"foretell: {len(problems)} problems for {len(masks)} chains: expected one each."
        )
    rng = np.random.default_rng(seed)
    positives: list[tuple[int, int]] = []
    others: list[tuple[int, int]] = []
    for number, mask in enumerate(masks):
        usable, coming = _coming(mask, ahead)
        if within is not None:
            usable &= within[number]
        for begin in np.unique(coming[usable & (coming >= 0)]):
            before = np.flatnonzero(usable & (coming == begin))
            few = per_event is not None and len(before) > per_event
            drawn = rng.choice(before, per_event, replace=False) if few else before
            positives += [(number, s) for s in drawn.tolist()]
        if negatives_from == "all" or bool(mask.any()) == (negatives_from == "event"):
            others += [(number, s) for s in np.flatnonzero(usable & (coming < 0)).tolist()]
    if not positives:
        raise UserError(
            f"foretell: the event never begins within {ahead} tokens of a usable row in "
            f"{len(masks)} chains; expected chains in which it happens."
        )
    happens = np.array([bool(mask.any()) for mask in masks])
    part = parts_of(happens, numbered(problems), folds, seed)
    kept, taken = _matched(np.array(positives), others, part, negatives, bin_tokens, rng)
    if not len(kept):
        raise UserError(
            f"foretell: none of {len(positives)} rows before the event has {negatives} rows of "
            f"another chain (negatives_from={negatives_from!r}) in its bin of {bin_tokens} steps "
            "and its fold: give more chains, wider bins or fewer folds."
        )
    where = np.concatenate([kept, taken])
    labels = np.arange(len(where)) < len(kept)
    order = np.lexsort((where[:, 1], where[:, 0]))
    chains, rows = where[order].T
    return Examples(
        asked=f"begins within {ahead}",
        chains=chains,
        rows=rows,
        labels=labels[order],
        problems=np.array(list(problems))[chains],
        bins=rows // bin_tokens,
        folds=part[chains],
        unmatched=len(positives) - len(kept),
    )


def check_masks(what: str, masks: Sequence[np.ndarray], like: Sequence[np.ndarray]) -> None:
    """Refuse masks that are not boolean or do not have the chains' lengths.

    Args:
        what: what the masks are, for the error.
        masks: one per chain.
        like: arrays with the expected lengths, one per chain.

    Raises:
        UserError: a mask is missing or does not fit.
    """
    if len(masks) != len(like):
        raise UserError(
            f"foretell: a {what} for {len(masks)} chains of {len(like)}: expected one each."
        )
    for number, (mask, other) in enumerate(zip(masks, like, strict=True)):
        if mask.ndim != 1 or mask.dtype != np.bool_ or mask.shape != other.shape:
            raise UserError(
                f"foretell: the {what} of chain {number} is {mask.dtype} of shape {mask.shape}; "
                f"expected a boolean for each of its {other.size} generated tokens."
            )


def _coming(
    mask: Bool[np.ndarray, " S"], ahead: int
) -> tuple[Bool[np.ndarray, " S"], Int[np.ndarray, " S"]]:
    """Which rows may be used, and the beginning that lies within `ahead` tokens (-1: none)."""
    rows = np.arange(len(mask))
    read = np.zeros_like(mask)  # whether the last token read belongs to the event
    read[1:] = mask[:-1]
    begins = np.flatnonzero(mask & ~read)
    following = np.append(begins, len(mask) + ahead)[np.searchsorted(begins, rows)]
    usable = ~read & (rows + ahead <= len(mask))
    return usable, np.where(following < rows + ahead, following, -1)


def _matched(
    positives: Int[np.ndarray, "N 2"],
    others: list[tuple[int, int]],
    part: Int[np.ndarray, " chains"],
    negatives: int,
    bin_tokens: int,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, "M 2"], Int[np.ndarray, "Q 2"]]:
    """Positives with `negatives` (chain, row) each: of other chains, same bin and part, nearest."""

    def cells(where: np.ndarray) -> np.ndarray:
        return where[:, 1] // bin_tokens * (part.max() + 1) + part[where[:, 0]]

    pool = rng.permutation(np.array(others, dtype=np.int64).reshape(-1, 2))
    asking, offered = cells(positives), cells(pool)
    kept, taken = [], []
    for cell in np.unique(asking):
        free = pool[offered == cell]
        for chain, row in rng.permutation(positives[asking == cell]):
            fits = np.flatnonzero(free[:, 0] != chain)
            if len(fits) < negatives:
                continue
            nearest = np.argsort(np.abs(free[fits, 1] - row), kind="stable")[:negatives]
            kept.append((chain, row))
            taken.append(free[fits[nearest]])
            free = np.delete(free, fits[nearest], axis=0)
    found = np.concatenate(taken) if taken else np.empty((0, 2), dtype=np.int64)
    return np.array(kept, dtype=np.int64).reshape(-1, 2), found


@checked
def outcome(
    chains: Sequence[Chain],
    labels: Sequence[bool] | Shaped[np.ndarray, " _"],
    *,
    fraction: float | None = None,
    before_end: int | None = None,
    part: Literal["thinking", "chain"] = "thinking",
    n_bins: int = 4,
    folds: int = 5,
    seed: int = 0,
) -> Examples:
    """One example per chain, labelled as a whole (a wrong answer, say), at one point of the chain.

    Chains whose part is empty or too short are left out. The bins are quantiles of the row, for
    shuffling. Long chains are more often wrong, and nothing is matched here: compare the AUC with
    the position baseline. Bins of steps are coarse, so shuffled labels keep only some of the
    information in the position.

    Args:
        chains: the chains.
        labels: one truth value per chain.
        fraction: the point, as a fraction of the part's tokens; 1 means that all are read and the
            next is chosen. Give either this or `before_end`.
        before_end: the point, in tokens before the part is completely read.
        part: "thinking" or "chain".
        n_bins: number of bins.
        folds: number of folds, cut by problem.
        seed: of the folds.

    Returns:
        The examples.

    Raises:
        UserError: an argument has a value that is not allowed, or no chain reaches the point.
    """
    truth = checked_labels(np.asarray(labels))
    if len(truth) != len(chains):
        raise UserError(
            f"outcome: {len(truth)} labels for {len(chains)} chains: expected one each."
        )
    if (fraction is None) == (before_end is None):
        raise UserError("outcome: give either fraction or before_end, and not both.")
    if fraction is not None and not 0 <= fraction <= 1:
        raise UserError(f"outcome(fraction={fraction}): expected a number from 0 to 1.")
    if before_end is not None and before_end < 0:
        raise UserError(f"outcome(before_end={before_end}): expected 0 tokens or more.")
    if part not in ("thinking", "chain"):
        raise UserError("outcome: " + did_you_mean(str(part), ("thinking", "chain"), "part"))
    if n_bins < 1:
        raise UserError(f"outcome(n_bins={n_bins}): expected 1 or more.")
    found = []
    for number, chain in enumerate(chains):
        span = chain.thinking if part == "thinking" else Span(0, chain.n_tokens)
        first, stop = span.start, span.stop
        last = min(stop, chain.n_tokens - 1)
        row = first + round((fraction or 0) * (last - first))
        if before_end is not None:
            row = last - before_end
        if stop > first and row >= first:
            found.append((number, row))
    if not found:
        raise UserError(
            f"outcome: no chain has a {part} that long; expected a point that one reaches."
        )
    where, rows = np.array(found, dtype=np.int64).T
    problems = np.array([chains[c].problem for c in where.tolist()])
    edges = np.quantile(rows, np.arange(1, n_bins) / n_bins)
    point = f"at {fraction:g}" if fraction is not None else f"{before_end} before the end"
    return Examples(
        asked=f"{point} of the {part}",
        chains=where,
        rows=rows,
        labels=truth[where],
        problems=problems,
        bins=np.searchsorted(edges, rows),
        folds=parts_of(truth[where], numbered(problems), folds, seed),
    )


def checked_labels(labels: np.ndarray) -> Bool[np.ndarray, " K"]:
    """Check labels.

    Args:
        labels: booleans, or 0 and 1 [K].

    Returns:
        bool [K].

    Raises:
        UserError: they are something else.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
        raise UserError(
            f"labels are {labels.dtype} of shape {labels.shape}: expected one truth value (or 0 "
            "and 1) per example."
        )
    return labels.astype(bool)
