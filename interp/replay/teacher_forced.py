"""Teacher-forced passes over token sequences, without decoding.

For a causal model, one pass over the ids of a finished chain gives the residual stream of its
decoding. Sequences are sorted into batches (`interp.replay.batching`) and read whole or, if long,
in chunks with a key/value cache (`interp.replay.chunked_forward`). `interp.replay.block_sweep`
skips every block in turn; `interp.replay.divergence` compares two variants token by token.

Steps: in a sequence with a prompt of P tokens, position j is step j - P, and the prompt is step
-1. Generated token s was chosen by the pass at position P - 1 + s; the last generated token is
never read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.activations.capture import CapturedBatch, Reducer, capture
from interp.chains.chain import Chain
from interp.errors import NonFiniteError, UserError
from interp.interventions.interventions import VariantLike
from interp.model.readout import as_read, readout
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.replay.batching import BATCH_TOKENS, Ids, TokenBatch, batches
from interp.replay.chunked_forward import CHUNK_TOKENS, ChunkedReader

LOGIT_FLOATS = 2**24  # most logits held at a time (64 MiB)


# ------------------------------------------------------------------------------- reducers


@checked
@torch.no_grad()
def replay(
    model: ReasoningModel,
    sequences: Sequence[Ids],
    reducers: Sequence[Reducer] = (),
    variant: VariantLike | None = None,
    counted: Sequence[np.ndarray] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    *,
    prompts: Sequence[int] | None = None,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> None:
    """One pass over the sequences; the reducers see every block. The head is not computed.

    Args:
        model: the model.
        sequences: token ids of each text.
        reducers: what receives the streams. If one of them needs whole rows (`chunked` is False),
            rows are not read in chunks.
        variant: the variant to run; None for the model as it is.
        counted: for each sequence one boolean per token, False where it must not count (a prompt,
            say); default: all tokens count.
        batch_tokens: tokens per pass.
        prompts: number of prompt tokens of each sequence; a variant with windows needs it.
        chunk_tokens: columns read at a time; None for whole rows.
    """
    if not all(reducer.chunked for reducer in reducers):
        chunk_tokens = None
    reader = ChunkedReader(model, sequences, batch_tokens, chunk_tokens, prompts=prompts)
    if counted is not None and len(counted) != len(sequences):
        raise UserError(f"{len(counted)} masks for {len(sequences)} sequences: expected one each.")
    _replay(reader, reducers, [variant] * len(sequences), counted)


@checked
@torch.no_grad()
def replay_chains(
    model: ReasoningModel,
    chains: Sequence[Chain],
    reducers: Sequence[Reducer] = (),
    variant: VariantLike | Sequence[VariantLike | None] | None = None,
    counted: Sequence[np.ndarray] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    *,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> None:
    """Replay chains under a variant, or each under its own.

    Text i of the reducers is chain i. The passes that chose the generated tokens count. Windows at
    steps and events lie where they lay when the chain was decoded, and random interventions draw
    the same numbers.

    Args:
        model: the model.
        chains: the chains.
        reducers: what receives the streams.
        variant: one for all, or one per chain; None for the model as it is.
        counted: for each chain one boolean per generated token [S], to count fewer of them.
        batch_tokens: tokens per pass.
        chunk_tokens: columns read at a time; None for whole rows.

    Raises:
        UserError: there is not one variant or mask per chain, or a mask has another length.
    """
    if variant is None or isinstance(variant, VariantLike):
        each: list[VariantLike | None] = [variant] * len(chains)
    else:
        each = list(variant)
    if len(each) != len(chains):
        raise UserError(
            f"{len(each)} variants for {len(chains)} chains: expected one each, or one for all."
        )
    if counted is not None and len(counted) != len(chains):
        raise UserError(f"{len(counted)} masks for {len(chains)} chains: expected one each.")
    if not all(reducer.chunked for reducer in reducers):
        chunk_tokens = None
    reader = ChunkedReader.of_chains(model, chains, batch_tokens, chunk_tokens)
    rows = []
    for i, chain in enumerate(chains):
        chosen = np.ones(chain.n_tokens, bool) if counted is None else np.asarray(counted[i], bool)
        if chosen.shape != (chain.n_tokens,):
            raise UserError(
                f"Chain {i}: a mask of shape {list(chosen.shape)} for {chain.n_tokens} generated "
                "tokens; expected one entry per token."
            )
        rows.append(np.concatenate([np.zeros(len(chain.prompt_ids) - 1, bool), chosen]))
    _replay(reader, reducers, each, rows)


def _replay(
    reader: ChunkedReader,
    reducers: Sequence[Reducer],
    variants: Sequence[VariantLike | None],
    counted: Sequence[np.ndarray] | None,
) -> None:
    """Feed the reducers. Texts of one variant share batches and keep their numbers."""
    groups: dict[int, list[int]] = {}
    for text, variant in enumerate(variants):
        plain = variant is None or not variant.interventions()
        groups.setdefault(0 if plain else id(variant), []).append(text)
    with capture(reader.model, *reducers, n_texts=len(variants)) as recording:
        for texts in groups.values():
            for batch in reader.batches(only=texts):
                reading = reader.read(batch, variants[texts[0]])
                mask = batch.mask & batch.pad(counted)
                for columns in reading.pieces:
                    last = columns.stop == mask.shape[1]
                    part = mask[:, columns]
                    recording.batch = CapturedBatch(part, batch.texts, columns.start, last)
                    reading(columns)


# --------------------------------------------------------------------------------- losses


def position_chunks(model: ReasoningModel, rows: int) -> Iterator[slice]:
    """Slices of positions whose logits are small enough to hold at once.

    Args:
        model: gives the vocabulary size.
        rows: number of positions.

    Yields:
        Slices that cover `range(rows)`.
    """
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
    *,
    prompts: Sequence[int] | None = None,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Negative log-likelihood of each text.

    Args:
        model: the model.
        sequences: token ids of each text.
        variant: the variant to run; None for the model as it is.
        scored: for each sequence one boolean per token, False where it is read but not scored. The
            first token of a text has nothing before it and is never scored.
        batch_tokens: tokens per pass.
        prompts: number of prompt tokens of each sequence; a variant with windows needs it.
        chunk_tokens: columns read at a time; None for whole rows.

    Returns:
        The sum over scored tokens in nats, and the number of scored tokens, both float64 [N].

    Raises:
        NonFiniteError: a loss is inf or nan.
    """
    total = torch.zeros(len(sequences), device=model.device)
    count = torch.zeros(len(sequences), device=model.device)
    reader = ChunkedReader(model, sequences, batch_tokens, chunk_tokens, prompts=prompts)
    for batch in reader.batches():
        reading = reader.read(batch, variant)
        every = Targets.of(batch, scored)
        for columns in reading.pieces:
            targets = every.within(columns)
            picked = targets.pick(reading(columns))
            for part in position_chunks(model, len(picked)):
                nll = -log_probability(readout(model, picked[part]), targets.ids[part])
                total.index_add_(0, targets.texts[part], nll.to(total.device))
        count.index_add_(0, every.texts, torch.ones_like(every.texts, dtype=count.dtype))
    return finite(total, "loss"), count.double().cpu().numpy()


