"""What a served model must be known by on this side: tokenizer, delimiters, depth. No weights.

The blocks are built on torch's "meta" device, which has shapes and no numbers, so everything that
`ReasoningModel` says about prompts, delimiters and the layer map holds here too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from interp.model.checkpoint_files import Fingerprint, locate
from interp.model.loading import load_bare, refusing
from interp.model.reasoning_model import ReasoningModel

if TYPE_CHECKING:
    from interp.model.delimiters import Delimiters

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
    name = str(source)
    # the weights may lie at the server only, so a folder of the rest is enough
    place = locate(name, weights=False)
    with refusing(
        f"Cannot read the configuration and tokenizer of {name!r}",
        "Expected the folder or Hub name of the model that is served.",
    ):
        hf, tokenizer = load_bare(place, trust_remote_code)
    return ReasoningModel.from_parts(hf, tokenizer, place, name, delimiters)


def identity(model: ReasoningModel) -> str:
    """16 hex digits: configuration, layer map, vocabulary; the weights are not seen from here."""
    digest = hashlib.sha256(Fingerprint(model.hf.config, model.layer_map).hex().encode())
    for token, number in sorted(model.tokenizer.get_vocab().items(), key=lambda item: item[1]):
        digest.update(f"{number}\0{token}\0".encode())
    return digest.hexdigest()[:16]
