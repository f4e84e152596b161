"""Folds of whole problems, and shuffles of labels that keep a problem's labels together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from interp.errors import UserError


def strata_of(
    fold: np.ndarray, group: np.ndarray, bins: np.ndarray | None
) -> Int[np.ndarray, " K"]:
    """The strata in which labels are shuffled: bin and fold.

    If a fold holds a single problem, the stratum is the bin alone. Examples that were matched
    inside a fold stay matched, so the control gets no more information about position than the
    probe.

    Args:
        fold: the fold of each example [K].
        group: the problem of each example [K].
        bins: the bin of each example [K], or None.

    Returns:
        Stratum numbers [K].
    """
    parts = np.zeros_like(group) if bins is None else np.asarray(bins, dtype=np.int64)
    if min(len(np.unique(group[fold == number])) for number in np.unique(fold)) > 1:
        parts = parts * (fold.max() + 1) + fold
    return parts


def shuffled(
    labels: np.ndarray, group: np.ndarray, strata: np.ndarray, rng: np.random.Generator
) -> Bool[np.ndarray, " K"]:
    """Labels in which each problem takes those of another problem of its stratum, in their order.

    They are cut or stretched to fit. The two orders of the problems are the same in all strata, so
    a problem's labels stay together.

    Args:
        labels: bool [K].
        group: the problem of each example [K].
        strata: the stratum of each example [K].
        rng: source of randomness.

    Returns:
        bool [K].
    """
    here, there = (rng.permutation(group.max() + 1) for _ in range(2))
    out = np.empty_like(labels)
    for number in np.unique(strata):
        rows = np.flatnonzero(strata == number)
        own = {g: rows[group[rows] == g] for g in np.unique(group[rows]).tolist()}
        pairs = zip(sorted(own, key=here.item), sorted(own, key=there.item), strict=True)
        for taker, giver in pairs:
            given, size = labels[own[giver]], len(own[taker])
            out[own[taker]] = given[((np.arange(size) + 0.5) * len(given) / size).astype(int)]
    return out


def numbered(names: Sequence[Any] | np.ndarray) -> Int[np.ndarray, " K"]:
    """Names as numbers from 0, in sorted order.

    Args:
        names: [K].

    Returns:
        int [K].
    """
    return np.unique(np.array(list(names)), return_inverse=True)[1]


def parts_of(labels: np.ndarray, group: np.ndarray, folds: int, seed: int) -> Int[np.ndarray, " K"]:
    """Cut whole problems into folds, with both labels spread as evenly as possible.

    Args:
        labels: bool [K].
        group: the problem of each example [K].
        folds: number of folds.
        seed: of the cut.

    Returns:
        The fold of each example [K].

    Raises:
        UserError: there are fewer problems than folds, or fewer than 2 folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    n_groups = len(np.unique(group))
    if not 2 <= folds <= n_groups:
        raise UserError(
            f"{n_groups} problems cannot be cut into {folds} folds: expected from 2 folds to as "
            "many as there are problems; give more problems, or fewer folds."
        )
    rarest = np.bincount(labels.astype(int), minlength=2).min()
    spread = labels if rarest >= folds else np.zeros_like(labels)
    part = np.empty(len(labels), dtype=np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(splitter.split(labels, spread, group)):
        part[test] = number
    return part


def checked_folds(
    labels: np.ndarray, group: np.ndarray, folds: int | np.ndarray, seed: int
) -> Int[np.ndarray, " K"]:
    """The fold of each example, checked so that probes can be fitted and tested.

    Args:
        labels: bool [K].
        group: the problem of each example [K].
        folds: number of folds, or the fold of each example [K].
        seed: of the cut, if a number is given.

    Returns:
        The fold of each example [K].

    Raises:
        UserError: a label occurs in fewer than 2 problems, a problem lies in several folds, or a
            training or test part lacks a label.
    """
    for name in (True, False):
        if len(np.unique(group[labels == name])) < 2:
            raise UserError(
                f"probe: {int((labels == name).sum())} of {len(labels)} examples are {name}, in "
                f"{len(np.unique(group[labels == name]))} problems; expected at least 2 problems "
                "with each label."
            )
    fold = folds if isinstance(folds, np.ndarray) else parts_of(labels, group, folds, seed)
    if len(np.unique(np.stack([group, fold]), axis=1).T) > len(np.unique(group)):
        raise UserError(
            "probe: a problem lies in several folds; expected one fold for all its examples."
        )
    numbers = np.unique(fold)
    trained = all(len(np.unique(labels[fold != n])) == 2 for n in numbers)
    if not trained or not any(len(np.unique(labels[fold == n])) == 2 for n in numbers):
        raise UserError(
            f"probe: {len(numbers)} folds of {len(np.unique(group))} problems leave a training "
            "part without one of the labels, or no test part with both; give examples of more "
            "problems, or another number of folds."
        )
    return fold
