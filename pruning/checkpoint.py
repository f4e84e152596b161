"""The folder of a checkpoint: written whole or not at all, with what is known about it beside it.

Everything is written to a hidden sibling of the target, which takes the target's name only when
the last file is complete: a full disk, an error or Ctrl-C leaves nothing under that name. The
target must be new or an empty folder, and `free_target` says so before any work is done.

Weights go out in shards of a few gigabytes. A mixture of experts is kept fused in memory and
apart on disk, and taking it apart copies it, so what is handed to `save_pretrained` at a time is
one shard: at no moment are there two copies of the model, whatever its architecture.

Beside the weights: `pruning.json` (`plan_record`) and a model card (`plan_card`).
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp.errors import PruneScopeError, UserError
from interp.model.checkpoint_files import INDEX, PRUNING_FILE, WEIGHTS
from interp.model.reasoning_model import ReasoningModel
from pruning.plan import LayerPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT = 1
SHARD_BYTES = 2**32


def free_target(out_dir: str | Path) -> Path:
    """The absolute path of a folder that may be written; a UserError where something is there."""
    target = Path(out_dir).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(
            f"{target} is there already and is not an empty folder: name a new one, or empty it."
        )
    return target


@contextmanager
def whole_or_nothing(target: Path, n_bytes: int = 0) -> Iterator[Path]:
    """A folder beside `target` that takes its name only once everything in it is written.

    n_bytes: what the weights will take; refused at once where the disk has less.
    """
    from safetensors import SafetensorError

    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
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


def write_weights(
    hf: PreTrainedModel, blocks: str, folder: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Weights, configuration and generation configuration of `hf`.

    blocks: the path of its list of blocks; the weights of one block are never put apart, for an
    architecture may have to convert them together.
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
    """The weights in groups of about `most` bytes: what is outside the blocks, then the blocks."""
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
    """The file of shard `number` (from 1)."""
    return WEIGHTS if of == 1 else f"model-{number:05d}-of-{of:05d}.safetensors"


def write_index(folder: Path, home: dict[str, str], n_bytes: int) -> None:
    """Which file each weight is in, for a checkpoint of several."""
    content = {"metadata": {"total_size": n_bytes}, "weight_map": dict(sorted(home.items()))}
    write_json(folder / INDEX, content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# ------------------------------------------------------------------- what is said about it


def plan_record(model: ReasoningModel, plan: LayerPlan, fingerprint: str) -> dict[str, Any]:
    """What pruning.json says; n_blocks counts the blocks of the dense model.

    fingerprint: of the model that was pruned; empty where it was never in memory and cannot be
    read off its files.
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
    }


def plan_card(model: ReasoningModel, plan: LayerPlan, done: str = "") -> str:
    """The model card. done: what was done after the blocks were removed, as a sentence."""
    gone = [l for l in range(model.n_dense) if l not in plan.layer_map]
    why = f"by the criterion `{plan.criterion}`" if plan.criterion else "by name"
    said = [
        f"---\ntags:\n- layer-pruning\n- prunescope\n---\n\n# {model.name}, {plan.name}",
        f"Blocks removed from the dense model of {model.n_dense} blocks: {gone} (dense indices, "
        f"from 0), chosen {why}. Block i here is dense block `layer_map[i]`: "
        f"{list(plan.layer_map)}.",
    ]
    if plan.source:
        said.append(f"The plan is a published one: {plan.source}.")
    if plan.calibration:
        said.append(f"Calibration sha256: `{plan.calibration}`.")
    if plan.scores is not None:
        rows = [
            f"| {block} | {_number(score)} | {'removed' if block in plan.removed else ''} |"
            for block, score in zip(plan.base, plan.scores, strict=True)
        ]
        said.append("\n".join(["| block | score | |", "|---|---|---|", *rows]))
    said.append(
        f"{done or 'Nothing was trained afterwards.'} The plan and its scores are in "
        f"`{PRUNING_FILE}`. Load it with `AutoModelForCausalLM.from_pretrained`, or with "
        "`prunescope.ReasoningModel.load`, which keeps the dense indices."
    )
    return "\n\n".join(said) + "\n"


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "protected"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
