"""Which criterion keeps most of long chains? All calibrated alike, on problems new to all.

    python -m analyses.criterion_contest --out studies/contest [--methods ...] [--remove 2 3 4 5 6]

On the bundled reasoner. All criteria read the same chains: the dense model's own, on
`--calibration` training problems of each kind. Each chooses a set for every number of blocks. Every
distinct set is skipped live beside the dense model on `--problems` test problems of each kind, with
the same noise. The accuracy kept is compared problem by problem with `--ours`: by number of
removals, and over all of them (each problem of each kind is its own pair). p values: sign-flip
tests, Holm-corrected over the other criteria.

Plans and outcomes are kept in --out; a stopped run continues there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd

from analyses.plumbing import style, tables
from interp.chains.chain import Budget
from interp.decoding.generate import generate as generate_chains
from interp.errors import UserError
from interp.interventions.interventions import Skip, Variant, dense
from interp.plumbing.command_line import Lines, command, run_command
from interp.plumbing.whole_files import write_whole
from interp.statistics import mean_interval, paired_difference, with_holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from interp.model.reasoning_model import ReasoningModel

KINDS = ("countdown-4", "countdown-5")
METHODS = ("shortgpt", "angular", "cka", "taylor+", "perplexity", "skip-kl", "sleb", "evopress")
OURS = ("chain-survival", "chain-aware")
BUDGET = Budget(1024, 32)
CALIBRATION_SEED, TEST_SEED = 11, 12  # of the first contest; others add DRAWS each
DRAWS = 100
TOGETHER = 6  # sets decoded in one batch

Set = tuple[int, ...]


@dataclass
class Contest:
    """Plans by method and size, and the outcomes of every set, kept in a folder.

    Attributes:
        folder: the folder.
        settings: the settings that decide the outcomes; a folder with other settings is refused.
    """

    folder: Path
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self._read("settings.json")
        if known is not None and known != self.settings:
            raise UserError(
                f"{self.folder} holds a contest with other settings ({known}): "
                "choose another --out."
            )
        self._write("settings.json", self.settings)
        self.plans: dict[str, dict[str, list[int]]] = self._read("plans.json") or {}
        self.outcomes: dict[str, dict[str, list[int]]] = self._read("outcomes.json") or {}

    @property
    def seed(self) -> int:
        """The seed; a contest of seed 0 is stored without it."""
        return int(self.settings.get("seed", 0))

    def _read(self, name: str) -> Any:
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _write(self, name: str, content: Any) -> None:
        write_whole(self.folder / name, json.dumps(content, indent=1))

    def decide(self, model: ReasoningModel, methods: Sequence[str], sizes: Sequence[int]) -> None:
        """Make the plans of every method that has none yet, and keep them.

        Args:
            model: the dense model.
            methods: names of criteria.
            sizes: numbers of blocks.
        """
        from pruning.criteria import criteria, score

        todo = [m for m in methods if not {str(n) for n in sizes} <= set(self.plans.get(m, {}))]
        if not todo:
            return
        chains = calibration(model, self.settings["calibration"], self.seed)
        for method in todo:
            began = time.monotonic()
            own = criteria()[method].options
            options: dict[str, Any] = {"remove": max(sizes)} if "remove" in own else {}
            if "sizes" in own:
                options = {"sizes": list(sizes)}
            found = score(method, model, chains, **options)
            self.plans[method] = {str(n): sorted(found.lowest(n)) for n in sizes}
            self._write("plans.json", self.plans)
            _say(f"{method}: {time.monotonic() - began:.0f} s")

    def sets(self, methods: Sequence[str], sizes: Sequence[int]) -> list[Set]:
        """Every distinct set of some methods and sizes, dense first.

        Args:
            methods: names of criteria.
            sizes: numbers of blocks.

        Returns:
            Tuples of dense indices; () is dense.
        """
        named = [tuple(self.plans[m][str(n)]) for n in sizes for m in methods]
        return list(dict.fromkeys([(), *named]))

    def run(self, model: ReasoningModel, sets: Sequence[Set]) -> None:
        """Decode and keep the outcomes of every set that has none yet.

        Args:
            model: the dense model.
            sets: tuples of dense indices.
        """
        for kind in KINDS:
            known = self.outcomes.setdefault(kind, {})
            todo = [s for s in sets if _name(s) not in known]
            for start in range(0, len(todo), TOGETHER):
                few = todo[start : start + TOGETHER]
                known |= dict(examined(model, kind, self.settings["problems"], few, self.seed))
                self._write("outcomes.json", self.outcomes)
                _say(f"{kind}: {start + len(few)} of {len(todo)} sets")

    def right(self, kind: str, removed: Set) -> np.ndarray:
        """The outcomes of one set on one kind.

        Args:
            kind: the kind of problem.
            removed: dense indices of the set.

        Returns:
            1 for correct, 0 otherwise: [problems].
        """
        return np.array(self.outcomes[kind][_name(removed)], dtype=float)


def calibration(model: ReasoningModel, count: int, seed: int = 0) -> list[Any]:
    """Decode the dense model's own chains on training problems of each kind.

    Args:
        model: the dense model.
        count: number of problems per kind.
        seed: the contest's seed: other problems and other noise.

    Returns:
        The chains.
    """
    from testbed.problems import generate

    drawn = CALIBRATION_SEED + DRAWS * seed
    problems = [p for kind in KINDS for p in generate(kind, count, drawn, "train")]
    asked = [p.question for p in problems]
    return list(generate_chains(model, asked, budget=BUDGET, seed=seed, stop_on_loop=True))


def examined(
    model: ReasoningModel, kind: str, count: int, sets: Sequence[Set], seed: int = 0
) -> Iterator[tuple[str, list[int]]]:
    """Decode test problems without each set, and check the answers.

    Args:
        model: the dense model.
        kind: the kind of problem.
        count: number of problems.
        sets: tuples of dense indices.
        seed: the contest's seed: other problems and other noise.

    Yields:
        The set's name, and 1 or 0 for each problem.
    """
    from testbed.problems import generate
    from testbed.verify import check_answer

    problems = generate(kind, count, TEST_SEED + DRAWS * seed, "test")
    variants = [Variant(_name(s), tuple(map(Skip, s))) if s else dense for s in sets]
    chains = generate_chains(
        model,
        [p.question for p in problems],
        variants,
        BUDGET,
        seed=seed,
        problem_ids=[p.id for p in problems],
        stop_on_loop=True,
    )
    right = {(c.problem, c.variant): c for c in chains}
    for removed, variant in zip(sets, variants, strict=True):
        found = []
        for problem in problems:
            chain = right[problem.id, variant.name]
            answer = model.text(chain.answer_ids.tolist())
            found.append(int(check_answer(problem, answer) is True))
        yield _name(removed), found


def table(contest: Contest, methods: Sequence[str], sizes: Sequence[int]) -> pd.DataFrame:
    """One row per method, size and kind: the accuracy kept, with its interval.

    Args:
        contest: the contest.
        methods: names of criteria.
        sizes: numbers of blocks.

    Returns:
        The table.
    """
    rows = []
    for kind in KINDS:
        for method in ("dense", *methods):
            for size in [0] if method == "dense" else sizes:
                removed = () if method == "dense" else tuple(contest.plans[method][str(size)])
                kept = mean_interval(contest.right(kind, removed)[:, None])
                row = {"benchmark": kind, "method": method, "n_removed": size}
                row |= {"removed": " ".join(map(str, removed)), **kept.cells()}
                rows.append(row | {"n": kept.n_problems})
    return pd.DataFrame(rows)


def differences(
    contest: Contest, methods: Sequence[str], sizes: Sequence[int], ours: str
) -> pd.DataFrame:
    """How much more accuracy `ours` keeps than each other method, both kinds together.

    Args:
        contest: the contest.
        methods: names of criteria.
        sizes: numbers of blocks.
        ours: the method to compare with the others.

    Returns:
        One row per other method and size, and one over all sizes ("all").
    """
    rows = []
    for method in methods:
        if method == ours:
            continue
        pairs = []
        for size in sizes:
            plans = [tuple(contest.plans[m][str(size)]) for m in (method, ours)]
            pairs.append([np.concatenate([contest.right(k, s) for k in KINDS]) for s in plans])
        everything = np.array(pairs).transpose(1, 2, 0)  # [2, problems, sizes]
        parts = {str(size): everything[:, :, i : i + 1] for i, size in enumerate(sizes)}
        for name, (theirs, own) in ({"all": everything} | parts).items():
            found = paired_difference(theirs, own)
            row = {"other": method, "n_removed": name, **found.cells("difference")}
            rows.append(row | {"p": found.p, "n": found.n_problems})
    return with_holm(pd.DataFrame(rows), "n_removed")


def plot_kept(found: pd.DataFrame, kind: str, ax: Axes | None = None) -> Axes:
    """Plot one kind: accuracy over the number of blocks removed, one line per method.

    Args:
        found: the result of `table`.
        kind: the kind of problem.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[found["benchmark"] == kind]
    start = float(part.loc[part["method"] == "dense", "value"].iloc[0])
    methods = [m for m in dict.fromkeys(part["method"]) if m != "dense"]
    look_of, ends = style.method_looks(methods), []
    ax.axhline(start, color=style.INK, lw=0.8, ls=(0, (2, 2)))
    for method in methods:
        line = part[part["method"] == method].sort_values("n_removed")
        look, own = look_of[method], method in OURS
        ax.plot(
            line["n_removed"], line["value"], color=look.colour, marker=look.marker, ms=4,
            lw=2 if own else 1, zorder=4 if own else 2,
        )  # fmt: skip
        if own:
            ax.fill_between(
                line["n_removed"], line["low"], line["high"], color=look.colour, alpha=0.15
            )
        end = line.iloc[-1]
        place = (float(end["n_removed"]), float(end["value"]))
        ends.append((style.pretty(method), *place, look.colour))
    ax.set_xticks(sorted(set(part["n_removed"]) - {0}))
    ax.set_xlabel("blocks removed")
    ax.set_title(kind)
    style.share_axis(ax)
    style.label_ends(ax, ends, room=0.4)
    return ax


