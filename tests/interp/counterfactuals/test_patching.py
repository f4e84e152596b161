"""Patching grids: a slow loop over plain hooks, and a model whose answer was planted."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import torch

from interp.chains.chain import Budget
from interp.counterfactuals.patching import patching_grid
from interp.diagnosis.events import mark
from interp.errors import UserError
from tests.models import tiny
from tests.planted import WORD, Planted
from tests.tolerances import logit_noise

mpl.use("Agg")
CLEAN = [2, 6, 8, 33, 37, 9, 10, 51, 3, 2, 7, 4, 20]
CORRUPT = [2, 6, 8, 34, 37, 9, 11, 51, 3, 2, 7, 4, 20]


def streams(model, ids):
    """What enters and leaves every block [T, D], by plain hooks."""
    seen = []
    handles = [
        block.register_forward_hook(
            lambda _, args, kwargs, out: seen.append(
                ((args[0] if args else kwargs["hidden_states"])[0],
                 (out[0] if isinstance(out, tuple) else out)[0])
            ),
            with_kwargs=True,
        )
        for block in model.blocks
    ]  # fmt: skip
    with torch.no_grad():
        logits = model.hf(torch.tensor([ids]), use_cache=False).logits[0, -1].float()
    for handle in handles:
        handle.remove()
    return seen, logits


def slow_cell(model, good, stream, block, mask):
    """The logits of the corrupt prompt with one patch, by one hook and one whole pass."""
    pre, post = good[block]

    def before(_, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        new = torch.where(mask[:, None], pre, x[0])[None]
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    def behind(_, args, kwargs, out):
        y = out[0] if isinstance(out, tuple) else out
        x = args[0] if args else kwargs["hidden_states"]
        put = post if stream == "resid_post" else x[0] + post - pre
        new = torch.where(mask[:, None], put, y[0])[None]
        return (new, *out[1:]) if isinstance(out, tuple) else new

    module = model.blocks[block]
    handle = (
        module.register_forward_pre_hook(before, with_kwargs=True)
        if stream == "resid_pre"
        else module.register_forward_hook(behind, with_kwargs=True)
    )
    with torch.no_grad():
        logits = model.hf(torch.tensor([CORRUPT]), use_cache=False).logits[0, -1].float()
    handle.remove()
    return logits


@pytest.mark.parametrize("stream", ["resid_pre", "resid_post", "delta"])
@pytest.mark.parametrize("arch", ["qwen3", "gemma2", "gpt_neox"])
def test_every_cell_is_one_slow_pass_with_a_hook(arch: str, stream) -> None:
    model = tiny(arch)
    right, wrong = 12, 17
    found = patching_grid(
        model, CLEAN, CORRUPT, answers=(right, wrong), stream=stream, batch_tokens=60
    )
    good, clean = streams(model, CLEAN)
    _, corrupt = streams(model, CORRUPT)
    near = 2 * logit_noise(model)
    assert abs(found.clean - float(clean[right] - clean[wrong])) < near
    assert abs(found.corrupt - float(corrupt[right] - corrupt[wrong])) < near
    assert abs(found.clean - found.corrupt) > 100 * near
    for block in range(model.n_blocks):
        for position in range(len(CLEAN)):
            mask = torch.arange(len(CLEAN)) == position
            logits = slow_cell(model, good, stream, block, mask)
            assert abs(found.values[block, position] - float(logits[right] - logits[wrong])) < near
    assert found.recovered.shape == (model.n_blocks, len(CLEAN))


def test_events_patch_all_their_positions_at_once() -> None:
    model = tiny()
    mask = np.zeros(len(CLEAN), dtype=bool)
    mask[[3, 6]] = True
    found = patching_grid(
        model, CLEAN, CORRUPT, metric=lambda logits: logits[:, 12], over="event",
        events={"changed": mask, "rest": ~mask, "all": np.ones(len(CLEAN), dtype=bool)},
        blocks=[2, 0],
    )  # fmt: skip
    good, _ = streams(model, CLEAN)
    for row, block in enumerate((2, 0)):
        want = slow_cell(model, good, "resid_pre", block, torch.from_numpy(mask))[12]
        assert abs(found.values[row, 0] - float(want)) < 2 * logit_noise(model)
    np.testing.assert_allclose(found.recovered[1], [1, 0, 1], atol=1e-4)  # before the first block
    assert found.columns == ("changed", "rest", "all")
    assert found.to_frame()["event"].tolist() == ["changed", "rest", "all"] * 2


def test_events_of_a_chain_are_those_of_the_passes_that_chose_its_tokens() -> None:
    model = tiny(ends=False)
    (chain,) = model.generate(["compute 3 + 4"], budget=Budget(12, 2))
    clean = [*chain.prompt_ids.tolist(), *chain.ids[:-1].tolist()]
    clean[2] = 9
    masks = mark([chain], model)
    by_event = patching_grid(
        model, clean, chain, answers=("wait", "check"), over="event",
        events={"all": masks["all"]},
    )  # fmt: skip
    whole = np.zeros(len(clean), dtype=bool)
    whole[len(chain.prompt_ids) - 1 :] = masks["all"][0]
    plain = patching_grid(
        model, clean, chain, answers=("wait", "check"), over="event", events={"all": whole}
    )
    np.testing.assert_array_equal(by_event.values, plain.values)


def test_the_planted_block_and_position_carry_the_answer() -> None:
    """The copier attends 4 tokens back: that position before it, the last one behind it."""
    planted = Planted(n_blocks=5, copier=2, period=5)
    model = planted.model()
    words = ["13", "15", "17", "19", "21", "23", "25", "27"]
    clean = [WORD[w] for w in words]
    corrupt = list(clean)
    corrupt[-5] = WORD["29"]
    found = patching_grid(model, clean, corrupt, answers=(words[-5], "29"))
    want = np.zeros((5, len(clean)))
    want[:3, -5] = 1  # the source position, up to the block that copies
    want[3:, -1] = 1  # then the last position, which has the answer
    np.testing.assert_allclose(found.recovered, want, atol=0.02)
    by_delta = patching_grid(model, clean, corrupt, answers=(words[-5], "29"), stream="delta")
    only = np.zeros((5, len(clean)))
    only[2, -1] = 1
    np.testing.assert_allclose(by_delta.recovered, only, atol=0.02)
    frame = found.to_frame()
    assert frame.loc[frame["recovered"].idxmax(), "token"] in ("29", "27")
    axes = found.plot()
    assert [t.get_text() for t in axes.get_yticklabels()] == list("01234")
    assert "logit difference" in axes.figure.axes[-1].get_ylabel()
    mpl.pyplot.close("all")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"corrupt": CORRUPT[:-1]}, "expected as many"),
        ({"answers": None}, "either answers"),
        ({"metric": lambda logits: logits[:, 0]}, "not both"),
        ({"answers": ("wait check", "no")}, "expected one token"),
        ({"answers": (10**6, 1)}, "expected one token"),
        ({"over": "event"}, "goes with events"),
        ({"over": "event", "events": {}}, "no event was given"),
        ({"over": "event", "events": {"a": [True]}}, "a boolean for each of 13 positions"),
        ({"blocks": [9]}, "dense blocks 0..3"),
        ({"blocks": [1, 1]}, "none twice"),
        ({"answers": None, "metric": lambda logits: logits}, "one per row"),
        ({"answers": None, "metric": lambda logits: 1.0}, "returned float"),
    ],
)
def test_wrong_requests_are_refused(change, match: str) -> None:
    given = {"clean": CLEAN, "corrupt": CORRUPT, "answers": (12, 17)} | change
    with pytest.raises(UserError, match=match):
        patching_grid(tiny(), **given)
