"""The engine side of a study: its model, the problems of one benchmark, and how chains are judged.

What is computed for an analysis is decoded as the study's own chains were: the same model (its
fingerprint is checked), sampling, seed and problems, so a dense chain decoded here is the study's.

The benchmark is the longest one that the dense model still solves often enough for a loss to
show: of those with chains, the one with the longest dense thinking whose dense accuracy is two
thirds or more (a problem that is not solved has nothing to lose, and takes the longest); where
there is none, the one with the highest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.plumbing import style
from analyses.plumbing.derived import FINGERPRINT
from analyses.plumbing.frames import StudyData, largest_budget
from interp.chains.chain import Budget, Chain
from interp.decoding.generate import generate
from interp.diagnosis import NATURAL, TESTBED, Lexicon, Pieces, find_loop, read
from interp.diagnosis.loops import Loop
from interp.diagnosis.token_text import NUMBER
from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from scaling.problem import Benchmark, Problem

if TYPE_CHECKING:
    from interp.decoding.sampling import Sampling
    from interp.interventions.interventions import VariantLike

SOLVED = 2 / 3


@dataclass(frozen=True)
class Workbench:
    """One benchmark of a study, and the model to try things on it."""

    study: StudyData
    model: ReasoningModel
    benchmark: Benchmark
    budget: Budget

    @classmethod
    def of(cls, study: StudyData, benchmark: str, thinking: int, problems: int = 0) -> Workbench:
        """Loads the model. thinking: the budget that chains get. problems: how many are wanted.

        Problems are the study's; where it has fewer and the benchmark makes its own, more of the
        same list.
        """
        model = ReasoningModel.load(str(study.config["model"]))
        expected = study.meta.get(FINGERPRINT)
        if expected is not None and model.fingerprint() != expected:
            raise UserError(
                f"The model {study.config['model']!r} is not the one that this study was made "
                f"with (its weights or configuration changed): run the study again, into another "
                "folder."
            )
        rows = study.rows("accuracy")
        answer = int(rows.loc[rows["benchmark"] == benchmark, "answer_budget"].max())
        return cls(study, model, _benchmark(study, benchmark, problems), Budget(thinking, answer))

    @property
    def sampling(self) -> Sampling:
        """How the study draws its tokens."""
        from interp.decoding.sampling import Sampling

        temperature, top_k, top_p = self.study.config.get("sampling", (1.0, 0, 1.0))
        return Sampling(temperature=temperature, top_k=top_k, top_p=top_p)

    @cached_property
    def lexicon(self) -> Lexicon:
        """Which words reflect: the testbed's own on its problems."""
        return TESTBED if self.benchmark.grader == "testbed" else NATURAL

    @cached_property
    def openers(self) -> list[str]:
        """The words that open a reflection, in the tokenizer's reach."""
        phrases = [p for kind in self.lexicon.kinds.values() for p in kind]
        whole = self.lexicon is TESTBED
        return [p.lstrip("^") for p in phrases if whole or p.startswith("^")]

    @cached_property
    def pieces(self) -> Pieces:
        """The model's text, each token looked up once."""
        return Pieces(self.model)

    @cached_property
    def _by_id(self) -> dict[str, Problem]:
        return {p.id: p for p in self.benchmark.problems}

    def decode(
        self, variants: Sequence[VariantLike], problems: int, samples: int = 1
    ) -> dict[str, list[Chain]]:
        """Chains of the first problems under each variant, by its name, in the same order."""
        few = self.benchmark.problems[:problems]
        chains = generate(
            self.model,
            [self.benchmark.prompt(p) for p in few],
            variants=variants,
            budget=self.budget,
            samples=samples,
            seed=int(self.study.config.get("seed", 0)),
            sampling=self.sampling,
            problem_ids=[p.id for p in few],
            stop_on_loop=True,
            thinking=self.benchmark.thinking,
        )
        found: dict[str, list[Chain]] = {v.name: [] for v in variants}
        for chain in chains:
            found[chain.variant].append(chain)
        return found

    def loop(self, chain: Chain) -> Loop | None:
        """The loop in which a chain's thinking ends, exact or with other numbers."""
        ids = chain.thinking_ids
        return find_loop(ids, read(self.pieces, ids).mask(NUMBER)) if len(ids) else None

    def verdict(self, chain: Chain) -> str:
        """What the grader says of the chain: correct, wrong, no answer."""
        from scaling.grading import grade

        return grade(self.benchmark, self._by_id[chain.problem], chain, self.model).outcome

    def correct(self, chain: Chain) -> bool:
        """Whether the chain's answer is right."""
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
    """What came of looking for the variant that loops most.

    tried: by variant, its chains on the first problems. variant, chains: the one with most loops
    and its chains on more problems; None and () where none looped. looping: those that do.
    """

    tried: dict[str, list[Chain]]
    variant: VariantLike | None
    chains: tuple[Chain, ...] = ()
    looping: tuple[Chain, ...] = ()


