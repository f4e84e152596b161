"""Where a model comes from: the bundled reasoner, a folder or the Hub, and the files beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from interp.delimiters import Delimiters
from interp.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PRUNING_FILE = "pruning.json"
BUNDLED = "testbed"


def locate(source: str) -> str:
    """The folder or Hub name that `source` stands for."""
    if source == BUNDLED:
        folder = Path(str(resources.files("testbed"))) / "reasoner"
        if not (folder / "config.json").is_file():
            raise UserError(
                f"The bundled reasoner is not there ({folder}): install the released package, "
                "or train it with `prunescope testbed train`."
            )
        return str(folder)
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{path} holds no config.json: expected a checkpoint folder.")
        if not any(path.glob("*.safetensors")):
            raise UserError(
                f"{path} holds no .safetensors file: weights are read from safetensors only; "
                "save the model again with save_pretrained."
            )
        return str(path)
    if path.is_absolute() or source.startswith((".", "~")):
        raise UserError(f"No folder {source!r}: expected a checkpoint folder or a Hub name.")
    return source


def load_pretrained(
    place: str,
    tokenizer: Any,
    dtype: torch.dtype | str | None,
    device: str | torch.device | None,
    device_map: Any,
    trust_remote_code: bool,
    source: str,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dtype is None:
        dtype = torch.float32 if where.type == "cpu" and device_map is None else "auto"
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(place, **options)
        if getattr(config, "is_encoder_decoder", False):
            raise UserError(
                f"{source} is an encoder-decoder: expected a causal (decoder-only) language model."
            )
        if getattr(config.get_text_config(), "attn_logit_softcapping", None):
            options["attn_implementation"] = "eager"  # SDPA has no soft cap
        if isinstance(tokenizer, (str, Path)) or tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(
                str(tokenizer or place), trust_remote_code=trust_remote_code
            )
        hf = AutoModelForCausalLM.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            device_map=device_map,
            **options,
        )
    except UserError:
        raise
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        hint = ""
        if "/" not in source and not Path(source).exists():
            hint = did_you_mean(source, [BUNDLED, *_checkpoints_here()], "model") + " "
        raise UserError(
            f"Cannot load {source!r}: {hint}{reason} "
            "Expected 'testbed', a checkpoint folder with safetensors, or a Hub name."
        ) from error
    if device_map is None:
        cast("nn.Module", hf).to(where)
    return hf, tokenizer


def _checkpoints_here() -> list[str]:
    return [p.parent.name for p in Path.cwd().glob("*/config.json")]


def side_file(place: str, filename: str) -> dict[str, Any] | None:
    """A JSON file beside the weights, in a folder or on the Hub; None where there is none."""
    if Path(place).is_dir():
        path = Path(place) / filename
    else:
        from transformers.utils.hub import cached_file

        found = cached_file(place, filename, _raise_exceptions_for_missing_entries=False)
        path = Path(found) if found else None
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): write it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}: expected a JSON object.")
    return content


def folder_delimiters(place: str) -> Delimiters | None:
    content = side_file(place, "delimiters.json")
    return None if content is None else Delimiters.from_dict(content)


def checked_layer_map(layer_map: Sequence[int] | None, n_blocks: int) -> tuple[int, ...]:
    if layer_map is None:
        return tuple(range(n_blocks))
    found = tuple(int(i) for i in layer_map)
    if len(found) != n_blocks:
        raise UserError(f"layer_map has {len(found)} entries for {n_blocks} blocks.")
    if any(b <= a for a, b in pairwise(found)) or min(found) < 0:
        raise UserError(f"layer_map {found} must rise strictly from 0 or more.")
    return found


class Fingerprint:
    """What makes two models the same: configuration, layer map, a few numbers of every weight."""

    def __init__(self, config: Any, layer_map: Sequence[int]) -> None:
        fields = config.to_dict()
        for volatile in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
            fields.pop(volatile, None)
        self._digest = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode())
        self._digest.update(repr(tuple(layer_map)).encode())

    def add(self, key: str, shape: tuple[int, ...], few: Tensor) -> None:
        """A weight, in the order of the names; `few` of its numbers as float32 on the CPU."""
        self._digest.update(key.encode() + repr(shape).encode())
        self._digest.update(few.numpy().tobytes())

    def hex(self) -> str:
        """16 hex digits."""
        return self._digest.hexdigest()[:16]
