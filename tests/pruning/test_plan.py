"""Plans: what they keep, what they refuse, and that text and back loses nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UserError
from interp.interventions.interventions import Skip, VariantLike
from pruning.plan import LayerPlan
from pruning.plans import published_plans
from pruning.scores import Scores
from pruning.surgery import prune
from tests.models import tiny


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of a plan; it is made in the test, for checked types draw random numbers."""
    n = draw(st.integers(2, 12))
    base = tuple(sorted(draw(st.sets(st.integers(0, 20), min_size=n, max_size=n))))
    removed = draw(st.lists(st.sampled_from(base), unique=True, max_size=n - 1))
    numbers = st.floats(allow_nan=False, width=32)
    scores = draw(st.none() | st.lists(numbers, min_size=n, max_size=n).map(tuple))
    return {
        "removed": tuple(removed),
        "n_blocks": n,
        "criterion": draw(st.text()),
        "scores": scores,
        "base": base,
        "source": draw(st.text()),
    }


@given(plans())
def test_kept_and_removed_share_out_the_blocks(arguments: dict[str, Any]) -> None:
    plan = LayerPlan(**arguments)
    assert sorted(plan.kept + plan.removed) == list(plan.base)
    assert list(plan.kept) == sorted(plan.kept)
    assert plan.layer_map == plan.kept
    assert [s.block for s in plan.interventions()] == list(plan.removed)
    assert all(isinstance(s, Skip) and s.part == "block" for s in plan.interventions())
    assert isinstance(plan, VariantLike)


@given(plans())
def test_json_and_back_is_the_same_plan(arguments: dict[str, Any]) -> None:
    plan = LayerPlan(**arguments)
    text = plan.to_json()
    assert LayerPlan.from_json(text) == plan
    json.loads(text, parse_constant=pytest.fail)  # plain JSON, no Infinity


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12, unique=True), st.data())
def test_lowest_removes_the_lowest_scores(values: list[float], data: st.DataObject) -> None:
    remove = data.draw(st.integers(0, len(values) - 1))
    layer_map = tuple(range(0, 2 * len(values), 2))
    plan = LayerPlan.lowest(Scores.plain("x", values, layer_map), remove)
    by_score = dict(zip(layer_map, values, strict=True))
    assert len(plan.removed) == remove
    if remove:
        assert max(by_score[l] for l in plan.removed) < min(by_score[l] for l in plan.kept)
    assert plan.name == f"x-{remove}"
    assert plan.scores == tuple(values)


