"""Thinking formats: how a model marks its thinking, and what the decoder writes for it.

With delimiters, a chain is `prompt think_start [thinking] think_end [answer] stop`. The decoder
writes `think_end` and `answer_prefix` when a thinking budget is spent, and `wait` in the place of
an early end of thinking (s1, arXiv 2501.19393).

The plain format has no delimiters: plain chain of thought (Wei et al. 2022, arXiv 2201.11903). The
whole completion thinks, the end of the sequence ends it, and the answer is what the completion
announces. A spent budget is followed by `answer_prefix` alone.

Where a format comes from, first that applies: what the caller gives; `delimiters.json` in the
checkpoint folder; `prunescope_delimiters` in the tokenizer's configuration; the table `FORMATS`,
by the chat template and the vocabulary; otherwise the plain format. docs/thinking_formats.md has
the table for readers.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from interp.errors import UserError
from interp.json_reader import short
from interp.plumbing.arguments import checked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FINAL_ANSWER = "\n\nFinal Answer:"
WAITS = ("Wait", "wait")  # the first that the tokenizer can spell
HELP = (
    "Pass delimiters=Delimiters(...) in words it has (--think-start, --think-end, --final-answer, "
    "--wait-word), or Delimiters.plain() (--no-thinking) for plain chain of thought. `prunescope "
    "score` and `prunescope prune` need no thinking format."
)
Origin = Literal["caller", "file", "tokenizer", "template", "vocabulary", "name", "none"]


@dataclass(frozen=True)
class DelimiterIds:
    """A thinking format as token ids of one tokenizer.

    Attributes:
        think_start: opens the thinking; empty in the plain format.
        think_end: closes the thinking; empty in the plain format.
        answer_prefix: written before an answer that a budget forces.
        wait: written in the place of an early end of thinking.
    """

    think_start: tuple[int, ...]
    think_end: tuple[int, ...]
    answer_prefix: tuple[int, ...]
    wait: tuple[int, ...]

    @property
    def plain(self) -> bool:
        """Whether there are no delimiters: plain chain of thought."""
        return not self.think_end

    @property
    def closing(self) -> tuple[int, ...]:
        """What the decoder writes to end the thinking: its end, and the answer's prefix."""
        return self.think_end + self.answer_prefix

    def closed_in(self, ids: tuple[int, ...]) -> bool:
        """Whether the last thinking in `ids` is closed; never in the plain format."""
        return not self.plain and _last(ids, self.think_end) > _last(ids, self.think_start)


def _last(ids: tuple[int, ...], part: tuple[int, ...]) -> int:
    n = len(part)
    return next((i for i in range(len(ids) - n, -1, -1) if ids[i : i + n] == part), -1)


@checked
@dataclass(frozen=True)
class Delimiters:
    """A thinking format as text.

    Attributes:
        think_start: opens the thinking; "" in the plain format.
        think_end: closes the thinking; "" in the plain format.
        answer_prefix: written before an answer that a budget forces; "" for nothing.
        wait: written in the place of an early end of thinking; "" if the model cannot be asked
            to wait.
    """

    think_start: str
    think_end: str
    answer_prefix: str = ""
    wait: str = "wait"

    @classmethod
    def plain(cls, answer_prefix: str = FINAL_ANSWER, wait: str = WAITS[0]) -> Delimiters:
        """Returns the format without delimiters: plain chain of thought.

        Args:
            answer_prefix: the sentence that asks for the answer when a budget is spent.
            wait: written in the place of an early end of the sequence.

        Returns:
            The format.
        """
        return cls("", "", answer_prefix, wait)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Delimiters:
        """Reads the fields of a delimiters.json.

        Args:
            content: `think_start` and `think_end` (both "" for the plain format), and if wanted
                `answer_prefix` and `wait`.

        Returns:
            The format.

        Raises:
            UserError: a field is unknown, missing or not text, or only one delimiter is given.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(content) - known):
            raise UserError(f"Delimiters with {short(unknown)}: expected only {sorted(known)}.")
        if missing := sorted({"think_start", "think_end"} - set(content)):
            raise UserError(f"Delimiters without {missing}.")
        if strange := [name for name, text in content.items() if not isinstance(text, str)]:
            raise UserError(
                f"Delimiters with {strange[0]} {short(content[strange[0]])}: expected some text."
            )
        found = cls(**content)
        found.check_pair()
        return found

    def to_dict(self) -> dict[str, str]:
        """Returns the fields, as delimiters.json holds them."""
        return asdict(self)

    @property
    def is_plain(self) -> bool:
        """Whether there are no delimiters: plain chain of thought."""
        return not self.think_end.strip()

    @property
    def name(self) -> str:
        """The format's name in `FORMATS`, "plain", or "own"."""
        if self.is_plain:
            return "plain"
        marks = (self.think_start.strip(), self.think_end.strip())
        return next((f.name for f in FORMATS if f.marks == marks), "own")

    @property
    def described(self) -> str:
        """What it is, in a few words for the log."""
        if self.is_plain:
            return "plain chain of thought (the whole completion thinks)"
        return f"{self.name} ({self.think_start!r} ... {self.think_end!r})"

    def check_pair(self) -> None:
        """Refuses one delimiter without the other.

        Raises:
            UserError: exactly one of `think_start` and `think_end` is empty.
        """
        if bool(self.think_start.strip()) != bool(self.think_end.strip()):
            empty = "think_end" if self.think_start.strip() else "think_start"
            raise UserError(
                f"The delimiter {empty} is empty: expected some text, or both delimiters empty for "
                "plain chain of thought."
            )

    @classmethod
    def find(cls, tokenizer: PreTrainedTokenizerBase) -> Delimiters:
        """Returns the format that a tokenizer declares or shows; the plain one if it shows none.

        Args:
            tokenizer: the tokenizer, with its chat template.

        Returns:
            The format.

        Raises:
            UserError: `prunescope_delimiters` in the tokenizer's configuration is no format.
        """
        return find_format(tokenizer)[0]

    def fitted(self, tokenizer: PreTrainedTokenizerBase) -> Delimiters:
        """Leaves out the words that the decoder writes and the tokenizer cannot spell.

        The delimiters themselves stay as they are: without them the format is another one.

        Args:
            tokenizer: the tokenizer.

        Returns:
            The format, with "wait" for "Wait" or without a word where that is needed.
        """
        prefix = self.answer_prefix if spells(tokenizer, self.answer_prefix) else ""
        tried = (self.wait, *WAITS) if self.wait else ()
        wait = next((word for word in tried if spells(tokenizer, word)), "")
        return replace(self, answer_prefix=prefix, wait=wait)

    def resolve(self, tokenizer: PreTrainedTokenizerBase) -> DelimiterIds:
        """Encodes the format.

        Args:
            tokenizer: the tokenizer.

        Returns:
            The token ids of each text.

        Raises:
            UserError: the tokenizer cannot spell a text, or only one delimiter is given.
        """
        self.check_pair()
        texts = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.is_plain:
            texts |= {"think_start": "", "think_end": ""}
        for name, text in texts.items():
            if text and not spells(tokenizer, text):
                raise UserError(
                    f"The tokenizer cannot spell the delimiter {name}={short(text)}. {HELP}"
                )
        return DelimiterIds(
            **{
                name: tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()
                for name, text in texts.items()
            }
        )


