"""A checkpoint loads whole and unchanged, or one sentence says what is wrong with it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.errors import UserError
from interp.model.checkpoint_files import locate
from interp.model.reasoning_model import ReasoningModel
from prunescope import cli

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundled reasoner; what a test changes in it is put back."""
    return Path(shutil.copytree(locate("testbed"), tmp_path_factory.mktemp("whole") / "model"))


@pytest.fixture
def place(copied: Path, tmp_path: Path) -> Path:
    """The reasoner in a new folder: small files copied, weights linked until they are changed."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in copied.iterdir():
        if file.suffix == ".safetensors":
            (folder / file.name).symlink_to(file)
        else:
            shutil.copyfile(file, folder / file.name)
    return folder


def configure(place: Path, **changes: Any) -> None:
    file = place / "config.json"
    content = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(content), encoding="utf-8")


def rewrite(place: Path, change: Callable[[Weights], Weights]) -> None:
    """Other weights, as a well-formed file."""
    file = place / "model.safetensors"
    weights = load_file(file)
    file.unlink()
    save_file(change(weights), file, metadata={"format": "pt"})


def without(pattern: str) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        rewrite(place, lambda w: {k: v for k, v in w.items() if not re.search(pattern, k)})

    return change


def counted_from_one(place: Path) -> None:
    def change(weights: Weights) -> Weights:
        return {
            re.sub(r"layers\.(\d+)", lambda m: f"layers.{int(m[1]) + 1}", k): v
            for k, v in weights.items()
        }

    rewrite(place, change)


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda place: configure(place, **changes)


# What is wrong -> how the checkpoint got there, how many weights are concerned, and one of them.
NOT_ITS_WEIGHTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a block is gone": (without(r"layers\.15\."), r"11 .*missing .*layers\.15\."),
    "a weight is gone": (without(r"layers\.3\.mlp\.up"), r"1 .*missing .*layers\.3\.mlp\.up_proj"),
    "the norm is gone": (without(r"^model\.norm"), r"1 .*missing .*model\.norm\.weight"),
    "the embedding is gone": (without("embed_tokens"), r"2 .*missing .*lm_head.*embed_tokens"),
    "no weight of the model": (
        lambda place: rewrite(place, lambda _: {"x": torch.zeros(1)}),
        r"179 .*missing .*, \.\.\.\); 1 unknown to Qwen3ForCausalLM \(x\)",
    ),
    "a block more": (
        config(num_hidden_layers=17, layer_types=None),
        r"11 .*missing .*layers\.16\.",
    ),
    "a block less": (
        config(num_hidden_layers=15, layer_types=None),
        r"11 unknown .*layers\.15\.",
    ),
    "no head": (config(tie_word_embeddings=False), r"1 .*missing \(lm_head\.weight\)"),
    "llama": (config(model_type="llama"), r"32 unknown to LlamaForCausalLM .*k_norm"),
    "qwen2": (config(model_type="qwen2"), r"48 .*missing .*bias.*32 unknown .*k_norm"),
    "gpt2": (config(model_type="gpt2"), r"197 .*missing .*178 unknown to GPT2LMHeadModel"),
    "qwen3_moe": (config(model_type="qwen3_moe", num_experts=2), r"48 .*missing .*experts"),
    "counted from one": (counted_from_one, r"11 .*missing .*layers\.0\..*11 unknown .*layers\.16"),
    "another width": (
        config(intermediate_size=380),
        r"48 of another shape \(model\.layers\.0\.mlp\.down_proj\.weight 128x384 for 128x380",
    ),
}


@pytest.mark.parametrize("name", NOT_ITS_WEIGHTS)
def test_weights_that_are_not_all_the_models_are_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, said = NOT_ITS_WEIGHTS[name]
    change(place)
    with pytest.raises(UserError, match="Cannot load ") as caught:
        ReasoningModel.load(place)
    assert re.search(said, str(caught.value)), caught.value
    out = tmp_path / "pruned"
    assert cli.run(["prune", "--model", str(place), "--blocks", "3", "--out", str(out)]) == 2
    assert not out.exists()
    assert "prunescope: Cannot load" in capsys.readouterr().err


def test_a_folder_with_an_adapter_does_not_load_another_model(place: Path, tmp_path: Path) -> None:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": locate("testbed")}
    (place / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    with pytest.raises(UserError, match="adapter_config"):
        ReasoningModel.load(place)
    out = tmp_path / "pruned"
    assert cli.run(["prune", "--model", str(place), "--blocks", "3", "--out", str(out)]) == 2
    assert not out.exists()


def test_what_every_model_computes_or_ties_may_lie_in_the_file(place: Path) -> None:
    def change(weights: Weights) -> Weights:
        return weights | {
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(16),
            "lm_head.weight": weights["model.embed_tokens.weight"].clone(),
        }

    rewrite(place, change)
    found, whole = ReasoningModel.load(place), ReasoningModel.load("testbed")
    for key, weight in whole.hf.state_dict().items():
        torch.testing.assert_close(found.hf.state_dict()[key], weight, rtol=0, atol=0)


def test_the_first_three_weights_are_named_in_the_order_of_the_blocks(place: Path) -> None:
    rewrite(place, lambda w: {k: v for k, v in w.items() if "o_proj" not in k})
    with pytest.raises(UserError) as caught:
        ReasoningModel.load(place)
    named = [f"model.layers.{i}.self_attn.o_proj.weight" for i in range(3)]
    assert f"16 that the model needs missing ({', '.join(named)}, ...)" in str(caught.value)


# ------------------------------------------------------------------------- damaged files

DEEP = "[" * 100_000
LONG = '{"n_blocks": ' + "9" * 5000 + "}"
LATIN = '{"name": "caf\xe9"}'.encode("latin-1")


def content(name: str, text: str | bytes) -> Callable[[Path], None]:
    """A file beside the weights with this content."""

    def change(place: Path) -> None:
        raw = text if isinstance(text, bytes) else text.encode("utf-8")
        (place / name).unlink(missing_ok=True)
        (place / name).write_bytes(raw)

    return change


def cut(keep: int) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        file = place / "model.safetensors"
        raw = file.read_bytes()[:keep]
        file.unlink()
        file.write_bytes(raw)

    return change


DAMAGED: dict[str, Callable[[Path], None]] = {
    "layer types of another length": config(layer_types=["full_attention"] * 3),
    "layer types that are none": config(layer_types=["no such"] * 16),
    "text for a number": config(num_hidden_layers="16"),
    "null for a number": config(hidden_size=None),
    "a list for a number": config(vocab_size=[238]),
    "a fraction for a number": config(num_attention_heads=4.5),
    "no heads": config(num_attention_heads=0),
    "no key-value heads": config(num_key_value_heads=0),
    "heads that do not divide": config(num_key_value_heads=3),
    "a negative vocabulary": config(vocab_size=-1),
    "a padding token outside": config(pad_token_id=999),
    "an unknown activation": config(hidden_act="no such"),
    "an unknown dtype": config(dtype="float99"),
    "unknown positions": config(rope_parameters={"rope_type": "no such"}),
    "a number for positions": config(rope_parameters=5),
    "a number for a quantisation": config(quantization_config=5),
    "an unknown architecture": config(model_type="no such"),
    "no architecture": config(model_type=None),
    "a list for an architecture": config(model_type=["qwen3"]),
    "an encoder-decoder": config(model_type="t5"),
    "three thousand million blocks": config(num_hidden_layers=3_000_000_000, layer_types=None),
    "two thousand blocks": config(num_hidden_layers=2_000, layer_types=None),
    "blocks beyond counting": config(num_hidden_layers=10**30, layer_types=None),
    "config.json cut": content("config.json", "{"),
    "config.json a list": content("config.json", "[]"),
    "config.json deep": content("config.json", DEEP),
    "config.json latin-1": content("config.json", LATIN),
    "config.json of long numbers": content("config.json", LONG),
    "tokenizer.json cut": content("tokenizer.json", "{"),
    "tokenizer.json a list": content("tokenizer.json", "[]"),
    "tokenizer.json of numbers": content("tokenizer.json", '{"model": 5}'),
    "tokenizer.json deep": content("tokenizer.json", DEEP),
    "tokenizer_config.json cut": content("tokenizer_config.json", "{"),
    "tokenizer_config.json a list": content("tokenizer_config.json", "[]"),
    "generation_config.json cut": content("generation_config.json", "{"),
    "generation_config.json a list": content("generation_config.json", "[]"),
    "an end that is text": content("generation_config.json", '{"eos_token_id": "abc"}'),
    "layer_map a number": content("pruning.json", '{"layer_map": 5}'),
    "layer_map of null": content("pruning.json", '{"layer_map": [null]}'),
    "layer_map text": content("pruning.json", '{"layer_map": "abcdefghijklmnop"}'),
    "layer_map beyond counting": content(
        "pruning.json", json.dumps({"layer_map": [*range(15), 10**30]})
    ),
    "n_blocks text": content("pruning.json", '{"n_blocks": "16"}'),
    "n_blocks a fraction": content("pruning.json", '{"n_blocks": 16.5}'),
    "n_blocks beyond counting": content("pruning.json", json.dumps({"n_blocks": 10**18})),
    "pruning.json deep": content("pruning.json", DEEP),
    "pruning.json latin-1": content("pruning.json", LATIN),
    "pruning.json of long numbers": content("pruning.json", LONG),
    "delimiters.json a list": content("delimiters.json", "[]"),
    "delimiters.json unknown": content("delimiters.json", '{"start": "<think>"}'),
    "delimiters.json of numbers": content("delimiters.json", '{"think_start": 5, "think_end": 6}'),
}
CUT: dict[str, Callable[[Path], None]] = {
    "weights cut short": cut(6_000_000),
    "weights cut in the header": cut(100),
    "weights empty": cut(0),
    "an index that holds a number": content(
        "model.safetensors.index.json", '{"weight_map": {"a": 5}}'
    ),
    "an index that is cut": content("model.safetensors.index.json", "{"),
    "an index of another folder": content(
        "model.safetensors.index.json", '{"weight_map": {"a": "../x.safetensors"}}'
    ),
    "an index of an absolute path": content(
        "model.safetensors.index.json", '{"weight_map": {"a": "/x.safetensors"}}'
    ),
    "an index of a missing file": content(
        "model.safetensors.index.json", '{"weight_map": {"a": "x.safetensors"}}'
    ),
}


def indexed(place: Path, name: str) -> None:
    """An index counts only where there is no single file."""
    if "index" in name:
        (place / "model.safetensors").rename(place / "other.safetensors")


@pytest.mark.parametrize("name", [*DAMAGED, *CUT])
def test_a_damaged_checkpoint_is_one_sentence(place: Path, name: str) -> None:
    (DAMAGED | CUT)[name](place)
    indexed(place, name)
    with pytest.raises(UserError) as caught:
        ReasoningModel.load(place)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 1500
    assert str(place) in said or place.name in said


@pytest.mark.parametrize("name", DAMAGED)
def test_without_its_weights_neither(place: Path, name: str) -> None:
    """What reads the small files alone refuses them, or has no need of what is damaged."""
    from pruning.folder import outline
    from scaling.costs.model_shape import ModelShape
    from scaling.engines.served_model import weightless

    DAMAGED[name](place)
    for read in (weightless, ModelShape.of, lambda folder: outline(folder, "model")):
        found = read_or_refused(read, place)
        if isinstance(found, str):
            assert "\n" not in found
        else:
            assert found.n_blocks == 16


def read_or_refused(read: Callable[[Any], Any], place: Path) -> Any:
    """What was read, or the text of the error."""
    try:
        return read(place)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", [*DAMAGED, *CUT])
def test_on_the_command_line_it_is_exit_code_2(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (DAMAGED | CUT)[name](place)
    indexed(place, name)
    out = tmp_path / "pruned"
    code = cli.run(["prune", "--model", str(place), "--blocks", "3", "--out", str(out)])
    assert code in (0, 2)
    if code == 2:
        assert "prunescope: " in capsys.readouterr().err
        assert not out.exists()
    else:  # the tokenizer and its delimiters are copied as they are
        assert name.startswith(("tokenizer", "delimiters", "an end"))


@pytest.mark.parametrize(
    "template",
    ["{% for %}", "{{ messages[99].content }}", "{{ 1 / 0 }}", "{{ raise_exception('no') }}", "{{"],
)
def test_a_template_that_fails_is_said_at_the_first_prompt(place: Path, template: str) -> None:
    (place / "chat_template.jinja").write_text(template, encoding="utf-8")
    model = ReasoningModel.load(place)
    with pytest.raises(UserError, match="The chat template of "):
        model.prompt_ids("3 + 4")


def test_a_pipe_is_not_waited_for(place: Path) -> None:
    import os

    (place / "model.safetensors").unlink()
    os.mkfifo(place / "part.safetensors")
    content("model.safetensors.index.json", '{"weight_map": {"a": "part.safetensors"}}')(place)
    with pytest.raises(UserError, match="not a regular file"):
        ReasoningModel.load(place)
    assert cli.run(["prune", "--model", str(place), "--blocks", "3", "--out", "unused"]) == 2
    (place / "model.safetensors.index.json").unlink()
    os.mkfifo(place / "model.safetensors")
    with pytest.raises(UserError, match="not a regular file"):
        ReasoningModel.load(place)


@pytest.mark.parametrize(
    "layer_map", [5, "abc", b"abc", [None], [0.5], [True], [], [-1], [10**30], [3, 3], {"a": 1}]
)
def test_a_layer_map_is_rising_block_indices(layer_map: Any) -> None:
    from interp.model.checkpoint_files import checked_layer_map

    with pytest.raises(UserError, match="layer_map"):
        checked_layer_map(layer_map, 2 if layer_map == [3, 3] else 1)
