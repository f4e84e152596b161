"""Escape mass: the probability that a looping chain does not repeat itself once more.

From the second pass of an episode on, the loop's next token is known: the one a period back. The
escape mass is the probability of all other tokens in the set that is sampled from (after
temperature, top-k, top-p and min-p). Where it is 0 the sampler cannot leave: truncation made the
loop a trap, whatever the model predicts. `raw` is the same at temperature 1 without filters. The
token that leaves an episode is measured too. In a template loop any number continues a number,
and a run of numbers may continue or end.

The probability of leaving within a pass is 1 - prod(1 - mass) over its tokens. It falls from pass
to pass where repetition reinforces itself (Xu et al. 2022, arXiv 2206.02369).

Shapes: K tokens of all episodes, k rows, V vocabulary. Caveat: measured along the tokens that were
chosen, so a pass that was left early is measured on its first tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.chains.chain import Chain
from interp.decoding.sampling import Sampling, filtered
from interp.diagnosis.episodes import Episode
from interp.diagnosis.hazard import episodes_of
from interp.diagnosis.loops import MARK, marks_of
from interp.diagnosis.positions import Variants, each_variant, logits_at
from interp.diagnosis.token_text import NUMBER, Pieces, read
from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of
from interp.replay.batching import BATCH_TOKENS
from interp.replay.chunked_forward import CHUNK_TOKENS
from interp.statistics.jackknife import mean_over_units

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@brief
@dataclass(frozen=True)
class EscapeMass:
    """Escape mass of every measured token.

    Attributes:
        chain: Index of the chain, [K].
        row: Index of the token in its chain, [K]; row s is the pass that chose token s.
        episode: Number of the episode, counted over all chains, [K].
        passes: Pass to which the token belongs, from 1, [K] (pass 0 is what is repeated).
        mass: Probability of leaving, in the sampling set, [K].
        raw: Probability of leaving at temperature 1, without filters, [K].
        ways: Number of tokens in the sampling set that leave the loop, [K].
        problems: Problem of each chain.
        variants: Variant of each chain.
        sampling: How the chains were sampled.
    """

    chain: Int[np.ndarray, " K"]
    row: Int[np.ndarray, " K"]
    episode: Int[np.ndarray, " K"]
    passes: Int[np.ndarray, " K"]
    mass: Float[np.ndarray, " K"]
    raw: Float[np.ndarray, " K"]
    ways: Int[np.ndarray, " K"]
    problems: tuple[str, ...] = field(repr=False)
    variants: tuple[str, ...] = field(repr=False)
    sampling: Sampling

    @property
    def trapped(self) -> float:
        """Share of tokens at which the sampler cannot leave the loop; nan without tokens."""
        return float((self.ways == 0).mean()) if len(self.ways) else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per pass of an episode.

        Returns:
            Columns: number of `tokens`, mean `mass` and `raw`, share `trapped`, and `chance`, the
            probability of leaving within the pass.
        """
        frame = pd.DataFrame(
            {
                "problem": np.array(self.problems, dtype=object)[self.chain],
                "variant": np.array(self.variants, dtype=object)[self.chain],
                "chain": self.chain,
                "episode": self.episode,
                "pass": self.passes,
                "tokens": 1,
                "mass": self.mass,
                "raw": self.raw,
                "trapped": self.ways == 0,
                "stay": np.log1p(-np.minimum(self.mass, 1 - 1e-15)),
            }
        )
        keys = ["problem", "variant", "chain", "episode", "pass"]
        how = {"tokens": "sum", "mass": "mean", "raw": "mean", "trapped": "mean", "stay": "sum"}
        found = frame.groupby(keys, sort=False, as_index=False).agg(how)
        found["chance"] = -np.expm1(found.pop("stay"))
        return found

    def by_pass(self, most: int = 32) -> pd.DataFrame:
        """Average the probability of leaving per variant and pass.

        Args:
            most: Last pass that is kept.

        Returns:
            One row per variant and pass: mean `chance` with a 95 % jackknife interval over
            problems, and the numbers of episodes and problems.
        """
        frame = self.to_frame()
        frame = frame[frame["pass"] <= most]
        rows = []
        for (variant, number), part in frame.groupby(["variant", "pass"], sort=True):
            each = part.groupby("problem")["chance"].agg(["sum", "size"])
            chance, low, high, episodes = mean_over_units(
                each["sum"].to_numpy(float), each["size"].to_numpy(float), (0, 1)
            )
            rows.append((variant, number, chance, low, high, episodes, len(each)))
        columns = ["variant", "pass", "chance", "low", "high", "episodes", "problems"]
        return pd.DataFrame(rows, columns=columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the probability of leaving the loop in each pass, one line per variant.

        Args:
            ax: The axes to draw on; default: new ones.

        Returns:
            The axes.
        """
        axes = axes_of(ax, (6, 3.2))
        for i, (name, part) in enumerate(self.by_pass().groupby("variant", sort=False)):
            colour = f"C{i}"
            axes.plot(part["pass"], part["chance"], "-o", color=colour, ms=3.5, label=str(name))
            axes.fill_between(part["pass"], part["low"], part["high"], color=colour, alpha=0.15)
        axes.set_xlabel("pass of the loop")
        axes.set_ylabel("chance of leaving it")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize="small")
        return axes


@dataclass(frozen=True)
class _Places:
    """Rows of one episode and what continues the loop at each: a token, any number, or both."""

    rows: Int[np.ndarray, " k"]
    passes: Int[np.ndarray, " k"]
    token: Int[np.ndarray, " k"]  # -1: none
    numbers: Bool[np.ndarray, " k"]


@checked
def escape_mass(
    model: ReasoningModel,
    chains: Sequence[Chain],
    variant: Variants = None,
    *,
    sampling: Sampling | None = None,
    batch_tokens: int = BATCH_TOKENS,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> EscapeMass:
    """Measure the escape mass along every episode of the chains.

    Episodes are those of the thinking (of the answer, for a chain without thinking).

    Tokens that the engine forced are left out.

    Args:
        model: The model that wrote the chains.
        chains: Finished chains.
        variant: The variant that decoded the chains: one for all, or one per chain. Default: the
            model as it is.
        sampling: How the chains were sampled; default `Sampling()`.
        batch_tokens: Tokens per batch of the forward pass.
        chunk_tokens: Positions per chunk of the forward pass; None reads each chain in one piece.

    Returns:
        The escape masses; without tokens where no chain loops.

    Raises:
        UserError: There are no chains, or the number of variants is wrong.
        NonFiniteError: A logit is inf or nan.
    """
    if not chains:
        raise UserError("escape_mass: no chain was given; expected at least one.")
    how = sampling or Sampling()
    variants = each_variant(chains, variant, "escape_mass")
    pieces = Pieces(model)
    places: list[list[_Places]] = []
    for chain in chains:
        span = chain.thinking if len(chain.thinking) else chain.answer
        found = episodes_of(chain, pieces)
        if span is None or not found:
            places.append([])
            continue
        ids = chain.ids[span.start : span.stop]
        mask = read(pieces, ids).mask(NUMBER)
        forced = chain.forced[span.start : span.stop]
        places.append([_places(one, ids, mask, forced, span.start) for one in found])
    some_numbers = any(p.numbers.any() for few in places for p in few)
    numbers = _numbers(model, pieces) if some_numbers else None
    rows = [np.concatenate([np.zeros(0, np.int64), *(p.rows for p in few)]) for few in places]
    token = [np.concatenate([np.zeros(0, np.int64), *(p.token for p in few)]) for few in places]
    any_number = [np.concatenate([np.zeros(0, bool), *(p.numbers for p in few)]) for few in places]
    measured = [np.full((3, len(r)), np.nan) for r in rows]
    for i, at, logits in logits_at(
        model, chains, rows, variants, batch_tokens=batch_tokens, chunk_tokens=chunk_tokens
    ):
        where = np.searchsorted(rows[i], at)
        stays = _staying(logits, token[i][where], any_number[i][where], numbers)
        measured[i][:, where] = _masses(logits, stays, how)
    first = np.cumsum([0, *(len(few) for few in places)])
    sizes = [[len(p.rows) for p in few] for few in places]
    episode = [np.repeat(first[i] + np.arange(len(few)), few) for i, few in enumerate(sizes)]
    every = np.concatenate(measured, axis=1)  # [3, K]: mass, raw, ways
    return EscapeMass(
        chain=np.repeat(np.arange(len(chains)), [len(r) for r in rows]),
        row=np.concatenate(rows),
        episode=np.concatenate(episode).astype(np.int64),
        passes=np.concatenate([p.passes for few in places for p in few] or [np.zeros(0, np.int64)]),
        mass=every[0],
        raw=every[1],
        ways=every[2].astype(np.int64),
        problems=tuple(c.problem for c in chains),
        variants=tuple(c.variant for c in chains),
        sampling=how,
    )


def _places(
    one: Episode,
    ids: Int[np.ndarray, " S"],
    mask: Bool[np.ndarray, " S"],
    forced: Bool[np.ndarray, " S"],
    offset: int,
) -> _Places:
    """The rows of one episode, counted from the chain's first token."""
    stop = one.stop + (one.stop < len(ids))  # includes the token that left the loop
    if one.kind == "exact":
        at = np.arange(one.start + one.period, stop)
        token, numbers = ids[at - one.period], np.zeros(len(at), dtype=bool)
        passes = (at - one.start) // one.period
    else:
        marks, begins = marks_of(ids, mask)
        of = np.cumsum(begins) - 1  # the mark that each token belongs to
        first = int(of[one.start])
        at = np.flatnonzero(of >= first + one.period)
        at = at[at < stop]
        expected = marks[of[at] - one.period]
        # inside a run of numbers: it may continue, or the next mark may follow
        goes_on = ~begins[at]
        behind = marks[np.minimum(of[at] + 1 - one.period, len(marks) - 1)]
        token = np.where(goes_on, behind, expected)
        after_number = mask[np.maximum(at - 1, 0)]
        numbers = (expected == MARK) | after_number
        token = np.where(token == MARK, -1, token)
        passes = (of[at] - first) // one.period
    own = ~forced[at]
    return _Places(at[own] + offset, passes[own], token[own].astype(np.int64), numbers[own])


def _numbers(model: ReasoningModel, pieces: Pieces) -> Bool[Tensor, " V"]:
    """Which entries of the vocabulary are numbers."""
    known = min(model.vocab_size, len(model.tokenizer))
    flags = [NUMBER.fullmatch(pieces.piece(i).strip()) is not None for i in range(known)]
    return torch.tensor(flags + [False] * (model.vocab_size - known))


def _staying(
    logits: Float[Tensor, "k V"],
    token: Int[np.ndarray, " k"],
    any_number: Bool[np.ndarray, " k"],
    numbers: Bool[Tensor, " V"] | None,
) -> Bool[Tensor, "k V"]:
    """Which next tokens continue the loop, per row."""
    stays = torch.zeros_like(logits, dtype=torch.bool)
    if numbers is not None:
        stays |= numbers.to(logits.device) & torch.from_numpy(any_number).to(logits.device)[:, None]
    has = np.flatnonzero(token >= 0)
    stays[torch.from_numpy(has), torch.from_numpy(token[has])] = True
    return stays


def _masses(
    logits: Float[Tensor, "k V"], stays: Bool[Tensor, "k V"], how: Sampling
) -> Float[np.ndarray, "3 k"]:
    """Probability of leaving, sampled and unfiltered, and how many tokens leave."""
    raw = logits.softmax(-1).masked_fill(stays, 0).sum(-1)
    if how.greedy:
        best = logits.argmax(-1, keepdim=True)
        leaves = (~stays.gather(-1, best)[:, 0]).float()
        return torch.stack([leaves, raw, leaves]).cpu().double().numpy()
    kept = filtered(logits, how)
    mass = kept.softmax(-1).masked_fill(stays, 0).sum(-1)
    ways = (kept.isfinite() & ~stays).sum(-1).float()
    return torch.stack([mass, raw, ways]).cpu().double().numpy()