@dataclass(frozen=True)
class KnownFormat:
    """A format that models in use have, and how a tokenizer shows it.

    Attributes:
        name: short name.
        models: which models have it.
        start: opens the thinking.
        end: closes the thinking.
        prefix: written before a forced answer.
        shown: any of these in the chat template shows the format; the start and end by default.
        single: whether start and end as single tokens of a tokenizer without a chat template
            show it too.
        names: regular expression for the model's name, for formats that neither chat template
            nor vocabulary shows.
    """

    name: str
    models: str
    start: str
    end: str
    prefix: str = FINAL_ANSWER
    shown: tuple[str, ...] = ()
    single: bool = True
    names: str = ""

    @property
    def marks(self) -> tuple[str, str]:
        """Start and end without white space around them, as texts are searched for them."""
        return self.start.strip(), self.end.strip()

    @property
    def delimiters(self) -> Delimiters:
        """The format with the usual words."""
        return Delimiters(self.start, self.end, self.prefix, WAITS[0])

    def shown_by(self, tokenizer: PreTrainedTokenizerBase) -> Origin | None:
        """Finds where a tokenizer shows the format.

        Args:
            tokenizer: the tokenizer.

        Returns:
            "template", "vocabulary" or "name"; None if it does not show it.
        """
        name = str(getattr(tokenizer, "name_or_path", ""))
        if self.names and re.search(self.names, name, re.IGNORECASE):
            return "name"
        template = template_text(tokenizer)
        if template:
            return "template" if any(s in template for s in self.shown or self.marks) else None
        return "vocabulary" if self.single and all(map(_one(tokenizer), self.marks)) else None


# The first that a tokenizer shows is taken. Names are Hub names or folders.
FORMATS: tuple[KnownFormat, ...] = (
    KnownFormat(
        name="s1",
        models="s1, s1.1",
        start="<|im_start|>think\n",
        end="<|im_start|>answer",
        prefix="\nFinal Answer:",
        shown=("<|im_start|>think",),
        single=False,
        names=r"(^|/)s1(\.\d+)?-\d+b",  # their chat template is Qwen2.5's
    ),
    KnownFormat(
        name="harmony",
        models="gpt-oss",
        start="<|channel|>analysis<|message|>",
        end="<|end|><|start|>assistant<|channel|>final<|message|>",
        prefix="Final Answer:",
        shown=("<|channel|>analysis<|message|>",),
        single=False,
    ),
    KnownFormat(
        name="gemma",
        models="Gemma 4",
        start="<|channel>thought\n",
        end="<channel|>",
        prefix="Final Answer:",
        shown=("<|channel>thought",),
        single=False,
    ),
    KnownFormat("mistral", "Magistral, Ministral Reasoning", "[THINK]", "[/THINK]"),
    KnownFormat(
        name="kimi",
        models="Kimi-VL-Thinking, Kimi-Dev",
        start="◁think▷",
        end="◁/think▷",
        names=r"(^|/)kimi-(dev|vl-.*thinking)",  # the marks are ordinary text there
    ),
    KnownFormat("seed", "Seed-OSS", "<seed:think>", "</seed:think>"),
    KnownFormat("cohere", "Command A Reasoning", "<|START_THINKING|>", "<|END_THINKING|>"),
    KnownFormat("apertus", "Apertus", "<|inner_prefix|>", "<|inner_suffix|>"),
    KnownFormat("thought", "EXAONE Deep", "<thought>\n", "</thought>"),
    KnownFormat(
        name="think",
        models="Qwen3, QwQ, DeepSeek-R1 and its distills, SmolLM3, GLM 4.5, Nemotron, MobileLLM-R1",
        start="<think>",
        end="</think>",
        names=r"(^|/)mobilellm-r1",
    ),
)


