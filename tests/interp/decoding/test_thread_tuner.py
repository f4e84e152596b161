"""The number of threads: the fastest is found, others are tried rarely, a user's choice stays."""

from __future__ import annotations

import random
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from interp.decoding import thread_tuner
from interp.decoding.thread_tuner import ThreadTuner, thread_counts


class PlantedMachine:
    """A clock that moves by what a stride costs with the threads in use."""

    def __init__(self, cost: Callable[[int, int], float]) -> None:
        self.now, self.threads, self.stride, self.cost = 0.0, 2, 0, cost
        self.used: list[int] = []

    def run(self, tuner: ThreadTuner, strides: int, work: float = 64.0) -> float:
        """Seconds of so many strides."""
        begin = self.now
        for _ in range(strides):
            with tuner.stride(work):
                self.used.append(self.threads)
                self.now += work * self.cost(self.threads, self.stride)
                self.stride += 1
        return self.now - begin

    def tuner(
        self, counts: tuple[int, ...], free: Callable[[], float | None] = lambda: None
    ) -> ThreadTuner:
        return ThreadTuner(counts, clock=lambda: self.now, use=self.use, free=free)

    def use(self, count: int) -> None:
        self.threads = count


@given(
    costs=st.lists(st.floats(0.3, 4.0), min_size=3, max_size=3),
    noise=st.lists(st.floats(0.98, 1.02), min_size=7, max_size=7),
)
def test_a_run_is_nearly_as_fast_as_the_best_fixed_number(
    costs: list[float], noise: list[float]
) -> None:
    cost: dict[int, float] = dict(zip((4, 2, 1), costs, strict=True))
    machine = PlantedMachine(lambda threads, stride: cost[threads] * noise[stride % 7])
    machine.threads = 4
    spent = machine.run(machine.tuner((4, 2, 1)), 600)
    floor = 600 * 64.0 * min(costs)
    # the first strides use the most threads, whatever they cost, and each number is tried
    startup = 64.0 * 4 * sum(costs)
    assert spent < floor / 0.9 + startup


def test_a_machine_that_becomes_busy_is_noticed() -> None:
    """Two threads are fast until something else takes a core: then one is, within few strides."""
    machine = PlantedMachine(
        lambda threads, stride: (0.5 if stride < 200 else 3.0) if threads == 2 else 1
    )
    tuner = machine.tuner((2, 1))
    machine.run(tuner, 200)
    assert tuner.best == 2
    machine.run(tuner, 8)
    assert tuner.best == 1
    machine.cost = lambda threads, _: 0.5 if threads == 2 else 1.0
    machine.run(tuner, 200)
    assert tuner.best == 2, "the core is free again"


@given(seed=st.integers(0, 2**32 - 1))
def test_on_busy_cores_single_slow_strides_change_nothing(seed: int) -> None:
    """Strides that lose their core for a while: one thread is best on average, and stays in use."""
    drawn = random.Random(seed)

    def cost(threads: int, _: int) -> float:
        lost = drawn.random()  # by one thread now and then, by one of two threads nearly always
        return 1.0 + (lost < 0.3) * 2.0 if threads == 1 else 0.6 + (lost < 0.9) * 5.0

    machine = PlantedMachine(cost)
    tuner = machine.tuner((2, 1))
    machine.run(tuner, 100)
    spent = machine.run(tuner, 1000)
    assert spent < 1000 * 64.0 * 1.6 / 0.85  # 1.6: what a stride of one thread costs on average
    assert machine.used[100:].count(1) > 900


def test_more_threads_than_free_cores_are_never_tried() -> None:
    machine = PlantedMachine(lambda threads, _: 1.0 / threads)
    machine.run(machine.tuner((4, 2, 1), free=lambda: 2.2), 300)
    assert set(machine.used) == {2, 1}
    machine.used.clear()
    machine.run(machine.tuner((4, 2, 1), free=lambda: 0.1), 300)
    assert set(machine.used) == {1}


def test_cores_that_become_free_are_used() -> None:
    machine = PlantedMachine(lambda threads, _: 1.0 / threads)
    tuner = machine.tuner((2, 1), free=lambda: 1.0 if machine.stride < 100 else 2.0)
    machine.run(tuner, 100)
    assert set(machine.used) == {1}
    machine.run(tuner, 20)
    assert tuner.best == 2


def test_a_batch_begins_with_what_the_process_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_tuner, "thread_counts", lambda: (2, 1))
    monkeypatch.setattr(thread_tuner, "_found", {})
    machine = PlantedMachine(lambda threads, _: 3.0 if threads == 2 else 1.0)
    first = ThreadTuner(clock=lambda: machine.now, use=machine.use)
    machine.run(first, 20)
    assert first.best == 1
    machine.used.clear()
    machine.run(ThreadTuner(clock=lambda: machine.now, use=machine.use), 8)
    assert machine.used == [1] * 8


def test_what_lost_is_tried_ever_more_rarely() -> None:
    machine = PlantedMachine(lambda threads, _: 1.0 if threads == 2 else 1.9)
    machine.run(machine.tuner((2, 1)), 1000)
    assert 3 <= machine.used.count(1) < 20


def test_a_single_number_is_left_alone() -> None:
    machine = PlantedMachine(lambda *_: 1.0)
    machine.threads = 7
    machine.run(machine.tuner((1,)), 3)
    assert machine.used == [7, 7, 7]


def test_threads_are_put_back_after_an_error() -> None:
    machine = PlantedMachine(lambda *_: 1.0)
    machine.threads = 3
    tuner = ThreadTuner((2, 1), clock=lambda: machine.now, use=machine.use)
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="x"), tuner.stride(1.0):
        raise ValueError("x")
    assert machine.threads == before


def test_a_users_choice_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(thread_tuner, "cores", lambda: 8)
    assert thread_counts() == (8, 4, 2, 1)
    monkeypatch.setattr(thread_tuner, "cores", lambda: 16)
    assert thread_counts() == (8, 4, 2, 1), "two threads per core"
    monkeypatch.setattr(thread_tuner, "cores", lambda: 12)
    assert thread_counts() == (8,), "torch.set_num_threads(8) was called"
    monkeypatch.setattr(thread_tuner, "cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert thread_counts() == (8,)
