"""The inputs of a decoding pass on the device: one entry per lane, which the pass updates in place.

A lane is one token that a pass reads: lane r belongs to row r, unless tokens are drafted. Then a
row has several lanes at consecutive positions (`interp.decoding.drafts`). The tensors keep their
addresses, so that a pass can be captured once and replayed (`interp.decoding.cuda_graphs`).

Shapes: n lanes in use. Numbers are int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.interventions.windows import Site

if TYPE_CHECKING:
    from interp.interventions.windows import When


class LaneState:
    """The state of all lanes.

    Attributes:
        reach: tokens that the windows look back.
        watches_events: whether an intervention has a window.
        last: token that the next pass reads, [lanes].
        position: position of this token in the sequence, [lanes].
        index: step of the token that the next pass chooses, [lanes].
        keys: noise keys, [lanes].
        answer_from: first step of the answer, [lanes].
        loop_from: first step after a loop, [lanes].
        script: token to write in this pass; negative where the model chooses, [lanes].
        rows: row of each lane, [lanes]; read only if `drafted`.
        drafted: whether a row has several lanes.
        trail: the last generated tokens, [lanes, reach + 1].
        numbers: log-probability, entropy and log normalizer of the last pass, [lanes, 3], float32.
    """

    def __init__(self, lanes: int, windows: Sequence[When], device: torch.device) -> None:
        """Allocates the state.

        Args:
            lanes: tokens that a pass can read.
            windows: the windows of all interventions.
            device: where the passes run.
        """
        self.reach = max((w.reach for w in windows), default=0)
        self.watches_events = bool(windows)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros((lanes, *shape), dtype=torch.int64, device=device)

        self.last, self.position, self.index, self.keys = (zeros() for _ in range(4))
        self.answer_from, self.loop_from, self.script, self.rows = (zeros() for _ in range(4))
        self.drafted = False
        self.trail = zeros(self.reach + 1)
        self.numbers = torch.zeros((lanes, 3), device=device)

    def place(
        self,
        n: int,
        *,
        rows: np.ndarray | None,
        spare: int,
        last: np.ndarray,
        position: np.ndarray,
        index: np.ndarray,
        noise: np.ndarray,
        answer_from: np.ndarray,
        loop_from: np.ndarray,
        trail: np.ndarray | None,
    ) -> None:
        """Sets the inputs of lanes 0..n-1, int64 [n] each.

        Args:
            n: lanes in use.
            rows: row of each lane; None if lane r belongs to row r.
            spare: row of the lanes that are not in use, where tokens are drafted.
            last: token that the next pass reads.
            position: position of this token in the sequence.
            index: step of the token that the next pass chooses.
            noise: noise key of each lane.
            answer_from: first step of the answer.
            loop_from: first step after a loop.
            trail: the last generated tokens, [n, reach + 1]; None if no window watches them.
        """
        device = self.last.device
        self.drafted = rows is not None
        if rows is not None:
            self.rows[:n] = torch.from_numpy(rows).to(device)
            self.rows[n:] = spare
        # one [6, n] array, so that there is a single copy to the device
        values = np.stack((last, position, index, noise, answer_from, loop_from))
        places = (self.last, self.position, self.index)
        places += (self.keys, self.answer_from, self.loop_from)
        for place, row in zip(places, torch.from_numpy(values).to(device), strict=True):
            place[:n] = row
            place[n:] = 0  # a captured pass also runs unused rows
        if trail is not None:
            self.trail[:n] = torch.from_numpy(trail).to(device)

    def site(self, n: int) -> Site:
        """Returns where lanes 0..n-1 are; the pass that chooses token i reads token i - 1."""
        steps, keys = (self.index[:n] - 1)[:, None], self.keys[:n]  # [n, 1], [n]
        if not self.watches_events:
            return Site(steps, keys)
        return Site(steps, keys, self.trail[:n], self.answer_from[:n], self.loop_from[:n])

    def written(self, token: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Returns the tokens of the script where it has some, else those that were chosen.

        Args:
            token: what the model chose, [n].
        """
        script = self.script[: len(token)]
        return torch.where(script >= 0, script, token)

    def advance(self, token: Int[Tensor, " n"], numbers: Float[Tensor, "n 3"]) -> None:
        """Goes on by the tokens of a pass.

        Args:
            token: the token of each lane, [n].
            numbers: its log-probability, entropy and log normalizer, [n, 3].
        """
        n = len(token)
        self.numbers[:n] = numbers
        self.last[:n] = token
        self.position[:n] += 1
        self.index[:n] += 1
        if self.reach:
            trail = self.trail[:n]
            trail[:, :-1] = trail[:, 1:].clone()
        if self.watches_events:
            self.trail[:n, -1] = token
