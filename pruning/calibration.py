"""Calibration: the token sequences that a criterion reads, and a hash that identifies them.

Sequences come from texts (strings), prompts (lists of messages, through the chat template), token
ids, or the model's own chains; one list may mix them. A chain keeps its prompt and its generated
tokens apart: `part` says which of them count. Tokens that do not count are still context.

Texts come from a list, from a file (`read_texts`), or from a data set of the Hugging Face Hub
(`hub_texts`, the only function that needs the package `datasets`).

The hash is the sha256 of the sequences, their prompt lengths and the part. It does not depend on
the order of the sequences, because the order changes no score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

from interp.chains.chain import Chain
from interp.errors import UserError, check_known, did_you_mean
from interp.json_reader import parse_json, read_utf8, whole_text
from interp.model.chat import RawPrompt
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief

Part = Literal["all", "prompt", "generated"]
PARTS = ("all", "prompt", "generated")
FIELDS = ("text", "question", "problem", "prompt", "content")  # tried in this order
KINDS = "a text, a list of messages, token ids or a Chain"


@checked
@brief
@dataclass(frozen=True)
class Calibration:
    """Token sequences for calibration.

    Attributes:
        sequences: token ids of each sequence, int64 [T].
        prompts: `prompts[i]` is the number of leading tokens of sequence i that are prompt: 0 for a
            text, all of them for a prompt.
        part: which tokens count: "all", "prompt" or "generated".
        hash: sha256 of sequences, prompt lengths and part, as hexadecimal text.
    """

    sequences: tuple[Int[np.ndarray, " _"], ...]
    prompts: tuple[int, ...]
    part: Part
    hash: str

    @classmethod
    def of(
        cls,
        model: ReasoningModel,
        texts: Any,
        part: Part | None = None,
        max_tokens: int | None = None,
    ) -> Calibration:
        """Build a calibration from texts, messages, token ids or chains.

        Args:
            model: its tokenizer and chat template encode the texts and messages.
            texts: a list whose items are texts, lists of messages, token ids or chains; or one
                text, one
                chain, or a Calibration.
            part: which tokens count. Default: that of the given Calibration, otherwise "all".
            max_tokens: cut every sequence to this many first tokens, at least 2. Default: keep all.

        Returns:
            The calibration.

        Raises:
            UserError: there is no text, an item has another type or fewer than 2 tokens, `part` is
                unknown, or no token counts.
        """
        if isinstance(texts, Calibration):
            if part in (None, texts.part) and max_tokens is None:
                return texts
            pairs = list(zip(texts.sequences, texts.prompts, strict=True))
            return _built(pairs, part or texts.part, max_tokens)
        if part is not None:
            check_known(part, PARTS, "part of a chain")
        if texts is None:
            raise UserError("This criterion needs calibration texts and none was given.")
        if isinstance(texts, (str, Chain)):
            texts = [texts]
        if not isinstance(texts, (Sequence, np.ndarray)) or len(texts) == 0:
            raise UserError(f"No calibration text: expected a list of at least one; {KINDS} each.")
        if isinstance(texts[0], (int, np.integer)):
            raise UserError("Calibration ids must be a list of sequences: wrap the one in a list.")
        return _built([_read(model, item, i) for i, item in enumerate(texts)], part, max_tokens)

    @property
    def n_tokens(self) -> int:
        """The number of tokens that count."""
        return int(sum(mask.sum() for mask in self.counted()))

    def counted(self) -> list[Bool[np.ndarray, " _"]]:
        """Return one bool mask [T] per sequence: the tokens that count."""
        masks = []
        for ids, prompt in zip(self.sequences, self.prompts, strict=True):
            mask = np.ones(len(ids), dtype=bool)
            if self.part == "prompt":
                mask[prompt:] = False
            elif self.part == "generated":
                mask[:prompt] = False
            masks.append(mask)
        return masks


def _read(model: ReasoningModel, item: Any, index: int) -> tuple[np.ndarray, int]:
    """The token ids of one item, and how many of them are prompt."""
    if isinstance(item, RawPrompt):
        ids = np.asarray(model.prompt_ids(item, thinking=False), dtype=np.int64)
        return ids, len(ids)
    if isinstance(item, str):
        return np.asarray(model.encode(item), dtype=np.int64), 0
    if isinstance(item, Chain):
        ids = np.concatenate([np.asarray(item.prompt_ids), np.asarray(item.ids)])
        return ids.astype(np.int64), len(item.prompt_ids)
    if isinstance(item, Sequence) and len(item) and isinstance(item[0], Mapping):
        ids = np.asarray(model.prompt_ids([dict(turn) for turn in item]), dtype=np.int64)
        return ids, len(ids)
    try:
        ids = np.asarray(item)
    except (ValueError, TypeError) as error:
        raise UserError(f"Calibration text {index} is not {KINDS}.") from error
    if ids.ndim == 1 and not len(ids):
        return ids.astype(np.int64), 0
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"Calibration text {index} is {type(item).__name__}: expected {KINDS}.")
    return ids.astype(np.int64), 0


def _built(
    pairs: Sequence[tuple[np.ndarray, int]], part: Part | None, max_tokens: int | None
) -> Calibration:
    """A checked calibration of (token ids, prompt length) pairs."""
    if max_tokens is not None:
        if max_tokens < 2:
            raise UserError(f"max_tokens={max_tokens}: expected at least 2.")
        pairs = [(ids[:max_tokens], min(prompt, max_tokens)) for ids, prompt in pairs]
    for index, (ids, _) in enumerate(pairs):
        if len(ids) < 2:
            raise UserError(
                f"Calibration text {index} is {'empty' if not len(ids) else 'one token long'}: "
                "expected at least 2 tokens. Drop it."
            )
    chosen: Part = part or "all"
    digests = sorted(
        hashlib.sha256(f"{prompt}:".encode() + np.asarray(ids, dtype="<i8").tobytes()).digest()
        for ids, prompt in pairs
    )
    name = hashlib.sha256(chosen.encode() + b"".join(digests)).hexdigest()
    sequences = tuple(ids for ids, _ in pairs)
    built = Calibration(sequences, tuple(prompt for _, prompt in pairs), chosen, name)
    if built.n_tokens == 0:
        raise UserError(
            f"No token counts with part={chosen!r}: the sequences have no such part. Give chains, "
            'or part="all".'
        )
    return built


# ------------------------------------------------------------------------- texts from outside

OTHER_FORMATS = (".json", ".parquet", ".csv", ".tsv", ".arrow", ".gz", ".zip")


@checked
def read_texts(
    file: str | Path,
    field: str | None = None,
    *,
    paragraphs: bool = False,
    fields: Sequence[str] = FIELDS,
    blank: bool = False,
) -> list[str]:
    """Read the texts of a file: one text per line, or one JSON object per line (.jsonl, .ndjson).

    Args:
        file: the path of the file, UTF-8.
        field: the field of each JSON object that holds the text. Default: the first of "text",
            "question", "problem", "prompt", "content" that holds a string.
        paragraphs: in a plain file, blank lines separate the texts, and line breaks are kept.
        fields: fields to look for, in this order, where `field` is not given.
        blank: keep records whose text is blank.

    Returns:
        The texts; blank ones are left out.

    Raises:
        UserError: the file cannot be read or holds no text, or a record has no such field.
    """
    path = Path(file)
    if path.suffix.lower() in OTHER_FORMATS:  # read line by line, their brackets would be texts
        raise UserError(
            f"{str(path)!r}: texts are not read from {path.suffix}; expected one text per line, or "
            "one JSON object per line (.jsonl)."
        )
    content = read_utf8(path)
    lines = content.replace("\r\n", "\n").split("\n")  # a text may hold other line breaks
    if path.suffix in (".jsonl", ".ndjson"):
        numbered = ((f"{path}, line {n}", x) for n, x in enumerate(lines, start=1) if x.strip())
        found = [_text_of(_record(x, where), field, where, fields) for where, x in numbered]
    elif paragraphs:
        blank_lines_bare = "\n".join(line if line.strip() else "" for line in lines)
        found = [part.strip("\n") for part in blank_lines_bare.split("\n\n")]
    else:
        found = lines
    records = path.suffix in (".jsonl", ".ndjson")
    found = [text for text in found if text.strip() or (blank and records)]
    if not found:
        raise UserError(
            f"{str(path)!r} is empty: expected one text per line, or one JSON object per line "
            "(.jsonl)."
        )
    return found


@checked
def hub_texts(
    name: str,
    config: str | None = None,
    *,
    split: str = "train",
    field: str | None = None,
    limit: int = 128,
) -> list[str]:
    """Read the first non-blank texts of a data set of the Hugging Face Hub, as a stream.

    Args:
        name: the data set's name on the Hub.
        config: the data set's configuration. Default: its own default.
        split: the split to read.
        field: the field that holds the text. Default: the first usual one, as in `read_texts`.
        limit: the largest number of texts, at least 1.

    Returns:
        At most `limit` texts.

    Raises:
        UserError: `datasets` is not installed, the data set cannot be read, or it holds no text.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            "Reading texts from the Hub needs the package `datasets`: pip install "
            "'prunescope[hub]', or give a file of texts."
        ) from None
    if limit < 1:
        raise UserError(f"limit={limit}: expected at least 1 text.")
    where = f"{name} ({config or 'default'}, {split})"
    try:
        rows = datasets.load_dataset(name, config, split=split, streaming=True)
        texts = (_text_of(row, field, where) for row in rows)
        found = list(islice((text for text in texts if text.strip()), limit))
    except UserError:
        raise
    except Exception as error:  # datasets raises many kinds: offline, gated, renamed, no such split
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{where} could not be read from the Hub: {reason[0] if reason else repr(error)} "
            "Check the name, the configuration and the split, or give a file of texts."
        ) from error
    if not found:
        raise UserError(f"{where} holds no text.")
    return found


def _record(line: str, where: str) -> Mapping[str, Any]:
    """The JSON object on one line of a .jsonl file."""
    record = parse_json(line, where)
    if not isinstance(record, Mapping):
        raise UserError(f"{where}: expected a JSON object.")
    return record


def _text_of(
    record: Mapping[str, Any], field: str | None, where: str, fields: Sequence[str] = FIELDS
) -> str:
    """The text of a record, in the field named or the first of the usual ones."""
    for name in [field] if field else fields:
        if isinstance(record.get(name), str):
            return whole_text(record[name], where)
    has = [name for name, value in record.items() if isinstance(value, str)]
    wanted = did_you_mean(field or fields[0], has, "field")
    raise UserError(f"{where}: no text. {wanted} Name the field that holds it (--field).")
