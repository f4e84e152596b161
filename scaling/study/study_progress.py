"""How far a study is, and how long it will still take.

The chains that are still to come are expected to be as long as those of the same variant on the
same benchmark so far; before the first of them, as those of the benchmark; before that, half the
budget. Time left is expected tokens over the rate measured in this run.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One piece of news of a running study.

    kind: "stage" (a new stage begins), "progress", "note" (something worth knowing), "done".
    tokens / tokens_expected: decoded in this run, and in all of it as far as can be told.
    seconds_left: None as long as nothing has been measured.
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
    """Counts what was asked and what has come; makes the events."""

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
        """Since the run began."""
        return self._clock() - self._began

    def expect(self, group: Group, requests: int, cap: int, chains: int) -> None:
        """`requests` decodes of at most `cap` tokens will come, ending in `chains` chains."""
        self._asked[group] += requests
        self._cap[group] = max(self._cap[group], cap)
        self.chains_total += chains

    def came(self, group: Group, tokens: int, chains: int, *, request_over: bool) -> None:
        """Chains have come; `tokens` were decoded for them that were not counted before."""
        self._spent[group] += tokens
        self._came[group] += int(request_over)
        self.tokens += tokens
        self.chains += chains

    def expected_tokens(self) -> int:
        """Tokens of this run in all, as far as can be told now."""
        by_benchmark: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for group, n in self._came.items():
            by_benchmark[group[0]][0] += self._spent[group]
            by_benchmark[group[0]][1] += n
        total = 0.0
        for group, asked in self._asked.items():
            left = asked - self._came[group]
            spent, n = self._spent[group], self._came[group]
            if n < 3:  # few chains say little of their group
                spent, n = by_benchmark[group[0]]
            each = spent / n if n else self._cap[group] / 2
            total += self._spent[group] + left * min(each, self._cap[group])
        return int(total)

    def rate(self) -> float:
        """Tokens a second while decoding, in this run."""
        return self.tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0

    def begin(self, stage: str, message: str = "") -> None:
        """A stage begins."""
        self.stage = stage
        self._send("stage", message)

    def tell(self) -> None:
        """Where things stand."""
        self._send("progress", "")

    def note(self, message: str) -> None:
        """Something worth knowing."""
        self._send("note", message)

    def end(self, message: str = "") -> None:
        """All is done."""
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
    """Distinct values, ascending."""
    return tuple(sorted(set(values)))
