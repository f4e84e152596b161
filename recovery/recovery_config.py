"""Everything that determines a recovery run, checked before anything is loaded.

| method | who writes the answers | loss | weights |
|---|---|---|---|
| `lora` | the data | cross-entropy | LoRA (arXiv 2106.09685), several rates |
| `full` | the data | cross-entropy | all |
| `self` | the dense model (arXiv 2410.09982, 2602.01997) | cross-entropy | all |
| `distill` | the pruned model (arXiv 2306.13649) | KL to the dense model, every token | all |
| `rl` | the pruned model, in groups | GRPO (arXiv 2402.03300), a verifier rewards | all |

`self`, `distill` and `rl` train LoRA if `weights` says so. `distill` with on_policy=False uses the
data's answers instead of the model's own: the control.
`PAPER` is the schedule of arXiv 2510.22228: s1K, 5 epochs, cosine decay to 0, warm-up .05, and LoRA
on all seven projections at the same rate.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from interp.errors import UserError, check_known
from interp.plumbing.arguments import checked

METHODS = ("lora", "full", "self", "distill", "rl")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
#: The paper's rate, and what LoRA usually wants.
LORA_RATES = (1e-5, 1e-4, 2e-4, 5e-4)
RATES = {"lora": LORA_RATES, "full": (1e-5,), "self": (1e-5,), "distill": (1e-5,), "rl": (1e-6,)}
PAPER: Mapping[str, Any] = {
    "rates": (1e-5,),
    "epochs": 5.0,
    "batch": 16,
    "schedule": "cosine",
    "warmup": 0.05,
    "weight_decay": 1e-4,
    "betas": (0.9, 0.95),
    "context": 32768,
    "rank": 16,
    "alpha": 32.0,
    "dropout": 0.05,
    "targets": PROJECTIONS,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {"paper": PAPER}


@checked
@dataclass(frozen=True)
class RecoveryConfig:
    """The settings of a run; a batch is counted over all processes and devices.

    `steps`, `epochs` and `tokens` are limits: the one reached first ends the training. The weights
    of
    the best evaluation on held-out examples are kept.

    Attributes:
        method: "lora", "full", "self", "distill" or "rl".
        weights: "lora" or "all". Default: "lora" for method lora, otherwise "all".
        rates: learning rates; if several, each is trained and the best on held-out examples is
            kept.
            Default: by method.
        steps: optimizer steps; 0 trains nothing. Default: no limit.
        epochs: passes over the data.
        tokens: tokens with a loss. Default: no limit.
        batch: examples per step.
        micro: examples per forward pass on one device.
        context: the largest number of tokens of an example; longer ones are left out.
        packing: whether short examples share a row of `context` tokens.
        schedule: "cosine", "linear" or "constant".
        warmup: share of the training with a rising learning rate.
        weight_decay: AdamW's weight decay.
        betas: AdamW's betas.
        clip: largest norm of the gradient.
        rank: rank of LoRA.
        alpha: LoRA's alpha.
        dropout: LoRA's dropout.
        targets: modules that LoRA adapts.
        merge: whether the LoRA result is also written as a merged checkpoint.
        held_out: how many examples are held out.
        check_every: steps between evaluations on them.
        patience: evaluations without improvement that end the training.
        save_every: steps between resumable states.
        log_every: steps between lines of the log.
        thinking: thinking tokens of generated answers (self, distill, rl).
        answer: answer tokens of generated answers.
        temperature: sampling temperature of generated answers.
        top_p: nucleus of generated answers.
        samples: answers per problem: for rl the group. Default: 8 for rl, otherwise 1.
        verified: whether method self keeps only right answers.
        on_policy: whether distill uses the model's own answers.
        beta: distill's divergence: 1 is the reverse KL, 0 the forward KL, between them a mixture.
        start_length: tokens of an answer that distill writes in its first step; the length grows to
            thinking + answer (`recovery.rollouts`). 0: the whole length from the beginning.
        full_at: share of the training at which the whole length is reached.
        overlap: distill cuts an answer where less than this share of the likeliest next tokens of
            teacher and student are the same (`recovery.rollouts`). 0: it cuts nothing.
        kl: weight of the KL to the pruned model in rl.
        bf16: mixed precision. Default: on CUDA.
        gradient_checkpointing: recompute activations in the backward pass. Default: on CUDA.
        seed: the seed of everything random.
        extra: further arguments for TRL's configuration.
    """

    method: str
    weights: str | None = None
    rates: tuple[float, ...] = ()
    steps: int | None = None
    epochs: float = 1.0
    tokens: int | None = None
    batch: int = 8
    micro: int = 1
    context: int = 4096
    packing: bool = False
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] = PROJECTIONS
    merge: bool = True
    held_out: int = 64
    check_every: int = 50
    patience: int = 3
    save_every: int = 50
    log_every: int = 10
    thinking: int = 1024
    answer: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    samples: int = 0
    verified: bool = False
    on_policy: bool = True
    beta: float = 1.0
    start_length: int = 0
    full_at: float = 0.5
    overlap: float = 0.0
    kl: float = 0.0
    bf16: bool | None = None
    gradient_checkpointing: bool | None = None
    seed: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_known(self.method, METHODS, "recovery method")
        if self.weights is None:
            weights = "lora" if self.method == "lora" else "all"
            object.__setattr__(self, "weights", weights)
        check_known(self.weights, ("lora", "all"), "kind of weights")
        if (self.method, self.weights) in (("lora", "all"), ("full", "lora")):
            raise UserError(
                f"Method {self.method!r} trains no {self.weights!r} weights: leave `weights` out, "
                "or choose another method."
            )
        if not self.rates:
            object.__setattr__(self, "rates", RATES[self.method])
        if not self.samples:
            object.__setattr__(self, "samples", 8 if self.method == "rl" else 1)
        self._check_numbers()

    def _check_numbers(self) -> None:
        least: dict[str, float] = {
            "batch": 1, "micro": 1, "context": 8, "rank": 1, "check_every": 1, "patience": 1,
            "save_every": 1, "log_every": 1, "thinking": 1, "answer": 1, "samples": 1,
            "held_out": 0, "weight_decay": 0, "clip": 0, "kl": 0, "start_length": 0,
        }  # fmt: skip
        for name, minimum in least.items():
            if not getattr(self, name) >= minimum:
                raise UserError(f"{name}: {getattr(self, name)} is not at least {minimum}.")
        for name in ("steps", "tokens"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UserError(f"{name}: {value} is not at least 0.")
        if not self.epochs > 0:
            raise UserError(f"epochs: {self.epochs} is not above 0; for no training give steps=0.")
        if any(not 0 < rate < 1 for rate in self.rates) or len(set(self.rates)) < len(self.rates):
            raise UserError(
                f"rates: {list(self.rates)}; expected different numbers between 0 and 1."
            )
        if not 0 <= self.dropout < 1 or not 0 <= self.warmup <= 1 or not 0 <= self.beta <= 1:
            raise UserError(
                f"dropout={self.dropout}, warmup={self.warmup}, beta={self.beta}: expected shares "
                "between 0 and 1."
            )
        if not 0 < self.full_at <= 1 or not 0 <= self.overlap <= 1:
            raise UserError(
                f"full_at={self.full_at}, overlap={self.overlap}: expected a share of the training "
                "above 0, and a share of tokens from 0 to 1."
            )
        if self.start_length > self.thinking + self.answer:
            raise UserError(
                f"start_length: {self.start_length} is more than the whole length, thinking + "
                f"answer = {self.thinking + self.answer}: expected a shorter one, or 0."
            )
        if (self.start_length or self.overlap) and not (
            self.method == "distill" and self.on_policy
        ):
            raise UserError(
                "start_length and overlap are about answers that the model writes for method "
                f"distill; this run ({self.method!r}, on_policy={self.on_policy}) has none: leave "
                "them out."
            )
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise UserError(
                f"temperature={self.temperature}, top_p={self.top_p}: answers are sampled; "
                "expected a temperature above 0 and top_p in (0, 1]."
            )
        if self.method == "rl" and self.samples < 2:
            raise UserError("rl compares the answers of a group: samples must be at least 2.")
        if self.method == "rl" and self.batch % self.samples:
            raise UserError(
                f"rl: a batch of {self.batch} answers does not hold whole groups of "
                f"{self.samples}; make it a multiple."
            )
        if not self.targets:
            raise UserError("targets: name at least one projection for LoRA.")
        if self.verified and self.method != "self":
            raise UserError(
                f"`verified` works only with method self, not {self.method!r}: leave it out."
            )

    @classmethod
    def preset(cls, name: str, method: str, **changes: Any) -> RecoveryConfig:
        """Make a published schedule.

        Args:
            name: the preset: "paper".
            method: the method.
            **changes: settings that replace those of the preset.

        Returns:
            The settings.

        Raises:
            UserError: unknown preset, or a setting is out of range.
        """
        check_known(name, PRESETS, "preset")
        return cls(method=method, **{**PRESETS[name], **changes})

    @property
    def uses_teacher(self) -> bool:
        """Whether the dense model is needed."""
        return self.method in ("self", "distill")

    @property
    def generates(self) -> bool:
        """Whether the model that is trained writes completions."""
        return self.method == "rl" or (self.method == "distill" and self.on_policy)

    @property
    def imitates(self) -> bool:
        """Whether the data's own answers are learnt."""
        return self.method in ("lora", "full")

    def with_rate(self, rate: float) -> RecoveryConfig:
        """The same run at one learning rate."""
        return replace(self, rates=(rate,))

    def settings(self) -> dict[str, Any]:
        """Everything that determines the weights, as JSON values, without what only reports."""
        left_out = ["log_every", "merge"]
        if not self.start_length and not self.overlap:  # as before there were any
            left_out += ["start_length", "full_at", "overlap"]
        found = {k: v for k, v in asdict(self).items() if k not in left_out}
        return json.loads(json.dumps(found, default=str))
