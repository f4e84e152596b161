"""Rows of a prefill that share their first blocks.

All variants of a prompt read it alike up to the first block that they change. So a prefill begins
with one row per prompt, and a row joins, as a copy of the stream of its prompt's row, before the
first block that its variant changes. The pass thus gets wider from block to block. With every
single block skipped in turn, half of the work is left.

Shapes: R requests, T tokens, D residual width; n rows at a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn


@dataclass(frozen=True)
class SharedRows:
    """The rows of a pass, in the order in which they join it.

    Attributes:
        requests: request that each row belongs to, R of them.
        sources: row whose stream each row copies when it joins; itself if it is there from the
            first block.
        begins: index of the block before which each row joins, ascending.
    """

    requests: tuple[int, ...]
    sources: tuple[int, ...]
    begins: tuple[int, ...]

    @classmethod
    def of(cls, prompts: Sequence[object], changes: Sequence[int]) -> SharedRows:
        """Arranges the rows of some requests.

        Args:
            prompts: what identifies the tokens that each request reads, R of them.
            changes: index of the first block that each request's variant changes; the number of
                blocks if it changes none.

        Returns:
            The rows. The row of a prompt belongs to the request that changes its blocks last.
        """
        firsts: dict[object, int] = {}
        for i in range(len(prompts)):
            known = firsts.setdefault(prompts[i], i)
            if changes[i] > changes[known]:
                firsts[prompts[i]] = i
        first = list(firsts.values())
        others = sorted(set(range(len(prompts))) - set(first), key=lambda i: (changes[i], i))
        row_of = {request: row for row, request in enumerate(first)}
        return cls(
            requests=(*first, *others),
            sources=(*range(len(first)), *(row_of[firsts[prompts[i]]] for i in others)),
            begins=(*(0 for _ in first), *(changes[i] for i in others)),
        )

    def n_rows(self, block: int) -> int:
        """Returns the number of rows that are computed in a block.

        Args:
            block: index of the block.
        """
        return sum(begin <= block for begin in self.begins)

    def places(self, block: int) -> Int[Tensor, " R"]:
        """Returns the row that holds the state of each request in a block.

        Args:
            block: index of the block.
        """
        there = torch.empty(len(self.requests), dtype=torch.int64)
        for row, request in enumerate(self.requests):
            there[request] = row if self.begins[row] <= block else self.sources[row]
        return there

    @contextmanager
    def joining(self, blocks: Sequence[nn.Module]) -> Iterator[None]:
        """Lets the rows join while a forward pass runs.

        Enter it before the hooks of the interventions, which then see the wider batch.

        Args:
            blocks: all blocks of the model.

        Yields:
            Nothing. The pass must be given the inputs of the first `n_rows(0)` rows.
        """
        with ExitStack() as stack:
            for index, block in enumerate(blocks):
                new = [s for s, b in zip(self.sources, self.begins, strict=True) if b == index]
                if index and new:
                    handle = block.register_forward_pre_hook(_widen(new), with_kwargs=True)
                    stack.callback(handle.remove)
            yield


def _widen(sources: list[int]) -> Any:
    """Returns a hook that appends copies of some rows to the residual stream."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        entered = args[0] if args else kwargs["hidden_states"]  # [n, T, D]
        wide = torch.cat([entered, entered[torch.tensor(sources, device=entered.device)]])
        if args:
            return (wide, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": wide}

    return hook
