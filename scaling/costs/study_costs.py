"""What a study will cost, before it runs: tokens, FLOPs, hours, memory, disk.

The work is counted exactly, from the same cells that the study is cut into: how many requests, with
which budgets, of which kind of variant. What is not known is how long chains will be and how fast
they come:

| | a named machine (scaling/costs/machines.py) | a trial here (scaling/costs/trial.py) |
|---|---|---|
| needs | the configuration | the weights |
| thinking | half of what the budget allows | as a small study of the same shape had it |
| a pass over n rows | a + b n, from the machine's peaks | a + b n, measured |
| scoring the blocks | FLOPs of the criteria's passes | one pass measured, times the passes |

Of a named machine, a is the time to read the weights once and b the larger of a row's FLOPs and its
keys and values, at the peaks times an efficiency.

Both give what is expected and what it is at most (every chain as long as its budget allows).
FLOPs: scaling/costs/flops.py. Blocks skipped by a variant are counted as computed: variants share
passes.

Not counted: loading the model, and writing the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import UserError
from scaling.costs.decode_speed import pace_of, rows_at_once, spread_lengths
from scaling.costs.machines import Machine
from scaling.costs.model_shape import ModelShape
from scaling.costs.scoring_work import ScoringWork, work_of
from scaling.costs.study_work import CHARS_A_TOKEN, PUBLIC, SHARE, Part, parts_of, sized_benchmarks
from scaling.problem import Benchmark
from scaling.store.chain_row import LIKELIHOOD
from scaling.study.config import StudyConfig
from scaling.study.defaults import CALIBRATION_PROBLEMS
from scaling.study.variants import LONGEST_CALIBRATION, scored

if TYPE_CHECKING:
    import pandas as pd

ROW_BYTES, TOKEN_BYTES = 1900.0, 1.6  # of a chain in the store, and of each of its tokens
WORKSPACE = 1.5e9  # bytes beside weights and cache: activations, the runtime


@dataclass(frozen=True)
class Line:
    """The cost of one stage: a benchmark, or scoring the blocks; `most`: no chain ends early."""

    stage: str
    requests: int
    chains: int
    tokens: float
    most_tokens: float
    flops: float
    seconds: float
    most_seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a study will cost. memory, disk: bytes. assumptions: all that is not counted exactly."""

    what: str
    lines: tuple[Line, ...]
    memory: float
    disk: float
    assumptions: tuple[str, ...]

    def total(self, name: str) -> float:
        """The sum of a column of `lines`."""
        return float(sum(getattr(line, name) for line in self.lines))

    @property
    def tokens(self) -> float:
        """Tokens decoded, as expected."""
        return self.total("tokens")

    @property
    def seconds(self) -> float:
        """Seconds, as expected."""
        return self.total("seconds")

    def to_frame(self) -> pd.DataFrame:
        """One row a stage."""
        import pandas as pd

        return pd.DataFrame([line.__dict__ for line in self.lines])

    def report(self) -> Iterator[str]:
        """The estimate as lines of text."""
        yield f"Estimate of {self.what}; nothing was run."
        head = ("stage", "requests", "chains", "tokens", "at most", "FLOPs", "time", "at most")
        rows: list[tuple[str, ...]] = [head]
        for line in (*self.lines, self._sum()):
            rows.append(
                (
                    line.stage,
                    f"{line.requests:,}",
                    f"{line.chains:,}",
                    quantity(line.tokens),
                    quantity(line.most_tokens),
                    f"{line.flops:.1e}",
                    duration(line.seconds),
                    duration(line.most_seconds),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        for row in rows:
            cells = [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
            yield "  " + "  ".join(cells)
        yield f"  memory {self.memory / 1e9:,.1f} GB, disk {self.disk / 1e9:,.2f} GB"
        yield "Assumed:"
        for assumption in self.assumptions:
            yield f"  - {assumption}"

    def _sum(self) -> Line:
        names = ("tokens", "most_tokens", "flops", "seconds", "most_seconds")
        sums: dict[str, Any] = {name: self.total(name) for name in names}
        whole = {name: int(self.total(name)) for name in ("requests", "chains")}
        return Line("all", **whole, **sums)


def quantity(number: float) -> str:
    """1.2 M, 35 k, 810."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """12 s, 3.4 min, 5.1 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def estimate_on(config: StudyConfig, machine: Machine, *, share: float = SHARE) -> Estimate:
    """The cost of a study on a named machine, from the configuration alone.

    share: of the tokens it may spend, what a chain takes.
    """
    if not 0 < share <= 1:
        raise UserError(f"share={share}: expected a number in (0, 1].")
    shape = ModelShape.of(config.model, config.trust_remote_code)
    _check_remove(config, shape)
    benches = sized_benchmarks(config)
    parts = parts_of(config, benches, shape.n_blocks)
    longest = max((p.prompt + p.cap + max((b.answer for b in p.budgets), default=0)) for p in parts)
    lines = [_scoring(config, shape, machine, benches, parts)] if scored(config) else []
    for bench in benches:
        lines.append(
            _stage(bench, [p for p in parts if p.benchmark == bench.name], shape, machine, share)
        )
    rows = rows_at_once(shape, machine, longest)
    memory = (
        (shape.weights + rows * (shape.kv * longest)) * machine.number_bytes
        + rows * shape.vocab * 4
        + WORKSPACE
    )
    stored = sum(p.requests * p.stored(p.tokens(share)) for p in parts)
    disk = ROW_BYTES * sum(p.chains for p in parts) + TOKEN_BYTES * stored
    public = [b.name for b in benches if b.name in PUBLIC and b.name not in config.data]
    return Estimate(
        what=f"the study of {shape.name} ({shape.weights / 1e9:.3g} G parameters)",
        lines=tuple(lines),
        memory=memory,
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
                    f"{CHARS_A_TOKEN:.0f} characters a token"
                ]
                if public
                else []
            ),
            f"the weights ({shape.weights * machine.number_bytes / 1e9:.1f} GB) are on the disk "
            "already; loading them and the report are not counted",
            *unpriced(scoring_work(config, shape.n_blocks)),
        ),
    )


