"""Commitment: after which line of its thinking a chain's answer is settled.

The thinking is cut after every line and closed as a spent budget closes it, and the probability
that the final answer follows is computed exactly: the product over the answer's tokens, read and
not sampled. A chain is committed from the first line on from which that probability never falls
below one half again (`Commitment.boundary`). Several variants can read the same lines, so a lost
block moves the boundary on the same text.

Sharpness is the share of all change of the curve (the sum of its absolute steps) that happens in
its largest rise. Under gradual change every split of the total over the K steps is equally likely
(a broken stick), and the largest share exceeds g with Fisher's (1929) probability (`gradual_p`);
its mean is (1 + 1/2 + ... + 1/K) / K.

`perturbed_steps` deletes a line from the whole thinking, or changes one of its numbers, and asks
again: a step whose loss does not move the answer is decorative (arXiv 2510.24941). Later lines keep
what they took from the step, so the measure is of what the answer itself reads.

Caveats: a probability of exact tokens needs answers of few tokens; `ask` appends a sentence that
asks for one. Shapes: C chains, V variants, K_c cuts of chain c, the first before any line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.chains.chain import Budget, Chain
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.diagnosis.chain_lines import line_ends
from interp.diagnosis.reflection_lexicon import Lexicon
from interp.diagnosis.token_text import Pieces
from interp.errors import UserError
from interp.interventions.interventions import VariantLike, dense
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of
from interp.replay.teacher_forced import continuation_logprobs
from interp.statistics import PairedDifference, paired_difference, problem_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from interp.model.reasoning_model import ReasoningModel

HALF = 0.5  # probability from which on an answer counts as settled
PLACES = ("before", "boundary", "after")
EDITS = ("dropped", "number changed")
_INTEGER = re.compile(r"\s*\d+\s*")


@brief
@dataclass(frozen=True)
class Commitment:
    """The probability of each chain's final answer after each of its lines.

    Attributes:
        variants: Names of the V variants that read.
        problems: Problem of each of the C chains.
        samples: Sample number of each chain.
        seed: Seed of the chains.
        layer_map: Dense index of each block of the model.
        numbers: Index of each chain among those that were given; chains without an answer, or
            without 2 lines, are left out.
        ends: For each chain, tokens kept at each cut, [K_c].
        finals: For each chain, token ids of its final answer.
        probability: For each chain, of the final answer, [V, K_c].
    """

    variants: tuple[str, ...]
    problems: tuple[str, ...]
    samples: tuple[int, ...]
    seed: int
    layer_map: tuple[int, ...]
    numbers: tuple[int, ...]
    ends: tuple[Int[np.ndarray, " _"], ...] = field(repr=False)
    finals: tuple[tuple[int, ...], ...] = field(repr=False)
    probability: tuple[Float[np.ndarray, "V _"], ...] = field(repr=False)

    def boundary(self, variant: int = 0) -> Float[np.ndarray, " C"]:
        """Find the line after which each chain is committed.

        Args:
            variant: Index of the variant that reads.

        Returns:
            Number of lines read, [C]; 0: committed before the first line; nan: not even after the
            last.
        """
        return np.array([boundary_of(p[variant]) for p in self.probability])

    def fraction(self, variant: int = 0) -> Float[np.ndarray, " C"]:
        """Compute the share of the thinking's tokens that are read at the boundary, [C]."""
        found = self.boundary(variant)
        return np.array([
            np.nan if np.isnan(b) else ends[int(b)] / ends[-1]
            for b, ends in zip(found, self.ends, strict=True)
        ])  # fmt: skip

    def sharpness(self, variant: int = 0) -> Float[np.ndarray, " C"]:
        """Compute the share of all change that is the largest rise, [C]; nan without change."""
        return np.array([sharpness_of(p[variant]) for p in self.probability])

    def jump_ratio(self) -> Float[np.ndarray, " C"]:
        """Compute how many times the second largest rise the largest one is, for the first variant.

        Returns:
            Ratios, [C], at most 1e6; nan without a change.
        """
        found = []
        for curves in self.probability:
            steps = np.sort(np.maximum(np.diff(curves[0]), 0.0))
            known = steps[-1] > 0.01
            found.append(min(steps[-1] / max(steps[-2], 1e-12), 1e6) if known else np.nan)
        return np.array(found)

    def gradual(self) -> Float[np.ndarray, " C"]:
        """Compute the mean largest share of each chain's steps under gradual change, [C]."""
        return np.array([gradual_mean(len(ends) - 1) for ends in self.ends])

    def moved(self, variant: int, measure: str = "fraction") -> PairedDifference | None:
        """Compare the boundary of a variant with that of the first, on the same lines.

        Args:
            variant: Index of the variant.
            measure: "fraction" of the tokens, or "boundary" in lines.

        Returns:
            The shift over problems, of the chains that both settle; None without any.
        """
        before, after = getattr(self, measure)(0), getattr(self, measure)(variant)
        return self._paired(before, after)

    def settled(self, variant: int) -> PairedDifference:
        """Compare the share of chains whose final answer a variant settles on, with the first."""
        both = [np.isfinite(self.boundary(v)).astype(float) for v in (0, variant)]
        found = self._paired(*both)
        assert found is not None
        return found

    def sharper_than_gradual(self, variant: int = 0) -> PairedDifference | None:
        """Compare the largest rise with that of gradual change, over problems.

        Args:
            variant: Index of the variant that reads.

        Returns:
            Share of change minus the share that gradual change has; None without any change.
        """
        return self._paired(self.gradual(), self.sharpness(variant))

    def _paired(
        self, before: Float[np.ndarray, " C"], after: Float[np.ndarray, " C"]
    ) -> PairedDifference | None:
        if not (np.isfinite(before) & np.isfinite(after)).any():
            return None
        return paired_difference(*(problem_table(v, self.problems) for v in (before, after)))

    def by_fraction(self, edges: Sequence[float], variant: int = 0) -> Float[np.ndarray, "C E"]:
        """Read each curve at fractions of the thinking's tokens.

        Args:
            edges: Fractions, 0 to 1.
            variant: Index of the variant that reads.

        Returns:
            The probability after the last line that ends at or before each fraction, [C, E].
        """
        rows = []
        for ends, p in zip(self.ends, self.probability, strict=True):
            at = np.searchsorted(ends / ends[-1], np.asarray(edges) + 1e-9, side="right") - 1
            rows.append(p[variant][at])
        return np.array(rows)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per chain, variant and cut."""
        rows = []
        for c, (problem, ends) in enumerate(zip(self.problems, self.ends, strict=True)):
            for v, name in enumerate(self.variants):
                rows += [
                    {"problem": problem, "sample": self.samples[c], "variant": name, "line": k,
                     "tokens": int(ends[k]), "probability": float(self.probability[c][v, k])}
                    for k in range(len(ends))
                ]  # fmt: skip
        return pd.DataFrame(rows)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the mean curve of each variant over the fraction of the thinking.

        Args:
            ax: The axes to draw on; default: new ones.

        Returns:
            The axes.
        """
        axes = axes_of(ax, (6, 3.2))
        grid = np.linspace(0, 1, 21).tolist()
        for v, name in enumerate(self.variants):
            axes.plot(grid, self.by_fraction(grid, v).mean(0), label=name)
        axes.set_xlabel("share of the thinking that is read")
        axes.set_ylabel("probability of the final answer")
        axes.set_ylim(-0.02, 1.02)
        axes.legend(frameon=False)
        return axes


