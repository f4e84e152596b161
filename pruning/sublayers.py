"""Sublayers: the attention or the MLP of a block as the unit that is scored and removed.

A block adds to the residual stream twice: attention(x), then mlp(...). Either can be removed
without the other. `SublayerScores` hold one value per sublayer, `SublayerPlan` names those that
go; like a `LayerPlan` it is a variant, so it can be decoded live beside others.

There is no checkpoint without a sublayer, because Hugging Face configurations cannot express it.
But a sublayer whose output projection is zero adds nothing: `SublayerPlan.zeroed` gives an
ordinary checkpoint with the same logits, at the dense model's size and speed.

Papers: BlockPruner (arXiv 2406.10594), FinerCut (2405.18218), LLM-Drop (2406.15786).
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from interp.errors import UserError
from interp.interventions.interventions import Intervention, Skip
from interp.model.holding import holding, unguarded
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of
from pruning.plan import check_weights
from pruning.scores import Scores

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Part = Literal["attention", "mlp"]
PARTS: tuple[Part, ...] = ("attention", "mlp")
COLOURS = {"attention": "#4c72b0", "mlp": "#dd8452"}
# Names of the linear map that writes into the residual stream
OUTPUTS = {
    "attention": ("o_proj", "out_proj", "dense", "c_proj", "wo"),
    "mlp": ("down_proj", "c_proj", "fc2", "dense_4h_to_h", "w2", "wo"),
}


class Sublayer(NamedTuple):
    """The attention or the MLP of a block (dense index)."""

    block: int
    part: Part

    def __str__(self) -> str:
        return f"{self.block} {self.part}"


@checked
@brief
@dataclass(frozen=True)
class SublayerScores(Scores):
    """Scores whose `values[i]` belongs to part `parts[i]` of block `layer_map[i]`.

    Attributes:
        parts: "attention" or "mlp" for each value.
        followed: sublayers in the order of their removal if the criterion is greedy, otherwise
            None.
    """

    parts: tuple[Part, ...] = ()
    followed: tuple[Sublayer, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.parts) != len(self.layer_map):
            raise UserError(
                f"SublayerScores: {len(self.parts)} parts for {len(self.layer_map)} values."
            )

    @property
    def sublayers(self) -> tuple[Sublayer, ...]:
        """The sublayer each value belongs to."""
        return tuple(map(Sublayer, self.layer_map, self.parts))

    @property
    def items(self) -> tuple[str, ...]:
        """What each value belongs to, as text."""
        return tuple(map(str, self.sublayers))

    def lowest(self, n: int) -> tuple[int, ...]:
        """Refuse: sublayers are not blocks."""
        raise UserError(
            f"Criterion {self.criterion!r} removes sublayers, not blocks: make the plan with "
            f"SublayerPlan.lowest(scores, remove={n})."
        )

    def lowest_sublayers(self, n: int) -> tuple[Sublayer, ...]:
        """The sublayers to remove when `n` go.

        Args:
            n: the number of sublayers to remove.

        Returns:
            `n` sublayers.

        Raises:
            UserError: `n` is out of range, or larger than the number the greedy search was run for.
        """
        most = len(self.values) if self.followed is None else len(self.followed)
        if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= most:
            raise UserError(
                f"Cannot remove {n!r} sublayers by {self.criterion!r}: expected a whole number "
                f"from 0 to {most}" + (", as far as it was followed." if self.followed else ".")
            )
        if self.followed is not None:
            return self.followed[:n]
        return tuple(self.sublayers[i] for i in self.order[:n])

    def _followed(self) -> tuple[int, ...]:
        places = {sublayer: i for i, sublayer in enumerate(self.sublayers)}
        return tuple(places[sublayer] for sublayer in self.followed or ())

    def removals(self) -> tuple[str, ...]:
        """What goes for n = 1, 2, ..., as text; empty if simply the lowest scores go."""
        words = [str(sublayer) for sublayer in self.followed or ()]
        return tuple(", ".join(words[: n + 1]) for n in range(len(words)))

    def first(self, n: int) -> frozenset[int]:
        """Positions of the sublayers that go when `n` are removed."""
        places = {sublayer: i for i, sublayer in enumerate(self.sublayers)}
        return frozenset(places[sublayer] for sublayer in self.lowest_sublayers(n))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per sublayer: dense index, part, score, interval, rank (0 first)."""
        frame = super().to_frame()
        frame.insert(2, "part", list(self.parts))
        return frame

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the score of every sublayer over its block's dense index."""
        ax = axes_of(ax, (6.4, 3.2))
        shown = [part for part in PARTS if part in self.parts]
        width = 0.8 / len(shown)
        for place, part in enumerate(shown):
            mine = np.asarray([p == part for p in self.parts]) & np.isfinite(self.values)
            where = np.asarray(self.layer_map)[mine] + (place - (len(shown) - 1) / 2) * width
            ax.bar(where, self.values[mine], width=width, color=COLOURS[part], label=part)
        ax.legend()
        ax.set_xlabel("block (dense index)")
        ax.set_ylabel(f"{self.criterion} score")
        ax.set_title(f"{self.criterion}: low scores are removed first")
        return ax


