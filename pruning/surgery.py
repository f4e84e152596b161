"""Surgery: the model, or the checkpoint, from which a plan's blocks are really removed.

`prune` returns a new model in memory; `save` writes a checkpoint folder that
`AutoModelForCausalLM` loads with no missing, unexpected or newly initialised weight. Both give the
logits of the live `Skip` of the same blocks. The caller's model is not changed. `write_checkpoint`
writes a model that was changed in another way (a repair, weights set to zero). `pruning.folder`
removes blocks from a folder without loading the model.

`save_program` writes a checkpoint whose blocks run in another order, or several times.

The blocks are chosen by `interp.model.block_order`, which refuses an architecture rather than save
it wrong. A model to be saved shares its weights with the caller's model, so memory never holds them
twice (but for the blocks that a program repeats).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.interventions.interventions import VariantLike
from interp.interventions.programs import program_blocks, program_model
from interp.model.block_order import block_path, verify, with_blocks
from interp.model.checkpoint_files import PRUNING_FILE
from interp.model.reasoning_model import ReasoningModel
from interp.model.tokenizer_ids import check_saved
from interp.plumbing.arguments import checked
from pruning.checkpoint import (
    FORMAT,
    SHARD_BYTES,
    free_target,
    lineage,
    plan_record,
    whole_or_nothing,
    write_json,
    write_weights,
)
from pruning.model_card import CARD, plan_card, program_card
from pruning.plan import LayerPlan


@checked
def prune(model: ReasoningModel, plan: LayerPlan, *, share: bool = False) -> ReasoningModel:
    """Return a new model without the plan's blocks.

    Args:
        model: the model; it is not changed.
        plan: the plan.
        share: the new model uses the same weight tensors as `model` and takes no memory of its own.
            Use it to inspect, measure and save; do not train or edit such a model.

    Returns:
        The pruned model, with its `layer_map`.

    Raises:
        UserError: the plan is for another model, or the architecture is not supported.
    """
    plan.check(model)
    gone = set(plan.removed)
    kept = [i for i, block in enumerate(model.layer_map) if block not in gone]
    hf = with_blocks(model, kept, share)
    verify(hf, model.name)
    return model.around(hf, name=f"{model.name} {plan.name}", layer_map=plan.layer_map)


@checked
def save(model: ReasoningModel, plan: LayerPlan, out_dir: str | Path) -> Path:
    """Write the checkpoint without the plan's blocks.

    The folder holds weights, configuration, tokenizer, generation configuration, delimiters.json,
    pruning.json (layer_map, criterion, scores, calibration hash, fingerprint) and a model card.

    Args:
        model: the model; it is not changed.
        plan: the plan.
        out_dir: the new folder; it must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        UserError: the plan is for another model, the architecture is not supported, or the folder
            exists.
        PruneScopeError: the disk is too small, or a file could not be written.
    """
    free_target(out_dir)
    record = plan_record(model, plan, model.fingerprint())
    return write_checkpoint(prune(model, plan, share=True), out_dir, record, plan_card(model, plan))


@checked
def save_program(model: ReasoningModel, program: VariantLike, out_dir: str | Path) -> Path:
    """Write the checkpoint in which a program's blocks follow each other (a passthrough merge).

    It is an ordinary checkpoint, in which every run of a block has weights of its own. Its blocks
    count from 0 in the program's order; `program` in pruning.json says which block of the original
    model each is, also in checkpoints that are pruned from it, and for a program of a program.

    Args:
        model: the model; it is not changed.
        program: `Repeat`, `Order` and `Skip` of whole blocks, without windows.
        out_dir: the new folder; it must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        UserError: the program does anything else, names a block that is not there, the architecture
            is not supported, or the folder exists.
        PruneScopeError: the disk is too small, or a file could not be written.
    """
    free_target(out_dir)
    blocks = list(program_blocks(model, program))
    record = {
        "format": FORMAT,
        "name": program.name,
        "source": model.name,
        "source_blocks": model.n_dense,
        "fingerprint": model.fingerprint(),
    }
    made = program_model(model, program, apart=True)
    return write_checkpoint(made, out_dir, record, program_card(model, program.name, blocks))


def write_checkpoint(
    model: ReasoningModel,
    out_dir: str | Path,
    record: Mapping[str, Any],
    card: str,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write `model` as it is to a new folder, whole or not at all.

    Args:
        model: the model.
        out_dir: the new folder; it must not exist, or be empty.
        record: the content of pruning.json (plain JSON values). `layer_map`, `n_blocks` and the
            model's `lineage` are added.
        card: the model card, Markdown.
        shard_bytes: the approximate size of one file of weights, in bytes.

    Returns:
        The folder.

    Raises:
        ValueError: `record` holds another layer_map or n_blocks than the model.
        UserError: the architecture is not supported, or the folder exists.
        PruneScopeError: the disk is too small, or a file could not be written.
    """
    target = free_target(out_dir)
    own = {"layer_map": list(model.layer_map), "n_blocks": model.n_dense}
    if wrong := [k for k, v in own.items() if k in record and record[k] != v]:
        raise ValueError(f"write_checkpoint: record[{wrong[0]!r}] is not that of the model.")
    hf = with_blocks(model, list(range(model.n_blocks)), share=True)  # its own configuration
    verify(hf, model.name)
    n_bytes = sum(weight.nbytes for weight in hf.parameters())
    with whole_or_nothing(target, n_bytes) as folder:
        write_weights(hf, block_path(model), folder, shard_bytes)
        model.tokenizer.save_pretrained(folder)
        check_saved(model.tokenizer, folder)
        write_json(folder / "delimiters.json", model.delimiters.to_dict())
        write_json(folder / PRUNING_FILE, {**record, **own, **lineage(model)})
        (folder / CARD).write_text(card, encoding="utf-8")
    return target
