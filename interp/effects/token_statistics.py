"""Numbers per token that might foretell an event: what `cusum` can watch while a chain grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.chains.chain import Chain
from interp.diagnosis.recurrence import hidden_recurrence, text_recurrence
from interp.influence_profile import recorded
from interp.interventions.interventions import VariantLike
from interp.replay.divergence import divergence

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel


def token_statistics(
    model: ReasoningModel,
    chains: Sequence[Chain],
    variant: VariantLike,
    streams: Sequence[Float[np.ndarray, "_ D"]],
) -> dict[str, list[np.ndarray]]:
    """Compute the statistics: for each, one number per token of each chain up to its answer.

    Args:
        model: The model.
        chains: The chains.
        variant: The variant that wrote them.
        streams: The residual stream at each thinking token of each chain, with a mean subtracted
            (`hidden_recurrence`).

    Returns:
        By name, the series of each chain, [S], of the passes that chose the tokens.
    """
    kl = divergence(model, chains, variant).quantities["kl"]
    written = [c.stream for c in recorded(model, chains, variant)]
    series: dict[str, list[np.ndarray]] = {
        "entropy": [c.entropy for c in chains],
        "surprisal": [-c.logprob for c in chains],
        "Block Influence": [s.influence.mean(1) for s in written if s is not None],
        "stream norm": [s.post_norm[:, -1] for s in written if s is not None],
        "KL from dense": list(kl),
        "hidden recurrence": [hidden_recurrence(s) for s in streams],
        "text recurrence": [text_recurrence(c.ids[: c.thinking.stop]) for c in chains],
    }
    stops = [c.thinking.stop for c in chains]
    return {
        name: [np.asarray(v, float)[:n] for v, n in zip(few, stops, strict=True)]
        for name, few in series.items()
    }
