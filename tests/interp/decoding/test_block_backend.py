"""The fastest way through the blocks: measured once, remembered, overruled by the environment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from interp.chains.chain import Budget
from interp.decoding import block_backend, model_runner
from interp.decoding.block_backend import BlockBackend, candidates, choose_backend
from interp.kernels import library
from tests.models import tiny

needs_kernels = pytest.mark.skipif(library.kernels() is None, reason="no C compiler here")


class Timer:
    """Planted seconds by the name of a backend; counts what was asked."""

    def __init__(self, seconds: Callable[[str], float]) -> None:
        self.seconds, self.asked = seconds, []

    def __call__(self, way: BlockBackend, rows: int) -> Callable[[], float]:
        self.asked.append((way.name, rows))
        return lambda: self.seconds(way.name)


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "block_backends.json"
    monkeypatch.setattr(block_backend, "_place", lambda: place)
    monkeypatch.setenv("PRUNESCOPE_KERNELS", "auto")
    return place


@needs_kernels
def test_the_fastest_wins_and_is_remembered(cache_of_its_own: Path) -> None:
    model = tiny("qwen3")
    timer = Timer(lambda name: 1.0 if name == "torch" else 2.0)
    assert choose_backend(model, 5, timer).backend.name == "torch"
    assert {rows for _, rows in timer.asked} == {8}, "shared by batches of about this size"
    first = len(timer.asked)
    assert first == len(candidates(model)) > 1
    again = choose_backend(model, 7, timer)
    assert again.backend.name == "torch" and again.seconds["torch"] == 1.0
    assert len(timer.asked) == first, "measured once"
    choose_backend(model, 9, timer)
    choose_backend(tiny("qwen3", hidden_size=64), 5, timer)
    assert len(timer.asked) == 3 * first, "another number of rows, another shape"
    assert len(json.loads(cache_of_its_own.read_text())) == 3


@needs_kernels
def test_one_busy_moment_does_not_decide() -> None:
    calls = iter(range(10_000))
    model = tiny("qwen3")
    best = candidates(model)[0].name
    slow_once = Timer(lambda name: 9.0 if next(calls) == 4 else 1.0 if name == best else 2.0)
    assert choose_backend(model, 5, slow_once).backend.name == best


@needs_kernels
@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"a": 3}', '{"a": {"torch": "x"}}'])
def test_a_damaged_cache_is_measured_anew(damage: str, cache_of_its_own: Path) -> None:
    cache_of_its_own.write_text(damage)
    timer = Timer(lambda name: 1.0 if name == "torch" else 2.0)
    assert choose_backend(tiny("qwen3"), 5, timer).backend.name == "torch"
    assert json.loads(cache_of_its_own.read_text())


@needs_kernels
def test_the_environment_overrules(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = Timer(lambda _: pytest.fail("nothing is timed"))
    monkeypatch.setenv("PRUNESCOPE_KERNELS", "1")
    model = tiny("qwen3")
    assert choose_backend(model, 5, timer).backend == candidates(model)[0]
    monkeypatch.setattr(block_backend, "kernel_ready", lambda _: False)
    assert choose_backend(model, 5, timer).backend.name == "torch"


@needs_kernels
@pytest.mark.parametrize("arch", ["qwen3", "gemma2", "gemma3"])
def test_real_timings_leave_the_model_as_it_was(arch: str) -> None:
    model = tiny(arch)
    before = model.generate(["what is 3 ?"], budget=Budget(6, 2))
    found = model_runner.choose(model, 4)
    assert set(found.seconds) == {way.name for way in candidates(model)}
    assert all(0 < seconds < 10 for seconds in found.seconds.values())
    assert found.seconds[found.backend.name] == min(found.seconds.values())
    after = model.generate(["what is 3 ?"], budget=Budget(6, 2))
    assert before[0].ids.tolist() == after[0].ids.tolist()
    assert not any("forward" in b.__dict__ or b._forward_hooks for b in model.blocks)


def test_builds_follow_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def builds(flags: str) -> tuple[str, ...]:
        monkeypatch.setattr(library, "processor", lambda: flags)
        return library.builds.__wrapped__()

    monkeypatch.delenv("PRUNESCOPE_MARCH", raising=False)
    assert builds("model name: x flags: fma avx2") == ("native",)
    assert builds("model name: x flags: fma avx2 avx512f") == ("native", "x86-64-v3")
    monkeypatch.setenv("PRUNESCOPE_MARCH", "x86-64-v3")
    assert builds("model name: x flags: fma avx2 avx512f") == ("x86-64-v3",)
