"""Is there one MLP neuron whose ablation or sign flip ends a loop?

arXiv 2606.13705 reports single neurons that do. A search over thousands of neurons finds some that
end loops by luck, and loops may end by any disturbance. So the problems are split in two:

- screening half: all neurons by what they add to the logit of the loop's next token
  (`interp.lens.neuron_attribution`); those that add most are tried by forking the chains within
  their loops, and the few that end most loops are kept;
- test half: the kept neurons against random neurons of the same block that write as much, at the
  same scale. The difference is paired by problem, with Holm's correction over the neurons.

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
from interp.counterfactuals.forks import stays
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.interventions import Variant, VariantLike, dense
from interp.interventions.neurons import Neurons
from interp.interventions.windows import ChainWindows
from interp.lens.neuron_attribution import NeuronContributions, neuron_contributions
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.statistics import mean_interval, paired_difference, problem_table, with_holm

Looped = Callable[[Chain], bool]
POOL = 4  # controls are drawn from this many times their number of neurons nearest in size


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
        controls: Numbers of the M neurons of the same block that write as much.
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
            Columns: base, block, neuron, scale, added, size, screened; ended, ended_low and
            ended_high, the share of test chains whose loop ended; control, the mean share of the
            controls; value, low, high, p and p_holm of the difference; n, the test problems.
        """
        rows: list[dict[str, Any]] = []
        for one in self.tests:
            own = problem_table(one.ended, self.problems)
            control = problem_table(one.ended_controls.mean(0), self.problems)
            share, gap = mean_interval(own), paired_difference(control, own)
            row: dict[str, Any] = {"base": self.base, "block": one.block, "neuron": one.neuron}
            row |= {"scale": one.scale, "added": one.added, "size": one.size}
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
        UserError: There are chains of fewer than 4 problems, or a number is out of range.
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
        variants = [
            Variant(f"{base.name} / {one.name}", (*base.interventions(), _during(one, when)))
            for one in changes
        ]
        return 1 - stays(model, few, variants, when, looped, sampling=sampling)

    screening, test = halves
    read = neuron_contributions(
        model, [chains[i] for i in screening], [rows[i] for i in screening], blocks=blocks,
        variant=base,
    )  # fmt: skip
    if lacking := sorted(set(always) - set(read.blocks)):
        raise UserError(
            f"search_neurons(always={list(always)}): no neuron of block {lacking} was screened; "
            f"expected blocks among {list(read.blocks)}."
        )
    table = read.to_frame()
    ranked = table.sort_values("added", ascending=False, kind="stable")
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
    # no neuron that was shortlisted is a control of another
    used = {(one.block, one.indices[0]) for one in tries}
    matched = [_matched(read, tries[i], controls, rng, used) for i in kept]
    flat = [
        one
        for i, others in zip(kept, matched, strict=True)
        for one in (tries[i], *(Neurons(tries[i].block, (j,), tries[i].scale) for j in others))
    ]
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
                controls=others,
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


def _during(one: Neurons, when: ChainWindows) -> Neurons:
    return Neurons(one.block, one.indices, one.scale, window=when)


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


def _matched(
    read: NeuronContributions,
    one: Neurons,
    controls: int,
    rng: np.random.Generator,
    used: set[tuple[int, int]],
) -> tuple[int, ...]:
    """Random neurons of the same block, of those nearest in the size of what they write."""
    size = read.size[read.blocks.index(one.block)].mean(0)  # [F]
    own = size[one.indices[0]]
    free = [j for j in range(len(size)) if (one.block, j) not in used]
    if len(free) < controls:
        raise UserError(
            f"search_neurons(controls={controls}): block {one.block} has {len(free)} neurons "
            "besides those that were shortlisted; expected as many as controls or more: lower "
            "shortlist or controls."
        )
    near = sorted(free, key=lambda j: abs(size[j] - own))[: POOL * controls]
    return tuple(sorted(int(j) for j in rng.choice(near, controls, replace=False)))
