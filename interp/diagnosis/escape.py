"""Escape mass: what chance the sampler gives a looping chain of not repeating itself once more.

At every token of an episode from its second pass on, the loop's next token is known: the one a
period back. Its escape mass is the probability of everything else, in the set that is sampled from
(after temperature, top-k, top-p and min-p). Where it is 0 the sampler cannot leave: truncation
made the loop a trap, whatever the model thinks. `raw` is the same at temperature 1 without filters.
Of an episode that was left, the token that left it is looked at too.

In a template loop any number goes on where a number stood, and a run of numbers may go on or end.

The chance of a pass is 1 - prod(1 - mass) over its tokens. It falls from pass to pass where
repetition reinforces itself (Xu et al. 2022, arXiv 2206.02369).

Shapes: K tokens of all episodes. Caveat: measured along the tokens that were chosen, so passes
that were left early are seen on their first tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
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
from interp.replay.batching import BATCH_TOKENS
from interp.replay.chunked_forward import CHUNK_TOKENS
from interp.statistics.jackknife import jackknife_ratio

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class EscapeMass:
    """Escape mass of every token looked at.

    chain, row: which token (row s chose token s). episode: its number over all chains. passes: the
    pass it belongs to, counted from 1 (pass 0 is what is repeated). mass: of the sampling set; raw:
    at temperature 1, unfiltered. ways: tokens of the sampling set that leave the loop.
    problems, variants: of each chain.
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
        """Share of tokens at which the sampler cannot leave."""
        return float((self.ways == 0).mean()) if len(self.ways) else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """One row a pass of an episode: its tokens, mean mass, and the chance of leaving in it."""
        import pandas as pd

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
        """One row a variant and pass: mean chance of leaving in it, jackknifed over problems."""
        import pandas as pd

        frame = self.to_frame()
        frame = frame[frame["pass"] <= most]
        rows = []
        for (variant, number), part in frame.groupby(["variant", "pass"], sort=True):
            each = part.groupby("problem")["chance"].agg(["sum", "size"])
            sums, counts = each["sum"].to_numpy(float)[None], each["size"].to_numpy(float)[None]
            low, high = jackknife_ratio(sums, counts)
            value = float(sums.sum() / counts.sum())
            row = {"variant": variant, "pass": number, "chance": value}
            row |= {"low": max(float(low[0]), 0.0), "high": min(float(high[0]), 1.0)}
            if np.isnan(low[0]):
                row |= {"low": np.nan, "high": np.nan}
            rows.append(row | {"episodes": len(part), "problems": len(each)})
        columns = ["variant", "pass", "chance", "low", "high", "episodes", "problems"]
        return pd.DataFrame(rows, columns=columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The chance of leaving the loop in each pass, a line a variant."""
        import matplotlib.pyplot as plt

        axes: Axes = plt.subplots(figsize=(6, 3.2))[1] if ax is None else ax
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
    """Rows of one episode and what goes on with the loop at each: a token, numbers, or both."""

    rows: Int[np.ndarray, " k"]
    passes: Int[np.ndarray, " k"]
    token: Int[np.ndarray, " k"]  # -1: none
    numbers: Bool[np.ndarray, " k"]


def escape_mass(
    model: ReasoningModel,
    chains: Sequence[Chain],
    variant: Variants = None,
    *,
    sampling: Sampling | None = None,
    batch_tokens: int = BATCH_TOKENS,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> EscapeMass:
    """Escape mass along every episode of the chains' thinking (or answer, without thinking).

    variant: what the chains were decoded as, one for all or one a chain (None: the model as it
    is). sampling: how they were sampled. Tokens that the engine wrote are left out. A result
    without tokens says that no chain loops.
    """
    if not chains:
        raise UserError("escape_mass: no chain was given.")
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
    every = np.concatenate(measured, axis=1)
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
    stop = one.stop + (one.stop < len(ids))  # with the token that left it
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
        goes_on = ~begins[at]  # inside a run of numbers: it may go on, or the next mark come
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
    """Which next tokens go on with the loop."""
    stays = torch.zeros_like(logits, dtype=torch.bool)
    if numbers is not None:
        stays |= numbers.to(logits.device) & torch.from_numpy(any_number).to(logits.device)[:, None]
    has = np.flatnonzero(token >= 0)
    stays[torch.from_numpy(has), torch.from_numpy(token[has])] = True
    return stays


def _masses(
    logits: Float[Tensor, "k V"], stays: Bool[Tensor, "k V"], how: Sampling
) -> Float[np.ndarray, "3 k"]:
    """Mass of the sampling set that leaves, the same unfiltered, and how many tokens leave."""
    raw = logits.softmax(-1).masked_fill(stays, 0).sum(-1)
    if how.greedy:
        best = logits.argmax(-1, keepdim=True)
        leaves = (~stays.gather(-1, best)[:, 0]).float()
        return torch.stack([leaves, raw, leaves]).cpu().double().numpy()
    kept = filtered(logits, how)
    mass = kept.softmax(-1).masked_fill(stays, 0).sum(-1)
    ways = (kept.isfinite() & ~stays).sum(-1).float()
    return torch.stack([mass, raw, ways]).cpu().double().numpy()
