"""PruneScope: remove blocks of a reasoning model, let it think, and see what broke, where, and why.

    import prunescope as ps

    model = ps.ReasoningModel.load("testbed")       # or a Hub name, a folder, a live HF model
    scores = ps.block_influence(model, texts)       # .to_frame(), .plot()
    plan = ps.LayerPlan.lowest(scores, remove=2)
    chains = model.generate(prompts, variants=[ps.dense, plan], budget=ps.Budget(512), samples=8)

What a first hour needs is here; the rest is in namespaces (`ps.probes.foretell`, `ps.effects.tie`).
A name's module is imported when the name is first used. `prunescope.names` is the table.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

from prunescope.names import MOVED, NAMESPACES, TOP, modules
from prunescope.namespaces import CallableNamespace, Namespace, load, unknown

_HOME = modules(TOP)
_SPACES = {
    name: (CallableNamespace if names.call else Namespace)(f"{__name__}.{name}", names)
    for name, names in NAMESPACES.items()
}
globals().update(_SPACES)
sys.modules.update({f"{__name__}.{name}": space for name, space in _SPACES.items()})
__all__ = sorted([*_HOME, *_SPACES, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("prunescope")
    if name in MOVED:
        new = MOVED[name]
        warnings.warn(
            f"prunescope.{name} goes in the next release; use prunescope.{new}.",
            DeprecationWarning,
            stacklevel=2,
        )
        space, _, member = new.rpartition(".")
        return getattr(_SPACES[space], member) if space else __getattr__(member)
    if name not in _HOME:
        raise unknown(__name__, name, [*__all__, *MOVED])
    value = load(name, _HOME[name])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
