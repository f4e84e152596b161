"""Real public files: labels made by others, reward-model scores, schemas; skipped where absent."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.errors import UserError
from scaling.benchmarks import load_benchmark
from scaling.curves.outcomes import extractors, vote
from scaling.curves.parallel import parallel_scaling
from scaling.grading import grade_text
from scaling.grading.case_agreement import Half, case_agreement
from scaling.grading.case_agreement import main as main_cases
from scaling.grading.label_agreement import agreement, main
from scaling.problem import Benchmark, Problem
from tests.scaling.data import data_file

GPT3 = "gsm8k_gpt3_model_solutions.jsonl"
CASES = "grader_cases.jsonl"
QWEN = "math_qwen_n8_with_rm_scores.jsonl"


# ------------------------------------------------------------------ agreement with labels


def test_every_label_of_the_gpt3_solutions_is_met(capsys: pytest.CaptureFixture[str]) -> None:
    found = agreement(data_file(GPT3))
    assert (found.n, found.strict, found.lenient, found.labelled_correct) == (
        5276,
        5276,
        5276,
        2001,
    )
    assert found.kappa == 1
    assert found.outcomes == {"correct": 2001, "wrong": 3264, "no answer": 11}
    assert found.to_frame().empty


def test_labels_of_sampled_mathematics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of 800 differs: 10{,}000 is ten thousand, the label's comparison did not see it."""
    assert main([str(data_file(QWEN)), "--csv", str(tmp_path / "d.csv")]) == 0
    said = capsys.readouterr().out
    assert "strict agrees on 799 (99.88%)" in said
    differ = pd.read_csv(tmp_path / "d.csv", dtype=str)
    assert differ[["id", "gold", "theirs", "strict"]].to_numpy().tolist() == [
        ["72/7", "10{,}000", "10000", "correct"]
    ]


def labelled(folder: Path, records: list[dict[str, Any]]) -> Path:
    path = folder / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_a_file_of_ones_own_labels(tmp_path: Path) -> None:
    """Each class of disagreement by one example, and kappa against its definition."""
    own = [
        {"answer": "18", "response": "so \\boxed{18}", "correct": True},
        {"answer": "18", "response": "so \\boxed{17}", "correct": False},
        {"answer": "18", "response": "she makes 9 * 2 = 18", "correct": True},
        {"answer": "18", "response": "she makes 9 * 2 = 18", "correct": False},
        {"answer": "18", "response": "The answer is 18", "correct": False},
        {"answer": "7", "response": "The answer is 8", "correct": True},
        {"answer": "B", "response": "B", "correct": True, "grader": "math"},
    ]
    found = agreement(labelled(tmp_path, own))
    assert (found.n, found.strict, found.lenient) == (7, 4, 4)
    assert [d.why for d in found.disagreements] == [
        "the answer is not announced; the label takes the last thing that could be one",
        "the answer is not announced; the lenient reading takes the last that could be one",
        "read the same, the label calls it unequal",
        "read the same, the label calls it equal",
    ]
    observed, chance = 4 / 7, 3 / 7 * 4 / 7 + 4 / 7 * 3 / 7
    assert found.kappa == pytest.approx((observed - chance) / (1 - chance))
    one = agreement(labelled(tmp_path, own[:1]))
    assert np.isnan(one.kappa)


