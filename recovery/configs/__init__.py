"""Accelerate configurations for training on several GPUs; docs/recovery.md says when to use which.

`path(NAME)` returns the file for `accelerate launch --config_file FILE`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from interp.errors import check_known


def names() -> tuple[str, ...]:
    """The configurations that are shipped."""
    folder = Path(str(resources.files(__name__)))
    return tuple(sorted(file.stem for file in folder.glob("*.yaml")))


def path(name: str) -> Path:
    """The file of a configuration.

    Args:
        name: one of `names()`.

    Returns:
        The path of the YAML file.

    Raises:
        UserError: no such configuration.
    """
    check_known(name, names(), "accelerate configuration")
    return Path(str(resources.files(__name__))) / f"{name}.yaml"
