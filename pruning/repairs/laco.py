"""LaCo: merge blocks into one below them while the model stays similar. arXiv 2402.11187.

Blocks l+1..l+m are merged into block l, weight by weight, over attention and MLP:
    rule "paper":   W* = W_l + sum over k = 1..m of (W_(l+k) - W_l)
    rule "public":  W* = W_(l+m), which is what the published code computes: it adds the same
                    differences in sequence, each taken from the sum so far.
The norms before the sublayers stay those of block l (norms=True merges them too). Experts are
merged index by index; blocks of different shapes are not merged.

Without a plan, LaCo searches from the top down (docs/internals.md); the result then includes its
plan, and the record's `merges` lists what went into which block, in order. With a plan, each of its
runs is merged into the kept block below it, and no cosine is checked.

Memory: the weights of merged blocks beside the model. One forward of both models per candidate.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from interp.errors import NonFiniteError, UserError, check_known
from interp.interventions.hooks import bypass
from interp.model.forwards import replaced_forwards
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
    """The state of a merging, in positions of the unpruned model.

    Attributes:
        blocks: merged blocks that replace the model's own, by position.
        gone: positions of the blocks merged into others.
        merges: (position merged into, positions merged into it), in order.
    """

    blocks: dict[int, nn.Module] = field(default_factory=dict)
    gone: tuple[int, ...] = ()
    merges: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def merge(
        self, model: ReasoningModel, into: int, others: Sequence[int], rule: str, norms: bool
    ) -> Merged:
        """Return the state after one more merge; this state does not change.

        Args:
            model: the unpruned model.
            into: the position merged into.
            others: the positions merged into it, which then disappear.
            rule: "paper" or "public".
            norms: whether the norms before the sublayers are merged too.

        Returns:
            The new state.
        """
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
    """Merge blocks: the runs of the plan, or those that the search finds.

    Args:
        model: the model; it is not changed.
        plan: the plan, or None to search.
        texts: calibration texts for the search, as for `Calibration.of`.
        rule: "paper" or "public" (see the module).
        norms: whether the norms before the sublayers are merged too.
        remove: stop the search once this many blocks are removed. Default: go on to `lowest`.
        merge: how many blocks become one.
        interval: how far below the search continues after a merge, in blocks.
        lowest: the lowest position that is merged into. Default: all but block 0.
        highest: one past the highest position merged at first. Default: the number of blocks.
        threshold: the cosine to the unpruned model that a merge must keep.
        part: which tokens of the texts count. Default: all.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The merged model, its plan and its record.

    Raises:
        UserError: an argument is unusable, or the search finds no (or too few) merges.
    """
    check_known(rule, RULES, "LaCo rule")
    calibration = None if texts is None else Calibration.of(model, texts, part)
    if plan is not None:
        if remove is not None:
            raise UserError("laco: both a plan and `remove` given; give one of them.")
        state = _follow(model, plan, rule, norms)
    else:
        if calibration is None:
            raise UserError(
                "laco needs calibration texts for its search, and none was given: give texts, or "
                "a plan."
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
                "below it to merge into. Keep that block, or use another repair."
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
        """Merge from the top while the cosine allows it; positions count the remaining blocks."""
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
        raise UserError(
            f"laco: merge={size}, interval={interval}: expected merge >= 2 and interval >= 1."
        )
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
    """Copy a block and merge others into it.

    Args:
        block: the block that is merged into.
        others: the blocks above it, in order.
        rule: "paper" or "public".
        norms_too: whether the norms before the sublayers are merged.
        parts: the block's names for its attention and its MLP.

    Returns:
        The merged copy.

    Raises:
        UserError: a weight is missing in another block, or has another shape.
    """
    made = copy.deepcopy(block)
    theirs = [dict(other.named_parameters()) for other in others]
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if not (norms_too or name.startswith(tuple(f"{part}." for part in parts))):
                continue
            if odd := [w for w in theirs if name not in w or w[name].shape != weight.shape]:
                raise UserError(
                    f"{len(odd)} of the blocks to merge lack a weight {name!r} of shape "
                    f"{list(weight.shape)}: only blocks of the same shape can be merged."
                )
            if rule == "public":
                weight.copy_(theirs[-1][name])
            else:
                own = weight.float()
                weight.copy_(own + sum(w[name].to(own) - own for w in theirs))
    return made


def _parts(model: ReasoningModel, index: int) -> tuple[str, str]:
    """The names of attention and MLP in the block at `index`."""
    inside = [model.anatomy.sublayer(index, part) for part in ("attention", "mlp")]
    names = {id(child): name for name, child in model.blocks[index].named_children()}
    return names[id(inside[0])], names[id(inside[1])]


def _alike(model: ReasoningModel, indices: Sequence[int]) -> bool:
    """Whether blocks have weights of the same names and shapes."""
    shapes = [
        {name: tuple(w.shape) for name, w in model.blocks[i].named_parameters()} for i in indices
    ]
    return all(each == shapes[0] for each in shapes)


@torch.no_grad()
def similarity(
    model: ReasoningModel, state: Merged, calibration: Calibration, batch_tokens: int
) -> float:
    """The mean over texts of the cosine between the last hidden states, merged and unpruned.

    All counted tokens of a text are one vector. The hidden state is taken after the final norm.

    Args:
        model: the unpruned model.
        state: the merging.
        calibration: the token sequences.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The cosine; nan (above no threshold) if the merged model gives inf or nan.

    Raises:
        NonFiniteError: the unpruned model gives inf or nan.
    """
    counted = calibration.counted()
    sums = torch.zeros(3, len(calibration.sequences), dtype=torch.float64)
    others = {index: block.forward for index, block in state.blocks.items()}
    for batch in batches(model, calibration.sequences, batch_tokens):
        whole = forward(model, batch.ids)
        with replaced_forwards(model, others), bypass(model, state.gone):
            other = forward(model, batch.ids)
        mask = (batch.mask & batch.pad(counted)).to(whole.device)[..., None]
        a, b = whole.float() * mask, other.to(whole.device).float() * mask
        products = torch.stack(
            [(a * b).sum((1, 2)), a.square().sum((1, 2)), b.square().sum((1, 2))]
        )
        sums.index_add_(1, batch.texts.cpu(), products.cpu().double())
    if not sums[1].isfinite().all():
        raise NonFiniteError(
            f"The last hidden state of {model.name} holds inf or nan: load the model in float32 or "
            "bfloat16."
        )
    read = sums[1] > 0  # texts with a token that counts
    return float((sums[0, read] / (sums[1, read] * sums[2, read]).sqrt()).mean())
