"""Anchors: how much a line of the thinking decides the answer (Thought Anchors, arXiv 2506.19143).

The chain is forked behind a line and before it, and continued several times from both points, each
time with noise of its own. Of the continuations from before, those count whose next line is another
one. The line's importance is how far the two sets of answers are apart: their total variation
distance, less the mean distance that random regroupings of the same answers have, divided by one
minus that mean. So it is 0 on average where the line decides nothing, whatever the number of
samples, and 1 where the sets share no answer. The regroupings also give the p value.

Several variants can continue the same chains, which shows the blocks that a line's importance needs
(`LineImportance.to_frame` has a row per variant). Where a line is picked because its importance is
largest, measure it again with other samples before comparing (`first_sample`).

Caveats: a line that the model writes in the same words every time has no counterfactual (nan), and
a variant reads the given tokens too. Shapes: N answers, R regroupings.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from interp.chains.chain import Budget, Chain
from interp.decoding.generate import decode
from interp.decoding.request import Request, fork
from interp.decoding.sampling import Sampling
from interp.diagnosis.chain_lines import line_ends
from interp.diagnosis.reflection_lexicon import Lexicon
from interp.diagnosis.token_text import Pieces
from interp.errors import UserError
from interp.interventions.interventions import VariantLike, dense
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

MOST_REGROUPINGS = 100_000  # its p values are as fine as anybody reads, and the draw ends
LEAST = 4  # continuations with another line, below which a line has no importance
Answer = Callable[[Chain], Hashable]


@brief
@dataclass(frozen=True)
class LineImportance:
    """The importance of lines of chains, under one or more variants.

    Attributes:
        rows: One row per variant, chain and line: variant, problem, sample, line (from 1), start
            and stop (tokens), importance, distance (uncorrected), p, n_with, n_without (answers
            compared), same (share of continuations from before that write the same line), agree
            (share of continuations from behind it that give the chain's own answer).
        n: Continuations per point.
        seed: Seed of the regroupings.
        layer_map: Dense index of each block of the model.
    """

    rows: pd.DataFrame = field(repr=False)
    n: int
    seed: int
    layer_map: tuple[int, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return the rows."""
        return self.rows.copy()

    def anchors(self, variant: str = "dense") -> dict[tuple[str, int], int]:
        """Find the most important line of each chain.

        Args:
            variant: Name of the variant.

        Returns:
            Line by (problem, sample); chains without any importance are left out.
        """
        rows = self.rows[(self.rows["variant"] == variant) & self.rows["importance"].notna()]
        best = rows.loc[rows.groupby(["problem", "sample"], sort=False)["importance"].idxmax()]
        keys = zip(best["problem"], best["sample"].astype(int), strict=True)
        return dict(zip(keys, best["line"].astype(int), strict=True))


@checked
def line_importance(
    model: ReasoningModel,
    chains: Sequence[Chain],
    answer: Answer,
    variants: Sequence[VariantLike] = (dense,),
    *,
    lines: Mapping[tuple[str, int], int] | None = None,
    n: int = 16,
    most: int = 12,
    patience: float = 1.5,
    lexicon: Lexicon | None = None,
    sampling: Sampling | None = None,
    regroupings: int = 499,
    first_sample: int = 1000,
    stop_on_loop: bool = True,
    seed: int = 0,
) -> LineImportance:
    """Resample chains behind and before their lines, and compare the answers.

    Args:
        model: The model that wrote the chains.
        chains: Finished chains, one per problem and sample.
        answer: The answer of a chain; None counts as an answer of its own.
        variants: The variants that continue.
        lines: One line (from 1) by (problem, sample); other chains are left out. Default: all.
        n: Continuations per point, at least 4.
        most: Most lines per chain; more are joined.
        patience: Thinking of a continuation, as a multiple of the chain's own (at least 1, and
            within its budget); one that needs more must answer there.
        lexicon: Tells prose from a formal grammar; default: the model's own.
        sampling: As the chains were decoded.
        regroupings: Random regroupings of the answers.
        first_sample: Number of the first continuation; other numbers give other noise.
        stop_on_loop: As the chains were decoded.
        seed: Seed of the regroupings.

    Returns:
        The importance of each line.

    Raises:
        UserError: There are no chains or variants, a problem's sample occurs twice, `n` or
            `regroupings` is out of range, a line does not exist, or no line can be forked at.
    """
    if not chains or not variants:
        raise UserError("line_importance: expected at least one chain and one variant.")
    if n < LEAST or not 19 <= regroupings <= MOST_REGROUPINGS or not patience >= 1:
        raise UserError(
            f"line_importance(n={n}, regroupings={regroupings}, patience={patience}): expected "
            f"n >= {LEAST}, regroupings from 19 to {MOST_REGROUPINGS:,}, patience >= 1."
        )
    where = {(c.problem, c.sample): i for i, c in enumerate(chains)}
    if len(where) < len(chains):
        raise UserError("line_importance: a problem's sample occurs twice; pass each chain once.")
    pieces = Pieces(model)
    ends = [line_ends(c, pieces, lexicon=lexicon, most=most) for c in chains]
    asked_lines = _lines(chains, ends, lines, where)
    if not asked_lines:
        raise UserError("line_importance: no chain has a line that can be left out.")
    # every point of a chain once: it is behind one line and before the next
    points = sorted({(i, k) for i, line in asked_lines for k in (line - 1, line)})
    budgets = [_patient(c, patience) for c in chains]
    requests: list[Request] = []
    number: dict[tuple[str, int], tuple[int, int]] = {}
    for index, (i, k) in enumerate(points):
        for s in range(n):
            sample = first_sample + index * n + s
            number[chains[i].problem, sample] = (i, k)
            requests += fork(
                replace(chains[i], sample=sample), int(ends[i][k]), variants, budgets=budgets[i]
            )
    found: dict[tuple[str, int, int], list[Chain]] = {}
    for chain in decode(model, requests, sampling=sampling, stop_on_loop=stop_on_loop):
        i, k = number[chain.problem, chain.sample]
        found.setdefault((chain.variant, i, k), []).append(chain)
    rng = np.random.default_rng(seed)
    rows = []
    for variant in variants:
        for i, line in asked_lines:
            a, b = int(ends[i][line - 1]), int(ends[i][line])
            behind = sorted(found[variant.name, i, line], key=lambda c: c.sample)
            before = sorted(found[variant.name, i, line - 1], key=lambda c: c.sample)
            same = [np.array_equal(c.ids[a:b], chains[i].ids[a:b]) for c in before]
            others = [c for c, alike in zip(before, same, strict=True) if not alike]
            with_line = [answer(c) for c in behind]
            own = answer(chains[i])
            rows.append(
                {"variant": variant.name, "problem": chains[i].problem,
                 "sample": chains[i].sample, "line": line, "start": a, "stop": b,
                 **_compared(with_line, [answer(c) for c in others], regroupings, rng),
                 "same": float(np.mean(same)),
                 "agree": float(np.mean([one == own for one in with_line]))}
            )  # fmt: skip
    return LineImportance(pd.DataFrame(rows), n, seed, model.layer_map)


def _lines(
    chains: Sequence[Chain],
    ends: Sequence[Int[np.ndarray, " _"]],
    lines: Mapping[tuple[str, int], int] | None,
    where: Mapping[tuple[str, int], int],
) -> list[tuple[int, int]]:
    """Pairs (chain, line) whose two points lie where the model itself still thinks."""
    if lines is None:
        asked = [(i, k) for i, e in enumerate(ends) for k in range(1, len(e))]
    else:
        asked = []
        for key, line in lines.items():
            if key not in where or not 1 <= line < len(ends[where[key]]):
                raise UserError(f"line_importance: there is no line {line} of chain {key}.")
            asked.append((where[key], line))
    limit = [_last_point(c) for c in chains]
    return [(i, line) for i, line in asked if ends[i][line] <= limit[i]]


def _last_point(chain: Chain) -> int:
    written = np.flatnonzero(chain.forced)
    first = int(written[0]) if len(written) else chain.n_tokens
    return min(chain.thinking.stop, chain.budget.thinking - 1, first)


def _patient(chain: Chain, patience: float) -> Budget:
    """The budget of a chain's continuations: one token more than it has, or more."""
    own = chain.thinking.stop
    most = max(own + 1, int(patience * own))
    return replace(chain.budget, thinking=min(most, chain.budget.thinking))


def _compared(
    one: Sequence[Hashable], other: Sequence[Hashable], draws: int, rng: np.random.Generator
) -> dict[str, Any]:
    sizes = {"n_with": len(one), "n_without": len(other)}
    if len(other) < LEAST:
        return {"importance": np.nan, "distance": np.nan, "p": np.nan, **sizes}
    distance, mean, p = regrouped(one, other, draws, rng)
    # answers that are all alike leave nothing to correct
    importance = (distance - mean) / (1 - mean) if mean < 1 else 0.0
    return {"importance": importance, "distance": distance, "p": p, **sizes}


def regrouped(
    one: Sequence[Hashable], other: Sequence[Hashable], draws: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Compare two sets of answers with random regroupings of them.

    Args:
        one: Answers of one set.
        other: Answers of the other.
        draws: Regroupings R.
        rng: Draws the regroupings.

    Returns:
        Total variation distance, its mean over the regroupings, and the p value.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys([*one, *other]))}
    codes = np.array([names[name] for name in [*one, *other]])
    hot = np.eye(len(names))[codes]  # [N, K]
    orders = np.array([np.arange(len(codes)), *(rng.permutation(len(codes)) for _ in range(draws))])
    first = hot[orders[:, : len(one)]].mean(1)  # [1 + R, K]
    second = hot[orders[:, len(one) :]].mean(1)
    distances = np.abs(first - second).sum(1) / 2
    mean = float(distances[1:].mean())
    p = (1 + int((distances[1:] >= distances[0] - 1e-12).sum())) / (1 + draws)
    return float(distances[0]), mean, p