@pytest.mark.parametrize(
    "record",
    [
        {"answer": "1", "response": "1", "correct": "yes"},
        {"answer": "1", "response": "1"},
        {"answer": "1", "response": "1", "correct": True, "grader": "nunmeric"},
        {"gt": "1", "code": ["1", "2"], "score": [True], "pred": ["1", "2"]},
        {"ground_truth": "no mark", "6b": {"solution": "", "is_correct": True}},
        {"ground_truth": "A: 3", "6b": "text"},
    ],
)
def test_a_bad_file_of_labels_is_said(
    record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = labelled(tmp_path, [record])
    with pytest.raises(UserError, match=r".{20,}"):
        agreement(path)
    assert main([str(path)]) == 2
    assert len(capsys.readouterr().err) > 20


# ----------------------------------------------------------- pairs that people judged by hand


@pytest.mark.parametrize(
    ("half", "accepted", "refused"), [("development", 0, 2), ("held-out", 2, 21)]
)
def test_hand_labelled_pairs(half: Half, accepted: int, refused: int) -> None:
    """No more errors than docs/grading.md says, and fewer of both kinds than math-verify alone."""
    pytest.importorskip("math_verify")
    frame = case_agreement(data_file(CASES), half).to_frame()
    every = frame[frame["grader"] == "all"].set_index("way")
    ours, alone = every.loc["strict"], every.loc["math-verify"]
    assert ours["accepted"] <= accepted
    assert ours["refused"] <= refused
    assert ours["accepted"] < alone["accepted"]
    assert ours["refused"] < alone["refused"]


def test_the_command_over_hand_labelled_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("math_verify")
    pair = {"gold": "7", "grader": "math", "debatable": False}
    rows = [
        {**pair, "prediction": r"\boxed{7}", "want": "correct"},
        {**pair, "prediction": r"\boxed{\ge 7}", "want": "wrong"},
        {**pair, "prediction": "seven, perhaps", "want": "correct"},
        {**pair, "prediction": "7", "want": "wrong", "debatable": True},
        {"gold": "B", "prediction": "(B)", "grader": "choice", "want": "correct",
         "choices": ["A", "B"]},
    ]  # fmt: skip
    path = labelled(tmp_path, rows)
    found = case_agreement(path)
    assert len(found.judged) == 4
    table = found.to_frame().set_index(["grader", "way"])
    assert table.loc[("math", "strict"), ["wrong", "accepted", "right", "refused"]].tolist() == [
        1, 0, 2, 1,
    ]  # fmt: skip
    assert table.loc[("math", "math-verify"), "accepted"] == 1
    assert table.loc[("choice", "strict"), "refused"] == 0
    assert [one.case.prediction for one in found.failures()] == ["seven, perhaps"]
    halves = [case_agreement(path, half).judged for half in ("development", "held-out")
              if any(one.case.half == half for one in found.judged)]  # fmt: skip
    assert sum(map(len, halves)) == 4
    assert main_cases([str(path), "--list"]) == 0
    assert "seven, perhaps" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [{"want": "maybe"}, {"prediction": 7}, {"grader": "maths"}, {"gold": None}],
)
def test_a_bad_file_of_pairs_is_said(
    change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = {"gold": "7", "prediction": "7", "grader": "math", "want": "correct"}
    path = labelled(tmp_path, [{**pair, **change}])
    with pytest.raises(UserError, match=r".{20,}"):
        case_agreement(path)
    assert main_cases([str(path)]) == 2
    assert len(capsys.readouterr().err) > 20


# --------------------------------------------------- samples with scores of a reward model


@pytest.fixture(scope="module")
def sampled() -> pd.DataFrame:
    """100 MATH problems x 8 samples as rows of the store, graded by us, with their scores."""
    found = []
    with data_file(QWEN).open(encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            problem = Problem(f"p{record['idx']:03}", record["question"], record["gt"])
            bench = Benchmark("math", "1", (problem,), grader="math")
            for s, text in enumerate(record["code"]):
                verdict = grade_text(bench, problem, text)
                found.append({
                    "benchmark": "math", "problem": problem.id, "variant": "dense",
                    "budget": "1024", "sample": s, "outcome": verdict.outcome,
                    "strict_outcome": verdict.strict_outcome,
                    "lenient_outcome": verdict.lenient_outcome, "extracted": verdict.extracted,
                    "ids_hash": str(hash(text)), "mean_logprob": -float(len(text)),
                    "reward": record["pred_score"][s][0], "label": record["score"][s],
                    "pred": record["pred"][s],
                })  # fmt: skip
    return pd.DataFrame(found)


def test_the_files_own_numbers_come_back(sampled: pd.DataFrame) -> None:
    """Mean, any of 8, majority of 8 and the reward model's best of 8, counted from its labels."""
    rows = sampled.assign(outcome=np.where(sampled["label"], "correct", "wrong"))
    frame = parallel_scaling(rows, scores=("mean_logprob", "reward")).to_frame()
    value = frame.set_index(["measure", "k"])["value"]
    groups = [part for _, part in rows.groupby("problem")]
    best = []
    for part in groups:
        top = part[part["reward"] == part["reward"].max()]
        best.append(top["label"].mean())
    assert value["pass", 1] == pytest.approx(rows["label"].mean()) == pytest.approx(0.91)
    assert value["pass", 8] == np.mean([part["label"].any() for part in groups])
    assert value["best by reward", 8] == pytest.approx(np.mean(best))
    assert value["best by reward", 1] == pytest.approx(value["pass", 1])
    majority = []
    for part in groups:
        votes = Counter(vote(p) for p in part["extracted"])
        winners = [v for v, n in votes.items() if n == max(votes.values())]
        right = {vote(p): ok for p, ok in zip(part["extracted"], part["label"], strict=True)}
        majority.append(np.mean([right[w] for w in winners]))
    assert value["maj", 8] == pytest.approx(np.mean(majority), abs=0.003)
    assert value["pass", 8] >= value["best by reward", 8] >= value["pass", 1]


def test_a_score_of_the_truth_is_the_ceiling_of_best_of_n(sampled: pd.DataFrame) -> None:
    """A perfect verifier's best of k is pass@k, a constant one is chance."""
    perfect = (sampled["outcome"] == "correct").astype(float)
    rows = sampled.assign(perfect=perfect, constant=1.0)
    frame = parallel_scaling(rows, ks=(1, 3, 8), scores=("perfect", "constant")).to_frame()
    value = frame.set_index(["measure", "k"])["value"]
    for k in (1, 3, 8):
        assert value["best by perfect", k] == pytest.approx(value["pass", k])
        assert value["best by constant", k] == pytest.approx(value["pass", 1])
    assert not frame["suspect"].any()
    assert "best" not in set(frame["measure"])
    with pytest.raises(UserError, match="k=9"):
        parallel_scaling(rows, ks=(9,))
    with pytest.raises(UserError, match="lack"):
        parallel_scaling(rows, scores=("verifier",))
    with pytest.raises(UserError, match="numbers"):
        parallel_scaling(rows, scores=("pred",))


def test_equal_samples_raise_the_alarm(sampled: pd.DataFrame) -> None:
    same = sampled.assign(ids_hash=sampled["problem"] + (sampled["sample"] // 2).astype(str))
    frame = parallel_scaling(same, ks=(1,)).to_frame()
    assert frame["duplicates"].eq(0.5).all() and frame["suspect"].all()


def test_two_extractors_on_real_solutions() -> None:
    rows = []
    with data_file(GPT3).open(encoding="utf-8") as lines:
        for i, record in enumerate(map(json.loads, lines)):
            if i == 150:
                break
            problem = Problem(f"p{i}", "q", record["ground_truth"].rpartition("A:")[2].strip())
            bench = Benchmark("gsm8k", "1", (problem,), grader="numeric")
            for model in ("6b_finetuning", "175b_verification"):
                text = record[model]["solution"].replace("\nA:", "\nSo")
                verdict = grade_text(bench, problem, text)
                rows.append({
                    "benchmark": "gsm8k", "problem": problem.id, "variant": model, "budget": "400",
                    "sample": 0, "outcome": verdict.outcome,
                    "strict_outcome": verdict.strict_outcome,
                    "lenient_outcome": verdict.lenient_outcome,
                    "label": record[model]["is_correct"],
                })  # fmt: skip
    frame = pd.DataFrame(rows)
    found = extractors(frame).set_index("variant")
    for model, part in frame.groupby("variant"):
        row = found.loc[str(model)]
        assert row["strict"] == 0  # nothing is announced any more
        assert row["lenient"] == pytest.approx(part["label"].mean())
        assert row["saved"] == part["label"].sum()
        assert row["saved"] + row["guessed"] + row["no_answer"] == row["chains"] == 150
        assert row["disagree"] == row["saved"] + row["guessed"]


# ------------------------------------------------------------------------- schemas of the Hub


def hub_copy(folder: Path, records: list[dict[str, Any]], kind: str) -> Path:
    path = folder / f"copy.{kind}"
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        pd.DataFrame(records).to_parquet(path)
    elif kind == "json":
        path.write_text(json.dumps(records), encoding="utf-8")
    else:
        path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def read(name: str) -> list[dict[str, Any]]:
    text = data_file(name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [
        json.loads(line) for line in text.splitlines() if line
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("gsm8k", "gsm8k_test.jsonl"),
        ("math500", "math500_test.json"),
        ("aime24", "aime24.json"),
        ("mmlu", "mmlu_stem_test.jsonl"),
    ],
)
def test_a_public_file_is_the_same_in_every_format(
    name: str, file: str, kind: str, tmp_path: Path
) -> None:
    copied = load_benchmark(name, data=hub_copy(tmp_path, read(file), kind))
    assert copied.fingerprint == load_benchmark(name, data=data_file(file)).fingerprint


def test_letters_and_numbers_name_the_same_option(tmp_path: Path) -> None:
    """The Hub's cais/mmlu has numbers and `subject`; other copies letters, `options`, `type`."""
    numbered = read("mmlu_stem_test.jsonl")[:50]
    lettered = [
        {"question": r["question"], "options": r["choices"], "subject": r["type"],
         "answer": "ABCD"[r["answer"]]}
        for r in numbered
    ]  # fmt: skip
    (tmp_path / "b").mkdir()
    one = load_benchmark("mmlu", data=hub_copy(tmp_path, numbered, "parquet"))
    two = load_benchmark("mmlu", data=hub_copy(tmp_path / "b", lettered, "jsonl"))
    assert one.problems == two.problems
    assert one.problems[0].metadata == {"subject": "college_biology"}


def test_field_names_of_the_hubs_competition_sets(tmp_path: Path) -> None:
    """AIME 2024 (id, problem, solution, answer, url, year), 2025 (problem, answer as text), other
    copies (question); answers 007 and 7 are one; MATH-500 by its unique_id."""
    ours = read("aime24.json")[:4]
    hub = [{"id": 60 + i, "problem": r["problem"], "solution": "", "answer": f"{r['answer']:>03}",
            "url": "", "year": "2024"} for i, r in enumerate(ours)]  # fmt: skip
    plain = [{"question": r["problem"], "answer": int(r["answer"])} for r in ours]
    for name in ("aime24", "aime25"):
        first = load_benchmark(name, data=hub_copy(tmp_path, hub, "jsonl")).problems
        other = load_benchmark(name, data=hub_copy(tmp_path, plain, "parquet")).problems
        assert [p.answer for p in first] == [p.answer for p in other]
        assert first[0].id.startswith(f"{name}/")
    math = read("math500_test.json")[:3]
    found = load_benchmark("math500", data=hub_copy(tmp_path, math, "json"))
    assert found.problems[0].id == "math500/test/precalculus/807.json"
    assert found.problems[0].metadata == {"subject": "Precalculus", "level": 2}
