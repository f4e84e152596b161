"""Linear probes on the residual stream: does block l foretell an event before it shows?

    masks = mark(chains, model)["loop"]                            # interp.events
    asked = foretell(masks, 8, [c.problem for c in chains])        # rows, labels, bins, folds
    features = gather(model, chains, asked.picks(len(chains)))
    found = probe(features, asked.labels, asked.problems, bins=asked.bins, folds=asked.folds)

`probe_ahead` is all of that for several horizons; `outcome` labels whole chains (a wrong answer).
A probe above chance proves little, so each stands beside its controls, and what it claims is the
distance to them:

| control | what it is |
|---|---|
| position | the same probe on the step alone; `foretell` matches examples by step beforehand |
| text | the same probe on the last token read, or on whatever else is handed in |
| shuffled labels | the same probe, each problem's labels given to another of its fold and bin |

AUC less the mean of the last control is the selectivity (after Hewitt and Liang, arXiv 1909.03368).

A probe is a logistic regression on standardised features, cross-validated by problem: no problem
lies in training and test at once, for features tell problems apart with ease. AUC is the share of
(positive, negative) pairs of one test fold that are put in order, over the pairs of all folds.
Pairs across folds are left out: their scores come from different fits, and pooling them biases an
AUC without signal to below .5 (Parker, Guenter and Bedo 2007, BMC Bioinformatics 8:326).

Labels of one problem go together, and so do its features: labels shuffled one by one give a
control that is too narrow. In simulations without signal, with features and labels clustered by
problem (and ridge regression for speed), p < .05 came up in 8 to 27 % of cases for labels shuffled
one by one, and in 4 % for the shuffle used here. p takes the AUC for one more draw beside the M
shuffled ones, all normal (Student's t with M - 1 degrees), so 20 shuffles can give a small p;
`null` holds them all.

Positions: row s is the pass that chose generated token s, at sequence position P - 1 + s.
Shapes: K examples, L blocks (dense indices), D residual width, S tokens of a chain.

Cost: L x folds x (1 + permutations) fits, and 3 times as many more for each of several C. One fit
takes, on one core, 2 ms (400 x 32), 14 ms (4000 x 128) or 60 ms (1600 x 2048). Where D is over
twice the rows, features are first rotated onto the principal components of the rows, once a fold,
which changes no fit: 1000 x 8192 with the defaults takes 5 s a block. `components` keeps only the
first of them: faster, and blind to directions of small variance.

Caveats: a probe shows what can be read out, not what the model uses. The interval resamples
problems but keeps the fits: at a nominal .95 it covered .85 to .94 with 30 to 40 simulated
problems, and it shrinks to a point at an AUC of 1. Negatives of chains where the event never
happens let a probe find hard problems instead of coming events: compare `negatives_from="event"`.
A loop begins with the first token of its first pass, before anything is repeated; a mask from
onset + period on asks for the first repeated token instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from interp.capture import Batch, Reducer, capture
from interp.chains import Chain, Span
from interp.errors import NonFiniteError, UserError, did_you_mean
from interp.interventions import VariantLike
from interp.model import ReasoningModel
from interp.replay import BATCH_TOKENS, CHUNK_TOKENS, Ids, Reader, bypass, present
from interp.statistics import Interval, holm
from interp.statistics.intervals import check_level

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

STREAMS = ("resid_pre", "resid_post", "delta")
MAX_BYTES = 2 * 2**30
INNER_FOLDS = 3  # by which C is chosen, inside each training part
MAX_ITERATIONS = 1000
TOKENS_KEPT = 256  # columns of the last-token baseline


# ------------------------------------------------------------------------------- features


@torch.no_grad()
def gather(
    model: ReasoningModel,
    chains: Sequence[Chain],
    picks: Sequence[Ids],
    *,
    blocks: Sequence[int] | None = None,
    stream: Literal["resid_pre", "resid_post", "delta"] = "resid_post",
    variant: VariantLike | None = None,
    batch_tokens: int = BATCH_TOKENS,
    chunk_tokens: int | None = CHUNK_TOKENS,
    max_bytes: int = MAX_BYTES,
) -> Float[np.ndarray, "K L D"]:
    """The stream of each block at chosen rows of chains, in float32, in the order of `picks`.

    picks: for each chain the rows wanted (0 .. S - 1; none is fine). blocks: dense indices, in
    the order wanted; default: all that the model has. variant: what reads the chains, its windows
    where they lay at decoding (default: the model as it is, whatever variant wrote them).
    batch_tokens, chunk_tokens: as for `replay`. Chains are read up to their last pick and blocks
    up to the last one asked for. What would take more than `max_bytes` is refused.
    """
    if stream not in STREAMS:
        raise UserError("gather: " + did_you_mean(str(stream), STREAMS, "stream"))
    named = list(model.layer_map if blocks is None else blocks)
    if not named or len(set(named)) < len(named):
        raise UserError(f"gather(blocks={named}): expected at least one block, and none twice.")
    places = present(model, named)
    rows = _checked_rows(chains, picks)
    starts = np.cumsum([0, *map(len, rows)])
    shape = (int(starts[-1]), len(places), model.d_model)
    if (size := 4 * int(np.prod(shape))) > max_bytes:
        raise UserError(
            f"gather: {shape[0]} rows x {shape[1]} blocks x {shape[2]} numbers take "
            f"{size / 2**30:.2f} GiB; allowed are {max_bytes / 2**30:.2f}. Pick fewer rows, name "
            "fewer blocks, or raise max_bytes."
        )
    used = [c for c, wanted in enumerate(rows) if len(wanted)]
    reader = Reader.of_chains(model, [chains[c] for c in used], batch_tokens, chunk_tokens)
    prompts = [len(chains[c].prompt_ids) for c in used]
    reader.sequences = [  # to the last pass wanted
        ids[: first + int(rows[c].max())]
        for ids, first, c in zip(reader.sequences, prompts, used, strict=True)
    ]
    out = np.empty(shape, dtype=np.float32)
    with bypass(model, range(max(places) + 1, model.n_blocks)):
        for batch in reader.batches():
            texts = batch.texts.tolist()
            own = np.repeat(np.arange(len(texts)), [len(rows[used[t]]) for t in texts])
            at = np.concatenate([prompts[t] - 1 + rows[used[t]] for t in texts])
            into = np.concatenate([starts[used[t]] + np.arange(len(rows[used[t]])) for t in texts])
            reading = reader.read(batch, variant)
            for columns in reading.pieces:
                here = np.flatnonzero((columns.start <= at) & (at < columns.stop))
                if not len(here):
                    reading(columns)  # what comes later attends to it
                    continue
                picked = _Picked(stream, places, own[here], at[here] - columns.start)
                with capture(model, picked, n_texts=len(texts)):
                    reading(columns)
                out[into[here]] = picked.result()
    return out


class _Picked(Reducer):
    """Keeps `stream` of the blocks at `places`, at (row, position) of one pass."""

    chunked = True

    def __init__(
        self, stream: str, places: list[int], rows: np.ndarray, positions: np.ndarray
    ) -> None:
        self.stream, self.places = stream, places
        self.rows, self.positions = torch.from_numpy(rows), torch.from_numpy(positions)

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        self.layer_map = model.layer_map
        self.kept: dict[int, Tensor] = {}

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: Batch
    ) -> None:
        if index not in self.places:
            return
        if self.rows.device != y.device:
            self.rows, self.positions = self.rows.to(y.device), self.positions.to(y.device)
        entering, leaving = (v[self.rows, self.positions].float() for v in (x, y))
        parts = {"resid_pre": entering, "resid_post": leaving, "delta": leaving - entering}
        self.kept[index] = parts[self.stream]

    def result(self) -> Float[np.ndarray, "K L D"]:
        found = np.stack([self.kept[place].cpu().numpy() for place in self.places], axis=1)
        whole = [bool(np.isfinite(found[:, i]).all()) for i in range(len(self.places))]
        if bad := [
            self.layer_map[p] for p, fine in zip(self.places, whole, strict=True) if not fine
        ]:
            raise NonFiniteError(
                f"The residual stream of block {bad} holds inf or nan at a picked row: check the "
                "weights, or use float32."
            )
        return found


def _checked_rows(chains: Sequence[Chain], picks: Sequence[Ids]) -> list[np.ndarray]:
    if len(chains) != len(picks):
        raise UserError(f"gather: {len(chains)} chains but picks for {len(picks)}: one each.")
    rows = []
    for number, (chain, wanted) in enumerate(zip(chains, picks, strict=True)):
        found = np.asarray(wanted)
        if found.ndim != 1 or (found.dtype.kind not in "iu" and found.size):
            raise UserError(
                f"gather: picks of chain {number} are {found.dtype} of shape {found.shape}; "
                "expected row numbers (np.flatnonzero of a mask)."
            )
        found = found.astype(np.int64)
        if found.size and not 0 <= found.min() <= found.max() < chain.n_tokens:
            raise UserError(
                f"gather: chain {number} has rows 0..{chain.n_tokens - 1}, one a generated token; "
                f"picked were {found.min()}..{found.max()}."
            )
        rows.append(found)
    return rows


# ------------------------------------------------------------------------------- labels


@dataclass(frozen=True)
class Examples:
    """Rows of chains with labels, sorted by chain and row: the order in which `gather` returns.

    problems: of each example's chain. bins: the step bin, within which examples differ little in
    position. folds: the part that each problem is held out with. unmatched: positives left out
    because no negative was left for them.
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
        """The rows of each of `n_chains` chains, for `gather`."""
        ends = np.searchsorted(self.chains, np.arange(n_chains + 1))
        return [self.rows[a:b] for a, b in pairwise(ends)]

    def last_tokens(self, chains: Sequence[Chain]) -> Float[np.ndarray, "K F"]:
        """One-hot of the last token read, for the commonest ones: a text baseline."""
        read = [
            int(chains[c].ids[s - 1] if s else chains[c].prompt_ids[-1])
            for c, s in zip(self.chains.tolist(), self.rows.tolist(), strict=True)
        ]
        _, column, count = np.unique(read, return_inverse=True, return_counts=True)
        common = np.argsort(-count, kind="stable")[:TOKENS_KEPT]
        return (column[:, None] == common).astype(np.float64)

    @property
    def position_auc(self) -> float:
        """AUC of the row number alone, 1/2 where it tells nothing."""
        return float(_auc(self.rows.astype(float), self.labels, np.zeros(len(self)))[0])

    def to_frame(self) -> pd.DataFrame:
        """One row an example."""
        import pandas as pd

        names = ("chains", "rows", "labels", "problems", "bins", "folds")
        columns = {name[:-1]: getattr(self, name) for name in names}
        return pd.DataFrame({"asked": self.asked} | columns)


