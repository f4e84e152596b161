"""When an intervention is in force: windows in steps, and windows at events of the chain.

Step s is the pass that READS generated token s; the prompt is step -1. A window that opens at
step t leaves tokens 0..t as they were: t is the first token whose reading is changed, and t+1 the
first that can differ.

`Window(start, stop)` holds at steps [start, stop); `AtTokens(ids, after=n)` when one of these
tokens is read, and for n more steps; `Thinking()` before, and `Answer()` from, the pass that
chooses the first answer token; `AfterLoop()` once the chain certainly loops. They combine:
`Answer() & Window(0, 200)`, `AtTokens(...) | AfterLoop()`, `~Thinking()`.

An event may look back but never ahead, so decoding and replay agree (`Timeline` gives the replay
what the decoder knew). Events concern generated tokens: only a negation holds in the prompt.
Shapes: B rows, T positions of one pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.chains.noise import noise_key
from interp.errors import UserError
from interp.plumbing.arguments import checked

if TYPE_CHECKING:
    from interp.chains.chain import Chain
    from interp.model.reasoning_model import ReasoningModel

PREFILL_STEP = -1
NEVER = 2**62  # a step that no chain reaches


@dataclass(frozen=True)
class Site:
    """What an intervention may read in one pass.

    Attributes:
        steps: step of every position [B, T]; None where rows have none (a plain forward pass).
        keys: key of each row's randomness [B].
        trail: the generated tokens read, R of them before the first position [B, R + T]; -1 for a
            prompt token.
        answer_from: the first step of each row's answer [B]; `NEVER` if there is none yet.
        loop_from: the first step after each row's loop was detected [B]; `NEVER` if there is none
            yet.
    """

    steps: Int[Tensor, "B T"] | None
    keys: Int[Tensor, " B"]
    trail: Int[Tensor, "B RT"] | None = None
    answer_from: Int[Tensor, " B"] | None = None
    loop_from: Int[Tensor, " B"] | None = None

    def first(self, rows: int) -> Site:
        """The site of the first rows.

        Args:
            rows: number of rows.

        Returns:
            The site; itself if it has no more rows.
        """
        if len(self.keys) <= rows:
            return self
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        cut: dict[str, Any] = {name: x if x is None else x[:rows] for name, x in values.items()}
        return Site(**cut)

    def needed(self, name: str, who: str) -> Tensor:
        """A field that must be there.

        Args:
            name: name of the field.
            who: what depends on it, for the error.

        Returns:
            The field.

        Raises:
            UserError: the field is None, because the pass is not part of a known chain.
        """
        found = getattr(self, name)
        if found is None:
            raise UserError(
                f"{who} depends on where in the chain a position is ({name}), which is not known "
                "here: decode, replay chains, or give apply(model, rows, steps=..., ...)."
            )
        return found


class When:
    """Base class of all windows.

    Attributes:
        reach: how many tokens before the one read the window looks back.
        watches_loops: whether it depends on loops, which the decoder must then detect.
        by_chain: whether it differs between chains that have read the same tokens.
    """

    reach: int = 0  # how many tokens before the one read it looks back
    watches_loops: bool = False
    by_chain: bool = False

    @property
    def earliest(self) -> int:
        """A step before which the window is never in force."""
        return 0

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        """Which positions of a pass lie inside the window.

        Args:
            at: the site of the pass.

        Returns:
            bool, [B, T] or a shape that broadcasts to it.
        """
        raise NotImplementedError

    def __and__(self, other: When) -> When:
        return _Combined("and", (self, other))

    def __or__(self, other: When) -> When:
        return _Combined("or", (self, other))

    def __invert__(self) -> When:
        return _Combined("not", (self,))


@checked
@dataclass(frozen=True)
class Window(When):
    """Steps [start, stop).

    Attributes:
        start: first step inside; -1 is the prompt.
        stop: first step after the window; None for no end.

    Raises:
        UserError: the window starts before step -1 or ends before it begins.
    """

    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.start < PREFILL_STEP:
            raise UserError(f"Window starts at step {self.start}: the first step is -1 (prompt).")
        if self.stop is not None and self.stop <= self.start:
            raise UserError(
                f"Window [{self.start}, {self.stop}) ends before it begins: expected stop > start."
            )

    @classmethod
    def decode_only(cls) -> Window:
        """All generated steps, without the prompt."""
        return cls(0, None)

    @classmethod
    def prefill_only(cls) -> Window:
        """The prompt only."""
        return cls(PREFILL_STEP, 0)

    @property
    def earliest(self) -> int:
        """The start of the window."""
        return self.start

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        """The positions whose step is in [start, stop)."""
        steps = at.needed("steps", "A window in steps")
        inside = steps >= self.start
        return inside if self.stop is None else inside & (steps < self.stop)


@checked
@dataclass(frozen=True)
class AtTokens(When):
    """The steps that read one of some tokens, and a number of steps after each.

    Attributes:
        ids: token ids.
        after: how many further steps are inside.

    Raises:
        UserError: there is no token id, or a number is negative.
    """

    ids: tuple[int, ...]
    after: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(sorted({int(i) for i in self.ids})))
        if not self.ids or self.ids[0] < 0:
            raise UserError(f"AtTokens(ids={self.ids}): expected at least one token id, from 0.")
        if self.after < 0:
            raise UserError(f"AtTokens(after={self.after}): expected 0 or more steps.")

    @classmethod
    def of(cls, model: ReasoningModel, words: Collection[str], after: int = 0) -> AtTokens:
        """A window at words, each by the first token of its spellings.

        The spellings are the word as given and capitalised, at the start of a text and after a
        space.

        Args:
            model: encodes the words.
            words: the words.
            after: how many further steps are inside.

        Returns:
            The window.

        Raises:
            UserError: the tokenizer knows none of the words.
        """
        unknown = model.tokenizer.unk_token_id
        found = set()
        for word in words:
            forms = (word, word.capitalize(), " " + word, " " + word.capitalize())
            first = [model.encode(form)[:1] for form in forms]
            found |= {ids[0] for ids in first if ids and ids[0] != unknown}
        if not found:
            raise UserError(
                f"The tokenizer has none of the words {list(words)}: expected one that it encodes."
            )
        return cls(tuple(found), after)

    @property
    def reach(self) -> int:
        """The window looks back `after` tokens."""
        return self.after

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        """The generated positions that read one of the ids, or follow one closely enough."""
        steps = at.needed("steps", "AtTokens")
        trail = at.needed("trail", "AtTokens")
        # not torch.isin: with many ids it sorts, and waits for the device, which no graph may
        hits = (trail[..., None] == ids_on(self.ids, trail.device)).any(-1)
        length = steps.shape[1]
        if self.after:
            # prefix sums [B, R + T + 1]: a hit in the last `after` + 1 tokens raises the sum
            sums = torch.nn.functional.pad(hits.long().cumsum(1), (1, 0))
            last = torch.arange(trail.shape[1] - length, trail.shape[1], device=trail.device) + 1
            hits = sums[:, last] > sums[:, (last - 1 - self.after).clamp(min=0)]
        else:
            hits = hits[:, -length:]  # [B, R + T] -> [B, T]
        return hits & (steps >= 0)


@cache
def ids_on(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """Token ids as a tensor on a device; cached, because a copy per pass would stall the device.

    Args:
        ids: token ids.
        device: where to put them.

    Returns:
        int64 [len(ids)].
    """
    return torch.tensor(ids, device=device)


@checked
@dataclass(frozen=True)
class Thinking(When):
    """The generated steps before the answer; the last of them reads the end of thinking."""

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        """The generated positions before the answer."""
        steps = at.needed("steps", "Thinking()")
        answer = at.needed("answer_from", "Thinking()")[:, None]
        return (steps >= 0) & (steps < answer)


@checked
@dataclass(frozen=True)
class Answer(When):
    """The steps that choose the answer's tokens."""

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        """The positions from the one that chooses the first answer token."""
        steps = at.needed("steps", "Answer()")
        return steps >= at.needed("answer_from", "Answer()")[:, None]


