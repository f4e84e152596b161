"""Surgery on a folder: remove blocks from a checkpoint without loading it.

`prune_folder` copies the bytes of the weights that stay from the source's safetensors files to
new ones, renumbers the blocks, and writes the shortened configuration. No weight is decoded, so
bits and dtype are kept, and memory stays at a few megabytes plus the header of one file: a laptop
can prune a model of any size once the blocks are named.

The result is verified before any byte is copied. The dense model is built without weights (on the
meta device) and goes through the surgery and verification of `pruning.surgery`. Then the source
must have the weights that transformers would write for the dense model, and the new files those
for the pruned model, by name and shape. If not (quantised weights, the format of another library,
weights unknown to the architecture), `NotStreamable` says so: load such a model and `save` it.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp.errors import UserError
from interp.json_reader import read_json_object
from interp.model.architecture import dissect
from interp.model.block_order import block_path, verify, with_blocks
from interp.model.checkpoint_files import (
    INDEX,
    PRUNING_FILE,
    Fingerprint,
    checked_layer_map,
    checked_n_dense,
    folder_blocks,
    locate,
    program_of,
    provenance_of,
)
from interp.model.gguf_file import is_gguf
from interp.model.loading import load_config, refuse_adapter, refusing, without_storage
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from pruning.checkpoint import (
    free_target,
    plan_record,
    whole_or_nothing,
    write_index,
    write_json,
)
from pruning.model_card import CARD, plan_card
from pruning.plan import LayerPlan
from pruning.stored import FLOATS, Stored, copy_weights, few_numbers, stored_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Files beside the weights that are rewritten, and suffixes of files that hold other weights.
ANEW = ("config.json", INDEX, PRUNING_FILE, CARD)
OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx")
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py")
UNWANTED = ("*/*.safetensors", "consolidated*")  # the same weights in another format


class NotStreamable(UserError):  # noqa: N818
    """The checkpoint must be loaded to be pruned."""


@checked
def prune_folder(
    source: str | Path,
    plan: LayerPlan | Sequence[int],
    out_dir: str | Path,
    *,
    name: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write the checkpoint `source` without the plan's blocks, never loading it.

    The result is the same as from `pruning.surgery.save`, except that the weights keep the source's
    dtype and shards, and the tokenizer's files are copied.

    Args:
        source: a folder with safetensors, a Hub name (downloaded whole first), or "testbed".
        plan: a plan, or the blocks themselves (dense indices).
        out_dir: the new folder; it must not exist, or be empty.
        name: what the records call the source. Default: `source`.
        trust_remote_code: whether Python code from the checkpoint may run.

    Returns:
        The new folder.

    Raises:
        NotStreamable: the checkpoint has to be loaded for this; use `pruning.surgery.save`.
        UserError: the source cannot be read, the plan is for another model, or the folder exists.
        PruneScopeError: the disk is too small, or a file could not be written.
    """
    target = free_target(out_dir)
    folder = _on_disk(str(source))
    weights = stored_weights(folder)
    dense = outline(folder, name or str(source), trust_remote_code)
    fingerprint = stored_fingerprint(dense, weights)
    if not isinstance(plan, LayerPlan):
        plan = LayerPlan(
            removed=tuple(plan),
            n_blocks=dense.n_blocks,
            base=dense.layer_map,
            model=fingerprint,
        )
    if plan.model and not fingerprint:
        replace(plan, model="").check(dense)
        raise NotStreamable(
            f"Plan {plan.name!r} names the weights it was made for, and those of {dense.name} "
            "(stored apart, used fused) can only be compared once they are loaded."
        )
    plan.check(dense, fingerprint)
    gone = set(plan.removed)
    kept = [i for i, block in enumerate(dense.layer_map) if block not in gone]
    pruned = with_blocks(dense, kept, share=True)
    verify(pruned, dense.name)
    names = _renamed(weights, block_path(dense), kept, dense)
    _same(dense.hf, {key: weight.shape for key, weight in weights.items()}, dense.name)
    _same(pruned, {new: weights[old].shape for old, new in names.items()}, dense.name)
    n_bytes = sum(weights[old].n_bytes for old in names)
    with whole_or_nothing(target, n_bytes) as part:
        home = copy_weights(weights, names, part)
        if len(set(home.values())) > 1:
            write_index(part, home, n_bytes)
        pruned.config.save_pretrained(part)
        _copy_side_files(folder, part)
        write_json(part / PRUNING_FILE, plan_record(dense, plan, fingerprint))
        (part / CARD).write_text(plan_card(dense, plan), encoding="utf-8")
    return target


def stored_dtype(source: str | Path) -> torch.dtype | None:
    """The floating dtype that most weights of a source are stored in, by bytes.

    Args:
        source: a folder with safetensors, a Hub name, or "testbed".

    Returns:
        The dtype; None if no weight is stored as a floating-point number, and for a GGUF file.
    """
    if is_gguf(source):
        return None
    size: Counter[torch.dtype] = Counter()
    for weight in stored_weights(_on_disk(str(source))).values():
        if weight.dtype in FLOATS:
            size[FLOATS[weight.dtype]] += weight.n_bytes
    return size.most_common(1)[0][0] if size else None


