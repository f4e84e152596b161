"""Training data: what is read, what it becomes, what it must not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from recovery.examples import Example, TrainingSet, gold
from recovery.libraries import quiet
from recovery.overlap import apart, overlaps
from recovery.run import recover
from recovery.sources import check_words, training_set
from recovery.tokens import dataset_of, fitting, tokens_of
from scaling.benchmarks import load_benchmark
from scaling.problem import Benchmark, Problem
from tests.models import tiny
from tests.recovery.small import config, examples, saved


@pytest.fixture(scope="module")
def model() -> ReasoningModel:
    return tiny("qwen3")


@pytest.fixture(scope="module")
def reasoner() -> ReasoningModel:
    return ReasoningModel.load("testbed")


def written(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


# ------------------------------------------------------------------------- schemas


def test_s1k_is_read_by_its_public_schema(model: ReasoningModel, tmp_path: Path) -> None:
    record = {
        "question": "what is 3 + 4 ?",
        "solution": "7",
        "cot_type": "math",
        "source_type": "x",
        "metadata": "{}",
        "thinking_trajectories": ["try 3 + 4 = 7 yes ."],
        "attempt": "7",
    }
    newer = {
        "question": "what is 2 + 4 ?",
        "solution": "a proof",
        "deepseek_thinking_trajectory": "try 2 + 4 = 6",
        "deepseek_attempt": "6",
    }
    found = training_set(written(tmp_path / "s1k.jsonl", record, newer), model, grader="numeric")
    first, second = found.examples
    assert (first.reasoning, first.answer) == ("try 3 + 4 = 7 yes .", "7")
    assert first.verifiable
    assert first.problem is not None
    assert first.problem.answer == "7"
    assert (second.reasoning, second.answer) == ("try 2 + 4 = 6", "6")
    assert not second.verifiable  # its gold is no number


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "what is 3 + 4 ?"},
                      {"role": "assistant", "content": "<think> 3 + 4 = 7 </think> 7"}]},
        {"messages": [{"role": "user", "content": "what is 3 + 4 ?"},
                      {"role": "assistant", "reasoning_content": "3 + 4 = 7", "content": "7"}]},
        {"conversations": [{"from": "human", "value": "what is 3 + 4 ?"},
                           {"from": "gpt", "value": "<think> 3 + 4 = 7 </think> 7"}]},
        {"prompt": "what is 3 + 4 ?", "completion": "<think> 3 + 4 = 7 </think> 7"},
        {"prompt": [{"role": "user", "content": "what is 3 + 4 ?"}],
         "completion": [{"role": "assistant", "content": "<think> 3 + 4 = 7 </think> 7"}]},
    ],
)  # fmt: skip
def test_every_chat_format_says_the_same(
    record: dict[str, Any], model: ReasoningModel, tmp_path: Path
) -> None:
    (found,) = training_set(written(tmp_path / "chat.jsonl", record), model).examples
    assert found.asked == "what is 3 + 4 ?"
    assert (found.reasoning, found.answer) == ("3 + 4 = 7", "7")
    expected = tokens_of(model, examples(1)[0])
    assert tokens_of(model, found).prompt[:3] == expected.prompt[:3]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"text": "x"}, "unknown schema"),
        ({"messages": [{"role": "assistant", "content": "7"}]}, "no user turn"),
        ({"messages": []}, "list of turns"),
        ({"messages": [{"role": "robot", "content": "7"}]}, "Unknown role 'robot'"),
        ({"messages": [{"role": "user", "content": 7}]}, "expected a text or a list of text parts"),
        ({"question": "what ?", "attempt": {"a": 1}}, "expected a text or a list"),
    ],
)
def test_a_bad_record_is_said_with_its_line(
    record: dict[str, Any], said: str, model: ReasoningModel, tmp_path: Path
) -> None:
    file = written(tmp_path / "bad.jsonl", {"question": "what ?", "attempt": "7"}, record)
    with pytest.raises(UserError, match=rf"bad\.jsonl, line 2.*{said}"):
        training_set(file, model)


def test_data_without_answers(model: ReasoningModel, tmp_path: Path) -> None:
    asked = [{"messages": [{"role": "user", "content": f"what is {i} + 4 ?"}]} for i in range(3)]
    none = training_set(written(tmp_path / "none.jsonl", *asked), model)
    with pytest.raises(UserError, match="none of the 3 examples has an answer"):
        none.answered()
    some = [*asked, {"prompt": "what is 4 + 4 ?", "completion": "8"}]
    kept = training_set(written(tmp_path / "some.jsonl", *some), model).answered()
    assert len(kept) == 1
    assert "3 of 4 examples have no answer" in kept.notes[0]


def test_the_testbeds_training_problems(reasoner: ReasoningModel) -> None:
    from scaling.grading import grade_text
    from scaling.grading.testbed_answer import testbed_problem
    from testbed.problems import content, is_test

    found = training_set("testbed", reasoner, limit=60, seed=1)
    assert found == training_set("testbed", reasoner, limit=60, seed=1)
    kinds = {e.id.split("/")[0] for e in found.examples}
    assert {"countdown-3", "countdown-4", "countdown-5", "arithmetic"} <= kinds
    for example in found.examples:
        assert example.problem is not None
        if not example.id.startswith("recall"):
            assert not is_test(content(testbed_problem(example.problem)))
    only = training_set("testbed:arithmetic", reasoner, limit=40)
    right = 0
    for example in only.examples:
        assert example.problem is not None
        text = reasoner.text(example.ids[:-1])
        verdict = grade_text(example.judge, example.problem, text, opened=True)
        right += verdict.outcome == "correct"
    assert right >= 30  # some are cut by a budget and guess
    with pytest.raises(UserError, match="Did you mean 'arithmetic'"):
        training_set("testbed:arithmetics", reasoner)
    with pytest.raises(UserError, match="words of the bundled reasoner"):
        training_set("testbed", tiny("qwen3"), limit=4)


def test_word_problems_are_asked_as_a_study_asks_and_are_never_its_own() -> None:
    bench = load_benchmark("word-problems", limit=30)
    found = training_set("word-problems", tiny("qwen3"), limit=30)
    assert found == training_set("word-problems", tiny("qwen3"), limit=30)
    assert len(found.verifiable()) == len(found) == 30
    assert len(training_set("word-problems", tiny("qwen3"), seed=1)) == 2000
    first = found.examples[0]
    assert first.problem is not None and first.question == bench.prompt(first.problem)
    assert not {e.problem.question for e in found.examples if e.problem} & {
        p.question for p in bench.problems
    }
    assert len(apart(found, [bench])) == 30
    with pytest.raises(UserError, match="method self"):
        found.answered()


def test_words_are_checked_before_a_weight_is_read(
    tmp_path: Path,
) -> None:
    folder = saved(tmp_path / "model")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(UserError, match="words of the bundled reasoner"):
        recover(folder, config("lora"), tmp_path / "run", plan=(1,))
    check_words("testbed:arithmetic", "testbed")
    check_words("problems.jsonl", folder)


def test_chains_of_a_study_are_learnt_from_and_refused_where_they_are_measured(
    reasoner: ReasoningModel, tmp_path: Path
) -> None:
    from scaling.study.config import StudyConfig
    from scaling.study.runner import run_study

    run_study(
        StudyConfig(
            benchmarks=("arithmetic",), limit=6, methods=(), waits=(), samples=1, blocks=False,
            budgets=(64,), out=tmp_path / "study",
        )
    )  # fmt: skip
    found = training_set(tmp_path / "study", reasoner)
    assert 1 <= len(found) <= 6
    tokens = tokens_of(reasoner, found.examples[0])
    assert tokens.completion[-1] in reasoner.stop_ids
    with pytest.raises(UserError, match="overlap"):
        apart(found, [load_benchmark("arithmetic", limit=6)])


def test_held_out_examples_follow_from_their_ids_alone() -> None:
    whole = TrainingSet("t", tuple(examples(16)))
    train, held = whole.split(4)
    assert held is not None
    assert len(held) == 4
    assert len(train) == 12
    turned = TrainingSet("t", tuple(reversed(examples(16)))).split(4)[1]
    assert turned is not None
    assert {e.id for e in held.examples} == {e.id for e in turned.examples}
    assert whole.split(0) == (whole, None)
    assert len(TrainingSet("t", tuple(examples(8))).split(100)[1] or ()) == 2  # a quarter at most
    with pytest.raises(UserError, match="occur twice"):
        TrainingSet("t", (examples(1)[0], examples(1)[0]))


# ------------------------------------------------------------------------- ids and the loss


def test_the_prompt_is_the_studys_and_the_rest_is_what_the_model_would_write(
    model: ReasoningModel,
) -> None:
    example = examples(1)[0]
    tokens = tokens_of(model, example)
    assert list(tokens.prompt) == model.prompt_ids(example.question)
    said = model.text(tokens.completion, skip_special=False)
    assert said == "try 2 + 3 = 5 yes . </think> 5 <|im_end|>"
    assert tokens.completion[-1] == model.tokenizer.eos_token_id


def test_a_template_that_drops_the_thinking_is_gone_around(model: ReasoningModel) -> None:
    import copy

    other = copy.copy(model)
    other.tokenizer = copy.deepcopy(model.tokenizer)
    template = str(model.tokenizer.chat_template)
    other.tokenizer.chat_template = template.replace(
        "{{ message['content'] }}", "{{ message['content'].split('</think>')[-1] }}"
    )
    assert tokens_of(other, examples(1)[0]) == tokens_of(model, examples(1)[0])


def test_the_loss_is_on_answer_tokens_only(model: ReasoningModel, tmp_path: Path) -> None:
    """Read off the ids that TRL's trainer is about to train on, packed and not."""
    import torch

    from recovery.building import TrainingJob, build
    from recovery.watching import Log, Watch

    silent = Example("slip", "what is 3 + 4 ?", ids=(10, 11, 12, 3), silent=frozenset({1}))
    train = TrainingSet("t", (*examples(5), silent))
    base = saved(tmp_path / "tiny")
    wanted = [tokens_of(model, e) for e in train.examples]
    for packing in (False, True):
        how = config("full", packing=packing, context=64, micro=4)
        watch = Watch(Log(tmp_path / "log", False), tokens=None, looks=False, on_step=None,
                      stage="t", rate=1e-3)  # fmt: skip
        job = TrainingJob(how, str(base), train, None, None, watch.log, torch.device("cpu"))
        with quiet():
            trainer = build(job, how, tmp_path / f"states-{packing}", watch)
        learnt = []
        for batch in trainer.get_train_dataloader():
            ids, labels = batch["input_ids"], batch["labels"]
            assert torch.equal(ids[labels != -100], labels[labels != -100])
            learnt += labels[labels != -100].tolist()
        expected = [i for t in wanted for i, yes in zip(t.completion, t.learnt, strict=True) if yes]
        assert sorted(learnt) == sorted(expected)
        prompts = {i for t in wanted for i in t.prompt}
        only_asked = prompts - set(expected)
        assert only_asked
        assert not only_asked & set(learnt)


