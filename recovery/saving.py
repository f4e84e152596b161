"""Write the result of a run as a checkpoint that loads like any other, with its pruning record.

The trained weights are loaded into the model as it was before, so configuration, tokenizer and
`layer_map` are those of the pruned model, without anything that a trainer set for itself. They are
written in the dtype of the pruned checkpoint. `pruning.json` keeps the plan, its scores and its
calibration, and says under `recovery` what was trained.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from interp.errors import PruneScopeError, UserError
from interp.json_reader import read_json_object
from interp.model.checkpoint_files import PRUNING_FILE, locate, side_file
from interp.model.loading import load_weights, refusing
from interp.model.reasoning_model import ReasoningModel
from pruning.folder import stored_dtype
from pruning.model_card import recovered_card
from pruning.surgery import write_checkpoint
from recovery.libraries import quiet

RERUN = "Delete the folder and run the same command again."


def with_trained(
    base: ReasoningModel, trained: Path | None, *, adapter: bool, trust_remote_code: bool = False
) -> ReasoningModel:
    """Load the weights that a training left in `trained` into `base`.

    Args:
        base: the model before training; its weights are replaced.
        trained: folder of what was trained; None if nothing was.
        adapter: whether it is a LoRA adapter, which is then merged.
        trust_remote_code: whether Python code from the checkpoint may run.

    Returns:
        The model with the trained weights.

    Raises:
        UserError: the folder cannot be read.
        PruneScopeError: the folder does not hold exactly the model's weights.
    """
    if trained is None:
        return base
    if adapter:
        return merged(base, trained)
    with refusing(f"Cannot read what was trained in {str(trained)!r}", RERUN):
        found: Any = load_weights(
            trained, str(trained), dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    lacking, strange = base.hf.load_state_dict(found.state_dict(), strict=False)
    if lacking or strange:
        raise PruneScopeError(
            f"{trained} does not hold exactly the weights of {base.name}: missing or unexpected "
            f"are {sorted(lacking + strange)[:3]}."
        )
    return base


def attached(base: ReasoningModel, adapter: Path) -> Any:
    """Attach an adapter to the weights of `base` without merging it.

    Args:
        base: the model before training; it is changed.
        adapter: the adapter's folder.

    Returns:
        PEFT's model.

    Raises:
        UserError: the folder does not hold every weight of the adapter.
    """
    from peft import PeftModel

    if not (adapter / "adapter_model.safetensors").is_file():  # PEFT would look for a pickle
        raise UserError(f"{adapter} holds no adapter_model.safetensors. {RERUN}")
    with refusing(f"Cannot read the adapter in {str(adapter)!r}", RERUN), quiet():
        warnings.filterwarnings("error", "Found missing adapter keys")  # zeros: nothing trained
        return PeftModel.from_pretrained(base.hf, str(adapter)).eval()


def merged(base: ReasoningModel, adapter: Path) -> ReasoningModel:
    """Add an adapter to the weights of `base`; the logits are those of `attached`.

    Args:
        base: the model before training; it is changed.
        adapter: the adapter's folder.

    Returns:
        The merged model.

    Raises:
        UserError: the folder does not hold every weight of the adapter.
    """
    hf = attached(base, adapter).merge_and_unload()
    for name in ("peft_config", "_hf_peft_config_loaded"):
        hf.__dict__.pop(name, None)
    return base.around(hf)


def write_result(
    base: str,
    out: Path,
    trained: Path | None,
    *,
    adapter: bool,
    record: Mapping[str, Any],
    said: str,
    trust_remote_code: bool = False,
) -> Path:
    """Write the result of a run to a new folder.

    Args:
        base: the checkpoint before training.
        out: the new folder.
        trained: folder of what was trained; None if nothing was.
        adapter: whether it is a LoRA adapter.
        record: what pruning.json holds under `recovery`.
        said: what was done, as a sentence for the model card.
        trust_remote_code: whether Python code from the checkpoint may run.

    Returns:
        The folder.

    Raises:
        UserError: the trained weights cannot be read, or the folder exists.
        PruneScopeError: weights are missing, or the disk is too small.
    """
    model = ReasoningModel.load(
        base, dtype=torch.float32, device="cpu", trust_remote_code=trust_remote_code
    )
    model = with_trained(model, trained, adapter=adapter, trust_remote_code=trust_remote_code)
    dtype = stored_dtype(base)
    if dtype is not None:
        model.hf.to(dtype)  # pyright: ignore[reportArgumentType]
    pruning = side_file(locate(base), PRUNING_FILE) or {}
    card = recovered_card(base, str(record["method"]), said)
    return write_checkpoint(model, out, {**pruning, "recovery": dict(record)}, card)


def keep_adapter(trained: Path, out: Path, base: str) -> Path:
    """Copy the adapter, and name the checkpoint it belongs to in its configuration.

    Args:
        trained: folder of what was trained.
        out: the new folder; an existing one is replaced.
        base: the checkpoint before training.

    Returns:
        The new folder.

    Raises:
        UserError: `trained` holds no adapter.
    """
    import json

    if not (trained / "adapter_config.json").is_file():
        raise UserError(f"{trained} holds no adapter: expected adapter_config.json. {RERUN}")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(trained / name, out / name)
    file = out / "adapter_config.json"
    content = {**read_json_object(file), "base_model_name_or_path": str(base)}
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return out
