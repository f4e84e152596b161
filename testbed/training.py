"""Train the reasoner from scratch: mixed kinds, whole documents, Muon and AdamW, exact resume.

A step draws documents of every kind by its share of tokens, sorts them by length and runs them in
micro-batches of similar length, so that attention is plain causal and there is little padding. The
data of a step depends only on (seed, step), so a stopped run continues as if it had not stopped.

Muon (Jordan et al. 2024, as `torch.optim.Muon`) trains the matrices of the blocks, AdamW the
embedding and the norms. The learning rate warms up, stays, and falls linearly over the last part.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from interp.errors import NonFiniteError, UserError
from testbed.expert import ExpertDocument, write
from testbed.problems import KINDS, stream
from testbed.vocabulary import ID, PAD, TURN_END, WORDS, build_tokenizer

IGNORED = 0.0


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights. The defaults made the shipped reasoner.

    Attributes:
        blocks: the number of blocks.
        width: width of the residual stream.
        heads: attention heads.
        key_value_heads: key and value heads.
        head_width: width of one head.
        feed_forward: width of the MLP.
        positions: the longest sequence, in tokens.
        tokens: training tokens in all.
        tokens_per_step: tokens per optimizer step.
        micro_batch_tokens: the largest number of tokens per forward pass.
        shares: (kind, share of the tokens).
        muon_rate: Muon's peak learning rate.
        adamw_rate: AdamW's peak learning rate.
        weight_decay: Muon's weight decay; AdamW has none.
        warm_up_steps: steps with a rising learning rate.
        decay_share: share of the steps, at the end, with a falling learning rate.
        clip: largest norm of the gradient.
        seed: the seed of the weights and documents.
    """

    blocks: int = 16
    width: int = 128
    heads: int = 4
    key_value_heads: int = 2
    head_width: int = 32
    feed_forward: int = 384
    positions: int = 4096
    tokens: int = 10_000_000
    tokens_per_step: int = 8_000
    micro_batch_tokens: int = 3_000
    shares: tuple[tuple[str, float], ...] = (
        ("recall", 0.05),
        ("arithmetic", 0.10),
        ("countdown-3", 0.20),
        ("countdown-4", 0.37),
        ("countdown-5", 0.28),
    )
    muon_rate: float = 0.01
    adamw_rate: float = 3e-3
    weight_decay: float = 0.01
    warm_up_steps: int = 60
    decay_share: float = 0.4
    clip: float = 1.0
    seed: int = 0

    @property
    def steps(self) -> int:
        """The number of optimizer steps."""
        return max(1, self.tokens // self.tokens_per_step)

    def rate(self, step: int) -> float:
        """The factor on both rates: warm-up, plateau, linear fall over the last `decay_share`."""
        warm = min(1.0, (step + 1) / max(1, self.warm_up_steps))
        left = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return warm * min(1.0, left)


def build_model(recipe: Recipe) -> torch.nn.Module:
    """Build a `Qwen3ForCausalLM` of the recipe's shape with fresh weights.

    Args:
        recipe: the recipe; its seed sets the weights.

    Returns:
        The model, float32.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(recipe.seed)
    config = Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=recipe.width,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.blocks,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        head_dim=recipe.head_width,
        max_position_embeddings=recipe.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ID[TURN_END],
        pad_token_id=ID[PAD],
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
    )
    return Qwen3ForCausalLM(config)


def documents(recipe: Recipe, step: int, split: str = "train") -> list[ExpertDocument]:
    """Draw the documents of a step: each kind until its share of the step's tokens is filled.

    Args:
        recipe: the recipe.
        step: the step; with the seed, it determines the documents.
        split: "train" or "test".

    Returns:
        The documents.
    """
    found = []
    for kind, share in recipe.shares:
        rng = random.Random(f"{recipe.seed}/{split}/{kind}/{step}")
        room = share * recipe.tokens_per_step
        for problem in stream(kind, f"{recipe.seed}/{step}", split):
            document = write(problem, rng)
            room -= len(document.words)
            # The last document is taken with the probability that makes the share right on average.
            if room < 0 and rng.random() < -room / len(document.words):
                break
            found.append(document)
            if room <= 0:
                break
    return found


Batch = tuple[torch.Tensor, torch.Tensor]  # ids [B, T], weights [B, T]


def batches(docs: Iterable[ExpertDocument], most_tokens: int) -> list[Batch]:
    """Pad documents of similar length into micro-batches.

    Args:
        docs: the documents.
        most_tokens: the largest number of tokens in a micro-batch; a longer document is alone.

    Returns:
        Pairs of token ids [B, T] and the loss weight of each token [B, T].
    """
    ordered = sorted(docs, key=lambda d: len(d.words))
    groups: list[list[ExpertDocument]] = []
    for doc in ordered:
        if groups and len(doc.words) * (len(groups[-1]) + 1) <= most_tokens:
            groups[-1].append(doc)
        else:
            groups.append([doc])
    out = []
    for group in groups:
        longest = len(group[-1].words)
        ids = torch.full((len(group), longest), ID[PAD])
        weights = torch.full((len(group), longest), IGNORED)
        for row, doc in enumerate(group):
            ids[row, : len(doc.words)] = torch.tensor([ID[w] for w in doc.words])
            weights[row, : len(doc.words)] = torch.tensor(doc.weights)
        out.append((ids, weights))
    return out


def weighted_loss(model: Any, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum over positions of weight x cross-entropy of the next token, in nats.

    Args:
        model: a causal language model.
        ids: token ids [B, T].
        weights: loss weight of each token [B, T].

    Returns:
        The sum, a number [].
    """
    # Padding is on the right, so with plain causal attention no real token sees it.
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    target, weight = ids[:, 1:], weights[:, 1:]
    used = weight > 0  # [B, T - 1]
    logits = model.lm_head(hidden[used]).float()  # [K, V] for the K weighted tokens only
    return (cross_entropy(logits, target[used], reduction="none") * weight[used]).sum()


class Optimizers:
    """Muon for the blocks' matrices, AdamW for the rest, one rate factor for both.

    Attributes:
        each: the two optimizers.
        base: their peak learning rates.
    """

    def __init__(self, model: torch.nn.Module, recipe: Recipe) -> None:
        matrices, rest = [], []
        for name, parameter in model.named_parameters():
            inside = ".layers." in name and parameter.ndim == 2
            (matrices if inside else rest).append(parameter)
        decay = recipe.weight_decay
        self.each = (
            torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=decay),
            torch.optim.AdamW(rest, lr=recipe.adamw_rate, betas=(0.9, 0.95), weight_decay=0.0),
        )
        self.base = (recipe.muon_rate, recipe.adamw_rate)

    def step(self, factor: float) -> None:
        """Take one step with both rates multiplied by `factor`, and clear the gradients."""
        for optimizer, base in zip(self.each, self.base, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> list[dict]:
        """The state of both optimizers."""
        return [optimizer.state_dict() for optimizer in self.each]

    def load(self, states: list[dict]) -> None:
        """Restore what `state` returned."""
        for optimizer, state in zip(self.each, states, strict=True):
            optimizer.load_state_dict(state)


def held_out_losses(model: Any, recipe: Recipe, device: torch.device) -> dict[str, float]:
    """Mean loss per weighted token on 12 test problems of each kind.

    Args:
        model: the model.
        recipe: the recipe.
        device: where the model is.

    Returns:
        Kind -> loss in nats.
    """
    model.eval()
    losses = {}
    with torch.no_grad():
        for kind in KINDS:
            rng = random.Random(f"held-out/{kind}")
            source = stream(kind, "held-out", "test")
            docs = [write(next(source), rng) for _ in range(12)]
            total = weight = 0.0
            for ids, weights in batches(docs, recipe.micro_batch_tokens):
                total += float(weighted_loss(model, ids.to(device), weights.to(device)))
                weight += float(weights[:, 1:].sum())
            losses[kind] = total / weight
    model.train()
    return losses


def train(
    run: Path,
    recipe: Recipe | None = None,
    *,
    device: str | None = None,
    threads: int | None = None,
    save_every: int = 50,
    stop_after: int | None = None,
    quiet: bool = False,
) -> Path:
    """Train, or continue to train, in a folder.

    The folder holds state.pt (the newest state), log.jsonl (one line per `save_every` steps) and,
    once training is over, the checkpoint folder reasoner.

    Args:
        run: the folder.
        recipe: the recipe. Default: that of the shipped reasoner.
        device: where to train. Default: cuda if available, otherwise cpu.
        threads: CPU threads. Default: PyTorch's own number.
        save_every: steps between saves.
        stop_after: end this call after that many steps, with the state saved. Default: train to the
            end.
        quiet: no progress bar.

    Returns:
        The finished checkpoint folder, or `run` if training is not over.

    Raises:
        UserError: the folder belongs to another recipe.
        NonFiniteError: the loss became inf or nan.
    """
    recipe = recipe or Recipe()
    if threads:
        torch.set_num_threads(threads)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    run.mkdir(parents=True, exist_ok=True)
    # Through JSON, because tuples come back as lists and would compare as different.
    wanted = json.loads(json.dumps(asdict(recipe)))
    written = run / "recipe.json"
    if written.exists() and json.loads(written.read_text()) != wanted:
        raise UserError(
            f"{run} holds a run of another recipe; give an empty folder, or the same options."
        )
    written.write_text(json.dumps(wanted, indent=2))

    model = build_model(recipe).to(where)
    optimizers = Optimizers(model, recipe)
    first, seen, spent = 0, 0, 0.0
    state_file = run / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, map_location=where, weights_only=True)
        model.load_state_dict(state["model"])
        optimizers.load(state["optimizers"])
        first, seen, spent = state["step"], state["tokens"], state["seconds"]

    started = time.monotonic()
    bar = tqdm(total=recipe.steps, initial=first, unit="step", disable=quiet, desc="training")
    running: list[float] = []
    last = recipe.steps if stop_after is None else min(recipe.steps, first + stop_after)
    model.train()

    def save(step: int) -> None:
        state = {
            "model": model.state_dict(),
            "optimizers": optimizers.state(),
            "step": step,
            "tokens": seen,
            "seconds": spent + time.monotonic() - started,
        }
        torch.save(state, run / "state.tmp")
        (run / "state.tmp").replace(state_file)

    for step in range(first, last):
        docs = documents(recipe, step)
        parts = batches(docs, recipe.micro_batch_tokens)
        weight = sum(float(weights[:, 1:].sum()) for _, weights in parts)
        total = 0.0
        for ids, weights in parts:
            loss = weighted_loss(model, ids.to(where), weights.to(where)) / weight
            loss.backward()
            total += float(loss.detach())
        if not total < float("inf"):
            raise NonFiniteError(
                f"The loss of step {step} is {total}; the state of step {step - step % save_every} "
                f"is kept in {state_file}. Train a recipe with lower rates in a new folder."
            )
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizers.step(recipe.rate(step))
        seen += sum(len(doc.words) for doc in docs)
        running.append(total)
        bar.update()
        bar.set_postfix(loss=f"{sum(running[-20:]) / len(running[-20:]):.3f}")
        done = step + 1
        if done % save_every == 0 or done == last:
            line = {
                "step": done,
                "tokens": seen,
                "seconds": round(spent + time.monotonic() - started, 1),
                "loss": round(sum(running) / len(running), 5),
                "held_out": {
                    k: round(v, 5) for k, v in held_out_losses(model, recipe, where).items()
                },
            }
            running.clear()
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            save(done)
    bar.close()
    return export(model, run / "reasoner") if last == recipe.steps else run


def export(model: Any, folder: Path) -> Path:
    """Write an ordinary checkpoint folder: float32 safetensors, tokenizer, generation settings.

    Args:
        model: the trained model.
        folder: the folder.

    Returns:
        The folder.
    """
    from transformers import GenerationConfig

    model = model.to("cpu")
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        eos_token_id=ID[TURN_END],
        pad_token_id=ID[PAD],
    )
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder
