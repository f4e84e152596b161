"""MLP neurons scaled one by one: ablated, weakened, or with the sign flipped.

    Neurons(11, (402,))              # neuron 402 of block 11 ablated
    Neurons(11, (402,), scale=-1.0)  # its sign flipped

A neuron is an input of the MLP's down projection (the activation times the gate, in gated MLPs).
The MLP adds the sum over neurons of activation x column of the down projection, so a scaled neuron
is the model with that column scaled. A mixture of experts has no such neurons.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from interp.errors import UserError
from interp.interventions.interventions import Intervention, PlaceName
from interp.interventions.windows import Site, ids_on
from interp.plumbing.arguments import checked


@checked
@dataclass(frozen=True)
class Neurons(Intervention):
    """Scale some neurons of a block's MLP.

    All neurons at 0 leave only the bias of the down projection, where there is one; without a bias
    that is `Skip(block, part="mlp")`.

    Attributes:
        indices: numbers of the neurons, from 0, none twice.
        scale: the factor: 0 ablates, -1 flips the sign, 1 changes nothing.

    Raises:
        UserError: no neuron is named, or one is named twice.
    """

    indices: tuple[int, ...] = ()
    scale: float = 0.0
    part: PlaceName = field(default="neurons", kw_only=True)
    places: ClassVar[tuple[str, ...]] = ("neurons",)

    def __post_init__(self) -> None:
        super().__post_init__()
        named = self.indices
        if not named or len(set(named)) < len(named) or min(named) < 0:
            few = f"{list(named[:8])}" + (" ..." if len(named) > 8 else "")
            raise UserError(f"Neurons(indices={few}): expected neurons, from 0, none twice.")

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """The inputs of the down projection [B, T, F], with the named neurons scaled."""
        if max(self.indices) >= delta.shape[-1]:
            raise UserError(
                f"Neuron {max(self.indices)}: block {self.block} has neurons "
                f"0..{delta.shape[-1] - 1}."
            )
        which = ids_on(self.indices, delta.device)
        return delta.index_copy(-1, which, delta[..., which] * self.scale)
