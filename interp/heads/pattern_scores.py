"""Scores of attention patterns: a pure function of pattern, ids and positions."""

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
    """The `SCORES` of each head at each query.

    For a query at position q with ids x and pattern A, all over keys k < q unless said otherwise:

    - induction: sum of A[q, k] with x[k-1] = x[q] (prefix matching, Olsson et al. 2022, arXiv
      2209.11895); defined if there is such a key.
    - duplicate: sum of A[q, k] with x[k] = x[q]; defined if there is such a key.
    - previous: A[q, q-1]; defined for q > 0.
    - period: A[q, q-p+1] for a loop of period p, the position from which the next token was copied;
      defined if p is given and q-p+1 >= 0.
    - prompt: sum of A[q, k] over the prompt; defined if q is past the prompt.
    - first: A[q, 0], the attention sink; always defined.
    - entropy: of A[q], in nats; always defined.
    - distance: mean of q - k under A[q], in tokens; always defined.

    In a loop most keys are repeats, so even a head that attends to everything scores high. Compare
    with uniform attention over 0..q, the last result.

    Args:
        pattern: attention weights [H, Q, K].
        ids: token ids of the keys [K].
        queries: position of every query among the K ids [Q].
        n_prompt: number of prompt tokens.
        period: period of the chain's loop in tokens; None if it has none.

    Returns:
        Values [M, H, Q], 0 where a score is not defined; whether it is defined [M, Q]; and the
        value that uniform attention over 0..q would get [M, Q]. M counts the `SCORES`, in their
        order.
    """
    back = queries[:, None] - torch.arange(len(ids), device=ids.device)  # [Q, K]: q - k
    same = ids[queries][:, None] == ids  # [Q, K]
    follows = torch.zeros_like(same)  # key k comes right after an occurrence of the query's token
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
    # keys [6, Q, K]: the attention that falls on each set of keys
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
