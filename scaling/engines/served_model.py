"""The local side of a served model: tokenizer, delimiters, depth, without weights.

The blocks are built on torch's "meta" device, which has shapes and no numbers, so `ReasoningModel`
gives prompts, delimiters and the layer map as for a loaded model.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from interp.model.checkpoint_files import Fingerprint, locate
from interp.model.loading import load_bare, refusing
from interp.model.reasoning_model import ReasoningModel

if TYPE_CHECKING:
    from interp.model.delimiters import Delimiters, FormatChoice

__all__ = ["identity", "weightless"]


def weightless(
    source: str | Path,
    *,
    delimiters: Delimiters | FormatChoice | None = None,
    trust_remote_code: bool = False,
) -> ReasoningModel:
    """Build the model at `source` without its weights.

    A folder needs config.json and the tokenizer's files; pruning.json and delimiters.json are read
    where they exist.

    Args:
        source: "testbed", a folder or a Hub name.
        delimiters: the thinking format; None finds the model's own.
        trust_remote_code: whether the checkpoint's own code may run.

    Returns:
        The model, on the "meta" device.

    Raises:
        UserError: the configuration or the tokenizer cannot be read.
    """
    name = str(source)
    # Only the server may have the weights, so a folder without them is enough.
    place = locate(name, weights=False)
    with refusing(
        f"Cannot read the configuration and tokenizer of {name!r}",
        "Expected the folder or Hub name of the model that is served.",
    ):
        hf, tokenizer = load_bare(place, trust_remote_code)
    return ReasoningModel.from_parts(hf, tokenizer, place, name, delimiters)


def identity(model: ReasoningModel) -> str:
    """Hash of configuration, layer map and vocabulary (16 hex digits); weights do not enter it."""
    digest = hashlib.sha256(Fingerprint(model.hf.config, model.layer_map).hex().encode())
    for token, number in sorted(model.tokenizer.get_vocab().items(), key=lambda item: item[1]):
        digest.update(f"{number}\0{token}\0".encode())
    return digest.hexdigest()[:16]
