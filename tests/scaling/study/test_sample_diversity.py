"""Diversity in the store: measured at every number of samples that others have."""

from __future__ import annotations

import json
from pathlib import Path

from interp.chains.chain import Budget
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.diagnosis import diversity
from interp.interventions.interventions import Skip, Variant, dense
from scaling.store.study_store import Store
from scaling.study.sample_diversity import measure_diversity
from tests.models import tiny

COLUMNS = ("benchmark", "problem", "variant", "budget", "sample")


def test_variants_with_fewer_samples_meet_their_equal(tmp_path: Path) -> None:
    """Dense has four samples, the skipped block two: dense is measured on two as well."""
    model = tiny("qwen3", ends=False)
    prompt = tuple(model.prompt_ids("use 3 7 to make 21"))
    skipped = Variant("skip 1", (Skip(1),))
    requests = [Request("p", prompt, v, s, budgets=(Budget(12, 4),))
                for v, n in ((dense, 4), (skipped, 2)) for s in range(n)]  # fmt: skip
    chains = sorted(decode(model, requests), key=lambda c: (c.variant, c.sample))
    with Store(tmp_path) as store:
        _insert(store, chains)
        measure_diversity(store)
        first = store.frame("diversity")
        measure_diversity(store)  # again: nothing is added
        found = store.frame("diversity")
    assert len(first) == len(found)
    sizes = {v: sorted(g["samples"]) for v, g in found.groupby("variant")}
    assert sizes == {"dense": [2, 4], "skip 1": [2]}
    ids = [c.ids.tolist() for c in chains if c.variant == "dense"]
    for n in (2, 4):
        row = found[(found["variant"] == "dense") & (found["samples"] == n)].iloc[0]
        want = diversity(ids[:n], [None] * n, [False] * n)
        assert json.loads(row["measures"])["vendi"] == want.vendi


def _insert(store: Store, chains: list) -> None:
    from scaling.store.chain_row import pack

    info = store._db.execute("PRAGMA table_info(chains)").fetchall()
    rows = []
    for chain in chains:
        values = {name: "" if kind == "TEXT" else 0 for _, name, kind, needed, *_ in info if needed}
        key = ("b", chain.problem, chain.variant, "12", chain.sample)
        values |= dict(zip(COLUMNS, key, strict=True))
        values |= {"outcome": "no answer", "ids": pack(chain.ids.astype("<i4"))}
        values |= {"diagnosis": "{}", "forced": pack(chain.forced)}
        rows.append(values)
    store.put("chains", rows, replace=False)
