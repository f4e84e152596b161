"""A GGUF file: where it is, its metadata, its table of tensors, and what it is called in records.

The header is read here, independently of transformers, because transformers passes over fields of
it silently; `interp.model.gguf_config` and `interp.model.gguf_tokenizer` build the configuration
and the tokenizer from it. The weights are dequantised by transformers (`gguf_file=`).
Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import hashlib
import importlib.util
import mmap
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from interp.errors import UserError, printable

SUFFIX = ".gguf"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9  # the metadata types that have no fixed size
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
NESTING = 4  # arrays within arrays; no file has more than one
NEEDED = ("gguf", "accelerate")  # packages that transformers needs to read weights from GGUF
INSTALL = "pip install 'prunescope[gguf]'"

# `general.file_type` of llama.cpp: what the file's author quantised it to.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip

# ggml type number: its name, numbers in a block, bytes of a block
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip


@dataclass(frozen=True)
class GgufTensor:
    """One entry of the table of tensors. shape is in PyTorch's order (rows first)."""

    name: str
    shape: tuple[int, ...]
    type: str
    start: int  # byte of the file where the data begin
    n_bytes: int


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file.

    Attributes:
        path: the file.
        metadata: every field by its name. Arrays are lists.
        tensors: every tensor by its name.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, such as "llama" or "qwen2"."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def quantization(self) -> str:
        """What the file was quantised to, such as "Q4_K_M"; else the type of most weights."""
        declared = FILE_TYPES.get(self.metadata.get("general.file_type", -1))
        if declared is not None:
            return declared
        numbers: Counter[str] = Counter()
        for tensor in self.tensors.values():
            numbers[tensor.type] += prod(tensor.shape)
        return numbers.most_common(1)[0][0]

    def data(self, name: str) -> bytes:
        """The bytes of a tensor as the file stores them."""
        tensor = self.tensors[name]
        with self.path.open("rb") as file:
            file.seek(tensor.start)
            return file.read(tensor.n_bytes)

    def provenance(self) -> dict[str, Any]:
        """What every record of the model says of the file; plain JSON values."""
        return {
            "format": "gguf",
            "file": self.path.name,
            "sha256": file_sha256(self.path),
            "quantization": self.quantization,
            "tensor_types": dict(Counter(tensor.type for tensor in self.tensors.values())),
            "model_name": str(self.metadata.get("general.name", "")),
        }


def described(provenance: Mapping[str, Any]) -> str:
    """A provenance as one phrase, for logs and records of text."""
    return (
        f"{provenance.get('file')} ({str(provenance.get('format', '')).upper()} "
        f"{provenance.get('quantization')}, sha256 {provenance.get('sha256')})"
    )


def is_gguf(place: str | Path) -> bool:
    """Whether a located model is a GGUF file."""
    return str(place).lower().endswith(SUFFIX)


