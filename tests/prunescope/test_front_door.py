"""The package `prunescope`: every public name in one place, and a quick import."""

import subprocess
import sys

import pytest

import prunescope as ps


@pytest.mark.parametrize("name", sorted(set(ps.__all__) - {"__version__"}))
def test_every_public_name_is_what_its_module_calls_by_that_name(name: str) -> None:
    import importlib

    module = importlib.import_module(ps._MODULE_OF[name])
    assert getattr(ps, name) is getattr(module, name)
    assert name in dir(ps)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(AttributeError, match="LayerPlan"):
        ps.LayerPlam  # noqa: B018


def test_the_type_checker_sees_the_names_that_are_there() -> None:
    import ast
    from pathlib import Path

    tree = ast.parse(Path(str(ps.__file__)).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (alias.name, part.module)
        for part in block.body
        if isinstance(part, ast.ImportFrom)
        for alias in part.names
    }
    assert seen == set(ps._MODULE_OF.items())


def test_the_import_loads_no_heavy_library() -> None:
    code = (
        "import sys, prunescope; "
        "print([m for m in ('torch', 'matplotlib', 'pandas', 'sklearn') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_budget_and_plan_from_the_front_door() -> None:
    assert ps.Budget(thinking=64).label == "64"
    plan = ps.LayerPlan(removed=(1, 3), n_blocks=5)
    assert plan.kept == (0, 2, 4)
    assert [step.block for step in plan.interventions()] == [1, 3]
