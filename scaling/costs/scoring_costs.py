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
from scaling.study.defaults import CALIBRATION_PROBLEMS

if TYPE_CHECKING:
    from scaling.engines.engine import Engine
    from scaling.study.config import StudyConfig

STREAM_TOKENS = 4096  # of a batch, of which all blocks' streams are kept


@dataclass(frozen=True)
class CalibrationSize:
    """How much is calibrated on: texts, and their tokens, prompts included.

    written: of the tokens, how many the model has to write first; at most `most`. chain: (prompt,
    tokens) of a chain that a criterion decodes, and what it is at most; of written texts the same.
    """

    texts: int
    tokens: float
    written: float = 0.0
    most: float = 0.0
    chain: tuple[float, float, float] = (1.0, 0.0, 0.0)
    how: str = ""


@dataclass(frozen=True)
class PlannedRepair:
    """A repair that is to be paid for.

    removed, cuts: blocks that go, and runs of neighbours among them (at most, where a criterion
    has yet to choose them). reads: whether it is given texts, on which its work is then measured.
    options: of the repair.
    """

    name: str
    removed: int
    cuts: int
    reads: bool
    options: Mapping[str, Any]

    def cost(self, n_blocks: int, texts: int) -> Cost:
        """Of fitting and of measuring what it did, per text."""
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
    """The calibration of a study's settings: the model's chains on a few problems a benchmark.

    share: of the tokens that a chain may take, what it takes. parts: of the study, where they are
    known.
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
    n, few = max(1, len(generated)), CALIBRATION_PROBLEMS
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
    """Tokens that a calibration chain on a benchmark may take."""
    from scaling.study.variants import LONGEST_CALIBRATION

    load = config.workload(benchmark)
    return (min(max(load.budgets), LONGEST_CALIBRATION) if thinks else 0) + load.answer


def tried_share(config: StudyConfig, engine: Engine, problems: int = 3) -> float:
    """Of the tokens that calibration chains may take, what they take, by a few of them."""
    from scaling.study.problem_sets import gather
    from scaling.study.variants import calibration_chains

    benches, spare = gather(config)
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
    """What these criteria cost together, per text of the calibration.

    Args:
        criteria: names of the criteria.
        n_blocks: number of blocks of the model.
        removals: how many are followed (None: as many as each criterion does by itself).
        tokens: of the calibration.
        texts: of the calibration.
        options: settings of a criterion that change its work, by name.
    """
    from pruning.criteria import criteria as known

    job = ScoringJob(n_blocks, removals, max(1, round(tokens)), max(1, texts))
    return sum((known()[name].price(job, options) for name in criteria), Cost())


def flops_of(cost: Cost, shape: ModelShape, tokens: float, texts: int, chain: float = 0.0) -> float:
    """FLOPs of a cost over `tokens` tokens in `texts` texts; chain: those of one chain decoded."""
    each = max(1, round(tokens / max(1, texts)))
    head = 2 * shape.cost.head * each
    blocks = float(shape.cost.chain(1, each)) - head
    return texts * (cost.passes * blocks + cost.readouts * head + cost.generations * chain)


def scoring_lines(
    shape: ModelShape,
    criteria: Sequence[str],
    calibration: CalibrationSize,
    machine: Machine,
    *,
    removals: int | None = None,
    options: Mapping[str, Any] | None = None,
    repair: PlannedRepair | None = None,
) -> list[Line]:
    """The stages of scoring: calibration chains to write, passes over them, candidates' chains.

    repair: what is to be repaired on the same calibration, if anything is.
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
    return lines


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
    """The cost of scoring the blocks by these criteria.

    removals: how many a criterion that goes step by step follows (None: its own number). repair:
    what is to be repaired on the same calibration, if anything is.
    """
    tokens = max(1.0, calibration.tokens)
    lines = scoring_lines(
        shape, criteria, calibration, machine, removals=removals, options=options, repair=repair
    )
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
