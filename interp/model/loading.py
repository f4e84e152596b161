"""Every way a model is read from a folder or the Hub: configuration, tokenizer, weights.

No other module of the product calls `from_pretrained` or `from_config` of transformers, so three
promises are kept in one place:

- A model's own code runs only with `trust_remote_code=True`. Left out, transformers would ask on
  the terminal, and a "y" in a pipe would be taken as the user's.
- Every weight of the model comes from the checkpoint and every weight of the checkpoint goes into
  the model. transformers draws what is missing at random and drops what it does not know.
- Whatever goes wrong with files that others wrote is a `UserError`. transformers, safetensors,
  tokenizers and huggingface_hub raise some twenty kinds of exceptions for them.

A GGUF file is read here too; `interp.model.gguf_weights` loads what it holds.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from interp.errors import PruneScopeError, UserError, did_you_mean, printable, reason_of
from interp.json_reader import read_json_object, short
from interp.model.checkpoint_files import (
    BUNDLED,
    INDEX,
    MOST_BLOCKS,
    WEIGHTS,
    side_file,
    weight_files,
)
from interp.model.gguf_config import gguf_config
from interp.model.gguf_file import is_gguf, read_gguf
from interp.model.gguf_tokenizer import gguf_tokenizer
from interp.model.gguf_weights import gguf_arguments, unquantised
from interp.model.memory_needed import check_room
from interp.model.tokenizer_ids import with_own_ids

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Buffers that older checkpoints store and that every model computes: safe to leave unread.
COMPUTED = re.compile(r"(^|\.)(rotary_emb\.inv_freq|position_ids|masked_bias)$")
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
SHOWN = 3  # weights named in an error
OWN_CODE = (
    "A model's own code runs only with trust_remote_code=True (--trust-remote-code): read it first."
)
EXPECTED = "Expected 'testbed', a checkpoint folder with safetensors, a GGUF file, or a Hub name."


@contextmanager
def refusing(what: str | Callable[[], str], expected: str = EXPECTED) -> Iterator[None]:
    """Turn whatever goes wrong inside into a `UserError`; a lack of memory stays what it is.

    Args:
        what: how the error begins, before the reason; a function of it is called on an error.
        expected: how it ends.
    """
    try:
        yield
    except (PruneScopeError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the libraries have no common base, and some raise Exception
        said = what if isinstance(what, str) else what()
        if "trust_remote_code" in str(error):  # as transformers says that it needs the model's code
            expected = OWN_CODE
        raise UserError(f"{said}: {reason_of(error)} {expected}") from error


def load_config(place: str | Path, trust_remote_code: bool, download: bool = True) -> Any:
    """The Hugging Face configuration of a folder, GGUF file or Hub name.

    Args:
        place: the folder, GGUF file or Hub name.
        trust_remote_code: whether the model's own code may run.
        download: whether the Hub may be asked; otherwise only its cache is read.

    Raises:
        UserError: config.json is not JSON, or names more blocks than any model has.
    """
    from transformers import AutoConfig

    if is_gguf(place):
        return gguf_config(read_gguf(place))
    content = side_file(str(place), "config.json", download)
    if content is not None:
        check_depth(content, f"config.json of {place}")
    return AutoConfig.from_pretrained(
        str(place), trust_remote_code=trust_remote_code, local_files_only=not download
    )


def config_of(file: str | Path) -> Any:
    """The configuration that a config.json alone describes; no code of a model is looked for.

    Raises:
        UserError: the file is not JSON, or names more blocks than any model has.
    """
    from transformers import AutoConfig

    fields = read_json_object(file)
    check_depth(fields, str(file))
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def check_depth(content: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration of more than `MOST_BLOCKS` blocks before anything is built from it."""
    for name, value in content.items():
        if name in DEPTHS and isinstance(value, int) and value > MOST_BLOCKS:
            raise UserError(
                f"{where}: {name} is {short(value)}, and no model has more than {MOST_BLOCKS} "
                "blocks. Fetch the file again."
            )
        if isinstance(value, dict):
            check_depth(value, where)


def load_tokenizer(place: str | Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, GGUF file or Hub name; no weight is read.

    It gives the ids that its tokenizer.json gives, where there is one.

    Raises:
        UserError: there is none, it is damaged, or it needs code that may not run.
    """
    from transformers import AutoTokenizer

    with refusing(f"Cannot read the tokenizer of {str(place)!r}", "Expected a tokenizer's files."):
        if is_gguf(place):
            return gguf_tokenizer(read_gguf(place))
        found = AutoTokenizer.from_pretrained(str(place), trust_remote_code=trust_remote_code)
        return with_own_ids(found, str(place))


def without_storage(config: Any, trust_remote_code: bool, **options: Any) -> PreTrainedModel:
    """The model of a configuration on torch's "meta" device: shapes, and no numbers."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            config, trust_remote_code=trust_remote_code, **options
        )