@checked
@dataclass(frozen=True)
class AfterLoop(When):
    """From the step at which the chain certainly loops (see `loop_start`) to its end."""

    watches_loops = True

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        """The positions after the loop was detected."""
        steps = at.needed("steps", "AfterLoop()")
        return steps >= at.needed("loop_from", "AfterLoop()")[:, None]


@dataclass(frozen=True)
class _Combined(When):
    how: str
    parts: tuple[When, ...]
    reach: int = field(init=False, default=0)
    watches_loops: bool = field(init=False, default=False)
    by_chain: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        for part in self.parts:
            if not isinstance(part, When):
                raise UserError(f"A window combines with a window, not with {part!r}.")
        object.__setattr__(self, "reach", max(p.reach for p in self.parts))
        object.__setattr__(self, "watches_loops", any(p.watches_loops for p in self.parts))
        object.__setattr__(self, "by_chain", any(p.by_chain for p in self.parts))

    @property
    def earliest(self) -> int:
        if self.how == "not":
            return PREFILL_STEP
        least = [p.earliest for p in self.parts]
        return max(least) if self.how == "and" else min(least)

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        inside = [p.active(at) for p in self.parts]
        if self.how == "not":
            return ~inside[0]
        return inside[0] & inside[1] if self.how == "and" else inside[0] | inside[1]


