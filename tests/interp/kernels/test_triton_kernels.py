"""The Triton kernels against torch: on a CUDA device, or in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from interp.chains.noise import gumbel, step_start
from interp.decoding.sampling import Sampling, choose, measure
from interp.kernels.library import triton_installed
from tests.triton_interpreter import CUDA, triton_kernels

pytestmark = [
    pytest.mark.gpu,
    # the interpreter's numpy warns where a hash wraps around and of -inf times 0
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.skipif(not triton_installed(), reason="Triton is not installed"),
]
DEVICE = "cuda" if CUDA else "cpu"


@pytest.fixture(scope="module")
def run() -> Any:
    """The kernels, imported where they can be."""
    return triton_kernels()


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("width", [48, 64, 1000])
def test_rms_norm(run: Any, width: int) -> None:
    x, more, weight = numbers(3, width), numbers(3, width, seed=1), numbers(width, seed=2)

    def plain(x: torch.Tensor) -> torch.Tensor:
        return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5))

    torch.testing.assert_close(run.rms_norm(x, weight, 1e-5), plain(x))
    want = x + more
    torch.testing.assert_close(run.rms_norm(x, weight, 1e-5, more), plain(want))
    torch.testing.assert_close(x, want)


def test_silu_product(run: Any) -> None:
    gates = numbers(3, 2 * 1500) * 4
    want = F.silu(gates[:, :1500]) * gates[:, 1500:]
    torch.testing.assert_close(run.silu_product(gates), want)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("normed", [False, True])
def test_rotate_and_store(run: Any, normed: bool, mapped: bool) -> None:
    n, heads, kv, d, capacity = 3, 4, 2, 32, 10
    qkv = numbers(n, (heads + 2 * kv) * d)
    cos, sin = numbers(n, d, seed=1), numbers(n, d, seed=2)
    norms = (numbers(d, seed=3), numbers(d, seed=4), 1e-6) if normed else None
    keys, values = torch.zeros(2, 5, kv, capacity, d, device=DEVICE)
    columns = torch.tensor([4, 5, 9], device=DEVICE)
    rows = torch.tensor([3, 3, 0], device=DEVICE) if mapped else None
    q = run.rotate_and_store(qkv, norms, cos, sin, keys, values, columns, rows)

    split = qkv.view(n, -1, d)
    parts = [split[:, :heads], split[:, heads : heads + kv], split[:, heads + kv :]]
    if norms is not None:
        for i in (0, 1):
            scale = torch.rsqrt(parts[i].square().mean(-1, keepdim=True) + norms[2])
            parts[i] = norms[i] * (parts[i] * scale)
    for i in (0, 1):
        half = torch.cat((-parts[i][..., d // 2 :], parts[i][..., : d // 2]), -1)
        parts[i] = parts[i] * cos[:, None] + half * sin[:, None]
    torch.testing.assert_close(q, parts[0])
    at = torch.arange(n, device=DEVICE) if rows is None else rows
    torch.testing.assert_close(keys[at, :, columns], parts[1])
    torch.testing.assert_close(values[at, :, columns], parts[2])
    assert int((keys != 0).any(-1).sum()) == n * kv, "nothing else is written"


@pytest.mark.parametrize("programs", [1, 1000])
@pytest.mark.parametrize(("window", "group"), [(0, 1), (0, 3), (7, 4)])
@pytest.mark.parametrize("mapped", [False, True])
def test_attend(
    run: Any, mapped: bool, window: int, group: int, programs: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(run, "PROGRAMS", programs)  # one part, or many
    n, kv, d, capacity = 4, 2, 32, 300
    q = numbers(n, kv * group, d)
    keys, values = numbers(2, 5, kv, capacity, d, seed=1)
    columns = torch.tensor([0, 137, 20, 299], device=DEVICE)
    rows = torch.tensor([4, 1, 1, 0], device=DEVICE) if mapped else None
    got = run.attend(q, keys, values, columns, rows, 0.3, window)
    at = torch.arange(capacity, device=DEVICE)
    seen = at <= columns[:, None]
    if window:
        seen &= at > columns[:, None] - window
    of = torch.arange(n, device=DEVICE) if rows is None else rows
    want = F.scaled_dot_product_attention(
        q.view(n, kv, group, d), keys[of], values[of], attn_mask=seen[:, None, None, :], scale=0.3
    )
    torch.testing.assert_close(got, want.reshape(n, kv * group, d), atol=2e-5, rtol=2e-5)


def test_stream_numbers(run: Any) -> None:
    x, y = numbers(3, 48), numbers(3, 48, seed=1)
    out = torch.zeros(5, 2, 4, device=DEVICE)
    run.stream_numbers(x, y, out[:, 1])
    want = torch.stack((x.norm(dim=1), y.norm(dim=1), (y - x).norm(dim=1), (x * y).sum(1)), 1)
    torch.testing.assert_close(out[:3, 1], want)
    assert not out[:, 0].any() and not out[3:].any()


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.6])
@pytest.mark.parametrize("vocab", [50, 9000])
def test_choose_and_measure(run: Any, vocab: int, temperature: float) -> None:
    n = 6
    logits = 3 * numbers(n, vocab)
    logits[1, 3:] = float("-inf")  # tokens that the model rules out
    keys = torch.tensor([5, -9, 2**62, 0, 1, 7], device=DEVICE)
    steps = torch.tensor([0, 1, 2, 1000, 5, 6], device=DEVICE)
    tokens, entropy, norm = run.choose_and_measure(logits, temperature, step_start(keys, steps))
    want_entropy, want_norm = measure(logits)
    torch.testing.assert_close(norm, want_norm)
    torch.testing.assert_close(entropy, want_entropy, atol=2e-5, rtol=2e-5)
    want = choose(logits, Sampling(temperature=temperature), keys, steps)
    score = logits / (temperature or 1.0)
    if temperature:
        score = score + gumbel(keys, steps, vocab)
    best = score.gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(best, score.max(1).values)  # the same token, but for a tie
    assert (tokens == want).float().mean() > 0.9


def test_the_noise_is_that_of_every_other_device(run: Any) -> None:
    """With equal logits the noise alone chooses, so every one of many steps must agree."""
    steps = torch.arange(200, device=DEVICE)
    logits = torch.zeros(200, 300, device=DEVICE)
    keys = torch.full_like(steps, 12345)
    tokens, _, _ = run.choose_and_measure(logits, 1.0, step_start(keys, steps))
    assert torch.equal(tokens, gumbel(keys, steps, 300).argmax(1))


def test_a_logit_that_is_no_number_shows_in_the_norm(run: Any) -> None:
    logits = numbers(2, 60)
    logits[1, 7] = float("nan")
    zero = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    _, _, norm = run.choose_and_measure(logits, 1.0, zero)
    assert norm.isfinite().tolist() == [True, False]
