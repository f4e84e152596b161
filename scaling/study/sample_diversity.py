"""Diversity between the samples of one problem, and an alarm for duplicate samples.

Both derive from the chains in the store and can be computed again at any time. They are written
once all samples of a problem exist.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from scaling.store.chain_row import plain, unpack
from scaling.store.study_store import Store
from scaling.study.config import StudyConfig
from scaling.study.study_progress import Progress

LONG_ENOUGH = 32  # tokens; two shorter chains may be equal by chance
GROUP = ["benchmark", "problem", "variant", "budget"]


def measure_diversity(store: Store) -> None:
    """Write the rows of `diversity` for every problem, variant and budget with several samples.

    Measures such as the Vendi score grow with the number of samples, so variants compare only at
    equal numbers. Every group is measured at each number of samples that occurs in its benchmark
    and budget, up to its own: on all of its samples, and on its first few where others have no
    more.

    Args:
        store: the open store.
    """
    groups = store.several_samples()
    sizes: dict[tuple[str, str], set[int]] = {}
    for benchmark, _, _, budget, count in groups:
        sizes.setdefault((benchmark, budget), set()).add(count)
    known = set(store.frame("diversity")[[*GROUP, "samples"]].itertuples(index=False, name=None))
    rows: list[dict[str, Any]] = []
    for benchmark, problem, variant, budget, count in groups:
        key = (benchmark, problem, variant, budget)
        fits = sorted(n for n in sizes[benchmark, budget] if n <= count and (*key, n) not in known)
        if not fits:
            continue
        found = store.samples_of(*key)
        ids = [unpack(blob, np.int32) for blob in found["ids"]]
        for n in fits:
            measures = plain(_diversity(found.iloc[:n], ids[:n]))
            rows.append(
                {
                    **dict(zip(GROUP, key, strict=True)),
                    "samples": n,
                    "measures": json.dumps(measures, sort_keys=True),
                }
            )
        if len(rows) >= 100:
            store.put("diversity", rows)
            rows = []
    store.put("diversity", rows)


def _diversity(samples: pd.DataFrame, ids: list[np.ndarray]) -> dict[str, Any]:
    from interp.diagnosis import diversity

    pairs = zip(samples["extracted"], samples["outcome"], strict=True)
    answers = [None if outcome == "no answer" else text for text, outcome in pairs]
    correct = [outcome == "correct" for outcome in samples["outcome"]]
    return asdict(diversity([row.tolist() for row in ids], answers, correct))


def duplicate_samples(rows: pd.DataFrame) -> pd.DataFrame:
    """Count the samples that repeat an earlier one token by token.

    Only chains of at least 32 tokens count. At temperature > 0 the share should be near zero. A
    high share means that samples share their noise, or that the model knows only one answer (see
    mean_entropy).

    Args:
        rows: rows of `Store.rows()`.

    Returns:
        One row per benchmark, variant and budget: samples, duplicates and their share.
    """
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    long = rows[(rows["tokens"] >= LONG_ENOUGH) & (rows["scoring"] == "generate")]
    seen: dict[tuple[str, ...], list[str]] = {}
    for *key, ids_hash in zip(*(long[c] for c in (*GROUP, "ids_hash")), strict=True):
        seen.setdefault(tuple(key), []).append(ids_hash)
    for (benchmark, _, variant, budget), hashes in seen.items():
        if len(hashes) > 1:
            count = counts.setdefault((benchmark, variant, budget), Counter())
            count["samples"] += len(hashes)
            count["duplicates"] += len(hashes) - len(set(hashes))
    return pd.DataFrame(
        [
            {
                "benchmark": key[0],
                "variant": key[1],
                "budget": key[2],
                "samples": count["samples"],
                "duplicates": count["duplicates"],
                "share": count["duplicates"] / count["samples"],
            }
            for key, count in counts.items()
        ],
        columns=["benchmark", "variant", "budget", "samples", "duplicates", "share"],
    )


def note_duplicates(store: Store, config: StudyConfig, progress: Progress) -> None:
    """Send a note if samples are equal where they should not be.

    Args:
        store: the open store.
        config: the study; at temperature 0 equal samples are expected.
        progress: receives the note.
    """
    if config.temperature == 0:
        return
    table = duplicate_samples(store.rows("parallel"))
    for row in table.to_dict("records"):
        if row["share"] <= 0.1:
            continue
        progress.note(
            f"{row['benchmark']}, {row['variant']}: {row['duplicates']} of {row['samples']} "
            f"samples repeat another one token by token; pass@k counts them as if independent"
        )
