"""What the residual stream is at a cut: in the pruned model, and in the model it should equal.

For every counted token of the calibration texts:
- `entering`: the stream at the cut of the pruned model, repaired as far as it is by then;
- `target`: the stream of the whole model behind the blocks that the cut removes;
- `mlp`: what the MLP of the last kept block before the cut adds to `entering`.

Cuts are fitted from the first to the last, each on what the model so far really hands on, so a
later one also makes up for what the earlier ones left. Blocks behind the cut are not computed.
Batches stream through: nothing but the batch at hand is kept. K tokens a batch, all in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.errors import NonFiniteError
from interp.interventions.hooks import bypass
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import batches
from interp.replay.chunked_forward import forward
from pruning.calibration import Calibration
from pruning.repairs.machinery.cuts import Cut
from pruning.repairs.machinery.live import Map, live


@dataclass(frozen=True)
class CutBatch:
    """The counted tokens of one batch at a cut. texts: which text each token is of."""

    entering: Float[Tensor, "K D"]
    target: Float[Tensor, "K D"]
    mlp: Float[Tensor, "K D"] | None
    texts: Int[Tensor, " K"]


def at_cut(
    model: ReasoningModel,
    pruned: ReasoningModel,
    maps: Sequence[Map],
    cut: Cut,
    calibration: Calibration,
    batch_tokens: int,
) -> Iterator[CutBatch]:
    """Batches of both streams at the cut. maps: of the cuts before, applied to `pruned`."""
    counted = calibration.counted()
    for batch in batches(model, calibration.sequences, batch_tokens):
        mask = batch.mask & batch.pad(counted)
        if mask.any():
            yield _cut_batch(model, pruned, maps, cut, batch.ids, mask, batch.texts)


@torch.no_grad()
def _cut_batch(
    model: ReasoningModel,
    pruned: ReasoningModel,
    maps: Sequence[Map],
    cut: Cut,
    ids: Int[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    texts: Int[Tensor, " B"],
) -> CutBatch:
    with tap_input(model, entrance(model, behind(model, cut))) as theirs:
        forward_to(model, ids, behind(model, cut))
    with ExitStack() as stack:
        stack.enter_context(live(pruned, maps))
        index = position(pruned, cut.after)
        ours = stack.enter_context(tap_input(pruned, entrance(pruned, index)))
        added = None
        if cut.before is not None:
            adds = pruned.anatomy.adds_mlp[position(pruned, cut.before)]
            added = stack.enter_context(tap_output(pruned, adds))
        forward_to(pruned, ids, index)
    device = theirs[0].device
    if device.type == "mps":  # it has no float64, in which all is summed
        device = torch.device("cpu")
    return CutBatch(
        entering=_counted(ours, mask, device, "stream at a cut"),
        target=_counted(theirs, mask, device, "residual stream"),
        mlp=None if added is None else _counted(added, mask, device, "output of an MLP"),
        texts=texts[:, None].expand_as(mask)[mask].to(device),
    )


def held_out(n_texts: int) -> Bool[Tensor, " N"]:
    """Which texts an option is chosen on: every fifth; the last of fewer; none of one."""
    out = torch.zeros(n_texts, dtype=torch.bool)
    if n_texts >= 5:
        out[4::5] = True
    elif n_texts >= 2:
        out[-1] = True
    return out


def behind(model: ReasoningModel, cut: Cut) -> int:
    """Position in the whole model of what comes behind the cut's run (L: the final norm)."""
    return position(model, cut.last) + 1


def position(model: ReasoningModel, block: int | None) -> int:
    """Position of a dense block that is there; None stands for the final norm, position L."""
    index = model.n_blocks if block is None else model.index_of(block)
    assert index is not None
    return index


def entrance(model: ReasoningModel, index: int) -> nn.Module:
    """The module that the stream enters at a position."""
    return model.final_norm if index == model.n_blocks else model.blocks[index]


def forward_to(model: ReasoningModel, ids: Int[Tensor, "B T"], index: int) -> None:
    """A pass in which the blocks from position `index` on are not computed."""
    with bypass(model, range(index, model.n_blocks)):
        forward(model, ids)


@contextmanager
def tap_input(model: ReasoningModel, module: nn.Module) -> Iterator[list[Tensor]]:
    """A list that receives what enters the module while open."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    with holding(model), ExitStack() as hooks:
        hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield seen


@contextmanager
def tap_output(model: ReasoningModel, module: nn.Module) -> Iterator[list[Tensor]]:
    """A list that receives what leaves the module while open."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, _args: Any, out: Any) -> None:
        seen.append(out[0] if isinstance(out, tuple) else out)

    with holding(model), ExitStack() as hooks:
        hooks.callback(module.register_forward_hook(hook).remove)
        yield seen


def _counted(seen: list[Tensor], mask: Tensor, device: torch.device, what: str) -> Tensor:
    picked = seen[0][mask.to(seen[0].device)].float().to(device)
    if not picked.isfinite().all():
        raise NonFiniteError(
            f"The {what} holds inf or nan: load the model in float32 or bfloat16, or look at its "
            "weights."
        )
    return picked


class CutErrors:
    """Squared distance to the target at a cut, summed over tokens in float64.

    `relative(squares)` divides by the target's own square: 0 is perfect, 1 what zeros would give.
    """

    def __init__(self) -> None:
        self.target = 0.0
        self.removed = 0.0
        self.tokens = 0

    def add(self, batch: CutBatch) -> None:
        """Fold in the distance of the stream as it enters, that is of plain removal."""
        self.target += float(batch.target.double().square().sum())
        self.removed += float((batch.target - batch.entering).double().square().sum())
        self.tokens += len(batch.target)

    def relative(self, squares: float) -> float:
        return max(squares, 0.0) / self.target if self.target else 0.0

    def entry(self, cut: Cut, repaired: float, **numbers: Any) -> dict[str, Any]:
        """What the record says of a cut whose repaired stream is `repaired` squares away."""
        return {
            "removed": list(cut.removed),
            "before": cut.before,
            "after": cut.after,
            "error_removed": self.relative(self.removed),
            "error_repaired": self.relative(repaired),
            "tokens": self.tokens,
            **numbers,
        }
