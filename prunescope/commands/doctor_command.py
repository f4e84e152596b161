"""The command that shows what this machine is to PruneScope."""

from __future__ import annotations

from typing import ClassVar

from interp.plumbing.command_line import Lines, command
from prunescope.commands.options import LoadedModelOptions
from prunescope.commands.output import Command, Result


@command
class Doctor(Command, LoadedModelOptions):
    """Show this machine: processor, kernels and which is fastest, threads, memory, versions.

    prunescope doctor

    prunescope doctor --model Qwen/Qwen3-0.6B --rows 64
    """

    ENTRIES: ClassVar = {
        "processor": "its name and vector instructions",
        "packages": "version by package",
        "memory": "total and free memory in bytes",
        "kernels": "state of each build of the compiled kernels",
        "threads": "number of threads, and how it is chosen",
        "thread_seconds": "seconds of one matrix product by number of threads",
        "backends": "seconds of two blocks by number of rows and backend",
        "chosen": "the backend by number of rows",
        "model": "the model that was timed",
        "devices": "names of the CUDA devices",
    }
    model: str = "testbed"
    """Whose blocks are timed: a Hub name, a folder, or the bundled reasoner ("testbed")."""
    rows: tuple[int, ...] = (8, 32, 128)
    """Rows decoded side by side."""

    def run(self) -> Lines:
        from prunescope.doctor import examine

        found = examine(self.loaded(), self.rows)
        yield Result("\n".join(found.report()), **found.to_dict())
