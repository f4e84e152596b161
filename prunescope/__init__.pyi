"""The types of the front door. Written by `python -m prunescope.stub`: do not edit."""

__all__ = [
    "AblateHeads",
    "AfterLoop",
    "Answer",
    "AtTokens",
    "Benchmark",
    "Budget",
    "Calibration",
    "Chain",
    "Chains",
    "Delimiters",
    "EditDelta",
    "EditStream",
    "LayerPlan",
    "MeanDelta",
    "Patch",
    "Problem",
    "PruneScopeError",
    "RawCapture",
    "ReasoningModel",
    "ResampleDelta",
    "Sampling",
    "Scale",
    "Skip",
    "StudyConfig",
    "Thinking",
    "UserError",
    "Variant",
    "Window",
    "__version__",
    "activations",
    "analyses",
    "benchmarks",
    "block_influence",
    "by_event",
    "by_step",
    "chains",
    "compare_studies",
    "contributions",
    "counterfactuals",
    "criteria",
    "decoding",
    "dense",
    "diagnose",
    "diagnosis",
    "divergence",
    "effects",
    "errors",
    "fork",
    "grade",
    "heads",
    "influence",
    "interventions",
    "judging",
    "lens",
    "load_benchmark",
    "mark",
    "measure_effects",
    "probes",
    "prune",
    "prune_checkpoint",
    "pruning",
    "published_plans",
    "recover",
    "recovery",
    "replay",
    "run_study",
    "scaling",
    "score",
    "statistics",
    "write_report",
]

from interp.interventions.interventions import AblateHeads as AblateHeads
from interp.interventions.windows import AfterLoop as AfterLoop
from interp.interventions.windows import Answer as Answer
from interp.interventions.windows import AtTokens as AtTokens
from scaling.benchmarks import Benchmark as Benchmark
from interp.chains.chain import Budget as Budget
from pruning.calibration import Calibration as Calibration
from interp.chains.chain import Chain as Chain
from interp.chains.chain import Chains as Chains
from interp.model.delimiters import Delimiters as Delimiters
from interp.interventions.function_edits import EditDelta as EditDelta
from interp.interventions.function_edits import EditStream as EditStream
from pruning.plan import LayerPlan as LayerPlan
from interp.interventions.interventions import MeanDelta as MeanDelta
from interp.interventions.patches import Patch as Patch
from scaling.benchmarks import Problem as Problem
from interp.errors import PruneScopeError as PruneScopeError
from interp.activations.store import RawCapture as RawCapture
from interp.model.reasoning_model import ReasoningModel as ReasoningModel
from interp.interventions.interventions import ResampleDelta as ResampleDelta
from interp.decoding.sampling import Sampling as Sampling
from interp.interventions.interventions import Scale as Scale
from interp.interventions.interventions import Skip as Skip
from scaling.study.config import StudyConfig as StudyConfig
from interp.interventions.windows import Thinking as Thinking
from interp.errors import UserError as UserError
from interp.interventions.interventions import Variant as Variant
from interp.interventions.windows import Window as Window
from scaling.benchmarks import benchmarks as benchmarks
from pruning.criteria.block_influence import block_influence as block_influence
from interp.influence_profile import by_event as by_event
from interp.influence_profile import by_step as by_step
from analyses.report.study_comparison import compare_studies as compare_studies
from interp.lens import contributions as contributions
from pruning.criteria import criteria as criteria
from interp.interventions.interventions import dense as dense
from interp.diagnosis import diagnose as diagnose
from interp.replay.divergence import divergence as divergence
from interp.decoding.request import fork as fork
from scaling.grading import grade as grade
from scaling.benchmarks import load_benchmark as load_benchmark
from interp.diagnosis.events import mark as mark
from interp.effects import measure_effects as measure_effects
from pruning.surgery import prune as prune
from pruning.prune_checkpoint import prune_checkpoint as prune_checkpoint
from pruning.plans import published_plans as published_plans
from recovery.run import recover as recover
from scaling.study.runner import run_study as run_study
from pruning.criteria import score as score
from analyses.report.page import write_report as write_report

