"""What was known of a chain at each step: where its events lie, and the site of a pass.

Shapes: B rows, T positions of one pass, S generated tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.chains.noise import noise_key
from interp.chains.periods import loop_from, loop_start
from interp.interventions.windows import NEVER, PREFILL_STEP, Site, When

if TYPE_CHECKING:
    from interp.chains.chain import Chain


NO_TOKEN = -1  # stands for a prompt token in a trail: it is no event


@dataclass(frozen=True)
class Timeline:
    """Where the events of one sequence lie: prompt tokens, generated ids, first steps."""

    prompt: int
    ids: Int[np.ndarray, " S"]
    answer_from: int = NEVER
    loop_from: int = NEVER

    @classmethod
    def given(cls, prompt: int, ids: tuple[int, ...]) -> Timeline:
        """Of tokens that thinking begins with."""
        array = np.asarray(ids, dtype=np.int64)
        found = loop_start(array)
        return cls(prompt, array, NEVER, NEVER if found is None else loop_from(found))

    @classmethod
    def of(cls, chain: Chain) -> Timeline:
        """What the decoder knew of this chain, step by step."""
        answer = NEVER if chain.answer is None else chain.answer.start
        found = loop_start(chain.ids[: chain.thinking.stop])
        if found is None and chain.answer is not None:
            later = loop_start(chain.ids[answer:])
            found = None if later is None else answer + later
        return cls(
            len(chain.prompt_ids),
            chain.ids,
            NEVER if chain.answer is None else answer_from(answer),
            NEVER if found is None else loop_from(found),
        )


def answer_from(first: int) -> int:
    """The first step of an answer whose first token is generated token `first`."""
    return max(first - 1, 0)


def site(
    timelines: Sequence[Timeline],
    start: int,
    stop: int,
    *,
    keys: Int[Tensor, " B"],
    reach: int = 0,
) -> Site:
    """The site of positions [start, stop) of right-padded rows, one timeline a row.

    Positions count from the first prompt token; a padded position takes the steps it would have.
    """
    device = keys.device
    width = reach + stop - start
    trail = np.full((len(timelines), width), NO_TOKEN, np.int64)
    for row, line in enumerate(timelines):
        first = start - reach - line.prompt  # generated index of the trail's first entry
        a, b = max(first, 0), min(first + width, len(line.ids))
        if b > a:
            trail[row, a - first : b - first] = line.ids[a:b]
    prompts = torch.tensor([line.prompt for line in timelines], device=device)
    at = torch.arange(start, stop, device=device)
    return Site(
        steps=(at[None, :] - prompts[:, None]).clamp(min=PREFILL_STEP),
        keys=keys,
        trail=torch.from_numpy(trail).to(device),
        answer_from=torch.tensor([line.answer_from for line in timelines], device=device),
        loop_from=torch.tensor([line.loop_from for line in timelines], device=device),
    )


def steps_inside(chain: Chain, when: When | None) -> np.ndarray:
    """The steps of the passes that made `chain` at which `when` is in force: int, rising.

    Every prompt position is step -1. None is always in force. The last token is never read.
    """
    line = Timeline.of(chain)
    n = line.prompt + chain.n_tokens - 1
    steps = np.maximum(np.arange(n) - line.prompt, PREFILL_STEP)
    if when is None:
        return steps
    keys = torch.tensor([noise_key(chain.seed, chain.problem, chain.sample)])
    inside = when.active(site([line], 0, n, keys=keys, reach=when.reach))
    return steps[inside.expand(1, n)[0].numpy()]
