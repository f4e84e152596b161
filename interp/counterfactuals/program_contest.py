"""Programs of layers against the dense model: the best of many, tested on other problems.

Searches for programs (CoLa, arXiv 2507.07996; Dr.LLM, 2510.12773; PoLar, 2606.06574) report that
most wrong answers have a program that gets them right. Any N tries do that to some degree: N
samples of the dense model, or N disturbed models. Two questions with their controls:

- `winners` and `held_out`: the program with the highest accuracy on one half of the problems, and
  its difference from dense on the other half. Its gain on the first half is the winner's curse
  plus the truth; the second half holds the truth.
- `any_of`: the share of problems that at least one try solves, for programs and for other tries of
  the same compute, paired by problem.

Shapes: P problems, N tries, S samples of a problem. Outcomes are 0 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp.errors import UserError
from interp.interventions.interventions import Skip, Variant
from interp.interventions.programs import Order, Repeat
from interp.plumbing.brief_repr import brief
from interp.statistics import mean_interval, paired_difference, with_holm

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

ANY = "any"  # the kind that holds all tries
RUN_LENGTHS = (4,)


def usual_programs(
    model: ReasoningModel, run_lengths: Sequence[int] = RUN_LENGTHS
) -> dict[str, tuple[Variant, ...]]:
    """The programs next to the dense model: each block skipped, repeated, or swapped with the next.

    Args:
        model: the model.
        run_lengths: lengths of the runs of neighbouring blocks that are repeated as a whole.

    Returns:
        By kind ("skip", "repeat", "swap", "run"), the programs, named after what they do.
    """
    blocks = model.layer_map
    n = len(blocks)
    swaps, runs = [], []
    for i in range(n - 1):
        order = (*blocks[:i], blocks[i + 1], blocks[i], *blocks[i + 2 :])
        swaps.append(Variant(f"swap {blocks[i]} {blocks[i + 1]}", (Order(order),)))
    for length in run_lengths:
        for i in range(n - length + 1):
            order = (*blocks[: i + length], *blocks[i:])
            runs.append(Variant(f"run {blocks[i]}-{blocks[i + length - 1]}", (Order(order),)))
    return {
        "skip": tuple(Variant(f"skip {b}", (Skip(b),)) for b in blocks),
        "repeat": tuple(Variant(f"repeat {b}", (Repeat(b),)) for b in blocks),
        "swap": tuple(swaps),
        "run": tuple(runs),
    }


@brief
@dataclass(frozen=True)
class Tries:
    """What some tries at the same problems gave.

    Attributes:
        names: name of each try, N of them.
        kinds: kind of each try, N of them.
        correct: whether each try is right [P, N].
        passes: what each try cost [P, N]: tokens read times blocks run.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    correct: Float[np.ndarray, "P N"]
    passes: Float[np.ndarray, "P N"]

    def __post_init__(self) -> None:
        shape = (len(self.correct), len(self.names))
        if self.correct.shape != shape or self.passes.shape != shape or len(self.kinds) != shape[1]:
            raise UserError(
                f"Tries: {len(self.names)} names and {len(self.kinds)} kinds for outcomes "
                f"{self.correct.shape} and costs {self.passes.shape}: expected one per try."
            )


@dataclass(frozen=True)
class Winner:
    """The try of a kind that was best on the problems it was selected on.

    Attributes:
        kind: the kind; `ANY` for all tries.
        name: name of the try.
        tries: number of tries that it was the best of.
        selected: its accuracy on those problems.
        dense: accuracy of the dense model there.
    """

    kind: str
    name: str
    tries: int
    selected: float
    dense: float


def winners(
    tries: Tries, dense: Float[np.ndarray, " P"], selection: Bool[np.ndarray, " P"]
) -> list[Winner]:
    """Select the best try of each kind, and of all.

    Args:
        tries: the tries.
        dense: outcomes of the dense model [P].
        selection: the problems to select on [P].

    Returns:
        The winner of all tries, then of each kind. Among equals the cheapest wins.

    Raises:
        UserError: no problem is left to select on, or to test on.
    """
    if selection.all() or not selection.any():
        raise UserError("winners: expected problems to select on, and others to test on.")
    score, cost = tries.correct[selection].mean(0), tries.passes.mean(0)
    base = float(dense[selection].mean())
    found = []
    for kind in (ANY, *dict.fromkeys(tries.kinds)):
        own = [i for i, k in enumerate(tries.kinds) if kind in (ANY, k)]
        best = max(own, key=lambda i: (score[i], -cost[i]))
        found.append(Winner(kind, tries.names[best], len(own), float(score[best]), base))
    return found


def held_out(
    found: Sequence[Winner],
    dense: Float[np.ndarray, "P S"],
    tested: Mapping[str, Float[np.ndarray, "P S"]],
) -> pd.DataFrame:
    """Compare winners with the dense model on problems that they were not selected on.

    Args:
        found: the winners.
        dense: outcomes of the dense model on other problems [P, S].
        tested: outcomes of each winner there, by name.

    Returns:
        One row per winner. apparent: its gain where it was selected. value, low, high, p: the
        difference from dense on the other problems, paired. p_holm: corrected over the winners.
    """
    rows = []
    for one in found:
        gap = paired_difference(dense, tested[one.name])
        rows.append(
            {
                "kind": one.kind,
                "name": one.name,
                "tries": one.tries,
                "selected": one.selected,
                "apparent": one.selected - one.dense,
                "dense": gap.dense,
                **gap.cells(),
                "p": gap.p,
                "n_problems": gap.n_problems,
                "n_samples": gap.n_samples,
            }
        )
    return with_holm(pd.DataFrame(rows).assign(part="best"), "part")


def any_of(
    arms: Mapping[str, Tries], dense: Float[np.ndarray, " P"], base: str = "programs"
) -> pd.DataFrame:
    """Count the problems that at least one try solves.

    Args:
        arms: by name, tries at the same problems.
        dense: outcomes of the dense model's own try [P].
        base: the arm that the others are compared with.

    Returns:
        One row per arm and set of problems ("all", and "wrong": those that `dense` fails). value,
        low, high: the share that any try solves. gap, gap_low, gap_high, p: that of the base minus
        it, paired; p_holm: corrected over all rows. compute: passes over those of the base.
    """
    solved = {name: arm.correct.max(1) for name, arm in arms.items()}
    rows = []
    for among, here in (("all", np.ones(len(dense), bool)), ("wrong", dense < 0.5)):
        if not here.any():
            continue
        for name, arm in arms.items():
            share = mean_interval(solved[name][here])
            row = {"kind": among, "arm": name, "tries": len(arm.names), **share.cells()}
            row["compute"] = float(arm.passes[here].sum() / arms[base].passes[here].sum())
            row |= {"n_problems": share.n_problems, "n_samples": share.n_samples}
            if name != base:
                gap = paired_difference(solved[name][here], solved[base][here])
                row |= {**gap.cells("gap", "gap_"), "p": gap.p}
            rows.append(row)
    return with_holm(pd.DataFrame(rows).assign(part="oracle"), "part")
