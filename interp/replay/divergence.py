"""How far two variants of a model are apart, token by token along the same chains.

Both read the same tokens (teacher-forced), and their distributions are compared at every generated
token: KL both ways, total variation, the log-probability of the token, entropy, and greedy
agreement. One minus the total variation is the highest probability with which two coupled samples
can agree on that token.

`damage_and_drift` compares averages along the dense model's chains (local damage: everything before
is right) and along the variant's own chains. `first_divergence` and `divergence_table` use tokens
only: where a variant's chain leaves the dense chain with the same noise.

Tokens that the engine wrote are compared too, but count in averages only if a mask includes them.
Intervals are jackknifed over problems, because chains of one problem are not independent. Shapes: N
chains of S tokens. Row s is of the pass that CHOSE token s. Eight numbers per token are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.chains.chain import Chain
from interp.chains.masks import Masks, check_masks
from interp.errors import NonFiniteError, UserError, check_known, look_up
from interp.interventions.interventions import VariantLike, dense
from interp.model.readout import readout
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.replay.batching import BATCH_TOKENS
from interp.replay.chunked_forward import CHUNK_TOKENS, ChunkedReader
from interp.replay.teacher_forced import position_chunks
from interp.statistics.jackknife import jackknife, mean_over_units

QUANTITIES = (
    "kl", "reverse_kl", "total_variation", "logprob_base", "logprob", "entropy_base", "entropy",
    "agrees",
)  # fmt: skip


@brief
@dataclass(frozen=True)
class Divergence:
    """Per-token differences between two variants along chains.

    Attributes:
        base: name of the variant compared with.
        variant: name of the variant.
        problems: problem of each chain.
        samples: sample number of each chain.
        seeds: seed of each chain.
        chosen: for each chain [S], True where the model chose the token itself.
        quantities: name (one of `QUANTITIES`) -> for each chain [S], in nats where it has a unit.
        layer_map: dense index of each block of the model.
    """

    base: str
    variant: str
    problems: tuple[str, ...]
    samples: tuple[int, ...]
    seeds: tuple[int, ...]
    chosen: tuple[Bool[np.ndarray, " _"], ...]
    quantities: dict[str, tuple[Float[np.ndarray, " _"], ...]]
    layer_map: tuple[int, ...] = ()

    def sums(
        self, quantity: str = "kl", masks: Sequence[Bool[np.ndarray, " _"]] | None = None
    ) -> tuple[dict[str, float], dict[str, int]]:
        """Sum and number of tokens of every problem.

        Args:
            quantity: one of `QUANTITIES`.
            masks: for each chain [S], True where a token counts; default: the tokens that the model
                chose.

        Returns:
            problem -> sum, and problem -> number of tokens.

        Raises:
            UserError: the quantity is unknown.
        """
        check_known(quantity, QUANTITIES, "quantity")
        sums = dict.fromkeys(self.problems, 0.0)
        counts = dict.fromkeys(self.problems, 0)
        several = self.chosen if masks is None else masks
        for problem, values, here in zip(
            self.problems, self.quantities[quantity], several, strict=True
        ):
            sums[problem] += float(values[here].sum(dtype=np.float64))
            counts[problem] += int(here.sum())
        return sums, counts

    def mean(
        self, quantity: str = "kl", masks: Sequence[Bool[np.ndarray, " _"]] | None = None
    ) -> tuple[float, float, float, int]:
        """Mean over tokens, with its 95 % jackknife interval over problems.

        Args:
            quantity: one of `QUANTITIES`.
            masks: for each chain [S], True where a token counts; default: the tokens that the model
                chose.

        Returns:
            Mean, lower bound, upper bound, number of tokens; nan and 0 if no token counts.
        """
        sums, counts = (
            np.array(list(one.values()), np.float64) for one in self.sums(quantity, masks)
        )
        return mean_over_units(sums, counts)

    def by_event(self, events: Masks, quantity: str = "kl") -> pd.DataFrame:
        """One row per event: mean, interval, number of tokens.

        Args:
            events: for each event one mask [S] per chain (`interp.diagnosis.events.mark`).
            quantity: one of `QUANTITIES`.

        Returns:
            The table.

        Raises:
            UserError: masks do not fit the chains.
        """
        self._check(events)
        rows = []
        for name, masks in events.items():
            value, low, high, n = self.mean(quantity, masks)
            rows.append({"event": name, quantity: value, "low": low, "high": high, "n_tokens": n})
        return pd.DataFrame(rows)

    def by_step(self, edges: Sequence[int], quantity: str = "kl") -> pd.DataFrame:
        """One row per bin of token positions: mean, interval, number of tokens.

        Args:
            edges: rising steps; bin i is [edges[i], edges[i + 1]), and the last one has no end.
            quantity: one of `QUANTITIES`.

        Returns:
            The table.

        Raises:
            UserError: the edges do not rise, or the quantity is unknown.
        """
        if not len(edges) or any(b <= a for a, b in pairwise(edges)):
            raise UserError(
                f"by_step(edges={list(edges)}): expected rising steps, such as [0, 64]."
            )
        bounds = [*edges, None]
        rows = []
        for start, stop in pairwise(bounds):
            read = look_up(quantity, self.quantities, "quantity")
            steps = [np.arange(len(v)) for v in read]
            inside = [(s >= start) & (stop is None or s < stop) for s in steps]
            masks = [a & b for a, b in zip(inside, self.chosen, strict=True)]
            value, low, high, n = self.mean(quantity, masks)
            row = {"start": start, "stop": stop, quantity: value, "low": low, "high": high}
            rows.append({**row, "n_tokens": n})
        return pd.DataFrame(rows)

    def to_frame(self) -> pd.DataFrame:
        """One row per chain and token."""
        sizes = [len(values) for values in self.quantities["kl"]]
        columns = {name: np.concatenate(values) for name, values in self.quantities.items()}
        return pd.DataFrame(
            {
                "chain": np.repeat(np.arange(len(sizes)), sizes),
                "problem": np.repeat(np.array(self.problems, dtype=object), sizes),
                "sample": np.repeat(self.samples, sizes),
                "seed": np.repeat(self.seeds, sizes),
                "token": np.concatenate([np.arange(size) for size in sizes]),
                "chosen": np.concatenate(self.chosen),
                **columns,
            }
        )

    def _check(self, events: Masks) -> None:
        for name, masks in events.items():
            sizes = [len(m) for m in masks]
            if sizes != [len(v) for v in self.quantities["kl"]]:
                raise UserError(
                    f"Event {name!r} has masks of {sizes[:4]}... tokens: expected one per chain, "
                    "with one entry per token."
                )


@checked
@torch.no_grad()
def divergence(
    model: ReasoningModel,
    chains: Sequence[Chain],
    variant: VariantLike,
    base: VariantLike = dense,
    *,
    batch_tokens: int = BATCH_TOKENS,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> Divergence:
    """Compare a variant with a base at every generated token of chains.

    Args:
        model: the model.
        chains: the chains that both read.
        variant: the variant.
        base: the variant to compare with; default: the dense model.
        batch_tokens: tokens per pass.
        chunk_tokens: columns read at a time; None for whole rows.

    Returns:
        The quantities for every token.

    Raises:
        UserError: there is no chain.
        NonFiniteError: a quantity is inf or nan.
    """
    if not chains:
        raise UserError("divergence: no chain was given: expected at least one.")
    reader = ChunkedReader.of_chains(model, chains, batch_tokens, chunk_tokens)
    found = np.full((len(QUANTITIES), len(chains)), None, dtype=object)
    for i, chain in enumerate(chains):
        for q in range(len(QUANTITIES)):
            found[q, i] = np.full(chain.n_tokens, np.nan, np.float32)
    for batch in reader.batches():
        one, other = reader.read(batch, base), reader.read(batch, variant)
        texts = batch.texts.tolist()
        for columns in one.pieces:
            streams = one(columns), other(columns)
            for row, text in enumerate(texts):
                chain = chains[text]
                first = len(chain.prompt_ids) - 1  # position that chose token 0
                a, b = max(columns.start, first), min(columns.stop, first + chain.n_tokens)
                for part in position_chunks(model, max(b - a, 0)):
                    at = np.arange(a, b)[part]
                    here = [s[row, at - columns.start] for s in streams]
                    ids = torch.from_numpy(chain.ids[at - first]).to(here[0].device)
                    numbers = _compare(model, here[0], here[1], ids).cpu().numpy()
                    for q, values in enumerate(numbers):
                        found[q, text][at - first] = values
    if not all(np.isfinite(values).all() for values in found.ravel()):
        raise NonFiniteError("A divergence is inf or nan: check the weights, or use float32.")
    return Divergence(
        base=base.name,
        variant=variant.name,
        problems=tuple(c.problem for c in chains),
        samples=tuple(c.sample for c in chains),
        seeds=tuple(c.seed for c in chains),
        chosen=tuple(~c.forced for c in chains),
        layer_map=model.layer_map,
        quantities={name: tuple(found[q]) for q, name in enumerate(QUANTITIES)},
    )


def _compare(
    model: ReasoningModel, one: Float[Tensor, "K D"], other: Float[Tensor, "K D"], ids: Tensor
) -> Float[Tensor, "8 K"]:
    p, q = (readout(model, s).log_softmax(-1) for s in (one, other))
    q = q.to(p.device)  # p, q: log-probabilities [K, V]
    ids = ids.to(p.device)[:, None]
    gap = p - q
    return torch.stack(
        [
            (p.exp() * gap).sum(-1).clamp_min(0),  # float noise may be below 0; nan stays nan
            -(q.exp() * gap).sum(-1).clamp_max(0),
            (p.exp() - q.exp()).abs().sum(-1) / 2,
            p.gather(-1, ids)[:, 0],
            q.gather(-1, ids)[:, 0],
            torch.special.entr(p.exp()).sum(-1),
            torch.special.entr(q.exp()).sum(-1),
            (p.argmax(-1) == q.argmax(-1)).float(),
        ]
    )


@checked
def first_divergence(a: Chain, b: Chain) -> int | None:
    """The first generated index at which two chains differ.

    Chains of different lengths that agree up to the shorter one's end have not diverged: one was
    cut. An end of sequence is a token, so a chain that stops where the other continues has
    diverged.

    Args:
        a: a chain.
        b: another chain with the same prompt.

    Returns:
        The index, or None if they do not differ.

    Raises:
        UserError: the prompts differ.
    """
    if not np.array_equal(a.prompt_ids, b.prompt_ids):
        raise UserError(
            f"first_divergence: the chains of problems {a.problem!r} and {b.problem!r} have "
            "different prompts: expected two chains of one prompt."
        )
    n = min(a.n_tokens, b.n_tokens)
    differs = np.flatnonzero(a.ids[:n] != b.ids[:n])
    return int(differs[0]) if differs.size else None


@checked
def divergence_table(chains: Sequence[Chain], base: str = "dense") -> pd.DataFrame:
    """Every chain compared with the base's chain of the same problem, sample, seed and budget.

    Args:
        chains: chains of several variants.
        base: name of the variant to compare with.

    Returns:
        One row per chain of another variant. `divergence` is the first index at which the chains
        differ (nan: never); `tokens` and `tokens_base` are their lengths. Chains without a partner
        are left out.

    Raises:
        UserError: the base has two chains for one place, or no chain has a partner.
    """

    def key(c: Chain) -> tuple[object, ...]:
        return c.problem, c.sample, c.seed, c.budget

    known: dict[tuple[object, ...], Chain] = {}
    for c in chains:
        if c.variant == base and known.setdefault(key(c), c) is not c:
            raise UserError(
                f"divergence_table: {base!r} has two chains of problem {c.problem!r}, sample "
                f"{c.sample}, seed {c.seed}, budget {c.budget.label}: expected one."
            )
    rows = []
    for c in chains:
        if c.variant == base or key(c) not in known:
            continue
        other = known[key(c)]
        at = first_divergence(other, c)
        row = {"problem": c.problem, "variant": c.variant, "sample": c.sample, "seed": c.seed}
        row |= {"budget": c.budget.label, "divergence": float("nan") if at is None else at}
        rows.append({**row, "tokens": c.n_tokens, "tokens_base": other.n_tokens})
    if not rows:
        raise UserError(
            f"divergence_table: no chain has a chain of {base!r} to compare with: expected the "
            "same problem, sample, seed and budget."
        )
    return pd.DataFrame(rows)


@checked
def damage_and_drift(
    model: ReasoningModel,
    dense_chains: Sequence[Chain],
    variant_chains: Sequence[Chain],
    variant: VariantLike,
    *,
    events: tuple[Masks, Masks] | None = None,
) -> pd.DataFrame:
    """KL(dense || variant) along the dense chains (damage) and along the variant's chains (drift).

    Args:
        model: the model.
        dense_chains: chains of the dense model.
        variant_chains: chains of the variant.
        variant: the variant.
        events: masks of the two lists of chains; default: one event "all", the tokens that the
            model chose.

    Returns:
        Three rows per event. Column `along` is "dense", the variant's name, or "difference": the
        second minus the first, over the problems that both lists have, with a jackknife that leaves
        each problem out of both.

    Raises:
        UserError: masks do not fit the chains.
    """
    both = [divergence(model, chains, variant) for chains in (dense_chains, variant_chains)]
    masks = tuple({"all": list(found.chosen)} for found in both) if events is None else events
    for chains, few in zip((dense_chains, variant_chains), masks, strict=True):
        check_masks(chains, few, "damage_and_drift")
    frames = []
    for along, found, few in zip(("dense", variant.name), both, masks, strict=True):
        frame = found.by_event(few)
        frame.insert(0, "along", along)
        frames.append(frame)
    shared = [name for name in masks[0] if name in masks[1]]
    rows = [
        {"along": "difference", "event": name, **_difference(both, [m[name] for m in masks])}
        for name in shared
    ]
    return pd.concat([*frames, pd.DataFrame(rows)], ignore_index=True)


def _difference(
    both: Sequence[Divergence], masks: Sequence[Sequence[Bool[np.ndarray, " _"]]]
) -> dict[str, float]:
    """Mean KL of the second minus that of the first, over the problems that both have."""
    tables = [found.sums("kl", few) for found, few in zip(both, masks, strict=True)]
    (_, first), (_, second) = tables
    shared = [p for p, n in first.items() if n and second.get(p)]
    if not shared:
        return {"kl": np.nan, "low": np.nan, "high": np.nan, "n_tokens": 0}
    columns = [np.array([[t[p] for p in shared]], dtype=float) for pair in tables for t in pair]

    def gap(a: np.ndarray, n: np.ndarray, b: np.ndarray, m: np.ndarray) -> np.ndarray:
        return b / m - a / n

    low, high = jackknife(gap, *columns)
    (value,) = gap(*(column.sum(1) for column in columns))
    tokens = int(columns[1].sum() + columns[3].sum())
    return {"kl": float(value), "low": float(low[0]), "high": float(high[0]), "n_tokens": tokens}
