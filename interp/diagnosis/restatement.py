"""Restatement: sentences that repeat an earlier one, in the same or in other words.

A chain can go in circles without repeating a token ("So x is 5. Hence x = 5. That makes x equal to
5."). `loops` cannot see that, so each sentence is compared here with all earlier ones:

- word level: cosine of the counts of words and word pairs. Numbers count as words, so the same
  words about another number are less alike.
- semantic level: cosine of any embeddings. `stream_embedder` gives the model's own residual stream,
  averaged over a sentence, minus the mean of all sentences (streams lie in a narrow cone:
  Ethayarajh, arXiv 1909.00512).

`share` is the share of restating sentences; `tail` counts those in a row at the end, and 3 or more
are a restating loop. Caveats: a threshold belongs to an embedder, so set it on healthy text and
compare variants. For prose only: lines of a formal grammar are alike by design.
Shapes: N sentences, D width of an embedding.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from interp.activations.capture import CapturedBatch, Reducer
from interp.diagnosis.token_text import WORD
from interp.errors import NonFiniteError, UserError
from interp.interventions.interventions import VariantLike
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

Embed = Callable[[Sequence[str]], Shaped[np.ndarray, "N D"]]
WORDS_ALIKE, MEANING_ALIKE = 0.8, 0.9
SHORTEST = 4  # words; a shorter sentence ("Yes.") is too short to compare
LOOP_TAIL = 3  # sentences in a row
# A full stop inside a number or before a lower-case letter does not end a sentence.
_END = re.compile(r"[.!?]+[\"')\]]*(?=\s+[^a-z\s]|\s*\Z)|\n+")


@as_table
@dataclass(frozen=True)
class Restatement:
    """How similar each sentence is to an earlier one.

    Attributes:
        level: "word" or "semantic".
        threshold: Smallest cosine that counts as restatement.
        starts: First character of each sentence, [N].
        stops: Character behind each sentence, [N].
        similarity: Cosine to the most similar earlier sentence, [N]; nan where there is none, or
            the sentence is too short.
        nearest: Index of that earlier sentence, [N]; -1 where there is none.
    """

    level: Literal["word", "semantic"]
    threshold: float
    starts: Int[np.ndarray, " N"]
    stops: Int[np.ndarray, " N"]
    similarity: Float[np.ndarray, " N"]
    nearest: Int[np.ndarray, " N"]

    @property
    def restates(self) -> np.ndarray:
        """Which sentences restate an earlier one, boolean [N]."""
        with np.errstate(invalid="ignore"):
            return self.similarity >= self.threshold

    @property
    def share(self) -> float:
        """Share of restating sentences among those with a similarity; nan without any."""
        known = np.isfinite(self.similarity)
        return float(self.restates[known].mean()) if known.any() else float("nan")

    @property
    def tail(self) -> int:
        """Restating sentences in a row at the end; too short ones neither count nor interrupt."""
        count = 0
        for alike, value in zip(self.restates[::-1], self.similarity[::-1], strict=True):
            if not alike and np.isfinite(value):
                break
            count += bool(alike)
        return count

    @property
    def looped(self) -> bool:
        """Whether the text ends in a restating loop: `tail` is 3 or more."""
        return self.tail >= LOOP_TAIL

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per sentence."""
        columns = {"start": self.starts, "stop": self.stops, "similarity": self.similarity}
        return pd.DataFrame(columns | {"nearest": self.nearest, "restates": self.restates})


def sentences(text: str) -> list[tuple[int, int]]:
    """Split a text into sentences or lines.

    Args:
        text: The text.

    Returns:
        Character range [start, stop) of each, without surrounding white space.
    """
    found, at = [], 0
    for stop in [m.end() for m in _END.finditer(text)] + [len(text)]:
        piece = text[at:stop]
        if piece.strip():
            lead = len(piece) - len(piece.lstrip())
            found.append((at + lead, at + len(piece.rstrip())))
        at = stop
    return found


@checked
def restatement(
    text: str, embed: Embed | None = None, *, threshold: float | None = None
) -> Restatement:
    """Find the sentences of a text that restate an earlier one.

    Args:
        text: The text.
        embed: Maps N sentences to vectors [N, D], for the semantic level. Default: compare words.
        threshold: Smallest cosine that counts, above 0 and up to 1; default .8 for words, .9 for
            embeddings.

    Returns:
        The similarity of each sentence to earlier ones.

    Raises:
        UserError: The threshold is out of range, or `embed` does not give one vector per sentence.
        NonFiniteError: An embedding is inf or nan.
    """
    least = (WORDS_ALIKE if embed is None else MEANING_ALIKE) if threshold is None else threshold
    if not 0 < least <= 1:
        raise UserError(
            f"restatement(threshold={threshold}): expected a cosine above 0, at most 1."
        )
    spans = sentences(text)
    bags = [[w.lower() for w in WORD.findall(_joined(text[a:b]))] for a, b in spans]
    long = np.array([sum(w.isalnum() for w in bag) >= SHORTEST for bag in bags], dtype=bool)
    similarity = np.full(len(spans), np.nan)
    nearest = np.full(len(spans), -1, dtype=np.int64)
    kept = np.flatnonzero(long)
    if len(kept) > 1:
        if embed is None:
            cosine = _word_cosine([bags[i] for i in kept])
        else:
            cosine = _cosine(_embedded(embed, [text[slice(*spans[i])] for i in kept]))
        for k in range(1, len(kept)):
            best = int(cosine[k, :k].argmax())
            similarity[kept[k]], nearest[kept[k]] = cosine[k, best], kept[best]
    table = np.array(spans, dtype=np.int64).reshape(-1, 2)
    level: Literal["word", "semantic"] = "word" if embed is None else "semantic"
    return Restatement(level, least, table[:, 0].copy(), table[:, 1].copy(), similarity, nearest)


