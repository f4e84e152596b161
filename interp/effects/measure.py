"""The effect of every block, attention and MLP on what a chain does: decoded, diagnosed, paired.

    found = measure_effects(model, prompts, ablations(model, ("skip", "scale")), verify=verify)
    found.of("correct").plot()
    found.dose("correct").plot()

The dense model and every ablation answer the same prompts with the same noise, in one batch. Each
outcome is compared with the dense model's, paired by problem and sample (`paired_effects`).
Outcomes of a chain are those in `PLAIN`, one reflection rate per kind of the lexicon, wrong
equations per 100 where the lexicon is for prose, and those of `extra`; docs/internals.md describes
them. Outcomes of a problem (at least 2 samples) are the
measures of `diversity`, on the dense samples and the ablation's cut to the same length (the
shortest of both), with `sample_accuracy`, the accuracy of the same samples.

Caveat: `persistence` is defined only where a chain looped, so its effect needs pairs that looped on
both sides; where they are few, use `loop_dynamics` on each variant's chains.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from interp.chains.chain import Budget, Chain
from interp.decoding.generate import generate
from interp.decoding.sampling import Sampling
from interp.diagnosis.diversity_comparison import LEAST_LENGTH, MEASURES
from interp.diagnosis.diversity_measures import diversity
from interp.diagnosis.reflection_lexicon import Lexicon, lexicon_of
from interp.diagnosis.token_text import Pieces
from interp.effects.ablation_variants import Ablation
from interp.effects.dose import DoseResponse, dose_response
from interp.effects.paired_effects import Effects, block_effects, effects_of_pairs
from interp.errors import UserError, check_known
from interp.interventions.interventions import dense
from interp.json_reader import short
from interp.model.reasoning_model import Question, ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BY = ("ablation", "part")
Verify = Callable[[str, Chain], bool | None]
Extra = Callable[[str, Chain], Mapping[str, float | None]]
Answer = Callable[[Chain], Hashable | None]


@brief
@dataclass(frozen=True)
class MeasuredEffects:
    """Effects by outcome, with the chains' outcomes from which they were computed.

    Attributes:
        effects: Effects by outcome, with groups (ablation, part).
        chains: Outcomes, one row per chain; blocks are dense indices.
        missing: Outcomes that no pair of chains has.
        layer_map: Dense index of each block of the model.
        seed: Seed of the chains.
        n_problems: Number of problems.
        n_samples: Number of samples per problem.
    """

    effects: dict[str, Effects]
    chains: pd.DataFrame = field(repr=False)
    missing: tuple[str, ...]
    layer_map: tuple[int, ...]
    seed: int
    n_problems: int
    n_samples: int

    def of(self, outcome: str) -> Effects:
        """Return the effects on one outcome.

        Args:
            outcome: Name of the outcome.

        Returns:
            The effects.

        Raises:
            UserError: The outcome is unknown, or defined in no pair of chains.
        """
        if outcome in self.missing:
            raise UserError(f"Outcome {outcome!r} is defined in no pair of chains.")
        check_known(outcome, self.effects, "outcome")
        return self.effects[outcome]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per outcome, ablation, part and block."""
        return pd.concat([one.to_frame() for one in self.effects.values()], ignore_index=True)

    def plot(
        self, outcome: str = "correct", ablation: str = "skip", ax: Axes | None = None
    ) -> Axes:
        """Draw one outcome under one ablation over the blocks, one colour per part, with intervals.

        Args:
            outcome: Name of the outcome.
            ablation: Label of the ablation: "skip", "mean", "resample", or "scale 0.5" and the
                like.
            ax: The axes to draw on; default: new ones.

        Returns:
            The axes.
        """
        return self.of(outcome).only(ablation=ablation).plot(ax)

    def dose(self, outcome: str = "correct", part: str = "block") -> DoseResponse:
        """Fit the response of an outcome to the gain of a part, for each block (skip is gain 0).

        Args:
            outcome: Name of the outcome.
            part: "block", "attention" or "mlp".

        Returns:
            The response.
        """
        return dose_response(self.of(outcome), part)


