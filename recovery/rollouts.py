"""How long the completions of on-policy distillation are: short first, and cut where it parts.

- Short to long, after ShortOPD (arXiv 2607.13124): a pruned model at first repeats itself, and long
  completions spend tokens on that. A completion has at most `length(share)` tokens, which grows in
  proportion to the share of the training that is over, from `start` to `full` at `ramp`. This
  schedule is ours, so that a run that was killed goes on with the same lengths; the paper's follows
  the lengths that the model can use. Loops end a completion in any case (`recovery.writing`).
- Cut where teacher and student have parted, after Prune-OPD (arXiv 2605.07804), which watches how
  many of the k likeliest next tokens both share. Here, in the first window of `WINDOW` tokens in
  which that share is below `overlap` on average, the completion ends before the first token at
  which it is below. The paper also lowers the weight of tokens before; here all that is kept
  counts fully.

What is cut away was written, but has no loss and is not counted. Shapes: S tokens, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from recovery.recovery_config import RecoveryConfig

TOP, WINDOW = 16, 16  # likeliest next tokens that are compared; tokens that are averaged


@dataclass(frozen=True)
class Rollouts:
    """Lengths of the completions that a model in training writes.

    Attributes:
        full: tokens of a completion at most.
        start: the same in the first step; 0: `full` from the beginning.
        ramp: share of the training at which `full` is reached.
        overlap: least share of common likeliest tokens; 0: nothing is cut.
    """

    full: int
    start: int = 0
    ramp: float = 0.5
    overlap: float = 0.0

    @classmethod
    def of(cls, config: RecoveryConfig) -> Rollouts:
        """The lengths that a run asks for."""
        full = config.thinking + config.answer
        return cls(full, config.start_length, config.full_at, config.overlap)

    @property
    def mean(self) -> float:
        """Tokens of a completion at most, on average over the steps of a training."""
        return self.full - bool(self.start) * self.ramp * (self.full - self.start) / 2

    def length(self, share: float) -> int:
        """Tokens of a completion at most.

        Args:
            share: share of the training that is over, 0 to 1.

        Returns:
            From `start` (or `full`) to `full`.
        """
        if not self.start or share >= self.ramp:
            return self.full
        return min(self.full, round(self.start + (self.full - self.start) * share / self.ramp))

    def cut(
        self, student: Any, teacher: Any, prompt: Sequence[int], completion: Sequence[int]
    ) -> list[int]:
        """Cut a completion where teacher and student have parted.

        Args:
            student: the Hugging Face model in training.
            teacher: the dense model's.
            prompt: token ids of the prompt.
            completion: token ids of the completion.

        Returns:
            The tokens that are kept, one or more if there are any.
        """
        if not self.overlap or len(completion) <= WINDOW:
            return list(completion)
        ids = torch.tensor([[*prompt, *completion]])
        both = [likeliest(hf, ids, len(prompt)) for hf in (student, teacher)]
        return list(completion[: kept_tokens(shared(*both), self.overlap)])


@torch.no_grad()
def likeliest(hf: Any, ids: Int[Tensor, "1 T"], prompt: int) -> Int[Tensor, "S k"]:
    """The likeliest next tokens at each token of a completion.

    Args:
        hf: a Hugging Face model; its training mode is restored.
        ids: prompt and completion.
        prompt: tokens of the prompt.

    Returns:
        Token ids on the CPU, in no fixed order; k is `TOP`, or V if there are fewer words.
    """
    training = hf.training
    hf.eval()
    try:
        logits = hf(ids.to(hf.device), use_cache=False).logits[0, prompt - 1 : -1]
    finally:
        hf.train(training)
    return logits.topk(min(TOP, logits.shape[-1]), dim=-1, sorted=False).indices.cpu()


def shared(one: Int[Tensor, "S k"], other: Int[Tensor, "S k"]) -> Float[np.ndarray, " S"]:
    """The share of likeliest tokens that two models have in common, at each token."""
    common = (one[:, :, None] == other[:, None, :]).any(-1)
    return common.double().mean(-1).numpy()


def kept_tokens(overlap: Float[np.ndarray, " S"], least: float) -> int:
    """How many tokens come before the models part: in a window, not at one token.

    Args:
        overlap: share of common tokens at each token.
        least: least mean over a window of `WINDOW` tokens.

    Returns:
        The number of tokens, 1 or more; all where no window is below.
    """
    if len(overlap) < WINDOW:
        return len(overlap)
    means = np.convolve(overlap, np.full(WINDOW, 1 / WINDOW), mode="valid")
    below = np.flatnonzero(means < least - 1e-9)
    if not len(below):
        return len(overlap)
    start = int(below[0])
    return max(1, start + int(np.flatnonzero(overlap[start:] < least)[0]))
