"""What a study measured of a checkpoint, as evaluation results of its model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import UserError
from interp.model.checkpoint_files import PRUNING_FILE, side_file
from interp.plumbing.arguments import checked
from interp.statistics import mean_interval
from pruning.model_card import write_results
from scaling.store.study_store import Store
from scaling.study.preflight import chooses, method_of

if TYPE_CHECKING:
    import pandas as pd
    from huggingface_hub import EvalResult

PURPOSES = ("accuracy", "blocks")  # in the order in which they are looked at


@checked
def add_results(checkpoint: str | Path, study: str | Path) -> Path:
    """Write what a study measured of a checkpoint into its model card (`model-index`).

    The study is one of the checkpoint itself (`prunescope scale --model CHECKPOINT`), or one of the
    dense model that skipped the same blocks. The latter says nothing about a checkpoint that was
    repaired or trained since.

    Args:
        checkpoint: the checkpoint's folder.
        study: the study's folder.

    Returns:
        The card's file.

    Raises:
        UserError: the study measured neither the checkpoint nor its blocks.
    """
    if not Path(checkpoint).is_dir():
        raise UserError(f"{str(checkpoint)!r} is no folder: expected a checkpoint of prune.")
    record = side_file(str(checkpoint), PRUNING_FILE) or {}
    with Store(study, read_only=True) as store:
        names = _variants(store, Path(checkpoint), record)
        frames = [
            store.rows(purpose, where={"variant": name}) for name in names for purpose in PURPOSES
        ]
    rows = next((frame for frame in frames if len(frame)), None)
    if rows is None:
        removed = (record.get("plan") or {}).get("removed")
        raise UserError(
            f"{study} holds no chains without the blocks {removed}: run the study with them, or "
            f"measure the checkpoint itself (`prunescope scale --model {checkpoint}`)."
        )
    return write_results(checkpoint, _results(rows))


def _variants(store: Store, checkpoint: Path, record: dict[str, Any]) -> list[str]:
    """The names of the study's variants that are this checkpoint."""
    measured = store.meta().get("model fingerprint")
    if record and measured == record.get("fingerprint"):
        if done := next((key for key in ("repair", "recovery") if key in record), None):
            raise UserError(
                f"The study skipped blocks of the dense model, and {checkpoint} has a {done} "
                f"since: measure it with `prunescope scale --model {checkpoint}`."
            )
        removed = sorted((record.get("plan") or {}).get("removed", ()))
        variants = store.frame("variants")[["variant", "method", "removed"]]
        return [
            str(name)
            for name, method, blocks in variants.itertuples(index=False)
            if sorted(json.loads(blocks)) == removed
            and not (method and chooses(method_of(method)[0]))  # its blocks are merged
        ]
    from interp.model.reasoning_model import ReasoningModel

    if measured != ReasoningModel.load(checkpoint).fingerprint():
        raise UserError(
            f"The study measured other weights than those of {checkpoint} or of the model that it "
            f"was made from: measure it with `prunescope scale --model {checkpoint}`."
        )
    return ["dense"]


def _results(rows: pd.DataFrame) -> list[EvalResult]:
    """Accuracy by benchmark and budget."""
    from huggingface_hub import EvalResult

    from scaling.benchmarks import benchmarks

    found = []
    for (name, budget), chains in rows.groupby(["benchmark", "budget"], sort=True):
        entry = benchmarks().get(str(name).partition(":")[0])
        hub = entry.hub if entry else None
        right = chains.assign(right=(chains["outcome"] == "correct").astype(float))
        table = right.pivot(index="problem", columns="sample", values="right")
        accuracy = mean_interval(table.to_numpy())
        likelihood = chains["scoring"].iloc[0] == "likelihood"
        said = "by likelihood" if likelihood else f"{budget} thinking tokens"
        # the Hub shows results of one dataset together, whatever name each gives it
        found.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=hub.path if hub else str(name),
                dataset_name=hub.path if hub else str(name),
                dataset_config=hub.config if hub else None,
                dataset_split=hub.split if hub else None,
                metric_type="accuracy",
                metric_name=f"{name}: accuracy ({said}, {len(table)} problems, 95 % interval "
                f"{accuracy.low:.3f} to {accuracy.high:.3f})",
                metric_value=round(accuracy.value, 4),
            )
        )
    return found
