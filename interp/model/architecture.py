"""Where a Hugging Face causal LM keeps its blocks, sublayers, final norm and head.

Found by shape, not by model name: the blocks are the `ModuleList` with one entry for each hidden
layer, each with an attention and an MLP below it. `adds_attention[l]` is the module whose output
IS what attention adds to the residual stream: the attention itself, or the norm behind it
where a block has one there (Gemma 2 and 3, OLMo 2, GLM 4), for scaling the input of such a norm
would change nothing. Likewise `adds_mlp[l]`.
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
# (a child only such blocks have, the norm behind attention, the norm behind the MLP)
NORM_BEHIND = (
    ("post_feedforward_layernorm", "post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_mlp_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"),
)


@dataclass(frozen=True)
class Anatomy:
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
        """Attention heads of a block (queries)."""
        return int(self.config.num_attention_heads)

    def output_projection(self, index: int) -> nn.Linear:
        """What mixes the heads of block `index` into the residual stream: z [.., H * d] -> D."""
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
        """The module whose output is what `part` of block `index` adds (block: the block)."""
        if part == "block":
            return self.blocks[index]
        return {"attention": self.adds_attention, "mlp": self.adds_mlp}[part][index]


def dissect(hf: PreTrainedModel) -> Anatomy:
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