def _stage(
    bench: Benchmark, parts: Sequence[Part], shape: ModelShape, machine: Machine, share: float
) -> Line:
    requests, chains = sum(p.requests for p in parts), sum(p.chains for p in parts)
    peak = machine.flops * machine.efficiency
    if bench.scoring == LIKELIHOOD:
        flops = float(sum(p.requests * shape.cost.chain(round(p.prompt), 1) for p in parts))
        return Line(bench.name, requests, chains, 0, 0, flops, flops / peak, flops / peak)
    found = []
    for part_share in (share, 1.0):
        lengths, tokens, flops, reading, context = [], 0.0, 0.0, 0.0, 0.0
        for p in parts:
            each = p.tokens(part_share)
            lengths.append(spread_lengths(each, p.cap + p.answers, p.requests))
            tokens += p.requests * each
            prompt = max(1, round(p.prompt))
            flops += p.requests * float(shape.cost.chain(prompt, max(1, round(each))))
            reading += p.requests * float(shape.cost.chain(prompt, 1))
            context += p.requests * each * (p.prompt + p.thinking(part_share) / 2)
        longest = max(p.prompt + p.cap + max(b.answer for b in p.budgets) for p in parts)
        pace = pace_of(shape, machine, context / tokens, longest)
        found.append((tokens, flops, pace.seconds(np.concatenate(lengths)) + reading / peak))
    (tokens, flops, seconds), (most, _, most_seconds) = found
    return Line(bench.name, requests, chains, tokens, most, flops, seconds, most_seconds)


def calibration_tokens(config: StudyConfig, parts: Sequence[Part], share: float) -> float:
    """Tokens of the dense chains that the criteria are scored on, prompts included."""
    total = 0.0
    generated = {p.benchmark: p for p in parts if p.budgets}
    for name, part in generated.items():
        load = config.workload(name)
        thinking = min(max(load.budgets), LONGEST_CALIBRATION) if part.thinks else 0
        total += CALIBRATION_PROBLEMS * (part.prompt + share * (thinking + load.answer))
    return total


def _scoring(
    config: StudyConfig,
    shape: ModelShape,
    machine: Machine,
    benches: Sequence[Benchmark],
    parts: Sequence[Part],
) -> Line:
    """Decoding the calibration chains and scoring the blocks on them."""
    peak = machine.flops * machine.efficiency
    generated = [b for b in benches if b.scoring != LIKELIHOOD]
    n = CALIBRATION_PROBLEMS * max(1, len(generated))
    costs = []
    for share in (SHARE, 1.0):
        tokens = max(1.0, calibration_tokens(config, parts, share))
        each = max(1, round(tokens / n))
        chain = float(shape.cost.chain(1, each))
        work = scoring_work(config, shape.n_blocks, tokens, n)
        scoring = work.flops(shape, tokens, n, chain)
        pace = pace_of(shape, machine, each / 2, each)
        decoding = pace.seconds(spread_lengths(each, 2 * each, n))
        decoding += pace.seconds(spread_lengths(each, 2 * each, round(work.chains * n)))
        passing = work.flops(shape, tokens, n) / peak
        costs.append((tokens * (1 + work.chains), n * chain + scoring, decoding + passing))
    (tokens, flops, seconds), (most, _, most_seconds) = costs
    return Line("calibration", n, 0, tokens, most, flops, seconds, most_seconds)


def scoring_work(
    config: StudyConfig, n_blocks: int, tokens: float = 1000.0, texts: int = CALIBRATION_PROBLEMS
) -> ScoringWork:
    """The work of a study's criteria over its calibration."""
    return work_of(scored(config), n_blocks, max(config.remove_counts, default=1), tokens, texts)


def unpriced(work: ScoringWork) -> list[str]:
    """The assumption about criteria whose cost is not known, if there are any."""
    if not work.unpriced:
        return []
    return [f"the cost of {', '.join(work.unpriced)} is not stated in passes, and is left out"]


def _check_remove(config: StudyConfig, shape: ModelShape) -> None:
    if config.methods and max(config.remove_counts) >= shape.n_blocks:
        raise UserError(
            f"Cannot remove {max(config.remove_counts)} blocks of {shape.n_blocks}: at least one "
            "must stay. Give smaller numbers (--remove)."
        )
