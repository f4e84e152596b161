"""Statistics for small, clustered samples near zero; all rooms take theirs from here.

A benchmark in a reasoning study has about 30 problems, a few samples each, and often an accuracy
near zero. Bootstrap intervals cover 73 % there, and samples of one problem are not independent.
This package holds: intervals that are valid near zero (`jeffreys`, `clopper_pearson`,
`mean_interval`), differences paired within the problem (`paired_difference`, `sign_flip`),
correction for multiple tests (`holm`), rank correlation with an interval (`spearman_interval`,
`partial_interval`), the rate of an event per token (`rate`), unbiased estimators of parallel
scaling (`pass_at_k`, `cov_at_k`, `maj_at_k`, `best_of_n`), and the smallest effect that a design
can detect (`smallest_effect`). `problem_table` arranges chains for all of them.

Shapes: outcomes are [problems, samples], nan where a sample is missing; [problems] means one
sample per problem. The problem is the unit of inference everywhere.
"""

from interp.statistics.at_k import best_of_n, cov_at_k, maj_at_k, pass_at_k
from interp.statistics.correlation import Correlation, spearman, spearman_interval
from interp.statistics.intervals import (
    Interval,
    as_outcomes,
    clopper_pearson,
    cluster_bootstrap,
    jeffreys,
    mean_interval,
    resample_means,
)
from interp.statistics.kappa import cohen_kappa
from interp.statistics.multiplicity import holm, with_holm
from interp.statistics.paired import PairedDifference, paired_difference, sign_flip, smallest_effect
from interp.statistics.partial import partial_interval
from interp.statistics.problem_table import problem_table
from interp.statistics.rates import Rate, rate
from interp.statistics.unpaired import unpaired_difference
