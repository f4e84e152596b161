"""The variants of a study: dense, each method's plans, and every single block skipped.

They are decided once, from scores on calibration chains, and stored with their plans, method by
method, so a study that is resumed never decides again. The calibration chains are the model's own,
on problems that are not measured where the benchmark has spare ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from interp.chains.chain import Budget, Chain
from interp.errors import UserError
from scaling.engines.engine import Engine
from scaling.problem import Benchmark, Problem
from scaling.store.study_store import Store
from scaling.study.config import StudyConfig
from scaling.study.preflight import chooses, method_of
from scaling.study.study_progress import Progress

if TYPE_CHECKING:
    from interp.interventions.interventions import VariantLike
    from pruning.plan import LayerPlan

REMOVED_BEFORE = "removed before"  # key in `meta`: JSON list of blocks that the model itself lacks
DTYPE = "model dtype"  # key in `meta`: the precision of the weights, where it is known
INFLUENCE = "shortgpt"  # Block Influence: scored in every study, whatever its methods are
DRAW = 1000  # between the seeds of two draws, so that studies of seeds 0, 1, 2 have others
LONGEST_CALIBRATION = 1024  # thinking tokens per chain


def block_variant(block: int) -> VariantLike:
    """The variant that skips one block (dense index)."""
    from interp.interventions.interventions import Skip, Variant

    return Variant(f"skip {block}", (Skip(block),))


def check_methods(config: StudyConfig, engine: Engine) -> None:
    """Refuse unknown criteria and impossible numbers of blocks before any decoding.

    Args:
        config: the study.
        engine: gives the number of blocks.

    Raises:
        UserError: a method that is unsuitable for a study, or too many blocks.
    """
    from pruning.criteria import criteria

    known = criteria()
    for label in config.methods:
        name, draw = method_of(label)
        if chooses(name):
            continue
        if draw and not known[name].draws:
            raise UserError(f"Method {label!r}: {name!r} draws nothing, so it has one draw only.")
        if known[name].removes != "blocks":
            raise UserError(
                f"Criterion {name!r} removes {known[name].removes}; a study removes whole blocks. "
                f"See what it would remove (`prunescope score --method {name}`), and generate "
                "under its plan from Python: model.generate(prompts, variants=[plan])."
            )
        if "accept" in known[name].options:
            raise UserError(
                f"Criterion {name!r} grades answers while it scores (`accept`), which a study "
                f"cannot give it. Prune with it first, `prunescope prune --method {name} "
                "--remove N --out FOLDER`, then study that checkpoint with --model FOLDER."
            )
    depth = len(engine.layer_map)
    if config.methods and max(config.remove_counts) >= depth:
        raise UserError(
            f"Cannot remove {max(config.remove_counts)} blocks of {depth}: at least one must stay. "
            f"Give smaller numbers (--remove)."
        )


def scored(config: StudyConfig) -> tuple[str, ...]:
    """The criteria that a study scores: its methods that score blocks, and Block Influence.

    Empty where no block is removed or skipped: there is nothing to compare the scores with.
    """
    skips = any(config.workload(name).block_problems for name in config.benchmark_names)
    if not config.methods and not skips:
        return ()
    scoring = (m for m in config.methods if not chooses(method_of(m)[0]))
    return tuple(dict.fromkeys((INFLUENCE, *scoring)))


def calibration_chains(
    config: StudyConfig,
    engine: Engine,
    benchmarks: Sequence[Benchmark],
    spare: dict[str, tuple[Problem, ...]],
) -> list[Chain]:
    """Decode dense chains on a few problems of each generated benchmark (of all, if none is).

    Args:
        config: the study.
        engine: decodes.
        benchmarks: the study's benchmarks.
        spare: problems that are not measured, by benchmark; without them the measured ones serve.

    Returns:
        The chains, sorted by problem.
    """
    from interp.decoding.request import Request
    from interp.interventions.interventions import dense

    chains: list[Chain] = []
    generated = [b for b in benchmarks if b.scoring == "generate"]
    for bench in generated or benchmarks:
        requests = []
        load = config.workload(bench.name)
        few = spare.get(bench.name) or bench.problems
        thinking = min(max(load.budgets), LONGEST_CALIBRATION)
        for problem in few[: config.calibration_problems]:
            ids = engine.prompt_ids(bench.prompt(problem), thinking=bench.thinking)
            requests.append(
                Request(
                    problem=f"calibration/{problem.id}",
                    prompt_ids=tuple(ids),
                    variant=dense,
                    seed=config.seed,
                    budgets=(Budget(thinking, load.answer),),
                    answering=not bench.thinking,
                )
            )
        chains += engine.decode(
            requests, sampling=config.sampling(), stop_on_loop=True, stop=bench.stop
        )
    return sorted(chains, key=lambda c: c.problem)


def plan_row(plan: LayerPlan, method: str) -> dict[str, Any]:
    """A plan as a row of the table `variants`.

    Args:
        plan: the plan.
        method: what chose its blocks.

    Returns:
        The row.
    """
    return variant_row(plan.name, "plan", method, plan.removed, plan.to_json())


def decide(
    config: StudyConfig,
    engine: Engine,
    store: Store,
    chains: Sequence[Chain],
    progress: Progress,
) -> None:
    """Score the blocks and make the plans; each method is committed by itself.

    A search may take hours, so what an earlier run decided is kept.

    Args:
        config: the study.
        engine: scores the blocks.
        store: the open store.
        chains: calibration chains.
        progress: is told of each method, and of a plan that a repair does not find; the study does
            without it.
    """
    first = [method for method in scored(config) if method not in config.methods]
    methods = (*first, *config.methods)
    judged = set(store.frame("scores")["criterion"])
    named = set(store.frame("variants")["variant"])
    for n, method in enumerate(methods, start=1):
        progress.task = f"blocks by {method} ({n} of {len(methods)})"
        counts = config.remove_counts if method in config.methods else ()
        if chooses(method_of(method)[0]):
            for count in counts:
                if f"{method}-{count}" not in named:
                    store.put("variants", _chosen(engine, chains, method, count, progress))
        elif method not in judged or not {f"{method}-{count}" for count in counts} <= named:
            scores, plans = _scored(config, engine, chains, method, counts)
            store.put("scores", scores)
            store.put("variants", plans)
    blocks = [(block_variant(block).name, block) for block in engine.layer_map]
    variants = [variant_row(name, "block", "single", (block,)) for name, block in blocks]
    n_dense = getattr(engine.model, "n_dense", None)
    before = json.dumps(lacking(engine.layer_map, n_dense))
    store.put("meta", [{"key": REMOVED_BEFORE, "value": before}])
    if dtype := getattr(engine, "dtype", config.dtype):
        store.put("meta", [{"key": DTYPE, "value": dtype}])
    # last: the row of dense marks the stage as complete
    store.put("variants", [*variants, variant_row("dense", "dense")])


def _chosen(
    engine: Engine, chains: Sequence[Chain], method: str, count: int, progress: Progress
) -> list[dict[str, Any]]:
    """The row of a plan that a repair finds; none where it finds none."""
    try:
        found = engine.choose(method_of(method)[0], chains, count)
    except UserError as error:
        progress.note(f"{method}-{count} is left out: {error}")
        return []
    return [plan_row(replace(found, name=f"{method}-{count}"), method)]


def _scored(
    config: StudyConfig,
    engine: Engine,
    chains: Sequence[Chain],
    method: str,
    counts: Sequence[int],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of a criterion's scores, and of its plans of so many blocks."""
    from pruning.plan import LayerPlan

    name, draw = method_of(method)
    most = max(config.remove_counts, default=1)
    found = engine.score(name, chains, config.seed + DRAW * draw, most)
    frame = found.to_frame().to_dict("records")
    plans = (LayerPlan.lowest(found, remove=n, name=f"{method}-{n}") for n in counts)
    scores = [{**_score_row(row), "criterion": method} for row in frame]
    return scores, [plan_row(plan, method) for plan in plans]


