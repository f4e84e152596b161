"""Everything public that takes an argument, found by its name and signature."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from prunescope.names import NAMESPACES, TOP, modules

#: They train, decode a study or draw a report: seconds a call where an argument is accepted.
SLOW = (
    "recover prune_model run_study run_on_server run_on_cluster write_report judge_at judge_study "
    "Recovered.load"
).split()
#: No right call is tried: these ask the Hub, start workers, or refuse everything.
NEVER = (
    "hub_texts run_on_cluster ServerEngine.choose ServerEngine.score SublayerScores.lowest "
    "Recovered.read Store.ids_of push_to_hub"
).split()


@dataclass(frozen=True)
class Api:
    """A public function, constructor or method.

    Attributes:
        label: its name, such as "LayerPlan.lowest".
        function: what `inspect.signature` is asked about.
        owner: the class of a method; None for the others.
        bound: whether the method is called on an instance, not on the class.
    """

    label: str
    function: Callable[..., Any]
    owner: type | None = None
    bound: bool = False

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """What a caller names."""
        found = dict(inspect.signature(self.function).parameters)
        if self.owner is not None:
            found.pop("self", None)
        return found


@cache
def public() -> tuple[Api, ...]:
    """Everything public that takes an argument.

    Methods that carry out an interface of the project (an intervention's `new_delta`, a reducer's
    `update`) are called by the decoder, and not listed.
    """
    homes = [TOP, *(names.homes for names in NAMESPACES.values())]
    pairs = {(m, n): None for h in homes for n, m in modules(h).items() if m != "interp.errors"}
    values = [(name, getattr(importlib.import_module(module), name)) for module, name in pairs]
    values.append(("generate", importlib.import_module("interp.decoding.generate").generate))
    classes = {value for _, value in values if inspect.isclass(value)}
    found = {}
    for name, value in values:
        if inspect.isfunction(value):
            found[name] = Api(name, value)
        if not inspect.isclass(value):
            continue
        found[name] = Api(name, value)
        for key, held in vars(value).items():
            method = getattr(held, "__func__", held)
            above = [base for base in value.__mro__[1:] if key in vars(base)]
            if key.startswith("_") or not inspect.isfunction(method) or set(above) - classes:
                continue
            if key in ("decoder", "cacher", "drawer"):  # functions that methods call
                continue
            label = f"{name}.{key}"
            found[label] = Api(
                label, getattr(value, key), value, not isinstance(held, (classmethod, staticmethod))
            )
    return tuple(api for api in found.values() if api.parameters)
