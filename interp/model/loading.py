"""Every way to read a model from a folder or the Hub: configuration, tokenizer, weights.

No other module of the product calls `from_pretrained` or `from_config` of transformers, so three
guarantees are kept in one place:

- A model's own code runs only with `trust_remote_code=True`. If the argument is left out,
  transformers asks on the terminal, and a "y" in a pipe would count as the user's consent.
- Every weight of the model comes from the checkpoint, and every weight of the checkpoint goes into
  the model. transformers draws missing weights at random and drops unknown ones.
- Every fault in files that others wrote is a `UserError`. transformers, safetensors, tokenizers
  and huggingface_hub raise about twenty kinds of exceptions for them.

GGUF files are read here too; `interp.model.gguf_weights` checks and loads their tensors.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
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
from interp.model.gguf_weights import gguf_arguments, slim_reader, unquantised
from interp.model.memory_needed import check_room
from interp.model.tokenizer_ids import check_merges, with_own_ids

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Buffers that older checkpoints store and every model computes itself: safe to ignore.
COMPUTED = re.compile(r"(^|\.)(rotary_emb\.inv_freq|position_ids|masked_bias)$")
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
SHOWN = 3  # weights named in an error
OWN_CODE = (
    "A model's own code runs only with trust_remote_code=True (--trust-remote-code): read it first."
)
EXPECTED = "Expected 'testbed', a checkpoint folder with safetensors, a GGUF file, or a Hub name."


@contextmanager
def refusing(what: str | Callable[[], str], expected: str = EXPECTED) -> Iterator[None]:
    """Turn any exception inside into a `UserError`; out-of-memory errors stay what they are.

    Args:
        what: the beginning of the error, before the reason; a function is called when it is needed.
        expected: the end of the error: what was expected.

    Raises:
        UserError: something inside failed.
    """
    try:
        yield
    except (PruneScopeError, MemoryError, torch.OutOfMemoryError):
        raise
    except BaseException as error:  # the libraries have no common base, and some raise Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # a panic of a library in Rust is no Exception, an interrupt is none of ours
        said = what if isinstance(what, str) else what()
        if "trust_remote_code" in str(error):  # transformers says that it needs the model's code
            expected = OWN_CODE
        raise UserError(f"{said}: {reason_of(error)} {expected}") from error


def load_config(place: str | Path, trust_remote_code: bool, download: bool = True) -> Any:
    """Read the Hugging Face configuration of a folder, GGUF file or Hub name.

    Args:
        place: the folder, GGUF file or Hub name.
        trust_remote_code: whether the model's own code may run.
        download: whether to contact the Hub; if False, only its local cache is read.

    Returns:
        The configuration.

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
    """Build the configuration described by a config.json alone, without any model's own code.

    Args:
        file: path of a config.json.

    Returns:
        The configuration.

    Raises:
        UserError: the file is not JSON, or names more blocks than any model has.
    """
    from transformers import AutoConfig

    fields = read_json_object(file)
    check_depth(fields, str(file))
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def check_depth(content: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration of more than `MOST_BLOCKS` blocks before a model is built from it.

    Args:
        content: the JSON object, with nested configurations.
        where: what to call it in the error.

    Raises:
        UserError: a number of layers is too large.
    """
    for name, value in content.items():
        if name in DEPTHS and isinstance(value, int) and value > MOST_BLOCKS:
            raise UserError(
                f"{where}: {name} is {short(value)}, and no model has more than {MOST_BLOCKS} "
                "blocks. Fetch the file again."
            )
        if isinstance(value, dict):
            check_depth(value, where)


def load_tokenizer(
    place: str | Path, trust_remote_code: bool, download: bool = True
) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a folder, GGUF file or Hub name, without reading weights.

    It gives the same ids as its tokenizer.json, if there is one.

    Args:
        place: the folder, GGUF file or Hub name.
        trust_remote_code: whether the model's own code may run.
        download: whether to contact the Hub; if False, only its local cache is read.

    Returns:
        The tokenizer.

    Raises:
        UserError: there is none, it is damaged, or it needs code that may not run.
    """
    from transformers import AutoTokenizer

    expected = "Expected a tokenizer's files."
    if not download and not Path(place).exists():
        expected = f"The Hub is not asked here: `hf download {place}` fetches the files."
    with refusing(f"Cannot read the tokenizer of {str(place)!r}", expected):
        if is_gguf(place):
            return gguf_tokenizer(read_gguf(place))
        check_merges(Path(place))
        found = AutoTokenizer.from_pretrained(
            str(place), trust_remote_code=trust_remote_code, local_files_only=not download
        )
        return with_own_ids(found, str(place), download)


def without_storage(config: Any, trust_remote_code: bool, **options: Any) -> PreTrainedModel:
    """Build a model on torch's "meta" device: shapes without numbers.

    Args:
        config: its Hugging Face configuration.
        trust_remote_code: whether the model's own code may run.
        options: further arguments of transformers' `from_config`.

    Returns:
        The model.
    """
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
    """Load the causal language model of a folder, GGUF file or Hub name.

    Every weight comes from the files.

    Args:
        place: the folder, GGUF file or Hub name.
        source: what the caller asked for, for the error.
        config: the configuration, if it was read already.
        dtype: of the weights in memory; "auto" keeps that of the files, and is float32 for GGUF.
        trust_remote_code: whether the model's own code may run.
        options: further arguments of transformers' `from_pretrained`.

    Returns:
        The model.

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
        side_file(str(place), "generation_config.json")  # transformers ignores a damaged one
    with _unreported(), slim_reader() if is_gguf(place) else nullcontext():
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

    Args:
        place: the folder or Hub name.
        source: what the caller asked for, for the error.

    Raises:
        UserError: there is an adapter_config.json.
    """
    adapter = side_file(str(place), "adapter_config.json")
    if adapter is not None:
        base = short(adapter.get("base_model_name_or_path"))
        raise UserError(
            f"{source} holds an adapter_config.json, so transformers would load the model {base} "
            "instead of its weights. Merge the adapter (merge_and_unload), or remove the file."
        )


@contextmanager
def _unreported() -> Iterator[None]:
    """Keep transformers' own table of faulty weights out of the log; the error names them."""

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
        UserError: a weight is missing, unknown, of another shape or unreadable; the error counts
            them and names up to three of each.
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
    """The faulty weights as "11 missing (a, b, c, ...)"; "" where there are none."""
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
    """Load the weights and the tokenizer of a model.

    Args:
        place: the folder or Hub name.
        tokenizer: a tokenizer, a folder or Hub name to read it from, or None for `place`.
        dtype: of the weights; None: float32 on the CPU, otherwise the checkpoint's own.
        device: where to put the model; None: CUDA if there is a GPU, else the CPU.
        device_map: as in transformers, to spread the model over several devices.
        trust_remote_code: whether the model's own code may run.
        source: what the caller asked for, for the error.

    Returns:
        The model and its tokenizer.

    Raises:
        UserError: the model cannot be loaded whole and unchanged.
    """
    try:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise UserError(
            f"device={device!r}: expected a device, such as 'cpu' or 'cuda:0'."
        ) from None
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
    """Build a model without storage (on the "meta" device), with its generation configuration.

    Args:
        place: the folder or Hub name.
        trust_remote_code: whether the model's own code may run.

    Returns:
        The model and its tokenizer.
    """
    from transformers import GenerationConfig

    config = load_config(place, trust_remote_code)
    tokenizer = load_tokenizer(place, trust_remote_code)
    hf = without_storage(config, trust_remote_code)
    if side_file(str(place), "generation_config.json") is not None:
        # without this file, the end-of-sequence token is that of the configuration
        hf.generation_config = GenerationConfig.from_pretrained(str(place))
    return hf, tokenizer


def _hint(source: str) -> str:
    """The name that was probably meant; "" where `source` may be a Hub name or is a folder."""
    if "/" in source or source == BUNDLED or Path(source).exists():
        return ""
    here = [path.parent.name for path in Path.cwd().glob("*/config.json")]
    return f" ({did_you_mean(source, [BUNDLED, *here], 'model').rstrip('.')})"