def boundary_of(curve: Float[np.ndarray, " K"]) -> float:
    """Find the first cut from which a curve stays at one half or above.

    Args:
        curve: Probability at each cut, [K].

    Returns:
        Index of the cut; nan if the last one is below.
    """
    low = np.flatnonzero(curve < HALF)
    first = int(low[-1]) + 1 if len(low) else 0
    return float(first) if first < len(curve) else float("nan")


def sharpness_of(curve: Float[np.ndarray, " K"]) -> float:
    """Compute the share of a curve's change that is its largest rise.

    Args:
        curve: Probability at each cut, [K].

    Returns:
        Largest rise over the sum of absolute steps; nan without a change of .01 in all.
    """
    steps = np.diff(curve)
    total = float(np.abs(steps).sum())
    return float(max(steps.max(), 0.0) / total) if total > 0.01 else float("nan")


def gradual_mean(steps: int) -> float:
    """Compute the mean largest piece of a stick broken into `steps` pieces at random."""
    return float(np.sum(1 / np.arange(1, steps + 1)) / steps)


@checked
def gradual_p(share: float, steps: int) -> float:
    """Compute the probability that gradual change has so large a largest step (Fisher 1929).

    Args:
        share: Share of the change in the largest step, 0 to 1.
        steps: Number of steps, at most 64 (the sum alternates).

    Returns:
        The p value.

    Raises:
        UserError: An argument is out of range.
    """
    if not 0 <= share <= 1 or not 1 <= steps <= 64:
        raise UserError(
            f"gradual_p(share={share}, steps={steps}): expected 0 <= share <= 1, 1 to 64 steps."
        )
    if share <= 1 / steps:
        return 1.0
    terms = [
        (-1.0) ** (j - 1) * comb(steps, j) * (1 - j * share) ** (steps - 1)
        for j in range(1, int(1 / share) + 1)
    ]
    return float(np.clip(np.sum(terms), 0.0, 1.0))


