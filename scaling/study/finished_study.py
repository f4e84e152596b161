"""What a study is made of, and whether all of it is there, found out without loading its model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from interp.errors import PruneScopeError, UserError
from interp.model.checkpoint_files import locate
from interp.model.gguf_file import described, is_gguf
from pruning.folder import stored_fingerprint
from pruning.stored import stored_weights
from scaling.engines.engine import Engine
from scaling.engines.local import LocalEngine
from scaling.engines.served_model import weightless
from scaling.problem import Benchmark
from scaling.store.stored_benchmark import prompting_facts
from scaling.store.study_file import FILE
from scaling.store.study_store import Store
from scaling.store.thinking_format import format_fact
from scaling.study.cells import Cell, cut, wanted
from scaling.study.config import StudyConfig
from scaling.study.problem_sets import gather
from scaling.study.variants import read_variants

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

RECIPE = "4"  # raised when the meaning of a row changes; an older folder is then refused
PLAIN_RECIPE = "5"  # of the plain format: a forced answer ends with its line
MODEL, MODEL_FILE = "model fingerprint", "model file"  # keys of the identity


def identity_of(engine: Engine, problems: Sequence[Benchmark]) -> dict[str, str]:
    """What a study measures, besides its settings.

    Args:
        engine: the engine, for its model.
        problems: the benchmarks.

    Returns:
        Fingerprints of the model and of the problems, the thinking format, the recipe of a row.
    """
    found = {f"problems {b.name}": b.fingerprint for b in problems}
    origin = getattr(engine, "provenance", None)  # of a model from a GGUF file
    if origin:
        found[MODEL_FILE] = described(origin)
    words = getattr(engine.model, "delimiters", None)  # an engine of one's own may know none
    found |= {} if words is None else format_fact(words)
    found |= prompting_facts(problems)
    recipe = PLAIN_RECIPE if words is not None and words.is_plain else RECIPE
    return {"recipe": recipe, MODEL: engine.fingerprint(), **found}


def cells_of(
    config: StudyConfig, store: Store, problems: Sequence[Benchmark], variants: Collection[str]
) -> list[tuple[Benchmark, list[Cell]]]:
    """Cut a study into cells.

    Args:
        config: the study.
        store: its store, with the variants.
        problems: its benchmarks.
        variants: names of the variants.

    Returns:
        Each benchmark with its cells.
    """
    frame = store.frame("variants").set_index("variant")
    kinds = {v: (str(frame.loc[v, "kind"]), str(frame.loc[v, "method"])) for v in variants}
    return [(bench, cut(config, bench, kinds)) for bench in problems]


class WeightlessEngine(LocalEngine):
    """The engine of a study that has every chain: it knows its model, and decodes nothing.

    Args:
        model: the model without weights.
        fingerprint: that of the model with its weights.
    """

    def __init__(self, model: ReasoningModel, fingerprint: str) -> None:
        super().__init__(model)
        self._fingerprint = fingerprint

    @property
    def about(self) -> str:
        """What is recorded in the store."""
        return "no engine: every chain was there"

    def fingerprint(self) -> str:
        """Identity of weights and configuration."""
        return self._fingerprint


def weightless_engine(config: StudyConfig) -> WeightlessEngine | None:
    """Find out whether `config.out` holds this very study with every chain of it.

    Args:
        config: the study.

    Returns:
        An engine without weights; None where chains are missing, where anything differs, or where
        the files do not say so. The model must then be loaded.
    """
    if not (config.out / FILE).is_file():
        return None
    try:
        with closing(Store(config.out, read_only=True)) as store:
            engine = _engine(config, store)
            config = config.fitted(engine.model)
            problems, _ = gather(config, engine)
            if store.differences(config.settings(), identity_of(engine, problems)):
                return None
            variants = read_variants(store)
            cells = cells_of(config, store, problems, variants)
            done = store.done()
            whole = all(wanted(bench, own).keys() <= done for bench, own in cells)
            return engine if variants and whole else None
    # loading the model says what is wrong; the Hub's library raises OSError where it is not reached
    except (PruneScopeError, OSError):
        return None


def _engine(config: StudyConfig, store: Store) -> WeightlessEngine:
    place = locate(config.model)
    model = weightless(
        config.model, delimiters=config.thinking_format, trust_remote_code=config.trust_remote_code
    )
    if not is_gguf(place):
        folder = Path(place)
        if not folder.is_dir():  # of the Hub: where its present version is kept
            from transformers.utils.hub import cached_file

            folder = Path(str(cached_file(place, "config.json"))).parent
        return WeightlessEngine(model, stored_fingerprint(model, stored_weights(folder)))
    meta = store.meta()  # the hash of the file tells its weights
    if meta.get(MODEL_FILE) != described(model.provenance):
        raise UserError("The study is of another file.")
    return WeightlessEngine(model, meta[MODEL])
