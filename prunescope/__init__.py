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
    from analyses.plumbing.frames import StudyData as StudyData
    from analyses.report.page import write_report as write_report
    from interp.activations.store import RawCapture as RawCapture
    from interp.activations.store import load_raw as load_raw
    from interp.chains.chain import Budget as Budget
    from interp.chains.chain import Chain as Chain
    from interp.chains.chain import Chains as Chains
    from interp.chains.chain import Span as Span
    from interp.counterfactuals.forks import along as along
    from interp.counterfactuals.forks import around_loops as around_loops
    from interp.counterfactuals.forks import handover as handover
    from interp.counterfactuals.window_maps import time_map as time_map
    from interp.counterfactuals.window_maps import usual_windows as usual_windows
    from interp.decoding.generate import decode as decode
    from interp.decoding.request import Request as Request
    from interp.decoding.request import fork as fork
    from interp.decoding.sampling import Sampling as Sampling
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
    from interp.diagnosis.events import mark as mark
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
    from interp.heads import HeadLens as HeadLens
    from interp.influence_profile import by_event as by_event
    from interp.influence_profile import by_step as by_step
    from interp.influence_profile import recorded as recorded
    from interp.interventions.interventions import AblateHeads as AblateHeads
    from interp.interventions.interventions import MeanDelta as MeanDelta
    from interp.interventions.interventions import Patch as Patch
    from interp.interventions.interventions import ResampleDelta as ResampleDelta
    from interp.interventions.interventions import Scale as Scale
    from interp.interventions.interventions import Skip as Skip
    from interp.interventions.interventions import Variant as Variant
    from interp.interventions.interventions import ZeroDelta as ZeroDelta
    from interp.interventions.interventions import dense as dense
    from interp.interventions.windows import AfterLoop as AfterLoop
    from interp.interventions.windows import Answer as Answer
    from interp.interventions.windows import AtTokens as AtTokens
    from interp.interventions.windows import Thinking as Thinking
    from interp.interventions.windows import Window as Window
    from interp.lens import contributions as contributions
    from interp.lens import lens as lens
    from interp.model.delimiters import Delimiters as Delimiters
    from interp.model.reasoning_model import ReasoningModel as ReasoningModel
    from interp.probes import foretell as foretell
    from interp.probes import gather as gather
    from interp.probes import outcome as outcome
    from interp.probes import probe as probe
    from interp.probes import probe_ahead as probe_ahead
    from interp.replay.divergence import damage_and_drift as damage_and_drift
    from interp.replay.divergence import divergence as divergence
    from interp.replay.divergence import divergence_table as divergence_table
    from interp.replay.divergence import first_divergence as first_divergence
    from interp.replay.teacher_forced import replay as replay
    from interp.replay.teacher_forced import replay_chains as replay_chains
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
    from recovery.recovery_config import RecoveryConfig as RecoveryConfig
    from recovery.result import Recovered as Recovered
    from recovery.run import recover as recover
    from scaling.benchmarks import Benchmark as Benchmark
    from scaling.benchmarks import Problem as Problem
    from scaling.benchmarks import benchmarks as benchmarks
    from scaling.benchmarks import load_benchmark as load_benchmark
    from scaling.costs.flops import ModelCost as ModelCost
    from scaling.curves.equal_cost_comparison import equal_cost as equal_cost
    from scaling.curves.fits import scaling_fits as scaling_fits
    from scaling.engines.budget_check import check_budget as check_budget
    from scaling.engines.server import ServerEngine as ServerEngine
    from scaling.grading import grade as grade
    from scaling.judging import Judge as Judge
    from scaling.judging import judge_study as judge_study
    from scaling.store.study_store import Store as Store
    from scaling.study.config import StudyConfig as StudyConfig
    from scaling.study.runner import StudyResult as StudyResult
    from scaling.study.runner import run_study as run_study

