"""The study: one call that prunes, decodes, grades, diagnoses and stores everything.

1. Dense chains on spare problems calibrate the criteria; Block Influence is always scored.

2. The variants are decided: dense, each method at each number of blocks, every single block.

3. Benchmark by benchmark, all cells (accuracy, sequential, waits, parallel, blocks) are merged into
requests and decoded together: the dense row beside the pruned ones, with the same noise, all
budgets of a chain in one decode.

4. Every chain is graded and diagnosed as it comes, and committed in batches.

A study that was killed decodes only what is missing when it is run again, and ends with the same
rows: nothing in a row depends on clock or order, and on the batch only the float noise of mean
log-probabilities (docs/store.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.chains.chain import Budget, Chain
from interp.model.chat import RawPrompt
from interp.model.gguf_file import described
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table
from interp.plumbing.work_listener import listening
from scaling.engines.engine import Engine
from scaling.engines.ray_worker import program
from scaling.grading import grade, grade_likelihood
from scaling.problem import Benchmark, Problem
from scaling.store.chain_row import LIKELIHOOD, ChainRow, Key, chain_row, likelihood_row
from scaling.store.stored_benchmark import problem_rows
from scaling.store.study_file import StoreError
from scaling.store.study_store import Store
from scaling.study.cells import requests_left, subtract, wanted
from scaling.study.chain_diagnosis import Diagnoser
from scaling.study.config import StudyConfig
from scaling.study.finished_study import cells_of, identity_of, weightless_engine
from scaling.study.preflight import check_names
from scaling.study.problem_sets import gather
from scaling.study.sample_diversity import measure_diversity, note_duplicates
from scaling.study.study_progress import OnEvent, Progress
from scaling.study.variants import calibration_chains, check_methods, decide, read_variants, scored

if TYPE_CHECKING:
    import pandas as pd

    from interp.interventions.interventions import VariantLike

__all__ = ["StudyResult", "run_study"]

BATCH_CHAINS = 64  # chains per commit
BATCH_SECONDS = 2.0  # seconds between commits
LIKELIHOOD_PROBLEMS = 64  # most problems per batch
LIKELIHOOD_FLOPS = 2e13  # of a batch on a processor: some minutes, after which rows are kept


@checked
@as_table
@dataclass(frozen=True)
class StudyResult:
    """A finished study, and what this run added to it.

    Attributes:
        folder: folder of the study.
        chains: number of chains in the store.
        chains_added: number of chains that this run added.
        tokens: tokens that this run decoded.
        seconds: duration of this run.
    """

    folder: Path
    chains: int
    chains_added: int
    tokens: int
    seconds: float

    def to_frame(self) -> pd.DataFrame:
        """One row per benchmark, variant and budget of the study.

        Returns:
            Columns: `chains`; the shares of them that are `correct`, gave `no_answer` and `looped`;
            mean `tokens`.
        """
        with closing(Store(self.folder, read_only=True)) as store:
            rows = store.rows()
        rows = rows.assign(
            correct=rows["outcome"] == "correct", no_answer=rows["outcome"] == "no answer"
        )
        keys = ["benchmark", "variant", "budget"]
        shares = {name: (name, "mean") for name in ("correct", "no_answer", "looped", "tokens")}
        grouped = rows.groupby(keys, sort=False)
        return grouped.agg(chains=("outcome", "size"), **shares).reset_index()


@checked
def run_study(
    config: StudyConfig, on_event: OnEvent | None = None, *, engine: Engine | None = None
) -> StudyResult:
    """Run a study, or continue the one in `config.out`.

    Args:
        config: the study.
        on_event: called with stages, progress and the time left
            (`scaling.study.study_progress.Event`).
        engine: an engine to use instead of loading the model locally, e.g. `LocalEngine(model)` for
            a model that is already loaded.

    Returns:
        Where the study is and what was added.

    Raises:
        UserError: impossible settings, or a folder with another study.
        StoreError: the store cannot be written.
    """
    check_names(config)
    progress = Progress(on_event)
    progress.begin("load", "reading problems and the model")
    engine = engine or weightless_engine(config) or local_engine(config)
    if origin := getattr(engine, "provenance", None):
        progress.note(f"weights dequantised from {described(origin)}")
    config = config.fitted(engine.model)
    problems, spare = gather(config, engine)
    check_methods(config, engine)
    words = getattr(engine.model, "delimiters", None)  # an engine of one's own may know none
    if words is not None:
        progress.note(f"thinking format: {words.described}")
    with Store(config.out) as store:
        store.claim(config.settings(), identity_of(engine, problems))
        with _session(store, progress, engine):
            return _Study(config, engine, store, progress, problems, spare).run()


def local_engine(config: StudyConfig) -> Engine:
    """Load the model of a study on this machine."""
    from scaling.engines.local import LocalEngine

    return LocalEngine(config.load_model())


@contextmanager
def _session(store: Store, progress: Progress, engine: Engine) -> Iterator[None]:
    """Record the duration and the engine of this run, however it ends."""
    started = datetime.now(UTC).isoformat(timespec="seconds")

    def note() -> None:
        row = {
            "started": started,
            "seconds": progress.seconds,
            "decode_seconds": progress.decode_seconds,
            "tokens": progress.tokens,
            "chains": progress.chains,
            "engine": str(getattr(engine, "about", type(engine).__name__)),
            "program": program(),
        }
        store.put("sessions", [row])

    try:
        yield
    except BaseException:
        with suppress(StoreError):  # the error that ended the run is the one to raise
            note()
        raise
    note()


class _Study:
    """One run of a study: its stages and their shared state."""

    def __init__(
        self,
        config: StudyConfig,
        engine: Engine,
        store: Store,
        progress: Progress,
        problems: Sequence[Benchmark],
        spare: dict[str, tuple[Problem, ...]],
    ) -> None:
        self.config, self.engine, self.store = config, engine, store
        self.progress, self.problems, self.spare = progress, problems, spare
        self.diagnoser = Diagnoser(engine)

    def run(self) -> StudyResult:
        """Run all stages."""
        variants = self.variants()
        plan = self.plan(variants)
        done = self.store.done()
        left = {b.name: subtract(asked, done) for b, asked in plan}
        if done and any(left.values()):
            self.progress.note(f"going on: {len(done)} chains are there already")
        requests = {
            b.name: requests_left(self.config, self.engine, b, left[b.name], variants)
            for b, _ in plan
            if b.scoring != LIKELIHOOD
        }
        for name, few in requests.items():
            self._expect(name, few)
        self.progress.expect_scored(
            sum(len(left[b.name]) for b, _ in plan if b.scoring == LIKELIHOOD)
        )
        if done:
            self._know_stored()
        for bench, _ in plan:
            if not left[bench.name]:
                continue
            self.progress.begin(bench.name, f"{len(left[bench.name])} chains")
            if bench.scoring == LIKELIHOOD:
                self.likelihood(bench, left[bench.name], variants)
            else:
                self.generate(bench, requests[bench.name])
        self.progress.begin("samples", "comparing the samples of each problem")
        measure_diversity(self.store)
        note_duplicates(self.store, self.config, self.progress)
        total = len(self.store.done())
        result = StudyResult(
            folder=self.store.folder,
            chains=total,
            chains_added=total - len(done),
            tokens=self.progress.tokens,
            seconds=self.progress.seconds,
        )
        self.progress.end(f"{total} chains in {self.store.folder}")
        return result

    def variants(self) -> dict[str, VariantLike]:
        """The study's variants, decided earlier or now."""
        variants = read_variants(self.store)
        if variants:
            return variants
        self.store.put("problems", [row for b in self.problems for row in problem_rows(b)])
        chains: list[Chain] = []
        with listening(self.progress.hear):
            if scored(self.config):
                self.progress.begin(
                    "calibration", "dense chains on spare problems, the blocks' scores"
                )
                chains = calibration_chains(self.config, self.engine, self.problems, self.spare)
                for bench in self.problems:
                    ids = {f"calibration/{p.id}" for p in self.spare[bench.name] or bench.problems}
                    mine = [c for c in chains if c.problem in ids]
                    ended = sum(c.thinking_finish != "forced" for c in mine)
                    self.progress.know(bench.name, sum(c.n_tokens for c in mine), ended)
            decide(self.config, self.engine, self.store, chains, self.progress)
        return read_variants(self.store)

    def plan(
        self, variants: Mapping[str, VariantLike]
    ) -> list[tuple[Benchmark, dict[Key, Budget | None]]]:
        """Each benchmark with every chain that its cells ask for; the cells are stored."""
        cells = cells_of(self.config, self.store, self.problems, variants)
        self.store.put("cells", [cell.as_row() for _, own in cells for cell in own])
        return [(bench, wanted(bench, own)) for bench, own in cells]

    def _expect(self, name: str, requests: Sequence[Any]) -> None:
        for request in requests:
            # one thinking for all budgets, and an answer for each
            cap = max(b.thinking for b in request.budgets)
            cap += sum(b.answer for b in request.budgets)
            group = (name, request.variant.name)
            self.progress.expect(group, 1, cap, len(request.budgets))

    def _know_stored(self) -> None:
        """Tell the progress how long the dense chains of earlier runs were."""
        rows = self.store.rows(where={"variant": "dense"})
        rows = rows[(rows["scoring"] == "generate") & (rows["waits_allowed"] == 0)]
        for name, part in rows.groupby("benchmark"):
            longest = part.groupby(["problem", "sample"])["thinking_tokens"].max()
            tokens = int(longest.sum() + part["answer_tokens"].sum())
            self.progress.know(str(name), tokens, len(longest))

    # ------------------------------------------------------------------ the two ways of scoring

    def likelihood(
        self,
        bench: Benchmark,
        left: Mapping[Key, Budget | None],
        variants: Mapping[str, VariantLike],
    ) -> None:
        """Score the choices of every problem under every variant whose row is missing."""
        by_id = {p.id: (i, p) for i, p in enumerate(bench.problems)}
        lacking: dict[tuple[str, ...], list[str]] = {}
        for problem in dict.fromkeys(key.problem for key in left):
            names = tuple(key.variant for key in left if key.problem == problem)
            lacking.setdefault(names, []).append(problem)
        for names, problems in lacking.items():
            listed = [by_id[p] for p in problems]
            size = self._likelihood_problems(bench, [p for _, p in listed], len(names))
            for start in range(0, len(listed), size):
                few = listed[start : start + size]
                began = time.monotonic()
                self.store.add_chains(self._score(bench, few, names, variants))
                self.progress.scored(len(few) * len(names), time.monotonic() - began)
                self.progress.tell()

    def _likelihood_problems(self, bench: Benchmark, problems: Sequence[Problem], n: int) -> int:
        """Problems per batch, by work and not by time: the same batches on every machine."""
        model: Any = self.engine.model
        weights = getattr(model, "hf", None)
        if weights is None or model.device.type != "cpu":
            return LIKELIHOOD_PROBLEMS
        few = problems[:: max(1, len(problems) // 8)]
        tokens = np.mean([
            len(self.engine.prompt_ids(bench.prompt(p), thinking=bench.thinking)) for p in few
        ])  # fmt: skip
        flops = 2.0 * sum(p.numel() for p in weights.parameters()) * float(tokens) * n
        return int(np.clip(LIKELIHOOD_FLOPS / flops, 1, LIKELIHOOD_PROBLEMS))

    def _score(
        self,
        bench: Benchmark,
        problems: Sequence[tuple[int, Problem]],
        names: Sequence[str],
        variants: Mapping[str, VariantLike],
    ) -> list[ChainRow]:
        prompts = [
            self.engine.prompt_ids(bench.prompt(p), thinking=bench.thinking) for _, p in problems
        ]
        options = [
            [option_ids(self.engine, bench.prompt(p), text) for text in bench.options(p)]
            for _, p in problems
        ]
        table = self.engine.option_logprobs(prompts, options, [variants[name] for name in names])
        rows = []
        for v, name in enumerate(names):
            for i, (position, problem) in enumerate(problems):
                values = table[v, i, : len(problem.choices)]
                lengths = [
                    len(text) if bench.by_length else len(option)
                    for text, option in zip(problem.choices, options[i], strict=True)
                ]
                verdict = grade_likelihood(problem, values, lengths, by_length=bench.by_length)
                rows.append(
                    likelihood_row(
                        bench.name,
                        problem,
                        position,
                        name,
                        len(prompts[i]),
                        values,
                        verdict,
                        values / np.array(lengths) if bench.by_length else None,
                    )
                )
        return rows

    def generate(self, bench: Benchmark, requests: Sequence[Any]) -> None:
        """Decode requests; grade, diagnose and commit the chains as they come."""
        by_id = {p.id: (i, p) for i, p in enumerate(bench.problems)}
        awaited = {(r.problem, r.variant.name, r.sample): len(r.budgets) for r in requests}
        longest = dict.fromkeys(awaited, 0)
        pending: list[ChainRow] = []
        flushed = time.monotonic()
        sampling = self.config.sampling()
        engine: Any = self.engine
        tells = hasattr(engine, "on_tokens")  # of the tokens of unfinished chains
        if tells:
            engine.on_tokens = self.progress.live
        self.progress.decoding(bench.name)
        try:
            for chain in self.engine.decode(
                requests, sampling=sampling, stop_on_loop=True, stop=bench.stop
            ):
                position, problem = by_id[chain.problem]
                pending.append(self._row(bench, problem, position, chain))
                request = (chain.problem, chain.variant, chain.sample)
                awaited[request] -= 1
                new = max(0, chain.n_thinking - longest[request]) + chain.n_answer
                longest[request] = max(longest[request], chain.n_thinking)
                over = awaited[request] == 0
                self.progress.came((bench.name, chain.variant), new, 1, request_over=over)
                now = time.monotonic()
                if len(pending) >= BATCH_CHAINS or now - flushed > BATCH_SECONDS:
                    batch, pending = pending, []
                    self.progress.paused()
                    self.store.add_chains(batch)
                    self.progress.decoding(bench.name)
                    flushed = time.monotonic()
                    self.progress.tell()
        finally:  # an error or Ctrl-C: what is finished is kept
            if tells:
                engine.on_tokens = None
            self.progress.paused()
            self.store.add_chains(pending)
        short = [request for request, n in awaited.items() if n]
        if short:
            raise RuntimeError(f"the engine left {len(short)} requests unfinished: {short[:3]}")

    def _row(self, bench: Benchmark, problem: Problem, position: int, chain: Chain) -> ChainRow:
        verdict = grade(bench, problem, chain, self.engine)
        diagnosis = self.diagnoser.columns(problem, chain)
        return chain_row(bench.name, problem, position, chain, verdict, diagnosis)


def option_ids(engine: Engine, prompt: Any, option: str) -> list[int]:
    """Token ids of an option after its prompt, which may decide how it is split.

    Args:
        engine: its tokenizer.
        prompt: the prompt.
        option: the option as it follows the prompt.

    Returns:
        The ids that the option adds to the last word of a `RawPrompt`; its own ids elsewhere.
    """
    if isinstance(prompt, RawPrompt):
        word = prompt.split()[-1]
        alone, both = engine.encode(word), engine.encode(word + option)
        if both[: len(alone)] == alone and len(both) > len(alone):
            return both[len(alone) :]
    return engine.encode(option)
