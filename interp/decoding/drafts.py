"""Drafts: the tokens that probably come next, because the chain repeats itself.

A pruned model's loops run to the end of the budget and are most of the cost of a study. The next
tokens of a loop can be guessed: what followed the same tokens before. One pass then reads the last
token and the whole draft, each in a lane of its own, and chooses a token in every lane. The noise
is keyed by step, so a draft token that equals the choice of the lane before is exactly the token
that decoding one by one would have chosen. The first that differs, and all after it, are dropped.

A lane costs much less than a pass while a batch has few rows, since a pass then waits for the
weights. `LANES` is where that ends: with as many rows nothing is drafted. A row whose drafts fail
drafts less, then pauses. All this depends on token ids alone, so a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CPU_LANES, CUDA_LANES = 128, 256  # lanes of a pass, drafts included
GRAM = 4  # tokens that must have occurred before
FIRST, MOST = 4, 64  # tokens of the first draft of a row, and of any
PAUSE = 16  # tokens until a row drafts again after a draft that failed; doubled each time
Draft = np.ndarray  # token ids, [d], int64


class Drafter:
    """Drafts what a row may generate next, and learns how far it can be trusted.

    Attributes:
        length: tokens of the next draft at most.
        wait: number of generated tokens at which the row drafts again.
    """

    def __init__(self) -> None:
        """Begins with no token seen."""
        self.length, self.wait = FIRST, 0
        self._pause = PAUSE
        self._ends: dict[tuple[int, ...], int] = {}  # where each `GRAM` tokens last ended
        self._seen = 0

    def draft(self, tokens: np.ndarray, most: int) -> Draft | None:
        """Drafts the next tokens of a row.

        Args:
            tokens: what the row has generated, [S], int64.
            most: tokens to draft at most.

        Returns:
            1 to `most` token ids, or None if the last tokens are new or the row pauses.
        """
        count = len(tokens)
        found = self._look_up(tokens)
        most = min(most, self.length)
        if count < self.wait or found is None or most < 1:
            return None
        # what follows the earlier occurrence; at the end of the chain, the draft itself goes on
        return tokens[found + np.arange(most) % (count - found)]

    def _look_up(self, tokens: np.ndarray) -> int | None:
        """Returns where the last `GRAM` tokens ended before, and remembers all that are new."""
        count = len(tokens)
        first = max(min(self._seen, count), GRAM - 1)
        recent = tokens[first - GRAM + 1 :].tolist()
        found = None
        for end in range(first + 1, count + 1):
            gram = tuple(recent[end - first - 1 : end - first - 1 + GRAM])
            found = self._ends.get(gram)
            self._ends[gram] = end
        self._seen = count
        return found if found is not None and found < count else None

    def learn(self, drafted: int, right: int, count: int) -> None:
        """Adapts to how a draft fared.

        Args:
            drafted: tokens of the draft.
            right: how many of them were chosen, up to the first that was not.
            count: tokens generated now.
        """
        if right == drafted:
            self.length, self._pause = min(2 * self.length, MOST), PAUSE
        elif right < drafted / 2:
            self.length = FIRST
            if right == 0:
                self.wait = count + self._pause
                self._pause *= 2
        else:
            self.length = max(right, FIRST)


def shares(wanted: Sequence[int], free: int) -> list[int]:
    """Divides free lanes among the rows: no row gets more than it wants, the smallest wants first.

    Args:
        wanted: lanes that each row wants.
        free: lanes to divide.

    Returns:
        Lanes of each row.
    """
    given = [0] * len(wanted)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    for place, i in enumerate(order):
        given[i] = min(wanted[i], free // (len(order) - place))
        free -= given[i]
    return given
