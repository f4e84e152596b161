"""Commands that decide and remove: score, prune."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import UserError
from prunescope.commands.shared import (
    File,
    Files,
    Flag,
    Lines,
    Names,
    Number,
    Numbers,
    check_criterion,
    load,
    own_chains,
    pairs_of,
    read_texts,
    table,
)


@dataclass(frozen=True)
class Score:
    """Score every block by a pruning criterion; low scores are removed first.

    Calibrated on the model's own chains on spare problems of the benchmarks, as a study does, or
    on texts of yours.

    prunescope score --method shortgpt

    prunescope score --model Qwen/Qwen3-8B --texts calibration.txt
    """

    model: str = "testbed"
    """The bundled reasoner ("testbed"), a Hub name, or a checkpoint folder."""
    method: str = "shortgpt"
    """The criterion."""
    texts: File = None
    """Calibration texts: .txt (a text a line) or .jsonl (field "text")."""
    benchmarks: Names = ()
    """Calibrate on the model's chains on these; the model's usual benchmarks if none are named."""
    data: Files = ()
    """Read a benchmark from a file of yours."""
    seed: int = 0
    """Seed of the chains, and of criteria that draw."""
    out: File = None
    """Write the table here (.csv) as well."""
    trust_remote_code: Flag = False
    """Let a model of the Hub run its own code on this machine."""

    def run(self) -> Lines:
        frame = self.scores(load(self.model, self.trust_remote_code)).to_frame()
        yield from table(frame[["block", "score", "low", "high", "rank"]], self.out)

    def scores(self, model: Any) -> Any:
        """The scores of `model`."""
        from pruning.criteria import score

        check_criterion(self.method)
        if self.texts is not None:
            texts: Any = [record["text"] for record in read_texts(self.texts)]
        else:
            texts = own_chains(model, self.benchmarks, pairs_of(self.data), self.seed)
        return score(self.method, model, texts, seed=self.seed)


@dataclass(frozen=True)
class Prune:
    """Write a checkpoint without some blocks; it loads like any other.

    prunescope prune --remove 2 --out reasoner-minus-2

    prunescope prune --model Qwen/Qwen3-8B --blocks 24 25 --out qwen3-minus-2
    """

    out: Path
    """The new checkpoint's folder."""
    model: str = "testbed"
    """The bundled reasoner ("testbed"), a Hub name, or a checkpoint folder."""
    remove: Number = None
    """How many blocks the method removes."""
    blocks: Numbers = ()
    """Or the blocks themselves, by dense index."""
    method: str = "shortgpt"
    """The criterion that chooses."""
    texts: File = None
    """Calibration texts, as in `prunescope score`."""
    benchmarks: Names = ()
    """Benchmarks to calibrate on, as in `prunescope score`."""
    data: Files = ()
    """Read a benchmark from a file of yours."""
    seed: int = 0
    """Seed of the calibration."""
    trust_remote_code: Flag = False
    """Let a model of the Hub run its own code on this machine."""

    def run(self) -> Lines:
        from pruning.plan import LayerPlan
        from pruning.surgery import save

        if (self.remove is None) == (not self.blocks):
            raise UserError("Say what goes: either --remove N (by --method) or --blocks L [L ...].")
        if self.remove is not None:
            check_criterion(self.method)
        model = load(self.model, self.trust_remote_code)
        if self.blocks:
            plan = LayerPlan.without(model, *self.blocks)
        else:
            asked = Score(
                self.model, self.method, self.texts, self.benchmarks, self.data, self.seed
            )
            plan = LayerPlan.lowest(asked.scores(model), remove=int(self.remove or 0))
        folder = save(model, plan, self.out)
        yield f"Removed (dense indices): {' '.join(map(str, plan.removed))}"
        yield f"Checkpoint: {folder}"
