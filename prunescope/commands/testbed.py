"""The commands of the bundled reasoner: train, evaluate."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import ClassVar

from interp.plumbing.command_line import (
    File,
    Lines,
    ModelOptions,
    Number,
    OutOptions,
    SeedOptions,
    Word,
    command,
)
from prunescope import progress
from prunescope.commands.options import EstimateOptions, load
from prunescope.commands.output import ESTIMATE, Command, NextStep, estimated, files
from prunescope.commands.shared import table


@command
class Train(Command, EstimateOptions):
    """Train the bundled reasoner from nothing; stopped and run again, it goes on.

    prunescope testbed train --out runs/reasoner

    prunescope testbed train --estimate
    """

    ENTRIES: ClassVar = {
        "checkpoint": "folder of the checkpoint, once the training is over",
        "state": "folder of the state, while it is not",
        **ESTIMATE,
    }
    out: Path = Path("runs/reasoner")
    """Folder of the run: state, log, and at the end the checkpoint."""
    device: Word = None
    """cpu or cuda (default: cuda where there is one)."""
    threads: Number = None
    """Threads on the CPU."""
    stop_after: Number = None
    """Stop after that many steps; run again to go on."""
    machine: Word = None
    """Estimate for h200, h100, a100, rtx4090 or cpu; without it, from a step tried here."""

    def run(self) -> Lines:
        from testbed.training import Recipe, train

        self.check_estimate()
        if self.estimate:
            from scaling.costs.machines import machine as named
            from scaling.costs.reasoner_costs import estimate_reasoner

            device = named(self.machine) if self.machine else None
            yield estimated(estimate_reasoner(Recipe(), device, stop_after=self.stop_after))
            return

        folder = train(
            self.out, device=self.device, threads=self.threads, stop_after=self.stop_after
        )
        if folder == self.out:
            yield files("State", "state", folder)
            return
        yield files("Checkpoint", "checkpoint", folder)
        yield NextStep(f"prunescope testbed evaluate --model {shlex.quote(str(folder))}")


@command
class Evaluate(Command, ModelOptions, SeedOptions, OutOptions):
    """Measure a reasoner on fresh testbed problems: every figure of its model card.

    prunescope testbed evaluate --problems 500
    """

    ENTRIES: ClassVar = {
        "figures": "a row per kind of problem and budget: accuracy with its interval",
        "file": "the figures that --out names",
        "card": "the model card that --card names",
    }
    model: str = "testbed"
    """The bundled reasoner ("testbed") or a folder of `prunescope testbed train`."""
    problems: int = 500
    """Problems per kind."""
    parallel_problems: int = 100
    """Problems of which several samples are drawn."""
    samples: int = 8
    """Samples per problem."""
    out: File = None
    """Write all figures here (.json)."""
    card: File = None
    """Write the figures into the model card in this checkpoint folder."""

    def run(self) -> Lines:
        from testbed.evaluation import card_figures, evaluate, write_card

        with progress.bar() as bar:

            def step(what: str, done: int, total: int) -> None:
                bar.set_description_str(what)
                bar.total, bar.n = total, done
                bar.refresh()

            found = evaluate(
                load(self.model),
                problems=self.problems,
                parallel_problems=self.parallel_problems,
                samples=self.samples,
                seed=self.seed,
                report=step,
            )
        columns = ["kind", "budget", "value", "low", "high", "n_problems"]
        yield from table(found.to_frame(), "figures", columns=columns)
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(json.dumps(found.to_json(), indent=2), encoding="utf-8")
            yield files("Figures", "file", self.out)
        if self.card is not None:
            yield files("Card", "card", write_card(self.card, card_figures(found)))
