"""The package `prunescope`: its names, its namespaces, its older names, and a quick import."""

import importlib
import inspect
import subprocess
import sys
from typing import Any

import pytest

import prunescope as ps
from prunescope import stub
from prunescope.names import MOVED, NAMESPACES, TOP, modules


def run(code: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """The code in a Python of its own, where no test has imported anything."""
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True)


SPACED = [(s, n, m) for s, names in NAMESPACES.items() for n, m in modules(names.homes).items()]


@pytest.mark.parametrize(("name", "module"), modules(TOP).items())
def test_a_name_at_the_top_is_what_its_module_calls_by_that_name(name: str, module: str) -> None:
    assert getattr(ps, name) is getattr(importlib.import_module(module), name)
    assert name in dir(ps)


@pytest.mark.parametrize(("space", "name", "module"), SPACED)
def test_a_name_of_a_namespace_is_what_its_module_calls_by_that_name(
    space: str, name: str, module: str
) -> None:
    namespace = getattr(ps, space)
    assert getattr(namespace, name) is getattr(importlib.import_module(module), name)
    assert name in dir(namespace)
    assert namespace.__doc__


def test_no_name_is_twice_at_the_top_and_the_first_hour_fits_on_a_page() -> None:
    names = [name for text in TOP.values() for name in text.split()]
    assert len(names) == len(set(names))
    assert not set(names) & set(NAMESPACES)
    assert 40 <= len(names) <= 50


def test_one_name_means_one_thing_everywhere() -> None:
    """A name in a namespace and at the top, or in two namespaces, has one home."""
    home: dict[str, str] = {}
    for name, module in [*modules(TOP).items(), *((n, m) for _, n, m in SPACED)]:
        assert home.setdefault(name, module) == module


def test_what_is_listed_is_public_only() -> None:
    assert dir(ps) == sorted({*modules(TOP), *NAMESPACES, "__version__"})
    assert dir(ps) == ps.__all__
    assert dir(ps.probes) == sorted(modules(NAMESPACES["probes"].homes))


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_older_name_works_and_says_the_new_one(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"prunescope\.{old} .* prunescope\.{new}\.$"):
        found = getattr(ps, old)
    space, _, name = new.rpartition(".")
    assert found is getattr(getattr(ps, space) if space else ps, name)
    assert old not in dir(ps)


def test_the_warning_points_at_the_caller() -> None:
    said = run("import prunescope as ps\nps.tie", "-W", "always::DeprecationWarning")
    assert "<string>:2: DeprecationWarning: prunescope.tie" in said.stderr


def test_a_namespace_named_like_a_function_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import interp.lens
    import interp.replay.teacher_forced

    assert inspect.signature(ps.lens) == inspect.signature(interp.lens.lens)
    assert inspect.signature(ps.replay) == inspect.signature(interp.replay.teacher_forced.replay)
    monkeypatch.setattr(ps.lens, "lens", lambda *args, **kwargs: (args, kwargs))
    called: Any = ps.lens
    assert called(1, 2, events=3) == ((1, 2), {"events": 3})
    with pytest.raises(TypeError, match="not callable"):
        ps.probes()  # pyright: ignore[reportCallIssue]


def test_a_namespace_can_be_imported_from() -> None:
    from prunescope.probes import foretell  # pyright: ignore[reportMissingImports]

    assert foretell is ps.probes.foretell


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(AttributeError, match="LayerPlan"):
        ps.LayerPlam  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match=r"prunescope\.probes .*'foretell'"):
        ps.probes.fortell  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_the_types_are_those_of_the_table() -> None:
    written = stub.FILE.read_text(encoding="utf-8")
    assert written == stub.stub(), "run: python -m prunescope.stub"


def test_the_import_loads_no_heavy_library() -> None:
    code = (
        "import sys, prunescope; "
        "print([m for m in ('torch', 'matplotlib', 'pandas', 'sklearn') if m in sys.modules])"
    )
    assert run(code).stdout.strip() == "[]"


def test_a_model_from_the_front_door_can_generate() -> None:
    """The decoder, which gives models their `generate`, comes with the model."""
    code = (
        "import prunescope as ps; model = ps.ReasoningModel.load('testbed'); "
        "print(len(model.generate(['2 + 2'], budget=ps.Budget(4, 2))))"
    )
    assert run(code).stdout.strip() == "1"


def test_budget_and_plan_from_the_front_door() -> None:
    assert ps.Budget(thinking=64).label == "64"
    plan = ps.LayerPlan(removed=(1, 3), n_blocks=5)
    assert plan.kept == (0, 2, 4)
    assert [step.block for step in plan.interventions()] == [1, 3]
