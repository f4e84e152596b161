"""Which decoder takes a model: the fast one (`ModelRunner`) or the generic one (`GenericRunner`).

The fast decoder hands the blocks masks and a cache of its own, so it takes only the architectures
that it is tested with. All others go to the generic decoder, on Hugging Face's cache. One that is
not tested with it either is tried first, once per model: a few tokens of two rows of different
length, against plain passes without a cache.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from interp.decoding.generic_runner import GenericRunner
from interp.decoding.memory import out_of_memory
from interp.decoding.model_runner import ModelRunner
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling, measure
from interp.errors import UserError
from interp.interventions.interventions import dense
from interp.model.attention import STANDARD, not_standard
from interp.model.holding import holding

if TYPE_CHECKING:
    from interp.model.reasoning_model import DecoderName, ReasoningModel

log = logging.getLogger(__name__)

# model types that are tested with the generic decoder only (tests/architectures.py)
GENERIC = (
    *("bamba", "bloom", "falcon_h1", "falcon_mamba", "gemma4_text", "gpt_oss", "granitemoehybrid"),
    *("jamba", "lfm2", "lfm2_moe", "llama4_text", "mamba", "mamba2", "nemotron_h", "olmo_hybrid"),
    *("qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "zamba2", "zaya"),
)
TRIED = (9, 6)  # tokens of the rows of a trial
SCRIPTED = 3  # of them are read one by one
# nats by which log-probability and entropy of a trial may differ from those of a plain pass
NEAR, NEAR_HALF = 0.02, 0.5

# why the generic decoder cannot decode a model; None where it can
_tried: weakref.WeakKeyDictionary[nn.Module, str | None] = weakref.WeakKeyDictionary()


def runner_for(model: ReasoningModel, name: DecoderName) -> type[ModelRunner]:
    """Chooses the decoder of a model.

    Args:
        model: the model.
        name: "fast" or "generic" for this one only; "auto" for the one that the model prefers, or
            if it has no preference, for the fast one where it can.

    Returns:
        The class of its model runner.

    Raises:
        UserError: the decoder, or neither, can decode the model.
    """
    if name == "auto":
        name = model.preferred_decoder
    ways = {"fast": (not_standard, ModelRunner), "generic": (_not_generic, GenericRunner)}
    if name not in ("auto", *ways):
        raise UserError(f"decoder={name!r}: expected auto, {', '.join(ways)}.")
    refused: list[str] = []
    for each, (reason_of, runner) in ways.items():
        if name in ("auto", each):
            reason = reason_of(model)
            if reason is None:
                if refused:
                    log.info("%s: generic decoder (%s)", model.name, refused[0])
                return runner
            refused.append(f"{each} decoder: {reason}")
    way_on = "Use the decoder auto." if name == "fast" else "Scores and pruning may still work."
    raise UserError(
        f"{model.name} ({type(model.hf).__name__}) cannot be decoded: {'; '.join(refused)}. "
        f"{way_on}"
    )


def _not_generic(model: ReasoningModel) -> str | None:
    """Why the generic decoder cannot decode a model; None if it can."""
    if model.anatomy.config.model_type in (*STANDARD, *GENERIC):
        return None
    base = model.anatomy.base
    if base not in _tried:
        try:
            _tried[base] = _differs(model)
        except (LookupError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            if out_of_memory(error):
                raise
            first = str(error).partition("\n")[0]
            _tried[base] = f"a trial ended in {type(error).__name__}: {first}"
    return _tried[base]


def _differs(model: ReasoningModel) -> str | None:
    """Compares a few tokens of two rows, read one by one, with plain passes."""
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, model.vocab_size, n) for n in TRIED]
    starts = np.array(TRIED) - SCRIPTED
    asked = [Request("", tuple(t[:s].tolist())) for t, s in zip(texts, starts, strict=True)]
    zero = np.zeros(len(texts), np.int64)
    with holding(model):
        plain = [_plain(model, t, int(s)) for t, s in zip(texts, starts, strict=True)]
        shapes = {shape for _, seen in plain for shape in seen}
        if shapes != {(1, n - 1, model.d_model) for n in TRIED}:
            return f"its blocks read streams of shape {sorted(shapes)}, not [rows, tokens, width]"
        runner = GenericRunner(
            model, [dense], Sampling(temperature=0.0), slots=len(texts), longest=max(TRIED)
        )
        width = int(starts.max())
        runner.load([0, 1], runner.prefill(asked, [0, 0], width - 1), [0, 1], width)
        runner.place(
            len(texts),
            [0] * len(texts),
            last=np.array([r.read[-1] for r in asked]),
            position=starts - 1,
            **dict.fromkeys(("index", "noise", "answer_from", "loop_from"), zero),
            trail=None,
        )
        script = np.stack([t[-SCRIPTED:] for t in texts])  # [2, SCRIPTED]
        outs = [runner.decode(len(texts), 0, 1, script[:, [k]]) for k in range(SCRIPTED)]
    # [2, SCRIPTED, 2]
    found = np.stack([np.concatenate([o.logprob, o.entropy], 1) for o in outs], 1)
    apart = float(np.abs(found - np.stack([numbers for numbers, _ in plain])).max())
    if apart <= (NEAR if model.dtype == torch.float32 else NEAR_HALF):
        return None
    return f"log-probabilities differ by {apart:.2g} nats from those of plain passes"


def _plain(
    model: ReasoningModel, text: np.ndarray, start: int
) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Reads a text without a cache.

    Returns:
        Log-probability and entropy at the tokens from `start` on, [SCRIPTED, 2]; the shapes of the
        streams that the first block read.
    """
    seen: list[tuple[int, ...]] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(tuple((args[0] if args else kwargs["hidden_states"]).shape))

    ids = torch.from_numpy(text).to(model.device)
    handle = model.blocks[0].register_forward_pre_hook(look, with_kwargs=True)
    try:
        with torch.inference_mode():
            logits = model.hf(input_ids=ids[None, :-1], use_cache=False).logits[0]
    finally:
        handle.remove()
    logits = logits[start - 1 :].float()  # [SCRIPTED, V]
    entropy, norm = measure(logits)  # [SCRIPTED] each
    chosen = logits.gather(1, ids[start:, None])[:, 0] - norm
    return torch.stack([chosen, entropy], 1).cpu().numpy(), seen
