"""Raw capture: what is on disk is the stream, and reducing it gives what reducers give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.activations import store as module
from interp.activations.capture import capture
from interp.activations.reducers import BlockInfluence, Moments, ResidualNorms
from interp.activations.store import RawCapture, load_raw
from interp.errors import NonFiniteError, PruneScopeError, UserError
from interp.replay.teacher_forced import replay
from tests.models import ARCHS, tiny
from tests.reference import slow_logits
from tests.slow_streams import hooks_of, texts

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
    assert found.lengths == tuple(int(mask.sum()) for mask in counted)
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
    influence, moments, norms = BlockInfluence(), Moments(), ResidualNorms()
    sink = RawCapture(tmp_path / "r", streams=("resid_pre", "resid_post"))
    replay(model, data, [influence, moments, norms, sink])
    found = load_raw(tmp_path / "r")
    for block in range(4):
        x, y = (
            torch.cat([found.stream(t, block, s) for t in range(len(data))])  # type: ignore[arg-type]
            for s in ("resid_pre", "resid_post")
        )
        score = (1 - torch.cosine_similarity(x, y, dim=-1)).mean()
        assert influence.result().values()[block] == pytest.approx(float(score), abs=1e-5)
        torch.testing.assert_close(moments.mean()[block], (y - x).mean(0), atol=1e-5, rtol=1e-4)
        for name, part in (("resid_pre", x), ("resid_post", y), ("delta", y - x)):
            mean = float(part.norm(dim=-1).mean())
            assert norms.result().values(name)[block] == pytest.approx(mean, rel=1e-5)


def test_bfloat16_is_kept_bit_for_bit_or_changed_when_asked(tmp_path: Path) -> None:
    model = tiny("qwen3")
    torch.nn.Module.to(model.hf, torch.bfloat16)
    data = texts(model, (5,))
    seen: list[Any] = []
    handle = model.blocks[2].register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    sinks = [
        RawCapture(tmp_path / "a", streams=("resid_post", "delta")),
        RawCapture(tmp_path / "b", dtype=torch.float, streams=("delta",)),
    ]
    replay(model, data, sinks)
    handle.remove()
    x, y = (t[0] for t in seen[0])
    a, b = load_raw(tmp_path / "a"), load_raw(tmp_path / "b")
    assert (a.index["dtype"], b.index["dtype"]) == ("bfloat16", "float32")
    assert torch.equal(a.stream(0, 2), y)
    assert torch.equal(a.stream(0, 2, "delta"), (y.float() - x.float()).bfloat16())
    assert torch.equal(b.stream(0, 2), y.float() - x.float())


def test_no_more_than_a_shard_is_held(tmp_path: Path) -> None:
    model = tiny("qwen3")
    piece = 5 * model.d_model * 4
    held: list[int] = []

    class Watched(RawCapture):
        def update(self, *args: Any) -> None:
            super().update(*args)
            held.append(sum(t.nbytes for t in self.held.values()))

    sink = Watched(tmp_path / "r", shard_bytes=3 * piece)
    replay(model, texts(model, (20, 20)), [sink], chunk_tokens=5, batch_tokens=10)
    assert max(held) == 3 * piece
    sizes = [path.stat().st_size for path in (tmp_path / "r").glob("*.safetensors")]
    assert len(sizes) == load_raw(tmp_path / "r").index["shards"] == -(-4 * 2 * 4 // 3)
    assert max(sizes) < 3 * piece + 2000  # and a header


def test_each_token_comes_once_and_is_finite(tmp_path: Path) -> None:
    model = tiny("qwen3")
    ids = torch.tensor(np.stack(texts(model, (6, 6))))
    with (
        pytest.raises(UserError, match="Text 0 came back at position 0"),
        torch.no_grad(),
        capture(model, RawCapture(tmp_path / "a"), n_texts=2),
    ):
        [model.hf(ids) for _ in range(2)]
    with (
        pytest.raises(UserError, match="A row belongs to text 1; the capture is of 1"),
        torch.no_grad(),
        capture(model, RawCapture(tmp_path / "b"), n_texts=1),
    ):
        model.hf(ids)
    with torch.no_grad():
        next(model.hf.parameters()).mul_(1e7)  # the embedding
    with pytest.raises(NonFiniteError, match=r"resid_post of block 0 .* \(as torch.float16\)"):
        replay(model, [ids[0].numpy()], [RawCapture(tmp_path / "c", dtype=torch.float16)])
    for name in "abc":
        with pytest.raises(UserError, match="was stopped"):
            load_raw(tmp_path / name)


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

    def full(_: object, path: Path) -> None:
        path.write_bytes(b"the first half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(PruneScopeError, match="No space left"):
        replay(model, data, [RawCapture(tmp_path / "full")])
    assert hooks_of(model) == 0
    assert not list((tmp_path / "full").iterdir())


def test_a_file_that_the_system_will_not_write(tmp_path: Path) -> None:
    """As a full disk does, but for real: no file may grow beyond 1000 bytes."""
    resource = pytest.importorskip("resource")
    model = tiny("qwen3")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(PruneScopeError, match="could not be written"):
            replay(model, texts(model, LENGTHS), [RawCapture(tmp_path / "r")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "r").iterdir())
    assert hooks_of(model) == 0


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
    with pytest.raises(UserError, match="none named twice"):
        RawCapture(tmp_path / "x", blocks=[1, 1])
    shard = next((tmp_path / "r").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(UserError, match="is damaged"):
        found.stream(0, 1)
    next((tmp_path / "r").glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="lacks streams-00000"):
        load_raw(tmp_path / "r")
    (tmp_path / "r" / module.INDEX).write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load_raw(tmp_path / "r")


def changed_piece(**fields: Any) -> Any:
    return lambda index: index["pieces"][0].update(fields)


# What is said, and what was done to the index.
DAMAGED: list[tuple[str, Any]] = [
    ("layer_map is None", lambda index: index.update(layer_map=None)),
    ("blocks is", lambda index: index.update(blocks=["0"])),
    ("streams is", lambda index: index.update(streams=["resid"])),
    ("streams is", lambda index: index.update(streams=[["resid_post"]])),
    ("lengths is 3", lambda index: index.update(lengths=3)),
    ("pieces is None", lambda index: index.pop("pieces")),
    ("pieces is", lambda index: index.update(pieces=[3])),
    ("pieces is", changed_piece(text="no text")),
    ("pieces is", changed_piece(shard=7)),
    ("pieces is", changed_piece(key="\ud83e")),
    ("pieces is", changed_piece(block=True)),
    ("pieces is", changed_piece(stream=["resid_post"])),
    ("pieces is", changed_piece(positions=[[2, 1]])),
    ("lacks ../outside", changed_piece(shard="../outside.safetensors")),
    ("is damaged: .*names other positions", changed_piece(positions=[[0, 4]])),
    ("is damaged", changed_piece(key="another")),
]


@pytest.mark.parametrize(("said", "change"), DAMAGED)
def test_an_index_that_is_not_as_it_was_written_is_refused(
    tmp_path: Path, said: str, change: Any
) -> None:
    model = tiny("qwen3")
    replay(model, texts(model, (5,)), [RawCapture(tmp_path / "r", blocks=[1])])
    shard = next((tmp_path / "r").glob("*.safetensors"))
    shutil.copyfile(shard, tmp_path / "outside.safetensors")
    file = tmp_path / "r" / module.INDEX
    index = json.loads(file.read_text())
    change(index)
    file.write_text(json.dumps(index))
    with pytest.raises(UserError, match=said):
        load_raw(tmp_path / "r").stream(0, 1)


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b"9" * 5_000, b"[]"])
def test_an_index_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / module.INDEX).write_bytes(content)
    with pytest.raises(UserError, match=module.INDEX):
        load_raw(tmp_path)