# Older names; they go in the next release.
from interp.effects import BlockScores as BlockScores
from pruning.compare import Comparison as Comparison
from interp.effects import Deltas as Deltas
from interp.heads import HeadLens as HeadLens
from scaling.judging import Judge as Judge
from scaling.costs.flops import ModelCost as ModelCost
from interp.errors import NonFiniteError as NonFiniteError
from recovery.result import Recovered as Recovered
from recovery.recovery_config import RecoveryConfig as RecoveryConfig
from interp.decoding.request import Request as Request
from pruning.scores import Scores as Scores
from scaling.engines.server import ServerEngine as ServerEngine
from interp.chains.chain import Span as Span
from scaling.store.study_store import Store as Store
from analyses.plumbing.frames import StudyData as StudyData
from scaling.study.runner import StudyResult as StudyResult
from pruning.sublayers import SublayerPlan as SublayerPlan
from pruning.sublayers import SublayerScores as SublayerScores
from interp.interventions.interventions import Skip as ZeroDelta
from interp.effects import ablations as ablations
from pruning.controls import against_chance as against_chance
from interp.counterfactuals.forks import along as along
from interp.counterfactuals.forks import around_loops as around_loops
from interp.effects import block_effects as block_effects
from scaling.engines.budget_check import check_budget as check_budget
from interp.statistics import clopper_pearson as clopper_pearson
from pruning.compare import compare as compare
from pruning.compare import compare_criteria as compare_criteria
from interp.diagnosis import compare_openers as compare_openers
from interp.statistics import cov_at_k as cov_at_k
from pruning.criteria import criteria_table as criteria_table
from pruning.criteria import criterion as criterion
from interp.replay.divergence import damage_and_drift as damage_and_drift
from interp.decoding.generate import decode as decode
from interp.replay.divergence import divergence_table as divergence_table
from interp.diagnosis import diversity as diversity
from interp.diagnosis import diversity_beside as diversity_beside
from scaling.curves.equal_cost_comparison import equal_cost as equal_cost
from interp.diagnosis import escape_mass as escape_mass
from interp.effects import explain as explain
from interp.diagnosis import find_episodes as find_episodes
from interp.diagnosis import find_loop as find_loop
from interp.replay.divergence import first_divergence as first_divergence
from interp.probes import foretell as foretell
from interp.probes import gather as gather
from interp.counterfactuals.forks import handover as handover
from interp.statistics import holm as holm
from pruning.calibration import hub_texts as hub_texts
from interp.statistics import jeffreys as jeffreys
from scaling.judging import judge_study as judge_study
from interp.activations.store import load_raw as load_raw
from interp.diagnosis import loop_dynamics as loop_dynamics
from interp.statistics import maj_at_k as maj_at_k
from pruning.weights import match_latency as match_latency
from pruning.weights import matched_sparsity as matched_sparsity
from interp.statistics import mean_interval as mean_interval
from pruning.repairs import mend as mend
from pruning.controls import noise_at_kl as noise_at_kl
from interp.diagnosis import opener_mass as opener_mass
from interp.probes import outcome as outcome
from interp.statistics import paired_difference as paired_difference
from interp.statistics import pass_at_k as pass_at_k
from interp.probes import probe as probe
from interp.probes import probe_ahead as probe_ahead
from pruning.folder import prune_folder as prune_folder
from pruning.calibration import read_texts as read_texts
from interp.influence_profile import recorded as recorded
from interp.diagnosis import reflection_benefit as reflection_benefit
from interp.diagnosis import reflections as reflections
from pruning.repairs import repairs as repairs
from interp.replay.teacher_forced import replay_chains as replay_chains
from interp.diagnosis import restatement as restatement
from pruning.surgery import save as save
from pruning.repairs import save_repaired as save_repaired
from scaling.curves.fits import scaling_fits as scaling_fits
from interp.statistics import sign_flip as sign_flip
from pruning.weights import sparsify as sparsify
from interp.statistics import spearman_interval as spearman_interval
from interp.effects import tie as tie
from interp.counterfactuals.window_maps import time_map as time_map
from interp.counterfactuals.window_maps import usual_windows as usual_windows

