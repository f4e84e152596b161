"""Models whose weights are written by hand, so that it is known which block carries what.

Llama architecture, no training. The residual stream has three parts:

    | the token read, one-hot | a constant | one number a word: its logit |

The constant is large, so the norms hardly see the rest and every block acts on the logits by
itself. The embedding alone is a bigram model: any number follows any word, now and then a full
stop or the end of thinking; then "no" or seldom "yes", and the end. On top of it blocks carry

- `copier`: attends to the token `period` - 1 back and writes it: chains loop with that period;
- `brake`: the same with the other sign, so that the copier's loops need its loss;
- `opener`: after a full stop it writes "wait"; if it `heeds`, only where its attention finds one of
  some numbers before the full stop;
- `closer`: one neuron of its MLP closes a cycle of three numbers, whose first two steps are the
  embedding's: chains loop in it, and no attention takes part;
- `answerer`: at the end of thinking it writes "yes".

Every other block trades places of two numbers of its own: the embedding gives them the logits
+TRADE and -TRADE, the block makes them -TRADE and +TRADE. Without the block the model is the same
up to the names of the two, and noise of a word does not know its name; so a chain without it is
another chain with the same law, and a paired difference of any outcome that treats numbers alike
is symmetric around zero: exactly the hypothesis of the sign-flip test.

The block of the closer, and `decoys`, also have neurons that write as much to other numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from analyses.plumbing.frames import StudyData
from analyses.plumbing.workbench import Workbench
from interp.chains.chain import Budget, Chain
from interp.decoding.sampling import Sampling
from interp.diagnosis.loops import find_loop
from interp.interventions.interventions import VariantLike, dense
from interp.model.reasoning_model import ReasoningModel
from scaling.problem import Benchmark, Problem
from tests.models import SPECIAL, WORDS, tokenizer

VOCAB = len(SPECIAL) + len(WORDS)
WORD = {word: i for i, word in enumerate(SPECIAL + WORDS)}
NUMBERS = [WORD[str(i)] for i in range(30)]
END, STOP = WORD["</think>"], WORD["<|im_end|>"]
D, HEAD, HEADS, INNER = 128, 64, 4, 8
CONSTANT = VOCAB  # its place in the stream; the logits begin behind it
LOGITS = VOCAB + 1
LARGE = 2000.0
TRADE = 1.5
NEVER = -20.0
FLAG = LOGITS + VOCAB  # where an opener that heeds notes what it found
HEEDED = NUMBERS[:15]
CYCLE = NUMBERS[20:23]  # a loop of three words, closed by one neuron
CLOSER, CLOSES, DECOY = 3, 11.0, 0.8  # its number; logits that it and the other neurons add


@dataclass(frozen=True)
class Planted:
    """Which block carries what (None: no block does)."""

    n_blocks: int = 6
    copier: int | None = None
    brake: int | None = None
    opener: int | None = None
    answerer: int | None = None
    closer: int | None = None
    decoys: int | None = None  # a block with neurons that write much and hold nothing
    heeds: bool = False
    period: int = 5
    copy: float = 7.6  # logits that copying adds
    answer: float = 5.0  # logits that the answerer adds to "yes"
    ends: float = -0.7  # logit of the end of thinking; a number's is 0

    def model(self) -> ReasoningModel:
        """The model."""
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=D,
            intermediate_size=INNER,
            num_hidden_layers=self.n_blocks,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            head_dim=HEAD,
            max_position_embeddings=512,
            rope_parameters={"rope_type": "default", "rope_theta": 100.0},
            bos_token_id=None,
            eos_token_id=STOP,
            pad_token_id=1,
            tie_word_embeddings=False,
            rms_norm_eps=1e-6,
        )
        hf: Any = LlamaForCausalLM(config)
        with torch.no_grad():
            for name, weight in hf.named_parameters():
                weight.fill_(1.0 if "norm" in name else 0.0)
            self._bigrams(hf)
            for index, block in enumerate(hf.model.layers):
                self._write(index, block)
        return ReasoningModel.load(hf.eval(), tokenizer(), name="planted")

    @property
    def neutral(self) -> tuple[int, ...]:
        """The blocks that carry nothing: they trade places of two numbers."""
        taken = {self.copier, self.brake, self.opener, self.answerer, self.closer, self.decoys}
        return tuple(l for l in range(self.n_blocks) if l not in taken)

    def _bigrams(self, hf: Any) -> None:
        table = torch.full((VOCAB, VOCAB), NEVER)
        table[:, NUMBERS] = 0.0
        table[:, WORD["."]] = 2.0 if self.heeds else 1.0
        table[:, WORD["wait"]] = -3.0
        table[:, END] = self.ends
        for block in self.neutral:
            first, second = pair(block)
            table[:, first] += TRADE
            table[:, second] -= TRADE
        if self.closer is not None:
            table[:, CYCLE] = 2.0  # so that a chain comes into it
            table[CYCLE[0], CYCLE[1]] = table[CYCLE[1], CYCLE[2]] = CLOSES
        for word in (END, WORD["yes"], WORD["no"]):
            table[word] = NEVER
        table[END, [WORD["yes"], WORD["no"]]] = torch.tensor([-2.0, 0.0])
        table[[WORD["yes"], WORD["no"]], STOP] = -NEVER
        embedding = hf.model.embed_tokens.weight
        embedding[:, :VOCAB] = torch.eye(VOCAB)
        embedding[:, CONSTANT] = LARGE
        embedding[:, LOGITS : LOGITS + VOCAB] = table
        # The norm divides by about LARGE / sqrt(D); the head takes that back.
        hf.lm_head.weight[:, LOGITS : LOGITS + VOCAB] = torch.eye(VOCAB) * LARGE / D**0.5

    def _write(self, index: int, block: Any) -> None:
        if index in (self.copier, self.brake):
            self._copying(block, self.copy if index == self.copier else -self.copy)
        elif index == self.opener:
            detector(block, WORD["."], {WORD["wait"]: 9.0 if self.heeds else 7.0})
            if self.heeds:
                look_back(block, 1)
                block.self_attn.o_proj.weight[FLAG, HEEDED] = 1.0
                block.mlp.up_proj.weight[0] = 0.0
                block.mlp.up_proj.weight[0, FLAG] = LARGE / D**0.5
        elif index == self.answerer:
            detector(block, END, {WORD["yes"]: self.answer})
        elif index in (self.closer, self.decoys):
            if index == self.closer:
                detector(block, CYCLE[2], {CYCLE[0]: CLOSES}, CLOSER)
            for neuron in range(INNER):
                if index == self.decoys or neuron != CLOSER:
                    detector(block, None, {NUMBERS[10 + neuron]: DECOY}, neuron)
        else:
            first, second = pair(index)
            detector(block, None, {first: -2 * TRADE, second: 2 * TRADE})

    def _copying(self, block: Any, strength: float) -> None:
        """Head 0 attends `period` - 1 back and writes what it finds there into the logits."""
        look_back(block, self.period - 1)
        write = block.self_attn.o_proj.weight[LOGITS : LOGITS + VOCAB, :VOCAB]
        write.copy_(torch.eye(VOCAB) * strength)


def look_back(block: Any, back: int) -> None:
    """Head 0 finds, one-hot, the token that lies so many positions back."""
    attention = block.self_attn
    half = HEAD // 2
    turns = 100.0 ** (-torch.arange(half) / half)  # radians a position, as the model's rotary
    angle = turns * back
    seen = D**0.5  # the constant as the norm leaves it
    attention.q_proj.weight[:half, CONSTANT] = 8.0 / seen
    attention.k_proj.weight[:half, CONSTANT] = 8.0 * angle.cos() / seen
    attention.k_proj.weight[half:HEAD, CONSTANT] = 8.0 * angle.sin() / seen
    size = D**0.5 / LARGE  # of a one-hot entry, as the norm leaves it
    attention.v_proj.weight[:VOCAB, :VOCAB] = torch.eye(VOCAB) / size


def pair(block: int) -> tuple[int, int]:
    """The two numbers that a block without a task trades."""
    return NUMBERS[2 * block], NUMBERS[2 * block + 1]


def detector(block: Any, word: int | None, writes: dict[int, float], neuron: int = 0) -> None:
    """A neuron adds `writes` to the logits where `word` is read (None: everywhere)."""
    mlp = block.mlp
    seen = D**0.5
    place, size = (CONSTANT, seen) if word is None else (word, seen / LARGE)
    mlp.gate_proj.weight[neuron, place] = 20.0 / size  # silu(20) is 20, silu(0) is 0
    mlp.up_proj.weight[neuron, CONSTANT] = 1.0 / seen
    for logit, value in writes.items():
        mlp.down_proj.weight[LOGITS + logit, neuron] = value / 20.0


# ------------------------------------------------------------------------------ its chains


def chains_of(
    model: ReasoningModel,
    n: int,
    variant: VariantLike = dense,
    *,
    seed: int = 0,
    thinking: int = 96,
) -> list[Chain]:
    """One chain of each of `n` problems. The prompt names no number: none is told apart by it."""
    prompts = [[*model.encode("what is the use of x ?"), WORD["<think>"]]] * n
    return list(
        model.generate(
            prompts,
            variants=[variant],
            budget=Budget(thinking, 4),
            seed=seed,
            sampling=Sampling(),
            stop_on_loop=False,
        )
    )


def judge(chain: Chain) -> dict[str, float]:
    """Whether the thinking ends in a loop, how often it says "wait", whether the answer is yes."""
    answer = chain.answer_ids.tolist()
    return {
        "looped": float(find_loop(chain.thinking_ids) is not None),
        "waits": float(np.mean(chain.thinking_ids == WORD["wait"])) if chain.n_thinking else np.nan,
        "correct": float(bool(answer) and answer[0] == WORD["yes"]),
    }


@dataclass(frozen=True)
class PlantedBench(Workbench):
    """A study's workbench over a planted model, whose right answer is always yes."""

    @classmethod
    def made(
        cls, planted: Planted, study: StudyData, problems: int = 24, thinking: int = 96
    ) -> PlantedBench:
        few = tuple(
            Problem(id=f"p{i}", question=f"use {i % 30} {i // 30} to make 21", answer="1")
            for i in range(problems)
        )
        benchmark = Benchmark(name="planted", version="1", problems=few)
        return cls(study, planted.model(), benchmark, Budget(thinking, 4))

    def verdict(self, chain: Chain) -> str:
        if not chain.n_answer:
            return "no answer"
        return "correct" if judge(chain)["correct"] == 1 else "wrong"

    def answer(self, chain: Chain) -> str | None:
        return self.verdict(chain) if chain.n_answer else None
