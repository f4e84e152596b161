"""Whether a reflection helps: the verdict of the attempt before it and of the one after it.

The chain is cut before a reflection, its thinking is closed as a spent budget closes it, and the
model must answer: the attempt BEFORE. Cut before the next reflection (or at the end of the
thinking) it gives the attempt AFTER. Wrong to right is help, right to wrong is harm.

Longer thinking helps by itself, so each reflection has a control: a stretch of the same chain and
length that starts where a reflection could start but holds none, cut the same way at both ends.
`beyond` is the gain of a reflection over that of its control. A verifier gives the verdicts, not
a judge model. Answers are greedy by default, so that sampling noise does not change a verdict.

Caveats: a model answers best where it was trained to be cut, so compare variants, or reflections
with their controls, not raw rates. A reflection has no control where it is too long, or where
reflections are too frequent. Attempts without an answer count as not right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from interp.chains.chain import Budget, Chain
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.diagnosis.loops import find_loop
from interp.diagnosis.openers import places_of
from interp.diagnosis.positions import Variants, each_variant
from interp.diagnosis.reflection_lexicon import Lexicon, lexicon_of, reflections
from interp.diagnosis.token_text import NUMBER, Pieces, read
from interp.errors import UserError
from interp.interventions.interventions import dense
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table
from interp.statistics import PairedDifference, paired_difference, problem_table

Verify = Callable[[Chain], bool | None]


class Attempt(NamedTuple):
    """The four verdicts of one reflection: 1 right, 0 not right, nan without a control.

    Attributes:
        chain: Index of the chain.
        problem: Problem of the chain.
        variant: Variant of the chain.
        kind: Kind of the reflection, from the lexicon.
        start: Index in the chain of the reflection's first token.
        stop: Index of the token behind its last one: the next reflection's first token, the loop's
            onset, or the end of the thinking.
        before: Verdict of the answer given at `start`.
        after: Verdict of the answer given at `stop`.
        control_before: Verdict at the start of the control stretch.
        control_after: Verdict at the end of the control stretch.
    """

    chain: int
    problem: str
    variant: str
    kind: str
    start: int
    stop: int
    before: float
    after: float
    control_before: float
    control_after: float


@as_table
@dataclass(frozen=True)
class Benefit:
    """The benefit of the reflections of some chains.

    Attributes:
        attempts: One entry per reflection.
        kinds: Kinds of reflection in the lexicon.
    """

    attempts: tuple[Attempt, ...] = field(repr=False)
    kinds: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per reflection, with the columns of `Attempt`."""
        return pd.DataFrame(self.attempts, columns=list(Attempt._fields))

    def gain(self, kind: str | None = None, *, level: float = 0.95) -> PairedDifference | None:
        """Compute the change of accuracy from before to after, paired within the reflection.

        Args:
            kind: One of `kinds`; default: all of them.
            level: Confidence level of the interval.

        Returns:
            The change with its interval, problems as clusters; None without any reflection.

        Raises:
            UserError: The kind is unknown.
        """
        frame = self._of(kind)
        if not len(frame):
            return None
        return paired_difference(*_tables(frame, "before", "after"), level=level)

    def beyond(self, kind: str | None = None, *, level: float = 0.95) -> PairedDifference | None:
        """Compute the gain of reflections minus that of their controls.

        Args:
            kind: One of `kinds`; default: all of them.
            level: Confidence level of the interval.

        Returns:
            The difference with its interval, over the reflections that have a control; None without
            any.

        Raises:
            UserError: The kind is unknown.
        """
        frame = self._of(kind)
        frame = frame[frame["control_before"].notna()]
        if not len(frame):
            return None
        frame = frame.assign(
            gain=frame["after"] - frame["before"],
            control=frame["control_after"] - frame["control_before"],
        )
        return paired_difference(*_tables(frame, "control", "gain"), level=level)

    def summary(self, *, level: float = 0.95) -> pd.DataFrame:
        """Return a table with one row for all reflections and one per kind.

        Args:
            level: Confidence level of the intervals.

        Returns:
            Columns: `reflections`, how many `helped` and `harmed`, then `gain` and `beyond`, each
            with `_low`, `_high`, `_p` and `_n_problems`.
        """
        rows = []
        for kind in (None, *self.kinds):
            frame = self._of(kind)
            if not len(frame):
                continue
            row: dict[str, object] = {"kind": kind or "all", "reflections": len(frame)}
            row["helped"] = int(((frame["before"] == 0) & (frame["after"] == 1)).sum())
            row["harmed"] = int(((frame["before"] == 1) & (frame["after"] == 0)).sum())
            for name, one in (("gain", self.gain(kind, level=level)),
                              ("beyond", self.beyond(kind, level=level))):  # fmt: skip
                for part in ("value", "low", "high", "p", "n_problems"):
                    label = name if part == "value" else f"{name}_{part}"
                    row[label] = getattr(one, part) if one is not None else np.nan
            rows.append(row)
        return pd.DataFrame(rows)

    def _of(self, kind: str | None) -> pd.DataFrame:
        frame = self.to_frame()
        if kind is None:
            return frame
        if kind not in self.kinds:
            raise UserError(f"Kind {kind!r}: expected one of {', '.join(self.kinds)}.")
        return frame[frame["kind"] == kind]


