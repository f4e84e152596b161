"""Surgery on a folder: files, dtype and refusals. That the logits are right is in tests/laws."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from interp.errors import PruneScopeError, UserError
from interp.model.reasoning_model import ReasoningModel
from pruning import folder as folder_module
from pruning.folder import NotStreamable, outline, prune_folder, stored_dtype
from pruning.plan import LayerPlan
from pruning.stored import stored_weights
from pruning.surgery import save
from tests.models import ARCHS, tiny


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """A checkpoint folder of 5 blocks, as transformers writes it."""
    return written(tiny("qwen3", 5), tmp_path / "dense")


def cast(model: ReasoningModel, dtype: torch.dtype) -> None:
    hf: Any = model.hf
    hf.to(dtype)


def written(model: ReasoningModel, place: Path, **options: Any) -> Path:
    model.hf.save_pretrained(place, **options)
    model.tokenizer.save_pretrained(place)
    return place


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
@pytest.mark.parametrize("arch", [arch for arch in ARCHS if arch != "qwen3_moe"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_fingerprint_is_read_off_the_files(
    arch: str, tied: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tiny(arch, 3, tie_word_embeddings=tied)
    cast(model, dtype)
    place = written(model, tmp_path / "dense", max_shard_size="40KB")
    weights = stored_weights(place)
    read = folder_module.stored_fingerprint(outline(place, "any name"), weights)
    assert read == ReasoningModel.load(place).fingerprint() != ""


def test_an_outline_takes_no_memory(dense: Path) -> None:
    found = outline(dense, "dense")
    assert {weight.device.type for weight in found.hf.parameters()} == {"meta"}
    assert (found.n_blocks, found.layer_map) == (5, (0, 1, 2, 3, 4))


def test_dtype_and_side_files_are_kept(tmp_path: Path) -> None:
    model = tiny("qwen3", 4)
    cast(model, torch.bfloat16)
    model.hf.generation_config.temperature = 0.6
    model.hf.generation_config.do_sample = True
    model.hf.generation_config.use_cache = False
    model.hf.config.use_cache = False
    place = written(model, tmp_path / "dense")
    (place / "vocab.extra.txt").write_text("kept", encoding="utf-8")
    (place / "pytorch_model.bin").write_bytes(b"not these weights")
    (place / "consolidated.safetensors").write_bytes(b"nor these")
    (place / "additional_chat_templates").mkdir()
    (place / "additional_chat_templates" / "tool.jinja").write_text("{{ x }}", encoding="utf-8")
    assert stored_dtype(place) == torch.bfloat16
    out = prune_folder(place, [0], tmp_path / "out")
    names = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert names == {
        "README.md",
        "additional_chat_templates/tool.jinja",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "pruning.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.extra.txt",
    }
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (place / name).read_bytes()
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert (config["dtype"], config["use_cache"]) == ("bfloat16", True)
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    generation = json.loads((out / "generation_config.json").read_text(encoding="utf-8"))
    assert (generation["temperature"], generation["use_cache"]) == (0.6, True)
    again = ReasoningModel.load(out, dtype="auto")
    assert again.dtype == torch.bfloat16
    assert again.prompt_ids("use 3 7") == model.prompt_ids("use 3 7")
    assert again.delimiters == model.delimiters


def test_the_record_is_that_of_a_model_pruned_in_memory(dense: Path, tmp_path: Path) -> None:
    model = ReasoningModel.load(dense)
    plan = LayerPlan.without(model, 1, 3)
    streamed, saved = prune_folder(dense, plan, tmp_path / "a"), save(model, plan, tmp_path / "b")
    for name in ("pruning.json", "README.md", "config.json"):
        one, other = ((place / name).read_text(encoding="utf-8") for place in (streamed, saved))
        assert one == other
    named = prune_folder(dense, [1, 3], tmp_path / "c")
    assert (named / "pruning.json").read_text() == (saved / "pruning.json").read_text()


def test_maps_compose_when_a_folder_is_pruned_again(dense: Path, tmp_path: Path) -> None:
    once = prune_folder(dense, [0, 3], tmp_path / "once")
    twice = prune_folder(once, [2], tmp_path / "twice")
    at_once = prune_folder(dense, [0, 2, 3], tmp_path / "at once")
    record = json.loads((twice / "pruning.json").read_text(encoding="utf-8"))
    assert (record["layer_map"], record["removed"]) == ([1, 4], [0, 2, 3])
    one, other = (load_file(place / "model.safetensors") for place in (twice, at_once))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    with pytest.raises(UserError, match="block 3 is not there"):
        prune_folder(twice, [3], tmp_path / "no")


def test_experts_and_windows_stay_with_their_blocks(tmp_path: Path) -> None:
    model = tiny("qwen3_moe", 6, decoder_sparse_step=2)
    kinds = [type(block.mlp).__name__ for block in model.blocks]  # pyright: ignore[reportAttributeAccessIssue]
    out = prune_folder(written(model, tmp_path / "moe"), [0, 3], tmp_path / "out")
    again = ReasoningModel.load(out)
    found = [type(block.mlp).__name__ for block in again.blocks]  # pyright: ignore[reportAttributeAccessIssue]
    assert found == [kinds[i] for i in (1, 2, 4, 5)]
    model = tiny("gemma3", 6)
    types = model.hf.config.layer_types
    out = prune_folder(written(model, tmp_path / "gemma"), [1, 2], tmp_path / "out2")
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["layer_types"] == [types[i] for i in (0, 3, 4, 5)]


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([5], "block 5 is not there"),
        ([-1], "block -1 is not there"),
        ([1, 1], "named twice"),
        ([0, 1, 2, 3, 4], "leaves no model"),
    ],
)
def test_blocks_that_cannot_go_are_refused(
    dense: Path, tmp_path: Path, blocks: list[int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prune_folder(dense, blocks, tmp_path / "out")
    assert [place.name for place in tmp_path.iterdir()] == ["dense"]


def test_a_plan_for_other_weights_is_refused(dense: Path, tmp_path: Path) -> None:
    for other, message in (
        (tiny("qwen3", 5, seed=3), "fingerprint"),
        (tiny("qwen3", 4), "4 block"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            prune_folder(dense, LayerPlan.without(other, 1), tmp_path / "out")
        assert not isinstance(caught.value, NotStreamable)
    assert not (tmp_path / "out").exists()


def test_what_must_be_loaded_is_said(tmp_path: Path) -> None:
    moe = written(tiny("qwen3_moe", 3), tmp_path / "moe")
    plan = LayerPlan.without(ReasoningModel.load(moe), 1)
    with pytest.raises(NotStreamable, match="once they are loaded"):
        prune_folder(moe, plan, tmp_path / "out")
    with pytest.raises(UserError, match="3 blocks") as caught:  # depth is checked all the same
        prune_folder(moe, LayerPlan((1,), 4, model="f00d"), tmp_path / "out")
    assert not isinstance(caught.value, NotStreamable)
    record = prune_folder(moe, [1], tmp_path / "named") / "pruning.json"
    assert json.loads(record.read_text(encoding="utf-8"))["fingerprint"] == ""


def edited(dense: Path, change: Any) -> None:
    """The folder with its weights changed by `change`, a function of name -> tensor."""
    weights = load_file(dense / "model.safetensors")
    change(weights)
    save_file(weights, dense / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.pop("model.layers.2.mlp.up_proj.weight"),
        lambda w: w.update({"model.layers.2.mlp.bias": torch.zeros(3)}),
        lambda w: w.update({"model.norm.weight": torch.zeros(3)}),
        lambda w: [w.pop(key) for key in list(w) if key.startswith("model.layers.4.")],
        lambda w: w.update({"model.layers.5.mlp.up_proj.weight": torch.zeros(3)}),
        lambda w: w.pop("lm_head.weight"),
    ],
    ids=["lacking", "unknown", "shape", "no block 4", "a block 5", "no head"],
)
def test_weights_that_the_architecture_does_not_have_are_refused(
    dense: Path, tmp_path: Path, change: Any
) -> None:
    edited(dense, change)
    with pytest.raises(NotStreamable):
        prune_folder(dense, [1], tmp_path / "out")
    assert [place.name for place in tmp_path.iterdir()] == ["dense"]


def test_a_quantised_checkpoint_is_refused(dense: Path, tmp_path: Path) -> None:
    config = json.loads((dense / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (dense / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(NotStreamable, match="quantised"):
        prune_folder(dense, [1], tmp_path / "out")


@pytest.mark.parametrize("keep", [4, 200, -10])
def test_a_file_cut_short_is_refused(dense: Path, tmp_path: Path, keep: int) -> None:
    file = dense / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        prune_folder(dense, [1], tmp_path / "out")


def test_a_folder_that_lacks_files_is_refused(tmp_path: Path) -> None:
    place = written(tiny("qwen3", 3), tmp_path / "dense", max_shard_size="40KB")
    first = sorted(place.glob("*.safetensors"))[0]
    first.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"lacks {first.name}"):
        prune_folder(place, [1], tmp_path / "out")
    (place / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not an index"):
        prune_folder(place, [1], tmp_path / "out")
    (place / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match="holds neither"):
        prune_folder(place, [1], tmp_path / "out")
    shutil.rmtree(place)
    with pytest.raises(UserError, match="No folder"):
        prune_folder(str(place), [1], tmp_path / "out")


def test_a_hub_name_is_fetched_whole(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    with pytest.raises(UserError, match="Cannot fetch 'org/model' from the Hub"):
        prune_folder("org/model", [1], tmp_path / "out")  # tests are offline
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(dense))
    out = prune_folder("org/model", [1], tmp_path / "out")
    assert json.loads((out / "pruning.json").read_text())["source"] == "org/model"


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_no_half_checkpoint_is_left(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def full_disk(*_: Any) -> None:
        raise failure

    monkeypatch.setattr("pruning.stored._copy", full_disk)
    with pytest.raises(PruneScopeError if isinstance(failure, OSError) else KeyboardInterrupt):
        prune_folder(dense, [1], tmp_path / "out")
    assert [place.name for place in tmp_path.iterdir()] == ["dense"]


def test_a_folder_in_use_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match="not an empty folder"):
        prune_folder("/nowhere", [1], tmp_path / "used")


def test_neither_tokenizer_nor_delimiters_are_needed(dense: Path, tmp_path: Path) -> None:
    """A model that does not think (Llama 2, say) can be pruned like any other."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (dense / name).unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        ReasoningModel.load(dense)
    out = prune_folder(dense, [1], tmp_path / "out")
    loader: Any = AutoModelForCausalLM
    _, info = loader.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())


