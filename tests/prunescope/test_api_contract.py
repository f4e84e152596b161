"""Every public function with every wrong argument: it works, or a `UserError` names the argument.

The cases come from the signatures (`public_api.public`): each parameter of each function gets each
value of `VALUES`, the others the values of a right call. The default run takes a sample that
depends on the seed below; `-m slow` takes them all. What ends in another exception, or is not
done after `SECONDS` of processor time, is a fault.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from interp.errors import NonFiniteError, PruneScopeError, UserError
from interp.interventions.interventions import Intervention
from interp.interventions.windows import When
from tests.prunescope.api_calls import World
from tests.prunescope.public_api import NEVER, SLOW, Api, public

SECONDS = 10.0  # of processor time, for one call; the slowest right ones take a few
SEED = 18
SAMPLE = 1500
#: What a caller may pass by mistake. A function makes each value, since generators end.
VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "object": object,
    "True": lambda: True,
    "0": lambda: 0,
    "-1": lambda: -1,
    "3": lambda: 3,
    "2**31": lambda: 2**31,
    "10**18": lambda: 10**18,
    "10**5000": lambda: 10**5000,
    "1.5": lambda: 1.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "int64": lambda: np.int64(2),
    "float64": lambda: np.float64(0.5),
    "empty text": lambda: "",
    "digit": lambda: "3",
    "text": lambda: "no such name",
    "NUL": lambda: "a\0b",
    "surrogate": lambda: "\ud83e",
    "bytes": lambda: b"3",
    "empty": list,
    "ints": lambda: [1, 2],
    "twice": lambda: (1, 1),
    "negatives": lambda: [-1],
    "huge": lambda: [10**18],
    "floats": lambda: [1.5],
    "digits": lambda: ["3"],
    "texts": lambda: ["no such name"],
    "Nones": lambda: [None],
    "nested": lambda: [[1, 2], [3]],
    "generator": lambda: (i for i in (1, 2)),
    "texts generated": lambda: (text for text in ("a", "b")),
    "int array": lambda: np.array([1, 2]),
    "float array": lambda: np.array([0.5, np.nan]),
    "matrix": lambda: np.zeros((2, 2)),
    "no array": lambda: np.zeros(0),
    "dict": dict,
    "mapping": lambda: {"no such name": 1},
    "set": lambda: {1, 2},
    "function": lambda: lambda *_: None,
    "class": lambda: Odd,
}


class Odd:
    """Takes anything; what it makes is nothing that a function asks its caller for."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


class OverdueError(BaseException):
    """A call took too long; nothing may catch it as an ordinary exception."""