def most_looping(bench: Workbench, tried: int, problems: int) -> Looping:
    """Every single block skipped and every plan, on the first problems: which loops most?"""
    variants = candidates(bench)
    found = bench.decode(variants, tried)
    counts = {name: sum(bench.loop(c) is not None for c in few) for name, few in found.items()}
    worst = max(variants, key=lambda v: counts[v.name])
    if not counts[worst.name]:
        return Looping(found, None)
    chains = tuple(bench.decode([worst], problems)[worst.name])
    looping = tuple(c for c in chains if bench.loop(c) is not None)
    return Looping(found, worst, chains, looping)


def candidates(bench: Workbench) -> list[VariantLike]:
    """Every single block skipped, then the plans of the study."""
    from scaling.store.study_store import Store
    from scaling.study.variants import block_variant, read_variants

    assert bench.study.folder is not None
    with Store(bench.study.folder, read_only=True) as store:
        known = read_variants(store)
    plans = [v for name, v in known.items() if name != style.DENSE and len(v.interventions()) > 1]
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
    """Thinking tokens of the dense chains at the largest budget."""
    rows = largest_budget(study.rows("accuracy"))
    mine = rows[(rows["benchmark"] == benchmark) & (rows["variant"] == style.DENSE)]
    return mine["thinking_tokens"].to_numpy(dtype=float)


def fitting_budget(study: StudyData, benchmark: str, share: float = 0.9) -> int:
    """The smallest of the study's budgets that `share` of the dense chains end within.

    The largest where none does. Quarters of a budget that chains never fill would be empty.
    """
    rows = study.rows("sequential")
    rows = rows if len(rows) else study.rows("accuracy")
    mine = rows[(rows["benchmark"] == benchmark) & (rows["waits_allowed"] == 0)]
    budgets = sorted({int(b) for b in mine["thinking_budget"]})
    lengths = dense_lengths(study, benchmark)
    fits = [b for b in budgets if (lengths < b).mean() >= share]
    return fits[0] if fits else budgets[-1]


def asked_settings(study: StudyData, **own: Any) -> dict[str, Any] | None:
    """What decides a computed result: its benchmark, problems and budget, and `own`.

    None where the study has no benchmark that the dense model solves by chains.
    """
    benchmark = longest_solved(study)
    if benchmark is None:
        return None
    budget = {"thinking": fitting_budget(study, benchmark)}
    return problem_settings(study, benchmark) | budget | own


def problem_settings(study: StudyData, benchmark: str) -> dict[str, Any]:
    """What of a study decides chains on a benchmark, for the key under which results are kept."""
    return {
        "benchmark": benchmark,
        "problems": study.meta.get(f"problems {benchmark}"),
        "seed": study.config.get("seed", 0),
        "sampling": list(study.config.get("sampling", (1.0, 0, 1.0))),
    }


def _benchmark(study: StudyData, name: str, wanted: int) -> Benchmark:
    """The benchmark as the study keeps it: its problems in order, judged as registered."""
    from scaling.benchmarks import benchmarks
    from scaling.store.study_store import Store

    if study.folder is None:
        raise UserError("This study is in no folder, so its problems are not at hand.")
    with Store(Path(study.folder), read_only=True) as store:
        rows = store.frame("problems")
    rows = rows[rows["benchmark"] == name].sort_values("position")
    base, _, rest = name.partition(":")
    entry = benchmarks()[base]
    problems = tuple(
        Problem(
            id=row["problem"],
            question=row["question"],
            answer=row["answer"],
            choices=tuple(json.loads(row["choices"])),
            metadata=json.loads(row["metadata"]),
        )
        for row in rows.to_dict("records")
    )
    if wanted > len(problems) and entry.make is not None:
        more = tuple(entry.make(wanted, int(study.config.get("seed", 0))))
        if more[: len(problems)] == problems:  # made problems nest: the first n of more are the n
            problems = more
    return Benchmark(
        name=name,
        version=entry.version,
        problems=problems,
        scoring=entry.scoring,
        grader=rest.partition(":")[0] or entry.grader,
        thinking=entry.thinking,
        instruction=entry.instruction,
    )