def locate_gguf(source: str, download: bool = True) -> Path:
    """The GGUF file that `source` stands for.

    Args:
        source: FILE.gguf, FOLDER:FILE.gguf, or HUB_NAME:FILE.gguf (downloaded into the Hub's
            cache).
        download: whether to contact the Hub; if False, only its local cache is read.

    Raises:
        UserError: there is no such file.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.exists():
        raise UserError(f"{source} is not a regular file: expected a GGUF file.")
    place, colon, name = source.rpartition(":")
    folder = Path(place).expanduser()
    if not colon or place.startswith((".", "~")) or folder.is_absolute() or folder.is_dir():
        if colon and (folder / name).is_file():
            return folder / name
        here = folder if colon else path.parent
        others = sorted(p.name for p in here.glob("*" + SUFFIX)) if here.is_dir() else []
        raise UserError(
            f"No file {source!r}: expected FILE.gguf, FOLDER:FILE.gguf or HUB_NAME:FILE.gguf."
            + (f" In {here} there are: {', '.join(others[:5])}." if others else "")
        )
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(place, name, local_files_only=not download)
    except Exception as error:  # offline, gated, no such name: many kinds
        lines = str(error).strip().splitlines()
        raise UserError(
            f"Cannot fetch {name!r} of {place!r} from the Hub: "
            f"{printable(lines[0] if lines else repr(error), 300)} "
            "Expected FILE.gguf, FOLDER:FILE.gguf or HUB_NAME:FILE.gguf."
        ) from error
    return Path(str(found))


def check_packages() -> None:
    """Refuse to read weights where a package that transformers needs for it is not installed.

    Raises:
        UserError: names the package, and how to install it.
    """
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(
            f"Reading a GGUF file needs the package {lacking[0]!r}, which is not installed: "
            f"{INSTALL}"
        )


def read_gguf(path: str | Path) -> GgufFile:
    """The header of a GGUF file; the last few are kept until the file changes.

    Raises:
        UserError: it is no GGUF file, is cut short, is one part of several, or holds a type of
            tensor that is not known.
    """
    path = Path(path)
    stat = path.stat()
    return _read(path, stat.st_size, stat.st_mtime_ns)


def file_sha256(path: str | Path) -> str:
    """The sha256 of a whole file, 64 hex digits; kept until the file changes."""
    stat = Path(path).stat()
    return _sha256(Path(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _sha256(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=2)
def _read(path: Path, size: int, _changed: int) -> GgufFile:
    if size < 24:
        raise _damaged(path, size)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as blob:
        if blob[:4] != MAGIC:
            raise UserError(f"{path} is no GGUF file: it does not begin with the word GGUF.")
        try:
            return _header(path, blob)
        except (struct.error, UnicodeDecodeError, OverflowError, MemoryError, _OutsideError):
            raise _damaged(path, size) from None


class _OutsideError(Exception):
    """The header points outside the file."""


def _damaged(path: Path, size: int) -> UserError:
    return UserError(
        f"{path} is cut short or damaged: it has {size:,} bytes and its header asks for more. "
        "Fetch it again."
    )


class _HeaderBytes:
    """A position in the file from which values are read, never past its end."""

    def __init__(self, blob: mmap.mmap) -> None:
        self.blob, self.at, self.end = blob, 4, len(blob)

    def numbers(self, code: str, count: int) -> tuple[Any, ...]:
        width = struct.calcsize("<" + code) * count
        if width > self.end - self.at:
            raise _OutsideError
        found = struct.unpack_from(f"<{count}{code}", self.blob, self.at)
        self.at += width
        return found

    def number(self, code: str) -> Any:
        return self.numbers(code, 1)[0]

    def string(self) -> str:
        length = self.number("Q")
        if length > self.end - self.at:
            raise _OutsideError
        text = self.blob[self.at : self.at + length]
        self.at += length
        return text.decode("utf-8", errors="surrogateescape")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY or depth > NESTING:
            raise _OutsideError
        inner, count = self.number("I"), self.number("Q")
        if inner in SCALARS:
            return list(self.numbers(SCALARS[inner], count))
        if count > (self.end - self.at) // 8:  # every string or array takes 8 bytes at least
            raise _OutsideError
        return [self.value(inner, depth + 1) for _ in range(count)]


def _header(path: Path, blob: mmap.mmap) -> GgufFile:
    cursor = _HeaderBytes(blob)
    version = cursor.number("I")
    if version not in VERSIONS:
        raise UserError(
            f"{path} is GGUF of version {version}: expected version 2 or 3 (little-endian). "
            "Convert the model again."
        )
    n_tensors, n_fields = cursor.numbers("Q", 2)
    metadata: dict[str, Any] = {}
    for _ in range(n_fields):
        name = cursor.string()
        metadata[name] = cursor.value(cursor.number("I"))
    if int(metadata.get("split.count", 1)) > 1:
        raise UserError(
            f"{path} is one of {metadata['split.count']} parts of a model (split.count): join "
            "them with `llama-gguf-split --merge`, and give the whole file."
        )
    table: list[tuple[str, tuple[int, ...], int, int]] = []
    for _ in range(n_tensors):
        name = cursor.string()
        shape = cursor.numbers("Q", cursor.number("I"))
        table.append((name, tuple(reversed(shape)), cursor.number("I"), cursor.number("Q")))
    alignment = int(metadata.get("general.alignment", 32)) or 1
    start = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in table:
        if kind not in TENSOR_TYPES:
            raise UserError(
                f"{path}: the tensor {printable(name, 80)} is of the type number {kind}, which is "
                f"not known here. Expected one of {', '.join(t[0] for t in TENSOR_TYPES.values())}"
                ": quantise the model again, for instance to Q8_0."
            )
        label, numbers, n_bytes = TENSOR_TYPES[kind]
        length = prod(shape) // numbers * n_bytes
        if start + offset + length > len(blob):
            raise _OutsideError
        tensors[name] = GgufTensor(name, shape, label, start + offset, length)
    return GgufFile(path, metadata, tensors)
