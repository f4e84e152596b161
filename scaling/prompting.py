"""Prompts as evaluation harnesses write them: worked examples, in running text or as a chat.

A `PromptForm` is how a benchmark writes a question for a model to continue. `Prompting` adds the
worked examples ("shots") and says whether the chat template is used:

| | without the template | with it |
|---|---|---|
| header | before the first question | in the first user's turn |
| an example | question, space, answer, blank line | a user's and an assistant's turn |
| what is scored by likelihood | a space and the option | the option |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from interp.errors import UserError
from interp.model.chat import RawPrompt

if TYPE_CHECKING:
    from interp.model.reasoning_model import Question

STOP = ("\nQuestion:", "\nQ:", "\nProblem:")  # a base model goes on with questions of its own


@dataclass(frozen=True)
class Shot:
    """A worked example.

    Attributes:
        question: the question, as the benchmark asks it.
        answer: what the model should write: a worked solution, a letter, or an option's text.
        subject: the subject for whose questions it is an example; "" for all.
    """

    question: str
    answer: str
    subject: str = ""


@dataclass(frozen=True)
class PromptForm:
    """How a benchmark writes a question in running text.

    Attributes:
        ask: the question's form, with "{question}"; the answer follows.
        header: what stands before the first question, with "{about}": " about " and the subject,
            or nothing.
    """

    ask: str = "Question: {question}\nAnswer:"
    header: str = ""


@dataclass(frozen=True)
class Prompting:
    """How the questions of a benchmark are put to a model.

    Attributes:
        form: how a question is written.
        chat: whether the chat template is used.
        shots: number of worked examples before the question.
        examples: the examples, in order.
        source: where the examples come from.
    """

    form: PromptForm = PromptForm()
    chat: bool = False
    shots: int = 0
    examples: tuple[Shot, ...] = field(default=(), repr=False)
    source: str = ""

    def chosen(self, question: str, subject: str) -> list[Shot]:
        """The examples for a question; one that asks the same is left out.

        Args:
            question: the question.
            subject: its subject; "" takes examples of no subject.

        Returns:
            The first `shots` examples of the subject, or all if there are fewer.

        Raises:
            UserError: there is none for the subject.
        """
        if not self.shots:
            return []
        own = [s for s in self.examples if s.subject in ("", subject) and s.question != question]
        if not own:
            raise UserError(
                f"There is no worked example for a question about {subject or 'no subject'!r} in "
                f"{self.source}: give a file that has some (--shots-from), or --shots NAME=0."
            )
        return own[: self.shots]

    def prompt(self, question: str, subject: str = "") -> Question:
        """The prompt of a question.

        Args:
            question: the question.
            subject: its subject, such as "college_physics".

        Returns:
            A `RawPrompt`, or messages where the chat template is used.
        """
        shots = self.chosen(question, subject)
        about = f" about {subject.replace('_', ' ')}" if subject else ""
        header = self.form.header.format(about=about)
        asked = [self.form.ask.format(question=s.question.strip()) for s in shots]
        last = self.form.ask.format(question=question.strip())
        first = f"{header}\n\n" if header else ""
        if not self.chat:
            told = [f"{ask} {s.answer}" for ask, s in zip(asked, shots, strict=True)]
            return RawPrompt(first + "\n\n".join([*told, last]))
        turns: list[dict[str, str]] = []
        for ask, shot in zip(asked, shots, strict=True):
            turns += [
                {"role": "user", "content": ask},
                {"role": "assistant", "content": shot.answer},
            ]
        turns.append({"role": "user", "content": last})
        turns[0]["content"] = first + turns[0]["content"]
        return turns

    def option(self, text: str) -> str:
        """An option as it follows the prompt."""
        return text if self.chat else f" {text}"

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Prompting:
        """Reads what `to_dict` wrote.

        Args:
            content: the fields.

        Returns:
            The prompting.
        """
        own = dict(content)
        own["form"] = PromptForm(**own["form"])
        own["examples"] = tuple(Shot(**shot) for shot in own["examples"])
        return cls(**own)


def prompt_length(prompt: Question) -> int:
    """Characters of a prompt, without what a chat template adds."""
    if isinstance(prompt, str):
        return len(prompt)
    turns: Sequence[Mapping[str, Any]] = prompt
    return sum(len(str(turn["content"])) for turn in turns)