def test_packed_examples_do_not_see_each_other(model: ReasoningModel, tmp_path: Path) -> None:
    """The mean loss of one packed row is that of its examples, each alone."""
    import torch

    from recovery.building import TrainingJob, build
    from recovery.watching import Log, Watch

    train = TrainingSet("t", tuple(examples(3)))
    base = saved(tmp_path / "tiny")
    losses = []
    for packing, micro in ((False, 3), (True, 1)):
        how = config("full", packing=packing, context=96, micro=micro, batch=micro)
        watch = Watch(Log(tmp_path / "log", False), tokens=None, looks=False, on_step=None,
                      stage="t", rate=1e-3)  # fmt: skip
        job = TrainingJob(how, str(base), train, None, None, watch.log, torch.device("cpu"))
        with quiet():
            trainer = build(job, how, tmp_path / f"states-{packing}", watch)
        batches = list(trainer.get_train_dataloader())
        assert len(batches) == 1
        trainer.model.train()
        with torch.no_grad():
            losses.append(float(trainer.compute_loss(trainer.model, dict(batches[0]))))
        assert trainer.tokens_seen == 3 * 11
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_examples_longer_than_the_context_are_left_out_and_counted(model: ReasoningModel) -> None:
    train = TrainingSet("t", (*examples(3), Example("long", "what is 3 ?", "no " * 50, "3")))
    kept, rest = fitting(model, train, 32)
    assert len(kept) == len(rest) == 3
    assert "1 of 4 examples are longer than 32 tokens" in rest.notes[0]
    assert dataset_of(kept)["input_ids"][0] == kept[0].ids
    with pytest.raises(UserError, match="all 4 examples are longer"):
        fitting(model, train, 8)


