"""A model that does not fit is refused before its weights are read; page cache counts as free."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from interp.errors import UserError
from interp.model import available_memory, loading, memory_needed
from interp.model.available_memory import available_bytes
from interp.model.checkpoint_files import locate
from interp.model.reasoning_model import ReasoningModel

GIB = 2**30


def test_what_the_kernel_would_give_back_is_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemFree: 7 kB\nMemAvailable: 4096 kB\n", encoding="ascii")
    monkeypatch.setattr(available_memory, "MEMINFO", meminfo)
    monkeypatch.setattr(available_memory, "CGROUP", tmp_path)
    assert available_bytes() == 4096 * 1024
    for name, text in (
        ("memory.max", "3000000"),
        ("memory.current", "2500000"),
        ("memory.stat", "anon 9\ninactive_file 500000\n"),
    ):
        (tmp_path / name).write_text(text, encoding="ascii")
    assert available_bytes() == 1_000_000
    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    assert available_bytes() == 4096 * 1024
    monkeypatch.setattr(available_memory, "MEMINFO", tmp_path / "nothing")
    assert 0 < available_bytes() < 2**62  # from the free pages


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_said_before_a_weight_is_read(
    dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_needed, "available_bytes", lambda device: 1000)
    monkeypatch.setattr(memory_needed, "SMALL", 0)

    def read(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(loading, "load_weights", read)
    kind = "float32" if dtype is None else "bfloat16"
    with pytest.raises(UserError, match=f"takes 0.0 GiB in {kind}, and this machine has 0.0 GiB"):
        ReasoningModel.load("testbed", dtype=dtype, device="cpu")


def test_parameters_are_counted_once_and_in_the_type_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = locate("testbed")
    bare = loading.without_storage(loading.load_config(place, False), False)
    n = sum(p.numel() for p in bare.parameters())
    monkeypatch.setattr(memory_needed, "SMALL", 0)
    cpu = torch.device("cpu")
    for dtype, width in ((torch.float32, 4), (torch.bfloat16, 2), ("float16", 2)):
        monkeypatch.setattr(memory_needed, "available_bytes", lambda device, w=width: n * w)
        memory_needed.check_room(bare, place, place, dtype, cpu)
        monkeypatch.setattr(memory_needed, "available_bytes", lambda device, w=width: n * w - 1)
        with pytest.raises(UserError, match="of memory available"):
            memory_needed.check_room(bare, place, place, dtype, cpu)


def test_small_models_are_always_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_needed, "available_bytes", lambda device: 0)
    ReasoningModel.load("testbed", device="cpu")
