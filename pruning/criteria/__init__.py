"""Criteria: which block to remove first. There is one file per criterion; this one finds them.

A criterion is a function of a model, a calibration and options, in a file of this folder:

    @criterion("magnitude", paper="arXiv 2402.02834", cost=Cost(), needs_texts=False)
    def magnitude(model, *, p=1.0):
        return [sum(w.abs().pow(p).sum() for w in block.parameters()) for block in model.blocks]

Adding the file is enough. The registered function takes `(model, texts, *, part, seed, ...)` and
returns `Scores`: this module makes the calibration, and labels the result with criterion, model
and calibration. The n blocks to remove are the n lowest scores (kind "one-shot"), the best run of
n neighbours ("contiguous"), those found one by one with new scores after each removal ("greedy"),
or the best set of n that a search over sets found ("search").
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Literal

import numpy as np
import pandas as pd

from interp.errors import UserError, check_known
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.registry import Registry
from pruning.calibration import Calibration
from pruning.cost import FORWARD, Cost, ScoringJob, Stated, checked_cost, cost_of
from pruning.scores import ScoredBlocks, Scores

Kind = Literal["one-shot", "contiguous", "greedy", "search"]
Removes = Literal["blocks", "sublayers"]
NOT_OPTIONS = ("model", "calibration", "texts", "seed")


@dataclass(frozen=True)
class Criterion:
    """A registered criterion.

    Attributes:
        name: the criterion's name.
        function: (model, texts, **options) -> `Scores`; makes the calibration and labels the
            result.
        paper: its source.
        stated: its cost, as registered (`price` gives the cost of a job).
        kind: how removals follow from the scores (see the module).
        needs_texts: whether it reads calibration texts.
        removes: "blocks" or "sublayers".
        calibrates: whether texts become a `Calibration`; otherwise the criterion gets the texts
            unchanged.
    """

    name: str
    function: Callable[..., Scores]
    paper: str
    stated: Stated
    kind: Kind
    needs_texts: bool
    removes: Removes = "blocks"
    calibrates: bool = True

    @property
    def greedy(self) -> bool:
        """Whether it scores again after every removal."""
        return self.kind == "greedy"

    @property
    def draws(self) -> bool:
        """Whether it draws at random and takes a seed."""
        return "seed" in inspect.signature(self.function).parameters

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the criterion's own options."""
        names = inspect.signature(self.function).parameters
        own = tuple(name for name in names if name not in NOT_OPTIONS)
        return (*own, "part") if self._takes_part(own) else own

    def _takes_part(self, own: tuple[str, ...]) -> bool:
        return self.needs_texts and self.calibrates and "part" not in own

    def price(self, job: ScoringJob, options: Mapping[str, Any] | None = None) -> Cost:
        """The cost of a job with these options.

        Args:
            job: the model and calibration set to score.
            options: options of the criterion by name. Default: its own defaults.

        Returns:
            The cost per text of the calibration set.
        """
        return cost_of(self.stated, self.function, job, options or {})

    @property
    def cost(self) -> Cost:
        """The cost for a model of 32 blocks, with its default options."""
        return self.price(ScoringJob(32))


REGISTRY = Registry[Criterion](
    "criterion", __name__, entry_points="prunescope.criteria", plural="criteria"
)


@checked
def criterion(
    name: str,
    *,
    paper: str,
    cost: Stated,
    greedy: bool = False,
    needs_texts: bool = True,
    calibrates: bool = True,
    kind: Kind | None = None,
    removes: Removes = "blocks",
) -> Callable[[Callable[..., Any]], Callable[..., Scores]]:
    """Register the decorated function as a criterion.

    The function takes the model, the calibration (unless `needs_texts` is False) and keyword
    options. It returns one number per block, a `ScoredBlocks`, or complete `Scores` (of sublayers).

    Args:
        name: the criterion's name.
        paper: its source.
        cost: a `Cost`, or a function of a `ScoringJob` and of the options it names that returns
            one.
        greedy: the same as `kind="greedy"`; used if `kind` is not given.
        needs_texts: whether it reads calibration texts.
        calibrates: whether it takes a `Calibration`; otherwise it gets the texts unchanged (a
            search over prompts).
        kind: how removals follow from the scores (see the module). Default: "greedy" or "one-shot".
        removes: "blocks" or "sublayers".

    Returns:
        The decorator; it returns the registered function: (model, texts, *, part, seed, **options)
        -> `Scores`.

    Raises:
        UserError: `cost` is not a cost, or another function has registered the name.
    """
    how: Kind = kind or ("greedy" if greedy else "one-shot")

    def register(function: Callable[..., Any]) -> Callable[..., Scores]:
        stated = checked_cost(f"criterion {name!r}", cost, function)
        draws = "seed" in inspect.signature(function).parameters

        @wraps(function)
        def scored(
            model: ReasoningModel,
            texts: Any = None,
            *,
            part: Any = None,
            seed: int = 0,
            **options: Any,
        ) -> Scores:
            if draws:
                options["seed"] = seed
            given: tuple[Any, ...] = ()
            calibration = None
            if needs_texts and calibrates:
                given = (calibration := Calibration.of(model, texts, part),)
            elif needs_texts:
                given = (texts,)
                if part is not None:
                    options["part"] = part
            found = function(model, *given, **options)
            return _stamped(found, name, model, calibration, seed if draws else None)

        own = inspect.signature(function)
        scored.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[
                p.replace(name="texts", default=None, annotation=Any)
                if p.name == "calibration"
                else p
                for p in own.parameters.values()
            ]
        )
        made = checked(scored)
        entry = Criterion(name, made, paper, stated, how, needs_texts, removes, calibrates)
        REGISTRY.add(name, entry, function)
        return made

    return register


