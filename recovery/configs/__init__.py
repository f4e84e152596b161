"""Accelerate configurations for training on several GPUs; docs/recovery.md says when to use which.

`path(NAME)` gives the file, which
`accelerate launch --config_file FILE` takes.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from interp.errors import UserError, did_you_mean


def names() -> tuple[str, ...]:
    """The configurations that are shipped."""
    folder = Path(str(resources.files(__name__)))
    return tuple(sorted(file.stem for file in folder.glob("*.yaml")))


def path(name: str) -> Path:
    """The file of a configuration."""
    if name not in names():
        raise UserError(did_you_mean(name, names(), "accelerate configuration"))
    return Path(str(resources.files(__name__))) / f"{name}.yaml"
