"""How often chains enter loops, and whether they leave them again.

A survival analysis of the episodes of many chains (`episodes`): a token outside a loop is at risk
of starting one, a token inside is at risk of leaving it, and a chain that a budget cut is
censored, not counted as having left.

- entry hazard: loops started per 1k tokens outside loops, overall and by position in the chain.
- escape rate: loops left per 1k tokens inside loops.
- persistence: share of the started loops that were never left.

Intervals have problems as clusters: `rate` for hazard and escape, `mean_interval` for persistence.
Caveat: `stop_on_loop` censors a chain as soon as it certainly loops, so persistence and escape rate
need chains that were decoded without it.

Shapes: P problems, W windows of positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from interp.chains.chain import Chain, TextDecoder
from interp.diagnosis.episodes import Episode, find_episodes
from interp.diagnosis.token_text import NUMBER, Pieces, read
from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of
from interp.statistics import Interval, Rate, mean_interval, problem_table, rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EDGES = (0, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@brief
@dataclass(frozen=True)
class LoopDynamics:
    """Entry and escape rates of the loops of many chains.

    Attributes:
        entry: Loops started per 1k tokens outside loops.
        escape: Loops left per 1k tokens inside loops.
        persistence: Share of the loops never left; None where no loop was started.
        starts: First position of each window, in tokens.
        hazards: Entry hazard of each window, up to the next start.
        n_chains: Number of chains.
    """

    entry: Rate
    escape: Rate
    persistence: Interval | None
    starts: tuple[int, ...]
    hazards: tuple[Rate, ...]
    n_chains: int

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for entry, escape, persistence, and for entry per window."""
        rows = [{"measure": "entry", "start": 0} | asdict(self.entry)]
        rows.append({"measure": "escape", "start": 0} | asdict(self.escape))
        if (share := self.persistence) is not None:
            row = {"measure": "persistence", "start": 0, **share.cells()}
            row |= {"events": round(share.value * share.n_samples), "exposure": share.n_samples}
            rows.append(row | {"n_problems": share.n_problems})
        for start, one in zip(self.starts, self.hazards, strict=True):
            rows.append({"measure": "entry by position", "start": start} | asdict(one))
        return pd.DataFrame(rows)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the entry hazard by position in the chain, with intervals.

        Args:
            ax: The axes to draw on; default: new ones.

        Returns:
            The axes.
        """
        axes = axes_of(ax, (6, 3.2))
        shown = [w for w, one in enumerate(self.hazards) if one.exposure]
        low = [self.hazards[w].value - self.hazards[w].low for w in shown]
        high = [self.hazards[w].high - self.hazards[w].value for w in shown]
        values = [self.hazards[w].value for w in shown]
        axes.errorbar(range(len(shown)), values, [low, high], fmt="o", color="#0072B2", capsize=2)
        axes.set_xticks(range(len(shown)), [f"{self.starts[w]}–" for w in shown])
        axes.set_xlabel("position in the chain (tokens)")
        axes.set_ylabel("loops begun per 1k tokens")
        axes.set_ylim(bottom=0)
        return axes


def episodes_of(chain: Chain, model: TextDecoder) -> tuple[Episode, ...]:
    """Find the episodes of a chain's thinking (of its answer, where there is no thinking).

    Args:
        chain: A finished chain.
        model: Decodes token ids to text.

    Returns:
        The episodes, with positions counted from the first token of the span.
    """
    pieces = model if isinstance(model, Pieces) else Pieces(model)
    thinks = len(chain.thinking) > 0
    ids = chain.thinking_ids if thinks else chain.answer_ids
    own = chain.thinking_finish == "end" if thinks else chain.finish == "stop"
    return find_episodes(ids, read(pieces, ids).mask(NUMBER), ended=own) if len(ids) else ()


@checked
def loop_dynamics(
    chains: Sequence[Chain],
    model: TextDecoder,
    *,
    edges: Sequence[int] = EDGES,
    level: float = 0.95,
) -> LoopDynamics:
    """Estimate entry hazard, escape rate and persistence for the chains of one variant.

    Args:
        chains: Finished chains of one variant, decoded without `stop_on_loop`.
        model: Decodes token ids to text.
        edges: First position of each window, in tokens, rising from 0; the last window is open.
        level: Confidence level of the intervals.

    Returns:
        The rates with their intervals, problems as clusters.

    Raises:
        UserError: There are no chains, or the edges do not rise from 0.
    """
    if not chains:
        raise UserError("loop_dynamics: no chain was given; expected at least one.")
    bounds = [int(e) for e in edges]
    if not bounds or bounds[0] != 0 or any(b <= a for a, b in pairwise(bounds)):
        raise UserError(f"loop_dynamics(edges={bounds}): expected rising positions from 0.")
    pieces = Pieces(model)
    names = {name: i for i, name in enumerate(dict.fromkeys(c.problem for c in chains))}
    ends = np.array([*bounds, np.iinfo(np.int64).max])
    began, outside = np.zeros((2, len(bounds), len(names)))
    left, inside = np.zeros((2, len(names)))
    kept: list[bool] = []  # episodes that were not left, and the problem of each
    of: list[str] = []
    for chain in chains:
        row = names[chain.problem]
        size = len(chain.thinking) or chain.n_answer
        outside[:, row] += _overlap(ends, 0, size)
        for one in episodes_of(chain, pieces):
            began[np.searchsorted(ends, one.start, side="right") - 1, row] += 1
            # the first token of an episode was at risk of starting it
            outside[:, row] -= _overlap(ends, one.start + 1, one.stop)
            inside[row] += len(one) - 1
            left[row] += one.escaped
            kept.append(not one.escaped)
            of.append(chain.problem)
    share = mean_interval(problem_table(kept, of), level) if kept else None
    return LoopDynamics(
        entry=rate(began.sum(0), outside.sum(0), level),
        escape=rate(left, inside, level),
        persistence=share,
        starts=tuple(bounds),
        hazards=tuple(rate(k, t, level) for k, t in zip(began, outside, strict=True)),
        n_chains=len(chains),
    )


def _overlap(ends: np.ndarray, start: int, stop: int) -> np.ndarray:
    """How many of the positions [start, stop) lie in each window."""
    return np.clip(np.minimum(ends[1:], stop) - np.maximum(ends[:-1], start), 0, None)
