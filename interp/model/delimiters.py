"""The strings that open and close a model's thinking, and those that the engine writes.

A chain is `prompt think_start [thinking] think_end [answer] stop`. The engine writes `think_end`
and `answer_prefix` when a thinking budget is spent, and `wait` when thinking shall go on after an
early end (s1, arXiv 2501.19393).

Sources, in order of precedence: the caller's argument; `delimiters.json` in the checkpoint folder;
`prunescope_delimiters` in the tokenizer's configuration; `<think>` and `</think>`, if the tokenizer
has both as single tokens. Otherwise it is an error, because a wrong guess would measure nothing
without any sign of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from interp.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class DelimiterIds:
    """The delimiters as token ids of one tokenizer.

    Attributes:
        think_start: ids that open the thinking.
        think_end: ids that close it.
        answer_prefix: ids written before a forced answer; may be empty.
        wait: ids written in place of an early end of thinking; may be empty.
    """

    think_start: tuple[int, ...]
    think_end: tuple[int, ...]
    answer_prefix: tuple[int, ...]
    wait: tuple[int, ...]

    @property
    def closing(self) -> tuple[int, ...]:
        """What the engine writes to end the thinking: `think_end` and `answer_prefix`."""
        return self.think_end + self.answer_prefix

    def closed_in(self, ids: tuple[int, ...]) -> bool:
        """Whether the last thinking in a prompt is already closed.

        Args:
            ids: token ids of the prompt.

        Returns:
            True if the last `think_end` comes after the last `think_start`.
        """
        return _last(ids, self.think_end) > _last(ids, self.think_start)


def _last(ids: tuple[int, ...], part: tuple[int, ...]) -> int:
    n = len(part)
    return next((i for i in range(len(ids) - n, -1, -1) if ids[i : i + n] == part), -1)


@dataclass(frozen=True)
class Delimiters:
    """The delimiters as text.

    Attributes:
        think_start: opens the thinking; not empty.
        think_end: closes it; not empty.
        answer_prefix: written before a forced answer; "" for none.
        wait: written in place of an early end of thinking; "" for none.
    """

    think_start: str
    think_end: str
    answer_prefix: str = ""
    wait: str = "wait"

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Delimiters:
        """Read delimiters from a JSON object.

        Args:
            content: field name -> text; `think_start` and `think_end` are required.

        Returns:
            The delimiters.

        Raises:
            UserError: a field is unknown, missing, or not text.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(content) - known):
            raise UserError(f"Delimiters with {unknown}: expected only {sorted(known)}.")
        if missing := sorted({"think_start", "think_end"} - set(content)):
            raise UserError(f"Delimiters without {missing}: expected both fields.")
        if strange := [name for name, text in content.items() if not isinstance(text, str)]:
            raise UserError(
                f"Delimiters with {strange[0]} {content[strange[0]]!r}: expected some text."
            )
        return cls(**content)

    def to_dict(self) -> dict[str, str]:
        """The fields as a dictionary that `from_dict` reads."""
        return asdict(self)

    @classmethod
    def find(cls, tokenizer: PreTrainedTokenizerBase) -> Delimiters:
        """The delimiters that a tokenizer declares, or the single tokens `<think>` and `</think>`.

        Args:
            tokenizer: the model's tokenizer.

        Returns:
            The delimiters.

        Raises:
            UserError: the tokenizer neither declares delimiters nor has both tokens.
        """
        declared = tokenizer.init_kwargs.get("prunescope_delimiters")
        if isinstance(declared, dict):
            return cls.from_dict(declared)
        for start, end in (("<think>", "</think>"),):
            if _is_one_token(tokenizer, start) and _is_one_token(tokenizer, end):
                prefix = "\n\nFinal Answer:"
                prefix = prefix if _knows(tokenizer, prefix) else ""
                wait = "Wait" if _knows(tokenizer, "Wait") else "wait"
                return cls(start, end, prefix, wait if _knows(tokenizer, wait) else "")
        raise UserError(
            "The tokenizer has no <think> and </think> as single tokens, so where thinking ends "
            "is not known. Pass delimiters=Delimiters(think_start=..., think_end=...) or put a "
            "delimiters.json into the checkpoint folder."
        )

    def resolve(self, tokenizer: PreTrainedTokenizerBase) -> DelimiterIds:
        """Encode the delimiters.

        Args:
            tokenizer: the model's tokenizer.

        Returns:
            The token ids of each delimiter.

        Raises:
            UserError: the tokenizer cannot encode one of them, or a thinking delimiter is empty.
        """
        ids = {}
        for field in fields(self):
            text = getattr(self, field.name)
            found = tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()
            if text and (not found or not _knows(tokenizer, text)):
                raise UserError(
                    f"The tokenizer cannot spell the delimiter {field.name}={text!r}: "
                    "pass delimiters=Delimiters(...) with text that it can encode."
                )
            if not text and field.name in ("think_start", "think_end"):
                raise UserError(f"The delimiter {field.name} is empty: expected some text.")
            ids[field.name] = found
        return DelimiterIds(**ids)


def _is_one_token(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    return len(tokenizer.encode(text, add_special_tokens=False)) == 1 and _knows(tokenizer, text)


def _knows(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    ids = tokenizer.encode(text, add_special_tokens=False)
    unknown = tokenizer.unk_token_id
    return bool(ids) and (unknown is None or unknown not in ids)
