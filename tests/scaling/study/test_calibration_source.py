"""What criteria are calibrated on: texts, a study's chains, the model's own, graded problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration
from scaling.store import checksums
from scaling.store.study_store import Store
from scaling.study.calibration_source import CalibrationSource, read_source, study_chains
from tests.scaling.study.small_study import small_study


@pytest.fixture(scope="module")
def reasoner() -> ReasoningModel:
    return ReasoningModel.load("testbed")


@pytest.fixture(scope="module")
def study(reasoner: ReasoningModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_study(reasoner, tmp_path_factory.mktemp("small") / "study")


def test_questions_alone_need_no_chains(
    reasoner: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail = "chains were generated"
    monkeypatch.setattr(CalibrationSource, "_own_chains", lambda *_: pytest.fail(fail))
    found = CalibrationSource(part="prompt", benchmarks=("arithmetic",)).calibration(reasoner)
    assert len(found.sequences) == 8
    assert all(mask.all() for mask in found.counted())
    assert reasoner.text(found.sequences[0].tolist()) != ""


def test_the_models_own_chains_are_on_problems_that_a_study_would_not_measure(
    reasoner: ReasoningModel,
) -> None:
    own = CalibrationSource(benchmarks=("arithmetic",), seed=3)
    found = own.calibration(reasoner)
    prompts = {tuple(s[:p].tolist()) for s, p in zip(found.sequences, found.prompts, strict=True)}
    assert len(prompts) == 8
    asked = CalibrationSource(part="prompt", benchmarks=("arithmetic",), seed=3)
    assert prompts == {tuple(s.tolist()) for s in asked.calibration(reasoner).sequences}
    assert all(len(s) > p for s, p in zip(found.sequences, found.prompts, strict=True))
    assert own.calibration(reasoner).hash == found.hash


def test_the_chains_of_a_finished_study_are_those_it_decoded(
    reasoner: ReasoningModel, study: Path
) -> None:
    chains = study_chains(study, reasoner)
    assert {chain.budget.thinking for chain in chains} == {24}
    assert len({chain.problem for chain in chains}) == len(chains) == 3
    prompts = [chain.prompt_ids.tolist() for chain in chains]
    again = reasoner.generate(
        prompts,
        budget=chains[0].budget,
        seed=chains[0].seed,
        problem_ids=[c.problem for c in chains],
    )
    for old, new in zip(chains, again, strict=True):
        assert np.array_equal(old.ids, new.ids)
        assert (old.thinking, old.answer, old.finish) == (new.thinking, new.answer, new.finish)
    found = CalibrationSource(study, "generated").calibration(reasoner)
    assert found.hash == Calibration.of(reasoner, chains, "generated").hash
    assert len(study_chains(study, reasoner, most=2)) == 2


def test_a_study_of_another_model_is_refused(reasoner: ReasoningModel, tmp_path: Path) -> None:
    study = small_study(reasoner, tmp_path / "study")
    with Store(study) as store, store._transaction() as db:
        db.execute("UPDATE meta SET value='f00d' WHERE key='model fingerprint'")
        checksums.seal(db, "meta", [{"key": "model fingerprint"}])
    with pytest.raises(UserError, match="of another model"):
        CalibrationSource(study).calibration(reasoner)


def test_graded_problems_carry_the_graders_own_verdict(reasoner: ReasoningModel) -> None:
    from scaling.benchmarks import load_benchmark

    found = CalibrationSource(benchmarks=("arithmetic",)).graded_problems(reasoner)
    assert len(found.prompts) == 8
    few = load_benchmark("arithmetic", None, 200, 0)
    gold = {tuple(reasoner.prompt_ids(few.prompt(p))): p.answer for p in few.problems}
    answers = [gold.get(tuple(prompt)) for prompt in found.prompts]
    known = [(i, a) for i, a in enumerate(answers) if a is not None]
    assert known
    for index, answer in known:
        assert found.accept(index, f"answer {answer}") or found.accept(index, answer)
        assert not found.accept(index, "no number")
    assert found.budget.thinking > 0 < found.budget.answer


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (CalibrationSource(["use 3 7"]), "gold"),
        (CalibrationSource(benchmarks=("recall",)), "answers are generated"),
    ],
    ids=["texts", "likelihood"],
)
def test_what_has_no_answer_to_grade_is_refused(
    source: CalibrationSource, said: str, reasoner: ReasoningModel
) -> None:
    with pytest.raises(UserError, match=said):
        source.graded_problems(reasoner)


def test_an_unknown_part_is_refused_before_anything_is_read() -> None:
    wrong: Any = "promt"
    with pytest.raises(UserError, match="Did you mean 'prompt'"):
        CalibrationSource(part=wrong)


def test_texts_of_the_hub_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def hub_texts(name: str, config: str | None, **options: Any) -> list[str]:
        asked.append((name, config, options))
        return ["a text"]

    monkeypatch.setattr("pruning.calibration.hub_texts", hub_texts)
    for spec in ("hub:org/set", "hub:org/set:small", "hub:org/set:small:test"):
        assert read_source(spec, "body") == ["a text"]
    assert asked == [
        ("org/set", None, {"split": "train", "field": "body"}),
        ("org/set", "small", {"split": "train", "field": "body"}),
        ("org/set", "small", {"split": "test", "field": "body"}),
    ]
    for spec in ("hub:", "hub:a:b:c:d"):
        with pytest.raises(UserError, match="expected hub:NAME"):
            read_source(spec)


def test_texts_of_a_file_and_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("one\ntwo\n\nthree\n", encoding="utf-8")
    assert read_source(str(file)) == ["one", "two", "three"]
    assert read_source(str(file), paragraphs=True) == ["one\ntwo", "three"]
    assert read_source(str(tmp_path)) == tmp_path
    assert read_source(None) is None
    with pytest.raises(UserError, match="Cannot read"):
        read_source(str(tmp_path / "nowhere.txt"))
