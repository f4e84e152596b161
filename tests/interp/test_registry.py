"""A registry finds what lies in its package and in other distributions, and says what is wrong."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interp.errors import UserError
from interp.plumbing.registry import Registry

NUMBERS = itertools.count()
Make = Callable[..., Registry[int]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A registry over a new package of these modules; `place` registers into it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(**modules: str) -> Registry[int]:
        package = f"planted_package_{next(NUMBERS)}"
        group = f"prunescope.{package}"
        folder = tmp_path / package
        folder.mkdir()
        (folder / "__init__.py").write_text(
            "from interp.plumbing.registry import Registry\n"
            f"REGISTRY = Registry('colour', __name__, entry_points={group!r})\n"
            "def colour(name, value):\n"
            "    return REGISTRY.register(name, lambda function: value)\n"
        )
        for name, code in modules.items():
            (folder / f"{name}.py").write_text(f"from {package} import colour\n{code}\n")
        importlib.invalidate_caches()
        return importlib.import_module(package).REGISTRY

    return made


def offer(folder: Path, registry: Registry[Any], name: str, code: str, point: str = "") -> None:
    """An installed distribution with one module and an entry point for it."""
    module = f"outside_{next(NUMBERS)}"
    (folder / f"{module}.py").write_text(f"from {registry.package} import colour\n{code}\n")
    info = folder / f"{module}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[{registry.group}]\n{name} = {point or module}\n")
    importlib.invalidate_caches()


RED = "@colour('red', 1)\ndef red(): ..."
BLUE = "@colour('blue', 2)\ndef blue(): ..."


def test_modules_of_the_package_are_found_when_first_asked(make: Make) -> None:
    registry = make(red=RED, blue=BLUE, _helper="raise RuntimeError('a helper was imported')")
    assert f"{registry.package}.red" not in sys.modules
    assert dict(registry.entries()) == {"blue": 2, "red": 1}
    assert registry.get("red") == 1
    with pytest.raises(UserError, match=r"Unknown colour 'rde'. Did you mean 'red'\?"):
        registry.get("rde")


def test_a_module_dropped_in_later_is_found(make: Make) -> None:
    registry = make(red=RED)
    assert list(registry.entries()) == ["red"]
    folder = Path(next(iter(importlib.import_module(registry.package).__path__)))
    (folder / "blue.py").write_text(f"from {registry.package} import colour\n{BLUE}\n")
    importlib.invalidate_caches()
    assert list(registry.entries()) == ["blue", "red"]


def test_a_name_registered_twice_is_refused_and_an_import_repeated_is_not(make: Make) -> None:
    registry = make(red=RED, other=RED.replace("def red", "def another"))
    with pytest.raises(UserError, match=r"other.another has that name already|red.red has that"):
        registry.entries()
    again = make(red=RED)
    assert again.get("red") == 1
    importlib.reload(sys.modules[f"{again.package}.red"])
    assert dict(again.entries()) == {"red": 1}


def test_another_distribution_adds_one(make: Make, tmp_path: Path) -> None:
    registry = make(red=RED)
    offer(tmp_path, registry, "blue", BLUE)
    assert dict(registry.entries()) == {"blue": 2, "red": 1}


@pytest.mark.parametrize(
    ("name", "code", "point", "said"),
    [
        ("blue", "raise OSError('no such disk')", "", "could not be loaded: no such disk"),
        ("blue", BLUE, "outside_nowhere", "could not be loaded: No module named"),
        ("green", BLUE, "", "registered no colour of that name"),
        ("red", RED, "", "red.red has that name already"),
    ],
)
def test_a_broken_entry_point_names_its_distribution(
    name: str, code: str, point: str, said: str, make: Make, tmp_path: Path
) -> None:
    registry = make(red=RED)
    offer(tmp_path, registry, name, code, point)
    for _ in range(2):  # it is not forgotten after the first time
        with pytest.raises(UserError, match=r"distribution outside_\d+ 1\.5 offers") as caught:
            registry.entries()
        assert said in str(caught.value)
        assert "uninstall" in str(caught.value)
