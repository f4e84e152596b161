"""Block x window maps: the effect of losing block l only during a part of the chain.

Every block is skipped in every window of the chain, and compared with chains that are left alone:
same problem, same noise. An effect is a paired change of an outcome with its interval
(`paired_difference`), and Holm's correction runs over all windows and blocks of that outcome.
Chains are decoded again from where the window first opens (`edits`).

    windows = usual_windows(model, 256, ("wait", "check"))
    found = time_map(model, chains, windows, judge=lambda c: {"correct": right(c)})

With `restore=True` and chains of a pruned `base`, a block is given back in the window instead. An
effect is over all chains, also those that never reach the window: `reached` is the share with at
least one pass inside, and a window that few chains reach can have little effect. A block skipped
for a while still writes its keys and values, so later tokens attend to a complete key/value cache.
Shapes: W windows, L blocks, C chains (one per problem and sample), P problems, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.chains.chain import Chain
from interp.counterfactuals.edits import ALL, Edit, ablated, rerun, restored
from interp.decoding.sampling import Sampling
from interp.errors import UserError, check_known
from interp.interventions.interventions import Part, VariantLike, dense
from interp.interventions.programs import Order
from interp.interventions.timeline import steps_inside
from interp.interventions.windows import Answer, AtTokens, ChainWindows, When, Window
from interp.json_reader import short
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of
from interp.statistics import paired_difference, problem_table, with_holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from interp.model.reasoning_model import ReasoningModel

Judge = Callable[[Chain], Mapping[str, float]]
WHOLE = "whole"  # the window that is always open


@brief
@dataclass(frozen=True)
class TimeMap:
    """Outcomes of chains with one block changed in one window, beside the unchanged chains.

    Attributes:
        base: Name of the variant that wrote the chains.
        restore: Whether blocks were given back instead of skipped.
        part: "block", "attention" or "mlp".
        windows: Names of the W windows.
        blocks: Dense indices of the L blocks; `ALL` stands for all that the base changes.
        problems: Problem of each chain.
        samples: Sample number of each chain.
        seed: Seed of the chains.
        layer_map: Dense index of each block of the model.
        before: Outcomes of the unchanged chains, by name, [C].
        after: Outcomes of the changed chains, by name, [W, L, C].
        inside: Passes of the changed chain with the window open, [W, L, C].
    """

    base: str
    restore: bool
    part: Part
    windows: tuple[str, ...]
    blocks: tuple[int, ...]
    problems: tuple[str, ...]
    samples: tuple[int, ...]
    seed: int
    layer_map: tuple[int, ...]
    before: dict[str, Float[np.ndarray, " C"]] = field(repr=False)
    after: dict[str, Float[np.ndarray, "W L C"]] = field(repr=False)
    inside: Int[np.ndarray, "W L C"] = field(repr=False)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of the outcomes."""
        return tuple(self.before)

    def changes(self, outcome: str) -> Float[np.ndarray, "W L C"]:
        """Compute the change of an outcome, after - before, for every chain.

        Args:
            outcome: Name of the outcome.

        Returns:
            The changes, [W, L, C].

        Raises:
            UserError: The outcome is unknown.
        """
        check_known(outcome, self.before, "outcome")
        return self.after[outcome] - self.before[outcome]

    def to_frame(self, level: float = 0.95) -> pd.DataFrame:
        """Return a table with one row per outcome, window and block.

        Args:
            level: Confidence level of the intervals.

        Returns:
            Columns: effect, low, high, p, p_holm, before, after; `reached`, the share of chains
            that came to the window; `passes`, their mean number of passes inside. Holm's correction
            runs over all windows and blocks of an outcome that at least one chain reached.
        """
        rows: list[dict[str, Any]] = []
        for outcome in self.outcomes:
            before = self._table(self.before[outcome])
            for w, window in enumerate(self.windows):
                for l, block in enumerate(self.blocks):
                    row = {"outcome": outcome, "window": window, "block": block}
                    there = self.inside[w, l] > 0
                    row |= _compared(before, self._table(self.after[outcome][w, l]), level)
                    if not there.any():
                        row["p"] = np.nan
                    row["reached"] = float(there.mean())
                    row["passes"] = float(self.inside[w, l][there].mean()) if there.any() else 0.0
                    rows.append(row)
        return with_holm(pd.DataFrame(rows))

    def _table(self, values: Float[np.ndarray, " C"]) -> Float[np.ndarray, "P N"]:
        return problem_table(values, self.problems, self.samples)

    def plot(self, outcome: str, ax: Axes | None = None) -> Axes:
        """Draw a heat map of the effect, with a dot where Holm's p is below .05.

        Args:
            outcome: Name of the outcome.
            ax: The axes to draw on; default: new ones.

        Returns:
            The axes, with windows on y and blocks on x.

        Raises:
            UserError: The outcome is unknown.
        """
        check_known(outcome, self.before, "outcome")
        frame = self.to_frame()
        frame = frame[frame["outcome"] == outcome]
        shape = (len(self.windows), len(self.blocks))
        effect = frame["effect"].to_numpy().reshape(shape)
        sure = (frame["p_holm"] < 0.05).to_numpy().reshape(shape)
        size = (1.8 + 0.36 * shape[1], 1.1 + 0.3 * shape[0])
        axes = axes_of(ax, size)
        known = np.abs(effect[np.isfinite(effect)])
        top = float(known.max()) if known.size and known.max() > 0 else 1.0
        image = axes.imshow(effect, cmap="PuOr", vmin=-top, vmax=top, aspect="auto")
        rows, columns = np.nonzero(sure)
        axes.plot(columns, rows, "o", color="black", markersize=4)
        axes.set_yticks(range(shape[0]), list(self.windows))
        names = ["all" if b == ALL else str(b) for b in self.blocks]
        axes.set_xticks(range(shape[1]), names)
        axes.set_xlabel("block (dense index)")
        axes.figure.colorbar(image, ax=axes, label=f"change in {outcome}")
        return axes


