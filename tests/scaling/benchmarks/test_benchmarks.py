"""Benchmarks: found by themselves, checked, drawn with a seed; a bad line is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UserError
from scaling.benchmarks import benchmarks, choose, load_benchmark
from scaling.problem import Benchmark, Problem, lettered
from scaling.records import read_file
from tests.scaling.data import data_file

GOOD = {"id": "a", "question": "1 + 1?", "answer": "2"}


def write(folder: Path, lines: list[Any], name: str = "own.jsonl") -> Path:
    path = folder / name
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text), encoding="utf-8")
    return path


def test_every_file_of_the_folder_is_found() -> None:
    expected = {"recall", "arithmetic", "countdown-3", "countdown-4", "countdown-5", "jsonl"}
    expected |= {"gsm8k", "math500", "aime24", "aime25", "mmlu", "mmlu-generate", "gpqa_diamond"}
    assert expected <= set(benchmarks())


def test_unknown_name_says_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'gsm8k'"):
        load_benchmark("gsmk8")


@pytest.mark.parametrize("kind", ["recall", "arithmetic", "countdown-3"])
def test_testbed_kinds_nest_and_repeat(kind: str) -> None:
    few, more = load_benchmark(kind, limit=5), load_benchmark(kind, limit=9)
    assert few.problems == more.problems[:5]
    assert few.fingerprint == load_benchmark(kind, limit=5).fingerprint
    assert few.fingerprint != load_benchmark(kind, limit=5, seed=1).fingerprint
    assert few.scoring == ("likelihood" if kind == "recall" else "generate")


def test_made_problems_take_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reads no file"):
        load_benchmark("arithmetic", data=write(tmp_path, [GOOD]))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([GOOD, '{"id": "b", "question": '], r"own\.jsonl, line 2: not JSON"),
        ([GOOD, [1, 2]], r"line 2: expected an object"),
        ([GOOD, {"id": "b", "question": "x"}], r"line 2, field 'answer': missing"),
        ([GOOD, {"id": "b", "question": "", "answer": "1"}], r"line 2, field 'question': empty"),
        ([GOOD, {"id": "b", "question": ["x"], "answer": "1"}], r"line 2, field 'question'"),
        ([GOOD, GOOD | {"question": "other"}], "line 2: the problem id .* first in .*line 1"),
        ([GOOD, GOOD | {"id": "b"}], "ask the same question"),
        ([GOOD, GOOD | {"id": "b", "question": "q", "answer": "two"}], "2: .*cannot read the gold"),
        ([GOOD | {"choices": ["1", "1"]}], r"line 1, field 'choices': two options"),
        ([GOOD | {"choices": "12"}], r"line 1, field 'choices': expected a list"),
        ([GOOD | {"choices": ["3", "4"], "answer": "5"}], r"line 1, field 'answer'"),
        ([], "holds no records"),
        (["", GOOD, "", "{"], r"line 4: not JSON"),
        ([GOOD, GOOD | {"id": "b", "question": "q", "answer": "two" * 9_000}], "^.{10,1000}$"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, lines: list[Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_benchmark("jsonl:numeric", data=write(tmp_path, lines))


def test_a_bad_line_is_found_whatever_is_drawn(tmp_path: Path) -> None:
    lines = [GOOD | {"id": str(i), "question": f"q{i}"} for i in range(50)] + ["{"]
    for seed in range(5):
        with pytest.raises(UserError, match="line 51"):
            load_benchmark("jsonl:numeric", data=write(tmp_path, lines), limit=2, seed=seed)


def test_not_utf8_says_the_line(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "\xff"}')
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        load_benchmark("jsonl:numeric", data=path)


def test_a_line_separator_inside_a_text_does_not_cut_the_line(tmp_path: Path) -> None:
    line = json.dumps(GOOD | {"question": "a\u2028b"}, ensure_ascii=False)
    assert len(load_benchmark("jsonl:numeric", data=write(tmp_path, [line])).problems) == 1


def test_own_file_needs_a_grader_that_exists(tmp_path: Path) -> None:
    path = write(tmp_path, [GOOD])
    with pytest.raises(UserError, match="needs the name of a grader"):
        load_benchmark("jsonl", data=path)
    with pytest.raises(UserError, match="Did you mean 'numeric'"):
        load_benchmark("jsonl:numerc", data=path)
    with pytest.raises(UserError, match="give one with --data"):
        load_benchmark("jsonl:numeric")
    with pytest.raises(UserError, match="No file"):
        load_benchmark("jsonl:numeric", data=tmp_path / "gone.jsonl")
    for odd in (["integer"], {"integer": 1}, 3):
        with pytest.raises(UserError, match="needs the name of a grader"):
            load_benchmark("jsonl", data=write(tmp_path, [GOOD | {"grader": odd}]))
    named = write(tmp_path, [GOOD | {"grader": "integer"}], "named.jsonl")
    assert load_benchmark("jsonl", data=named).grader == "integer"


def test_own_choices_are_lettered(tmp_path: Path) -> None:
    path = write(tmp_path, [GOOD | {"choices": ["3", "2"]}])
    problem = load_benchmark("jsonl:choice", data=path).problems[0]
    assert (problem.answer, problem.choices) == ("B", ("A", "B"))
    assert problem.question == lettered("1 + 1?", ("3", "2"))


def test_json_parquet_and_jsonl_are_the_same(tmp_path: Path) -> None:
    records = [GOOD | {"id": str(i), "question": f"q{i}", "choices": ["2", "3"]} for i in range(3)]
    jsonl = write(tmp_path, records)
    (tmp_path / "own.json").write_text(json.dumps(records))
    wanted = load_benchmark("jsonl:choice", data=jsonl).problems
    assert load_benchmark("jsonl:choice", data=tmp_path / "own.json").problems == wanted
    pytest.importorskip("pyarrow")
    pd.DataFrame(records).to_parquet(tmp_path / "own.parquet")
    assert load_benchmark("jsonl:choice", data=tmp_path / "own.parquet").problems == wanted
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="not a readable parquet"):
        read_file(tmp_path / "broken.parquet")


def test_a_missing_data_set_says_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    import os

    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(UserError, match="--data gpqa_diamond=FILE"):
        load_benchmark("gpqa_diamond")


def test_gpqa_options_are_shuffled_and_stay(tmp_path: Path) -> None:
    def record(i: int) -> dict[str, str]:
        wrong = {f"Incorrect Answer {k}": f"w{k}" for k in (1, 2, 3)}
        return {"Record ID": f"r{i}", "Question": f"q{i}", "Correct Answer": "right"} | wrong

    path = write(tmp_path, [record(i) for i in range(60)])
    bench = load_benchmark("gpqa_diamond", data=path)
    letters = [p.answer for p in bench.problems]
    assert set(letters) == set("ABCD")
    for problem in bench.problems:
        assert f"{problem.answer}. right" in problem.question
    again = load_benchmark("gpqa_diamond", data=write(tmp_path, [record(7)]))
    assert again.problems[0].answer == letters[7]
    for odd, said in (("\ud83e", "half of a character"), (["r"], "expected a text")):
        with pytest.raises(UserError, match=f"line 1, field 'Record ID': {said}"):
            load_benchmark("gpqa_diamond", data=write(tmp_path, [record(0) | {"Record ID": odd}]))
    without = {k: v for k, v in record(0).items() if k != "Record ID"}
    assert (
        load_benchmark("gpqa_diamond", data=write(tmp_path, [without])).problems[0].id == "gpqa/0"
    )


@pytest.mark.parametrize("odd", ["\ud83e", "x\udc80", "", " "])
@pytest.mark.parametrize("name", ["id", "question", "answer"])
def test_a_problem_is_made_of_whole_texts(name: str, odd: Any) -> None:
    fields: dict[str, Any] = {"id": "i", "question": "q", "answer": "a"}
    with pytest.raises(UserError, match=name):
        Problem(**(fields | {name: odd}))


def test_half_a_character_in_a_public_id_is_refused_before_it_reaches_the_store(
    tmp_path: Path,
) -> None:
    record = {"problem": "q", "answer": "1", "unique_id": "\ud83e"}
    with pytest.raises(UserError, match=r"line 1: .*half characters"):
        load_benchmark("math500", data=write(tmp_path, [record]))


def test_an_empty_benchmark_is_refused() -> None:
    with pytest.raises(UserError, match="no problems"):
        Benchmark("x", "1", ())
    with pytest.raises(UserError, match="not one of its choices"):
        Problem("a", "q", "C", ("A", "B"))
    with pytest.raises(UserError, match="no choices"):
        Benchmark("x", "1", (Problem("a", "q", "1"),), scoring="likelihood")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_a_smaller_draw_is_part_of_a_larger(a: int, b: int, seed: int) -> None:
    whole = Benchmark("x", "1", tuple(Problem(str(i), f"q{i}", "1") for i in range(30)))
    few, more = sorted((a, b))
    small, large = choose(whole, few, seed).problems, choose(whole, more, seed).problems
    assert len(small) == min(few, 30)
    assert {p.id for p in small} <= {p.id for p in large}
    assert [p.id for p in small] == sorted((p.id for p in small), key=int)


@pytest.mark.parametrize(
    ("name", "file", "n", "first"),
    [
        ("gsm8k", "gsm8k_test.jsonl", 1319, "18"),
        ("math500", "math500_test.json", 500, r"\left( 3, \frac{\pi}{2} \right)"),
        ("aime24", "aime24.json", 30, "204"),
        ("mmlu", "mmlu_stem_test.jsonl", 3006, "C"),
        ("mmlu-generate", "mmlu_stem_test.jsonl", 3006, "C"),
    ],
)
def test_public_files(name: str, file: str, n: int, first: str) -> None:
    if name == "math500":
        pytest.importorskip("math_verify")
    bench = load_benchmark(name, data=data_file(file))
    assert len(bench) == n
    assert bench.problems[0].answer == first
    drawn = load_benchmark(name, data=data_file(file), limit=10, seed=3)
    assert {p.id for p in drawn.problems} < {p.id for p in bench.problems}


def test_a_wrong_schema_is_said() -> None:
    with pytest.raises(UserError, match="field 'answer'"):
        load_benchmark("aime24", data=data_file("gsm8k_test.jsonl"))
