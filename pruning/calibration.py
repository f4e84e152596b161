"""Calibration: the token sequences a criterion looks at, with a hash that names them.

Taken from texts (strings), prompts (lists of messages, through the chat template), token ids, or
the model's own chains; a list may mix them. A chain keeps its prompt and its generated tokens
apart: `part` says which of them count. What does not count is still read as context.

Texts come from a list, from a file (`read_texts`), or from a data set of the Hub (`hub_texts`,
only when it is called, and only then is `datasets` needed).

The hash is the sha256 of the sequences, their prompt lengths and the part; the order of the
sequences does not enter, for it changes no score.
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
from interp.errors import UserError, did_you_mean
from interp.json_reader import parse_json, read_utf8, whole_text
from interp.model.reasoning_model import ReasoningModel

Part = Literal["all", "prompt", "generated"]
PARTS = ("all", "prompt", "generated")
FIELDS = ("text", "question", "problem", "prompt", "content")  # looked for in this order
KINDS = "a text, a list of messages, token ids or a Chain"


@dataclass(frozen=True)
class Calibration:
    """Sequences of token ids; `prompts[i]` tokens of sequence i are its prompt.

    A text has no prompt (0), a prompt has nothing else.
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
        """Calibration from whatever the caller has; a Calibration passes through.

        max_tokens: cut every sequence to its first tokens.
        """
        if isinstance(texts, Calibration):
            if part in (None, texts.part) and max_tokens is None:
                return texts
            pairs = list(zip(texts.sequences, texts.prompts, strict=True))
            return _built(pairs, part or texts.part, max_tokens)
        if part is not None and part not in PARTS:
            raise UserError(did_you_mean(part, PARTS, "part of a chain"))
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
        """Tokens that count."""
        return int(sum(mask.sum() for mask in self.counted()))

    def counted(self) -> list[Bool[np.ndarray, " _"]]:
        """For each sequence, which of its tokens count."""
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
    """The ids of one item and how many of them are prompt."""
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


def read_texts(
    file: str | Path,
    field: str | None = None,
    *,
    paragraphs: bool = False,
    fields: Sequence[str] = FIELDS,
    blank: bool = False,
) -> list[str]:
    """The texts of a file: a text a line, or a JSON object a line where it ends in .jsonl.

    field: of a .jsonl, what holds the text (default: "text", or what questions are usually
    called). paragraphs: texts of a plain file are parted by blank lines, and keep their line
    breaks. fields: where else to look for a text, in this order, if no field is named. Blank texts
    are left out; with `blank`, records whose text is blank are kept.
    """
    path = Path(file)
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
            f"{str(path)!r} is empty: expected a text a line, or a JSON object a line (.jsonl)."
        )
    return found


def hub_texts(
    name: str,
    config: str | None = None,
    *,
    split: str = "train",
    field: str | None = None,
    limit: int = 128,
) -> list[str]:
    """The first `limit` non-blank texts of a data set of the Hugging Face Hub, read as a stream."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            "Texts of the Hub are read through `datasets`: pip install 'prunescope[hub]', or give "
            "a file of texts."
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
