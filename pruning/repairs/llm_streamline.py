"""LLM-Streamline: one trained block takes the place of a run. arXiv 2403.19135.

A run of n blocks l..l+n-1 is replaced by one block of the same architecture, so the model loses
n - 1 blocks and is still an ordinary checkpoint. The block starts as dense block l (its dense
index stays) and is trained, alone, to do what the run did:
    min E |block(x_l) - x_(l+n)|^2 / E |x_(l+n)|^2     over counted tokens,
x_l being what the model so far hands on and x_(l+n) the stream of the whole model behind the run.
(The paper's other light layer, a plain MLP, is no block of the architecture and cannot be saved in
an ordinary checkpoint.)

AdamW in float32, linear warm-up and cosine decay, gradients of the block only. Streams are taken
anew at every step (one forward up to the run), so memory does not grow with the texts. Texts held
out (`held_out` of them) decide how long: the weights that did best there are kept, those before
the first step among them, and training stops after `patience` looks without a better one.
The seed orders the texts; nothing else is drawn.

The errors recorded are those on the held-out texts; on all texts where none are held out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.errors import NonFiniteError, UserError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS, batches
from pruning.calibration import Calibration, Part
from pruning.cost import Cost, RepairJob
from pruning.plan import LayerPlan
from pruning.repairs import Repaired, repair
from pruning.repairs.machinery.cuts import Cut, cuts
from pruning.repairs.machinery.streams import (
    CutBatch,
    CutErrors,
    behind,
    entrance,
    forward_to,
    position,
    tap_input,
)
from pruning.surgery import prune

Progress = Callable[[int, int, float], None]
CLIP = 1.0  # of the gradient's norm; the loss is relative, so of the order of 1


@dataclass(frozen=True)
class BlockTraining:
    """steps of `batch_texts` texts; warmup: share of the steps; look: steps between looks."""

    steps: int
    lr: float
    batch_texts: int
    weight_decay: float
    warmup: float
    look: int
    patience: int

    def __post_init__(self) -> None:
        whole = {"steps": self.steps, "batch_texts": self.batch_texts}
        whole |= {"look": self.look, "patience": self.patience}
        for name, value in whole.items():
            if value < 1:
                raise UserError(f"llm-streamline: {name}={value}, expected at least 1.")
        if not (self.lr > 0 and self.weight_decay >= 0 and 0 <= self.warmup < 1):
            raise UserError(
                f"llm-streamline: lr={self.lr}, weight_decay={self.weight_decay}, "
                f"warmup={self.warmup}: expected lr above 0, weight_decay 0 or more, warmup in "
                "[0, 1)."
            )

    def rate(self, step: int) -> float:
        """The factor on `lr` at a step: up in a line, then down half a cosine."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return (step + 1) / rising
        done = (step - rising) / max(1, self.steps - rising)
        return 0.5 * (1 + math.cos(math.pi * done))


def _cost(job: RepairJob, *, steps: int, batch_texts: int) -> Cost:
    """At every step and cut, two models up to it and one block's gradients, over a few texts."""
    reads = job.cuts * steps * batch_texts / max(1, job.texts)
    return Cost(forwards=2 * reads, backwards=reads / job.n_blocks)