@dataclass(frozen=True)
class Targets:
    """The scored tokens of a batch as flat lists.

    Attributes:
        rows: row of each token [K].
        positions: column that predicts it, one before the token [K].
        ids: its token id [K].
        texts: number of its text [K].
    """

    rows: Int[Tensor, " K"]
    positions: Int[Tensor, " K"]
    ids: Int[Tensor, " K"]
    texts: Int[Tensor, " K"]

    @classmethod
    def of(cls, batch: TokenBatch, scored: Sequence[np.ndarray] | None) -> Targets:
        """The scored tokens of a batch.

        Args:
            batch: the batch.
            scored: for each text one boolean per token; None scores all but the first.

        Returns:
            The targets.
        """
        mask = (batch.mask & batch.pad(scored))[:, 1:]
        rows, positions = mask.nonzero(as_tuple=True)
        return cls(rows, positions, batch.ids[rows, positions + 1], batch.texts[rows])

    def within(self, columns: slice) -> Targets:
        """The targets predicted in some columns; positions then count from the first of them.

        Args:
            columns: a slice of columns.

        Returns:
            The targets.
        """
        here = (self.positions >= columns.start) & (self.positions < columns.stop)
        positions = self.positions[here] - columns.start
        return Targets(self.rows[here], positions, self.ids[here], self.texts[here])

    def pick(self, stream: Float[Tensor, "B T D"]) -> Float[Tensor, "K D"]:
        """The stream at the predicting positions.

        Args:
            stream: [B, T, D].

        Returns:
            [K, D].
        """
        return stream[self.rows.to(stream.device), self.positions.to(stream.device)]


def scored_batches(
    model: ReasoningModel,
    sequences: Sequence[Ids],
    scored: Sequence[np.ndarray] | None,
    batch_tokens: int,
) -> Iterator[tuple[TokenBatch, Targets]]:
    """The batches of texts that hold a scored token, with their targets.

    Args:
        model: the model that reads them.
        sequences: token ids of each text.
        scored: for each text one boolean per token; None scores all but the first.
        batch_tokens: the largest number of tokens per batch.

    Yields:
        A batch and its targets.
    """
    for batch in batches(model, sequences, batch_tokens):
        targets = Targets.of(batch, scored)
        if len(targets.texts):
            yield batch, targets


