"""Probes for several horizons: how many tokens ahead does a block predict an event?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from interp.chains.chain import Chain
from interp.errors import UserError
from interp.interventions.interventions import VariantLike
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of
from interp.probes.features import MAX_BYTES, gather
from interp.probes.labels import Examples, check_masks, foretell
from interp.probes.probe import Probes, draw, probe
from interp.replay.batching import BATCH_TOKENS
from interp.replay.chunked_forward import CHUNK_TOKENS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@checked
@brief
@dataclass(frozen=True)
class Horizons:
    """Probes and their examples for each number of tokens ahead.

    Attributes:
        ahead: the horizons, in tokens.
        probes: the probes of each horizon.
        examples: the examples of each horizon.
    """

    ahead: tuple[int, ...]
    probes: tuple[Probes, ...]
    examples: tuple[Examples, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per horizon and block."""
        tables = []
        for ahead, found, examples in zip(self.ahead, self.probes, self.examples, strict=True):
            table = found.to_frame().assign(unmatched=examples.unmatched)
            table.insert(0, "ahead", ahead)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """AUC by block with intervals, one colour per horizon; filled where Holm's p is small.

        Args:
            ax: where to draw; default: a new figure.

        Returns:
            The axes.
        """
        axes = axes_of(ax, (7, 3.5))
        for i, (ahead, found) in enumerate(zip(self.ahead, self.probes, strict=True)):
            shift = (i - (len(self.ahead) - 1) / 2) * 0.6 / len(self.ahead)
            draw(found, axes, f"C{i}", f"within {ahead}", shift)
        return axes


@checked
def probe_ahead(
    model: ReasoningModel,
    chains: Sequence[Chain],
    masks: Sequence[Shaped[np.ndarray, "*_"]],
    ahead: Sequence[int] = (1, 8, 32),
    blocks: Sequence[int] | None = None,
    *,
    stream: Literal["resid_pre", "resid_post", "delta"] = "resid_post",
    variant: VariantLike | None = None,
    within: Sequence[Shaped[np.ndarray, "*_"]] | None = None,
    per_event: int | None = 4,
    negatives_from: Literal["all", "event", "never"] = "all",
    bin_tokens: int = 16,
    folds: int = 5,
    batch_tokens: int = BATCH_TOKENS,
    chunk_tokens: int | None = CHUNK_TOKENS,
    max_bytes: int = MAX_BYTES,
    seed: int = 0,
    **options: Any,
) -> Horizons:
    """`foretell`, `gather` and `probe` for several horizons; the chains are read once.

    The step and the last token read are baselines.

    Args:
        model: the model.
        chains: the chains.
        masks: for each chain [S], True where a token belongs to the event.
        ahead: horizons, in tokens.
        blocks: dense indices; default: all.
        stream: "resid_pre", "resid_post" or "delta".
        variant: the variant to run; None for the model as it is.
        within: for each chain [S], True for rows that may be used; default: those whose token the
            model chose itself.
        per_event: at most this many positives before each event; None for all.
        negatives_from: chains that give negatives: "all", those with the "event", or those that
            "never" have it.
        bin_tokens: width of the step bins in which negatives are matched, in tokens.
        folds: number of folds, cut by problem.
        batch_tokens: tokens per pass.
        chunk_tokens: columns read at a time; None for whole rows.
        max_bytes: most bytes that the features may take.
        seed: of draws, folds and shuffles.
        options: further arguments of `probe`.

    Returns:
        The probes of each horizon.

    Raises:
        UserError: an argument does not fit, or there are too few examples or problems.
    """
    named = sorted(model.layer_map if blocks is None else blocks)
    check_masks("mask", masks, [c.forced for c in chains])
    if not len(ahead):
        raise UserError("probe_ahead: no horizon; expected at least one number of tokens ahead.")
    allowed = [~c.forced for c in chains] if within is None else within
    examples = tuple(
        foretell(
            masks,
            n,
            [c.problem for c in chains],
            within=allowed,
            per_event=per_event,
            negatives_from=negatives_from,
            bin_tokens=bin_tokens,
            folds=folds,
            seed=seed,
        )
        for n in ahead
    )
    sites = [np.stack([e.chains, e.rows], axis=1) for e in examples]
    every, place = np.unique(np.concatenate(sites), axis=0, return_inverse=True)
    ends = np.searchsorted(every[:, 0], np.arange(len(chains) + 1))
    features = gather(
        model,
        chains,
        [every[a:b, 1] for a, b in pairwise(ends)],
        blocks=named,
        stream=stream,
        variant=variant,
        batch_tokens=batch_tokens,
        chunk_tokens=chunk_tokens,
        max_bytes=max_bytes,
    )
    cuts = np.cumsum([len(e) for e in examples])[:-1]
    probes = tuple(
        probe(
            features[where],
            e.labels,
            e.problems,
            blocks=named,
            rows=e.rows,
            bins=e.bins,
            folds=e.folds,
            baselines={"last_token": e.last_tokens(chains)},
            seed=seed,
            **options,
        )
        for e, where in zip(examples, np.split(place.ravel(), cuts), strict=True)
    )
    return Horizons(tuple(int(n) for n in ahead), probes, examples)
