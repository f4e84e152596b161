"""What a training needs on each GPU, calculated.

P parameters (T of them trained), N GPUs, sequences of S tokens, micro-batch b, width D, L blocks, H
query heads of width d_h with K key/value heads, feed-forward F, vocabulary V. Mixed precision:
trained weights, their gradients and Adam's two moments in float32, matrix products and frozen
weights in bfloat16. Bytes per GPU are in `Memory`; sharded parts are divided by N.

Activations of one block per token, with flash attention (no S x S matrix):
2 (4 D + 2 (H + 2 K) d_h + H d_h + 3 F) + 8 H bytes; the backward pass holds about as much again in
gradients. Allocators and communication add 10 to 20 %.

Sources: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054) for the shards; Korthikanti et al. 2022
(arXiv 2205.05198) for counting activations. docs/internals.md has the details.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from interp.errors import UserError
from interp.plumbing.notebook import as_table

GIB = 2**30
TILE = (4096, 32768)  # tokens and words that TRL's fused head takes at a time


@dataclass(frozen=True)
class TrainedShape:
    """The shape of a dense transformer of the Qwen3 kind, which determines its memory.

    Attributes:
        blocks: the number of blocks.
        width: width of the residual stream.
        heads: query heads.
        key_value_heads: key and value heads.
        head_width: width of one head.
        feed_forward: width of the MLP.
        vocabulary: size of the vocabulary.
        tied: whether the head shares the embedding's weights.
    """

    blocks: int
    width: int
    heads: int
    key_value_heads: int
    head_width: int
    feed_forward: int
    vocabulary: int
    tied: bool = False

    @classmethod
    def of(cls, config: Any) -> TrainedShape:
        """Read the shape from a Hugging Face configuration."""
        c = config.get_text_config()
        return cls(
            blocks=c.num_hidden_layers,
            width=c.hidden_size,
            heads=c.num_attention_heads,
            key_value_heads=c.num_key_value_heads,
            head_width=getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
            feed_forward=c.intermediate_size,
            vocabulary=c.vocab_size,
            tied=bool(c.tie_word_embeddings),
        )

    @property
    def block(self) -> int:
        """Parameters of one block: four projections, three of the MLP, the norms."""
        q = self.heads * self.head_width
        kv = self.key_value_heads * self.head_width
        attention = self.width * (2 * q + 2 * kv) + 2 * self.head_width
        return attention + 3 * self.width * self.feed_forward + 2 * self.width

    @property
    def outside(self) -> int:
        """Parameters outside the blocks: embedding, head, final norm."""
        return self.vocabulary * self.width * (1 if self.tied else 2) + self.width

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.blocks * self.block + self.outside

    def lora(self, rank: int) -> int:
        """Parameters of LoRA adapters on all seven projections."""
        q = self.heads * self.head_width
        kv = self.key_value_heads * self.head_width
        sides = 2 * (self.width + q) + 2 * (self.width + kv) + 3 * (self.width + self.feed_forward)
        return self.blocks * rank * sides

    def activations(self) -> int:
        """Bytes per token of one block's activations, kept for its backward pass."""
        q = self.heads * self.head_width
        kv = self.key_value_heads * self.head_width
        numbers = 4 * self.width + 2 * (q + 2 * kv) + q + 3 * self.feed_forward
        return 2 * numbers + 8 * self.heads


QWEN3_8B = TrainedShape(36, 4096, 32, 8, 128, 12288, 151936)


@as_table
@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, by part, and on the host.

    Attributes:
        weights: 4 T + 2 (P - T), over N if sharded.
        gradients: 4 T, over N if sharded.
        adam: 8 T, over N if sharded; 0 if offloaded to the host.
        gathered: if sharded, 2 (3 P_block + 3 V D): bfloat16 weights of two blocks, embedding and
            head,
            and gradients of one block and the head.
        checkpoints: 2 b S D per block: what gradient checkpointing keeps.
        recomputed: one block's activations while it is recomputed.
        logits: 6 c v: the fused head's tiles of c tokens and v words; with a full head 10 b S V.
        teacher: 2 P_teacher, over N if sharded, and one block of activations without gradients.
        host: bytes on the host: Adam's moments if offloaded.
    """

    weights: int
    gradients: int
    adam: int
    gathered: int
    checkpoints: int
    recomputed: int
    logits: int
    teacher: int
    host: int

    @property
    def gpu(self) -> int:
        """Bytes on one GPU in all."""
        return sum(v for k, v in asdict(self).items() if k != "host")

    def to_frame(self) -> pd.DataFrame:
        """Return one row, in GiB."""
        row = {**asdict(self), "gpu": self.gpu}
        return pd.DataFrame([{name: value / GIB for name, value in row.items()}])


def memory(
    shape: TrainedShape,
    *,
    context: int,
    gpus: int = 1,
    micro: int = 1,
    lora_rank: int | None = None,
    sharded: bool = True,
    offload_adam: bool = False,
    checkpointing: bool = True,
    fused_head: bool = True,
    teacher: TrainedShape | None = None,
) -> Memory:
    """Calculate the memory of a training.

    Args:
        shape: the model to train.
        context: tokens per sequence.
        gpus: the number of GPUs.
        micro: sequences per forward pass on one GPU.
        lora_rank: train only LoRA adapters of this rank. Default: train all weights.
        sharded: whether weights, gradients and moments are sharded (FSDP or ZeRO-3).
        offload_adam: whether Adam's moments are on the host.
        checkpointing: whether activations are recomputed in the backward pass.
        fused_head: whether the loss is computed in tiles, without the full logits.
        teacher: the teacher's shape, for distillation.

    Returns:
        Bytes, by part.

    Raises:
        UserError: a number is below 1.
    """
    if context < 1 or gpus < 1 or micro < 1:
        raise UserError(
            f"context={context}, gpus={gpus}, micro={micro}: expected at least 1 for each."
        )
    share = gpus if sharded else 1
    trained = shape.parameters if lora_rank is None else shape.lora(lora_rank)
    frozen = 0 if lora_rank is None else shape.parameters
    tokens = micro * context
    embedded = shape.vocabulary * shape.width
    a_block = tokens * shape.activations()
    adam = 8 * trained // share
    return Memory(
        weights=(4 * trained + 2 * frozen) // share,
        gradients=4 * trained // share,
        adam=0 if offload_adam else adam,
        gathered=2 * (3 * shape.block + 3 * embedded) if sharded else 0,
        checkpoints=2 * tokens * shape.width * shape.blocks
        if checkpointing
        else a_block * shape.blocks,
        recomputed=2 * a_block,
        logits=6 * min(TILE[0], tokens) * min(TILE[1], shape.vocabulary)
        if fused_head
        else 10 * tokens * shape.vocabulary,
        teacher=0
        if teacher is None
        else 2 * teacher.parameters // share + tokens * teacher.activations(),
        host=adam * share if offload_adam else 0,
    )
