"""Paired effects of blocks on outcomes (`block_effects`), and their ties to scores (`tie`)."""

from interp.effects.estimate import Effects, block_effects
from interp.effects.tie import ScoresLike, Tie, Ties, tie

__all__ = ["Effects", "ScoresLike", "Tie", "Ties", "block_effects", "tie"]
