"""`HeadLens`: passes through the bridge, patterns and scores at events, and ablations.

Shapes: B rows, Q queries, K keys, H heads, d head width, E events, N chains, R ablated heads.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.chains.chain import Chain
from interp.errors import NonFiniteError, UserError
from interp.heads.bridge import blaming, bridged, copied, unfaithful, without_point
from interp.heads.head_names import Head, check_finite, check_means, placed
from interp.heads.pattern_scores import SCORES, score_patterns
from interp.heads.results import EFFECTS, HeadEffects, HeadScores, Patterns
from interp.interventions.hooks import present
from interp.model.kv_cache import handing
from interp.model.readout import readout
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.replay.batching import BATCH_TOKENS, batches

PIECE = 256  # most queries per pass
ATTENTION_FLOATS = 2**26  # most numbers of one block's pattern held at a time (256 MiB)
CACHE_FLOATS = 2**28  # most numbers of keys and values in one batch (1 GiB in float32)
PATTERN_FLOATS = 2**28  # most numbers that `patterns` may return (1 GiB)
LOGIT_FLOATS = 2**24  # most logits of one batch held at a time (64 MiB)
PROBE = 48  # tokens of the check when the lens opens
EXACT = torch.float32, torch.float64
TOLERANCE = 1e-4  # in exact precision: of the largest logit
# In half precision single logits say little: of Qwen2.5-0.5B in bfloat16 some are off float32 by
# .09 of the largest, the copy's by .25 (root mean squares .03, .08); of a wrong rendering all are.
HALF_TOLERANCE = 0.15  # root mean square


@dataclass(frozen=True)
class _Marked:
    """A chain up to its last event: ids [1, K], and the events' positions in them."""

    number: int  # of the chain in the caller's list
    ids: Int[Tensor, "1 K"]
    positions: Int[Tensor, " E"]
    chosen: Int[Tensor, " E"]  # the token that was chosen at each of these positions
    n_prompt: int

    @property
    def first(self) -> int:
        return int(self.positions[0])

    @property
    def end(self) -> int:
        return self.ids.shape[1]

    def inside(self, a: int, b: int) -> Int[Tensor, " E"]:
        """The events in positions [a, b)."""
        return ((self.positions >= a) & (self.positions < b)).nonzero()[:, 0]


