"""Does a reflection help? The verdict of the attempt before it and of the one after it.

The chain is cut in front of a reflection, its thinking is closed as a spent budget closes it, and
the model must answer: that is the attempt BEFORE. Cut in front of the next reflection (or at the
end of the thinking) it is the attempt AFTER. A reflection helped if wrong became right, and harmed
if right became wrong.

Thinking on helps by itself, whatever it says, so each reflection has a control: a stretch of the
same length of the same chain that begins where a reflection could but holds none, cut at both ends
in the same way. `beyond` is what a reflection gains over its control.

No judge reads the chain; what is asked of the caller is a verifier. Answers are greedy by default,
so that a verdict does not turn on the noise of its answer.

Caveats: a model answers best where it was trained to be cut; compare variants, or reflections with
their controls, and not raw rates. A reflection too long or too frequent to leave a stretch free
has no control. Attempts without an answer count as not right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from interp.chains.chain import Budget, Chain
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.diagnosis.loops import find_loop
from interp.diagnosis.openers import places_of
from interp.diagnosis.positions import Variants, each_variant
from interp.diagnosis.reflection_lexicon import NATURAL, Lexicon, reflections
from interp.diagnosis.token_text import NUMBER, Pieces, read
from interp.errors import UserError
from interp.interventions.interventions import dense
from interp.model.reasoning_model import ReasoningModel
from interp.statistics import PairedDifference, paired_difference

if TYPE_CHECKING:
    import pandas as pd

Verify = Callable[[Chain], bool | None]


class Attempt(NamedTuple):
    """One reflection: its chain and kind, where it begins and ends, and the four verdicts (1, 0,
    nan where there is no control)."""

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


@dataclass(frozen=True)
class Benefit:
    """What the reflections of some chains were worth."""

    attempts: tuple[Attempt, ...] = field(repr=False)
    kinds: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a reflection."""
        import pandas as pd

        return pd.DataFrame(self.attempts, columns=list(Attempt._fields))

    def gain(self, kind: str | None = None, *, level: float = 0.95) -> PairedDifference | None:
        """Change of accuracy from before to after, paired within the reflection; None without any.

        kind: one of `kinds`, or all.
        """
        frame = self._of(kind)
        if not len(frame):
            return None
        return paired_difference(*_tables(frame, "before", "after"), level=level)

    def beyond(self, kind: str | None = None, *, level: float = 0.95) -> PairedDifference | None:
        """The gain less that of the control, of reflections that have one; None without any."""
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
        """One row a kind, and one for all: how often it helped and harmed, gain, gain beyond."""
        import pandas as pd

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
    names = {name: i for i, name in enumerate(dict.fromkeys(frame["problem"]))}
    rows = [names[name] for name in frame["problem"]]
    place = frame.groupby("problem", sort=False).cumcount().to_numpy()
    tables = []
    for column in columns:
        table = np.full((len(names), int(place.max()) + 1), np.nan)
        table[rows, place] = frame[column].to_numpy(float)
        tables.append(table)
    return tables


class _Cut(NamedTuple):
    kind: str
    start: int
    stop: int
    control: int | None  # where a stretch of the same length without a reflection begins


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
    """Answers the chains before and after their reflections, and verifies the answers.

    verify: is the answer of this chain right? (None: it gives no answer.) It is given a chain of
    the same problem whose `answer` is the attempt. variant: what the chains were decoded as.
    per_chain: reflections of a chain that are tried at most, spread over it; answer: tokens of an
    attempt; seed: which stretches are controls.
    """
    if not chains:
        raise UserError("reflection_benefit: no chain was given.")
    if per_chain < 1:
        raise UserError(f"reflection_benefit(per_chain={per_chain}): expected 1 or more.")
    lexicon = NATURAL if lexicon is None else lexicon
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
                continue  # nothing can be answered there
            requests.append(
                Request(
                    f"{i}/{place}", prompt, variants[i] or dense, chain.sample, chain.seed,
                    (Budget(1, answer),),
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
    before = np.r_[0, np.cumsum(~free)]  # reflections in front of each place
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
