"""Calibration: the same sequences from whatever form, with a hash that names them."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.chains.chain import Chains
from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration, hub_texts, read_texts
from tests.chains import make_chain
from tests.models import tiny


@pytest.fixture(scope="module")
def model() -> ReasoningModel:
    return tiny("qwen3", 2)


def test_every_form_gives_the_same_sequences(model: ReasoningModel) -> None:
    text = "use 3 7 to make 21"
    ids = model.encode(text)
    forms: list[Any] = [[text], text, [ids], [np.array(ids)], [tuple(ids)], np.array([ids])]
    made = [Calibration.of(model, form) for form in forms]
    assert {c.hash for c in made} == {made[0].hash}
    assert all(c.sequences[0].tolist() == ids for c in made)
    assert Calibration.of(model, made[0]) is made[0]


def test_prompts_go_through_the_chat_template(model: ReasoningModel) -> None:
    messages = [{"role": "user", "content": "use 3 7"}]
    made = Calibration.of(model, [messages])
    assert made.sequences[0].tolist() == model.prompt_ids("use 3 7")
    assert made.prompts == (len(made.sequences[0]),)


def test_prompt_and_generated_tokens_are_kept_apart(model: ReasoningModel) -> None:
    chains = Chains([make_chain([10, 11], [7, 8, 9]), make_chain([12, 13, 14], [7, 8])], model)
    masks = {p: Calibration.of(model, chains, p).counted() for p in ("all", "prompt", "generated")}
    for whole, prompt, generated in zip(*masks.values(), strict=True):
        assert whole.all()
        assert (prompt ^ generated).all()
    assert [m.tolist() for m in masks["prompt"]] == [
        [True] * 3 + [False] * 2,
        [True] * 2 + [False] * 3,
    ]
    assert [m.sum() for m in masks["generated"]] == [2, 3]
    assert Calibration.of(model, chains[0]).sequences[0].tolist() == [7, 8, 9, 10, 11]
    hashes = {Calibration.of(model, chains, p).hash for p in ("all", "prompt", "generated")}
    assert len(hashes) == 3
    again = Calibration.of(model, Calibration.of(model, chains), "generated")
    assert again.hash == Calibration.of(model, chains, "generated").hash


sequences = st.lists(st.lists(st.integers(0, 50), min_size=2, max_size=8), min_size=1, max_size=5)


@given(sequences, st.randoms())
def test_the_hash_names_the_sequences_in_any_order(ids: list[list[int]], random: Any) -> None:
    model = tiny("qwen3", 1)
    first = Calibration.of(model, ids).hash
    shuffled = random.sample(ids, len(ids))
    assert Calibration.of(model, shuffled).hash == first
    changed = [*ids[:-1], [*ids[-1], 1]]
    assert Calibration.of(model, changed).hash != first
    assert Calibration.of(model, [*ids, ids[0]]).hash != first


def test_the_hash_sees_where_one_text_ends_and_the_next_begins(model: ReasoningModel) -> None:
    one, other = [[7, 8, 9], [10, 11]], [[7, 8], [9, 10, 11]]
    assert Calibration.of(model, one).hash != Calibration.of(model, other).hash


def test_max_tokens_cuts_every_sequence(model: ReasoningModel) -> None:
    made = Calibration.of(model, [[7, 8, 9, 10], [7, 8]], max_tokens=3)
    assert [s.tolist() for s in made.sequences] == [[7, 8, 9], [7, 8]]
    assert made.n_tokens == 5


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "No calibration text"),
        (None, "needs calibration texts"),
        (["use 3", ""], "text 1 is empty"),
        ([[7, 8], [9]], "text 1 is one token long"),
        ([7, 8, 9], "wrap the one in a list"),
        ([[7.5, 8.5]], "expected a text"),
        ([[7, 8], 5], "text 1"),
        (42, "No calibration text"),
    ],
)
def test_bad_texts_are_refused(model: ReasoningModel, texts: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Calibration.of(model, texts)


def test_bad_options_are_refused(model: ReasoningModel) -> None:
    with pytest.raises(UserError, match="max_tokens=1"):
        Calibration.of(model, ["use 3 7"], max_tokens=1)
    with pytest.raises(UserError, match="no such part"):
        Calibration.of(model, ["use 3 7"], "prompt")


# --------------------------------------------------------------------------------- files

lines = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), min_size=1)


@given(st.lists(lines.filter(str.strip), min_size=1, max_size=5), st.booleans())
def test_a_text_a_line_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], windows: bool
) -> None:
    """Also with line ends of Windows, blank lines, and breaks that only str.splitlines sees."""
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    end = "\r\n" if windows else "\n"
    file.write_bytes((end + (2 * end).join(texts) + end).encode())
    assert read_texts(file) == texts


def test_texts_parted_by_blank_lines_keep_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("one\n  two\n\n \t\n\nthree\nfour\n\n", encoding="utf-8")
    assert read_texts(file, paragraphs=True) == ["one\n  two", "three\nfour"]
    assert read_texts(file) == ["one", "  two", "three", "four"]


def test_texts_of_a_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(
        '{"text": "a\\nb", "id": 3}\n\n{"text": "c\u2028d"}\n{"text": " "}\n', encoding="utf-8"
    )
    assert read_texts(file) == ["a\nb", "c\u2028d"]
    file.write_text('{"question": "q", "solution": "s"}\n', encoding="utf-8")
    assert read_texts(file) == ["q"]
    assert read_texts(file, "solution") == ["s"]
    with pytest.raises(UserError, match=r"line 1: no text.*Did you mean 'solution'"):
        read_texts(file, "soluton")


@pytest.mark.parametrize("suffix", [".json", ".parquet", ".csv", ".JSON"])
def test_formats_that_are_not_lines_of_text_are_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"texts{suffix}"
    file.write_text('[\n  {"text": "a"}\n]')
    with pytest.raises(UserError, match=r"expected one text per line, or one JSON object per line"):
        read_texts(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\t\n", "is empty"),
        ("a.jsonl", b"{}\n", "line 1: no text"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', "line 2: no text"),
        ("a.jsonl", b'{"text"\n', "line 1: not JSON"),
        ("a.jsonl", b"[1]\n", "line 1: expected a JSON object"),
        ("a.jsonl", b'{"text": ""}\n', "is empty"),
        ("a.txt", b"one\ntwo \xff\n", "line 2: not UTF-8"),
    ],
)
def test_a_file_without_texts_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_texts(tmp_path / name)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(UserError, match="Cannot read"):
            read_texts(path)


# ----------------------------------------------------------------------------- the Hub


def hub(monkeypatch: pytest.MonkeyPatch, rows: Any) -> list[Any]:
    """`datasets` with one data set; what it is asked for."""
    asked: list[Any] = []

    def load_dataset(*names: Any, **options: Any) -> Any:
        asked.append((names, options))
        if isinstance(rows, Exception):
            raise rows
        return iter(rows)

    stand_in = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", stand_in)  # pyright: ignore[reportArgumentType]
    return asked


def test_texts_of_the_hub_are_read_as_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> Any:
        number = 0
        while True:
            yield {"text": f"text {number}"}
            yield {"text": " "}
            number += 1

    asked = hub(monkeypatch, endless())
    assert hub_texts("org/set", "small", split="test", limit=3) == ["text 0", "text 1", "text 2"]
    assert asked == [(("org/set", "small"), {"split": "test", "streaming": True})]
    hub(monkeypatch, [{"problem": "p", "level": 1}])
    assert hub_texts("org/set") == ["p"]


def test_what_is_wrong_with_the_hub_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ConnectionError("offline"))
    with pytest.raises(UserError, match=r"org/set \(default, train\).*offline"):
        hub_texts("org/set")
    hub(monkeypatch, [{"title": "x"}])
    with pytest.raises(UserError, match=r"no text.*title"):
        hub_texts("org/set")
    hub(monkeypatch, [])
    with pytest.raises(UserError, match="holds no text"):
        hub_texts("org/set")
    with pytest.raises(UserError, match="limit=0"):
        hub_texts("org/set", limit=0)
    monkeypatch.setitem(sys.modules, "datasets", None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"pip install 'prunescope\[hub\]'"):
        hub_texts("org/set")
