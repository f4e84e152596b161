"""Four numbers per token and block, and what follows from them: the cosine, attention sinks.

x and y are the residual stream entering and leaving a block, [..., D]. The four numbers are |x|,
|y|, |y - x| and <x, y>. Block Influence (ShortGPT, arXiv 2403.03853) is 1 - cos(x, y).

Everything is computed in float32 whatever the model's dtype: in half precision a squared norm
over 256 overflows.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.kernels.library import kernels, suits

SINK_RATIO = 100.0


def two_streams(x: Float[Tensor, "*B D"], y: Float[Tensor, "*B D"]) -> Float[Tensor, "*B 4"]:
    """Compute |x|, |y|, |y - x| and <x, y> in float32.

    Args:
        x: Stream entering a block, [..., D].
        y: Stream leaving it, [..., D], on the same device.

    Returns:
        The four numbers, [..., 4]. The compiled kernel, where it can be used, reads each stream
        once.
    """
    run = kernels() if suits(x.shape[-1], x.dtype, x.device) and x.numel() else None
    if run is None or y.dtype != x.dtype or not (x.is_contiguous() and y.is_contiguous()):
        x, y = x.float(), y.float()
        norms = [torch.linalg.vector_norm(z, dim=-1) for z in (x, y, y - x)]
        return torch.stack([*norms, (x * y).sum(-1)], dim=-1)
    out = torch.empty((*x.shape[:-1], 4))
    run.stream(x, y, out.data_ptr(), 4)
    return out


def cosine(
    dot: Float[Tensor, "*B"], norm_x: Float[Tensor, "*B"], norm_y: Float[Tensor, "*B"]
) -> Float[Tensor, "*B"]:
    """Cosine of two vectors from their inner product and norms, in float32.

    Args:
        dot: Inner products <x, y>.
        norm_x: Norms |x|.
        norm_y: Norms |y|.

    Returns:
        The cosines. Two zero vectors have cosine 1; a zero vector and another have 0. nan and inf
        stay what they are: turned into a number they would pass for a score.
    """
    size = norm_x * norm_y
    return torch.where(size == 0, (norm_x == norm_y).float(), dot / size)


def sinks(norm: Float[Tensor, "*L T"], mask: Bool[Tensor, "*#L T"]) -> Bool[Tensor, "*L T"]:
    """Find attention sinks: tokens with over 100 times the median norm of their text.

    Args:
        norm: Norms of the stream, [..., T]. The last axis holds one whole text: a row of a single
            decoding step has no sinks.
        mask: Which tokens are part of the text.

    Returns:
        True for the sinks, [..., T]. The median is the lower one where the count is even.
    """
    median = norm.masked_fill(~mask, torch.nan).nanmedian(-1, keepdim=True).values
    return norm > SINK_RATIO * median