@checked
class HeadLens:
    """Attention heads of a copy of a model; close it (or use `with`) to free the copy.

        with HeadLens(model) as lens:
            lens.patterns(chain, blocks=[3], start=100, stop=140)
            scores = lens.scores(chains, events, periods=periods)     # HeadScores
            effects = lens.ablate(chains, events, heads=[(3, 0)])     # HeadEffects

    Args:
        model: the model.
        dtype: of the copy; default: the model's. float32 gives exact numbers for a half-precision
            model, at twice the memory; in half precision the copy rounds more than the model does.

    Attributes:
        n_heads: number of heads H per block.

    Raises:
        UserError: the model is on several devices, has open hooks, or is not rendered faithfully.
        NonFiniteError: a logit is inf or nan.
    """

    def __init__(self, model: ReasoningModel, *, dtype: torch.dtype | None = None) -> None:
        self.model = model
        self.n_heads = int(model.anatomy.config.num_attention_heads)
        hf = copied(model, dtype)
        self._copy: ReasoningModel | None = model.around(hf)
        self._bridge: Any = bridged(hf, model)
        self._check()

    def __enter__(self) -> HeadLens:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the copy."""
        self._copy = self._bridge = None
        gc.collect()  # the bridge's modules refer to one another

    # ---------------------------------------------------------------- passes

    @torch.no_grad()
    def _pass(
        self,
        ids: Int[Tensor, "B T"],
        cache: Any,
        name: str = "",
        hook: Callable[..., Any] | None = None,
        indices: Iterable[int] = (),
    ) -> Float[Tensor, "B T D"]:
        """The stream after the final norm. `hook(index, tensor)` is called at `name` of blocks."""
        if self._copy is None:
            raise UserError("This HeadLens is closed: open another, HeadLens(model).")
        hooks = [(f"blocks.{i}.attn.{name}", without_point(hook, i)) for i in indices]
        with self._bridge.hooks(fwd_hooks=hooks):
            base = self._copy.anatomy.base
            return base(input_ids=ids, use_cache=True, **handing(base, cache))[0]

    def _pieces(self, start: int, stop: int, rows: int = 1) -> Iterator[tuple[int, int]]:
        """[start, stop) in pieces whose attention patterns fit in memory."""
        size = ATTENTION_FLOATS // max(1, rows * self.n_heads * stop)
        size = max(1, min(PIECE, size))
        for a in range(start, stop, size):
            yield a, min(a + size, stop)

    def _prefix(self, ids: Int[Tensor, "1 T"], stop: int) -> Any:
        """The cache of positions [0, stop)."""
        from transformers import DynamicCache

        cache = DynamicCache()  # keeps all columns, also for sliding windows: the masks cut them
        for a, b in self._pieces(0, stop):
            self._pass(ids[:, a:b], cache)
        return cache

    def _check(self) -> None:
        """Check that the copy's logits are the model's, cached too, and that its patterns fit."""
        model, kind = self.model, type(self.model.hf).__name__
        assert self._copy is not None
        draw = torch.Generator().manual_seed(0)
        size = min(PROBE, model.max_positions)
        ids = torch.randint(model.vocab_size, (1, size), generator=draw).to(model.device)
        with torch.no_grad():
            expected = model.hf(input_ids=ids, use_cache=False).logits.float()
        if not expected.isfinite().all():
            raise NonFiniteError(f"A logit of {model.name} is inf or nan: check its weights.")
        exact = model.dtype in EXACT and self._copy.dtype in EXACT

        def same(a: Tensor, b: Tensor) -> bool:
            if a.shape != b.shape:
                return False
            off, b = a.float() - b.float(), b.float()
            if exact:
                return bool(off.abs().max() <= TOLERANCE * b.abs().max())
            return bool(off.square().mean() <= HALF_TOLERANCE**2 * b.square().mean())

        seen: dict[str, dict[int, Tensor]] = {"hook_pattern": {}, "hook_v": {}, "hook_z": {}}
        with blaming(kind, "its pass fails"):
            for name, found in seen.items():
                cache = self._prefix(ids, 0)
                whole = self._pass(ids, cache, name, found.__setitem__, range(model.n_blocks))
            half = self._pass(ids[:, size // 2 :], self._prefix(ids, size // 2))
        for stream, part in ((whole, expected), (half, expected[:, size // 2 :])):
            if not same(readout(self._copy, stream), part):
                raise UserError(unfaithful(kind, "it gives other logits than the model"))
        for i in range(model.n_blocks):
            pattern, v, z = (found.get(i, ids) for found in seen.values())
            if v.ndim != 4 or pattern.shape != (1, self.n_heads, size, size):
                raise UserError(unfaithful(kind, "it does not show the pattern of each head"))
            v = v.repeat_interleave(self.n_heads // v.shape[2], dim=2)  # [1, K, H, d]
            if not same(torch.einsum("bhqk,bkhd->bqhd", pattern.to(v), v), z):
                raise UserError(unfaithful(kind, "its patterns are not what mixes its values"))

    # ---------------------------------------------------------------- patterns and scores

    def patterns(
        self,
        chain: Chain,
        blocks: Sequence[int] | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Patterns:
        """The attention patterns of some rows of a chain.

        Args:
            chain: the chain.
            blocks: dense indices; default: all.
            start: first row.
            stop: row after the last one; default: the end of the chain.

        Returns:
            The patterns.

        Raises:
            UserError: the rows are not in the chain, or the patterns would take more than 1 GiB.
            NonFiniteError: a weight is inf or nan.
        """
        stop = chain.n_tokens if stop is None else stop
        if not 0 <= start < stop <= chain.n_tokens:
            raise UserError(
                f"Rows [{start}, {stop}): expected 0 <= start < stop <= {chain.n_tokens} tokens."
            )
        rows = np.arange(chain.n_tokens)
        (m,) = self._marked([chain], [(rows >= start) & (rows < stop)])
        indices = self._indices(blocks)
        shape = (len(indices), self.n_heads, stop - start, m.end)
        if np.prod(shape, dtype=np.int64) > PATTERN_FLOATS:
            raise UserError(
                f"Patterns of shape {shape} (blocks, heads, queries, keys) are more than "
                f"{PATTERN_FLOATS * 4 // 2**20} MiB: ask for fewer blocks or a shorter window."
            )
        weights = np.zeros(shape, dtype=np.float32)

        def keep(i: int, pattern: Float[Tensor, "1 H Q K"]) -> None:
            here = weights[indices.index(i), :, a - m.first : b - m.first, :b]
            here[:] = pattern[0].float().cpu().numpy()

        cache = self._prefix(m.ids, m.first)
        for a, b in self._pieces(m.first, m.end):
            self._pass(m.ids[:, a:b], cache, "hook_pattern", keep, indices)
        check_finite(weights, "attention weight")
        ids, names = m.ids[0].cpu().numpy(), tuple(self.model.layer_map[i] for i in indices)
        return Patterns(weights, names, start, m.n_prompt, ids)

    def scores(
        self,
        chains: Sequence[Chain],
        events: Sequence[Bool[np.ndarray, "*_"]],
        blocks: Sequence[int] | None = None,
        periods: Sequence[int | None] | None = None,
    ) -> HeadScores:
        """All `SCORES` of every head over some events; `score_patterns` defines them.

        Args:
            chains: the chains.
            events: for each chain one boolean per generated token [S].
            blocks: dense indices; default: all.
            periods: the period of each chain's loop in tokens (`Loop.period` of an exact loop), or
                None; the "period" score needs it.

        Returns:
            Sums and counts for each chain, and the score of uniform attention.

        Raises:
            UserError: masks or periods do not fit the chains, or there is no event.
            NonFiniteError: a score is inf or nan.
        """
        if periods is not None and len(periods) != len(chains):
            raise UserError(f"{len(periods)} periods for {len(chains)} chains: expected one each.")
        if bad := [p for p in periods or () if p is not None and p < 1]:
            raise UserError(f"A period of {bad[0]} tokens: expected at least 1, or None.")
        indices, marked = self._indices(blocks), self._marked(chains, events)
        sums = np.zeros((len(SCORES), len(indices), self.n_heads, len(chains)))
        counts, chances = np.zeros((2, len(SCORES), len(chains)))

        def measure(i: int, pattern: Float[Tensor, "1 H Q K"]) -> None:
            at = m.positions[m.inside(a, b)]
            got = score_patterns(pattern[0][:, at - a], m.ids[0, :b], at, m.n_prompt, period)
            value, defined, chance = (t.cpu().double().numpy() for t in got)
            sums[:, indices.index(i), :, m.number] += (value * defined[:, None]).sum(-1)
            if i == indices[0]:  # the same for every block
                counts[:, m.number] += defined.sum(-1)
                chances[:, m.number] += (chance * defined).sum(-1)

        for m in marked:
            period = None if periods is None else periods[m.number]
            cache = self._prefix(m.ids, m.first)
            for a, b in self._pieces(m.first, m.end):
                wanted = indices if len(m.inside(a, b)) else []
                self._pass(m.ids[:, a:b], cache, "hook_pattern", measure, wanted)
        check_finite(sums, "score")
        kept = {name: k for k, name in enumerate(SCORES) if counts[k].any()}
        return HeadScores(
            sums={name: sums[k] for name, k in kept.items()},
            counts={name: counts[k] for name, k in kept.items()},
            blocks=tuple(self.model.layer_map[i] for i in indices),
            chance={name: float(chances[k].sum() / counts[k].sum()) for name, k in kept.items()},
        )

    # ---------------------------------------------------------------- ablation

    def ablate(
        self,
        chains: Sequence[Chain],
        events: Sequence[Bool[np.ndarray, "*_"]],
        heads: Sequence[Head] | None = None,
        *,
        method: Literal["zero", "mean"] = "zero",
        where: Literal["events", "everywhere"] = "events",
        tokens: Collection[int] | None = None,
        means: Float[Tensor, "L H d"] | None = None,
    ) -> HeadEffects:
        """The effect on the next token when each of some heads alone is ablated (teacher-forced).

        Ablated rows run in one batch with an untouched row. At the events, the result has the
        change of the log-probability of the chain's own token (or of `tokens`), and the KL from the
        untouched row.

        Args:
            chains: the chains.
            events: for each chain one boolean per generated token [S].
            heads: (dense block, head) pairs; default: all.
            method: "zero" sets the head's output to zero, "mean" to its mean.
            where: "events" ablates at the events' positions only, "everywhere" at every position,
                prompt included.
            tokens: measure the log-probability that the next token is one of these ids.
            means: mean outputs for "mean", from `HeadLens.means`; default: over all positions of
                the same chains.

        Returns:
            Effects in nats, summed over the events of each chain.

        Raises:
            UserError: an argument has a value that is not allowed, or there is no event.
            NonFiniteError: a log-probability is inf or nan.
        """
        if method not in ("zero", "mean") or where not in ("events", "everywhere"):
            raise UserError(
                f"method={method!r}, where={where!r}: expected 'zero' or 'mean', and 'events' or "
                "'everywhere'."
            )
        if tokens is not None and not all(0 <= t < self.model.vocab_size for t in tokens or [-1]):
            raise UserError(f"tokens={tokens}: expected ids of 0..{self.model.vocab_size - 1}.")
        places = placed(self.model, heads, self.n_heads)
        marked = self._marked(chains, events)
        if method == "zero":
            means = None
        elif means is None:
            means = self.means(chains)
        check_means(self.model, means, self.n_heads)
        indices = sorted({i for i, _ in places})
        table = np.full((len(EFFECTS), len(indices), self.n_heads, len(chains)), np.nan)
        for i, head in places:
            table[:, indices.index(i), head] = 0.0
        for m in marked:
            first = m.first if where == "events" else 0
            prefix = self._prefix(m.ids, first)
            size = self._rows_at_once(m.end, m.end - first) - 1
            for at in range(0, len(places), size):
                group = places[at : at + size]
                got = self._ablated(m, first, prefix, group, means, where, tokens)
                check_finite(got, "log-probability under ablation")
                for (i, head), effects in zip(group, got.T, strict=True):
                    table[:, indices.index(i), head, m.number] = effects
        counts = np.array([np.count_nonzero(event) for event in events], dtype=np.float64)
        return HeadEffects(
            sums=dict(zip(EFFECTS, table, strict=True)),
            counts=dict.fromkeys(EFFECTS, counts),
            blocks=tuple(self.model.layer_map[i] for i in indices),
            method=method,
            where=where,
        )

    def _ablated(
        self,
        m: _Marked,
        first: int,
        prefix: Any,
        group: Sequence[tuple[int, int]],
        means: Float[Tensor, "L H d"] | None,
        where: str,
        tokens: Collection[int] | None,
    ) -> Float[np.ndarray, "2 R"]:
        """`EFFECTS` of each head of the group, summed over the chain's events."""
        rows = len(group) + 1  # row 0 is untouched
        cache = copy.deepcopy(prefix)
        if first:
            cache.batch_repeat_interleave(rows)
        total = torch.zeros(len(EFFECTS), rows - 1, dtype=torch.float64)

        def edit(index: int, z: Float[Tensor, "B Q H d"]) -> Tensor:
            z = z.clone()
            here = m.positions[m.inside(a, b)] - a if where == "events" else slice(None)
            for row, (i, head) in enumerate(group, start=1):
                if i == index:
                    z[row, here, head] = 0.0 if means is None else means[i, head].to(z)
            return z

        for a, b in self._pieces(first, m.end, rows):
            ids = m.ids[:, a:b].expand(rows, -1)
            stream = self._pass(ids, cache, "hook_z", edit, sorted({i for i, _ in group}))
            for part in m.inside(a, b).split(max(1, LOGIT_FLOATS // rows // self.model.vocab_size)):
                picked = stream[:, m.positions[part] - a]
                total += self._effects(picked, m.chosen[part], tokens)
        return total.numpy()

    @torch.no_grad()
    def _effects(
        self,
        stream: Float[Tensor, "B E D"],
        chosen: Int[Tensor, " E"],
        tokens: Collection[int] | None,
    ) -> Float[Tensor, "2 R"]:
        assert self._copy is not None
        logp = readout(self._copy, stream).log_softmax(-1)
        if tokens is None:
            own = logp[:, torch.arange(len(chosen), device=logp.device), chosen]
        else:
            own = logp[..., sorted(set(tokens))].logsumexp(-1)
        kl = (logp[0].exp() * (logp[0] - logp[1:])).sum(-1)
        return torch.stack([(own[1:] - own[0]).sum(-1), kl.sum(-1)]).cpu().double()

    def _rows_at_once(self, keys: int, queries: int) -> int:
        """Rows of one batch, the untouched one included, that fit the limits above."""
        config = self.model.anatomy.config
        width = int(getattr(config, "head_dim", 0) or self.model.d_model // self.n_heads)
        kv_heads = int(getattr(config, "num_key_value_heads", 0) or self.n_heads)
        queries = min(PIECE, queries)
        limits = (
            ATTENTION_FLOATS // (self.n_heads * queries * keys),
            CACHE_FLOATS // (2 * self.model.n_blocks * kv_heads * width * keys),
            BATCH_TOKENS // queries,
        )
        return max(2, min(limits))

    def means(self, chains: Sequence[Chain]) -> Float[Tensor, "L H d"]:
        """The mean output z of every head over all positions read, in prompts and chains.

        The last token of a chain is not read.

        Args:
            chains: the chains.

        Returns:
            float32 [L, H, d], one entry per block of this model, in order.
        """
        sums: dict[int, Tensor] = {}
        count = 0

        def add(i: int, z: Float[Tensor, "1 Q H d"]) -> None:
            sums[i] = sums.get(i, 0) + z[0].float().sum(0).cpu().double()

        for m in self._marked(chains, [np.ones(c.n_tokens, dtype=bool) for c in chains]):
            count += m.end
            cache = self._prefix(m.ids, 0)
            for a, b in self._pieces(0, m.end):
                self._pass(m.ids[:, a:b], cache, "hook_z", add, range(self.model.n_blocks))
        return torch.stack([sums[i] / count for i in sorted(sums)]).float()

    # ---------------------------------------------------------------- checked arguments

    def _indices(self, blocks: Sequence[int] | None) -> list[int]:
        """Dense indices as positions in this model, in order."""
        if blocks is None:
            return list(range(self.model.n_blocks))
        if not len(blocks) or len(set(blocks)) < len(blocks):
            raise UserError(f"blocks={list(blocks)}: expected at least one, and none twice.")
        return present(self.model, sorted(blocks))

    def _marked(
        self, chains: Sequence[Chain], events: Sequence[Bool[np.ndarray, "*_"]]
    ) -> list[_Marked]:
        """The chains that have an event, each up to its last one."""
        if len(chains) != len(events):
            raise UserError(
                f"{len(chains)} chains but {len(events)} event masks: expected one each."
            )
        found = []
        for n, (chain, event) in enumerate(zip(chains, events, strict=True)):
            if event.shape != (chain.n_tokens,) or event.dtype != bool:
                raise UserError(
                    f"Chain {n} has {chain.n_tokens} tokens; its events have shape {event.shape} "
                    f"and type {event.dtype}: expected a boolean for each generated token."
                )
            n_prompt, rows = len(chain.prompt_ids), np.flatnonzero(event)
            if not n_prompt:
                raise UserError(f"Chain {n} has no prompt: expected at least one token.")
            if not len(rows):
                continue
            whole = np.concatenate([chain.prompt_ids, chain.ids])
            try:
                (batch,) = batches(self.model, [whole[: n_prompt + rows[-1]]])
            except UserError as error:
                raise UserError(f"Chain {n} cannot be read. {error}") from error
            at, chosen = torch.from_numpy(np.stack([rows + n_prompt - 1, chain.ids[rows]]))
            device = batch.ids.device
            found.append(_Marked(n, batch.ids, at.to(device), chosen.to(device), n_prompt))
        if not found:
            raise UserError("No event in any chain: expected at least one True in the masks.")
        return found
