"""The heads that copy: prefix matching at the tokens of a loop, and whether the loop needs them.

Heads are read in the model without the looping variant's blocks (`interp.heads.HeadLens` on the
pruned model). The `HEADS` best heads are then ablated in chains that loop, from within the loop on
(`AblateHeads`, `interp.counterfactuals.edits`), and so are equally many heads drawn at random from
the others. The difference counts, because losing any heads may break a loop.

Shapes: C looping chains; 1 + `DRAWS` sets of heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from analyses.plumbing.workbench import Workbench
from interp.chains.chain import Chain
from interp.interventions.interventions import AblateHeads, Variant, VariantLike
from interp.statistics import paired_difference

HEADS, DRAWS = 4, 12  # heads ablated together, random sets of as many
ROWS_OF_A_LOOP = 48  # most tokens per loop


def loop_rows(bench: Workbench, chains: Sequence[Chain]) -> list[np.ndarray]:
    """Masks of the tokens that continue a loop: after its first pass, a few per chain.

    Args:
        bench: finds the loops.
        chains: the chains.

    Returns:
        One mask per chain: [tokens], bool.
    """
    masks = []
    for chain in chains:
        mask = np.zeros(chain.n_tokens, dtype=bool)
        loop = bench.loop(chain)
        if loop is not None:
            start = chain.thinking.start + loop.onset + round(loop.wasted / loop.repeats)
            mask[start : min(start + ROWS_OF_A_LOOP, chain.thinking.stop)] = True
        masks.append(mask & ~chain.forced)
    return masks


def copying(
    bench: Workbench, variant: VariantLike | None, looping: Sequence[Chain]
) -> list[pd.DataFrame]:
    """Prefix matching at loop tokens, and the effect of ablating the best heads on persistence.

    Args:
        bench: the study's model and problems.
        variant: the looping variant; None where none loops.
        looping: chains of `variant` that end in a loop.

    Returns:
        Frames in the columns of `tidy`; none where nothing loops.
    """
    from interp.heads import HeadLens
    from pruning.plan import LayerPlan
    from pruning.surgery import prune

    if variant is None or not len(looping):
        return []
    gone = sorted({step.block for step in variant.interventions()})
    pruned = prune(bench.model, LayerPlan.without(bench.model, *gone, name="looping"), share=True)
    loops = [bench.loop(chain) for chain in looping]
    periods = [x.period if x is not None and x.kind == "exact" else None for x in loops]
    # a copy in half precision rounds more than the model, and chooses other tokens here and there
    with HeadLens(pruned, dtype=torch.promote_types(pruned.dtype, torch.float32)) as reader:
        scores = reader.scores(looping, loop_rows(bench, looping), periods=periods)
        n_heads = reader.n_heads
    frame = scores.to_frame()
    frame = frame[frame["score"].isin(["induction", "period"])]
    best = [
        (int(scores.blocks[i]), int(h))
        for i, h in zip(
            *np.unravel_index(np.argsort(-scores.mean("induction"), axis=None)[:HEADS],
                              scores.mean("induction").shape), strict=True)
    ]  # fmt: skip
    others = [(b, h) for b in pruned.layer_map for h in range(n_heads) if (b, h) not in best]
    rng = np.random.default_rng(0)
    draws = [
        [others[i] for i in rng.choice(len(others), HEADS, replace=False)] for _ in range(DRAWS)
    ]
    stays = persistence(bench, looping, variant, [best, *draws])
    return [
        tidy("head", frame["score"], frame, frame["value"], frame["n"]),
        ablations(stays, best),
    ]


def without_heads(base: VariantLike, chosen: Sequence[tuple[int, int]], when: Any) -> Variant:
    """Add the ablation of some heads to a variant.

    Args:
        base: the variant.
        chosen: pairs (block, head).
        when: the window in which the heads are ablated.

    Returns:
        The new variant.
    """
    blocks = sorted({block for block, _ in chosen})
    steps = [
        AblateHeads(b, heads=tuple(sorted(h for block, h in chosen if block == b)), window=when)
        for b in blocks
    ]
    return Variant(f"{base.name} / {len(chosen)} heads", (*base.interventions(), *steps))


def persistence(
    bench: Workbench,
    looping: Sequence[Chain],
    base: VariantLike,
    sets: Sequence[Sequence[tuple[int, int]]],
) -> np.ndarray:
    """Whether each chain stays in its loop when forked there without each set of heads.

    Args:
        bench: the study's model and problems.
        looping: chains that loop.
        base: the looping variant.
        sets: sets of pairs (block, head).

    Returns:
        1 where the chain still ends in a loop, else 0: [sets, chains].
    """
    from interp.counterfactuals.forks import around_loops, outcomes_within
    from interp.interventions.windows import ChainWindows

    (_, within) = around_loops([bench.loop(chain) for chain in looping]).values()
    when = ChainWindows.of(looping, within)
    variants = [without_heads(base, chosen, when) for chosen in sets]
    return outcomes_within(
        bench.model, looping, variants, when, lambda chain: bench.loop(chain) is not None,
        sampling=bench.sampling,
    )  # fmt: skip


def ablations(stays: np.ndarray, best: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """Rows of the best heads, of each random draw, and of the difference between them.

    Args:
        stays: the result of `persistence`, the best heads first: [sets, chains].
        best: the best heads, as pairs (block, head).

    Returns:
        The rows. p of the best heads: the share of draws that end at least as many loops, with one
        draw added to both counts.
    """
    rows: list[dict[str, Any]] = []
    ones = np.ones_like(stays[0])
    named = "induction heads " + " ".join(f"{b}.{h}" for b, h in best)
    for i, after in enumerate(stays):
        got = paired_difference(ones, after)
        name = named if i == 0 else f"random heads {i}"
        rows.append({"name": name, **got.cells()})
    change = stays.mean(1) - 1
    rows[0]["p"] = float((1 + (change[1:] <= change[0]).sum()) / len(change))
    gap = paired_difference(stays[1:].mean(0), stays[0])
    rows.append({"name": "induction less random", **gap.cells(), "p": gap.p})
    frame = pd.DataFrame(rows)
    return frame.assign(
        part="ablation", block=np.nan, n=float(stays.shape[1]), head=np.nan, p_holm=np.nan,
        chance=np.nan, baseline=np.nan,
    )  # fmt: skip


def tidy(part: str, names: Any, rows: pd.DataFrame, values: Any, n: Any) -> pd.DataFrame:
    """Rows in the columns that all parts of the analysis share.

    Args:
        part: name of the part.
        names: name of each row.
        rows: frame with block, low, high and optional further columns.
        values: value of each row.
        n: number of observations of each row.

    Returns:
        The frame.
    """
    columns: dict[str, Any] = {"part": part, "name": np.asarray(names, dtype=object)}
    columns["block"] = rows["block"].to_numpy(dtype=float)
    columns["value"] = np.asarray(values, dtype=float)
    columns |= {end: rows[end].to_numpy(dtype=float) for end in ("low", "high")}
    columns["n"] = np.asarray(n, dtype=float)
    for name in ("head", "p", "p_holm", "chance", "baseline"):
        columns[name] = rows[name].to_numpy(dtype=float) if name in rows else np.nan
    return pd.DataFrame(columns)
