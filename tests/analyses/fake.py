"""A study made of made-up rows, written through the real store: for tests of the analyses only.

Ground truth by construction: `recall` loses nothing without any block but 0; accuracy on
`countdown-4` falls without blocks 2 and 5; blocks 1 and 4 are free everywhere; skipping block 5
makes chains search branches twice; reflections do not depend on the block. All variants of a
problem share their noise. One chain's text holds markup.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from interp.chains.chain import Budget, Span
from scaling.grading import Verdict
from scaling.problem import Problem
from scaling.store.chain_row import ChainRow, chain_row, likelihood_row
from scaling.store.study_store import Store
from tests.chains import make_chain

BLOCKS = 6
WORDS = [
    "try",
    "3",
    "+",
    "7",
    "=",
    "10",
    "left",
    "2",
    ".",
    "no",
    "yes",
    "<script>alert(1)</script>",
    "9",
]
BUDGETS = {"arithmetic": (16, 64), "countdown-4": (64, 128, 256, 512)}
PROBLEMS = {"recall": 60, "arithmetic": 40, "countdown-4": 40}
LOSS = {
    "recall": {0: 0.5},
    "arithmetic": {0: 0.9, 2: 0.4},
    "countdown-4": {0: 0.9, 2: 0.5, 5: 0.6},
}
BASE = {"recall": 0.95, "arithmetic": 0.95, "countdown-4": 0.75}
INFLUENCE = (0.7, 0.03, 0.02, 0.06, 0.04, 0.2)
VARIANTS: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "dense": ("dense", "dense", ()),
    "shortgpt-1": ("plan", "shortgpt", (2,)),
    "shortgpt-2": ("plan", "shortgpt", (1, 2)),
    "reverse-order-1": ("plan", "reverse-order", (5,)),
    "reverse-order-2": ("plan", "reverse-order", (4, 5)),
    "random-1": ("plan", "random", (1,)),
    "random-2": ("plan", "random", (1, 4)),
    **{f"skip {l}": ("block", "single", (l,)) for l in range(BLOCKS)},
}


def text(ids: Sequence[int]) -> str:
    """The fake tokenizer."""
    return " ".join(WORDS[int(i)] for i in ids)


def chance(benchmark: str, removed: tuple[int, ...], budget: int) -> float:
    """The chance of a right answer."""
    kept = BASE[benchmark]
    for block in removed:
        kept *= 1 - LOSS[benchmark].get(block, 0.0)
    if benchmark in BUDGETS:
        most = BUDGETS[benchmark][-1]
        kept *= 0.3 + 0.7 * np.log2(budget / 8) / np.log2(most / 8)
    return float(kept)


def write_study(folder: Path, seed: int = 0) -> Path:
    """The study, in `folder`."""
    rng = np.random.default_rng(seed)
    with Store(folder) as store:
        workloads = {b: {"problems": n, "budgets": BUDGETS.get(b, [])} for b, n in PROBLEMS.items()}
        config = {"model": "made-up", "methods": ["shortgpt", "reverse-order", "random"]}
        store.claim({**config, "workloads": workloads, "seed": 0}, {"model fingerprint": "f00d"})
        store.put("variants", [
            {"variant": name, "kind": kind, "method": method, "n_removed": len(removed),
             "removed": json.dumps(removed), "plan": ""}
            for name, (kind, method, removed) in VARIANTS.items()
        ])  # fmt: skip
        store.put("scores", [
            {"criterion": "shortgpt", "block": l, "score": s, "low": 0.9 * s, "high": 1.1 * s,
             "n_tokens": 1000, "calibration": "c"}
            for l, s in enumerate(INFLUENCE)
        ])  # fmt: skip
        chains, cells, diversity = [], [], []
        for benchmark, n in PROBLEMS.items():
            store.put("problems", [
                {"benchmark": benchmark, "problem": f"{benchmark}/{i}", "position": i,
                 "question": f"what <b>is</b> {i}", "answer": "9", "choices": "[]",
                 "metadata": "{}"}
                for i in range(n)
            ])  # fmt: skip
            noise = rng.random((n, 8))
            more = rng.random((n, 8, 6))
            for name, (kind, method, removed) in VARIANTS.items():
                more[:, :, 4:] = rng.random((n, 8, 2))  # reflection: each variant its own noise
                for budget in BUDGETS.get(benchmark, (0,)) if kind != "block" else (
                    BUDGETS.get(benchmark, (0,))[-1],
                ):  # fmt: skip
                    label = str(budget) if budget else "likelihood"
                    top = budget == BUDGETS.get(benchmark, (0,))[-1]
                    several = 8 if benchmark == "countdown-4" and top and method in (
                        "dense", "shortgpt") else 1  # fmt: skip
                    size = {"n_problems": n, "samples": 1}
                    head = {"benchmark": benchmark, "variant": name, "budget": label, **size}
                    if kind != "block":
                        cells.append({"purpose": "sequential", **head} if budget else {})
                        cells.append({"purpose": "accuracy", **head} if top else {})
                        if several > 1:
                            cells.append({"purpose": "parallel", **head, "samples": 8})
                    if kind != "plan" and top:
                        cells.append({"purpose": "blocks", **head})
                    for i in range(n):
                        for s in range(several):
                            right = noise[i, s] < chance(benchmark, removed, budget or 1)
                            chains.append(planted_row(benchmark, i, name, budget, s, bool(right),
                                               removed, more[i, s]))  # fmt: skip
                        if several > 1:
                            measures = {"self_bleu": 0.3 + 0.2 * more[i, 0, 0], "vendi": 5.0,
                                        "answer_entropy": 1.0 + more[i, 0, 1]}  # fmt: skip
                            diversity.append({"benchmark": benchmark, "problem": f"{benchmark}/{i}",
                                              "variant": name, "budget": label, "samples": 8,
                                              "measures": json.dumps(measures)})  # fmt: skip
        store.put("cells", [cell for cell in cells if cell])
        store.put("diversity", diversity)
        store.add_chains(chains)
        store.put("sessions", [{"started": "2026-01-02T03:04:05+00:00", "seconds": 130.0,
                                "decode_seconds": 100.0, "tokens": 1, "chains": 1}])  # fmt: skip
    return folder


def planted_row(
    benchmark: str, i: int, variant: str, budget: int, sample: int, right: bool,
    removed: tuple[int, ...], u: np.ndarray, position: int | None = None,
) -> ChainRow:  # fmt: skip
    place = i if position is None else position
    choices = () if budget else ("9", "8")
    problem = Problem(f"{benchmark}/{i}", f"what <b>is</b> {i}", "9", choices)
    looped = bool(u[1] < (0.3 if 2 in removed else 0.02)) and not right
    answer = None if looped else "9" if right else f"{i + 10 + int(3 * u[3])}"
    outcome = "correct" if right else "no answer" if looped else "wrong"
    verdict = Verdict(outcome, answer, outcome, outcome)
    if not budget:
        logprobs = np.array([-0.1, -2.0] if right else [-2.0, -0.1])
        return likelihood_row(benchmark, problem, place, variant, 5, logprobs, verdict)
    twice = bool(u[0] < (0.7 if 5 in removed else 0.15))
    thinking = min(budget, int(18 + 0.5 * budget * (0.2 + 0.8 * u[2])))
    ids = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 8] + [1, 2, 3, 4, 12, 9, 8] * (thinking // 4))
    ids = np.r_[ids[:thinking], 12 if right else 9]
    chain = make_chain(
        ids, [0] * 5, problem=problem.id, variant=variant, sample=sample, budget=Budget(budget, 8),
        thinking=Span(0, thinking), answer=Span(thinking, thinking + 1),
        finish="looped" if looped else "stop", thinking_finish="looped" if looped else "end",
        logprob=np.full(len(ids), -0.1), entropy=np.full(len(ids), 0.2),
    )  # fmt: skip
    diagnosis = {
        "looped": int(looped), "loop": "exact" if looped else None,
        "loop_period": 12 if looped else None, "loop_onset": 5 if looped else None,
        "loop_wasted": 36 if looped else 0, "repetition": 0.1 + 0.1 * float(u[3]),
        "reflection_per_1k": 40 * float(u[4]), "verification_per_1k": 25 * float(u[4]),
        "backtracking_per_1k": 15 * float(u[5]),
        "step_kind": "" if right else "no conclusion" if looped else "arithmetic slip",
        "step_first_wrong": None if right else 14, "step_repeated_branches": int(twice),
        "step_arithmetic_slip": 0 if right else 2,
        "step_noticed": 0 if right else 1,
    }  # fmt: skip
    return chain_row(benchmark, problem, place, chain, verdict, diagnosis)
