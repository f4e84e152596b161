"""Prompts with worked examples, in running text and as a chat; options as they follow them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.errors import UserError
from interp.model.chat import RawPrompt
from scaling.benchmarks import PromptChoice, load_benchmark, with_prompting
from scaling.benchmarks._worked_examples import OWN, read_examples
from scaling.grading import grade_likelihood, grade_text
from scaling.problem import Benchmark
from scaling.prompting import Prompting, prompt_length
from scaling.records import read_file
from tests.models import tiny
from tests.scaling.data import data_file

PHYSICS = {
    "question": "What falls?",
    "choices": ["a stone", "a cloud"],
    "answer": "A",
    "subject": "college_physics",
}
ALGEBRA = {**PHYSICS, "question": "What is 2 + 2?", "choices": ["4", "5"], "subject": "algebra"}
COT = (
    "The following are multiple choice questions (with answers) about college physics.\n\n"
    "Q: Which is a force?\n(A) mass (B) weight (C) time (D) heat\n"
    "A: Let's think step by step. Weight is m g. The answer is (B).\n\n"
    "Q: Which is not?\n(A) pull\n(B) push\n(C) lift\n(D) length\n"
    "A: Let's think step by step. A length is in meters. The answer is (D).\n\n"
    "Q: Broken item without options\nA: no.\n\n"
)


def mmlu(folder: Path, name: str = "mmlu", **choice: Any) -> Benchmark:
    data, dev = folder / "test.jsonl", folder / "dev.json"
    data.write_text(json.dumps(PHYSICS), encoding="utf-8")
    dev.write_text(json.dumps({"college_physics": COT}), encoding="utf-8")
    template = choice.pop("template", False)
    choice = {"shots": {name: 2}, "shots_from": {name: str(dev)}} | choice
    return with_prompting(load_benchmark(name, data), PromptChoice(**choice), template)


def test_the_letter_in_running_text_as_the_harness_writes_it(tmp_path: Path) -> None:
    bench = mmlu(tmp_path)
    (problem,) = bench.problems
    prompt = bench.prompt(problem)
    assert isinstance(prompt, RawPrompt)
    assert prompt == (
        "The following are multiple choice questions (with answers) about college physics.\n\n"
        "Which is a force?\nA. mass\nB. weight\nC. time\nD. heat\nAnswer: B\n\n"
        "Which is not?\nA. pull\nB. push\nC. lift\nD. length\nAnswer: D\n\n"
        "What falls?\nA. a stone\nB. a cloud\nAnswer:"
    )
    assert bench.options(problem) == (" A", " B")
    assert "\nQuestion:" in bench.stop


def test_the_letter_through_the_chat_template(tmp_path: Path) -> None:
    bench = mmlu(tmp_path, template=True)
    turns: Any = bench.prompt(bench.problems[0])
    assert [t["role"] for t in turns] == ["user", "assistant"] * 2 + ["user"]
    assert turns[0]["content"].startswith("The following are") and turns[1]["content"] == "B"
    assert turns[-1]["content"] == "What falls?\nA. a stone\nB. a cloud\nAnswer:"
    assert bench.options(bench.problems[0]) == ("A", "B")
    raw = mmlu(tmp_path, template=True, chat_template="no")
    assert isinstance(raw.prompt(raw.problems[0]), RawPrompt)
    assert len({bench.fingerprint, raw.fingerprint, replace(raw, prompting=None).fingerprint}) == 3
    for rule in ("auto", "yes"):
        named = mmlu(tmp_path, template=True, chat_template=rule, without_template=("mmlu",))
        assert named.fingerprint == raw.fingerprint
        other = mmlu(tmp_path, template=True, chat_template=rule, without_template=("gsm8k",))
        assert other.fingerprint == bench.fingerprint


def test_the_text_of_the_option(tmp_path: Path) -> None:
    bench = mmlu(tmp_path, "mmlu-text")
    (problem,) = bench.problems
    assert str(bench.prompt(problem)).endswith(
        "Question: Which is not?\nAnswer: length\n\nQuestion: What falls?\nAnswer:"
    )
    assert bench.options(problem) == (" a stone", " a cloud") and bench.by_length
    # -8 over 7 characters is nearer to 0 than -9 over 7; sums and means decide differently below
    longer = replace(problem, choices=("a stone", "a very long cloud"))
    verdict = grade_likelihood(longer, np.array([-7.0, -8.0]), [7, 17], by_length=True)
    assert (verdict.outcome, verdict.strict_outcome) == ("wrong", "correct")
    assert verdict.extracted == "a very long cloud"


def test_a_text_that_is_listed_twice_is_one_option(tmp_path: Path) -> None:
    file = tmp_path / "twice.jsonl"
    file.write_text(json.dumps({**PHYSICS, "choices": ["x", "y", "x", "z"], "answer": 2}))
    (problem,) = load_benchmark("mmlu-text", file).problems
    assert problem.choices == ("x", "y", "z") and problem.answer == "x"


def test_examples_that_reason(tmp_path: Path) -> None:
    bench = mmlu(tmp_path, "mmlu-generate")
    text = str(bench.prompt(bench.problems[0]))
    assert "A: Let's think step by step. Weight is m g. The answer is (B).\n\nQ: " in text
    assert text.endswith("B. a cloud\nA: Let's think step by step.")


def test_the_examples_of_gsm8k_are_sound() -> None:
    records = read_file(OWN / "gsm8k.jsonl")
    assert len(records) == 8
    for record in records:
        solution, _, gold = record.text("answer").rpartition("####")
        steps = re.findall(r"([\d ./*+-]+) = (\d+)", solution)
        assert len(steps) >= 2
        for left, right in steps:
            assert eval(left) == int(right), (left, right)  # digits and operators
        assert steps[-1][1] == gold.strip()


def test_the_examples_of_gsm8k_are_read_as_answers_are(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({"question": "How many?", "answer": "It is <<2*9=18>>18.\n#### 18"}))
    whole = load_benchmark("gsm8k", file)
    bench = with_prompting(whole, PromptChoice(shots={"gsm8k": 8}), False)
    prompt = str(bench.prompt(bench.problems[0]))
    assert prompt.count("\n\nQ: ") == 8 and prompt.endswith("Q: How many?\nA:")
    assert bench.prompting is not None
    for shot in bench.prompting.examples:
        given = shot.answer.rpartition("The answer is ")[2].rstrip(".")
        asked = replace(bench.problems[0], answer=given)
        assert grade_text(bench, asked, shot.answer).outcome == "correct"
    own = PromptChoice(shots={"gsm8k": 1}, shots_from={"gsm8k": str(file)})
    with pytest.raises(UserError, match="no worked example"):  # the only one is the question
        with_prompting(whole, own, False)


def test_none_of_the_examples_is_in_the_test_set() -> None:
    asked = {r.text("question").strip() for r in read_file(data_file("gsm8k_test.jsonl"))}
    own = {r.text("question").strip() for r in read_file(OWN / "gsm8k.jsonl")}
    assert not asked & own


def test_the_dev_file_of_the_harness_has_examples_for_every_subject() -> None:
    records = read_examples(data_file("mmlu_dev_cot_prompts.json"))
    subjects = [r.fields["subject"] for r in records]
    assert len(set(subjects)) == 57 and min(map(subjects.count, subjects)) >= 3


def test_without_examples_only_the_chat_template_decides(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    data.write_text(json.dumps({"question": "How many?", "answer": "#### 3"}))
    whole = load_benchmark("gsm8k", data)
    assert with_prompting(whole, PromptChoice(), has_template=True) == whole
    bare = with_prompting(whole, PromptChoice(), has_template=False)
    prompt = str(bare.prompt(bare.problems[0]))
    assert prompt == f"Q: How many?\n\n{whole.instruction}\nA:"
    assert prompt_length(bare.prompt(bare.problems[0])) == len(prompt)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"chat_template": "maybe"}, "expected 'auto', 'yes' or 'no'"),
        ({"shots": {"mmlu": -1}}, "not a whole number"),
        ({"shots": {"mmlu": 2}, "shots_from": {}}, "no worked examples of its own"),
        ({"chat_template": "yes"}, "no chat template"),
        ({"shots_from": {"mmlu": "nowhere.jsonl"}}, "No file"),
    ],
)
def test_a_choice_that_cannot_be(tmp_path: Path, choice: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        mmlu(tmp_path, **choice)


def test_a_subject_without_examples_is_named(tmp_path: Path) -> None:
    data, dev = tmp_path / "t.jsonl", tmp_path / "d.jsonl"
    data.write_text(json.dumps(PHYSICS))
    dev.write_text(json.dumps(ALGEBRA))
    choice = PromptChoice(shots={"mmlu": 1}, shots_from={"mmlu": str(dev)})
    with pytest.raises(UserError, match=r"about 'college_physics' in the file d\.jsonl"):
        with_prompting(load_benchmark("mmlu", data), choice, False)


def test_a_generated_benchmark_is_asked_in_its_own_way() -> None:
    own = load_benchmark("arithmetic", limit=2)
    assert with_prompting(own, PromptChoice(), has_template=False) == own
    for choice in (PromptChoice("no"), PromptChoice(shots={"arithmetic": 2})):
        with pytest.raises(UserError, match="in its own way"):
            with_prompting(own, choice, True)


def test_a_file_of_prompts_in_another_form_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "dev.json"
    file.write_text(json.dumps({"anatomy": "Question: What?\nAnswer: this"}))
    with pytest.raises(UserError, match=r"dev\.json, anatomy: no example of the form"):
        read_examples(file)


def test_what_a_store_keeps_asks_the_same(tmp_path: Path) -> None:
    bench = mmlu(tmp_path, template=True)
    assert bench.prompting is not None
    again = Prompting.from_dict(json.loads(json.dumps(bench.prompting.to_dict())))
    assert again == bench.prompting
    assert replace(bench, prompting=again).fingerprint == bench.fingerprint


def test_a_raw_prompt_is_read_as_it_is() -> None:
    model = tiny()
    raw = RawPrompt("use 3 7")
    assert model.prompt_ids(raw, thinking=False) == model.encode("use 3 7")
    assert model.prompt_ids(raw) == [*model.encode("use 3 7"), *model.delimiter_ids.think_start]
    with pytest.raises(UserError, match="empty prompt"):
        model.prompt_ids(RawPrompt(" \n"))
