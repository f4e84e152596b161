"""Prefill: reading the given tokens of many requests in one causal pass.

Tokens are read once for all requests that read them alike. What all prompts begin with (the
examples of a few-shot prompt, a system message) is read once per state that the variants give it,
and kept. After it, variants of one prompt share the blocks that they leave as they are
(`prefix_sharing`).

Shapes: R requests, T tokens; n rows at a block, c common tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import torch

from interp.decoding.prefix_sharing import SharedRows
from interp.interventions.hooks import RowHooks
from interp.interventions.timeline import Timeline, site
from interp.model.attention import MaskForm, attending, causal_masks
from interp.model.holding import holding
from interp.model.kv_cache import Prefix, handing

if TYPE_CHECKING:
    from interp.decoding.request import Request
    from interp.model.reasoning_model import ReasoningModel

LEAST_COMMON = 32  # common tokens from which reading them apart pays
MOST_COMMON = 8192  # common tokens of all states together, which one pass reads and memory holds


def common_tokens(requests: Sequence[Request]) -> tuple[int, ...]:
    """Returns the tokens that all prompts begin with, so that each has another one to read.

    Args:
        requests: the requests.

    Returns:
        The tokens; none if all prompts are the same, or if they have little in common.
    """
    prompts = {r.prompt_ids for r in requests}
    if len(prompts) == 1:
        return ()
    least, greatest = min(prompts), max(prompts)  # what these two have in common, all have
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(least, greatest, strict=False))
    common = tuple(token for token, _ in same)[: max(min(map(len, prompts)) - 2, 0)]
    return common if len(common) >= LEAST_COMMON else ()


class Prefill:
    """Reads requests for one decoding.

    Attributes:
        model: the model.
        hooks: the interventions of the rows of a pass.
        masks: the form of the model's masks.
        reach: tokens that the windows look back.
    """

    def __init__(self, model: ReasoningModel, hooks: RowHooks, masks: MaskForm, reach: int) -> None:
        """Prepares without reading anything.

        Args:
            model: the model.
            hooks: the interventions of all variants.
            masks: the form of the model's masks.
            reach: tokens that the windows look back.
        """
        self.model, self.hooks, self.masks, self.reach = model, hooks, masks, reach
        self._first: Prefix | None = None  # of the common tokens, one row per state
        self._states: dict[int | None, tuple[Request, int]] = {}  # variants in its rows' order

    def read(
        self, requests: Sequence[Request], variants: Sequence[int], common: tuple[int, ...]
    ) -> Prefix:
        """Reads all given tokens but the last of each request.

        Args:
            requests: the requests, R of them.
            variants: number of each request's variant.
            common: tokens that the prompts of all requests begin with, the same in every call.

        Returns:
            Keys and values of columns [0, T) for the longest request's T tokens:
            [R, kv heads, T, head width] per block.
        """
        tokens = [r.read[:-1] for r in requests]
        one_by_one = any(one.by_chain for r in requests for one in r.changes)
        if not common or one_by_one:
            return self._pass(requests, variants, tokens)
        # all variants that leave the prompt as it is have one state
        states = [v if r.changes else None for r, v in zip(requests, variants, strict=True)]
        new = set(states) - set(self._states)
        if len(common) * (len(self._states) + len(new)) > MOST_COMMON:
            return self._pass(requests, variants, tokens)
        if new:
            for state, request, variant in zip(states, requests, variants, strict=True):
                if state in new:
                    self._states.setdefault(state, (request, variant))
            asked, numbers = zip(*self._states.values(), strict=True)
            self._first = self._pass(asked, numbers, [common] * len(asked))
        row_of = {state: row for row, state in enumerate(self._states)}
        rest, picks = [t[len(common) :] for t in tokens], [row_of[s] for s in states]
        return self._pass(requests, variants, rest, len(common), self._first, picks)

    def _pass(
        self,
        requests: Sequence[Request],
        variants: Sequence[int],
        tokens: Sequence[tuple[int, ...]],
        start: int = 0,
        before: Prefix | None = None,
        picks: Sequence[int] = (),
    ) -> Prefix:
        """Reads tokens in one right-padded pass.

        Args:
            requests: the requests, R of them.
            variants: number of each request's variant.
            tokens: what to read of each.
            start: tokens that were read before.
            before: keys and values of the tokens before; None if there are none.
            picks: row of `before` for each request.

        Returns:
            Keys and values of the tokens before and those read.
        """
        model, device, n_blocks = self.model, self.model.device, self.model.n_blocks
        width = max(map(len, tokens))
        shared = SharedRows.of(tokens, [self._changes(r) for r in requests])
        order = list(shared.requests)
        ids = np.zeros((shared.n_rows(0), width), np.int64)  # [n, T]
        for row, i in enumerate(order[: len(ids)]):
            ids[row, : len(tokens[i])] = tokens[i]
        prefix = Prefix(n_blocks, [shared.places(block) for block in range(n_blocks)])
        if before is not None:
            prefix.follow(before, torch.tensor(picks)[order])
        rows = [requests[i] for i in order]
        keys = torch.tensor([r.key for r in rows], device=device)
        lines = [Timeline.given(len(r.prompt_ids), r.prefix) for r in rows]
        self.hooks.assign([variants[i] for i in order])
        with torch.inference_mode(), ExitStack() as stack:
            stack.enter_context(holding(model))
            self.hooks.enter(site(lines, start, start + width, keys=keys, reach=self.reach))
            stack.enter_context(attending(model))
            stack.enter_context(shared.joining(model.blocks))
            stack.enter_context(self.hooks)
            like = torch.zeros((), dtype=model.dtype, device=device)
            # masks and positions of one row, which are those of all, however many rows there are
            model.anatomy.base(
                input_ids=torch.from_numpy(ids).to(device),
                attention_mask=causal_masks(self.masks, 1, width, like, start),
                position_ids=torch.arange(start, start + width, device=device)[None],
                use_cache=True,
                **handing(model.anatomy.base, prefix),
            )
        return prefix

    def _changes(self, request: Request) -> int:
        """Returns the index of the first block that changes how a request is read."""
        blocks = [i.index_in(self.model) for i in request.changes]
        return min((b for b in blocks if b is not None), default=self.model.n_blocks)
