"""What it will cost to score blocks by criteria, as `prunescope score` and `prune` do.

Two stages or three: the calibration chains, where the model has to write them; the passes of the
criteria over the calibration (`scaling.costs.scoring_work`); and the chains that some criteria
decode for their candidates. Lengths of chains are those of a trial, or a share of what they may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scaling.costs.decode_speed import pace_of, spread_lengths
from scaling.costs.machines import Machine
from scaling.costs.model_shape import ModelShape
from scaling.costs.scoring_work import work_of
from scaling.costs.study_costs import WORKSPACE, Estimate, Line
from scaling.costs.study_work import SHARE, parts_of, sized_benchmarks
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


def own_calibration(
    config: StudyConfig, n_blocks: int, share: float = SHARE, *, prompts_only: bool = False
) -> CalibrationSize:
    """The calibration of a study's settings: the model's chains on a few problems a benchmark.

    share: of the tokens that a chain may take, what it takes.
    """
    from scaling.study.variants import LONGEST_CALIBRATION

    benches = sized_benchmarks(config)
    prompt = tokens = most = 0.0
    longest = answer = 0
    parts = {p.benchmark: p for p in parts_of(config, benches, n_blocks) if p.budgets}
    for name, part in parts.items():
        load = config.workload(name)
        thinking = max(load.budgets) if part.thinks else 0
        allowed = min(thinking, LONGEST_CALIBRATION) + load.answer
        prompt += part.prompt
        tokens, most = tokens + share * allowed, most + allowed
        longest, answer = max(longest, thinking), max(answer, load.answer)
    n, few = max(1, len(parts)), CALIBRATION_PROBLEMS
    written = 0.0 if prompts_only else few * tokens
    return CalibrationSize(
        texts=few * n,
        tokens=few * prompt + written,
        written=written,
        most=0.0 if prompts_only else few * most,
        chain=(prompt / n, share * (longest + answer), float(longest + answer)),
        how=f"{few} spare problems of each of {', '.join(parts) or 'no benchmark'}; chains take "
        f"{share:.0%} of the tokens they may",
    )


def tried_share(config: StudyConfig, engine: Engine, problems: int = 3) -> float:
    """Of the tokens that calibration chains may take, what they take, by a few of them."""
    from scaling.study.problem_sets import gather
    from scaling.study.variants import LONGEST_CALIBRATION, calibration_chains

    benches, spare = gather(config)
    generated = [b for b in benches if b.scoring != LIKELIHOOD]
    if not generated:
        return SHARE
    few = {b.name: (spare.get(b.name) or b.problems)[:problems] for b in generated}
    chains = calibration_chains(config, engine, generated, few)
    allowed = 0
    for bench in generated:
        load = config.workload(bench.name)
        thinking = min(max(load.budgets), LONGEST_CALIBRATION) if bench.thinking else 0
        allowed += len(few[bench.name]) * (thinking + load.answer)
    return min(1.0, max(1, sum(c.n_tokens for c in chains)) / allowed)


def estimate_scoring(
    shape: ModelShape,
    criteria: Sequence[str],
    calibration: CalibrationSize,
    machine: Machine,
    *,
    removals: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Estimate:
    """The cost of scoring the blocks by these criteria.

    removals: how many a criterion that goes step by step follows (None: its own number).
    """
    from pruning.criteria import criteria as known

    texts = calibration.texts
    needed = any(known()[name].needs_texts for name in criteria)
    lines: list[Line] = []
    graded = all("accept" in known()[name].options for name in criteria)
    if needed and calibration.written and not graded:
        lines.append(_decoded("calibration", texts, calibration.written / texts,
                              calibration.most / texts, calibration, shape, machine))  # fmt: skip
    tokens = max(1.0, calibration.tokens)
    work = work_of(criteria, shape.n_blocks, removals, tokens, texts, options)
    flops = work.flops(shape, tokens, texts)
    seconds = flops / (machine.flops * machine.efficiency)
    passed = tokens * work.passes
    lines.append(Line("scoring", 0, 0, passed, passed, flops, seconds, seconds))
    if work.chains:
        n = round(work.chains * texts)
        lines.append(_decoded("candidates' chains", n, calibration.chain[1], calibration.chain[2],
                              calibration, shape, machine))  # fmt: skip
    width = shape.cost.head / shape.vocab
    kept = (shape.n_blocks + 1) * min(tokens, STREAM_TOKENS) * width * machine.number_bytes
    said = [
        machine.about,
        f"calibrated on {texts} texts of {tokens:,.0f} tokens together"
        + (f" ({calibration.how})" if calibration.how else ""),
        f"{work.passes:.4g} forward passes over them (a backward pass counts as two); the tokens "
        "of scoring are those that pass",
    ]
    if work.unpriced:
        said.append(
            f"the cost of {', '.join(work.unpriced)} is not stated in passes, and is left out"
        )
    said.append("loading the model is not counted")
    return Estimate(
        what=f"scoring the blocks of {shape.name} by {', '.join(dict.fromkeys(criteria))}",
        lines=tuple(lines),
        memory=shape.weights * machine.number_bytes + kept + WORKSPACE,
        disk=0.0,
        assumptions=tuple(said),
    )


def _decoded(
    stage: str, n: int, mean: float, most: float, calibration: CalibrationSize, shape: ModelShape,
    machine: Machine,
) -> Line:  # fmt: skip
    """N chains of `mean` tokens, at most `most`."""
    prompt = max(1, round(calibration.chain[0]))
    found = []
    for each in (mean, max(mean, most)):
        flops = n * float(shape.cost.chain(prompt, max(1, round(each))))
        pace = pace_of(shape, machine, prompt + each / 2, prompt + max(mean, most))
        found.append((n * each, flops, pace.seconds(spread_lengths(each, max(mean, most), n))))
    (tokens, flops, seconds), (top, _, longest) = found
    return Line(stage, n, n, tokens, top, flops, seconds, longest)
