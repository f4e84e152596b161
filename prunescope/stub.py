"""Writes `prunescope/__init__.pyi`, the types of the front door, from `prunescope.names`.

python -m prunescope.stub
"""

from __future__ import annotations

from pathlib import Path

from prunescope.names import MOVED, NAMESPACES, TOP, modules
from prunescope.namespaces import load

FILE = Path(__file__).with_name("__init__.pyi")
HEAD = '"""The types of the front door. Written by `python -m prunescope.stub`: do not edit."""'


def stub() -> str:
    """Returns the text of `__init__.pyi`.

    A namespace is a class whose attributes are its names: functions as static methods, classes as
    aliases. One that can be called is an instance of such a class.
    """
    top = modules(TOP)
    spaced = {k: v for names in NAMESPACES.values() for k, v in modules(names.homes).items()}
    home = spaced | top
    older = {old: new.rpartition(".")[2] for old, new in MOVED.items()}
    shown = sorted([*top, *NAMESPACES, "__version__"])
    lines = [HEAD, "", "__all__ = [", *(f'    "{name}",' for name in shown), "]", ""]
    lines += [f"from {module} import {name} as {name}" for name, module in sorted(top.items())]
    lines += ["", "# Older names; they go in the next release."]
    lines += [f"from {home[name]} import {name} as {old}" for old, name in sorted(older.items())]
    lines += ["", "# For the namespaces."]
    lines += [f"from {module} import {name} as _{name}" for name, module in sorted(spaced.items())]
    lines += ["", "__version__: str"]
    for space, names in NAMESPACES.items():
        shown = f"_{space}_namespace" if names.call else space
        lines += ["", f"class {shown}:", f'    """{names.doc}"""', ""]
        for name, module in sorted(modules(names.homes).items()):
            value = load(name, module)
            plain = isinstance(value, type) or not callable(value)
            lines.append(
                f"    {name} = _{name}" if plain else f"    {name} = staticmethod(_{name})"
            )
        if names.call:
            lines += [f"    __call__ = staticmethod(_{names.call})", "", f"{space}: {shown}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(stub(), encoding="utf-8")
