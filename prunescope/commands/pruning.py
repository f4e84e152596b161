"""Commands that decide and remove: score, prune."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from interp.errors import UserError
from interp.plumbing.command_line import File, Lines, Number, Settings, Word, command, unset
from prunescope import progress
from prunescope.commands.machine_options import scoring_estimate
from prunescope.commands.options import (
    CalibrationOptions,
    CriterionOptions,
    DecoderOptions,
    EstimateOptions,
    HubOptions,
    LoadedModelOptions,
    PlanOptions,
    ThinkingOptions,
)
from prunescope.commands.output import (
    ESTIMATE,
    Command,
    NextStep,
    Result,
    estimated,
    files,
)
from prunescope.commands.shared import table

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel
    from scaling.costs.estimate import Estimate
    from scaling.costs.scoring_costs import PlannedRepair
    from scaling.study.calibration_source import CalibrationSource
    from scaling.study.model_pruning import PruneConfig


@command
class ScoringOptions(
    LoadedModelOptions,
    ThinkingOptions,
    DecoderOptions,
    CriterionOptions,
    CalibrationOptions,
    EstimateOptions,
):
    """A model, a criterion, what it is calibrated on, and what that costs."""

    def scoring_cost(
        self,
        names: Sequence[str],
        source: CalibrationSource,
        remove: int | None,
        repair: PlannedRepair | None = None,
    ) -> Estimate:
        """What scoring by these criteria, and a repair, would cost."""
        from scaling.study.config import StudyConfig

        config = StudyConfig(
            model=self.model,
            benchmarks=source.benchmarks,
            data=source.data,
            methods=(),
            seed=self.seed,
            trust_remote_code=self.trust_remote_code,
            device=self.device,
            dtype=self.dtype,
            decoder=self.decoder,
            thinking_format=self.thinking_format(),
            prompts=source.prompts,
        )
        texts: Any = source.texts
        return scoring_estimate(
            names, config, texts, source.part, self.machine, remove, self.settings(), repair
        )


@command
class Score(Command, ScoringOptions):
    """Score every block by a pruning criterion; low scores are removed first.

    Calibrated on the model's own chains on spare problems of the benchmarks, as a study does, or
    on texts of yours. --compare sets criteria side by side, and Block Influence as public code
    variously computes it: the order in which blocks go, and how far the orders agree.

    prunescope score --method shortgpt

    prunescope score --model Qwen/Qwen3-8B --texts calibration.txt

    prunescope score --compare shortgpt angular perplexity --out comparison.csv

    prunescope score --method evopress --model Qwen/Qwen3-8B --estimate --machine h200
    """

    ENTRIES: ClassVar = {
        "scores": "a row per block: score, interval, rank",
        "removals": "the blocks that go first, then next, for a criterion that goes step by step",
        "comparison": "with --compare: a row per block and criterion",
        "agreement": "with --compare: a row per pair of criteria",
        "file": "the table that --out names",
        "agreement_file": "with --compare and --out: the agreement (CSV)",
        "figure": "with --compare and --out: the figure",
        **ESTIMATE,
    }
    compare: Annotated[tuple[str, ...] | None, unset("[NAME ...]")] = None
    """Compare these criteria; without a name, all that score blocks at once."""
    remove: Number = None
    """How many removals a criterion that goes step by step is followed for."""
    out: File = None
    """Write the table here (.csv) as well; of a comparison also the agreement and a figure."""

    def run(self) -> Lines:
        from scaling.study.model_scoring import check_steps, score_model
        from scaling.study.preflight import check_name

        for name in (self.method,) if self.compare is None else self.compare:
            check_name("criterion", name)
        options = self.settings()
        check_steps(self.method, self.remove)
        self.check_estimate()
        source = self.source()
        if self.estimate:
            yield estimated(self._estimate(source))
            return
        model = self.loaded()
        if self.compare is not None:
            yield from self._compared(model, source, self.compare)
            return
        with progress.heard():
            found = score_model(model, self.method, source, remove=self.remove, **options)
        frame = found.to_frame()
        columns = ["block", "part", "score", "low", "high", "rank"]
        shown = [c for c in columns if c in frame]
        yield from table(frame[shown], "scores", self.out)
        for n, gone in enumerate(found.removals(), start=1):
            yield Result(f"{n} removed: {gone}", removals=[gone])
        words = ["prunescope", "prune", "--model", self.model, "--method", self.method]
        yield NextStep(shlex.join([*words, "--remove", "1", "--out", "pruned"]))

    def _estimate(self, source: CalibrationSource) -> Estimate:
        """What scoring would cost; a comparison without names is of all that score at once."""
        from pruning.criteria import at_once
        from pruning.criteria.influence_definitions import DEFINITIONS

        names = self.compare if self.compare is not None else (self.method,)
        if not names:  # as `pruning.compare` chooses them
            names = at_once()
        if self.compare is not None and "shortgpt" in names:  # in each of its definitions
            names += ("shortgpt",) * (len(DEFINITIONS) - 1)
        return self.scoring_cost(names, source, self.remove)

    def _compared(
        self, model: ReasoningModel, source: CalibrationSource, names: tuple[str, ...]
    ) -> Lines:
        """Rankings side by side, then the agreement of every pair."""
        from pruning.compare import compare_criteria

        with progress.heard():
            found = compare_criteria(model, source.calibration(model), names, self.seed)
        ranks, agreement = found.to_frame(), found.agreement()
        yield Result("\n".join(found.lines()), comparison=ranks, agreement=agreement)
        if self.out is None:
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        for what, name, path, frame in (
            ("Table", "file", self.out, ranks),
            ("Agreement", "agreement_file", self.out.with_stem(f"{self.out.stem}-agreement"),
             agreement),
        ):  # fmt: skip
            frame.to_csv(path, index=False)
            yield files(what, name, path)
        figure = self.out.with_suffix(".png")
        found.save_figure(figure)
        yield files("Figure", "figure", figure)


@command
class Prune(Command, PlanOptions, ScoringOptions, HubOptions):
    """Write a checkpoint without some blocks; it loads like any other.

    What goes is chosen by a criterion (--remove), named (--blocks), or a plan (--plan): a JSON
    file, the pruning.json of another checkpoint, or a published one by name. Named blocks and
    plans need no memory: the weights are copied from file to file, and keep their dtype.

    prunescope prune --remove 2 --out reasoner-minus-2

    prunescope prune --model Qwen/Qwen3-8B --blocks 24 25 --out qwen3-minus-2

    prunescope prune --model meta-llama/Llama-2-7b-hf --plan llama-2-7b/shortgpt-9 --out short

    prunescope prune --remove 3 --texts calibration.txt --repair replaceme --out mended

    prunescope prune --model Qwen/Qwen3-8B --blocks 24 25 --out short --push-to-hub you/short
    """

    ENTRIES: ClassVar = {
        "checkpoint": "folder of the checkpoint",
        "removed": "the blocks that it lacks, by dense index",
        "source": "where a published plan is from",
        "repair": "what the repair measured",
        "pushed": "address of the repository, with --push-to-hub",
        **ESTIMATE,
    }
    out: File = None
    """The new checkpoint's folder; needed but for an estimate."""
    remove: Number = None
    """How many blocks the method removes."""
    repair: Word = None
    """Make up for the lost blocks in the weights (a wrong name lists the repairs). One that
    chooses the blocks itself (laco) needs none named."""
    repair_options: Settings = ()
    """Settings of the repair (a wrong name lists them), such as merge=3 of laco."""
    results: File = None
    """A study that measured the model without these blocks: its accuracies go into the model
    card."""

    def run(self) -> Lines:
        from pruning.checkpoint import free_target
        from scaling.study.model_pruning import prune_model

        config = self._config()
        config = replace(config, plan=config.chosen_plan())
        self.check_estimate()
        if self.estimate:
            yield from self._estimated(config)
            return
        out = free_target(self.target(self.out))
        self.check_push()
        source = self.source(reading=self.remove is not None or self.repair is not None)
        with progress.heard():
            found = prune_model(replace(config, source=source), out)
        if found.repair:
            said = f"Repaired by {self.repair}"
            if kl := found.repair.get("kl"):
                said += f", KL to the dense model {kl['repaired']:.3g} nats per token"
                said += f" (unrepaired {kl['removed']:.3g})"
            yield Result(said, repair=dict(found.repair))
        gone = " ".join(map(str, found.removed))
        yield Result(f"Removed (dense indices): {gone}", removed=list(found.removed))
        if found.source:
            yield Result(f"Published: {found.source}", source=found.source)
        if self.results is not None:
            from scaling.study.card_results import add_results

            add_results(found.folder, self.results)
        yield files("Checkpoint", "checkpoint", found.folder)
        yield from self.pushed(found.folder)
        yield NextStep(f"prunescope scale --model {shlex.quote(str(found.folder))}")

    def _config(self) -> PruneConfig:
        """What is asked for, but for the calibration; mistakes that need no model are found."""
        from pruning.repairs import repairs
        from pruning.settings import parse_settings
        from scaling.study.model_pruning import PruneConfig
        from scaling.study.preflight import check_name

        repair_options: dict[str, Any] = dict.fromkeys(self.repair_options)
        if self.repair is not None:
            check_name("repair", self.repair)
            known = repairs()[self.repair].options
            what = f"repair {self.repair!r}"
            repair_options = parse_settings(self.repair_options, known, what)
        return PruneConfig(
            model=self.model,
            remove=self.remove,
            blocks=self.blocks,
            plan=self.plan,
            method=self.method,
            options=self.settings() if self.remove is not None else {},
            repair=self.repair or "",
            repair_options=repair_options,
            source=self.source(reading=False),
            trust_remote_code=self.trust_remote_code,
            thinking_format=self.thinking_format(),
            device=self.device,
            dtype=self.dtype,
            decoder=self.decoder,
        )

    def _estimated(self, config: PruneConfig) -> Lines:
        """The scoring that chooses blocks, and the repair; the rest is copying."""
        from pruning.plan import LayerPlan
        from scaling.costs.model_shape import ModelShape

        if self.remove is None:
            yield "Nothing is scored: the weights that stay are copied, file by file."
            if self.repair is None:
                return
        shape = ModelShape.of(self.model, self.trust_remote_code)
        plan = config.plan
        gone = set(plan.removed if isinstance(plan, LayerPlan) else self.blocks)
        if not all(0 <= l < shape.n_blocks for l in gone):
            raise UserError(f"Blocks {sorted(gone)}: expected indices 0 to {shape.n_blocks - 1}.")
        removed = len(gone) or self.remove or 1
        names = () if self.remove is None else (self.method,)
        repair = self._planned_repair(gone, removed, config)
        found = self.scoring_cost(names, self.source(), self.remove, repair)
        left = shape.weights * (1 - removed / shape.n_blocks)
        yield estimated(replace(found, disk=left * 2))  # as most are stored

    def _planned_repair(
        self, gone: set[int], removed: int, config: PruneConfig
    ) -> PlannedRepair | None:
        """What an estimate must know of the repair."""
        from pruning.repairs import repairs
        from scaling.costs.scoring_costs import PlannedRepair

        if self.repair is None:
            return None
        cuts = sum(l - 1 not in gone for l in gone) or removed
        chosen = bool(gone) or self.remove is not None
        reads = not chosen or repairs()[self.repair].needs_texts
        return PlannedRepair(self.repair, removed, cuts, reads, dict(config.repair_options))
