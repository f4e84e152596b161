"""What each block has decided so far, and what each adds to the logit of a chosen token.

`lens` is the logit lens (nostalgebraist 2020; Belrose et al., arXiv 2303.08112): the stream
leaving every block is read as if the model ended there,

    logits_l = readout(final_norm(resid_post[l])),

at the positions that chose the tokens of a chain. Row -1 reads the stream entering block 0 (the
embedding); the last row is the model's own output.

`contributions` is direct logit attribution (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"). The stream before the final norm is x = embedding + sum_l (attention_l +
mlp_l). With the norm's scale s(x) held at its value, norm(v) = s(x) g (v - c mean(v)) is linear
in v (c = 1 for LayerNorm, 0 for RMSNorm), so the logit of a token t with unembedding u_t is a sum
over what was added to the stream:

    logit_t = constant + sum_v <s(x) g (v - c mean(v)), u_t>.

Gains, centring and bias are read off the norm by feeding it three vectors, and checked on every
position; so RMSNorm, Gemma's (1 + weight), and LayerNorm with bias need no names. Only differences
between logits matter, so by default the mean logit over the vocabulary is taken away (`centred`).
A soft cap of the logits (Gemma 2) is not linear: contributions add up to the logit before it.
Factors that models put on all logits (`logit_scale`, `logits_scaling`) are included.

Steps: row s of a chain is the position that CHOSE generated token s; in a plain sequence of ids
it is position s, which chose token s + 1. An event is a set of steps, as a boolean mask [S] a
chain (or the steps themselves).
Targets: a token id, a set of ids, or for each chain an id a step ([S], -1 where there is none);
"chosen", the token that was chosen, is always there.

Shapes: K positions in all (chains in order, steps rising), R = L + 1 rows, D, V, N chains.
Memory: the streams of one pass at the positions read, [R, k, D], and the logits of one chunk of
positions at one block (and at the last); results take 4 R (2 + 2 targets) bytes a position
(lens), 12 L bytes a position and target (contributions). Name events to read fewer positions.

Caveats: chains are replayed with `variant`, or else with the model as it is: the variant that
wrote a chain is not applied by itself. The lens is biased where early blocks write in another
basis than the last (arXiv 2303.08112). A direct contribution is not an effect: what a block does
through later blocks is not in it, and a scale held fixed does not answer what its removal does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.chains import Chain
from interp.chunks import Reading
from interp.errors import NonFiniteError, PruneScopeError, UserError, did_you_mean
from interp.interventions import VariantLike
from interp.model import ReasoningModel
from interp.record import Batch, Reducer, capture, jackknife_ratio
from interp.replay import BATCH_TOKENS, CHUNK_TOKENS, Ids, Reader, position_chunks, readout
from interp.sweep import check_readout

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Target = int | Collection[int] | Sequence[np.ndarray] | np.ndarray
Events = Mapping[str, Sequence[np.ndarray]]
UNITS = ("problem", "chain")
CHOSEN = "chosen"
ALL = "all"  # the event of a call that names none
EMBEDDING = -1  # its row among the blocks
NO_TOKEN = -1  # no target at this position
PARTS = ("block", "attention", "mlp")


# ------------------------------------------------------------------------------- positions


@dataclass(frozen=True)
class Places:
    """The positions a result speaks of, and the events that picked them.

    chain, step: of each position. lengths: steps of each chain. problems: of each chain (a plain
    sequence is a problem of its own). events: which positions lie in each.
    """

    chain: Int[np.ndarray, " K"]
    step: Int[np.ndarray, " K"]
    lengths: Int[np.ndarray, " N"]
    problems: tuple[str, ...]
    events: dict[str, Bool[np.ndarray, " K"]]

    def __len__(self) -> int:
        return len(self.chain)

    @property
    def at(self) -> Int[np.ndarray, " K"]:
        """Their numbers among all steps of all chains."""
        return _starts(self.lengths)[self.chain] + self.step

    def inside(self, events: Events | None) -> dict[str, Bool[np.ndarray, " K"]]:
        """Which positions lie in each event (None: the events of the call)."""
        if events is None:
            return self.events
        found = {}
        for name, marks in events.items():
            marked = _marked(name, marks, self.lengths)
            found[name] = marked[self.at]
            if missing := int(marked.sum() - found[name].sum()):
                raise UserError(
                    f"Event {name!r} has {missing} positions that were not read: "
                    "name it in the call that reads them."
                )
        return found

    def means(
        self, values: Float[np.ndarray, "R K"], inside: Bool[np.ndarray, " K"], unit: str
    ) -> dict[str, Any]:
        """Mean of each row over the positions inside, with its jackknife interval over units.

        Positions where a value is nan (no target there) do not count.
        """
        if unit not in UNITS:
            raise UserError(did_you_mean(unit, UNITS, "unit"))
        names = {p: i for i, p in enumerate(dict.fromkeys(self.problems))}
        of_chain = np.array([names[p] for p in self.problems])
        units = self.chain if unit == "chain" else of_chain[self.chain]
        used = inside & ~np.isnan(values).any(axis=0)
        present, column = np.unique(units[used], return_inverse=True)
        sums = np.zeros((len(present), len(values)))
        np.add.at(sums, column, values[:, used].T.astype(np.float64))
        counts = np.bincount(column, minlength=len(present)).astype(np.float64)
        counts = np.broadcast_to(counts, (len(values), len(present)))
        with np.errstate(invalid="ignore"):
            mean = sums.sum(0) / counts.sum(1)
        low, high = jackknife_ratio(np.ascontiguousarray(sums.T), counts)
        size = {"positions": int(used.sum()), f"{unit}s": len(present)}
        return {"mean": mean, "low": low, "high": high, **size}


@dataclass(frozen=True)
class _Text:
    """One sequence to be read: its ids, the position of its step 0, what each step chose."""

    ids: Int[np.ndarray, " T"]
    first: int
    chosen: Int[np.ndarray, " S"]
    problem: str
    chain: Chain | None = None


def _texts(chains: Sequence[Chain | Ids]) -> list[_Text]:
    if not len(chains):
        raise UserError("No chain given: expected at least one chain or sequence of token ids.")
    if len({isinstance(one, Chain) for one in chains}) > 1:
        raise UserError("Chains and plain sequences in one call: expected one or the other.")
    found = []
    for n, one in enumerate(chains):
        if isinstance(one, Chain):
            if not len(one.prompt_ids):
                raise UserError(f"Chain {n} has no prompt: nothing chose its first token.")
            ids = np.concatenate([one.prompt_ids, one.ids])
            found.append(_Text(ids, len(one.prompt_ids) - 1, one.ids, one.problem, one))
            continue
        ids = np.asarray(one, dtype=np.int64)
        if ids.ndim != 1:
            raise UserError(f"Sequence {n} has shape {ids.shape}: expected token ids [T].")
        chosen = np.append(ids[1:], NO_TOKEN)[: len(ids)]
        found.append(_Text(ids, 0, chosen, f"sequence {n}"))
    return found


def _starts(lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    return np.cumsum(lengths) - lengths


def _marked(
    name: str, marks: Sequence[np.ndarray], lengths: Int[np.ndarray, " N"]
) -> Bool[np.ndarray, " A"]:
    """All steps of all chains in a row, True in the event."""
    if len(marks) != len(lengths):
        raise UserError(
            f"Event {name!r} has {len(marks)} masks for {len(lengths)} chains: one a chain."
        )
    found = []
    for n, (mark, length) in enumerate(zip(marks, lengths.tolist(), strict=True)):
        mark = np.asarray(mark)
        if mark.dtype == bool:
            if mark.shape != (length,):
                raise UserError(
                    f"Event {name!r}: the mask of chain {n} has shape {mark.shape}; the chain has "
                    f"{length} steps."
                )
            found.append(mark)
            continue
        if mark.size and not (np.issubdtype(mark.dtype, np.integer) and mark.ndim == 1):
            raise UserError(
                f"Event {name!r}, chain {n}: expected a boolean mask [S] or step numbers, got "
                f"{mark.dtype} of shape {mark.shape}."
            )
        if mark.size and not (mark.min() >= 0 and mark.max() < length):
            raise UserError(
                f"Event {name!r}: steps {mark.min()}..{mark.max()} of chain {n} are outside its "
                f"{length} steps (0..{length - 1})."
            )
        found.append(np.isin(np.arange(length), mark))
    return np.concatenate(found)


def _places(texts: Sequence[_Text], events: Events | None) -> Places:
    lengths = np.array([len(t.chosen) for t in texts], dtype=np.int64)
    if events is None:
        marked = {ALL: np.ones(lengths.sum(), dtype=bool)}
    else:
        marked = {name: _marked(name, marks, lengths) for name, marks in events.items()}
    read = np.logical_or.reduce([*marked.values(), np.zeros(lengths.sum(), dtype=bool)])
    if not read.any():
        raise UserError("No position to read: the chains are empty, or no event has a step.")
    chain = np.repeat(np.arange(len(texts)), lengths)[read]
    step = np.flatnonzero(read) - _starts(lengths)[chain]
    inside = {name: mark[read] for name, mark in marked.items()}
    return Places(chain, step, lengths, tuple(t.problem for t in texts), inside)


# --------------------------------------------------------------------------------- targets


@dataclass(frozen=True)
class _Target:
    """ids [1, M] (a set, the same everywhere) or [K, 1] (an id a position, or -1)."""

    ids: Int[np.ndarray, "K M"]

    def at(self, index: Int[np.ndarray, " k"], device: torch.device) -> Int[Tensor, "_ M"]:
        ids = self.ids if len(self.ids) == 1 else self.ids[index]
        return torch.from_numpy(ids).to(device)


def _targets(
    model: ReasoningModel,
    targets: Mapping[str, Target] | None,
    texts: Sequence[_Text],
    places: Places,
) -> dict[str, _Target]:
    chosen = np.concatenate([t.chosen for t in texts])[places.at]
    found = {CHOSEN: _Target(_checked_ids(model, CHOSEN, chosen, NO_TOKEN)[:, None])}
    for name, target in (targets or {}).items():
        if name == CHOSEN:
            raise UserError(f"Target {CHOSEN!r} is always there: give yours another name.")
        listed: list[Any] = list(target) if isinstance(target, Collection) else [target]
        if listed and np.ndim(listed[0]) == 1:
            rows = [np.asarray(row) for row in listed]
            shapes = [(int(n),) for n in places.lengths]
            if [row.shape for row in rows] != shapes:
                raise UserError(
                    f"Target {name!r}: expected an id a step for each chain, shapes "
                    f"{_few(shapes)}; got {_few([row.shape for row in rows])}."
                )
            ids = _checked_ids(model, name, np.concatenate(rows)[places.at], NO_TOKEN)[:, None]
        else:
            ids = _checked_ids(model, name, np.unique(np.array(listed)), 0)[None, :]
            if not ids.size:
                raise UserError(f"Target {name!r} is an empty set: expected at least one token id.")
        found[name] = _Target(ids)
    return found


def _few(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes[:4])) + (", ..." if len(shapes) > 4 else "")


def _checked_ids(
    model: ReasoningModel, name: str, ids: np.ndarray, least: int
) -> Int[np.ndarray, " M"]:
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"Target {name!r}: expected token ids, got {ids.dtype}.")
    if (bad := (ids < least) | (ids >= model.vocab_size)).any():
        raise UserError(
            f"Target {name!r}: token id {int(ids[bad][0])} is outside the vocabulary of "
            f"{model.name} (0..{model.vocab_size - 1})."
        )
    return ids.astype(np.int64)


# ---------------------------------------------------------------------------------- pieces


@dataclass(frozen=True)
class _Piece:
    """Some columns of a batch, and where in them the k positions lie that are `index` of all K."""

    reading: Reading
    columns: slice
    rows: Int[Tensor, " k"]
    positions: Int[Tensor, " k"]
    index: Int[np.ndarray, " k"]

    def pick(self, stream: Float[Tensor, "B T D"]) -> Float[Tensor, "k D"]:
        return stream[self.rows.to(stream.device), self.positions.to(stream.device)]

    def run(self, model: ReasoningModel, reducer: Reducer) -> Float[Tensor, "k D"]:
        """The positions' streams after the final norm, every block watched on the way."""
        batch = self.reading.batch
        with capture(model, reducer, n_texts=len(batch.texts)) as recording:
            recording.batch = Batch(batch.mask[:, self.columns], batch.texts)
            normed = self.pick(self.reading(self.columns))
        if not normed.isfinite().all():
            raise NonFiniteError(f"The stream of {model.name} is inf or nan: check its weights.")
        return normed


