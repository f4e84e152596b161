"""FLOPs of decoding, from a configuration alone: no weights, no run.

A token that attends to t keys (itself included) costs, in a model of L blocks,

    2 N + 2 V d + 4 L H d_h t

N: weights of the blocks' matrices that the token passes through; V d: the head, tied or not; H
query heads of width d_h, each with a product over the keys and one over the values (grouped
queries save memory, not FLOPs). A multiply and an add count as two. Only matrix products count,
as in `torch.utils.flop_counter`; docs/internals.md has the parts of a block and what is left out.

A chain of n tokens after P prompt tokens takes P + n - 1 passes through the blocks (its last token
is sampled, never read) and n through the head. FLOPs are not seconds: decoding one chain waits for
weights to be read, not for products. `ModelCost.weights_read` is the better guide there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from interp.errors import UserError
from interp.plumbing.arguments import checked

GATED = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3")
EXPERTS = ("qwen3_moe",)


@dataclass(frozen=True)
class BlockCost:
    """What one block costs per token.

    Attributes:
        attention: weights of the attention matrices that a token passes through.
        mlp: weights of the MLP matrices (of experts: the active ones, and the router).
        per_key: FLOPs per key that a token attends to.
        window: the largest number of keys; None for all.
    """

    attention: int
    mlp: int
    per_key: int
    window: int | None = None

    @property
    def weights(self) -> int:
        """Weights of the matrices that a token passes through."""
        return self.attention + self.mlp


@checked
@dataclass(frozen=True)
class ModelCost:
    """What a model's forward passes cost.

    Attributes:
        blocks: the cost of each block, in the order of the configuration.
        head: V d, the weights of the head.
    """

    blocks: tuple[BlockCost, ...]
    head: int

    @classmethod
    def of(cls, config: Any) -> ModelCost:
        """The cost of the model that a Hugging Face configuration describes (pruned ones too).

        Args:
            config: the configuration.

        Returns:
            The cost.

        Raises:
            UserError: the matrices of this kind of model are not known here.
        """
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        kind = getattr(config, "model_type", type(config).__name__)
        if kind not in GATED + EXPERTS:
            raise UserError(
                f"FLOPs of a {kind!r} model are not known; expected one of "
                f"{', '.join(sorted(GATED + EXPERTS))}. Compare at equal tokens instead."
            )
        d, heads = int(config.hidden_size), int(config.num_attention_heads)
        width = int(getattr(config, "head_dim", None) or d // heads)
        groups = int(getattr(config, "num_key_value_heads", None) or heads)
        attention = 2 * d * width * (heads + groups)
        blocks = tuple(
            BlockCost(attention, _mlp(config, l), 4 * heads * width, window)
            for l, window in enumerate(_windows(config, kind))
        )
        return cls(blocks, int(config.vocab_size) * d)

    def without(self, removed: int | Collection[int]) -> ModelCost:
        """The cost of the model without some blocks.

        Args:
            removed: indices of the removed blocks, or their number if all blocks are alike.

        Returns:
            The cost of the rest.

        Raises:
            UserError: an index or number is out of range, or a number is given and the blocks
                differ.
        """
        n = len(self.blocks)
        if isinstance(removed, int):
            if not 0 <= removed < n:
                raise UserError(f"{removed} blocks removed of {n}: expected 0 to {n - 1}.")
            if removed and len(set(self.blocks)) > 1:
                raise UserError(
                    "The blocks of this model differ in cost (windows or experts): say which are "
                    f"removed, such as [3, 5], not how many ({removed})."
                )
            return replace(self, blocks=self.blocks[: n - removed])
        gone = {int(l) for l in removed}
        if not all(0 <= l < n for l in gone) or len(gone) == n:
            raise UserError(
                f"Blocks removed {sorted(gone)}: expected indices 0 to {n - 1}, fewer than {n}."
            )
        return replace(self, blocks=tuple(b for l, b in enumerate(self.blocks) if l not in gone))

    @property
    def weights_read(self) -> int:
        """Weights that one token passes through, the head included: N + V d."""
        return sum(b.weights for b in self.blocks) + self.head

    def token(self, keys: int) -> int:
        """FLOPs of one decoded token.

        Args:
            keys: number of keys that it attends to, itself included.

        Returns:
            The number of FLOPs.

        Raises:
            UserError: `keys` is below 1.
        """
        if keys < 1:
            raise UserError(f"keys={keys}: a token meets at least itself; expected 1 or more.")
        return self._passes(np.array(keys), np.array(keys - 1)).item() + 2 * self.head

    def chain(
        self,
        prompt: int | Shaped[np.ndarray, "*shape"],
        new: int | Shaped[np.ndarray, "*shape"],
        removed: int | Collection[int] = (),
    ) -> Int[np.ndarray, "*any"]:
        """FLOPs of chains, elementwise; 0 where nothing is generated.

        Args:
            prompt: tokens of the prompt.
            new: tokens after it: thinking, answer and what was written between them.
            removed: how many blocks, or which, are not computed.

        Returns:
            FLOPs, in the broadcast shape of `prompt` and `new`.
        """
        first, made = np.asarray(prompt, np.int64), np.asarray(new, np.int64)
        try:
            first, made = np.broadcast_arrays(first, made)
        except ValueError:
            raise UserError(
                f"ModelCost.chain: {list(first.shape)} prompts and {list(made.shape)} lengths do "
                "not fit each other."
            ) from None
        if np.any(first < 1) or np.any(made < 0):
            raise UserError("ModelCost.chain: expected prompts of 1 token or more and new >= 0.")
        model = self.without(removed)
        last = np.asarray(first + made - 1)  # in the broadcast shape
        passes = model._passes(last, np.zeros_like(last))
        return np.asarray(np.where(made > 0, passes + 2 * model.head * made, 0))

    def _passes(
        self, last: Int[np.ndarray, "*shape"], before: Int[np.ndarray, "*shape"]
    ) -> Int[np.ndarray, "*shape"]:
        """FLOPs in the blocks of the tokens that meet before+1, ..., last keys."""
        total = np.zeros(np.broadcast_shapes(last.shape, before.shape), np.int64)
        for block, times in Counter(self.blocks).items():
            met = _keys(last, block.window) - _keys(before, block.window)
            total = total + times * (2 * block.weights * (last - before) + block.per_key * met)
        return np.asarray(total)


def _keys(tokens: Int[np.ndarray, "*shape"], window: int | None) -> Int[np.ndarray, "*shape"]:
    """Keys met by the first `tokens` tokens together: the sum of min(t, window) over t."""
    full = tokens if window is None else np.minimum(tokens, window)
    beyond = 0 if window is None else (tokens - full) * window
    return np.asarray(full * (full + 1) // 2 + beyond)


def _mlp(config: Any, l: int) -> int:
    d = int(config.hidden_size)
    if config.model_type in EXPERTS:
        sparse = config.num_experts > 0 and (l + 1) % config.decoder_sparse_step == 0
        if sparse and l not in config.mlp_only_layers:
            active = 3 * d * config.moe_intermediate_size * config.num_experts_per_tok
            return int(active + d * config.num_experts)
    return 3 * d * int(config.intermediate_size)


def _windows(config: Any, kind: str) -> list[int | None]:
    """The most keys that a query of each block meets."""
    window = getattr(config, "sliding_window", None)
    names = getattr(config, "layer_types", None)
    if not names:
        return [window] * int(config.num_hidden_layers)
    strange = set(names) - {"full_attention", "sliding_attention"}
    if strange:
        raise UserError(
            f"FLOPs of a {kind!r} model with {', '.join(sorted(strange))} blocks are not known; "
            "expected full or sliding attention."
        )
    return [window if name == "sliding_attention" else None for name in names]
