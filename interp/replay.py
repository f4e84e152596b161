"""Teacher-forced passes over token sequences, without decoding.

For a causal model one pass over the ids of a finished chain gives the residual stream of its
decoding. Sequences of any length are sorted by length, bucketed and padded on the RIGHT: a causal
model's real tokens never look right, so no padding mask is needed, attention stays on its fast
path and padding cannot change a number.

`replay` feeds reducers (`interp.record`). `losses` gives the loss of every text.
`token_logprobs` gives log-probabilities of chosen continuations under several variants.
`interp.sweep` skips every block in turn.

Blocks that a variant skips throughout are not computed at all (`bypass`): for teacher-forced
work that beats masking rows of one batch, which pays for every block in every row.

Caveat: one sequence goes through in one piece, so memory grows with the longest sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import NonFiniteError, UserError
from interp.interventions import Skip, VariantLike, apply
from interp.model import ReasoningModel
from interp.record import Batch, Reducer, capture

Ids = Sequence[int] | np.ndarray
BATCH_TOKENS = 4096
LOGIT_FLOATS = 2**24  # of logits held at a time (64 MiB)
MAX_WASTE = 0.2  # of a row may be padding once a batch is a quarter full


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded rows: ids [B, T], mask [B, T] (True where real), texts [B]."""

    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    texts: Int[Tensor, " B"]

    def pad(self, values: Sequence[np.ndarray] | None) -> Bool[Tensor, "B T"]:
        """A boolean per token of each text, padded like the ids (None: every real token)."""
        if values is None:
            return self.mask
        out = torch.zeros(self.mask.shape, dtype=torch.bool)
        for row, text in enumerate(self.texts.tolist()):
            out[row, : len(values[text])] = torch.from_numpy(np.asarray(values[text], dtype=bool))
        return out.to(self.mask.device)


def batches(
    model: ReasoningModel, sequences: Sequence[Ids], batch_tokens: int = BATCH_TOKENS
) -> Iterator[TokenBatch]:
    """Sequences sorted by length (longest first) and cut into batches of `batch_tokens`."""
    if batch_tokens < 1:
        raise UserError(f"batch_tokens={batch_tokens}: expected at least 1.")
    lengths = [len(s) for s in sequences]
    for text, length in enumerate(lengths):
        if length == 0:
            raise UserError(f"Sequence {text} is empty: expected at least one token.")
        if length > model.max_positions:
            raise UserError(
                f"Sequence {text} has {length} tokens; {model.name} has {model.max_positions} "
                "positions. Cut it, or take a model with more."
            )
    order = sorted(range(len(sequences)), key=lambda text: -lengths[text])
    group: list[int] = []
    longest = real = 0
    for text in order:
        wider = max(longest, lengths[text])
        full = (len(group) + 1) * wider > batch_tokens
        wasteful = real > batch_tokens // 4 and lengths[text] < (1 - MAX_WASTE) * longest
        if group and (full or wasteful):
            yield _collate(model, sequences, group, longest)
            group, longest, real = [], 0, 0
        group.append(text)
        longest = max(longest, lengths[text])
        real += lengths[text]
    if group:
        yield _collate(model, sequences, group, longest)


def _collate(
    model: ReasoningModel, sequences: Sequence[Ids], group: list[int], longest: int
) -> TokenBatch:
    ids = torch.zeros(len(group), longest, dtype=torch.long)
    mask = torch.zeros(len(group), longest, dtype=torch.bool)
    for row, text in enumerate(group):
        length = len(sequences[text])
        ids[row, :length] = torch.as_tensor(np.asarray(sequences[text], dtype=np.int64))
        mask[row, :length] = True
    if (bad := (ids < 0) | (ids >= model.vocab_size)).any():
        raise UserError(
            f"Token id {int(ids[bad][0])} is outside the vocabulary of {model.name} "
            f"(0..{model.vocab_size - 1}); were the ids made by another tokenizer?"
        )
    device = model.device
    return TokenBatch(ids.to(device), mask.to(device), torch.tensor(group, device=device))


# ------------------------------------------------------------------------------- variants


@contextmanager
def bypass(model: ReasoningModel, blocks: Sequence[int]) -> Iterator[None]:
    """Blocks (positions in this model) hand their input on, uncomputed, until the end.

    Only right for passes without a cache: a bypassed block writes no keys and values.
    """

    def through(*args: Any, **kwargs: Any) -> Any:
        return args[0] if args else kwargs["hidden_states"]

    with ExitStack() as undo:
        for index in blocks:
            block = model.blocks[index]
            undo.callback(_restore, block, block.__dict__.get("forward"))
            block.__dict__["forward"] = through
        yield


