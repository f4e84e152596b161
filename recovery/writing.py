"""Completions written by the model in training, through the package's own decoder.

On-policy methods spend most of their time writing. The decoder writes many rows in one batch and
uses the weights of that step, adapters included, in their own precision. Noise is keyed by (seed,
step, process, row), so a run that was killed and continues writes the same completions.

Only the model's own tokens are returned. If a budget or a loop ended the thinking, the completion
ends there; what the engine writes after it is not part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from interp.chains.chain import Budget, Chain
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.model.reasoning_model import ReasoningModel


@dataclass(frozen=True)
class Writer:
    """Writes completions for models of the kind of `like`.

    Attributes:
        like: its tokenizer, delimiters and dense indices are used.
        budget: thinking and answer tokens.
        sampling: how tokens are sampled.
        seed: the seed of the noise.
    """

    like: ReasoningModel
    budget: Budget
    sampling: Sampling
    seed: int = 0

    def write(
        self,
        hf: Any,
        prompts: Sequence[Sequence[int]],
        label: str,
        samples: int = 1,
        longest: int | None = None,
    ) -> list[list[int]]:
        """Write completions of every prompt with the weights of `hf`.

        Args:
            hf: the model; its training mode is restored.
            prompts: token ids of each prompt.
            label: gives this call its own noise, such as the step and the process.
            samples: completions per prompt.
            longest: tokens of a completion at most. Default: the whole budget.

        Returns:
            Token ids of the completions, `samples` per prompt, in the order of the prompts.
        """
        training = hf.training
        # accelerate's, in mixed precision: under autocast the decoder's kernels would get queries
        # in another type than the keys in its cache
        mixed = hf.__dict__.pop("forward", None)
        budget = self.budget
        if longest is not None and longest < budget.thinking:
            budget = replace(budget, thinking=longest)
        try:
            model = self.like.around(hf)
            requests = [
                Request(
                    problem=f"{label}/{i}",
                    prompt_ids=tuple(int(t) for t in prompt),
                    sample=sample,
                    seed=self.seed,
                    budgets=(budget,),
                )
                for i, prompt in enumerate(prompts)
                for sample in range(samples)
            ]
            found = {
                (chain.problem, chain.sample): own_tokens(chain)[:longest]
                for chain in decode(model, requests, sampling=self.sampling, stop_on_loop=True)
            }
        finally:
            hf.train(training)
            if mixed is not None:
                hf.forward = mixed
        return [found[r.problem, r.sample] for r in requests]


def own_tokens(chain: Chain) -> list[int]:
    """The tokens of a chain before the first one that the engine wrote."""
    forced = np.flatnonzero(chain.forced)
    stop = int(forced[0]) if len(forced) else len(chain.ids)
    return [int(t) for t in chain.ids[:stop]]