@repair("llm-streamline", paper="LLM-Streamline, arXiv 2403.19135", cost=_cost)
def llm_streamline(
    model: ReasoningModel,
    plan: LayerPlan,
    texts: Any,
    *,
    steps: int = 300,
    lr: float = 1e-3,
    batch_texts: int = 8,
    weight_decay: float = 0.0,
    warmup: float = 0.1,
    held_out: float = 0.1,
    look: int = 20,
    patience: int = 5,
    seed: int = 0,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> Repaired:
    """The model with every run of the plan replaced by one block trained for it.

    Every run needs two blocks or more. progress(step, steps, error) is called at every look.
    """
    training = BlockTraining(steps, lr, batch_texts, weight_decay, warmup, look, patience)
    found = cuts(plan)
    if short := [c.last for c in found if len(c.removed) == 1]:
        raise UserError(
            f"Plan {plan.name!r} removes block {short} alone, and one block in its place would "
            "remove nothing: llm-streamline needs runs of two blocks or more."
        )
    calibration = Calibration.of(model, texts, part)
    learn, judge = split(len(calibration.sequences), held_out, seed)
    firsts = {cut.removed[0] for cut in found}
    shorter = replace(
        plan,
        removed=tuple(l for l in plan.removed if l not in firsts),
        name=f"{plan.name}, runs replaced",
    )
    student = prune(model, shorter)
    entries = []
    for cut in found:
        run = Run(model, student, cut, calibration, batch_tokens)
        entries.append(_trained(run, learn, judge, training, seed, progress))
    return Repaired(student, shorter, {"cuts": entries})


def split(n: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Texts to learn from, and texts to judge by."""
    if not 0.0 <= share < 1.0:
        raise UserError(f"llm-streamline: held_out={share}, expected a share in [0, 1).")
    n_judge = max(1, round(share * n)) if share else 0
    if n_judge >= n:
        raise UserError(
            f"llm-streamline: {n} calibration text leaves none to hold out. Give at least 2 texts, "
            "or held_out=0."
        )
    order = np.random.default_rng(seed).permutation(n).tolist()
    return order[n_judge:], order[:n_judge]


@dataclass(frozen=True)
class BlockExample:
    """What the block reads, with the arguments it is called with, and what it should give."""

    x: Float[Tensor, "B T D"]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Float[Tensor, "B T D"]
    mask: Bool[Tensor, "B T"]


@dataclass(frozen=True)
class Run:
    """A run of removed blocks and the block of `student` that takes its place."""

    model: ReasoningModel
    student: ReasoningModel
    cut: Cut
    calibration: Calibration
    batch_tokens: int

    @property
    def block(self) -> nn.Module:
        return self.student.blocks[position(self.student, self.cut.removed[0])]

    def tokens(self, texts: Sequence[int]) -> int:
        counted = self.calibration.counted()
        return int(sum(counted[text].sum() for text in texts))

    def pairs(self, texts: Sequence[int]) -> Iterator[BlockExample]:
        """Batches of these texts."""
        sequences = [self.calibration.sequences[text] for text in texts]
        counted = [self.calibration.counted()[text] for text in texts]
        end = behind(self.model, self.cut)
        for batch in batches(self.model, sequences, self.batch_tokens):
            with torch.no_grad():
                with tap_input(self.model, entrance(self.model, end)) as theirs:
                    forward_to(self.model, batch.ids, end)
                x, args, kwargs = self._call(batch.ids)
            mask = (batch.mask & batch.pad(counted)).to(x.device)
            yield BlockExample(x, args, kwargs, theirs[0].float().to(x.device), mask)

    def _call(self, ids: Int[Tensor, "B T"]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
        """What the student's block is called with, in float32."""
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        handle = self.block.register_forward_pre_hook(
            lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
        )
        try:
            forward_to(self.student, ids, position(self.student, self.cut.removed[0]))
        finally:
            handle.remove()
        args: tuple[Any, ...]
        args, kwargs = _float32(calls[0])
        if len(args):
            return args[0], args[1:], kwargs
        return kwargs.pop("hidden_states"), (), kwargs

    def squares(self, pair: BlockExample) -> Float[Tensor, ""]:
        """The squared distance of what the block gives, summed over counted tokens."""
        out = self.block(pair.x, *pair.args, **pair.kwargs)
        given = out[0] if isinstance(out, tuple) else out
        return (given - pair.target)[pair.mask].square().sum()

    @torch.no_grad()
    def distance(self, texts: Sequence[int]) -> float:
        """`squares` over all of these texts."""
        return sum(float(self.squares(pair)) for pair in self.pairs(texts))

    def plain_removal(self, texts: Sequence[int]) -> CutErrors:
        """The distances with nothing in place of the run."""
        errors = CutErrors()
        for pair in self.pairs(texts):
            x, target = pair.x[pair.mask], pair.target[pair.mask]
            errors.add(CutBatch(x, target, None, torch.zeros(len(x), dtype=torch.long)))
        return errors


def _trained(
    run: Run,
    learn: list[int],
    judge: list[int],
    training: BlockTraining,
    seed: int,
    progress: Progress | None,
) -> dict[str, Any]:
    """Train the run's block in place; what the record says of it."""
    block, looked_at = run.block, judge or learn
    errors = run.plain_removal(looked_at)
    level = errors.target / errors.tokens or 1.0
    with _in_float32(block) as weights:
        optimizer = torch.optim.AdamW(weights, lr=training.lr, weight_decay=training.weight_decay)
        start = last = best = run.distance(looked_at)
        kept = copy.deepcopy(block.state_dict())
        order = _order(learn, training.batch_texts, seed)
        worse = done = 0
        while done < training.steps and worse < training.patience:
            for group in optimizer.param_groups:
                group["lr"] = training.lr * training.rate(done)
            _descend(run, next(order), level, weights, optimizer)
            done += 1
            if done % training.look and done < training.steps:
                continue
            last = run.distance(looked_at)
            if not math.isfinite(last):
                raise NonFiniteError(
                    f"llm-streamline: the error became {last} at step {done}; take a lower lr than "
                    f"{training.lr}."
                )
            if progress is not None:
                progress(done, training.steps, errors.relative(last))
            if judge and last < best:
                best, kept, worse = last, copy.deepcopy(block.state_dict()), 0
            elif judge:
                worse += 1
        if judge:
            block.load_state_dict(kept)
            last = best
    numbers = {"error_start": errors.relative(start), "steps": done, "on_held_out": bool(judge)}
    return errors.entry(run.cut, last, **numbers)


def _descend(
    run: Run,
    texts: Sequence[int],
    level: float,
    weights: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """One step on these texts, in as many passes as they need."""
    optimizer.zero_grad(set_to_none=True)
    scale = level * max(1, run.tokens(texts))
    for pair in run.pairs(texts):
        with torch.enable_grad():
            (run.squares(pair) / scale).backward()
    torch.nn.utils.clip_grad_norm_(weights, CLIP)
    optimizer.step()


def _order(texts: Sequence[int], size: int, seed: int) -> Iterator[list[int]]:
    """Groups of texts without end, every text once before any comes again."""
    draw = np.random.default_rng(seed + 1)
    while True:
        shuffled = draw.permutation(np.asarray(texts)).tolist()
        for start in range(0, len(shuffled), size):
            yield shuffled[start : start + size]


@contextmanager
def _in_float32(block: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The block's weights in float32 and asking for gradients; afterwards as they were."""
    before = [(w, w.dtype, w.requires_grad) for w in block.parameters()]
    try:
        for weight, _, _ in before:
            weight.data = weight.data.float()
            weight.requires_grad_(True)
        yield [weight for weight, _, _ in before]
    finally:
        for weight, dtype, asked in before:
            weight.grad = None
            weight.data = weight.data.to(dtype)
            weight.requires_grad_(asked)


def _float32(value: Any) -> Any:
    """Every floating tensor inside, in float32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return type(value)(_float32(v) for v in value)
    if isinstance(value, dict):
        return {k: _float32(v) for k, v in value.items()}
    return value
