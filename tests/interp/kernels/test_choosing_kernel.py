"""The compiled choice of the next token, against torch."""

from __future__ import annotations

import platform

import pytest
import torch

from interp.chains.noise import step_start
from interp.decoding.sampling import Sampling, choose, choose_and_measure, measure
from interp.kernels import library

BUILDS = [*library.builds(), *(["x86-64"] if platform.machine() == "x86_64" else [])]
pytestmark = pytest.mark.skipif(library.kernels() is None, reason="no C compiler here")


def drawn(vocab: int, rows: int = 96) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (flat, peaked early, peaked late, rising, with entries ruled out), keys and steps."""
    g = torch.Generator().manual_seed(vocab)
    logits = torch.randn(rows, vocab, generator=g) * torch.logspace(-3, 1, rows)[:, None]
    logits[1::5, 0] += 12
    logits[2::5, -1] += 12
    logits[3::5] = logits[3::5].sort(-1).values
    if vocab > 4:
        logits[4::5, 1:3] = -torch.inf
    keys = torch.randint(-(2**62), 2**62, (rows,), generator=g)
    return logits, keys, torch.randint(0, 4000, (rows,), generator=g)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 93, 4099])
@pytest.mark.parametrize("heat", [0.0, 0.3, 1.0, 1.7])
def test_it_is_what_torch_does(build: str, vocab: int, heat: float) -> None:
    """Both take the logarithms of the noise to within one unit in the last place, so only scores
    that are equal to some 1e-6 could be ordered in another way; none of these is."""
    run = library.kernels(build)
    assert run is not None
    logits, keys, steps = drawn(vocab)
    token, entropy, norm = run.choose(logits, heat, step_start(keys, steps))
    assert torch.equal(token, choose(logits, Sampling(heat), keys, steps))
    entropy_there, norm_there = measure(logits)
    # exp and the sum of V terms: some units in the last place of a number up to |logit| + log V
    torch.testing.assert_close(norm, norm_there, atol=4e-6, rtol=1e-6)
    torch.testing.assert_close(entropy, entropy_there, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("heat", [0.0, 1.0])
@pytest.mark.parametrize("at", [0, 16, 92])
def test_a_logit_that_is_no_number_is_seen(build: str, heat: float, at: int) -> None:
    run = library.kernels(build)
    assert run is not None
    logits, keys, steps = drawn(93)
    for row, bad in enumerate((torch.nan, torch.inf)):
        logits[row, at] = bad
    logits[2] = -torch.inf
    token, _, norm = run.choose(logits, heat, step_start(keys, steps))
    assert norm[:3].isnan().all() and norm[3:].isfinite().all()
    assert ((token >= 0) & (token < 93)).all()


def test_equal_logits_give_the_first() -> None:
    run = library.kernels()
    assert run is not None
    logits = torch.zeros(3, 50)
    logits[1, [7, 30]] = 2.0
    logits[2, [48, 49]] = 1.0
    assert run.choose(logits, 0.0, torch.zeros(3, dtype=torch.int64))[0].tolist() == [0, 7, 48]


@pytest.mark.parametrize(
    "how", [Sampling(), Sampling(0.0), Sampling(0.6, 5, 0.9), Sampling(top_p=0.5)]
)
def test_rows_with_a_stride_and_filters(how: Sampling) -> None:
    """Rows of a wider tensor and a transposed one give what their copies give."""
    logits, keys, steps = drawn(93)
    want = choose_and_measure(logits.clone(), how, keys, steps)
    wide = torch.zeros(96, 3, 93)
    wide[:, -1] = logits
    for given in (wide[:, -1], logits.t().contiguous().t()):
        for a, b in zip(choose_and_measure(given, how, keys, steps), want, strict=True):
            assert torch.equal(a, b)
    assert torch.equal(want[0], choose(logits, how, keys, steps))