def _compared(before: np.ndarray, after: np.ndarray, level: float) -> dict[str, Any]:
    both = np.isfinite(before) & np.isfinite(after)
    if not both.any():
        empty = ("effect", "low", "high", "p", "before", "after")
        return dict.fromkeys(empty, np.nan) | {"n_problems": 0, "n_chains": 0}
    found = paired_difference(before, after, level=level)
    columns = {"p": found.p, "before": found.dense, "after": found.variant}
    counts = {"n_problems": found.n_problems, "n_chains": found.n_samples}
    return found.cells("effect") | columns | counts


@checked
def time_map(
    model: ReasoningModel,
    chains: Sequence[Chain],
    windows: Mapping[str, When | None],
    judge: Judge,
    *,
    blocks: Sequence[int] | None = None,
    base: VariantLike = dense,
    restore: bool = False,
    part: Part = "block",
    sampling: Sampling | None = None,
    slots: int | None = None,
    stop_on_loop: bool = True,
) -> TimeMap:
    """Map the effect of every block in every window, over chains that `base` wrote.

    Args:
        model: The model that wrote the chains.
        chains: Finished chains of `base`, all of one seed.
        windows: Windows by name; None: always open.
        judge: The outcomes of a chain, by name: numbers, nan where one is not defined.
        blocks: Dense indices. Default: all that the model has; with `restore` those that `base`
            changes, and all of them at once if there are several.
        base: The variant that wrote the chains.
        restore: Give blocks of `base` back instead of skipping blocks.
        part: "block", "attention" or "mlp".
        sampling: As the chains were decoded.
        slots: Rows of the decoding batch; default: as memory allows.
        stop_on_loop: As the chains were decoded.

    Returns:
        The map.

    Raises:
        UserError: There are no chains or windows, or the chains have several seeds or another
            variant than `base`.
    """
    if not chains:
        raise UserError("time_map: no chain was given; expected at least one.")
    if not windows:
        raise UserError(
            "time_map: no window was given; pass some, such as usual_windows(model, 256)."
        )
    if len(seeds := {chain.seed for chain in chains}) > 1:
        raise UserError(f"time_map: chains of several seeds {sorted(seeds)}; map each seed alone.")
    if strange := {c.variant for c in chains} - {base.name}:
        raise UserError(
            f"time_map: chains of {sorted(strange)}, but base is {base.name!r}: pass the chains "
            "that it wrote."
        )
    if blocks is None:
        blocks = changed_blocks(base) if restore else model.layer_map
    edits = [
        Edit(name, block, _changed(base, block, when, restore, part), when)
        for name, when in windows.items()
        for block in blocks
    ]
    judged = [_judged(judge, chain) for chain in chains]
    before = {name: np.array([float(one[name]) for one in judged]) for name in judged[0]}
    shape = (len(windows), len(blocks), len(chains))
    after = {name: np.broadcast_to(values, shape).copy() for name, values in before.items()}
    inside = np.zeros(shape, dtype=np.int64)
    for e, c, chain in rerun(
        model, chains, edits, sampling=sampling, slots=slots, stop_on_loop=stop_on_loop
    ):
        place = (*divmod(e, len(blocks)), c)
        found = _judged(judge, chain)
        for name in before:
            after[name][place] = float(found[name])
        inside[place] = max(1, len(steps_inside(chain, edits[e].when)))
    return TimeMap(
        base=base.name,
        restore=restore,
        part=part,
        windows=tuple(windows),
        blocks=tuple(int(b) for b in blocks),
        problems=tuple(chain.problem for chain in chains),
        samples=tuple(chain.sample for chain in chains),
        seed=chains[0].seed,
        layer_map=model.layer_map,
        before=before,
        after=after,
        inside=inside,
    )


