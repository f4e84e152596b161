"""Commands that decide and remove: score, prune."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from interp.errors import UserError
from prunescope.commands.machine_options import check_machine, scoring_estimate
from prunescope.commands.shared import (
    OWN_FORMAT,
    File,
    Files,
    Flag,
    Lines,
    Names,
    Number,
    Numbers,
    Settings,
    Thinking,
    Word,
    calibrate,
    check_criterion,
    check_repair,
    load,
    named_texts,
    pairs_of,
    settings_of,
    table,
    unset,
)

if TYPE_CHECKING:
    from scaling.costs.estimate import Estimate


def settable(method: str) -> tuple[str, ...]:
    """What --options may set of a criterion: all that has no option of its own."""
    from pruning.criteria import criteria

    own = ("remove", "accept", "budget", "part")
    return tuple(name for name in criteria()[method].options if name not in own)


@dataclass(frozen=True)
class Score:
    """Score every block by a pruning criterion; low scores are removed first.

    Calibrated on the model's own chains on spare problems of the benchmarks, as a study does, or
    on texts of yours. --compare sets criteria side by side, and Block Influence as public code
    variously computes it: the order in which blocks go, and how far the orders agree.

    prunescope score --method shortgpt

    prunescope score --model Qwen/Qwen3-8B --texts calibration.txt

    prunescope score --compare shortgpt angular perplexity --out comparison.csv

    prunescope score --method evopress --model Qwen/Qwen3-8B --estimate --machine h200
    """

    model: str = "testbed"
    """The bundled reasoner ("testbed"), a Hub name, or a checkpoint folder."""
    method: str = "shortgpt"
    """The criterion."""
    options: Settings = ()
    """Settings of the criterion (a wrong name lists them), such as protect_last=2."""
    compare: Annotated[tuple[str, ...] | None, unset("[NAME ...]")] = None
    """Compare these criteria; without a name, all that score blocks at once."""
    remove: Number = None
    """How many removals a criterion that goes step by step is followed for."""
    texts: Word = None
    """Calibration texts: a file (.txt, a text a line; .jsonl), hub:NAME[:CONFIG[:SPLIT]], or the
    folder of a finished study of this model, for its own chains. Default: the model's chains on
    spare problems of the benchmarks."""
    field: Word = None
    """The field of a .jsonl or of a Hub data set that holds the text."""
    paragraphs: Flag = False
    """Texts of a .txt are parted by blank lines, not by lines."""
    part: Word = None
    """Which tokens count: all, prompt (the questions only) or generated."""
    benchmarks: Names = ()
    """Calibrate on the model's chains on these; the model's usual benchmarks if none are named."""
    data: Files = ()
    """Read a benchmark from a file of yours."""
    seed: int = 0
    """Seed of the chains, and of criteria that draw."""
    out: File = None
    """Write the table here (.csv) as well; of a comparison also the agreement and a figure."""
    estimate: Flag = False
    """Only say what scoring would cost: tokens, FLOPs, time, memory."""
    machine: Word = None
    """Estimate for h200, h100, a100, rtx4090 or cpu from the model's configuration (its config.json
    is enough for --model); without it, from a short trial here."""
    trust_remote_code: Flag = False
    """Let a model of the Hub run its own code on this machine."""
    thinking: Thinking = OWN_FORMAT

    def run(self) -> Lines:
        from interp.errors import did_you_mean
        from pruning.calibration import PARTS
        from pruning.criteria import criteria

        for name in (self.method,) if self.compare is None else self.compare:
            check_criterion(name)
        if self.part is not None and self.part not in PARTS:
            raise UserError(did_you_mean(self.part, PARTS, "part of a chain"))
        self._settings()
        if self.remove is not None and "remove" not in criteria()[self.method].options:
            raise UserError(
                f"--remove is for criteria that go step by step; {self.method!r} scores every "
                "block at once, and its lowest scores go first."
            )
        check_machine(self.estimate, self.machine)
        texts = named_texts(self.texts, self.field, self.paragraphs)
        if self.estimate:
            yield from self._estimate(texts).report()
            return
        model = load(self.model, self.trust_remote_code, self.thinking)
        if self.compare is None:
            yield from self._scored(model, texts)
        else:
            yield from self._compared(model, texts, self.compare)

    def _estimate(self, texts: Any) -> Estimate:
        """What scoring would cost; a comparison without names is of all that score at once."""
        from pruning.criteria import at_once
        from pruning.criteria.influence_definitions import DEFINITIONS
        from scaling.study.config import StudyConfig

        names = self.compare if self.compare is not None else (self.method,)
        if not names:  # as `pruning.compare` chooses them
            names = at_once()
        if self.compare is not None and "shortgpt" in names:  # in each of its definitions
            names += ("shortgpt",) * (len(DEFINITIONS) - 1)
        config = StudyConfig(
            model=self.model,
            benchmarks=self.benchmarks,
            data=pairs_of(self.data),
            methods=(),
            seed=self.seed,
            trust_remote_code=self.trust_remote_code,
        )
        return scoring_estimate(
            names, config, texts, self.part, self.machine, self.remove, self._settings()
        )

    def _settings(self) -> dict[str, Any]:
        return settings_of(self.options, settable(self.method), f"criterion {self.method!r}")

    def _scored(self, model: Any, texts: Any) -> Lines:
        """A row a block (or sublayer), and the way of a criterion that goes step by step."""
        from pruning.criteria import criteria, score

        chosen = criteria()[self.method]
        options = self._settings()
        if self.remove is not None:
            options["remove"] = self.remove
        given: Any = None
        if "accept" in chosen.options:
            given, options["accept"], options["budget"] = self._problems(model, texts)
        elif chosen.needs_texts:
            given = self._calibration(model, texts)
        found = score(self.method, model, given, seed=self.seed, **options)
        frame = found.to_frame()
        columns = ["block", "part", "score", "low", "high", "rank"]
        yield from table(frame[[c for c in columns if c in frame]], self.out)
        for n, gone in enumerate(found.removals(), start=1):
            yield f"{n} removed: {gone}"

    def _compared(self, model: Any, texts: Any, names: tuple[str, ...]) -> Lines:
        """Rankings side by side, then the agreement of every pair."""
        from pruning.compare import compare_criteria

        found = compare_criteria(model, self._calibration(model, texts), names, self.seed)
        yield from found.lines()
        if self.out is None:
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        for what, path, frame in (
            ("Table", self.out, found.to_frame()),
            ("Agreement", self.out.with_stem(f"{self.out.stem}-agreement"), found.agreement()),
        ):
            frame.to_csv(path, index=False)
            yield f"{what}: {path}"
        figure = self.out.with_suffix(".png")
        found.save_figure(figure)
        yield f"Figure: {figure}"

    def _calibration(self, model: Any, texts: Any) -> Any:
        data = pairs_of(self.data)
        return calibrate(model, texts, self.part, self.benchmarks, data, self.seed)

    def _problems(self, model: Any, texts: Any) -> tuple[list[list[int]], Any, Any]:
        """Prompts of spare problems, the graders' judgement of an answer, and a budget for all."""
        from interp.chains.chain import Budget
        from scaling.grading import grade_text
        from scaling.study.config import StudyConfig
        from scaling.study.defaults import CALIBRATION_PROBLEMS
        from scaling.study.problem_sets import gather

        if texts is not None:
            raise UserError(
                f"{self.method!r} grades answers, and texts have no gold ones: leave --texts out, "
                "and name --benchmarks (a file of yours with --data)."
            )
        config = StudyConfig(
            model=model.name, benchmarks=self.benchmarks, data=pairs_of(self.data), seed=self.seed
        )
        benches, spare = gather(config)
        asked = [
            (bench, problem)
            for bench in benches
            if bench.scoring == "generate"
            for problem in (spare[bench.name] or bench.problems)[:CALIBRATION_PROBLEMS]
        ]
        if not asked:
            raise UserError(f"{self.method!r} needs a benchmark whose answers are generated.")
        loads = [config.workload(bench.name) for bench, _ in asked]
        budget = Budget(max(max(w.budgets) for w in loads), max(w.answer for w in loads))

        def accept(index: int, answer: str) -> bool:
            return grade_text(*asked[index], answer).outcome == "correct"

        prompts = [
            model.prompt_ids(bench.prompt(problem), thinking=bench.thinking)
            for bench, problem in asked
        ]
        return prompts, accept, budget