def _pieces(
    model: ReasoningModel,
    texts: Sequence[_Text],
    places: Places,
    variant: VariantLike | None,
    batch_tokens: int,
    chunk_tokens: int | None,
) -> Iterator[_Piece]:
    """The chains that are read, each cut behind its last position, in batches and chunks."""
    read, begin, count = np.unique(places.chain, return_index=True, return_counts=True)
    spans = list(zip(begin.tolist(), count.tolist(), strict=True))
    own = [texts[n] for n in read.tolist()]
    last = places.step[begin + count - 1].tolist()
    cut = [text.ids[: text.first + step + 1] for text, step in zip(own, last, strict=True)]
    if chains := [text.chain for text in own if text.chain is not None]:
        reader = Reader.of_chains(model, chains, batch_tokens, chunk_tokens)
        reader.sequences = cut
    else:
        reader = Reader(model, cut, batch_tokens, chunk_tokens, prompts=[1] * len(cut))
    for batch in reader.batches():
        which = batch.texts.tolist()
        index = np.concatenate([np.arange(b, b + n) for b, n in (spans[j] for j in which)])
        rows = np.repeat(np.arange(len(which)), count[which])
        positions = np.array([own[j].first for j in which])[rows] + places.step[index]
        reading = reader.read(batch, variant)
        for columns in reading.pieces:
            here = (columns.start <= positions) & (positions < columns.stop)
            if not here.any():
                reading(columns)  # what comes later attends to it
                continue
            row = torch.from_numpy(rows[here])
            position = torch.from_numpy(positions[here] - columns.start)
            yield _Piece(reading, columns, row, position, index[here])


