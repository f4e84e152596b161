"""The command that asks a language model for a second opinion on a study's answers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from interp.errors import UserError
from interp.plumbing.command_line import (
    CodeOptions,
    File,
    Flag,
    Lines,
    Names,
    Number,
    Word,
    command,
)
from prunescope.commands.options import FolderOptions
from prunescope.commands.output import ESTIMATE, Command, NextStep, Result, estimated
from prunescope.commands.shared import table

if TYPE_CHECKING:
    from scaling.judging import JudgedStudy


@command
class JudgeCommand(Command, FolderOptions, CodeOptions):
    """Let a language model judge a study's answers, and compare it with the rule grader.

    The judge is asked at temperature 0, is not told which answer is the reference, and may abstain.
    Its answers are kept in judge.sqlite, so a second run pays only for what is new. The key is read
    from an environment variable and kept nowhere.

    prunescope judge studies/testbed --url https://api.openai.com/v1 --model gpt-4.1-mini

    prunescope judge studies/math --url http://localhost:8000 --model Qwen3-32B --behaviours 100

    prunescope judge studies/math --behaviours 100 --estimate
    """

    ENTRIES: ClassVar = {
        "agreement": "a row per benchmark: kappa between judge and grader with its interval",
        "errors": "answers that have an error in the place of a verdict",
        "table": "the judged answers (CSV)",
        **ESTIMATE,
    }
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

    def run(self) -> Lines:
        if self.estimate:
            yield from self._estimated()
            return
        from scaling.judging.judge_study import judge_at

        if not self.url or not self.model:
            raise UserError("Name the judge: --url ENDPOINT and --model NAME.")
        judged = judge_at(
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
        yield from said_of(judged, self.study)
        yield NextStep(f"prunescope report {shlex.quote(str(self.study))}")

    def _estimated(self) -> Lines:
        """What is in the cache of this judge counts as asked; without a judge all is new."""
        from scaling.costs.judge_costs import estimate_judging
        from scaling.judging import Judge as Asked
        from scaling.judging.judge_study import CACHE, check_study, questions_of

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
        yield estimated(
            estimate_judging(planned, max_tokens=self.max_tokens, concurrency=self.concurrency)
        )


def check_judge(url: str | None, model: str | None) -> None:
    """Whether the judge is named and there, before anything is computed."""
    from scaling.judging import Judge as Asked

    if not url or not model:
        raise UserError("--judge and --judge-model go together: an endpoint, and a model there.")
    with Asked(url, model) as judge:
        judge.check()


def said_of(judged: JudgedStudy, folder: Path) -> Lines:
    """Writes the tables of a judged study; the agreement and what went wrong as lines."""
    out = judged.write(folder)
    found = judged.agreement_frame()
    if len(found):
        keys = ["benchmark", "kappa", "kappa_low", "kappa_high", "agreed", "n", "n_problems"]
        keys += ["rule_only", "judge_only", "abstained", "errors"]
        yield from table(found, "agreement", columns=keys)
    else:
        yield "No answer has a verdict: there is no agreement to report."
    if judged.errors:
        first = judged.rows["error"].dropna().iloc[0]
        yield f"{judged.errors} answers have an error in the place of a verdict, such as: {first}"
        yield "Run the same command again to ask for those alone."
    yield Result(f"Table: {out}", table=str(out), errors=judged.errors)
