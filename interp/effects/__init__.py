"""Effects of blocks on what chains do, and how they go with scores of the blocks.

| file | what it does |
|---|---|
| `ablation_variants` | skip, mean, resample, scale: for every block, attention and MLP |
| `measure` | decode, diagnose and compare them all: `measure_effects` |
| `paired_effects` | paired effects from any table of outcomes: `block_effects` |
| `dose` | the response to a part's gain |
| `tie`, `explain` | correlation with a score; what share of the explainable it explains |
| `block_scores` | scores of blocks with their reliability |
"""

from interp.effects.ablation_variants import Ablation, Deltas, ablations
from interp.effects.block_scores import BlockScores, ScoresLike, split_half
from interp.effects.dose import DoseResponse, dose_response
from interp.effects.explain import Explanation, Explanations, explain
from interp.effects.measure import MeasuredEffects, effects_of_chains, measure_effects
from interp.effects.paired_effects import Effects, block_effects, effects_of_pairs
from interp.effects.tie import Tie, Ties, tie

__all__ = [
    "Ablation",
    "BlockScores",
    "Deltas",
    "DoseResponse",
    "Effects",
    "Explanation",
    "Explanations",
    "MeasuredEffects",
    "ScoresLike",
    "Tie",
    "Ties",
    "ablations",
    "block_effects",
    "dose_response",
    "effects_of_chains",
    "effects_of_pairs",
    "explain",
    "measure_effects",
    "split_half",
    "tie",
]
