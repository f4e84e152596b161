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
from interp.model import ReasoningModel
from interp.source import locate
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
