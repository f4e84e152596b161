"""Export a study's rows as sample logs of lm-evaluation-harness, for tools that read those.

One file per variant, benchmark and budget, one line per problem with all its samples. Values
without a place in the format are under the field "prunescope", so that scaling/lm_eval/importer.py
can read them back.

Caveat: token ids become text, without special tokens and without the tokens that the engine wrote
between thinking and answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import UserError
from scaling.lm_eval.importer import OURS
from scaling.store.chain_row import LIKELIHOOD, answer_ids, thinking_ids
from scaling.store.stored_benchmark import stored_benchmarks
from scaling.store.study_store import Store

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel
    from scaling.problem import Benchmark


def export_samples(study: str | Path, out: str | Path, model: ReasoningModel) -> list[Path]:
    """Write a study's rows as sample logs: OUT/VARIANT/samples_BENCHMARK_BUDGET.jsonl.

    One line per problem, with its samples in one list. The metric ("exact_match", or "acc" where
    choices were scored) is that of the first sample, as in the harness.

    Args:
        study: folder of the study.
        out: folder for the logs.
        model: decodes token ids to text.

    Returns:
        The files written.

    Raises:
        UserError: the study has no rows.
    """
    with Store(study, read_only=True) as store:
        rows, problems, meta = store.rows(ids=True), store.frame("problems"), store.meta()
    benches = stored_benchmarks(meta, problems)
    asked = {(p["benchmark"], p["problem"]): p for p in problems.to_dict("records")}
    written = []
    for (variant, benchmark, budget), part in rows.groupby(["variant", "benchmark", "budget"]):
        writing = _Writing(model, benches.get(str(benchmark)))
        path = (
            Path(out)
            / _safe(str(variant))
            / f"samples_{_safe(str(benchmark))}_{_safe(str(budget))}.jsonl"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        ordered = part.sort_values(["position", "sample"])
        with path.open("w", encoding="utf-8") as file:
            for name, own in ordered.groupby("problem", sort=False):
                line = writing.line(asked[benchmark, name], own.to_dict("records"))
                file.write(_json(line) + "\n")
        written.append(path)
    if not written:
        raise UserError(f"The study in {str(study)!r} has no rows to write.")
    return written


class _Writing:
    """Turns the rows of one problem into a line."""

    def __init__(self, model: ReasoningModel, benchmark: Benchmark | None) -> None:
        self.model, self.benchmark = model, benchmark
        self.by_id = {} if benchmark is None else {p.id: p for p in benchmark.problems}

    def line(self, problem: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """One document with all its samples."""
        doc = {
            "id": problem["problem"],
            "question": problem["question"],
            "answer": problem["answer"],
            "choices": json.loads(problem["choices"]),
            "metadata": json.loads(problem["metadata"]),
        }
        prompt = self._prompt(problem)
        first = rows[0]
        right = float(first["outcome"] == "correct")
        if first["scoring"] == LIKELIHOOD:
            values = first["choice_logprobs"]
            responses: list[Any] = [[[str(v), "False"]] for v in values]
            filtered: list[Any] = [[str(v), "False"] for v in values]
            arguments = {
                f"gen_args_{i}": {"arg_0": prompt, "arg_1": c} for i, c in enumerate(doc["choices"])
            }
            metric = "acc"
        else:
            responses = [[self._text(row) for row in rows]]
            filtered = [
                row["extracted"] if isinstance(row["extracted"], str) else "" for row in rows
            ]
            limit = int(first["thinking_budget"]) + int(first["answer_budget"])
            arguments = {"gen_args_0": {"arg_0": prompt, "arg_1": {"max_gen_toks": limit}}}
            metric = "exact_match"
        return {
            "doc_id": int(first["position"]),
            "doc": doc,
            "target": problem["answer"],
            "arguments": arguments,
            "resps": responses,
            "filtered_resps": filtered,
            "filter": "strict",
            "metrics": [metric],
            metric: right,
            "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": _hash(prompt),
            "target_hash": _hash(str(problem["answer"])),
            OURS: {
                "variant": first["variant"],
                "budget": [int(first[f"{k}_budget"]) for k in ("thinking", "answer")]
                + [int(first["waits_allowed"])],
                "outcomes": [row["outcome"] for row in rows],
                "finish": [row["finish"] for row in rows],
                "thinking_finish": [row["thinking_finish"] for row in rows],
            },
        }

    def _prompt(self, problem: Mapping[str, Any]) -> str:
        bench, own = self.benchmark, self.by_id.get(problem["problem"])
        question = problem["question"] if bench is None or own is None else bench.prompt(own)
        ids = self.model.prompt_ids(question, thinking=bench is None or bench.thinking)
        return self.model.text(ids, skip_special=False)

    def _text(self, row: Mapping[str, Any]) -> str:
        """Thinking, its end delimiter, and the answer; other tokens of the engine are left out."""
        ids = answer_ids(row)
        answer = "" if ids is None else self.model.text(ids.tolist())
        if row["thinking_finish"] == "none":
            return answer
        if self.model.delimiters.is_plain:  # with the sentence that asked for the answer
            end = row["thinking_stop"] if ids is None else row["answer_stop"]
            return self.model.text(row["ids"][: int(end)].tolist())
        end = "" if ids is None else self.model.delimiters.think_end
        return f"{self.model.text(thinking_ids(row).tolist())}{end}{answer}"


def _json(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, sort_keys=True, allow_nan=False)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip("-") or "unnamed"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