def _alarm(*_: object) -> None:
    raise OverdueError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names taken for paths may make files here; warnings are no faults."""
    monkeypatch.chdir(tmp_path)


def limited(call: Callable[[], Any]) -> Any:
    """Calls, for at most `SECONDS` of processor time."""
    before = signal.signal(signal.SIGVTALRM, _alarm)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def fault(world: World, api: Api, parameter: str, value: Any) -> str | None:
    """What is wrong with how one call ends; None if it is taken or refused as it should be."""
    given = world.arguments(api) | {parameter: value}
    try:
        limited(lambda: world.call(api, given))
    except (UserError, NonFiniteError):
        return None
    except OverdueError:
        return "hangs"
    except PruneScopeError as error:
        return f"{type(error).__name__}: {error}" if "server" not in str(error) else None
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{Path(where.filename).name}:{where.lineno}"
        return f"{type(error).__name__} at {line}: {str(error)[:120]}"
    return None


def cases() -> list[tuple[Api, str, str]]:
    """All of (function, parameter, name of a value)."""
    return [
        (api, name, value)
        for api in public()
        for name, parameter in api.parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD  # an unknown option, not a wrong value
        and name != "compiled"  # True compiles the model, for longer than a call may take
        for value in VALUES
    ]


def faults(world: World, chosen: list[tuple[Api, str, str]]) -> list[str]:
    """The faults of these cases, a line each."""
    found = []
    for api, parameter, name in chosen:
        said = fault(world, api, parameter, VALUES[name]())
        if said is not None:
            found.append(f"{api.label}({parameter}={name}): {said}")
    return found


def test_a_sample_of_wrong_calls_is_refused_by_name(world: World) -> None:
    quick = [case for case in cases() if case[0].label not in SLOW]
    assert faults(world, random.Random(SEED).sample(quick, SAMPLE)) == []


def test_every_public_function_is_checked() -> None:
    functions = [getattr(a.function, "__func__", a.function) for a in public()]
    checks = [f.__init__ if isinstance(f, type) else f for f in functions]
    pairs = zip(public(), checks, strict=True)
    assert [api.label for api, check in pairs if not hasattr(check, "__checked__")] == []


def test_right_calls_work_with_numpy_numbers_and_have_short_reprs(world: World) -> None:
    """Without this, a wrong call might be refused for another argument than the wrong one."""
    bare: set[str] = set()
    for api in public():
        if api.label in SLOW or api.label in NEVER:
            continue
        given = {name: _of_numpy(value) for name, value in world.arguments(api).items()}
        result = limited(partial(world.call, api, given))
        if type(result).__module__.partition(".")[0] in ("interp", "pruning", "scaling"):
            assert len(repr(result)) < 2000, api.label
            if not shows_itself(api.label, result):
                bare.add(type(result).__name__)
    assert bare <= set(NO_ROWS), sorted(bare - set(NO_ROWS))


#: Public classes that are no tables: settings, models, things that act.
NO_ROWS = (
    "Budget Span Sampling Delimiters Problem Verdict Request ReasoningModel HeadLens Patterns "
    "Store Judge ServerEngine StudyConfig PruneConfig CalibrationSource Calibration ModelCost "
    "RawCapture Variant Deltas DelimiterIds Workload SublayerPlan Said GradedProblems"
).split()


def shows_itself(label: str, result: Any) -> bool:
    """Whether a result has rows; then it is a frame, and a page of HTML."""
    if not hasattr(result, "to_frame"):
        return isinstance(result, (Intervention, When))
    assert isinstance(result.to_frame(), pd.DataFrame), label
    page = result._repr_html_()
    assert "<" in page and "object at 0x" not in page, label
    return True


def test_every_class_with_rows_shows_them_in_a_notebook() -> None:
    for package in ("interp", "pruning", "scaling", "recovery"):
        for info in pkgutil.walk_packages([package], f"{package}."):
            if info.name.rpartition(".")[2].startswith("_"):
                continue
            for name, value in vars(importlib.import_module(info.name)).items():
                if inspect.isclass(value) and hasattr(value, "to_frame"):
                    own = value.__module__.partition(".")[0] == package
                    assert not own or hasattr(value, "_repr_html_"), f"{info.name}.{name}"


def _of_numpy(value: Any) -> Any:
    """The same numbers as NumPy's."""
    if type(value) in (int, float):
        return np.array(value)[()]
    whole = isinstance(value, tuple) and value and all(type(item) is int for item in value)
    return np.array(value) if whole else value


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_wrong_call_is_refused_by_name(world: World) -> None:
    assert faults(world, cases()) == []


def main() -> None:
    """Prints the faults: `python -m tests.prunescope.test_api_contract [CALLS | LABEL ...]`."""
    asked = sys.argv[1:]
    chosen = cases()
    if asked and asked[0].isdecimal():
        quick = [case for case in chosen if case[0].label not in SLOW]
        chosen = random.Random(SEED).sample(quick, min(int(asked[0]), len(quick)))
    elif asked:
        chosen = [case for case in chosen if case[0].label in asked]
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        world = World(Path(folder))
        for api, parameter, name in chosen:
            begun = time.process_time()
            said = fault(world, api, parameter, VALUES[name]())
            ends["hangs" if said == "hangs" else "faults" if said else "right"] += 1
            ends["slow"] += (spent := time.process_time() - begun) > 1
            if said or spent > 1:
                sys.stdout.write(f"{api.label}({parameter}={name}): {said} ({spent:.1f} s)\n")
                sys.stdout.flush()
        world.close()
    sys.stdout.write(f"{len(chosen)} calls: {dict(ends)}\n")


if __name__ == "__main__":
    main()
