"""Half precision everywhere: the decoder agrees with one slow pass at the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.chains.chain import Budget
from interp.interventions.interventions import Skip, Variant, dense
from interp.interventions.windows import Window
from interp.model.reasoning_model import ReasoningModel
from tests.models import ARCHS, tiny_hf, tokenizer
from tests.reference import skipped, slow_logprobs

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7", "what ?"]
CLOSE = {torch.bfloat16: 0.1, torch.float16: 0.02}  # of log-probabilities; seen .04 and .004


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("arch", ARCHS)
def test_half_precision(arch: str, dtype: torch.dtype) -> None:
    model = ReasoningModel.load(tiny_hf(arch, ends=False).to(dtype), tokenizer())
    assert model.dtype == dtype
    late = Variant("late", (Skip(1, window=Window(4)),))
    chains = model.generate(PROMPTS, [dense, late], Budget(14, 4), record=True)
    for chain in chains:
        edits = {(1, "block"): skipped(chain, 4)} if chain.variant == "late" else None
        want = slow_logprobs(model, chain, edits)
        own = ~chain.forced
        assert np.abs(chain.logprob[own] - want[own]).max() < CLOSE[dtype]
        assert chain.stream is not None
        for numbers in (
            chain.stream.pre_norm,
            chain.stream.post_norm,
            chain.stream.delta_norm,
            chain.stream.dot,
        ):
            assert np.isfinite(numbers).all()
