"""A trial: a small study of the same shape, run in a temporary folder and measured.

It has the study's benchmarks, budgets, samples and single blocks, on a few problems each. Removals
are drawn at random, because no criterion has chosen blocks yet. It measures:

- share: tokens decoded over tokens allowed, by benchmark, kind of variant and budgets.
- pace: a pass over n rows takes a + b n seconds. One chain decoded alone gives a + b, and all the
  decoding of the trial a P + b T: T tokens in P passes, with P by list scheduling of the requests.
- likelihood: seconds per problem and variant.
- one pass: Block Influence on the calibration chains, for the criteria that need more passes.

Grading, diagnosis and the store are in b, as they are in the study. Random removals harm more than
chosen ones and loop more, so the estimate of tokens is rather too high.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from interp.chains.chain import Budget
from scaling.costs.decode_speed import Pace, makespan, spread_lengths
from scaling.costs.estimate import Estimate, Line, Spent
from scaling.costs.model_shape import ModelShape
from scaling.costs.scoring_costs import cost_of_criteria, flops_of, own_calibration
from scaling.costs.study_costs import (
    ROW_BYTES,
    decoding,
    likelihood_flops,
    memory_of,
    most_removed,
)
from scaling.costs.study_work import Part, parts_of
from scaling.engines.engine import Engine
from scaling.problem import Benchmark
from scaling.store.chain_row import LIKELIHOOD
from scaling.store.study_store import FILE, Store
from scaling.study.config import StudyConfig
from scaling.study.problem_sets import gather
from scaling.study.study_progress import Event
from scaling.study.variants import INFLUENCE, scored

PROBLEMS, LIKELIHOOD_PROBLEMS = 3, 64  # of a benchmark, in a trial
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Trial:
    """What a small study measured.

    Attributes:
        shares: tokens decoded over tokens allowed, by `Part.key` and its prefixes.
        pace: how long a decoding pass takes.
        stages: seconds per stage.
        likelihood: seconds per problem and variant, by benchmark.
        one_pass: seconds of a forward pass over the calibration chains.
        row_bytes: bytes per chain in the store, by benchmark.
        chains: number of chains of the trial.
        seconds: duration of the trial.
        prompts: mean tokens of a prompt, by benchmark.
    """

    shares: Mapping[tuple[Any, ...], float]
    pace: Pace
    stages: Mapping[str, float]
    likelihood: Mapping[str, float]
    one_pass: float
    row_bytes: Mapping[str, float]
    chains: int
    seconds: float
    prompts: Mapping[str, float]

    def share(self, part: Part) -> float:
        """The part of the tokens allowed that requests like these used.

        Args:
            part: the requests.

        Returns:
            The share of the longest prefix of `part.key` that was measured.
        """
        for n in range(len(part.key), 0, -1):
            if part.key[:n] in self.shares:
                return self.shares[part.key[:n]]
        return self.shares[()]


class _Watched:
    """An engine whose calls are timed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.scoring = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def score(self, criterion: str, *arguments: Any) -> Any:
        """Timed where it is Block Influence: one pass."""
        began = time.monotonic()
        found = self._engine.score(criterion, *arguments)
        if criterion == INFLUENCE:
            self.scoring = time.monotonic() - began
        return found


def trial_config(config: StudyConfig, problems: int, out: Path) -> StudyConfig:
    """The settings of the trial.

    Args:
        config: the settings of the study.
        problems: problems per benchmark; benchmarks that score choices by likelihood take 64.
        out: the folder of the trial.

    Returns:
        The settings; removals are drawn at random.
    """
    from scaling.benchmarks import benchmarks

    limit = {}
    for name in config.benchmark_names:
        entry = benchmarks().get(name.partition(":")[0])
        likely = entry is not None and entry.scoring == LIKELIHOOD
        few = LIKELIHOOD_PROBLEMS if likely else problems
        limit[name] = min(few, config.workload(name).problems)
    return replace(config, limit=limit, methods=("random",) if config.methods else (), out=out)


