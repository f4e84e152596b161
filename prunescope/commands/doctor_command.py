"""The command that shows what this machine is to PruneScope."""

from __future__ import annotations

import json

from interp.plumbing.command_line import Flag, Lines, command
from prunescope.commands.options import LoadedModelOptions


@command
class Doctor(LoadedModelOptions):
    """Show this machine: processor, kernels and which is fastest, threads, memory, versions.

    prunescope doctor

    prunescope doctor --model Qwen/Qwen3-0.6B --rows 64
    """

    model: str = "testbed"
    """Whose blocks are timed: a Hub name, a folder, or the bundled reasoner ("testbed")."""
    rows: tuple[int, ...] = (8, 32, 128)
    """Rows decoded side by side."""
    json: Flag = False
    """Print one JSON object instead of lines."""

    def run(self) -> Lines:
        from prunescope.doctor import examine

        found = examine(self.loaded(), self.rows)
        yield from [json.dumps(found.to_dict())] if self.json else found.report()
