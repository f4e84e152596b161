"""The model of a study, the problems of one benchmark, and how chains are judged.

Chains for an analysis are decoded like the study's own: the same model (its fingerprint is
checked), sampling, seed and problems. A dense chain decoded here therefore equals the study's.
Under a limit (`StudyData.limit`) only the first problems are taken.

The benchmark is the one with the longest dense thinking among those with a dense accuracy of two
thirds or more: an unsolved problem has nothing to lose, and takes the longest. If there is none, it
is the one with the highest dense accuracy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.plumbing import style
from analyses.plumbing.derived import FINGERPRINT, LIMIT
from analyses.plumbing.frames import StudyData, largest_budget
from interp.chains.chain import Budget, Chain
from interp.decoding.generate import generate
from interp.diagnosis import NATURAL, TESTBED, Lexicon, Pieces, find_loop, read
from interp.diagnosis.loops import Loop
from interp.diagnosis.token_text import NUMBER
from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from scaling.problem import Benchmark, Problem
from scaling.store.thinking_format import stored_format
from scaling.study.variants import DTYPE

if TYPE_CHECKING:
    from interp.decoding.sampling import Sampling
    from interp.interventions.interventions import VariantLike
    from scaling.grading import Verdict

GIVING_WAY = 3  # variants that loop too much, before the one that loops most is taken
SOLVED = 2 / 3  # dense accuracy from which on a benchmark counts as solved


@dataclass(frozen=True)
class Workbench:
    """One benchmark of a study, and the model to run it with.

    Attributes:
        study: the study.
        model: its model.
        benchmark: the benchmark with its problems.
        budget: the budget of every chain.
    """

    study: StudyData
    model: ReasoningModel
    benchmark: Benchmark
    budget: Budget

    @classmethod
    def of(cls, study: StudyData, benchmark: str, thinking: int, problems: int = 0) -> Workbench:
        """Load the model and the problems.

        Where the study has fewer problems than wanted and the benchmark generates its own, more of
        the same list are added; never more than `StudyData.limit`.

        Args:
            study: the study, in a folder.
            benchmark: name of the benchmark.
            thinking: thinking tokens per chain.
            problems: number of problems wanted.

        Returns:
            The workbench.

        Raises:
            UserError: the model differs from the study's.
        """
        model = study_model(study.config, study.meta)
        rows = study.rows("accuracy")
        answer = int(rows.loc[rows["benchmark"] == benchmark, "answer_budget"].max())
        found = _benchmark(study, benchmark, problems)
        found = replace(found, problems=found.problems[: study.limit])
        return cls(study, model, found, Budget(thinking, answer))

    @property
    def sampling(self) -> Sampling:
        """The study's sampling settings."""
        from interp.decoding.sampling import Sampling

        temperature, top_k, top_p = self.study.config.get("sampling", (1.0, 0, 1.0))
        return Sampling(temperature=temperature, top_k=top_k, top_p=top_p)

    @cached_property
    def lexicon(self) -> Lexicon:
        """The words that count as reflection: the testbed's own on its problems."""
        return TESTBED if self.benchmark.grader == "testbed" else NATURAL

    @cached_property
    def openers(self) -> list[str]:
        """The words that open a reflection, in a form that the tokenizer can match."""
        phrases = [p for kind in self.lexicon.kinds.values() for p in kind]
        whole = self.lexicon is TESTBED
        return [p.lstrip("^") for p in phrases if whole or p.startswith("^")]

    @cached_property
    def pieces(self) -> Pieces:
        """The text of each token, looked up once."""
        return Pieces(self.model)

    @cached_property
    def _by_id(self) -> dict[str, Problem]:
        return {p.id: p for p in self.benchmark.problems}

    def decode(
        self,
        variants: Sequence[VariantLike],
        problems: int,
        samples: int = 1,
        *,
        only: Collection[str] | None = None,
        sampling: Sampling | None = None,
    ) -> dict[str, list[Chain]]:
        """Decode the first problems under each variant.

        Args:
            variants: the variants.
            problems: number of problems.
            samples: samples per problem.
            only: ids of those of the problems that are decoded; None for all.
            sampling: temperature and filters; the study's by default.

        Returns:
            By variant name, its chains, in the same order for all.
        """
        few = self.benchmark.problems[:problems]
        few = [p for p in few if only is None or p.id in only]
        chains = generate(
            self.model,
            [self.benchmark.prompt(p) for p in few],
            variants=variants,
            budget=self.budget,
            samples=samples,
            seed=int(self.study.config.get("seed", 0)),
            sampling=sampling or self.sampling,
            problem_ids=[p.id for p in few],
            stop_on_loop=True,
            thinking=self.benchmark.thinking,
        )
        found: dict[str, list[Chain]] = {v.name: [] for v in variants}
        for chain in chains:
            found[chain.variant].append(chain)
        return found

    def loop(self, chain: Chain) -> Loop | None:
        """The loop in which a chain's thinking ends, exact or template; None if there is none."""
        ids = chain.thinking_ids
        return find_loop(ids, read(self.pieces, ids).mask(NUMBER)) if len(ids) else None

    def graded(self, chain: Chain) -> Verdict:
        """The grader's judgement of a chain."""
        from scaling.grading import grade

        return grade(self.benchmark, self._by_id[chain.problem], chain, self.model)

    def verdict(self, chain: Chain) -> str:
        """The grader's outcome for a chain: correct, wrong or no answer."""
        return self.graded(chain).outcome

    def answer(self, chain: Chain) -> str | None:
        """The text that the grader reads as a chain's answer; None where it gives none."""
        return self.graded(chain).extracted

    def correct(self, chain: Chain) -> bool:
        """Whether the chain's answer is correct."""
        return self.verdict(chain) == "correct"

    def judge(self, chain: Chain) -> dict[str, float]:
        """The outcomes of a chain: correct, looped, thinking_tokens."""
        return {
            "correct": float(self.correct(chain)),
            "looped": float(self.loop(chain) is not None),
            "thinking_tokens": float(chain.n_thinking),
        }


