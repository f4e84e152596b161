"""A second opinion on answers, from a language model at an endpoint: verdicts, counts, agreement.

`Judge` asks (`scaling.judging.judge`), `JudgeCache` keeps, `agreement` compares with the rule
grader, `judge_study` does it for a study's rows. The words a judge is told are in
`scaling.judging.prompts`.
"""

from scaling.judging.agreement import Agreement, agreement, kappa_interval
from scaling.judging.cache import JudgeCache
from scaling.judging.judge import BehaviourCount, Item, Judge, Judgement
from scaling.judging.study import JudgedStudy, judge_study

__all__ = [
    "Agreement",
    "BehaviourCount",
    "Item",
    "Judge",
    "JudgeCache",
    "JudgedStudy",
    "Judgement",
    "agreement",
    "judge_study",
    "kappa_interval",
]
