"""Criteria: which block to remove first. There is one file per criterion; this one finds them.

A criterion is a function of a model, a calibration and options, in a file of this folder:

    @criterion("magnitude", paper="arXiv 2402.02834", cost=Cost(), needs_texts=False)
    def magnitude(model, *, p=1.0):
        return [sum(w.abs().pow(p).sum() for w in block.parameters()) for block in model.blocks]

and adding the file is all there is to do. What is registered takes `(model, texts, *, part, seed,
...)` and returns `Scores`: calibrating, and stamping the result with its criterion, model and
calibration, is done here.

| kind | n blocks to remove are |
|---|---|
| one-shot | the n lowest scores |
| contiguous | the best run of n neighbours |
| greedy | found one by one, everything scored again after each |
| search | the best set of n that a search over sets came across |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from interp.errors import UserError, did_you_mean
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.registry import Registry
from pruning.calibration import Calibration
from pruning.cost import FORWARD, Cost, ScoringJob, Stated, checked_cost, cost_of
from pruning.scores import ScoredBlocks, Scores

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FORWARD", "Cost", "Criterion", "ScoredBlocks", "ScoringJob", "criteria"]
__all__ += ["criteria_table", "criterion", "score"]

Kind = Literal["one-shot", "contiguous", "greedy", "search"]
Removes = Literal["blocks", "sublayers"]
NOT_OPTIONS = ("model", "calibration", "texts", "seed")


@dataclass(frozen=True)
class Criterion:
    """A registered criterion.

    Args:
        function: (model, texts, **options) -> `Scores`; calibrates and stamps.
        stated: its cost, as registered (`price` gives the cost of a job).
        calibrates: whether texts become a `Calibration`; a criterion that does not is given the
            texts as they came.
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
        """What may be passed on to the criterion by name."""
        names = inspect.signature(self.function).parameters
        own = tuple(name for name in names if name not in NOT_OPTIONS)
        return (*own, "part") if self._takes_part(own) else own

    def _takes_part(self, own: tuple[str, ...]) -> bool:
        return self.needs_texts and self.calibrates and "part" not in own

    def price(self, job: ScoringJob, options: Mapping[str, Any] | None = None) -> Cost:
        """The cost of a job with these options of the criterion (default: its own)."""
        return cost_of(self.stated, self.function, job, options or {})

    @property
    def cost(self) -> Cost:
        """The cost for a model of 32 blocks, with its default options."""
        return self.price(ScoringJob(32))


REGISTRY = Registry[Criterion](
    "criterion", __name__, entry_points="prunescope.criteria", plural="criteria"
)


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
    """Register the function below as the criterion `name`.

    The function takes the model, the calibration (none without `needs_texts`) and keyword options,
    and returns one number per block, a `ScoredBlocks`, or whole `Scores` (of sublayers).

    Args:
        name: of the criterion.
        paper: where it is from.
        cost: a `Cost`, or a function of a `ScoringJob` and of the options it names that returns
            one.
        greedy: the same as kind="greedy".
        needs_texts: whether it looks at data.
        calibrates: whether it takes a `Calibration`; without, it is given the texts as they came
            (a search over prompts).
        kind: see the module; without it greedy or one-shot.
        removes: what one of its values belongs to.

    Raises:
        UserError: the cost is no cost, or the name is taken.
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

        entry = Criterion(name, scored, paper, stated, how, needs_texts, removes, calibrates)
        REGISTRY.add(name, entry, function)
        return scored

    return register


def _stamped(
    found: Any,
    name: str,
    model: ReasoningModel,
    calibration: Calibration | None,
    seed: int | None,
) -> Scores:
    """What a criterion returned as `Scores` that say whose they are."""
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


def criteria() -> Mapping[str, Criterion]:
    """Every criterion by name, in alphabetical order."""
    return REGISTRY.entries()


def at_once() -> tuple[str, ...]:
    """The criteria that score blocks at once, without a draw, a gradient or a chain."""
    return tuple(
        c.name
        for c in criteria().values()
        if c.kind in ("one-shot", "contiguous")
        and c.removes == "blocks"
        and not (c.draws or c.cost.backwards or c.cost.generations)
    )


def criteria_table(n_blocks: int = 32, remove: int | None = None) -> pd.DataFrame:
    """One row per criterion: what it is, where it is from, what it costs.

    Args:
        n_blocks: of the model whose costs are given.
        remove: removals that a criterion which goes step by step follows (default: its own).

    Returns:
        Columns forwards, backwards, readouts and generations count passes per text (`Cost`).
    """
    import pandas as pd

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


def score(
    name: str, model: ReasoningModel, texts: Any = None, seed: int = 0, **options: Any
) -> Scores:
    """Score every block of a model by the named criterion.

    Args:
        name: the criterion; `criteria()` lists them.
        model: the model to score.
        texts: texts, prompts, token ids, chains or a `Calibration` (see `pruning.calibration`).
            None
            is allowed for criteria that read no texts.
        seed: the seed of criteria that draw at random; the others ignore it.
        **options: the criterion's own options (`criteria()[name].options`).

    Returns:
        The scores, with the fingerprint of the model.

    Raises:
        UserError: unknown criterion or option, or texts are missing or unusable.
    """
    chosen = REGISTRY.get(name)
    if wrong := sorted(set(options) - set(chosen.options)):
        raise UserError(did_you_mean(wrong[0], chosen.options, f"option of criterion {name!r}:"))
    if chosen.needs_texts and texts is None:
        raise UserError(f"Criterion {name!r} needs calibration texts: score(name, model, texts).")
    return chosen.function(model, texts, seed=seed, **options)
