"""Measure the bundled reasoner: every figure of its model card comes from here.

On test problems, at temperature 1: accuracy per kind; accuracy per thinking budget (one chain,
whose answer is forced at each budget); pass@8 and pass@1 from one sample set; the effect of a
forced "wait" after the model's own conclusion; and the share of its arithmetic slips that it
notices, with the rate of "wait" and "check".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.chains.chain import Budget, Chain
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.errors import UserError
from interp.replay.teacher_forced import continuation_logprobs
from interp.statistics import (
    Interval,
    PairedDifference,
    cov_at_k,
    mean_interval,
    paired_difference,
    problem_table,
)
from testbed.problems import KINDS, GeneratedProblem, content, generate
from testbed.verify import check_answer, check_chain

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

BUDGETS: dict[str, tuple[int, ...]] = {
    "arithmetic": (8, 16, 32, 64),
    "countdown-3": (32, 64, 128, 256, 512),
    "countdown-4": (64, 128, 256, 512, 1024),
    "countdown-5": (64, 128, 256, 512, 1024, 2048),
}
ANSWER = 24
CARD = "README.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """All figures of one evaluation. Accuracies are shares of problems, with 95 % intervals.

    Attributes:
        model: the model's name.
        seed: the seed of problems and samples.
        accuracy: per kind, at the largest budget.
        by_budget: per kind and thinking budget (tokens).
        rises: per kind and budget, the change from the next smaller budget.
        pass_at: per countdown kind, pass@k by k.
        parallel_gain: per countdown kind, pass@(largest k) minus pass@1.
        wait_gain: per countdown kind, the change in accuracy by one forced "wait".
        wait_gain_early: the same on chains that ended thinking by themselves without a solution;
            None
            if there are too few.
        slips: per kind, counts of slips, waits and checks.
        thinking_tokens: per kind, mean thinking tokens per chain at the largest budget.
    """

    model: str
    seed: int
    accuracy: dict[str, Interval] = field(default_factory=dict)
    by_budget: dict[str, dict[int, Interval]] = field(default_factory=dict)
    rises: dict[str, dict[int, PairedDifference]] = field(default_factory=dict)
    pass_at: dict[str, dict[int, Interval]] = field(default_factory=dict)
    parallel_gain: dict[str, PairedDifference] = field(default_factory=dict)
    wait_gain: dict[str, PairedDifference] = field(default_factory=dict)
    wait_gain_early: dict[str, PairedDifference | None] = field(default_factory=dict)
    slips: dict[str, dict[str, float]] = field(default_factory=dict)
    thinking_tokens: dict[str, float] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per kind and budget: accuracy with its interval."""
        rows = [
            {"kind": kind, "budget": budget, **asdict(interval)}
            for kind, by in self.by_budget.items()
            for budget, interval in by.items()
        ]
        return pd.DataFrame(rows)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return json.loads(json.dumps(asdict(self), default=float))


def _verdicts(
    problems: Sequence[GeneratedProblem], chains: dict, model: ReasoningModel
) -> np.ndarray:
    """Verdicts [problems, samples], 0 or 1; no answer counts as not correct."""
    return np.array(
        [
            [
                float(check_answer(problem, model.text(chain.answer_ids.tolist())) is True)
                for chain in chains[problem.id]
            ]
            for problem in problems
        ]
    )


def _by_content(problems: Sequence[GeneratedProblem], verdicts: np.ndarray) -> np.ndarray:
    """Verdicts [problems, samples] with reorderings of one pool in one row, padded with nan.

    They are nearly the same problem, so the interval must not count them as independent.
    """
    names = [content(problem) for problem in problems for _ in range(verdicts.shape[1])]
    return problem_table(verdicts.ravel(), names)


def _different(problems: Sequence[GeneratedProblem], n: int) -> list[GeneratedProblem]:
    """The first n problems that are not reorderings of each other."""
    first: dict[str, GeneratedProblem] = {}
    for problem in problems:
        first.setdefault(content(problem), problem)
    return list(first.values())[:n]


def _decode(
    model: ReasoningModel,
    problems: Sequence[GeneratedProblem],
    budgets: tuple[Budget, ...],
    samples: int,
    seed: int,
    what: str,
    report: Report | None,
) -> dict[Budget, dict[str, list[Chain]]]:
    """Budget -> problem id -> chains in the order of their samples."""
    requests = [
        Request(p.id, tuple(model.prompt_ids(p.question)), sample=s, seed=seed, budgets=budgets)
        for p in problems
        for s in range(samples)
    ]
    found: dict[Budget, dict[str, list[Chain]]] = {b: {p.id: [] for p in problems} for b in budgets}
    total = len(requests) * len(budgets)
    for done, chain in enumerate(decode(model, requests), 1):
        found[chain.budget][chain.problem].append(chain)
        if report and (done % 16 == 0 or done == total):
            report(what, done, total)
    for by_problem in found.values():
        for chains in by_problem.values():
            chains.sort(key=lambda c: c.sample)
    return found


