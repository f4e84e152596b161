"""Sampling: the noise's laws, the distribution it draws from, the filters against a slow one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interp.chains.noise import gumbel, noise_key, uniform
from interp.decoding.sampling import TIES, Sampling, choose, filtered, measure
from interp.errors import UserError
from interp.kernels.splitmix import mix
from tests.drawing import max_examples


def python_mix(x: int) -> int:
    """splitmix64's finalizer in Python's unbounded integers."""
    mask = 2**64 - 1
    x &= mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8))
def test_mix_is_splitmix64(values: list[int]) -> None:
    got = mix(torch.tensor(values, dtype=torch.int64)).tolist()
    assert [g % 2**64 for g in got] == [python_mix(v) for v in values]


@max_examples(20)
@given(st.integers(-(2**62), 2**62), st.integers(0, 4000))
def test_uniform_is_the_hash_of_its_place(key: int, step: int) -> None:
    golden = 0x9E3779B97F4A7C15
    got = uniform(torch.tensor([key]), torch.tensor([step]), 5)[0]
    for v in range(5):
        start = python_mix(python_mix(key) + step * golden)
        u = ((python_mix(start + (v + 1) * golden) >> 24) + 0.5) * 2.0**-40
        assert got[v].item() == pytest.approx(min(u, 1 - 2.0**-24), rel=1e-6)


def test_noise_does_not_depend_on_the_batch() -> None:
    keys = torch.tensor([5, -9, 2**62])
    steps = torch.tensor([0, 7, 1000])
    together = gumbel(keys, steps, 33)
    for r in range(3):
        alone = gumbel(keys[r : r + 1], steps[r : r + 1], 33)
        assert torch.equal(alone[0], together[r])
        assert torch.equal(gumbel(keys[r : r + 1], steps[r : r + 1], 7)[0], together[r, :7])


def test_noise_is_standard_gumbel_and_uncorrelated() -> None:
    keys = torch.tensor([noise_key(0, f"p{i}", s) for i in range(50) for s in range(4)])
    draws = gumbel(keys, torch.arange(200) % 13, 100)
    assert stats.kstest(draws.flatten().numpy(), "gumbel_r").pvalue > 1e-3
    u = uniform(keys, torch.full((200,), 3), 100).numpy()
    limit = 4.5 / math.sqrt(u.size)
    assert abs(np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]) < limit
    assert abs(np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())[0, 1]) < limit
    after = uniform(keys, torch.full((200,), 4), 100).numpy()
    assert abs(np.corrcoef(u.ravel(), after.ravel())[0, 1]) < limit


def test_every_part_of_the_key_matters() -> None:
    keys = {noise_key(s, p, n) for s in range(3) for p in ("a", "b", "0") for n in range(3)}
    assert len(keys) == 27


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_samples_follow_the_softmax(temperature: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(12) * 2
    n = 40_000
    keys = torch.tensor([noise_key(1, "p", s) for s in range(n)])
    got = choose(logits.expand(n, 12), Sampling(temperature), keys, torch.full((n,), 17)).bincount(
        minlength=12
    )
    want = torch.softmax(logits / temperature, -1).double() * n
    assert stats.chisquare(got.numpy(), want.numpy() * (n / want.sum().item())).pvalue > 1e-3


def slow_filter(logits: torch.Tensor, how: Sampling) -> set[int]:
    """Which entries stay, one row, by the definitions."""
    p = torch.softmax(logits.double() / how.temperature, -1)
    order = p.argsort(descending=True, stable=True).tolist()
    if how.top_k:
        order = order[: how.top_k]
    p = p / sum(p[i] for i in order)
    if how.top_p < 1:
        kept, mass = [], 0.0
        for i in order:
            kept.append(i)
            mass += p[i].item()
            if mass >= how.top_p:
                break
        order = kept
        p = p / sum(p[i] for i in order)
    if how.min_p:
        order = [i for i in order if p[i] >= how.min_p * max(p[j] for j in order)]
    return set(order)


@max_examples(60)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([0, 1, 3, 8]),
    st.sampled_from([1.0, 0.9, 0.42]),
    st.sampled_from([0.0, 0.1, 0.37]),
)
def test_filters_against_their_definitions(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = torch.randn(2, 15, generator=torch.Generator().manual_seed(seed)) * 2
    how = Sampling(temperature, top_k, top_p, min_p)
    stays = filtered(logits, how).isfinite()
    for row in range(2):
        assert set(stays[row].nonzero()[:, 0].tolist()) == slow_filter(logits[row], how)


def test_greedy_and_measure() -> None:
    torch.manual_seed(1)
    logits = torch.randn(4, 9)
    logits[2, 3] = float("-inf")
    keys = steps = torch.zeros(4, dtype=torch.int64)
    assert torch.equal(choose(logits, Sampling(0.0), keys, steps), logits.argmax(-1))
    entropy, norm = measure(logits)
    want = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(logits - norm[:, None], want.logits)
    assert norm.isfinite().all()
    p = logits.softmax(-1)
    slow = -(p * torch.where(p > 0, p, 1).log()).sum(-1)
    torch.testing.assert_close(entropy, slow)
    for bad in (float("nan"), float("inf")):
        broken = logits.clone()
        broken[1, 5] = bad
        assert measure(broken)[1].isfinite().tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    "bad",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0},
     {"top_p": 1.1}, {"min_p": -0.1}, {"min_p": 2.0}],
)  # fmt: skip
def test_bad_sampling(bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match="expected"):
        Sampling(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "how", [Sampling(top_k=5), Sampling(0.6, 20, 0.95), Sampling(1.3, 40, 1.0, 0.1)]
)
def test_a_large_vocabulary_is_filtered_as_a_small_one(how: Sampling) -> None:
    """Only the most likely entries are sorted and get noise; the choice is that of all of them."""
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(200, how.top_k + TIES + 300, generator=g) * 3
    logits = (logits * 4).round() / 4  # ties, as bfloat16 gives them
    keys, steps = torch.arange(200) * 7919, torch.arange(200)
    scores = filtered(logits, how) + gumbel(keys, steps, logits.shape[1])
    assert torch.equal(choose(logits, how, keys, steps), scores.argmax(-1))
