"""The two examples of CONTRIBUTING.md do what it says: one file, one registration."""

import re
from pathlib import Path

import pytest

import pruning.criteria
import scaling.benchmarks

TEXT = Path(__file__).parents[2].joinpath("CONTRIBUTING.md").read_text(encoding="utf-8")
CRITERION, BENCHMARK = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def run(code: str) -> None:
    exec(compile(code, "CONTRIBUTING.md", "exec"), {"__name__": "example"})  # noqa: S102


def test_the_criterion_of_the_example_scores_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.model.reasoning_model import ReasoningModel
    from pruning.criteria import criteria, score
    from pruning.plan import LayerPlan

    monkeypatch.setattr(pruning.criteria, "_REGISTRY", dict(pruning.criteria._REGISTRY))
    run(CRITERION)
    assert "middle" in criteria()
    model = ReasoningModel.load("testbed")
    plan = LayerPlan.lowest(score("middle", model), remove=2)
    assert plan.removed == (model.n_blocks // 2 - 1, model.n_blocks // 2)


def test_the_benchmark_of_the_example_reads_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scaling.benchmarks import benchmarks, load_benchmark

    benchmarks()
    monkeypatch.setattr(scaling.benchmarks, "_entries", dict(scaling.benchmarks._entries))
    run(BENCHMARK)
    file = tmp_path / "svamp.jsonl"
    file.write_text(
        '{"ID": "chal-1", "Body": "Dan has 8 nuts.", "Question": "He eats 3. How many?", '
        '"Answer": "5.0"}\n',
        encoding="utf-8",
    )
    (problem,) = load_benchmark("svamp", file).problems
    assert problem.question == "Dan has 8 nuts. He eats 3. How many?"
    assert problem.answer == "5.0"
