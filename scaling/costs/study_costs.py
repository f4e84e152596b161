"""What a study will cost, before it runs: tokens, FLOPs, hours, memory, disk.

The work is counted exactly, from the same cells that the study is cut into: the number of
requests, their budgets and kinds of variant. The length of chains and the speed of decoding are
not known. They come from the peaks of a named machine (scaling/costs/machines.py), with chains
that take half of what the budget allows, or from a trial here (scaling/costs/trial.py);
docs/internals.md compares the two.

Both give what is expected and what it is at most (every chain as long as its budget allows).
FLOPs: scaling/costs/flops.py. Blocks that a variant skips are counted as computed: variants share
passes. Loading the model and writing the report are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from interp.errors import UserError
from scaling.costs.decode_speed import pace_of, rows_at_once, spread_lengths
from scaling.costs.estimate import WORKSPACE, Estimate, Line, Spent, checked_share
from scaling.costs.machines import Machine
from scaling.costs.model_shape import ModelShape
from scaling.costs.scoring_costs import estimate_scoring, own_calibration
from scaling.costs.study_work import (
    CHARS_A_TOKEN,
    SHARE,
    Part,
    parts_of,
    sized_benchmarks,
    typical_size,
)
from scaling.problem import Benchmark
from scaling.store.chain_row import LIKELIHOOD
from scaling.study.config import StudyConfig
from scaling.study.variants import scored

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

ROW_BYTES, TOKEN_BYTES = 1900.0, 1.6  # of a chain in the store, and of each of its tokens


def estimate_on(config: StudyConfig, machine: Machine, *, share: float = SHARE) -> Estimate:
    """Estimate the cost of a study on a named machine, from the configuration alone.

    Args:
        config: the settings of the study.
        machine: the machine that runs it.
        share: the part of the tokens allowed that a chain uses, in (0, 1].

    Returns:
        The estimate.

    Raises:
        UserError: `share` is not in (0, 1], the weights do not fit into the machine's memory, or
            too many blocks are to be removed.
    """
    checked_share(share)
    shape = ModelShape.of(config.model, config.trust_remote_code)
    config = config.fitted(_without_weights(config))
    _check_remove(config, shape)
    benches = sized_benchmarks(config)
    parts = parts_of(config, benches, shape.n_blocks)
    longest = max(p.longest for p in parts)
    lines = study_lines(
        config, benches, parts, shape, machine, lambda p: (p.thinking(share), p.tokens(share))
    )
    rows = rows_at_once(shape, machine, longest)
    stored = sum(p.requests * p.stored(p.tokens(share)) for p in parts)
    disk = ROW_BYTES * sum(p.chains for p in parts) + TOKEN_BYTES * stored
    public = [b.name for b in benches if b.name not in config.data and typical_size(b.name)]
    return Estimate(
        what=f"the study of {shape.name} ({shape.weights / 1e9:.3g} G parameters)",
        lines=tuple(lines),
        memory=memory_of(shape, rows, longest, machine.number_bytes),
        disk=disk,
        assumptions=(
            machine.about,
            f"chains take {share:.0%} of the thinking and answer tokens they may (at most: all)",
            f"{rows} rows are decoded side by side on one device; more devices (--ray) divide "
            "the time",
            "blocks that a variant skips are counted as computed: variants share passes",
            *(
                [
                    f"problems and lengths of {', '.join(public)} as of the public sets, "
                    f"{CHARS_A_TOKEN:.0f} characters per token"
                ]
                if public
                else []
            ),
            f"the weights ({shape.weights * machine.number_bytes / 1e9:.1f} GB) are on the disk "
            "already; loading them and the report are not counted",
        ),
    )


def _without_weights(config: StudyConfig) -> ReasoningModel | None:
    """The model, for its thinking format, which decides how long answers are.

    Args:
        config: the settings of the study.

    Returns:
        The model; None where there is no tokenizer.
    """
    from scaling.engines.served_model import weightless

    try:
        return weightless(
            config.model,
            delimiters=config.thinking_format,
            trust_remote_code=config.trust_remote_code,
        )
    except UserError:
        return None


def memory_of(shape: ModelShape, rows: int, longest: float, number_bytes: int) -> float:
    """Memory for decoding: weights, key/value cache and logits.

    Args:
        shape: the shape of the model.
        rows: rows decoded side by side.
        longest: most tokens in a row's cache.
        number_bytes: bytes per weight and cached number.

    Returns:
        The memory in bytes.
    """
    numbers = shape.weights + rows * shape.kv * longest
    return numbers * number_bytes + rows * shape.vocab * 4 + WORKSPACE


#: Thinking tokens, and all tokens, that one request of a part decodes.
Spending = Callable[[Part], tuple[float, float]]


def study_lines(
    config: StudyConfig,
    benches: Sequence[Benchmark],
    parts: Sequence[Part],
    shape: ModelShape,
    machine: Machine,
    spending: Spending,
    share: float = SHARE,
) -> list[Line]:
    """The stages of a study on a machine: its calibration, then its benchmarks.

    Args:
        config: the settings of the study.
        benches: the benchmarks, with their problems.
        parts: the requests.
        shape: the shape of the model.
        machine: the machine that runs it.
        spending: what a request is expected to decode.
        share: the part of the tokens allowed that calibration chains use.

    Returns:
        A line per stage, from what is expected to every chain as long as its budget allows.
    """
    lines = [_scoring(config, shape, machine, parts, share)] if scored(config) else []
    for bench in benches:
        own = [p for p in parts if p.benchmark == bench.name]
        lines.append(_stage(bench, own, shape, machine, spending))
    return lines


def _stage(
    bench: Benchmark, parts: Sequence[Part], shape: ModelShape, machine: Machine, spending: Spending
) -> Line:
    requests, chains = sum(p.requests for p in parts), sum(p.chains for p in parts)
    prompts = {p: max(1, round(p.prompt)) for p in parts}
    read = sum(p.requests * float(shape.cost.chain(prompts[p], 1)) for p in parts)
    reading = Line.computed("reading", read, machine)
    if bench.scoring == LIKELIHOOD:
        spent = (0.0, reading.flops, reading.seconds)
        return Line.between(bench.name, requests, chains, spent, spent)
    found: list[Spent] = []
    for one in (spending, lambda p: (p.cap, p.cap + p.answers)):
        each = [(p, *one(p)) for p in parts]
        tokens = sum(p.requests * n for p, _, n in each)
        flops = sum(
            p.requests * float(shape.cost.chain(prompts[p], max(1, round(n)))) for p, _, n in each
        )
        context = sum(p.requests * n * (p.prompt + thought / 2) for p, thought, n in each)
        pace = pace_of(shape, machine, context / tokens, max(p.longest for p in parts))
        lengths = [spread_lengths(n, p.cap + p.answers, p.requests) for p, _, n in each]
        found.append((tokens, flops, pace.seconds(np.concatenate(lengths)) + reading.seconds))
    return Line.between(bench.name, requests, chains, *found)


def _scoring(
    config: StudyConfig, shape: ModelShape, machine: Machine, parts: Sequence[Part], share: float
) -> Line:
    """Decoding the calibration chains and scoring the blocks on them."""
    removals = max(config.remove_counts, default=1)
    found = []
    for taken in (share, 1.0):
        calibration = own_calibration(config, shape.n_blocks, taken, parts=parts)
        lines = estimate_scoring(
            shape, scored(config), calibration, machine, removals=removals
        ).lines
        whole = Line.together("calibration", [line for line in lines if line.stage != "scoring"])
        every = Line.together("calibration", lines)
        found.append((whole.tokens, every.flops, every.seconds))
    return Line.between("calibration", calibration.texts, 0, *found)


def _check_remove(config: StudyConfig, shape: ModelShape) -> None:
    if config.methods and max(config.remove_counts) >= shape.n_blocks:
        raise UserError(
            f"Cannot remove {max(config.remove_counts)} blocks of {shape.n_blocks}: at least one "
            "must stay. Give smaller numbers (--remove)."
        )