def test_equal_scores_remove_the_deeper_block() -> None:
    assert Scores.plain("x", [0.0, 1.0, 0.0, 1.0], (0, 1, 2, 3)).ranking == (2, 0, 3, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"removed": (0, 1, 2), "n_blocks": 3}, "leaves no model"),
        ({"removed": (3,), "n_blocks": 3}, "block 3 is not there.*0..2"),
        ({"removed": (-1,), "n_blocks": 3}, "block -1 is not there"),
        ({"removed": (1, 1), "n_blocks": 3}, "named twice"),
        ({"removed": (), "n_blocks": 0}, "at least one block"),
        ({"removed": (1,), "n_blocks": 2, "base": (0, 2)}, "block 1 is not there"),
        ({"removed": (), "n_blocks": 3, "base": (0, 2)}, "expected 3 different"),
        ({"removed": (), "n_blocks": 2, "base": (2, 0)}, "rising order"),
        ({"removed": (), "n_blocks": 2, "scores": (1.0,)}, "1 scores for 2 blocks"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LayerPlan(**arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        ('{"removed": [1]}', "n_blocks"),
        ('{"removed": [1], "n_blocks": 3, "format": 99}', "format 99"),
        ('{"removed": [1], "n_blocks": 3, "colour": 1}', "colour"),
        ('{"removed": [7], "n_blocks": 3}', "not there"),
        ('{"removed": [1.5], "n_blocks": 3}', "removed is"),
        ('{"removed": "12", "n_blocks": 3}', "removed is"),
        ('{"removed": [true], "n_blocks": 3}', "removed is"),
        ('{"removed": [1], "n_blocks": "3"}', "n_blocks is"),
        ('{"removed": [1], "n_blocks": 3, "scores": ["low", 1, 2]}', "scores is"),
        ('{"removed": [1], "n_blocks": 3, "model": null}', "model is"),
        ('{"plan": {"n_blocks": 3}, "layer_map": [0]}', "removed"),
    ],
)
def test_text_that_is_no_plan_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LayerPlan.from_json(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9", "line 1: not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"removed": [0], "n_blocks": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"removed": [0], "n_blocks": 4, "n_blocks": 5}', "'n_blocks' is there twice"),
        (b'{"removed":[0],"n_blocks":3000000000}', "none has more than"),
        (b'{"removed":[0],"n_blocks":1' + b"0" * 30 + b"}", "n_blocks.*whole number from"),
        (b'{"removed":[1' + b"0" * 30 + b'],"n_blocks":4}', "is not there"),
        (b'{"removed":[0],"n_blocks":1,"scores":[1' + b"0" * 400 + b"]}", "scores is"),
        (b'{"removed":[0],"n_blocks":4,"base":[0,0,1,2]}', "different dense indices"),
        (b'{"removed":[0],"n_blocks":3,"base":[-1,0,1]}', "from 0 to"),
        # what is written of such a base must not list all the blocks between its first and last
        (b'{"removed":[2],"n_blocks":3,"base":[0,1,1000000000000]}', "from 0 to"),
        (b'{"removed":[2],"n_blocks":3,"base":[0,1,900]}', "blocks 0, 1, 900"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    from prunescope import cli

    file = tmp_path / "plan.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        LayerPlan.read(file)
    assert "plan.json" in str(caught.value)
    for command in ("prune", "recover"):
        assert cli.run([command, "--plan", str(file), "--out", str(tmp_path / "out")]) == 2
        assert "plan.json" in capsys.readouterr().err
    with pytest.raises(UserError, match="Cannot read"):
        LayerPlan.read(tmp_path)


def test_a_plan_of_a_thousand_blocks_is_checked_at_once() -> None:
    removed = list(range(999))
    plan = LayerPlan.from_json(json.dumps({"removed": removed, "n_blocks": 1_000}))
    assert plan.kept == (999,)
    with pytest.raises(UserError, match="is named twice") as caught:
        LayerPlan.from_json(json.dumps({"removed": removed + removed, "n_blocks": 1_000}))
    assert len(str(caught.value)) < 500


def test_a_plan_is_read_from_the_record_of_a_checkpoint() -> None:
    plan = LayerPlan((1, 3), 5, criterion="shortgpt", scores=(1.0, 0.2, 3.0, 0.1, np.inf))
    record = {"layer_map": [0, 2, 4], "n_blocks": 5, "plan": json.loads(plan.to_json())}
    assert LayerPlan.from_json(json.dumps(record)) == plan


# What the papers print, typed in here a second time: a slip in the data would show.
PRINTED = {
    "llama-2-7b/shortgpt-9": (32, {21, 22, 23, 24, 25, 26, 27, 28, 29}),
    "llama-2-13b/shortgpt-10": (40, {26, 27, 28, 29, 30, 31, 32, 33, 34, 35}),
    "baichuan2-7b/shortgpt-9": (32, {22, 23, 24, 25, 26, 27, 28, 29, 30}),
    "baichuan2-13b/shortgpt-10": (40, {26, 27, 28, 29, 30, 31, 32, 33, 34, 35}),
    "llama-2-7b/perplexity-10": (32, {11, 8, 24, 21, 12, 7, 9, 10, 18, 27}),
    "llama-2-7b/perplexity-3": (32, {11, 8, 24}),
    "llama-3-8b/perplexity-6": (32, {8, 23, 9, 11, 10, 25}),
    "llama-3-8b/taylor+-6": (32, {24, 25, 26, 28, 29, 23}),
    "vicuna-7b-v1.3/perplexity-6": (32, {25, 27, 10, 24, 11, 20}),
    "mistral-7b-instruct-v0.2/angular-8": (32, {21, 22, 23, 24, 25, 26, 27, 28}),
}


@pytest.mark.parametrize("name", PRINTED)
def test_a_published_plan_by_name(name: str) -> None:
    n_blocks, removed = PRINTED[name]
    plan = LayerPlan.published(name)
    assert (plan.n_blocks, set(plan.removed), plan.name) == (n_blocks, removed, name)
    assert plan.model == ""
    assert LayerPlan.from_json(plan.to_json()) == plan


def test_every_published_plan_names_its_source() -> None:
    assert len(published_plans()) >= 12
    for name, found in published_plans().items():
        assert name == f"{name.partition('/')[0]}/{found.criterion}-{len(found.order)}"
        assert "arXiv" in found.source
        assert found.models
        plan = LayerPlan.published(name)
        assert set(plan.removed) == set(found.order)
        assert len(plan.removed) == len(found.order)
        assert found.source in plan.source
        if found.criterion == "taylor+":  # the paper never removes the first 4 and the last 2
            assert set(found.order) <= set(range(4, found.n_blocks - 2))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("llama-2-7b/shortgtp-9", "Did you mean 'llama-2-7b/shortgpt-9'"),
        ("llama-2-7b/shortgpt-3", "published for exactly 9"),
        ("llama-2-7b/perplexity-11", "published for 1 to 10"),
        ("llama-2-7b/perplexity-0", "published for 1 to 10"),
        ("llama-2-7b/perplexity-x", "Unknown published plan"),
        ("", "Unknown published plan"),
    ],
)
def test_a_plan_that_nobody_published_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LayerPlan.published(name)


def test_a_plan_knows_its_model() -> None:
    model = tiny("qwen3", 4)
    plan = LayerPlan.without(model, 2)
    plan.check(model)
    with pytest.raises(UserError, match=r"4 blocks.*has the 3 blocks"):
        plan.check(tiny("qwen3", 3))
    with pytest.raises(UserError, match="fingerprint"):
        plan.check(tiny("qwen3", 4, seed=1))
    with pytest.raises(UserError, match="has other"):
        plan.check(model, fingerprint="other")
    replace(plan, model="").check(tiny("qwen3", 4, seed=1))
    with pytest.raises(UserError, match=r"blocks 0, 1, 3"):
        replace(plan, n_blocks=3, base=(0, 1, 2), removed=(), model="").check(prune(model, plan))


def test_scores_refuse_what_makes_no_sense() -> None:
    scores = Scores.plain("x", [1.0, 2.0, np.inf], (0, 1, 2))
    assert scores.lowest(0) == ()
    for n in (3, -1):
        with pytest.raises(UserError, match="Cannot remove"):
            scores.lowest(n)
    with pytest.raises(UserError, match=r"Scores.lowest\(n=True\)"):
        scores.lowest(True)
    with pytest.raises(ValueError, match="differ in length"):
        Scores.plain("x", [1.0], (0, 1))
    with pytest.raises(ValueError, match="nan"):
        Scores.plain("x", [1.0, np.nan], (0, 1))
    protected = Scores.plain("x", [1.0, np.inf, np.inf], (0, 1, 2))
    with pytest.raises(UserError, match="protected"):
        protected.lowest(2)
    followed = Scores.plain("x", [1.0, 2.0, 3.0], (0, 1, 2), picks=((2,),))
    assert followed.lowest(1) == (2,)
    with pytest.raises(UserError, match="score again with remove=2"):
        followed.lowest(2)


def test_scores_as_a_table_and_a_figure() -> None:
    values = np.array([0.3, 0.1, 0.2])
    scores = Scores("x", values, values - 0.05, values + 0.05, (0, 2, 5), n_tokens=9)
    frame = scores.to_frame()
    assert list(frame["block"]) == [0, 2, 5]
    assert list(frame["rank"]) == [2, 0, 1]
    assert (frame["low"] < frame["score"]).all()
    ax = scores.plot()
    bars: list[Any] = list(ax.patches)
    assert [p.get_height() for p in bars] == pytest.approx([0.3, 0.1, 0.2])
    assert [round(p.get_x() + p.get_width() / 2) for p in bars] == [0, 2, 5]
    assert scores.plot(ax) is ax
    Scores.plain("y", [np.inf, 1.0], (0, 1)).plot()
    import matplotlib.pyplot as plt

    plt.close("all")
