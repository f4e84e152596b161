"""The dense model answers the training problems, and the pruned model learns from the answers.

Self-generated data keeps the pruned model close to what it was; text by another author pulls it
away (arXiv 2410.09982; 2602.01997 for reasoning). Answers are written to OUT/answers as they are
finished, one per line, so a run that was killed asks only what is missing. With several processes,
each asks its share and writes to its own file.

An answer that a budget cut, or that ended as a loop, is not kept: it would teach that end.
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
from interp.json_reader import parse_json
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.whole_files import write_whole
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
    """Let the teacher answer the questions of a training set that are not yet answered.

    Answers in the folder are kept; only missing ones are asked.

    Args:
        teacher: the dense model.
        train: the questions.
        folder: the folder of the answers.
        budget: tokens per answer.
        sampling: how answers are sampled.
        samples: answers per question.
        seed: the seed of the answers.
        share: (number of this process, number of processes).
        enough: stop asking once the kept answers of this process's share have this many tokens.
            Default: ask all.
        progress: called with (answers done, answers in all).
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
    """Yield the answers in a folder, without an incomplete last line."""
    for file in sorted(folder.glob("*.jsonl")):
        whole = file.read_text(encoding="utf-8").rpartition("\n")[0]
        for line in whole.splitlines():
            yield parse_json(line, str(file))


def _mend(file: Path) -> None:
    """Remove the incomplete last line that a killed process left."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    whole, newline, rest = text.rpartition("\n")
    if rest:
        write_whole(file, whole + newline)


def answered_set(train: TrainingSet, folder: Path, *, verified: bool) -> TrainingSet:
    """Replace the answers of a training set by those in a folder.

    Args:
        train: the training set.
        folder: the folder that `ask` wrote.
        verified: keep only answers that the verifier called right.

    Returns:
        The new set, one example per kept answer.

    Raises:
        UserError: no answer is left.
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
