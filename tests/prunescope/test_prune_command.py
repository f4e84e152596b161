"""`prunescope prune`: what goes can be said in four ways, and a mistake costs no wait."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from interp.model.reasoning_model import ReasoningModel
from prunescope import cli
from prunescope.commands import Prune
from pruning.calibration import Calibration
from pruning.plan import LayerPlan
from pruning.scores import Scores
from scaling.study.calibration_source import CalibrationSource, study_chains
from tests.models import tiny
from tests.scaling.study.small_study import small_study


@pytest.fixture(scope="module")
def reasoner() -> ReasoningModel:
    return ReasoningModel.load("testbed")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A small checkpoint in half precision."""
    return written(tiny("qwen3", 5), tmp_path / "small")


def written(model: ReasoningModel, place: Path) -> Path:
    hf: Any = model.hf
    hf.to(torch.bfloat16)
    hf.save_pretrained(place)
    model.tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("use 3 7 to make 21\nwhat is 3 + 7 ?\ntry 3 x 7 = 21 yes\n", encoding="utf-8")
    return file


def prune(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command; what it printed."""
    capsys.readouterr()
    assert cli.run(["prune", *map(str, arguments)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    capsys.readouterr()
    assert cli.run(["prune", *map(str, arguments)]) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "pruning.json").read_text(encoding="utf-8"))


def loads(out: Path) -> Any:
    loader: Any = AutoModelForCausalLM
    hf, info = loader.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()), info
    return hf


def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReasoningModel, "load", lambda *_, **__: pytest.fail("a model was loaded"))


def no_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    fail = "chains were generated"
    monkeypatch.setattr(CalibrationSource, "_own_chains", lambda *_: pytest.fail(fail))


def test_named_blocks_go_without_the_model_being_loaded(
    place: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_loading(monkeypatch)
    out = tmp_path / "out"
    said = prune(capsys, "--model", place, "--blocks", 3, 0, "--out", out)
    assert "Removed (dense indices): 0 3" in said
    assert f"Checkpoint: {out}" in said
    assert loads(out).dtype == torch.bfloat16
    assert record(out)["layer_map"] == [1, 2, 4]


def test_a_criterion_chooses_and_the_plan_says_on_what(
    place: Path, texts: Path, tmp_path: Path, capsys: Any
) -> None:
    """Scored in float32 on the CPU, written in the dtype it is stored in."""
    out = tmp_path / "out"
    prune(capsys, "--model", place, "--remove", 2, "--texts", texts, "--out", out)
    model = ReasoningModel.load(place)
    expected = Calibration.of(model, texts.read_text(encoding="utf-8").splitlines())
    found = record(out)
    assert found["criterion"] == "shortgpt"
    assert found["calibration"] == found["plan"]["calibration"] == expected.hash
    assert len(found["plan"]["scores"]) == 5
    assert found["fingerprint"] == model.fingerprint()
    assert expected.hash in (out / "README.md").read_text(encoding="utf-8")
    assert loads(out).dtype == torch.bfloat16


def test_a_criterion_that_reads_nothing_needs_no_texts(
    place: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_chains(monkeypatch)
    said = prune(
        capsys, "--model", place, "--method", "reverse-order", "--remove", 2,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert "Removed (dense indices): 3 4" in said


def test_a_greedy_criterion_is_followed_as_far_as_is_needed(
    place: Path, texts: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    prune(
        capsys, "--model", place, "--method", "sleb", "--remove", 4, "--texts", texts, "--out", out
    )
    assert len(record(out)["removed"]) == 4


def test_a_criterion_that_grades_answers_is_given_problems(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def score(name: str, model: ReasoningModel, prompts: Any, **options: Any) -> Scores:
        given.update(prompts=prompts, **options)
        return Scores.plain(name, np.arange(16.0), model.layer_map, picks=((7,),))

    monkeypatch.setattr("pruning.criteria.score", score)
    out = tmp_path / "out"
    prune(
        capsys, "--method", "task-greedy", "--remove", 1, "--benchmarks", "arithmetic", "--out", out
    )
    assert record(out)["removed"] == [7]
    assert given["remove"] == 1
    assert len(given["prompts"]) == 8
    assert not given["accept"](0, "no number")


def test_a_plan_from_a_file_and_from_a_checkpoint(
    place: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = LayerPlan.without(ReasoningModel.load(place), 1, 2, name="mine")
    (tmp_path / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    other = written(tiny("qwen3", 5, seed=4), tmp_path / "other")
    no_loading(monkeypatch)
    first, second = tmp_path / "first", tmp_path / "second"
    prune(capsys, "--model", place, "--plan", tmp_path / "plan.json", "--out", first)
    prune(capsys, "--model", place, "--plan", first / "pruning.json", "--out", second)
    assert record(first) == record(second)
    assert record(first)["plan"]["name"] == "mine"
    said = refused(capsys, "--model", first, "--plan", tmp_path / "plan.json", "--out", "x")
    assert "has the 3 blocks" in said
    said = refused(capsys, "--model", other, "--plan", tmp_path / "plan.json", "--out", "x")
    assert "fingerprint" in said


def test_a_published_plan_by_name(tmp_path: Path, capsys: Any) -> None:
    tall = written(tiny("llama", 32, hidden_size=8, intermediate_size=8), tmp_path / "tall")
    out = tmp_path / "out"
    said = prune(capsys, "--model", tall, "--plan", "llama-2-7b/shortgpt-9", "--out", out)
    assert "Published: ShortGPT" in said
    assert "Llama-2-7b" in said
    assert record(out)["removed"] == list(range(21, 30))
    assert "table 9" in (out / "README.md").read_text(encoding="utf-8")
    said = refused(capsys, "--plan", "llama-2-7b/shortgpt-9", "--out", tmp_path / "no")
    assert "32 blocks" in said
    assert "'testbed' has the 16 blocks" in said
    said = refused(capsys, "--plan", "llama-2-7b/shortgtp-9", "--out", tmp_path / "no")
    assert "Did you mean 'llama-2-7b/shortgpt-9'" in said


def test_what_cannot_be_streamed_is_loaded(tmp_path: Path, texts: Path, capsys: Any) -> None:
    """A mixture of experts with a plan that names its weights."""
    moe = written(tiny("qwen3_moe", 4), tmp_path / "moe")
    ways: list[list[object]] = [
        ["--blocks", 1],
        ["--remove", 1, "--texts", texts],
        ["--plan", tmp_path / "1" / "pruning.json"],
    ]
    for number, what in enumerate(ways):
        out = tmp_path / str(number)
        prune(capsys, "--model", moe, *what, "--out", out)
        assert loads(out).dtype == torch.bfloat16
    assert record(tmp_path / "1")["fingerprint"] == ReasoningModel.load(moe).fingerprint()
    assert record(tmp_path / "1") == record(tmp_path / "2")


def test_a_repair_is_written_with_its_record(
    place: Path, texts: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    said = prune(
        capsys, "--model", place, "--blocks", 2, "--repair", "prune-comp", "--texts", texts,
        "--out", out,
    )  # fmt: skip
    assert "Repaired by prune-comp" in said
    assert "Removed (dense indices): 2" in said
    assert loads(out).dtype == torch.bfloat16
    found = record(out)
    assert found["layer_map"] == [0, 1, 3, 4]
    assert found["repair"]["repair"] == "prune-comp"
    plain = prune_without_repair(place, tmp_path / "plain", capsys)
    one, other = (load_file(folder / "model.safetensors") for folder in (out, plain))
    changed = [key for key in one if not torch.equal(one[key], other[key])]
    assert changed  # something was made up for


def test_a_repair_that_chooses_needs_no_plan(
    place: Path, texts: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pruning.repairs

    easily = functools.partial(pruning.repairs.mend, threshold=-1.0)  # random blocks are unlike
    monkeypatch.setattr(pruning.repairs, "mend", easily)
    out = tmp_path / "out"
    said = prune(capsys, "--model", place, "--repair", "laco", "--texts", texts, "--out", out)
    found = record(out)
    assert found["removed"]
    assert f"Removed (dense indices): {' '.join(map(str, found['removed']))}" in said
    assert loads(out).config.num_hidden_layers == len(found["layer_map"])
    assert "--remove N" in refused(capsys, "--repair", "replaceme", "--out", tmp_path / "no")


def prune_without_repair(place: Path, out: Path, capsys: Any) -> Path:
    prune(capsys, "--model", place, "--blocks", 2, "--out", out)
    return out


def test_settings_reach_the_criterion_and_the_repair(
    place: Path, texts: Path, tmp_path: Path, capsys: Any
) -> None:
    """Numbers arrive as numbers, words as words."""
    prune(
        capsys, "--model", place, "--remove", 1, "--method", "taylor+", "--texts", texts,
        "--options", "protect_first=2", "protect_last=2", "--repair", "replaceme",
        "--repair-options", "ridge=0.5", "toward=zero", "--out", tmp_path / "out",
    )  # fmt: skip
    found = record(tmp_path / "out")
    assert found["removed"] == [2], "the only block that is not protected"
    options = found["repair"]["options"]
    assert (options["ridge"], options["toward"]) == (0.5, "zero")


def test_the_chains_of_a_finished_study_are_calibrated_on(
    reasoner: ReasoningModel, tmp_path: Path, capsys: Any
) -> None:
    study = small_study(reasoner, tmp_path / "study")
    out = tmp_path / "out"
    arguments = ["--texts", study, "--remove", 1, "--out", out]
    prune(capsys, *arguments, "--part", "generated")
    chains = study_chains(study, reasoner)
    assert record(out)["calibration"] == Calibration.of(reasoner, chains, "generated").hash
    (tmp_path / "empty").mkdir()
    said = refused(capsys, "--texts", tmp_path / "empty", "--remove", 1, "--out", tmp_path / "no")
    assert "No study" in said


# ----------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--remove N"),
        (["--remove", 1, "--plan", "x"], "only one of them"),
        (["--blocks", 1, "--plan", "x"], "only one of them"),
        (["--remove", 0], "--remove 0"),
        (["--remove", 1, "--method", "shortgtp"], "'shortgpt'"),
        (["--remove", 1, "--repair", "replacme"], "Did you mean 'replaceme'"),
        (["--remove", 1, "--part", "promt"], "Did you mean 'prompt'"),
        (["--remove", 1, "--method", "blockpruner"], "sublayers"),
        (["--plan", "nowhere.json"], "no such file"),
        (["--plan", "nobody/knows-1"], "Unknown published plan"),
        (["--remove", 1, "--texts", "/nowhere.txt"], "Cannot read"),
        (["--remove", 1, "--options", "sink=drop"], "Did you mean 'sinks'"),
        (["--remove", 1, "--options", "sinks"], "expected NAME=VALUE"),
        (["--remove", 1, "--options", "sinks=1", "sinks=2"], "twice"),
        (["--remove", 1, "--repair-options", "ridge=1"], "name the repair"),
        (["--remove", 1, "--repair", "replaceme", "--repair-options", "rigde=1"], "'ridge'"),
    ],
    ids=str,
)
def test_a_mistake_is_found_before_a_model_is_loaded(
    arguments: list[object],
    said: str,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_loading(monkeypatch)
    assert said in refused(capsys, *arguments, "--out", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_first(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_loading(monkeypatch)
    (tmp_path / "mine.txt").write_text("keep me", encoding="utf-8")
    for what in (["--blocks", 1], ["--remove", 1]):
        assert "not an empty folder" in refused(capsys, *what, "--out", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "is empty"), ("use 3 7\nuse\n", "one token long"), ("\n \n", "is empty")],
)
def test_texts_too_short_to_score_are_refused(
    place: Path, tmp_path: Path, capsys: Any, content: str, said: str
) -> None:
    file = tmp_path / "short.txt"
    file.write_text(content, encoding="utf-8")
    out = tmp_path / "out"
    assert said in refused(capsys, "--model", place, "--texts", file, "--remove", 1, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (["--blocks", 5], "block 5 is not there"),
        (["--blocks", 1, 1], "named twice"),
        (["--blocks", 0, 1, 2, 3, 4], "leaves no model"),
        (["--remove", 5], "at least one must stay"),
    ],
    ids=str,
)
def test_blocks_that_cannot_go_are_refused(
    place: Path, tmp_path: Path, capsys: Any, what: list[object], said: str
) -> None:
    assert said in refused(capsys, "--model", place, *what, "--out", tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["small"]


def test_a_full_disk_is_no_mistake_of_the_caller(
    place: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pruning.stored._copy", full)
    said = refused(capsys, "--model", place, "--blocks", 1, "--out", tmp_path / "out", code=1)
    assert "No space left" in said
    assert [file.name for file in tmp_path.iterdir()] == ["small"]


def test_help_says_what_the_options_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["prune", "--help"])
    said = capsys.readouterr().out
    for word in (
        "--plan",
        "--repair",
        "--texts",
        "hub:NAME",
        "--paragraphs",
        "--part",
        "pruning.json",
    ):
        assert word in said
    assert Prune(out=Path("x")).method == "shortgpt"