@dataclass(frozen=True)
class FormatChoice:
    """A thinking format as a user asks for it; what is None comes from the model.

    Attributes:
        think_start: opens the thinking.
        think_end: closes the thinking.
        plain: plain chain of thought, whatever delimiters the model has.
        answer_prefix: written before an answer that a budget forces.
        wait: written in the place of an early end of thinking.
    """

    think_start: str | None = None
    think_end: str | None = None
    plain: bool = False
    answer_prefix: str | None = None
    wait: str | None = None

    def __post_init__(self) -> None:
        """Refuses contradictions with a UserError."""
        if (self.think_start is None) != (self.think_end is None):
            raise UserError(
                "One thinking delimiter without the other: give both --think-start and "
                "--think-end, or --no-thinking for plain chain of thought."
            )
        if self.plain and self.think_start is not None:
            raise UserError(
                "--no-thinking with --think-start: a format without delimiters has no start. Give "
                "one of them."
            )

    def of(self, own: Delimiters, tokenizer: PreTrainedTokenizerBase) -> Delimiters:
        """Completes the choice from a model's own format.

        Args:
            own: the model's own format.
            tokenizer: its tokenizer.

        Returns:
            The format; words that were not asked for are left out where the tokenizer cannot
            spell them.
        """
        if self.plain:
            own = Delimiters.plain().fitted(tokenizer)
        elif self.think_start is not None and self.think_end is not None:
            own = Delimiters(self.think_start, self.think_end, FINAL_ANSWER, WAITS[0])
            own = own.fitted(tokenizer)
        asked = {"answer_prefix": self.answer_prefix, "wait": self.wait}
        return replace(own, **{name: text for name, text in asked.items() if text is not None})


def find_format(tokenizer: PreTrainedTokenizerBase) -> tuple[Delimiters, Origin]:
    """Finds the format that a tokenizer declares or shows.

    Args:
        tokenizer: the tokenizer, with its chat template.

    Returns:
        The format and where it was found; the plain format and "none" if nothing shows another.

    Raises:
        UserError: `prunescope_delimiters` in the tokenizer's configuration is no format.
    """
    declared = tokenizer.init_kwargs.get("prunescope_delimiters")
    if isinstance(declared, dict):
        return Delimiters.from_dict(declared), "tokenizer"
    for known in FORMATS:
        origin = known.shown_by(tokenizer)
        if origin is not None and spells(tokenizer, known.start) and spells(tokenizer, known.end):
            return known.delimiters.fitted(tokenizer), origin
    return Delimiters.plain().fitted(tokenizer), "none"


def template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns the chat template of a tokenizer, several joined into one text; "" without one."""
    template: Any = getattr(tokenizer, "chat_template", None) or ""
    return "\n".join(map(str, template.values())) if isinstance(template, dict) else str(template)


def open_mark(text: str) -> str | None:
    """Finds whether a prompt ends with an open thinking.

    Args:
        text: the prompt.

    Returns:
        The text that closes it, or None if no known format is open at the end of the prompt.
    """
    end = text.rstrip()
    return next((f.end for f in FORMATS if end.endswith(f.marks[0])), None)


def spells(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Returns whether a tokenizer has tokens for the whole of a text.

    Args:
        tokenizer: the tokenizer.
        text: the text; "" can always be spelt.

    Returns:
        False if a part becomes the unknown token or is dropped. White space and case may change.
    """
    if not text:
        return True
    if any("\ud800" <= c <= "\udfff" for c in text):  # half a character, which no tokenizer takes
        return False
    ids = tokenizer.encode(text, add_special_tokens=False)
    if not ids or (tokenizer.unk_token_id in ids and tokenizer.unk_token != text):
        return False
    again = tokenizer.decode(ids, skip_special_tokens=False)
    return _bare(str(again)) == _bare(text)


def _bare(text: str) -> str:
    return "".join(text.split()).casefold()


def _one(tokenizer: PreTrainedTokenizerBase) -> Any:
    def one(text: str) -> bool:
        return len(tokenizer.encode(text, add_special_tokens=False)) == 1 and spells(
            tokenizer, text
        )

    return one