def run_trial(
    config: StudyConfig,
    engine: Engine,
    *,
    problems: int = PROBLEMS,
    on_event: OnEvent | None = None,
) -> Trial:
    """Run the trial on an engine.

    Args:
        config: the settings of the study.
        engine: the engine to measure.
        problems: problems per benchmark; benchmarks that score choices by likelihood take 64.
        on_event: called with every event of the trial's progress.

    Returns:
        The measurements.
    """
    from scaling.study.runner import run_study

    began = time.monotonic()
    stages: dict[str, float] = defaultdict(float)
    now = ["", began]

    def listen(event: Event) -> None:
        if event.kind in ("stage", "done"):
            moment = time.monotonic()
            stages[str(now[0])] += moment - float(now[1])
            now[:] = [event.stage, moment]
        if on_event is not None:
            on_event(event)

    watched: Any = _Watched(engine)
    with tempfile.TemporaryDirectory(prefix="prunescope-trial-") as folder:
        small = trial_config(config, problems, Path(folder) / "study")
        run_study(small, listen, engine=watched)
        with Store(small.out, read_only=True) as store:
            rows = store.rows()
            seconds = float(store.frame("sessions")["decode_seconds"].sum())
            raw = store.frame("chains")
        size = (small.out / FILE).stat().st_size
    measured = _requests(rows)
    one = _alone(small, engine)
    pace = _pace(measured, seconds, one, _rows_at_once(engine))
    likely = rows[rows["scoring"] == LIKELIHOOD].groupby("benchmark").size()
    return Trial(
        shares=_shares(measured),
        pace=pace,
        stages=dict(stages),
        likelihood={str(name): stages[str(name)] / n for name, n in likely.items()},
        one_pass=watched.scoring,
        row_bytes=_row_bytes(raw, size),
        chains=len(rows),
        seconds=time.monotonic() - began,
        prompts={
            str(k): float(v) for k, v in rows.groupby("benchmark")["prompt_tokens"].mean().items()
        },
    )


def _row_bytes(chains: Any, size: int) -> dict[str, float]:
    """The file's bytes shared out to rows by what is in them."""
    inside = chains[["ids", "forced", "diagnosis"]].map(len).sum(axis=1) + ROW_BYTES / 4
    shared = inside * (size / inside.sum())
    return {str(k): float(v) for k, v in shared.groupby(chains["benchmark"]).mean().items()}


@dataclass(frozen=True)
class _Request:
    """One request of the trial: where it belongs, what it decoded, what it might have."""

    key: tuple[Any, ...]
    tokens: int
    allowed: int
    length: int  # of its longest row in the batch


def _requests(rows: Any) -> list[_Request]:
    found = []
    generated = rows[rows["scoring"] != LIKELIHOOD]
    for (benchmark, _, _, _), own in generated.groupby(
        ["benchmark", "problem", "variant", "sample"], sort=False
    ):
        own = own.sort_values(["waits_allowed", "thinking_budget"])
        thinks = (own["thinking_finish"] != "none").any()
        budgets = [
            Budget(int(t), int(a), int(w))
            for t, a, w in zip(
                own["thinking_budget"], own["answer_budget"], own["waits_allowed"], strict=True
            )
        ]
        part = Part(
            benchmark=str(benchmark),
            kind=str(own["kind"].iloc[0]),
            removed=int(own["n_removed"].iloc[0]),
            budgets=tuple(budgets),
            requests=1,
            chains=len(own),
            prompt=0.0,
            thinks=bool(thinks),
        )
        thinking = int(own["thinking_tokens"].max())
        answers = int(own["answer_tokens"].sum())
        length = thinking + int(own["answer_tokens"].max())
        found.append(_Request(part.key, thinking + answers, part.cap + part.answers, length))
    return found


def _shares(requests: Sequence[_Request]) -> dict[tuple[Any, ...], float]:
    """Tokens over tokens allowed, for every key and every beginning of one."""
    spent: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])
    for r in requests:
        for n in range(len(r.key) + 1):
            spent[r.key[:n]][0] += r.tokens
            spent[r.key[:n]][1] += r.allowed
    return {key: tokens / allowed for key, (tokens, allowed) in spent.items()} or {(): 0.0}


def _alone(config: StudyConfig, engine: Engine) -> float:
    """Seconds per token of one dense chain decoded alone; 0 if nothing is generated."""
    from interp.decoding.request import Request

    benches, _ = gather(config, engine)
    generated = [b for b in benches if b.scoring != LIKELIHOOD]
    if not generated:
        return 0.0
    bench = generated[-1]
    load = config.workload(bench.name)
    ids = tuple(engine.prompt_ids(bench.prompt(bench.problems[0]), thinking=bench.thinking))
    budget = Budget(max(load.budgets), load.answer)
    request = Request("trial/alone", ids, budgets=(budget,), answering=not bench.thinking)
    began = time.monotonic()
    decoded = engine.decode(
        [request], sampling=config.sampling(), stop_on_loop=True, stop=bench.stop
    )
    chains = list(decoded)
    return (time.monotonic() - began) / max(1, sum(c.n_tokens for c in chains))


def _rows_at_once(engine: Engine) -> int:
    """Rows that the engine decodes side by side."""
    slots = getattr(engine, "slots", None)
    if slots:
        return int(slots)
    from interp.decoding.memory import CPU_SLOTS, CUDA_SLOTS

    device = getattr(getattr(engine.model, "device", None), "type", "cpu")
    return CUDA_SLOTS if device == "cuda" else CPU_SLOTS


