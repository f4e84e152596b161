"""The residual stream at a cut: in the pruned model, and in the model it should equal.

For every counted token of the calibration texts:
- `entering`: the stream at the cut of the pruned model, with the repairs made so far;
- `target`: the stream of the whole model after the blocks that the cut removes;
- `mlp`: what the MLP of the last kept block before the cut adds to `entering`.

Cuts are fitted from the first to the last, each on the streams of the model repaired so far, so a
later fit also corrects what earlier ones left. Blocks after the cut are not computed. Only the
current batch is in memory: K tokens, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from pruning.plan import LayerPlan
from pruning.repairs.machinery.cuts import Cut, cuts
from pruning.repairs.machinery.live import Map, live
from pruning.surgery import prune


@dataclass(frozen=True)
class CutBatch:
    """The counted tokens of one batch at a cut, float32.

    Attributes:
        entering: stream at the cut of the pruned model [K, D].
        target: stream of the whole model after the run [K, D].
        mlp: what the MLP before the cut adds [K, D]; None if the run starts the model.
        texts: the number of each token's text [K].
    """

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
    """Yield batches of both streams at a cut.

    Args:
        model: the whole model.
        pruned: the pruned model.
        maps: the maps of the cuts before, applied to `pruned`.
        cut: the cut.
        calibration: the token sequences.
        batch_tokens: the largest number of tokens per forward pass.

    Yields:
        The counted tokens of each batch.

    Raises:
        NonFiniteError: a stream holds inf or nan.
    """
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
            adds = pruned.anatomy.adds(position(pruned, cut.before), "mlp")
            added = stack.enter_context(tap_output(pruned, adds))
        forward_to(pruned, ids, index)
    device = theirs[0].device
    if device.type == "mps":  # it has no float64, which all sums use
        device = torch.device("cpu")
    return CutBatch(
        entering=_counted(ours, mask, device, "stream at a cut"),
        target=_counted(theirs, mask, device, "residual stream"),
        mlp=None if added is None else _counted(added, mask, device, "output of an MLP"),
        texts=texts[:, None].expand_as(mask)[mask].to(device),
    )


def held_out(n_texts: int) -> Bool[Tensor, " N"]:
    """Choose the texts on which an option is chosen.

    Args:
        n_texts: the number of texts.

    Returns:
        A mask [N]: every fifth text; the last one if there are fewer than five; none of a single
            one.
    """
    out = torch.zeros(n_texts, dtype=torch.bool)
    if n_texts >= 5:
        out[4::5] = True
    elif n_texts >= 2:
        out[-1] = True
    return out


def behind(model: ReasoningModel, cut: Cut) -> int:
    """The position in the whole model after the cut's run (L: the final norm).

    Args:
        model: the whole model.
        cut: the cut.

    Returns:
        The position.
    """
    return position(model, cut.last) + 1


def position(model: ReasoningModel, block: int | None) -> int:
    """The position of a dense block that the model has.

    Args:
        model: the model.
        block: dense index; None stands for the final norm.

    Returns:
        The position; L for the final norm.
    """
    index = model.n_blocks if block is None else model.index_of(block)
    assert index is not None
    return index


def entrance(model: ReasoningModel, index: int) -> nn.Module:
    """The module that the stream enters at a position.

    Args:
        model: the model.
        index: the position; L is the final norm.

    Returns:
        The module.
    """
    return model.final_norm if index == model.n_blocks else model.blocks[index]


def forward_to(model: ReasoningModel, ids: Int[Tensor, "B T"], index: int) -> None:
    """Run a forward pass in which the blocks from one position on are not computed.

    Args:
        model: the model.
        ids: token ids [B, T].
        index: the position of the first block that is left out.
    """
    with bypass(model, range(index, model.n_blocks)):
        forward(model, ids)


@contextmanager
def tap_input(model: ReasoningModel, module: nn.Module) -> Iterator[list[Tensor]]:
    """Record the inputs of a module while the context is open.

    Args:
        model: the model.
        module: one of its modules.

    Yields:
        A list that receives the input of every call.
    """
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    with holding(model), ExitStack() as hooks:
        hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield seen


@contextmanager
def tap_output(model: ReasoningModel, module: nn.Module) -> Iterator[list[Tensor]]:
    """Record the outputs of a module while the context is open.

    Args:
        model: the model.
        module: one of its modules.

    Yields:
        A list that receives the output of every call.
    """
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

    `relative(squares)` divides by the target's own square: 0 is perfect, 1 is the result of zeros.
    """

    def __init__(self) -> None:
        self.target = 0.0
        self.removed = 0.0
        self.tokens = 0

    def add(self, batch: CutBatch) -> None:
        """Add the target's square and the distance of plain removal for one batch."""
        self.target += float(batch.target.double().square().sum())
        self.removed += float((batch.target - batch.entering).double().square().sum())
        self.tokens += len(batch.target)

    def relative(self, squares: float) -> float:
        """Squares over the target's squares; 0 if the target is zero."""
        return max(squares, 0.0) / self.target if self.target else 0.0

    def entry(self, cut: Cut, repaired: float, **numbers: Any) -> dict[str, Any]:
        """Make the record's entry for a cut.

        Args:
            cut: the cut.
            repaired: squared distance of the repaired stream to its target.
            **numbers: further numbers of the entry.

        Returns:
            The entry, with relative errors.
        """
        return {
            "removed": list(cut.removed),
            "before": cut.before,
            "after": cut.after,
            "error_removed": self.relative(self.removed),
            "error_repaired": self.relative(repaired),
            "tokens": self.tokens,
            **numbers,
        }

    def watched(self, batches: Iterator[CutBatch]) -> Iterator[CutBatch]:
        """The same batches, each added as it passes."""
        for batch in batches:
            self.add(batch)
            yield batch


#: Fits one cut: from the cut, its batches and the errors (complete once the batches are read) to
#: the map, the sum of squares that it leaves, and numbers for the record.
Fit = Callable[[Cut, Iterator[CutBatch], CutErrors], tuple[Map, float, dict[str, Any]]]


def fitted_cuts(
    model: ReasoningModel, plan: LayerPlan, calibration: Calibration, batch_tokens: int, fit: Fit
) -> tuple[ReasoningModel, list[Map], list[dict[str, Any]]]:
    """Prune, and fit one map per cut, from the bottom up.

    Args:
        model: the unpruned model.
        plan: the plan.
        calibration: the texts.
        batch_tokens: the largest number of tokens per forward pass.
        fit: fits the map of a cut; the maps below it are in place while its batches are read.

    Returns:
        The pruned model with nothing folded, the maps, and an entry of the record per cut.
    """
    pruned = prune(model, plan)
    maps: list[Map] = []
    entries = []
    for cut in cuts(plan):
        errors = CutErrors()
        batches_here = at_cut(model, pruned, maps, cut, calibration, batch_tokens)
        each, after, numbers = fit(cut, errors.watched(batches_here), errors)
        entries.append(errors.entry(cut, after, **numbers))
        maps.append(each)
    return pruned, maps, entries