def foretell(
    masks: Sequence[Shaped[np.ndarray, ...]],
    ahead: int,
    problems: Sequence[Any],
    *,
    within: Sequence[Shaped[np.ndarray, ...]] | None = None,
    per_event: int | None = 4,
    negatives: int = 1,
    negatives_from: Literal["all", "event", "never"] = "all",
    bin_tokens: int = 16,
    folds: int = 5,
    seed: int = 0,
) -> Examples:
    """Examples of "the event begins within the next `ahead` tokens" (1: with the one chosen now).

    masks: for each chain a boolean a generated token, True where it belongs to the event
    (`interp.events.mark` makes some); the event begins where False turns to True. problems: of each
    chain. within: as masks, True for rows that may be used. Never used are rows that have just read
    a token of the event, and those whose next `ahead` tokens are not all there. Up to `per_event`
    positives are drawn before each beginning (None: all), and each gets `negatives` rows of other
    chains from its bin of `bin_tokens` steps, the nearest in step first. negatives_from: all
    chains, those where the event happens somewhere, or those where it never does. folds: parts
    into which the problems are cut, for the probe; matches are made inside a part, for a match
    across parts would turn the position that a probe learns against it where it is tested.
    """
    for name, value in (("ahead", ahead), ("negatives", negatives), ("bin_tokens", bin_tokens)):
        if value < 1:
            raise UserError(f"foretell({name}={value}): expected 1 or more.")
    if per_event is not None and per_event < 1:
        raise UserError(f"foretell(per_event={per_event}): expected 1 or more, or None for all.")
    if negatives_from not in ("all", "event", "never"):
        known = ("all", "event", "never")
        raise UserError("foretell: " + did_you_mean(str(negatives_from), known, "negatives_from"))
    _check_masks("mask", masks, masks)
    _check_masks("mask of `within`", masks if within is None else within, masks)
    if len(problems) != len(masks):
        raise UserError(f"foretell: {len(problems)} problems for {len(masks)} chains: one each.")
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
    part = _parts(happens, _numbered(problems), folds, seed)
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


