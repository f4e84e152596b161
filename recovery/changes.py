"""Which blocks a training changed most: weights before and after, per block.

The change of a block is the Frobenius norm of the difference divided by that of the weights before,
over all its weights together; for LoRA, of the merged weights. One tensor at a time is read from
safetensors, so models of any size can be compared.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.errors import UserError
from interp.model.checkpoint_files import folder_blocks, locate, weight_files
from interp.model.loading import refusing
from interp.plumbing.notebook import as_table


@as_table
@dataclass(frozen=True)
class BlockChanges:
    """The relative change of each block's weights, and of everything outside the blocks.

    Attributes:
        blocks: dense index of each block [L].
        change: relative change of each block [L].
        outside: relative change of all other weights.
    """

    blocks: Int[np.ndarray, " L"]
    change: Float[np.ndarray, " L"]
    outside: float

    def to_frame(self) -> pd.DataFrame:
        """Return one row per block."""
        return pd.DataFrame({"block": self.blocks, "change": self.change})


def block_changes(before: str | Path, after: str | Path) -> BlockChanges:
    """Compare the weights of two checkpoints of one shape.

    Args:
        before: folder or name of the checkpoint before training.
        after: that of the checkpoint after training.

    Returns:
        The changes.

    Raises:
        UserError: the weights cannot be read, or differ in names or shapes.
    """
    old, new = _weights(before), _weights(after)
    tied = old.keys() ^ new.keys()
    if any("lm_head" not in name for name in tied):
        raise UserError(
            f"{after} holds other weights than {before} ({', '.join(sorted(tied)[:3])}): compare "
            "a recovered checkpoint with the one it was trained from."
        )
    moved: dict[int, float] = defaultdict(float)
    size: dict[int, float] = defaultdict(float)
    for name in sorted(old.keys() & new.keys()):
        found = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", name)
        block = int(found[1]) if found else -1
        a, b = _read(old[name], name), _read(new[name], name)
        if a.shape != b.shape:
            raise UserError(
                f"{name} has shape {b.shape} in {after} and {a.shape} in {before}: compare a "
                "recovered checkpoint with the one it was trained from."
            )
        moved[block] += float(((b - a) ** 2).sum())
        size[block] += float((a**2).sum())
    if not any(block >= 0 for block in moved):
        raise UserError(
            f"{before} has no weight whose name contains layers.N, h.N or blocks.N, so its blocks "
            "cannot be compared."
        )
    number = sorted(block for block in moved if block >= 0)
    layer_map = folder_blocks(locate(str(before)))[0] or number
    return BlockChanges(
        blocks=np.array([int(layer_map[i]) for i in number], dtype=np.int64),
        change=np.array([(moved[i] / max(size[i], 1e-30)) ** 0.5 for i in number]),
        outside=float((moved[-1] / max(size[-1], 1e-30)) ** 0.5) if -1 in moved else 0.0,
    )


def _weights(folder: str | Path) -> dict[str, Path]:
    """The file that each weight of a checkpoint is in."""
    from safetensors import safe_open

    found = {}
    with refusing(f"Cannot read the weights of {str(folder)!r}"):
        for file in weight_files(Path(locate(str(folder)))):
            with safe_open(file, framework="pt") as opened:
                found |= dict.fromkeys(opened.keys(), file)
    return found


def _read(file: Path, name: str) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name).double().numpy()