def _joined(sentence: str) -> str:
    """The sentence with every number as one word of letters (WORD takes digits one by one)."""
    return re.sub(r"\d+", lambda m: "n" + m.group().translate(_LETTERS) + " ", sentence)


_LETTERS = str.maketrans("0123456789", "abcdefghij")


def _embedded(embed: Embed, listed: list[str]) -> Float[np.ndarray, "N D"]:
    vectors = np.asarray(embed(listed), dtype=float)
    if vectors.ndim != 2 or len(vectors) != len(listed):
        raise UserError(
            f"restatement: the embedder gave shape {vectors.shape} for {len(listed)} sentences; "
            "expected [N, D], one vector per sentence."
        )
    if not np.isfinite(vectors).all():
        raise NonFiniteError("An embedding of a sentence is inf or nan: check the embedder.")
    return vectors


def _word_cosine(bags: list[list[str]]) -> Float[np.ndarray, "N N"]:
    """Mean of the cosines of word counts and of word-pair counts."""
    from scipy.sparse import csr_matrix

    found = np.zeros((len(bags), len(bags)))
    for order in (1, 2):
        index: dict[tuple[str, ...], int] = {}
        rows, columns, counts = [], [], []
        for i, bag in enumerate(bags):
            grams = Counter(zip(*(bag[k:] for k in range(order)), strict=False))
            for gram, count in grams.items():
                rows.append(i)
                columns.append(index.setdefault(gram, len(index)))
                counts.append(float(count))
        table = csr_matrix((counts, (rows, columns)), (len(bags), max(len(index), 1)))
        product = np.asarray((table @ table.T).todense())  # [N, N]
        norm = np.sqrt(np.maximum(np.diag(product), 1e-12))
        found += product / np.outer(norm, norm) / 2
    return np.minimum(found, 1.0)


def _cosine(vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N N"]:
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norm > 0, norm, 1.0)
    return np.minimum(unit @ unit.T, 1.0)


# ------------------------------------------------------------------------------- embedder


class _TextMeans(Reducer):
    """Mean over the tokens of each text of the stream that leaves one block: [N, D]."""

    chunked = True

    def __init__(self, index: int) -> None:
        self.index = index

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        self.sums = torch.zeros(n_texts, model.d_model, dtype=torch.float64)
        self.counts = torch.zeros(n_texts, dtype=torch.float64)

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        if index != self.index:
            return
        mask = batch.mask.to(y.device)
        sums = y.float().masked_fill(~mask[..., None], 0.0).sum(1)  # [B, D]
        self.sums.index_add_(0, batch.texts.cpu(), sums.double().cpu())
        self.counts.index_add_(0, batch.texts.cpu(), mask.sum(1).double().cpu())


def stream_embedder(
    model: ReasoningModel, block: int | None = None, variant: VariantLike | None = None
) -> Embed:
    """Make an embedder from the model's own residual stream behind one block.

    Each sentence is read alone. From three sentences per call on, their mean is subtracted from
    each.

    Args:
        model: The model that reads the sentences.
        block: Dense index of the block; default: at two thirds of the depth.
        variant: The variant that reads; default: the model as it is.

    Returns:
        A function from N sentences to vectors [N, D]. It raises `UserError` where the tokenizer
        makes no token of a sentence.

    Raises:
        UserError: The model does not have the block.
    """
    from interp.interventions.hooks import present
    from interp.replay.teacher_forced import replay

    wanted = model.layer_map[2 * model.n_blocks // 3] if block is None else block
    (index,) = present(model, [wanted])

    def embed(listed: Sequence[str]) -> Shaped[np.ndarray, "N D"]:
        means = _TextMeans(index)
        ids = [model.encode(one) for one in listed]
        if empty := [one for one, few in zip(listed, ids, strict=True) if not few]:
            raise UserError(
                f"The tokenizer makes no token of the sentence {empty[0]!r}: leave it out."
            )
        replay(model, ids, [means], variant, prompts=[0] * len(ids))
        vectors = (means.sums / means.counts[:, None]).numpy()
        return vectors - vectors.mean(0) if len(vectors) > 2 else vectors

    return embed
