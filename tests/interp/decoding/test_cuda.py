"""The engine on a CUDA device says what it says on a CPU (run with -m gpu).

Without a CUDA device, the blocks of the Triton kernels are decoded in Triton's interpreter, if
Triton is installed.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from interp.chains.chain import Budget
from interp.decoding import cuda_blocks, model_runner
from interp.decoding.block_backend import TORCH, BackendChoice, BlockBackend
from interp.decoding.sampling import Sampling
from interp.interventions.interventions import Scale, Skip, Variant, dense
from interp.interventions.windows import AfterLoop, Answer
from interp.kernels.library import triton_installed
from interp.model.reasoning_model import ReasoningModel
from tests.models import tiny, tokenizer
from tests.triton_interpreter import CUDA, triton_kernels

pytestmark = pytest.mark.gpu
on_cuda = pytest.mark.skipif(not CUDA, reason="no CUDA device")
with_triton = pytest.mark.skipif(not triton_installed(), reason="Triton is not installed")
PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2"]


@on_cuda
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


TRITON = BlockBackend("Triton kernels", triton=True)


def way(patch: pytest.MonkeyPatch, backend: BlockBackend) -> None:
    """Decodes through a backend, on the CPU as well."""
    triton_kernels()
    patch.setattr(model_runner, "choose", lambda _, rows: BackendChoice(backend, rows, {}))
    patch.setattr(cuda_blocks, "_suits", lambda width, dtype, device: True)


@with_triton
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("arch", ["qwen3", "qwen2", "mistral"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_triton_blocks_decode_what_the_modules_decode(
    arch: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = on_device(arch)
    variants = [
        dense,
        Variant("no 0", (Skip(0),)),
        Variant("late", (Scale(1, 0.5, window=Answer() | AfterLoop()),)),
        Variant("no mlp", (Skip(1, part="mlp"),)),  # a hook inside the block
    ]
    for some in (variants[:3], variants):
        ask: dict[str, Any] = {
            "variants": some if CUDA else some[1:],  # the interpreter takes a second per step
            "budget": Budget(60 if CUDA else 4, 2),
            "drafts": CUDA,
            "sampling": Sampling(temperature=temperature),
            "record": True,
        }
        found = {}
        for backend in (TORCH, TRITON):
            way(monkeypatch, backend)
            found[backend.name] = model.generate(PROMPTS[: 2 if CUDA else 1], **ask)
        for a, b in zip(*found.values(), strict=True):
            same = int(np.argmin(np.append(a.ids == b.ids, False)))
            assert same >= min(4, len(a.ids)), "float noise may turn a tie, not a whole chain"
            np.testing.assert_allclose(a.logprob[:same], b.logprob[:same], atol=1e-3)
            np.testing.assert_allclose(a.entropy[:same], b.entropy[:same], atol=1e-3)
            assert a.stream is not None
            assert b.stream is not None
            np.testing.assert_allclose(
                a.stream.delta_norm[:same], b.stream.delta_norm[:same], rtol=1e-2, atol=1e-3
            )


@with_triton
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_drafts_through_the_triton_blocks_change_no_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    model = on_device("qwen3")
    way(monkeypatch, TRITON)
    monkeypatch.setattr("interp.decoding.batch.CPU_LANES", 4)  # the interpreter is slow
    ask: dict[str, Any] = {"budget": Budget(40, 4), "sampling": Sampling(temperature=0.0)}
    prompts = PROMPTS[: 2 if CUDA else 1]
    without = model.generate(prompts, drafts=False, **ask)
    drafted = model.generate(prompts, drafts=True, **ask)
    for a, b in zip(without, drafted, strict=True):
        same = int(np.argmin(np.append(a.ids == b.ids, False)))
        assert same > 20, "float noise may turn a tie, not a whole chain"
        np.testing.assert_allclose(a.logprob[:same], b.logprob[:same], atol=1e-3)


def on_device(arch: str) -> ReasoningModel:
    """A tiny model on the CUDA device, if there is one."""
    model = tiny(arch, ends=False)
    if not CUDA:
        return model
    moved: Any = copy.deepcopy(model.hf)
    return ReasoningModel.load(moved.to("cuda"), tokenizer())