# For the namespaces.
from interp.interventions.interventions import AblateHeads as _AblateHeads
from interp.interventions.windows import AfterLoop as _AfterLoop
from interp.interventions.windows import Answer as _Answer
from interp.interventions.windows import AtTokens as _AtTokens
from scaling.benchmarks import Benchmark as _Benchmark
from interp.effects import BlockScores as _BlockScores
from interp.chains.chain import Budget as _Budget
from pruning.calibration import Calibration as _Calibration
from scaling.study.calibration_source import CalibrationSource as _CalibrationSource
from interp.chains.chain import Chain as _Chain
from interp.chains.chain import Chains as _Chains
from pruning.compare import Comparison as _Comparison
from interp.lens import Contributions as _Contributions
from interp.model.delimiters import Delimiters as _Delimiters
from interp.effects import Deltas as _Deltas
from interp.interventions.function_edits import EditDelta as _EditDelta
from interp.interventions.function_edits import EditStream as _EditStream
from interp.heads import HeadEffects as _HeadEffects
from interp.heads import HeadLens as _HeadLens
from interp.heads import HeadScores as _HeadScores
from interp.probes import Horizons as _Horizons
from scaling.judging import Judge as _Judge
from scaling.judging import JudgedStudy as _JudgedStudy
from pruning.plan import LayerPlan as _LayerPlan
from interp.lens import Lens as _Lens
from interp.interventions.interventions import MeanDelta as _MeanDelta
from scaling.costs.flops import ModelCost as _ModelCost
from interp.model.named_cache import NamedCache as _NamedCache
from interp.interventions.neurons import Neurons as _Neurons
from interp.errors import NonFiniteError as _NonFiniteError
from interp.interventions.programs import Order as _Order
from interp.interventions.patches import Patch as _Patch
from interp.counterfactuals.patching import PatchingGrid as _PatchingGrid
from interp.heads import Patterns as _Patterns
from interp.probes import Probes as _Probes
from scaling.benchmarks import Problem as _Problem
from scaling.study.model_pruning import PruneConfig as _PruneConfig
from interp.errors import PruneScopeError as _PruneScopeError
from interp.activations.store import RawCapture as _RawCapture
from interp.activations.store import RawStreams as _RawStreams
from recovery.result import Recovered as _Recovered
from recovery.recovery_config import RecoveryConfig as _RecoveryConfig
from interp.interventions.programs import Repeat as _Repeat
from interp.decoding.request import Request as _Request
from interp.interventions.interventions import ResampleDelta as _ResampleDelta
from interp.decoding.sampling import Sampling as _Sampling
from interp.interventions.interventions import Scale as _Scale
from pruning.scores import Scores as _Scores
from scaling.engines.server import ServerEngine as _ServerEngine
from interp.interventions.interventions import Skip as _Skip
from interp.chains.chain import Span as _Span
from interp.interventions.interventions import Steer as _Steer
from scaling.store.study_store import Store as _Store
from analyses.report.study_comparison import StudyComparison as _StudyComparison
from scaling.study.config import StudyConfig as _StudyConfig
from analyses.plumbing.frames import StudyData as _StudyData
from scaling.study.runner import StudyResult as _StudyResult
from pruning.sublayers import SublayerPlan as _SublayerPlan
from pruning.sublayers import SublayerScores as _SublayerScores
from interp.interventions.suppress import Suppress as _Suppress
from interp.interventions.windows import Thinking as _Thinking
from interp.errors import UserError as _UserError
from interp.interventions.interventions import Variant as _Variant
from interp.interventions.windows import Window as _Window
from interp.effects import ablations as _ablations
from scaling.study.card_results import add_results as _add_results
from pruning.controls import against_chance as _against_chance
from interp.counterfactuals.forks import along as _along
from interp.counterfactuals.forks import around_loops as _around_loops
from scaling.benchmarks import benchmarks as _benchmarks
from interp.effects import block_effects as _block_effects
from pruning.criteria.block_influence import block_influence as _block_influence
from interp.influence_profile import by_event as _by_event
from interp.influence_profile import by_step as _by_step
from scaling.engines.budget_check import check_budget as _check_budget
from scaling.study.model_scoring import choose_plan as _choose_plan
from interp.statistics import clopper_pearson as _clopper_pearson
from interp.counterfactuals.answer_commitment import commitment as _commitment
from pruning.compare import compare as _compare
from pruning.compare import compare_criteria as _compare_criteria
from interp.diagnosis import compare_openers as _compare_openers
from analyses.report.study_comparison import compare_studies as _compare_studies
from interp.lens import contributions as _contributions
from interp.statistics import cov_at_k as _cov_at_k
from pruning.criteria import criteria as _criteria
from pruning.criteria import criteria_table as _criteria_table
from pruning.criteria import criterion as _criterion
from interp.replay.divergence import damage_and_drift as _damage_and_drift
from interp.decoding.generate import decode as _decode
from interp.interventions.interventions import dense as _dense
from interp.diagnosis import diagnose as _diagnose
from interp.diagnosis.text_table import diagnose_texts as _diagnose_texts
from interp.replay.divergence import divergence as _divergence
from interp.replay.divergence import divergence_table as _divergence_table
from interp.diagnosis import diversity as _diversity
from interp.diagnosis import diversity_beside as _diversity_beside
from interp.diagnosis.cusum import early_warning as _early_warning
from interp.effects import effect_agreement as _effect_agreement
from scaling.curves.equal_cost_comparison import equal_cost as _equal_cost
from interp.diagnosis import equations as _equations
from interp.diagnosis import escape_mass as _escape_mass
from interp.effects import explain as _explain
from interp.diagnosis import find_episodes as _find_episodes
from interp.diagnosis import find_loop as _find_loop
from interp.replay.divergence import first_divergence as _first_divergence
from interp.probes import foretell as _foretell
from interp.decoding.request import fork as _fork
from interp.probes import gather as _gather
from scaling.grading import grade as _grade
from interp.counterfactuals.forks import handover as _handover
from interp.diagnosis.recurrence import hidden_recurrence as _hidden_recurrence
from interp.statistics import holm as _holm
from pruning.calibration import hub_texts as _hub_texts
from interp.statistics import jeffreys as _jeffreys
from scaling.judging import judge_at as _judge_at
from scaling.judging import judge_study as _judge_study
from interp.lens import lens as _lens
from interp.diagnosis.chain_lines import line_ends as _line_ends
from interp.counterfactuals.line_importance import line_importance as _line_importance
from scaling.benchmarks import load_benchmark as _load_benchmark
from interp.activations.store import load_raw as _load_raw
from interp.diagnosis import loop_dynamics as _loop_dynamics
from interp.statistics import maj_at_k as _maj_at_k
from interp.diagnosis.events import mark as _mark
from pruning.weights import match_latency as _match_latency
from pruning.weights import matched_sparsity as _matched_sparsity
from interp.statistics import mean_interval as _mean_interval
from interp.effects import measure_effects as _measure_effects
from pruning.repairs import mend as _mend
from pruning.controls import noise_at_kl as _noise_at_kl
from interp.diagnosis import opener_mass as _opener_mass
from interp.probes import outcome as _outcome
from interp.statistics import paired_difference as _paired_difference
from interp.statistics import pass_at_k as _pass_at_k
from interp.counterfactuals.patching import patching_grid as _patching_grid
from interp.counterfactuals.answer_commitment import perturbed_steps as _perturbed_steps
from interp.probes import probe as _probe
from interp.probes import probe_ahead as _probe_ahead
from interp.interventions.programs import program_model as _program_model
from pruning.surgery import prune as _prune
from pruning.prune_checkpoint import prune_checkpoint as _prune_checkpoint
from pruning.folder import prune_folder as _prune_folder
from scaling.study.model_pruning import prune_model as _prune_model
from pruning.plans import published_plans as _published_plans
from pruning.hub_upload import push_to_hub as _push_to_hub
from pruning.calibration import read_texts as _read_texts
from interp.influence_profile import recorded as _recorded
from recovery.run import recover as _recover
from interp.diagnosis import reflection_benefit as _reflection_benefit
from interp.diagnosis import reflections as _reflections
from pruning.repairs import repairs as _repairs
from interp.replay.teacher_forced import replay as _replay
from interp.replay.teacher_forced import replay_chains as _replay_chains
from interp.diagnosis import restatement as _restatement
from scaling.study.places import run_on_cluster as _run_on_cluster
from scaling.study.places import run_on_server as _run_on_server
from scaling.study.runner import run_study as _run_study
from interp.activations.forward_cache import run_with_cache as _run_with_cache
from pruning.surgery import save as _save
from pruning.surgery import save_program as _save_program
from pruning.repairs import save_repaired as _save_repaired
from scaling.curves.fits import scaling_fits as _scaling_fits
from pruning.criteria import score as _score
from scaling.study.model_scoring import score_model as _score_model
from interp.statistics import sign_flip as _sign_flip
from pruning.weights import sparsify as _sparsify
from interp.statistics import spearman_interval as _spearman_interval
from scaling.study.calibration_source import study_chains as _study_chains
from interp.diagnosis.recurrence import text_recurrence as _text_recurrence
from interp.effects import tie as _tie
from interp.counterfactuals.window_maps import time_map as _time_map
from interp.statistics import unpaired_difference as _unpaired_difference
from interp.counterfactuals.window_maps import usual_windows as _usual_windows
from analyses.report.page import write_report as _write_report