@checked
def commitment(
    model: ReasoningModel,
    chains: Sequence[Chain],
    variants: Sequence[VariantLike] = (dense,),
    *,
    ask: str = "",
    longest: int = 32,
    most: int = 48,
    every: int = 16,
    lexicon: Lexicon | None = None,
) -> Commitment:
    """Compute the probability of each chain's final answer after each of its lines.

    The final answer is the chain's own. In the plain format, or with `ask`, it is the greedy answer
    that the first variant gives when its whole thinking is closed.

    Args:
        model: The model that wrote the chains.
        chains: Finished chains, one per problem and sample.
        variants: The variants that read; effects are relative to the first.
        ask: Text written behind the closed thinking that asks for a short answer.
        longest: Most tokens of a final answer; a longer one is cut there.
        most: Most lines per chain; more are joined.
        every: Tokens per line where a chain has no lines.
        lexicon: Tells prose from a formal grammar; default: the model's own.

    Returns:
        The curves.

    Raises:
        UserError: There are no chains or variants, a problem's sample occurs twice, or no chain has
            two lines and an answer.
    """
    if not chains or not variants:
        raise UserError("commitment: expected at least one chain and one variant.")
    if len({(c.problem, c.sample) for c in chains}) < len(chains):
        raise UserError("commitment: a problem's sample occurs twice; pass each chain once.")
    closing = closing_ids(model, ask)
    finals = _finals(model, chains, variants[0], closing, longest, forced=bool(ask))
    pieces, kept, ends = Pieces(model), [], []
    for i, chain in enumerate(chains):
        cuts = line_ends(chain, pieces, lexicon=lexicon, every=every, most=most)
        fits = len(chain.prompt_ids) + int(cuts[-1]) + len(closing) + len(finals[i])
        if finals[i] and len(cuts) > 2 and fits < model.max_positions:
            kept.append(i)
            ends.append(cuts)
    if not kept:
        raise UserError(
            "commitment: no chain has two lines of thinking and an answer; expected at least one."
        )
    asked = [
        (*chains[i].prompt_ids.tolist(), *chains[i].ids[:end].tolist(), *closing)
        for i, cuts in zip(kept, ends, strict=True)
        for end in cuts
    ]
    answers = [finals[i] for i, cuts in zip(kept, ends, strict=True) for _ in cuts]
    table = answer_probability(model, asked, answers, variants)
    curves = np.split(table, np.cumsum([len(cuts) for cuts in ends])[:-1], axis=1)
    few = [chains[i] for i in kept]
    return Commitment(
        variants=tuple(v.name for v in variants),
        problems=tuple(c.problem for c in few),
        samples=tuple(c.sample for c in few),
        seed=few[0].seed,
        layer_map=model.layer_map,
        numbers=tuple(kept),
        ends=tuple(ends),
        finals=tuple(finals[i] for i in kept),
        probability=tuple(curves),
    )


