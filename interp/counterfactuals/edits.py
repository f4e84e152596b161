"""Decode chains again with a change, each from the first step at which the change acts.

Before that step the changed chain equals the old one: the same model reads the same tokens with the
same noise. So a chain on which the change never acts is kept, and any other is forked
(`interp.decoding.request.fork`) at its first step inside. A window late in the chain only costs
what comes after it. The result is the chain that decoding from the start gives, up to ties of float
noise.

    edits = [Edit("second quarter", l, ablated(dense, l, window), window) for l in range(16)]
    for edit, number, chain in rerun(model, chains, edits): ...

`ablated` and `restored` make the changed variants: a block removed, or given back, while a window
is open. The chains must have been written by `base` with this model and this sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from interp.chains.chain import Chain
from interp.decoding.generate import decode
from interp.decoding.request import Request, fork
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.interventions import Part, Skip, Variant, VariantLike
from interp.interventions.timeline import steps_inside
from interp.interventions.windows import When

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

ALL = -1  # means all blocks of a variant at once


@dataclass(frozen=True)
class Edit:
    """One change of one block.

    Attributes:
        name: Name of the change, such as that of its window.
        block: Dense index of the block; `ALL` where all blocks of a variant are restored together.
        variant: The changed variant.
        when: The steps at which the variant differs from the one that wrote the chains; None: all.
    """

    name: str
    block: int
    variant: VariantLike
    when: When | None


def ablated(base: VariantLike, block: int, when: When | None, part: Part = "block") -> Variant:
    """Make a variant that also skips a block (or its attention or MLP) while a window is open.

    Args:
        base: The variant to change.
        block: Dense index of the block.
        when: The window; None: always.
        part: "block", "attention" or "mlp".

    Returns:
        The changed variant.
    """
    step = Skip(block, part=part, window=when)
    return Variant(f"{base.name} / no {part} {block}", (*base.interventions(), step))


def restored(base: VariantLike, block: int, when: When | None) -> Variant:
    """Make a variant without the changes of `base` to a block, while a window is open.

    Args:
        base: The variant to change.
        block: Dense index of the block; `ALL` restores all blocks.
        when: The window; None: always.

    Returns:
        The changed variant.

    Raises:
        UserError: `base` does not change the block.
    """
    steps = []
    hit = False
    for step in base.interventions():
        if block not in (ALL, step.block):
            steps.append(step)
            continue
        hit = True
        if when is not None:
            outside = ~when if step.window is None else step.window & ~when
            steps.append(replace(step, window=outside))
    if not hit:
        raise UserError(
            f"restored: variant {base.name!r} does nothing to block {block}; it changes blocks "
            f"{sorted({s.block for s in base.interventions()})}."
        )
    return Variant(f"{base.name} / block {block} back", tuple(steps))


def rerun(
    model: ReasoningModel,
    chains: Sequence[Chain],
    edits: Sequence[Edit],
    *,
    sampling: Sampling | None = None,
    slots: int | None = None,
    stop_on_loop: bool = True,
) -> Iterator[tuple[int, int, Chain]]:
    """Decode chains again under each edit, from where the edit first acts.

    A pair in which the edit never acts is left out: its chain is the one that was given.

    Args:
        model: The model that wrote the chains.
        chains: Finished chains, one per problem, sample and seed.
        edits: The changes.
        sampling: As the chains were decoded.
        slots: Rows of the decoding batch; default: as memory allows.
        stop_on_loop: As the chains were decoded.

    Yields:
        Index of the edit, index of the chain, and the changed chain, in any order.

    Raises:
        UserError: There are no chains, or two have the same problem, sample and seed.
    """
    if not chains:
        raise UserError("rerun: no chain was given; expected at least one.")
    where = {_key(chain): i for i, chain in enumerate(chains)}
    if len(where) < len(chains):
        raise UserError(
            "rerun: two chains have the same problem, sample and seed; pass one of each."
        )
    numbers: dict[str, int] = {}
    by_window: dict[int, list[Request]] = {}
    opens: dict[int, list[int | None]] = {}
    for e, edit in enumerate(edits):
        window = id(edit.when)
        if window not in opens:
            opens[window] = [_first(chain, edit.when) for chain in chains]
        variant = Variant(f"{edit.variant.name} #{e}", edit.variant.interventions())
        numbers[variant.name] = e
        asked = by_window.setdefault(window, [])
        for chain, step in zip(chains, opens[window], strict=True):
            if step is not None:
                asked += fork(chain, fork_point(chain, step), [variant])
    # One window at a time: edits of one window share the tokens before it opens, and a forward
    # pass evaluates one window only.
    for asked in by_window.values():
        for chain in decode(
            model, asked, sampling=sampling, slots=slots, stop_on_loop=stop_on_loop
        ):
            number = where[_key(chain)]
            yield numbers[chain.variant], number, _whole(chain, chains[number])


def _first(chain: Chain, when: When | None) -> int | None:
    steps = steps_inside(chain, when)
    return int(steps[0]) if len(steps) else None


def _whole(chain: Chain, old: Chain) -> Chain:
    """A fork as if it had been decoded from the start: given tokens keep the old chain's records.

    The given tokens are those before the first that the fork chose; the decoder marks them as
    forced.
    """
    free = np.flatnonzero(~chain.forced)
    given = min(int(free[0]) if len(free) else chain.n_tokens, old.n_tokens)
    forced, logprob, entropy = chain.forced.copy(), chain.logprob.copy(), chain.entropy.copy()
    forced[:given] = old.forced[:given]
    logprob[:given] = old.logprob[:given]
    entropy[:given] = old.entropy[:given]
    return replace(chain, forced=forced, logprob=logprob, entropy=entropy)


def fork_point(chain: Chain, step: int) -> int:
    """Compute how many tokens a chain keeps when it changes at a step.

    Token step + 1 is the first that may differ. A fork is inside the thinking, leaves one token of
    the budget, and keeps no token that the engine forced.

    Args:
        chain: The chain.
        step: The first step at which the change acts.

    Returns:
        The number of tokens kept.
    """
    written = np.flatnonzero(chain.forced)
    first = int(written[0]) if len(written) else chain.n_tokens
    return max(0, min(step + 1, len(chain.thinking), chain.budget.thinking - 1, first))


def _key(chain: Chain) -> tuple[str, int, int]:
    return chain.problem, chain.sample, chain.seed
