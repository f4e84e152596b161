"""What a served model must be known by on this side: tokenizer, delimiters, depth. No weights.

The blocks are built on torch's "meta" device, which has shapes and no numbers, so everything that
`ReasoningModel` says about prompts, delimiters and the layer map holds here too.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from interp.errors import UserError
from interp.model import ReasoningModel
from interp.source import BUNDLED, PRUNING_FILE, Fingerprint, folder_delimiters, locate, side_file

if TYPE_CHECKING:
    from interp.delimiters import Delimiters

__all__ = ["identity", "weightless"]


def weightless(
    source: str | Path,
    *,
    delimiters: Delimiters | None = None,
    trust_remote_code: bool = False,
) -> ReasoningModel:
    """The model at `source` without its weights: "testbed", a folder or a Hub name.

    A folder needs config.json and the tokenizer's files; pruning.json and delimiters.json are read
    where they are there.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    name = str(source)
    path = Path(name).expanduser()
    # the weights may lie at the server only, so a folder of the rest is enough
    here = name != BUNDLED and path.is_dir() and (path / "config.json").is_file()
    place = str(path) if here else locate(name)
    options = {"trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(place, **options)
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        with torch.device("meta"):
            hf = AutoModelForCausalLM.from_config(config, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"Cannot read the configuration and tokenizer of {name!r}: {reason} Expected the "
            f"folder or Hub name of the model that is served."
        ) from error
    with contextlib.suppress(OSError):  # without one, the configuration's end of sequence counts
        hf.generation_config = GenerationConfig.from_pretrained(place)
    pruning = side_file(place, PRUNING_FILE) or {}
    return ReasoningModel(
        hf,
        tokenizer,
        name=name,
        delimiters=delimiters or folder_delimiters(place),
        layer_map=pruning.get("layer_map"),
        n_dense=pruning.get("n_blocks"),
    )


def identity(model: ReasoningModel) -> str:
    """16 hex digits: configuration, layer map, vocabulary; the weights are not seen from here."""
    digest = hashlib.sha256(Fingerprint(model.hf.config, model.layer_map).hex().encode())
    for token, number in sorted(model.tokenizer.get_vocab().items(), key=lambda item: item[1]):
        digest.update(f"{number}\0{token}\0".encode())
    return digest.hexdigest()[:16]
