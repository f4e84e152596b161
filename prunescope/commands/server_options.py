"""What the subcommands need of a model that a server serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.errors import UserError
from prunescope.progress import StudyBar

if TYPE_CHECKING:
    from scaling.study.config import StudyConfig


def on_server(config: StudyConfig, url: str, served: str | None) -> None:
    """Run a study on the model served at `url`; what it cannot do is said before it begins."""
    from interp.errors import did_you_mean
    from scaling.benchmarks import benchmarks
    from scaling.engines.server import ServerEngine
    from scaling.study.runner import run_study

    if config.methods or config.blocks:
        raise UserError(
            "A server has one model and no blocks to take away: measure it alone with `prunescope "
            "scale --server`, or here with --methods (naming none) and --no-blocks. For a pruned "
            "model, write the checkpoint with `prunescope prune` and serve that."
        )
    known = benchmarks()
    names = {name: name.partition(":")[0] for name in config.benchmark_names}
    for kind in names.values():
        if kind not in known:
            raise UserError(did_you_mean(kind, known, "benchmark"))
    engine = ServerEngine(
        url,
        config.model,
        served=served,
        delimiters=config.thinking_format,
        trust_remote_code=config.trust_remote_code,
    )
    scored = [name for name, kind in names.items() if known[kind].scoring == "likelihood"]
    if scored and not engine.exact:
        raise UserError(
            f"{engine.kind} serve gives no log-probabilities, which {', '.join(scored)} need: "
            f"leave them out with --benchmarks, or serve the model with vLLM or SGLang."
        )
    with StudyBar() as bar:
        run_study(config, bar, engine=engine)
