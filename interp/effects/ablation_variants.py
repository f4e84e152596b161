"""The ablations of each block, attention and MLP whose effects are measured.

| ablation | the delta becomes | question |
|---|---|---|
| skip | zero | what does removing it do? |
| mean | its mean over calibration text | what does it add that depends on the token? |
| resample | one drawn from calibration text | the same, with deltas of the usual size and spread |
| scale g | g times itself | dose-response: how much of it is needed? |

Zero is far from any input that a later block has seen, so `skip` alone mixes what a part
contributes with the harm of an unusual input. `mean` and `resample` separate the two (Chan et al.
2022, causal scrubbing; Li and Janson, arXiv 2409.09951). `Deltas.of` collects both in one
teacher-forced pass.

Shapes: L blocks, D width, n deltas in a pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.chains.chain import Chain
from interp.errors import NonFiniteError, UserError, check_known
from interp.interventions.hooks import present
from interp.interventions.interventions import (
    PARTS,
    Intervention,
    MeanDelta,
    Part,
    ResampleDelta,
    Scale,
    Skip,
    Variant,
)
from interp.interventions.windows import When
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.replay.batching import BATCH_TOKENS, Ids
from interp.replay.chunked_forward import CHUNK_TOKENS, ChunkedReader

KINDS = ("skip", "mean", "resample", "scale")
POOL = 256


@dataclass(frozen=True)
class Ablation:
    """One ablation of one part of one block.

    Attributes:
        kind: One of `KINDS`: "skip", "mean", "resample", "scale".
        block: Dense index of the block.
        part: "block", "attention" or "mlp".
        variant: The variant that applies the ablation.
        gain: Factor of the delta for "scale"; nan for the other kinds.
    """

    kind: str
    block: int
    part: Part
    variant: Variant
    gain: float = float("nan")

    @property
    def label(self) -> str:
        """The ablation without its place: "skip", "mean", "resample", "scale 0.5"."""
        return f"scale {self.gain:g}" if self.kind == "scale" else self.kind


@checked
@brief
@dataclass(frozen=True)
class Deltas:
    """What each part of each block added on calibration text: its mean, and a pool of samples.

    Attributes:
        means: Mean delta of each part, [L, D] float32.
        pools: Sampled deltas of each part, [L, n, D] float32.
        layer_map: Dense index of each block.
        n_tokens: Tokens that were averaged.
    """

    means: dict[str, Float[Tensor, "L D"]] = field(repr=False)
    pools: dict[str, Float[Tensor, "L n D"]] = field(repr=False)
    layer_map: tuple[int, ...]
    n_tokens: int

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        model: ReasoningModel,
        texts: Sequence[Chain] | Sequence[Ids],
        parts: Sequence[Part] = PARTS,
        *,
        pool: int = POOL,
        seed: int = 0,
        batch_tokens: int = BATCH_TOKENS,
        chunk_tokens: int | None = CHUNK_TOKENS,
    ) -> Deltas:
        """Collect the deltas of a model on calibration text, in one teacher-forced pass.

        Args:
            model: The model.
            texts: Chains (the passes that chose their tokens count), or plain sequences of token
                ids (all tokens count).
            parts: Parts of the blocks: of "block", "attention", "mlp".
            pool: Number of sampled deltas per part and block, n; all tokens where there are fewer.
            seed: Seed of the sampling.
            batch_tokens: Tokens per batch of the forward pass.
            chunk_tokens: Positions per chunk of the forward pass; None reads each text in one
                piece.

        Returns:
            The deltas of all blocks.

        Raises:
            UserError: There are no texts or tokens, chains and sequences are mixed, `pool` is below
                1, or a part is unknown.
            NonFiniteError: A delta is inf or nan.
        """
        _check_parts(parts)
        if not len(texts):
            raise UserError("Deltas.of: no text was given; expected at least one.")
        if pool < 1:
            raise UserError(f"Deltas.of(pool={pool}): expected 1 or more.")
        chains = [one for one in texts if isinstance(one, Chain)]
        if chains and len(chains) < len(texts):
            raise UserError("Deltas.of: got chains and plain sequences; expected only one kind.")
        if chains:
            reader = ChunkedReader.of_chains(model, chains, batch_tokens, chunk_tokens)
            first = [len(c.prompt_ids) - 1 for c in chains]
        else:
            sequences = [np.asarray(t, dtype=np.int64) for t in texts]
            reader = ChunkedReader(model, sequences, batch_tokens, chunk_tokens)
            first = [0] * len(sequences)
        sizes = [max(len(s) - a, 0) for s, a in zip(reader.sequences, first, strict=True)]
        total = sum(sizes)
        if not total:
            raise UserError("Deltas.of: the texts have no tokens; expected at least one.")
        rng = np.random.default_rng(seed)
        chosen = np.zeros(total, dtype=bool)
        chosen[rng.choice(total, min(pool, total), replace=False)] = True
        picked = np.split(chosen, np.cumsum(sizes)[:-1])
        counted = [
            np.r_[np.zeros(a, bool), np.ones(n, bool)] for a, n in zip(first, sizes, strict=True)
        ]
        sampled = [np.r_[np.zeros(a, bool), p] for a, p in zip(first, picked, strict=True)]
        taken = {part: _Taken(model) for part in parts}
        with _watched(model, taken):
            for batch in reader.batches():
                reading = reader.read(batch)
                mask, pick = batch.mask & batch.pad(counted), batch.mask & batch.pad(sampled)
                for columns in reading.pieces:
                    for one in taken.values():
                        one.mask, one.pick = mask[:, columns], pick[:, columns]
                    reading(columns)
        means = {part: one.mean(total) for part, one in taken.items()}
        pools = {part: one.pool() for part, one in taken.items()}
        if not all(t.isfinite().all() for t in (*means.values(), *pools.values())):
            raise NonFiniteError(f"A delta of {model.name} is inf or nan: check its weights.")
        return cls(means, pools, model.layer_map, total)


class _Taken:
    """Sums and samples of one part in all blocks."""

    def __init__(self, model: ReasoningModel) -> None:
        self.sums = [torch.zeros(model.d_model, dtype=torch.float64) for _ in model.blocks]
        self.samples: list[list[Tensor]] = [[] for _ in model.blocks]
        self.mask = self.pick = torch.zeros(0, 0, dtype=torch.bool)

    def add(self, index: int, delta: Float[Tensor, "B T D"]) -> None:
        delta = delta.float()  # [B, T, D]; indexed with a mask [B, T] -> [tokens, D]
        self.sums[index] += delta[self.mask.to(delta.device)].double().sum(0).cpu()
        self.samples[index].append(delta[self.pick.to(delta.device)].cpu())

    def mean(self, total: int) -> Float[Tensor, "L D"]:
        return (torch.stack(self.sums) / total).float()

    def pool(self) -> Float[Tensor, "L n D"]:
        return torch.stack([torch.cat(few) for few in self.samples])


@contextmanager
def _watched(model: ReasoningModel, taken: dict[Any, _Taken]) -> Iterator[None]:
    """While open, what each part adds goes to `taken`; the hooks are removed afterwards."""

    def hook_for(part: str, index: int) -> Any:
        def hook(_: Any, args: Any, kwargs: Any, out: Any) -> None:
            main = out[0] if isinstance(out, tuple) else out
            if part == "block":
                main = main - (args[0] if args else kwargs["hidden_states"])
            taken[part].add(index, main)

        return hook

    with holding(model), ExitStack() as hooks:
        for part in taken:
            for index in range(model.n_blocks):
                module = model.anatomy.adds(index, part)
                handle = module.register_forward_hook(hook_for(part, index), with_kwargs=True)
                hooks.callback(handle.remove)
        yield


@checked
def ablations(
    model: ReasoningModel,
    kinds: Sequence[str] = ("skip",),
    parts: Sequence[Part] = ("block",),
    *,
    gains: Sequence[float] = (0.25, 0.5, 0.75, 1.5),
    blocks: Sequence[int] | None = None,
    deltas: Deltas | None = None,
    window: When | None = None,
    seed: int = 0,
) -> list[Ablation]:
    """List one ablation per kind, part and block.

    Args:
        model: The model.
        kinds: Of `KINDS`: "skip", "mean", "resample", "scale".
        parts: Parts of the blocks: of "block", "attention", "mlp".
        gains: Factors for "scale", none of them 0 or 1.
        blocks: Dense indices; default: all blocks that the model has.
        deltas: The calibration deltas, which "mean" and "resample" need.
        window: The steps at which the ablation acts; default: all.
        seed: Seed of the draws of "resample".

    Returns:
        The ablations, by kind, part, block and gain.

    Raises:
        UserError: A kind, part or block is unknown, a gain is 0 or 1, or `deltas` is missing or
            lacks a part or block.
    """
    for kind in kinds:
        check_known(kind, KINDS, "ablation")
    _check_parts(parts)
    needs = [kind for kind in kinds if kind in ("mean", "resample")]
    if needs and deltas is None:
        raise UserError(f"ablations({needs[0]!r}): no deltas; pass deltas=Deltas.of(model, texts).")
    if "scale" in kinds and (not len(gains) or any(g in (0.0, 1.0) for g in gains)):
        raise UserError(
            f"ablations(gains={list(gains)}): expected gains other than 0 (use skip) and 1."
        )
    named = list(model.layer_map if blocks is None else blocks)
    present(model, named)
    found = []
    for kind in kinds:
        for part in parts:
            for block in named:
                for gain in gains if kind == "scale" else (float("nan"),):
                    step = _step(kind, block, part, gain, deltas, window, seed)
                    label = f"scale {gain:g}" if kind == "scale" else kind
                    name = f"{label} {part} {block}"
                    found.append(Ablation(kind, block, part, Variant(name, (step,)), gain))
    return found


def _step(
    kind: str, block: int, part: Part, gain: float, deltas: Deltas | None,
    window: When | None, seed: int,
) -> Intervention:  # fmt: skip
    if kind == "skip":
        return Skip(block, part=part, window=window)
    if kind == "scale":
        return Scale(block, gain=gain, part=part, window=window)
    assert deltas is not None
    if part not in deltas.means or block not in deltas.layer_map:
        raise UserError(
            f"ablations: the deltas hold {sorted(deltas.means)} of blocks {deltas.layer_map}, but "
            f"not the {part} of block {block}: collect them with Deltas.of(model, texts)."
        )
    index = deltas.layer_map.index(block)
    if kind == "mean":
        return MeanDelta(block, mean=deltas.means[part][index], part=part, window=window)
    pool = deltas.pools[part][index]
    return ResampleDelta(block, pool=pool, seed=seed, part=part, window=window)


def _check_parts(parts: Sequence[str]) -> None:
    if not parts:
        raise UserError("No part of the blocks was given; expected block, attention or mlp.")
    for part in parts:
        check_known(part, PARTS, "part")
