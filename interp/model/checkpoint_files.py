"""Locates a model (bundled, in a folder or on the Hub) and reads the files beside its weights.

The contents of these files are checked here before use; `interp.model.loading` builds models from
them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.errors import UserError
from interp.json_reader import read_json_object, short
from interp.model.delimiters import Delimiters
from interp.model.gguf_file import is_gguf, locate_gguf, read_gguf

PRUNING_FILE = "pruning.json"
DELIMITERS_FILE = "delimiters.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
BUNDLED = "testbed"
MOST_BLOCKS = 1_000  # far above any real model, and quick to build; more means a damaged file


def locate(source: str, weights: bool = True, download: bool = True) -> str:
    """The folder, GGUF file or Hub name that `source` stands for.

    Args:
        source: "testbed", a folder, a Hub name, FILE.gguf, FOLDER:FILE.gguf or
            HUB_NAME:FILE.gguf. A GGUF file on the Hub is downloaded.
        weights: whether a folder must hold weights; if False, a config.json is enough.
        download: whether to contact the Hub; if False, only its local cache is read.

    Returns:
        The path of a folder or of a GGUF file, or the Hub name unchanged.

    Raises:
        UserError: `source` is a path without a checkpoint, or the GGUF file is not found.
    """
    if source == BUNDLED:
        folder = Path(str(resources.files("testbed"))) / "reasoner"
        if not (folder / "config.json").is_file():
            raise UserError(
                f"The bundled reasoner is not there ({folder}): install the released package, "
                "or train it with `prunescope testbed train`."
            )
        return str(folder)
    path = Path(source).expanduser()
    if is_gguf(source) and not path.is_dir():
        return str(locate_gguf(source, download))
    if path.is_dir():
        if not (path / "config.json").is_file():
            if files := sorted(path.glob("*.gguf")):
                raise UserError(
                    f"{path} holds no config.json, but GGUF files: name one of them, such as "
                    f"{path / files[0].name}."
                )
            raise UserError(f"{path} holds no config.json: expected a checkpoint folder.")
        if weights and not any(path.glob("*.safetensors")):
            raise UserError(
                f"{path} holds no .safetensors file: weights are read from safetensors only; "
                "save the model again with save_pretrained."
            )
        return str(path)
    if path.is_absolute() or source.startswith((".", "~")):
        raise UserError(f"No folder {source!r}: expected a checkpoint folder or a Hub name.")
    return source


def side_file(place: str, filename: str, download: bool = True) -> dict[str, Any] | None:
    """Read a JSON file beside the weights, in a folder or on the Hub.

    A GGUF file holds its own configuration, and its folder may hold other models, so only
    delimiters.json is read beside it.

    Args:
        place: the folder, GGUF file or Hub name.
        filename: name of the file.
        download: whether to contact the Hub; if False, only its local cache is read.

    Returns:
        The JSON object, or None if there is no such file.

    Raises:
        UserError: the file is not a JSON object.
    """
    if is_gguf(place) and not Path(place).is_dir():
        if filename != DELIMITERS_FILE:
            return None
        path: Path | None = Path(place).parent / filename
    elif Path(place).is_dir():
        path = Path(place) / filename
    else:
        from transformers.utils.hub import cached_file

        found = cached_file(
            place,
            filename,
            local_files_only=not download,
            _raise_exceptions_for_missing_entries=False,
        )
        path = Path(found) if found else None
    if path is None or not path.is_file():
        return None
    return read_json_object(path)


def folder_delimiters(place: str) -> Delimiters | None:
    """Read the delimiters from delimiters.json.

    Args:
        place: the folder or Hub name.

    Returns:
        The delimiters, or None if there is no such file.

    Raises:
        UserError: the file does not hold delimiters.
    """
    content = side_file(place, DELIMITERS_FILE)
    try:
        return None if content is None else Delimiters.from_dict(content)
    except UserError as error:
        raise UserError(f"delimiters.json of {place}: {error}") from None


def folder_blocks(place: str) -> tuple[tuple[int, ...] | None, int | None]:
    """Read the layer map and the number of dense blocks from pruning.json.

    Args:
        place: a folder or Hub name.

    Returns:
        `layer_map` and `n_dense`; each is None if the file or the field is missing.

    Raises:
        UserError: a field does not have the form that `prune` writes.
    """
    content = side_file(place, PRUNING_FILE) or {}
    layer_map, n_blocks = content.get("layer_map"), content.get("n_blocks")
    try:
        found = None if layer_map is None else _block_numbers(layer_map)
        if n_blocks is not None:
            _check_count(n_blocks)
    except UserError as error:
        raise UserError(
            f"{PRUNING_FILE} of {place}: {error} Prune the dense model again."
        ) from None
    return found, n_blocks


def provenance_of(place: str) -> dict[str, Any]:
    """Which GGUF file a model's weights come from; empty where they come from none.

    Args:
        place: a folder, GGUF file or Hub name. A pruned checkpoint says it in its pruning.json.
    """
    if is_gguf(place) and not Path(place).is_dir():
        return read_gguf(place).provenance()
    found = (side_file(place, PRUNING_FILE) or {}).get("provenance")
    return dict(found) if isinstance(found, dict) else {}


def program_of(place: str) -> tuple[int, ...]:
    """Which block of the original model each dense index of a program of layers runs.

    Args:
        place: a folder, GGUF file or Hub name. The checkpoint of a program says it in its
            pruning.json, and so does one that was pruned from it, whose `layer_map` says which of
            these blocks are left.

    Returns:
        One block per dense index; empty where the model is no program.

    Raises:
        UserError: the field does not have the form that `save_program` writes.
    """
    if is_gguf(place) and not Path(place).is_dir():
        return ()
    content = side_file(place, PRUNING_FILE) or {}
    found, n_blocks = content.get("program"), content.get("n_blocks")
    if found is None:
        return ()
    numbers = isinstance(found, list) and all(type(b) is int and b >= 0 for b in found)
    if not numbers or not found or (n_blocks is not None and len(found) != n_blocks):
        raise UserError(
            f"{PRUNING_FILE} of {place}: program is {short(found)}: expected the number of a block "
            "for each of the model's own `n_blocks`. Write the program again (save_program)."
        )
    return tuple(found)


def checked_layer_map(layer_map: Any, n_blocks: int) -> tuple[int, ...]:
    """Check a layer map against the number of blocks.

    Args:
        layer_map: dense index of each block, or None for a dense model.
        n_blocks: number of blocks in the model.

    Returns:
        The dense index of each block; `range(n_blocks)` if `layer_map` is None.

    Raises:
        UserError: it is not one strictly rising index per block.
    """
    if layer_map is None:
        return tuple(range(n_blocks))
    found = _block_numbers(layer_map)
    if len(found) != n_blocks:
        raise UserError(
            f"layer_map has {len(found)} entries for {n_blocks} blocks: expected one per block."
        )
    if any(b <= a for a, b in pairwise(found)):
        raise UserError(f"layer_map {short(found)} must rise strictly from 0 or more.")
    return found


def checked_n_dense(n_dense: Any, layer_map: Sequence[int]) -> int:
    """Check the number of blocks of the dense model.

    Args:
        n_dense: the number, or None if it is not known.
        layer_map: dense index of each block of the model.

    Returns:
        The number, at least large enough for every index in `layer_map`.

    Raises:
        UserError: `n_dense` is not a number of blocks.
    """
    if n_dense is not None:
        _check_count(n_dense)
    return max(n_dense or 0, max(layer_map) + 1)


def _block_numbers(layer_map: Any) -> tuple[int, ...]:
    """Block indices as a tuple of ints from 0 to `MOST_BLOCKS`."""
    listed = isinstance(layer_map, Iterable) and not isinstance(layer_map, (str, bytes))
    found: tuple[Any, ...] = tuple(layer_map) if listed else ()
    if not found or any(isinstance(i, bool) or not isinstance(i, Integral) for i in found):
        raise UserError(f"layer_map is {short(layer_map)}: expected a list of block indices.")
    if min(found) < 0 or max(found) >= MOST_BLOCKS:
        raise UserError(
            f"layer_map {short(found)} must rise strictly from 0 or more, to {MOST_BLOCKS} at most."
        )
    return tuple(int(i) for i in found)


def _check_count(n_blocks: Any) -> None:
    whole = isinstance(n_blocks, Integral) and not isinstance(n_blocks, bool)
    if not whole or not 0 <= int(n_blocks) <= MOST_BLOCKS:
        raise UserError(
            f"n_blocks is {short(n_blocks)}: expected how many blocks the dense model has "
            f"(at most {MOST_BLOCKS})."
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, from its index if it has one.

    Args:
        folder: a checkpoint folder.

    Returns:
        The paths of the files, in order of their names.

    Raises:
        UserError: the index is damaged or names a file outside the folder; or a file is missing or
            is not a regular file (reading a pipe would never return).
    """
    if (folder / WEIGHTS).exists():  # it takes precedence over an index, as in transformers
        names = [WEIGHTS]
    elif (folder / INDEX).is_file():
        home = read_json_object(folder / INDEX).get("weight_map")
        if not isinstance(home, dict) or not home:
            raise UserError(f"{folder / INDEX} is not an index of weights: no weight_map.")
        for name in home.values():
            if not isinstance(name, str) or not _is_plain(name):
                raise UserError(
                    f"{folder / INDEX} is not an index of weights: it names {short(name)}, "
                    "expected the name of a .safetensors file in the same folder."
                )
        names = sorted(set(home.values()))
    else:
        raise UserError(f"{folder} holds neither {WEIGHTS} nor {INDEX}: expected one of them.")
    for name in names:
        if not (folder / name).exists():
            raise UserError(f"{folder} lacks {name}, which its index names: fetch it again.")
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is not a regular file: fetch it again.")
    return [folder / name for name in names]


def _is_plain(name: str) -> bool:
    """Whether `name` is that of a safetensors file without any path separator."""
    return name.endswith(".safetensors") and not set(name) & set("/\\\0") and name.isprintable()


class Fingerprint:
    """A hash that identifies a model: configuration, layer map, and some numbers of every weight.

    Args:
        config: the Hugging Face configuration; fields that change without the model are left out.
        layer_map: dense index of each block.
    """

    def __init__(self, config: Any, layer_map: Sequence[int]) -> None:
        fields = config.to_dict()
        for volatile in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
            fields.pop(volatile, None)
        self._digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode())
        self._digest.update(repr(tuple(layer_map)).encode())

    def add(self, key: str, shape: tuple[int, ...], few: Tensor) -> None:
        """Add a weight. Call it in the order of the weights' names.

        Args:
            key: name of the weight.
            shape: its shape.
            few: some of its numbers, float32 on the CPU.
        """
        self._digest.update(key.encode() + repr(shape).encode())
        self._digest.update(few.numpy().tobytes())

    def hex(self) -> str:
        """The hash as 16 hexadecimal digits."""
        return self._digest.hexdigest()[:16]
