"""Criteria: which block to remove first. One file each; this one finds them.

A criterion is a function in a file of this folder:

    @criterion("shortgpt", paper="arXiv 2403.03853", cost="1 forward")
    def block_influence(model, texts, ...) -> Scores

and adding the file is all there is to do: the folder is searched on the first call.

kind says how what is removed follows from the scores:

| kind | n blocks are |
|---|---|
| one-shot | the n lowest scores |
| contiguous | the best run of n neighbours |
| greedy | found one by one, everything scored again after each |
| search | the best set of n that a search over sets came across |

cost counts passes over all the texts, L being the blocks: "1 forward, 1 backward", "L/2 forwards",
"L generations a removal". What it says of passes can be read as numbers (`Cost`).
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from interp.errors import UserError, did_you_mean
from interp.model.reasoning_model import ReasoningModel
from pruning.scores import Scores

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Cost", "Criterion", "criteria", "criteria_table", "criterion", "score"]

Kind = Literal["one-shot", "contiguous", "greedy", "search"]
Removes = Literal["blocks", "sublayers"]
PASSES = ("forwards", "backwards", "generations")
_COUNT = re.compile(r"(\d+(?:\.\d+)?)?(L?)(?:/(\d+))?")
_PART = re.compile(r"(\d+(?:\.\d+)?|\d*L(?:/\d+)?) (forward|backward|generation)s?( a removal)?")


@dataclass(frozen=True)
class Cost:
    """What a criterion spends, in words and in passes over all its texts.

    forwards, backwards, generations: "" (none, or not a plain number: see the text), a number, or
    a multiple or a fraction of L, the number of blocks. per_removal: so much for each removal.
    """

    text: str
    forwards: str = ""
    backwards: str = ""
    generations: str = ""
    per_removal: bool = False

    @classmethod
    def read(cls, text: str) -> Cost:
        """The cost that a text such as "1 forward, 1 backward" states."""
        found = [_PART.fullmatch(part.strip()) for part in text.split(",")]
        parts = {match[2] + "s": match[1] for match in found if match}
        return cls(text, **parts, per_removal=any(match and match[3] for match in found))

    def passes(self, what: str, n_blocks: int, removals: int = 1) -> float:
        """How many `what` ("forwards", ...) a model of `n_blocks` blocks costs."""
        if what not in PASSES:
            raise UserError(did_you_mean(what, PASSES, "kind of pass"))
        stated = getattr(self, what)
        if not stated:
            return 0.0
        found = _COUNT.fullmatch(stated)
        if found is None:
            raise ValueError(f"Cost: {stated!r} is no number, and no multiple or fraction of L.")
        times, blocks, divisor = found.groups()
        number = float(times or 1) * (n_blocks if blocks else 1) / float(divisor or 1)
        return number * (removals if self.per_removal else 1)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Criterion:
    """A registered criterion."""

    name: str
    function: Callable[..., Scores]
    paper: str
    cost: Cost
    kind: Kind
    needs_texts: bool
    removes: Removes = "blocks"

    @property
    def greedy(self) -> bool:
        """Whether it scores again after every removal."""
        return self.kind == "greedy"

    @property
    def draws(self) -> bool:
        """Whether it takes a seed."""
        return "seed" in inspect.signature(self.function).parameters

    @property
    def options(self) -> tuple[str, ...]:
        """What may be passed on to the criterion by name."""
        taken = ("model", "texts", "seed")
        return tuple(n for n in inspect.signature(self.function).parameters if n not in taken)


_REGISTRY: dict[str, Criterion] = {}


def criterion(
    name: str,
    *,
    paper: str,
    cost: str | Cost,
    greedy: bool = False,
    needs_texts: bool = True,
    kind: Kind | None = None,
    removes: Removes = "blocks",
) -> Callable[[Callable[..., Scores]], Callable[..., Scores]]:
    """Register the function below as the criterion `name`.

    kind: see the module; without it greedy or one-shot.
    """
    found = cost if isinstance(cost, Cost) else Cost.read(cost)
    how: Kind = kind or ("greedy" if greedy else "one-shot")

    def register(function: Callable[..., Scores]) -> Callable[..., Scores]:
        known = _REGISTRY.get(name)
        if known is not None and known.function.__module__ != function.__module__:
            raise ValueError(f"Criterion {name!r} is in {known.function.__module__} already.")
        _REGISTRY[name] = Criterion(name, function, paper, found, how, needs_texts, removes)
        return function

    return register


def criteria() -> Mapping[str, Criterion]:
    """Every criterion by name, in alphabetical order."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return MappingProxyType(dict(sorted(_REGISTRY.items())))


def criteria_table() -> pd.DataFrame:
    """One row a criterion: what it is, where it is from, what it costs."""
    import pandas as pd

    rows = [
        {
            "criterion": c.name,
            "paper": c.paper,
            "kind": c.kind,
            "removes": c.removes,
            "cost": c.cost.text,
            "forwards": c.cost.forwards,
            "backwards": c.cost.backwards,
            "generations": c.cost.generations,
            "per_removal": c.cost.per_removal,
            "needs_texts": c.needs_texts,
        }
        for c in criteria().values()
    ]
    return pd.DataFrame(rows)


def score(
    name: str, model: ReasoningModel, texts: Any = None, seed: int = 0, **options: Any
) -> Scores:
    """Scores of every block by the named criterion.

    texts: texts, prompts, token ids, chains or a `Calibration` (see `pruning.calibration`). seed:
    for the criteria that draw. options: the criterion's own (`criteria()[name].options`).
    """
    known = criteria()
    if name not in known:
        raise UserError(did_you_mean(name, known, "criterion"))
    chosen = known[name]
    if wrong := sorted(set(options) - set(chosen.options)):
        raise UserError(did_you_mean(wrong[0], chosen.options, f"option of criterion {name!r}:"))
    if chosen.needs_texts and texts is None:
        raise UserError(f"Criterion {name!r} needs calibration texts: score(name, model, texts).")
    if chosen.draws:
        options["seed"] = seed
    return replace(chosen.function(model, texts, **options), model=model.fingerprint())
