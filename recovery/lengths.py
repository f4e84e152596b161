"""How long the training examples are, for an estimate: by the model's tokenizer, without weights.

s1K is not downloaded for an estimate; its size is the paper's. How long the answers will be that a
model writes itself, a few of its answers say (`tried_answers`).
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
    """Tokens of every training example: its prompt, and its answer with a loss (0: it has none)."""

    prompts: Float[np.ndarray, " N"]
    answers: Float[np.ndarray, " N"]
    how: str = "counted by the model's tokenizer"
    longest: float = 0.0  # tokens of the longest, where it is not among these

    @classmethod
    def of(cls, model: ReasoningModel, train: TrainingSet) -> Lengths:
        """The lengths of a training set; the model's weights are not used."""
        from recovery.tokens import prompt_of, tokens_of

        prompts, answers = [], []
        for example in train.examples:
            prompts.append(len(prompt_of(model, example)))
            answers.append(len(tokens_of(model, example).completion) if example.answered else 0)
        return cls(np.array(prompts, dtype=float), np.array(answers, dtype=float))

    @classmethod
    def s1k(cls, limit: int | None = None) -> Lengths:
        """s1K, which is not downloaded: as its paper counts it."""
        n = min(limit or S1K_EXAMPLES, S1K_EXAMPLES)
        answers = spread_lengths(S1K_TOKENS, 2 * S1K_TOKENS, n)
        return cls(np.full(n, S1K_PROMPT), answers, "as the paper of s1K counts them, not read",
                   S1K_LONGEST)  # fmt: skip

    def __len__(self) -> int:
        return len(self.prompts)

    def part(self, keep: Any) -> Lengths:
        """Some of the examples."""
        return replace(self, prompts=self.prompts[keep], answers=self.answers[keep])


def lengths_of(
    data: str, model: str, *, limit: int | None, seed: int, grader: str, trust_remote_code: bool
) -> Lengths:
    """Lengths of the training data as the run would read it. s1K is not downloaded."""
    from recovery.sources import training_set
    from scaling.engines.served_model import weightless

    if data == "s1k":
        return Lengths.s1k(limit)
    if model.endswith(".json"):
        raise UserError(
            f"{model} is a configuration without a tokenizer, by which {data!r} would be counted: "
            "give the folder or Hub name of the model (no weights are read), or --data s1k."
        )
    reader = weightless(model, trust_remote_code=trust_remote_code)
    return Lengths.of(reader, training_set(data, reader, limit=limit, seed=seed, grader=grader))


def tried_answers(
    model: ReasoningModel, train: TrainingSet, config: RecoveryConfig, n: int = 24
) -> float:
    """Of the tokens that an answer may take, what `n` answers of the model take."""
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
