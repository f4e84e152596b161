"""The server: this machine only, reading only, and nothing but its own page."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from analyses.viewer.local_server import HOST, listening, viewer_app
from analyses.viewer.viewed_study import ViewedStudy
from interp.errors import UserError
from scaling.store.study_file import FILE, DamagedStoreError
from tests.analyses.viewer.hostile import LONG, NAMES

URL = f"http://{HOST}:8765"
PATHS = [
    "/", "/viewer.css", "/viewer.js", "/api/overview", "/api/search?q=wait", "/api/texts?rows=0",
    "/api/chain/0", "/api/forks/0", "/api/kl/0?variant=dense", "/api/check",
]  # fmt: skip


@pytest.fixture(scope="module")
def client(hostile: ViewedStudy) -> TestClient:
    return TestClient(viewer_app(hostile), base_url=URL)


@pytest.mark.parametrize("path", [*PATHS, "/nowhere", "/api/chain/99", "/api/texts?rows=x"])
def test_every_answer_has_the_headers(client: TestClient, path: str) -> None:
    answer = client.get(path)
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers
    assert (answer.status_code == 200) == (path in PATHS)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example",
                                  "10.0.0.1", "", "localhost.evil:8765"])  # fmt: skip
def test_another_host_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/api/overview", headers={"host": host})
    assert answer.status_code == 400
    assert "table" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8765", "localhost:9"])
def test_this_machine_is_answered(client: TestClient, host: str) -> None:
    assert client.get("/api/overview", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/api/overview", "/api/chain/0"])
def test_nothing_but_reading(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 405


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/chain/99", "the study has 6"),
        ("/api/forks/6", "the study has 6"),
        ("/api/texts?rows=0,-1", "'-1' is not the number of a row"),
        ("/api/texts", "not the number of a row"),
        ("/api/search?q=", "nothing to search for"),
    ],
)
def test_a_wrong_question_is_answered_with_what_was_wrong(
    client: TestClient, path: str, said: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_answers_are_ascii_and_hold_the_texts_unchanged(
    client: TestClient, hostile: ViewedStudy
) -> None:
    answer = client.get("/api/chain/0")
    assert answer.content.isascii()
    chain = answer.json()
    assert "".join(chain["texts"]) == hostile.texts([0])[0]
    assert "\ud800" in "".join(chain["texts"])
    keys = enumerate(hostile.table.keys)
    long = next(i for i, key in keys if key.problem == "long" and key.variant == NAMES[1])
    assert len(client.get(f"/api/chain/{long}").json()["ids"]) == LONG


def test_the_page_has_no_script_or_style_of_its_own(client: TestClient) -> None:
    page = client.get("/").text
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", page)
    assert json.dumps("viewer.js") in page
    script = client.get("/viewer.js").text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", script)


def test_it_listens_on_this_machine_only_and_a_taken_port_is_an_error() -> None:
    with listening(0) as place:
        name, port = place.getsockname()
        assert name == "127.0.0.1"
        with pytest.raises(UserError, match=f"port {port} .*--port"):
            listening(port)
    with pytest.raises(UserError, match="port 99999"):
        listening(99999)


def test_without_a_port_a_free_one_is_found() -> None:
    first = listening(None)
    second = listening(None)
    assert isinstance(first, socket.socket)
    assert first.getsockname()[1] != second.getsockname()[1]
    first.close()
    second.close()


def test_of_a_damaged_study_the_list_is_shown_and_then_the_damage(damaged: Path) -> None:
    with ViewedStudy(damaged, index_folder=damaged.parent) as study:
        study.index_now()
        client = TestClient(viewer_app(study), base_url=URL)
        assert client.get("/api/overview").status_code == 200
        for path in ("check", "chain/0", "forks/0", "texts?rows=0", "search?q=wait"):
            answer = client.get(f"/api/{path}")
            assert answer.status_code == 400
            assert "1 of problems" in answer.json()["error"]
            assert "prunescope rescue" in answer.json()["error"]


@pytest.mark.parametrize(
    "damage", ["diagnosis = '{'", "sample = 'x'", "thinking_budget = 'x'", "position = x'80'"]
)
def test_a_list_that_cannot_be_read_is_damage(damaged: Path, damage: str) -> None:
    with closing(sqlite3.connect(damaged / FILE)) as db, db:
        db.execute(f"UPDATE chains SET {damage} WHERE budget = '48' AND position = 1")
    with (
        pytest.raises(DamagedStoreError, match="of chains"),
        ViewedStudy(damaged, index_folder=damaged.parent) as study,
    ):
        study.chain(0)
