"""Data files: whatever is in one, it is problems, or one error with file, line and field."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interp.errors import UserError
from scaling.benchmarks import load_benchmark
from scaling.problem import Benchmark
from scaling.records import Record, read_file
from scaling.store.study_store import Store

GOOD = {"id": "q0", "question": "what is 3 + 4 ?", "answer": "7"}
NAME = "jsonl:integer"

VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(alphabet=st.characters(codec=None, exclude_categories=()), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
RECORDS = st.dictionaries(
    st.sampled_from(["id", "question", "answer", "choices", "grader", "level"]), VALUES, max_size=6
)
fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def lines(path: Path, *records: Any) -> Path:
    path.write_text(
        "\n".join(r if isinstance(r, str) else json.dumps(r) for r in records), encoding="utf-8"
    )
    return path


def said_of(call: Callable[[], Any]) -> str | None:
    """The caller's mistake that a call reports; None if there is none. Other errors are defects."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


def can_be_kept(bench: Benchmark, folder: Path) -> None:
    """What was read can be written: the store takes it, and gives it back."""
    assert bench.fingerprint
    rows = [
        {
            "benchmark": "b",
            "problem": p.id,
            "position": i,
            "question": p.question,
            "answer": p.answer,
            "choices": json.dumps(list(p.choices)),
            "metadata": json.dumps(dict(p.metadata), default=str),
        }
        for i, p in enumerate(bench.problems)
    ]
    with Store(folder) as store:
        store.put("problems", rows)
        kept = store.frame("problems").set_index("problem")["question"]
        assert [kept[p.id] for p in bench.problems] == [p.question for p in bench.problems]


@fuzz
@given(data=st.binary(max_size=200), suffix=st.sampled_from([".json", ".jsonl", ".parquet"]))
def test_any_bytes_are_records_or_an_error_that_names_the_file(
    tmp_path: Path, data: bytes, suffix: str
) -> None:
    path = tmp_path / f"any{suffix}"
    path.write_bytes(data)
    said = said_of(lambda: read_file(path))
    assert said is None or path.name in said


@fuzz
@given(record=RECORDS, suffix=st.sampled_from([".json", ".jsonl"]))
def test_any_record_is_a_problem_or_an_error_that_names_the_line(
    tmp_path: Path, record: dict[str, Any], suffix: str
) -> None:
    path = tmp_path / f"any{suffix}"
    whole = [GOOD, {**GOOD, "id": "q1", "question": "what is 1 + 1 ?", **record}]
    text = json.dumps(whole) if suffix == ".json" else "\n".join(map(json.dumps, whole))
    path.write_text(text, encoding="utf-8")
    if said_of(lambda: load_benchmark(NAME, path)) is None:
        bench = load_benchmark(NAME, path)
        assert len(bench) == 2
        can_be_kept(bench, tmp_path / "store")


@given(value=VALUES, n=st.integers(1, 26))
def test_the_number_of_an_option_is_one_or_an_error(value: Any, n: int) -> None:
    record = Record({"answer": value}, "file, line 1", 0)
    said = said_of(lambda: record.index_in(n, "answer"))
    if said is None:
        assert 0 <= record.index_in(n, "answer") < n
    else:
        assert "file, line 1, field 'answer'" in said


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("{", "own.jsonl, line 2: not JSON"),
        ("3", "own.jsonl, line 2: expected an object"),
        ('{"id": "q1", "id": "q2"}', "own.jsonl, line 2: not JSON .*'id' is there twice"),
        (
            '{"id": "q1", "question": "?", "answer": NaN}',
            "line 2, field 'answer': expected a text or a finite",
        ),
        ('{"id": "q1", "question": "?", "answer": ' + "9" * 5000 + "}", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ({"id": "q1", "answer": "7"}, "line 2, field 'question': missing"),
        ({"id": "q1", "question": " ", "answer": "7"}, "line 2, field 'question': empty"),
        (
            {"id": "q1", "question": ["?"], "answer": "7"},
            "line 2, field 'question': expected a text",
        ),
        ({"id": "q1", "question": "\ud800?", "answer": "7"}, "line 2, field 'question': half of a"),
        ({"id": "q1", "question": "?", "answer": "B", "choices": "x"}, "line 2, field 'choices'"),
        ({"id": "q1", "question": "?", "answer": "C", "choices": ["1", "2"]}, "line 2.*answer"),
        ({"id": "q0", "question": "?", "answer": "7"}, "'q0'"),
        ({"id": "q1", "question": GOOD["question"], "answer": "7"}, "same question"),
        ({"id": "q1", "question": "?", "answer": "seven hundred ducks"}, "'q1'.*integer"),
    ],
)
def test_a_bad_line_is_said_before_anything_is_computed(
    tmp_path: Path, second: Any, said: str
) -> None:
    path = lines(tmp_path / "own.jsonl", GOOD, second)
    with pytest.raises(UserError, match=f"(?s){said}"):
        load_benchmark(NAME, path)


def test_a_file_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    path = lines(tmp_path / "own.jsonl", GOOD)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(UserError, match=r"Cannot read .*own\.jsonl"):
        read_file(path)


def test_texts_of_any_language_and_line_separators_inside_stay_whole(tmp_path: Path) -> None:
    question = "сколько будет 3 + 4 ?\u2028次\u0000🦆"
    path = tmp_path / "own.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + json.dumps(GOOD | {"question": question}, ensure_ascii=False).encode()
        + b"\r\n\r\n"
    )
    (problem,) = load_benchmark(NAME, path).problems
    assert problem.question == question
