"""The lengths of the training examples, for an estimate: by the model's tokenizer, without weights.

s1K is not downloaded for an estimate; its size is the one in the paper. For answers that a model
will write itself, a few sampled answers give the length (`tried_answers`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.errors import UserError
from scaling.costs.decode_speed import spread_lengths

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel
    from recovery.examples import TrainingSet
    from recovery.recovery_config import RecoveryConfig

#: s1K as its paper counts it (arXiv 2501.19393): 1,000 examples, 4.7 M tokens of traces.
S1K_EXAMPLES, S1K_TOKENS, S1K_PROMPT = 1000, 4700.0, 200.0
S1K_LONGEST = 32768.0  # the block size at which the paper cuts none


@dataclass(frozen=True)
class Lengths:
    """The number of tokens of every training example.

    Attributes:
        prompts: tokens of each prompt [N].
        answers: tokens with a loss of each answer [N]; 0 if there is no answer.
        how: how they were counted.
        longest: tokens of the longest example, if it is not among these.
    """

    prompts: Float[np.ndarray, " N"]
    answers: Float[np.ndarray, " N"]
    how: str = "counted by the model's tokenizer"
    longest: float = 0.0

    @classmethod
    def of(cls, model: ReasoningModel, train: TrainingSet) -> Lengths:
        """Count the tokens of a training set; the model's weights are not used.

        Args:
            model: its tokenizer counts.
            train: the examples.

        Returns:
            The lengths.
        """
        from recovery.tokens import prompt_of, tokens_of

        prompts, answers = [], []
        for example in train.examples:
            prompts.append(len(prompt_of(model, example)))
            answers.append(len(tokens_of(model, example).completion) if example.answered else 0)
        return cls(np.array(prompts, dtype=float), np.array(answers, dtype=float))

    @classmethod
    def s1k(cls, limit: int | None = None) -> Lengths:
        """The lengths of s1K as its paper counts them, without a download.

        Args:
            limit: the largest number of examples. Default: all 1,000.

        Returns:
            The lengths.
        """
        n = min(limit or S1K_EXAMPLES, S1K_EXAMPLES)
        answers = spread_lengths(S1K_TOKENS, 2 * S1K_TOKENS, n)
        return cls(np.full(n, S1K_PROMPT), answers, "as the paper of s1K counts them, not read",
                   S1K_LONGEST)  # fmt: skip

    def __len__(self) -> int:
        return len(self.prompts)

    def part(self, keep: Any) -> Lengths:
        """The lengths of some of the examples.

        Args:
            keep: a numpy index into the examples.

        Returns:
            The lengths.
        """
        return replace(self, prompts=self.prompts[keep], answers=self.answers[keep])

    def written(self, tokens: float) -> Lengths:
        """The same prompts with answers of `tokens` tokens each."""
        return replace(self, answers=np.full(len(self), tokens))


def lengths_of(
    data: str, model: str, *, limit: int | None, seed: int, grader: str, trust_remote_code: bool
) -> Lengths:
    """Lengths of the training data as a run would read it; s1K is not downloaded.

    Args:
        data: the training data, as for `recovery.sources.training_set`.
        model: folder or Hub name of the model; only its tokenizer is read.
        limit: the largest number of examples.
        seed: the seed of the choice of examples.
        grader: the grader of gold answers.
        trust_remote_code: whether Python code from the checkpoint may run.

    Returns:
        The lengths.

    Raises:
        UserError: the data cannot be read, or `model` has no tokenizer.
    """
    from recovery.sources import training_set
    from scaling.engines.served_model import weightless

    if data == "s1k":
        return Lengths.s1k(limit)
    if model.endswith(".json"):
        raise UserError(
            f"{model} is a configuration without a tokenizer, so the tokens of {data!r} cannot be "
            "counted: give the folder or Hub name of the model (no weights are read), or --data "
            "s1k."
        )
    reader = weightless(model, trust_remote_code=trust_remote_code)
    return Lengths.of(reader, training_set(data, reader, limit=limit, seed=seed, grader=grader))


def tried_answers(
    model: ReasoningModel, train: TrainingSet, config: RecoveryConfig, n: int = 24
) -> float:
    """The share of the answer budget that sampled answers of the model use.

    Args:
        model: the model.
        train: the questions.
        config: budget, sampling and seed.
        n: how many answers to sample.

    Returns:
        The mean number of tokens over the budget, at most 1.
    """
    from interp.chains.chain import Budget
    from interp.decoding.sampling import Sampling
    from recovery.tokens import prompt_of
    from recovery.writing import Writer

    order = np.random.default_rng(0).permutation(len(train))[:n]
    prompts = [prompt_of(model, train.examples[int(i)]) for i in order]
    sampling = Sampling(temperature=config.temperature, top_p=config.top_p)
    writer = Writer(model, Budget(config.thinking, config.answer), sampling, config.seed)
    made = writer.write(model.hf, prompts, "trial")
    spent = float(np.mean([max(1, len(ids)) for ids in made]))
    return min(1.0, spent / (config.thinking + config.answer))
