"""When an intervention is in force: windows in steps, and windows at events of the chain.

Step s is the pass that READS generated token s; the prompt is step -1. So a window that opens at
step t leaves tokens 0..t as they were: t is the first token whose reading is changed, t+1 the
first that can differ.

| window | in force |
|---|---|
| `Window(start, stop)` | at steps [start, stop) |
| `AtTokens(ids, after=n)` | when one of these tokens is read, and for n steps more |
| `Thinking()`, `Answer()` | before / from the pass that chooses the first answer token |
| `AfterLoop()` | once the chain certainly loops |

They combine: `Answer() & Window(0, 200)`, `AtTokens(...) | AfterLoop()`, `~Thinking()`.

An event may look back, never ahead: what is in force at a step depends on the tokens up to it, so
decoding and replaying agree (`Timeline` gives the replay what the decoder knew). Events concern
generated tokens: none is in force while the prompt is read, but for a negation.

Shapes: B rows, T positions of one pass.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.chains.noise import noise_key
from interp.errors import UserError

if TYPE_CHECKING:
    from interp.chains.chain import Chain
    from interp.model.reasoning_model import ReasoningModel

PREFILL_STEP = -1
NEVER = 2**62  # a step that no chain reaches


@dataclass(frozen=True)
class Site:
    """What an intervention may look at in one pass.

    steps [B, T]: None where rows have none (a plain forward pass). keys [B]: what is random in a
    row is keyed by. trail [B, R + T]: the generated tokens read, R of them before the first
    position (-1 for a prompt token). answer_from, loop_from [B]: the first step of the answer,
    and the first after a loop (`NEVER` where there is none yet).
    """

    steps: Int[Tensor, "B T"] | None
    keys: Int[Tensor, " B"]
    trail: Int[Tensor, "B RT"] | None = None
    answer_from: Int[Tensor, " B"] | None = None
    loop_from: Int[Tensor, " B"] | None = None

    def needed(self, name: str, who: str) -> Tensor:
        found = getattr(self, name)
        if found is None:
            raise UserError(
                f"{who} depends on where in the chain a position is ({name}), which is not known "
                "here: decode, replay chains, or give apply(model, rows, steps=..., ...)."
            )
        return found


class When:
    """Base of all windows."""

    reach: int = 0  # tokens before the one read that it looks at
    watches_loops: bool = False

    @property
    def earliest(self) -> int:
        """No step before this one is ever inside."""
        return 0

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        """Which positions lie inside."""
        raise NotImplementedError

    def __and__(self, other: When) -> When:
        return _Combined("and", (self, other))

    def __or__(self, other: When) -> When:
        return _Combined("or", (self, other))

    def __invert__(self) -> When:
        return _Combined("not", (self,))


@dataclass(frozen=True)
class Window(When):
    """Steps [start, stop); stop None is open. The prompt is step -1."""

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
        return cls(0, None)

    @classmethod
    def prefill_only(cls) -> Window:
        return cls(PREFILL_STEP, 0)

    @property
    def earliest(self) -> int:
        return self.start

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        steps = at.needed("steps", "A window in steps")
        inside = steps >= self.start
        return inside if self.stop is None else inside & (steps < self.stop)


@dataclass(frozen=True)
class AtTokens(When):
    """The steps that read one of `ids`, and `after` steps behind each."""

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
        """The first token of each of `words`, written in the ways that a text may spell it.

        That is at the start of a text and after a space, as it stands and capitalised.
        """
        if isinstance(words, str):
            raise UserError(f"AtTokens.of(words={words!r}): expected a list of words.")
        unknown = model.tokenizer.unk_token_id
        found = set()
        for word in words:
            forms = (word, word.capitalize(), " " + word, " " + word.capitalize())
            first = [model.encode(form)[:1] for form in forms]
            found |= {ids[0] for ids in first if ids and ids[0] != unknown}
        if not found:
            raise UserError(f"The tokenizer has none of the words {list(words)}.")
        return cls(tuple(found), after)

    @property
    def reach(self) -> int:
        return self.after

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        steps = at.needed("steps", "AtTokens")
        trail = at.needed("trail", "AtTokens")
        hits = torch.isin(trail, ids_on(self.ids, trail.device))
        length = steps.shape[1]
        if self.after:
            sums = torch.nn.functional.pad(hits.long().cumsum(1), (1, 0))
            last = torch.arange(trail.shape[1] - length, trail.shape[1], device=trail.device) + 1
            hits = sums[:, last] > sums[:, (last - 1 - self.after).clamp(min=0)]
        else:
            hits = hits[:, -length:]
        return hits & (steps >= 0)


@cache
def ids_on(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """Made once: a copy to the device in every pass would hold it up."""
    return torch.tensor(ids, device=device)


@dataclass(frozen=True)
class Thinking(When):
    """The generated steps before the answer (the end of thinking is read in it)."""

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        steps = at.needed("steps", "Thinking()")
        answer = at.needed("answer_from", "Thinking()")[:, None]
        return (steps >= 0) & (steps < answer)


@dataclass(frozen=True)
class Answer(When):
    """The steps that choose the answer's tokens."""

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        steps = at.needed("steps", "Answer()")
        return steps >= at.needed("answer_from", "Answer()")[:, None]


