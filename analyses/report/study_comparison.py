"""Studies side by side: the first is the reference, each other is compared with it.

A study stands for its model as given (its variant "dense"): a dense checkpoint, a pruned, repaired
or recovered one, a model on a server. Comparing is the report's own: every study becomes a variant
of one `StudyData` whose "dense" is the first study, and goes through `removal_changes`,
`decisions` and `verdict` as a removal does.

The store says what may be paired. Problems are the same where id, question, answer and choices
are. Chains share their noise where seed and sampling are the same and no server drew it; else the
same problems are paired and their noise is not. Where too few problems are shared, the groups are
compared unpaired. The thinking budget is the largest that all studies have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.plumbing import style, tables
from analyses.plumbing.frames import StudyData
from analyses.plumbing.outcome_columns import BY_COLUMN, with_derived
from analyses.plumbing.tables import interval, listing, number, p_value
from analyses.report import verdict
from analyses.report.chain_appendix import SOURCE, STORED
from analyses.report.decisions import STUDIES, decide
from analyses.report.glance import GlanceTable, glance_of
from analyses.report.removal_changes import OUTCOMES, Removals, compared
from interp.errors import UserError, look_up
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.statistics import PairedDifference, unpaired_difference
from scaling.store.chain_row import LIKELIHOOD
from scaling.store.settings_words import SettingsDifference, settings_differences
from scaling.study.variants import DTYPE, REMOVED_BEFORE

if TYPE_CHECKING:
    from scaling.store.study_store import Store

KEY = ["problem", "sample"]
SAME_NOISE, SAME_PROBLEMS, UNPAIRED = "same noise", "same problems", "unpaired"
ALIKE = 0.5  # share of the smaller set of problems that must be shared for a paired comparison
SAME = {  # what studies without any difference have, by whether options were scored
    False: "{} gives the same chains as {}, token for token",
    True: "{} chooses the same options as {}",
}
SERVER = "ServerEngine"
AGREEING = ("correct", "looped")  # outcomes by which the blocks of two models are compared


@dataclass(frozen=True, eq=False)
class StudyOfModel:
    """One study with what pairing needs.

    Attributes:
        label: what it is called.
        data: its rows.
        rows: the chains of its model as given, at plain budgets; each once.
        problems: question, answer and choices by (benchmark, problem).
        engine: what decoded it; empty where that is unknown.
    """

    label: str
    data: StudyData
    rows: pd.DataFrame
    problems: dict[tuple[str, str], tuple[str, ...]]
    engine: str

    @classmethod
    def read(cls, folder: Path, label: str) -> StudyOfModel:
        """Read the study in a folder.

        Args:
            folder: the folder.
            label: what it is called.

        Returns:
            The study.

        Raises:
            UserError: there is no study, or its model as given has no chains.
        """
        from scaling.store.study_store import Store

        data = StudyData.read(folder)
        frames = [f for f in data.purposes.values() if len(f)]
        rows = pd.concat(frames) if frames else pd.DataFrame()
        if len(rows):
            rows = rows[(rows["variant"] == style.DENSE) & (rows["waits_allowed"] == 0)]
            rows = rows.drop_duplicates(["benchmark", "budget", *KEY])
        if not len(rows):
            raise UserError(
                f"The study in {str(folder)!r} has no chains of its model as given (the variant "
                f"{style.DENSE!r}); run it first."
            )
        with Store(folder, read_only=True) as store:
            problems = _problems(store)
        sessions = data.sessions
        engine = "" if sessions is None or not len(sessions) else str(sessions["engine"].iloc[-1])
        return cls(label, data, with_derived(rows), problems, engine)

    def part(self, benchmark: str, budget: tuple[int, int] | None) -> pd.DataFrame:
        """Its chains of one benchmark at a budget, or at its own largest.

        Args:
            benchmark: the benchmark.
            budget: thinking and answer tokens; None takes the largest.

        Returns:
            The rows.
        """
        rows = self.rows[self.rows["benchmark"] == benchmark]
        budgets = self.budgets(benchmark)
        if not budgets:
            return rows
        thinking, answer = budget or max(budgets)
        return rows[(rows["thinking_budget"] == thinking) & (rows["answer_budget"] == answer)]

    def budgets(self, benchmark: str) -> set[tuple[int, int]]:
        """The pairs (thinking, answer tokens) of one benchmark's chains."""
        rows = self.rows[self.rows["benchmark"] == benchmark]
        pairs = rows[["thinking_budget", "answer_budget"]].drop_duplicates()
        return {(int(t), int(a)) for t, a in pairs.itertuples(index=False, name=None)}