def test_delimiters_beside_the_weights_are_kept(dense: Path, tmp_path: Path) -> None:
    said = {"think_start": "use", "think_end": "make", "answer_prefix": "", "wait": "check"}
    (dense / "delimiters.json").write_text(json.dumps(said), encoding="utf-8")
    again = ReasoningModel.load(prune_folder(dense, [1], tmp_path / "out"))
    assert again.delimiters.to_dict() == said


# ------------------------------------------------------------- files that are no safetensors

Header = dict[str, Any]
FIRST, LAST = "lm_head.weight", "model.norm.weight"  # save_file writes them in this order


def shifted(header: Header, by: int) -> Header:
    for entry in header.values():
        if "data_offsets" in entry:
            entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]
    return header


def changed(key: str, **fields: Any) -> Any:
    return lambda header: header | {key: header[key] | fields}


def overlapping(header: Header) -> Header:
    start, stop = header[FIRST]["data_offsets"]
    other = next(k for k, e in header.items() if e.get("data_offsets", [0])[0] == stop)
    length = header[other]["data_offsets"][1] - stop
    return header | {other: header[other] | {"data_offsets": [start, start + length]}}


def with_nothing(*shape: int) -> Any:
    """One more weight, of this shape and without a byte."""
    entry = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 0]}
    return lambda header: header | {"nothing": entry}


