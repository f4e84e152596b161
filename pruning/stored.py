"""The weights of a checkpoint folder as bytes in files: found, copied and sampled, never decoded.

File format: https://huggingface.co/docs/safetensors (an 8-byte little-endian length, that many
bytes of JSON with dtype, shape and byte range of every weight, then the bytes). A checkpoint is
one such file, or several and an index that says which weight is in which.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError
from interp.source import INDEX, WEIGHTS
from pruning.checkpoint import shard_name

CHUNK = 2**24  # bytes copied at a time
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Stored:
    """One weight in a file: where its bytes are."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def n_bytes(self) -> int:
        return self.stop - self.start


def stored_weights(folder: Path) -> dict[str, Stored]:
    """Every weight of a checkpoint folder and where its bytes are, file by file."""
    if (folder / INDEX).is_file():
        try:
            home = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            files = sorted(set(home.values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{folder / INDEX} is not an index of weights ({error!r}).") from error
    elif (folder / WEIGHTS).is_file():
        files = [WEIGHTS]
    else:
        raise UserError(f"{folder} holds neither {WEIGHTS} nor {INDEX}: expected one of them.")
    found: dict[str, Stored] = {}
    for file in files:
        if not (folder / file).is_file():
            raise UserError(f"{folder} lacks {file}, which its index names: fetch it again.")
        found |= _read_header(folder / file)
    return found


def _read_header(file: Path) -> dict[str, Stored]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = opened.read(8)
        n = struct.unpack("<Q", length)[0] if len(length) == 8 else size
        try:
            if n > size - 8:
                raise ValueError("cut short")
            header = json.loads(opened.read(n))
            start = 8 + n
            found = {
                key: Stored(
                    file,
                    str(entry["dtype"]),
                    tuple(entry["shape"]),
                    *(start + offset for offset in entry["data_offsets"]),
                )
                for key, entry in header.items()
                if key != "__metadata__"
            }
            if any(weight.stop > size for weight in found.values()):
                raise ValueError("cut short")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is not a whole safetensors file ({error}).") from error
    return found


def copy_weights(
    weights: Mapping[str, Stored], names: Mapping[str, str], part: Path
) -> dict[str, str]:
    """New files with the weights of `names` under their new names; returns where each went.

    Weights stay in the order and the shards they were in; a shard left empty is left out.
    """
    shards: dict[Path, list[str]] = {}
    for key in names:
        shards.setdefault(weights[key].file, []).append(key)
    home: dict[str, str] = {}
    for i, (file, keys) in enumerate(sorted(shards.items()), start=1):
        keys.sort(key=lambda key: weights[key].start)
        name = shard_name(i, len(shards))
        home |= {names[key]: name for key in keys}
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        used = 0
        for key in keys:
            weight = weights[key]
            header[names[key]] = {
                "dtype": weight.dtype,
                "shape": list(weight.shape),
                "data_offsets": [used, used + weight.n_bytes],
            }
            used += weight.n_bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
        with file.open("rb") as old, (part / name).open("wb") as new:
            new.write(struct.pack("<Q", len(text)) + text)
            for key in keys:
                _copy(old, new, weights[key])
    return home


def _copy(old: BinaryIO, new: BinaryIO, weight: Stored) -> None:
    old.seek(weight.start)
    left = weight.n_bytes
    while left:
        chunk = old.read(min(CHUNK, left))
        if not chunk:
            raise OSError(f"{weight.file} ended early")
        new.write(chunk)
        left -= len(chunk)


def few_numbers(stored: Stored) -> Float[Tensor, " n"]:
    """The numbers of a weight that `ReasoningModel.fingerprint` looks at."""
    dtype = FLOATS[stored.dtype]
    size = dtype.itemsize
    n = stored.n_bytes // size
    raw = bytearray()
    with stored.file.open("rb") as opened:
        for place in range(0, n, max(1, n // 7))[:8]:
            opened.seek(stored.start + place * size)
            raw += opened.read(size)
    return torch.frombuffer(raw, dtype=dtype).float()
