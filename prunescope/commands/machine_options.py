"""What a study or a scoring will cost (--estimate), on a machine (--machine)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import UserError
from prunescope.progress import StudyBar

if TYPE_CHECKING:
    from scaling.costs.estimate import Estimate
    from scaling.costs.scoring_costs import CalibrationSize, PlannedRepair
    from scaling.study.config import StudyConfig


def estimate(config: StudyConfig, machine: str | None = None) -> Estimate:
    """An estimate: of a named machine, or by a trial on this one."""
    from scaling.costs.machines import machine as named
    from scaling.study.preflight import check_names

    check_names(config)
    if machine is not None:
        from scaling.costs.study_costs import estimate_on

        return estimate_on(config, named(machine))
    check_weights(config.model)
    from scaling.costs.trial import estimate_here
    from scaling.engines.local import LocalEngine

    engine = LocalEngine(config.load_model())
    with StudyBar() as bar:
        return estimate_here(config, engine, on_event=bar)


def check_weights(model: str) -> None:
    """A trial needs weights; said before anything is loaded."""
    if model.endswith(".json"):
        raise UserError(
            f"{model} is a configuration without weights: name a machine for the estimate, "
            "such as --machine h200."
        )


def scoring_estimate(
    criteria: Sequence[str],
    config: StudyConfig,
    texts: list[str] | Path | None,
    part: str | None,
    machine: str | None,
    removals: int | None,
    options: Mapping[str, Any],
    repair: PlannedRepair | None = None,
) -> Estimate:
    """The cost of scoring blocks, as `score` and `prune` do. config: model, benchmarks, data."""
    from scaling.costs.machines import machine as named
    from scaling.costs.model_shape import ModelShape
    from scaling.costs.scoring_costs import estimate_scoring, own_calibration, tried_share
    from scaling.costs.study_work import SHARE

    share = SHARE
    if machine is not None:
        shape, device = ModelShape.of(config.model, config.trust_remote_code), named(machine)
    else:
        check_weights(config.model)
        from scaling.costs.measured_machine import this_machine
        from scaling.engines.local import LocalEngine

        model = config.load_model()
        shape, device = (
            replace(ModelShape.of(model.hf.config), name=config.model),
            this_machine(model),
        )
        if texts is None and part != "prompt":
            share = tried_share(config, LocalEngine(model))
    if texts is None:
        found = own_calibration(config, shape.n_blocks, share, prompts_only=part == "prompt")
    else:
        found = _calibration_of(config, texts, part)
    return estimate_scoring(
        shape, criteria, found, device, removals=removals, options=options, repair=repair
    )


def _calibration_of(config: StudyConfig, texts: Any, part: str | None) -> CalibrationSize:
    """The size of a calibration on texts, or on the chains of a finished study."""
    from scaling.costs.scoring_costs import CalibrationSize
    from scaling.costs.study_work import CHARS_A_TOKEN

    if isinstance(texts, Path):
        from scaling.study.calibration_source import dense_rows

        rows = dense_rows(texts)
        tokens = float((rows["prompt_tokens"] + rows["tokens"]).sum())
        return CalibrationSize(
            len(rows), tokens, chain=_chain_of(rows), how=f"the chains of {texts}"
        )
    if config.model.endswith(".json"):
        counts = [max(1.0, len(text) / CHARS_A_TOKEN) for text in texts]
        how = f"{CHARS_A_TOKEN:.0f} characters per token"
    else:
        from pruning.calibration import Calibration as Sized
        from scaling.engines.served_model import weightless

        model = weightless(config.model, trust_remote_code=config.trust_remote_code)
        counts = [float(len(ids)) for ids in Sized.of(model, texts, part).sequences]  # pyright: ignore[reportArgumentType]
        how = "counted by the model's tokenizer"
    return CalibrationSize(len(counts), sum(counts), how=how)


def _chain_of(rows: Any) -> tuple[float, float, float]:
    """(prompt, tokens, tokens at most) of a chain like these."""
    most = float((rows["thinking_budget"] + rows["answer_budget"]).max())
    return float(rows["prompt_tokens"].mean()), float(rows["tokens"].mean()), most
