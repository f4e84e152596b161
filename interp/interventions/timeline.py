"""What was known of a chain at each step: where its events lie, and the site of a pass.

Shapes: B rows, T positions of one pass, S generated tokens, R positions that windows look back.
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


NO_TOKEN = -1  # stands for a prompt token in a trail, which cannot be an event


@dataclass(frozen=True)
class Timeline:
    """Where the events of one sequence lie.

    Attributes:
        prompt: number of prompt tokens.
        ids: generated token ids [S].
        answer_from: the step that chooses the first answer token; `NEVER` if there is none.
        loop_from: the first step after a loop was detected; `NEVER` if there is none.
    """

    prompt: int
    ids: Int[np.ndarray, " S"]
    answer_from: int = NEVER
    loop_from: int = NEVER

    @classmethod
    def given(cls, prompt: int, ids: tuple[int, ...]) -> Timeline:
        """The timeline of a sequence whose thinking begins with given tokens.

        Args:
            prompt: number of prompt tokens.
            ids: the given token ids.

        Returns:
            The timeline; loops within the given tokens count.
        """
        array = np.asarray(ids, dtype=np.int64)
        found = loop_start(array)
        return cls(prompt, array, NEVER, NEVER if found is None else loop_from(found))

    @classmethod
    def of(cls, chain: Chain) -> Timeline:
        """What the decoder knew of a chain, step by step.

        Args:
            chain: a finished chain.

        Returns:
            The timeline.
        """
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
    """The step that chooses the first token of an answer.

    Args:
        first: index of the answer's first generated token.

    Returns:
        The step, at least 0.
    """
    return max(first - 1, 0)


def site(
    timelines: Sequence[Timeline],
    start: int,
    stop: int,
    *,
    keys: Int[Tensor, " B"],
    reach: int = 0,
) -> Site:
    """The site of positions [start, stop) of right-padded rows.

    Args:
        timelines: one per row.
        start: first position, counted from the first prompt token.
        stop: position after the last one.
        keys: int64 [B], the key of each row's randomness.
        reach: how many tokens before `start` the windows look back.

    Returns:
        The site. A padded position has the step that a real token there would have.
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
    """The steps of the passes that made a chain at which a window is in force.

    Args:
        chain: a finished chain.
        when: the window; None is in force always.

    Returns:
        Steps in rising order, int. Every prompt position gives step -1. The last token is never
        read, so it gives no step.
    """
    line = Timeline.of(chain)
    n = line.prompt + chain.n_tokens - 1
    steps = np.maximum(np.arange(n) - line.prompt, PREFILL_STEP)
    if when is None:
        return steps
    keys = torch.tensor([noise_key(chain.seed, chain.problem, chain.sample)])
    inside = when.active(site([line], 0, n, keys=keys, reach=when.reach))
    return steps[inside.expand(1, n)[0].numpy()]