@dataclass(frozen=True)
class Looping:
    """The variant that loops most.

    Attributes:
        tried: by variant, its chains on the first problems.
        variant: the variant with most loops; None where none looped.
        chains: its chains on more problems.
        looping: those of `chains` that loop.
    """

    tried: dict[str, list[Chain]]
    variant: VariantLike | None
    chains: tuple[Chain, ...] = ()
    looping: tuple[Chain, ...] = ()


def most_looping(bench: Workbench, tried: int, problems: int, *, spared: float = 0.0) -> Looping:
    """Find the variant that loops most, among all single blocks and plans.

    Args:
        bench: the study's model and problems.
        tried: number of problems on which every variant is tried.
        problems: number of problems on which the chosen variant is decoded.
        spared: share of its chains that must not loop, for those that are compared with them; a
            variant that loops more gives way to the next, up to `GIVING_WAY` times.

    Returns:
        The variant and its chains.
    """
    variants = candidates(bench)
    found = bench.decode(variants, tried)
    counts = {v.name: sum(bench.loop(c) is not None for c in found[v.name]) for v in variants}
    order = sorted((v for v in variants if counts[v.name]), key=lambda v: -counts[v.name])
    last: Looping | None = None
    for worst in order[: 1 + (GIVING_WAY if spared else 0)]:
        chains = tuple(bench.decode([worst], problems)[worst.name])
        looping = tuple(c for c in chains if bench.loop(c) is not None)
        last = last or Looping(found, worst, chains, looping)
        if len(looping) <= (1 - spared) * len(chains):
            return Looping(found, worst, chains, looping)
    return last or Looping(found, None)


def candidates(bench: Workbench) -> list[VariantLike]:
    """Every single block skipped, then the study's plans that are skipped live."""
    from pruning.repaired_plan import RepairedPlan
    from scaling.store.study_store import Store
    from scaling.study.variants import block_variant, read_variants

    assert bench.study.folder is not None
    with Store(bench.study.folder, read_only=True) as store:
        known = read_variants(store)
    live = [v for v in known.values() if not isinstance(v, RepairedPlan)]
    plans = [v for v in live if v.name != style.DENSE and len(v.interventions()) > 1]
    return [*(block_variant(b) for b in bench.model.layer_map), *plans]


def longest_solved(study: StudyData) -> str | None:
    """The benchmark to work on (see the module); None where nothing was generated."""
    rows = largest_budget(study.rows("accuracy"))
    if not len(rows):
        return None
    rows = rows[(rows["variant"] == style.DENSE) & (rows["scoring"] == "generate")]
    if not len(rows):
        return None
    means = rows.groupby("benchmark")[["correct", "thinking_tokens"]].mean()
    solved = means[means["correct"] >= SOLVED]
    if len(solved):
        return str(solved["thinking_tokens"].idxmax())
    return str(means["correct"].idxmax())