@checked
def measure_effects(
    model: ReasoningModel,
    prompts: Sequence[Question] | Sequence[Sequence[int]],
    trials: Sequence[Ablation],
    verify: Verify | None = None,
    *,
    problem_ids: Sequence[str] | None = None,
    budget: Budget = Budget(),
    samples: int = 1,
    seed: int = 0,
    sampling: Sampling | None = None,
    lexicon: Lexicon | None = None,
    extra: Extra | None = None,
    answer: Answer | None = None,
    stop: Sequence[str] = (),
    stop_on_loop: bool = False,
    slots: int | None = None,
    progress: bool | Callable[[int, int, int], None] = False,
    level: float = 0.95,
    family: Literal["group", "all"] = "group",
) -> MeasuredEffects:
    """Decode the prompts with the dense model and every ablation, and compare them.

    Args:
        model: The dense model.
        prompts: Questions, or token ids of whole prompts.
        trials: Ablations, from `ablations`.
        verify: Tells for (problem, chain) whether the chain is right; None: it gives no answer.
        problem_ids: Name of each prompt; default: its number.
        budget: Thinking and answer tokens allowed.
        samples: Samples per problem.
        seed: Seed of the chains.
        sampling: How tokens are sampled; default `Sampling()`.
        lexicon: The words that reflect; default: the model's own.
        extra: Further outcomes of (problem, chain): numbers by name, None where one is not defined.
        answer: The answer of a chain, for the entropy of the answers; default: the answer's text.
        stop: Strings that end an answer.
        stop_on_loop: End a chain once it certainly loops. Saves time, but censors loops, so
            `persistence` is left out.
        slots: Rows of the decoding batch; default: as memory allows.
        progress: Show a progress bar, or a function that receives the progress.
        level: Confidence level of the intervals.
        family: Holm's correction across the blocks of each ablation and part ("group"), or across
            all effects on an outcome ("all").

    Returns:
        The effects by outcome.

    Raises:
        UserError: There are no ablations, or `extra` returns an outcome that exists already.
    """
    if not trials:
        raise UserError(
            "measure_effects: no ablation was given; pass some, such as ablations(model)."
        )
    if problem_ids is None:
        problem_ids = [str(i) for i in range(len(prompts))]
    chains = generate(
        model,
        prompts,
        variants=[dense, *(t.variant for t in trials)],
        budget=budget,
        samples=samples,
        seed=seed,
        sampling=sampling,
        problem_ids=problem_ids,
        slots=slots,
        progress=progress,
        stop=stop,
        stop_on_loop=stop_on_loop,
    )
    return effects_of_chains(
        chains,
        trials,
        model,
        verify,
        lexicon=lexicon,
        extra=extra,
        answer=answer,
        level=level,
        family=family,
        censored=stop_on_loop,
    )


def effects_of_chains(
    chains: Sequence[Chain],
    trials: Sequence[Ablation],
    model: ReasoningModel,
    verify: Verify | None = None,
    *,
    lexicon: Lexicon | None = None,
    extra: Extra | None = None,
    answer: Answer | None = None,
    level: float = 0.95,
    family: Literal["group", "all"] = "group",
    censored: bool = False,
) -> MeasuredEffects:
    """Compare chains that exist already: those of the dense model and of every ablation's variant.

    Args:
        chains: Finished chains.
        trials: The ablations that wrote them.
        model: Decodes token ids; also gives the layer map.
        verify: Tells for (problem, chain) whether the chain is right; None: it gives no answer.
        lexicon: The words that reflect; default: the model's own.
        extra: Further outcomes of (problem, chain): numbers by name, None where one is not defined.
        answer: The answer of a chain, for the entropy of the answers; default: the answer's text.
        level: Confidence level of the intervals.
        family: Holm's correction across the blocks of each ablation and part ("group"), or across
            all effects on an outcome ("all").
        censored: Whether chains were ended where they looped (`stop_on_loop`).

    Returns:
        The effects by outcome.

    Raises:
        UserError: A chain is of no ablation, there is no dense chain, a problem and sample appear
            twice, or `extra` returns an outcome that exists already.
    """
    by_name = {t.variant.name: t for t in trials}
    known = {"dense", *by_name}
    if strange := sorted({c.variant for c in chains} - known):
        raise UserError(
            f"effects_of_chains: chains of variant {strange[0]!r}, which is not "
            "among the ablations: pass its ablation, or leave the chain out."
        )
    pieces = Pieces(model)
    words = lexicon_of(pieces, lexicon)
    rows = [_row(c, by_name.get(c.variant), pieces, words, verify, extra) for c in chains]
    frame = pd.DataFrame(rows)
    if frame.empty or not (frame["variant"] == "dense").any():
        raise UserError(
            "effects_of_chains: no chain of the dense model; expected some to compare with."
        )
    if frame.duplicated(["problem", "sample", "variant"]).any():
        raise UserError(
            "effects_of_chains: a problem and sample appear twice; pass chains of one budget."
        )
    keys = ("benchmark", "problem", "sample", "seed", "variant", "block", *BY)
    outcomes = [c for c in frame.columns if c not in keys]
    if censored:
        outcomes.remove("persistence")
    found, missing = {}, []
    for outcome in outcomes:
        pairs = _pairs(frame, outcome)
        if not np.isfinite(pairs[[outcome, f"{outcome}__dense"]].to_numpy(float)).all(1).any():
            missing.append(outcome)
            continue
        found[outcome] = block_effects(frame, outcome, by=BY, level=level, family=family)
    samples = _between_samples(chains, by_name, verify, answer or _said(pieces))
    for outcome in [c.removesuffix("__dense") for c in samples if c.endswith("__dense")]:
        both = samples[[outcome, f"{outcome}__dense"]].to_numpy(float)
        if np.isfinite(both).all(1).any():
            found[outcome] = effects_of_pairs(samples, outcome, BY, level=level, family=family)
        else:
            missing.append(outcome)
    return MeasuredEffects(
        effects=found,
        chains=frame,
        missing=tuple(missing),
        layer_map=model.layer_map,
        seed=int(frame["seed"].iloc[0]),
        n_problems=int(frame["problem"].nunique()),
        n_samples=int(frame["sample"].nunique()),
    )


