"""The recovery study: every method on several plans, at equal training tokens, measured alike.

A plan is a criterion's choice of blocks, from scores on the dense model's own chains. A unit is the
dense model, a plan untrained, or a plan trained by one method. Each is measured by an ordinary
study of its own checkpoint, on the same problems with the same noise, so that any two units pair
per problem and sample. Training problems come from the testbed's training split.

    OUT/study.json                settings and plans
    OUT/pruned/PLAN               the checkpoint without the plan's blocks
    OUT/runs/PLAN/METHOD          the recovery run (recovery.run)
    OUT/measured/UNIT             the study of the unit; UNIT is dense, PLAN or PLAN+METHOD

Units are independent: `jobs` of them run in parallel, in processes of one thread each. A study that
was killed and is run again skips finished units, and a training continues from its state.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from interp.errors import UserError, check_known
from interp.json_reader import read_json_object
from interp.plumbing.folder_lock import FolderLock, unused
from interp.plumbing.whole_files import write_whole
from pruning.plan import LayerPlan
from recovery.recovery_config import RecoveryConfig
from recovery.watching import Step

FILE = "study.json"
LOCK = "recovery-study.lock"
DENSE = "dense"
#: Cuts half of the answers of the bundled reasoner without its last three blocks, before training:
#: the least window of an answer shares .57 to .71 of the likeliest tokens (median .65).
OVERLAP = 0.65
#: What each method of the study changes in a run of the method before its hyphen: the five, the
#: control of on-policy distillation, and distillation with answers that begin short, or that end
#: where teacher and student part.
STUDY_METHODS: Mapping[str, Mapping[str, Any]] = {
    "lora": {},
    "full": {},
    "self": {},
    "distill": {},
    "distill-off": {"on_policy": False},
    "distill-short": {"start_length": 64, "full_at": 0.5},
    "distill-overlap": {"overlap": OVERLAP},
    "rl": {"batch": 16, "samples": 8},
}
DEFAULT_METHODS = ("lora", "full", "self", "distill", "distill-off", "rl")
#: Learning rates for a model of 3 million weights, which needs higher ones than one of 8 billion. A
#: single rate was the best on held-out examples of 1e-4, 5e-4, 1e-3 and 2e-3 (rl: of 5e-5, 2e-4 and
#: 1e-3, by reward) without the last three blocks; distill-off was as good at 1e-3. A
#: method without an entry trains at the rates of the one before its hyphen.
STUDY_RATES: Mapping[str, tuple[float, ...]] = {
    "lora": (1e-5, 5e-4, 2e-3),
    "full": (5e-4,),
    "self": (5e-4,),
    "distill": (5e-4,),
    "distill-off": (5e-4,),
    "rl": (5e-5,),
}
BENCHMARKS = ("recall", "arithmetic", "countdown-3", "countdown-4")
LIMITS = {"recall": 100, "arithmetic": 48, "countdown-3": 48, "countdown-4": 40}
QUICK_LIMITS = {"recall": 40, "arithmetic": 32, "countdown-3": 16, "countdown-4": 12}


@dataclass(frozen=True)
class RecoveryStudy:
    """The settings of a recovery study.

    Attributes:
        out: the study's folder.
        model: the dense model.
        criteria: criteria whose plans are studied.
        remove: how many blocks each of these plans removes.
        controls: more plans, as "CRITERION-N": by default one that certainly costs something,
            because
            on a redundant model a good criterion may leave nothing to recover.
        methods: methods, of `STUDY_METHODS`.
        tokens: tokens with a loss of every training run, for each learning rate.
        rates: learning rates of each method.
        benchmarks: benchmarks to measure.
        limits: problems per benchmark.
        blocks: benchmarks on which every single block of every unit is skipped in turn.
        examples: training examples.
        held_out: held-out examples.
        seed: the seed of everything random.
        jobs: processes.
        small: whether units are measured by quick studies.
    """

    out: Path = Path("studies/recovery")
    model: str = "testbed"
    criteria: tuple[str, ...] = ("shortgpt", "chain-aware")
    remove: tuple[int, ...] = (1, 2, 3)
    controls: tuple[str, ...] = ("reverse-order-3",)
    methods: tuple[str, ...] = DEFAULT_METHODS
    tokens: int = 20_000
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: dict(STUDY_RATES))
    benchmarks: tuple[str, ...] = BENCHMARKS
    limits: Mapping[str, int] = field(default_factory=lambda: dict(LIMITS))
    blocks: tuple[str, ...] = ("arithmetic",)
    examples: int = 1000
    held_out: int = 24
    seed: int = 0
    jobs: int = 2
    small: bool = False

    def __post_init__(self) -> None:
        for method in self.methods:
            check_known(method, STUDY_METHODS, "recovery method")
        for name in ("criteria", "remove", "methods", "benchmarks"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UserError(f"{name}: {list(values)}; expected at least one, each once.")
        for name in self.controls:
            if not name.rpartition("-")[2].isdecimal():
                raise UserError(
                    f"controls: {name!r}; expected CRITERION-N, such as reverse-order-3."
                )
        if self.tokens < 1 or self.jobs < 1 or self.examples < 8:
            raise UserError(
                f"tokens={self.tokens}, jobs={self.jobs}, examples={self.examples}: expected at "
                "least 1 for tokens and jobs, and at least 8 examples."
            )

    @classmethod
    def quick(cls, **given: Any) -> RecoveryStudy:
        """Make a study with one plan and few tokens and problems, which takes a few minutes.

        Args:
            **given: settings that replace the small ones.

        Returns:
            The settings.
        """
        small: dict[str, Any] = {
            "remove": (3,),
            "criteria": ("reverse-order",),
            "controls": (),
            "tokens": 10_000,
            "rates": {**STUDY_RATES, "lora": (2e-3,)},
            "limits": dict(QUICK_LIMITS),
            "examples": 200,
            "held_out": 8,
            "small": True,
        }
        return cls(**{**small, **given})

    @property
    def wanted(self) -> dict[str, list[int]]:
        """How many blocks each criterion removes, in all plans."""
        found = {criterion: list(self.remove) for criterion in self.criteria}
        for name in self.controls:
            criterion, _, count = name.rpartition("-")
            counts = found.setdefault(criterion, [])
            if int(count) not in counts:
                counts.append(int(count))
        return found

    def settings(self) -> dict[str, Any]:
        """Everything that determines the rows, as JSON values."""
        found = {k: v for k, v in asdict(self).items() if k not in ("out", "jobs")}
        return json.loads(json.dumps(found, default=str, sort_keys=True))

    def config(self, method: str) -> RecoveryConfig:
        """The settings of one method's run.

        Args:
            method: one of `STUDY_METHODS`.

        Returns:
            The settings.
        """
        base = method.partition("-")[0]
        common: dict[str, Any] = {
            "rates": tuple(self.rates.get(method) or self.rates[base]),
            "steps": self.tokens,  # never reached first: a step has at least one token
            "tokens": self.tokens,
            "batch": 8,
            "micro": 1,  # rows without padding need no mask, so attention needs no square matrix
            "context": 2048,
            "schedule": "linear",
            "warmup": 0.0,  # rl takes few steps, and none should have a rate near 0
            "held_out": self.held_out,
            "check_every": self.tokens,  # equal tokens: one evaluation before, one at the end
            "thinking": 512,
            "answer": 24,
            "seed": self.seed,
        }
        if base == "rl":
            common["held_out"] = min(8, self.held_out)
        return RecoveryConfig(base, **{**common, **STUDY_METHODS[method]})


@dataclass(frozen=True)
class Unit:
    """One model that is measured.

    Attributes:
        plan: the plan's name; "" for the dense model.
        method: the method that trained it; "" if untrained.
    """

    plan: str = ""
    method: str = ""

    @property
    def name(self) -> str:
        """The unit's name: dense, PLAN or PLAN+METHOD."""
        if not self.plan:
            return DENSE
        return f"{self.plan}+{self.method}" if self.method else self.plan


