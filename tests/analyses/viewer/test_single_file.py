"""A selection as one file: complete, inert, and closed to the outside."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analyses.viewer import single_file
from analyses.viewer.page_assets import inert_json
from analyses.viewer.single_file import write_single_file
from analyses.viewer.viewed_study import ViewedStudy
from interp.errors import UserError
from tests.analyses.viewer.hostile import NAMES


class Elements(HTMLParser):
    """The start tags of a page, and the text of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style"):
            self.inside.append((self.tags[-1][0], data))


@pytest.fixture(scope="module")
def written(hostile: ViewedStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "new" / "page.html"
    assert write_single_file(hostile, out) == len(hostile.table)
    return out


def test_it_holds_what_the_server_answers(written: Path, hostile: ViewedStudy) -> None:
    page = Elements(written.read_text(encoding="utf-8"))
    (island,) = [text for _, text in page.inside if text.startswith('{"overview"')]
    data = json.loads(island)
    assert data["overview"] == hostile.overview
    assert len(data["chains"]) == len(hostile.table)
    assert data["chains"][:3] == [hostile.chain(row) for row in range(3)]
    assert data["forks"][data["fork_of"][4]] == hostile.forks(4)


def test_texts_make_no_element_and_nothing_is_loaded(written: Path) -> None:
    page = Elements(written.read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 2 and "img" not in tags and "i" not in tags
    for tag, attributes in page.tags:
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        href = attributes.get("href") or ""
        assert href.startswith(("#", "data:")) or href == "", (tag, href)


def test_the_policy_lets_only_this_script_and_style_run(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy and "connect-src" not in policy
    for tag, name in (("script", "script-src"), ("style", "style-src")):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy


def test_a_selection_is_numbered_anew(hostile: ViewedStudy, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert write_single_file(hostile, out, {"variant": NAMES[1]}, "wait") == 2
    page = Elements(out.read_text(encoding="utf-8"))
    data = json.loads(next(text for _, text in page.inside if text.startswith('{"overview"')))
    assert [chain["row"] for chain in data["chains"]] == [0, 1]
    assert {chain["variant"] for chain in data["chains"]} == {NAMES[1]}
    assert data["overview"]["table"]["dims"]["variant"] == [NAMES[1]]
    assert [tree["tree"]["rows"] for tree in data["forks"]] == [[0], [1]]


def test_a_page_without_questions_has_none_of_them(hostile: ViewedStudy, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert write_single_file(hostile, out, questions=False) == len(hostile.table)
    page = Elements(out.read_text(encoding="utf-8"))
    data = json.loads(next(text for _, text in page.inside if text.startswith('{"overview"')))
    whole = [hostile.chain(row) for row in range(len(hostile.table))]
    assert all(chain["question"] and chain["gold"] for chain in whole)
    for chain, there in zip(whole, data["chains"], strict=True):
        assert there == {**chain, "question": None, "gold": None}
    for question in {chain["question"] for chain in whole}:
        assert inert_json(question) not in out.read_text(encoding="utf-8")


def test_a_page_names_no_local_path(
    hostile: ViewedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile, "model", str(tmp_path / "mine.gguf"))
    write_single_file(hostile, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "mine.gguf" in text and str(tmp_path) not in text


def test_inert_json_cannot_end_its_element() -> None:
    value = ["</script>", "<!--<script>", "\u2028", "&lt;", "\ud800"]
    text = inert_json(value)
    assert text.isascii() and not set("<>&") & set(text)
    assert json.loads(text) == value


def test_nothing_and_too_much_are_refused(
    hostile: ViewedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page.html"
    with pytest.raises(UserError, match="nothing to write"):
        write_single_file(hostile, out, search="zebra")
    monkeypatch.setattr(single_file, "MOST_CHAINS", 5)
    with pytest.raises(UserError, match="6 chains are selected; one file holds at most 5"):
        write_single_file(hostile, out)
    assert not out.exists()
