"""PruneScope: remove blocks of a reasoning model, let it think, and see what broke, where, and why.

    import prunescope as ps

    model = ps.ReasoningModel.load("testbed")       # or a Hub name, a folder, a live HF model
    scores = ps.block_influence(model, texts)       # .to_frame(), .plot()
    plan = ps.LayerPlan.lowest(scores, remove=2)
    chains = model.generate(prompts, variants=[ps.dense, plan], budget=ps.Budget(512), samples=8)

Every public name in one place. A name's module is imported when the name is first used, so the
import of the package itself costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyses.frames import StudyData as StudyData
    from analyses.report import write_report as write_report
    from interp.chains import Budget as Budget
    from interp.chains import Chain as Chain
    from interp.chains import Chains as Chains
    from interp.chains import Span as Span
    from interp.decode import Request as Request
    from interp.decode import decode as decode
    from interp.decode import fork as fork
    from interp.delimiters import Delimiters as Delimiters
    from interp.diagnosis import compare_openers as compare_openers
    from interp.diagnosis import diagnose as diagnose
    from interp.diagnosis import diversity as diversity
    from interp.diagnosis import diversity_beside as diversity_beside
    from interp.diagnosis import escape_mass as escape_mass
    from interp.diagnosis import find_episodes as find_episodes
    from interp.diagnosis import find_loop as find_loop
    from interp.diagnosis import loop_dynamics as loop_dynamics
    from interp.diagnosis import opener_mass as opener_mass
    from interp.diagnosis import reflection_benefit as reflection_benefit
    from interp.diagnosis import reflections as reflections
    from interp.diagnosis import restatement as restatement
    from interp.divergence import damage_and_drift as damage_and_drift
    from interp.divergence import divergence as divergence
    from interp.divergence import divergence_table as divergence_table
    from interp.divergence import first_divergence as first_divergence
    from interp.effects import BlockScores as BlockScores
    from interp.effects import Deltas as Deltas
    from interp.effects import ablations as ablations
    from interp.effects import block_effects as block_effects
    from interp.effects import explain as explain
    from interp.effects import measure_effects as measure_effects
    from interp.effects import tie as tie
    from interp.errors import NonFiniteError as NonFiniteError
    from interp.errors import PruneScopeError as PruneScopeError
    from interp.errors import UserError as UserError
    from interp.events import mark as mark
    from interp.handover import along as along
    from interp.handover import around_loops as around_loops
    from interp.handover import handover as handover
    from interp.heads import HeadLens as HeadLens
    from interp.influence import by_event as by_event
    from interp.influence import by_step as by_step
    from interp.influence import recorded as recorded
    from interp.interventions import AblateHeads as AblateHeads
    from interp.interventions import MeanDelta as MeanDelta
    from interp.interventions import Patch as Patch
    from interp.interventions import ResampleDelta as ResampleDelta
    from interp.interventions import Scale as Scale
    from interp.interventions import Skip as Skip
    from interp.interventions import Variant as Variant
    from interp.interventions import ZeroDelta as ZeroDelta
    from interp.interventions import dense as dense
    from interp.lens import contributions as contributions
    from interp.lens import lens as lens
    from interp.model import ReasoningModel as ReasoningModel
    from interp.probes import foretell as foretell
    from interp.probes import gather as gather
    from interp.probes import outcome as outcome
    from interp.probes import probe as probe
    from interp.probes import probe_ahead as probe_ahead
    from interp.raw import RawCapture as RawCapture
    from interp.raw import load_raw as load_raw
    from interp.replay import replay as replay
    from interp.replay import replay_chains as replay_chains
    from interp.sampling import Sampling as Sampling
    from interp.statistics import clopper_pearson as clopper_pearson
    from interp.statistics import cov_at_k as cov_at_k
    from interp.statistics import holm as holm
    from interp.statistics import jeffreys as jeffreys
    from interp.statistics import maj_at_k as maj_at_k
    from interp.statistics import mean_interval as mean_interval
    from interp.statistics import paired_difference as paired_difference
    from interp.statistics import pass_at_k as pass_at_k
    from interp.statistics import sign_flip as sign_flip
    from interp.statistics import spearman_interval as spearman_interval
    from interp.timemaps import time_map as time_map
    from interp.timemaps import usual_windows as usual_windows
    from interp.windows import AfterLoop as AfterLoop
    from interp.windows import Answer as Answer
    from interp.windows import AtTokens as AtTokens
    from interp.windows import Thinking as Thinking
    from interp.windows import Window as Window
    from pruning.calibration import Calibration as Calibration
    from pruning.calibration import hub_texts as hub_texts
    from pruning.calibration import read_texts as read_texts
    from pruning.compare import Comparison as Comparison
    from pruning.compare import compare as compare
    from pruning.compare import compare_criteria as compare_criteria
    from pruning.controls import against_chance as against_chance
    from pruning.controls import noise_at_kl as noise_at_kl
    from pruning.criteria import criteria as criteria
    from pruning.criteria import criteria_table as criteria_table
    from pruning.criteria import criterion as criterion
    from pruning.criteria import score as score
    from pruning.criteria.block_influence import block_influence as block_influence
    from pruning.folder import prune_folder as prune_folder
    from pruning.plan import LayerPlan as LayerPlan
    from pruning.plans import published_plans as published_plans
    from pruning.repairs import mend as mend
    from pruning.repairs import repairs as repairs
    from pruning.repairs import save_repaired as save_repaired
    from pruning.scores import Scores as Scores
    from pruning.sublayers import SublayerPlan as SublayerPlan
    from pruning.sublayers import SublayerScores as SublayerScores
    from pruning.surgery import prune as prune
    from pruning.surgery import save as save
    from pruning.weights import match_latency as match_latency
    from pruning.weights import matched_sparsity as matched_sparsity
    from pruning.weights import sparsify as sparsify
    from recovery.config import RecoveryConfig as RecoveryConfig
    from recovery.run import Recovered as Recovered
    from recovery.run import recover as recover
    from scaling.backends.check import check_budget as check_budget
    from scaling.backends.server import ServerEngine as ServerEngine
    from scaling.benchmarks import Benchmark as Benchmark
    from scaling.benchmarks import Problem as Problem
    from scaling.benchmarks import benchmarks as benchmarks
    from scaling.benchmarks import load_benchmark as load_benchmark
    from scaling.fits import scaling_fits as scaling_fits
    from scaling.flops import ModelCost as ModelCost
    from scaling.grading import grade as grade
    from scaling.judging import Judge as Judge
    from scaling.judging import judge_study as judge_study
    from scaling.matched import equal_cost as equal_cost
    from scaling.runner import StudyConfig as StudyConfig
    from scaling.runner import StudyResult as StudyResult
    from scaling.runner import run_study as run_study
    from scaling.store import Store as Store

_HOME = {
    "analyses.frames": ("StudyData",),
    "analyses.report": ("write_report",),
    "interp.chains": ("Budget", "Chain", "Chains", "Span"),
    "interp.decode": ("Request", "decode", "fork"),
    "interp.delimiters": ("Delimiters",),
    "interp.diagnosis": (
        "compare_openers",
        "diagnose",
        "diversity",
        "diversity_beside",
        "escape_mass",
        "find_episodes",
        "find_loop",
        "loop_dynamics",
        "opener_mass",
        "reflection_benefit",
        "reflections",
        "restatement",
    ),
    "interp.divergence": (
        "damage_and_drift",
        "divergence",
        "divergence_table",
        "first_divergence",
    ),
    "interp.effects": (
        "BlockScores",
        "Deltas",
        "ablations",
        "block_effects",
        "explain",
        "measure_effects",
        "tie",
    ),
    "interp.errors": ("NonFiniteError", "PruneScopeError", "UserError"),
    "interp.events": ("mark",),
    "interp.handover": ("along", "around_loops", "handover"),
    "interp.heads": ("HeadLens",),
    "interp.influence": ("by_event", "by_step", "recorded"),
    "interp.interventions": (
        "AblateHeads",
        "MeanDelta",
        "Patch",
        "ResampleDelta",
        "Scale",
        "Skip",
        "Variant",
        "ZeroDelta",
        "dense",
    ),
    "interp.model": ("ReasoningModel",),
    "interp.lens": ("contributions", "lens"),
    "interp.probes": ("foretell", "gather", "outcome", "probe", "probe_ahead"),
    "interp.raw": ("RawCapture", "load_raw"),
    "interp.replay": ("replay", "replay_chains"),
    "interp.sampling": ("Sampling",),
    "interp.statistics": (
        "clopper_pearson",
        "cov_at_k",
        "holm",
        "jeffreys",
        "maj_at_k",
        "mean_interval",
        "paired_difference",
        "pass_at_k",
        "sign_flip",
        "spearman_interval",
    ),
    "interp.timemaps": ("time_map", "usual_windows"),
    "interp.windows": ("AfterLoop", "Answer", "AtTokens", "Thinking", "Window"),
    "pruning.calibration": ("Calibration", "hub_texts", "read_texts"),
    "pruning.compare": ("Comparison", "compare", "compare_criteria"),
    "pruning.controls": ("against_chance", "noise_at_kl"),
    "pruning.criteria": ("criteria", "criteria_table", "criterion", "score"),
    "pruning.criteria.block_influence": ("block_influence",),
    "pruning.folder": ("prune_folder",),
    "pruning.plan": ("LayerPlan",),
    "pruning.plans": ("published_plans",),
    "pruning.repairs": ("mend", "repairs", "save_repaired"),
    "pruning.scores": ("Scores",),
    "pruning.sublayers": ("SublayerPlan", "SublayerScores"),
    "pruning.surgery": ("prune", "save"),
    "pruning.weights": ("match_latency", "matched_sparsity", "sparsify"),
    "recovery.config": ("RecoveryConfig",),
    "recovery.run": ("Recovered", "recover"),
    "scaling.backends.check": ("check_budget",),
    "scaling.backends.server": ("ServerEngine",),
    "scaling.benchmarks": ("Benchmark", "Problem", "benchmarks", "load_benchmark"),
    "scaling.fits": ("scaling_fits",),
    "scaling.flops": ("ModelCost",),
    "scaling.grading": ("grade",),
    "scaling.judging": ("Judge", "judge_study"),
    "scaling.matched": ("equal_cost",),
    "scaling.runner": ("StudyConfig", "StudyResult", "run_study"),
    "scaling.store": ("Store",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted([*_MODULE_OF, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("prunescope")
    if name not in _MODULE_OF:
        from difflib import get_close_matches

        near = get_close_matches(name, _MODULE_OF, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"prunescope has no name {name!r}.{hint}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
