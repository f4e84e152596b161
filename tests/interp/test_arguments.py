"""The check of arguments: what it passes on, what it refuses and in which words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from jaxtyping import Float, Int

import prunescope as ps
from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.replay.block_sweep import sweep
from pruning.criteria.block_influence import influence
from tests.models import tiny


@checked
def sample(
    n: int = 1,
    rate: float = 0.5,
    level: float = 0.95,
    names: Sequence[str] = (),
    blocks: Sequence[int] | Int[np.ndarray, " B"] | None = None,
    part: Literal["block", "mlp"] = "block",
    place: str | Path = ".",
    table: Mapping[str, Sequence[int]] | None = None,
    values: Float[np.ndarray, " L"] | None = None,
    low: Float[np.ndarray, " L"] | None = None,
    call: Callable[[], None] | None = None,
    flag: bool = False,
) -> dict[str, Any]:
    """What was passed on."""
    return dict(locals())


@pytest.mark.parametrize(
    ("name", "make", "passed"),
    [
        ("n", lambda: np.int64(3), 3),
        ("rate", lambda: np.float64(0.5), 0.5),
        ("rate", lambda: 2, 2),
        ("names", lambda: "wait", ("wait",)),
        ("names", lambda: (name for name in "ab"), ("a", "b")),
        ("names", lambda: np.array(["a", "b"]), ["a", "b"]),
        ("blocks", lambda: range(3), range(3)),
        ("blocks", lambda: (np.int64(1), 2), (1, 2)),
        ("table", lambda: {"a": (i for i in (1, 2))}, {"a": (1, 2)}),
        ("flag", lambda: np.bool_(True), True),
        ("place", lambda: "hub//name", "hub//name"),
    ],
)
def test_what_means_the_same_is_passed_on_as_pythons_own(
    name: str, make: Callable[[], Any], passed: Any
) -> None:
    value = sample(**{name: make()})[name]
    assert value == passed
    assert type(value) is type(passed)


def test_arrays_stay_and_lists_become_arrays() -> None:
    ids = np.array([1, 2])
    assert sample(blocks=ids)["blocks"] is ids
    numbers: Any = [1, 2]
    made = sample(values=numbers, low=np.array([1, 2]))
    assert made["values"].dtype == made["low"].dtype == np.float64


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n": "3"}, r"sample(n='3'): expected a whole number."),
        ({"n": True}, r"sample(n=True): expected a whole number."),
        ({"n": 1.0}, r"sample(n=1.0): expected a whole number."),
        ({"n": 10**5000}, r"sample(n=<int>): expected a whole number from"),
        ({"rate": float("nan")}, r"sample(rate=nan): expected a number, not nan."),
        ({"level": 1}, "sample(level=1): expected a number between 0 and 1, both excluded."),
        ({"names": 3}, "sample(names=3): expected a sequence of texts."),
        ({"names": ["a", 3]}, "sample(names[1]=3): expected text."),
        ({"names": {"a"}}, "sample(names={'a'}): expected a sequence of texts."),
        ({"names": "\ud83e"}, "sample(names='\\ud83e'): expected a sequence of texts."),
        ({"blocks": [1.5]}, "sample(blocks[0]=1.5): expected a whole number."),
        ({"part": "blok"}, "expected one of block, mlp. Did you mean 'block'?"),
        ({"place": "a\0b"}, "expected a path or name."),
        ({"table": {"a": [None]}}, "sample(table['a'][0]=None): expected a whole number."),
        ({"values": [[1.0]]}, "expected an array of numbers [L] or None."),
        (
            {"values": [1.0], "low": [1.0, 2.0]},
            "sample(low=...): 2 entries along L, and 1 in values",
        ),
        ({"call": 3}, "sample(call=3): expected a function or None."),
        ({"flag": "yes"}, "sample(flag='yes'): expected True or False."),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        sample(**given)


def test_a_call_that_does_not_fit_the_signature_is_pythons_own_error() -> None:
    wrong: Any = sample
    with pytest.raises(TypeError, match="unexpected keyword argument 'm'"):
        wrong(m=1)
    with pytest.raises(TypeError, match="positional argument"):
        wrong(*[1, 0.5, 0.95, (), (), "mlp", ".", {}, None, None, None, True, "one too many"])


def test_signatures_and_help_are_those_of_the_function() -> None:
    assert list(inspect.signature(ps.Budget).parameters) == ["thinking", "answer", "waits"]
    assert "texts" in inspect.signature(ps.block_influence).parameters
    assert (ps.fork.__doc__ or "").startswith("Makes requests")


def test_numpy_integers_are_integers() -> None:
    two: Any = np.int64(2)
    assert ps.Budget(two, two, two) == ps.Budget(2, 2, 2)
    scores = ps.pruning.Scores.plain("c", [3, 1, 2], (0, 1, 2))
    assert ps.LayerPlan.lowest(scores, two).removed == (1, 2)
    config = ps.StudyConfig(remove=(two,), budgets=np.array([4, 8]), waits=(two,))  # type: ignore[arg-type]
    assert (config.remove, config.budgets, config.waits) == ((2,), (4, 8), (2,))
    assert type(config.remove[0]) is int


@pytest.mark.parametrize(
    "call",
    [
        lambda: ps.LayerPlan((1.5,), 16),  # type: ignore[arg-type]
        lambda: ps.load_benchmark("arithmetic", limit=1.5),  # type: ignore[arg-type]
        lambda: ps.load_benchmark("arithmetic", limit=float("inf")),  # type: ignore[arg-type]
        lambda: ps.StudyConfig(limit=1.5),  # type: ignore[arg-type]
        lambda: ps.statistics.clopper_pearson(1.5, 10),  # type: ignore[arg-type]
        lambda: ps.Skip("3"),  # type: ignore[arg-type]
    ],
)
def test_what_was_silently_taken_or_hung_is_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(UserError, match="expected a whole number"):
        call()


def test_an_intervention_is_a_variant_and_a_number_a_budget() -> None:
    assert ps.Variant("x", ps.Skip(1)) == ps.Variant("x", (ps.Skip(1),))  # type: ignore[arg-type]
    model, question = tiny(n_blocks=3), ["what is 2 + 3 ?"]
    told = model.generate(question, [ps.Variant("skip 1", (ps.Skip(1),))], ps.Budget(8))
    short = model.generate(question, [ps.Skip(1)], 8)
    assert short[0].variant == "skip 1"
    assert np.array_equal(short[0].ids, told[0].ids)
    assert ps.Scale(2, 0.5, window=ps.Window(4)).name == (
        "scale 2 gain=0.5 Window(start=4, stop=None)"
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ps.diagnosis.reflections("wait , no").rate("x"), "kind of reflection 'x'"),
        (lambda: swept().interval("x"), "metric 'x'.*excess, kl, loss"),
        (lambda: apart().by_step([0], "x"), "quantity 'x'.*kl"),
        (
            lambda: ps.effects.BlockScores.of_texts("s", influence(tiny(), ["what is 2"]), "x"),
            "quantity 'x'.*influence",
        ),
        (
            lambda: ps.diagnosis.diversity_beside(
                {"dense": {"p": [[*range(9)]] * 2}}, {"dense": {"p": [True] * 2}}, {"dense": {}}
            ),
            "2 samples but 0 answers",
        ),
    ],
)
def test_an_unknown_name_of_a_result_says_what_there_is(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        call()


def swept() -> Any:
    return sweep(tiny(), [[5, 6, 7]])


def apart() -> Any:
    model = tiny(ends=False)
    return ps.divergence(model, model.generate(["what is 2 ?"], budget=4), ps.Skip(1))