def closing_ids(model: ReasoningModel, ask: str = "") -> tuple[int, ...]:
    """The tokens that close the thinking, and those of a sentence that asks for the answer."""
    return (*model.delimiter_ids.closing, *(model.encode(ask) if ask else ()))


def answer_probability(
    model: ReasoningModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    variants: Sequence[VariantLike],
) -> Float[np.ndarray, "V P"]:
    """Compute the probability of an answer's tokens behind each prompt, [V, P].

    Args:
        model: The model.
        prompts: Token ids of each prompt.
        answers: Token ids of the answer behind each prompt.
        variants: The variants that read.

    Returns:
        The probabilities at temperature 1.
    """
    logp = continuation_logprobs(model, prompts, [[a] for a in answers], variants)
    return np.exp(logp[:, :, 0].astype(np.float64))


def _finals(
    model: ReasoningModel,
    chains: Sequence[Chain],
    variant: VariantLike,
    closing: tuple[int, ...],
    longest: int,
    forced: bool,
) -> list[tuple[int, ...]]:
    """Token ids of each chain's final answer with the token that ends it; empty without one."""
    found: list[tuple[int, ...]] = [()] * len(chains)
    asked = []
    for i, chain in enumerate(chains):
        if forced or chain.plain:
            whole = (*chain.prompt_ids.tolist(), *chain.ids[: chain.thinking.stop].tolist())
            if len(whole) + len(closing) + 1 < model.max_positions:
                asked.append(
                    Request(str(i), (*whole, *closing), variant, budgets=(Budget(1, longest),),
                            answering=True)
                )  # fmt: skip
        elif chain.n_answer and chain.answer is not None:
            a = chain.answer
            found[i] = tuple(chain.ids[a.start : a.stop + (chain.finish == "stop")][:longest])
    for done in decode(model, asked, sampling=Sampling(temperature=0.0), stop=["\n"]):
        found[int(done.problem)] = tuple(done.answer_ids.tolist())
    return [tuple(map(int, few)) for few in found]


# ------------------------------------------------------------------------------ decorative steps