def _check_masks(what: str, masks: Sequence[np.ndarray], like: Sequence[np.ndarray]) -> None:
    if len(masks) != len(like):
        raise UserError(f"foretell: {len(masks)} times a {what}, for {len(like)} chains: one each.")
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
    read = np.zeros_like(mask)  # the last token read is one of the event
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
    """One example a chain, labelled as a whole (a wrong answer, say), at one point of its way.

    The point is a `fraction` of the part's tokens (1: all read, the next is chosen), or
    `before_end` tokens before all are read. Chains whose part is empty or shorter than that are
    left out. bins: quantiles of the row, for shuffling. Long chains are more often wrong, and
    nothing is matched here: read the AUC beside the position baseline (bins of steps are coarse,
    so the shuffled labels hold only some of what the position tells).
    """
    truth = _checked_labels(np.asarray(labels))
    if len(truth) != len(chains):
        raise UserError(f"outcome: {len(truth)} labels for {len(chains)} chains: one each.")
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
        raise UserError(f"outcome: no chain has a {part} that long; expected a point it reaches.")
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
        folds=_parts(truth[where], _numbered(problems), folds, seed),
    )


def _checked_labels(labels: np.ndarray) -> Bool[np.ndarray, " K"]:
    if labels.ndim != 1 or labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
        raise UserError(
            f"labels are {labels.dtype} of shape {labels.shape}: expected one truth value (or 0 "
            "and 1) an example."
        )
    return labels.astype(bool)


