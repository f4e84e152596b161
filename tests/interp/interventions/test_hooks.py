"""Row-wise interventions against naive whole-output hooks, one row at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from interp.errors import UserError
from interp.interventions.hooks import apply
from interp.interventions.interventions import (
    Intervention,
    MeanDelta,
    Part,
    ResampleDelta,
    Scale,
    Skip,
    Variant,
    ZeroDelta,
    dense,
)
from interp.interventions.patches import Patch
from interp.interventions.windows import Window
from tests.models import tiny
from tests.reference import slow_logits

IDS = [2, 6, 8, 33, 37, 9, 10, 51, 3, 2, 7, 4, 20, 21, 22, 40]
STEPS = torch.arange(len(IDS)) - 10  # the first ten are the prompt
Edit = Callable[[torch.Tensor], torch.Tensor]


def logits(model, rows, steps=None):
    with torch.no_grad(), apply(model, rows, steps=steps):
        return model.hf(torch.tensor([IDS] * len(rows)), use_cache=False).logits


@pytest.mark.parametrize("part", ["block", "attention", "mlp"])
@pytest.mark.parametrize("arch", ["qwen3", "gemma2", "olmo2", "phi3"])
def test_each_row_is_changed_as_its_own_variant_asks(arch: str, part: Part) -> None:
    model = tiny(arch)
    torch.manual_seed(0)
    mean, stream = torch.randn(32), torch.randn(4, 32)

    def patched(delta: torch.Tensor) -> torch.Tensor:
        out = delta.clone()
        out[12:16] = stream  # steps 2, 3, 4, 5
        return out

    cases: list[tuple[Intervention, Edit]] = [
        (Skip(0, part=part), torch.zeros_like),
        (Skip(2, part=part), torch.zeros_like),
        (MeanDelta(1, part=part, mean=mean), lambda d: mean.expand_as(d)),
        (Scale(1, part=part, gain=-0.7), lambda d: d * -0.7),
        (Patch(3, part=part, stream=stream, first=2), patched),
    ]
    rows = [dense, *(Variant(f"v{i}", (c[0],)) for i, c in enumerate(cases)), dense]
    steps = STEPS.clamp(min=-1)[None]
    together = logits(model, rows, steps)
    torch.testing.assert_close(together[0], slow_logits(model, IDS), atol=1e-5, rtol=0)
    for got, (step, edit) in zip(together[1:], cases, strict=False):
        want = slow_logits(model, IDS, {(step.block, part): edit})
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
        assert (got - together[0]).abs().max() > 1e-2
    assert torch.equal(together[0], together[-1])


def test_zero_delta_is_skip_by_a_deprecated_name() -> None:
    model = tiny()
    with pytest.warns(DeprecationWarning, match="use Skip"):
        old = ZeroDelta(1, part="mlp")
    both = logits(model, [Variant("old", (old,)), Variant("new", (Skip(1, part="mlp"),))], None)
    assert torch.equal(both[0], both[1])


def test_windows_choose_positions() -> None:
    model = tiny()
    steps = STEPS.clamp(min=-1)[None]
    windows = [Window(2, 4), Window.decode_only(), Window.prefill_only(), Window(-1, 3), Window(3)]
    together = logits(
        model, [Variant(str(w), (Skip(1, window=w),)) for w in windows], steps.expand(5, -1)
    )
    for got, window in zip(together, windows, strict=True):
        inside = torch.tensor(
            [s >= window.start and (window.stop is None or s < window.stop) for s in steps[0]]
        )
        want = slow_logits(
            model, IDS, {(1, "block"): lambda d, i=inside: torch.where(i[:, None], 0.0, d)}
        )
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_several_in_one_variant_act_in_order() -> None:
    model = tiny()
    mean = torch.randn(32)
    one = Variant("a", (MeanDelta(1, mean=mean), Scale(1, gain=2.0), Skip(3), Scale(0, gain=0.5)))
    other = Variant("b", (Scale(1, gain=2.0), MeanDelta(1, mean=mean)))
    got = logits(model, [one, other])
    edits: dict[tuple[int, str], Edit] = {
        (1, "block"): lambda d: (2 * mean).expand_as(d),
        (3, "block"): torch.zeros_like,
        (0, "block"): lambda d: d * 0.5,
    }
    torch.testing.assert_close(got[0], slow_logits(model, IDS, edits), atol=1e-5, rtol=0)
    edits = {(1, "block"): lambda d: mean.expand_as(d)}
    torch.testing.assert_close(got[1], slow_logits(model, IDS, edits), atol=1e-5, rtol=0)


def test_patch_from_a_row_copies_its_delta() -> None:
    model = tiny()
    seen = {}

    def keep(_, args, out) -> None:
        seen["delta"] = out - args[0]

    ids = torch.tensor([IDS, IDS[::-1]])
    with torch.no_grad(), apply(model, [dense, Variant("p", (Patch(2, row=0),))]):
        got = model.hf(ids, use_cache=False).logits[1]
    handle = model.blocks[2].register_forward_hook(keep)
    slow_logits(model, IDS)
    handle.remove()
    want = slow_logits(model, IDS[::-1], {(2, "block"): lambda d: seen["delta"][0]})
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_resampled_deltas_come_from_the_pool_and_follow_their_key() -> None:
    model = tiny()
    pool = torch.arange(5.0)[:, None].expand(5, 32).contiguous() * 100
    seen = {}

    def keep(_, args, out) -> None:
        seen["delta"] = (out - args[0]).mean(-1)

    def draw(keys: list[int], seed: int = 0) -> torch.Tensor:
        variant = Variant("r", (ResampleDelta(1, pool=pool, seed=seed),))
        with (
            torch.no_grad(),
            apply(model, variant, steps=STEPS[None].expand(len(keys), -1), keys=torch.tensor(keys)),
        ):
            handle = model.blocks[1].register_forward_hook(keep)
            model.hf(torch.tensor([IDS] * len(keys)), use_cache=False)
            handle.remove()
        return (seen["delta"] / 100).round()

    a = draw([7, 8, 9])
    assert set(a.flatten().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert torch.equal(a[1], draw([8])[0])
    assert not torch.equal(a[0], a[1])
    assert not torch.equal(draw([8], seed=1)[0], a[1])


def test_rows_that_are_not_meant_stay_bit_for_bit() -> None:
    model = tiny()
    plain = logits(model, [dense, dense, dense])
    mixed = logits(model, [dense, Variant("x", (Skip(0), Scale(2, gain=3.0))), dense])
    assert torch.equal(plain[0], mixed[0]) and torch.equal(plain[2], mixed[2])


def test_mistakes_are_named() -> None:
    model = tiny()
    with pytest.raises(UserError, match="ends before it begins"):
        Window(5, 5)
    with pytest.raises(UserError, match="first step is -1"):
        Window(-2)
    with pytest.raises((UserError, TypeError), match="part"):
        Skip(0, part="head")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="Block 9 is not there"):
        logits(model, [Variant("x", (Skip(9),))])
    with pytest.raises(UserError, match="expected \\[32\\]"):
        logits(model, [Variant("x", (MeanDelta(0, mean=torch.zeros(31)),))])
    with pytest.raises(UserError, match="either stream"):
        Patch(0)
    with pytest.raises(UserError, match="stream"):
        logits(model, [Variant("x", (Patch(0, stream=torch.zeros(3, 8)),))], STEPS[None])
    with pytest.raises(UserError, match="window in steps"):
        logits(model, [Variant("x", (Skip(0, window=Window(1)),))])
    with pytest.raises(UserError, match="the batch has 1 rows"):
        logits(model, [Variant("x", (Patch(0, row=4),))])
    assert not any(m._forward_hooks for m in model.hf.modules())
