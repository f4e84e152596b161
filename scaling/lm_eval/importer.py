"""Import sample logs of lm-evaluation-harness into a store.

The harness writes `samples_TASK_DATE.jsonl`, one line per document and filter: `doc` (the record of
the data set), `target`, `arguments` (prompt and options), `resps` (one list per request),
`filtered_resps`, and each metric under its name. `doc` is the public record, so a benchmark here
reads it as from a file. Every response becomes a chain (tokenised again: the log has no ids),
graded by the benchmark's own grader and diagnosed. The log's own verdict is stored beside it
(`lm_eval_...` in the diagnosis), and disagreements are counted.

Caveats: a log shows only a chain's length; at the length limit it counts as cut. It has no
log-probabilities of tokens. Without thinking delimiters the whole response is the answer. Format:
https://github.com/EleutherAI/lm-evaluation-harness, `lm_eval/loggers/evaluation_tracker.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from interp.chains.chain import Budget, Chain, Finish, Span, ThinkingFinish
from interp.errors import UserError, look_up
from interp.json_reader import short, whole_text
from scaling.grading import grade, grade_likelihood
from scaling.problem import Benchmark, Problem
from scaling.records import Record, read_file
from scaling.store.chain_row import LIKELIHOOD, ChainRow, chain_row, likelihood_row
from scaling.store.stored_benchmark import problem_rows
from scaling.store.study_store import Store
from scaling.study.cells import Cell
from scaling.study.chain_diagnosis import Diagnoser
from scaling.study.preflight import check_name
from scaling.study.variants import variant_row

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

UNLIMITED = 2**20  # tokens; stands for a log without a limit
MOST_METRIC = 1e300
OURS = "prunescope"  # field of an exported line for values without a place in the format
BOOKKEEPING = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter"}
BOOKKEEPING |= {"metrics", "doc_hash", "prompt_hash", "target_hash", OURS}


@dataclass(frozen=True)
class LogDocument:
    """One document of a log.

    Attributes:
        record: its first line.
        number: its `doc_id`.
        metrics: the metrics of all its lines, by name and filter.
    """

    record: Record
    number: int
    metrics: dict[str, float]

    @property
    def prompt(self) -> str:
        """The prompt that the model got; "" where the log does not have it."""
        found = self._asked()[0]
        if isinstance(found, list):
            found = found[0] if found else ""
        return self._whole("arguments", found) if isinstance(found, str) else ""

    @property
    def limit(self) -> int | None:
        """The length limit of a response in tokens; None where the log does not have it."""
        options = self._asked()[1]
        limit = options.get("max_gen_toks") if isinstance(options, Mapping) else None
        if type(limit) is not int or limit <= 0:
            return None
        return min(limit, UNLIMITED)

    def _asked(self) -> tuple[Any, Any]:
        """The prompt and the options of the first request, as the log has them."""
        arguments = self.record.fields.get("arguments")
        if isinstance(arguments, Mapping):
            first = arguments.get("gen_args_0")
            return (
                (first.get("arg_0"), first.get("arg_1")) if isinstance(first, Mapping) else ("", "")
            )
        first = arguments[0] if isinstance(arguments, list) and arguments else None
        return tuple((*first, "", "")[:2]) if isinstance(first, list) else ("", "")  # type: ignore[return-value]

    def _whole(self, name: str, text: str) -> str:
        return whole_text(text, f"{self.record.where}, field {name!r}")

    def texts(self) -> list[str]:
        """The responses of a generated document, one per sample."""
        (responses,) = self._responses(1)
        if not isinstance(responses, list) or not all(isinstance(r, str) for r in responses):
            raise self.record.wrong("resps", "expected a list of texts per request.")
        return [self._whole("resps", response) for response in responses]

    def own(self, name: str, samples: int, known: Sequence[str]) -> list[Any] | None:
        """A field that PruneScope's export adds, with a value per sample.

        Args:
            name: the field.
            samples: number of samples.
            known: the values that it may have.

        Returns:
            The values; None where the log does not have the field.
        """
        found = self._ours().get(name)
        if found is None:
            return None
        if (
            not isinstance(found, list)
            or len(found) != samples
            or any(v not in known for v in found)
        ):
            raise self.record.wrong(
                OURS, f"{name!r} is {short(found)}; expected {samples} of {', '.join(known)}."
            )
        return found

    def budget(self) -> Budget:
        """The budget: the one that was exported, or the log's limit of a response."""
        found = self._ours().get("budget")
        if found is None:
            limit = self.limit or UNLIMITED
            return Budget(limit, limit)
        if (
            not isinstance(found, list)
            or len(found) != 3
            or any(type(v) is not int or v > 2**31 for v in found)
        ):
            raise self.record.wrong(
                OURS, f"'budget' is {short(found)}; expected thinking and answer tokens and waits."
            )
        return Budget(*found)

    def _ours(self) -> Mapping[str, Any]:
        found = self.record.fields.get(OURS)
        return found if isinstance(found, Mapping) else {}

    def logprobs(self, n: int) -> np.ndarray:
        """The log-likelihoods of `n` choices, in nats: [n]."""
        values = []
        for request in self._responses(n):
            value = _first(request)  # [[value, greedy]], numbers as text or not
            try:
                values.append(math.nan if isinstance(value, bool) else float(value))
            except (TypeError, ValueError, OverflowError):
                values.append(math.nan)
            if not -math.inf < values[-1] <= 1e-3:  # above 0 by rounding alone
                raise self.record.wrong(
                    "resps", f"expected a log-likelihood per choice, got {short(request)}."
                )
        return np.array(values)

    def _responses(self, n: int) -> list[Any]:
        found = self.record.get("resps")
        if not isinstance(found, list) or len(found) != n:
            raise self.record.wrong("resps", f"expected a list of {n} requests' responses.")
        return found


