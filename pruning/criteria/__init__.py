"""Criteria: which block to remove first. There is one file per criterion; this one finds them.

A criterion is a function in a file of this folder:

    @criterion("shortgpt", paper="arXiv 2403.03853", cost="1 forward")
    def block_influence(model, texts, ...) -> Scores

Adding the file is enough: the folder is searched on the first call. `kind` says which n blocks are
removed: "one-shot" the n lowest scores; "contiguous" the best run of n neighbours; "greedy" one by
one, with new scores after each removal; "search" the best set of n that a search over sets found.

`cost` counts passes over all the texts, L being the number of blocks: "1 forward, 1 backward",
"L/2 forwards", "L generations a removal". `Cost` reads the numbers.
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
    """The cost of a criterion, as text and in passes over all its texts.

    A number of passes is "" (none, or not a plain number: see `text`), a number, or a multiple or a
    fraction of L, the number of blocks.

    Attributes:
        text: the cost as text.
        forwards: forward passes.
        backwards: backward passes.
        generations: decoding runs over all prompts.
        per_removal: whether the numbers count for each removal.
    """

    text: str
    forwards: str = ""
    backwards: str = ""
    generations: str = ""
    per_removal: bool = False

    @classmethod
    def read(cls, text: str) -> Cost:
        """Read the numbers in a text such as "1 forward, 1 backward".

        Args:
            text: parts separated by commas, each a number, a kind of pass, and optionally "a
                removal".
                Other parts are kept as text only.

        Returns:
            The cost.
        """
        found = [_PART.fullmatch(part.strip()) for part in text.split(",")]
        parts = {match[2] + "s": match[1] for match in found if match}
        return cls(text, **parts, per_removal=any(match and match[3] for match in found))

    def passes(self, what: str, n_blocks: int, removals: int = 1) -> float:
        """Compute the number of passes of one kind.

        Args:
            what: "forwards", "backwards" or "generations".
            n_blocks: the number of blocks of the model.
            removals: how many blocks are removed.

        Returns:
            The number of passes over all the texts; 0.0 if none is stated.

        Raises:
            UserError: `what` is no kind of pass.
            ValueError: the stated number cannot be read.
        """
        if what not in PASSES:
            raise UserError(did_you_mean(what, PASSES, "kind of pass"))
        stated = getattr(self, what)
        if not stated:
            return 0.0
        found = _COUNT.fullmatch(stated)
        if found is None:
            raise ValueError(
                f"Cost: {stated!r} is not a number, and not a multiple or fraction of L; expected "
                'text such as "1", "2L" or "L/2".'
            )
        times, blocks, divisor = found.groups()
        number = float(times or 1) * (n_blocks if blocks else 1) / float(divisor or 1)
        return number * (removals if self.per_removal else 1)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Criterion:
    """A registered criterion.

    Attributes:
        name: the criterion's name.
        function: scores a model: (model, texts, **options) -> Scores.
        paper: its source.
        cost: its cost.
        kind: how removals follow from the scores (see the module).
        needs_texts: whether it reads calibration texts.
        removes: "blocks" or "sublayers".
    """

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
        """Whether it draws at random and takes a seed."""
        return "seed" in inspect.signature(self.function).parameters

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the criterion's own options."""
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
    """Register the decorated function as a criterion.

    Args:
        name: the criterion's name.
        paper: its source.
        cost: its cost, as text for `Cost.read` or as a `Cost`.
        greedy: whether it is greedy; used if `kind` is not given.
        needs_texts: whether it reads calibration texts.
        kind: how removals follow from the scores (see the module). Default: "greedy" or "one-shot".
        removes: "blocks" or "sublayers".

    Returns:
        The decorator; it returns the function unchanged.

    Raises:
        ValueError: another module has registered the name.
    """
    found = cost if isinstance(cost, Cost) else Cost.read(cost)
    how: Kind = kind or ("greedy" if greedy else "one-shot")

    def register(function: Callable[..., Scores]) -> Callable[..., Scores]:
        known = _REGISTRY.get(name)
        if known is not None and known.function.__module__ != function.__module__:
            raise ValueError(
                f"Criterion {name!r} is already registered by {known.function.__module__}: choose "
                "another name."
            )
        _REGISTRY[name] = Criterion(name, function, paper, found, how, needs_texts, removes)
        return function

    return register


def criteria() -> Mapping[str, Criterion]:
    """Every criterion by name, in alphabetical order."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return MappingProxyType(dict(sorted(_REGISTRY.items())))


def criteria_table() -> pd.DataFrame:
    """Return one row per criterion: name, paper, kind and cost."""
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
