"""The progress of a study, and an estimate of the time left.

Chains still to come are expected to be as long as those of the same variant on the same benchmark
so far; before the first of them, as those of the benchmark; before that, half the budget. The time
left is the expected tokens over the rate measured in this run.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One progress report of a running study.

    Attributes:
        kind: "stage" (a new stage begins), "progress", "note" (information for the user) or "done".
        stage: name of the current stage.
        message: text for the user.
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
        self.decode_seconds = 0.0
        self.tokens = 0
        self.chains = 0
        self.chains_total = 0
        self.stage = ""

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
        self._spent[group] += tokens
        self._came[group] += int(request_over)
        self.tokens += tokens
        self.chains += chains

    def expected_tokens(self) -> int:
        """Estimate of all tokens of this run."""
        by_benchmark: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for group, n in self._came.items():
            by_benchmark[group[0]][0] += self._spent[group]
            by_benchmark[group[0]][1] += n
        total = 0.0
        for group, asked in self._asked.items():
            left = asked - self._came[group]
            spent, n = self._spent[group], self._came[group]
            if n < 3:  # too few chains to estimate their group
                spent, n = by_benchmark[group[0]]
            each = spent / n if n else self._cap[group] / 2
            total += self._spent[group] + left * min(each, self._cap[group])
        return int(total)

    def rate(self) -> float:
        """Tokens per second while decoding, in this run."""
        return self.tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0

    def begin(self, stage: str, message: str = "") -> None:
        """Begin a stage.

        Args:
            stage: name of the stage.
            message: text for the user.
        """
        self.stage = stage
        self._send("stage", message)

    def tell(self) -> None:
        """Send the current progress."""
        self._send("progress", "")

    def note(self, message: str) -> None:
        """Send a message for the user."""
        self._send("note", message)

    def end(self, message: str = "") -> None:
        """Report that the study is done."""
        self._send("done", message)

    def _send(self, kind: str, message: str) -> None:
        if self._on_event is None:
            return
        expected, rate = self.expected_tokens(), self.rate()
        left = (expected - self.tokens) / rate if rate > 0 else None
        self._on_event(
            Event(
                kind=kind,
                stage=self.stage,
                message=message,
                chains=self.chains,
                chains_total=self.chains_total,
                tokens=self.tokens,
                tokens_expected=expected,
                rate=rate,
                seconds=self.seconds,
                seconds_left=max(0.0, left) if left is not None else None,
            )
        )


def spread(values: Iterable[int]) -> tuple[int, ...]:
    """The distinct values, ascending."""
    return tuple(sorted(set(values)))