def _problems(store: Store) -> dict[tuple[str, str], tuple[str, ...]]:
    columns = ["benchmark", "problem", "question", "answer", "choices"]
    rows = store.frame("problems")[columns].astype(str)
    return {(b, p): tuple(said) for b, p, *said in rows.itertuples(index=False, name=None)}


@dataclass(frozen=True)
class Pairing:
    """How one study is set beside the first on one benchmark.

    Attributes:
        study: label of the study.
        benchmark: the benchmark.
        kind: "same noise", "same problems" or "unpaired".
        first: problems of the first study.
        other: problems of the other.
        shared: problems that both have.
        changed: problems of one name that ask or expect something else.
        budgets: thinking tokens of the first and of the other.
        chains: chains that are compared: pairs, or those of the other study.
        equal: pairs that are the same token for token; of scored choices, that chose the same.
        scored: whether options were scored and nothing was generated.
    """

    study: str
    benchmark: str
    kind: str
    first: int
    other: int
    shared: int
    changed: int
    budgets: tuple[int, int]
    chains: int
    equal: int
    scored: bool = False

    @property
    def said(self) -> str:
        """The pairing in words."""
        budgets = self.budgets
        tail = ""
        if budgets[0] != budgets[1]:
            tail = (
                f" The thinking budgets differ ({budgets[0]} and {budgets[1]} tokens; none is in "
                "common), so a change may be theirs."
            )
        if self.kind == UNPAIRED:
            why = f"only {self.shared} are shared" if self.shared else "no problem is shared"
            if self.changed:
                why += f" ({self.changed} of the same name differ in question or answer)"
            return (
                f"compared unpaired, {self.first} problems with {self.other}: {why}. The "
                f"intervals are wider for it.{tail}"
            )
        left = f" of {max(self.first, self.other)}" * (max(self.first, self.other) > self.shared)
        drawn = self.kind == SAME_NOISE and not self.scored
        how = "problems and sampling noise" if drawn else "problems"
        noise = "" if self.kind == SAME_NOISE else "; the sampling noise is not shared"
        changed = f" {self.changed} problems of the same name differ and are left out." * bool(
            self.changed
        )
        if self.scored:
            pairs = f"{self.equal} with the same choice"
        else:
            pairs = f"{self.chains} pairs of chains, {self.equal} the same token for token{noise}"
        return f"paired by {how}: {self.shared}{left} problems, {pairs}.{changed}{tail}"


