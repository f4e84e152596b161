"""The heads that copy: prefix matching at the tokens of a loop, and whether the loop needs them.

Heads are read in the model without the looping variant's blocks (`interp.heads.HeadLens` on the
pruned model). The `HEADS` that match best are then put out in chains that loop, from within the
loop on (`AblateHeads`, `interp.counterfactuals.edits`), beside as many heads drawn at random from
the others: what counts is the difference, for any loss of heads may break a loop.

Shapes: C looping chains; sets of heads are 1 + `DRAWS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.plumbing.workbench import Workbench
from interp.chains.chain import Chain
from interp.interventions.interventions import AblateHeads, Variant, VariantLike
from interp.statistics import paired_difference

if TYPE_CHECKING:
    import pandas as pd

HEADS, DRAWS = 4, 12
ROWS_OF_A_LOOP = 48


def loop_rows(bench: Workbench, chains: Sequence[Chain]) -> list[np.ndarray]:
    """Masks of the tokens that continue a loop: after its first pass, a few a chain."""
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
    """Prefix matching at loop tokens, and what ablating the best heads does to persistence.

    looping: chains of `variant` that end in a loop; nothing is found where there are none.
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
    with HeadLens(pruned) as reader:
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
    """`base` with these heads (block, head) put out while `when` is in force."""
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
    """Whether each chain, forked within its loop without each set, stays: [sets, chains]."""
    from interp.counterfactuals.edits import ALL, Edit, rerun
    from interp.counterfactuals.forks import around_loops
    from interp.interventions.windows import ChainWindows

    (_, within) = around_loops([bench.loop(chain) for chain in looping]).values()
    when = ChainWindows.of(looping, within)
    edits = [Edit(f"set {i}", ALL, without_heads(base, s, when), when) for i, s in enumerate(sets)]
    stays = np.ones((len(sets), len(looping)))
    for e, c, chain in rerun(bench.model, looping, edits, sampling=bench.sampling):
        stays[e, c] = float(bench.loop(chain) is not None)
    return stays


def ablations(stays: np.ndarray, best: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """Rows of the best heads, of each draw, and of the difference between them.

    p of the best: the share of draws that end as many loops or more, one draw added to both.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    ones = np.ones_like(stays[0])
    named = "induction heads " + " ".join(f"{b}.{h}" for b, h in best)
    for i, after in enumerate(stays):
        got = paired_difference(ones, after)
        name = named if i == 0 else f"random heads {i}"
        rows.append({"name": name, "value": got.value, "low": got.low, "high": got.high})
    change = stays.mean(1) - 1
    rows[0]["p"] = float((1 + (change[1:] <= change[0]).sum()) / len(change))
    gap = paired_difference(stays[1:].mean(0), stays[0])
    rows.append({"name": "induction less random", "value": gap.value, "low": gap.low,
                 "high": gap.high, "p": gap.p})  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame.assign(
        part="ablation", block=np.nan, n=float(stays.shape[1]), head=np.nan, p_holm=np.nan,
        chance=np.nan, baseline=np.nan,
    )  # fmt: skip


def tidy(part: str, names: Any, rows: pd.DataFrame, values: Any, n: Any) -> pd.DataFrame:
    """Rows in the columns that all parts of the analysis share."""
    import pandas as pd

    columns: dict[str, Any] = {"part": part, "name": np.asarray(names, dtype=object)}
    columns["block"] = rows["block"].to_numpy(dtype=float)
    columns["value"] = np.asarray(values, dtype=float)
    columns |= {end: rows[end].to_numpy(dtype=float) for end in ("low", "high")}
    columns["n"] = np.asarray(n, dtype=float)
    for name in ("head", "p", "p_holm", "chance", "baseline"):
        columns[name] = rows[name].to_numpy(dtype=float) if name in rows else np.nan
    return pd.DataFrame(columns)
