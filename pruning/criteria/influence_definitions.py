"""Block Influence as public code computes it: one switch per difference between definitions.

The defaults follow the paper (see `block_influence`). The other settings show how much a ranking
depends on the definition; none is recommended. docs/internals.md says where each is found.

- positions: "all" tokens, or only the "last" position of each text.
- padding: "none" counts, or texts are padded on the "right" or "left" and the padding counts.
- sinks: True counts attention sinks; False leaves out tokens over 100 times the median norm.
- precision: "float32", or every step of the cosine rounded to "float16" or "bfloat16".
- last_block: "before norm", "after norm", or "unscored" (inf: never removed).

The model itself runs in the dtype it was loaded in, and the mean over tokens is in float32.

Shapes: x, y [B, T, D]; influence [B, T]; sums [L, N] over N texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.capture import CapturedBatch, capture
from interp.activations.reducers import PerText, PerTextResult
from interp.errors import UserError, check_known
from interp.kernels.stream_numbers import cosine, sinks
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import TokenBatch, batches
from interp.replay.teacher_forced import replay
from pruning.calibration import Calibration

SETTINGS = {
    "positions": ("all", "last"),
    "padding": ("none", "right", "left"),
    "precision": ("float32", "float16", "bfloat16"),
    "last_block": ("before norm", "after norm", "unscored"),
}


@dataclass(frozen=True)
class Definition:
    """One way to compute Block Influence (see the module for the settings).

    Attributes:
        positions: "all" or "last".
        padding: "none", "right" or "left".
        sinks: whether attention-sink tokens count.
        precision: "float32", "float16" or "bfloat16".
        last_block: "before norm", "after norm" or "unscored".
        padded_batch: texts per batch where padding counts.
    """

    positions: str = "all"
    padding: str = "none"
    sinks: bool = True
    precision: str = "float32"
    last_block: str = "before norm"
    padded_batch: int = 8

    def __post_init__(self) -> None:
        for name, known in SETTINGS.items():
            check_known(getattr(self, name), known, name)
        if self.padded_batch < 1:
            raise UserError(
                f"padded_batch={self.padded_batch}: expected at least 1 text per batch."
            )

    @property
    def name(self) -> str:
        """The criterion's name, followed by the settings that differ from the default."""
        differs = [
            "" if self.sinks else "no sinks",
            "" if self.positions == "all" else "last position",
            "" if self.padding == "none" else f"{self.padding} padding",
            "" if self.precision == "float32" else self.precision,
            {"after norm": "after final norm", "unscored": "last block unscored"}.get(
                self.last_block, ""
            ),
        ]
        return ", ".join(["shortgpt", *filter(None, differs)])


DEFINITIONS = (
    Definition(),
    Definition(sinks=False),
    Definition(positions="last"),
    Definition(padding="right"),
    Definition(padding="left"),
    Definition(precision="float16"),
    Definition(precision="bfloat16"),
    Definition(last_block="after norm"),
    Definition(last_block="unscored"),
)


def defined_influence(
    model: ReasoningModel, calibration: Calibration, definition: Definition, batch_tokens: int
) -> PerTextResult:
    """Compute Block Influence by `definition`, per text.

    The last block has a value also if it is "unscored"; the caller replaces it.

    Args:
        model: the model to score.
        calibration: the token sequences.
        definition: the settings.
        batch_tokens: the largest number of tokens per forward pass where no padding counts.

    Returns:
        Sums per block and text, with the quantity "influence".
    """
    reducer = _DefinedInfluence(definition)
    counted = calibration.counted()
    if definition.padding == "none":
        replay(model, calibration.sequences, [reducer], counted=counted, batch_tokens=batch_tokens)
        return reducer.result()
    with torch.no_grad(), capture(model, reducer, n_texts=len(counted)) as recording:
        for batch, mask in _padded(model, calibration, definition):
            recording.batch = CapturedBatch(mask, batch.texts)
            model.anatomy.base(
                input_ids=batch.ids, attention_mask=batch.mask.long(), use_cache=False
            )
    return reducer.result()


def _padded(
    model: ReasoningModel, calibration: Calibration, definition: Definition
) -> Iterator[tuple[TokenBatch, Bool[Tensor, "B T"]]]:
    """Batches in the order given; a position counts if it is padding, or text that counts."""
    for _ in batches(model, calibration.sequences):
        pass  # raises for ids and lengths that the model does not have
    found = model.tokenizer.pad_token_id
    pad = int(found if isinstance(found, int) else next(iter(model.stop_ids), 0))
    texts = list(zip(calibration.sequences, calibration.counted(), strict=True))
    for start in range(0, len(texts), definition.padded_batch):
        few = texts[start : start + definition.padded_batch]
        width = max(len(ids) for ids, _ in few)
        rows, real, counts = [], [], []
        for ids, counted in few:
            more = width - len(ids)
            sides = (more, 0) if definition.padding == "left" else (0, more)
            rows.append(np.pad(ids, sides, constant_values=pad))
            real.append(np.pad(np.ones(len(ids), dtype=bool), sides))
            counts.append(np.pad(counted, sides, constant_values=True))
        ids, mask, counted = (torch.from_numpy(np.stack(x)) for x in (rows, real, counts))
        numbers = torch.arange(start, start + len(few))
        batch = TokenBatch(*(x.to(model.device) for x in (ids, mask, numbers)))
        yield batch, counted.to(model.device)


class _DefinedInfluence(PerText):
    """Influence of the counted tokens by a definition."""

    quantities = ("influence",)

    def __init__(self, definition: Definition) -> None:
        self.definition = definition

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        super().begin(model, n_texts)
        self.final_norm = model.final_norm

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        how = self.definition
        if how.last_block == "after norm" and index == len(self.layer_map) - 1:
            y = self.final_norm(y)
            x = x.to(y.device)
        counted = mask = batch.mask.to(y.device, non_blocking=True)
        if how.positions == "last":
            steps = torch.arange(mask.shape[1], device=mask.device)
            counted = mask & (steps == (mask * steps).argmax(-1, keepdim=True))
        if not how.sinks:
            norms = (torch.linalg.vector_norm(z, dim=-1, dtype=torch.float32) for z in (x, y))
            for norm in norms:
                counted = counted & ~sinks(norm, mask)
        value = _influence(x, y, how.precision)
        self.add([(value, counted)], batch, slice(index, index + 1))


def _influence(x: Tensor, y: Tensor, precision: str) -> Float[Tensor, "B T"]:
    """1 - cos(x, y) with every intermediate rounded to `precision` (sums are in float32)."""
    kind: torch.dtype = getattr(torch, precision)
    x, y = x.to(kind), y.to(kind)
    norm_x, norm_y = (torch.linalg.vector_norm(z, dim=-1, dtype=torch.float32) for z in (x, y))
    dot = (x.float() * y.float()).sum(-1).to(kind)
    if kind == torch.float32:
        return 1 - cosine(dot, norm_x, norm_y)
    size = norm_x.to(kind) * norm_y.to(kind)
    return (1 - torch.nan_to_num(dot / size, nan=0.5)).float()
