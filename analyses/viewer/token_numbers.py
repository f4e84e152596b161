"""What the model thought at every token of a stored chain, by one teacher-forced pass.

A study keeps token ids and no numbers per token. With the model's weights at hand (`prunescope view
--measure`) the numbers of the open chain are computed again, under the variant that wrote it:
probability and entropy at temperature 1, Block Influence of every block, and the KL divergence from
the dense model, each at the pass that CHOSE the token.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from analyses.plumbing import style
from analyses.plumbing.frames import StudyData
from analyses.plumbing.workbench import Workbench, stored_benchmark, study_model
from interp.chains.chain import Budget, Chain
from interp.influence_profile import recorded
from interp.interventions.interventions import VariantLike, dense
from interp.model.reasoning_model import ReasoningModel
from interp.replay.divergence import Divergence, divergence
from scaling.store.study_store import Store
from scaling.study.variants import read_variants


class TokenNumbers:
    """Measures stored chains with the study's model.

    Args:
        folder: the study.

    Raises:
        UserError: the model cannot be loaded, or is not the study's.
    """

    def __init__(self, folder: Path) -> None:
        self._study = StudyData.read(folder)
        self._benches: dict[str, Workbench] = {}
        with Store(folder, read_only=True) as store:
            self._variants = read_variants(store)

    def bench(self, benchmark: str) -> Workbench:
        """The model with the problems of one benchmark; both are read once."""
        if benchmark not in self._benches:
            problems = stored_benchmark(self._study, benchmark)
            self._benches[benchmark] = Workbench(self._study, self._model, problems, Budget(1, 1))
        return self._benches[benchmark]

    @cached_property
    def _model(self) -> ReasoningModel:
        return study_model(self._study)

    def measure(self, chain: Chain) -> dict[str, Any]:
        """The numbers of a chain under its own variant.

        Args:
            chain: the chain, with its prompt.

        Returns:
            JSON values: `logprob`, `entropy`, `kl` (from dense; None for a dense chain) with a
            number per token, `influence` with a list of numbers per token, `blocks`, the dense
            index of each of them.
        """
        variant, model = self._variants.get(chain.variant, dense), self._model
        (seen,) = recorded(model, [chain], variant)
        apart = divergence(model, [chain], variant)
        assert seen.stream is not None
        return {
            "logprob": _rounded(apart.quantities["logprob"][0], 4),
            "entropy": _rounded(apart.quantities["entropy"][0], 4),
            "kl": None if chain.variant == style.DENSE else _kl(apart),
            "influence": [_rounded(row, 4) for row in seen.stream.influence],
            "blocks": list(model.layer_map),
        }

    def kl_along(self, chain: Chain, variant: str) -> list[float | None]:
        """KL(dense || variant) at every token of a chain.

        Args:
            chain: the chain, with its prompt.
            variant: name of a variant of the study.

        Returns:
            Nats per token.
        """
        other: VariantLike = self._variants.get(variant, dense)
        return _kl(divergence(self._model, [chain], other))


def _kl(apart: Divergence) -> list[float | None]:
    return _rounded(apart.quantities["kl"][0], 5)


def _rounded(values: np.ndarray, digits: int) -> list[float | None]:
    return [round(float(v), digits) if np.isfinite(v) else None for v in values]
