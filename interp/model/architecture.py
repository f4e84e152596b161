"""Where a Hugging Face causal language model keeps its blocks, sublayers, final norm and head.

They are found by shape, not by model name: the blocks are the `ModuleList` with one entry per
hidden layer, each with an attention and an MLP module. `adds_attention[l]` is the module whose
output IS what attention adds to the residual stream: the attention module itself, or the norm that
follows it where a block has one there (Gemma 2 and 3, OLMo 2, GLM 4). Scaling the input of such a
norm would change nothing. `adds_mlp[l]` is the same for the MLP.

Blocks of hybrid models have linear attention, a state space or a convolution in the place of
attention; some have no MLP, or nothing but one. A part that a block lacks, or that two modules
share (attention and a state space side by side), is None, and `adds` refuses it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import nn

from interp.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = ("self_attn", "attention", "attn", "self_attention")
# what mixes positions in the place of attention: linear attention, state spaces, convolutions
MIXERS = ("linear_attn", "mamba", "conv", "short_conv", "mixer")
OUTPUT_PROJECTION = ("o_proj", "out_proj", "dense", "c_proj")
DOWN_PROJECTION = ("down_proj", "c_proj", "fc2", "dense_4h_to_h", "fc_out", "w2")
MLP = ("mlp", "feed_forward", "block_sparse_moe", "shared_mlp", "moe", "ffn")
NORM = (
    *("norm", "final_layernorm", "ln_f", "final_layer_norm", "final_norm"),
    *("embedding_norm", "norm_f"),
)
# the norm after attention and the norm after the MLP, in blocks that have both
NORM_BEHIND = (
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_self_attn_layernorm", "post_mlp_layernorm"),
    ("post_attention_layernorm", "post_mlp_layernorm"),
)

_HANDED = "prev_"  # arguments of a block that are what the block before returned


@dataclass(frozen=True)
class Anatomy:
    """The parts of a causal language model that the package works on.

    Attributes:
        config: the text model's configuration.
        base: the transformer under the head.
        blocks: the decoder blocks, in order.
        attention: the module of each block that mixes positions, mostly attention; None if a block
            has none, or several.
        mlp: the MLP module of each block; None if a block has none, or several.
        adds_attention: the module of each block whose output is added to the stream as attention,
            or None.
        adds_mlp: the module of each block whose output is added to the stream as the MLP, or None.
        final_norm: the norm before the head.
        head: the unembedding.
    """

    config: Any
    base: nn.Module  # the transformer under the head
    blocks: tuple[nn.Module, ...]
    attention: tuple[nn.Module | None, ...]
    mlp: tuple[nn.Module | None, ...]
    adds_attention: tuple[nn.Module | None, ...]
    adds_mlp: tuple[nn.Module | None, ...]
    final_norm: nn.Module
    head: nn.Module

    @property
    def n_heads(self) -> int:
        """Number of attention heads per block (query heads)."""
        return int(self.config.num_attention_heads)

    def output_projection(self, index: int) -> nn.Linear:
        """The linear layer that maps the heads of a block to the residual stream.

        Args:
            index: position of the block in this model.

        Returns:
            The layer: [..., H * d] -> [..., D].

        Raises:
            UserError: the attention module has no such linear layer.
        """
        attention = self.sublayer(index, "attention")
        for name in OUTPUT_PROJECTION:
            found = getattr(attention, name, None)
            if isinstance(found, nn.Linear) and found.in_features % self.n_heads == 0:
                return found
        raise UserError(
            f"{type(attention).__name__} has no linear output projection over its {self.n_heads} "
            f"heads (looked for {', '.join(OUTPUT_PROJECTION)})."
        )

    def down_projection(self, index: int) -> nn.Linear:
        """The linear layer that maps the neurons of a block's MLP to the residual stream.

        Args:
            index: position of the block in this model.

        Returns:
            The layer: [..., F] -> [..., D].

        Raises:
            UserError: the block has no MLP, or its MLP has no such layer of its own.
        """
        mlp = self.sublayer(index, "mlp")
        for name in DOWN_PROJECTION:
            if isinstance(found := getattr(mlp, name, None), nn.Linear):
                return found
        raise UserError(
            f"{type(mlp).__name__} has no linear down projection of its own (looked for "
            f"{', '.join(DOWN_PROJECTION)}; a mixture of experts has one per expert): work on the "
            "whole MLP there."
        )

    def adds(self, index: int, part: str) -> nn.Module:
        """The module whose output is what a part of a block adds to the stream.

        Args:
            index: position of the block in this model.
            part: "block", "attention" or "mlp".

        Returns:
            The module; for "block" it is the block itself, whose output is the whole stream.

        Raises:
            UserError: the block has no such part, or several modules make it up.
        """
        if part == "block":
            return self.blocks[index]
        return self._known(index, part, self.adds_attention, self.adds_mlp)

    def sublayer(self, index: int, part: str) -> nn.Module:
        """The attention or the MLP module of a block.

        Args:
            index: position of the block in this model.
            part: "attention" or "mlp".

        Returns:
            The module.

        Raises:
            UserError: the block has no such part, or several modules make it up.
        """
        return self._known(index, part, self.attention, self.mlp)

    def _known(
        self,
        index: int,
        part: str,
        attention: tuple[nn.Module | None, ...],
        mlp: tuple[nn.Module | None, ...],
    ) -> nn.Module:
        found = {"attention": attention, "mlp": mlp}[part][index]
        if found is None:
            raise UserError(
                f"Block {index} of this model ({type(self.blocks[index]).__name__}) has no {part}, "
                "or several modules for it: work on whole blocks there."
            )
        return found


def dissect(hf: PreTrainedModel) -> Anatomy:
    """Find the blocks, sublayers, final norm and head of a model.

    Args:
        hf: a Hugging Face causal language model.

    Returns:
        The parts.

    Raises:
        UserError: the model is an encoder-decoder, or it lacks a head, blocks with standard
            attention or a final norm.
    """
    kind = type(hf).__name__
    config = hf.config.get_text_config()
    if getattr(hf.config, "is_encoder_decoder", False):
        raise UserError(
            f"{kind} is an encoder-decoder: expected a causal (decoder-only) language model."
        )
    head = hf.get_output_embeddings()
    if not isinstance(head, nn.Module):
        raise UserError(f"{kind} has no language-model head: load it as a causal LM.")
    n = int(getattr(config, "num_hidden_layers", 0))
    lists = [
        (name, module)
        for name, module in hf.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n and n > 0
    ]
    parts = [(name, blocks, [_parts(b) for b in blocks]) for name, blocks in lists]
    # blocks that all have attention and an MLP come first, then those of mixed kinds
    for whole in (True, False):
        for name, blocks, found in parts:
            if not (all(a and m for a, m in found) if whole else any(a or m for a, m in found)):
                continue
            parent = hf.get_submodule(name.rpartition(".")[0]) if "." in name else hf
            norm = _child(parent, NORM)
            if norm is None:
                raise UserError(f"{kind} has no final norm beside its blocks ({name}).")
            ways = [(_one(a), _one(m)) for a, m in found]
            return Anatomy(
                config=config,
                base=parent,
                blocks=tuple(blocks),
                attention=tuple(a for a, _ in ways),
                mlp=tuple(m for _, m in ways),
                adds_attention=tuple(
                    _adds(b, a, 0) for b, (a, _) in zip(blocks, ways, strict=True)
                ),
                adds_mlp=tuple(_adds(b, m, 1) for b, (_, m) in zip(blocks, ways, strict=True)),
                final_norm=norm,
                head=head,
            )
    raise UserError(
        f"{kind}: found no list of {n} decoder blocks with attention (or what mixes positions in "
        "its place) or an MLP; only decoder-only models with such blocks are supported."
    )


def _parts(block: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules of a block that mix positions, and its MLPs."""
    mixers, mlps = _children(block, (*ATTENTION, *MIXERS)), _children(block, MLP)
    if getattr(block, "block_type", None) in ("mlp", "moe"):  # a block that is only an MLP
        return [], [*mixers, *mlps]
    return mixers, mlps


