"""Fits of many logistic regressions on held-out folds, and their AUC within folds."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

INNER_FOLDS = 3  # by which C is chosen, inside each training part
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class FitDesign:
    """How probes are fitted and held out: the test fold and the problem of each example [K]."""

    fold: Int[np.ndarray, " K"]
    group: Int[np.ndarray, " K"]
    strengths: tuple[float, ...]
    components: int | None

    def scores(
        self, features: Float[np.ndarray, "K D"], asked: Bool[np.ndarray, "Q K"]
    ) -> tuple[Float[np.ndarray, "Q K"], int]:
        """Held-out log-odds for each row of labels, and how many fits did not converge.

        Scaling and rotation know no labels, so all rows of labels share them.
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
        """Standardised by the training rows, rotated where that saves work, mean square norm 1."""
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
        """Inner test rows, as places in the training part; none where C need not be chosen."""
        from sklearn.model_selection import GroupKFold

        group = self.group[train]
        parts = min(INNER_FOLDS, len(np.unique(group)))
        if len(self.strengths) == 1 or parts < 2:
            return []
        return [test for _, test in GroupKFold(parts).split(train, groups=group)]

    def _strength(self, x: np.ndarray, y: np.ndarray, inner: list[np.ndarray]) -> float:
        """The C with the best inner AUC, the smallest of equals."""
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
    """Log-odds of held-out rows over those of the training part; whether the fit was cut short.

    An unfinished fit is one with a little more penalty, and its order of rows is as good; a
    training part of one class (a shuffle may leave one) tells nothing.
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
    """AUC over the pairs within folds, for each row of example weights [W, K] (default: one of 1).

    The weight of negatives below each positive comes from one cumulative sum; a tie is half.
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for number in np.unique(fold):
        here = np.flatnonzero(fold == number)
        here = here[np.argsort(scores[here], kind="stable")]
        s, y, w = scores[here], labels[here], weights[:, here]
        below = np.cumsum(np.pad(w * ~y, ((0, 0), (1, 0))), axis=1)
        first, last = (np.searchsorted(s, s[y], side) for side in ("left", "right"))
        won += (w[:, y] * (below[:, first] + below[:, last])).sum(1) / 2
        pairs += w[:, y].sum(1) * below[:, -1]
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def against(
    auc: np.ndarray, null: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of each block's null AUCs [L, M], their upper bound for one more draw, and p."""
    from scipy.stats import t

    m = null.shape[1]
    mean, spread = null.mean(1), null.std(1, ddof=1) * np.sqrt(1 + 1 / m)
    distance = np.divide(auc - mean, spread, out=np.zeros_like(auc), where=spread > 0)
    p = np.where(spread > 0, t.sf(distance, m - 1), np.where(auc > mean, 1 / (m + 1), 1.0))
    return mean, mean + t.ppf(level, m - 1) * spread, p
