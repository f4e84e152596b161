"""What the passes of a stride give: the chosen tokens of every row, on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class StepOutput:
    """The output of k passes over n rows, on the host.

    Attributes:
        tokens: chosen token ids, [n, k], int64.
        logprob: log-probability of each token in nats, [n, k], float32.
        entropy: entropy of each choice in nats, [n, k], float32.
        finite: whether the logits of the pass were usable, [n, k].
        stream: recorded numbers of the residual stream (`interp.chains.residual_record`),
            [n, k, L, 4], float32; None if nothing is recorded.
        counts: how many of its k tokens each row keeps, [n]; None if all. Drafts that were not
            chosen are dropped.
    """

    tokens: Int[np.ndarray, "n k"]
    logprob: Float[np.ndarray, "n k"]
    entropy: Float[np.ndarray, "n k"]
    finite: Bool[np.ndarray, "n k"]
    stream: Float[np.ndarray, "n k L 4"] | None
    counts: Int[np.ndarray, " n"] | None = None

    def by_row(
        self, lane_of: Int[np.ndarray, "rows k"], counts: Int[np.ndarray, " rows"]
    ) -> StepOutput:
        """Arranges the output of one drafted pass by rows.

        Args:
            lane_of: lane of each token of each row; any lane after its last, [rows, k].
            counts: tokens that each row keeps.

        Returns:
            The output of these rows, k tokens each.
        """
        return StepOutput(
            self.tokens[lane_of, 0],
            self.logprob[lane_of, 0],
            self.entropy[lane_of, 0],
            self.finite[lane_of, 0],
            None if self.stream is None else self.stream[lane_of, 0],
            counts,
        )
