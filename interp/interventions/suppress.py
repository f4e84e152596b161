"""Tokens that may not be chosen: their logits are -inf (NoWait, arXiv 2506.08343).

    Suppress((412, 7))                                # two token ids, at all steps
    Suppress(opener_ids(model, lexicon.openers), window=Thinking())

At a step inside the window, the token chosen behind the token read is none of these. Nothing else
changes: no block, no key or value. A token that the engine forces is written nevertheless, with a
log-probability of -inf. `interp.diagnosis.openers.opener_ids` finds the tokens of words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from interp.errors import UserError, printable
from interp.interventions.interventions import HEAD, Intervention, PlaceName
from interp.interventions.windows import Site, ids_on
from interp.plumbing.arguments import checked


@checked
@dataclass(frozen=True)
class Suppress(Intervention):
    """Rule out tokens.

    Attributes:
        block: `HEAD`; no block is changed.
        tokens: token ids; none changes nothing.

    Raises:
        UserError: a token id is negative.
    """

    block: int = field(default=HEAD, init=False)
    tokens: tuple[int, ...] = ()
    part: PlaceName = field(default="logits", init=False)
    places: ClassVar[tuple[str, ...]] = ("logits",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "tokens", tuple(sorted({int(i) for i in self.tokens})))
        if self.tokens and self.tokens[0] < 0:
            raise UserError(f"Suppress(tokens={self.tokens}): expected token ids, from 0.")

    @property
    def name(self) -> str:
        """The name of the variant that consists of this intervention, such as "suppress 4 7"."""
        said = " ".join(map(str, self.tokens)) or "nothing"
        when = "" if self.window is None else f" {printable(repr(self.window), 60)}"
        return f"suppress {said}{when}"

    def touches(self, step: int) -> bool:
        """False: how tokens are read is never changed."""
        return False

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """The logits [B, T, V], -inf for the tokens."""
        size = delta.shape[-1]
        if not self.tokens:
            return delta
        if self.tokens[-1] >= size or len(self.tokens) == size:
            raise UserError(
                f"Suppress: {len(self.tokens)} tokens up to id {self.tokens[-1]}, and the model "
                f"has {size} (0..{size - 1}): expected ids of these that leave one to choose."
            )
        return delta.index_fill(-1, ids_on(self.tokens, delta.device), -torch.inf)
