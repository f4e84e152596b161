"""The map from a stream to a logit as a linear one: final norm at a fixed scale, and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.lens.pieces import check_same, strange_model
from interp.model.readout import readout
from interp.model.reasoning_model import ReasoningModel


def normed_by(model: ReasoningModel, stream: Float[Tensor, "k D"]) -> Float[Tensor, "k D"]:
    """Apply the final norm on the device of its weights.

    Args:
        model: the model.
        stream: [k, D].

    Returns:
        [k, D].
    """
    weight = next(model.final_norm.parameters(), stream)
    return model.final_norm(stream if weight.is_meta else stream.to(weight.device))


@dataclass(frozen=True)
class FrozenNorm:
    """A norm at a fixed scale: norm(v) = scale * gain * (v - centred * mean(v)) + bias.

    The scale is that of one position.

    Attributes:
        gain: [D].
        bias: [D].
        centred: whether the norm subtracts the mean (LayerNorm) or not (RMSNorm).
    """

    gain: Float[Tensor, " D"]
    bias: Float[Tensor, " D"]
    centred: bool

    @classmethod
    def of(cls, model: ReasoningModel) -> FrozenNorm:
        """Measure a model's final norm with two opposite vectors of mean 0 and a constant one.

        Neither the class of the module nor the names of its parameters matter.

        Args:
            model: the model.

        Returns:
            The norm.
        """
        sign = torch.ones(model.d_model)
        sign[1::2] = -1
        sign = sign - sign.mean()
        sign = sign / sign.square().mean().sqrt()
        size = 64.0  # squares stay within float16, and the norm's epsilon is negligible
        probes = torch.stack([size * sign, -size * sign, torch.full_like(sign, size)])
        plus, minus, flat = normed_by(model, probes.to(model.dtype)).float()
        bias = (plus + minus) / 2
        gain = (plus - minus) / 2 / sign.to(plus.device)
        centred = bool((flat - bias).norm() < 0.1 * gain.norm())  # the constant vector vanished
        return cls(gain, flat if centred else bias, centred)

    def along(self, direction: Float[Tensor, "k D"]) -> Float[Tensor, "k D"]:
        """The vectors q with <norm(v) - bias, direction> = scale <v, q>.

        Args:
            direction: [k, D].

        Returns:
            q [k, D].
        """
        q = self.gain * direction
        return q - q.mean(-1, keepdim=True) if self.centred else q

    def scale(
        self, model: ReasoningModel, x: Float[Tensor, "k D"], normed: Float[Tensor, "k D"]
    ) -> Float[Tensor, " k"]:
        """The scale at each position, checked against the module's own output.

        Args:
            model: the model, for the error.
            x: the stream before the norm [k, D].
            normed: the stream after it [k, D].

        Returns:
            [k].

        Raises:
            UserError: no scale takes `x` to `normed`, so the norm is not linear at a fixed scale.
        """
        x = x.to(self.gain)
        plain = self.gain * (x - x.mean(-1, keepdim=True) if self.centred else x)
        tiny = torch.finfo(torch.float32).tiny
        length = plain.square().sum(-1).clamp(min=tiny)
        found = ((normed.to(plain) - self.bias) * plain).sum(-1) / length
        unknown = UserError(
            f"The final norm of {model.name} ({type(model.final_norm).__name__}) is neither an "
            "RMSNorm nor a LayerNorm: its output is not linear at a fixed scale, so a logit cannot "
            "be split into contributions."
        )
        check_same(found[:, None] * plain + self.bias, normed, normed.dtype, unknown)
        return found


@dataclass(frozen=True)
class Unembedding:
    """logit_t = scale * (<normed, weight[t]> + bias[t]), before any soft cap.

    Attributes:
        weight: [V, D].
        bias: [V].
        scale: a factor of all logits.
        mean_weight: mean of `weight` over the vocabulary [D], float32.
        mean_bias: mean of `bias` over the vocabulary, float32.
    """

    weight: Float[Tensor, "V D"]
    bias: Float[Tensor, " V"]
    scale: float
    mean_weight: Float[Tensor, " D"]
    mean_bias: Float[Tensor, ""]

    @classmethod
    def of(cls, model: ReasoningModel) -> Unembedding:
        """Read the head of a model.

        Args:
            model: the model.

        Returns:
            The unembedding.

        Raises:
            UserError: the head's weight is quantised, offloaded or of an unexpected shape.
        """
        weight: Any = getattr(model.head, "weight", None)
        bias: Any = getattr(model.head, "bias", None)
        shape = (model.vocab_size, model.d_model)
        held = isinstance(weight, Tensor) and weight.shape == shape and not weight.is_meta
        if not held or not weight.is_floating_point():
            raise UserError(
                f"The head of {model.name} ({type(model.head).__name__}) does not hold its weight "
                f"as numbers {list(shape)}: load the model unquantised, not offloaded."
            )
        bias = weight.new_zeros(shape[0]) if bias is None else bias
        scale = float(getattr(model.hf, "logit_scale", None) or 1.0)
        scale /= float(getattr(model.anatomy.config, "logits_scaling", None) or 1.0)
        means = weight.mean(0, dtype=torch.float32), bias.mean(dtype=torch.float32)
        return cls(weight.detach(), bias.detach(), scale, *means)

    def direction(
        self, ids: Int[Tensor, "k M"], centred: bool
    ) -> tuple[Float[Tensor, "k D"], Float[Tensor, " k"]]:
        """The linear map to the mean logit of some tokens.

        Args:
            ids: token ids, one set per row [k, M]; -1 gives an arbitrary token.
            centred: whether to subtract the mean logit over the vocabulary.

        Returns:
            Vectors [k, D] and biases [k], float32.
        """
        ids = ids.to(self.weight.device).clamp(min=0)
        vector = self.weight[ids].float().mean(1)
        bias = self.bias[ids].float().mean(1)
        if centred:
            vector, bias = vector - self.mean_weight, bias - self.mean_bias
        return vector * self.scale, bias * self.scale

    def check(self, model: ReasoningModel, normed: Float[Tensor, "k D"]) -> None:
        """Check on a few positions and tokens that the map agrees with `readout`.

        Args:
            model: the model.
            normed: normed streams [k, D].

        Raises:
            PruneScopeError: they differ.
        """
        some, theirs = normed[:8], readout(model, normed[:8])[:, :64]
        ids = torch.arange(theirs.shape[1])[:, None]
        vectors, bias = self.direction(ids, centred=False)
        ours = some.to(vectors) @ vectors.T + bias
        if cap := getattr(model.anatomy.config, "final_logit_softcapping", None):
            ours = torch.tanh(ours / cap) * cap
        size = float(theirs.abs().max())
        if not torch.allclose(ours.to(theirs.device), theirs, atol=2e-2 * size):
            raise strange_model(model, "turns the normed stream into logits in a way")