def lacking(layer_map: Sequence[int], n_dense: int | None) -> tuple[int, ...]:
    """The dense blocks that a model lacks.

    Args:
        layer_map: dense index of each block that it has.
        n_dense: number of blocks of the dense model; None takes the last block for its last.

    Returns:
        The blocks, rising; none for an empty map.
    """
    most = n_dense or max(layer_map, default=-1) + 1
    return tuple(sorted(set(range(most)) - set(layer_map))) if len(layer_map) else ()


def read_variants(store: Store) -> dict[str, VariantLike]:
    """The study's variants by name, dense first; empty until all of them are decided."""
    from interp.interventions.interventions import dense
    from pruning.plan import LayerPlan
    from pruning.repaired_plan import RepairedPlan

    rows = sorted(store.frame("variants").to_dict("records"), key=lambda r: r["kind"] != "dense")
    if not rows or rows[0]["kind"] != "dense":
        return {}
    found: dict[str, Any] = {}
    for row in rows:
        if row["kind"] == "dense":
            found[row["variant"]] = dense
        elif row["kind"] == "plan":
            plan, name = LayerPlan.from_json(row["plan"]), method_of(row["method"])[0]
            found[row["variant"]] = RepairedPlan(plan, name) if chooses(name) else plan
        else:
            found[row["variant"]] = block_variant(json.loads(row["removed"])[0])
    return found


def variant_row(
    name: str, kind: str, method: str = "", removed: Sequence[int] = (), plan: str = ""
) -> dict[str, Any]:
    """A variant as a row of the table `variants`.

    Args:
        name: name of the variant.
        kind: "dense", "plan" or "block".
        method: what chose the blocks; "" for none.
        removed: the blocks that it lacks, by dense index.
        plan: the plan as JSON; "" for none.

    Returns:
        The row.
    """
    return {
        "variant": name,
        "kind": kind,
        "method": method,
        "n_removed": len(removed),
        "removed": json.dumps([int(b) for b in removed]),
        "plan": plan,
    }


def _score_row(row: dict[str, Any]) -> dict[str, Any]:
    def number(value: Any) -> float | None:
        return float(value) if value is not None and math.isfinite(value) else None

    score = float(row["score"])
    return {
        "criterion": str(row["criterion"]),
        "block": int(row["block"]),
        "score": score if math.isfinite(score) else math.copysign(1e308, score),
        "low": number(row["low"]),
        "high": number(row["high"]),
        "n_tokens": int(row["n_tokens"]),
        "calibration": str(row["calibration"]),
    }
