"""Models whose tokens are written down, by position."""

from __future__ import annotations

from typing import Any

import torch

from interp.model.delimiters import Delimiters
from interp.model.reasoning_model import ReasoningModel
from tests.models import tiny_hf, tokenizer


class ScriptedTokens(torch.nn.Module):
    """A head that makes a model say what is written, by position; everything else is its own."""

    def __init__(self, head: torch.nn.Module, said: dict[int, int]) -> None:
        super().__init__()
        self.inner, self.said, self.at = head, said, None
        self.weight = head.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.inner(x)
        assert self.at is not None
        for r, position in enumerate(self.at[:, -1].tolist()):
            if position in self.said:
                out[r, -1, self.said[position]] = 1e4
        return out


def scripted(
    said: dict[int, int], prompt: int, delimiters: Delimiters | None = None, **kwargs: Any
) -> ReasoningModel:
    """A model that never ends by itself, and says `said[i]` at generated index i."""
    hf = tiny_hf(ends=False, **kwargs)
    head = ScriptedTokens(hf.lm_head, {prompt + i - 1: token for i, token in said.items()})
    hf.lm_head = head

    def look(_: Any, args: Any, kw: Any) -> None:
        head.at = kw["position_ids"]

    hf.register_forward_pre_hook(look, with_kwargs=True)
    return ReasoningModel.load(hf, tokenizer(), delimiters=delimiters)