def _stamped(
    found: Any,
    name: str,
    model: ReasoningModel,
    calibration: Calibration | None,
    seed: int | None,
) -> Scores:
    """Turn a criterion's result into `Scores` labelled with criterion, model and calibration."""
    if isinstance(found, Scores):
        mine = found
    else:
        if not isinstance(found, ScoredBlocks):
            found = ScoredBlocks(found)
        values = np.asarray(found.values, dtype=np.float64)
        low, high = found.interval or (np.full(values.shape, np.nan),) * 2
        calibration = found.calibration or calibration
        mine = Scores(
            criterion=found.label,
            values=values,
            low=low,
            high=high,
            layer_map=model.layer_map,
            n_tokens=found.n_tokens or 0,
            picks=found.picks,
            tie_break=found.tie_break,
        )
    said: dict[str, Any] = {"model": model.fingerprint(), "seed": seed}
    if not mine.criterion:
        said["criterion"] = name
    if calibration is not None:
        said |= {"n_texts": len(calibration.sequences), "calibration": calibration.hash}
        said["n_tokens"] = mine.n_tokens or calibration.n_tokens
    return replace(mine, **said)


@checked
def criteria() -> Mapping[str, Criterion]:
    """Every criterion by name, in alphabetical order."""
    return REGISTRY.entries()


def at_once() -> tuple[str, ...]:
    """Names of the criteria that score blocks in one go, without draws, gradients or chains."""
    return tuple(
        c.name
        for c in criteria().values()
        if c.kind in ("one-shot", "contiguous")
        and c.removes == "blocks"
        and not (c.draws or c.cost.backwards or c.cost.generations)
    )


@checked
def criteria_table(n_blocks: int = 32, remove: int | None = None) -> pd.DataFrame:
    """One row per criterion: its name, source, kind and cost.

    Args:
        n_blocks: number of blocks of the model whose costs are given.
        remove: number of removals of greedy criteria and searches. Default: each criterion's own.

    Returns:
        A table; the columns forwards, backwards, readouts and generations count passes per text
        (`Cost`).
    """
    rows = []
    for c in criteria().values():
        cost = c.price(ScoringJob(n_blocks, remove))
        rows.append(
            {
                "criterion": c.name,
                "paper": c.paper,
                "kind": c.kind,
                "removes": c.removes,
                **cost.__dict__,
                "needs_texts": c.needs_texts,
            }
        )
    return pd.DataFrame(rows)


@checked
def score(
    name: str, model: ReasoningModel, texts: Any = None, seed: int = 0, **options: Any
) -> Scores:
    """Score every block of a model by the named criterion.

    Args:
        name: the criterion; `criteria()` lists them.
        model: the model to score.
        texts: texts, prompts, token ids, chains or a `Calibration` (see `pruning.calibration`).
            None is allowed for criteria that read no texts.
        seed: the seed of criteria that draw at random; the others ignore it.
        **options: the criterion's own options (`criteria()[name].options`).

    Returns:
        The scores, with the fingerprint of the model.

    Raises:
        UserError: unknown criterion or option, or texts are missing or unusable.
    """
    chosen = REGISTRY.get(name)
    for option in options:
        check_known(option, chosen.options, f"option of criterion {name!r}:")
    if chosen.needs_texts and texts is None:
        raise UserError(f"Criterion {name!r} needs calibration texts: score(name, model, texts).")
    return chosen.function(model, texts, seed=seed, **options)
