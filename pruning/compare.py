"""Compare rankings: how far criteria, or definitions of one criterion, agree.

There are two measures, and they can differ: agreement over all blocks (Kendall's tau-b and
Spearman's rho of the order of removal), and agreement where it matters (the share of the first n
removed blocks in common). Two random orders share n / L of their first n blocks on average.

The order of removal is compared, not the score: a greedy criterion is ranked by its path, a
one-shot criterion by its scores, and equal scores share a rank. Where the sets of n blocks do not
nest (the best run of neighbours), ranks come from the single scores and overlap from the sets.

Shapes: C criteria, L blocks (or sublayers), K the largest number of removals compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import UserError, check_known
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of
from pruning.calibration import Calibration
from pruning.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ANNOTATED = 40  # blocks up to which the ranks are written into the plot


@checked
@brief
@dataclass(frozen=True)
class Comparison:
    """C criteria over the same L blocks (or sublayers).

    Attributes:
        names: the criteria, made unique by seed or number.
        items: what each value belongs to, as text: a dense index, or "3 mlp".
        layer_map: dense index of each item.
        values: scores [C, L].
        ranks: when each block is removed [C, L], 0 first.
        kendall: Kendall's tau-b of each pair of orders [C, C].
        spearman: Spearman's rho of each pair of orders [C, C].
        overlap: `overlap[a, b, n - 1]` is the share of the first n removals that a and b have in
            common [C, C, K]; nan where one of the two does not reach n.
    """

    names: tuple[str, ...]
    items: tuple[str, ...]
    layer_map: tuple[int, ...]
    values: Float[np.ndarray, "C L"]
    ranks: Float[np.ndarray, "C L"]
    kendall: Float[np.ndarray, "C C"]
    spearman: Float[np.ndarray, "C C"]
    overlap: Float[np.ndarray, "C C K"]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per criterion and block: score and rank (0 = removed first)."""
        rows = [
            {
                "criterion": name,
                "block": self.layer_map[i],
                "item": self.items[i],
                "score": self.values[c, i],
                "rank": self.ranks[c, i],
            }
            for c, name in enumerate(self.names)
            for i in range(len(self.items))
        ]
        return pd.DataFrame(rows)

    def rankings(self) -> pd.DataFrame:
        """Return one row per place (0 = removed first), with the block of each criterion there."""
        order = [sorted(range(len(self.items)), key=lambda i: (rank[i], -i)) for rank in self.ranks]
        columns = {
            name: [self.items[i] for i in places]
            for name, places in zip(self.names, order, strict=True)
        }
        return pd.DataFrame({"place": range(len(self.items)), **columns})

    def lines(self) -> list[str]:
        """Return everything as text for a terminal: rankings, then two matrices."""
        frame = self.rankings().drop(columns="place")
        item = max(map(len, self.items))
        depth, most = len(self.items), self.overlap.shape[-1]
        order = [" ".join(f"{place:>{item}}" for place in frame[c]) for c in self.names]
        return [
            "Blocks (dense indices) in the order of their removal:",
            *self._numbered(order),
            "",
            "Kendall's tau of two orders (1 the same, 0 as of random orders, -1 reversed):",
            *self._matrix(self.kendall),
            "",
            f"Share of the first {most} in common (of random orders: {most / depth:.2f}):",
            *self._matrix(self.overlap[..., -1]),
        ]

    def _matrix(self, values: Float[np.ndarray, "C C"]) -> list[str]:
        cells = [[f"{v:.2f}".replace("0.", ".").replace("nan", "") for v in row] for row in values]
        head = " ".join(f"{n:>4}" for n in range(1, len(values) + 1))
        rows = self._numbered([" ".join(f"{cell:>4}" for cell in row) for row in cells])
        return [" " * (len(rows[0]) - len(head)) + head, *rows]

    def _numbered(self, rows: list[str]) -> list[str]:
        width = max(map(len, self.names))
        pairs = enumerate(zip(self.names, rows, strict=True), start=1)
        return [f"{number:>2} {name:<{width}}  {row}" for number, (name, row) in pairs]

    def agreement(self) -> pd.DataFrame:
        """Return one row per pair of criteria: tau, rho, and the overlap of the first n removed."""
        rows = []
        for a, b in combinations(range(len(self.names)), 2):
            shared = {f"overlap_{n + 1}": v for n, v in enumerate(self.overlap[a, b].tolist())}
            rows.append(
                {
                    "a": self.names[a],
                    "b": self.names[b],
                    "kendall": self.kendall[a, b],
                    "spearman": self.spearman[a, b],
                    **shared,
                }
            )
        return pd.DataFrame(rows)

    def save_figure(self, path: Path) -> Path:
        """Write both plots into one image file.

        Args:
            path: the file; its suffix sets the format.

        Returns:
            The path.
        """
        import matplotlib.pyplot as plt

        n, depth = self.ranks.shape
        widths = (0.36 * depth, 0.44 * n)
        size = (3.2 + sum(widths), 2.8 + 0.4 * n)
        figure, axes = plt.subplots(1, 2, figsize=size, layout="constrained", width_ratios=widths)
        self.plot(axes[0])
        self.plot_agreement(axes[1]).set_yticklabels([])
        figure.savefig(path, dpi=120)
        plt.close(figure)
        return path

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the ranks: one row per criterion, one column per block, dark where removed first.

        Args:
            ax: the axes to draw on. Default: a new figure.

        Returns:
            The axes.
        """
        n_criteria, depth = self.ranks.shape
        ax = axes_of(ax, (1.6 + 0.32 * depth, 1.2 + 0.32 * n_criteria))
        ax.imshow(self.ranks, cmap="Blues_r", aspect="auto", vmin=0, vmax=depth - 1)
        ax.set_xticks(range(depth), self.items, rotation=0 if depth <= ANNOTATED else 90)
        ax.set_yticks(range(n_criteria), self.names)
        if depth <= ANNOTATED:
            for c, i in np.ndindex(n_criteria, depth):
                rank = self.ranks[c, i]
                colour = "white" if rank < depth / 2 else "black"
                ax.text(i, c, f"{rank:.3g}", ha="center", va="center", fontsize=7, color=colour)
        ax.set_xlabel("block (dense index)")
        ax.set_title("Order of removal (0 goes first)")
        return ax

    def plot_agreement(self, ax: Axes | None = None) -> Axes:
        """Plot Kendall's tau of every pair of criteria.

        Args:
            ax: the axes to draw on. Default: a new figure.

        Returns:
            The axes.
        """
        n = len(self.names)
        ax = axes_of(ax, (2.5 + 0.5 * n, 2.5 + 0.5 * n))
        ax.imshow(self.kendall, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        ax.set_xticks(range(n), self.names, rotation=90)
        ax.set_yticks(range(n), self.names)
        for a, b in np.ndindex(n, n):
            tau = self.kendall[a, b]
            colour = "white" if abs(tau) > 0.6 else "black"
            ax.text(b, a, f"{tau:.2f}", ha="center", va="center", fontsize=7, color=colour)
        ax.set_title("Kendall's tau of the orders of removal")
        return ax


@checked
def compare(scores: Sequence[Scores], most: int | None = None) -> Comparison:
    """Compare the scores of at least two criteria on one model.

    Args:
        scores: the scores, of the same blocks (or sublayers) of the same model.
        most: the largest number of removals whose sets are compared. Default: a third of the
            blocks.

    Returns:
        The comparison.

    Raises:
        UserError: fewer than two scores, scores of different models or blocks, or a `most` outside
            1 to L - 1.
    """
    from scipy.stats import kendalltau

    from interp.statistics import spearman

    _check(scores)
    depth = len(scores[0].values)
    most = max(1, depth // 3) if most is None else most
    if not 1 <= most < depth:
        raise UserError(f"compare(most={most}): expected 1 to {depth - 1} of {depth} blocks.")
    ranks = np.stack([s.removal_ranks() for s in scores]).astype(np.float64)
    pairs = list(combinations(range(len(scores)), 2))
    tau, rho = np.eye(len(scores)), np.eye(len(scores))
    shared = np.ones((len(scores), len(scores), most))
    sets = [[_first(s, n) for n in range(1, most + 1)] for s in scores]
    for a, b in pairs:
        found: Any = kendalltau(ranks[a], ranks[b])
        tau[a, b] = tau[b, a] = float(found.statistic)
        rho[a, b] = rho[b, a] = spearman(ranks[a][None], ranks[b][None])[0]
    for n in range(1, most + 1):
        for a, b in [*pairs, *((c, c) for c in range(len(scores)))]:
            one, other = sets[a][n - 1], sets[b][n - 1]
            share = np.nan if one is None or other is None else len(one & other) / n
            shared[a, b, n - 1] = shared[b, a, n - 1] = share
    return Comparison(
        names=_names(scores),
        items=scores[0].items,
        layer_map=scores[0].layer_map,
        values=np.stack([s.values for s in scores]).astype(np.float64),
        ranks=ranks,
        kendall=tau,
        spearman=rho,
        overlap=shared,
    )


def _check(scores: Sequence[Scores]) -> None:
    if len(scores) < 2:
        raise UserError(f"compare: {len(scores)} scores given; expected at least two.")
    first = scores[0]
    for other in scores[1:]:
        if other.items != first.items:
            raise UserError(
                f"compare: {first.criterion!r} scored {_span(first)} and {other.criterion!r} "
                f"{_span(other)}; only scores of the same blocks (or sublayers) compare."
            )
        if first.model and other.model and first.model != other.model:
            raise UserError(
                f"compare: {first.criterion!r} scored model {first.model} and {other.criterion!r} "
                f"model {other.model}; score one model with both."
            )


def _span(scores: Scores) -> str:
    return f"{scores.items[0]}..{scores.items[-1]} ({len(scores.items)})"


def _first(scores: Scores, n: int) -> frozenset[int] | None:
    """Positions of the first n removed items; None if the criterion cannot say."""
    try:
        return scores.first(n)
    except UserError:
        return None


def _names(scores: Sequence[Scores]) -> tuple[str, ...]:
    """The criteria's names, made unique by seed or number where they repeat."""
    names = [s.criterion for s in scores]
    for suffix in ([f" seed {s.seed}" if s.seed is not None else "" for s in scores],
                   [f" ({i})" for i in range(1, len(scores) + 1)]):  # fmt: skip
        often = Counter(names)
        names = [n + more if often[n] > 1 else n for n, more in zip(names, suffix, strict=True)]
    return tuple(names)


