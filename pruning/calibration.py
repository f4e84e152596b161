"""Calibration: the token sequences a criterion looks at, with a hash that names them.

Taken from texts (strings), prompts (lists of messages, through the chat template), token ids, or
the model's own chains; a list may mix them. A chain keeps its prompt and its generated tokens
apart: `part` says which of them count. What does not count is still read as context.

The hash is the sha256 of the sequences, their prompt lengths and the part; the order of the
sequences does not enter, for it changes no score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

from interp.chains import Chain
from interp.errors import UserError, did_you_mean
from interp.model import ReasoningModel

Part = Literal["all", "prompt", "generated"]
PARTS = ("all", "prompt", "generated")
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
