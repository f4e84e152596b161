"""Masks: which tokens of each chain belong to an event.

`Masks` maps an event's name to one boolean mask [S] per chain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from interp.chains.chain import Chain
from interp.errors import UserError

Masks = dict[str, list[Bool[np.ndarray, " _"]]]


def check_masks(chains: Sequence[Chain], masks: Masks, who: str) -> None:
    """Refuse masks that do not fit the chains.

    Args:
        chains: N chains.
        masks: for each event, N boolean masks with one entry per generated token [S].
        who: name of the calling function, with which the error begins.

    Raises:
        UserError: there is no event, a mask is missing, or a mask does not have the length of its
            chain.
    """
    if not masks:
        raise UserError(f"{who}: no event was given, such as mark(chains, model).")
    for name, several in masks.items():
        if len(several) != len(chains):
            raise UserError(
                f"{who}: event {name!r} has {len(several)} masks for {len(chains)} chains: "
                "expected one mask per chain."
            )
        for i, (mask, chain) in enumerate(zip(several, chains, strict=True)):
            if mask.shape != (chain.n_tokens,):
                raise UserError(
                    f"{who}: the mask of event {name!r} for chain {i} has {mask.shape} entries; "
                    f"the chain has {chain.n_tokens} tokens."
                )
