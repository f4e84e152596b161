"""LaCo: blocks are merged into one below them while the model stays like itself. arXiv 2402.11187.

Blocks l+1..l+m are merged into block l, weight by weight, over attention and MLP:
    rule "paper":   W* = W_l + sum over k = 1..m of (W_(l+k) - W_l)
    rule "public":  W* = W_(l+m), which is what the code published with the paper comes to: it adds
                    the same differences one after the other, each taken from the sum so far.
The norms before the sublayers stay those of block l (norms=True merges them by the same rule).
Experts are merged index by index, blocks of different shapes not at all.

The search, from the top down: at block l, `merge` - 1 blocks above it are merged into it; if the
last hidden state (behind the final norm) keeps a cosine above `threshold` to the unpruned model's,
all tokens of a text taken as one vector, mean over texts, the merge stands and the search goes on
`interval` blocks below; if not, one block below, until `lowest`. A merged block can be merged
again. `remove` stops the search once so many blocks are gone, with a smaller last merge where
need be.

Without a plan LaCo searches, and its result brings the plan: `removed` are the blocks that went
into others, and the record's `merges` lists what went into which, in order. With a plan each of
its runs is merged into the kept block below it, and no cosine is asked for.

Memory: weights of merged blocks only, beside the model. One forward of both models a candidate.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from interp.errors import NonFiniteError, UserError, did_you_mean
from interp.interventions.hooks import bypass
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS, batches
from interp.replay.chunked_forward import forward
from pruning.calibration import Calibration, Part
from pruning.cost import FORWARD, Cost, RepairJob
from pruning.plan import LayerPlan
from pruning.repairs import Repaired, repair
from pruning.repairs.machinery.cuts import cuts
from pruning.repairs.machinery.streams import position
from pruning.surgery import prune

RULES = ("paper", "public")


@dataclass
class Merged:
    """Where a merging stands, in positions of the unpruned model.

    blocks: merged blocks that stand in for the model's own. gone: blocks merged into others.
    merges: (into, what went into it), in order.
    """

    blocks: dict[int, nn.Module] = field(default_factory=dict)
    gone: tuple[int, ...] = ()
    merges: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def merge(
        self, model: ReasoningModel, into: int, others: Sequence[int], rule: str, norms: bool
    ) -> Merged:
        """One merge more; this one stays as it is."""
        with holding(model):  # no hook of another thread is copied
            block = merged(
                self.blocks.get(into, model.blocks[into]),
                [self.blocks.get(i, model.blocks[i]) for i in others],
                rule,
                norms_too=norms,
                parts=_parts(model, into),
            )
        return Merged(
            {i: b for i, b in {**self.blocks, into: block}.items() if i not in others},
            tuple(sorted((*self.gone, *others))),
            (*self.merges, (into, tuple(others))),
        )


def _cost(job: RepairJob, *, lowest: int, merge: int) -> Cost:
    """Two forwards for each merge tried, one at every position at most; and the final cosine."""
    tried = max(1, job.n_blocks - merge - lowest + 1)
    return FORWARD * (2 * tried + 2)


@repair(
    "laco",
    paper="LaCo, arXiv 2402.11187",
    cost=_cost,
    needs_texts=False,
    needs_plan=False,
)
def laco(
    model: ReasoningModel,
    plan: LayerPlan | None = None,
    texts: Any = None,
    *,
    rule: str = "paper",
    norms: bool = False,
    remove: int | None = None,
    merge: int = 4,
    interval: int = 2,
    lowest: int = 1,
    highest: int | None = None,
    threshold: float = 0.65,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Repaired:
    """The model with blocks merged: the plan's runs, or those the search finds.

    rule: "paper" or "public". norms: merge the norms before the sublayers as well.
    merge: blocks that become one. lowest, highest: positions that the search keeps to, the lowest
    block merged into and one past the highest block merged at first (default: all but block 0).
    """
    if rule not in RULES:
        raise UserError(did_you_mean(rule, RULES, "LaCo rule"))
    calibration = None if texts is None else Calibration.of(model, texts, part)
    if plan is not None:
        if remove is not None:
            raise UserError("laco: give a plan, or remove=N for its own search, not both.")
        state = _follow(model, plan, rule, norms)
    else:
        if calibration is None:
            raise UserError(
                "laco searches on calibration texts and none was given. Or give a plan."
            )
        search = _MergeSearch(model, calibration, rule, norms, threshold, batch_tokens)
        top = model.n_blocks if highest is None else highest
        state = search.run(merge, interval, lowest, top, remove)
        plan = LayerPlan(
            removed=tuple(model.layer_map[i] for i in state.gone),
            n_blocks=model.n_blocks,
            criterion="laco",
            calibration=calibration.hash,
            model=model.fingerprint(),
            base=model.layer_map,
        )
    pruned = prune(model, plan)
    for index, block in state.blocks.items():
        target = pruned.blocks[position(pruned, model.layer_map[index])]
        target.load_state_dict(block.state_dict())
    dense = model.layer_map
    record: dict[str, Any] = {
        "rule": rule,
        "merges": [
            {"into": dense[into], "merged": [dense[i] for i in others]}
            for into, others in state.merges
        ],
        "cuts": [
            {"removed": list(cut.removed), "before": cut.before, "after": cut.after}
            for cut in cuts(plan)
        ],
    }
    if calibration is not None:
        record["cosine"] = similarity(model, state, calibration, batch_tokens)
    return Repaired(pruned, plan, record)


def _follow(model: ReasoningModel, plan: LayerPlan, rule: str, norms: bool) -> Merged:
    """Every run of the plan merged into the kept block below it."""
    state = Merged()
    for cut in cuts(plan):
        if cut.before is None:
            raise UserError(
                f"Plan {plan.name!r} removes block {cut.removed[0]}, the first: there is no block "
                "below it to merge into. Keep it, or take another repair."
            )
        others = [position(model, l) for l in cut.removed]
        state = state.merge(model, position(model, cut.before), others, rule, norms)
    return state


@dataclass(frozen=True)
class _MergeSearch:
    model: ReasoningModel
    calibration: Calibration
    rule: str
    norms: bool
    threshold: float
    batch_tokens: int

    def run(
        self, size: int, interval: int, lowest: int, highest: int, remove: int | None
    ) -> Merged:
        """Merge from the top while the cosine allows it. Positions count what is still there."""
        depth = self.model.n_blocks
        _check(size, interval, lowest, highest, remove, depth)
        state = Merged()
        at = highest - size
        while at >= lowest and (remove is None or len(state.gone) < remove):
            left = [i for i in range(depth) if i not in state.gone]
            most = min(size - 1, len(left) - 1 - at)
            if remove is not None:
                most = min(most, remove - len(state.gone))
            others = left[at + 1 : at + 1 + most]
            tried = None
            if others and _alike(self.model, [left[at], *others]):
                tried = state.merge(self.model, left[at], others, self.rule, self.norms)
            if tried is not None and self._stands(tried):
                state = tried
                at = min(at - interval, depth - len(state.gone) - size)
            else:
                at -= 1
        if not state.gone or (remove is not None and len(state.gone) < remove):
            wanted = "any block" if remove is None else f"{remove} blocks"
            raise UserError(
                f"laco merged {len(state.gone)} blocks of {self.model.name}, not {wanted}, with "
                f"the cosine above {self.threshold}. Lower `threshold`, or change `merge`, "
                "`interval` or the range."
            )
        return state

    def _stands(self, tried: Merged) -> bool:
        return similarity(self.model, tried, self.calibration, self.batch_tokens) > self.threshold


def _check(
    size: int, interval: int, lowest: int, highest: int, remove: int | None, depth: int
) -> None:
    if size < 2 or interval < 1:
        raise UserError(f"laco: merge={size}, interval={interval}: expected 2 and 1 at least.")
    if not 0 <= lowest < highest <= depth or highest - lowest < size:
        raise UserError(
            f"laco: lowest={lowest}, highest={highest}: expected a range within 0..{depth} that "
            f"holds merge={size} blocks."
        )
    if remove is not None and not 1 <= remove < depth:
        raise UserError(f"laco: remove={remove}: expected 1 to {depth - 1} of {depth} blocks.")


# ---------------------------------------------------------------------------- the pieces


def merged(
    block: nn.Module,
    others: Sequence[nn.Module],
    rule: str,
    norms_too: bool,
    parts: Sequence[str],
) -> nn.Module:
    """A copy of `block` with `others` merged into it. parts: names of its attention and MLP."""
    made = copy.deepcopy(block)
    theirs = [dict(other.named_parameters()) for other in others]
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if not (norms_too or name.startswith(tuple(f"{part}." for part in parts))):
                continue
            if odd := [w for w in theirs if name not in w or w[name].shape != weight.shape]:
                raise UserError(
                    f"{len(odd)} of the blocks to merge lack a weight {name!r} of shape "
                    f"{list(weight.shape)}: only blocks of one shape can be merged."
                )
            if rule == "public":
                weight.copy_(theirs[-1][name])
            else:
                own = weight.float()
                weight.copy_(own + sum(w[name].to(own) - own for w in theirs))
    return made


def _parts(model: ReasoningModel, index: int) -> tuple[str, str]:
    """What the block at `index` calls its attention and its MLP."""
    inside = (model.anatomy.attention[index], model.anatomy.mlp[index])
    names = {id(child): name for name, child in model.blocks[index].named_children()}
    return names[id(inside[0])], names[id(inside[1])]


def _alike(model: ReasoningModel, indices: Sequence[int]) -> bool:
    """Whether blocks have weights of the same names and shapes."""
    shapes = [
        {name: tuple(w.shape) for name, w in model.blocks[i].named_parameters()} for i in indices
    ]
    return all(each == shapes[0] for each in shapes)


@contextmanager
def standing_in(model: ReasoningModel, blocks: Mapping[int, nn.Module]) -> Iterator[None]:
    """Other blocks do the work of the model's own at these positions until the end."""
    with holding(model), ExitStack() as undo:
        for index, block in blocks.items():
            own = model.blocks[index]
            before = own.__dict__.get("forward")
            own.__dict__["forward"] = block.forward
            undo.callback(_give_back, own, before)
        yield


