"""Where a Hugging Face causal language model keeps its blocks, sublayers, final norm and head.

They are found by shape, not by model name: the blocks are the `ModuleList` with one entry per
hidden layer, each with an attention and an MLP module. `adds_attention[l]` is the module whose
output IS what attention adds to the residual stream: the attention module itself, or the norm that
follows it where a block has one there (Gemma 2 and 3, OLMo 2, GLM 4). Scaling the input of such a
norm would change nothing. `adds_mlp[l]` is the same for the MLP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from interp.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = ("self_attn", "attention", "attn", "self_attention")
OUTPUT_PROJECTION = ("o_proj", "out_proj", "dense", "c_proj")
MLP = ("mlp", "feed_forward", "block_sparse_moe", "moe", "ffn")
NORM = ("norm", "final_layernorm", "ln_f", "final_layer_norm", "final_norm")
# (a child that only these blocks have, the norm after attention, the norm after the MLP)
NORM_BEHIND = (
    ("post_feedforward_layernorm", "post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_mlp_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"),
)


@dataclass(frozen=True)
class Anatomy:
    """The parts of a causal language model that the package works on.

    Attributes:
        config: the text model's configuration.
        base: the transformer under the head.
        blocks: the decoder blocks, in order.
        attention: the attention module of each block.
        mlp: the MLP module of each block.
        adds_attention: the module of each block whose output is added to the stream as attention.
        adds_mlp: the module of each block whose output is added to the stream as the MLP.
        final_norm: the norm before the head.
        head: the unembedding.
    """

    config: Any
    base: nn.Module  # the transformer under the head
    blocks: tuple[nn.Module, ...]
    attention: tuple[nn.Module, ...]
    mlp: tuple[nn.Module, ...]
    adds_attention: tuple[nn.Module, ...]
    adds_mlp: tuple[nn.Module, ...]
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
        attention = self.attention[index]
        for name in OUTPUT_PROJECTION:
            found = getattr(attention, name, None)
            if isinstance(found, nn.Linear) and found.in_features % self.n_heads == 0:
                return found
        raise UserError(
            f"{type(attention).__name__} has no linear output projection over its {self.n_heads} "
            f"heads (looked for {', '.join(OUTPUT_PROJECTION)})."
        )

    def adds(self, index: int, part: str) -> nn.Module:
        """The module whose output is what a part of a block adds to the stream.

        Args:
            index: position of the block in this model.
            part: "block", "attention" or "mlp".

        Returns:
            The module; for "block" it is the block itself, whose output is the whole stream.
        """
        if part == "block":
            return self.blocks[index]
        return {"attention": self.adds_attention, "mlp": self.adds_mlp}[part][index]


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
    for name, blocks in lists:
        attention = [_child(b, ATTENTION) for b in blocks]
        mlp = [_child(b, MLP) for b in blocks]
        if all(a is not None for a in attention) and all(m is not None for m in mlp):
            parent = hf.get_submodule(name.rpartition(".")[0]) if "." in name else hf
            norm = _child(parent, NORM)
            if norm is None:
                raise UserError(f"{kind} has no final norm beside its blocks ({name}).")
            return Anatomy(
                config=config,
                base=parent,
                blocks=tuple(blocks),
                attention=tuple(a for a in attention if a is not None),
                mlp=tuple(m for m in mlp if m is not None),
                adds_attention=tuple(_adds(b, ATTENTION, 1) for b in blocks),
                adds_mlp=tuple(_adds(b, MLP, 2) for b in blocks),
                final_norm=norm,
                head=head,
            )
    if lists:
        raise UserError(
            f"{kind}: not every block of {lists[0][0]} has attention and an MLP "
            "(a state-space, convolution or linear-attention model?); only standard attention "
            "is supported."
        )
    raise UserError(
        f"{kind}: found no list of {n} decoder blocks; only decoder-only transformers with "
        "standard attention are supported."
    )


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    for name in names:
        child = getattr(module, name, None)
        if isinstance(child, nn.Module):
            return child
    return None


def _adds(block: nn.Module, names: tuple[str, ...], column: int) -> nn.Module:
    for row in NORM_BEHIND:
        if isinstance(getattr(block, row[0], None), nn.Module):
            return getattr(block, row[column])
    found = _child(block, names)
    assert found is not None
    return found
