"""Presets, prompts and methods of a study: from the settings to the rows, killed or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.errors import UserError
from interp.model.chat import RawPrompt
from interp.model.delimiters import Delimiters
from pruning.repaired_plan import RepairedPlan
from pruning.repairs import mend
from scaling.benchmarks import PromptChoice
from scaling.costs.study_work import parts_of, sized_benchmarks
from scaling.engines.local import LocalEngine
from scaling.store.stored_benchmark import stored_benchmarks
from scaling.store.study_store import Store
from scaling.study import defaults
from scaling.study.calibration_source import CalibrationSource, study_chains
from scaling.study.config import StudyConfig
from scaling.study.preset import preset_config, presets, read_preset
from scaling.study.problem_sets import gather
from scaling.study.runner import option_ids, run_study
from scaling.study.variants import read_variants
from tests import models
from tests.scaling.study.same import same_rows

CHOICES = [str(i) for i in range(4)]


def question(i: int, **more: Any) -> dict[str, Any]:
    return {"id": f"q{i}", "question": f"compute {i} + {i + 1}", "answer": str(2 * i + 1), **more}


def jsonl(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(file)


# ------------------------------------------------------------------ presets


def test_the_paper_in_small() -> None:
    assert "paper-small" in presets()
    config = preset_config(
        "paper-small",
        data={"gsm8k": "g.jsonl"},
        prompts=PromptChoice(shots_from={"mmlu": "dev.json"}),
        temperature=None,
        methods=None,
        budgets=(),
    )
    assert config.benchmark_names == ("mmlu", "gsm8k", "math500")
    sizes = {name: config.workload(name).problems for name in config.benchmark_names}
    assert sizes == {"mmlu": 300, "gsm8k": 100, "math500": 50}
    load = config.workload("gsm8k")
    assert load.budgets == (32, 64, 128, 256, 512) and load.parallel_samples == 8
    assert load.parallel_problems and load.wait_problems and not load.block_problems
    assert config.keep["math500"]["level"] == (1, 2, 3)
    assert config.prompts.shots == {"mmlu": 5}
    assert config.prompts.shots_from == {"mmlu": "dev.json"}
    variants = {(p.kind, p.removed) for p in parts_of(config, sized_without_data(config), 24)}
    assert variants == {("dense", 0), ("plan", 1), ("plan", 2), ("plan", 3)}


def sized_without_data(config: StudyConfig) -> Any:
    return sized_benchmarks(replace(config, data={}, prompts=PromptChoice()))


def test_what_is_given_replaces_the_preset() -> None:
    config = preset_config("paper-small", benchmarks=("gsm8k",), limit=4, methods=(), remove=(5,))
    assert config.benchmark_names == ("gsm8k",) and config.workload("gsm8k").problems == 4
    assert config.keep == {} and config.prompts == PromptChoice()  # of other benchmarks
    assert config.remove == (5,)
    assert config.methods  # an empty tuple leaves the preset's


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("benchmark = ['gsm8k']", "Did you mean 'benchmarks'"),
        ("budgets = 3", "expected a list"),
        ("keep = 3", "expected lists of values"),
        ("[keep]\nmath500 = 3", "expected lists of values"),
        ("[keep.math500]\nlevel = 3", "expected lists of values"),
        ("prompts = 3", "expected tables"),
        ("[prompts]\nshot = 3", "prompts has 'shot'"),
        ("[prompts]\nwithout_template = 'mmlu'", "without_template is 'mmlu'; expected a list"),
        ("budgets = [", "is not TOML"),
        ("budgets = [0]", "not a whole number"),
    ],
)
def test_a_preset_that_cannot_be(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        preset_config(str(file))


def test_a_preset_names_benchmarks_without_the_template(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        'benchmarks = ["gsm8k", "mmlu-text"]\n[prompts]\nwithout_template = ["mmlu-text"]'
    )
    assert preset_config(str(file)).prompts == PromptChoice(without_template=("mmlu-text",))
    both = preset_config(str(file), prompts=PromptChoice(without_template=("gsm8k",)))
    assert both.prompts.without_template == ("mmlu-text", "gsm8k")
    only = preset_config(str(file), benchmarks=("gsm8k",))  # of another benchmark
    assert only.prompts == PromptChoice()


def test_a_preset_that_is_not_there() -> None:
    with pytest.raises(UserError, match="Did you mean 'paper-small'"):
        read_preset("paper-smal")
    with pytest.raises(UserError, match="No file"):
        read_preset("nowhere.toml")


# ------------------------------------------------------------------ problems and settings


def test_problems_are_drawn_from_those_that_are_kept(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "own.jsonl", [question(i, level=i % 3) for i in range(12)])
    config = StudyConfig(
        benchmarks=("jsonl:numeric",),
        data={"jsonl:numeric": data},
        limit=3,
        keep={"jsonl:numeric": {"level": (1, 2)}},
    )
    (bench,), spare = gather(config)
    everything = (*bench.problems, *spare["jsonl:numeric"])
    assert len(bench) == 3 and len(everything) == 8
    assert {p.metadata["level"] for p in everything} == {1, 2}
    (again,), _ = gather(config)
    assert again.problems == bench.problems
    with pytest.raises(UserError, match=r"level in \['7'\]; there are 0, 1, 2"):
        gather(replace(config, keep={"jsonl:numeric": {"level": (7,)}}))
    with pytest.raises(UserError, match="nothing to choose from"):
        gather(StudyConfig(benchmarks=("arithmetic",), keep={"arithmetic": {"kind": ("x",)}}))


def test_settings_of_earlier_studies_are_as_they_were() -> None:
    assert not {"prompts", "keep"} & set(StudyConfig().settings())
    asked = StudyConfig(benchmarks=("gsm8k",), prompts=PromptChoice("no"))
    assert asked.settings()["prompts"] == {"chat_template": "no", "shots": {}}
    named = StudyConfig(
        benchmarks=("mmlu-text",), prompts=PromptChoice(without_template=("mmlu-text",))
    )
    assert named.settings()["prompts"]["without_template"] == ("mmlu-text",)
    with pytest.raises(UserError, match=r"without_template: .* is not among the benchmarks"):
        StudyConfig(benchmarks=("gsm8k",), prompts=PromptChoice(without_template=("mmlu",)))
    with pytest.raises(UserError, match=r"shots: .* is not among the benchmarks"):
        StudyConfig(benchmarks=("gsm8k",), prompts=PromptChoice(shots={"mmlu": 5}))
    with pytest.raises(UserError, match="which gets no examples"):
        StudyConfig(benchmarks=("mmlu",), prompts=PromptChoice(shots_from={"mmlu": "dev.json"}))


def test_a_plain_model_has_short_answers_unless_asked_for_more() -> None:
    config = StudyConfig(benchmarks=("gsm8k", "mmlu"))
    plain, marked = models.tiny(), models.tiny()
    plain.delimiters = Delimiters.plain()
    fitted = config.fitted(plain)
    assert fitted.workload("gsm8k").answer == defaults.PLAIN_ANSWER == 64
    assert config.fitted(marked) == config == config.fitted(None)
    asked = replace(config, answer=200)
    assert asked.fitted(plain).workload("gsm8k").answer == 200
    by_name = replace(config, answer={"gsm8k": 7})
    assert by_name.workload("gsm8k").answer == 7
    small = StudyConfig(benchmarks=("arithmetic",)).fitted(plain)
    assert small.workload("arithmetic").answer == 24  # fewer by itself


def test_an_option_is_split_as_it_follows_the_prompt() -> None:
    engine: Any = LocalEngine(models.tiny())
    engine.encode = lambda text: list(text.encode())
    assert option_ids(engine, RawPrompt("x\nAnswer:"), " B") == list(b" B")
    joined = {"Answer:": [1, 2], "Answer: B": [1, 9], " B": [5]}
    engine.encode = joined.__getitem__
    assert option_ids(engine, RawPrompt("x\nAnswer:"), " B") == [5]  # the word itself changes
    assert option_ids(engine, "any question", " B") == [5]


# ------------------------------------------------------------------ a whole study


class WatchedStops(LocalEngine):
    """The local engine, noting stop strings; it may fail after some measured chains."""

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__(models.tiny(n_blocks=5), slots=6)
        self.stops: set[tuple[str, ...]] = set()
        self.left = fail_after

    def decode(self, requests: Any, **options: Any) -> Iterator[Any]:
        self.stops.add(tuple(options["stop"]))
        measured = not requests[0].problem.startswith("calibration/")
        for chain in super().decode(requests, **options):
            if measured and self.left is not None:
                if not self.left:
                    raise KeyboardInterrupt
                self.left -= 1
            yield chain


def settings(folder: Path, out: Path) -> StudyConfig:
    data = jsonl(folder / "own.jsonl", [question(i) for i in range(12)])
    examples = [question(i, solution=f"{i} + {i + 1} = {2 * i + 1}") for i in range(20, 24)]
    asked = [
        {"question": f"what is {i}", "choices": CHOICES, "answer": i, "subject": ""}
        for i in range(4)
    ]
    return StudyConfig(
        benchmarks=("mmlu", "jsonl:numeric"),
        data={"jsonl:numeric": data, "mmlu": jsonl(folder / "mmlu.jsonl", asked)},
        prompts=PromptChoice(
            "no",
            shots={"jsonl:numeric": 2},
            shots_from={"jsonl:numeric": jsonl(folder / "shots.jsonl", examples)},
        ),
        limit=2,
        methods=("shortgpt", "laco", "random", "random@1"),
        remove=(1,),
        budgets=(4, 8),
        answer=3,
        samples=1,
        waits=(),
        blocks=False,
        out=out,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, WatchedStops]:
    folder = tmp_path_factory.mktemp("asked")
    engine = WatchedStops()
    run_study(settings(folder, folder / "study"), engine=engine)
    return folder, folder / "study", engine


def test_the_store_says_how_was_asked(finished: tuple[Path, Path, WatchedStops]) -> None:
    folder, out, engine = finished
    with Store(out, read_only=True) as store:
        meta, problems, config = store.meta(), store.frame("problems"), store.config()
    assert config["prompts"] == {"chat_template": "no", "shots": {"jsonl:numeric": 2}}
    found = stored_benchmarks(meta, problems)
    measured, _ = gather(settings(folder, out), engine)
    for bench in measured:
        stored = found[bench.name]
        assert [stored.prompt(p) for p in stored.problems] == [
            bench.prompt(p) for p in bench.problems
        ]
    assert isinstance(found["mmlu"].prompt(found["mmlu"].problems[0]), RawPrompt)
    assert all("\nQuestion:" in stop for stop in engine.stops)  # of the calibration too
    chains = study_chains(out, engine.model)  # the prompts are made again, and checked
    assert {len(c.prompt_ids) for c in chains} and len(chains) == 2


def test_laco_runs_as_the_model_that_it_builds(finished: tuple[Path, Path, WatchedStops]) -> None:
    _, out, engine = finished
    with Store(out, read_only=True) as store:
        rows, variants = store.rows(ids=True), read_variants(store)
    assert set(variants) >= {"dense", "shortgpt-1", "laco-1", "random-1", "random@1-1"}
    merged = variants["laco-1"]
    assert isinstance(merged, RepairedPlan)
    with pytest.raises(UserError, match="cannot be decoded beside other variants"):
        merged.interventions()
    model = mend("laco", engine.model, merged.plan, measure=False).model
    own = rows[(rows["variant"] == "laco-1") & (rows["scoring"] == "generate")]
    dense = {c.problem: c for c in study_chains(out, engine.model)}
    for row in own[own["thinking_budget"] == 8].to_dict("records"):
        alone = model.generate(
            [dense[row["problem"]].prompt_ids.tolist()],
            budget=dense[row["problem"]].budget,
            problem_ids=[row["problem"]],
            stop=("\nQuestion:",),
        )[0]
        assert alone.ids.tolist() == np.asarray(row["ids"]).tolist()
    letters = rows[(rows["benchmark"] == "mmlu") & (rows["problem"] == "mmlu/0")]
    scores = {row["variant"]: row["choice_logprobs"] for row in letters.to_dict("records")}
    assert scores["laco-1"] != scores["dense"] and len(scores) == 5


def test_draws_differ_and_only_what_draws_has_them(
    finished: tuple[Path, Path, WatchedStops],
) -> None:
    folder, out, engine = finished
    with Store(out, read_only=True) as store:
        scores = store.frame("scores")
    orders = {n: tuple(g.sort_values("block")["score"]) for n, g in scores.groupby("criterion")}
    assert set(orders) == {"shortgpt", "random", "random@1"}
    assert orders["random"] != orders["random@1"]
    for method, said in (("shortgpt@1", "draws nothing"), ("random@x", "NAME@DRAW")):
        config = replace(settings(folder, out), methods=(method,), out=folder / "no")
        with pytest.raises(UserError, match=said):
            run_study(config, engine=engine)


def test_killed_and_run_again_it_ends_with_the_same_rows(
    finished: tuple[Path, Path, WatchedStops], tmp_path: Path
) -> None:
    folder, whole, _ = finished
    config = settings(folder, tmp_path / "study")
    for fail_after in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            run_study(config, engine=WatchedStops(fail_after))
    run_study(config, engine=WatchedStops())
    same_rows(whole, config.out)


def test_a_study_asked_otherwise_is_another_study(
    finished: tuple[Path, Path, WatchedStops],
) -> None:
    folder, out, engine = finished
    other = replace(settings(folder, out), prompts=PromptChoice())
    with pytest.raises(UserError, match="holds a study of another configuration"):
        run_study(other, engine=engine)


def test_a_criterion_is_calibrated_on_what_a_study_would_ask(
    finished: tuple[Path, Path, WatchedStops],
) -> None:
    folder, out, engine = finished
    config = settings(folder, out)
    source = CalibrationSource(
        part="prompt",
        benchmarks=("mmlu",),
        data={"mmlu": config.data["mmlu"]},
        prompts=PromptChoice("no"),
    )
    texts = [
        engine.text(s.tolist(), skip_special=False)
        for s in source.calibration(engine.model).sequences
    ]
    assert texts and not any("<|im_start|>" in text for text in texts)