# ------------------------------------------------------------------------------- probes


@dataclass(frozen=True)
class Probes:
    """What a probe on each block tells, beside its controls.

    blocks: dense indices. auc, with its interval [low, high] at `level`. control_mean, and
    control_high, which one more shuffle exceeds with probability 1 - level. p: of the AUC under
    that control, one-sided; p_holm: corrected over the blocks. balanced_accuracy: of held-out
    predictions, cut at even odds. baselines: AUC of other features of the same examples. scores:
    held-out log-odds. null: AUCs of the M shuffles. unconverged: fits ended by the iteration limit.
    """

    blocks: tuple[int, ...]
    auc: Float[np.ndarray, " L"]
    low: Float[np.ndarray, " L"]
    high: Float[np.ndarray, " L"]
    balanced_accuracy: Float[np.ndarray, " L"]
    control_mean: Float[np.ndarray, " L"]
    control_high: Float[np.ndarray, " L"]
    p: Float[np.ndarray, " L"]
    p_holm: Float[np.ndarray, " L"]
    baselines: Mapping[str, Interval]
    n: int
    n_groups: int
    n_positive: int
    level: float
    seed: int
    unconverged: int
    scores: Float[np.ndarray, "L K"] = field(repr=False)
    null: Float[np.ndarray, "L M"] = field(repr=False)

    @property
    def selectivity(self) -> Float[np.ndarray, " L"]:
        """AUC less the mean of the shuffled-label control."""
        return self.auc - self.control_mean

    def to_frame(self) -> pd.DataFrame:
        """One row a block; the baselines repeat in every row."""
        import pandas as pd

        names = ["auc", "low", "high", "control_mean", "control_high", "p", "p_holm"]
        columns: dict[str, Any] = {"block": list(self.blocks)}
        columns |= {
            name: getattr(self, name) for name in [*names, "selectivity", "balanced_accuracy"]
        }
        columns |= {f"{name}_auc": one.value for name, one in self.baselines.items()}
        columns |= {name: getattr(self, name) for name in ("n", "n_groups", "n_positive")}
        return pd.DataFrame(columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """AUC by block with intervals, filled where Holm's p is small; control band, baselines."""
        import matplotlib.pyplot as plt

        axes: Axes = plt.subplots(figsize=(7, 3.5))[1] if ax is None else ax
        middle, top = self.control_mean, self.control_high
        axes.fill_between(
            self.blocks, 2 * middle - top, top, color="0.88", linewidth=0, label="shuffled labels"
        )
        for i, (name, one) in enumerate(self.baselines.items()):
            style = ("--", ":", "-.")[i % 3]
            axes.axhline(one.value, color=f"C{i + 1}", linestyle=style, linewidth=1, label=name)
        _draw(self, axes, "C0", "probe")
        return axes


def _draw(found: Probes, axes: Axes, colour: str, label: str, shift: float = 0.0) -> None:
    x, sure = np.array(found.blocks) + shift, found.p_holm < 1 - found.level
    axes.axhline(0.5, color="0.6", linewidth=0.8)
    axes.vlines(x, found.low, found.high, colors=colour, linewidth=1.4)
    axes.plot(x, found.auc, color=colour, linewidth=0.8, label=label)
    for shown, fill in ((sure, colour), (~sure, "white")):
        axes.plot(
            x[shown], found.auc[shown], "o", color=colour, markersize=4.5, markerfacecolor=fill
        )
    axes.set_xlabel("block (dense index)")
    axes.set_ylabel("AUC, problems held out")
    axes.set_xticks(found.blocks)
    axes.legend(frameon=False, fontsize="small")


def probe(
    features: Float[np.ndarray, ...],
    labels: Shaped[np.ndarray, ...],
    groups: Sequence[Any] | Shaped[np.ndarray, ...],
    *,
    blocks: Sequence[int] | None = None,
    rows: Int[np.ndarray, ...] | None = None,
    bins: Int[np.ndarray, ...] | None = None,
    baselines: Mapping[str, Shaped[np.ndarray, ...]] | None = None,
    folds: int | Int[np.ndarray, ...] = 5,
    C: float | Sequence[float] = 1.0,
    components: int | None = None,
    permutations: int = 20,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Probes:
    """A probe on each block's features [K, L, D] for labels [K] (booleans, or 0 and 1).

    groups [K]: the problem of each example. blocks: dense indices of the L axis (default 0, 1,
    ...; they must rise). rows [K]: the step of each example, for the position baseline. bins [K]:
    labels are shuffled within them. baselines: name -> features [K, F] of something else. folds:
    how many, or the fold of each example. C: the inverse strength of the penalty for features of
    mean square norm 1, so it means the same at every D; of several, each training part takes its
    own best, by cross-validation by problem inside it. components: how many principal components
    of the features to keep (None: all).
    """
    check_level(level)
    strengths = tuple(float(c) for c in np.atleast_1d(C))
    if not strengths or min(strengths) <= 0:
        raise UserError(f"probe(C={C}): expected a positive number, or several.")
    least = {"permutations": (permutations, 10), "draws": (draws, 100)}
    least["components"] = (1 if components is None else components, 1)
    for name, (value, bound) in least.items():
        if value < bound:
            raise UserError(f"probe({name}={value}): expected at least {bound}.")
    truth = _checked_labels(labels)
    named = _checked_features(features, len(truth), blocks)
    each = {"groups": groups, "rows": rows, "bins": bins} | dict(baselines or {})
    each |= {"folds": folds if isinstance(folds, np.ndarray) else None}
    for name, values in each.items():
        if values is not None and len(values) != len(truth):
            raise UserError(f"probe: {len(values)} {name} for {len(truth)} labels: one each.")
    others = {"position": _steps(rows)} if rows is not None else {}
    others |= {name: np.asarray(x, dtype=float) for name, x in (baselines or {}).items()}
    for name, x in others.items():
        if x.ndim != 2 or not np.isfinite(x).all():
            raise UserError(f"probe: baseline {name!r} {x.shape}: expected finite numbers [K, F].")
    group = _numbered(groups)
    trial = _Trial(_checked_folds(truth, group, folds, seed), group, strengths, components)
    rng = np.random.default_rng(seed)
    n_groups = int(group.max()) + 1
    weights = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws)[:, group]
    strata = _strata(trial.fold, group, bins)
    asked = np.stack([truth] + [_shuffled(truth, group, strata, rng) for _ in range(permutations)])

    def interval(scores: np.ndarray) -> Interval:
        value = _auc(scores, truth, trial.fold)[0]
        drawn = _auc(scores, truth, trial.fold, weights)
        low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        size = (n_groups, len(truth))
        return Interval(float(value), float(low), float(high), level, *size, "problem bootstrap")

    told, scores, null, late = [], [], [], 0
    for index in range(len(named)):
        found, stopped = trial.scores(features[:, index], asked)
        late += stopped
        told.append(interval(found[0]))
        scores.append(found[0])
        shuffles = zip(found[1:], asked[1:], strict=True)
        null.append([_auc(s, y, trial.fold)[0] for s, y in shuffles])
    auc, low, high = np.array([(one.value, one.low, one.high) for one in told]).T
    control = np.nan_to_num(np.array(null), nan=0.5)  # a shuffle that left no pair in any fold
    mean, top, p = _against(auc, control, level)
    out = np.stack(scores)
    return Probes(
        blocks=named,
        auc=auc,
        low=low,
        high=high,
        balanced_accuracy=((out[:, truth] > 0).mean(1) + (out[:, ~truth] <= 0).mean(1)) / 2,
        control_mean=mean,
        control_high=top,
        p=p,
        p_holm=holm(p),
        baselines={
            name: interval(trial.scores(x, truth[None])[0][0]) for name, x in others.items()
        },
        n=len(truth),
        n_groups=n_groups,
        n_positive=int(truth.sum()),
        level=level,
        seed=seed,
        unconverged=late,
        scores=out,
        null=control,
    )


@dataclass(frozen=True)
class _Trial:
    """How probes are fitted and held out: the test fold and the problem of each example [K]."""

    fold: Int[np.ndarray, " K"]
    group: Int[np.ndarray, " K"]
    strengths: tuple[float, ...]
    components: int | None

    def scores(
        self, features: Float[np.ndarray, "K D"], asked: Bool[np.ndarray, "Q K"]
    ) -> tuple[Float[np.ndarray, "Q K"], int]:
        """Held-out log-odds for each row of labels, and how many fits did not converge.

        Scaling and rotation know no labels, so all rows of labels share them.
        """
        from sklearn import config_context
        from threadpoolctl import threadpool_limits

        out, late = np.zeros(asked.shape), 0
        with config_context(assume_finite=True, skip_parameter_validation=True):
            for fold in np.unique(self.fold):
                test = self.fold == fold
                train = np.flatnonzero(~test)
                x, held = self._prepared(features[train], features[test])
                inner = self._inner(train)
                with threadpool_limits(1):  # threads make many small fits ten times slower
                    for row, y in enumerate(asked[:, train]):
                        strength = self._strength(x, y, inner)
                        out[row, test], stopped = _fitted(x, y, held, strength)
                        late += stopped
        return out, late

    def _prepared(self, train: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standardised by the training rows, rotated where that saves work, mean square norm 1."""
        from sklearn.decomposition import PCA, KernelPCA
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        k, d = train.shape
        steps: list[Any] = [StandardScaler()]
        kept = min(self.components or d, d, k - 1)
        if d > 2 * k:  # principal components through the K x K inner products
            steps.append(KernelPCA(n_components=kept, eigen_solver="dense"))
        elif kept < min(d, k - 1):
            steps.append(PCA(n_components=kept, svd_solver="covariance_eigh"))
        pipeline = make_pipeline(*steps)
        x = pipeline.fit_transform(train.astype(np.float64)) / np.sqrt(d)
        return x, pipeline.transform(held.astype(np.float64)) / np.sqrt(d)

    def _inner(self, train: Int[np.ndarray, " k"]) -> list[np.ndarray]:
        """Inner test rows, as places in the training part; none where C need not be chosen."""
        from sklearn.model_selection import GroupKFold

        group = self.group[train]
        parts = min(INNER_FOLDS, len(np.unique(group)))
        if len(self.strengths) == 1 or parts < 2:
            return []
        return [test for _, test in GroupKFold(parts).split(train, groups=group)]

    def _strength(self, x: np.ndarray, y: np.ndarray, inner: list[np.ndarray]) -> float:
        """The C with the best inner AUC, the smallest of equals."""
        if not inner:
            return self.strengths[0]
        ordered = sorted(self.strengths)
        fold = np.zeros(len(y), dtype=np.int64)
        for number, test in enumerate(inner):
            fold[test] = number
        reached = []
        for strength in ordered:
            scores = np.zeros(len(y))
            for number in range(len(inner)):
                rest = fold != number
                scores[~rest], _ = _fitted(x[rest], y[rest], x[~rest], strength)
            reached.append(_auc(scores, y, fold)[0])
        return ordered[int(np.argmax(np.nan_to_num(reached)))]


def _fitted(
    x: np.ndarray, y: np.ndarray, held: np.ndarray, strength: float
) -> tuple[np.ndarray, bool]:
    """Log-odds of held-out rows over those of the training part; whether the fit was cut short.

    An unfinished fit is one with a little more penalty, and its order of rows is as good; a
    training part of one class (a shuffle may leave one) tells nothing.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    share = y.mean()
    if share in (0, 1):
        return np.zeros(len(held)), False
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ConvergenceWarning)
        model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS).fit(x, y)
    stopped = any(issubclass(one.category, ConvergenceWarning) for one in said)
    return model.decision_function(held) - np.log(share / (1 - share)), stopped


