"""Is there one MLP neuron whose ablation or sign flip ends a loop?

arXiv 2606.13705 reports single neurons that do. A search over thousands of neurons finds some that
end loops by luck, and loops may end by any disturbance. So the problems are split in two:

- screening half: all neurons by what they add to the logit of the loop's next token
  (`interp.lens.neuron_attribution`); those that add most are tried by forking the chains within
  their loops, and the few that end most loops are kept;
- test half: the kept neurons against random neurons of the same block, those nearest in the size
  of what they write, scaled so that they change the stream as much: for a scale s and sizes r
  (neuron) and r' (control) by 1 - (1 - s) r / r'. The difference is paired by problem, with Holm's
  correction over the neurons.

    found = search_neurons(model, looping, rows, steps, looped, base=variant)
    found.to_frame()

Shapes: C chains, M controls per neuron.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.chains.chain import Chain
from interp.counterfactuals.forks import outcomes_within
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.interventions import Variant, VariantLike, dense
from interp.interventions.neurons import Neurons
from interp.interventions.windows import ChainWindows, When
from interp.lens.neuron_attribution import NeuronContributions, neuron_contributions
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.statistics import mean_interval, paired_difference, problem_table, with_holm

Looped = Callable[[Chain], bool]
POOL = 4  # controls are drawn from this many times their number of neurons nearest in size
SILENT = 1e-6  # share of a neuron's size below which another cannot be its control


@brief
@dataclass(frozen=True)
class TestedNeuron:
    """One neuron at one scale, on chains that did not choose it.

    Attributes:
        block: Dense index of its block.
        neuron: Its number in the block.
        scale: What it was multiplied by: 0 ablates, -1 flips the sign.
        added: What it adds to the logit of the loop's next token, mean over screening problems.
        size: Norm of what it writes to the stream, likewise.
        screened: Share of the screening chains whose loop it ended.
        controls: Numbers of the M neurons of the same block that were changed as much.
        control_size: Mean norm of what the controls write.
        ended: 1 where the loop of a test chain ended, else 0, [C].
        ended_controls: The same for each control, [M, C].
    """

    __test__ = False  # no test of pytest's

    block: int
    neuron: int
    scale: float
    added: float
    size: float
    screened: float
    controls: tuple[int, ...]
    control_size: float
    ended: Float[np.ndarray, " C"]
    ended_controls: Float[np.ndarray, "M C"]


@brief
@dataclass(frozen=True)
class NeuronSearch:
    """The neurons that ended most loops in the screening half, tested on the other half.

    Attributes:
        base: Name of the variant that loops.
        n_neurons: Number of neurons screened.
        blocks: Dense indices of their blocks.
        n_screening: Number of screening problems.
        problems: Problem of each test chain.
        tests: The kept neurons, the one that ended most loops in screening first.
    """

    base: str
    n_neurons: int
    blocks: tuple[int, ...]
    n_screening: int
    problems: tuple[str, ...]
    tests: tuple[TestedNeuron, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per tested neuron.

        Returns:
            Columns: base, block, neuron, scale, added, size, control_size, screened; ended,
            ended_low and ended_high, the share of test chains whose loop ended; control, the mean
            share of the controls; value, low, high, p and p_holm of the difference; n, the number
            of test problems.
        """
        rows: list[dict[str, Any]] = []
        for one in self.tests:
            own = problem_table(one.ended, self.problems)
            control = problem_table(one.ended_controls.mean(0), self.problems)
            share, gap = mean_interval(own), paired_difference(control, own)
            row: dict[str, Any] = {"base": self.base, "block": one.block, "neuron": one.neuron}
            row |= {"scale": one.scale, "added": one.added, "size": one.size}
            row |= {"control_size": one.control_size}
            row |= {"screened": one.screened, "ended": share.value, "ended_low": share.low}
            row |= {"ended_high": share.high, "control": gap.dense, **gap.cells(), "p": gap.p}
            rows.append(row | {"n": gap.n_problems})
        return with_holm(pd.DataFrame(rows), "base")