def _give_back(own: nn.Module, forward_before: Any) -> None:
    if forward_before is None:
        own.__dict__.pop("forward", None)
    else:  # accelerate had put its own there
        own.__dict__["forward"] = forward_before


@torch.no_grad()
def similarity(
    model: ReasoningModel, state: Merged, calibration: Calibration, batch_tokens: int
) -> float:
    """Mean over texts of the cosine of the last hidden states, merged and unpruned.

    nan where the merged model gives none, which is above no threshold.
    """
    counted = calibration.counted()
    sums = torch.zeros(3, len(calibration.sequences), dtype=torch.float64)
    for batch in batches(model, calibration.sequences, batch_tokens):
        whole = forward(model, batch.ids)
        with standing_in(model, state.blocks), bypass(model, state.gone):
            other = forward(model, batch.ids)
        mask = (batch.mask & batch.pad(counted)).to(whole.device)[..., None]
        a, b = whole.float() * mask, other.to(whole.device).float() * mask
        products = torch.stack(
            [(a * b).sum((1, 2)), a.square().sum((1, 2)), b.square().sum((1, 2))]
        )
        sums.index_add_(1, batch.texts.cpu(), products.cpu().double())
    if not sums[1].isfinite().all():
        raise NonFiniteError(f"The last hidden state of {model.name} holds inf or nan.")
    read = sums[1] > 0  # texts of which a token counts
    return float((sums[0, read] / (sums[1, read] * sums[2, read]).sqrt()).mean())
