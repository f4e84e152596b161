"""A GGUF file is the model that it was written from, or one sentence says what is in the way."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from interp.errors import UserError
from interp.interventions.hooks import apply
from interp.model import gguf_weights
from interp.model.checkpoint_files import locate
from interp.model.delimiters import Delimiters
from interp.model.gguf_config import llama3_divisors
from interp.model.gguf_file import described, read_gguf
from interp.model.loading import load_config, load_pretrained, load_tokenizer
from interp.model.reasoning_model import ReasoningModel
from interp.model.tokenizer_ids import probe_of
from pruning.plan import LayerPlan
from pruning.surgery import save
from tests.gguf_files import TEXT, byte_level, dense, write_gguf

gguf = pytest.importorskip("gguf", reason="needs the extra gguf: pip install 'prunescope[gguf]'")

# The package's reader and writer keep memory maps open until they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

MARKS = Delimiters("<think>", "</think>", wait="")
IDS = torch.tensor([[5, 9, 100, 33, 7, 300, 12, 55, 200, 201, 202, 203, 204, 17, 18]])
GEMMA = {"tie_word_embeddings": True, "query_pre_attn_scalar": 16}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, wide heads, biases, tied": (
        "llama",
        {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True},
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {"rope_theta": 1e6}),
    "qwen3": ("qwen3", {"head_dim": 24}),
    "qwen3moe": ("qwen3_moe", {"norm_topk_prob": True}),
    "gemma2": ("gemma2", GEMMA | {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 9.0}),
    "gemma3": ("gemma3", GEMMA | {"rope_theta": 5e4}),
    "phi3": ("phi3", {}),
}


def loaded(path: Path, **options: Any) -> Any:
    dtype = options.get("dtype")
    return load_pretrained(locate(str(path)), None, dtype, "cpu", None, False, str(path))[0]


def logits(hf: Any) -> torch.Tensor:
    with torch.no_grad():
        return hf(IDS).logits.float()


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", dense("qwen3"))


# ---------------------------------------------------------------- weights and configuration


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_model_it_was_written_from(name: str, tmp_path: Path) -> None:
    arch, settings = MODELS[name]
    hf = dense(arch, **settings)
    got = loaded(write_gguf(tmp_path / "m.gguf", hf))
    torch.testing.assert_close(logits(got), logits(hf), atol=1e-5, rtol=0)
    assert got.config.tie_word_embeddings == hf.config.tie_word_embeddings


def test_starcoder2(tmp_path: Path) -> None:
    settings = AutoConfig.for_model(
        "starcoder2", vocab_size=420, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2,
        max_position_embeddings=256,
    )  # fmt: skip
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(settings).eval()
    with torch.no_grad():
        for weight in hf.parameters():
            weight.normal_(0.0, 0.15)
    got = loaded(write_gguf(tmp_path / "m.gguf", hf))
    torch.testing.assert_close(logits(got), logits(hf), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q5_0", "F16", "BF16"])
def test_a_quantised_file_is_dequantised(kind: str, tmp_path: Path) -> None:
    hf = dense("llama", hidden_size=64, intermediate_size=96)
    path = write_gguf(tmp_path / "m.gguf", hf, quantised=kind)
    number = gguf.GGMLQuantizationType[kind]
    with torch.no_grad():
        for weight in hf.parameters():
            if weight.ndim == 2:
                rows = gguf.quantize(weight.numpy(), number)
                weight.copy_(torch.from_numpy(gguf.dequantize(rows, number)))
    got = loaded(path)
    torch.testing.assert_close(logits(got), logits(hf), atol=1e-5, rtol=0)
    assert got.dtype == torch.float32
    assert loaded(path, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert read_gguf(path).provenance()["tensor_types"][kind] > 0


def test_a_head_of_the_same_bytes_is_tied_and_another_is_not(tmp_path: Path) -> None:
    hf = dense("llama")
    untied = write_gguf(tmp_path / "a.gguf", hf)
    assert load_config(untied, False).tie_word_embeddings is False
    hf.lm_head.weight = torch.nn.Parameter(hf.model.embed_tokens.weight.detach().clone())
    same = write_gguf(tmp_path / "b.gguf", hf)
    assert load_config(same, False).tie_word_embeddings is True
    torch.testing.assert_close(logits(loaded(same)), logits(hf), atol=1e-5, rtol=0)


SCALINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": (
        {"rope_type": "linear", "factor": 4.0},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "yarn": (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        },
    ),
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_rotary_scaling_is_kept(kind: str, tmp_path: Path) -> None:
    scaling, fields = SCALINGS[kind]
    hf = dense("qwen3", rope_parameters={"rope_theta": 1e4, **scaling})
    fields = {f"qwen3.{name}": value for name, value in fields.items()}
    got = loaded(write_gguf(tmp_path / "m.gguf", hf, fields=fields))
    torch.testing.assert_close(logits(got), logits(hf), atol=1e-5, rtol=0)
    plain = loaded(write_gguf(tmp_path / "plain.gguf", hf))
    assert (logits(plain) - logits(hf)).abs().max() > 1e-3  # the scaling does matter


def test_llama3_scaling_is_found_from_its_tensor(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    hf = dense("llama", head_dim=64, rope_parameters={"rope_theta": 5e5, **scaling})
    plain = 1 / 5e5 ** (np.arange(0, 64, 2) / 64)
    divisors = plain / hf.model.rotary_emb.inv_freq.double().numpy()
    np.testing.assert_allclose(llama3_divisors(64, 5e5, scaling), divisors, rtol=1e-5)
    path = write_gguf(tmp_path / "m.gguf", hf, tensors={"rope_freqs.weight": divisors})
    got = loaded(path)
    assert got.config.rope_parameters == {"rope_theta": 5e5, **scaling}
    torch.testing.assert_close(logits(got), logits(hf), atol=1e-5, rtol=0)
    divisors[20] *= 1.5
    other = write_gguf(tmp_path / "o.gguf", hf, tensors={"rope_freqs.weight": divisors})
    with pytest.raises(UserError, match=r"rope_freqs\.weight scales rotary frequencies in another"):
        loaded(other)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "longrope": ({"qwen3.rope.scaling.type": "longrope"}, r"qwen3\.rope\.scaling\.type is"),
    "partial rotation": ({"qwen3.rope.dimension_count": 8}, r"qwen3\.rope\.dimension_count is 8"),
    "value heads": ({"qwen3.attention.value_length": 8}, r"attention\.value_length is 8"),
    "per block": ({"qwen3.attention.head_count_kv": [2, 2, 1, 2]}, "it differs between blocks"),
    "a scale": ({"qwen3.attention.scale": 0.5}, r"qwen3\.attention\.scale is 0\.5"),
    "experts": ({"qwen3.expert_count": 8}, r"qwen3\.expert_count is 8"),
    "parts": ({"split.count": 3}, "one of 3 parts"),
    "tokenizer": ({"tokenizer.ggml.pre": "unheard-of"}, r"tokenizer\.ggml\.pre is 'unheard-of'"),
    "sort of tokenizer": ({"tokenizer.ggml.model": "rwkv"}, r"tokenizer\.ggml\.model is 'rwkv'"),
    "an id": ({"tokenizer.ggml.eos_token_id": 9999}, r"eos_token_id is 9999"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(fault: str, tmp_path: Path) -> None:
    fields, said = REFUSED[fault]
    path = write_gguf(tmp_path / "m.gguf", dense("qwen3"), fields=fields)
    with pytest.raises(UserError, match=said):
        loaded(path)


def test_fields_that_say_no_are_no_hindrance(tmp_path: Path) -> None:
    fields = {"qwen3.expert_count": 0, "qwen3.attention.scale": 0.0, "qwen3.vocab_size": 420}
    loaded(write_gguf(tmp_path / "m.gguf", dense("qwen3"), fields=fields))


def test_tensors_left_over_or_missing_are_named(tmp_path: Path) -> None:
    extra = {"blk.1.attn_sinks.weight": np.ones(4, dtype=np.float32)}
    path = write_gguf(tmp_path / "a.gguf", dense("qwen3"), tensors=extra)
    with pytest.raises(UserError, match=r"1 unknown to it \(blk\.1\.attn_sinks\.weight\)"):
        loaded(path)
    path = write_gguf(tmp_path / "b.gguf", dense("qwen3"), without=("blk.2.ffn_up.weight",))
    with pytest.raises(UserError, match=r"1 that the model needs missing \(blk\.2\.ffn_up"):
        loaded(path)


def test_biases_that_the_architecture_has_not_are_not_dropped(tmp_path: Path) -> None:
    bias = {f"blk.{i}.attn_q.bias": np.ones(32, dtype=np.float32) for i in range(4)}
    path = write_gguf(tmp_path / "m.gguf", dense("llama"), tensors=bias)
    with pytest.raises(UserError, match=r"missing \(blk\.0\.attn_k\.bias"):
        loaded(path)


# ---------------------------------------------------------------- files that cannot be read


def test_a_file_cut_anywhere_is_said_to_be(qwen3: Path, tmp_path: Path) -> None:
    whole = qwen3.read_bytes()
    for length in (5, 23, 40, 3000, len(whole) // 2, len(whole) - 1):
        cut = tmp_path / f"{length}.gguf"
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cut short or damaged"):
            loaded(cut)


def test_the_header_is_read_as_the_package_gguf_reads_it(qwen3: Path) -> None:
    ours, theirs = read_gguf(qwen3), gguf.GGUFReader(qwen3)
    fields = {k: v.contents() for k, v in theirs.fields.items() if not k.startswith("GGUF.")}
    assert ours.metadata == fields
    assert list(ours.tensors) == [t.name for t in theirs.tensors]
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert (mine.type, mine.start) == (tensor.tensor_type.name, tensor.data_offset)
        assert mine.shape == tuple(reversed(tensor.shape.tolist()))
        assert mine.n_bytes == tensor.n_bytes


def test_the_table_of_types_is_that_of_the_package_gguf() -> None:
    from interp.model.gguf_file import FILE_TYPES, TENSOR_TYPES

    for number, (name, numbers, n_bytes) in TENSOR_TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        assert (kind.value, gguf.GGML_QUANT_SIZES[kind]) == (number, (numbers, n_bytes))
    for number, name in FILE_TYPES.items():
        label = gguf.LlamaFileType(number).name
        assert label.removeprefix("MOSTLY_").removeprefix("ALL_").removesuffix("_MOE") == name


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "not GGUF": (lambda b: b"PK\3\4" + b[4:], "is no GGUF file"),
    "version": (lambda b: b[:4] + b"\1\0\0\0" + b[8:], "GGUF of version 1"),
    "a count of fields": (lambda b: b[:16] + b"\xff" * 8 + b[24:], "cut short or damaged"),
    "a length": (lambda b: b[:24] + b"\xff" * 8 + b[32:], "cut short or damaged"),
    "empty": (lambda b: b"", "cut short or damaged"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_damage_is_said(fault: str, qwen3: Path, tmp_path: Path) -> None:
    change, said = BROKEN[fault]
    path = tmp_path / "m.gguf"
    path.write_bytes(change(qwen3.read_bytes()))
    with pytest.raises(UserError, match=said):
        loaded(path)


def test_an_unknown_type_of_tensor_is_named(qwen3: Path, tmp_path: Path) -> None:
    whole = qwen3.read_bytes()
    at = whole.index(b"blk.0.attn_k.weight") + len(b"blk.0.attn_k.weight") + 4 + 16
    path = tmp_path / "m.gguf"
    path.write_bytes(whole[:at] + b"\xc8\0\0\0" + whole[at + 4 :])
    with pytest.raises(UserError, match=r"blk\.0\.attn_k\.weight is of the type number 200"):
        loaded(path)


def test_an_architecture_that_is_not_read_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "rwkv7")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match=r"architecture 'rwkv7': expected one of llama, qwen2"):
        loaded(tmp_path / "m.gguf")


def test_without_a_tokenizer(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", dense("qwen3"), without=("tokenizer.ggml.tokens",))
    with pytest.raises(UserError, match="holds no tokenizer"):
        loaded(path)


def test_without_the_package(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else real(name, *a)
    )
    assert load_config(qwen3, False).model_type == "qwen3"  # what needs no weights goes on
    with pytest.raises(UserError, match=r"pip install 'prunescope\[gguf\]'"):
        loaded(qwen3)


# ---------------------------------------------------------------- where it is


def test_how_a_file_is_named(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = qwen3.parent
    assert locate(str(qwen3)) == str(qwen3)
    assert locate(f"{folder}:{qwen3.name}") == str(qwen3)
    monkeypatch.chdir(folder)
    assert locate("tiny.gguf") == "tiny.gguf"
    with pytest.raises(UserError, match=r"No file .*other\.gguf.* there are: tiny\.gguf"):
        locate(f"{folder}:other.gguf")
    with pytest.raises(UserError, match=r"expected FILE\.gguf, FOLDER:FILE\.gguf"):
        locate("other.gguf")
    with pytest.raises(UserError, match=r"but GGUF files: name one of them"):
        locate(str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="from the Hub"):
        locate("nobody/nothing:tiny.gguf")


# ---------------------------------------------------------------- tokenizer


@pytest.mark.parametrize("pre", ["llama-bpe", "smollm", "gpt-2"])
def test_ids_are_those_of_the_tokenizer_it_was_written_from(pre: str, tmp_path: Path) -> None:
    own = byte_level(pre)
    path = write_gguf(tmp_path / "m.gguf", dense("qwen3"), pre=pre)
    got = load_tokenizer(path, False)
    for text in [*probe_of(own), *TEXT]:
        assert got.encode(text, add_special_tokens=False) == own.encode(text).ids, text
        assert got.decode(own.encode(text).ids, skip_special_tokens=False) == text
    assert len(got) == own.get_vocab_size()
    assert got.convert_tokens_to_ids("<｜User｜>") == own.token_to_id("<｜User｜>")
    messages = [{"role": "user", "content": "What is 17 + 25?"}]
    said = got.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert said == "<|im_start|>user\nWhat is 17 + 25?<|im_end|>\n<|im_start|>assistant\n"


def sentencepiece(prefix: bool) -> dict[str, Any]:
    """The metadata of a SentencePiece vocabulary of 420 tokens, scored by length."""
    words = ["▁", "a", "b", "ab", "▁ab", "▁a", "c", "abc"]
    tokens = ["<unk>", "<s>", "</s>", *words, "<turn>"]
    rest = [f"<unused{i}>" for i in range(420 - len(tokens))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens + rest,
        "tokenizer.ggml.scores": [float(len(t) > 1) * len(t) - 9.0 for t in tokens + rest],
        "tokenizer.ggml.token_type": [2, 3, 3, *[1] * len(words), 3, *[5] * len(rest)],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.eot_token_id": 11,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


@pytest.mark.parametrize("prefix", [True, False])
def test_a_space_before_the_text_is_put_where_the_file_says(prefix: bool, tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf",
        dense("llama"),
        fields=sentencepiece(prefix),
        without=("tokenizer.ggml.merges",),
    )
    got = load_tokenizer(path, False)
    ids = got.encode("ab ab", add_special_tokens=False)
    assert got.convert_ids_to_tokens(ids) == ["▁ab" if prefix else "ab", "▁ab"]
    assert got.decode(ids) == "ab ab"
    assert got.encode("<turn>", add_special_tokens=False) == [11]
    assert load_config(path, False).eos_token_id == [2, 11]


def test_splits_tell_the_tokenizers_apart() -> None:
    digits = "12345"
    found = {pre: tuple(byte_level(pre).encode(digits).tokens) for pre in ("llama-bpe", "smollm")}
    assert found["llama-bpe"][0] == "123" and found["smollm"] == tuple(digits)


@pytest.mark.parametrize("adds", [True, False])
def test_the_start_of_sequence_is_added_where_the_file_says(adds: bool, tmp_path: Path) -> None:
    fields = {"tokenizer.ggml.add_bos_token": adds}
    got = load_tokenizer(write_gguf(tmp_path / "m.gguf", dense("qwen3"), fields=fields), False)
    plain = got.encode("a", add_special_tokens=False)
    assert got.encode("a") == ([1, *plain] if adds else plain)


def test_a_file_without_a_chat_template_has_none(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", dense("qwen3"), without=("tokenizer.chat_template",))
    got = load_tokenizer(path, False)
    assert got.chat_template is None
    with pytest.raises(ValueError, match="chat_template is not set"):
        got.apply_chat_template([{"role": "user", "content": "a"}])


def test_every_end_of_turn_stops_a_chain(tmp_path: Path) -> None:
    fields = {"tokenizer.ggml.eot_token_id": 4, "tokenizer.ggml.eos_token_id": 1}
    path = write_gguf(tmp_path / "m.gguf", dense("qwen3"), fields=fields)
    model = ReasoningModel.load(path, delimiters=MARKS)
    # 0 and 2 by their names, as in llama.cpp
    assert model.stop_ids == (0, 1, 2, 4)
    assert model.hf.config.eos_token_id == [1, 4, 0, 2]


# ---------------------------------------------------------------- what is said and written


def test_records_say_the_file(qwen3: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.gguf"
    shutil.copyfile(qwen3, path)
    model, again = (ReasoningModel.load(p, delimiters=MARKS) for p in (path, qwen3))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.provenance["sha256"] == digest
    assert model.provenance["quantization"] == "F32"
    assert described(model.provenance) == f"copy.gguf (GGUF F32, sha256 {digest})"
    assert model.fingerprint() == again.fingerprint()
    plan = LayerPlan.without(model, 1)
    folder = save(model, plan, tmp_path / "pruned")
    record = json.loads((folder / "pruning.json").read_text(encoding="utf-8"))
    assert record["provenance"] == model.provenance
    assert digest in (folder / "README.md").read_text(encoding="utf-8")
    assert ReasoningModel.load(folder).provenance == model.provenance
    plain = ReasoningModel.load("testbed")
    assert plain.provenance == {}


def test_a_pruned_file_is_an_ordinary_checkpoint(qwen3: Path, tmp_path: Path) -> None:
    model = ReasoningModel.load(qwen3, delimiters=MARKS)
    plan = LayerPlan.without(model, 0, 2)
    folder = save(model, plan, tmp_path / "pruned")
    assert "quantization" not in (folder / "config.json").read_text(encoding="utf-8")
    found: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    hf, report = found
    assert not any(report.values())
    with apply(model, plan):
        live = logits(model.hf)
    torch.testing.assert_close(logits(hf.eval()), live, atol=1e-5, rtol=0)
    assert hf.generation_config.eos_token_id == [2, 0]
    own = AutoTokenizer.from_pretrained(folder)
    for text in TEXT:
        assert own.encode(text, add_special_tokens=False) == model.encode(text)


def test_a_study_says_the_file(qwen3: Path, tmp_path: Path) -> None:
    from scaling.engines.local import LocalEngine
    from scaling.store.study_store import Store
    from scaling.study.config import StudyConfig
    from scaling.study.runner import run_study

    engine = LocalEngine(ReasoningModel.load(qwen3, delimiters=MARKS))
    notes: list[str] = []
    config = StudyConfig(
        model=str(qwen3),
        benchmarks=("arithmetic",),
        limit=1,
        methods=("random",),
        remove=(1,),
        budgets=(2,),
        answer=4,
        samples=1,
        out=tmp_path / "study",
    )
    run_study(config, lambda event: notes.append(event.message), engine=engine)
    said = described(engine.provenance)
    with Store(tmp_path / "study", read_only=True) as store:
        assert store.meta()["model file"] == said
    assert f"weights dequantised from {said}" in notes


def test_estimates_need_no_weights(qwen3: Path) -> None:
    from scaling.costs.model_shape import ModelShape

    assert ModelShape.of(qwen3).weights == sum(p.numel() for p in loaded(qwen3).parameters())


def test_an_estimate_knows_how_long_the_answers_of_a_plain_model_are(qwen3: Path) -> None:
    from scaling.costs.machines import machine
    from scaling.costs.study_costs import estimate_on
    from scaling.study.config import StudyConfig

    model = ReasoningModel.load(str(qwen3))
    assert model.delimiters.is_plain
    setting = StudyConfig(model=str(qwen3), benchmarks=("arithmetic", "word-problems"), limit=4)
    found = estimate_on(setting, machine("h200"))
    assert found.tokens == estimate_on(setting.fitted(model), machine("h200")).tokens
    # what the study of a model with delimiters would spend, and this model's was said to
    assert found.tokens < estimate_on(replace(setting, answer=512), machine("h200")).tokens


def test_the_table_of_names_is_made_once(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []
    plain = gguf.get_tensor_name_map

    def counted(*asked: Any) -> Any:
        made.append(asked)
        return plain(*asked)

    monkeypatch.setattr(gguf, "get_tensor_name_map", counted)
    torch.testing.assert_close(logits(loaded(qwen3)), logits(dense("qwen3")), atol=1e-5, rtol=0)
    assert len(made) == 2  # for the check and for the weights, however many modules there are
    assert gguf.get_tensor_name_map is counted


@pytest.mark.parametrize("shortest", [2, 4096])
def test_the_reader_passes_over_the_vocabulary_and_is_quiet(
    shortest: int, qwen3: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import transformers.modeling_gguf_pytorch_utils as reader

    module: Any = reader
    before = (gguf.GGUFReader, module.tqdm)
    monkeypatch.setattr(gguf_weights, "LONG_ARRAY", shortest)
    whole = gguf.GGUFReader(qwen3)
    with gguf_weights.slim_reader():
        slim = gguf.GGUFReader(qwen3)
    assert list(slim.fields) == list(whole.fields)
    tokens = slim.fields["tokenizer.ggml.tokens"]
    assert bool(tokens.data) == (shortest == 4096)
    assert tokens.types == whole.fields["tokenizer.ggml.tokens"].types
    assert [(t.name, t.data_offset) for t in slim.tensors] == [
        (t.name, t.data_offset) for t in whole.tensors
    ]
    torch.testing.assert_close(logits(loaded(qwen3)), logits(dense("qwen3")), atol=1e-5, rtol=0)
    assert "Converting" not in capfd.readouterr().err
    assert (gguf.GGUFReader, module.tqdm) == before