def log_probability(logits: Float[Tensor, "K V"], ids: Int[Tensor, " K"]) -> Float[Tensor, " K"]:
    """Log-probability of one token id per row.

    Args:
        logits: [K, V].
        ids: token ids [K].

    Returns:
        Nats [K].
    """
    chosen = logits.gather(-1, ids.to(logits.device)[:, None])[:, 0]  # [K, V] -> [K]
    return chosen - logits.logsumexp(-1)


def precise_log_probability(
    model: ReasoningModel, normed: Float[Tensor, "K D"], ids: Int[Tensor, " K"]
) -> Float[Tensor, " K"]:
    """Log-probability of one token id per row, with the head's product in float32.

    In half precision a head rounds its logits (bfloat16 to 1/16 from 8 to 16), so that unlike
    options tie. The weights are widened one slice of the vocabulary at a time, at most
    `LOGIT_FLOATS` numbers.

    Args:
        model: the model.
        normed: the stream after the final norm [K, D].
        ids: token ids [K].

    Returns:
        Nats [K], float32.
    """
    head = model.head
    half = type(head) is nn.Linear and head.weight.dtype in (torch.bfloat16, torch.float16)
    if not isinstance(head, nn.Linear) or not half or head.weight.is_meta:
        return log_probability(readout(model, normed), ids)  # float32, quantised or offloaded
    weight = head.weight
    stream, ids = normed.to(weight.device).float(), ids.to(weight.device)
    total = stream.new_full((len(ids),), -torch.inf)  # log of the summed exponentials
    chosen = stream.new_empty(len(ids))
    size = max(1, LOGIT_FLOATS // model.d_model)
    for start in range(0, len(weight), size):
        rows = slice(start, start + size)
        bias = None if head.bias is None else head.bias[rows].float()
        logits = as_read(model, nn.functional.linear(stream, weight[rows].float(), bias))
        total = torch.logaddexp(total, logits.logsumexp(-1))
        here = ((ids >= start) & (ids < start + size)).nonzero()[:, 0]
        chosen[here] = logits[here, ids[here] - start]
    return chosen - total


def finite(values: Tensor, what: str) -> np.ndarray:
    """Move values to the host and check them.

    Args:
        values: any shape.
        what: what each value is, for the error.

    Returns:
        float64, the same shape.

    Raises:
        NonFiniteError: a value is inf or nan.
    """
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
    *,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> Float[np.ndarray, "V P O"]:
    """Log-likelihood of each option's ids after its prompt, under each variant.

    No end-of-sequence token is scored, so options of equal length compare fairly; the caller must
    normalise others. Options that differ only in their last token share one row. The head's
    product is taken in float32, whatever the weights are.

    Args:
        model: the model.
        prompts: token ids of each prompt.
        options: for each prompt the token ids of its options.
        variants: the variants to run.
        batch_tokens: tokens per pass.
        chunk_tokens: columns read at a time; None for whole rows.

    Returns:
        Nats [V, P, O]: variant, prompt, option. Prompts with fewer options are filled with nan.

    Raises:
        UserError: a prompt or an option is empty, the lists differ in length, or there is no
            variant.
        NonFiniteError: a log-likelihood is inf or nan.
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
    lengths = [len(heads[by_row[row][0][3]]) for row in range(len(rows))]
    reader = ChunkedReader(model, rows, batch_tokens, chunk_tokens, prompts=lengths)
    for batch in reader.batches():
        picks = [
            (r, *want[1:]) for r, text in enumerate(batch.texts.tolist()) for want in by_row[text]
        ]
        where, position, token, prompt, option = torch.tensor(picks, device=model.device).T
        cell = prompt * width + option
        every = Targets(where, position, token, cell)
        for v, variant in enumerate(variants):
            reading = reader.read(batch, variant)
            for columns in reading.pieces:
                targets = every.within(columns)
                picked = targets.pick(reading(columns))
                for part in position_chunks(model, len(picked)):
                    logp = precise_log_probability(model, picked[part], targets.ids[part])
                    table[v].index_add_(0, targets.texts[part], logp.to(table.device))
    out = finite(table, "log-likelihood").reshape(len(variants), len(heads), width)
    for p, few in enumerate(tails):
        out[:, p, len(few) :] = np.nan
    return out


def _check_options(prompts: Sequence[Ids], options: Sequence[Sequence[Ids]]) -> None:
    if len(prompts) != len(options):
        raise UserError(
            f"{len(prompts)} prompts but {len(options)} lists of options: expected one each."
        )
    if not len(prompts):
        raise UserError("No prompt given: expected at least one.")
    for p, few in enumerate(options):
        if not len(prompts[p]):
            raise UserError(
                f"Prompt {p} is empty: expected a token before the first token of an option."
            )
        if not len(few) or any(len(o) == 0 for o in few):
            raise UserError(f"Prompt {p} has no options or an empty one: expected token ids.")
