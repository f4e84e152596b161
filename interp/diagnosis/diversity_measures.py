"""Diversity: how different the samples of one problem are from each other, on token ids.

Noise is maximally diverse, so read every measure beside accuracy. Longer samples share more
n-grams, so compare at equal length (`length=`). Measures between samples are nan for fewer than 2.

- self_bleu [0, 1]: mean sentence BLEU-4 of each sample against the others; high means alike (Zhu et
  al. 2018, arXiv 1802.01886; sacrebleu's formula, exponential smoothing, effective order).
- distinct_1, _2, _4: different n-grams over all n-grams.
- edit_distance [0, 1]: mean over pairs of Levenshtein distance / the longer length.
- vendi [1, N]: effective number of different samples, exp of the entropy of the eigenvalues of K /
  N (arXiv 2210.02410); K averages the cosines of unigram and of bigram counts.
- common_prefix: mean over pairs of the tokens shared before they differ.
- branching_points [0, N - 1]: prefixes that samples continue with different tokens; first_branch:
  tokens before the first.
- answer_entropy: in nats, over the answers given; `answered` is the share of samples with one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import OneRow

Ids = Sequence[int] | Int[np.ndarray, " _"]


@dataclass(frozen=True)
class Diversity(OneRow):
    """Diversity of the samples of one problem (the module describes each measure).

    Attributes:
        n_samples: Samples that were compared, N.
        mean_length: Their mean length, in tokens.
        self_bleu: Mean BLEU-4 of each sample against the others, in [0, 1]; high means alike.
        distinct_1: Share of different unigrams.
        distinct_2: Share of different bigrams.
        distinct_4: Share of different 4-grams.
        edit_distance: Mean normalised Levenshtein distance over pairs, in [0, 1].
        vendi: Effective number of different samples, in [1, N].
        common_prefix: Mean number of tokens that a pair shares before it differs.
        branching_points: Number of prefixes that samples continue with different tokens.
        first_branch: Tokens before the first branching point; nan without one.
        answer_entropy: Entropy of the answers given, in nats; nan without any.
        answered: Share of samples that gave an answer.
        accuracy: Share of correct samples.
        length: Tokens to which samples were cut; None where they were not.
    """

    n_samples: int
    mean_length: float
    self_bleu: float
    distinct_1: float
    distinct_2: float
    distinct_4: float
    edit_distance: float
    vendi: float
    common_prefix: float
    branching_points: float
    first_branch: float
    answer_entropy: float
    answered: float
    accuracy: float
    length: int | None


@checked
def diversity(
    samples: Sequence[Ids],
    answers: Sequence[Hashable | None] | None = None,
    correct: Sequence[bool] | None = None,
    *,
    length: int | Literal["shortest"] | None = None,
) -> Diversity:
    """Measure the diversity between the samples of one problem.

    Args:
        samples: Token ids of each sample.
        answers: The answer of each sample (None: no answer); without it its measures are nan.
        correct: The verdict of each sample; without it the accuracy is nan.
        length: Cut all samples to this many tokens and leave out shorter ones (`n_samples` counts
            those that remain; answers and accuracy are of all). "shortest" cuts to the shortest
            sample. Default: no cut.

    Returns:
        The measures.

    Raises:
        UserError: There are no samples or they are not rows of ids, `answers` or `correct` differs
            in length, or `length` is below 1.
    """
    rows = [np.asarray(sample, dtype=np.int64) for sample in samples]
    if not rows or any(row.ndim != 1 for row in rows):
        raise UserError("diversity: expected a list of samples, each a row of token ids.")
    for name, given in (("answers", answers), ("correct", correct)):
        if given is not None and len(given) != len(rows):
            raise UserError(f"diversity: {len(rows)} samples but {len(given)} {name}.")
    if length == "shortest":
        length = min(len(row) for row in rows)
    elif length is not None and length < 1:
        raise UserError(f"diversity(length={length}): expected at least 1 token, or 'shortest'.")
    if length is not None:
        rows = [row[:length] for row in rows if len(row) >= length]
    orders = _ngrams(rows)
    several = len(rows) > 1
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    nan = float("nan")
    branches = branching(rows)
    return Diversity(
        n_samples=len(rows),
        mean_length=float(np.mean([len(row) for row in rows])) if rows else nan,
        self_bleu=_self_bleu(orders, [len(row) for row in rows]) if several else nan,
        distinct_1=_distinct(orders[0]),
        distinct_2=_distinct(orders[1]),
        distinct_4=_distinct(orders[3]),
        edit_distance=_mean_edit(rows, pairs) if several else nan,
        vendi=_vendi(orders[:2], len(rows)) if several else nan,
        common_prefix=float(np.mean([_prefix(rows[i], rows[j]) for i, j in pairs]))
        if several
        else nan,
        branching_points=float(len(branches)) if several else nan,
        first_branch=float(min(branches)) if branches else nan,
        answer_entropy=_entropy(answers),
        answered=float(np.mean([a is not None for a in answers])) if answers else nan,
        accuracy=float(np.mean(np.asarray(correct, dtype=float))) if correct is not None else nan,
        length=length,
    )


@dataclass(frozen=True)
class _Order:
    """Counts of the n-grams of one order: `count[e]` times `gram[e]` in `sample[e]`."""

    gram: Int[np.ndarray, " E"]
    sample: Int[np.ndarray, " E"]
    count: Int[np.ndarray, " E"]


def _ngrams(rows: list[np.ndarray], orders: int = 4) -> list[_Order]:
    """Sparse counts of 1- to 4-grams; an n-gram's number is built from the (n-1)-gram's."""
    owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    flat = np.concatenate([*rows, np.zeros(0, dtype=np.int64)])
    _, token = np.unique(flat, return_inverse=True)
    vocabulary = int(token.max()) + 1 if token.size else 1
    start = np.arange(len(flat))
    code = token
    found = []
    for n in range(1, orders + 1):
        if n > 1:
            # positions whose n-gram still lies inside its own sample
            inside = (start + n - 1 < len(flat)) & (
                owner[np.minimum(start + n - 1, len(flat) - 1)] == owner[start]
            )
            start, code = start[inside], code[inside]
            _, code = np.unique(code * vocabulary + token[start + n - 1], return_inverse=True)
        key, count = np.unique(code * len(rows) + owner[start], return_counts=True)
        found.append(_Order(key // max(len(rows), 1), key % max(len(rows), 1), count))
    return found


def _distinct(order: _Order) -> float:
    total = int(order.count.sum())
    return len(np.unique(order.gram)) / total if total else float("nan")


def _self_bleu(orders: list[_Order], lengths: list[int]) -> float:
    """Mean sentence BLEU of each sample against the others, from two counts per n-gram."""
    from sacrebleu.metrics.bleu import BLEU

    n = len(lengths)
    correct, total = np.zeros((n, len(orders))), np.zeros((n, len(orders)))
    for column, order in enumerate(orders):
        by_gram = np.lexsort((order.count, order.gram))
        gram, sample, count = order.gram[by_gram], order.sample[by_gram], order.count[by_gram]
        last = np.r_[gram[1:] != gram[:-1], True] if gram.size else np.zeros(0, dtype=bool)
        repeated = np.r_[False, gram[1:] == gram[:-1]] if gram.size else last
        below = np.where(repeated, np.r_[0, count[:-1]] if gram.size else count, 0)
        top_at = np.flatnonzero(last)[np.searchsorted(np.flatnonzero(last), np.arange(len(gram)))]
        others = np.where(last, below, count[top_at])  # highest count in another sample
        correct[:, column] = np.bincount(sample, np.minimum(count, others), minlength=n)
        total[:, column] = np.bincount(sample, count, minlength=n)
    scores = []
    for i, length in enumerate(lengths):
        if length == 0:
            scores.append(1.0 if sum(size == 0 for size in lengths) > 1 else 0.0)
            continue
        rest = lengths[:i] + lengths[i + 1 :]
        reference = min(rest, key=lambda size: (abs(size - length), size))
        score = BLEU.compute_bleu(
            [int(c) for c in correct[i]],
            [int(t) for t in total[i]],
            sys_len=length,
            ref_len=reference,
            smooth_method="exp",
            effective_order=True,
        )
        scores.append(score.score / 100)
    return float(np.mean(scores))


def _vendi(orders: list[_Order], n: int) -> float:
    from scipy.sparse import csr_matrix

    kernel = np.zeros((n, n))
    for order in orders:
        shape = (n, int(order.gram.max(initial=0)) + 1)
        counts = csr_matrix((order.count.astype(float), (order.sample, order.gram)), shape)
        product = np.asarray((counts @ counts.T).todense())  # [N, N]
        norm = np.sqrt(np.diag(product))
        empty = norm == 0  # samples without n-grams are similar only to each other
        cosine = product / np.outer(np.where(empty, 1, norm), np.where(empty, 1, norm))
        kernel += np.where(np.outer(empty, empty), 1.0, cosine)
    values = np.linalg.eigvalsh(kernel / len(orders) / n)
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def _mean_edit(rows: list[np.ndarray], pairs: list[tuple[int, int]]) -> float:
    lists = [row.tolist() for row in rows]
    distances = []
    for i, j in pairs:
        longest = max(len(lists[i]), len(lists[j]))
        distances.append(levenshtein(lists[i], lists[j]) / longest if longest else 0.0)
    return float(np.mean(distances))


def levenshtein(a: Sequence[int], b: Sequence[int]) -> int:
    """Compute the edit distance of two token sequences, with bit-parallel columns.

    Myers 1999, Hyyro 2003. A column of the table is one integer of len(a) bits, so a step costs a
    few operations on Python integers: 1000 tokens against 1000 take under a millisecond.

    Args:
        a: Token ids.
        b: Token ids.

    Returns:
        The smallest number of insertions, deletions and substitutions.
    """
    if not a or not b:
        return len(a) + len(b)
    where: dict[int, int] = {}
    for i, token in enumerate(a):
        where[token] = where.get(token, 0) | (1 << i)
    full = (1 << len(a)) - 1
    top = 1 << (len(a) - 1)
    up, down, distance = full, 0, len(a)  # vertical differences +1 and -1 of the column, as bits
    for token in b:
        same = where.get(token, 0)
        stay = same | down
        diagonal = (((same & up) + up) ^ up) | same
        right_up = down | (full & ~(diagonal | up))
        right_down = up & diagonal
        if right_up & top:
            distance += 1
        elif right_down & top:
            distance -= 1
        right_up = ((right_up << 1) | 1) & full
        right_down = (right_down << 1) & full
        up = right_down | (full & ~(stay | right_up))
        down = right_up & stay
    return distance


def _prefix(a: np.ndarray, b: np.ndarray) -> int:
    size = min(len(a), len(b))
    differ = np.flatnonzero(a[:size] != b[:size])
    return int(differ[0]) if differ.size else size


def branching(rows: Sequence[Ids]) -> list[int]:
    """Find the places where samples continue a shared prefix with different tokens.

    A sample that ends where another continues does not branch there.

    Args:
        rows: Token ids of each sample.

    Returns:
        The length of the shared prefix at each place, in tokens, in rising order.
    """
    found = []
    groups = [([np.asarray(row, dtype=np.int64) for row in rows], 0)]
    while groups:
        group, depth = groups.pop()
        if len(group) < 2:
            continue
        shared = min(_prefix(group[0], other) for other in group[1:])
        kept: dict[int, list[np.ndarray]] = {}
        for row in group:
            if len(row) > shared:
                kept.setdefault(int(row[shared]), []).append(row[shared + 1 :])
        if len(kept) > 1:
            found.append(depth + shared)
        groups += [(part, depth + shared + 1) for part in kept.values()]
    return sorted(found)


def _entropy(answers: Sequence[Hashable | None] | None) -> float:
    given = Counter(a for a in answers if a is not None) if answers is not None else Counter()
    if not given:
        return float("nan")
    share = np.array(list(given.values()), dtype=float) / sum(given.values())
    return float(max(0.0, -(share * np.log(share)).sum()))


def repetition(ids: Ids, n: int = 4, window: int = 128) -> float:
    """Compute the share of n-grams that occurred before in the same window, within one chain.

    Uses fixed windows, because the share grows with length on healthy text (.016 at 250 words, .149
    at 8000).

    Args:
        ids: Token ids of the chain.
        n: Length of the n-grams, in tokens.
        window: Length of a window, in tokens.

    Returns:
        The mean share over whole windows; nan for a chain shorter than one window.

    Raises:
        UserError: `n` is below 1 or not below `window`.
    """
    row = np.asarray(ids, dtype=np.int64)
    if not 1 <= n < window:
        raise UserError(f"repetition(n={n}, window={window}): expected 1 <= n < window.")
    shares = []
    for start in range(0, len(row) - window + 1, window):
        grams = np.lib.stride_tricks.sliding_window_view(row[start : start + window], n)
        shares.append(1 - len(np.unique(grams, axis=0)) / len(grams))
    return float(np.mean(shares)) if shares else float("nan")
