"""Alarms before an event: a CUSUM on a number per token, at a false-alarm rate that is known.

Page's (1954) cumulative sum adds up how far a statistic lies from its ordinary mean, in ordinary
standard deviations less a drift, and never falls below zero; it is run upwards and downwards, and
the larger sum counts. An alarm is given where it exceeds a threshold.

Chains without the event (controls) are split by problem. One half gives mean, deviation and the
threshold: the conformal quantile of their largest sums, so that at most the chosen share of such
chains raises an alarm, whatever the law of the statistic. The other half tests that rate.

Long chains have more time for a false alarm, so a detection counts only against chance: each
chain's event is compared with all other chains that were still at risk at that step (`chance`), as
in a Cox model whose covariate is "an alarm was given". p is one-sided: an alarm makes the event
more likely. Shapes: S_c tokens of chain c, C chains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.statistics import (
    Interval,
    PairedDifference,
    mean_interval,
    paired_difference,
    unpaired_difference,
)

NEVER = -1  # step of an alarm that was not given


@brief
@dataclass(frozen=True)
class EarlyWarning:
    """Alarms of one statistic before an event.

    Attributes:
        rate: Share of chains without the event that may raise an alarm.
        drift: Ordinary standard deviations subtracted at each token.
        mean: Ordinary mean of the statistic.
        scale: Ordinary standard deviation.
        threshold: Sum at which an alarm is given.
        problems: Problem of each of the C chains.
        onsets: Step of each chain's event; its length where it has none, [C].
        events: Whether each chain has the event, [C].
        calibrating: Controls that gave mean, deviation and threshold, [C].
        alarms: Step of each chain's alarm before its event or end, -1 without one, [C].
    """

    rate: float
    drift: float
    mean: float
    scale: float
    threshold: float
    problems: tuple[str, ...]
    onsets: Int[np.ndarray, " C"] = field(repr=False)
    events: np.ndarray = field(repr=False)
    calibrating: np.ndarray = field(repr=False)
    alarms: Int[np.ndarray, " C"] = field(repr=False)

    @property
    def alarmed(self) -> np.ndarray:
        """Whether an alarm came before each chain's event or end, boolean [C]."""
        return self.alarms != NEVER

    @property
    def testing(self) -> np.ndarray:
        """The controls that were not used to set the threshold, boolean [C]."""
        return ~self.events & ~self.calibrating

    def false_alarms(self) -> Interval:
        """Compute the share of the other controls that raise an alarm."""
        return mean_interval(self.alarmed[self.testing].astype(float))

    def detected(self) -> Interval:
        """Compute the share of events before which an alarm was given."""
        return mean_interval(self.alarmed[self.events].astype(float))

    def leads(self) -> Int[np.ndarray, " d"]:
        """Steps from each alarm to its event, of the events that were detected."""
        hit = self.events & self.alarmed
        return self.onsets[hit] - self.alarms[hit]

    def chance(self) -> Float[np.ndarray, " e"]:
        """Compute for each event the share of the other chains at risk there with an alarm by then.

        Returns:
            Shares among the chains that had neither ended nor had their event, calibration aside,
            [events]; nan where there is no other.
        """
        shares = []
        for i in np.flatnonzero(self.events).tolist():
            others = self._at_risk(i)
            others = self._alarmed_by(others[others != i], int(self.onsets[i]))
            shares.append(others.mean() if len(others) else np.nan)
        return np.array(shares)

    def beyond_chance(self) -> PairedDifference | None:
        """Compare the detections with the alarms of the other chains at risk at the same step.

        Returns:
            Detected minus chance over events, with the p value of `hazard_p`; None where no other
            chain was at risk at any event.
        """
        chance = self.chance()
        if not np.isfinite(chance).any():
            return None
        found = paired_difference(chance, self.alarmed[self.events].astype(float))
        return PairedDifference(**{**vars(found), "p": self.hazard_p()})

    def beyond_controls(self) -> PairedDifference:
        """Compare the share of events with an alarm with that of the test controls.

        Whatever their length: for an event that is not over in a token, such as a whole loop, the
        chains at risk would be others with the same event.

        Returns:
            The difference of the shares.
        """
        return unpaired_difference(
            self.alarmed[self.testing].astype(float), self.alarmed[self.events].astype(float)
        )

    def hazard_p(self) -> float:
        """Compute the p value that an alarm makes the event more likely, among chains at risk.

        Returns:
            The upper tail of the number of alarms at events, given the share of alarms among the
            chains at risk at each (one-sided).
        """
        chances, hits = [], 0
        for i in np.flatnonzero(self.events).tolist():
            at_risk = self._at_risk(i)
            chances.append(float(self._alarmed_by(at_risk, int(self.onsets[i])).mean()))
            hits += int(self.alarmed[i])
        law = np.ones(1)
        for p in chances:
            law = np.convolve(law, [1 - p, p])
        return float(min(1.0, law[hits:].sum()))

    def cells(self, whole: bool = False) -> dict[str, float]:
        """Return the detections beyond chance as the cells of a row, with what they are made of.

        Args:
            whole: Whether chance is the share of all other controls with an alarm
                (`beyond_controls`), instead of the chains at risk (`beyond_chance`).

        Returns:
            value, low, high and p of the difference; chance, detected and false_alarms (with
            limits), n (events), n_controls, lead (median steps). nan where there is nothing.
        """
        beyond = self.beyond_controls() if whole else self.beyond_chance()
        seen, wrong, leads = self.detected(), self.false_alarms(), self.leads()
        row = {
            "value": np.nan, "low": np.nan, "high": np.nan, "p": np.nan, "chance": np.nan,
            "n": int(self.events.sum()), "n_controls": int(self.testing.sum()),
            "lead": float(np.median(leads)) if len(leads) else np.nan,
            **seen.cells("detected", "detected_"), **wrong.cells("false_alarms", "false_alarms_"),
        }  # fmt: skip
        if beyond is not None:
            row |= {**beyond.cells(), "p": beyond.p, "chance": beyond.dense}
        return row

    def only(self, mask: Bool[np.ndarray, " C"]) -> EarlyWarning:
        """Return the same alarms for some of the events, with all controls.

        Args:
            mask: Which events stay, [C]; controls stay whatever it says.

        Returns:
            The alarms.
        """
        kept = ~self.events | mask
        problems = tuple(p for p, k in zip(self.problems, kept, strict=True) if k)
        few = {n: getattr(self, n)[kept] for n in ("onsets", "events", "calibrating", "alarms")}
        return replace(self, problems=problems, **few)

    def _at_risk(self, event: int) -> np.ndarray:
        """The chains that were still running at an event, itself among them."""
        running = np.flatnonzero(~self.calibrating)
        return running[self.onsets[running] >= self.onsets[event]]

    def _alarmed_by(self, chains: np.ndarray, step: int) -> np.ndarray:
        alarms = self.alarms[chains]
        return (alarms != NEVER) & (alarms < step)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per chain: problem, event, onset, alarm, lead, part."""
        lead = np.where(self.events & self.alarmed, self.onsets - self.alarms, np.nan)
        part = np.where(self.events, "event", np.where(self.calibrating, "calibration", "test"))
        return pd.DataFrame(
            {"problem": self.problems, "part": part, "onset": self.onsets, "alarm": self.alarms,
             "lead": lead}
        )  # fmt: skip


@checked
def cusum_path(
    values: Float[np.ndarray, " S"], mean: float, scale: float, drift: float = 0.5
) -> Float[np.ndarray, " S"]:
    """Compute the larger of the upward and the downward cumulative sum.

    Args:
        values: The statistic at each token, [S]; nan adds nothing.
        mean: Its ordinary mean.
        scale: Its ordinary standard deviation, above 0.
        drift: Standard deviations subtracted at each token.

    Returns:
        The sums, at least 0, [S].

    Raises:
        UserError: `scale` is not above 0, or `drift` is below 0.
    """
    if not scale > 0 or not drift >= 0:
        raise UserError(
            f"cusum_path(scale={scale}, drift={drift}): expected scale > 0 and drift >= 0."
        )
    z = np.nan_to_num((np.asarray(values, dtype=np.float64) - mean) / scale, nan=0.0)
    paths = []
    for signed in (z, -z):
        # max(0, s + x) is the sum less its lowest value so far
        total = np.cumsum(signed - drift)
        paths.append(total - np.minimum(np.minimum.accumulate(total), 0.0))
    return np.maximum(*paths)


@checked
def early_warning(
    series: Sequence[Float[np.ndarray, " _"]],
    onsets: Sequence[int | None],
    problems: Sequence[str],
    *,
    rate: float = 0.1,
    drift: float = 0.5,
    seed: int = 0,
) -> EarlyWarning:
    """Watch a statistic for an alarm before each chain's event.

    Args:
        series: For each chain the statistic at each token; nan where it has none.
        onsets: For each chain the step of its event; None for a chain without one.
        problems: Problem of each chain; one chain each.
        rate: Share of chains without the event that may raise an alarm.
        drift: Standard deviations subtracted at each token.
        seed: Seed of the split of the controls.

    Returns:
        The alarms.

    Raises:
        UserError: The lists differ in length, a problem occurs twice, an onset is outside its
            series, `rate` is not between 0 and 1, there is no event, or there are too few controls
            for this rate.
    """
    _check(series, onsets, problems, rate)
    events = np.array([o is not None for o in onsets])
    ends = np.array(
        [len(s) if o is None else o for s, o in zip(series, onsets, strict=True)], dtype=np.int64
    )
    controls = np.random.default_rng(seed).permutation(np.flatnonzero(~events))
    calibrating = np.zeros(len(series), dtype=bool)
    calibrating[controls[: (len(controls) + 1) // 2]] = True
    n = int(calibrating.sum())
    order = int(np.ceil((n + 1) * (1 - rate)))  # conformal: at most `rate` of new chains exceed it
    if order > n or n == len(controls):
        raise UserError(
            f"early_warning: {len(controls)} chains without the event; a false-alarm rate of {rate}"
            f" needs at least {2 * int(np.ceil(1 / rate - 1))}. Add chains or raise the rate."
        )
    pooled = np.concatenate(
        [np.asarray(series[i], np.float64) for i in np.flatnonzero(calibrating).tolist()]
    )
    pooled = pooled[np.isfinite(pooled)]
    mean = float(pooled.mean()) if len(pooled) else 0.0
    scale = float(pooled.std()) if len(pooled) else 0.0
    scale = scale if scale > 0 else 1.0  # a statistic that never varies raises no alarm
    paths = [
        cusum_path(np.asarray(s, np.float64)[:end], mean, scale, drift)
        for s, end in zip(series, ends, strict=True)
    ]
    highest = np.array([p.max(initial=0.0) for p in paths])
    threshold = float(np.sort(highest[calibrating])[order - 1])
    alarms = [int(np.argmax(p > threshold)) if (p > threshold).any() else NEVER for p in paths]
    return EarlyWarning(
        rate=rate,
        drift=drift,
        mean=mean,
        scale=scale,
        threshold=threshold,
        problems=tuple(problems),
        onsets=ends,
        events=events,
        calibrating=calibrating,
        alarms=np.array(alarms, dtype=np.int64),
    )


def _check(
    series: Sequence[np.ndarray],
    onsets: Sequence[int | None],
    problems: Sequence[str],
    rate: float,
) -> None:
    if not len(series) == len(onsets) == len(problems):
        raise UserError(
            f"early_warning: {len(series)} series, {len(onsets)} onsets, {len(problems)} problems; "
            "expected one of each per chain."
        )
    if len(set(problems)) < len(problems):
        raise UserError("early_warning: a problem occurs twice; pass one chain of each.")
    if not 0 < rate < 1:
        raise UserError(f"early_warning(rate={rate}): expected a share between 0 and 1.")
    if all(o is None for o in onsets):
        raise UserError("early_warning: no chain has the event; expected at least one.")
    for s, o in zip(series, onsets, strict=True):
        if o is not None and not 0 <= o <= len(s):
            raise UserError(f"early_warning: onset {o} lies outside a series of {len(s)} tokens.")
