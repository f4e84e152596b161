"""Plans of published papers, by name: "llama-2-7b/shortgpt-9".

There is one JSON file per model. It holds the number of blocks and, for each published list of
blocks: the criterion, the blocks in the order given (the first is removed first), the source
(down to the table or file), and `any_number`: whether the first n blocks are the plan for n
removals (false for a list published as one set). Every list was read in its source; a model
without a known list (Qwen3, for example) has no file.

A name is MODEL/CRITERION-N. N may be smaller than the list if `any_number` is true, because the
plans of a one-shot ranking nest. To add a plan, add a file, or an entry to a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from types import MappingProxyType

from interp.errors import UserError, did_you_mean


@dataclass(frozen=True)
class PublishedPlan:
    """A published list of blocks and its source.

    Attributes:
        name: MODEL/CRITERION-N.
        models: the models it was published for.
        n_blocks: the number of blocks of these models.
        criterion: the criterion that chose the blocks.
        order: dense indices in the order given; the first is removed first.
        any_number: whether the first n blocks are the plan for n removals.
        source: the paper, down to the table or file.
    """

    name: str
    models: tuple[str, ...]
    n_blocks: int
    criterion: str
    order: tuple[int, ...]
    any_number: bool
    source: str

    def first(self, remove: int) -> PublishedPlan:
        """Take the first blocks of the list, if the source ranks the blocks.

        Args:
            remove: how many blocks.

        Returns:
            The shorter plan.

        Raises:
            UserError: the plan was not published for this number of blocks.
        """
        if not (1 <= remove <= len(self.order) if self.any_number else remove == len(self.order)):
            n = len(self.order)
            allowed = f"1 to {n}" if self.any_number else f"exactly {n}"
            raise UserError(f"{self.name!r} was published for {allowed} blocks, not for {remove}.")
        name = f"{self.name.rpartition('-')[0]}-{remove}"
        return replace(self, name=name, order=self.order[:remove])


@cache
def published_plans() -> Mapping[str, PublishedPlan]:
    """Every published plan by its full name, in alphabetical order."""
    found = {}
    for file in resources.files(__name__).iterdir():
        if not file.name.endswith(".json"):
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        for entry in content["plans"]:
            order = tuple(entry["order"])
            name = f"{file.name.removesuffix('.json')}/{entry['criterion']}-{len(order)}"
            found[name] = PublishedPlan(
                name=name,
                models=tuple(content["models"]),
                n_blocks=content["n_blocks"],
                criterion=entry["criterion"],
                order=order,
                any_number=entry["any_number"],
                source=entry["source"],
            )
    return MappingProxyType(dict(sorted(found.items())))


def published_plan(name: str) -> PublishedPlan:
    """Look up a published plan by name.

    Args:
        name: MODEL/CRITERION-N. N may be smaller than listed if the source ranks the blocks.

    Returns:
        The plan.

    Raises:
        UserError: no such plan, or N is not available.
    """
    known = published_plans()
    if name in known:
        return known[name]
    family, _, number = name.rpartition("-")
    for listed, found in known.items():
        if family and listed.rpartition("-")[0] == family and number.isdecimal():
            return found.first(int(number))
    raise UserError(did_you_mean(name, known, "published plan"))