@checked
@brief
@dataclass(frozen=True, eq=False)
class StudyComparison:
    """Studies set side by side.

    Attributes:
        studies: the studies; the first is the reference.
        removals: the changes from the first, as the report holds those of removals.
        rows: the chains that are compared; the first study's have the variant "dense".
        pairings: how each study was set beside the first on each benchmark.
        differences: for each other study, by label, the settings that differ from the first's.
        left_out: benchmarks that were not compared, by the label of a study that has them.
    """

    studies: tuple[StudyOfModel, ...]
    removals: Removals
    rows: pd.DataFrame
    pairings: tuple[Pairing, ...]
    differences: dict[str, list[SettingsDifference]]
    left_out: dict[str, list[str]]

    @property
    def first(self) -> str:
        """Label of the first study."""
        return self.studies[0].label

    @cached_property
    def headline(self) -> str:
        """The verdict: a sentence for each other study."""
        return " ".join(self._sentence(variant) for variant in self.removals.labels)

    def decision(self, label: str) -> str:
        """What is known of one study against the first.

        Args:
            label: label of the study.

        Returns:
            "No worse", "Worse" or "Cannot tell".

        Raises:
            UserError: no study but the first has that label.
        """
        variants = {label: variant for variant, label in self.removals.labels.items()}
        return STUDIES[decide(self.removals, look_up(label, variants, "study")).kind]

    def _sentence(self, variant: str) -> str:
        label = self.removals.labels[variant]
        mine = [p for p in self.pairings if p.study == label]
        paired = [p for p in mine if p.kind != UNPAIRED]
        if mine and paired == mine and all(p.equal == p.chains for p in mine):
            said = []
            for scored, words in SAME.items():
                if part := [p for p in mine if p.scored == scored]:
                    places = listing([p.benchmark for p in part])
                    words = words.format(label if not said else "it", self.first)
                    said.append(f"{words}: {sum(p.chains for p in part)} on {places}")
            return "; ".join(said) + "."
        decision = decide(self.removals, variant)
        if not decision.decisive:
            return f"{label} and {self.first} have no benchmark in common."
        worse = f"{label} is not clearly worse than {self.first}"
        phrases = verdict.Phrases(
            subject=lambda _: label,
            safe=f"is no worse than {self.first} on these benchmarks",
            harmless=lambda _: worse,
            without=lambda _: "",
        )
        return verdict.sentence(self.removals, [decision], phrases)

    @cached_property
    def block_agreement(self) -> pd.DataFrame:
        """Whether the models need the same blocks: a row per study, benchmark and outcome.

        Empty where no two studies skipped single blocks. Columns as of `Agreements`.
        """
        from analyses.block_effects import effects
        from interp.effects import effect_agreement

        first, frames = {e.outcome: e for e in effects(self.studies[0].data)}, []
        for study in self.studies[1:]:
            for one in effects(study.data):
                if one.outcome not in AGREEING or one.outcome not in first:
                    continue
                try:
                    found = effect_agreement(first[one.outcome], one)
                except UserError:
                    continue  # no benchmark, or too few blocks, in common
                frames.append(found.to_frame().assign(study=study.label))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def _agreements(self) -> list[str]:
        said = []
        for row in self.block_agreement.itertuples():
            name = BY_COLUMN[str(row.outcome)].said
            if row.spearman != row.spearman:  # nan: the effects of one side are all the same
                continue
            said.append(
                f"Which blocks {row.study} and {self.first} need on {row.benchmark}: the effects "
                f"on {name} of {row.n_blocks} single blocks agree with a rank correlation of "
                f"{number(row.spearman)} {interval(row.low, row.high, number)}, "
                f"{p_value(row.p)}; as noisy as they are, about {number(row.ceiling)} is the most "
                "that could be seen."
            )
        return said

    @property
    def notes(self) -> list[str]:
        """What a reader must know: what differs, how it was paired, what was left out."""
        said = []
        for label, found in self.differences.items():
            if found:
                words = "; ".join(d.said(f"in {self.first}", f"in {label}") for d in found)
                said.append(f"What differs: {words}.")
            else:
                said.append(f"{label} has the settings of {self.first}.")
        said += [f"{p.study}, {p.benchmark}: {p.said}" for p in self.pairings]
        said += [
            f"Not compared, as only {label} has it: {listing(names)}."
            for label, names in self.left_out.items()
        ]
        return said + self._agreements()

    def glances(self, links: Mapping[tuple[str, str, str], str] | None = None) -> list[GlanceTable]:
        """One table per benchmark: studies down, outcomes across.

        Args:
            links: anchor by (variant, benchmark, outcome), for a page.

        Returns:
            The tables.
        """
        found = []
        for i, benchmark in enumerate(self.removals.benchmarks):
            own = {k: c for k, c in self.removals.changes.items() if k[1] == benchmark}
            there = {outcome for _, _, outcome in own}
            names = {name for name, _, _ in own}
            part = replace(
                self.removals,
                labels={v: label for v, label in self.removals.labels.items() if v in names},
                benchmarks=(benchmark,),
                longest=benchmark,
                changes=own,
            )
            places = [(benchmark, outcome) for outcome in OUTCOMES if outcome in there]
            found.append(glance_of(part, places, f"glance-{i}", benchmark, links or {}, STUDIES))
        return [table for table in found if table is not None]

    def to_frame(self) -> pd.DataFrame:
        """One row per study, benchmark and outcome, with the change from the first."""
        kinds = {(p.study, p.benchmark): p.kind for p in self.pairings}
        frame = self.removals.to_frame()
        if not len(frame):
            return frame
        labels = frame["variant"].map(self.removals.labels)
        pairing = [kinds[pair] for pair in zip(labels, frame["benchmark"], strict=True)]
        frame = frame.assign(pairing=pairing, variant=labels)
        return frame.rename(columns={"variant": "study", "dense": "first", "value": "this"})

    def write_html(self, path: str | Path, *, trust_remote_code: bool = False) -> Path:
        """Write the comparison as one self-contained page.

        Args:
            path: the file.
            trust_remote_code: whether the tokenizer that decodes the chains may run its own code.

        Returns:
            The file.
        """
        from analyses.report.comparison_page import write_page

        return write_page(self, Path(path), trust_remote_code)