def _check_same(
    one: Float[Tensor, "k D"], other: Float[Tensor, "k D"], dtype: torch.dtype, error: Exception
) -> None:
    """Two ways to the same vectors, one computed in `dtype`: an error where they differ."""
    other = other.float()
    gap = (one.to(other) - other).norm(dim=-1)
    if not (gap <= _slack(dtype) * other.norm(dim=-1)).all():
        raise error


def _slack(dtype: torch.dtype) -> float:
    """How far two ways to the same vector may differ, relative to its norm."""
    return max(1e-5, 4 * torch.finfo(dtype).eps)


def _strange(model: ReasoningModel, what: str) -> PruneScopeError:
    return PruneScopeError(
        f"{type(model.hf).__name__} {what}, which PruneScope does not know; the numbers would be "
        "wrong. Please report the architecture."
    )


# ------------------------------------------------------------------------------------ lens


@dataclass(frozen=True)
class Lens:
    """What every block's stream says at every position, read as if the model ended there.

    Rows: `blocks` (dense indices; -1: the embedding). entropy and kl (KL(model || row)) in nats;
    for each target logprob (of a set: of its total probability) and rank (how many tokens have a
    higher logit; of a set: the rank of its best). nan where a position has no target.
    """

    places: Places
    blocks: tuple[int, ...]
    entropy: Float[np.ndarray, "R K"]
    kl: Float[np.ndarray, "R K"]
    logprob: dict[str, Float[np.ndarray, "R K"]]
    rank: dict[str, Float[np.ndarray, "R K"]]

    @property
    def quantities(self) -> tuple[str, ...]:
        kinds = ("logprob", "probability", "rank")
        return ("entropy", "kl", *(f"{t}_{kind}" for t in self.logprob for kind in kinds))

    def values(self, quantity: str) -> Float[np.ndarray, "R K"]:
        """One of `quantities`: "entropy", "kl", "chosen_logprob", "chosen_probability", ..."""
        if quantity not in self.quantities:
            raise UserError(did_you_mean(quantity, self.quantities, "quantity"))
        if quantity in ("entropy", "kl"):
            return getattr(self, quantity)
        target, _, kind = quantity.rpartition("_")
        if kind == "rank":
            return self.rank[target]
        return np.exp(self.logprob[target]) if kind == "probability" else self.logprob[target]

    def to_frame(self) -> pd.DataFrame:
        """One row a position and block: chain, step, block, and every quantity."""
        import pandas as pd

        r, k = self.entropy.shape
        columns: dict[str, Any] = {
            "chain": np.repeat(self.places.chain, r),
            "step": np.repeat(self.places.step, r),
            "block": np.tile(self.blocks, k),
        }
        columns |= {name: self.values(name).T.reshape(-1) for name in self.quantities}
        return pd.DataFrame(columns)

    def by_event(self, events: Events | None = None, unit: str = "problem") -> pd.DataFrame:
        """Means over the positions of each event, with 95 % jackknife intervals over units.

        events: None for those of the call. One row an event, quantity and block.
        """
        import pandas as pd

        tables = []
        for event, inside in self.places.inside(events).items():
            for quantity in self.quantities:
                head = {"event": event, "quantity": quantity, "block": list(self.blocks)}
                found = self.places.means(self.values(quantity), inside, unit)
                tables.append(pd.DataFrame(head | found))
        return pd.concat(tables, ignore_index=True)

    def plot(self, quantity: str = "entropy", chain: int = 0, ax: Axes | None = None) -> Axes:
        """Heat map of one chain: blocks upwards, the steps that were read to the right."""
        import matplotlib.pyplot as plt

        own = self.places.chain == chain
        if not own.any():
            raise UserError(
                f"Chain {chain} has no position here: there are chains "
                f"{sorted(set(self.places.chain.tolist()))}."
            )
        if ax is None:
            _, ax = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
        steps, table = self.places.step[own], self.values(quantity)[:, own]
        low = {"entropy": 0.0, "kl": 0.0}.get(quantity, None if "logprob" in quantity else 0.0)
        image = ax.imshow(
            table, aspect="auto", origin="lower", interpolation="nearest", vmin=low, cmap="viridis"
        )
        names = ["embedding" if block == EMBEDDING else str(block) for block in self.blocks]
        every = -(-len(names) // 20)
        ax.set_yticks(range(0, len(names), every), names[::every])
        ticks = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 9)).round().astype(int))
        ax.set_xticks(ticks, [str(steps[i]) for i in ticks])
        ax.set_xlabel("step (generated token chosen)")
        ax.set_ylabel("block (dense index)")
        unit = " (nats)" if quantity in ("entropy", "kl") or "logprob" in quantity else ""
        ax.figure.colorbar(image, ax=ax, label=quantity.replace("_", " ") + unit)
        return ax


