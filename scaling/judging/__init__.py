"""A language model as a second judge of answers: verdicts, behaviour counts, agreement.

`Judge` asks (`scaling.judging.llm_judge`), `JudgeCache` stores the answers, `agreement` compares
with the rule grader, `judge_study` runs both on a study's rows. The prompts are in
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