def units_of(study: RecoveryStudy, plans: Mapping[str, Any]) -> list[Unit]:
    """List every unit: dense, then each plan untrained and by every method.

    Args:
        study: the settings.
        plans: the plans, by name.

    Returns:
        The units.
    """
    found = [Unit()]
    for plan in plans:
        found += [Unit(plan), *(Unit(plan, method) for method in study.methods)]
    return found


def run_recovery_study(study: RecoveryStudy, on_step: Callable[[Step], None] | None = None) -> Path:
    """Run a recovery study, or continue the one in `study.out`.

    Args:
        study: the settings.
        on_step: called for every finished unit.

    Returns:
        The study's folder.

    Raises:
        UserError: the folder holds another study, or something else.
    """
    with FolderLock(study.out / LOCK, "the recovery study"):
        return _run(study, on_step)


def _run(study: RecoveryStudy, on_step: Callable[[Step], None] | None) -> Path:
    plans = _claim(study)
    units = units_of(study, plans)
    left = [unit for unit in units if not _finished(study, unit)]
    done = len(units) - len(left)

    def tell(message: str) -> None:
        if on_step is not None:
            on_step(Step("recovery study", done=done / len(units), message=message))

    tell(f"{done} of {len(units)} models measured")
    if study.jobs == 1:
        for unit in left:
            run_unit(study, unit)
            done += 1
            tell(f"{done} of {len(units)} models measured, last {unit.name}")
        return study.out
    with ProcessPoolExecutor(
        study.jobs, mp_context=get_context("spawn"), initializer=_begin_worker
    ) as pool:
        waiting = {pool.submit(run_unit, study, unit): unit for unit in left}
        try:
            for future in as_completed(waiting):
                future.result()
                done += 1
                tell(f"{done} of {len(units)} models measured, last {waiting[future].name}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return study.out


def _begin_worker() -> None:
    """Use one thread, and end with the parent.

    A worker that outlived a killed parent would hold folders in which the next run continues.
    """
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)


