"""A second opinion on answers, from a language model at an endpoint: verdicts, counts, agreement.

`Judge` asks (`scaling.judging.llm_judge`), `JudgeCache` keeps, `agreement` compares with the rule
grader, `judge_study` does it for a study's rows. The words a judge is told are in
`scaling.judging.prompts`.
"""

from scaling.judging.judge_agreement import JudgeAgreement, agreement, kappa_interval
from scaling.judging.judge_study import JudgedStudy, judge_at, judge_study
from scaling.judging.llm_judge import BehaviourCount, Item, Judge, Judgement
from scaling.judging.verdict_cache import JudgeCache

__all__ = [
    "BehaviourCount",
    "Item",
    "Judge",
    "JudgeAgreement",
    "JudgeCache",
    "JudgedStudy",
    "Judgement",
    "agreement",
    "judge_at",
    "judge_study",
    "kappa_interval",
]
