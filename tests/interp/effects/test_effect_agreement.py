"""Two models and the blocks they need: planted agreement is found, none is not."""

from __future__ import annotations

import numpy as np
import pytest

from interp.effects import effect_agreement
from interp.errors import UserError
from tests.interp.effects.test_explain import effects_of

TRUTH = np.linspace(-1.0, 0.0, 16)


def test_models_that_need_the_same_blocks_agree_up_to_what_noise_allows() -> None:
    first, second = effects_of(TRUTH, 0.5, seed=0), effects_of(TRUTH, 0.5, seed=1)
    (one,) = effect_agreement(first, second).found
    assert one.rank.value > 0.85
    assert one.rank.low > 0.5
    assert one.p < 0.01
    assert 0.8 < one.ceiling <= 1.0
    assert one.blocks.tolist() == list(range(16))


def test_noise_lowers_the_ceiling_and_the_agreement_alike() -> None:
    first, second = effects_of(TRUTH, 4.0, seed=0), effects_of(TRUTH, 4.0, seed=1)
    (one,) = effect_agreement(first, second).found
    (clean,) = effect_agreement(effects_of(TRUTH, 0.1), effects_of(TRUTH, 0.1, seed=1)).found
    assert one.ceiling < clean.ceiling
    assert abs(one.rank.value) < clean.rank.value


def test_models_that_need_other_blocks_are_said_to_agree_at_the_nominal_rate() -> None:
    called = 0
    for seed in range(100):
        shuffled = np.random.default_rng(seed).permutation(TRUTH)
        first = effects_of(TRUTH, 0.3, seed=seed, problems=12)
        second = effects_of(shuffled, 0.3, seed=1000 + seed, problems=12)
        (one,) = effect_agreement(first, second, draws=50).found
        called += one.p < 0.05
    assert called <= 12  # 5 expected of 100; more than 12 has a chance of .001


def test_only_blocks_that_both_have_are_compared() -> None:
    (one,) = effect_agreement(effects_of(TRUTH, 0.1), effects_of(TRUTH[:10], 0.1, seed=2)).found
    assert one.rank.n == len(one.blocks) == 10
    frame = effect_agreement(effects_of(TRUTH, 0.1), effects_of(TRUTH, 0.1)).to_frame()
    assert frame.loc[0, "spearman"] == pytest.approx(1.0)
    with pytest.raises(UserError, match="at least 4 blocks in both"):
        effect_agreement(effects_of(TRUTH, 0.1), effects_of(TRUTH[:3], 0.1))
