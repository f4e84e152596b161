"""One way to a pruned checkpoint: from file to file, or through memory, and the same either way."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from pruning import folder
from pruning.folder import NotStreamable, prune_folder
from pruning.plan import LayerPlan
from pruning.prune_checkpoint import as_stored, prune_checkpoint
from pruning.settings import parse_settings
from tests.interp.test_whole_files import die, in_a_child, needs_fork
from tests.models import tiny


def written(model: ReasoningModel, place: Path) -> Path:
    hf: Any = model.hf
    hf.to(torch.bfloat16)
    hf.save_pretrained(place)
    model.tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return written(tiny("qwen3", 5), tmp_path / "dense")


@pytest.fixture
def experts(tmp_path: Path) -> Path:
    """A mixture of experts: with a plan that names its weights it cannot be streamed."""
    return written(tiny("qwen3_moe", 4), tmp_path / "experts")


def test_what_can_be_streamed_is_not_loaded(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReasoningModel, "load", lambda *_, **__: pytest.fail("it was loaded"))
    out = prune_checkpoint(dense, (1, 3), tmp_path / "out")
    same = prune_folder(dense, (1, 3), tmp_path / "same")
    assert (out / "pruning.json").read_text() == (same / "pruning.json").read_text()
    one, other = (load_file(folder / "model.safetensors") for folder in (out, same))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("in_memory", [False, True])
def test_what_cannot_be_streamed_is_written_as_it_is_stored(
    experts: Path, tmp_path: Path, in_memory: bool
) -> None:
    model = ReasoningModel.load(experts)
    plan = LayerPlan.without(model, 1)
    with pytest.raises(NotStreamable):
        prune_folder(experts, plan, tmp_path / "no")
    before = {k: v.clone() for k, v in model.hf.state_dict().items()}
    loaded = model if in_memory else None
    out = prune_checkpoint(experts, plan, tmp_path / "out", loaded=loaded)
    stored = load_file(experts / "model.safetensors")
    for name, weight in load_file(out / "model.safetensors").items():
        assert weight.dtype == torch.bfloat16
        if ".layers." not in name:
            assert torch.equal(weight, stored[name])
    after = model.hf.state_dict()  # nothing of the caller's model has changed
    assert all(v.dtype == after[k].dtype and torch.equal(v, after[k]) for k, v in before.items())
    assert ReasoningModel.load(out).layer_map == (0, 2, 3)


def test_a_live_model_is_written_as_it_is_in_memory(tmp_path: Path) -> None:
    model = tiny("qwen3", 5)
    out = prune_checkpoint(model, (2,), tmp_path / "out")
    weights = load_file(out / "model.safetensors").values()
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert ReasoningModel.load(out).layer_map == (0, 1, 3, 4)


def test_a_folder_in_use_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me", encoding="utf-8")
    with pytest.raises(UserError, match="not an empty folder"):
        prune_checkpoint("nowhere", (1,), tmp_path)


@pytest.mark.parametrize("tied", [False, True])
def test_conversion_keeps_tied_weights_tied_and_spares_what_is_right(
    tied: bool, tmp_path: Path
) -> None:
    place = written(tiny("qwen3", 3, tie_word_embeddings=tied), tmp_path / "small")
    model = ReasoningModel.load(place)
    found = as_stored(model, place)
    assert {p.dtype for p in found.hf.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.hf.parameters()} == {torch.float32}
    hf: Any = found.hf
    assert (hf.lm_head.weight is hf.get_input_embeddings().weight) == tied
    assert as_stored(found, place) is found
    ids = torch.tensor([[1, 2, 3]])
    whole: Any = model.hf
    torch.testing.assert_close(
        hf(ids).logits.float(), whole(ids).logits, rtol=0.1, atol=0.1
    )  # bfloat16 has 8 bits of mantissa


def test_settings_are_values_where_they_read_as_values() -> None:
    known = ("a", "b", "c", "d", "e")
    given = ["a=1", "b=0.5", "c=drop", "d=(1, 2)", "e=None"]
    assert parse_settings(given, known, "x") == {
        "a": 1, "b": 0.5, "c": "drop", "d": (1, 2), "e": None
    }  # fmt: skip
    assert parse_settings(["c=a=b"], known, "x") == {"c": "a=b"}


@pytest.mark.parametrize(
    ("given", "said"),
    [(["a"], "NAME=VALUE"), (["a=1", "a=2"], "twice"), (["aa=1"], "Did you mean 'a'")],
)
def test_settings_that_do_not_read_are_refused(given: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_settings(given, ("a", "b"), "criterion 'x'")


def test_a_plan_by_file_or_by_name(tmp_path: Path) -> None:
    plan = LayerPlan(removed=(1,), n_blocks=4, name="mine")
    file = tmp_path / "plan.json"
    file.write_text(plan.to_json(), encoding="utf-8")
    assert LayerPlan.named(str(file)) == plan
    published = LayerPlan.named("llama-2-7b/shortgpt-9")
    assert published == LayerPlan.published("llama-2-7b/shortgpt-9")
    with pytest.raises(UserError, match="no such file"):
        LayerPlan.named(str(tmp_path / "other.json"))
    with pytest.raises(UserError, match="Unknown published plan"):
        LayerPlan.named("nobody/knows-1")


@needs_fork
@pytest.mark.parametrize("stage", ["weights", "card"])
def test_what_a_killed_prune_left_is_gone_after_the_next(
    stage: str, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"

    def work() -> None:
        if stage == "weights":
            monkeypatch.setattr(folder.shutil, "copyfile", die)
            monkeypatch.setattr(folder, "write_json", die)
        else:
            monkeypatch.setattr(Path, "rename", die)
        prune_folder(dense, (1,), place / "out")

    _, status = os.waitpid(in_a_child(work), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    (left,) = place.iterdir()  # nothing half has the target's name
    assert left.name.startswith(".out.partial-") and (left / "model.safetensors").is_file()
    kept = [".out.partial-7", ".other.partial-00000000-999999999", "out.partial-x"]
    alive = left.name.rpartition("-")[0] + f"-{os.getppid()}"
    for name in (*kept, alive):  # another machine's, a running process's, no such folder
        (place / name).mkdir()
    prune_folder(dense, (2,), place / "another")
    assert {p.name for p in place.iterdir()} == {*kept, alive, "another"}
    assert prune_folder(dense, (1,), place / "out").is_dir()
