"""Worked examples for prompts: from a benchmark's own file, or from a file of the user's.

A file holds records of the benchmark itself, with a field "solution" where the model should reason
(GSM8K's own "... #### 18" holds one). For MMLU it may also be the dev file of
lm-evaluation-harness with chains of thought (_cot_prompts.json: a prompt by subject).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from interp.errors import UserError
from interp.json_reader import parse_json, read_utf8
from scaling.problem import Problem
from scaling.prompting import PromptForm, Prompting, Shot
from scaling.records import Record, read_file

CHAT_TEMPLATE = ("auto", "yes", "no")
OWN = Path(__file__).parent / "examples"
_CALCULATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's notes for a calculator
_ITEM = re.compile(
    r"(?P<question>.*?)\n\(A\) (?P<A>.*?)\s+\(B\) (?P<B>.*?)\s+\(C\) (?P<C>.*?)\s+\(D\) (?P<D>.*?)"
    r"\nA: Let's think step by step\.\s*(?P<why>.*?)\s*The answer is \((?P<letter>[A-D])\)\.?",
    re.DOTALL,
)


@dataclass(frozen=True)
class PromptChoice:
    """How a user wants the benchmarks asked.

    Attributes:
        chat_template: "yes" or "no", or "auto": where the model has one.
        shots: number of worked examples by benchmark.
        shots_from: file of worked examples by benchmark, where it is not the benchmark's own.
        without_template: benchmarks asked without the chat template, whatever `chat_template` is.
    """

    chat_template: str = "auto"
    shots: Mapping[str, int] = field(default_factory=dict, hash=False)
    shots_from: Mapping[str, str] = field(default_factory=dict, hash=False)
    without_template: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.chat_template not in CHAT_TEMPLATE:
            raise UserError(
                f"chat_template {self.chat_template!r}: expected 'auto', 'yes' or 'no'."
            )
        for name, n in self.shots.items():
            if isinstance(n, bool) or not isinstance(n, int) or n < 0:
                raise UserError(f"shots of {name!r}: {n!r} is not a whole number >= 0.")

    def check_names(self, names: Collection[str]) -> None:
        """Refuses choices for a benchmark that is not asked, and a file that is not used.

        Args:
            names: the benchmarks.

        Raises:
            UserError: a name is not among them, or a file is given and no number of examples.
        """
        for what, given in (
            ("shots", self.shots),
            ("shots_from", self.shots_from),
            ("without_template", self.without_template),
        ):
            if strange := sorted(set(given) - set(names)):
                raise UserError(
                    f"{what}: {strange} is not among the benchmarks ({', '.join(names)})."
                )
        if unused := sorted(name for name in self.shots_from if not self.shots.get(name)):
            raise UserError(
                f"shots_from names {unused[0]!r}, which gets no examples: say how many with "
                f"--shots {unused[0]}=5."
            )

    def settings(self) -> dict[str, Any]:
        """What decides a row, for JSON; the examples themselves are part of the problems."""
        left_out = {"shots_from"} if self.without_template else {"shots_from", "without_template"}
        return {k: v for k, v in asdict(self).items() if k not in left_out}

    def prompting(
        self,
        name: str,
        form: PromptForm | None,
        make: Callable[[Record], Problem] | None,
        by_likelihood: bool,
        has_template: bool,
        subjects: Collection[str] | None,
    ) -> Prompting | None:
        """How a benchmark is asked.

        Args:
            name: name of the benchmark.
            form: how it writes a question; None if it can only be asked in its own way.
            make: its function from a record to a problem.
            by_likelihood: whether its choices are scored by likelihood.
            has_template: whether the model has a chat template.
            subjects: subjects of its problems; None takes examples for every subject as examples
                for all questions.

        Returns:
            The prompting; None for the question with its instruction in the chat template.

        Raises:
            UserError: the model has no template, or examples are missing or cannot be read.
        """
        shots = self.shots.get(name, 0)
        template = "no" if name in self.without_template else self.chat_template
        if form is None or make is None:
            if shots or template == "no":
                raise UserError(
                    f"{name!r} generates its problems and asks them in its own way: leave it out "
                    "of --shots and --without-template, and --chat-template as it is."
                )
            return None
        if template == "yes" and not has_template:
            raise UserError("chat_template 'yes': the model has no chat template; leave it 'auto'.")
        chat = has_template if template == "auto" else template == "yes"
        if not shots:
            return None if chat else Prompting(form)
        file = Path(self.shots_from.get(name) or OWN / f"{name}.jsonl")
        if name not in self.shots_from and not file.is_file():
            raise UserError(
                f"{name!r} has no worked examples of its own: give a file of records with "
                f"--shots-from {name}=FILE (of another split than the problems)."
            )
        about = "{about}" in form.header and subjects is not None
        found = [_shot(make, r, by_likelihood, about) for r in read_examples(file)]
        found = list(dict.fromkeys(s for s in found if not about or s.subject in (subjects or ())))
        source = f"the file {file.name}" if name in self.shots_from else "its own examples"
        return Prompting(form, chat, shots, tuple(found), source)


def read_examples(file: Path) -> list[Record]:
    """Reads records of worked examples.

    Args:
        file: records as `read_file` reads them, or a JSON object of prompts by subject.

    Returns:
        The records.

    Raises:
        UserError: the file cannot be read, or a prompt holds no example.
    """
    if file.suffix.lower() == ".json" and file.is_file():
        content = parse_json(read_utf8(file), file.name)
        if isinstance(content, dict):
            found = [r for item in content.items() for r in _of_prompt(file.name, *item)]
            return [Record(r.fields, r.where, i) for i, r in enumerate(found)]
    return read_file(file)


def _of_prompt(file: str, subject: str, prompt: Any) -> Iterator[Record]:
    """The examples of a prompt with chains of thought; those in another form are passed over."""
    where = f"{file}, {subject}"
    parts = re.split(r"(?:^|\n)\s*Q: ", prompt)[1:] if isinstance(prompt, str) else []
    found = [match for part in parts if (match := _ITEM.fullmatch(part.strip()))]
    if not found:
        raise UserError(
            f"{where}: no example of the form 'Q: ... (A) ... (D) ... A: Let's think step by step. "
            "... The answer is (B).' in it."
        )
    for match in found:
        fields = {
            "question": match["question"].strip(),
            "choices": [match[letter].strip() for letter in "ABCD"],
            "answer": match["letter"],
            "subject": subject,
            "solution": match["why"],
        }
        yield Record(fields, where, 0)


def _shot(
    make: Callable[[Record], Problem], record: Record, by_likelihood: bool, about: bool
) -> Shot:
    problem = make(record)
    subject = str(problem.metadata.get("subject") or "") if about else ""
    if by_likelihood:
        return Shot(problem.question, problem.answer, subject)
    solution = record.fields.get("solution") or problem.metadata.get("solution") or ""
    told = _CALCULATION.sub("", str(solution)).strip()
    if not told:
        raise record.wrong("solution", "missing; an example shows how its answer is found.")
    if "\\boxed" not in told and "answer is" not in told:
        answer = f"({problem.answer})" if problem.choices else problem.answer
        told = f"{told} The answer is {answer}."
    return Shot(problem.question, told, subject)


def subjects_of(problems: Sequence[Problem]) -> set[str]:
    """The subjects of problems."""
    return {str(p.metadata.get("subject") or "") for p in problems}