@checked
def search_neurons(
    model: ReasoningModel,
    chains: Sequence[Chain],
    rows: Sequence[np.ndarray],
    steps: Sequence[int | None],
    looped: Looped,
    *,
    base: VariantLike = dense,
    blocks: Sequence[int] | None = None,
    always: Sequence[int] = (),
    scales: Sequence[float] = (0.0, -1.0),
    shortlist: int = 24,
    tested: int = 4,
    controls: int = 6,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> NeuronSearch:
    """Search the neurons that hold chains in their loops, and test them on other chains.

    Args:
        model: The model that wrote the chains.
        chains: Chains of `base` that loop, one sample per problem.
        rows: For each chain the tokens of its loop: a mask [S] or step numbers.
        steps: The step within its loop from which each chain's neurons are changed.
        looped: Whether a chain ends in a loop.
        base: The variant that loops.
        blocks: Dense indices; default: all that `base` does not skip whole.
        always: Blocks of which a neuron is tested even if others end more loops.
        scales: What a neuron is multiplied by, each tried.
        shortlist: Neurons tried by decoding on the screening half.
        tested: Neurons tested on the other half, besides those of `always`.
        controls: Random neurons per tested one.
        sampling: As the chains were decoded.
        seed: Seed of the draws of controls.

    Returns:
        The tested neurons.

    Raises:
        UserError: There are chains of fewer than 4 problems, a number is out of range, or no block
            has enough neurons.
    """
    names = list(dict.fromkeys(chain.problem for chain in chains))
    if len(names) < 4:
        raise UserError(
            f"search_neurons: looping chains of {len(names)} problems; expected 4 or more, because "
            "half of them choose the neurons and half test them."
        )
    if min(shortlist, tested, controls) < 1 or not scales:
        raise UserError(
            f"search_neurons(shortlist={shortlist}, tested={tested}, controls={controls}, "
            f"scales={list(scales)}): expected 1 or more of each."
        )
    halves = [[i for i, c in enumerate(chains) if c.problem in names[k::2]] for k in (0, 1)]

    def ended(half: Sequence[int], changes: Sequence[Neurons]) -> Float[np.ndarray, "V C"]:
        few = [chains[i] for i in half]
        when = ChainWindows.of(few, [steps[i] for i in half])
        variants = [with_neurons(base, one, when) for one in changes]
        return 1 - outcomes_within(model, few, variants, when, looped, sampling=sampling)

    screening, test = halves
    read = neuron_contributions(
        model, [chains[i] for i in screening], [rows[i] for i in screening], blocks=blocks,
        variant=base,
    )  # fmt: skip
    table = read.to_frame()
    ranked = table[_controlled(table, controls)]
    ranked = ranked.sort_values("added", ascending=False, kind="stable")
    if not len(ranked):
        raise UserError(
            f"search_neurons(controls={controls}): no block has so many neurons that write "
            "anything besides the one to be tested; expected more of them: lower controls."
        )
    if lacking := sorted(set(always) - set(ranked["block"])):
        raise UserError(
            f"search_neurons(always={list(always)}): no neuron of block {lacking} can be tested; "
            f"expected blocks among {sorted(set(ranked['block']))}."
        )
    best = ranked.head(shortlist)
    best = pd.concat([best, *(ranked[ranked["block"] == b].head(tested) for b in always)])
    best = best.drop_duplicates(["block", "neuron"])
    tries = [
        Neurons(int(b), (int(n),), scale=float(s))
        for b, n in zip(best["block"], best["neuron"], strict=True)
        for s in scales
    ]
    screened = ended(screening, tries).mean(1)
    kept = _kept(tries, screened, tested, always)
    rng = np.random.default_rng(seed)
    matched = [_matched(read, tries[i], controls, rng) for i in kept]
    flat = [one for i, others in zip(kept, matched, strict=True) for one in (tries[i], *others)]
    sizes = table.set_index(["block", "neuron"])["size"]
    outcomes = iter(ended(test, flat))
    tests = []
    for i, others in zip(kept, matched, strict=True):
        block, (neuron,) = tries[i].block, tries[i].indices
        own = table[(table["block"] == block) & (table["neuron"] == neuron)].iloc[0]
        first = next(outcomes)
        tests.append(
            TestedNeuron(
                block=block,
                neuron=neuron,
                scale=tries[i].scale,
                added=float(own["added"]),
                size=float(own["size"]),
                screened=float(screened[i]),
                controls=tuple(other.indices[0] for other in others),
                control_size=float(sizes.loc[[(block, o.indices[0]) for o in others]].mean()),
                ended=first,
                ended_controls=np.stack([next(outcomes) for _ in others]),
            )
        )
    return NeuronSearch(
        base=base.name,
        n_neurons=len(table),
        blocks=read.blocks,
        n_screening=len(names[::2]),
        problems=tuple(chains[i].problem for i in test),
        tests=tuple(tests),
    )


def with_neurons(base: VariantLike, one: Neurons, when: When | None) -> Variant:
    """Add scaled neurons to a variant.

    Args:
        base: The variant.
        one: The neurons and their scale.
        when: The window in which they are scaled; None for all steps.

    Returns:
        The new variant.
    """
    step = Neurons(one.block, one.indices, one.scale, window=when)
    return Variant(f"{base.name} / {one.name}", (*base.interventions(), step))


def _kept(
    tries: Sequence[Neurons], screened: np.ndarray, tested: int, always: Sequence[int]
) -> list[int]:
    """The tries to test: each neuron once, at its better scale, those that ended most loops."""
    order = np.argsort(-screened, kind="stable").tolist()  # ties: what adds most to the logit
    kept: list[int] = []
    for i in order:
        known = any((tries[i].block, tries[i].indices) == (tries[j].block, tries[j].indices)
                    for j in kept)  # fmt: skip
        if len(kept) < tested and not known:
            kept.append(i)
    for block in always:
        if all(tries[i].block != block for i in kept):
            kept.append(next(i for i in order if tries[i].block == block))
    return kept


def _controlled(table: pd.DataFrame, controls: int) -> np.ndarray:
    """Whether enough other neurons of a neuron's block write anything, [neurons]."""
    writes = [
        int((table.loc[table["block"] == block, "size"] > SILENT * own).sum()) - 1
        for block, own in table.groupby("block")["size"].max().items()
    ]
    enough = dict(zip(table["block"].drop_duplicates(), writes, strict=True))
    return table["block"].map(enough).to_numpy() >= controls


def _matched(
    read: NeuronContributions, one: Neurons, controls: int, rng: np.random.Generator
) -> list[Neurons]:
    """Random neurons of the block, nearest in size, changed so that the stream changes as much."""
    size = read.size[read.blocks.index(one.block)].mean(0)  # [F]
    own = one.indices[0]
    free = np.flatnonzero((size > SILENT * size.max()) & (np.arange(len(size)) != own))
    near = free[np.argsort(np.abs(size[free] - size[own]), kind="stable")][: POOL * controls]
    drawn = sorted(int(j) for j in rng.choice(near, controls, replace=False))
    return [
        Neurons(one.block, (j,), scale=float(1 - (1 - one.scale) * size[own] / size[j]))
        for j in drawn
    ]
