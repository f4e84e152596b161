"""The progress of a study, and an estimate of the time left.

Short chains finish first, so neither the mean length of the finished chains nor the rate at which
their tokens come says how long a study takes. Both count the tokens of unfinished chains, where the
engine tells of them. The chains of a variant are expected to be as long as dense ones (of the
calibration, or of an earlier run; else the same part of the budget as on other benchmarks), times
what the variant did to the length so far, times how far a benchmark's chains are from that. The
limit cuts chains as if they ended at a constant rate. The time left is the tokens left over the
rate, and the choices left over the rate of scoring.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from interp.plumbing.work_listener import Heard


@dataclass(frozen=True)
class Event:
    """One progress report of a running study.

    Attributes:
        kind: "stage" (a new stage begins), "progress", "note" (information for the user) or "done".
        stage: name of the current stage.
        message: text for the user; of "progress": how far work is that the counts do not cover.
        chains: chains finished in this run.
        chains_total: chains that this run will finish.
        tokens: tokens decoded in this run.
        tokens_expected: estimate of all tokens of this run.
        rate: tokens per second while decoding.
        seconds: seconds since the run began.
        seconds_left: estimate of the seconds left; None until something has been measured.
    """

    kind: str
    stage: str
    message: str = ""
    chains: int = 0
    chains_total: int = 0
    tokens: int = 0
    tokens_expected: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None


OnEvent = Callable[[Event], None]
Group = tuple[str, str]  # benchmark, variant
DENSE = "dense"
CALIBRATED = 16  # chains that what is expected of a benchmark's lengths counts as
FEW = 3  # chains that are too few to estimate a length by
SETTLED = 5.0  # seconds of decoding before the rate says something
PATIENCE = 60.0  # the same, for an engine that does not tell of unfinished chains
EVERY = 1.0  # seconds between two events about unfinished chains


class Progress:
    """Counts requests and results, and sends events.

    Args:
        on_event: receives the events; None sends none.
        clock: the clock, in seconds.
    """

    def __init__(self, on_event: OnEvent | None, clock: Callable[[], float] = time.monotonic):
        self._on_event = on_event
        self._clock = clock
        self._began = clock()
        self._asked: dict[Group, int] = defaultdict(int)
        self._cap: dict[Group, int] = defaultdict(int)
        self._came: dict[Group, int] = defaultdict(int)
        self._spent: dict[Group, int] = defaultdict(int)
        self._known: dict[str, tuple[int, int]] = {}
        self._seconds: dict[str, float] = defaultdict(float)
        self._scored = [0, 0]  # choices scored, and to be scored
        self._scoring_seconds = 0.0
        self._benchmark = ""  # the one that is decoded
        self._since: float | None = None
        self._before = self._open = 0
        self._tells, self._told = False, self._began
        self.tokens = 0
        self.chains = 0
        self.chains_total = 0
        self.stage = ""
        self.task = ""  # what within the stage is at work, for `hear`

    @property
    def decode_seconds(self) -> float:
        """Seconds of decoding."""
        return sum(self._seconds.values())

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._began

    def expect(self, group: Group, requests: int, cap: int, chains: int) -> None:
        """Add requests that will be decoded.

        Args:
            group: (benchmark, variant).
            requests: number of requests.
            cap: most tokens per request.
            chains: chains that they will end in.
        """
        self._asked[group] += requests
        self._cap[group] = max(self._cap[group], cap)
        self.chains_total += chains

    def came(self, group: Group, tokens: int, chains: int, *, request_over: bool) -> None:
        """Count results.

        Args:
            group: (benchmark, variant).
            tokens: tokens decoded for these chains and not counted before.
            chains: number of chains.
            request_over: whether the last chain of a request has come.
        """
        if group[0] == self._benchmark:  # they were open until now
            self._open = max(0, self._open - tokens)
        self._spent[group] += tokens
        self._came[group] += int(request_over)
        self.tokens += tokens
        self.chains += chains

    def know(self, benchmark: str, tokens: int, ended: int) -> None:
        """Say how long dense chains of a benchmark are, from before this run's.

        Args:
            benchmark: the benchmark.
            tokens: their tokens.
            ended: how many of them ended by themselves.
        """
        self._known[benchmark] = (tokens, ended)

    def expect_scored(self, chains: int) -> None:
        """Add chains whose choices will be scored."""
        self._scored[1] += chains
        self.chains_total += chains

    def scored(self, chains: int, seconds: float) -> None:
        """Count chains whose choices were scored, and the seconds that it took."""
        self._scored[0] += chains
        self._scoring_seconds += seconds
        self.chains += chains

    def decoding(self, benchmark: str) -> None:
        """Begin to decode a benchmark, or go on after a commit."""
        if benchmark != self._benchmark:
            self._benchmark, self._before, self._open = benchmark, self.tokens, 0
        self._since = self._clock()

    def paused(self) -> None:
        """End decoding, or interrupt it for a commit; the seconds since `decoding` count."""
        if self._since is not None:
            self._seconds[self._benchmark] += self._clock() - self._since
        self._since = None

    def live(self, tokens: int) -> None:
        """Note the tokens of the benchmark that is decoded, those of unfinished chains included.

        Args:
            tokens: all its tokens in this run so far.
        """
        self._tells = True
        self._open = max(0, tokens - (self.tokens - self._before))
        if self._clock() - self._told >= EVERY:
            self.tell()

    def expected_tokens(self) -> int:
        """Estimate of all tokens of this run."""
        return self.tokens + self._open + int(sum(self._left().values()))

    def _left(self) -> dict[str, float]:
        """Tokens left by benchmark."""
        caps: dict[str, int] = defaultdict(int)
        for (name, _), cap in self._cap.items():
            caps[name] = max(caps[name], cap)
        dense, longer = self._dense(caps), self._longer()
        usual = sum(longer.values()) / len(longer) if longer else 1.0
        left: dict[str, float] = {}
        for name in caps:
            groups = {v: n for (b, v), n in self._asked.items() if b == name}
            life = {v: dense[name] * longer.get(v, usual) for v in groups}
            expected = {v: cut_mean(life[v], self._cap[name, v]) for v in groups}
            came = {v: self._came[name, v] for v in groups}
            seen = sum(self._spent[name, v] for v in groups)
            seen += self._open if name == self._benchmark else 0
            some = CALIBRATED * sum(expected[v] * n for v, n in groups.items())
            some /= sum(groups.values())
            off = (seen + some) / (sum(expected[v] * n for v, n in came.items()) + some)
            left[name] = sum(
                (n - came[v]) * cut_mean(off * life[v], self._cap[name, v])
                for v, n in groups.items()
            )
            if name == self._benchmark and self._open and left[name]:
                # an unfinished chain has on average as much behind it as before it
                n = sum(n - came[v] for v, n in groups.items())
                mean = sum(life.values()) / len(life) * off
                age = mean_age(mean, caps[name])
                left[name] -= min(self._open / age, n) * max(0.0, left[name] / n - age)
        return left

    def _lived(self, group: Group) -> float | None:
        """Mean tokens of a group's chains without a limit; None after too few of them."""
        n = self._came[group]
        return whole_mean(self._spent[group] / n, self._cap[group]) if n >= FEW else None

    def _longer(self) -> dict[str, float]:
        """By variant, how many times as long its chains are as dense ones, where both came."""
        found: dict[str, list[float]] = defaultdict(list)
        for name, variant in self._asked:
            mine, dense = self._lived((name, variant)), self._lived((name, DENSE))
            if mine and dense:
                found[variant].append(mine / dense)
        return {variant: sum(ratios) / len(ratios) for variant, ratios in found.items()}

    def _dense(self, caps: Mapping[str, int]) -> dict[str, float]:
        """Mean tokens of a dense chain without a limit, by benchmark."""
        found: dict[str, float] = {}
        for name, cap in caps.items():
            tokens, ended = self._known.get(name, (0, 0))
            lived = self._lived((name, DENSE))
            if tokens:
                found[name] = whole_mean(min(cap, tokens / max(ended, 1)), cap)
            elif lived:
                found[name] = lived
        shares = [mean / caps[name] for name, mean in found.items()]
        share = sum(shares) / len(shares) if shares else None
        half = {name: whole_mean(cap / 2, cap) for name, cap in caps.items()}
        return {n: found.get(n, half[n] if share is None else share * caps[n]) for n in caps}

    def rate(self) -> float:
        """Tokens per second while decoding, in this run."""
        seconds = self.decode_seconds + self._running()
        return (self.tokens + self._open) / seconds if seconds > 0 else 0.0

    def _settled(self) -> bool:
        """Whether a tenth of the chains of the benchmark that is decoded have come."""
        asked, came = (
            sum(n for (name, _), n in counts.items() if name == self._benchmark)
            for counts in (self._asked, self._came)
        )
        return came >= asked / 10

    def _running(self) -> float:
        return 0.0 if self._since is None else self._clock() - self._since

    def seconds_left(self) -> float | None:
        """Estimate of the seconds left; None until something has been measured."""
        total = 0.0
        if (few := self._scored[1] - self._scored[0]) and self._scored[0]:
            total += few * self._scoring_seconds / self._scored[0]
        left = self._left()
        if not any(left.values()):
            return total if self._scored[0] or self.tokens else None
        seconds = self.decode_seconds + self._running()
        enough = SETTLED if self._tells else PATIENCE
        most = max(1, sum(self._asked.values()))
        if not self.rate() or (seconds < enough and sum(self._came.values()) < most / 10):
            return None
        own = self._seconds[self._benchmark] + self._running()
        made = self.tokens - self._before + self._open
        here = own >= SETTLED and made > 0 and (self._tells or self._settled())
        for name, tokens in left.items():
            total += tokens / (made / own if here and name == self._benchmark else self.rate())
        return total

    def begin(self, stage: str, message: str = "") -> None:
        """Begin a stage.

        Args:
            stage: name of the stage.
            message: text for the user.
        """
        self.stage, self.task = stage, ""
        self._send("stage", message)

    def tell(self) -> None:
        """Send the current progress."""
        self._send("progress", "")

    def hear(self, heard: Heard) -> None:
        """Send how far work is that is not counted here, such as that of a criterion."""
        if self._clock() - self._told >= EVERY:
            self._send("progress", f"{self.task}: {heard}" if self.task else str(heard))

    def note(self, message: str) -> None:
        """Send a message for the user."""
        self._send("note", message)

    def end(self, message: str = "") -> None:
        """Report that the study is done."""
        self._send("done", message)

    def _send(self, kind: str, message: str) -> None:
        self._told = self._clock()
        if self._on_event is None:
            return
        self._on_event(
            Event(
                kind=kind,
                stage=self.stage,
                message=message,
                chains=self.chains,
                chains_total=self.chains_total,
                tokens=self.tokens + self._open,
                tokens_expected=self.expected_tokens(),
                rate=self.rate(),
                seconds=self.seconds,
                seconds_left=self.seconds_left(),
            )
        )


def cut_mean(mean: float, cap: float) -> float:
    """Mean length of chains that end at a constant rate, or at the cap at the latest.

    Args:
        mean: their mean without a cap.
        cap: the cap.
    """
    return mean * -math.expm1(-cap / mean) if mean > 0 else 0.0


def mean_age(mean: float, cap: float) -> float:
    """Mean length so far of unfinished chains, whose ends are as in `cut_mean`."""
    limit = cap / mean
    ended = -math.expm1(-limit)
    return mean * (ended - limit * math.exp(-limit)) / ended


def whole_mean(cut: float, cap: float) -> float:
    """The mean without a cap of chains whose mean with it is `cut`: the inverse of `cut_mean`."""
    low, high = cut, 50.0 * max(cap, 1)
    if cut_mean(high, cap) <= cut:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cut_mean(middle, cap) < cut else (low, middle)
    return high


def spread(values: Iterable[int]) -> tuple[int, ...]:
    """The distinct values, ascending."""
    return tuple(sorted(set(values)))