MALFORMED: dict[str, Any] = {
    "an unknown dtype": changed(FIRST, dtype="BOGUS"),
    "a dtype of another width": changed(FIRST, dtype="F16"),
    "a number for a dtype": changed(FIRST, dtype=32),
    "a negative offset": changed(FIRST, data_offsets=[-8, 8]),
    "offsets in reverse": changed(FIRST, data_offsets=[64, 0]),
    "one offset": changed(FIRST, data_offsets=[0]),
    "fractions for offsets": changed(FIRST, data_offsets=[0.0, 8.0]),
    "an offset beyond the file": changed(LAST, data_offsets=[0, 10**30]),
    "an overlap": overlapping,
    "a shift by a byte": lambda header: shifted(header, 1),
    "a gap at the end": lambda header: {k: v for k, v in header.items() if k != LAST},
    "a gap at the start": lambda header: {k: v for k, v in header.items() if k != FIRST},
    "another shape": changed(LAST, shape=[3]),
    "a shape of text": changed(LAST, shape="32"),
    "a negative shape": changed(LAST, shape=[-4, -8]),
    "a shape beyond counting": changed(LAST, shape=[10**30]),
    "no numbers, but a size of 65 bits": with_nothing(0, 2**64),
    "no numbers, but a product of 80 bits before": with_nothing(2**40, 2**40, 0),
    "no shape": lambda header: header | {LAST: {"dtype": "F32", "data_offsets": [0, 0]}},
    "a list": lambda header: [header],
    "a field that is no number in JSON": changed(FIRST, more=float("-inf")),
    "a number in the metadata": lambda header: header | {"__metadata__": {"format": 1}},
    "a list for the metadata": lambda header: header | {"__metadata__": ["pt"]},
    "half a character": lambda header: header | {"__metadata__": {"\ud83e": "pt"}},
    "text for a weight": lambda header: header | {LAST: "x"},
}