# ------------------------------------------------------------------------- overlap


def bench(*questions: str) -> Benchmark:
    return Benchmark("b", "1", tuple(Problem(f"b/{i}", q, "1") for i, q in enumerate(questions)))


def asking(*questions: str) -> TrainingSet:
    return TrainingSet("t", tuple(Example(str(i), q, None, "1") for i, q in enumerate(questions)))


LONG = (
    "A farmer has seventeen sheep and sells nine of them on Monday, then buys four more; how many"
)


def test_the_same_question_in_other_clothes_overlaps() -> None:
    found = overlaps(asking("what is  3 + 4", "what is 3 - 4 ?"), [bench("What is 3 + 4 ?")])
    assert [(o.example, o.problem) for o in found] == [("0", "b/0")]


def test_a_copy_with_another_ending_overlaps_and_a_common_phrase_does_not() -> None:
    near = asking(f"{LONG} are left on Tuesday?", "A farmer has seventeen cows and no sheep at all")
    found = overlaps(near, [bench(f"{LONG} sheep has he?")])
    assert [o.example for o in found] == ["0"]
    assert "runs of 8 words" in found[0].why


def test_reordered_pools_are_the_same_problem_and_facts_are_not_counted() -> None:
    def countdown(identity: str, numbers: list[int]) -> Problem:
        question = f"use {' '.join(map(str, numbers))} to make 23"
        about = {"kind": "countdown-3", "numbers": numbers, "target": 23}
        return Problem(identity, question, "23", metadata=about)

    def example(problem: Problem) -> Example:
        return Example(problem.id, problem.question, answer="3", problem=problem, grader="testbed")

    known = {"kind": "recall", "numbers": [], "target": 0}
    fact = Problem("recall/x", "what is the fruit of bala ?", "fig", metadata=known)
    measured = Benchmark("m", "1", (countdown("a", [3, 7, 2]), fact), grader="testbed")
    train = TrainingSet("t", (example(countdown("b", [7, 2, 3])), example(fact)))
    assert [o.example for o in overlaps(train, [measured])] == ["b"]