@dataclass(frozen=True)
class Imported:
    """What an import added.

    Attributes:
        folder: folder of the store.
        chains: number of chains added.
        agree: verdicts that equal the log's own.
        differ: verdicts that differ from the log's own.
    """

    folder: Path
    chains: int
    agree: int
    differ: int


def check_logs(files: Sequence[str | Path], benchmark: str) -> None:
    """Refuses logs that are not there, before a model is looked at.

    Args:
        files: logs of one task.
        benchmark: the task's name here.

    Raises:
        UserError: no log, one that is no file, or an unknown benchmark.
    """
    if not files:
        raise UserError("Name at least one log: samples_TASK_DATE.jsonl.")
    for file in files:
        if not Path(file).is_file():
            raise UserError(f"There is no file {str(file)!r}; expected a log of samples.")
    check_name("benchmark", benchmark)


def import_samples(
    files: Sequence[str | Path],
    out: str | Path,
    model: ReasoningModel,
    benchmark: str,
    *,
    variant: str = "dense",
    removed: Sequence[int] = (),
) -> Imported:
    """Import logs of one task into a store.

    Args:
        files: the logs.
        out: folder of the store; several imports may share it.
        model: its tokenizer and delimiters read the texts; the same for all imports of a folder.
            Weights are not used, so `scaling.engines.served_model.weightless` will do.
        benchmark: name of the task in this package ("gsm8k", "math500", "mmlu", "jsonl:numeric").
        variant: name of the model that was run; imports into one folder are compared with "dense".
        removed: dense indices of the blocks that it lacks.

    Returns:
        The number of chains, and the agreement with the log's verdicts.

    Raises:
        UserError: a line that cannot be read (with file, line and field), or a folder with other
            problems or with these chains already.
    """
    check_logs(files, benchmark)
    records = [record for file in files for record in read_file(file)]
    documents = _documents(records)
    bench = _benchmark(benchmark, list(documents.values()))
    reading = _Reading(model, bench, variant)
    rows: list[ChainRow] = []
    for position, (problem, document) in enumerate(
        zip(bench.problems, documents.values(), strict=True)
    ):
        rows += reading.rows(problem, position, document)
    if variant != "dense" and not removed:
        raise UserError(f"Variant {variant!r}: name the blocks that it lacks, removed=[...].")
    with Store(out) as store:
        known = {name: b for name, b in store.meta().items() if name.startswith("problems ")}
        store.claim({"imported": "lm-evaluation-harness", "model": model.name}, {})
        if known.get(f"problems {bench.name}", bench.fingerprint) != bench.fingerprint:
            raise UserError(
                f"{str(out)!r} holds {bench.name!r} with other problems than these logs; import "
                "logs of the same documents, or choose another folder."
            )
        store.put("meta", [{"key": f"problems {bench.name}", "value": bench.fingerprint}])
        store.put("problems", problem_rows(bench))
        blocks = sorted(map(int, removed))
        kind, method = ("plan", "imported") if removed else ("dense", "")
        store.put("variants", [variant_row(variant, kind, method, blocks)])
        store.put("cells", _cells(bench, variant, rows))
        done = store.done()
        if again := [row.key for row in rows if row.key in done]:
            raise UserError(
                f"{str(out)!r} has {len(again)} of these chains already, such as {again[0]}; "
                "import each log once, or give the variant another name."
            )
        store.add_chains(rows)
        return Imported(store.folder, len(rows), reading.agree, reading.differ)


