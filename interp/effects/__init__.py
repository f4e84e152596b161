"""Effects of blocks on what chains do, and how they relate to scores of the blocks.

| file | contents |
|---|---|
| `ablation_variants` | skip, mean, resample and scale, for every block, attention and MLP |
| `measure` | decodes, diagnoses and compares all of them: `measure_effects` |
| `paired_effects` | paired effects from any table of outcomes: `block_effects` |
| `dose` | the response to the gain of a part |
| `tie`, `explain` | correlation with a score; the share of the explainable that it explains |
| `block_scores` | scores of blocks with their reliability |
"""

from interp.effects.ablation_variants import Ablation, Deltas, ablations
from interp.effects.block_scores import BlockScores, ScoresLike, split_half
from interp.effects.dose import DoseResponse, dose_response
from interp.effects.effect_agreement import Agreement, Agreements, effect_agreement
from interp.effects.explain import Explanation, Explanations, explain
from interp.effects.measure import MeasuredEffects, effects_of_chains, measure_effects
from interp.effects.paired_effects import Effects, block_effects, effects_of_pairs
from interp.effects.tie import Tie, Ties, tie