def load_weights(
    place: str | Path,
    source: str,
    *,
    config: Any = None,
    dtype: torch.dtype | str = "auto",
    trust_remote_code: bool,
    **options: Any,
) -> PreTrainedModel:
    """The causal language model of a folder, GGUF file or Hub name, every weight from its files.

    Args:
        place: the folder, GGUF file or Hub name.
        source: what the caller asked for, for the error.
        config: the configuration, where it is read already.
        dtype: of the weights in memory; "auto" keeps that of the files, and is float32 for GGUF.
        trust_remote_code: whether the model's own code may run.
        options: further arguments of transformers' `from_pretrained`.

    Raises:
        UserError: a weight is missing, unknown to the model, or of another shape.
    """
    from transformers import AutoModelForCausalLM

    refuse_adapter(place, source)
    config = load_config(place, trust_remote_code) if config is None else config
    folder, name = Path(place), str(place)
    if is_gguf(place):
        bare = without_storage(config, trust_remote_code)
        name, more = gguf_arguments(read_gguf(place), bare)
        options |= more
    elif folder.is_dir():
        if (folder / WEIGHTS).exists() or (folder / INDEX).exists():
            weight_files(folder)
        side_file(str(place), "generation_config.json")  # transformers passes over a damaged one
    with _unreported():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=torch.float32 if is_gguf(place) and dtype == "auto" else dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused below with the names
            **options,
        )
    hf, report = loaded
    check_report(report, type(hf).__name__, source)
    return unquantised(hf, config) if is_gguf(place) else hf


def refuse_adapter(place: str | Path, source: str) -> None:
    """Refuse a folder or Hub name with a PEFT adapter: transformers would load its base model.

    Raises:
        UserError: there is an adapter_config.json.
    """
    adapter = side_file(str(place), "adapter_config.json")
    if adapter is not None:
        base = short(adapter.get("base_model_name_or_path"))
        raise UserError(
            f"{source} holds an adapter_config.json, so transformers would load the model {base} "
            "in the place of its weights. Merge the adapter (merge_and_unload), or remove the file."
        )


@contextmanager
def _unreported() -> Iterator[None]:
    """transformers' own table of such weights left out of the log: the error says it."""

    def other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in str(record.msg)

    log = logging.getLogger("transformers.modeling_utils")
    log.addFilter(other)
    try:
        yield
    finally:
        log.removeFilter(other)


def check_report(report: Mapping[str, Any], kind: str, source: str) -> None:
    """Refuse a model whose weights did not all come from its checkpoint.

    Args:
        report: transformers' loading information.
        kind: the model's class.
        source: what was loaded.

    Raises:
        UserError: names up to three weights of each fault, and says how many there are.
    """
    unexpected = [key for key in report["unexpected_keys"] if not COMPUTED.search(key)]
    shapes = [
        f"{key} {_shape(stored)} for {_shape(wanted)}"
        for key, stored, wanted in report["mismatched_keys"]
    ]
    faults = [
        _counted(report["missing_keys"], "that the model needs missing"),
        _counted(unexpected, f"unknown to {kind}"),
        _counted(shapes, "of another shape"),
        _counted(report["error_msgs"], "not readable"),
    ]
    if any(faults):
        raise UserError(
            f"Cannot load {source!r}: its weights are not those of the {kind} that its config.json "
            f"describes: {'; '.join(filter(None, faults))}. What is missing would be random "
            "numbers. Fetch the checkpoint again, or correct its config.json (model_type, "
            "num_hidden_layers, tie_word_embeddings)."
        )


def _counted(keys: Sequence[str] | set[str], said: str) -> str:
    """ "11 missing (a, b, c, ...)"; nothing where there are none."""
    if not keys:
        return ""
    names = sorted(keys, key=_in_order)
    shown = ", ".join(printable(name, 120) for name in names[:SHOWN])
    return f"{len(names)} {said} ({shown}{', ...' if len(names) > SHOWN else ''})"


def _in_order(key: str) -> list[tuple[int, str]]:
    """Sort key by which block 2 comes before block 10."""
    parts = re.split(r"(\d{1,9})", key)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def load_pretrained(
    place: str,
    tokenizer: Any,
    dtype: torch.dtype | str | None,
    device: str | torch.device | None,
    device_map: Any,
    trust_remote_code: bool,
    source: str,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Weights and tokenizer of a model, as `ReasoningModel.load` describes the arguments.

    Raises:
        UserError: the model cannot be loaded whole and unchanged; says why.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if dtype is None:
        dtype = torch.float32 if where.type == "cpu" and device_map is None else "auto"
    options: dict[str, Any] = {} if device_map is None else {"device_map": device_map}
    with refusing(lambda: f"Cannot load {source!r}{_hint(source)}"):
        config = load_config(place, trust_remote_code)
        if getattr(config, "is_encoder_decoder", False):
            raise UserError(
                f"{source} is an encoder-decoder: expected a causal (decoder-only) language model."
            )
        if getattr(config.get_text_config(), "attn_logit_softcapping", None):
            options["attn_implementation"] = "eager"  # SDPA has no soft cap
        if isinstance(tokenizer, (str, Path)) or tokenizer is None:
            tokenizer = load_tokenizer(tokenizer or place, trust_remote_code)
        if device_map is None:
            check_room(without_storage(config, trust_remote_code), place, source, dtype, where)
        hf = load_weights(
            place,
            source,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            **options,
        )
        if device_map is None:
            cast("nn.Module", hf).to(where)
    return hf, tokenizer


def load_bare(
    place: str | Path, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model without storage, with its tokenizer and generation configuration."""
    from transformers import GenerationConfig

    config = load_config(place, trust_remote_code)
    tokenizer = load_tokenizer(place, trust_remote_code)
    hf = without_storage(config, trust_remote_code)
    if side_file(str(place), "generation_config.json") is not None:
        # without one, the end of sequence is that of the configuration
        hf.generation_config = GenerationConfig.from_pretrained(str(place))
    return hf, tokenizer


def _hint(source: str) -> str:
    """A name that was perhaps meant; nothing where `source` may be a Hub name or is a folder."""
    if "/" in source or source == BUNDLED or Path(source).exists():
        return ""
    here = [path.parent.name for path in Path.cwd().glob("*/config.json")]
    return f" ({did_you_mean(source, [BUNDLED, *here], 'model').rstrip('.')})"
