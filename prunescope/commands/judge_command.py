"""The command that asks a language model for a second opinion on a study's answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from interp.errors import UserError
from prunescope.commands.shared import File, Flag, Lines, Names, Number, Word, table

if TYPE_CHECKING:
    from scaling.judging import JudgedStudy


@dataclass(frozen=True)
class JudgeCommand:
    """Let a language model judge a study's answers, and compare it with the rule grader.

    The judge is asked at temperature 0, is not told which answer is the reference, and may abstain.
    Its answers are kept in judge.sqlite, so a second run pays only for what is new. The key is read
    from an environment variable and kept nowhere.

    prunescope judge studies/testbed --url https://api.openai.com/v1 --model gpt-4.1-mini

    prunescope judge studies/math --url http://localhost:8000 --model Qwen3-32B --behaviours 100

    prunescope judge studies/math --behaviours 100 --estimate
    """

    study: tyro.conf.Positional[Path]
    """Folder of the study."""
    url: Word = None
    """The endpoint: any that speaks the OpenAI chat protocol."""
    model: Word = None
    """Name of the judging model at the endpoint."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable with the endpoint's key; "" sends none."""
    benchmarks: Names = ()
    """Only these benchmarks."""
    limit: Number = None
    """Only the first problems of each benchmark."""
    behaviours: int = 0
    """Count verification, backtracking, subgoals and backward chaining in that many chains."""
    concurrency: int = 8
    """Questions under way at a time."""
    timeout: float = 120.0
    """Seconds for one answer."""
    max_tokens: int = 1024
    """Tokens of one answer; a judge that thinks needs more."""
    cache: File = None
    """Where answers are kept (default: judge.sqlite in the study's folder)."""
    estimate: Flag = False
    """Only say what would be asked: requests and tokens. Nobody is asked, and no key is needed."""
    trust_remote_code: Flag = False
    """Let the study's model run its own code on this machine, to read chains by its tokenizer."""

    def run(self) -> Lines:
        if self.estimate:
            yield from self._estimated()
            return
        if not self.url or not self.model:
            raise UserError("Name the judge: --url ENDPOINT and --model NAME.")
        judged = judged_study(
            self.study,
            self.url,
            self.model,
            key_env=self.key_env,
            cache=self.cache,
            concurrency=self.concurrency,
            timeout=self.timeout,
            max_tokens=self.max_tokens,
            benchmarks=self.benchmarks,
            limit=self.limit,
            behaviours=self.behaviours,
            trust_remote_code=self.trust_remote_code,
        )
        yield from written(judged, self.study)

    def _estimated(self) -> Lines:
        """What is in the cache of this judge counts as asked; without a judge all is new."""
        from scaling.costs.judge_costs import estimate_judging
        from scaling.judging import Judge as Asked
        from scaling.judging.judge_study import CACHE, questions_of

        check_study(self.study)
        work = questions_of(
            self.study,
            benchmarks=self.benchmarks,
            limit=self.limit,
            behaviours=self.behaviours,
            trust_remote_code=self.trust_remote_code,
        )
        cache = self.cache or self.study / CACHE
        known = cache if cache.is_file() and self.url and self.model else None
        with Asked(
            self.url or "http://localhost", self.model or "judge", key_env=None, cache=known,
            concurrency=self.concurrency, max_tokens=self.max_tokens,
        ) as judge:  # fmt: skip
            planned = judge.planned(work.items, work.texts)
        yield from estimate_judging(
            planned, max_tokens=self.max_tokens, concurrency=self.concurrency
        ).report()


def check_study(folder: Path) -> None:
    """Whether there is a study, said before anything else."""
    if not (folder / "study.sqlite").is_file():
        raise UserError(f"There is no study in {str(folder)!r}: expected a folder of one.")


def check_judge(url: str | None, model: str | None) -> None:
    """Whether the judge is named and there, before anything is computed."""
    from scaling.judging import Judge as Asked

    if not url or not model:
        raise UserError("--judge and --judge-model go together: an endpoint, and a model there.")
    with Asked(url, model) as judge:
        judge.check()


def judged_study(
    folder: Path,
    url: str,
    model: str,
    *,
    benchmarks: tuple[str, ...] = (),
    limit: int | None = None,
    behaviours: int = 0,
    cache: Path | None = None,
    trust_remote_code: bool = False,
    **options: object,
) -> JudgedStudy:
    """Judge a study's rows; a judge that is not there is found out before any is read."""
    from scaling.judging import Judge as Asked
    from scaling.judging import judge_study
    from scaling.judging.judge_study import CACHE

    check_study(folder)
    with Asked(url, model, cache=cache or folder / CACHE, **options) as judge:  # pyright: ignore[reportArgumentType]
        judge.check()
        return judge_study(
            folder,
            judge,
            benchmarks=benchmarks,
            limit=limit,
            behaviours=behaviours,
            trust_remote_code=trust_remote_code,
        )


def written(judged: JudgedStudy, folder: Path) -> Lines:
    """The tables of a judged study as files, and the agreement as lines."""
    from scaling.judging.judge_study import AGREEMENT, VERDICTS

    found = judged.agreement_frame()
    if len(found):
        keys = ["benchmark", "kappa", "kappa_low", "kappa_high", "agreed", "n", "n_problems"]
        shown = found[[*keys, "rule_only", "judge_only", "abstained", "errors"]]
        yield from table(shown)
        found.to_csv(_made(folder / "tables" / AGREEMENT), index=False)
    else:
        (folder / "tables" / AGREEMENT).unlink(missing_ok=True)  # of an earlier run
        yield "No answer has a verdict: there is no agreement to report."
    out = _made(folder / "tables" / VERDICTS)
    judged.rows.to_csv(out, index=False)
    if judged.errors:
        first = judged.rows["error"].dropna().iloc[0]
        yield f"{judged.errors} answers have an error in the place of a verdict, such as: {first}"
        yield "Run the same command again to ask for those alone."
    yield f"Table: {out}"


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
