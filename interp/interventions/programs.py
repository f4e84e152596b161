"""Programs: which blocks run, in which order, and how often.

`Repeat(block, times)` runs a block several times in a row; `Order(blocks)` runs these blocks in
this order. Blocks left out are skipped, blocks named twice run twice. In a variant they go
with other interventions, which then act wherever their block runs.

Every run of a block has keys and values of its own. `interp.decoding.unrolled` decodes programs
live, in one batch with other variants; `program_model` is the model whose blocks are those of a
program, for everything else.

Sources of the idea: CoLa (arXiv 2507.07996), Dr.LLM (arXiv 2510.12773), mergekit's passthrough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import ClassVar, NoReturn

import torch

from interp.errors import UserError
from interp.interventions.interventions import Intervention, Skip, VariantLike
from interp.interventions.windows import Site, When
from interp.model.block_order import verify, with_blocks
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked


@dataclass(frozen=True)
class _Program(Intervention):
    """An intervention that says which blocks run, and changes no delta."""

    by_program: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part != "block":
            raise UserError(f"{type(self).__name__}(part={self.part!r}): only whole blocks run.")

    def new_stream(self, before: torch.Tensor, after: torch.Tensor, at: Site) -> NoReturn:
        """Never called: hooks cannot run a block again."""
        raise NotImplementedError(f"{self.name} is no change of a stream")


@checked
@dataclass(frozen=True)
class Repeat(_Program):
    """Run a block several times in a row.

    Outside its window the block runs once; its further runs then still write keys and values.

    Attributes:
        times: how often the block runs; 1 changes nothing.

    Raises:
        UserError: `times` is below 1.
    """

    times: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.times < 1:
            raise UserError(f"Repeat(times={self.times}): expected 1 or more; Skip runs it never.")


@checked
@dataclass(frozen=True)
class Order(_Program):
    """Run these blocks in this order: left out, repeated or moved as the list says.

    Attributes:
        blocks: dense indices of the blocks that run, in order.

    Raises:
        UserError: there is no block, an index is negative, or there is a window.
    """

    block: int = field(init=False, default=0, repr=False)
    blocks: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.blocks or min(self.blocks) < 0:
            raise UserError(f"Order({self.blocks}): expected dense indices of blocks, from 0.")
        if self.window is not None:
            raise UserError(
                "Order has no window: what a moved block read before the window would depend on "
                "how the two orders are matched. Use Skip or Repeat in a window."
            )

    @property
    def name(self) -> str:
        """The name of the variant that consists of this order, such as "order 0-3,3-7"."""
        runs = [  # rising by one: the difference to the place stays
            [block for _, block in run]
            for _, run in groupby(enumerate(self.blocks), lambda pair: pair[1] - pair[0])
        ]
        said = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
        return f"order {','.join(said)}"


@dataclass(frozen=True)
class BlockRun:
    """One run of a block in a program.

    Attributes:
        block: dense index of the block.
        window: the window in which it runs; None for always.
    """

    block: int
    window: When | None = None


def runs_of(model: ReasoningModel, variant: VariantLike) -> tuple[BlockRun, ...] | None:
    """The runs of blocks that make up a variant, in order.

    Args:
        model: the model.
        variant: the variant.

    Returns:
        The runs, without the blocks that the variant skips at all steps; None for a variant
        without `Repeat` and `Order`.

    Raises:
        UserError: a program names a block that the model does not have, or two contradict each
            other.
    """
    steps = variant.interventions()
    orders = [step for step in steps if isinstance(step, Order)]
    repeats = [step for step in steps if isinstance(step, Repeat)]
    if not orders and not repeats:
        return None
    what = f"Variant {variant.name!r}"
    again = {step.block: step for step in repeats}
    if len(orders) > 1 or len(again) < len(repeats):
        raise UserError(f"{what}: expected at most one Order, and one Repeat of a block.")
    blocks = orders[0].blocks if orders else model.layer_map
    if lacking := sorted({*again, *blocks} - set(model.layer_map)):
        raise UserError(f"{what} runs block {lacking}: {model.name} has {model.layer_map}.")
    if lacking := sorted(set(again) - set(blocks)):
        raise UserError(f"{what} repeats block {lacking}, which its order leaves out.")
    gone = {step.block for step in steps if _gone(step)}
    runs: list[BlockRun] = []
    for block in blocks:
        if block not in gone:
            runs.append(BlockRun(block))
            if (repeat := again.get(block)) is not None:
                runs += [BlockRun(block, repeat.window)] * (repeat.times - 1)
    if not runs:
        raise UserError(f"{what} runs no block: expected at least one.")
    return tuple(runs)


def _gone(step: Intervention) -> bool:
    return isinstance(step, Skip) and step.part == "block" and step.window is None


def in_place(model: ReasoningModel, runs: Sequence[BlockRun]) -> bool:
    """Whether the runs of a variant only leave blocks out, so that no block runs elsewhere."""
    stay = [run.block for run in runs]
    return stay == [block for block in model.layer_map if block in stay]


def plain_steps(model: ReasoningModel, variant: VariantLike) -> tuple[Intervention, ...]:
    """The interventions of a variant with no `Repeat` and `Order` among them.

    Args:
        model: the model.
        variant: the variant.

    Returns:
        The interventions; a program that only leaves blocks out becomes `Skip`s of them.

    Raises:
        UserError: it runs a block again or in another order, or as `runs_of`.
    """
    runs, steps = runs_of(model, variant), variant.interventions()
    if runs is None:
        return steps
    if not in_place(model, runs):
        raise UserError(
            f"Variant {variant.name!r} runs blocks again or in another order. Only `generate` and "
            "`decode` do that with the model itself: take `program_model(model, variant)`, which "
            "has the blocks in this order, and use it here without the variant."
        )
    stay = {run.block for run in runs}
    gone = [block for block in model.layer_map if block not in stay]
    own = [step for step in steps if not step.by_program and step.block not in gone]
    return (*(Skip(block) for block in gone), *own)


def program_blocks(model: ReasoningModel, program: VariantLike) -> tuple[int, ...]:
    """The dense index of each block of a program, in order.

    Args:
        model: the model.
        program: `Repeat`, `Order` and `Skip` of whole blocks, without windows.

    Returns:
        The blocks.

    Raises:
        UserError: the variant does anything else, or as `runs_of`.
    """
    steps = program.interventions()
    if other := [s for s in steps if s.window is not None or not (s.by_program or _gone(s))]:
        raise UserError(
            f"Variant {program.name!r} does {other[0].name!r}: a model of its own can only repeat, "
            "move and leave out whole blocks, at all steps."
        )
    runs = runs_of(model, program)
    if runs is None:
        gone = {step.block for step in steps}
        return tuple(block for block in model.layer_map if block not in gone)
    return tuple(run.block for run in runs)


@checked
def program_model(
    model: ReasoningModel, program: VariantLike, *, apart: bool = False
) -> ReasoningModel:
    """Return the model whose blocks are those of a program, with the weights of `model`.

    Its blocks count from 0 in the program's order. Use it for what only `generate` and `decode` do
    with a program live: replay, capture, lenses, scores. Do not train or edit it.

    Args:
        model: the model; it is not changed.
        program: `Repeat`, `Order` and `Skip` of whole blocks, without windows.
        apart: whether a block that comes again has weight tensors of its own there (for files).

    Returns:
        The model; it shares the weight tensors of `model`.

    Raises:
        UserError: the program does anything else, names a block that is not there, or the
            architecture is not supported.
    """
    return in_order(model, program_blocks(model, program), program.name, apart=apart)


def in_order(
    model: ReasoningModel, blocks: Sequence[int], name: str, *, apart: bool = False
) -> ReasoningModel:
    """A model of blocks in any order, with the weights of `model`.

    Args:
        model: the model; it is not changed.
        blocks: dense index of each block, in order.
        name: what to add to the name of the model.
        apart: whether a block that comes again has weight tensors of its own there.

    Returns:
        The model, whose blocks count from 0.

    Raises:
        UserError: the architecture is not supported.
    """
    hf = with_blocks(model, [model.layer_map.index(b) for b in blocks], share=True, apart=apart)
    verify(hf, model.name, "run with its blocks in another order", "Remove blocks only.")
    return ReasoningModel(
        hf,
        model.tokenizer,
        name=f"{model.name} {name}",
        delimiters=model.delimiters,
        provenance=model.provenance,
        program=[model.program[b] if model.program else b for b in blocks],
        preferred_decoder=model.preferred_decoder,
    )
