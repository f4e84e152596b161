"""The weights of a GGUF file through transformers' reader, dequantised, with none left over.

transformers passes over a tensor whose name it does not map, so the names are compared first.
What it leaves on the model (a quantiser, a quantization_config) is taken off: the weights are
ordinary numbers, and the model is saved as an ordinary checkpoint.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from interp.errors import UserError, printable
from interp.model.gguf_config import ROPE_FACTORS
from interp.model.gguf_file import GgufFile, check_packages

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LONG_ARRAY = 4096  # entries; longer ones are vocabularies, never a setting of each block
SHOWN = 3  # tensors named in an error
COMPUTED = (ROPE_FACTORS, ".attn_rot_embd.weight")  # in the configuration, or computed by the model


def gguf_arguments(file: GgufFile, bare: PreTrainedModel) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` is called with: the folder, and further arguments.

    Args:
        file: the GGUF file.
        bare: the model of its configuration, without storage.

    Raises:
        UserError: a package is missing, a type of tensor cannot be dequantised, or the tensors are
            not those of the model.
    """
    import transformers

    check_packages()
    check_types(file)
    check_names(file, bare)
    arguments: dict[str, Any] = {"gguf_file": file.path.name}
    # newer versions keep the weights of some architectures packed, and advise float32 for all
    if plain := getattr(transformers, "GgufConfig", None):
        arguments["quantization_config"] = plain(dequantize=True)
    return str(file.path.parent), arguments


def check_types(file: GgufFile) -> None:
    """Refuse a type of tensor that the installed `gguf` cannot dequantise.

    Raises:
        UserError: names the type and the tensor.
    """
    import gguf

    first: dict[str, str] = {}
    for name, tensor in file.tensors.items():
        first.setdefault(tensor.type, name)
    for kind, name in first.items():
        try:
            number = gguf.GGMLQuantizationType[kind]
            empty = np.zeros((1, gguf.GGML_QUANT_SIZES[number][1]), dtype=np.uint8)
            if kind not in ("F32", "F16"):
                gguf.dequantize(empty, number)
        except (KeyError, NotImplementedError) as error:
            raise UserError(
                f"{file.path}: the tensor {printable(name, 80)} is quantised as {kind}, which the "
                "installed package gguf cannot dequantise. Upgrade gguf, or quantise the model "
                "again, for instance to Q8_0."
            ) from error


def check_names(file: GgufFile, bare: PreTrainedModel) -> None:
    """Refuse a file with a tensor that the model lacks, or without one that it needs.

    Raises:
        UserError: names up to three tensors of each kind.
    """
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    processor = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)(config={})
    with names_made_once():
        mapped = get_gguf_hf_weights_map(bare, processor)
    # stacked experts are parameters of their own in transformers, so mapped without the suffix
    wanted = {f"{name}.weight" if name.endswith("_exps") else name for name in mapped}
    tied = {"output.weight"} if bare.config.get_text_config().tie_word_embeddings else set()
    known = wanted | tied
    unused = [n for n in file.tensors if n not in known and not n.endswith(COMPUTED)]
    missing = [name for name in wanted - tied if name not in file.tensors]
    faults = [
        f"{len(names)} {said} ({', '.join(printable(n, 80) for n in sorted(names)[:SHOWN])}"
        f"{', ...' if len(names) > SHOWN else ''})"
        for names, said in ((missing, "that the model needs missing"), (unused, "unknown to it"))
        if names
    ]
    if faults:
        raise UserError(
            f"{file.path}: its tensors are not those of the {type(bare).__name__} that its "
            f"metadata describe: {'; '.join(faults)}. Convert the model again with a current "
            "llama.cpp, or use its safetensors checkpoint."
        )


@contextmanager
def names_made_once() -> Iterator[None]:
    """Let transformers ask for the table of tensor names as often as it likes.

    It asks once per module of the model (794 times for 30 blocks), and the package gguf formats
    8,600 names each time: two thirds of the time that a model of 135 million took to load.
    """
    import gguf

    package = cast("Any", gguf)
    plain = package.get_tensor_name_map
    package.get_tensor_name_map = cache(plain)
    try:
        yield
    finally:
        package.get_tensor_name_map = plain


@contextmanager
def slim_reader() -> Iterator[None]:
    """Let transformers' reader pass over the vocabulary, and leave its progress bar out.

    The reader of the package gguf makes a NumPy view of every token and merge, which stay for as
    long as the weights are read: 146 MB for 49,000 tokens, a quarter of the weights of a model of
    135 million. The tokenizer is read elsewhere (`gguf_tokenizer`).
    """
    import gguf
    import transformers.modeling_gguf_pytorch_utils as reader

    kinds = gguf.GGUFValueType

    class SlimReader(gguf.GGUFReader):
        def _get_field_parts(self, orig_offs: Any, raw_type: Any) -> Any:
            if raw_type != kinds.ARRAY or self.byte_order == "S":
                return super()._get_field_parts(orig_offs, raw_type)
            head = self.data[orig_offs : orig_offs + 12].tobytes()
            inner, length = struct.unpack("<IQ", head)
            if length < LONG_ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            at = orig_offs + 12
            if inner == kinds.STRING:
                for _ in range(length):
                    at += 8 + int.from_bytes(self.data[at : at + 8].tobytes(), "little")
            elif inner in self.gguf_scalar_to_np:
                item = np.dtype(self.gguf_scalar_to_np[kinds(inner)]).itemsize
                at += length * item
            else:
                return super()._get_field_parts(orig_offs, raw_type)
            return at - orig_offs, [], [], [kinds.ARRAY, kinds(inner)]

    module, package = cast("Any", reader), cast("Any", gguf)
    bar, whole = module.tqdm, gguf.GGUFReader
    module.tqdm = lambda tensors, **_: tensors
    package.GGUFReader = SlimReader
    try:
        with names_made_once():
            yield
    finally:
        module.tqdm, package.GGUFReader = bar, whole


def unquantised(hf: PreTrainedModel, config: Any) -> PreTrainedModel:
    """The loaded model without the marks of a quantised one, and with the file's end ids.

    Args:
        hf: the model as transformers loaded it; it is changed.
        config: the configuration of the file.
    """
    from transformers import GenerationConfig

    for holder, name in (
        (hf, "hf_quantizer"),
        (hf, "quantization_method"),
        (hf.config, "quantization_config"),
        (hf.config, "_pre_quantization_dtype"),
    ):
        if name in vars(holder):
            delattr(holder, name)
    hf.is_quantized = False  # pyright: ignore[reportArgumentType]
    hf.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    return hf