class _Streams(Reducer):
    """The stream entering block 0, then leaving every block, at the positions of a pass."""

    def __init__(self, pick: Callable[[Tensor], Tensor]) -> None:
        self.pick = pick

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        self.kept: list[Tensor] = []

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: Batch
    ) -> None:
        if index == 0:
            self.kept = [self.pick(x)]
        self.kept.append(self.pick(y))


@torch.no_grad()
def lens(
    model: ReasoningModel,
    chains: Sequence[Chain | Ids],
    targets: Mapping[str, Target] | None = None,
    events: Events | None = None,
    *,
    variant: VariantLike | None = None,
    batch_tokens: int = BATCH_TOKENS,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> Lens:
    """The logit lens at the steps of chains (or the positions of plain sequences).

    targets: the tokens to follow beside the one chosen. events: only their positions are read
    (None: every step). variant: what the model is replayed as, windows where they lay in the
    chain. batch_tokens, chunk_tokens: read at a time, as for `replay`.
    """
    texts = _texts(chains)
    places = _places(texts, events)
    wanted = _targets(model, targets, texts, places)
    check_readout(model, texts[places.chain[0]].ids)
    table = np.empty((2 + 2 * len(wanted), model.n_blocks + 1, len(places)), dtype=np.float32)
    strange = _strange(model, "changes the stream between its last block and its final norm")
    for piece in _pieces(model, texts, places, variant, batch_tokens, chunk_tokens):
        normed = piece.run(model, streams := _Streams(piece.pick))
        _check_same(_normed(model, streams.kept[-1]), normed, normed.dtype, strange)
        for part in position_chunks(model, len(piece.index)):
            rows = [_normed(model, kept[part]) for kept in streams.kept[:-1]] + [normed[part]]
            index = piece.index[part]
            ids = [target.at(index, normed.device) for target in wanted.values()]
            table[:, :, index] = _measured(model, rows, ids).cpu().numpy()
    if not np.isfinite(table[:2]).all():
        rows = sorted(set(np.argwhere(~np.isfinite(table[:2]))[:, 1].tolist()))
        named = [(EMBEDDING, *model.layer_map)[r] for r in rows]
        raise NonFiniteError(f"A logit read behind block {named} is inf or nan: check the weights.")
    return Lens(
        places=places,
        blocks=(EMBEDDING, *model.layer_map),
        entropy=table[0],
        kl=table[1],
        logprob={name: table[2 + 2 * i] for i, name in enumerate(wanted)},
        rank={name: table[3 + 2 * i] for i, name in enumerate(wanted)},
    )


def _normed(model: ReasoningModel, stream: Float[Tensor, "k D"]) -> Float[Tensor, "k D"]:
    weight = next(model.final_norm.parameters(), stream)
    return model.final_norm(stream if weight.is_meta else stream.to(weight.device))


def _measured(
    model: ReasoningModel,
    rows: list[Float[Tensor, "k D"]],
    targets: list[Int[Tensor, "_ _"]],
) -> Float[Tensor, "Q R k"]:
    """Entropy, KL, and logprob and rank of each target, for normed streams; the last is final."""
    final = readout(model, rows[-1])
    base = final.log_softmax(-1)
    sure = base.exp()
    measured = []
    for r, normed in enumerate(rows):
        last = r == len(rows) - 1
        logits = final if last else readout(model, normed)
        logp = base if last else logits.log_softmax(-1)
        columns = [-(logp.exp() * logp).sum(-1), (sure * (base - logp)).sum(-1)]
        for ids in targets:
            ids = ids.to(logits.device).expand(len(logits), -1)
            lacks = ids[:, 0] == NO_TOKEN
            ids = ids.clamp(min=0)
            best = logits.gather(-1, ids).amax(-1, keepdim=True)
            columns.append(logp.gather(-1, ids).logsumexp(-1).masked_fill(lacks, torch.nan))
            columns.append((logits > best).sum(-1).float().masked_fill(lacks, torch.nan))
        measured.append(torch.stack(columns))
    return torch.stack(measured, dim=1)


# --------------------------------------------------------------------------- contributions


@dataclass(frozen=True)
class Contributions:
    """What each block adds to the logit of each target, the final norm's scale held fixed.

    parts: by target [L, 3, K]: the block, its attention, its MLP. embedding, constant (biases of
    norm and head) and logit: by target [K]; embedding + blocks + constant == logit, the model's
    own before any soft cap (less the mean logit over the vocabulary where `centred`). Of a set of
    tokens: their mean logit. nan where a position has no target. Attention and MLP add up to the
    block, unless the variant changes what the block as a whole adds.
    """

    places: Places
    blocks: tuple[int, ...]
    centred: bool
    parts: dict[str, Float[np.ndarray, "L 3 K"]]
    embedding: dict[str, Float[np.ndarray, " K"]]
    constant: dict[str, Float[np.ndarray, " K"]]
    logit: dict[str, Float[np.ndarray, " K"]]

    def part(self, target: str = CHOSEN, part: str = "block") -> Float[np.ndarray, "L K"]:
        """One of "block", "attention", "mlp", by block and position."""
        if target not in self.parts:
            raise UserError(did_you_mean(target, self.parts, "target"))
        if part not in PARTS:
            raise UserError(did_you_mean(part, PARTS, "part"))
        return self.parts[target][:, PARTS.index(part)]

    def to_frame(self) -> pd.DataFrame:
        """One row a position, target and block: block (dense), total, attention, mlp, logit.

        The embedding is block -1, with neither attention nor MLP.
        """
        import pandas as pd

        k, r = len(self.places), len(self.blocks) + 1
        tables = []
        for target in self.parts:
            rows = {name: self.part(target, name) for name in PARTS}
            empty = np.full((1, k), np.nan, dtype=np.float32)
            first = {"block": self.embedding[target][None], "attention": empty, "mlp": empty}
            both = {name: np.concatenate([first[name], rows[name]]).T.reshape(-1) for name in PARTS}
            columns = {
                "chain": np.repeat(self.places.chain, r),
                "step": np.repeat(self.places.step, r),
                "target": target,
                "block": np.tile((EMBEDDING, *self.blocks), k),
                "total": both["block"],
                "attention": both["attention"],
                "mlp": both["mlp"],
                "logit": np.repeat(self.logit[target], r),
            }
            tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

    def by_event(self, events: Events | None = None, unit: str = "problem") -> pd.DataFrame:
        """Means over the positions of each event, with 95 % jackknife intervals over units.

        events: None for those of the call. One row an event, target, part and block; the parts
        "embedding" (block -1) and "logit" (the whole, no block) close each.
        """
        import pandas as pd

        tables = []
        for event, inside in self.places.inside(events).items():
            for target, parts in self.parts.items():
                rows = [*parts.transpose(1, 0, 2).reshape(-1, len(self.places))]
                rows += [self.embedding[target], self.logit[target]]
                head = {
                    "event": event,
                    "target": target,
                    "part": np.repeat(
                        [*PARTS, "embedding", "logit"], [len(self.blocks)] * 3 + [1] * 2
                    ),
                    "block": pd.array([*self.blocks * 3, EMBEDDING, None], dtype="Int64"),
                }
                tables.append(pd.DataFrame(head | self.places.means(np.stack(rows), inside, unit)))
        return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class _FrozenNorm:
    """norm(v) = scale * gain * (v - centred * mean(v)) + bias, `scale` fixed at a position."""

    gain: Float[Tensor, " D"]
    bias: Float[Tensor, " D"]
    centred: bool

    @classmethod
    def of(cls, model: ReasoningModel) -> _FrozenNorm:
        """Read off the module: two opposite vectors of mean 0 and a constant one."""
        sign = torch.ones(model.d_model)
        sign[1::2] = -1
        sign = sign - sign.mean()
        sign = sign / sign.square().mean().sqrt()
        size = 64.0  # squares stay within float16, and the norm's epsilon is nothing beside them
        probes = torch.stack([size * sign, -size * sign, torch.full_like(sign, size)])
        plus, minus, flat = _normed(model, probes.to(model.dtype)).float()
        bias = (plus + minus) / 2
        gain = (plus - minus) / 2 / sign.to(plus.device)
        centred = bool((flat - bias).norm() < 0.1 * gain.norm())  # nothing is left of a constant
        return cls(gain, flat if centred else bias, centred)

    def along(self, direction: Float[Tensor, "k D"]) -> Float[Tensor, "k D"]:
        """q with <norm(v) - bias, direction> = scale <v, q>."""
        q = self.gain * direction
        return q - q.mean(-1, keepdim=True) if self.centred else q

    def scale(
        self, model: ReasoningModel, x: Float[Tensor, "k D"], normed: Float[Tensor, "k D"]
    ) -> Float[Tensor, " k"]:
        """The scale that takes x to the module's own output, checked to do so."""
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
        _check_same(found[:, None] * plain + self.bias, normed, normed.dtype, unknown)
        return found


@dataclass(frozen=True)
class _Unembedding:
    """logit_t = scale * (<normed, weight[t]> + bias[t]), before any soft cap."""

    weight: Float[Tensor, "V D"]
    bias: Float[Tensor, " V"]
    scale: float
    mean_weight: Float[Tensor, " D"]
    mean_bias: Float[Tensor, ""]

    @classmethod
    def of(cls, model: ReasoningModel) -> _Unembedding:
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
        """Of the mean logit of `ids` (-1: any), less that of the vocabulary where `centred`."""
        ids = ids.to(self.weight.device).clamp(min=0)
        vector = self.weight[ids].float().mean(1)
        bias = self.bias[ids].float().mean(1)
        if centred:
            vector, bias = vector - self.mean_weight, bias - self.mean_bias
        return vector * self.scale, bias * self.scale

    def check(self, model: ReasoningModel, normed: Float[Tensor, "k D"]) -> None:
        """That it gives what `readout` gives, on a few positions and tokens."""
        some, theirs = normed[:8], readout(model, normed[:8])[:, :64]
        ids = torch.arange(theirs.shape[1])[:, None]
        vectors, bias = self.direction(ids, centred=False)
        ours = some.to(vectors) @ vectors.T + bias
        if cap := getattr(model.anatomy.config, "final_logit_softcapping", None):
            ours = torch.tanh(ours / cap) * cap
        size = float(theirs.abs().max())
        if not torch.allclose(ours.to(theirs.device), theirs, atol=2e-2 * size):
            raise _strange(model, "turns the normed stream into logits in a way")


class _Written(Reducer):
    """What every part writes along the directions of the targets, at the positions of a pass.

    along: of each target [k, D], or [1, D] for a set; kept are scalars, [n, k] a part. exempt: the
    blocks whose whole delta a variant changes, so that their parts need not add up to it.
    """

    def __init__(
        self, piece: _Piece, along: list[Float[Tensor, "_ D"]], exempt: Collection[int | None]
    ) -> None:
        self.piece = piece
        self.along = {along[0].device: along}
        self.exempt = exempt

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        some = next(iter(self.along.values()))
        shape = (len(some), model.n_blocks, len(PARTS), len(self.piece.index))
        self.dots = torch.zeros(shape, device=some[0].device)
        self.embedding = torch.zeros(shape[0], shape[-1], device=some[0].device)
        self.gaps: list[Tensor] = []
        self.wrote: dict[str, Tensor] = {}
        self.left: Tensor | None = None

    @contextmanager
    def watching(self, model: ReasoningModel) -> Iterator[None]:
        """Hooks on the parts, put there as the pass begins: so they run behind a variant's."""

        def watch(index: int, part: str) -> Callable[..., None]:
            def hook(_: nn.Module, _args: Any, out: Any) -> None:
                written = self.piece.pick(out[0] if isinstance(out, tuple) else out)
                self.wrote[part] = written
                self.dots[:, index, PARTS.index(part)] = self._dot(written)

            return hook

        with ExitStack() as hooks:

            def begin(*_: Any) -> None:
                for index in range(model.n_blocks):
                    for part in PARTS[1:]:
                        module = model.anatomy.adds(index, part)
                        hooks.callback(module.register_forward_hook(watch(index, part)).remove)

            hooks.callback(model.anatomy.base.register_forward_pre_hook(begin).remove)
            yield

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: Batch
    ) -> None:
        entering, leaving = self.piece.pick(x).float(), self.piece.pick(y).float()
        if index == 0:
            self.embedding = self._dot(entering)
            self.left = entering
        assert self.left is not None
        added = leaving - entering
        self.dots[:, index, 0] = self._dot(added)
        size = entering.norm(dim=-1) + leaving.norm(dim=-1)
        between = entering - self.left.to(entering.device)
        rest = sum((v.to(added) for v in self.wrote.values()), torch.zeros_like(added)) - added
        if index in self.exempt:
            rest = torch.zeros_like(added)
        gap = torch.maximum(between.norm(dim=-1), rest.norm(dim=-1))
        self.gaps.append((gap / size.clamp(min=1e-30)).max())
        self.left, self.wrote = leaving, {}

    def _dot(self, vectors: Float[Tensor, "k D"]) -> Float[Tensor, "n k"]:
        if vectors.device not in self.along:
            first = next(iter(self.along.values()))
            self.along[vectors.device] = [q.to(vectors.device) for q in first]
        found = [(vectors.float() * q).sum(-1) for q in self.along[vectors.device]]
        return torch.stack(found).to(self.dots.device)

    @property
    def last(self) -> Float[Tensor, "k D"]:
        """The stream leaving the last block."""
        assert self.left is not None
        return self.left

    def gap(self) -> float:
        """The largest gap between what a block adds and what its parts wrote, in its stream."""
        return max(float(gap) for gap in self.gaps)


