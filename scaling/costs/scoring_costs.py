"""What it will cost to score blocks by criteria, as `prunescope score` and `prune` do.

Two stages or three: the calibration chains, where the model has to write them; the passes of the
criteria over the calibration, as each criterion states them in its own file (`pruning.cost`); and
the chains that some criteria decode for their candidates. Lengths of chains are those of a trial,
or a share of what they may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pruning.cost import Cost, RepairJob, ScoringJob
from scaling.costs.estimate import WORKSPACE, Estimate, Line
from scaling.costs.machines import Machine
from scaling.costs.model_shape import ModelShape
from scaling.costs.study_work import SHARE, Part, parts_of, sized_benchmarks
from scaling.store.chain_row import LIKELIHOOD

if TYPE_CHECKING:
    from scaling.engines.engine import Engine
    from scaling.study.config import StudyConfig

STREAM_TOKENS = 4096  # of a batch, of which all blocks' streams are kept


@dataclass(frozen=True)
class CalibrationSize:
    """The size of a calibration set.

    Attributes:
        texts: number of texts.
        tokens: tokens of all texts, prompts included.
        written: those of the tokens that the model has to generate first, as expected.
        most: the same if no chain ends early.
        chain: (prompt tokens, generated tokens as expected, generated tokens at most) of one chain
            that a criterion decodes, or of one calibration chain.
        how: how the size was found, for the list of assumptions.
    """

    texts: int
    tokens: float
    written: float = 0.0
    most: float = 0.0
    chain: tuple[float, float, float] = (1.0, 0.0, 0.0)
    how: str = ""


@dataclass(frozen=True)
class PlannedRepair:
    """A repair whose cost is estimated.

    Attributes:
        name: the repair's name.
        removed: number of removed blocks.
        cuts: number of runs of neighbouring blocks among them (at most, if a criterion has yet to
            choose them).
        reads: whether it gets texts; the result is then measured on them.
        options: the repair's options.
    """

    name: str
    removed: int
    cuts: int
    reads: bool
    options: Mapping[str, Any]

    def cost(self, n_blocks: int, texts: int) -> Cost:
        """The cost of fitting the repair and of measuring its result.

        Args:
            n_blocks: number of blocks of the model.
            texts: number of calibration texts.

        Returns:
            The cost per text.
        """
        from pruning.repairs import MEASURED, repairs

        job = RepairJob(n_blocks, self.removed, self.cuts, max(1, texts))
        own = repairs()[self.name].price(job, self.options)
        return own + MEASURED if self.reads else own


def own_calibration(
    config: StudyConfig,
    n_blocks: int,
    share: float = SHARE,
    *,
    prompts_only: bool = False,
    parts: Sequence[Part] | None = None,
) -> CalibrationSize:
    """The calibration set of a study: the model's own chains on a few problems per benchmark.

    Args:
        config: the settings of the study.
        n_blocks: number of blocks of the model.
        share: the part of the tokens allowed that a chain uses, in (0, 1].
        prompts_only: whether only prompts are used, and no chain is generated.
        parts: the requests of the study. Default: counted from `config`.

    Returns:
        The size of the calibration set.
    """
    prompt = tokens = most = 0.0
    longest = answer = 0
    if parts is None:
        parts = parts_of(config, sized_benchmarks(config), n_blocks)
    generated = {p.benchmark: p for p in parts if p.budgets}
    for name, part in generated.items():
        load = config.workload(name)
        thinking = max(load.budgets) if part.thinks else 0
        allowed = allowed_tokens(config, name, part.thinks)
        prompt += part.prompt
        tokens, most = tokens + share * allowed, most + allowed
        longest, answer = max(longest, thinking), max(answer, load.answer)
    n, few = max(1, len(generated)), config.calibration_problems
    written = 0.0 if prompts_only else few * tokens
    return CalibrationSize(
        texts=few * n,
        tokens=few * prompt + written,
        written=written,
        most=0.0 if prompts_only else few * most,
        chain=(prompt / n, share * (longest + answer), float(longest + answer)),
        how=f"{few} spare problems of each of {', '.join(generated) or 'no benchmark'}; chains "
        f"take {share:.0%} of the tokens they may",
    )


def allowed_tokens(config: StudyConfig, benchmark: str, thinks: bool) -> int:
    """The largest number of tokens of a calibration chain.

    Args:
        config: the settings of the study.
        benchmark: name of the benchmark.
        thinks: whether its chains think.

    Returns:
        The number of tokens.
    """
    from scaling.study.variants import LONGEST_CALIBRATION

    load = config.workload(benchmark)
    return (min(max(load.budgets), LONGEST_CALIBRATION) if thinks else 0) + load.answer


def tried_share(config: StudyConfig, engine: Engine, problems: int = 3) -> float:
    """Measure the part of the tokens allowed that calibration chains use, on a few of them.

    Args:
        config: the settings of the study.
        engine: the engine that generates.
        problems: problems per benchmark.

    Returns:
        The share, at most 1.
    """
    from scaling.study.problem_sets import gather
    from scaling.study.variants import calibration_chains

    config = config.fitted(engine.model)
    benches, spare = gather(config, engine)
    generated = [b for b in benches if b.scoring != LIKELIHOOD]
    if not generated:
        return SHARE
    few = {b.name: (spare.get(b.name) or b.problems)[:problems] for b in generated}
    chains = calibration_chains(config, engine, generated, few)
    allowed = sum(len(few[b.name]) * allowed_tokens(config, b.name, b.thinking) for b in generated)
    return min(1.0, max(1, sum(c.n_tokens for c in chains)) / allowed)


def cost_of_criteria(
    criteria: Sequence[str],
    n_blocks: int,
    removals: int | None,
    tokens: float,
    texts: int,
    options: Mapping[str, Any] | None = None,
) -> Cost:
    """The cost of several criteria together.

    Args:
        criteria: names of the criteria.
        n_blocks: number of blocks of the model.
        removals: removals of greedy criteria and searches. None: each criterion's own number.
        tokens: tokens of the calibration set.
        texts: number of texts of the calibration set.
        options: criterion options that change the work, by name.

    Returns:
        The cost per text of the calibration set.
    """
    from pruning.criteria import criteria as known

    job = ScoringJob(n_blocks, removals, max(1, round(tokens)), max(1, texts))
    names = (name.partition("@")[0] for name in criteria)  # a study's "random@1" is a draw
    return sum((known()[name].price(job, options) for name in names), Cost())


def flops_of(cost: Cost, shape: ModelShape, tokens: float, texts: int) -> float:
    """FLOPs of a cost over a calibration set; decoded chains are not counted.

    Args:
        cost: the cost per text.
        shape: the shape of the model.
        tokens: tokens of all texts.
        texts: number of texts.

    Returns:
        The number of FLOPs.
    """
    each = max(1, round(tokens / max(1, texts)))
    head = 2 * shape.cost.head * each
    blocks = float(shape.cost.chain(1, each)) - head
    return texts * (cost.passes * blocks + cost.readouts * head)


def estimate_scoring(
    shape: ModelShape,
    criteria: Sequence[str],
    calibration: CalibrationSize,
    machine: Machine,
    *,
    removals: int | None = None,
    options: Mapping[str, Any] | None = None,
    repair: PlannedRepair | None = None,
) -> Estimate:
    """Estimate the cost of scoring the blocks by criteria.

    The stages are the generation of calibration chains, passes over them, and candidates' chains.

    Args:
        shape: the shape of the model.
        criteria: names of the criteria.
        calibration: the size of the calibration set.
        machine: the machine that runs it.
        removals: removals of greedy criteria and searches. Default: each criterion's own number.
        options: criterion options that change the work, by name.
        repair: a repair fitted on the same calibration. Default: none.

    Returns:
        The estimate.
    """
    from pruning.criteria import criteria as known

    texts, (prompt, mean, most) = calibration.texts, calibration.chain
    reading = [name for name in criteria if known()[name].needs_texts]
    written = any("accept" not in known()[name].options for name in reading)
    lines: list[Line] = []
    if calibration.written and (written or (repair is not None and repair.reads)):
        own = (calibration.written / texts, calibration.most / texts)
        lines.append(Line.decoded("calibration", texts, *own, prompt, shape, machine))
    tokens = max(1.0, calibration.tokens)
    cost = cost_of_criteria(criteria, shape.n_blocks, removals, tokens, texts, options)
    flops = flops_of(cost, shape, tokens, texts)
    if criteria:
        lines.append(Line.computed("scoring", flops, machine, tokens=tokens * cost.passes))
    if cost.generations:
        n = round(cost.generations * texts)
        lines.append(Line.decoded("candidates' chains", n, mean, most, prompt, shape, machine))
    if repair is not None:
        mended = repair.cost(shape.n_blocks, texts)
        flops = flops_of(mended, shape, tokens, texts)
        lines.append(Line.computed("repair", flops, machine, tokens=tokens * mended.passes))
    passed = sum(line.tokens for line in lines if not line.chains)
    what = f"scoring the blocks of {shape.name} by {', '.join(dict.fromkeys(criteria))}"
    if repair is not None:
        what = f"{what}, and repairing" if criteria else f"repairing {shape.name}"
        what = f"{what} by {repair.name}"
    width = shape.cost.head / shape.vocab
    kept = (shape.n_blocks + 1) * min(tokens, STREAM_TOKENS) * width * machine.number_bytes
    return Estimate(
        what=what,
        lines=tuple(lines),
        memory=shape.weights * machine.number_bytes + kept + WORKSPACE,
        disk=0.0,
        assumptions=(
            machine.about,
            f"calibrated on {calibration.texts} texts of {tokens:,.0f} tokens together"
            + (f" ({calibration.how})" if calibration.how else ""),
            f"{passed / tokens:.4g} forward passes over them (a backward pass counts as two); the "
            "tokens of scoring are those that pass",
            "loading the model is not counted",
        ),
    )