@brief
@dataclass(frozen=True)
class PerturbedSteps:
    """Whether the answer moves when one line of the thinking is deleted or changed.

    Attributes:
        rows: One row per line and edit: problem, line, place ("before", "boundary" or "after" the
            line that commits the chain), edit, intact and edited (probability of the final answer),
            moved (1: the edit took it below one half).
        variant: Name of the variant that read.
        seed: Seed of the choice of lines and numbers.
        layer_map: Dense index of each block of the model.
    """

    rows: pd.DataFrame = field(repr=False)
    variant: str
    seed: int
    layer_map: tuple[int, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return the rows."""
        return self.rows.copy()

    def compare(
        self, edit: str, one: str = "before", other: str = "after", column: str = "moved"
    ) -> PairedDifference | None:
        """Compare lines of two places, within the same problem.

        Args:
            edit: "dropped" or "number changed".
            one: A place.
            other: Another place.
            column: "moved", or "fall" (loss of probability).

        Returns:
            Other minus one, of problem means; None where no problem has both.
        """
        means = self.means(edit, column)
        if one not in means or other not in means:
            return None
        both = means[[one, other]].dropna()
        return (
            paired_difference(both[one].to_numpy(), both[other].to_numpy()) if len(both) else None
        )

    def means(self, edit: str, column: str = "moved") -> pd.DataFrame:
        """Return the mean of a column by problem (rows) and place (columns)."""
        rows = self.rows[self.rows["edit"] == edit]
        rows = rows.assign(fall=rows["intact"] - rows["edited"])
        return rows.pivot_table(index="problem", columns="place", values=column, aggfunc="mean")


@checked
def perturbed_steps(
    model: ReasoningModel,
    chains: Sequence[Chain],
    found: Commitment,
    variant: VariantLike = dense,
    *,
    per_side: int = 6,
    ask: str = "",
    seed: int = 0,
) -> PerturbedSteps:
    """Delete lines of chains, or change one of their numbers, and ask for the answer again.

    Args:
        model: The model that wrote the chains.
        chains: The chains that `found` was made of.
        found: Where each chain is committed, read by its first variant.
        variant: The variant that reads.
        per_side: Most lines per chain before the boundary, and after it, spread evenly.
        ask: As for `commitment`.
        seed: Seed of the choice of numbers.

    Returns:
        The probability of the final answer with the whole thinking, and with each edit. Chains that
        are not committed after some line are left out.

    Raises:
        UserError: `per_side` is below 1, or no chain is committed after a line.
    """
    if per_side < 1:
        raise UserError(f"perturbed_steps(per_side={per_side}): expected 1 or more.")
    closing, pieces = closing_ids(model, ask), Pieces(model)
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    asked: list[tuple[int, ...]] = []
    answers: list[tuple[int, ...]] = []
    for c, (number, limit) in enumerate(zip(found.numbers, found.boundary(0), strict=True)):
        if not limit >= 1:
            continue
        chain, ends = chains[number], found.ends[c]
        prompt, whole = chain.prompt_ids.tolist(), chain.ids[: ends[-1]].tolist()
        values = {t for t in [*prompt, *whole] if _INTEGER.fullmatch(pieces.piece(t))}
        base = len(asked)
        asked.append((*prompt, *whole, *closing))
        answers.append(found.finals[c])
        for line, place in _spread(int(limit), len(ends) - 1, per_side):
            a, b = int(ends[line - 1]), int(ends[line])
            for edit, inside in (
                ("dropped", []), ("number changed", _other_number(whole[a:b], values, rng))
            ):  # fmt: skip
                if inside is None:
                    continue
                rows.append({"problem": chain.problem, "line": line, "place": place, "edit": edit,
                             "intact": base, "edited": len(asked)})  # fmt: skip
                asked.append((*prompt, *whole[:a], *inside, *whole[b:], *closing))
                answers.append(found.finals[c])
    if not rows:
        raise UserError("perturbed_steps: no chain is committed after one of its lines.")
    p = answer_probability(model, asked, answers, [variant])[0]
    frame = pd.DataFrame(rows)
    frame["intact"], frame["edited"] = p[frame["intact"]], p[frame["edited"]]
    frame["moved"] = ((frame["intact"] >= HALF) & (frame["edited"] < HALF)).astype(float)
    return PerturbedSteps(frame, variant.name, seed, model.layer_map)


def _spread(boundary: int, lines: int, per_side: int) -> list[tuple[int, str]]:
    """Line numbers (from 1) with their place: some before the boundary, itself, some after it."""
    found = [(boundary, "boundary")]
    for place, first, last in (("before", 1, boundary - 1), ("after", boundary + 1, lines)):
        if last >= first:
            n = min(per_side, last - first + 1)
            at = np.unique(np.linspace(first, last, n).round().astype(int))
            found += [(int(line), place) for line in at]
    return sorted(found)


def _other_number(
    ids: Sequence[int], values: set[int], rng: np.random.Generator
) -> list[int] | None:
    """The line with one of its numbers replaced by another of the chain's; None without one."""
    places = [i for i, t in enumerate(ids) if t in values]
    if not places or len(values) < 2:
        return None
    place = int(rng.choice(places))
    other = int(rng.choice(sorted(values - {ids[place]})))
    return [*ids[:place], other, *ids[place + 1 :]]
