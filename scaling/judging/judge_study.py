"""A judge on the rows of a study: a verdict on every answer, and counts of behaviours.

The rows are only read. Every generated row with an answer is judged against the gold answer of its
problem. Equal questions are asked once, so many variants cost little more than one. Behaviours need
the chain's text, hence the study's tokenizer; they are counted on a given number of chains, problem
by problem, so that all variants of a problem are included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import UserError, check_known
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from scaling.judging.judge_agreement import JudgeAgreement, agreement
from scaling.judging.llm_judge import Item, Judge
from scaling.judging.prompts import KINDS
from scaling.store.chain_row import thinking_ids
from scaling.store.study_file import FILE
from scaling.store.study_store import Store

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AGREEMENT", "CACHE", "VERDICTS", "JudgedStudy", "check_study", "judge_at"]
__all__ += ["judge_study", "questions_of"]

CACHE = "judge.sqlite"  # in the study's folder
AGREEMENT, VERDICTS = "judge_agreement.csv", "judge_verdicts.csv"  # in its tables/
KEYS = ["benchmark", "problem", "variant", "budget", "sample"]


@checked
@brief
@dataclass(frozen=True)
class JudgedStudy:
    """A judge's verdicts on a study.

    Attributes:
        rows: one row per judged chain: key, the rule grader's outcome, the answer, the verdict or
            error, and behaviour counts where requested (judged_*).
        agreements: agreement by benchmark, and of "all" together; a benchmark without any verdict
            has none.
    """

    rows: pd.DataFrame
    agreements: dict[str, JudgeAgreement]

    @property
    def errors(self) -> int:
        """Number of items with an error instead of a verdict."""
        return int(self.rows["error"].notna().sum())

    def to_frame(self) -> pd.DataFrame:
        """The rows."""
        return self.rows

    def agreement_frame(self) -> pd.DataFrame:
        """One row per benchmark, and one for all."""
        import pandas as pd

        if not self.agreements:
            return pd.DataFrame()
        parts = []
        for name, found in self.agreements.items():
            frame = found.to_frame()
            frame.insert(0, "benchmark", name)
            parts.append(frame)
        return pd.concat(parts, ignore_index=True)

    def write(self, folder: str | Path) -> Path:
        """Writes verdicts and agreement into the tables of a study.

        Args:
            folder: the study's folder. An agreement of an earlier run is removed where this one
                has none.

        Returns:
            The file of the verdicts.
        """
        tables = Path(folder) / "tables"
        tables.mkdir(parents=True, exist_ok=True)
        found = self.agreement_frame()
        if len(found):
            found.to_csv(tables / AGREEMENT, index=False)
        else:
            (tables / AGREEMENT).unlink(missing_ok=True)
        self.rows.to_csv(tables / VERDICTS, index=False)
        return tables / VERDICTS


def check_study(folder: str | Path) -> None:
    """Refuses a folder without a study, before anything else is done.

    Args:
        folder: where the study should be.

    Raises:
        UserError: there is none.
    """
    if not (Path(folder) / FILE).is_file():
        raise UserError(f"There is no study in {str(folder)!r}: expected a folder of one.")


@checked
def judge_at(
    folder: str | Path,
    url: str,
    model: str,
    *,
    cache: str | Path | None = None,
    benchmarks: Sequence[str] = (),
    limit: int | None = None,
    behaviours: int = 0,
    trust_remote_code: bool = False,
    **options: Any,
) -> JudgedStudy:
    """Judges a study's rows by the model at an endpoint, which is asked for before any is read.

    Args:
        folder: the study's folder.
        url: the endpoint.
        model: name of the judging model there.
        cache: file of answers; by default judge.sqlite in the study's folder.
        benchmarks: only these.
        limit: only the first problems of each.
        behaviours: on how many chains the behaviours are counted.
        trust_remote_code: whether the study's tokenizer may run the model's own code.
        **options: further arguments of `Judge`.

    Returns:
        The verdicts.

    Raises:
        UserError: there is no study, or no such judge.
    """
    check_study(folder)
    with Judge(url, model, cache=cache or Path(folder) / CACHE, **options) as judge:
        judge.check()
        return judge_study(
            folder,
            judge,
            benchmarks=benchmarks,
            limit=limit,
            behaviours=behaviours,
            trust_remote_code=trust_remote_code,
        )


@checked
def judge_study(
    folder: str | Path,
    judge: Judge,
    *,
    benchmarks: Sequence[str] = (),
    limit: int | None = None,
    behaviours: int = 0,
    text_of: Callable[[list[int]], str] | None = None,
    trust_remote_code: bool = False,
) -> JudgedStudy:
    """Judge the rows of a study.

    Args:
        folder: folder of the study.
        judge: the judge.
        benchmarks: only these benchmarks; empty takes all.
        limit: only the first problems of each benchmark; None takes all.
        behaviours: number of chains on which behaviours are counted.
        text_of: token ids to text; None uses the tokenizer of the study's model.
        trust_remote_code: whether that tokenizer may run the model's own code.

    Returns:
        The verdicts and the agreement with the rule grader.

    Raises:
        UserError: bad options, or a study without generated answers.
    """
    work = questions_of(
        folder,
        benchmarks=benchmarks,
        limit=limit,
        behaviours=behaviours,
        text_of=text_of,
        trust_remote_code=trust_remote_code,
    )
    rows, asked, facts = work.rows, work.asked, work.facts
    answered = rows["outcome"] != "no answer"
    judgements = judge.compare(work.items)
    table = rows[[*KEYS, "outcome", "extracted"]].copy()
    for name, values in {
        "gold": [g for _, g in facts],
        "verdict": [j.verdict for j in judgements],
        "error": [j.error for j in judgements],
    }.items():
        table[name] = None
        table.loc[answered, name] = values
    if behaviours:
        _count(table, rows.head(behaviours), judge, work.texts)
    found: dict[str, JudgeAgreement] = {}
    correct = (asked["outcome"] == "correct").tolist()
    problems = (asked["benchmark"] + "/" + asked["problem"]).tolist()
    groups = {"all": list(range(len(asked)))}
    for i, name in enumerate(asked["benchmark"]):
        groups.setdefault(str(name), []).append(i)
    for name, at in groups.items():
        if any(judgements[i].verdict in ("same", "different") for i in at):
            found[name] = agreement(
                [correct[i] for i in at],
                [judgements[i] for i in at],
                [problems[i] for i in at],
                judge=judge.model,
                version=judge.version,
            )
    return JudgedStudy(table.reset_index(drop=True), found)


@dataclass(frozen=True)
class JudgesWork:
    """The questions that a judge gets about a study.

    Attributes:
        rows: all rows of the selection.
        asked: the rows with an answer.
        facts: question and gold answer of each row in `asked`.
        items: the pairs to compare.
        texts: the thinking in which behaviours are counted.
    """

    rows: pd.DataFrame
    asked: pd.DataFrame
    facts: list[tuple[str, str]]
    items: list[Item]
    texts: list[str]


def questions_of(
    folder: str | Path,
    *,
    benchmarks: Sequence[str] = (),
    limit: int | None = None,
    behaviours: int = 0,
    text_of: Callable[[list[int]], str] | None = None,
    trust_remote_code: bool = False,
) -> JudgesWork:
    """Collect the questions that `judge_study` would ask, without asking.

    Args:
        folder: folder of the study.
        benchmarks: only these benchmarks; empty takes all.
        limit: only the first problems of each benchmark; None takes all.
        behaviours: number of chains on which behaviours are counted.
        text_of: token ids to text; None uses the tokenizer of the study's model.
        trust_remote_code: whether that tokenizer may run the model's own code.

    Returns:
        The questions and the rows that they are about.

    Raises:
        UserError: bad options, or a study without generated answers.
    """
    for name, value in (("limit", limit), ("behaviours", behaviours)):
        if value is not None and value < (1 if name == "limit" else 0):
            raise UserError(f"{name}={value}: expected a number of problems or chains.")
    rows, gold, model = _read(folder)
    rows = _chosen(rows, benchmarks, limit)
    if rows.empty:
        raise UserError(f"The study in {str(folder)!r} has no generated answer to judge.")
    texts: list[str] = []
    if behaviours:
        read = text_of or _reader(model, trust_remote_code)
        few = rows.head(behaviours).to_dict("records")
        texts = [read(thinking_ids(row).tolist()) for row in few]
    asked = rows[rows["outcome"] != "no answer"]
    facts = [gold[b, p] for b, p in zip(asked["benchmark"], asked["problem"], strict=True)]
    answers = asked["extracted"].astype(str)
    items = [Item(q, g, a) for (q, g), a in zip(facts, answers, strict=True)]
    return JudgesWork(rows, asked, facts, items, texts)


def _read(folder: str | Path) -> tuple[pd.DataFrame, dict[tuple[str, str], tuple[str, str]], str]:
    """Generated rows, question and gold answer by problem, and the model's name."""
    with Store(folder, read_only=True) as store:
        rows, problems, config = store.rows(ids=True), store.frame("problems"), store.config()
    rows = rows[rows["scoring"] == "generate"]
    gold = {
        (str(r["benchmark"]), str(r["problem"])): (str(r["question"]), str(r["answer"]))
        for r in problems.to_dict("records")
    }
    return rows, gold, str(config["model"])


def _chosen(rows: pd.DataFrame, benchmarks: Sequence[str], limit: int | None) -> pd.DataFrame:
    known = sorted(map(str, rows["benchmark"].unique()))
    for name in benchmarks:
        check_known(name, known, "benchmark of this study")
    if benchmarks:
        rows = rows[rows["benchmark"].isin(list(benchmarks))]
    if limit is not None:
        rows = rows[rows["position"] < limit]
    return rows.sort_values(["benchmark", "position", *KEYS[2:]])


def _reader(model: str, trust_remote_code: bool) -> Callable[[list[int]], str]:
    from scaling.engines.served_model import weightless

    found = weightless(model, trust_remote_code=trust_remote_code)
    return lambda ids: found.text(ids)


def _count(table: pd.DataFrame, few: pd.DataFrame, judge: Judge, texts: Sequence[str]) -> None:
    """Add behaviour counts of these chains' thinking, and their errors, to the table."""
    counts = judge.count(texts)
    for kind in KINDS:
        name = f"judged_{kind.replace(' ', '_')}"
        table[name] = None
        table.loc[few.index, name] = [c.counts[kind] if c.counts else None for c in counts]
    table["behaviour_error"] = None
    table.loc[few.index, "behaviour_error"] = [c.error for c in counts]
