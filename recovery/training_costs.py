"""What a recovery run will cost, before it runs: tokens, FLOPs, hours, memory, disk.

Counted as the run would do it, from the lengths of the training examples and the configuration:
examples held out or too long, steps by epochs, steps or tokens with a loss (whichever ends first),
a training for each learning rate, and the looks at held-out examples. A step of n tokens costs

| part | FLOPs, in forward passes over the n tokens |
|---|---|
| forward and, with gradient checkpointing (on CUDA), once more | 1 or 2 |
| gradients of activations | 1 |
| gradients of the weights that move (all, or LoRA's share) | 1, or that share |
| distill: the dense model's opinion | 1 of the dense model |

and where a model writes (self: the dense one beforehand; distill, rl: the one in training at every
step and look), the decoding of the answers. How long those will be is not known: half of what they
may be on a named machine, and in a trial what a few of the dense model's took. Memory:
`recovery.training_memory`, and without mixed precision (on a CPU) float32 all through.

Caveats: early stopping (`patience`) may end it sooner; one device; loading is not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from interp.errors import UserError
from recovery.answers import AT_A_TIME
from recovery.lengths import Lengths
from recovery.recovery_config import RecoveryConfig
from recovery.rollouts import Rollouts
from recovery.training_memory import TrainedShape, memory
from scaling.costs.estimate import WORKSPACE, Estimate, Line, checked_share
from scaling.costs.machines import Machine
from scaling.costs.model_shape import ModelShape
from scaling.costs.study_work import SHARE


def estimate_recovery(
    config: RecoveryConfig,
    shape: ModelShape,
    lengths: Lengths,
    machine: Machine,
    *,
    teacher: ModelShape | None = None,
    share: float = SHARE,
) -> Estimate:
    """The cost of one run on one device.

    shape: of the model that is trained. lengths: of the training set, held-out examples included.
    teacher: of the dense model (default: as the one trained). share: of the tokens that a written
    answer may take, what it takes.
    """
    checked_share(share)
    dense = teacher or shape
    written = share * (config.thinking + config.answer)
    lines: list[Line] = []
    train, held = _split(config, lengths)
    if config.method == "self":
        line, train, held = _answers(config, dense, train, held, machine, written)
        lines.append(line)
    elif not config.generates:
        train, held = (
            x.part((x.prompts + x.answers <= config.context) & (x.answers > 0))
            for x in (train, held)
        )
    else:
        own = share * Rollouts.of(config).mean
        train, held = train.written(own), held.written(written)
    if not len(train):
        raise UserError(
            f"No example of {len(lengths)} has an answer and fits into {config.context} tokens: "
            "raise --context, or take other data."
        )
    steps, rows = steps_of(config, train)
    plan = _Plan(config, shape, dense, train, held, machine, steps, rows)
    lines.append(plan.training())
    if config.generates:
        lines.append(plan.writing())
    if len(held) and steps:
        lines.append(plan.looks())
    moved = _moved(config, shape)
    state = int(shape.weights * 4 * ((7 if moved == 1 else 0.35) + 1))  # as the run asks for
    return Estimate(
        what=f"recovering {shape.name} by {config.method}",
        lines=tuple(lines),
        memory=plan.memory(),
        disk=float(state),
        assumptions=(
            machine.about,
            f"{len(train)} examples of {float((train.prompts + train.answers).mean()):,.0f} tokens "
            f"({lengths.how}), {len(held)} held out; {steps} steps of {config.batch}"
            + (f", for each of {len(config.rates)} rates" if len(config.rates) > 1 else ""),
            f"{moved:.2%} of the weights move; "
            + ("blocks are computed twice (checkpointing)" if _again(config, machine) else
               "no gradient checkpointing"),
            *[f"written answers take {share:.0%} of the tokens they may (at most: all)"]
            * (config.generates or config.method == "self"),
            "one device, no early stopping; loading and the checkpoint's writing are not counted",
        ),
    )  # fmt: skip


def steps_of(config: RecoveryConfig, train: Lengths) -> tuple[int, float]:
    """Optimizer steps of one training, and the rows (examples) they take together."""
    of = config.samples if config.method == "rl" else 1
    an_epoch = max(1, math.ceil(len(train) * of / config.batch))
    steps = config.steps if config.steps is not None else math.ceil(config.epochs * an_epoch)
    if config.tokens is not None:
        a_step = config.batch * max(1.0, float(train.answers.mean()))
        steps = min(steps, math.ceil(config.tokens / a_step))
    rows = float(steps * config.batch)
    if len(train) * of < config.batch:  # a last batch of an epoch is as small as it is
        rows = float(steps * len(train) * of)
    elif config.steps is None and config.tokens is None:
        rows = min(rows, config.epochs * len(train) * of)
    return steps, rows


def _split(config: RecoveryConfig, lengths: Lengths) -> tuple[Lengths, Lengths]:
    """What is trained on and what is held out, at most a quarter; which ones is not known here."""
    count = min(config.held_out, len(lengths) // 4)
    order = np.random.default_rng(0).permutation(len(lengths))
    return lengths.part(order[count:]), lengths.part(order[:count])


def _answers(
    config: RecoveryConfig, dense: ModelShape, train: Lengths, held: Lengths, machine: Machine,
    written: float,
) -> tuple[Line, Lengths, Lengths]:  # fmt: skip
    """self: the dense model's answers, and the sets that come of them."""
    asked = len(train) * config.samples
    if config.tokens is not None:  # it stops asking when there is enough, a batch at a time
        enough = math.ceil(config.tokens / max(1.0, written) / AT_A_TIME) * AT_A_TIME
        asked = min(asked, enough)
    n = asked + len(held) * config.samples
    line = _decoded("answers of the dense model", n, written, config, dense, machine,
                    float(train.prompts.mean()))  # fmt: skip
    own = train.part(np.resize(np.arange(len(train)), asked))
    return line, own.written(written), held.written(written)


