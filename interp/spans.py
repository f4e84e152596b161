"""Windows that lie elsewhere in every chain: in the steps before its own loop, say.

A window of `interp.windows` is the same for all rows of a batch. Here each chain has a span of its
own, found by what its row is keyed by (`interp.sampling.noise_key` of seed, problem and sample), so
one variant serves all chains and they still decode side by side. A chain without a span is never
inside.

Shapes: C chains; spans are steps [start, stop), as in `Window` (step s reads generated token s).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp.errors import UserError
from interp.sampling import noise_key
from interp.windows import NEVER, PREFILL_STEP, Site, Timeline, When, site

if TYPE_CHECKING:
    from interp.chains import Chain


@dataclass(frozen=True, eq=False)
class Spans(When):
    """Steps [start, stop) of the chains that have a span, by noise key. Build it with `of`."""

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
    ) -> Spans:
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


def steps_inside(chain: Chain, when: When | None) -> np.ndarray:
    """The steps of the passes that made `chain` at which `when` is in force: int, rising.

    Every prompt position is step -1. None is always in force. The last token is never read.
    """
    line = Timeline.of(chain)
    n = line.prompt + chain.n_tokens - 1
    steps = np.maximum(np.arange(n) - line.prompt, PREFILL_STEP)
    if when is None:
        return steps
    keys = torch.tensor([noise_key(chain.seed, chain.problem, chain.sample)])
    inside = when.active(site([line], 0, n, keys=keys, reach=when.reach))
    return steps[inside.expand(1, n)[0].numpy()]