def _judged(judge: Judge, chain: Chain) -> dict[str, float]:
    """The outcomes of a chain, by name."""
    found = judge(chain)
    if not isinstance(found, Mapping):
        raise UserError(
            f"judge(chain) returned {short(found)}: expected a mapping of outcomes to numbers, "
            'such as {"correct": 1.0}.'
        )
    return dict(found)


def changed_blocks(variant: VariantLike) -> tuple[int, ...]:
    """List the blocks that a variant changes, and `ALL` where there are several.

    Args:
        variant: The variant.

    Returns:
        Dense indices in rising order, then `ALL`.

    Raises:
        UserError: The variant changes no block, or the order of all.
    """
    if any(isinstance(step, Order) for step in variant.interventions()):
        raise UserError(
            f"Variant {variant.name!r} changes the order of blocks, which no single block's change "
            "is; expected Repeat, Skip and the like."
        )
    found = sorted({step.block for step in variant.interventions()})
    if not found:
        raise UserError(f"Variant {variant.name!r} changes no block; expected one that does.")
    return (*found, ALL) if len(found) > 1 else tuple(found)


def _changed(
    base: VariantLike, block: int, when: When | None, restore: bool, part: Part
) -> VariantLike:
    return restored(base, block, when) if restore else ablated(base, block, when, part)


# --------------------------------------------------------------------------------- windows


@checked
def usual_windows(
    model: ReasoningModel,
    thinking: int,
    openers: Sequence[str] = (),
    *,
    parts: int = 4,
    after: int = 4,
) -> dict[str, When | None]:
    """Make the usual windows: whole, prompt, chain, parts of the thinking, reflection, answer.

    Args:
        model: The model with the tokenizer.
        thinking: Thinking budget, in tokens.
        openers: Words that open a reflection; a window opens where one is read. Words that the
            tokenizer lacks are ignored. Without words there is no such window.
        parts: Number of equal parts of the budget.
        after: Further steps for which the reflection window stays open.

    Returns:
        The windows by name; None is always open.

    Raises:
        UserError: `parts` is not between 1 and `thinking`.
    """
    if not 1 <= parts <= thinking:
        raise UserError(f"usual_windows(parts={parts}): expected from 1 to {thinking} parts.")
    edges = np.linspace(0, thinking, parts + 1).round().astype(int).tolist()
    found: dict[str, When | None] = {
        WHOLE: None,
        "prompt": Window.prefill_only(),
        "chain": Window.decode_only(),
    }
    for start, stop in pairwise(edges):
        found[f"{start}-{stop - 1}"] = Window(start, stop) & ~Answer()
    if openers:
        found["reflection"] = AtTokens.of(model, list(openers), after=after)
    found["answer"] = Answer()
    return found


def before_steps(chains: Sequence[Chain], steps: Sequence[int | None], n: int) -> ChainWindows:
    """Make a window of the `n` steps before a step of each chain.

    Args:
        chains: The chains.
        steps: One step per chain; None: that chain has no window.
        n: Length of the window, in steps.

    Returns:
        The window.

    Raises:
        UserError: `n` is below 1.
    """
    if n < 1:
        raise UserError(f"before_steps(n={n}): expected 1 step or more.")
    starts = [None if s is None or s < 1 else max(0, s - n) for s in steps]
    stops = [None if s is None else s for s in steps]
    return ChainWindows.of(chains, starts, stops)