def _decoded(
    stage: str, n: int, mean: float, config: RecoveryConfig, shape: ModelShape, machine: Machine,
    prompt: float, at_once: int | None = None,
) -> Line:  # fmt: skip
    """N answers of `mean` tokens, all side by side or `at_once` at a time."""
    most = float(config.thinking + config.answer)
    return Line.decoded(stage, n, mean, most, prompt, shape, machine, at_once=at_once)


def _moved(config: RecoveryConfig, shape: ModelShape) -> float:
    """The share of the weights that move."""
    if config.weights != "lora":
        return 1.0
    return min(1.0, _lora(config, shape) / shape.weights)


def _lora(config: RecoveryConfig, shape: ModelShape) -> int:
    """Weights of the adapters, by the trained shape's widths (see `recovery.training_memory`)."""
    one = TrainedShape.of(shape.config).lora(config.rank)
    return round(one * len(config.targets) / 7)


def _again(config: RecoveryConfig, machine: Machine) -> bool:
    """Whether blocks are computed a second time: on CUDA unless the configuration says otherwise.

    A machine whose weights take two bytes is taken for one with CUDA.
    """
    if config.gradient_checkpointing is not None:
        return config.gradient_checkpointing
    return machine.number_bytes == 2


MOST_DRAWN = 20_000  # rows whose padding is counted one by one


@dataclass(frozen=True)
class _Plan:
    """The stages of a training, over what they share."""

    config: RecoveryConfig
    shape: ModelShape
    dense: ModelShape
    train: Lengths
    held: Lengths
    machine: Machine
    steps: int
    rows: float

    @property
    def rates(self) -> int:
        return len(self.config.rates)

    def training(self) -> Line:
        """Passes over the examples, padded to the longest of their micro-batch."""
        n = round(self.rows)
        passes = 2 + _moved(self.config, self.shape) + _again(self.config, self.machine)
        return self._passes("training", self.train, n, passes).times(self.rates)

    def _passes(self, stage: str, rows: Lengths, n: int, passes: float = 1.0) -> Line:
        """N rows through the trained model, and once through the dense one where that grades."""
        tokens, forward = _passed(self.shape, rows, self.config.micro, n)
        flops = passes * forward
        if self.config.method == "distill":
            flops += _passed(self.dense, rows, self.config.micro, n)[1]
        return Line.computed(stage, flops, self.machine, tokens=tokens, requests=n)

    def writing(self) -> Line:
        """What the model in training writes, a step's answers side by side."""
        n = round(self.rows) * self.rates
        mean = float(self.train.answers.mean())
        return _decoded("writing answers", n, mean, self.config, self.shape, self.machine,
                        float(self.train.prompts.mean()), self.config.batch)  # fmt: skip

    def looks(self) -> Line:
        """One before the first step, then every `check_every` steps, and at the end."""
        times = 1 + math.ceil(self.steps / self.config.check_every)
        of = self.config.samples if self.config.method == "rl" else 1
        n = len(self.held) * of
        count = times * self.rates
        line = self._passes("looks", self.held, n).times(count)
        if not self.config.generates:
            return line
        mean = float(self.held.answers.mean())
        made = _decoded("looks", n * count, mean, self.config, self.shape, self.machine,
                        float(self.held.prompts.mean()), self.config.micro)  # fmt: skip
        return Line.together("looks", [replace(line, requests=0), made])

    def memory(self) -> float:
        """Bytes on the device (`recovery.training_memory`); all float32 without bfloat16."""
        config = self.config
        known = float((self.train.prompts + self.train.answers).max())
        longest = max(known, self.train.longest)
        context = int(min(config.context, math.ceil(longest)))
        need = memory(
            TrainedShape.of(self.shape.config),
            context=max(1, context),
            micro=config.micro,
            lora_rank=config.rank if config.weights == "lora" else None,
            sharded=False,
            checkpointing=_again(config, self.machine),
            fused_head=config.method in ("lora", "full", "self"),
            teacher=TrainedShape.of(self.dense.config) if config.method == "distill" else None,
        )
        if self.machine.number_bytes == 2:
            return need.gpu + WORKSPACE
        frozen = self.shape.weights if config.weights == "lora" else 0
        wider = need.checkpoints + need.recomputed + need.teacher + 2 * frozen
        return need.gpu + wider + WORKSPACE


def _passed(shape: ModelShape, lengths: Lengths, micro: int, n: int) -> tuple[float, float]:
    """Tokens and forward FLOPs of n rows of these examples, in padded micro-batches."""
    if not len(lengths) or n < 1:
        return 0.0, 0.0
    rng = np.random.default_rng(0)
    whole = np.maximum(1, np.rint(lengths.prompts + lengths.answers)).astype(np.int64)
    few = min(n, MOST_DRAWN)
    drawn = np.concatenate([rng.permutation(whole) for _ in range(-(-few // len(whole)))])[:few]
    parts = np.array_split(drawn, max(1, -(-few // micro)))
    padded = [np.full(len(part), part.max()) for part in parts]
    widths = np.concatenate(padded)
    scale = n / len(widths)
    flops = np.asarray(shape.cost.chain(np.ones_like(widths), widths), dtype=float)
    return float(widths.sum()) * scale, float(flops.sum()) * scale
