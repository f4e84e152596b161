"""Plans of published papers, by name: "llama-2-7b/shortgpt-9".

One JSON file a model. It says how many blocks the model has and, for each published list of
blocks: the criterion, the blocks in the order given (the first is removed first), whether the
first n of them are the plan for n removals (`any_number`; a list that was published as one set is
not), and the source, down to the table or file. Only lists that were read in their source are
here; where none is known for a model (Qwen3, say), there is no file.

A name is MODEL/CRITERION-N. N may be smaller than listed where `any_number` says so: blocks of a
one-shot ranking nest. To add one, add a file, or an entry to one.
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
    """A published list of blocks (dense indices, in the order given) and where it is from."""

    name: str
    models: tuple[str, ...]
    n_blocks: int
    criterion: str
    order: tuple[int, ...]
    any_number: bool
    source: str

    def first(self, remove: int) -> PublishedPlan:
        """The first `remove` blocks of the list, where the source ranks the blocks."""
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
    """The plan of that name; N may be smaller than listed where the source ranks the blocks."""
    known = published_plans()
    if name in known:
        return known[name]
    family, _, number = name.rpartition("-")
    for listed, found in known.items():
        if family and listed.rpartition("-")[0] == family and number.isdecimal():
            return found.first(int(number))
    raise UserError(did_you_mean(name, known, "published plan"))