@checked
def compare_criteria(
    model: ReasoningModel,
    texts: Any,
    names: Sequence[str] = (),
    seed: int = 0,
    most: int | None = None,
) -> Comparison:
    """Score a model by each named criterion and compare the scores.

    "shortgpt" is scored by each of its public definitions (`influence_definitions`).

    Args:
        model: the model to score.
        texts: calibration texts, as for `Calibration.of`.
        names: criteria. Default: every one-shot or contiguous criterion of blocks that is not
            random
            and needs only forward passes or weights.
        seed: the seed of criteria that draw at random.
        most: the largest number of removals whose sets are compared. Default: a third of the
            blocks.

    Returns:
        The comparison.

    Raises:
        UserError: an unknown criterion, or criteria of blocks and of sublayers together.
    """
    from pruning.criteria import at_once, criteria, score
    from pruning.criteria.influence_definitions import DEFINITIONS

    known = criteria()
    chosen = [names] if isinstance(names, str) else list(names or at_once())
    for name in chosen:
        check_known(name, known, "criterion")
    if len(kinds := {known[name].removes for name in chosen}) > 1:
        raise UserError(
            f"compare: {chosen} score both {' and '.join(sorted(kinds))}; name criteria of one "
            "kind."
        )
    if any(known[name].needs_texts for name in chosen):
        texts = Calibration.of(model, texts)
    found = []
    for name in chosen:
        ways = [asdict(d) for d in DEFINITIONS] if name == "shortgpt" else [{}]
        found += [score(name, model, texts, seed=seed, **way) for way in ways]
    return compare(found, most)
