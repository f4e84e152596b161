"""Surgery: the model, or the checkpoint, in which a plan's blocks are really gone.

`prune` returns a new model in memory; `save` writes a checkpoint folder that
`AutoModelForCausalLM` loads with no missing, unexpected or newly initialised weight. Both give
the logits of the live `Skip` of the same blocks. The caller's model is not touched.

What must follow when blocks go, and is done here:
- `layer_idx` is numbered anew, or a cache would read its length from a block that is not there;
- every list of the configuration with one entry a block loses the entries of the removed blocks
  (not its tail), lists of block indices are numbered anew, and a rule by period (a mixture of
  experts in every k-th block) becomes such a list, for it would now name other blocks;
- `num_hidden_layers`, `use_cache`, the tied head, the generation configuration.
Then the model is built from its new configuration without weights and compared with what surgery
made, shapes and settings block by block; an architecture where they differ is refused rather than
saved wrong.

`save` writes to a sibling folder and renames it, so the target never holds half a checkpoint, and
shares the weights with the caller's model, so they are never in memory twice.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from interp.errors import PruneScopeError, UserError
from interp.model import PRUNING_FILE, ReasoningModel
from pruning.plan import LayerPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMAT = 1
INDEX_LISTS = ("mlp_only_layers", "moe_layers")  # values are block indices
NOT_PER_BLOCK = ("architectures", "token", "keys_to_ignore", *INDEX_LISTS)


def prune(model: ReasoningModel, plan: LayerPlan) -> ReasoningModel:
    """A new model without the plan's blocks; it shares no weight with `model`."""
    plan.check(model)
    return _pruned(model, plan, share=False)


def save(model: ReasoningModel, plan: LayerPlan, out_dir: str | Path) -> Path:
    """Write the checkpoint without the plan's blocks; returns its folder.

    Beside weights and configuration: tokenizer, generation configuration, delimiters.json,
    pruning.json (layer_map, criterion, scores, calibration hash, fingerprint) and a model card.
    """
    plan.check(model)
    target = Path(out_dir).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(
            f"{target} is there already and is not an empty folder: name a new one, or empty it."
        )
    with _whole_or_nothing(target) as folder:
        pruned = _pruned(model, plan, share=True)
        pruned.hf.save_pretrained(folder)
        pruned.tokenizer.save_pretrained(folder)
        _write_json(folder / "delimiters.json", pruned.delimiters.to_dict())
        _write_json(folder / PRUNING_FILE, _record(model, plan))
        (folder / "README.md").write_text(_card(model, plan), encoding="utf-8")
    return target


def _pruned(model: ReasoningModel, plan: LayerPlan, share: bool) -> ReasoningModel:
    gone = set(plan.removed)
    kept = [i for i, block in enumerate(model.layer_map) if block not in gone]
    hf = _without_blocks(model, kept, share)
    config = hf.config.get_text_config()
    hf.config.use_cache = config.use_cache = True
    if getattr(hf, "generation_config", None) is not None:
        hf.generation_config.use_cache = True
    _verify(hf, model.name)
    return ReasoningModel(
        hf,
        model.tokenizer,
        name=f"{model.name} {plan.name}",
        delimiters=model.delimiters,
        layer_map=plan.layer_map,
        n_dense=model.n_dense,
    )


# ---------------------------------------------------------------------------- the model


def _without_blocks(model: ReasoningModel, kept: list[int], share: bool) -> PreTrainedModel:
    """A copy of the Hugging Face model with the blocks at positions `kept` only.

    The removed blocks are never copied: the list of blocks is put into deepcopy's memo first.
    share: the copy holds the very weights of the original.
    """
    hf = model.hf
    holder = _block_list(model)
    memo: dict[int, Any] = {}
    if share:
        memo |= {id(tensor): tensor for tensor in (*hf.parameters(), *hf.buffers())}
    blocks = nn.ModuleList([copy.deepcopy(model.blocks[i], memo) for i in kept])
    memo[id(holder)] = blocks
    pruned = copy.deepcopy(hf, memo)
    for index, block in enumerate(blocks):
        for module in block.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = index  # pyright: ignore[reportArgumentType]
    shorten(pruned.config.get_text_config(), kept, model.n_blocks)
    return pruned


def _block_list(model: ReasoningModel) -> nn.ModuleList:
    for module in model.hf.modules():
        if isinstance(module, nn.ModuleList) and list(module) == model.blocks:
            return module
    raise UserError(f"{type(model.hf).__name__} keeps its blocks in no ModuleList: not supported.")