def evaluate(
    model: ReasoningModel,
    *,
    problems: int = 500,
    parallel_problems: int = 100,
    samples: int = 8,
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
    report: Report | None = None,
) -> Evaluation:
    """Evaluate a model on test problems.

    Args:
        model: the reasoner.
        problems: problems per kind.
        parallel_problems: problems for pass@k and forced waits, the first different ones.
        samples: chains per problem for pass@k and forced waits.
        seed: the seed of problems and samples.
        kinds: the kinds of problems.
        report: called with (what, done, total) to report progress.

    Returns:
        All figures.

    Raises:
        UserError: fewer than 2 samples or problems.
    """
    if samples < 2 or problems < 2 or parallel_problems < 2:
        raise UserError(
            f"evaluate(problems={problems}, parallel_problems={parallel_problems}, "
            f"samples={samples}): expected at least 2 of each."
        )
    found = Evaluation(model.name, seed)
    for kind in kinds:
        some = generate(kind, problems, seed=seed, split="test")
        if kind == "recall":
            found.accuracy[kind] = mean_interval(_recall(model, some))
            if report:
                report(kind, problems, problems)
            continue
        budgets = tuple(Budget(b, ANSWER) for b in BUDGETS[kind])
        chains = _decode(model, some, budgets, 1, seed, kind, report)
        verdict = {
            b.thinking: _by_content(some, _verdicts(some, chains[b], model)) for b in budgets
        }
        found.by_budget[kind] = {b: mean_interval(v) for b, v in verdict.items()}
        found.rises[kind] = {
            b: paired_difference(verdict[a], verdict[b])
            for a, b in zip(BUDGETS[kind], BUDGETS[kind][1:], strict=False)
        }
        full = chains[budgets[-1]]
        found.accuracy[kind] = found.by_budget[kind][budgets[-1].thinking]
        found.thinking_tokens[kind] = float(np.mean([full[p.id][0].n_thinking for p in some]))
        found.slips[kind] = _slips(model, some, full)
        if not kind.startswith("countdown"):
            continue
        waited = Budget(budgets[-1].thinking, ANSWER, waits=1)
        few = _different(some, parallel_problems)
        what = f"{kind}, parallel"
        extended = _decode(model, few, (budgets[-1], waited), samples, seed, what, report)
        plain = _verdicts(few, extended[budgets[-1]], model)
        after = _verdicts(few, extended[waited], model)
        ks = [k for k in (1, 2, 4, 8, 16, 32) if k <= samples]
        found.pass_at[kind] = {k: cov_at_k(plain, k) for k in ks}
        correct = plain.sum(axis=1)
        any_of = 1.0 - np.array([_miss(samples, int(c), max(ks)) for c in correct])
        found.parallel_gain[kind] = paired_difference(plain.mean(axis=1), any_of)
        found.wait_gain[kind] = paired_difference(plain, after)
        early = np.array(
            [
                [
                    not _report(model, p, c).reached and c.thinking_finish == "end"
                    for c in extended[budgets[-1]][p.id]
                ]
                for p in few
            ]
        )
        some_early = early.any(axis=1)
        found.wait_gain_early[kind] = (
            paired_difference(
                np.where(early, plain, np.nan)[some_early],
                np.where(early, after, np.nan)[some_early],
            )
            if some_early.sum() > 1
            else None
        )
    return found


def _miss(n: int, correct: int, k: int) -> float:
    from interp.statistics import pass_at_k

    return 1.0 - float(pass_at_k(n, correct, k))


def _recall(model: ReasoningModel, problems: Sequence[GeneratedProblem]) -> np.ndarray:
    from interp.interventions.interventions import dense

    prompts = [model.prompt_ids(p.question, thinking=False) for p in problems]
    options = [[model.encode(choice) for choice in p.choices] for p in problems]
    best = continuation_logprobs(model, prompts, options, [dense])[0].argmax(axis=1)
    return np.array(
        [
            [float(p.choices[int(i)] == p.answer)]
            for p, i in zip(problems, best, strict=True)
        ]
    )  # fmt: skip


def _report(model: ReasoningModel, problem: GeneratedProblem, chain: Chain):
    return check_chain(
        problem,
        model.text(chain.thinking_ids.tolist()),
        model.text(chain.answer_ids.tolist()),
        forced=chain.thinking_finish == "forced",
    )