__version__: str

class activations:
    """Activations by name, and residual streams of chosen blocks as sharded safetensors."""

    NamedCache = _NamedCache
    RawCapture = _RawCapture
    RawStreams = _RawStreams
    load_raw = staticmethod(_load_raw)
    run_with_cache = staticmethod(_run_with_cache)

class analyses:
    """The rows of a study as frames, and its report."""

    StudyComparison = _StudyComparison
    StudyData = _StudyData
    compare_studies = staticmethod(_compare_studies)
    write_report = staticmethod(_write_report)

class chains:
    """Generated answers, their budgets and spans, and how a model marks its thinking."""

    Budget = _Budget
    Chain = _Chain
    Chains = _Chains
    Delimiters = _Delimiters
    Span = _Span

class counterfactuals:
    """Chains with blocks taken away in a window or handed over; lines resampled, activations patched."""

    PatchingGrid = _PatchingGrid
    along = staticmethod(_along)
    around_loops = staticmethod(_around_loops)
    commitment = staticmethod(_commitment)
    handover = staticmethod(_handover)
    line_importance = staticmethod(_line_importance)
    patching_grid = staticmethod(_patching_grid)
    perturbed_steps = staticmethod(_perturbed_steps)
    time_map = staticmethod(_time_map)
    usual_windows = staticmethod(_usual_windows)

