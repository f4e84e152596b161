"""A small finished study of the bundled reasoner."""

from __future__ import annotations

from pathlib import Path

from interp.model.reasoning_model import ReasoningModel
from scaling.engines.local import LocalEngine
from scaling.study.config import StudyConfig
from scaling.study.runner import run_study


def small_study(reasoner: ReasoningModel, folder: Path) -> Path:
    """Three problems at two budgets, dense only; returns the folder."""
    config = StudyConfig(
        benchmarks=("arithmetic",), limit=3, budgets=(8, 24), methods=(), waits=(), blocks=False,
        out=folder,
    )  # fmt: skip
    run_study(config, engine=LocalEngine(reasoner))
    return folder