def _pace(requests: Sequence[_Request], seconds: float, one: float, rows: int) -> Pace:
    """A and b of a pass over n rows, from a chain alone (a + b) and the whole (a P + b T)."""
    passes = tokens = 0.0
    by_benchmark: dict[str, list[_Request]] = defaultdict(list)
    for r in requests:
        by_benchmark[r.key[0]].append(r)
    for few in by_benchmark.values():
        lengths = np.array([r.length for r in few], dtype=np.float64)
        passes += makespan(lengths, rows)
        tokens += sum(r.tokens for r in few)
    if not tokens:
        return Pace(0.0, 0.0, rows)
    if tokens <= passes:  # one row at a time: the two cannot be told apart
        return Pace(seconds / passes, 0.0, rows)
    each = min(max((seconds - one * passes) / (tokens - passes), 0.0), seconds / tokens)
    return Pace(max((seconds - each * tokens) / passes, 0.0), each, rows)


# ------------------------------------------------------------------ from a trial to an estimate


def estimate_here(
    config: StudyConfig,
    engine: Engine,
    *,
    problems: int = PROBLEMS,
    on_event: OnEvent | None = None,
) -> Estimate:
    """Estimate the cost of a study on this machine, from a trial with its own model.

    Args:
        config: the settings of the study.
        engine: the engine, with the study's model.
        problems: problems per benchmark; benchmarks that score choices by likelihood take 64.
        on_event: called with every event of the trial's progress.

    Returns:
        The estimate.
    """
    shape = ModelShape.of(engine.model.hf.config)
    config = config.fitted(engine.model)
    benches, _ = gather(config, engine)
    trial = run_trial(config, engine, problems=problems, on_event=on_event)
    parts = [
        replace(p, prompt=trial.prompts.get(p.benchmark, p.prompt))
        for p in parts_of(config, benches, len(engine.layer_map))
    ]
    lines = [_scoring(config, shape, trial, parts)] if scored(config) else []
    lines += [_stage(b, [p for p in parts if p.benchmark == b.name], shape, trial) for b in benches]
    number = int(getattr(engine.model.dtype, "itemsize", 4))
    longest = max(p.longest for p in parts)
    requests = max(sum(p.requests for p in parts if p.benchmark == b.name) for b in benches)
    rows = min(trial.pace.rows, requests)
    return Estimate(
        what=f"the study of {config.model} ({shape.weights / 1e9:.3g} G parameters)",
        lines=tuple(lines),
        memory=memory_of(shape, rows, longest, number),
        disk=sum(trial.row_bytes.get(p.benchmark, ROW_BYTES) * p.chains for p in parts),
        assumptions=(
            f"measured here by a trial of {trial.chains:,} chains in {trial.seconds:.0f} s, "
            f"{problems} problems a benchmark ({LIKELIHOOD_PROBLEMS} where choices are scored)",
            f"a pass over n rows takes {trial.pace.fixed * 1e3:.2f} + {trial.pace.each * 1e3:.3f} "
            f"n ms; {trial.pace.rows} rows side by side at most",
            "chains of removals as long as those of random ones in the trial (at most: all that "
            "the budgets allow)",
            "loading the model and the report are not counted",
        ),
    )


def _stage(bench: Benchmark, parts: Sequence[Part], shape: ModelShape, trial: Trial) -> Line:
    requests, chains = sum(p.requests for p in parts), sum(p.chains for p in parts)
    if bench.scoring == LIKELIHOOD:
        seconds = trial.likelihood.get(bench.name, 0.0) * requests
        spent = (0.0, likelihood_flops(shape, parts), seconds)
        return Line.between(bench.name, requests, chains, spent, spent)
    found: list[Spent] = []
    for full in (False, True):
        shares = {p: 1.0 if full else trial.share(p) for p in parts}
        tokens, flops = decoding(shape, parts, lambda p, s=shares: s[p] * (p.cap + p.answers))
        # A request's answers are decoded side by side once its slot's thinking is over.
        alone = {p: shares[p] * (p.cap + p.answers / max(1, len(p.budgets))) for p in parts}
        lengths = [spread_lengths(alone[p], p.cap + p.answers, p.requests) for p in parts]
        extra = tokens - sum(p.requests * alone[p] for p in parts)
        seconds = trial.pace.seconds(np.concatenate(lengths)) + trial.pace.each * extra
        found.append((tokens, flops, seconds))
    return Line.between(bench.name, requests, chains, *found)


def _scoring(config: StudyConfig, shape: ModelShape, trial: Trial, parts: Sequence[Part]) -> Line:
    """The calibration stage as it was in the trial, and the passes of criteria not tried."""
    calibration = own_calibration(config, shape.n_blocks, trial.shares[()], parts=parts)
    tokens, texts = calibration.tokens, calibration.texts
    chain = float(shape.cost.chain(1, max(1, round(tokens / texts))))
    cost = cost_of_criteria(scored(config), shape.n_blocks, most_removed(config), tokens, texts)
    seconds = trial.stages.get("calibration", 0.0) * (1 + cost.generations)
    seconds += max(0.0, cost.passes - 1) * trial.one_pass
    flops = texts * chain + flops_of(cost, shape, tokens, texts, chain)
    spent = (tokens * (1 + cost.generations), flops, seconds)
    return Line.between("calibration", 0, 0, spent, spent)