# ------------------------------------------------------------------------- plans


def _claim(study: RecoveryStudy) -> dict[str, LayerPlan]:
    """The plans, decided now or read from the folder."""
    file, unstarted = study.out / FILE, unused(study.out, FILE)
    try:
        found = read(study.out) if file.is_file() else None
    except UserError:
        if not unstarted:
            raise
        found = None  # damaged before anything was made
    if found is None:
        if not unstarted:
            raise UserError(f"{study.out} is not empty and holds no {FILE}: name a new folder.")
        plans = _decide(study)
        content = {
            "settings": study.settings(),
            "plans": {name: json.loads(plan.to_json()) for name, plan in plans.items()},
        }
        write_whole(file, json.dumps(content, indent=2))
        return plans
    old, new = found["settings"], study.settings()
    differs = [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    if differs:
        raise UserError(
            f"{study.out} holds a recovery study of other settings ({', '.join(differs)} differ): "
            "choose another folder (--out), or delete it."
        )
    return plans_of(study.out)


def read(folder: Path) -> dict[str, Any]:
    """Read settings and plans of a study.

    Args:
        folder: the study's folder.

    Returns:
        The content of study.json.

    Raises:
        UserError: there is no study.
    """
    file = folder / FILE
    if not file.is_file():
        raise UserError(f"No recovery study in {str(folder)!r} (no {FILE}); run one first.")
    return read_json_object(file)


def plans_of(folder: Path) -> dict[str, LayerPlan]:
    """The plans of a study, by name."""
    return {
        name: LayerPlan.from_json(json.dumps(plan)) for name, plan in read(folder)["plans"].items()
    }


def _decide(study: RecoveryStudy) -> dict[str, LayerPlan]:
    """Each criterion's plans, from the dense model's chains on spare problems."""
    from interp.model.reasoning_model import ReasoningModel
    from scaling.engines.local import LocalEngine
    from scaling.study.config import StudyConfig
    from scaling.study.problem_sets import gather
    from scaling.study.variants import calibration_chains, check_methods

    config = StudyConfig(
        model=study.model,
        benchmarks=study.benchmarks,
        limit=dict(study.limits),
        methods=tuple(study.wanted),
        remove=tuple({n for counts in study.wanted.values() for n in counts}),
        seed=study.seed,
        quick=study.small,
    )
    engine = LocalEngine(ReasoningModel.load(study.model))
    check_methods(config, engine)
    problems, spare = gather(config)
    chains = calibration_chains(config, engine, problems, spare)
    plans = {}
    for criterion, counts in study.wanted.items():
        scores = engine.score(criterion, chains, study.seed, max(counts))
        for count in counts:
            plan = LayerPlan.lowest(scores, remove=count, name=f"{criterion}-{count}")
            plans[plan.name] = plan
    return plans


# ------------------------------------------------------------------------- one unit


def run_unit(study: RecoveryStudy, unit: Unit) -> None:
    """Train a unit if it has a method, and measure it.

    Args:
        study: the settings.
        unit: the unit.
    """
    from scaling.study.runner import run_study

    model = study.model
    if unit.plan:
        model = str(pruned_folder(study, unit.plan))
    if unit.method:
        model = str(_train(study, unit, model))
    run_study(measuring(study, unit, model))
    (measured_folder(study.out, unit) / "done").touch()


def measured_folder(out: Path, unit: Unit) -> Path:
    """The folder of a unit's measurement.

    Args:
        out: the study's folder.
        unit: the unit.

    Returns:
        The folder.
    """
    return out / "measured" / unit.name


def run_folder(out: Path, unit: Unit) -> Path:
    """The folder of a unit's training.

    Args:
        out: the study's folder.
        unit: the unit.

    Returns:
        The folder.
    """
    return out / "runs" / unit.plan / unit.method


def _finished(study: RecoveryStudy, unit: Unit) -> bool:
    return (measured_folder(study.out, unit) / "done").is_file()


def measuring(study: RecoveryStudy, unit: Unit, model: str) -> Any:
    """Make the study that measures a unit: budgets, samples and single blocks, nothing pruned.

    Args:
        study: the settings.
        unit: the unit.
        model: folder or name of its checkpoint.

    Returns:
        The `StudyConfig`.
    """
    from scaling.study.config import StudyConfig

    return StudyConfig(
        model=model,
        benchmarks=study.benchmarks,
        limit=dict(study.limits),
        methods=(),
        waits=(),
        blocks=study.blocks or False,
        seed=study.seed,
        quick=study.small,
        out=measured_folder(study.out, unit),
    )


def pruned_folder(study: RecoveryStudy, name: str) -> Path:
    """The checkpoint of a plan, written once by the first process that needs it.

    Args:
        study: the settings.
        name: the plan.

    Returns:
        The folder.
    """
    from filelock import FileLock

    from pruning.prune_checkpoint import prune_checkpoint

    folder = study.out / "pruned" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{name}.lock")):
        if not folder.exists():
            prune_checkpoint(study.model, plans_of(study.out)[name], folder)
    return folder


def _train(study: RecoveryStudy, unit: Unit, base: str) -> Path:
    """The recovered checkpoint of a unit."""
    from recovery.run import recover
    from scaling.study.problem_sets import gather

    against, _ = gather(measuring(study, unit, base))
    found = recover(
        base,
        study.config(unit.method),
        run_folder(study.out, unit),
        data="testbed",
        teacher=study.model,
        against=against,
        limit=study.examples,
    )
    return found.model