@checked
def compare_studies(
    folders: Sequence[str | Path], *, labels: Sequence[str] | None = None
) -> StudyComparison:
    """Set studies side by side: accuracy, loops, missing answers, reflection, length.

    Args:
        folders: folders of at least two studies; the first is what the others are compared with.
        labels: what they are called; None takes the names of the folders.

    Returns:
        The comparison.

    Raises:
        UserError: fewer than two studies, the same one twice, or one without chains.
    """
    paths = [Path(f) for f in folders]
    if len(paths) < 2:
        raise UserError("Expected at least two studies to compare: prunescope compare FIRST OTHER.")
    if len({p.resolve() for p in paths}) < len(paths):
        raise UserError(f"{[str(p) for p in paths]}: expected every study once.")
    names = list(labels) if labels is not None else _names(paths)
    if len(names) != len(paths) or len(set(names)) < len(names) or not all(names):
        raise UserError(f"labels={names}: expected {len(paths)} different names, one a study.")
    studies = tuple(StudyOfModel.read(p, n) for p, n in zip(paths, names, strict=True))
    return compare_read(studies)


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [p.resolve().parts for p in paths]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(p) for p in paths]


def compare_read(studies: Sequence[StudyOfModel]) -> StudyComparison:
    """Compare studies that were read.

    Args:
        studies: the studies; the first is the reference.

    Returns:
        The comparison.
    """
    first, others = studies[0], studies[1:]
    chosen: list[pd.DataFrame] = []
    pairings: list[Pairing] = []
    there = {s.label: list(dict.fromkeys(s.rows["benchmark"])) for s in studies}
    common = [b for b in there[first.label] if any(b in there[o.label] for o in others)]
    for benchmark in common:
        having = [s for s in studies if benchmark in there[s.label]]
        shared = set.intersection(*(s.budgets(benchmark) for s in having))
        budget = max(shared) if shared else None
        reference = first.part(benchmark, budget)
        chosen.append(_as_variant(reference, first, style.DENSE))
        for i, other in enumerate(others, start=1):
            if other not in having:
                continue
            rows = other.part(benchmark, budget)
            pairing, kept = _pairing(first, other, benchmark, reference, rows)
            pairings.append(pairing)
            chosen.append(_as_variant(kept, other, f"study {i}"))
    rows = pd.concat(chosen, ignore_index=True) if chosen else first.rows.iloc[:0]
    names = [(f"study {i}", f"study {i}") for i, _ in enumerate(others, start=1)]
    data = StudyData({"accuracy": rows}, pd.DataFrame(), pd.DataFrame())
    removals = compared(
        data, rows, names, lambda key: key[2], difference=_difference, everywhere=True
    )
    removals = replace(
        removals,
        labels={f"study {i}": s.label for i, s in enumerate(others, start=1)},
        removed={f"study {i}": s.data.removed_before for i, s in enumerate(others, start=1)},
        reference=first.label,
    )
    return StudyComparison(
        studies=tuple(studies),
        removals=removals,
        rows=rows,
        pairings=tuple(pairings),
        differences={o.label: _differing(first, o, pairings) for o in others},
        left_out={
            s.label: names
            for s in studies
            if (names := [b for b in there[s.label] if b not in common])
        },
    )


def _as_variant(rows: pd.DataFrame, study: StudyOfModel, variant: str) -> pd.DataFrame:
    """A study's chains as those of one variant; `SOURCE` says where they are stored."""
    lacks = study.data.removed_before
    own: dict[str, Any] = {
        "variant": variant,
        "kind": "dense" if variant == style.DENSE else "plan",
        "method": variant,
        "n_removed": len(lacks),
        "removed": [lacks] * len(rows),
        SOURCE: str(study.data.folder),
        STORED: style.DENSE,
    }
    return rows.assign(**own)


