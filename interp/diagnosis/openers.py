"""Reflection without a judge: the probability of opening one, wherever one could begin.

A lexicon counts the reflections in the text, so a few rare words decide the result. The opener mass
comes from the model instead: at every place of a finished chain where a reflection may begin (the
first token of a sentence or line), the probability at temperature 1 of the words that open one
(`Lexicon.openers`: "wait", "alternatively", ...). A chain has hundreds of places, so small changes
show. A variant read along the dense model's chains changes the mass with all previous text held
fixed (`compare_openers`); along its own chains it also covers the text that the variant chose.

Forced tokens and loops are left out, as in `reflections`. An opener is identified by its first
token, as in `AtTokens.of`. Where that token begins other words too ("al" for "also" and
"alternatively") the mass is an upper bound, so openers whose first token spells under 3 letters and
not the whole word are left out. Shapes: K places of all chains, k places of one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from interp.chains.chain import Chain
from interp.diagnosis.loops import find_loop
from interp.diagnosis.positions import Variants, each_variant, logits_at
from interp.diagnosis.reflection_lexicon import Lexicon, lexicon_of
from interp.diagnosis.token_text import NUMBER, Pieces, TokenizedText, read
from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of
from interp.replay.batching import BATCH_TOKENS
from interp.replay.chunked_forward import CHUNK_TOKENS
from interp.statistics import PairedDifference, paired_difference
from interp.statistics.jackknife import mean_over_units

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHORTEST = 3  # fewest letters of a first token that is not the whole word


@brief
@dataclass(frozen=True)
class OpenerMass:
    """Probability of reflection openers at every place where one may begin.

    Attributes:
        chain: Index of the chain, [K].
        row: Index of the token in its chain, [K]; row s is the pass that chose token s.
        mass: Probability summed over the opener tokens, [K].
        opened: 1 where the token at the place is an opener, else 0, [K].
        ids: Token ids of the openers.
        problems: Problem of each chain.
        samples: Sample number of each chain.
        variants: Variant that decoded each chain.
        read_as: Variant whose probabilities these are, for each chain.
    """

    chain: Int[np.ndarray, " K"]
    row: Int[np.ndarray, " K"]
    mass: Float[np.ndarray, " K"]
    opened: Int[np.ndarray, " K"]
    ids: tuple[int, ...]
    problems: tuple[str, ...] = field(repr=False)
    samples: tuple[int, ...] = field(repr=False)
    variants: tuple[str, ...] = field(repr=False)
    read_as: tuple[str, ...] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per chain: places, mean mass, share of places opened."""
        rows = []
        for i, problem in enumerate(self.problems):
            here = self.chain == i
            places = int(here.sum())
            row = {"problem": problem, "sample": self.samples[i], "variant": self.variants[i]}
            row |= {"read_as": self.read_as[i], "places": places}
            row["mass"] = float(self.mass[here].mean()) if places else np.nan
            row["opened"] = float(self.opened[here].mean()) if places else np.nan
            rows.append(row)
        return pd.DataFrame(rows)

    def mean(self) -> tuple[float, float, float, int]:
        """Average the mass over places.

        Returns:
            The mean mass per place, the lower and upper limit of its 95 % jackknife interval over
            problems, and the number of places.
        """
        return mean_over_units(*self.by_problem(), bounds=(0, 1))

    def by_problem(self) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
        """The summed mass and the number of places of every problem."""
        unit, names = pd.factorize(np.array(self.problems, dtype=object))
        counts = np.bincount(unit[self.chain], minlength=len(names)).astype(float)
        return np.bincount(unit[self.chain], self.mass, minlength=len(names)), counts

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the distribution of the mass: the share of places with at least each value.

        Args:
            ax: The axes to draw on; default: new ones.

        Returns:
            The axes.
        """
        axes = axes_of(ax, (6, 3.2))
        by_read = np.array(self.read_as, dtype=object)[self.chain]
        for i, name in enumerate(dict.fromkeys(self.read_as)):
            values = np.sort(self.mass[by_read == name])[::-1]
            share = np.arange(1, len(values) + 1) / max(len(values), 1)
            axes.step(np.maximum(values, 1e-8), share, color=f"C{i}", label=name)
        axes.set_xscale("log")
        axes.set_xlabel("probability of opening a reflection")
        axes.set_ylabel("share of places with as much")
        axes.legend(frameon=False, fontsize="small")
        return axes


def opener_ids(model: ReasoningModel, words: Collection[str]) -> tuple[int, ...]:
    """Find the first tokens of words, as given and capitalised, with and without a leading space.

    Args:
        model: The model with the tokenizer.
        words: Words that open a reflection.

    Returns:
        The token ids, in rising order.

    Raises:
        UserError: No words were given, or the tokenizer has a suitable token for none of them.
    """
    if isinstance(words, str) or not words:
        raise UserError(f"opener_ids(words={words!r}): expected a list of words.")
    unknown = model.tokenizer.unk_token_id
    found = set()
    for word in words:
        for form in (word, word.capitalize(), " " + word, " " + word.capitalize()):
            ids = model.encode(form)
            if not ids or ids[0] == unknown:
                continue
            first = model.text(ids[:1]).strip()
            if first.lower() == word.lower() or len(first) >= SHORTEST:
                found.add(int(ids[0]))
    if not found:
        raise UserError(
            f"The tokenizer has none of the words {list(words)} as a token of its own; expected "
            "words that open a reflection: pass others."
        )
    return tuple(sorted(found))


def places_of(
    reading: TokenizedText, lexicon: Lexicon, looked: np.ndarray | None = None
) -> Int[np.ndarray, " k"]:
    """Find the tokens at which a reflection may begin: the first with text behind a boundary.

    Args:
        reading: The text aligned with its tokens.
        lexicon: Defines the boundaries.
        looked: True for the tokens to consider, [S]; default: all.

    Returns:
        Token indices, [k], in rising order.
    """
    spells = np.flatnonzero(reading.stops > reading.starts)
    if not spells.size:
        return spells
    ends = np.array([m.end() for m in lexicon.boundaries.finditer(reading.text)], dtype=np.int64)
    at = np.searchsorted(reading.starts[spells], ends, side="left")
    places = np.unique(spells[at[at < len(spells)]])
    return places if looked is None else places[looked[places]]


@checked
def opener_mass(
    model: ReasoningModel,
    chains: Sequence[Chain],
    variant: Variants = None,
    *,
    lexicon: Lexicon | None = None,
    words: Collection[str] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> OpenerMass:
    """Measure the opener mass along the chains' thinking (or answer, where there is no thinking).

    Args:
        model: The model that wrote the chains.
        chains: Finished chains.
        variant: The variant that reads the chains: one for all, or one per chain. Default: the
            model as it is.
        lexicon: Defines where a reflection may begin, and the openers; default: the model's own.
        words: Openers to use instead of the lexicon's.
        batch_tokens: Tokens per batch of the forward pass.
        chunk_tokens: Positions per chunk of the forward pass; None reads each chain in one piece.

    Returns:
        The mass at every place.

    Raises:
        UserError: There are no chains, the number of variants is wrong, or the tokenizer has none
            of the openers.
        NonFiniteError: A logit is inf or nan.
    """
    if not chains:
        raise UserError("opener_mass: no chain was given; expected at least one.")
    lexicon = lexicon_of(model, lexicon)
    ids = opener_ids(model, lexicon.openers if words is None else words)
    variants = each_variant(chains, variant, "opener_mass")
    pieces = Pieces(model)
    rows = []
    for chain in chains:
        span = chain.thinking if len(chain.thinking) else chain.answer
        if span is None or not len(span):
            rows.append(np.zeros(0, dtype=np.int64))
            continue
        inside = chain.ids[span.start : span.stop]
        reading = read(pieces, inside)
        looked = ~chain.forced[span.start : span.stop]
        if (loop := find_loop(inside, reading.mask(NUMBER))) is not None:
            looked = looked & (np.arange(len(inside)) < loop.onset)
        rows.append(places_of(reading, lexicon, looked) + span.start)
    mass = [np.full(len(few), np.nan) for few in rows]
    for i, at, logits in logits_at(
        model, chains, rows, variants, batch_tokens=batch_tokens, chunk_tokens=chunk_tokens
    ):
        which = torch.tensor(ids, device=logits.device)
        each = logits.log_softmax(-1)[:, which].logsumexp(-1).exp()
        mass[i][np.searchsorted(rows[i], at)] = each.double().cpu().numpy()
    opened = [
        np.isin(c.ids[few], ids).astype(np.int64) for c, few in zip(chains, rows, strict=True)
    ]
    return OpenerMass(
        chain=np.repeat(np.arange(len(chains)), [len(few) for few in rows]),
        row=np.concatenate(rows),
        mass=np.concatenate(mass),
        opened=np.concatenate(opened),
        ids=ids,
        problems=tuple(c.problem for c in chains),
        samples=tuple(c.sample for c in chains),
        variants=tuple(c.variant for c in chains),
        read_as=tuple("dense" if v is None else v.name for v in variants),
    )


@checked
def compare_openers(one: OpenerMass, other: OpenerMass, *, level: float = 0.95) -> PairedDifference:
    """Compare the mean opener mass of two readings of the same chains, problems as the unit.

    For two variants that read the same chains: what a block does to the mass with the text held
    fixed. Chains without a place are left out.

    Args:
        one: The reference reading.
        other: The other reading, at the same places of the same chains.
        level: Confidence level of the interval.

    Returns:
        The difference other - one in mean mass, with its interval and p value.

    Raises:
        UserError: The two were read at different places, or with different openers.
    """
    if not (np.array_equal(one.chain, other.chain) and np.array_equal(one.row, other.row)):
        raise UserError(
            "compare_openers: the two were not read at the same places: use the same chains, "
            "lexicon and model for both."
        )
    if one.ids != other.ids:
        raise UserError(
            "compare_openers: the two measure different openers: use the same words for both."
        )
    with np.errstate(invalid="ignore"):
        means = [np.divide(*x.by_problem()) for x in (one, other)]
    return paired_difference(*means, level=level)