@dataclass(frozen=True, eq=False)
class ChainWindows(When):
    """Steps [start, stop) that differ from chain to chain. Build it with `of`.

    A `Window` is the same for all rows of a batch. Here each chain has its own span, found by the
    row's key (`interp.chains.noise.noise_key` of seed, problem and sample). So one variant serves
    all chains, and they still decode in one batch. A chain without a span is never inside.

    Attributes:
        spans: noise key -> (start, stop).

    Raises:
        UserError: there is no span, or one is empty or starts before step -1.
    """

    spans: Mapping[int, tuple[int, int]]
    by_chain = True

    def __post_init__(self) -> None:
        if not self.spans:
            raise UserError("ChainWindows of no chain: expected a span for at least one.")
        for start, stop in self.spans.values():
            if not PREFILL_STEP <= start < stop:
                raise UserError(f"A span [{start}, {stop}): expected -1 <= start < stop.")
        keys = sorted(self.spans)
        table = torch.tensor([keys, *zip(*(self.spans[k] for k in keys), strict=True)])
        object.__setattr__(self, "_table", {torch.device("cpu"): table})

    @classmethod
    def of(
        cls,
        chains: Sequence[Chain],
        starts: Sequence[int | None],
        stops: Sequence[int | None] | None = None,
    ) -> ChainWindows:
        """A window with one span per chain.

        Args:
            chains: the chains.
            starts: first step inside for each chain; None for a chain without a span.
            stops: first step after the span for each chain; None for no end.

        Returns:
            The window.

        Raises:
            UserError: the lists differ in length, or two chains have the same problem, sample and
                seed.
        """
        if len(starts) != len(chains) or (stops is not None and len(stops) != len(chains)):
            raise UserError(
                f"ChainWindows.of: {len(starts)} starts for {len(chains)} chains: expected one "
                "each, and as many stops."
            )
        ends = [None] * len(chains) if stops is None else list(stops)
        spans: dict[int, tuple[int, int]] = {}
        for chain, start, stop in zip(chains, starts, ends, strict=True):
            if start is None:
                continue
            key = noise_key(chain.seed, chain.problem, chain.sample)
            if key in spans:
                raise UserError(
                    f"ChainWindows.of: two chains of problem {chain.problem!r}, sample "
                    f"{chain.sample}, seed {chain.seed}: expected one, because rows are told "
                    "apart by these."
                )
            spans[key] = (int(start), NEVER if stop is None else int(stop))
        return cls(spans)

    @property
    def earliest(self) -> int:
        """The earliest start of any span."""
        return min(start for start, _ in self.spans.values())

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        """The positions inside the span of their row's chain."""
        steps = at.needed("steps", "A window of each chain's own")
        keys, starts, stops = self._on(steps.device)
        where = torch.searchsorted(keys, at.keys.to(keys.device)).clamp(max=len(keys) - 1)
        known = (keys[where] == at.keys.to(keys.device))[:, None]
        return known & (steps >= starts[where][:, None]) & (steps < stops[where][:, None])

    def _on(self, device: torch.device) -> Tensor:
        tables: dict[torch.device, Tensor] = self.__dict__["_table"]
        if device not in tables:  # copied once: a copy in every pass would stall the device
            tables[device] = next(iter(tables.values())).to(device)
        return tables[device]
