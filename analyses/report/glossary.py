"""The words of the report that not every reader knows, each in one sentence or two."""

from __future__ import annotations

from analyses.plumbing.tables import share
from analyses.report.removal_changes import TOLERANCE

GLOSSARY = {
    "block": "One decoder layer. Blocks are numbered from 0 in the dense model, always.",
    "dense": "The model with all its blocks.",
    "variant": "The model without the blocks that a criterion chose: ShortGPT −2 is the dense "
    "model without the two blocks that ShortGPT picks.",
    "Block Influence": "How much a block turns the residual stream: one minus the cosine of its "
    "input and output, averaged over tokens. ShortGPT removes the blocks where it is lowest.",
    "chain": "One generated answer: the thinking and the answer after it.",
    "accuracy": "The share of chains with the right answer, at the largest thinking budget.",
    "loops": "The share of chains that end in a loop: the tail repeats at least three times, "
    "exactly or with other numbers.",
    "no answer": "The share of chains in which no answer could be read.",
    "reflection": "Verifying, backtracking and the like (“wait”, “let me check”), counted per "
    "1,000 thinking tokens outside loops.",
    "length": "Thinking tokens per chain.",
    "interval": "[low, high] holds the true change with 95 % confidence, over problems, each "
    "interval for itself. Differences are paired: same problems, same sampling noise.",
    "p": "The chance of a difference at least this large if the removal changed nothing "
    "(sign-flip test over problems), after Holm's correction for all tests of the same outcome.",
    "clear": "p < .05 after correction, and zero is outside the interval. A change that is not "
    "clear is not shown to be absent.",
    "suspected": "The interval excludes zero, but with this many tests that may be chance.",
    "safe": f"On every benchmark the interval rules out a loss of accuracy, or a rise of loops or "
    f"of missing answers, of more than {share(TOLERANCE)}.",
    "smallest visible change": "The true change that this many problems show four times in five "
    "after correction; median over the rows. “Nothing”: with so few problems and so many tests, "
    "no change at all could come out clear.",
    "thinking budget": "Thinking tokens allowed. A chain that spends them all is made to answer.",
    "pass@k": "The chance that at least one of k samples is right.",
    "ρ": "Spearman's rank correlation: 1 if two scores put the blocks in the same order.",
    "FLOPs": "Floating-point operations, from the model's configuration.",
    "seconds (modelled)": "The study's own rate for dense, scaled by the share of weights read.",
    "ceiling": "The accuracy that the fitted curve approaches with more and more thinking.",
}
