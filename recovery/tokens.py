"""Examples as token ids: the prompt as it will be asked, then what is learnt.

The prompt is `ReasoningModel.prompt_ids`, so a trained model reads what a study asks, with the
thinking opened or closed. What follows comes from the chat template if the template keeps the
thinking of the last turn and writes the same prompt (Qwen3's does). Otherwise (R1's drops it) it
is assembled: thinking, its end, answer, end of sequence.

Only the completion has a loss; an example's `silent` tokens are read and have none. An example
longer than the context is left out whole and counted, because a cut one would teach to stop early
or never to answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interp.errors import UserError
from interp.model.chat import messages_of
from interp.model.chat_template import render
from interp.model.reasoning_model import ReasoningModel
from recovery.examples import Example, TrainingSet

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Tokens:
    """One example as token ids.

    Attributes:
        id: the example's id.
        prompt: ids of the prompt.
        completion: ids after it.
        learnt: `learnt[i]` says whether completion token i has a loss.
    """

    id: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    learnt: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)

    @property
    def ids(self) -> list[int]:
        """The whole sequence."""
        return [*self.prompt, *self.completion]

    @property
    def mask(self) -> list[int]:
        """1 for each token with a loss, otherwise 0."""
        return [0] * len(self.prompt) + [int(x) for x in self.learnt]


def prompt_of(model: ReasoningModel, example: Example) -> tuple[int, ...]:
    """The ids of an example's prompt.

    Args:
        model: its tokenizer and chat template are used.
        example: the example.

    Returns:
        The ids.
    """
    return tuple(model.prompt_ids(example.question, thinking=example.thinks))


def tokens_of(model: ReasoningModel, example: Example) -> Tokens:
    """Encode prompt and completion of an example.

    Args:
        model: its tokenizer and chat template are used.
        example: the example.

    Returns:
        The ids and what is learnt.

    Raises:
        UserError: the example has no answer, or the tokenizer no end-of-sequence token.
    """
    if not example.answered:
        raise UserError(f"Example {example.id!r} has no answer to learn from; leave it out.")
    prompt = prompt_of(model, example)
    completion = example.ids or _completion(model, example, prompt)
    learnt = tuple(i not in example.silent for i in range(len(completion)))
    return Tokens(example.id, prompt, tuple(completion), learnt)


def _completion(
    model: ReasoningModel, example: Example, prompt: tuple[int, ...]
) -> tuple[int, ...]:
    """The ids after the prompt, with the token that ends the turn."""
    if example.thinks and example.reasoning is not None:
        templated = _templated(model, example, prompt)
        if templated is not None:
            return templated
    end: Any = model.tokenizer.eos_token_id
    if end is None:
        raise UserError(f"{model.name} has no end-of-sequence token: set tokenizer.eos_token.")
    if example.thinks and model.delimiters.is_plain:
        return (*model.encode(_plain(example)), int(end))
    thinking: list[int] = []
    if example.thinks:
        thinking = model.encode(example.reasoning or "") + list(model.delimiter_ids.think_end)
    return (*thinking, *model.encode(example.answer), int(end))


def _plain(example: Example) -> str:
    """The completion of a model without delimiters: the reasoning leads up to the answer."""
    return "\n\n".join(part for part in (example.reasoning, example.answer) if part)


def _templated(
    model: ReasoningModel, example: Example, prompt: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The completion as the chat template writes it; None if the template changes it."""
    if not getattr(model.tokenizer, "chat_template", None):
        return None
    d = model.delimiters
    turns = messages_of(example.question)
    said = f"{d.think_start} {example.reasoning} {d.think_end} {example.answer}"
    said = _plain(example) if d.is_plain else said
    text = render(model.tokenizer, [*turns, {"role": "assistant", "content": said}])
    ids = tuple(model.encode(text))
    if ids[: len(prompt)] != prompt:
        return None
    rest = ids[len(prompt) :]
    ends = [i for i, token in enumerate(rest) if token in model.stop_ids]
    if not ends or not _holds(rest, model.delimiter_ids.think_end):
        return None
    return rest[: ends[-1] + 1]


def _holds(ids: tuple[int, ...], part: tuple[int, ...]) -> bool:
    n = len(part)
    return any(ids[i : i + n] == part for i in range(len(ids) - n + 1))


def fitting(
    model: ReasoningModel, train: TrainingSet, context: int
) -> tuple[list[Tokens], TrainingSet]:
    """Encode the examples that fit into the context.

    Args:
        model: its tokenizer and chat template are used.
        train: the examples.
        context: the largest number of tokens.

    Returns:
        The examples as ids, and the training set without the others, with a note.

    Raises:
        UserError: no example fits.
    """
    all_tokens = [tokens_of(model, example) for example in train.examples]
    kept = [tokens for tokens in all_tokens if len(tokens) <= context]
    long = [tokens for tokens in all_tokens if len(tokens) > context]
    if not kept:
        raise UserError(
            f"{train.name}: all {len(long)} examples are longer than the context of {context} "
            f"tokens (the shortest has {min(map(len, long))}): raise --context."
        )
    if not long:
        return kept, train
    names = {tokens.id for tokens in kept}
    return kept, train.with_examples(
        [e for e in train.examples if e.id in names],
        f"{len(long)} of {len(all_tokens)} examples are longer than {context} tokens and are left "
        f"out (the longest has {max(map(len, long))})",
    )


def dataset_of(tokens: Sequence[Tokens]) -> Dataset:
    """Make the data set of TRL's `SFTTrainer`: `input_ids` and `completion_mask`."""
    from datasets import Dataset

    columns: dict[str, Any] = {
        "input_ids": [t.ids for t in tokens],
        "completion_mask": [t.mask for t in tokens],
    }
    return Dataset.from_dict(columns)


def prompts_of(
    model: ReasoningModel, train: TrainingSet, room: int
) -> tuple[dict[str, tuple[int, ...]], TrainingSet]:
    """Encode the prompts that leave room for an answer in the model's positions.

    Args:
        model: its tokenizer and chat template are used.
        train: the examples.
        room: tokens of the answer.

    Returns:
        Prompts by example id, and the training set without the others, with a note.

    Raises:
        UserError: no prompt leaves room.
    """
    found = {e.id: prompt_of(model, e) for e in train.examples}
    limit = model.max_positions - room
    kept = {name: ids for name, ids in found.items() if len(ids) <= limit}
    if not kept:
        raise UserError(
            f"{train.name}: no prompt leaves room for {room} tokens in the {model.max_positions} "
            f"positions of {model.name!r}: lower the thinking or answer budget."
        )
    if len(kept) == len(found):
        return kept, train
    return kept, train.with_examples(
        [e for e in train.examples if e.id in kept],
        f"{len(found) - len(kept)} of {len(found)} prompts leave no room for {room} tokens and "
        "are left out",
    )