def _documents(records: Sequence[Record]) -> dict[int, LogDocument]:
    """Group the lines of one document: the harness writes one line per filter."""
    found: dict[int, LogDocument] = {}
    for record in records:
        number = record.get("doc_id")
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise record.wrong("doc_id", f"expected a whole number, got {short(number)}.")
        if not isinstance(record.get("doc"), Mapping):
            raise record.wrong("doc", "expected an object: the record that was asked.")
        first = found.setdefault(number, LogDocument(record, number, {}))
        if record.fields.get("resps") != first.record.fields.get("resps"):
            raise record.wrong(
                "resps", f"document {number} has other responses at {first.record.where}."
            )
        name = record.fields.get("filter", "none")
        if not isinstance(name, str):
            raise record.wrong("filter", f"expected a name, got {short(name)}.")
        for key, value in record.fields.items():
            if key not in BOOKKEEPING and isinstance(value, (bool, int, float)):
                whole_text(key + name, f"{record.where}, the name of a metric or filter")
                if abs(value) > MOST_METRIC:
                    raise record.wrong(key, f"expected a metric, got {short(value)}.")
                if (label := f"lm_eval_{key}_{name}") in first.metrics:
                    raise record.wrong("doc_id", f"document {number} is there twice ({name}).")
                first.metrics[label] = float(value)
    return dict(sorted(found.items()))


def _first(value: Any) -> Any:
    """The first value inside nested lists."""
    while isinstance(value, list) and value:
        value = value[0]
    return value


def _benchmark(name: str, documents: Sequence[LogDocument]) -> Benchmark:
    """The benchmark of the documents, read as from a file or as this package exports it."""
    from scaling.benchmarks import benchmarks
    from scaling.grading import get_grader

    base, _, rest = name.partition(":")
    entry = look_up(base, benchmarks(), "benchmark")
    problems = []
    for document in documents:
        record = document.record
        inner = Record(dict(record.fields["doc"]), f"{record.where}, doc", document.number)
        if set(inner.fields) == {"id", "question", "answer", "choices", "metadata"}:
            if not isinstance(about := inner.fields["metadata"], Mapping):
                raise inner.wrong("metadata", f"expected an object, got {short(about)}.")
            texts = {name: inner.text(name) for name in ("id", "question", "answer")}
            problems.append(Problem(**texts, choices=inner.texts("choices"), metadata=about))
        elif entry.from_record is None:
            raise UserError(
                f"{inner.where}: {name!r} generates its problems; this is not one of them."
            )
        else:
            problems.append(entry.from_record(inner))
    grader = rest.partition(":")[0] or entry.grader
    if entry.scoring != LIKELIHOOD:
        judge = get_grader(grader)
        for problem in problems:
            judge.check_gold(problem)
    return Benchmark(
        name=name,
        version=entry.version,
        problems=tuple(problems),
        scoring=entry.scoring,
        grader=grader,
        thinking=entry.thinking,
        instruction=entry.instruction,
    )


