"""Whether two studies ended with the same rows, and a study that is disturbed on purpose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from scaling.store.chain_row import Key
from scaling.store.study_store import Store

ROOT = Path(__file__).parents[3]
CHAIN = ["benchmark", "problem", "variant", "sample"]
NOISE = {"mean_logprob": 1e-5, "mean_entropy": 1e-5}  # nats, as docs/store.md says
SMALL = ("cells", "variants", "scores", "problems")


def same_rows(one: Path, other: Path, ties: int = 1) -> None:
    """Raises unless the rows are equal in the sense of law 2; at most `ties` chains may differ.

    Ties of float noise may turn a token in 10^5 (law 2): in a small study at most one chain.
    """
    with Store(one, read_only=True) as store:
        calm, small = store.rows(ids=True), {t: store.frame(t) for t in SMALL}
    with Store(other, read_only=True) as store:
        torn = store.rows(ids=True)
        for name, frame in small.items():
            assert frame.equals(store.frame(name)), name
    keys = list(Key._fields)
    assert len(calm)
    assert not torn.duplicated(keys).any()
    assert calm[keys].equals(torn[keys])  # none lost, none more
    same = np.array(
        [a.tolist() == b.tolist() for a, b in zip(calm["ids"], torn["ids"], strict=True)]
    )
    assert calm.loc[~same, CHAIN].drop_duplicates().shape[0] <= ties
    for name in set(calm.columns) - {"ids", "forced"}:
        left, right = calm.loc[same, name], torn.loc[same, name]
        if name in NOISE:
            np.testing.assert_allclose(left, right, rtol=0, atol=NOISE[name], err_msg=name)
        elif left.dtype.kind == "f":
            np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4, err_msg=name)
        elif name != "choice_logprobs":
            assert left.fillna("").tolist() == right.fillna("").tolist(), name


def disturb(folder: Path, how: str, times: int, seed: int) -> dict[str, Any]:
    """Studies in `folder`/undisturbed and `folder`/disturbed (see study/study_process.py)."""
    words = [str(folder), how, str(times), str(seed)]
    run = subprocess.run(
        [sys.executable, "-m", "tests.scaling.study.study_process", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)