def _pairing(
    first: StudyOfModel,
    other: StudyOfModel,
    benchmark: str,
    reference: pd.DataFrame,
    rows: pd.DataFrame,
) -> tuple[Pairing, pd.DataFrame]:
    """How the chains of two studies are set side by side, and which of the other's are used."""
    one, two = (dict.fromkeys(frame["problem"]) for frame in (reference, rows))
    named = [p for p in two if p in one]
    same = {
        p for p in named
        if first.problems.get((benchmark, p)) == other.problems.get((benchmark, p))
    }  # fmt: skip
    paired = len(same) >= ALIKE * min(len(one), len(two)) and bool(same)
    kind = UNPAIRED
    if paired:
        kind = SAME_NOISE if _same_noise(first, other, reference, rows) else SAME_PROBLEMS
        rows = rows[rows["problem"].isin(list(same))]
    scored = {*reference["scoring"], *rows["scoring"]} == {LIKELIHOOD}
    told = "extracted" if scored else "ids_hash"  # a scored row has no tokens
    columns = [*KEY, told]
    both = reference[columns].merge(rows[columns], on=KEY) if paired else rows[:0]
    equal = int((both[f"{told}_x"] == both[f"{told}_y"]).sum()) if paired else 0
    budgets = [int(f["thinking_budget"].max()) for f in (reference, rows)]
    found = Pairing(
        study=other.label,
        benchmark=benchmark,
        kind=kind,
        first=len(one),
        other=len(two),
        shared=len(same),
        changed=len(named) - len(same),
        budgets=(budgets[0], budgets[1]),
        chains=len(both) if paired else len(rows),
        equal=equal,
        scored=scored,
    )
    return found, rows.assign(paired=paired)


def _same_noise(
    first: StudyOfModel, other: StudyOfModel, reference: pd.DataFrame, rows: pd.DataFrame
) -> bool:
    """Whether the chains of one problem and sample were drawn with the same noise."""
    if set(reference["scoring"]) != {"generate"}:  # scored choices have no noise
        return set(rows["scoring"]) == set(reference["scoring"])
    sampling = [s.data.config.get("sampling") for s in (first, other)]
    if not sampling[0] or sampling[0] != sampling[1]:
        return False
    if sampling[0][0] == 0:  # greedy: there is no noise
        return True
    served = any(s.engine.startswith(SERVER) for s in (first, other))
    seeds = [s.data.config.get("seed") for s in (first, other)]
    same = seeds[0] == seeds[1] and set(reference["seed"]) == set(rows["seed"])
    return same and not served


def _difference(mine: pd.DataFrame, dense: pd.DataFrame, column: str) -> PairedDifference | None:
    """The difference of a column: paired where `_pairing` said so."""
    if mine["paired"].iloc[0]:
        return tables.paired_with_dense(mine, dense, column)
    sides = [frame.dropna(subset=[column]) for frame in (dense, mine)]
    if not all(map(len, sides)):
        return None
    return unpaired_difference(*(tables.matrix(side, column) for side in sides))


def _differing(
    first: StudyOfModel, other: StudyOfModel, pairings: Sequence[Pairing]
) -> list[SettingsDifference]:
    """The settings that differ; problems are told apart by the pairings."""
    one, two = first.data, other.data
    found = settings_differences(one.config, one.meta, two.config, two.meta)
    # a hash of problems differs as soon as their number does; the pairing counts them
    counted = {
        f"problems {p.benchmark}" for p in pairings
        if p.study == other.label and (p.first != p.other or p.shared < p.first)
    }  # fmt: skip
    if DTYPE not in one.meta or DTYPE not in two.meta:  # studies of earlier versions do not say it
        counted.add(DTYPE)
    found = [d for d in found if d.key not in counted and d.key != REMOVED_BEFORE]
    engines = [s.engine.split(":")[0] or "not recorded" for s in (first, other)]
    if engines[0] != engines[1]:
        found.append(SettingsDifference("engine", "the engine", *engines))
    lacks = [
        tables.blocks_text(s.data.removed_before) if s.data.removed_before else "no block"
        for s in (first, other)
    ]
    if lacks[0] != lacks[1]:
        found.append(SettingsDifference(REMOVED_BEFORE, "what the model lacks", *lacks))
    return found
