"""The folder of a checkpoint: written whole or not at all, with pruning.json.

Everything is written to a hidden folder beside the target. That folder takes the target's name
only when the last file is complete, so a full disk, an error or Ctrl-C leaves nothing under that
name. The target must be new or an empty folder; `free_target` checks this before any work starts.
A killed process cannot remove its hidden folder; the next one that writes beside it does.

Weights are written in shards of a few gigabytes. The experts of a mixture are fused in memory and
separate on disk, and separating them copies them. `save_pretrained` therefore gets one shard at a
time, so memory never holds two copies of the model.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp.errors import PruneScopeError, UserError
from interp.model.checkpoint_files import INDEX, WEIGHTS
from interp.model.reasoning_model import ReasoningModel
from pruning.plan import LayerPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT = 1
SHARD_BYTES = 2**32


def free_target(out_dir: str | Path) -> Path:
    """Return the absolute path of a folder that may be written.

    Args:
        out_dir: the folder; `~` is expanded.

    Returns:
        The absolute path. It does not exist yet, or is an empty folder.

    Raises:
        UserError: something is there already.
    """
    target = Path(out_dir).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(
            f"{target} already exists and is not an empty folder: name a new one, or empty it."
        )
    return target


@contextmanager
def whole_or_nothing(target: Path, n_bytes: int = 0) -> Iterator[Path]:
    """Yield a folder beside `target` that takes its name once everything in it is written.

    Args:
        target: the final folder.
        n_bytes: the size of the weights, in bytes; the call fails at once if the disk has less
            space.

    Yields:
        The temporary folder to write to. It is removed after an error.

    Raises:
        PruneScopeError: the disk is too small, or a file could not be written.
    """
    from safetensors import SafetensorError

    partial = target.with_name(f".{target.name}.partial-{_machine()}-{os.getpid()}")
    try:
        _sweep(target.parent)
        partial.mkdir(parents=True)
        room = shutil.disk_usage(partial).free
        if room < n_bytes:
            raise OSError(f"it takes {_size(n_bytes)} and the disk has {_size(room)} left")
        yield partial
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        raise PruneScopeError(
            f"The checkpoint {target} could not be written ({error}); nothing was left there. "
            "Is there room on the disk, and may you write to it?"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _machine() -> str:
    """Tells machines apart that share a disk: the number of a process is its machine's own."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _sweep(folder: Path) -> None:
    """Remove the unfinished checkpoints of processes of this machine that are no more."""
    if os.name != "posix" or not folder.is_dir():  # elsewhere os.kill would end the process
        return
    for left in folder.iterdir():
        match = re.fullmatch(rf"\..+\.partial-{_machine()}-(\d{{1,9}})", left.name)
        if match and not _alive(int(match[1])):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def write_weights(
    hf: PreTrainedModel, blocks: str, folder: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write the weights, configuration and generation configuration of a model.

    Args:
        hf: the model.
        blocks: the module path of its list of blocks, such as "model.layers". The weights of one
            block stay in one shard, because an architecture may have to convert them together.
        folder: an existing folder.
        shard_bytes: the approximate size of one file of weights, in bytes.
    """
    groups = _shards(hf.state_dict(), blocks + ".", shard_bytes)
    if len(groups) == 1:
        hf.save_pretrained(folder, max_shard_size=f"{2**20}GB")
        return
    part, home = folder / "shard", {}
    for number, group in enumerate(groups, start=1):
        hf.save_pretrained(part, state_dict=group, max_shard_size=f"{2**20}GB")
        name = shard_name(number, len(groups))
        home |= dict.fromkeys(_keys(part / WEIGHTS), name)
        (part / WEIGHTS).rename(folder / name)
    for file in part.iterdir():
        file.rename(folder / file.name)
    part.rmdir()
    write_index(folder, home, sum(weight.nbytes for weight in hf.parameters()))


def _shards(state: dict[str, Tensor], blocks: str, most: int) -> list[dict[str, Tensor]]:
    """Weights in groups of about `most` bytes: those outside the blocks first, then the blocks."""
    pieces: dict[str, dict[str, Tensor]] = {"": {}}
    for key, weight in state.items():
        piece = key[len(blocks) :].partition(".")[0] if key.startswith(blocks) else ""
        pieces.setdefault(piece, {})[key] = weight
    groups: list[dict[str, Tensor]] = []
    used = most
    for piece in pieces.values():
        size = sum(weight.nbytes for weight in piece.values())
        if used + size > most and piece:
            groups.append({})
            used = 0
        if piece:
            groups[-1] |= piece
            used += size
    return groups


def _keys(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def shard_name(number: int, of: int) -> str:
    """The file name of one shard of weights.

    Args:
        number: the shard, from 1.
        of: the number of shards; 1 gives the name of an unsharded file.

    Returns:
        The file name.
    """
    return WEIGHTS if of == 1 else f"model-{number:05d}-of-{of:05d}.safetensors"


def write_index(folder: Path, home: dict[str, str], n_bytes: int) -> None:
    """Write the index of a sharded checkpoint: the file that holds each weight.

    Args:
        folder: the checkpoint folder.
        home: name of each weight -> file name.
        n_bytes: the size of all weights, in bytes.
    """
    content = {"metadata": {"total_size": n_bytes}, "weight_map": dict(sorted(home.items()))}
    write_json(folder / INDEX, content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object, indented, with a final line break.

    Args:
        path: the file to write.
        content: plain JSON values.
    """
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# ------------------------------------------------------------------- record


def plan_record(model: ReasoningModel, plan: LayerPlan, fingerprint: str) -> dict[str, Any]:
    """Return the content of pruning.json for a plan.

    Args:
        model: the model that is pruned; `n_blocks` of the record counts the blocks of the dense
            model.
        plan: the plan.
        fingerprint: the fingerprint of `model`; empty if it was never in memory and cannot be read
            from its files.

    Returns:
        Plain JSON values, with the model's `lineage`.
    """
    return {
        "format": FORMAT,
        "layer_map": list(plan.layer_map),
        "n_blocks": model.n_dense,
        "removed": [l for l in range(model.n_dense) if l not in plan.layer_map],
        "criterion": plan.criterion,
        "calibration": plan.calibration,
        "source": model.name,
        "fingerprint": fingerprint,
        "plan": json.loads(plan.to_json()),
        **lineage(model),
    }


def lineage(model: ReasoningModel) -> dict[str, Any]:
    """Where a model's weights and blocks come from: what every record of it passes on.

    Args:
        model: the model.

    Returns:
        `provenance` where the weights come from a GGUF file; `program` where the blocks are those
        of a program of layers: the block of the original model that each dense index runs.
    """
    origin: dict[str, Any] = {"provenance": model.provenance} if model.provenance else {}
    return origin | ({"program": list(model.program)} if model.program else {})


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
