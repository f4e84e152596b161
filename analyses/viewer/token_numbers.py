"""What the model thought at every token of a stored chain, by one teacher-forced pass.

A study keeps token ids and no numbers per token. With the model's weights at hand (`prunescope view
--measure`) the numbers of the open chain are computed again, under the variant that wrote it:
probability and entropy at temperature 1, Block Influence of every block, and the KL divergence from
the dense model, each at the pass that CHOSE the token.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from analyses.plumbing import style
from analyses.plumbing.workbench import study_model
from interp.chains.chain import Chain
from interp.errors import UserError
from interp.influence_profile import recorded
from interp.interventions.interventions import VariantLike
from interp.model.reasoning_model import ReasoningModel
from interp.replay.divergence import divergence
from pruning.repaired_plan import RepairedPlan
from scaling.store.chain_row import Key, stored_chain
from scaling.store.stored_benchmark import stored_benchmarks
from scaling.store.study_store import Store
from scaling.study.variants import read_variants


class TokenNumbers:
    """Measures stored chains with the study's model, which is loaded when first needed.

    Args:
        store: the study.
    """

    def __init__(self, store: Store) -> None:
        self._config, self._meta = store.config(), store.meta()
        self._benchmarks = stored_benchmarks(self._meta, store.frame("problems"))
        self._variants: Mapping[str, Any] = read_variants(store)

    @cached_property
    def _model(self) -> ReasoningModel:
        return study_model(self._config, self._meta)

    def measure(self, key: Key, row: Mapping[str, Any]) -> dict[str, Any]:
        """The numbers of a chain under its own variant.

        Args:
            key: the chain's key.
            row: its row of the store, with token ids.

        Returns:
            JSON values: `logprob`, `entropy`, `kl` (from dense; None for a dense chain) with a
            number per token, `influence` with a list of numbers per token, `blocks`, the dense
            index of each of them.

        Raises:
            UserError: the chain cannot be read again as it was written.
        """
        chain, variant = self._chain(key, row), self._live(key.variant)
        (seen,) = recorded(self._model, [chain], variant)
        apart = divergence(self._model, [chain], variant).quantities
        assert seen.stream is not None
        return {
            "logprob": _rounded(apart["logprob"][0], 4),
            "entropy": _rounded(apart["entropy"][0], 4),
            "kl": None if key.variant == style.DENSE else _rounded(apart["kl"][0], 5),
            "influence": [_rounded(values, 4) for values in seen.stream.influence],
            "blocks": list(self._model.layer_map),
        }

    def kl_along(self, key: Key, row: Mapping[str, Any], variant: str) -> list[float | None]:
        """KL(dense || variant) at every token of a chain.

        Args:
            key: the chain's key.
            row: its row of the store, with token ids.
            variant: name of a variant of the study.

        Returns:
            Nats per token.

        Raises:
            UserError: the chain cannot be read again, or the variant is unknown or has merged
                blocks.
        """
        chain, other = self._chain(key, row), self._live(variant)
        return _rounded(divergence(self._model, [chain], other).quantities["kl"][0], 5)

    def _live(self, name: str) -> VariantLike:
        variant = self._variants.get(name)
        if variant is None:
            raise UserError(f"The study has no variant {name!r}.")
        if isinstance(variant, RepairedPlan):
            raise UserError(f"{name!r} has merged blocks, so it is a model of its own.")
        return variant

    def _chain(self, key: Key, row: Mapping[str, Any]) -> Chain:
        """The chain with its prompt, which the store does not keep."""
        model, benchmark = self._model, self._benchmarks.get(key.benchmark)
        problems = () if benchmark is None else benchmark.problems
        problem = next((p for p in problems if p.id == key.problem), None)
        if benchmark is None or problem is None:
            raise UserError(f"The benchmark {key.benchmark!r} or its problem is not known here.")
        prompt = model.prompt_ids(benchmark.prompt(problem), thinking=benchmark.thinking)
        if len(prompt) != row["prompt_tokens"]:
            raise UserError(
                f"The prompt has {len(prompt)} tokens here and had {row['prompt_tokens']}."
            )
        return stored_chain(row, prompt, model.layer_map, plain=model.delimiter_ids.plain)


def _rounded(values: np.ndarray, digits: int) -> list[float | None]:
    return [round(float(v), digits) if np.isfinite(v) else None for v in values]
