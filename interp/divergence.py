"""How far two variants of a model are apart, token by token along the same chains.

Both read the same tokens (teacher-forced), and at every generated token their distributions are
compared: KL(base || variant), the reverse, the total variation, the two log-probabilities of the
token that is there, the two entropies, and whether they would greedily agree. One minus the total
variation is the chance that samples coupled as closely as possible agree on that token.

`damage_and_drift` sets two such averages side by side: along the dense model's chains (the local
damage: what the variant does to a token when everything before is right), and along the variant's
own chains (what it does where it has taken itself). `first_divergence` and `divergence_table` are
of the tokens alone: where a variant's chain leaves the dense one of the same noise.

Shapes: N chains of S tokens, V vocabulary. Row s belongs to the pass that CHOSE token s. Logits are
held a chunk of positions at a time, so memory does not grow with a chain's length or number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.batching import BATCH_TOKENS
from interp.chains import Chain
from interp.chunks import CHUNK_TOKENS, Reader
from interp.errors import NonFiniteError, UserError
from interp.events import Masks, check_masks
from interp.interventions import VariantLike, dense
from interp.model import ReasoningModel
from interp.record import jackknife_ratio
from interp.replay import position_chunks, readout

if TYPE_CHECKING:
    import pandas as pd

QUANTITIES = (
    "kl", "reverse_kl", "total_variation", "logprob_base", "logprob", "entropy_base", "entropy",
    "agrees",
)  # fmt: skip


@dataclass(frozen=True)
class Divergence:
    """One array [S] a chain of every quantity. problems: whose chain each is."""

    base: str
    variant: str
    problems: tuple[str, ...]
    quantities: dict[str, tuple[Float[np.ndarray, " _"], ...]]

    def mean(
        self, quantity: str = "kl", masks: Sequence[Bool[np.ndarray, " _"]] | None = None
    ) -> tuple[float, float, float, int]:
        """Mean over tokens (of `masks`, one a chain), 95 % jackknife over problems, and tokens."""
        names = list(dict.fromkeys(self.problems))
        sums, counts = np.zeros((2, 1, len(names)))
        for i, values in enumerate(self.quantities[quantity]):
            here = np.ones(len(values), bool) if masks is None else masks[i]
            sums[0, names.index(self.problems[i])] += values[here].sum()
            counts[0, names.index(self.problems[i])] += here.sum()
        has = counts[0] > 0
        if not has.any():
            return float("nan"), float("nan"), float("nan"), 0
        low, high = jackknife_ratio(sums[:, has], counts[:, has])
        return float(sums.sum() / counts.sum()), float(low[0]), float(high[0]), int(counts.sum())

    def by_event(self, events: Masks, quantity: str = "kl") -> pd.DataFrame:
        """One row an event (`interp.events.mark`): mean, interval, tokens."""
        import pandas as pd

        self._check(events)
        rows = []
        for name, masks in events.items():
            value, low, high, n = self.mean(quantity, masks)
            rows.append({"event": name, quantity: value, "low": low, "high": high, "n_tokens": n})
        return pd.DataFrame(rows)

    def by_step(self, edges: Sequence[int], quantity: str = "kl") -> pd.DataFrame:
        """One row a bin of tokens [edges[i], edges[i + 1]), the last one open."""
        import pandas as pd

        bounds = [*edges, None]
        rows = []
        for start, stop in pairwise(bounds):
            steps = [np.arange(len(v)) for v in self.quantities[quantity]]
            masks = [(s >= start) & (stop is None or s < stop) for s in steps]
            value, low, high, n = self.mean(quantity, masks)
            row = {"start": start, "stop": stop, quantity: value, "low": low, "high": high}
            rows.append({**row, "n_tokens": n})
        return pd.DataFrame(rows)

    def to_frame(self) -> pd.DataFrame:
        """One row a chain and token."""
        import pandas as pd

        sizes = [len(values) for values in self.quantities["kl"]]
        columns = {name: np.concatenate(values) for name, values in self.quantities.items()}
        return pd.DataFrame(
            {
                "chain": np.repeat(np.arange(len(sizes)), sizes),
                "problem": np.repeat(np.array(self.problems, dtype=object), sizes),
                "token": np.concatenate([np.arange(size) for size in sizes]),
                **columns,
            }
        )

    def _check(self, events: Masks) -> None:
        for name, masks in events.items():
            sizes = [len(m) for m in masks]
            if sizes != [len(v) for v in self.quantities["kl"]]:
                raise UserError(
                    f"Event {name!r} has masks of {sizes[:4]}... tokens: expected one a chain, of "
                    "its length."
                )


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
    """Compares `variant` with `base` at every generated token of `chains` (nats)."""
    if not chains:
        raise UserError("divergence: no chain was given.")
    reader = Reader.of_chains(model, chains, batch_tokens, chunk_tokens)
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
        quantities={name: tuple(found[q]) for q, name in enumerate(QUANTITIES)},
    )


def _compare(
    model: ReasoningModel, one: Float[Tensor, "K D"], other: Float[Tensor, "K D"], ids: Tensor
) -> Float[Tensor, "8 K"]:
    p, q = (readout(model, s).log_softmax(-1) for s in (one, other))
    ids = ids.to(p.device)[:, None]
    gap = p - q
    return torch.stack(
        [
            (p.exp() * gap).sum(-1),
            -(q.exp() * gap).sum(-1),
            (p.exp() - q.exp()).abs().sum(-1) / 2,
            p.gather(-1, ids)[:, 0],
            q.gather(-1, ids)[:, 0],
            torch.special.entr(p.exp()).sum(-1),
            torch.special.entr(q.exp()).sum(-1),
            (p.argmax(-1) == q.argmax(-1)).float(),
        ]
    )


def first_divergence(a: Chain, b: Chain) -> int | None:
    """The first generated index at which the tokens differ; None where one goes on from the other.

    Two chains of different lengths that agree as far as both go have not diverged.
    """
    n = min(a.n_tokens, b.n_tokens)
    differs = np.flatnonzero(a.ids[:n] != b.ids[:n])
    return int(differs[0]) if differs.size else None


def divergence_table(chains: Sequence[Chain], base: str = "dense") -> pd.DataFrame:
    """Every chain beside the base's of the same problem, sample, seed and budget.

    divergence: first index at which they differ (nan: they never do); tokens, tokens_base.
    """
    import pandas as pd

    def key(c: Chain) -> tuple[object, ...]:
        return c.problem, c.sample, c.seed, c.budget

    known = {key(c): c for c in chains if c.variant == base}
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
        raise UserError(f"divergence_table: no chain has one of {base!r} to stand beside.")
    return pd.DataFrame(rows)


def damage_and_drift(
    model: ReasoningModel,
    dense_chains: Sequence[Chain],
    variant_chains: Sequence[Chain],
    variant: VariantLike,
    *,
    events: tuple[Masks, Masks] | None = None,
) -> pd.DataFrame:
    """KL(dense || variant) along the dense chains (damage) and along the variant's (drift).

    events: masks of the two lists of chains, for one row an event; else one row each.
    """
    import pandas as pd

    frames = []
    for i, (along, chains) in enumerate((("dense", dense_chains), (variant.name, variant_chains))):
        found = divergence(model, chains, variant)
        masks = {"all": [np.ones(c.n_tokens, bool) for c in chains]}
        if events is not None:
            masks = events[i]
            check_masks(chains, masks, "damage_and_drift")
        frame = found.by_event(masks)
        frame.insert(0, "along", along)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