def _auc(
    scores: np.ndarray, labels: np.ndarray, fold: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """AUC over the pairs within folds, for each row of example weights [W, K] (default: one of 1).

    The weight of negatives below each positive comes from one cumulative sum; a tie is half.
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for number in np.unique(fold):
        here = np.flatnonzero(fold == number)
        here = here[np.argsort(scores[here], kind="stable")]
        s, y, w = scores[here], labels[here], weights[:, here]
        below = np.cumsum(np.pad(w * ~y, ((0, 0), (1, 0))), axis=1)
        first, last = (np.searchsorted(s, s[y], side) for side in ("left", "right"))
        won += (w[:, y] * (below[:, first] + below[:, last])).sum(1) / 2
        pairs += w[:, y].sum(1) * below[:, -1]
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def _against(
    auc: np.ndarray, null: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of each block's null AUCs [L, M], their upper bound for one more draw, and p."""
    from scipy.stats import t

    m = null.shape[1]
    mean, spread = null.mean(1), null.std(1, ddof=1) * np.sqrt(1 + 1 / m)
    distance = np.divide(auc - mean, spread, out=np.zeros_like(auc), where=spread > 0)
    p = np.where(spread > 0, t.sf(distance, m - 1), np.where(auc > mean, 1 / (m + 1), 1.0))
    return mean, mean + t.ppf(level, m - 1) * spread, p


def _strata(fold: np.ndarray, group: np.ndarray, bins: np.ndarray | None) -> Int[np.ndarray, " K"]:
    """Within what labels are shuffled: bin and fold, or the bin alone where a fold is one problem.

    Examples matched inside their fold stay so, and the control knows as little of position.
    """
    parts = np.zeros_like(group) if bins is None else np.asarray(bins, dtype=np.int64)
    if min(len(np.unique(group[fold == number])) for number in np.unique(fold)) > 1:
        parts = parts * (fold.max() + 1) + fold
    return parts


def _shuffled(
    labels: np.ndarray, group: np.ndarray, strata: np.ndarray, rng: np.random.Generator
) -> Bool[np.ndarray, " K"]:
    """In a stratum each problem takes another's labels, in their order, cut or stretched to fit.

    The two orders of the problems are the same in all strata, so a problem's labels stay together.
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


def _numbered(names: Sequence[Any] | np.ndarray) -> Int[np.ndarray, " K"]:
    return np.unique(np.array(list(names)), return_inverse=True)[1]


def _parts(labels: np.ndarray, group: np.ndarray, folds: int, seed: int) -> Int[np.ndarray, " K"]:
    """The part of each example: whole problems, both labels spread as evenly as they go."""
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


def _checked_folds(
    labels: np.ndarray, group: np.ndarray, folds: int | np.ndarray, seed: int
) -> Int[np.ndarray, " K"]:
    """The fold of each example, such that probes can be fitted and tested."""
    for name in (True, False):
        if len(np.unique(group[labels == name])) < 2:
            raise UserError(
                f"probe: {int((labels == name).sum())} of {len(labels)} examples are {name}, in "
                f"{len(np.unique(group[labels == name]))} problems; expected at least 2 problems "
                "with each label."
            )
    fold = folds if isinstance(folds, np.ndarray) else _parts(labels, group, folds, seed)
    if len(np.unique(np.stack([group, fold]), axis=1).T) > len(np.unique(group)):
        raise UserError("probe: a problem lies in several folds; hold each out as a whole.")
    numbers = np.unique(fold)
    trained = all(len(np.unique(labels[fold != n])) == 2 for n in numbers)
    if not trained or not any(len(np.unique(labels[fold == n])) == 2 for n in numbers):
        raise UserError(
            f"probe: {len(numbers)} folds of {len(np.unique(group))} problems leave a training "
            "part without one of the labels, or no test part with both; give examples of more "
            "problems, or another number of folds."
        )
    return fold


def _steps(rows: np.ndarray) -> Float[np.ndarray, "K 3"]:
    """The step as features: straight, bent and flattened."""
    step = np.asarray(rows, dtype=float)
    return np.stack([step, step**2, np.log1p(step)], axis=1)


def _checked_features(
    features: np.ndarray, n: int, blocks: Sequence[int] | None
) -> tuple[int, ...]:
    if features.ndim != 3 or 0 in features.shape:
        raise UserError(f"probe: features have shape {features.shape}; expected [K, L, D].")
    if len(features) != n:
        raise UserError(f"probe: {len(features)} rows of features for {n} labels: one each.")
    named = tuple(range(features.shape[1])) if blocks is None else tuple(map(int, blocks))
    if len(named) != features.shape[1] or any(b <= a for a, b in pairwise(named)):
        raise UserError(
            f"probe: blocks {named} for features of {features.shape[1]}; expected one dense index "
            "each, rising."
        )
    finite = [bool(np.isfinite(features[:, i]).all()) for i in range(len(named))]
    if bad := [block for block, fine in zip(named, finite, strict=True) if not fine]:
        raise NonFiniteError(f"probe: features of block {bad} hold inf or nan.")
    return named


# ------------------------------------------------------------------------------ horizons


@dataclass(frozen=True)
class Horizons:
    """Probes and their examples for each number of tokens ahead."""

    ahead: tuple[int, ...]
    probes: tuple[Probes, ...]
    examples: tuple[Examples, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a horizon and block."""
        import pandas as pd

        tables = []
        for ahead, found, examples in zip(self.ahead, self.probes, self.examples, strict=True):
            table = found.to_frame().assign(unmatched=examples.unmatched)
            table.insert(0, "ahead", ahead)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """AUC by block with intervals, a colour a horizon; filled where Holm's p is small."""
        import matplotlib.pyplot as plt

        axes: Axes = plt.subplots(figsize=(7, 3.5))[1] if ax is None else ax
        for i, (ahead, found) in enumerate(zip(self.ahead, self.probes, strict=True)):
            shift = (i - (len(self.ahead) - 1) / 2) * 0.6 / len(self.ahead)
            _draw(found, axes, f"C{i}", f"within {ahead}", shift)
        return axes


def probe_ahead(
    model: ReasoningModel,
    chains: Sequence[Chain],
    masks: Sequence[Shaped[np.ndarray, ...]],
    ahead: Sequence[int] = (1, 8, 32),
    blocks: Sequence[int] | None = None,
    *,
    stream: Literal["resid_pre", "resid_post", "delta"] = "resid_post",
    variant: VariantLike | None = None,
    within: Sequence[Shaped[np.ndarray, ...]] | None = None,
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

    within: rows that may be used; default: those whose token the model chose itself. The position
    and the last token read are baselines. options: those of `probe` that are left.
    """
    named = sorted(model.layer_map if blocks is None else blocks)
    _check_masks("mask", masks, [c.forced for c in chains])
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
