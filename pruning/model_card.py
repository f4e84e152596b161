"""The model card of a checkpoint: what was removed, as text and as the Hub's metadata.

The metadata is what the Hub's own parser reads (`huggingface_hub.ModelCardData`): `base_model`,
`base_model_relation`, `library_name`, `tags`, the licence and languages of the base model where its
card is at hand, and `model-index` once a study's results are added. The Hub knows four relations;
a model without some blocks is a "finetune" there, and the tag "layer-pruning" says the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from interp.errors import UserError
from interp.model.checkpoint_files import BUNDLED, PRUNING_FILE, locate
from interp.model.gguf_file import described, is_gguf

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

    from interp.model.reasoning_model import ReasoningModel
    from pruning.plan import LayerPlan

CARD = "README.md"
RELATION = "finetune"
TAGS = ("prunescope", "layer-pruning")
UNTRAINED = "Nothing was trained afterwards."
INHERITED = ("license", "license_name", "license_link", "language")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def plan_card(
    model: ReasoningModel, plan: LayerPlan, done: str = "", *, source: str | None = None
) -> str:
    """Return the model card of a pruned checkpoint.

    Args:
        model: the model that is pruned.
        plan: the plan.
        done: what was done after the blocks were removed, as a sentence. Default: no training.
        source: the name or folder that the dense model was loaded from. Default: the model's name.

    Returns:
        The card as Markdown, with YAML metadata.
    """
    source = model.name if source is None else source
    gone = [l for l in range(model.n_dense) if l not in plan.layer_map]
    why = f"by the criterion `{plan.criterion}`" if plan.criterion else "by name"
    said = [
        f"# {shared_name(source)}, {plan.name}",
        f"Blocks removed from the dense model of {model.n_dense} blocks: {gone} (dense indices, "
        f"from 0), chosen {why}. Block i here is dense block `layer_map[i]`: "
        f"{list(plan.layer_map)}.",
    ]
    if plan.source:
        said.append(f"The plan is a published one: {plan.source}.")
    if model.provenance:
        said.append(f"Dequantised from {described(model.provenance)}.")
    if plan.calibration:
        said.append(f"Calibration sha256: `{plan.calibration}`.")
    if plan.scores is not None:
        rows = [
            f"| {block} | {_number(score)} | {'removed' if block in plan.removed else ''} |"
            for block, score in zip(plan.base, plan.scores, strict=True)
        ]
        said.append("\n".join(["| block | score | |", "|---|---|---|", *rows]))
    said.append(
        f"{done or UNTRAINED} The plan and its scores are in "
        f"`{PRUNING_FILE}`. Load it with `AutoModelForCausalLM.from_pretrained`, or with "
        "`prunescope.ReasoningModel.load`, which keeps the dense indices."
    )
    return card_text(metadata(source, plan.criterion), "\n\n".join(said) + "\n")


def program_card(model: ReasoningModel, name: str, blocks: Sequence[int]) -> str:
    """Return the model card of a checkpoint whose blocks follow a program.

    Args:
        model: the model that the blocks come from.
        name: name of the program.
        blocks: dense index of each block of the checkpoint.

    Returns:
        The card as Markdown, with YAML metadata.
    """
    source = model.name
    said = [
        f"# {shared_name(source)}, {name}",
        f"The {len(blocks)} blocks are these of the dense model of {model.n_dense} blocks (dense "
        f"indices, from 0), in this order: {list(blocks)}.",
    ]
    if model.provenance:
        said.append(f"Dequantised from {described(model.provenance)}.")
    said.append(
        f"{UNTRAINED} The order is in `{PRUNING_FILE}`. Load it with "
        "`AutoModelForCausalLM.from_pretrained`, or with `prunescope.ReasoningModel.load`; its own "
        "blocks count from 0."
    )
    return card_text(metadata(source, "layer-program"), "\n\n".join(said) + "\n")


def recovered_card(base: str, method: str, said: str) -> str:
    """Return the model card of a checkpoint that was trained after it was pruned.

    Args:
        base: the checkpoint before training; its card is carried on if PruneScope wrote it.
        method: the recovery method.
        said: what was trained, as a sentence.

    Returns:
        The card as Markdown, with YAML metadata. Results that were measured before the training
        are not carried on.
    """
    before = _card_in(base)
    tags: list[str] = [] if before is None else cast("Any", before.data).tags
    if before is None or TAGS[0] not in tags:
        body = f"# {Path(base).name}, recovered\n\n{said}\n"
        return card_text(metadata(base, "recovery", method), body)
    data = metadata(base, *tags, "recovery", method)
    text = before.text.strip()
    text = text.replace(UNTRAINED, said) if UNTRAINED in text else f"{text}\n\n{said}"
    return card_text(data, text + "\n")


def metadata(source: str, *tags: str) -> ModelCardData:
    """Return the metadata of what was made from a model.

    Args:
        source: the name or folder of the model that it was made from.
        tags: further tags; empty ones are left out.

    Returns:
        The metadata. `base_model` is the Hub name that `source` is, or the one that its own card
        names; a folder's path is no such name and is not written.
    """
    from huggingface_hub import ModelCardData

    before = _card_in(source)
    known: dict[str, Any] = {} if before is None else before.data.to_dict()
    base = _hub_name(source) or known.get("base_model")
    if not isinstance(base, str):  # several, or whatever a stranger's card holds
        base = None
    kept: dict[str, Any] = {key: known[key] for key in INHERITED if key in known}
    if base is not None:
        kept |= {"base_model": base, "base_model_relation": RELATION}
    return ModelCardData(
        **kept,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[*TAGS, *(tag for tag in tags if tag and tag not in TAGS)],
    )


def card_text(data: ModelCardData, body: str) -> str:
    """Return a card: its metadata as YAML, and its text."""
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def write_results(folder: str | Path, results: Sequence[EvalResult]) -> Path:
    """Write evaluation results into the card of a checkpoint, in the place of earlier ones.

    Args:
        folder: the checkpoint.
        results: the results.

    Returns:
        The card's file.

    Raises:
        UserError: the folder has no card that the Hub's parser reads.
    """
    card = _card_in(str(folder))
    if card is None:
        raise UserError(f"{folder} holds no {CARD} with metadata: expected a checkpoint of prune.")
    title = re.search(r"^# (.+)$", card.text, flags=re.MULTILINE)
    data: Any = card.data
    data.model_name = title[1] if title else Path(folder).name
    data.eval_results = list(results)
    file = Path(folder) / CARD
    file.write_text(card_text(data, card.text.strip() + "\n"), encoding="utf-8")
    return file


def _card_in(source: str) -> Any:  # the Hub's library leaves the type of a card's data open
    """The `ModelCard` in a folder; None if there is none, or none that can be read."""
    from huggingface_hub import ModelCard

    # the folder of a GGUF file may hold other models, and their card
    folder = Path(locate(source)) if source == BUNDLED else Path(source).expanduser()
    if is_gguf(source) or not (folder / CARD).is_file():
        return None
    try:
        card: Any = ModelCard((folder / CARD).read_text("utf-8"), ignore_metadata_errors=True)
    except Exception:  # a stranger's file: not UTF-8, YAML of any kind
        return None
    data: Any = card.data
    data.tags = [tag for tag in data.tags or () if isinstance(tag, str)]
    return card


def _hub_name(source: str) -> str | None:
    name = source.rpartition(":")[0] if is_gguf(source) and ":" in source else source
    there = Path(name).expanduser().exists()
    return name if _HUB_NAME.fullmatch(name) and not there and not is_gguf(name) else None


def shared_name(source: str) -> str:
    """What others may read of where a model comes from.

    Args:
        source: "testbed", a Hub name, a folder or a GGUF file.

    Returns:
        A Hub name as it is; of a path on this machine its last part.
    """
    return source if _hub_name(source) is not None else Path(source).name or source


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "protected"
