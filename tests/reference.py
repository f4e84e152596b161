"""Slow, independent references for the laws: one row, no cache, one whole forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import nn

from interp.chains.chain import Chain
from interp.decoding.model_runner import ModelRunner
from interp.model.reasoning_model import ReasoningModel

Edit = Callable[[torch.Tensor], torch.Tensor]  # delta [T, D] -> delta [T, D]


def slow_logits(
    model: ReasoningModel,
    ids: list[int],
    edits: Mapping[tuple[int, str], Edit] | None = None,
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> torch.Tensor:
    """Logits [T, V] of one sequence, with deltas edited by whole-output hooks written here.

    seen: takes what entered and what left every block, [T, D] each, by its index.
    """
    handles = []

    def watch(index: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple, kwargs: dict, out: object) -> None:
            main = out[0] if isinstance(out, tuple) else out
            assert isinstance(main, torch.Tensor) and seen is not None
            seen[index] = ((args[0] if args else kwargs["hidden_states"])[0], main[0])

        return hook

    def hook_for(part: str, edit: Edit) -> Callable[..., object]:
        def hook(_: nn.Module, args: tuple, kwargs: dict, out: object) -> object:
            main = out[0] if isinstance(out, tuple) else out
            assert isinstance(main, torch.Tensor)
            if part == "block":
                before = args[0] if args else kwargs["hidden_states"]
                new = before + edit((main - before)[0])[None]
            else:
                new = edit(main if main.ndim == 2 else main[0]).view(main.shape)  # [T, D] of some
            if isinstance(out, tuple) and part == "block" and model.hf.config.model_type == "zaya":
                # what the routers of the block before have computed passes a skipped block by
                gone = (new == before).all(-1, keepdim=True)
                given = torch.zeros_like(out[1]) if args[1] is None else args[1]
                return new, torch.where(gone, given, out[1])
            return (new, *out[1:]) if isinstance(out, tuple) else new

        return hook

    try:
        for (index, part), edit in (edits or {}).items():
            module = model.anatomy.adds(index, part)
            handles.append(module.register_forward_hook(hook_for(part, edit), with_kwargs=True))
        if seen is not None:  # behind the others, so they see what those made of it
            for index, block in enumerate(model.blocks):
                handles.append(block.register_forward_hook(watch(index), with_kwargs=True))
        with torch.no_grad():
            return model.hf(torch.tensor([ids]), use_cache=False).logits[0].float()
    finally:
        for handle in handles:
            handle.remove()


def slow_logprobs(
    model: ReasoningModel, chain: Chain, edits: Mapping[tuple[int, str], Edit] | None = None
) -> np.ndarray:
    """Log-probability of every token of a chain under the edited model; nan where forced."""
    ids = [*chain.prompt_ids.tolist(), *chain.ids.tolist()]
    logp = slow_logits(model, ids, edits).log_softmax(-1)
    at = len(chain.prompt_ids) - 1 + torch.arange(chain.n_tokens)
    got = logp[at, torch.from_numpy(chain.ids)].numpy()
    return np.where(chain.forced, np.nan, got)


def skipped(chain: Chain, start: int | None = None, stop: int | None = None) -> Edit:
    """A delta set to zero at steps [start, stop); None: always. Step s reads token s."""

    def edit(delta: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(delta.shape[0]) - len(chain.prompt_ids)
        steps = steps.clamp(min=-1)
        gone = torch.ones_like(steps, dtype=torch.bool)
        if start is not None:
            gone &= steps >= start
        if stop is not None:
            gone &= steps < stop
        return torch.where(gone[:, None], 0.0, delta)

    return edit


def same_chain(a: Chain, b: Chain, upto: int | None = None) -> bool:
    """Equal tokens (all, or the first `upto`) and log-probabilities within float noise."""
    if upto is None and len(a.ids) != len(b.ids):
        return False
    return bool(
        np.array_equal(a.ids[:upto], b.ids[:upto])
        and np.array_equal(a.forced[:upto], b.forced[:upto])
        and np.allclose(a.logprob[:upto], b.logprob[:upto], atol=1e-5, equal_nan=True)
        and np.allclose(a.entropy[:upto], b.entropy[:upto], atol=1e-4, equal_nan=True)
    )


def look_every(monkeypatch: pytest.MonkeyPatch, stride: int) -> None:
    """The host looks only every `stride` passes, as it does on a GPU."""
    begin = ModelRunner.__init__

    def patient(self, *args, **kwargs) -> None:
        begin(self, *args, **kwargs)
        self.stride = stride

    monkeypatch.setattr(ModelRunner, "__init__", patient)
