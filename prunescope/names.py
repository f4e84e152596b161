"""The public surface: which names there are, where each lives, and what the older ones became.

`TOP` are the names of `prunescope` itself, `NAMESPACES` the rest (`prunescope.probes.foretell`),
`MOVED` the flat names of releases before namespaces. Change this file, then write the types anew:

    python -m prunescope.stub
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Homes = Mapping[str, str]  # module -> its public names, separated by spaces


def modules(homes: Homes) -> dict[str, str]:
    """Returns the module of every name in `homes`."""
    return {name: module for module, names in homes.items() for name in names.split()}


@dataclass(frozen=True)
class Names:
    """The names of one namespace.

    Attributes:
        doc: what the namespace is for, one line.
        homes: the names by the module that defines them.
        call: the function that calling the namespace itself calls; "" if it cannot be called.
    """

    doc: str
    homes: Homes
    call: str = ""


TOP: Homes = {
    "analyses.report.page": "write_report",
    "analyses.report.study_comparison": "compare_studies",
    "interp.activations.store": "RawCapture",
    "interp.chains.chain": "Budget Chain Chains",
    "interp.decoding.request": "fork",
    "interp.decoding.sampling": "Sampling",
    "interp.diagnosis": "diagnose",
    "interp.diagnosis.events": "mark",
    "interp.effects": "measure_effects",
    "interp.errors": "PruneScopeError UserError",
    "interp.influence_profile": "by_event by_step",
    "interp.interventions.function_edits": "EditDelta EditStream",
    "interp.interventions.interventions": (
        "AblateHeads MeanDelta ResampleDelta Scale Skip Variant dense"
    ),
    "interp.interventions.patches": "Patch",
    "interp.interventions.windows": "AfterLoop Answer AtTokens Thinking Window",
    "interp.lens": "contributions",
    "interp.model.delimiters": "Delimiters",
    "interp.model.reasoning_model": "ReasoningModel",
    "interp.replay.divergence": "divergence",
    "pruning.calibration": "Calibration",
    "pruning.criteria": "criteria score",
    "pruning.criteria.block_influence": "block_influence",
    "pruning.plan": "LayerPlan",
    "pruning.plans": "published_plans",
    "pruning.prune_checkpoint": "prune_checkpoint",
    "pruning.surgery": "prune",
    "recovery.run": "recover",
    "scaling.benchmarks": "Benchmark Problem benchmarks load_benchmark",
    "scaling.grading": "grade",
    "scaling.study.config": "StudyConfig",
    "scaling.study.runner": "run_study",
}

NAMESPACES: Mapping[str, Names] = {
    "activations": Names(
        "Activations by name, and residual streams of chosen blocks as sharded safetensors.",
        {
            "interp.activations.forward_cache": "run_with_cache",
            "interp.activations.store": "RawCapture RawStreams load_raw",
            "interp.model.named_cache": "NamedCache",
        },
    ),
    "analyses": Names(
        "The rows of a study as frames, and its report.",
        {
            "analyses.plumbing.frames": "StudyData",
            "analyses.report.page": "write_report",
            "analyses.report.study_comparison": "StudyComparison compare_studies",
        },
    ),
    "chains": Names(
        "Generated answers, their budgets and spans, and how a model marks its thinking.",
        {
            "interp.chains.chain": "Budget Chain Chains Span",
            "interp.model.delimiters": "Delimiters",
        },
    ),
    "counterfactuals": Names(
        "Chains with blocks taken away in a window or handed over; lines resampled, activations "
        "patched.",
        {
            "interp.counterfactuals.answer_commitment": "commitment perturbed_steps",
            "interp.counterfactuals.forks": "along around_loops handover",
            "interp.counterfactuals.line_importance": "line_importance",
            "interp.counterfactuals.patching": "PatchingGrid patching_grid",
            "interp.counterfactuals.window_maps": "time_map usual_windows",
        },
    ),
    "decoding": Names(
        "The decoder under `ReasoningModel.generate`: requests in, chains out.",
        {
            "interp.decoding.generate": "decode",
            "interp.decoding.request": "Request fork",
            "interp.decoding.sampling": "Sampling",
        },
    ),
    "diagnosis": Names(
        "Loops, reflections, restatement and diversity of chains.",
        {
            "interp.diagnosis": (
                "compare_openers diagnose diversity diversity_beside equations escape_mass "
                "find_episodes find_loop loop_dynamics opener_mass reflection_benefit reflections "
                "restatement"
            ),
            "interp.diagnosis.chain_lines": "line_ends",
            "interp.diagnosis.cusum": "early_warning",
            "interp.diagnosis.events": "mark",
            "interp.diagnosis.recurrence": "hidden_recurrence text_recurrence",
            "interp.diagnosis.text_table": "diagnose_texts",
        },
    ),
    "effects": Names(
        "What each block does to verdicts and diagnoses, and how that goes with its score.",
        {
            "interp.effects": (
                "BlockScores Deltas ablations block_effects effect_agreement explain "
                "measure_effects tie"
            ),
        },
    ),
    "errors": Names(
        "The exceptions that PruneScope raises on purpose.",
        {"interp.errors": "NonFiniteError PruneScopeError UserError"},
    ),
    "heads": Names(
        "Attention heads: patterns, scores and ablations, through transformer-lens.",
        {"interp.heads": "HeadEffects HeadLens HeadScores Patterns"},
    ),
    "influence": Names(
        "Block Influence along recorded chains, by event or by step.",
        {"interp.influence_profile": "by_event by_step recorded"},
    ),
    "interventions": Names(
        "What is done to a block, and in which window of steps.",
        {
            "interp.interventions.function_edits": "EditDelta EditStream",
            "interp.interventions.interventions": (
                "AblateHeads MeanDelta ResampleDelta Scale Skip Steer Variant dense"
            ),
            "interp.interventions.neurons": "Neurons",
            "interp.interventions.patches": "Patch",
            "interp.interventions.programs": "Order Repeat program_model",
            "interp.interventions.suppress": "Suppress",
            "interp.interventions.windows": "AfterLoop Answer AtTokens Thinking Window",
        },
    ),
    "judging": Names(
        "A second opinion on answers, from a language model.",
        {"scaling.judging": "Judge JudgedStudy judge_at judge_study"},
    ),
    "lens": Names(
        "The logit lens, and direct logit attribution.",
        {"interp.lens": "Contributions Lens contributions lens"},
        call="lens",
    ),
    "probes": Names(
        "Linear probes on the residual stream, with their controls.",
        {"interp.probes": "Horizons Probes foretell gather outcome probe probe_ahead"},
    ),
    "pruning": Names(
        "Score blocks, compare criteria, remove blocks, repair and sparsify.",
        {
            "pruning.calibration": "Calibration hub_texts read_texts",
            "pruning.compare": "Comparison compare compare_criteria",
            "pruning.controls": "against_chance noise_at_kl",
            "pruning.criteria": "criteria criteria_table criterion score",
            "pruning.criteria.block_influence": "block_influence",
            "pruning.folder": "prune_folder",
            "pruning.hub_upload": "push_to_hub",
            "pruning.plan": "LayerPlan",
            "pruning.plans": "published_plans",
            "pruning.prune_checkpoint": "prune_checkpoint",
            "pruning.repairs": "mend repairs save_repaired",
            "pruning.scores": "Scores",
            "pruning.sublayers": "SublayerPlan SublayerScores",
            "pruning.surgery": "prune save save_program",
            "pruning.weights": "match_latency matched_sparsity sparsify",
            "scaling.study.calibration_source": "CalibrationSource study_chains",
            "scaling.study.model_pruning": "PruneConfig prune_model",
            "scaling.study.model_scoring": "choose_plan score_model",
        },
    ),
    "recovery": Names(
        "Mend a pruned model by training it.",
        {
            "recovery.recovery_config": "RecoveryConfig",
            "recovery.result": "Recovered",
            "recovery.run": "recover",
        },
    ),
    "replay": Names(
        "Read finished chains once more by teacher forcing, and compare variants along them.",
        {
            "interp.replay.divergence": (
                "damage_and_drift divergence divergence_table first_divergence"
            ),
            "interp.replay.teacher_forced": "replay replay_chains",
        },
        call="replay",
    ),
    "scaling": Names(
        "Benchmarks, studies, and accuracy against test-time compute.",
        {
            "scaling.benchmarks": "Benchmark Problem benchmarks load_benchmark",
            "scaling.costs.flops": "ModelCost",
            "scaling.curves.equal_cost_comparison": "equal_cost",
            "scaling.curves.fits": "scaling_fits",
            "scaling.engines.budget_check": "check_budget",
            "scaling.engines.server": "ServerEngine",
            "scaling.grading": "grade",
            "scaling.store.study_store": "Store",
            "scaling.study.card_results": "add_results",
            "scaling.study.config": "StudyConfig",
            "scaling.study.places": "run_on_cluster run_on_server",
            "scaling.study.runner": "StudyResult run_study",
        },
    ),
    "statistics": Names(
        "Intervals and tests for paired, clustered outcomes.",
        {
            "interp.statistics": (
                "clopper_pearson cov_at_k holm jeffreys maj_at_k mean_interval paired_difference "
                "pass_at_k sign_flip spearman_interval unpaired_difference"
            ),
        },
    ),
}

#: Flat names of releases before namespaces -> the name to use now. They go in the next release.
MOVED: Mapping[str, str] = {
    "ZeroDelta": "Skip",  # it gave the numbers of Skip
    **{
        name: f"{namespace}.{name}"
        for namespace, names in {
            "activations": "load_raw",
            "analyses": "StudyData",
            "chains": "Span",
            "counterfactuals": "along around_loops handover time_map usual_windows",
            "decoding": "Request decode",
            "diagnosis": (
                "compare_openers diversity diversity_beside escape_mass find_episodes find_loop "
                "loop_dynamics opener_mass reflection_benefit reflections restatement"
            ),
            "effects": "BlockScores Deltas ablations block_effects explain tie",
            "errors": "NonFiniteError",
            "heads": "HeadLens",
            "influence": "recorded",
            "judging": "Judge judge_study",
            "probes": "foretell gather outcome probe probe_ahead",
            "pruning": (
                "Comparison Scores SublayerPlan SublayerScores against_chance compare "
                "compare_criteria criteria_table criterion hub_texts match_latency "
                "matched_sparsity mend noise_at_kl prune_folder read_texts repairs save "
                "save_repaired sparsify"
            ),
            "recovery": "Recovered RecoveryConfig",
            "replay": "damage_and_drift divergence_table first_divergence replay_chains",
            "scaling": (
                "ModelCost ServerEngine StudyResult Store check_budget equal_cost scaling_fits"
            ),
            "statistics": (
                "clopper_pearson cov_at_k holm jeffreys maj_at_k mean_interval paired_difference "
                "pass_at_k sign_flip spearman_interval"
            ),
        }.items()
        for name in names.split()
    },
}
