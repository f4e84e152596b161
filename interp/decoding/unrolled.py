"""Programs in a batch: the model unrolled, so that rows of different programs share its passes.

A program runs blocks again or in another order (`interp.interventions.programs`). To decode
several programs together, the model is unrolled: copies of its blocks, with the same weight
tensors, follow each other in an order in which every program is found by leaving blocks out. Each
row then skips the copies that its program lacks, exactly as a row of `Skip` does, and each copy has
its own layer of the cache. So windows, forks, drafts and prefix sharing work as they are.

A row pays for the copies that other rows of its batch need, and a pass costs something however few
rows it has. So programs join where that is cheaper by this count: a pass through a block costs its
rows plus `PASS_ROWS`. The parts are decoded one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from interp.chains.chain import Chain
from interp.chains.residual_record import NUMBERS, StreamRecord
from interp.errors import UserError
from interp.interventions.interventions import Intervention, Skip, Variant
from interp.interventions.programs import BlockRun, in_order, in_place, plain_steps, runs_of

if TYPE_CHECKING:
    from interp.decoding.request import Request
    from interp.interventions.interventions import VariantLike
    from interp.model.reasoning_model import ReasoningModel

PASS_ROWS = 8  # rows that would cost as much as the fixed part of a pass through a block

Blocks = tuple[int, ...]


@dataclass
class _Part:
    """Variants that are decoded together.

    Attributes:
        order: dense block of each copy in the unrolled model.
        rows: number of requests.
        runs: by name of each variant, what its program runs, in order.
    """

    order: Blocks
    rows: int = 0
    runs: dict[str, tuple[BlockRun, ...]] = field(default_factory=dict)

    def cost(self, order: Blocks, more: int = 0) -> int:
        """Returns what its rows and some more cost in an order."""
        return len(order) * (self.rows + more + PASS_ROWS) if self.rows + more else 0


@dataclass(frozen=True)
class UnrolledRequests:
    """Requests to decode together.

    Attributes:
        model: the model, or the unrolled one.
        requests: the requests, with variants for this model.
        restored: gives a chain what belongs to the model that it was asked of.
    """

    model: ReasoningModel
    requests: list[Request]
    restored: Callable[[Chain], Chain]


def unrolled(model: ReasoningModel, requests: Sequence[Request]) -> Iterator[UnrolledRequests]:
    """Splits requests into parts, each with the model that decodes it.

    Args:
        model: the model.
        requests: the requests, already checked.

    Yields:
        The parts. Where no program runs a block again or in another order, it is one, with the
        model itself.

    Raises:
        UserError: a program names a block that is not there, or the architecture cannot run it.
    """
    variants = {r.variant.name: _plainly(model, r.variant) for r in requests}
    rows = Counter(r.variant.name for r in requests)
    for part in _parts(model, list(variants.values()), rows):
        own = [r for r in requests if r.variant.name in part.runs]
        if part.order == model.layer_map:
            same = [_asked(r, variants[r.variant.name]) for r in own]
            yield UnrolledRequests(model, same, lambda chain: chain)
            continue
        places = {
            name: _places(part.order, [run.block for run in runs])
            for name, runs in part.runs.items()
        }
        moved = _moved(part, variants, places)
        yield UnrolledRequests(
            in_order(model, part.order, "unrolled"),
            [_asked(r, moved[r.variant.name]) for r in own],
            _Restored(model.layer_map, part.order, places),
        )


def refuse_moments(model: ReasoningModel, requests: Sequence[Request]) -> None:
    """Refuses programs where moments are taken: their blocks have no single place.

    Args:
        model: the model.
        requests: the requests.

    Raises:
        UserError: a variant runs a block again or in another order.
    """
    for variant in {r.variant.name: r.variant for r in requests}.values():
        runs = runs_of(model, variant)
        if runs is not None and not in_place(model, runs):
            raise UserError(
                f"moments cannot be taken under {variant.name!r}, which runs blocks again or in "
                "another order: take them with `program_model(model, variant)`."
            )


def _parts(
    model: ReasoningModel, variants: Sequence[VariantLike], rows: Mapping[str, int]
) -> list[_Part]:
    """Puts each program where it adds the least cost; all variants without one are together."""
    runs = {v.name: runs_of(model, v) for v in variants}
    dense = tuple(BlockRun(block) for block in model.layer_map)
    plain = {name: dense for name, own in runs.items() if own is None}
    parts = [_Part(model.layer_map, sum(rows[name] for name in plain), plain)]
    for name, own in runs.items():
        if own is None:
            continue
        alone = tuple(run.block for run in own)
        parts.append(_Part(alone))  # as good as any other until something joins it
        orders = [common_order(part.order, alone) for part in parts]
        added = [
            part.cost(order, rows[name]) - part.cost(part.order)
            for part, order in zip(parts, orders, strict=True)
        ]
        best = added.index(min(added))
        if best < len(parts) - 1:
            parts.pop()
        parts[best].order = orders[best]
        parts[best].rows += rows[name]
        parts[best].runs[name] = own
    return [part for part in parts if part.runs]


def common_order(a: Blocks, b: Blocks) -> Blocks:
    """Returns the shortest order in which both are found by leaving blocks out.

    Args:
        a: dense blocks, in order.
        b: dense blocks, in order.

    Returns:
        The order; `a` itself if `b` is found in it.
    """
    # least[i][j]: length of the shortest order of a[i:] and b[j:]
    least = [[len(a) - i + len(b) - j for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            both = a[i] == b[j]
            least[i][j] = 1 + (
                least[i + 1][j + 1] if both else min(least[i + 1][j], least[i][j + 1])
            )
    found: list[int] = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            found.append(a[i])
            i, j = i + 1, j + 1
        elif least[i + 1][j] <= least[i][j + 1]:
            found.append(a[i])
            i += 1
        else:
            found.append(b[j])
            j += 1
    return (*found, *a[i:], *b[j:])


def _places(order: Blocks, blocks: Sequence[int]) -> tuple[int, ...]:
    """Where in an order each of some blocks runs, as early as it can."""
    places: list[int] = []
    for block in blocks:
        places.append(order.index(block, places[-1] + 1 if places else 0))
    return tuple(places)


def _moved(
    part: _Part, variants: dict[str, VariantLike], places: dict[str, tuple[int, ...]]
) -> dict[str, Variant]:
    """Returns the variants of a part in the places of the unrolled model, by name."""
    known: dict[tuple[int, int], Intervention] = {}  # so that variants go on sharing interventions

    def at(step: Intervention, place: int) -> Intervention:
        return known.setdefault((id(step), place), replace(step, position=place))

    moved = {}
    for name, runs in part.runs.items():
        steps = [step for step in variants[name].interventions() if not step.by_program]
        own = dict(zip(places[name], runs, strict=True))
        new = [at(s, place) for s in steps for place, run in own.items() if run.block == s.block]
        for place, block in enumerate(part.order):
            run = own.get(place)
            if run is None:
                new.append(Skip(block, position=place))
            elif run.window is not None:
                new.append(Skip(block, window=~run.window, position=place))
        moved[name] = Variant(name, tuple(new))
    return moved


def _plainly(model: ReasoningModel, variant: VariantLike) -> VariantLike:
    """Returns a variant whose program only leaves blocks out as one of `Skip`s; others as is."""
    runs = runs_of(model, variant)
    if runs is None or not in_place(model, runs):
        return variant
    return Variant(variant.name, plain_steps(model, variant))


def _asked(request: Request, variant: VariantLike) -> Request:
    return request if variant is request.variant else replace(request, variant=variant)


@dataclass(frozen=True)
class _Restored:
    """Gives a chain of an unrolled model the layer map and the stream of the model's own blocks.

    The stream of a program has one column per run of a block, in the program's order.
    """

    layer_map: Blocks
    order: Blocks
    places: dict[str, tuple[int, ...]]

    def __call__(self, chain: Chain) -> Chain:
        stream = chain.stream
        if stream is not None:
            places = self.places[chain.variant]
            columns = (getattr(stream, name)[:, list(places)] for name in NUMBERS)
            stream = StreamRecord(*columns, layer_map=tuple(self.order[p] for p in places))
        return replace(chain, layer_map=self.layer_map, stream=stream)