def reheaded(file: Path, change: Any) -> None:
    """The file with its header changed; the weights' bytes stay."""
    raw = file.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    text = json.dumps(change(json.loads(raw[8 : 8 + n]))).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + n :])


def test_the_header_is_that_of_the_format(dense: Path) -> None:
    file = dense / "model.safetensors"
    reheaded(file, lambda header: header)
    found = stored_weights(dense)
    assert found.keys() == load_file(file).keys()
    entries = sorted(found.items(), key=lambda item: item[1].start)
    assert (entries[0][0], entries[-1][0]) == (FIRST, LAST)


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_header_is_refused(dense: Path, tmp_path: Path, name: str) -> None:
    reheaded(dense / "model.safetensors", MALFORMED[name])
    with pytest.raises(UserError, match="not a whole safetensors file") as caught:
        prune_folder(dense, [1], tmp_path / "out")
    assert not isinstance(caught.value, NotStreamable)  # loading it would not help
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda raw, n: (n - 1).to_bytes(8, "little") + raw[8:],
        lambda raw, n: (n + 1).to_bytes(8, "little") + raw[8:],
        lambda raw, n: (2**63).to_bytes(8, "little") + raw[8:],
        lambda raw, n: raw + b"\0",
        lambda raw, n: raw[:-1],
        lambda raw, n: raw[:8] + b"\xe9" * n + raw[8 + n :],
        lambda raw, n: raw[:8] + b"[" * n + raw[8 + n :],
        lambda raw, n: b"",
    ],
    ids=["short", "long", "huge", "more behind", "cut", "no UTF-8", "deep", "empty"],
)
def test_a_file_of_other_lengths_is_refused(dense: Path, tmp_path: Path, change: Any) -> None:
    file = dense / "model.safetensors"
    raw = file.read_bytes()
    file.write_bytes(change(raw, int.from_bytes(raw[:8], "little")))
    with pytest.raises(UserError, match="not a whole safetensors file"):
        prune_folder(dense, [1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "a\\x.safetensors", "x.bin", 5, None, "", ".."]
)
def test_an_index_names_files_of_its_own_folder(tmp_path: Path, name: Any) -> None:
    place = written(tiny("qwen3", 3), tmp_path / "dense", max_shard_size="40KB")
    index = place / "model.safetensors.index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    content["weight_map"]["model.norm.weight"] = name
    index.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="not an index of weights"):
        prune_folder(place, [1], tmp_path / "out")


def test_a_single_file_goes_before_an_index_as_in_transformers(dense: Path) -> None:
    (dense / "model.safetensors.index.json").write_text("{", encoding="utf-8")
    assert {weight.file.name for weight in stored_weights(dense).values()} == {"model.safetensors"}
    assert ReasoningModel.load(dense).n_blocks == 5
