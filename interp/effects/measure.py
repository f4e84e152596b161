"""The effect of every block, attention and MLP on what a chain does: decoded, diagnosed, paired.

    from interp.effects import ablations, measure_effects

    found = measure_effects(model, prompts, ablations(model, ("skip", "scale")), verify=verify)
    found.to_frame()
    found.of("correct").plot()
    found.dose("correct").plot()

The dense model and every ablation answer the same prompts with the same noise, all in one batch.
Each chain is diagnosed, each problem's samples are compared with each other, and every outcome is
compared with the dense model's, paired by problem and sample (`paired_effects`).

| outcome of a chain | |
|---|---|
| `correct`, `no_answer` | from `verify` |
| `looped`, `loop_entries_per_1k` | ends in a loop; loops begun |
| `persistence`, `loop_share` | share of its loops not left; share of its tokens in loops |
| `repetition`, `restated` | within one chain |
| `reflection_per_1k` and each kind's | loops left out |
| `thinking_tokens`, `tokens`, `mean_logprob` | |
| whatever `extra` returns | kinds of steps, say |

Outcomes of a problem (two samples and more): the measures of `diversity`, on the dense samples and
the ablation's cut to the same length (the shortest of both), always with `sample_accuracy`, the
accuracy of the very same samples.

A chain's persistence is defined where it looped at all, so its effect needs pairs that looped on
both sides; with few of them, `loop_dynamics` of each variant's chains says more.

`interp` knows no benchmark: what is right is what `verify(problem, chain)` says.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from interp.chains.chain import Budget, Chain
from interp.decoding.generate import generate
from interp.decoding.sampling import Sampling
from interp.diagnosis.diversity_comparison import LEAST_LENGTH, MEASURES
from interp.diagnosis.diversity_measures import diversity
from interp.diagnosis.reflection_lexicon import NATURAL, Lexicon
from interp.diagnosis.token_text import Pieces
from interp.effects.ablation_variants import Ablation
from interp.effects.dose import DoseResponse, dose_response
from interp.effects.paired_effects import Effects, block_effects, effects_of_pairs
from interp.errors import UserError, did_you_mean
from interp.interventions.interventions import dense
from interp.model.reasoning_model import Question, ReasoningModel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

BY = ("ablation", "part")
Verify = Callable[[str, Chain], bool | None]
Extra = Callable[[str, Chain], Mapping[str, float | None]]
Answer = Callable[[Chain], Hashable | None]


@dataclass(frozen=True)
class MeasuredEffects:
    """Effects by outcome, with the rows they were made of.

    effects: one `Effects` an outcome, its groups (ablation, part). chains: one row a chain.
    missing: outcomes that no pair had. Blocks are dense indices.
    """

    effects: dict[str, Effects]
    chains: pd.DataFrame = field(repr=False)
    missing: tuple[str, ...]
    layer_map: tuple[int, ...]
    seed: int
    n_problems: int
    n_samples: int

    def of(self, outcome: str) -> Effects:
        """The effects on one outcome."""
        if outcome in self.missing:
            raise UserError(f"Outcome {outcome!r} is defined in no pair of chains here.")
        if outcome not in self.effects:
            raise UserError(did_you_mean(outcome, self.effects, "outcome"))
        return self.effects[outcome]

    def to_frame(self) -> pd.DataFrame:
        """One row an outcome, ablation, part and block."""
        import pandas as pd

        return pd.concat([one.to_frame() for one in self.effects.values()], ignore_index=True)

    def plot(
        self, outcome: str = "correct", ablation: str = "skip", ax: Axes | None = None
    ) -> Axes:
        """One outcome under one ablation, by block: a colour a part, intervals."""
        return self.of(outcome).only(ablation=ablation).plot(ax)

    def dose(self, outcome: str = "correct", part: str = "block") -> DoseResponse:
        """How an outcome changes with the gain of a part, block by block (skip is gain 0)."""
        return dose_response(self.of(outcome), part)


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
    lexicon: Lexicon = NATURAL,
    extra: Extra | None = None,
    answer: Answer | None = None,
    stop: Sequence[str] = (),
    stop_on_loop: bool = False,
    slots: int | None = None,
    progress: bool | Callable[[int, int, int], None] = False,
    level: float = 0.95,
    family: Literal["group", "all"] = "group",
) -> MeasuredEffects:
    """Decodes the prompts dense and under every ablation, and compares.

    trials: from `ablations`. verify: is the chain right (None: it gives no answer)? extra: further
    outcomes of a chain, numbers by name (None where not defined). answer: what a chain answered,
    for the entropy of the answers (default: the answer's text). stop_on_loop saves time and leaves
    loops censored: persistence is then nothing to go by. family: Holm across the blocks of each
    ablation and part, or across all of an outcome.
    """
    if not trials:
        raise UserError("measure_effects: no ablation was given, such as ablations(model).")
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
    lexicon: Lexicon = NATURAL,
    extra: Extra | None = None,
    answer: Answer | None = None,
    level: float = 0.95,
    family: Literal["group", "all"] = "group",
    censored: bool = False,
) -> MeasuredEffects:
    """The same of chains that are there: those of the dense model and of every ablation's variant.

    censored: they were ended where they looped (`stop_on_loop`).
    """
    import pandas as pd

    by_name = {t.variant.name: t for t in trials}
    known = {"dense", *by_name}
    if strange := sorted({c.variant for c in chains} - known):
        raise UserError(
            f"effects_of_chains: chains of variant {strange[0]!r}, which is none of the ablations."
        )
    pieces = Pieces(model)
    rows = [_row(c, by_name.get(c.variant), pieces, lexicon, verify, extra) for c in chains]
    frame = pd.DataFrame(rows)
    if frame.empty or not (frame["variant"] == "dense").any():
        raise UserError("effects_of_chains: no chain of the dense model to compare with.")
    if frame.duplicated(["problem", "sample", "variant"]).any():
        raise UserError("effects_of_chains: a problem and sample appear twice: give one budget.")
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
    size, entries = chain.n_thinking or chain.n_answer, seen["loop_entries"]
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
    for kind in lexicon.kinds:
        name = f"{kind.replace(' ', '_')}_per_1k"
        row[name] = seen[name]
    row |= {"thinking_tokens": float(chain.n_thinking), "tokens": float(chain.n_tokens)}
    row["mean_logprob"] = chain.mean_logprob
    if extra is not None:
        for name, value in extra(chain.problem, chain).items():
            if name in row:
                raise UserError(
                    f"measure_effects: `extra` returns {name!r}, which is there already."
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
    """One row a problem and ablation: measures of both sides at equal length and numbers."""
    import pandas as pd

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
