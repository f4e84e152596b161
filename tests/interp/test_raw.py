"""Raw capture: what is on disk is the stream, and reducing it gives what reducers give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from interp import raw as module
from interp.errors import PruneScopeError, UserError
from interp.raw import RawCapture, load_raw
from interp.record import BlockInfluence, Moments
from interp.replay import replay
from tests.models import ARCHS, tiny
from tests.reference import slow_logits
from tests.streams import texts

LENGTHS = (6, 17, 4, 9)


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("arch", ARCHS)
def test_the_streams_are_those_of_one_slow_pass(arch: str, chunk: int | None, tmp_path: Path):
    model = tiny(arch)
    data = texts(model, LENGTHS)
    counted = [np.arange(len(ids)) % 3 != 1 for ids in data]
    sink = RawCapture(
        tmp_path / "r", blocks=[3, 1], streams=("resid_pre", "resid_post", "delta"),
        shard_bytes=4000,
    )  # fmt: skip
    replay(model, data, [sink], counted=counted, chunk_tokens=chunk)
    found = load_raw(tmp_path / "r")
    assert found.index["shards"] > 1 and found.texts == (0, 1, 2, 3)
    for text, ids in enumerate(data):
        seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        slow_logits(model, list(ids), None, seen)
        for block in (1, 3):
            x, y = (s[torch.from_numpy(counted[text])] for s in seen[block])
            for name, want in (("resid_pre", x), ("resid_post", y), ("delta", y - x)):
                got = found.stream(text, block, name)  # type: ignore[arg-type]
                torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
                at = found.positions(text, block, name)  # type: ignore[arg-type]
                assert at.tolist() == np.flatnonzero(counted[text]).tolist()
    assert len(found.to_frame()) == len(found.index["pieces"])


def test_reducing_what_was_captured_is_the_reducer(tmp_path: Path) -> None:
    """Law 3."""
    model = tiny("qwen3")
    data = texts(model, LENGTHS)
    influence, moments = BlockInfluence(), Moments()
    sink = RawCapture(tmp_path / "r", streams=("resid_pre", "resid_post"))
    replay(model, data, [influence, moments, sink])
    found = load_raw(tmp_path / "r")
    for block in range(4):
        x, y = (
            torch.cat([found.stream(t, block, s) for t in range(len(data))])  # type: ignore[arg-type]
            for s in ("resid_pre", "resid_post")
        )
        score = (1 - torch.cosine_similarity(x, y, dim=-1)).mean()
        assert influence.result().values()[block] == pytest.approx(float(score), abs=1e-5)
        torch.testing.assert_close(moments.mean()[block], (y - x).mean(0), atol=1e-5, rtol=1e-4)


def test_a_dtype_is_kept_or_changed_when_asked(tmp_path: Path) -> None:
    model = tiny("qwen3")
    torch.nn.Module.to(model.hf, torch.bfloat16)
    data = texts(model, (5,))
    replay(model, data, [RawCapture(tmp_path / "a"), RawCapture(tmp_path / "b", dtype=torch.float)])
    assert load_raw(tmp_path / "a").stream(0, 2).dtype == torch.bfloat16
    assert load_raw(tmp_path / "b").stream(0, 2).dtype == torch.float32


def test_a_capture_that_was_stopped_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("qwen3")
    data = texts(model, LENGTHS)
    handle = model.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        replay(model, data, [RawCapture(tmp_path / "r", shard_bytes=1)])
    handle.remove()
    with pytest.raises(UserError, match="was stopped before it ended"):
        load_raw(tmp_path / "r")
    with pytest.raises(UserError, match="not an empty folder"):
        replay(model, data, [RawCapture(tmp_path / "r")])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(PruneScopeError, match="No space left"):
        replay(model, data, [RawCapture(tmp_path / "full")])
    assert not any(m._forward_hooks for m in model.hf.modules())
    assert not list((tmp_path / "full").iterdir())


def test_what_cannot_be_captured_or_read(tmp_path: Path) -> None:
    model = tiny("qwen3")
    data = texts(model, (5,))
    with pytest.raises(UserError, match="is not there"):
        load_raw(tmp_path / "nothing")
    with pytest.raises(UserError, match="Block 9"):
        replay(model, data, [RawCapture(tmp_path / "x", blocks=[9])])
    with pytest.raises((UserError, TypeError)):
        RawCapture(tmp_path / "x", streams=("resid",))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="shard_bytes"):
        RawCapture(tmp_path / "x", shard_bytes=0)
    replay(model, data, [RawCapture(tmp_path / "r", blocks=[1])])
    found = load_raw(tmp_path / "r")
    with pytest.raises(UserError, match="no resid_post of text 0 at block 2"):
        found.stream(0, 2)
    next((tmp_path / "r").glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="lacks streams-00000"):
        load_raw(tmp_path / "r")
    (tmp_path / "r" / module.INDEX).write_text("{")
    with pytest.raises(UserError, match="no valid JSON"):
        load_raw(tmp_path / "r")