@torch.no_grad()
def contributions(
    model: ReasoningModel,
    chains: Sequence[Chain | Ids],
    targets: Mapping[str, Target] | None = None,
    events: Events | None = None,
    *,
    centred: bool = True,
    variant: VariantLike | None = None,
    batch_tokens: int = BATCH_TOKENS,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> Contributions:
    """Each block's direct contribution to the logits of targets at the steps of chains.

    targets: tokens beside the one chosen. events: only their positions are read (None: every
    step). centred: less the mean logit over the vocabulary. variant, batch_tokens, chunk_tokens: as
    for `lens`. A final norm or a block that does not add up as the module says is an error, found
    on the data.
    """
    texts = _texts(chains)
    places = _places(texts, events)
    wanted = _targets(model, targets, texts, places)
    check_readout(model, texts[places.chain[0]].ids)
    head = _Unembedding.of(model)
    norm = _FrozenNorm.of(model)
    steps = variant.interventions() if variant is not None else ()
    whole = [model.index_of(step.block) for step in steps if step.part == "block"]
    n, k = len(wanted), len(places)
    parts = np.empty((n, model.n_blocks, len(PARTS), k), dtype=np.float32)
    others = np.empty((3, n, k), dtype=np.float32)  # embedding, constant, logit
    for piece in _pieces(model, texts, places, variant, batch_tokens, chunk_tokens):
        ids = [target.at(piece.index, model.device) for target in wanted.values()]
        directions = [head.direction(few, centred) for few in ids]
        directions = [(u.to(norm.gain.device), b.to(norm.gain.device)) for u, b in directions]
        written = _Written(piece, [norm.along(u) for u, _ in directions], whole)
        with written.watching(model):
            normed = piece.run(model, written).to(norm.gain.device)
        if not written.gap() <= _slack(normed.dtype):
            raise _strange(model, "adds more to its stream than attention and MLP write")
        head.check(model, normed)
        scale = norm.scale(model, written.last, normed)
        parts[..., piece.index] = (written.dots * scale).cpu().numpy()
        others[0][:, piece.index] = (written.embedding * scale).cpu().numpy()
        for i, (u, b) in enumerate(directions):
            others[1, i, piece.index] = ((norm.bias * u).sum(-1) + b).cpu().numpy()
            others[2, i, piece.index] = ((normed.float() * u).sum(-1) + b).cpu().numpy()
    for i, target in enumerate(wanted.values()):
        lacks = np.broadcast_to(target.ids[:, 0] == NO_TOKEN, (k,))
        parts[i][..., lacks] = np.nan
        others[:, i, lacks] = np.nan
    embedding, constant, logit = (dict(zip(wanted, table, strict=True)) for table in others)
    return Contributions(
        places=places,
        blocks=model.layer_map,
        centred=centred,
        parts=dict(zip(wanted, parts, strict=True)),
        embedding=embedding,
        constant=constant,
        logit=logit,
    )
