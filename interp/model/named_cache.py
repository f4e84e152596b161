"""Activations of one forward pass by name, as `ReasoningModel.run_with_cache` returns them.

`interp.activations.forward_cache` lists the names and runs the pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import pandas as pd
from jaxtyping import Int
from torch import Tensor

from interp.errors import UserError, printable
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table


@checked
@as_table
@dataclass(frozen=True, eq=False)
class NamedCache(Mapping[str, Tensor]):
    """Activations of one forward pass by name: a read-only mapping.

    `cache["resid_post", 3]` is short for `cache["blocks.3.hook_resid_post"]`.

    Attributes:
        kept: the tensors by name, on the CPU; float32 logits, all else in the model's dtype.
        names: every name that this model and variant have, kept or not.
        tokens: token ids that were read, int64 [B, T]; 0 in the padding.
        lengths: number of tokens of each row.
        variant: name of the variant.
        layer_map: dense index of each block of the model.
    """

    kept: Mapping[str, Tensor] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    tokens: Int[Tensor, "B T"] = field(repr=False)
    lengths: tuple[int, ...]
    variant: str
    layer_map: tuple[int, ...]

    def __getitem__(self, name: str | tuple[str, int]) -> Tensor:
        whole = _whole_name(name)
        if whole not in self.kept:
            check_name(whole, self.names)
            raise UserError(
                f"{whole} was not kept: name it, run_with_cache(..., names=[{whole!r}])."
            )
        return self.kept[whole]

    def get(self, name: str | tuple[str, int], default: Any = None) -> Any:
        """A tensor by its name; `default` if it was not kept.

        Args:
            name: its name, or its short name and block.
            default: what to return in its place.

        Returns:
            The tensor or the default.
        """
        return self.kept.get(_whole_name(name), default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def __contains__(self, name: object) -> bool:
        return name in self.kept

    def __repr__(self) -> str:
        size = sum(tensor.nbytes for tensor in self.values()) / 2**20
        rows, width = self.tokens.shape
        return (
            f"NamedCache({len(self)} of {len(self.names)} names, {rows} rows of {width} tokens, "
            f"{size:.1f} MiB, variant={self.variant!r})"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per name: block (dense index; none for whole-model names), shape, dtype, norm."""
        rows = []
        for name, tensor in self.items():
            pieces = name.split(".")
            rows.append(
                {
                    "name": name,
                    "block": int(pieces[1]) if pieces[0] == "blocks" else None,
                    "shape": tuple(tensor.shape),
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "mean_norm": float(tensor.float().norm(dim=-1).mean()),
                }
            )
        return pd.DataFrame(rows)


def _whole_name(name: str | tuple[str, int]) -> str:
    if isinstance(name, str):
        return name
    short, block = name
    return f"blocks.{block}.{'attn.' if short in ('z', 'pattern') else ''}hook_{short}"


def check_name(name: str, known: Sequence[str]) -> None:
    """Refuse a name that a model does not have.

    Args:
        name: the name of an activation.
        known: the names that there are.

    Raises:
        UserError: it is not among them; says the nearest one.
    """
    if name not in known:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"{printable(name, 60)!r} is no activation of this model under this variant.{hint} "
            "`NamedCache.names` lists them; l in blocks.l is the dense index, and a skipped block "
            "has no parts."
        )