class _Reading:
    """Turns documents into rows, and counts verdicts that differ from the log's."""

    def __init__(self, model: ReasoningModel, bench: Benchmark, variant: str) -> None:
        self.model, self.bench, self.variant = model, bench, variant
        self.diagnoser = Diagnoser(model)
        self.agree = self.differ = 0

    def rows(self, problem: Problem, position: int, document: LogDocument) -> Iterator[ChainRow]:
        """The rows of one document."""
        if self.bench.scoring == LIKELIHOOD:
            values = document.logprobs(len(problem.choices))
            lengths = [max(1, len(self.model.encode(c))) for c in problem.choices]
            verdict = grade_likelihood(problem, values, lengths)
            self._compare(verdict.outcome, document, 1)
            prompt = len(self.model.encode(document.prompt))
            yield likelihood_row(
                self.bench.name, problem, position, self.variant, prompt, values, verdict
            )
            return
        texts = document.texts()
        finishes = document.own("finish", len(texts), get_args(Finish))
        ends = document.own("thinking_finish", len(texts), get_args(ThinkingFinish))
        for sample, text in enumerate(texts):
            said = tuple(None if v is None else v[sample] for v in (finishes, ends))
            chain = self._chain(problem, sample, text, document, *said)
            verdict = grade(self.bench, problem, chain, self.model)
            self._compare(verdict.outcome, document, len(texts))
            columns = self.diagnoser.columns(problem, chain)
            yield chain_row(
                self.bench.name, problem, position, chain, verdict, {**columns, **document.metrics}
            )

    def _compare(self, outcome: str, document: LogDocument, samples: int) -> None:
        """Compare with the log's verdict: one per document, so only single responses count."""
        values = [v for k, v in document.metrics.items() if k.split("_")[2] in ("exact", "acc")]
        if samples == 1 and values:
            right = max(values) > 0.5  # any of its filters
            self.agree += right == (outcome == "correct")
            self.differ += right != (outcome == "correct")

    def _chain(
        self,
        problem: Problem,
        sample: int,
        text: str,
        document: LogDocument,
        finish: Any,
        ended: Any,
    ) -> Chain:
        """A response as a chain: thinking up to its end delimiter, then the answer."""
        words, ends = self.model.delimiters, self.model.delimiter_ids
        before, closed, after, thinks = text, "", text, False
        if not words.is_plain:
            opened = document.prompt.rstrip().endswith(words.think_start)
            before, closed, after = text.partition(words.think_end)
            thinks = bool(closed) or opened or words.think_start in text
        thought = before.replace(words.think_start, "", 1) if thinks else ""
        thinking = self.model.encode(thought)
        middle = list(ends.think_end) if closed else []
        answer = self.model.encode(after if thinks else text)
        ids = np.array([*thinking, *middle, *answer], dtype=np.int64)
        limit = document.limit
        start = len(thinking) + len(middle)
        cut = limit is not None and len(ids) >= limit
        finish = finish or ("cut" if cut else "stop")
        ended = ended or ("end" if closed else "forced" if cut else "end")
        unknown = np.full(len(ids), np.nan)
        return Chain(
            problem=problem.id,
            variant=self.variant,
            sample=sample,
            seed=0,
            budget=document.budget(),
            prompt_ids=np.array(self.model.encode(document.prompt), dtype=np.int64),
            ids=ids,
            forced=np.zeros(len(ids), dtype=bool),
            thinking=Span(0, len(thinking)),
            answer=Span(start, len(ids)) if closed or not thinks else None,
            finish=finish,
            thinking_finish=ended if thinks else "none",
            waits=0,
            logprob=unknown,
            entropy=unknown,
        )


def _cells(bench: Benchmark, variant: str, rows: Sequence[ChainRow]) -> list[dict[str, Any]]:
    """The cells of the import: accuracy, and parallel where there are several samples."""
    samples: dict[str, int] = {}
    for row in rows:
        budget = str(row.values["budget"])
        samples[budget] = max(samples.get(budget, 0), int(row.values["sample"]) + 1)
    return [
        Cell(purpose, bench.name, variant, None, len(bench), of).as_row() | {"budget": budget}
        for budget, n in samples.items()
        for purpose, of in (("accuracy", 1), ("parallel", n))
        if purpose == "accuracy" or n > 1
    ]
