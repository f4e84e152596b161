"""Model cards: the Hub's own parser reads every one, and they name what a checkpoint comes from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.model_card import UNTRAINED, metadata, plan_card, recovered_card, write_results
from pruning.plan import LayerPlan
from pruning.prune_checkpoint import prune_checkpoint
from pruning.repairs import mend, save_repaired
from tests.models import tiny

RESULT = EvalResult("text-generation", "openai/gsm8k", "gsm8k", "accuracy", 0.5)


def parsed(text: str) -> Any:
    """A card as the Hub reads it; metadata that it could not read is an error."""
    return ModelCard(text)


def read(folder: Path) -> Any:
    """The card of a checkpoint."""
    return parsed((folder / "README.md").read_text(encoding="utf-8"))


def named(name: str) -> ReasoningModel:
    """A small model that says it was loaded from `name`."""
    model = tiny("qwen3", 4)
    return model.around(model.hf, name=name)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the bundled reasoner, written file by file."""
    return prune_checkpoint("testbed", [7, 9], tmp_path_factory.mktemp("pruned") / "out")


def test_a_checkpoint_written_from_files_has_the_hubs_metadata(pruned: Path) -> None:
    data = read(pruned).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-generation"
    assert data.license == "mit"  # of the bundled reasoner's own card
    assert data.tags == ["prunescope", "layer-pruning"]
    assert data.base_model is None  # the bundled reasoner is not on the Hub


def test_a_hub_name_is_the_base_model() -> None:
    model = named("Qwen/Qwen3-8B")
    plan = dataclasses.replace(LayerPlan.without(model, 1), criterion="shortgpt")
    card = parsed(plan_card(model, plan))
    assert (card.data.base_model, card.data.base_model_relation) == ("Qwen/Qwen3-8B", "finetune")
    assert "shortgpt" in (card.data.tags or [])
    assert card.text.strip().startswith("# Qwen/Qwen3-8B, without 1")
    assert UNTRAINED in card.text


@pytest.mark.parametrize(
    ("source", "base"),
    [
        ("Qwen/Qwen3-8B-GGUF:qwen3-8b.Q4_K_M.gguf", "Qwen/Qwen3-8B-GGUF"),
        ("qwen3-8b.Q4_K_M.gguf", None),
        ("models/qwen3-8b.Q4_K_M.gguf", None),
        ("Qwen3ForCausalLM", None),
        ("a/path/of/mine", None),
        ("/a/path", None),
    ],
)
def test_only_a_hub_name_is_a_base_model(source: str, base: str | None) -> None:
    assert metadata(source).base_model == base


def test_a_folder_gives_its_own_base_model_and_licence_and_no_path(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\nlanguage: [en, de]\nbase_model: Qwen/Qwen3-8B\n---\n# Mine\n"
    )
    model = named(str(folder))
    text = plan_card(model, LayerPlan.without(model, 1))
    data = parsed(text).data
    assert (data.base_model, data.license) == ("Qwen/Qwen3-8B", "apache-2.0")
    assert data.language == ["en", "de"]
    assert str(tmp_path) not in text
    assert "# mine, without 1" in text


@pytest.mark.parametrize(
    "text",
    [
        "no metadata",
        "---\n: [\n---\n",
        "---\n- a list\n---\n",
        "---\ntags: 7\nbase_model: {a: 1}\nlicense: [1, 2]\n---\n",
        "---\nbase_model: {a: 1}\nlicense: [1, 2]\ntags: [prunescope, 7]\n---\n",
        "---\nmodel-index: 3\n---\n",
        b"\xff\xfe\x00",
    ],
)
def test_a_strangers_card_does_no_harm(tmp_path: Path, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "README.md").write_bytes(data)
    model = named(str(tmp_path))
    for card in (
        plan_card(model, LayerPlan.without(model, 1)),
        recovered_card(str(tmp_path), "lora", "It was trained."),
    ):
        found = parsed(card)
        assert "prunescope" in (found.data.tags or [])
        assert found.data.base_model is None


def test_a_repaired_checkpoint_names_the_dense_model(tmp_path: Path) -> None:
    model = named("Qwen/Qwen3-8B")
    plan = LayerPlan.without(model, 1)
    texts = ["use 3 7 to make 21", "wait check"]
    card = read(save_repaired(mend("prune-comp", model, plan, texts), tmp_path / "out"))
    assert card.data.base_model == "Qwen/Qwen3-8B"
    assert card.text.strip().startswith("# Qwen/Qwen3-8B, ")
    assert "prune-comp" in card.text


def test_recovery_carries_the_card_on_without_results_of_before(pruned: Path) -> None:
    write_results(pruned, [RESULT])
    before = read(pruned)
    assert before.data.eval_results == [RESULT]
    card = parsed(recovered_card(str(pruned), "lora", "It was trained for a week."))
    assert card.data.eval_results is None
    assert card.data.tags == ["prunescope", "layer-pruning", "recovery", "lora"]
    assert card.data.license == "mit"
    assert before.text.strip().splitlines()[0] == card.text.strip().splitlines()[0]
    assert "It was trained for a week." in card.text
    assert UNTRAINED not in card.text


def test_training_twice_says_so_twice(pruned: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(recovered_card(str(pruned), "lora", "First."))
    card = recovered_card(str(tmp_path), "full", "Then.")
    assert card.index("First.") < card.index("Then.")
    assert {"lora", "full"} <= set(parsed(card).data.tags or [])


def test_training_a_model_of_the_hub_names_it() -> None:
    data = parsed(recovered_card("Qwen/Qwen3-8B", "lora", "It was trained.")).data
    assert data.base_model == "Qwen/Qwen3-8B"
    assert data.tags == ["prunescope", "layer-pruning", "recovery", "lora"]


def test_results_replace_earlier_ones_and_keep_the_text(pruned: Path) -> None:
    text = read(pruned).text.strip()
    for value in (0.25, 0.75):
        write_results(pruned, [dataclasses.replace(RESULT, metric_value=value)])
    card = read(pruned)
    assert [one.metric_value for one in card.data.eval_results or ()] == [0.75]
    assert card.text.strip() == text


def test_results_need_a_card(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"README\.md"):
        write_results(tmp_path, [RESULT])