def _tables(frame: pd.DataFrame, *columns: str) -> list[np.ndarray]:
    """Columns as [problems, reflections], nan where a problem has fewer."""
    return [problem_table(frame[column], frame["problem"]) for column in columns]


class _Cut(NamedTuple):
    kind: str
    start: int
    stop: int
    control: int | None  # start of a stretch of this length without a reflection


@checked
def reflection_benefit(
    model: ReasoningModel,
    chains: Sequence[Chain],
    verify: Verify,
    variant: Variants = None,
    *,
    lexicon: Lexicon | None = None,
    per_chain: int = 4,
    answer: int = 32,
    sampling: Sampling = Sampling(temperature=0.0),
    slots: int | None = None,
    stop: Sequence[str] = (),
    seed: int = 0,
) -> Benefit:
    """Answer the chains before and after their reflections, and verify the answers.

    Args:
        model: The model that wrote the chains.
        chains: Finished chains.
        verify: Tells whether the answer of a chain is right (None: it gives no answer). It receives
            a chain of the same problem whose `answer` is the attempt.
        variant: The variant that decoded the chains: one for all, or one per chain. Default: the
            model as it is.
        lexicon: The words that reflect; default: the model's own.
        per_chain: Most reflections tried per chain, spread evenly over it.
        answer: Answer budget of an attempt, in tokens.
        sampling: How attempts are sampled; default: greedy.
        slots: Rows of the decoding batch; default: as memory allows.
        stop: Strings that end an answer.
        seed: Seed of the choice of control stretches.

    Returns:
        The attempts, those that do not fit into the model's context left out.

    Raises:
        UserError: There are no chains, `per_chain` is below 1, or the number of variants is wrong.
    """
    if not chains:
        raise UserError("reflection_benefit: no chain was given; expected at least one.")
    if per_chain < 1:
        raise UserError(f"reflection_benefit(per_chain={per_chain}): expected 1 or more.")
    lexicon = lexicon_of(model, lexicon)
    variants = each_variant(chains, variant, "reflection_benefit")
    pieces, rng = Pieces(model), np.random.default_rng(seed)
    closing = model.delimiter_ids.closing
    cuts, requests = [], []
    for i, chain in enumerate(chains):
        few = _cuts(chain, pieces, lexicon, per_chain, rng)
        cuts.append(few)
        places = {p for c in few for p in (c.start, c.stop)}
        places |= {
            c.control + d for c in few if c.control is not None for d in (0, c.stop - c.start)
        }
        for place in sorted(places):
            prompt = (*chain.prompt_ids.tolist(), *chain.ids[:place].tolist(), *closing)
            if len(prompt) + 1 >= model.max_positions:
                continue  # no position is left for an answer
            requests.append(
                Request(
                    f"{i}/{place}", prompt, variants[i] or dense, chain.sample, chain.seed,
                    (Budget(1, answer),), answering=True,
                )
            )  # fmt: skip
    verdicts: dict[str, float] = {}
    for found in decode(model, requests, sampling=sampling, slots=slots, stop=stop):
        origin = chains[int(found.problem.partition("/")[0])]
        right = verify(replace(found, problem=origin.problem))
        verdicts[found.problem] = float(right is True)
    attempts = []
    for i, (chain, few) in enumerate(zip(chains, cuts, strict=True)):
        for cut in few:
            ends = [cut.start, cut.stop]
            if cut.control is not None:
                ends += [cut.control, cut.control + cut.stop - cut.start]
            seen = [verdicts.get(f"{i}/{place}", np.nan) for place in ends]
            if np.isfinite(seen[:2]).all():
                seen += [np.nan] * (4 - len(seen))
                head = (i, chain.problem, chain.variant, cut.kind, cut.start, cut.stop)
                attempts.append(Attempt(*head, *seen))
    return Benefit(tuple(attempts), tuple(lexicon.kinds))


def _cuts(
    chain: Chain, pieces: Pieces, lexicon: Lexicon, most: int, rng: np.random.Generator
) -> list[_Cut]:
    """The reflections of a chain's thinking that are tried, and a control for each."""
    span = chain.thinking
    if not len(span):
        return []
    ids = chain.ids[span.start : span.stop]
    reading = read(pieces, ids)
    loop = find_loop(ids, reading.mask(NUMBER))
    forced = chain.forced[span.start : span.stop]
    seen = reflections(reading, lexicon, loop=loop, forced=forced)
    end = len(ids) if loop is None else loop.onset
    at = seen.positions
    stops = np.append(at[1:], end)
    spread = np.unique(np.linspace(0, len(at) - 1, min(most, len(at))).round().astype(int))
    free = np.ones(end + 1, dtype=bool)
    free[at[at <= end]] = False
    before = np.r_[0, np.cumsum(~free)]  # number of reflections before each place
    places = places_of(reading, lexicon)
    places = places[(places > 0) & (places < end)]
    found = []
    for k in spread.tolist():
        start, stop = int(at[k]), int(stops[k])
        if not stop - start > 0:
            continue
        fits = places[(places + stop - start <= end) & ~np.isin(places, at)]
        fits = fits[before[fits + stop - start] == before[fits]]
        control = int(rng.choice(fits)) + span.start if fits.size else None
        found.append(_Cut(seen.kinds[k], start + span.start, stop + span.start, control))
    return found