def _row(
    chain: Chain,
    trial: Ablation | None,
    pieces: Pieces,
    lexicon: Lexicon,
    verify: Verify | None,
    extra: Extra | None,
) -> dict[str, Any]:
    """The outcomes of one chain."""
    from interp.diagnosis import diagnose

    seen: dict[str, Any] = dict(diagnose(chain, pieces, lexicon))
    row: dict[str, Any] = {"benchmark": "", "problem": chain.problem, "sample": chain.sample}
    row |= {"seed": chain.seed, "variant": chain.variant}
    row |= {"block": trial.block if trial else None}
    row |= {"ablation": trial.label if trial else None, "part": trial.part if trial else None}
    if verify is not None:
        right = verify(chain.problem, chain)
        row |= {"correct": float(right is True), "no_answer": float(right is None)}
    size, entries = len(chain.thinking) or chain.n_answer, seen["loop_entries"]
    outside = size - seen["loop_tokens"] + entries
    row |= {
        "looped": float(seen["looped"]),
        "loop_entries_per_1k": 1000 * entries / outside if outside else np.nan,
        "persistence": 1 - seen["loop_escapes"] / entries if entries else np.nan,
        "loop_share": seen["loop_tokens"] / size if size else np.nan,
        "repetition": seen["repetition"],
        "restated": seen["restated"],
        "reflection_per_1k": seen["reflection_per_1k"],
    }
    if lexicon.prose:
        stated = seen["equations"]
        slips = 100 * seen["equation_slips"] / stated if stated else np.nan
        row["slips_per_100_equations"] = slips
    for kind in lexicon.kinds:
        name = f"{kind.replace(' ', '_')}_per_1k"
        row[name] = seen[name]
    row |= {"thinking_tokens": float(chain.n_thinking), "tokens": float(chain.n_tokens)}
    row["mean_logprob"] = chain.mean_logprob
    if extra is not None:
        found = extra(chain.problem, chain)
        if not isinstance(found, Mapping):
            raise UserError(
                f"measure_effects: `extra` returned {short(found)}: expected a mapping of names to "
                "numbers."
            )
        for name, value in found.items():
            if name in row:
                raise UserError(
                    f"measure_effects: `extra` returns {name!r}, which exists already; use "
                    "another name."
                )
            row[name] = np.nan if value is None else float(value)
    return row


def _pairs(frame: pd.DataFrame, outcome: str) -> pd.DataFrame:
    keys = ["problem", "sample"]
    control = frame.loc[frame["variant"] == "dense", [*keys, outcome]]
    treated = frame.loc[frame["variant"] != "dense", [*keys, outcome]]
    return treated.merge(control, on=keys, suffixes=("", "__dense"))


def _said(pieces: Pieces) -> Answer:
    """The answer's text, white space aside; None where there is none."""

    def answer(chain: Chain) -> Hashable | None:
        text = " ".join(pieces.text(chain.answer_ids.tolist()).split()) if chain.answer else ""
        return text or None

    return answer


def _between_samples(
    chains: Sequence[Chain],
    by_name: Mapping[str, Ablation],
    verify: Verify | None,
    answer: Answer,
) -> pd.DataFrame:
    """One row per problem and ablation: measures of both sides at equal length and sample count."""
    groups: dict[tuple[str, str], dict[int, Chain]] = {}
    for chain in chains:
        groups.setdefault((chain.problem, chain.variant), {})[chain.sample] = chain
    verdicts: dict[tuple[str, str, int], bool] = {}
    if verify is not None:
        verdicts = {(c.problem, c.variant, c.sample): verify(c.problem, c) is True for c in chains}
    rows = []
    for (problem, name), there in groups.items():
        here = groups.get((problem, "dense"), {})
        shared = sorted(set(here) & set(there))
        if name not in by_name or len(shared) < 2:
            continue
        sides = [[side[s] for s in shared] for side in (here, there)]
        spans = [[c.thinking_ids if len(c.thinking) else c.answer_ids for c in s] for s in sides]
        length = min(len(ids) for side in spans for ids in side)
        if length < LEAST_LENGTH:
            continue
        trial = by_name[name]
        row: dict[str, Any] = {"benchmark": "", "problem": problem, "sample": 0}
        row |= {"block": trial.block, "ablation": trial.label, "part": trial.part}
        for suffix, side, ids in zip(("__dense", ""), sides, spans, strict=True):
            found = diversity(ids, [answer(c) for c in side], length=length)
            row |= {f"{m}{suffix}": getattr(found, m) for m in MEASURES}
            if verdicts:
                right = [verdicts[c.problem, c.variant, c.sample] for c in side]
                row[f"sample_accuracy{suffix}"] = float(np.mean(right))
        rows.append(row)
    return pd.DataFrame(rows)