class decoding:
    """The decoder under `ReasoningModel.generate`: requests in, chains out."""

    Request = _Request
    Sampling = _Sampling
    decode = staticmethod(_decode)
    fork = staticmethod(_fork)

class diagnosis:
    """Loops, reflections, restatement and diversity of chains."""

    compare_openers = staticmethod(_compare_openers)
    diagnose = staticmethod(_diagnose)
    diagnose_texts = staticmethod(_diagnose_texts)
    diversity = staticmethod(_diversity)
    diversity_beside = staticmethod(_diversity_beside)
    early_warning = staticmethod(_early_warning)
    equations = staticmethod(_equations)
    escape_mass = staticmethod(_escape_mass)
    find_episodes = staticmethod(_find_episodes)
    find_loop = staticmethod(_find_loop)
    hidden_recurrence = staticmethod(_hidden_recurrence)
    line_ends = staticmethod(_line_ends)
    loop_dynamics = staticmethod(_loop_dynamics)
    mark = staticmethod(_mark)
    opener_mass = staticmethod(_opener_mass)
    reflection_benefit = staticmethod(_reflection_benefit)
    reflections = staticmethod(_reflections)
    restatement = staticmethod(_restatement)
    text_recurrence = staticmethod(_text_recurrence)

class effects:
    """What each block does to verdicts and diagnoses, and how that goes with its score."""

    BlockScores = _BlockScores
    Deltas = _Deltas
    ablations = staticmethod(_ablations)
    block_effects = staticmethod(_block_effects)
    effect_agreement = staticmethod(_effect_agreement)
    explain = staticmethod(_explain)
    measure_effects = staticmethod(_measure_effects)
    tie = staticmethod(_tie)

class errors:
    """The exceptions that PruneScope raises on purpose."""

    NonFiniteError = _NonFiniteError
    PruneScopeError = _PruneScopeError
    UserError = _UserError

class heads:
    """Attention heads: patterns, scores and ablations, through transformer-lens."""

    HeadEffects = _HeadEffects
    HeadLens = _HeadLens
    HeadScores = _HeadScores
    Patterns = _Patterns

class influence:
    """Block Influence along recorded chains, by event or by step."""

    by_event = staticmethod(_by_event)
    by_step = staticmethod(_by_step)
    recorded = staticmethod(_recorded)

class interventions:
    """What is done to a block, and in which window of steps."""

    AblateHeads = _AblateHeads
    AfterLoop = _AfterLoop
    Answer = _Answer
    AtTokens = _AtTokens
    EditDelta = _EditDelta
    EditStream = _EditStream
    MeanDelta = _MeanDelta
    Neurons = _Neurons
    Order = _Order
    Patch = _Patch
    Repeat = _Repeat
    ResampleDelta = _ResampleDelta
    Scale = _Scale
    Skip = _Skip
    Steer = _Steer
    Suppress = _Suppress
    Thinking = _Thinking
    Variant = _Variant
    Window = _Window
    dense = _dense
    program_model = staticmethod(_program_model)

class judging:
    """A second opinion on answers, from a language model."""

    Judge = _Judge
    JudgedStudy = _JudgedStudy
    judge_at = staticmethod(_judge_at)
    judge_study = staticmethod(_judge_study)