def _on_disk(source: str) -> Path:
    """The source's folder; a Hub name is downloaded (once, into the Hub's own cache)."""
    place = locate(source)
    if Path(place).is_dir():
        return Path(place)
    if is_gguf(place):
        raise NotStreamable(
            f"{source} is a GGUF file: its weights have to be loaded and dequantised to be pruned "
            "(pruning.surgery.save)."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(place, allow_patterns=[*WANTED], ignore_patterns=[*UNWANTED]))
    except Exception as error:  # offline, gated, no such name: many kinds
        reason = str(error).strip().splitlines()
        raise UserError(
            f"Cannot fetch {source!r} from the Hub: {reason[0] if reason else error!r} "
            "Expected 'testbed', a checkpoint folder with safetensors, or a Hub name."
        ) from error


class Outline(ReasoningModel):
    """A model built from its configuration, without weights or tokenizer: it cannot compute.

    Thinking delimiters are not read, so a model without them can be pruned as well.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        name: str,
        layer_map: Sequence[int] | None,
        n_dense: int | None,
        provenance: Mapping[str, Any] | None = None,
        program: Sequence[int] = (),
    ) -> None:
        self.hf = hf
        self.name = name
        self.anatomy = dissect(hf)
        self.layer_map = checked_layer_map(layer_map, self.n_blocks)
        self.n_dense = checked_n_dense(n_dense, self.layer_map)
        self.provenance = dict(provenance or {})
        self.program = tuple(program)


def outline(folder: Path, name: str, trust_remote_code: bool = False) -> Outline:
    """Build the model of a folder without its weights, on the meta device.

    Args:
        folder: a checkpoint folder.
        name: what error messages and records call it.
        trust_remote_code: whether Python code from the checkpoint may run.

    Returns:
        The model without weights.

    Raises:
        NotStreamable: the checkpoint is quantised.
        UserError: the configuration cannot be read, or the folder holds an adapter.
    """
    with refusing(f"Cannot read the configuration of {name}"):
        refuse_adapter(folder, name)
        config = load_config(folder, trust_remote_code)
        if getattr(config, "quantization_config", None) is not None:
            raise NotStreamable(
                f"{name} is quantised: remove blocks from the model it was made from, and "
                "quantise the result."
            )
        hf = without_storage(config, trust_remote_code)
        place = str(folder)
        blocks, origin = folder_blocks(place), provenance_of(place)
        return Outline(hf, name, *blocks, origin, program_of(place))


# ---------------------------------------------------------------------------- the weights


def _renamed(
    weights: Mapping[str, Stored], blocks: str, kept: list[int], dense: ReasoningModel
) -> dict[str, str]:
    """Current name -> new name of each weight that stays."""
    number = {old: new for new, old in enumerate(kept)}
    pattern = re.compile(rf"{re.escape(blocks)}\.(\d+)\.(.+)")
    names, seen = {}, set()
    for key in weights:
        match = pattern.fullmatch(key)
        if match is None:
            names[key] = key
            continue
        index = int(match[1])
        seen.add(index)
        if index in number:
            names[key] = f"{blocks}.{number[index]}.{match[2]}"
    if seen != set(range(dense.n_blocks)):
        raise NotStreamable(
            f"{dense.name} stores weights of {len(seen)} blocks under {blocks!r}; its "
            f"configuration says {dense.n_blocks}."
        )
    return names


def _same(hf: Any, shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Refuse unless transformers would write weights of exactly these names and shapes."""
    from transformers.core_model_loading import revert_weight_conversion

    state = revert_weight_conversion(hf, dict(hf.state_dict()))
    tied = set(getattr(hf, "all_tied_weights_keys", None) or ())
    wanted = {key: tuple(weight.shape) for key, weight in state.items()}
    keys = (wanted.keys() | shapes.keys()) - {key for key in tied if key not in shapes}
    differing = sorted(key for key in keys if wanted.get(key) != shapes.get(key))
    if differing:
        raise NotStreamable(
            f"{name} does not store the weights that {type(hf).__name__} has "
            f"({', '.join(differing[:3])})."
        )


def _copy_side_files(folder: Path, part: Path) -> None:
    """Copy tokenizer, chat template, delimiters, generation configuration, the model's own code."""
    for file in folder.iterdir():
        if file.is_dir() and file.name == "additional_chat_templates":
            shutil.copytree(file, part / file.name)
        if not file.is_file() or file.name in ANEW or file.name.startswith("."):
            continue
        if file.suffix not in OTHER_WEIGHTS and not file.name.endswith(".index.json"):
            shutil.copyfile(file, part / file.name)
    generation = part / "generation_config.json"
    if generation.is_file():
        content = read_json_object(generation)
        write_json(generation, {k: True if k == "use_cache" else v for k, v in content.items()})


# ------------------------------------------------------------------------- the fingerprint


def stored_fingerprint(dense: ReasoningModel, weights: Mapping[str, Stored]) -> str:
    """Compute `ReasoningModel.fingerprint` from a model's files, reading a few numbers of each.

    Args:
        dense: the model, without weights.
        weights: its weights, from `pruning.stored.stored_weights`.

    Returns:
        The fingerprint of the loaded model; empty if a weight is not stored in the form it is used
        in (a mixture of experts), or is no float.
    """
    found = Fingerprint(dense.hf.config, dense.layer_map)
    tied = getattr(dense.hf, "all_tied_weights_keys", None) or {}
    for key, weight in sorted(dense.hf.state_dict().items()):
        stored = weights.get(key) or weights.get(str(tied.get(key)))
        shape = tuple(weight.shape)
        if stored is None or stored.dtype not in FLOATS or stored.shape != shape:
            return ""
        found.add(key, shape, few_numbers(stored))
    return found.hex()