def _restore(block: torch.nn.Module, forward: Any) -> None:
    if forward is None:
        block.__dict__.pop("forward", None)
    else:  # accelerate had put its own there
        block.__dict__["forward"] = forward


def present(model: ReasoningModel, blocks: Sequence[int]) -> list[int]:
    """Dense indices as positions in this model; an error where one was removed."""
    positions = [model.index_of(block) for block in blocks]
    if lacking := [b for b, i in zip(blocks, positions, strict=True) if i is None]:
        raise UserError(f"Block {lacking} was removed from {model.name}; it has {model.layer_map}.")
    return [i for i in positions if i is not None]


@contextmanager
def running(model: ReasoningModel, variant: VariantLike | None, rows: int) -> Iterator[None]:
    """The model as `variant` for passes of `rows` rows: bypass where it suffices, else hooks."""
    steps = tuple(variant.interventions()) if variant is not None else ()
    if all(isinstance(s, Skip) and s.part == "block" and s.window is None for s in steps):
        with bypass(model, present(model, [s.block for s in steps])):
            yield
    else:
        assert variant is not None
        with apply(model, [variant] * rows):
            yield


# ------------------------------------------------------------------------------- passes


@torch.no_grad()
def replay(
    model: ReasoningModel,
    sequences: Sequence[Ids],
    reducers: Sequence[Reducer] = (),
    variant: VariantLike | None = None,
    counted: Sequence[np.ndarray] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> None:
    """One pass over the sequences; the reducers see every block (the head is not computed).

    counted: for each sequence a boolean a token, False where it shall not count (a prompt, say).
    """
    with capture(model, *reducers, n_texts=len(sequences)) as recording:
        for batch in batches(model, sequences, batch_tokens):
            recording.batch = Batch(batch.mask & batch.pad(counted), batch.texts)
            with running(model, variant, len(batch.ids)):
                forward(model, batch.ids)


def forward(model: ReasoningModel, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """The residual stream after the final norm; no cache, no head."""
    return model.anatomy.base(input_ids=ids, use_cache=False)[0]


def readout(model: ReasoningModel, normed: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
    """Logits in float32 of a stream that has passed the final norm (scales and soft caps too)."""
    config = model.anatomy.config
    logits = model.head(normed)
    if (scale := getattr(model.hf, "logit_scale", None)) is not None:
        logits = logits * scale
    if (scale := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits.float()


def position_chunks(model: ReasoningModel, rows: int) -> Iterator[slice]:
    """Slices of `rows` positions, each with logits small enough to hold."""
    size = max(1, LOGIT_FLOATS // model.vocab_size)
    for start in range(0, rows, size):
        yield slice(start, start + size)


@torch.no_grad()
def losses(
    model: ReasoningModel,
    sequences: Sequence[Ids],
    variant: VariantLike | None = None,
    scored: Sequence[np.ndarray] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Negative log-likelihood in nats summed over the scored tokens of each text, and their count.

    The first token of a text has nothing before it and is never scored.
    """
    total = torch.zeros(len(sequences), device=model.device)
    count = torch.zeros(len(sequences), device=model.device)
    for batch in batches(model, sequences, batch_tokens):
        with running(model, variant, len(batch.ids)):
            stream = forward(model, batch.ids)
        targets = Targets.of(batch, scored)
        picked = targets.pick(stream)
        for part in position_chunks(model, len(picked)):
            nll = -log_probability(readout(model, picked[part]), targets.ids[part])
            total.index_add_(0, targets.texts[part], nll.to(total.device))
        count.index_add_(0, targets.texts, torch.ones_like(targets.texts, dtype=count.dtype))
    return finite(total, "loss"), count.double().cpu().numpy()


@dataclass(frozen=True)
class Targets:
    """The scored tokens of a batch, flat: where they are predicted, what they are, whose."""

    rows: Int[Tensor, " K"]
    positions: Int[Tensor, " K"]  # of the prediction: one before the token
    ids: Int[Tensor, " K"]
    texts: Int[Tensor, " K"]

    @classmethod
    def of(cls, batch: TokenBatch, scored: Sequence[np.ndarray] | None) -> Targets:
        mask = (batch.mask & batch.pad(scored))[:, 1:]
        rows, positions = mask.nonzero(as_tuple=True)
        return cls(rows, positions, batch.ids[rows, positions + 1], batch.texts[rows])

    def pick(self, stream: Float[Tensor, "B T D"]) -> Float[Tensor, "K D"]:
        return stream[self.rows.to(stream.device), self.positions.to(stream.device)]


def log_probability(logits: Float[Tensor, "K V"], ids: Int[Tensor, " K"]) -> Float[Tensor, " K"]:
    """log p of one id a row."""
    chosen = logits.gather(-1, ids.to(logits.device)[:, None])[:, 0]
    return chosen - logits.logsumexp(-1)


def finite(values: Tensor, what: str) -> np.ndarray:
    """Values on the host in float64; a NonFiniteError where one is inf or nan."""
    out = values.double().cpu().numpy()
    if not np.isfinite(out).all():
        raise NonFiniteError(f"A {what} is inf or nan: check the weights, or use float32.")
    return out


# ------------------------------------------------------------------------- continuations


@torch.no_grad()
def continuation_logprobs(
    model: ReasoningModel,
    prompts: Sequence[Ids],
    options: Sequence[Sequence[Ids]],
    variants: Sequence[VariantLike],
    batch_tokens: int = BATCH_TOKENS,
) -> Float[np.ndarray, "V P O"]:
    """Log-likelihood of each option's ids after its prompt, under each variant.

    options[p] are the options of prompt p; where prompts have different numbers of options the
    table is filled up with nan. The end of an option is not scored, so options of one length
    compare fairly and others are the caller's to normalise. Options that differ in their last
    token only share one row.
    """
    _check_options(prompts, options)
    if not variants:
        raise UserError("No variant given: expected at least one, e.g. [dense].")
    heads = [tuple(int(i) for i in p) for p in prompts]
    tails = [[tuple(int(i) for i in o) for o in few] for few in options]
    rows: list[tuple[int, ...]] = []
    wanted: list[tuple[int, int, int, int, int]] = []  # row, position, id, prompt, option
    for p, (head, few) in enumerate(zip(heads, tails, strict=True)):
        own: list[tuple[int, ...]] = []
        for o in sorted(range(len(few)), key=lambda o, few=few: -len(few[o])):
            context = head + few[o][:-1]
            found = next((i for i, r in enumerate(own) if r[: len(context)] == context), len(own))
            if found == len(own):
                own.append(context)
            row, before = len(rows) + found, len(head) - 1
            wanted += [(row, before + k, token, p, o) for k, token in enumerate(few[o])]
        rows += own
    width = max(len(few) for few in tails)
    table = torch.zeros(len(variants), len(heads) * width, device=model.device)
    by_row: dict[int, list[tuple[int, int, int, int, int]]] = {}
    for want in wanted:
        by_row.setdefault(want[0], []).append(want)
    for batch in batches(model, rows, batch_tokens):
        texts = batch.texts.tolist()
        picks = [(r, *want[1:]) for r, text in enumerate(texts) for want in by_row[text]]
        where, position, token, prompt, option = torch.tensor(picks, device=model.device).T
        for v, variant in enumerate(variants):
            with running(model, variant, len(texts)):
                stream = forward(model, batch.ids)
            picked = stream[where.to(stream.device), position.to(stream.device)]
            for part in position_chunks(model, len(picked)):
                logp = log_probability(readout(model, picked[part]), token[part])
                cell = prompt[part] * width + option[part]
                table[v].index_add_(0, cell, logp.to(table.device))
    out = finite(table, "log-likelihood").reshape(len(variants), len(heads), width)
    for p, few in enumerate(tails):
        out[:, p, len(few) :] = np.nan
    return out


def _check_options(prompts: Sequence[Ids], options: Sequence[Sequence[Ids]]) -> None:
    if len(prompts) != len(options):
        raise UserError(f"{len(prompts)} prompts but {len(options)} lists of options: one each.")
    if not len(prompts):
        raise UserError("No prompt given: expected at least one.")
    for p, few in enumerate(options):
        if not len(prompts[p]):
            raise UserError(f"Prompt {p} is empty: the first token of an option needs one before.")
        if not len(few) or any(len(o) == 0 for o in few):
            raise UserError(f"Prompt {p} has no options or an empty one: expected token ids.")
