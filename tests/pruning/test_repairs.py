"""Repairs: the registry, cuts, what a repair hands back, saves and refuses."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pruning.repairs
from interp.errors import NonFiniteError, PruneScopeError, UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration
from pruning.cost import Cost
from pruning.distance import divergences
from pruning.plan import LayerPlan
from pruning.repairs import Map, Repaired, live, mend, repair, repairs, save_repaired
from pruning.repairs.machinery.cuts import Cut, cuts
from pruning.repairs.machinery.hadamard import hadamard
from pruning.repairs.machinery.repair_saving import plain
from pruning.surgery import prune
from tests.models import tiny, untyped
from tests.registries import forget
from tests.slow_streams import hooks_of, logprobs, same_weights, snapshot, texts

NAMES = ["ghosted-layers", "laco", "linearpatch", "llm-streamline", "procrustes", "prune-comp",
         "replaceme"]  # fmt: skip
LENGTHS = (20, 14, 9, 17, 12, 20)
FEW_STEPS = {"llm-streamline": {"steps": 4, "look": 2, "batch_texts": 3}}


def mended(name: str, model: ReasoningModel, *blocks: int, **options: Any) -> Repaired:
    plan = LayerPlan.without(model, *blocks)
    return mend(name, model, plan, texts(model, LENGTHS), **FEW_STEPS.get(name, {}), **options)


# ------------------------------------------------------------------------------- the laws


@pytest.mark.parametrize("name", NAMES)
def test_the_callers_model_is_untouched_and_shares_nothing(name: str) -> None:
    model = tiny("qwen3", 5, tie_word_embeddings=True)
    before, hooks, config = snapshot(model), hooks_of(model), model.hf.config.to_dict()
    asked = [p.requires_grad for p in model.hf.parameters()]
    repaired = mended(name, model, 2, 3)
    with torch.no_grad():
        for weight in repaired.model.hf.parameters():
            weight.zero_()
    assert same_weights(model, before)
    assert hooks_of(model) == hooks
    assert hooks_of(repaired.model) == 0
    assert model.hf.config.to_dict() == config
    assert [p.requires_grad for p in model.hf.parameters()] == asked
    assert all(p.grad is None for p in [*model.hf.parameters(), *repaired.model.hf.parameters()])
    assert all("forward" not in b.__dict__ for b in [*model.blocks, *repaired.model.blocks])


@pytest.mark.parametrize("name", NAMES)
def test_the_result_follows_its_plan_in_dense_indices(name: str) -> None:
    dense = tiny("qwen3", 7)
    model = prune(dense, LayerPlan.without(dense, 1))
    repaired = mended(name, model, 3, 4)
    assert repaired.model.layer_map == repaired.plan.kept
    assert repaired.model.n_dense == 7
    gone = {3, 4} - set(repaired.plan.kept)
    assert repaired.plan.removed == tuple(sorted(gone))
    assert gone == ({4} if name == "llm-streamline" else {3, 4})
    frame = repaired.to_frame()
    assert frame["block"].tolist() == [3]
    assert frame["repair"].tolist() == [name]
    assert frame["removed"].tolist() == [[3, 4]]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_gives_the_same_weights(name: str) -> None:
    model = tiny("qwen3", 5)
    first, second = mended(name, model, 2, 3), mended(name, model, 2, 3)
    assert same_weights(first.model, snapshot(second.model))
    assert first.record == second.record


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_kept(name: str) -> None:
    model = tiny("qwen3", 5)
    wide = mended(name, model, 2, 3)
    untyped(model.hf).to(torch.bfloat16)
    repaired = mended(name, model, 2, 3)
    assert {p.dtype for p in repaired.model.hf.parameters()} == {torch.bfloat16}
    data = Calibration.of(model, texts(model, LENGTHS))
    assert divergences(wide.model, [repaired.model], data)[0] < 0.2


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_the_repair_is_that_of_the_cpu(name: str) -> None:
    model = tiny("qwen3", 5)
    here = mended(name, model, 2, 3)
    untyped(model.hf).to("cuda")
    there = untyped(mended(name, model, 2, 3).model.hf).to("cpu")
    ids = torch.tensor(texts(model, (12,))[0])[None]
    with torch.no_grad():
        torch.testing.assert_close(there(ids).logits, here.model.hf(ids).logits, atol=2e-2, rtol=0)


def test_hooks_are_gone_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("qwen3", 5)
    for name in NAMES:
        calls = []

        def fail(*_: Any, calls: list[int] = calls) -> None:
            calls.append(1)
            if len(calls) > 1:
                raise RuntimeError("planted")

        handle = untyped(model.blocks[2]).self_attn.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="planted"):
            mended(name, model, 3, 4)
        handle.remove()
        assert hooks_of(model) == 0
        assert all("forward" not in block.__dict__ for block in model.blocks)


def test_a_stream_that_is_not_finite_is_an_error() -> None:
    model = tiny("qwen3", 5)
    with torch.no_grad():
        untyped(model.blocks[1]).mlp.down_proj.weight[0, 0] = torch.inf
    for name in ("prune-comp", "linearpatch", "procrustes", "replaceme"):
        with pytest.raises(NonFiniteError, match="inf or nan"):
            mended(name, model, 2, 3)


# ------------------------------------------------------------------------- what is measured


def test_the_divergences_are_those_of_the_definition() -> None:
    model, other = tiny("qwen3", 4), tiny("qwen3", 4, seed=3)
    data = texts(model, (9, 14, 5))
    plan = LayerPlan.without(model, 1)
    got = divergences(model, [other, plan], Calibration.of(model, data), batch_tokens=20)
    for mine, hf in zip(got, (other.hf, prune(model, plan).hf), strict=True):
        total, count = 0.0, 0
        for ids in data:
            p, q = logprobs(model.hf, ids)[:-1], logprobs(hf, ids)[:-1]
            total += float((np.exp(p) * (p - q)).sum())
            count += len(p)
        assert mine == pytest.approx(total / count, rel=1e-4)
    assert divergences(model, [model], Calibration.of(model, data)) == [pytest.approx(0, abs=1e-6)]


def test_the_record_says_what_was_done() -> None:
    model = tiny("qwen3", 5)
    data = Calibration.of(model, texts(model, LENGTHS))
    plan = LayerPlan.without(model, 2, 3)
    repaired = mend("replaceme", model, plan, data, ridge=0.5)
    record = repaired.record
    assert record["repair"] == "replaceme"
    assert "2505.02819" in record["paper"]
    assert record["options"] == {
        "ridge": 0.5, "toward": "identity", "form": "full", "part": None, "batch_tokens": 4096
    }  # fmt: skip
    assert (record["calibration"], record["n_texts"]) == (data.hash, len(LENGTHS))
    assert (record["source"], record["fingerprint"]) == (model.name, model.fingerprint())
    removed, fixed = divergences(model, [plan, repaired.model], data)
    assert record["kl"] == {"removed": pytest.approx(removed), "repaired": pytest.approx(fixed)}
    assert repaired.model.name == f"{model.name} {plan.name} + replaceme"
    assert "kl" not in mend("replaceme", model, plan, data, measure=False).record


# ------------------------------------------------------------------------------- checkpoints


def test_the_folder_says_what_was_repaired(tmp_path: Path) -> None:
    dense = tiny("qwen3", 6)
    data = texts(dense, LENGTHS)
    once = prune(dense, LayerPlan.without(dense, 0))
    plan = dataclasses.replace(LayerPlan.without(once, 3, 4), criterion="shortgpt")
    repaired = mend("prune-comp", once, plan, data)
    folder = save_repaired(repaired, tmp_path / "out")
    record = json.loads((folder / "pruning.json").read_text())
    assert record["layer_map"] == [1, 2, 5]
    assert (record["n_blocks"], record["removed"]) == (6, [0, 3, 4])
    assert record["criterion"] == "shortgpt"
    assert (record["source"], record["fingerprint"]) == (once.name, once.fingerprint())
    assert record["repair"] == json.loads(json.dumps(plain(repaired.record)))
    assert LayerPlan.from_json(json.dumps(record["plan"])) == plan
    card = (folder / "README.md").read_text()
    for part in ("`prune-comp`", "2507.18212", "nats per token", repaired.record["calibration"]):
        assert part in card
    assert "Nothing was trained" not in card
    again = ReasoningModel.load(folder)
    assert (again.layer_map, again.n_dense) == ((1, 2, 5), 6)
    assert again.delimiters == dense.delimiters


def test_an_unfit_target_is_refused_and_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repaired = mended("prune-comp", tiny("qwen3", 4), 1)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match="not an empty folder"):
        save_repaired(repaired, tmp_path / "used")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(repaired.model.hf), "save_pretrained", full)
    with pytest.raises(PruneScopeError, match="No space left"):
        save_repaired(repaired, tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["used"]


def test_what_json_cannot_hold_is_made_plain() -> None:
    assert plain({"a": (1, float("inf")), 2: [float("nan")], "s": "x", "n": None}) == {
        "a": [1, "inf"], "2": ["nan"], "s": "x", "n": None
    }  # fmt: skip


# ------------------------------------------------------------------------------------ cuts


@given(st.sets(st.integers(0, 11), min_size=1, max_size=11), st.sets(st.integers(0, 11)))
def test_cuts_are_the_runs_of_the_plans_own_model(base: set[int], wanted: set[int]) -> None:
    blocks = sorted(base)
    removed = sorted(wanted & base)
    if len(removed) == len(blocks):
        removed = removed[1:]
    plan = LayerPlan(tuple(removed), len(blocks), base=tuple(blocks))
    found = cuts(plan)
    assert [l for cut in found for l in cut.removed] == list(plan.removed)
    place = {block: i for i, block in enumerate(blocks)}
    for cut in found:
        assert [place[l] for l in cut.removed] == list(
            range(place[cut.removed[0]], place[cut.last] + 1)
        )
        first, last = place[cut.removed[0]], place[cut.last]
        assert cut.before == (blocks[first - 1] if first else None)
        assert cut.after == (blocks[last + 1] if last + 1 < len(blocks) else None)
        assert {cut.before, cut.after} & set(plan.removed) == set()


def test_cuts_by_example() -> None:
    assert cuts(LayerPlan((0, 1, 4, 7), 8)) == (
        Cut((0, 1), None, 2),
        Cut((4,), 3, 5),
        Cut((7,), 6, None),
    )
    assert cuts(LayerPlan((), 3)) == ()
    assert cuts(LayerPlan((2, 5), 4, base=(0, 2, 5, 6))) == (Cut((2, 5), 0, 6),)


# -------------------------------------------------------------------------------- hadamard


@pytest.mark.parametrize("width", [1, 2, 4, 12, 20, 24, 28, 32, 36, 40, 44, 80, 896, 1152, 1280])
def test_hadamard_matrices_are_orthogonal_and_flat(width: int) -> None:
    found = hadamard(width)
    torch.testing.assert_close(found.abs() * width**0.5, torch.ones_like(found))
    torch.testing.assert_close(found.T @ found, torch.eye(width).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("width", [0, 3, 6, 33, 70])
def test_a_width_without_a_hadamard_matrix_is_refused(width: int) -> None:
    with pytest.raises(UserError, match=f"order {width} "):
        hadamard(width)


# ------------------------------------------------------------------------------------ hooks


def test_a_hook_does_what_its_map_says() -> None:
    model = tiny("qwen3", 3)
    ids = torch.tensor(texts(model, (8,))[0])[None]
    draw = torch.Generator().manual_seed(0)
    a, d = torch.randn(32, 32, generator=draw), torch.rand(32, generator=draw)
    maps = [Map(a, 1), Map(d, 0, "mlp"), Map(torch.tensor(2.0), None), Map(a, None, "embedding")]
    seen: dict[str, Any] = {}
    block, norm = untyped(model.blocks[0]), model.final_norm
    watches = [
        model.hf.get_input_embeddings().register_forward_hook(
            lambda _, args, out: seen.setdefault("embedded", out)
        ),
        block.mlp.register_forward_hook(lambda _, args, out: seen.setdefault("mlp", out)),
        block.register_forward_hook(lambda _, args, out: seen.setdefault("left", out)),
        untyped(model.blocks[2]).register_forward_hook(
            lambda _, args, out: seen.setdefault("last", out)
        ),
    ]
    with torch.no_grad(), live(model, maps):
        late = [
            block.register_forward_pre_hook(lambda _, args: seen.setdefault("x0", args[0])),
            block.mlp.register_forward_hook(lambda _, args, out: seen.setdefault("added", out)),
            model.blocks[1].register_forward_pre_hook(
                lambda _, args: seen.setdefault("x1", args[0])
            ),
            norm.register_forward_pre_hook(lambda _, args: seen.setdefault("final", args[0])),
        ]
        model.hf(ids)
    for handle in (*watches, *late):
        handle.remove()
    torch.testing.assert_close(seen["x0"], seen["embedded"] @ a)
    torch.testing.assert_close(seen["added"], seen["mlp"] * d)
    torch.testing.assert_close(seen["x1"], seen["left"] @ a)
    torch.testing.assert_close(seen["final"], seen["last"] * 2.0)
    assert hooks_of(model) == 0


def test_a_map_on_a_block_that_is_not_there_is_refused() -> None:
    model = tiny("qwen3", 4)
    pruned = prune(model, LayerPlan.without(model, 1))
    with (
        pytest.raises(UserError, match="block 1, which was removed"),
        live(pruned, [Map(torch.ones(()), 2), Map(torch.ones(()), 1)]),
    ):
        raise AssertionError
    assert hooks_of(pruned) == 0
    with (
        pytest.raises(UserError, match="dense index"),
        live(model, [Map(torch.ones(()), None, "mlp")]),
    ):
        raise AssertionError


# --------------------------------------------------------------------------------- registry


@pytest.fixture
def new_file() -> Iterator[Path]:
    """A repair file dropped into the folder, and everything about it gone afterwards."""
    folder = Path(pruning.repairs.__file__).parent
    path = folder / "planted_for_a_test.py"
    path.write_text(
        "from pruning.cost import Cost\n"
        "from pruning.repairs import Repaired, repair\n"
        "from pruning.surgery import prune\n"
        "@repair('planted', paper='none', cost=Cost(), needs_texts=False)\n"
        "def planted(model, plan, texts=None, *, gain=1.0):\n"
        "    return Repaired(prune(model, plan), plan, {'cuts': [], 'gain': gain})\n"
    )
    try:
        yield path
    finally:
        path.unlink()
        forget(pruning.repairs.REGISTRY, "planted")
        sys.modules.pop("pruning.repairs.planted_for_a_test", None)
        for cached in (folder / "__pycache__").glob("planted_for_a_test*"):
            cached.unlink()


def test_a_new_repair_is_one_new_file(new_file: Path) -> None:
    assert "planted" in repairs()
    model = tiny("qwen3", 3)
    repaired = mend("planted", model, LayerPlan.without(model, 1), gain=2.0)
    assert (repaired.record["gain"], repaired.record["options"]) == (2.0, {"gain": 2.0})
    assert "calibration" not in repaired.record


def test_the_registry_says_what_each_repair_is() -> None:
    found = repairs()
    assert list(found) == NAMES
    assert all(r.paper and r.stated is not None for r in found.values())
    assert [name for name, r in found.items() if not r.needs_texts] == ["laco"]
    assert [name for name, r in found.items() if not r.needs_plan] == ["laco"]
    assert [name for name, r in found.items() if r.on_stream] == ["ghosted-layers"]
    assert found["prune-comp"].options == ("average", "part", "batch_tokens")
    assert "seed" not in found["llm-streamline"].options


def test_bad_requests_are_refused() -> None:
    model = tiny("qwen3", 4)
    data = texts(model, LENGTHS)
    plan = LayerPlan.without(model, 1, 2)
    with pytest.raises(UserError, match="Did you mean 'replaceme'"):
        mend("replace-me", model, plan, data)
    with pytest.raises(UserError, match="Did you mean 'ridge'"):
        mend("replaceme", model, plan, data, ridges=1.0)
    with pytest.raises(UserError, match="needs calibration texts"):
        mend("replaceme", model, plan)
    with pytest.raises(UserError, match="needs a plan"):
        mend("replaceme", model, None, data)
    with pytest.raises(UserError, match="removes nothing"):
        mend("replaceme", model, LayerPlan.without(model), data)
    with pytest.raises(UserError, match="Plan 'without 1,2'"):
        mend("replaceme", tiny("qwen3", 4, seed=9), plan, data)
    with pytest.raises(UserError, match="at least 2 tokens"):
        mend("replaceme", model, plan, [np.asarray([7])])
    with pytest.raises(ValueError, match="already"):

        @repair("replaceme", paper="none", cost=Cost())
        def other(model: ReasoningModel, plan: LayerPlan, texts: Any) -> Repaired: ...