@dataclass(frozen=True)
class AfterLoop(When):
    """From when the chain certainly loops (see `loop_start`), to its end."""

    watches_loops = True

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        steps = at.needed("steps", "AfterLoop()")
        return steps >= at.needed("loop_from", "AfterLoop()")[:, None]


@dataclass(frozen=True)
class _Combined(When):
    how: str
    parts: tuple[When, ...]
    reach: int = field(init=False, default=0)
    watches_loops: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        for part in self.parts:
            if not isinstance(part, When):
                raise UserError(f"A window combines with a window, not with {part!r}.")
        object.__setattr__(self, "reach", max(p.reach for p in self.parts))
        object.__setattr__(self, "watches_loops", any(p.watches_loops for p in self.parts))

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


# ------------------------------------------------------------------------------- timelines


@dataclass(frozen=True, eq=False)
class ChainWindows(When):
    """Steps [start, stop) of the chains that have a span, by noise key. Build it with `of`.

    A `Window` is the same for all rows of a batch. Here each chain has a span of its own,
    found by what its row is keyed by (`interp.chains.noise.noise_key` of seed, problem and
    sample), so one variant serves all chains and they still decode side by side. A chain
    without a span is never inside.
    """

    spans: Mapping[int, tuple[int, int]]

    def __post_init__(self) -> None:
        if not self.spans:
            raise UserError("Spans of no chain: expected a span for at least one.")
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
        """[starts[i], stops[i]) of chain i. A start of None: no span; a stop of None: no end."""
        if len(starts) != len(chains) or (stops is not None and len(stops) != len(chains)):
            raise UserError(f"Spans.of: {len(starts)} starts for {len(chains)} chains: one each.")
        ends = [None] * len(chains) if stops is None else list(stops)
        spans: dict[int, tuple[int, int]] = {}
        for chain, start, stop in zip(chains, starts, ends, strict=True):
            if start is None:
                continue
            key = noise_key(chain.seed, chain.problem, chain.sample)
            if key in spans:
                raise UserError(
                    f"Spans.of: two chains of problem {chain.problem!r}, sample {chain.sample}, "
                    f"seed {chain.seed}: their rows could not be told apart."
                )
            spans[key] = (int(start), NEVER if stop is None else int(stop))
        return cls(spans)

    @property
    def earliest(self) -> int:
        return min(start for start, _ in self.spans.values())

    def active(self, at: Site) -> Bool[Tensor, "B T"]:
        steps = at.needed("steps", "A window of each chain's own")
        keys, starts, stops = self._on(steps.device)
        where = torch.searchsorted(keys, at.keys.to(keys.device)).clamp(max=len(keys) - 1)
        known = (keys[where] == at.keys.to(keys.device))[:, None]
        return known & (steps >= starts[where][:, None]) & (steps < stops[where][:, None])

    def _on(self, device: torch.device) -> Tensor:
        tables: dict[torch.device, Tensor] = self.__dict__["_table"]
        if device not in tables:  # copied once: a copy in every pass would hold it up
            tables[device] = next(iter(tables.values())).to(device)
        return tables[device]
