"""Which tokens a lens follows at each position: an id, a set of ids, or one id per step."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import UserError
from interp.lens.read_positions import NO_TOKEN, Places, Text
from interp.model.reasoning_model import ReasoningModel

Target = int | Collection[int] | Sequence[np.ndarray] | np.ndarray
CHOSEN = "chosen"


@dataclass(frozen=True)
class TargetIds:
    """The token ids of one target.

    Attributes:
        ids: [1, M], a set that is the same everywhere; or [K, 1], one id per position (-1: none).
    """

    ids: Int[np.ndarray, "K M"]

    def at(self, index: Int[np.ndarray, " k"], device: torch.device) -> Int[Tensor, "_ M"]:
        """The ids at some positions.

        Args:
            index: numbers of the positions [k].
            device: where to put them.

        Returns:
            int64 [1, M] or [k, 1].
        """
        ids = self.ids if len(self.ids) == 1 else self.ids[index]
        return torch.from_numpy(ids).to(device)


def find_targets(
    model: ReasoningModel,
    targets: Mapping[str, Target] | None,
    texts: Sequence[Text],
    places: Places,
) -> dict[str, TargetIds]:
    """The chosen token and the caller's targets as ids.

    Args:
        model: gives the vocabulary.
        targets: name -> token id, set of ids, or for each chain one id per step.
        texts: the chains.
        places: the positions to read.

    Returns:
        name -> ids; "chosen" comes first.

    Raises:
        UserError: a target is empty, does not fit the chains, or holds an unknown id.
    """
    chosen = np.concatenate([t.chosen for t in texts])[places.at]
    found = {CHOSEN: TargetIds(_checked_ids(model, CHOSEN, chosen, NO_TOKEN)[:, None])}
    for name, target in (targets or {}).items():
        if name == CHOSEN:
            raise UserError(f"Target {CHOSEN!r} is always there: give yours another name.")
        listed: list[Any] = list(target) if isinstance(target, Collection) else [target]
        if listed and np.ndim(listed[0]) == 1:
            rows = [np.asarray(row) for row in listed]
            shapes = [(int(n),) for n in places.lengths]
            if [row.shape for row in rows] != shapes:
                raise UserError(
                    f"Target {name!r}: expected one id per step for each chain, shapes "
                    f"{_few(shapes)}; got {_few([row.shape for row in rows])}."
                )
            ids = _checked_ids(model, name, np.concatenate(rows)[places.at], NO_TOKEN)[:, None]
        else:
            ids = _checked_ids(model, name, np.unique(np.array(listed)), 0)[None, :]
            if not ids.size:
                raise UserError(f"Target {name!r} is an empty set: expected at least one token id.")
        found[name] = TargetIds(ids)
    return found


def _few(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes[:4])) + (", ..." if len(shapes) > 4 else "")


def _checked_ids(
    model: ReasoningModel, name: str, ids: np.ndarray, least: int
) -> Int[np.ndarray, " M"]:
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"Target {name!r}: expected token ids, got {ids.dtype}.")
    if (bad := (ids < least) | (ids >= model.vocab_size)).any():
        raise UserError(
            f"Target {name!r}: token id {int(ids[bad][0])} is outside the vocabulary of "
            f"{model.name} (0..{model.vocab_size - 1})."
        )
    return ids.astype(np.int64)
