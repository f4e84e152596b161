"""Pushing: private unless asked, checked before the work, and never without a repository named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError

from interp.errors import PruneScopeError, UserError
from interp.model.checkpoint_files import PRUNING_FILE, locate
from prunescope import cli
from pruning.hub_upload import check_push, push_to_hub
from pruning.model_card import shared_name
from pruning.prune_checkpoint import prune_checkpoint


@dataclass
class FakeHub:
    """What `HfApi` does here: repositories by name, and the calls in order."""

    private: dict[str, bool] = field(default_factory=dict)  # repository -> whether it is private
    files: dict[str, set[str]] = field(default_factory=dict)
    content: dict[str, bytes] = field(default_factory=dict)  # by name of the file
    calls: list[str] = field(default_factory=list)
    error: Exception | None = None

    def whoami(self) -> dict[str, str]:
        self.calls.append("whoami")
        if self.error:
            raise self.error
        return {"name": "you"}

    def repo_info(self, name: str) -> Any:
        self.calls.append("repo_info")
        if name not in self.private:
            answer = httpx.Response(404, request=httpx.Request("GET", "https://hub.invalid"))
            raise RepositoryNotFoundError("404", response=answer)  # pyright: ignore
        return SimpleNamespace(private=self.private[name])

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> Any:
        self.calls.append("create_repo")
        assert exist_ok
        self.private.setdefault(name, private)
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{name}")

    def create_commit(self, repo_id: str, operations: list[Any], *, commit_message: str) -> None:
        self.calls.append("create_commit")
        self.files[repo_id] = set()
        for one in operations:
            self.files[repo_id].add(one.path_in_repo)
            with one.as_file() as stream:
                self.content[one.path_in_repo] = stream.read()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    return fake


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prune_checkpoint("testbed", [7], tmp_path_factory.mktemp("checkpoint") / "out")


def test_a_checkpoint_is_pushed_whole_and_privately(hub: FakeHub, checkpoint: Path) -> None:
    assert push_to_hub(checkpoint, "you/short") == "https://huggingface.co/you/short"
    assert hub.private == {"you/short": True}
    assert hub.files["you/short"] == {path.name for path in checkpoint.iterdir()}
    assert {"README.md", "pruning.json", "model.safetensors"} <= hub.files["you/short"]


def test_no_path_of_this_machine_is_uploaded(
    hub: FakeHub, checkpoint: Path, tmp_path: Path
) -> None:
    dense = tmp_path / "my dense"
    shutil.copytree(locate("testbed"), dense)
    made = prune_checkpoint(str(dense), [3], tmp_path / "mine")
    record = json.loads((made / PRUNING_FILE).read_text("utf-8"))
    assert record["source"] == str(dense)
    record |= {"repair": {"source": str(dense)}, "recovery": {"data": [f"{tmp_path}/texts.jsonl"]}}
    (made / PRUNING_FILE).write_text(json.dumps(record), "utf-8")
    push_to_hub(made, "you/mine")
    pushed = json.loads(hub.content[PRUNING_FILE])
    assert pushed["source"] == pushed["repair"]["source"] == "my dense"
    assert pushed["recovery"] == {"data": ["texts.jsonl"]}
    assert pushed["plan"] == record["plan"] and pushed["fingerprint"] == record["fingerprint"]
    assert not [name for name, text in hub.content.items() if str(tmp_path).encode() in text]
    assert json.loads((made / PRUNING_FILE).read_text("utf-8")) == record  # the file here
    for name in hub.files["you/mine"] - {PRUNING_FILE}:
        assert hub.content[name] == (made / name).read_bytes()


@pytest.mark.parametrize(
    ("source", "shared"),
    [
        ("testbed", "testbed"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("you/m:m.Q4.gguf", "you/m:m.Q4.gguf"),
        ("/data/models/mine/", "mine"),
        ("~/models/mine", "mine"),
        ("/data/m.gguf", "m.gguf"),
    ],
)
def test_a_name_of_the_hub_is_shared_and_a_path_is_not(source: str, shared: str) -> None:
    assert shared_name(source) == shared


def test_it_is_public_where_that_is_asked(hub: FakeHub, checkpoint: Path) -> None:
    push_to_hub(checkpoint, "you/short", public=True)
    assert hub.private == {"you/short": False}


def test_a_public_repository_gets_nothing_that_was_meant_to_be_private(
    hub: FakeHub, checkpoint: Path
) -> None:
    hub.private["you/open"] = False
    with pytest.raises(UserError, match="everyone can see it"):
        push_to_hub(checkpoint, "you/open")
    assert not hub.files
    push_to_hub(checkpoint, "you/open", public=True)
    assert hub.files


@pytest.mark.parametrize("name", ["short", "a/b/c", "you/", "/short", "you/a b", "you/a..b", ""])
def test_a_name_that_is_none_is_refused_without_a_call(hub: FakeHub, name: str) -> None:
    with pytest.raises(UserError, match="OWNER/NAME"):
        check_push(name)
    assert not hub.calls


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (LocalTokenNotFoundError("no token"), UserError, "hf auth login"),
        (ConnectionError("offline"), PruneScopeError, "offline"),
        (httpx.ConnectError("no route"), PruneScopeError, "no route"),
    ],
)
def test_the_hubs_errors_say_what_to_do(
    hub: FakeHub, checkpoint: Path, error: Exception, kind: type[Exception], words: str
) -> None:
    hub.error = error
    with pytest.raises(kind, match=words):
        push_to_hub(checkpoint, "you/short")
    assert not hub.files


def test_a_folder_without_a_checkpoint_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="checkpoint"):
            push_to_hub(folder, "you/short")
    assert not hub.calls


Run = Callable[[str], tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def done(words: str) -> tuple[int, str]:
        code = cli.run(words.split())
        found = capsys.readouterr()
        return code, found.out + found.err

    return done


def test_prune_pushes_only_where_it_is_told_to(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    assert run(f"prune --blocks 7 --out {tmp_path / 'a'}")[0] == 0
    assert not hub.calls
    code, said = run(f"prune --blocks 7 --out {tmp_path / 'b'} --push-to-hub you/short")
    assert code == 0
    assert "Pushed: https://huggingface.co/you/short" in said
    assert hub.private == {"you/short": True}


def test_a_repository_is_checked_before_the_work(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    hub.private["you/open"] = False
    code, said = run(f"prune --remove 2 --out {tmp_path / 'a'} --push-to-hub you/open")
    assert code == 2
    assert "everyone can see it" in said
    assert not (tmp_path / "a").exists()
    code, _ = run(f"recover --blocks 7 --out {tmp_path / 'r'} --push-to-hub you/open")
    assert code == 2
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "words", ["--public", "--push-to-hub nonsense", "--push-to-hub you/x --no-merge"]
)
def test_recover_refuses_what_cannot_be_pushed(
    hub: FakeHub, run: Run, tmp_path: Path, words: str
) -> None:
    code, said = run(f"recover --blocks 7 --out {tmp_path / 'r'} {words}")
    assert code == 2
    assert "push-to-hub" in said or "OWNER/NAME" in said
    assert not hub.calls


def test_recover_pushes_the_trained_checkpoint(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    out = tmp_path / "run"
    code, said = run(
        f"recover --blocks 7 --method full --max-steps 1 --limit 8 --rates 1e-4 --out {out} "
        "--push-to-hub you/mended"
    )
    assert code == 0, said
    assert hub.files["you/mended"] == {path.name for path in (out / "model").iterdir()}
