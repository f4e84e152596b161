"""Fits of many logistic regressions on held-out folds, and their AUC within folds."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

INNER_FOLDS = 3  # folds inside each training part, with which C is chosen
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class FitDesign:
    """How probes are fitted and held out.

    Attributes:
        fold: the test fold of each example [K].
        group: the problem of each example [K].
        strengths: candidates for C, the inverse strength of the penalty.
        components: principal components of the features to keep; None for all.
    """

    fold: Int[np.ndarray, " K"]
    group: Int[np.ndarray, " K"]
    strengths: tuple[float, ...]
    components: int | None

    def scores(
        self, features: Float[np.ndarray, "K D"], asked: Bool[np.ndarray, "Q K"]
    ) -> tuple[Float[np.ndarray, "Q K"], int]:
        """Held-out log-odds for each set of labels.

        Scaling and rotation do not use labels, so all sets share them.

        Args:
            features: [K, D].
            asked: Q sets of labels [Q, K].

        Returns:
            Log-odds [Q, K], and how many fits did not converge.
        """
        from sklearn import config_context
        from threadpoolctl import threadpool_limits

        out, late = np.zeros(asked.shape), 0
        with config_context(assume_finite=True, skip_parameter_validation=True):
            for fold in np.unique(self.fold):
                test = self.fold == fold
                train = np.flatnonzero(~test)
                x, held = self._prepared(features[train], features[test])
                inner = self._inner(train)
                with threadpool_limits(1):  # threads make many small fits ten times slower
                    for row, y in enumerate(asked[:, train]):
                        strength = self._strength(x, y, inner)
                        out[row, test], stopped = fitted(x, y, held, strength)
                        late += stopped
        return out, late

    def _prepared(self, train: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standardise by the training rows, rotate if it saves work, and set mean square norm 1."""
        from sklearn.decomposition import PCA, KernelPCA
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        k, d = train.shape
        steps: list[Any] = [StandardScaler()]
        kept = min(self.components or d, d, k - 1)
        if d > 2 * k:  # principal components through the K x K inner products
            steps.append(KernelPCA(n_components=kept, eigen_solver="dense"))
        elif kept < min(d, k - 1):
            steps.append(PCA(n_components=kept, svd_solver="covariance_eigh"))
        pipeline = make_pipeline(*steps)
        x = pipeline.fit_transform(train.astype(np.float64)) / np.sqrt(d)
        return x, pipeline.transform(held.astype(np.float64)) / np.sqrt(d)

    def _inner(self, train: Int[np.ndarray, " k"]) -> list[np.ndarray]:
        """Inner test rows, as places in the training part; none if C need not be chosen."""
        from sklearn.model_selection import GroupKFold

        group = self.group[train]
        parts = min(INNER_FOLDS, len(np.unique(group)))
        if len(self.strengths) == 1 or parts < 2:
            return []
        return [test for _, test in GroupKFold(parts).split(train, groups=group)]

    def _strength(self, x: np.ndarray, y: np.ndarray, inner: list[np.ndarray]) -> float:
        """The C with the best inner AUC; the smallest of equals."""
        if not inner:
            return self.strengths[0]
        ordered = sorted(self.strengths)
        fold = np.zeros(len(y), dtype=np.int64)
        for number, test in enumerate(inner):
            fold[test] = number
        reached = []
        for strength in ordered:
            scores = np.zeros(len(y))
            for number in range(len(inner)):
                rest = fold != number
                scores[~rest], _ = fitted(x[rest], y[rest], x[~rest], strength)
            reached.append(auc_of(scores, y, fold)[0])
        return ordered[int(np.argmax(np.nan_to_num(reached)))]


def fitted(
    x: np.ndarray, y: np.ndarray, held: np.ndarray, strength: float
) -> tuple[np.ndarray, bool]:
    """Fit one logistic regression and score held-out rows.

    An unfinished fit is equivalent to one with a slightly stronger penalty, and orders rows as
    well. A training part with one class only (a shuffle may leave one) gives log-odds of 0.

    Args:
        x: training features [k, F].
        y: training labels [k].
        held: held-out features [h, F].
        strength: C.

    Returns:
        Log-odds of the held-out rows relative to the training part [h], and whether the fit was
        stopped by the iteration limit.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    share = y.mean()
    if share in (0, 1):
        return np.zeros(len(held)), False
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ConvergenceWarning)
        model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS).fit(x, y)
    stopped = any(issubclass(one.category, ConvergenceWarning) for one in said)
    return model.decision_function(held) - np.log(share / (1 - share)), stopped


def auc_of(
    scores: np.ndarray, labels: np.ndarray, fold: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """AUC over the pairs within folds, for each row of example weights.

    One cumulative sum gives the weight of the negatives below each positive; a tie counts half.

    Args:
        scores: [K].
        labels: bool [K].
        fold: the fold of each example [K].
        weights: [W, K]; default: a single row of 1.

    Returns:
        [W]; nan where no fold has a pair.
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for number in np.unique(fold):
        here = np.flatnonzero(fold == number)
        here = here[np.argsort(scores[here], kind="stable")]
        s, y, w = scores[here], labels[here], weights[:, here]
        # below[w, i]: weight of the negatives among the i lowest scores, [W, n + 1]
        below = np.cumsum(np.pad(w * ~y, ((0, 0), (1, 0))), axis=1)
        first, last = (np.searchsorted(s, s[y], side) for side in ("left", "right"))
        won += (w[:, y] * (below[:, first] + below[:, last])).sum(1) / 2
        pairs += w[:, y].sum(1) * below[:, -1]
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def against(
    auc: np.ndarray, null: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare AUCs with those of shuffled labels.

    Args:
        auc: AUC of each block [L].
        null: AUCs of M shuffles for each block [L, M].
        level: of the upper bound.

    Returns:
        Mean of the null AUCs, the bound that one more shuffle exceeds with probability 1 - level,
        and the one-sided p-value, each [L].
    """
    from scipy.stats import t

    m = null.shape[1]
    mean, spread = null.mean(1), null.std(1, ddof=1) * np.sqrt(1 + 1 / m)
    distance = np.divide(auc - mean, spread, out=np.zeros_like(auc), where=spread > 0)
    p = np.where(spread > 0, t.sf(distance, m - 1), np.where(auc > mean, 1 / (m + 1), 1.0))
    return mean, mean + t.ppf(level, m - 1) * spread, p
