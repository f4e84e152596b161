"""A model's own code runs with --trust-remote-code and never without, whatever is on stdin."""

from __future__ import annotations

import ast
import builtins
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interp.errors import UserError
from interp.model.checkpoint_files import locate
from prunescope import cli

ROOT = Path(__file__).parents[2]
ROOMS = ("interp", "pruning", "scaling", "recovery", "testbed", "analyses", "prunescope", "bench")
# PEFT puts weights into a model that is there; a generation configuration holds numbers only.
NO_CODE = {"PeftModel", "GenerationConfig"}

CODE = """
from pathlib import Path

from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

Path({marker!r}).touch()


class OwnConfig(Qwen3Config):
    model_type = "ownqwen"


class OwnForCausalLM(Qwen3ForCausalLM):
    config_class = OwnConfig


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """(class or object, call) of everything that makes a model, configuration or tokenizer."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in ("from_pretrained", "from_config", "_from_config"):
            yield ast.unparse(node.func.value), node


def test_every_load_says_whether_the_models_own_code_may_run() -> None:
    silent, found = [], 0
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for owner, call in calls(ast.parse(file.read_text(encoding="utf-8"))):
                if owner in NO_CODE:
                    continue
                found += 1
                if not any(keyword.arg == "trust_remote_code" for keyword in call.keywords):
                    silent.append(f"{file.relative_to(ROOT)}:{call.lineno} {owner}")
    assert silent == []
    assert found >= 4


def test_models_are_read_in_one_place() -> None:
    elsewhere = {
        str(file.relative_to(ROOT))
        for room in ROOMS
        for file in (ROOT / room).rglob("*.py")
        for owner, _ in calls(ast.parse(file.read_text(encoding="utf-8")))
        if owner != "PeftModel"
    }
    # a benchmark makes models of random weights
    assert elsewhere == {"interp/model/loading.py", "bench/common.py"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled reasoner as a model of its own type; its code leaves the file `ran`."""
    folder = tmp_path_factory.mktemp("own") / "model"
    shutil.copytree(locate("testbed"), folder)
    marker = folder.parent / "ran"
    (folder / "own.py").write_text(CODE.format(marker=str(marker)), encoding="utf-8")
    edit(
        folder / "config.json",
        model_type="ownqwen",
        architectures=["OwnForCausalLM"],
        auto_map={
            "AutoConfig": "own.OwnConfig",
            "AutoModelForCausalLM": "own.OwnForCausalLM",
            "AutoTokenizer": [None, "own.OwnTokenizer"],
        },
    )
    edit(
        folder / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]},
    )
    return folder


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | changes), encoding="utf-8")


@pytest.fixture(scope="module")
def study(place: Path) -> Iterator[Path]:
    """A study of it, made with the flag; the module that ran is forgotten afterwards."""
    from transformers import dynamic_module_utils

    marker, out = place.parent / "ran", place.parent / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(place.parent / "modules"))
        patch.syspath_prepend(str(place.parent / "modules"))
        before = set(sys.modules)
        code = cli.run(
            ["study", "--model", str(place), "--benchmarks", "arithmetic", "--limit", "6",
             "--budgets", "64", "--methods", "reverse-order", "--remove", "8", "--samples", "1",
             "--waits", "--no-blocks", "--trust-remote-code", "--out", str(out)]
        )  # fmt: skip
        for name in set(sys.modules) - before:
            if name.startswith("transformers_modules"):
                del sys.modules[name]
        assert code == 0
        assert marker.is_file()
        marker.unlink()
        yield out


def test_a_study_with_the_flag_ends_with_a_report_that_shows_its_chains(study: Path) -> None:
    page = (study / "report.html").read_text(encoding="utf-8")
    assert "could not be loaded" not in page
    assert '<pre tabindex="0">' in page  # the text of a chain


@pytest.mark.parametrize("said", ["y\n" * 100, ""], ids=["yes", "closed"])
def test_a_report_without_the_flag_asks_nobody_and_says_why_no_chains_are_shown(
    place: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    asked(monkeypatch, said)
    assert cli.run(["report", str(study), "--out", str(tmp_path)]) == 0
    assert not (place.parent / "ran").exists()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "not shown: the tokenizer could not be loaded" in page
    assert "--trust-remote-code" in page
    assert '<pre tabindex="0">' not in page


@pytest.mark.parametrize("said", ["y\n" * 100, ""], ids=["yes", "closed"])
@pytest.mark.parametrize(
    "command",
    [
        ["study", "--benchmarks", "arithmetic", "--limit", "1"],
        ["study", "--estimate", "--machine", "cpu"],
        ["score", "--method", "magnitude"],
        ["prune", "--blocks", "3"],
        ["prune", "--remove", "1", "--method", "magnitude"],
    ],
    ids=" ".join,
)
def test_no_command_runs_it_without_the_flag(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    said: str,
) -> None:
    asked(monkeypatch, said)
    out = [] if command[0] == "score" else ["--out", str(tmp_path / "out")]
    assert cli.run([command[0], "--model", str(place), *command[1:], *out]) == 2
    assert not (place.parent / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_python_neither(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.model.reasoning_model import ReasoningModel
    from scaling.costs.model_shape import ModelShape
    from scaling.engines.served_model import weightless

    asked(monkeypatch, "y\n" * 100)
    for load in (ReasoningModel.load, weightless):
        with pytest.raises(UserError, match="trust_remote_code=True"):
            load(str(place))
    with pytest.raises(UserError):
        ModelShape.of(str(place))
    assert not (place.parent / "ran").exists()


def asked(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """What is on stdin; a question on the terminal fails the test."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(said))
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked on the terminal"))


def test_a_yes_in_a_pipe_is_not_read(place: Path, study: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_MODULES_CACHE": str(tmp_path / "hf")}
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as yes:
        found = subprocess.run(
            [sys.executable, "-m", "prunescope", "report", str(study), "--out", str(tmp_path)],
            stdin=yes.stdout,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        yes.kill()
    assert found.returncode == 0, found.stderr
    assert not (place.parent / "ran").exists()
    assert "not shown" in (tmp_path / "report.html").read_text(encoding="utf-8")
