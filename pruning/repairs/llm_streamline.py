"""LLM-Streamline: one trained block replaces a run of blocks. arXiv 2403.19135.

A run of n blocks l..l+n-1 is replaced by one block of the same architecture, so the model loses
n - 1 blocks and stays an ordinary checkpoint. The block starts as dense block l (it keeps that
dense index) and is trained alone to compute what the run did, over counted tokens:
    min E |block(x_l) - x_(l+n)|^2 / E |x_(l+n)|^2,
where x_l is the stream of the model repaired so far and x_(l+n) the whole model's stream after the
run. (The paper's other option, a plain MLP, does not fit into an ordinary checkpoint.)

AdamW in float32, linear warm-up, cosine decay, gradients of the block only. Streams are computed
again at every step, so memory does not grow with the texts. The weights with the lowest error on
held-out texts are kept, including those before the first step; training stops after `patience`
evaluations without improvement. The seed only orders the texts. Recorded errors are those on the
held-out texts, or on all texts if none are held out.
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
CLIP = 1.0  # largest norm of the gradient; the loss is relative, so of the order of 1


@dataclass(frozen=True)
class BlockTraining:
    """How a block is trained.

    Attributes:
        steps: the largest number of optimizer steps.
        lr: the peak learning rate.
        batch_texts: texts per step.
        weight_decay: AdamW's weight decay.
        warmup: share of the steps with a rising learning rate, in [0, 1).
        look: steps between evaluations.
        patience: evaluations without improvement before training stops.
    """

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
                raise UserError(f"llm-streamline: {name}={value}: expected at least 1.")
        if not (self.lr > 0 and self.weight_decay >= 0 and 0 <= self.warmup < 1):
            raise UserError(
                f"llm-streamline: lr={self.lr}, weight_decay={self.weight_decay}, "
                f"warmup={self.warmup}: expected lr above 0, weight_decay 0 or more, warmup in "
                "[0, 1)."
            )

    def rate(self, step: int) -> float:
        """The factor on `lr` at a step: a linear rise, then half a cosine down to 0."""
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
    """Replace every run of the plan by one block trained for it.

    Args:
        model: the model; it is not changed.
        plan: the plan; each of its runs needs at least two blocks.
        texts: calibration texts, as for `Calibration.of`.
        steps: the largest number of optimizer steps per run.
        lr: the peak learning rate.
        batch_texts: texts per step.
        weight_decay: AdamW's weight decay.
        warmup: share of the steps with a rising learning rate, in [0, 1).
        held_out: share of the texts that decide when to stop, in [0, 1); 0 trains all steps.
        look: steps between evaluations.
        patience: evaluations without improvement before training stops.
        seed: the seed of the order of the texts.
        part: which tokens of the texts count. Default: all.
        batch_tokens: the largest number of tokens per forward pass.
        progress: called at every evaluation with (step, steps, relative squared error).

    Returns:
        The repaired model, whose plan keeps the first block of every run, and its record.

    Raises:
        UserError: an argument is out of range, a run has one block, or too few texts.
        NonFiniteError: the error became inf or nan.
    """
    training = BlockTraining(steps, lr, batch_texts, weight_decay, warmup, look, patience)
    found = cuts(plan)
    if short := [c.last for c in found if len(c.removed) == 1]:
        raise UserError(
            f"Plan {plan.name!r} removes block {short} alone, and replacing one block by one would "
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
    """Split texts at random into those to train on and those held out.

    Args:
        n: the number of texts.
        share: the share to hold out, in [0, 1); at least one text if it is above 0.
        seed: the seed.

    Returns:
        Numbers of the texts to train on, and of those held out.

    Raises:
        UserError: the share is out of range, or no text is left to train on.
    """
    if not 0.0 <= share < 1.0:
        raise UserError(f"llm-streamline: held_out={share}: expected a share in [0, 1).")
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
    """One batch to train a block on.

    Attributes:
        x: the block's input [B, T, D], float32.
        args: its other positional arguments.
        kwargs: its keyword arguments.
        target: the output it should give [B, T, D], float32.
        mask: the tokens that count [B, T].
    """

    x: Float[Tensor, "B T D"]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Float[Tensor, "B T D"]
    mask: Bool[Tensor, "B T"]


@dataclass(frozen=True)
class Run:
    """A run of removed blocks, and the block of `student` that replaces it.

    Attributes:
        model: the whole model.
        student: the pruned model, repaired so far.
        cut: the run.
        calibration: the token sequences.
        batch_tokens: the largest number of tokens per forward pass.
    """

    model: ReasoningModel
    student: ReasoningModel
    cut: Cut
    calibration: Calibration
    batch_tokens: int

    @property
    def block(self) -> nn.Module:
        """The block of `student` that replaces the run."""
        return self.student.blocks[position(self.student, self.cut.removed[0])]

    def tokens(self, texts: Sequence[int]) -> int:
        """The number of counted tokens in these texts."""
        counted = self.calibration.counted()
        return int(sum(counted[text].sum() for text in texts))

    def pairs(self, texts: Sequence[int]) -> Iterator[BlockExample]:
        """Yield batches of inputs and targets from these texts."""
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
        """The arguments that the student's block is called with, in float32."""
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
        """The squared distance of the block's output to the target, summed over counted tokens."""
        out = self.block(pair.x, *pair.args, **pair.kwargs)
        given = out[0] if isinstance(out, tuple) else out
        return (given - pair.target)[pair.mask].square().sum()

    @torch.no_grad()
    def distance(self, texts: Sequence[int]) -> float:
        """The sum of `squares` over these texts."""
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
    """Train the run's block in place; return its entry in the record."""
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
                    f"llm-streamline: the error became {last} at step {done}; use a lower lr than "
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
    """One optimizer step on these texts, in as many passes as they need."""
    optimizer.zero_grad(set_to_none=True)
    scale = level * max(1, run.tokens(texts))
    for pair in run.pairs(texts):
        with torch.enable_grad():
            (run.squares(pair) / scale).backward()
    torch.nn.utils.clip_grad_norm_(weights, CLIP)
    optimizer.step()


def _order(texts: Sequence[int], size: int, seed: int) -> Iterator[list[int]]:
    """Endless groups of texts; every text comes once before any comes again."""
    draw = np.random.default_rng(seed + 1)
    while True:
        shuffled = draw.permutation(np.asarray(texts)).tolist()
        for start in range(0, len(shuffled), size):
            yield shuffled[start : start + size]


@contextmanager
def _in_float32(block: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The block's weights in float32 and requiring gradients; restored afterwards."""
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
    """Convert every floating tensor inside to float32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return type(value)(_float32(v) for v in value)
    if isinstance(value, dict):
        return {k: _float32(v) for k, v in value.items()}
    return value