def shorten(config: Any, kept: list[int], n_blocks: int) -> None:
    """Make a configuration of `n_blocks` blocks one of the blocks at positions `kept`, in place."""
    if getattr(config, "num_kv_shared_layers", 0):
        raise UserError(
            f"{type(config).__name__}: blocks share keys and values with others "
            "(num_kv_shared_layers); removing one would leave its sharers without. Not supported."
        )
    for name, value in list(vars(config).items()):
        if any(word in name for word in NOT_PER_BLOCK):
            continue
        if isinstance(value, (list, tuple)) and len(value) == n_blocks:
            setattr(config, name, type(value)(value[i] for i in kept))
    _renumber_experts(config, kept)
    for name in INDEX_LISTS:
        listed = getattr(config, name, None)
        if listed:
            setattr(config, name, [new for new, old in enumerate(kept) if old in listed])
    config.num_hidden_layers = len(kept)


def _renumber_experts(config: Any, kept: list[int]) -> None:
    """Rules that say by index which blocks are mixtures of experts."""
    step = getattr(config, "decoder_sparse_step", 1) or 1
    if step > 1:
        named = set(getattr(config, "mlp_only_layers", None) or ())
        config.mlp_only_layers = sorted(named | {i for i in kept if (i + 1) % step != 0})
        config.decoder_sparse_step = 1
    first_dense = getattr(config, "first_k_dense_replace", None)
    if isinstance(first_dense, int):
        config.first_k_dense_replace = sum(i < first_dense for i in kept)


def _verify(hf: PreTrainedModel, name: str) -> None:
    """Refuse unless the configuration alone rebuilds what surgery made."""
    with torch.device("meta"):
        rebuilt = type(hf)(copy.deepcopy(hf.config))
    wanted = {k: tuple(v.shape) for k, v in rebuilt.state_dict().items()}
    made = {k: tuple(v.shape) for k, v in hf.state_dict().items()}
    differing = sorted(k for k in wanted.keys() | made.keys() if wanted.get(k) != made.get(k))
    theirs = dict(rebuilt.named_modules())
    for path, module in hf.named_modules():
        if path in theirs:
            a, b = _settings(module), _settings(theirs[path])
            differing += [f"{path}.{k}" for k in sorted(a.keys() & b.keys()) if a[k] != b[k]]
    if differing:
        raise UserError(
            f"{name} ({type(hf).__name__}) cannot be saved without these blocks: its configuration "
            f"would rebuild something else ({', '.join(differing[:3])}). This architecture is not "
            "supported for surgery; a live Skip works."
        )


def _settings(module: nn.Module) -> dict[str, Any]:
    """The plain settings of a module that its position decides (window, type, index, scale)."""
    plain = (bool, int, float, str)
    return {
        name: value
        for name, value in vars(module).items()
        if (value is None or isinstance(value, plain))
        and not name.startswith("_")
        and name not in ("training", "name_or_path", "gradient_checkpointing")
    }


# ----------------------------------------------------------------------- the checkpoint


@contextmanager
def _whole_or_nothing(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its name only once everything in it is written."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        raise PruneScopeError(
            f"The checkpoint {target} could not be written ({error}); nothing was left there. "
            "Is there room on the disk, and may you write to it?"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _record(model: ReasoningModel, plan: LayerPlan) -> dict[str, Any]:
    """What pruning.json says; n_blocks counts the blocks of the dense model."""
    return {
        "format": FORMAT,
        "layer_map": list(plan.layer_map),
        "n_blocks": model.n_dense,
        "removed": [l for l in range(model.n_dense) if l not in plan.layer_map],
        "criterion": plan.criterion,
        "calibration": plan.calibration,
        "source": model.name,
        "fingerprint": model.fingerprint(),
        "plan": json.loads(plan.to_json()),
    }


def _card(model: ReasoningModel, plan: LayerPlan) -> str:
    gone = [l for l in range(model.n_dense) if l not in plan.layer_map]
    why = f"by the criterion `{plan.criterion}`" if plan.criterion else "by name"
    hashed = f"Calibration sha256: `{plan.calibration}`.\n\n" if plan.calibration else ""
    return (
        f"---\ntags:\n- layer-pruning\n- prunescope\n---\n\n# {model.name}, {plan.name}\n\n"
        f"Blocks removed from the dense model of {model.n_dense} blocks: {gone} "
        f"(dense indices, from 0), chosen {why}. Block i here is dense block `layer_map[i]`: "
        f"{list(plan.layer_map)}.\n\n{hashed}Nothing was trained afterwards. The plan and its "
        f"scores are in `{PRUNING_FILE}`. Load it with `AutoModelForCausalLM.from_pretrained`, or "
        "with `prunescope.ReasoningModel.load`, which keeps the dense indices.\n"
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
