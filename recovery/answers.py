"""The dense model answers the training problems; the pruned one will learn from the answers.

Self-generated data keeps the pruned model near what it was, where another author's text pulls it
away (arXiv 2410.09982; 2602.01997 for reasoning). Answers go to OUT/answers, a line each, as they
are finished: a run that was killed asks only what is missing. Under several processes each asks
its share, into a file of its own.

An answer that was cut by a budget, or ended as a loop, is not kept: it would teach that end.
`verified` keeps right answers only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from interp.chains.chain import Budget, Chain
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from recovery.examples import Example, TrainingSet
from recovery.tokens import prompt_of

AT_A_TIME = 128  # answers between two writes


def ask(
    teacher: ReasoningModel,
    train: TrainingSet,
    folder: Path,
    *,
    budget: Budget,
    sampling: Sampling,
    samples: int = 1,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
    enough: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Have `teacher` answer every question of `train`, into `folder`; what is there is not asked.

    share: (number of this process, processes). enough: stop asking once that many tokens of kept
    answers are there (of this process's share). progress(done, total) counts answers.
    """
    number, of = share
    folder.mkdir(parents=True, exist_ok=True)
    _mend(folder / f"{number}.jsonl")
    known = {(row["id"], row["sample"]): row for row in rows_of(folder)}
    wanted = [(e, s) for s in range(samples) for e in train.examples[number::of]]
    left = [(e, s) for e, s in wanted if (e.id, s) not in known]
    done = len(wanted) - len(left)
    tokens = sum(len(known[e.id, s]["ids"]) for e, s in wanted if (e.id, s) in known)
    for start in range(0, len(left), AT_A_TIME):
        if enough is not None and tokens >= enough:
            return
        part = left[start : start + AT_A_TIME]
        found = _answers(teacher, part, budget, sampling, seed)
        lines = []
        for (example, sample), chain in zip(part, found, strict=True):
            row = _row(teacher, example, sample, chain)
            tokens += len(row["ids"]) if row["ended"] else 0
            lines.append(json.dumps(row))
        with (folder / f"{number}.jsonl").open("a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in lines))
        done += len(part)
        if progress is not None:
            progress(done, len(wanted))


def _answers(
    teacher: ReasoningModel,
    part: Sequence[tuple[Example, int]],
    budget: Budget,
    sampling: Sampling,
    seed: int,
) -> list[Chain]:
    requests = [
        Request(
            problem=f"answers/{example.id}",
            prompt_ids=prompt_of(teacher, example),
            sample=sample,
            seed=seed,
            budgets=(budget,),
        )
        for example, sample in part
    ]
    found = {
        (c.problem, c.sample): c
        for c in decode(teacher, requests, sampling=sampling, stop_on_loop=True)
    }
    return [found[r.problem, r.sample] for r in requests]


def _row(teacher: ReasoningModel, example: Example, sample: int, chain: Chain) -> dict[str, Any]:
    ended = chain.finish == "stop" and not bool(np.any(chain.forced))
    right = None
    if example.verifiable and ended:
        from scaling.grading import grade

        assert example.problem is not None
        right = grade(example.judge, example.problem, chain, teacher).outcome == "correct"
    ids = [int(t) for t in chain.ids]
    return {"id": example.id, "sample": sample, "ids": ids, "ended": ended, "right": right}


def rows_of(folder: Path) -> Iterator[dict[str, Any]]:
    """The answers in a folder, without a last line that is not written to its end."""
    for file in sorted(folder.glob("*.jsonl")):
        whole = file.read_text(encoding="utf-8").rpartition("\n")[0]
        for line in whole.splitlines():
            yield json.loads(line)


def _mend(file: Path) -> None:
    """Take away what a killed process left of a last line."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    whole, newline, rest = text.rpartition("\n")
    if rest:
        file.write_text(whole + newline, encoding="utf-8")


def answered_set(train: TrainingSet, folder: Path, *, verified: bool) -> TrainingSet:
    """The training set with the answers of `folder` in the place of its own.

    verified: only answers that the verifier called right. Raises UserError where nothing is left.
    """
    by_id = {e.id: e for e in train.examples}
    rows = [row for row in rows_of(folder) if row["id"] in by_id]
    rows.sort(key=lambda row: (row["sample"], row["id"]))
    cut = sum(not row["ended"] for row in rows)
    wrong = sum(row["ended"] and not row["right"] for row in rows)
    kept = [r for r in rows if r["ended"] and (r["right"] or not verified)]
    said = f"{len(kept)} of {len(rows)} answers of the dense model are kept; {cut} did not end"
    if verified:
        said += f", {wrong} ended and were not verified"
    if not kept:
        raise UserError(f"{train.name}: {said}. Nothing is left to learn from: raise --thinking.")
    examples = [
        replace(
            by_id[row["id"]],
            id=f"{row['id']}#{row['sample']}",
            reasoning=None,
            answer="",
            ids=tuple(row["ids"]),
            silent=frozenset(),
        )
        for row in kept
    ]
    return replace(train.with_examples(examples, said), answers_from="the dense model")