@dataclass(frozen=True)
class Prune:
    """Write a checkpoint without some blocks; it loads like any other.

    What goes is chosen by a criterion (--remove), named (--blocks), or a plan (--plan): a JSON
    file, the pruning.json of another checkpoint, or a published one by name. Named blocks and
    plans need no memory: the weights are copied from file to file, and keep their dtype.

    prunescope prune --remove 2 --out reasoner-minus-2

    prunescope prune --model Qwen/Qwen3-8B --blocks 24 25 --out qwen3-minus-2

    prunescope prune --model meta-llama/Llama-2-7b-hf --plan llama-2-7b/shortgpt-9 --out short

    prunescope prune --remove 3 --texts calibration.txt --repair replaceme --out mended
    """

    out: Path
    """The new checkpoint's folder."""
    model: str = "testbed"
    """The bundled reasoner ("testbed"), a Hub name, or a checkpoint folder."""
    remove: Number = None
    """How many blocks the method removes."""
    blocks: Numbers = ()
    """Or the blocks themselves, by dense index."""
    plan: Word = None
    """Or a plan: a JSON file, or the name of a published one (a wrong name lists them)."""
    method: str = "shortgpt"
    """The criterion that chooses."""
    options: Settings = ()
    """Settings of the criterion (a wrong name lists them)."""
    repair: Word = None
    """Make up for the lost blocks in the weights (a wrong name lists the repairs). One that
    chooses the blocks itself (laco) needs none named."""
    repair_options: Settings = ()
    """Settings of the repair (a wrong name lists them), such as merge=3 of laco."""
    texts: Word = None
    """Calibration texts: a file (.txt, a text a line; .jsonl), hub:NAME[:CONFIG[:SPLIT]], or the
    folder of a finished study of this model, for its own chains. Default: the model's chains on
    spare problems of the benchmarks."""
    field: Word = None
    """The field of a .jsonl or of a Hub data set that holds the text."""
    paragraphs: Flag = False
    """Texts of a .txt are parted by blank lines, not by lines."""
    part: Word = None
    """Which tokens count: all, prompt (the questions only) or generated."""
    benchmarks: Names = ()
    """Benchmarks to calibrate on, as in `prunescope score`."""
    data: Files = ()
    """Read a benchmark from a file of yours."""
    seed: int = 0
    """Seed of the calibration."""
    estimate: Flag = False
    """Only say what scoring would cost: tokens, FLOPs, time, memory."""
    machine: Word = None
    """Estimate for h200, h100, a100, rtx4090 or cpu from the model's configuration (its config.json
    is enough for --model); without it, from a short trial here."""
    trust_remote_code: Flag = False
    """Let a model of the Hub run its own code on this machine."""
    thinking: Thinking = OWN_FORMAT

    def run(self) -> Lines:
        from pruning.checkpoint import free_target
        from pruning.folder import NotStreamable, prune_folder

        plan, texts = self._check(), None
        check_machine(self.estimate, self.machine)
        if self.estimate:
            yield from self._estimated(plan)
            return
        free_target(self.out)
        if self.remove is None and self.repair is None:
            what = plan or self.blocks
            try:
                folder = prune_folder(
                    self.model, what, self.out, trust_remote_code=self.trust_remote_code
                )
                yield from self._said(plan.removed if plan else sorted(self.blocks), plan, folder)
                return
            except NotStreamable:
                pass  # it has to be loaded
        else:
            texts = named_texts(self.texts, self.field, self.paragraphs)
        model = load(self.model, self.trust_remote_code, self.thinking)
        if plan is None and (self.blocks or self.remove is not None):
            plan = self._plan(model, texts)
        if self.repair is not None:
            yield from self._repaired(model, plan, texts)
        elif plan is not None:
            yield from self._said(plan.removed, plan, self._written(model, plan))

    def _estimated(self, plan: Any) -> Lines:
        """The scoring that chooses blocks, and the repair; the rest is copying."""
        from scaling.costs.model_shape import ModelShape
        from scaling.study.config import StudyConfig

        if self.remove is None:
            yield "Nothing is scored: the weights that stay are copied, file by file."
            if self.repair is None:
                return
        config = StudyConfig(
            model=self.model,
            benchmarks=self.benchmarks,
            data=pairs_of(self.data),
            methods=(),
            seed=self.seed,
            trust_remote_code=self.trust_remote_code,
        )
        shape = ModelShape.of(self.model, self.trust_remote_code)
        gone = self._gone(shape.n_blocks, plan)
        removed = len(gone) or self.remove or 1
        repair = None
        if self.repair is not None:
            from pruning.repairs import repairs
            from scaling.costs.scoring_costs import PlannedRepair

            cuts = sum(l - 1 not in gone for l in gone) or removed
            chosen = bool(gone) or self.remove is not None
            reads = not chosen or repairs()[self.repair].needs_texts
            repair = PlannedRepair(self.repair, removed, cuts, reads, self._repair_settings())
        texts = named_texts(self.texts, self.field, self.paragraphs)
        criteria = () if self.remove is None else (self.method,)
        found = scoring_estimate(
            criteria, config, texts, self.part, self.machine, self.remove, self._settings(), repair
        )
        left = shape.weights * (1 - removed / shape.n_blocks)
        yield from replace(found, disk=left * 2).report()  # as most are stored

    def _gone(self, n_blocks: int, plan: Any) -> set[int]:
        """The blocks that are named, by --blocks or by a plan."""
        gone = set(self.blocks if plan is None else plan.removed)
        if not all(0 <= l < n_blocks for l in gone):
            raise UserError(f"Blocks {sorted(gone)}: expected indices 0 to {n_blocks - 1}.")
        return gone

    def _check(self) -> Any:
        """Everything that is wrong without looking at a model; the plan, if one is named."""
        from interp.errors import did_you_mean
        from pruning.calibration import PARTS
        from pruning.criteria import criteria
        from pruning.plan import LayerPlan

        if self.repair is not None:
            check_repair(self.repair)
        self._repair_settings()
        given = [self.remove is not None, bool(self.blocks), self.plan is not None]
        if sum(given) > 1 or (sum(given) == 0 and not self._chooses()):
            raise UserError(
                "Say what goes: --remove N (by --method), --blocks L [L ...] or --plan PLAN, and "
                "only one of them."
            )
        if self.remove is not None:
            check_criterion(self.method)
            self._settings()
            if criteria()[self.method].removes != "blocks":
                raise UserError(
                    f"{self.method!r} drops attention or MLP sublayers, and no configuration can "
                    "say that of a checkpoint: score with it and skip them live, or choose a "
                    "criterion that removes blocks."
                )
            if self.remove < 1:
                raise UserError(f"--remove {self.remove}: expected at least 1 block.")
        if self.part is not None and self.part not in PARTS:
            raise UserError(did_you_mean(self.part, PARTS, "part of a chain"))
        if self.plan is None:
            return None
        file = Path(self.plan)
        if file.is_file():
            return LayerPlan.read(file)
        if file.suffix == ".json":
            raise UserError(f"--plan {self.plan!r}: there is no such file.")
        return LayerPlan.published(self.plan)

    def _plan(self, model: Any, texts: Any) -> Any:
        """The plan of --blocks, or the criterion's."""
        from pruning.criteria import criteria, score
        from pruning.plan import LayerPlan

        if self.blocks:
            return LayerPlan.without(model, *self.blocks)
        remove = int(self.remove or 0)
        if remove >= model.n_blocks:
            raise UserError(
                f"Cannot remove {remove} blocks of {model.n_blocks}: at least one must stay."
            )
        chosen = criteria()[self.method]
        options = self._settings()
        if "remove" in chosen.options:
            options["remove"] = remove
        given: Any = None
        if "accept" in chosen.options:  # it grades answers, as `prunescope score` does
            asked = Score(
                method=self.method, benchmarks=self.benchmarks, data=self.data, seed=self.seed
            )
            given, options["accept"], options["budget"] = asked._problems(model, texts)
        elif chosen.needs_texts:
            given = self._calibration(model, texts)
        scores = score(self.method, model, given, seed=self.seed, **options)
        return LayerPlan.lowest(scores, remove=remove)

    def _calibration(self, model: Any, texts: Any) -> Any:
        data = pairs_of(self.data)
        return calibrate(model, texts, self.part, self.benchmarks, data, self.seed)

    def _settings(self) -> dict[str, Any]:
        return settings_of(self.options, settable(self.method), f"criterion {self.method!r}")

    def _repair_settings(self) -> dict[str, Any]:
        """Settings of the repair; given without a repair they are an error."""
        from pruning.repairs import repairs

        if self.repair is None:
            if self.repair_options:
                raise UserError("--repair-options without --repair: name the repair.")
            return {}
        known = repairs()[self.repair].options
        return settings_of(self.repair_options, known, f"repair {self.repair!r}")

    def _chooses(self) -> bool:
        """Whether the repair can choose the blocks itself."""
        from pruning.repairs import repairs

        return self.repair is not None and not repairs()[self.repair].needs_plan

    def _repaired(self, model: Any, plan: Any, texts: Any) -> Lines:
        """The repaired checkpoint, in the dtype of the model's files."""
        from pruning.repairs import mend, repairs, save_repaired

        name = str(self.repair)
        needed = plan is None or repairs()[name].needs_texts
        calibration = self._calibration(model, texts) if needed else None
        repaired = mend(name, model, plan, calibration, seed=self.seed, **self._repair_settings())
        self._as_stored(repaired.model)
        said = f"Repaired by {name}"
        if kl := repaired.record.get("kl"):
            said += f", KL to the dense model {kl['repaired']:.3g} nats a token"
            said += f" (unrepaired {kl['removed']:.3g})"
        yield said
        folder = save_repaired(repaired, self.out)
        yield from self._said(repaired.plan.removed, repaired.plan, folder)

    def _written(self, model: Any, plan: Any) -> Path:
        """The checkpoint: copied from the model's files, or written from memory in their dtype."""
        from pruning.folder import NotStreamable, prune_folder
        from pruning.surgery import save

        try:
            return prune_folder(
                self.model, plan, self.out, trust_remote_code=self.trust_remote_code
            )
        except NotStreamable:
            self._as_stored(model)
            return save(model, plan, self.out)

    def _as_stored(self, model: Any) -> None:
        """Weights in the dtype of the model's files (on the CPU they were loaded in float32)."""
        from pruning.folder import stored_dtype

        dtype = stored_dtype(self.model)
        if dtype is not None:
            model.hf.to(dtype)

    def _said(self, removed: Any, plan: Any, folder: Path) -> Lines:
        yield f"Removed (dense indices): {' '.join(map(str, removed))}"
        if plan is not None and plan.source:
            yield f"Published: {plan.source}"
        yield f"Checkpoint: {folder}"