def plot_differences(found: pd.DataFrame, ours: str, ax: Axes | None = None) -> Axes:
    """Plot the differences over all sizes; filled where Holm's p is below .05.

    Args:
        found: the result of `differences`.
        ours: the method that is compared.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[found["n_removed"] == "all"].sort_values("difference")
    look_of = style.method_looks([*part["other"]])
    ax.axvline(0, color=style.QUIET, lw=0.8)
    for place, row in enumerate(part.to_dict("records")):
        colour = look_of[row["other"]].colour
        ax.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.6)
        style.marks(ax, row["difference"], place, row["p_holm"] < tables.ALPHA, colour, size=6)
    ax.set_yticks(range(len(part)), [style.pretty(m) for m in part["other"]])
    ax.set_xlabel("kept more by " + ours)
    ax.set_title("both kinds, all sizes")
    ax.grid(axis="x")
    return ax


def figure(found: pd.DataFrame, gaps: pd.DataFrame, ours: str) -> Figure:
    """Two panels of accuracy, one of differences.

    Args:
        found: the result of `table`.
        gaps: the result of `differences`.
        ours: the method that is compared.

    Returns:
        The figure.
    """
    import matplotlib.pyplot as plt

    with style.style():
        made, axes = plt.subplots(
            1, 3, figsize=(11, 3.6), layout="constrained", width_ratios=[1, 1, 0.8]
        )
        for kind, ax in zip(KINDS, axes[:2], strict=True):
            plot_kept(found, kind, ax)
        plot_differences(gaps, ours, axes[2])
    return made


def _name(removed: Set) -> str:
    return "without " + " ".join(map(str, removed)) if removed else "dense"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


@command
class CriterionContest:
    """Which criterion keeps most of long chains?

    Every one is calibrated alike and measured on problems that none has seen.
    """

    out: Path
    """Folder of the contest; a stopped one goes on."""
    methods: tuple[str, ...] = (*METHODS, *OURS)
    """Criteria that take part."""
    ours: str = "chain-aware"
    """The method that the others are compared with."""
    remove: tuple[int, ...] = (2, 3, 4, 5, 6)
    """How many blocks each removes."""
    problems: int = 200
    """Test problems of each kind."""
    calibration: int = 32
    """Training problems of each kind."""
    seed: int = 0
    """Other problems, of both kinds, and other noise."""

    def run(self) -> Lines:
        """Holds the contest; yields the differences and the files written."""
        from interp.model.reasoning_model import ReasoningModel

        methods, remove = list(self.methods), list(self.remove)
        model = ReasoningModel.load("testbed")
        settings = {"problems": self.problems, "calibration": self.calibration}
        if self.seed:
            settings["seed"] = self.seed
        contest = Contest(self.out, settings | {"model": model.fingerprint()})
        contest.decide(model, methods, remove)
        contest.run(model, contest.sets(methods, remove))
        found = table(contest, methods, remove)
        gaps = differences(contest, methods, remove, self.ours)
        found.to_csv(self.out / "criterion_contest.csv", index=False)
        gaps.to_csv(self.out / "differences.csv", index=False)
        names = style.save(figure(found, gaps, self.ours), self.out, "criterion_contest")
        yield from gaps.round(4).to_string(index=False).splitlines()
        yield from (str(self.out / name) for name in names)


def main(arguments: list[str] | None = None) -> NoReturn:
    """The command line; exits."""
    sys.exit(run_command(CriterionContest, "python -m analyses.criterion_contest", arguments))


if __name__ == "__main__":
    main()