def _slips(
    model: ReasoningModel, problems: Sequence[GeneratedProblem], chains: dict[str, list[Chain]]
) -> dict[str, float]:
    reports = [_report(model, p, chains[p.id][0]) for p in problems]
    tokens = sum(chains[p.id][0].n_thinking for p in problems)
    made = sum(r.arithmetic_slips for r in reports)
    noticed = sum(r.noticed for r in reports)
    return {
        "arithmetic slips": float(made),
        "noticed": float(noticed),
        "mended": float(sum(r.mended for r in reports)),
        "share noticed": noticed / made if made else float("nan"),
        "waits per 1k tokens": 1000 * sum(r.waits for r in reports) / max(tokens, 1),
        "checks per 1k tokens": 1000 * sum(r.checks for r in reports) / max(tokens, 1),
        "chains with a repeated branch": float(sum(r.repeated_branches > 0 for r in reports)),
        "chains": float(len(reports)),
    }


# ---------------------------------------------------------------- the model card


def _share(interval: Interval | PairedDifference) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def card_figures(result: Evaluation) -> str:
    """Format the figures as Markdown tables for the model card.

    Args:
        result: the evaluation.

    Returns:
        The tables.
    """
    lines = [
        "| kind | accuracy | problems | different up to order | mean thinking tokens |",
        "|---|---|---|---|---|",
    ]
    for kind, interval in result.accuracy.items():
        tokens = result.thinking_tokens.get(kind)
        lines.append(
            f"| {kind} | {_share(interval)} | {interval.n_samples} | {interval.n_problems} | "
            f"{f'{tokens:.0f}' if tokens is not None else '-'} |"
        )
    lines += ["", "Accuracy by thinking budget (tokens), one chain a problem, answers forced:", ""]
    lines += [
        "| kind | budget | accuracy | change to the budget before | p |",
        "|---|---|---|---|---|",
    ]
    for kind, by in result.by_budget.items():
        for budget, interval in by.items():
            rise = result.rises[kind].get(budget)
            change = f"{rise.value:+.3f} [{rise.low:+.3f}, {rise.high:+.3f}]" if rise else "-"
            p = f"{rise.p:.2g}" if rise else "-"
            lines.append(f"| {kind} | {budget} | {_share(interval)} | {change} | {p} |")
    lines += ["", 'Parallel samples (unbiased pass@k, one sample set) and forced "wait":', ""]
    lines += [
        "| kind | problems x samples | pass@k | gain of the most samples over one | "
        "gain of one forced wait | the same, where the model had ended without a solution |",
        "|---|---|---|---|---|---|",
    ]
    for kind, by in result.pass_at.items():
        one = by[1]
        passes = ", ".join(f"@{k} {v.value:.3f}" for k, v in by.items())
        early = result.wait_gain_early[kind]
        lines.append(
            f"| {kind} | {one.n_problems} x {one.n_samples // one.n_problems} | {passes} | "
            f"{_share(result.parallel_gain[kind])} | {_share(result.wait_gain[kind])} | "
            + (f"{_share(early)}, {early.n_samples} chains |" if early else "none |")
        )
    lines += ["", "Slips and reflection (largest budget):", ""]
    lines += [
        "| kind | chains | arithmetic slips | noticed | share noticed | waits / 1k tokens | "
        "checks / 1k tokens | chains with a repeated branch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, s in result.slips.items():
        lines.append(
            f"| {kind} | {s['chains']:.0f} | {s['arithmetic slips']:.0f} | {s['noticed']:.0f} | "
            f"{s['share noticed']:.2f} | {s['waits per 1k tokens']:.2f} | "
            f"{s['checks per 1k tokens']:.2f} | {s['chains with a repeated branch']:.0f} |"
        )
    return "\n".join(lines)


def write_card(folder: Path, figures: str) -> Path:
    """Write the figures between the marks of the model card in a checkpoint folder.

    Args:
        folder: the checkpoint folder.
        figures: Markdown, as from `card_figures`.

    Returns:
        The card's path.

    Raises:
        UserError: the folder has no card, or the card has no marks.
    """
    card = folder / CARD
    if not card.is_file():
        raise UserError(
            f"{folder} has no model card {CARD}: write one with the marks {BEGIN} and {END}."
        )
    text = card.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise UserError(
            f"{card} lacks the marks {BEGIN} and {END}: add both; the figures go between them."
        )
    head, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    card.write_text(f"{head}{BEGIN}\n{figures}\n{END}{tail}", encoding="utf-8")
    return card