def _one(modules: list[nn.Module]) -> nn.Module | None:
    return modules[0] if len(modules) == 1 else None


def _children(module: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    found = (getattr(module, name, None) for name in names)
    return [child for child in found if isinstance(child, nn.Module)]


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next(iter(_children(module, names)), None)


def handed_on(block: nn.Module) -> tuple[str, int] | None:
    """The state that a block takes from the block before it, beside the stream.

    ZAYA's routers and GLM's sparse attention read what those of the block before have computed.
    Such blocks return (stream, state); a skipped block hands on the state that it was given.

    Args:
        block: a decoder block.

    Returns:
        Name and position of the argument; None if the stream is all that a block takes.
    """
    return _handed_argument(type(block))


@cache
def _handed_argument(kind: type[nn.Module]) -> tuple[str, int] | None:
    names = list(inspect.signature(kind.forward).parameters)[1:]
    return next(((name, at) for at, name in enumerate(names) if name.startswith(_HANDED)), None)


def norm_behind(block: nn.Module) -> tuple[str, str] | None:
    """The names of the norms behind attention and behind the MLP.

    Args:
        block: a decoder block.

    Returns:
        The names; None if the block has no such norms.
    """
    for names in NORM_BEHIND:
        if len(_children(block, names)) == len(names):
            return names
    return None


def _adds(block: nn.Module, found: nn.Module | None, column: int) -> nn.Module | None:
    names = norm_behind(block)
    return found if names is None else _child(block, names[column : column + 1])
