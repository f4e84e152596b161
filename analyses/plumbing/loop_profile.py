"""What happens around the first repeated token of a loop: restating, attention, similarity.

Restating is dated by the line from which every later line restates an earlier one
(`interp.diagnosis.restatement`). Attention to one period back and the cosine with the stream there
are averaged over passes of the loop's period, counted from the first repeated token.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from analyses.plumbing.workbench import Workbench
from interp.chains.chain import Chain
from interp.diagnosis.chain_lines import line_ends
from interp.diagnosis.loops import Loop
from interp.diagnosis.recurrence import lagged_similarity
from interp.diagnosis.restatement import restatement, stream_embedder
from interp.interventions.interventions import VariantLike
from interp.statistics import mean_interval, paired_difference

READ = 24  # looping chains whose attention is read
PASSES = (-2, -1, 0, 1, 2)  # passes of the period around the first repeated token
ATTENTION_BYTES = 2**29


def row_of(
    part: str, name: str, cells: dict[str, Any], n: int, *, x: float = np.nan, p: float = np.nan,
    place: str = "",
) -> dict[str, Any]:  # fmt: skip
    """A row of the table: its keys, the cells of a value with its interval, and n."""
    return {"part": part, "place": place, "name": name, "x": x, "p": p, "n": n, **cells}


def repeat_of(chain: Chain, loop: Loop) -> int:
    """The first token of a chain that repeats one a pass before."""
    return chain.thinking.start + loop.onset + round(loop.wasted / loop.repeats)


def streams_of(
    bench: Workbench, chains: Sequence[Chain], variant: VariantLike, loops: Sequence[Loop | None]
) -> list[np.ndarray]:
    """The stream at two thirds of the depth at each thinking token, less its ordinary mean.

    Args:
        bench: the study's model.
        chains: the chains.
        variant: the variant that wrote them.
        loops: the loop of each; the mean is that of chains without one.

    Returns:
        One array [S, D] per chain.
    """
    from interp.probes import gather

    model = bench.model
    block = model.layer_map[2 * model.n_blocks // 3]
    rows = [np.arange(c.thinking.stop) for c in chains]
    whole = gather(model, chains, rows, blocks=[block], variant=variant)[:, 0]
    few = np.split(whole, np.cumsum([len(r) for r in rows])[:-1])
    calm = [s for s, loop in zip(few, loops, strict=True) if loop is None] or few
    mean = np.concatenate(calm).mean(0)
    return [s - mean for s in few]


# --------------------------------------------------------------------------- restatement


def restated_rows(
    bench: Workbench,
    chains: Sequence[Chain],
    loops: Sequence[Loop | None],
    variant: VariantLike,
    rate: float,
) -> list[dict[str, Any]]:
    """Tokens from the first repeated token to where the restating begins that lasts to the end.

    A line restates where its similarity to an earlier one is above the 1 - `rate` quantile of the
    lines of chains that do not loop, so that lines which are alike by design do not count.

    Args:
        bench: the study's model.
        chains: the chains.
        loops: the loop of each chain.
        variant: the variant that reads the lines.
        rate: share of ordinary lines that may count as restating.

    Returns:
        Rows by level (below 0: before the first repeated token), and of their difference.
    """
    lags: dict[str, list[float]] = {}
    embed = stream_embedder(bench.model, variant=variant)
    ends = [line_ends(c, bench.pieces, lexicon=bench.lexicon) for c in chains]
    looping = [i for i, loop in enumerate(loops) if loop is not None]
    for level, how in (("words", None), ("meaning", embed)):
        found = [lines_alike(bench, c, e, how) for c, e in zip(chains, ends, strict=True)]
        calm = [alike for (alike, _), loop in zip(found, loops, strict=True) if loop is None]
        ordinary = np.concatenate([np.zeros(0), *calm])
        ordinary = ordinary[np.isfinite(ordinary)]
        if not len(ordinary) or not looping:
            return []
        limit = min(float(np.quantile(ordinary, 1 - rate)), 1.0 - 1e-6)
        lags[level] = []
        for i in looping:
            loop = loops[i]
            assert loop is not None
            alike, lines = found[i]
            begins = run_start(alike > limit, np.isfinite(alike))
            at = np.nan if begins is None else float(ends[i][lines[begins]])
            lags[level].append(at - repeat_of(chains[i], loop))
    table = {level: np.array(values) for level, values in lags.items()}
    rows = []
    for level, values in table.items():
        known = values[np.isfinite(values)]
        if len(known):
            got = mean_interval(known)
            rows.append(row_of("restated", level, got.cells(), got.n_problems))
    both = np.isfinite(table["words"]) & np.isfinite(table["meaning"])
    if both.any():
        gap = paired_difference(table["words"][both], table["meaning"][both])
        rows.append(row_of("restated", "meaning less words", gap.cells(), gap.n_problems, p=gap.p))
    return rows


def lines_alike(
    bench: Workbench, chain: Chain, ends: np.ndarray, embed: Any
) -> tuple[np.ndarray, np.ndarray]:
    """How similar the lines of a chain are to earlier ones.

    Args:
        bench: decodes tokens.
        chain: the chain.
        ends: the result of `line_ends`.
        embed: see `restatement`; None compares words.

    Returns:
        For each sentence its similarity (nan where it cannot be told), and its line.
    """
    texts = [
        " ".join(bench.pieces.text(chain.ids[a:b].tolist()).split()).rstrip(" .!?") or "-"
        for a, b in pairwise(ends.tolist())
    ]
    found = restatement("\n".join(texts), embed)
    first = np.cumsum([0, *(len(t) + 1 for t in texts[:-1])])
    return found.similarity, np.searchsorted(first, found.starts, side="right") - 1


def run_start(alike: np.ndarray, known: np.ndarray) -> int | None:
    """The first line of the run of restating lines that lasts to the end; None without one.

    Args:
        alike: whether each line restates, [N].
        known: whether it is long enough to tell; others neither count nor interrupt, [N].

    Returns:
        Index of the line.
    """
    start = None
    for i in range(len(alike) - 1, -1, -1):
        if not known[i]:
            continue
        if not alike[i]:
            # the last line may be cut in its middle
            if start is None and i == len(alike) - 1:
                continue
            break
        start = i
    return start


# --------------------------------------------------------------------- around the repeat


def around_rows(
    bench: Workbench,
    chains: Sequence[Chain],
    loops: Sequence[Loop | None],
    variant: VariantLike,
    streams: Sequence[np.ndarray],
) -> list[dict[str, Any]]:
    """Attention to one period back and similarity with it, by passes from the first repeat.

    Args:
        bench: the study's model.
        chains: the chains.
        loops: the loop of each chain; exact ones are read.
        variant: the variant that reads.
        streams: the result of `streams_of`.

    Returns:
        Rows by pass, and of the V.
    """
    exact = [i for i, loop in enumerate(loops) if loop is not None and loop.kind == "exact"][:READ]
    tables: dict[str, list[np.ndarray]] = {"attention": [], "similarity": []}
    for i in exact:
        loop, chain = loops[i], chains[i]
        assert loop is not None
        at = repeat_of(chain, loop)
        stop = min(chain.thinking.stop, at + (PASSES[-1] + 1) * loop.period)
        back = attention_back(bench, chain, variant, loop.period, stop)
        near = lagged_similarity(streams[i][:stop], loop.period)
        tables["attention"].append(by_pass(back, at, loop.period))
        tables["similarity"].append(by_pass(near, at, loop.period))
    rows = []
    for part, few in tables.items():
        values = np.array(few).reshape(-1, len(PASSES))
        for x, column in zip(PASSES, values.T, strict=True):
            column = column[np.isfinite(column)]
            if len(column):
                got = mean_interval(column, bounds=(0.0 if part == "attention" else -1.0, 1.0))
                rows.append(row_of(part, part, got.cells(), got.n_problems, x=float(x)))
    zero = PASSES.index(0)
    values = np.array(tables["attention"]).reshape(-1, len(PASSES))
    beside = values[:, [zero - 1, zero + 1]].mean(1)
    whole = np.isfinite(beside) & np.isfinite(values[:, zero])
    if whole.any():
        gap = paired_difference(values[whole, zero], beside[whole])
        rows.append(row_of("attention", "V", gap.cells(), gap.n_problems, p=gap.p))
    return rows


def attention_back(
    bench: Workbench, chain: Chain, variant: VariantLike, period: int, stop: int
) -> np.ndarray:
    """Attention of the pass that chose each token to one period back, a token to either side.

    Args:
        bench: the study's model.
        chain: the chain.
        variant: the variant that reads.
        period: tokens per pass of the loop.
        stop: tokens of the chain that are read.

    Returns:
        Mean over heads and blocks, [stop]; nan where one period back lies before the prompt.
    """
    model = bench.model
    ids = [*chain.prompt_ids.tolist(), *chain.ids[:stop].tolist()]
    skipped = {step.block for step in variant.interventions()}
    blocks = [b for b in model.layer_map if b not in skipped]
    size = 4 * model.anatomy.n_heads * len(ids) ** 2
    most = min(max(1, ATTENTION_BYTES // size), len(blocks))  # of long chains, some blocks
    chosen = np.linspace(0, len(blocks) - 1, most).round().astype(int)
    names = [f"blocks.{blocks[i]}.attn.hook_pattern" for i in chosen]
    kept = model.run_with_cache(ids, variant=variant, names=names)
    weights = torch.stack([kept[name][0].float().mean(0) for name in names]).mean(0)  # [T, T]
    found = np.full(stop, np.nan)
    first = len(chain.prompt_ids) - 1
    for s in range(stop):
        key = first + s - period
        if key >= 1:
            found[s] = float(weights[first + s, key - 1 : key + 2].sum())
    return found


def by_pass(values: np.ndarray, repeat: int, period: int) -> np.ndarray:
    """Mean of a series in each of `PASSES` from the first repeated token; nan where it is not."""
    found = []
    for x in PASSES:
        a, b = repeat + x * period, repeat + (x + 1) * period
        part = values[max(a, 0) : max(b, 0)] if a >= 0 else values[:0]
        part = part[np.isfinite(part)]
        found.append(part.mean() if len(part) else np.nan)
    return np.array(found)
