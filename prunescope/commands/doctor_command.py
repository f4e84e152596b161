"""The command that shows what this machine is to PruneScope."""

from __future__ import annotations

import json
from dataclasses import dataclass

from prunescope.commands.shared import Flag, Lines, load


@dataclass(frozen=True)
class Doctor:
    """Show this machine: processor, kernels and which is fastest, threads, memory, versions.

    prunescope doctor

    prunescope doctor --model Qwen/Qwen3-0.6B --rows 64
    """

    model: str = "testbed"
    """Whose blocks are timed: a Hub name, a folder, or the bundled reasoner ("testbed")."""
    rows: tuple[int, ...] = (8, 32, 128)
    """Rows decoded side by side."""
    trust_remote_code: Flag = False
    """Run the model's own code (only for models you trust)."""
    json: Flag = False
    """Print one JSON object instead of lines."""

    def run(self) -> Lines:
        from prunescope.doctor import examine

        found = examine(load(self.model, self.trust_remote_code), self.rows)
        yield from [json.dumps(found.to_dict())] if self.json else found.report()
