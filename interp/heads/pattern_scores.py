"""Scores of attention patterns: a pure function of pattern, ids and positions.

What each score means is in the table of `interp.heads`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SCORES = (
    "induction", "duplicate", "previous", "period", "prompt", "first", "entropy", "distance",
)  # fmt: skip


def score_patterns(
    pattern: Float[Tensor, "H Q K"],
    ids: Int[Tensor, " K"],
    queries: Int[Tensor, " Q"],
    n_prompt: int,
    period: int | None = None,
) -> tuple[Float[Tensor, "M H Q"], Bool[Tensor, "M Q"], Float[Tensor, "M Q"]]:
    """The `SCORES` (M of them, in that order) of each head at each query.

    queries: the position of every query among the K ids. Returns values, whether the score is
    defined there (the value is 0 where it is not), and what uniform attention over 0..q would get.
    """
    back = queries[:, None] - torch.arange(len(ids), device=ids.device)
    same = ids[queries][:, None] == ids
    follows = torch.zeros_like(same)  # key k stands behind an occurrence of the query's token
    follows[:, 1:] = same[:, :-1]
    keys = torch.stack(
        [
            follows & (back > 0),
            same & (back > 0),
            back == 1,
            back == period - 1 if period is not None else torch.zeros_like(same),
            (queries >= n_prompt)[:, None] & (back > (queries - n_prompt)[:, None]),
            back == queries[:, None],
        ]
    )
    pattern = pattern.float()
    mass = torch.einsum("hqk,mqk->mhq", pattern, keys.to(pattern))
    entropy = torch.special.entr(pattern).sum(-1)
    distance = (pattern * back).sum(-1)
    seen = (queries + 1).to(pattern)
    always = torch.ones_like(queries, dtype=torch.bool)
    return (
        torch.cat([mass, torch.stack([entropy, distance])]),
        torch.cat([keys.any(-1), torch.stack([always, always])]),
        torch.cat([keys.sum(-1) / seen, torch.stack([seen.log(), (seen - 1) / 2])]),
    )
