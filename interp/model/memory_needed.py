"""Whether a model fits into the memory of the machine, said before its weights are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from interp.errors import UserError
from interp.model.available_memory import available_bytes
from interp.model.gguf_file import is_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GIB = 2**30
SMALL = GIB // 4  # below this, nothing is said: the figures are not that exact


def check_room(
    bare: PreTrainedModel,
    place: str,
    source: str,
    dtype: torch.dtype | str,
    device: torch.device,
) -> None:
    """Refuse a model that is larger than the memory that is available.

    Args:
        bare: the model without storage; its parameters are counted, tied ones once.
        place: where it is read from.
        source: what the caller asked for.
        dtype: of the weights in memory; "auto" is that of the files.
        device: where the weights go.

    Raises:
        UserError: says how much it needs and how much there is.
    """
    kind = _dtype(bare, place, dtype)
    needed = sum(p.numel() for p in bare.parameters()) * kind.itemsize
    room, where = available_bytes("cpu"), "this machine"  # weights pass through it in any case
    if device.type == "cuda" and available_bytes(device) < room:
        room, where = available_bytes(device), "the GPU"
    if needed <= max(room, SMALL):
        return
    smaller = "" if kind.itemsize <= 2 else " in a smaller type (dtype=torch.bfloat16),"
    dequantised = ", dequantised" if is_gguf(place) else ""
    raise UserError(
        f"{source!r} takes {needed / GIB:.1f} GiB in {str(kind).removeprefix('torch.')}"
        f"{dequantised}, and {where} has {room / GIB:.1f} GiB of memory available. Load it{smaller}"
        " on a machine with more memory, or spread it over several devices (device_map='auto')."
    )


def _dtype(bare: PreTrainedModel, place: str, dtype: torch.dtype | str) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        stored = getattr(bare.config.get_text_config(), "dtype", None)
        if is_gguf(place) or not isinstance(stored, torch.dtype):
            return torch.float32 if is_gguf(place) else torch.bfloat16
        return stored
    return getattr(torch, dtype)
