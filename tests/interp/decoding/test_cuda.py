"""The engine on a CUDA device says what it says on a CPU (run with -m gpu)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from interp.chains.chain import Budget
from interp.decoding.sampling import Sampling
from interp.interventions.interventions import Skip, Variant, dense
from interp.model.reasoning_model import ReasoningModel
from tests.models import tiny, tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2"]


@pytest.mark.parametrize("arch", ["qwen3", "llama"])
def test_greedy_chains_and_their_logprobs_are_the_cpus(arch: str) -> None:
    here = tiny(arch, ends=False)
    moved: Any = copy.deepcopy(here.hf)
    there = ReasoningModel.load(moved.to("cuda"), tokenizer())
    variants = [dense, Variant("no 0", (Skip(0),))]
    ask: dict[str, Any] = {
        "variants": variants,
        "budget": Budget(24, 4),
        "sampling": Sampling(temperature=0.0),
    }
    for a, b in zip(here.generate(PROMPTS, **ask), there.generate(PROMPTS, **ask), strict=True):
        assert (a.problem, a.variant) == (b.problem, b.variant)
        same = int(np.argmin(np.append(a.ids == b.ids, False)))
        assert same > 4, "float noise may turn a tie, not a whole chain"
        np.testing.assert_allclose(a.logprob[:same], b.logprob[:same], atol=1e-3)