def test_a_test_problem_of_the_testbed_is_never_trained_on(reasoner: ReasoningModel) -> None:
    problem = load_benchmark("countdown-3", limit=1).problems[0]
    train = TrainingSet(
        "t", (Example("x", problem.question, answer="3", problem=problem, grader="testbed"),)
    )
    assert [o.why for o in overlaps(train, [])] == ["a problem of the test split"]


def test_overlap_is_refused_or_left_out_and_said() -> None:
    train = asking("what is 3 + 4 ?", "what is 3 + 5 ?")
    with pytest.raises(UserError, match=r"1 of 2 examples .* overlap .*--drop-overlap"):
        apart(train, [bench("what is 3 + 4 ?")])
    left = apart(train, [bench("what is 3 + 4 ?")], drop=True)
    assert [e.id for e in left.examples] == ["1"]
    assert "left out" in left.notes[0]
    with pytest.raises(UserError, match="nothing else is left"):
        apart(asking("what is 3 + 4 ?"), [bench("what is 3 + 4 ?")], drop=True)
    assert apart(train, [bench("what is 9 + 9 ?")]) is train


def test_a_gold_answer_is_needed_where_a_verifier_judges() -> None:
    bare = TrainingSet("t", (Example("a", "what is 3 ?", None, "3"),))
    with pytest.raises(UserError, match="needs a verifier"):
        bare.verifiable()
    problem = gold("b", "what is 4 ?", "4")
    some = TrainingSet("t", (*bare.examples, Example("b", "what is 4 ?", problem=problem,
                                                     grader="numeric")))  # fmt: skip
    assert [e.id for e in some.verifiable().examples] == ["b"]