def dense_lengths(study: StudyData, benchmark: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The thinking tokens of the dense chains at the largest budget.

    Args:
        study: the study.
        benchmark: name of the benchmark.

    Returns:
        Tokens: [chains].
    """
    rows = largest_budget(study.rows("accuracy"))
    mine = rows[(rows["benchmark"] == benchmark) & (rows["variant"] == style.DENSE)]
    return mine["thinking_tokens"].to_numpy(dtype=float)


def fitting_budget(study: StudyData, benchmark: str, share: float = 0.9) -> int:
    """The smallest of the study's budgets within which most dense chains end.

    A larger budget would leave some of its quarters empty.

    Args:
        study: the study.
        benchmark: name of the benchmark.
        share: the share of chains that must end within it.

    Returns:
        Thinking tokens; the largest budget where none fits.
    """
    rows = study.rows("sequential")
    rows = rows if len(rows) else study.rows("accuracy")
    mine = rows[(rows["benchmark"] == benchmark) & (rows["waits_allowed"] == 0)]
    budgets = sorted({int(b) for b in mine["thinking_budget"]})
    lengths = dense_lengths(study, benchmark)
    fits = [b for b in budgets if (lengths < b).mean() >= share]
    return fits[0] if fits else budgets[-1]


def asked_settings(study: StudyData, **own: Any) -> dict[str, Any] | None:
    """The settings that decide a computed result: benchmark, problems, budget, and `own`.

    Args:
        study: the study.
        **own: the analysis's own settings.

    Returns:
        The settings; None where the study has no generated benchmark.
    """
    found = solved_settings(study, **own)
    return found and found | decoding_settings(study, found["benchmark"])


def decoding_settings(study: StudyData, benchmark: str) -> dict[str, Any]:
    """The settings that decide what an analysis decodes: the budget, and how many problems.

    Args:
        study: the study.
        benchmark: name of the benchmark.

    Returns:
        JSON values; the number of problems only where the study limits it.
    """
    few = study.limit
    most = {} if few is None else {LIMIT: few}
    return {"thinking": fitting_budget(study, benchmark), **most}


def solved_settings(study: StudyData, **own: Any) -> dict[str, Any] | None:
    """The settings that decide what the stored chains of `longest_solved` tell, and `own`.

    Args:
        study: the study.
        **own: the analysis's own settings.

    Returns:
        The settings; None where the study has no generated benchmark.
    """
    benchmark = longest_solved(study)
    return None if benchmark is None else problem_settings(study, benchmark) | own


def problem_settings(study: StudyData, benchmark: str) -> dict[str, Any]:
    """The settings of a study that decide its chains on a benchmark.

    Args:
        study: the study.
        benchmark: name of the benchmark.

    Returns:
        JSON values, for the key under which results are stored.
    """
    return {
        "benchmark": benchmark,
        "problems": study.meta.get(f"problems {benchmark}"),
        "seed": study.config.get("seed", 0),
        "sampling": list(study.config.get("sampling", (1.0, 0, 1.0))),
    }


def study_model(config: Mapping[str, Any], meta: Mapping[str, str]) -> ReasoningModel:
    """Load the model of a study, in the precision of its weights there.

    Args:
        config: the study's settings.
        meta: the facts of its store.

    Returns:
        The model, with the study's thinking format.

    Raises:
        UserError: the model differs from the study's.
    """
    # a study of an earlier version does not say its precision; it may be less than the usual one
    told = [meta[DTYPE]] if DTYPE in meta else [None, "bfloat16", "float16"]
    expected = meta.get(FINGERPRINT)
    for dtype in told:
        model = ReasoningModel.load(
            str(config["model"]), delimiters=stored_format(meta), dtype=dtype
        )
        if expected is None or model.fingerprint() == expected:
            return model
        del model  # two do not always fit into memory
    raise UserError(
        f"The model {config['model']!r} is not the one that this study was made with (its weights "
        "or configuration changed): run the study again, into another folder."
    )


def _benchmark(study: StudyData, name: str, wanted: int) -> Benchmark:
    """The benchmark as the study stores it: its problems in order, graded as registered."""
    from scaling.benchmarks import benchmarks
    from scaling.store.stored_benchmark import stored_benchmark
    from scaling.store.study_store import Store

    if study.folder is None:
        raise UserError("This study is in no folder, so its problems are not available.")
    with Store(Path(study.folder), read_only=True) as store:
        rows = store.frame("problems")
    found = stored_benchmark(study.meta, rows, name)
    make = benchmarks()[name.partition(":")[0]].make
    if wanted > len(found) and make is not None:
        more = tuple(make(wanted, int(study.config.get("seed", 0))))
        if more[: len(found)] == found.problems:  # generated problems nest
            return replace(found, problems=more)
    return found
