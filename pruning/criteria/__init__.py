"""Criteria: which block to remove first. One file each; this one finds them.

A criterion is a function in a file of this folder:

    @criterion("shortgpt", paper="arXiv 2403.03853", cost="1 forward")
    def block_influence(model, texts, ...) -> Scores

and adding the file is all there is to do: the folder is searched on the first call. Its name,
paper, cost and whether it is greedy (it scores again after every removal) are in `criteria()`.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from interp.errors import UserError, did_you_mean
from interp.model import ReasoningModel
from pruning.scores import Scores

__all__ = ["Criterion", "criteria", "criterion", "score"]


@dataclass(frozen=True)
class Criterion:
    """A registered criterion. cost: in forwards, backwards or generations of the texts."""

    name: str
    function: Callable[..., Scores]
    paper: str
    cost: str
    greedy: bool
    needs_texts: bool

    @property
    def options(self) -> tuple[str, ...]:
        """What may be passed on to the criterion by name."""
        taken = ("model", "texts", "seed")
        return tuple(n for n in inspect.signature(self.function).parameters if n not in taken)


_REGISTRY: dict[str, Criterion] = {}


def criterion(
    name: str, *, paper: str, cost: str, greedy: bool = False, needs_texts: bool = True
) -> Callable[[Callable[..., Scores]], Callable[..., Scores]]:
    """Register the function below as the criterion `name`."""

    def register(function: Callable[..., Scores]) -> Callable[..., Scores]:
        known = _REGISTRY.get(name)
        if known is not None and known.function.__module__ != function.__module__:
            raise ValueError(f"Criterion {name!r} is in {known.function.__module__} already.")
        _REGISTRY[name] = Criterion(name, function, paper, cost, greedy, needs_texts)
        return function

    return register


def criteria() -> Mapping[str, Criterion]:
    """Every criterion by name, in alphabetical order."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return MappingProxyType(dict(sorted(_REGISTRY.items())))


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
    if "seed" in inspect.signature(chosen.function).parameters:
        options["seed"] = seed
    return replace(chosen.function(model, texts, **options), model=model.fingerprint())