class _lens_namespace:
    """The logit lens, and direct logit attribution."""

    Contributions = _Contributions
    Lens = _Lens
    contributions = staticmethod(_contributions)
    lens = staticmethod(_lens)
    __call__ = staticmethod(_lens)

lens: _lens_namespace

class probes:
    """Linear probes on the residual stream, with their controls."""

    Horizons = _Horizons
    Probes = _Probes
    foretell = staticmethod(_foretell)
    gather = staticmethod(_gather)
    outcome = staticmethod(_outcome)
    probe = staticmethod(_probe)
    probe_ahead = staticmethod(_probe_ahead)

class pruning:
    """Score blocks, compare criteria, remove blocks, repair and sparsify."""

    Calibration = _Calibration
    CalibrationSource = _CalibrationSource
    Comparison = _Comparison
    LayerPlan = _LayerPlan
    PruneConfig = _PruneConfig
    Scores = _Scores
    SublayerPlan = _SublayerPlan
    SublayerScores = _SublayerScores
    against_chance = staticmethod(_against_chance)
    block_influence = staticmethod(_block_influence)
    choose_plan = staticmethod(_choose_plan)
    compare = staticmethod(_compare)
    compare_criteria = staticmethod(_compare_criteria)
    criteria = staticmethod(_criteria)
    criteria_table = staticmethod(_criteria_table)
    criterion = staticmethod(_criterion)
    hub_texts = staticmethod(_hub_texts)
    match_latency = staticmethod(_match_latency)
    matched_sparsity = staticmethod(_matched_sparsity)
    mend = staticmethod(_mend)
    noise_at_kl = staticmethod(_noise_at_kl)
    prune = staticmethod(_prune)
    prune_checkpoint = staticmethod(_prune_checkpoint)
    prune_folder = staticmethod(_prune_folder)
    prune_model = staticmethod(_prune_model)
    published_plans = staticmethod(_published_plans)
    push_to_hub = staticmethod(_push_to_hub)
    read_texts = staticmethod(_read_texts)
    repairs = staticmethod(_repairs)
    save = staticmethod(_save)
    save_program = staticmethod(_save_program)
    save_repaired = staticmethod(_save_repaired)
    score = staticmethod(_score)
    score_model = staticmethod(_score_model)
    sparsify = staticmethod(_sparsify)
    study_chains = staticmethod(_study_chains)

class recovery:
    """Mend a pruned model by training it."""

    Recovered = _Recovered
    RecoveryConfig = _RecoveryConfig
    recover = staticmethod(_recover)

class _replay_namespace:
    """Read finished chains once more by teacher forcing, and compare variants along them."""

    damage_and_drift = staticmethod(_damage_and_drift)
    divergence = staticmethod(_divergence)
    divergence_table = staticmethod(_divergence_table)
    first_divergence = staticmethod(_first_divergence)
    replay = staticmethod(_replay)
    replay_chains = staticmethod(_replay_chains)
    __call__ = staticmethod(_replay)

replay: _replay_namespace

class scaling:
    """Benchmarks, studies, and accuracy against test-time compute."""

    Benchmark = _Benchmark
    ModelCost = _ModelCost
    Problem = _Problem
    ServerEngine = _ServerEngine
    Store = _Store
    StudyConfig = _StudyConfig
    StudyResult = _StudyResult
    add_results = staticmethod(_add_results)
    benchmarks = staticmethod(_benchmarks)
    check_budget = staticmethod(_check_budget)
    equal_cost = staticmethod(_equal_cost)
    grade = staticmethod(_grade)
    load_benchmark = staticmethod(_load_benchmark)
    run_on_cluster = staticmethod(_run_on_cluster)
    run_on_server = staticmethod(_run_on_server)
    run_study = staticmethod(_run_study)
    scaling_fits = staticmethod(_scaling_fits)

class statistics:
    """Intervals and tests for paired, clustered outcomes."""

    clopper_pearson = staticmethod(_clopper_pearson)
    cov_at_k = staticmethod(_cov_at_k)
    holm = staticmethod(_holm)
    jeffreys = staticmethod(_jeffreys)
    maj_at_k = staticmethod(_maj_at_k)
    mean_interval = staticmethod(_mean_interval)
    paired_difference = staticmethod(_paired_difference)
    pass_at_k = staticmethod(_pass_at_k)
    sign_flip = staticmethod(_sign_flip)
    spearman_interval = staticmethod(_spearman_interval)
    unpaired_difference = staticmethod(_unpaired_difference)
