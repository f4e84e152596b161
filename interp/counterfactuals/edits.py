"""Chains decoded again with something changed, each from the first step at which the change acts.

Up to that step a changed chain is the old one: the same model reads the same tokens and the noise
is the same. So a chain in which the change never acts is itself, and any other is forked
(`interp.decoding.request.fork`) at its first step inside: what a window late in the chain costs is
what comes after it. By the laws of the decoder this is the chain that decoding from the start gives
(up to ties of float noise, which are counted there).

    edits = [Edit("second quarter", l, ablated(dense, l, window), window) for l in range(16)]
    for edit, number, chain in rerun(model, chains, edits): ...

`ablated` and `restored` make the changed variants: a block gone, or given back, while a window is
in force. Chains must be those that `base` wrote with this model and this sampling.
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

ALL = -1  # stands for all blocks of a variant at once


@dataclass(frozen=True)
class Edit:
    """One change: of which block (dense index), called what, when it acts, and what it makes.

    when: the variant differs from the one that wrote the chains at these steps only (None: at
    all). block is `ALL` where all blocks of a variant are restored together.
    """

    name: str
    block: int
    variant: VariantLike
    when: When | None


def ablated(base: VariantLike, block: int, when: When | None, part: Part = "block") -> Variant:
    """`base`, and `block` (or its attention or MLP) skipped too while `when` is in force."""
    step = Skip(block, part=part, window=when)
    return Variant(f"{base.name} / no {part} {block}", (*base.interventions(), step))


def restored(base: VariantLike, block: int, when: When | None) -> Variant:
    """`base` without what it does to `block` (`ALL`: to any) while `when` is in force."""
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
    """Yields (number of the edit, number of the chain, changed chain), in no order.

    A pair in which the edit never acts is left out: its chain is the one that was given.
    stop_on_loop: as the chains were decoded.
    """
    if not chains:
        raise UserError("rerun: no chain was given.")
    where = {_key(chain): i for i, chain in enumerate(chains)}
    if len(where) < len(chains):
        raise UserError("rerun: two chains of one problem, sample and seed; give one each.")
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
    # Window by window: changes of one window share what they read before it opens, and a pass
    # looks at one window only.
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
    """A fork as if it had been decoded from the start: what it was given is the old chain's own.

    Its given tokens are those before the first that it chose, marked as written in a fork.
    """
    free = np.flatnonzero(~chain.forced)
    given = min(int(free[0]) if len(free) else chain.n_tokens, old.n_tokens)
    forced, logprob, entropy = chain.forced.copy(), chain.logprob.copy(), chain.entropy.copy()
    forced[:given] = old.forced[:given]
    logprob[:given] = old.logprob[:given]
    entropy[:given] = old.entropy[:given]
    return replace(chain, forced=forced, logprob=logprob, entropy=entropy)


def fork_point(chain: Chain, step: int) -> int:
    """How many tokens a chain keeps when it changes at `step`: those chosen before.

    Token step + 1 is the first that may differ. A fork lies inside the thinking, leaves a token of
    the budget, and keeps nothing that the engine wrote.
    """
    written = np.flatnonzero(chain.forced)
    first = int(written[0]) if len(written) else chain.n_tokens
    return max(0, min(step + 1, chain.n_thinking, chain.budget.thinking - 1, first))


def _key(chain: Chain) -> tuple[str, int, int]:
    return chain.problem, chain.sample, chain.seed