_HOME = {
    "analyses.plumbing.frames": ("StudyData",),
    "analyses.report.page": ("write_report",),
    "interp.activations.store": (
        "RawCapture",
        "load_raw",
    ),
    "interp.chains.chain": (
        "Budget",
        "Chain",
        "Chains",
        "Span",
    ),
    "interp.counterfactuals.forks": (
        "along",
        "around_loops",
        "handover",
    ),
    "interp.counterfactuals.window_maps": (
        "time_map",
        "usual_windows",
    ),
    "interp.decoding.generate": ("decode",),
    "interp.decoding.request": (
        "Request",
        "fork",
    ),
    "interp.decoding.sampling": ("Sampling",),
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
    "interp.diagnosis.events": ("mark",),
    "interp.effects": (
        "BlockScores",
        "Deltas",
        "ablations",
        "block_effects",
        "explain",
        "measure_effects",
        "tie",
    ),
    "interp.errors": (
        "NonFiniteError",
        "PruneScopeError",
        "UserError",
    ),
    "interp.heads": ("HeadLens",),
    "interp.influence_profile": (
        "by_event",
        "by_step",
        "recorded",
    ),
    "interp.interventions.interventions": (
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
    "interp.interventions.windows": (
        "AfterLoop",
        "Answer",
        "AtTokens",
        "Thinking",
        "Window",
    ),
    "interp.lens": (
        "contributions",
        "lens",
    ),
    "interp.model.delimiters": ("Delimiters",),
    "interp.model.reasoning_model": ("ReasoningModel",),
    "interp.probes": (
        "foretell",
        "gather",
        "outcome",
        "probe",
        "probe_ahead",
    ),
    "interp.replay.divergence": (
        "damage_and_drift",
        "divergence",
        "divergence_table",
        "first_divergence",
    ),
    "interp.replay.teacher_forced": (
        "replay",
        "replay_chains",
    ),
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
    "pruning.calibration": (
        "Calibration",
        "hub_texts",
        "read_texts",
    ),
    "pruning.compare": (
        "Comparison",
        "compare",
        "compare_criteria",
    ),
    "pruning.controls": (
        "against_chance",
        "noise_at_kl",
    ),
    "pruning.criteria": (
        "criteria",
        "criteria_table",
        "criterion",
        "score",
    ),
    "pruning.criteria.block_influence": ("block_influence",),
    "pruning.folder": ("prune_folder",),
    "pruning.plan": ("LayerPlan",),
    "pruning.plans": ("published_plans",),
    "pruning.repairs": (
        "mend",
        "repairs",
        "save_repaired",
    ),
    "pruning.scores": ("Scores",),
    "pruning.sublayers": (
        "SublayerPlan",
        "SublayerScores",
    ),
    "pruning.surgery": (
        "prune",
        "save",
    ),
    "pruning.weights": (
        "match_latency",
        "matched_sparsity",
        "sparsify",
    ),
    "recovery.recovery_config": ("RecoveryConfig",),
    "recovery.result": ("Recovered",),
    "recovery.run": ("recover",),
    "scaling.benchmarks": (
        "Benchmark",
        "Problem",
        "benchmarks",
        "load_benchmark",
    ),
    "scaling.costs.flops": ("ModelCost",),
    "scaling.curves.equal_cost_comparison": ("equal_cost",),
    "scaling.curves.fits": ("scaling_fits",),
    "scaling.engines.budget_check": ("check_budget",),
    "scaling.engines.server": ("ServerEngine",),
    "scaling.grading": ("grade",),
    "scaling.judging": (
        "Judge",
        "judge_study",
    ),
    "scaling.store.study_store": ("Store",),
    "scaling.study.config": ("StudyConfig",),
    "scaling.study.runner": (
        "StudyResult",
        "run_study",
    ),
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
    if name == "ReasoningModel":  # the decoder gives models their `generate`
        importlib.import_module("interp.decoding.generate")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
