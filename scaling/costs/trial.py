"""A trial: a small study of the same shape, run in a temporary folder and measured.

It has the study's benchmarks, budgets, samples and single blocks, on a few problems each. Removals
are drawn at random, because no criterion has chosen blocks yet. It measures the share of the tokens
allowed that is decoded, by benchmark, kind of variant and budgets, and the seconds of each stage.
Stages of the study itself are estimated as for a named machine, with the speed measured here
(scaling/costs/measured_machine.py), and corrected by what the same estimate of the trial misses:
grading, diagnosis and the store among it.

Random removals harm more than chosen ones and loop more, so the estimate of tokens is rather too
high.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from interp.chains.chain import Budget
from scaling.costs.estimate import Estimate, Line
from scaling.costs.measured_machine import this_machine
from scaling.costs.model_shape import ModelShape
from scaling.costs.study_costs import ROW_BYTES, memory_of, study_lines
from scaling.costs.study_work import Part, parts_of
from scaling.engines.engine import Engine
from scaling.store.chain_row import LIKELIHOOD
from scaling.store.study_file import FILE
from scaling.store.study_store import Store
from scaling.study.config import StudyConfig
from scaling.study.problem_sets import gather
from scaling.study.study_progress import Event

PROBLEMS, LIKELIHOOD_PROBLEMS = 3, 64  # of a benchmark, in a trial
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Trial:
    """What a small study measured.

    Attributes:
        config: its settings.
        shares: tokens decoded over tokens allowed, by `Part.key` and its prefixes.
        stages: seconds per stage.
        row_bytes: bytes per chain in the store, by benchmark.
        chains: number of chains of the trial.
        seconds: duration of the trial.
        prompts: mean tokens of a prompt, by benchmark.
    """

    config: StudyConfig
    shares: Mapping[tuple[Any, ...], float]
    stages: Mapping[str, float]
    row_bytes: Mapping[str, float]
    chains: int
    seconds: float
    prompts: Mapping[str, float]

    def spending(self, part: Part) -> tuple[float, float]:
        """Thinking tokens, and all tokens, that a request like these decodes.

        Args:
            part: the requests.

        Returns:
            Both, by the share of the longest prefix of `part.key` that was measured.
        """
        known = (part.key[:n] for n in range(len(part.key), -1, -1))
        share = next(self.shares[key] for key in known if key in self.shares)
        return share * part.cap, share * (part.cap + part.answers)


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

    with tempfile.TemporaryDirectory(prefix="prunescope-trial-") as folder:
        small = trial_config(config, problems, Path(folder) / "study")
        run_study(small, listen, engine=engine)
        with Store(small.out, read_only=True) as store:
            rows, raw = store.rows(), store.frame("chains")
        size = (small.out / FILE).stat().st_size
    prompts = rows.groupby("benchmark")["prompt_tokens"].mean()
    return Trial(
        config=small,
        shares=_shares(rows),
        stages=dict(stages),
        row_bytes=_row_bytes(raw, size),
        chains=len(rows),
        seconds=time.monotonic() - began,
        prompts={str(k): float(v) for k, v in prompts.items()},
    )


def _row_bytes(chains: Any, size: int) -> dict[str, float]:
    """The file's bytes shared out to rows by what is in them."""
    inside = chains[["ids", "forced", "diagnosis"]].map(len).sum(axis=1) + ROW_BYTES / 4
    shared = inside * (size / inside.sum())
    return {str(k): float(v) for k, v in shared.groupby(chains["benchmark"]).mean().items()}


def _shares(rows: Any) -> dict[tuple[Any, ...], float]:
    """Tokens over tokens allowed, for every `Part.key` and every beginning of one."""
    spent: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])
    generated = rows[rows["scoring"] != LIKELIHOOD]
    keys = ["benchmark", "problem", "variant", "sample"]
    for (benchmark, _, _, _), own in generated.groupby(keys, sort=False):
        own = own.sort_values(["waits_allowed", "thinking_budget"])
        columns = (own[name] for name in ("thinking_budget", "answer_budget", "waits_allowed"))
        part = Part(
            benchmark=str(benchmark),
            kind=str(own["kind"].iloc[0]),
            removed=int(own["n_removed"].iloc[0]),
            budgets=tuple(Budget(*map(int, row)) for row in zip(*columns, strict=True)),
            requests=1,
            chains=len(own),
            prompt=0.0,
            thinks=bool((own["thinking_finish"] != "none").any()),
        )
        tokens = int(own["thinking_tokens"].max()) + int(own["answer_tokens"].sum())
        for n in range(len(part.key) + 1):
            spent[part.key[:n]][0] += tokens
            spent[part.key[:n]][1] += part.cap + part.answers
    return {key: tokens / allowed for key, (tokens, allowed) in spent.items()} or {(): 0.0}


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
    config = config.fitted(engine.model)
    trial = run_trial(config, engine, problems=problems, on_event=on_event)
    shape, machine = ModelShape.of(engine.model.hf.config), this_machine(engine.model)
    machine = replace(machine, rows=getattr(engine, "slots", None) or machine.rows)

    def planned(what: StudyConfig) -> tuple[list[Part], list[Line]]:
        benches, _ = gather(what, engine)
        parts = [
            replace(p, prompt=trial.prompts.get(p.benchmark, p.prompt))
            for p in parts_of(what, benches, len(engine.layer_map))
        ]
        args = (shape, machine, trial.spending, trial.shares[()])
        return parts, study_lines(what, benches, parts, *args)

    missed = {
        line.stage: trial.stages[line.stage] / line.seconds
        for line in planned(trial.config)[1]
        if line.seconds and line.stage in trial.stages
    }
    parts, lines = planned(config)
    rows = min(machine.rows, max(sum(p.requests for p in parts if p.benchmark == b)
                                 for b in config.benchmark_names))  # fmt: skip
    return Estimate(
        what=f"the study of {config.model} ({shape.weights / 1e9:.3g} G parameters)",
        lines=tuple(line.slower(missed.get(line.stage, 1.0)) for line in lines),
        memory=memory_of(shape, rows, max(p.longest for p in parts), machine.number_bytes),
        disk=sum(trial.row_bytes.get(p.benchmark, ROW_BYTES) * p.chains for p in parts),
        assumptions=(
            f"measured here by a trial of {trial.chains:,} chains in {trial.seconds:.0f} s, "
            f"{problems} problems per benchmark ({LIKELIHOOD_PROBLEMS} where choices are scored)",
            f"{machine.about}; at most {machine.rows} rows side by side; every stage takes the "
            "multiple of the computed time that it took in the trial (at most: no less than "
            "computed)",
            "chains of removals as long as those of random ones in the trial (at most: all that "
            "the budgets allow)",
            "loading the model and the report are not counted; the report takes about a quarter of "
            "a minute, and two seconds per 1,000 chains",
        ),
    )
