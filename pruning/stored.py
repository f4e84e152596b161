"""The weights of a checkpoint folder as bytes in files: found, copied and sampled, never decoded.

File format: https://huggingface.co/docs/safetensors (an 8-byte little-endian length; that many
bytes of JSON with dtype, shape and byte range of every weight; then the bytes). A checkpoint is
one such file, or several files and an index that names the file of each weight.
"""

from __future__ import annotations

import json
import math
import operator
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import UserError, printable, reason_of
from interp.json_reader import parse_json, short, whole_text
from interp.model.checkpoint_files import weight_files
from pruning.checkpoint import shard_name

LONGEST_HEADER = 100_000_000  # bytes, as in the safetensors library
# Bits per number, by the dtype names of the format.
BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
BITS |= dict.fromkeys(("U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8)
BITS |= dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
BITS |= dict.fromkeys(("U16", "I16", "F16", "BF16"), 16)
BITS |= dict.fromkeys(("U32", "I32", "F32"), 32)
BITS |= dict.fromkeys(("U64", "I64", "F64", "C64"), 64)
WORD = 2**64  # every number of the format, and the product of a shape, is below it
CHUNK = 2**24  # bytes copied at a time
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Stored:
    """One weight in a file.

    Attributes:
        file: the safetensors file.
        dtype: the dtype's name in the format, such as "BF16".
        shape: the weight's shape.
        start: offset of its first byte in the file.
        stop: offset after its last byte.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def n_bytes(self) -> int:
        """The size of the weight in bytes."""
        return self.stop - self.start


def stored_weights(folder: Path) -> dict[str, Stored]:
    """Find every weight of a checkpoint folder.

    Args:
        folder: the checkpoint folder.

    Returns:
        Name of each weight -> where its bytes are, file by file.

    Raises:
        UserError: the index or a file is damaged.
    """
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        found |= _read_header(file)
    return found


def _read_header(file: Path) -> dict[str, Stored]:
    """The weights in a file, from its header.

    Raises:
        UserError: the file is not a whole, well-formed safetensors file.
    """
    try:
        return _checked(file)
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror or error}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not a whole safetensors file: {reason_of(error)} Download it again."
        ) from error


def _checked(file: Path) -> dict[str, Stored]:
    """As `_read_header`, but a malformed header raises other errors too.

    The rules of the format: the weights follow each other without gap or overlap, from the end of
    the
    header to the end of the file, and each has the length that its dtype and shape give.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = opened.read(8)
        n = struct.unpack("<Q", length)[0] if len(length) == 8 else size
        if n > size - 8:
            raise ValueError(f"it is cut short in its header ({size} bytes)")
        if n > LONGEST_HEADER:
            raise ValueError(f"its header is longer than {LONGEST_HEADER} bytes")
        header = parse_json(opened.read(n).decode("utf-8"), f"header of {file.name}")
    if not isinstance(header, dict):
        raise ValueError(f"its header is {short(header)}")
    start = 8 + n
    found: dict[str, Stored] = {}
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(v, str) for v in notes.values()):
        raise ValueError(f"its __metadata__ are {short(notes)}")
    for text in (*header, *notes, *notes.values()):
        whole_text(text, "its header")
    for key, entry in header.items():
        found[key] = _entry(file, key, entry, start)
    end = start
    for key, weight in sorted(found.items(), key=lambda item: (item[1].start, item[1].stop)):
        if weight.start != end:
            raise ValueError(f"{printable(key, 120)} begins at byte {weight.start}, expected {end}")
        end = weight.stop
    if end != size:
        said = "cut short" if end > size else "followed by other bytes"
        raise ValueError(f"it is {said}: its weights end at byte {end}, the file at {size}")
    return found


def _entry(file: Path, key: str, entry: Any, start: int) -> Stored:
    """One weight of a header; `start` is where the header ends."""
    name = printable(key, 120)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if len(entry) > 3:
        raise ValueError(f"{name} has the fields {short(sorted(entry))}")
    if dtype not in BITS:
        raise ValueError(f"{name} has the unknown dtype {short(dtype)}")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        whole = isinstance(numbers, list) and all(type(i) is int and 0 <= i < WORD for i in numbers)
        if not whole or (what == "data_offsets" and len(numbers) != 2):
            raise ValueError(f"{name} has the {what} {short(numbers)}")
    if any(product >= WORD for product in accumulate(shape, operator.mul)):
        raise ValueError(f"{name} has the shape {short(shape)}")
    bits = math.prod(shape) * BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        raise ValueError(
            f"{name} has {short(offsets[1] - offsets[0])} bytes, and {dtype} of shape "
            f"{short(shape)} takes {short(bits / 8 if bits % 8 else bits // 8)}"
        )
    return Stored(file, dtype, tuple(shape), start + offsets[0], start + offsets[1])


def copy_weights(
    weights: Mapping[str, Stored], names: Mapping[str, str], part: Path
) -> dict[str, str]:
    """Write new files with the weights of `names` under their new names.

    Weights keep their order and their shards; a shard that would be empty is not written.

    Args:
        weights: the weights of the source, by name.
        names: current name -> new name of each weight to copy.
        part: the folder to write to.

    Returns:
        New name of each weight -> file name.
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
    """The numbers of a weight that enter `ReasoningModel.fingerprint`.

    Args:
        stored: the weight; its dtype must be a floating-point one.

    Returns:
        At most 8 numbers at even distances, float32 [n].
    """
    dtype = FLOATS[stored.dtype]
    size = dtype.itemsize
    n = stored.n_bytes // size
    raw = bytearray()
    with stored.file.open("rb") as opened:
        for place in range(0, n, max(1, n // 7))[:8]:
            opened.seek(stored.start + place * size)
            raw += opened.read(size)
    return torch.frombuffer(raw, dtype=dtype).float()