@checked
@dataclass(frozen=True)
class SublayerPlan:
    """Sublayers to remove from a model whose blocks have the dense indices `base`.

    Attributes:
        removed: the sublayers to remove, kept sorted.
        base: dense indices of the blocks of the plan's model.
        name: the plan's name. Default: made from the criterion or the sublayers.
        criterion: the criterion that chose the sublayers.
        calibration: hash of the calibration text.
        model: fingerprint of the model that was scored.
    """

    removed: tuple[Sublayer, ...]
    base: tuple[int, ...]
    name: str = ""
    criterion: str = ""
    calibration: str = ""
    model: str = ""

    def __post_init__(self) -> None:
        removed = tuple(sorted(Sublayer(int(l), part) for l, part in self.removed))
        for sublayer in removed:
            if sublayer.part not in PARTS:
                raise UserError(
                    f"SublayerPlan: part {sublayer.part!r} of block {sublayer.block}: expected "
                    f"one of {', '.join(PARTS)}."
                )
            if sublayer.block not in self.base:
                raise UserError(
                    f"SublayerPlan: block {sublayer.block} is not there; the model has the blocks "
                    f"{list(self.base)} (dense indices, from 0)."
                )
            if removed.count(sublayer) > 1:
                raise UserError(f"SublayerPlan: {sublayer} is named twice; name each once.")
        object.__setattr__(self, "removed", removed)
        if not self.name:
            words = ", ".join(map(str, removed))
            by = f"{self.criterion}-{len(removed)}" if self.criterion else f"without {words}"
            object.__setattr__(self, "name", by if removed else "nothing removed")

    @classmethod
    def lowest(cls, scores: Scores, remove: int, name: str = "") -> SublayerPlan:
        """Make the plan that removes the sublayers that `scores` ranks lowest.

        Args:
            scores: a sublayer criterion's scores of the model.
            remove: the number of sublayers to remove.
            name: the plan's name. Default: criterion and number.

        Returns:
            The plan.

        Raises:
            UserError: the scores are of blocks, or cannot give that many removals.
        """
        if not isinstance(scores, SublayerScores):
            raise UserError(
                f"Criterion {scores.criterion!r} removes blocks, not sublayers: make the plan "
                f"with LayerPlan.lowest(scores, remove={remove})."
            )
        return cls(
            removed=scores.lowest_sublayers(remove),
            base=tuple(sorted(set(scores.layer_map))),
            name=name,
            criterion=scores.criterion,
            calibration=scores.calibration,
            model=scores.model,
        )

    @classmethod
    def without(
        cls, model: ReasoningModel, *sublayers: tuple[int, Part], name: str = ""
    ) -> SublayerPlan:
        """Make the plan that removes the named sublayers of `model`.

        Args:
            model: the model; its fingerprint is stored in the plan.
            *sublayers: pairs (dense index, "attention" or "mlp").
            name: the plan's name. Default: made from the sublayers.

        Returns:
            The plan.

        Raises:
            UserError: a sublayer does not exist, or is named twice.
        """
        removed = tuple(Sublayer(l, part) for l, part in sublayers)
        return cls(removed, tuple(model.layer_map), name, model=model.fingerprint())

    def interventions(self) -> tuple[Intervention, ...]:
        """One `Skip` per sublayer; for a block that loses both, one `Skip` of the whole block."""
        whole = {
            l for l, part in self.removed if part == "attention" and (l, "mlp") in self.removed
        }
        parts = [Skip(l, part=part) for l, part in self.removed if l not in whole]
        return (*map(Skip, sorted(whole)), *parts)

    def check(self, model: ReasoningModel) -> None:
        """Refuse a model the plan was not made for (other blocks or weights)."""
        if tuple(model.layer_map) != self.base:
            raise UserError(
                f"Plan {self.name!r} is for a model with the blocks {list(self.base)}; "
                f"{model.name!r} has {list(model.layer_map)}. Make a plan from scores of this one."
            )
        check_weights(self.name, self.model, model)

    def zeroed(self, model: ReasoningModel) -> ReasoningModel:
        """Return a copy of `model` in which the removed sublayers' output weights are zero.

        The sublayers then add zero. The copy has the logits of the live plan, and the size and
        speed of
        the dense model. Saved by `.hf.save_pretrained`, it is an ordinary checkpoint.

        Args:
            model: the model the plan was made for; it is not changed.

        Returns:
            The copy.

        Raises:
            UserError: the plan is for another model, or a sublayer still adds something (a bias).
        """
        self.check(model)
        with holding(model):  # no hook of another thread is copied
            hf = copy.deepcopy(model.hf, unguarded(model))
        copied = model.around(hf, name=f"{model.name} {self.name}")
        places = [Sublayer(self.base.index(l), part) for l, part in self.removed]
        for index, part in places:
            _zero_output(copied.anatomy.sublayer(index, part), part)
        _check_zero(copied, places)
        return copied


def _zero_output(module: nn.Module, part: Part) -> None:
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if set(name.split(".")) & set(OUTPUTS[part]):
                weight.zero_()


def _check_zero(model: ReasoningModel, places: list[Sublayer]) -> None:
    """Refuse an architecture where zero output weights do not make a sublayer add zero."""
    left: list[str] = []

    def look(index: int, part: Part) -> Any:
        def hook(_: nn.Module, _args: Any, out: Any) -> None:
            if (out[0] if isinstance(out, tuple) else out).count_nonzero():
                left.append(f"{model.layer_map[index]} {part}")

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for index, part in places:
            handle = model.anatomy.adds(index, part).register_forward_hook(look(index, part))
            hooks.callback(handle.remove)
        model.anatomy.base(input_ids=torch.zeros(1, 4, dtype=torch.long, device=model.device))
    if left:
        raise UserError(
            f"{type(model.hf).__name__}: with zero output weights {', '.join(left)} still adds "
            "something (a bias after it, or weights of another name); run the plan live instead."
        )
