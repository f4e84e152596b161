"""Where a study runs: on a Ray cluster, or on a model that a server hosts.

The settings are checked before anything starts. `scaling.study.runner.run_study` runs it here.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from interp.errors import UserError
from interp.plumbing.arguments import checked
from scaling.study.preflight import check_names

if TYPE_CHECKING:
    from scaling.study.config import StudyConfig
    from scaling.study.runner import StudyResult
    from scaling.study.study_progress import OnEvent


@checked
def run_on_cluster(
    config: StudyConfig,
    address: str,
    on_event: OnEvent | None = None,
    *,
    workers: int | None = None,
) -> StudyResult:
    """Run a study on the workers of a Ray cluster.

    Args:
        config: the study.
        address: "local", "auto" or HOST:PORT.
        on_event: called with every stage and progress event.
        workers: number of workers. Default: one per GPU, or one per core without GPUs.

    Returns:
        The study's rows.

    Raises:
        UserError: a name that does not exist, or nothing answers at the address.
    """
    from scaling.engines.ray_cluster import ClusterEngine
    from scaling.engines.ray_worker import load_local
    from scaling.engines.served_model import weightless
    from scaling.study.problem_sets import gather
    from scaling.study.runner import run_study

    check_names(config)
    gather(config)
    reader = weightless(
        config.model,
        delimiters=config.thinking_format,
        trust_remote_code=config.trust_remote_code,
    )
    make = partial(
        load_local,
        config.model,
        config.trust_remote_code,
        config.thinking_format,
        config.device,
        config.dtype,
        config.decoder,
    )
    with ClusterEngine(make, reader, address, workers=workers) as engine:
        return run_study(config, on_event, engine=engine)


@checked
def run_on_server(
    config: StudyConfig,
    url: str,
    on_event: OnEvent | None = None,
    *,
    served: str | None = None,
) -> StudyResult:
    """Run a study on the model served at `url`.

    Args:
        config: the study; it must remove no blocks. Its model is the folder or name that the
            tokenizer is read from.
        url: the server (vLLM, SGLang, transformers serve).
        on_event: called with every stage and progress event.
        served: name of the model at the server; by default the only one it lists.

    Returns:
        The study's rows.

    Raises:
        UserError: the study removes blocks, a benchmark needs log-probabilities that the server
            does not give, or the server is not there.
    """
    from scaling.benchmarks import benchmarks
    from scaling.engines.server import ServerEngine
    from scaling.study.runner import run_study

    if config.methods or config.blocks:
        raise UserError(
            "A server has one model and no blocks to take away: measure it alone with `prunescope "
            "scale --server`, or here with --methods (naming none) and --no-blocks. For a pruned "
            "model, write the checkpoint with `prunescope prune` and serve that."
        )
    check_names(config)
    engine = ServerEngine(
        url,
        config.model,
        served=served,
        delimiters=config.thinking_format,
        trust_remote_code=config.trust_remote_code,
    )
    known = benchmarks()
    scored = [
        name
        for name in config.benchmark_names
        if known[name.partition(":")[0]].scoring == "likelihood"
    ]
    if scored and not engine.exact:
        raise UserError(
            f"{engine.kind} serve gives no log-probabilities, which {', '.join(scored)} need: "
            f"leave them out with --benchmarks, or serve the model with vLLM or SGLang."
        )
    return run_study(config, on_event, engine=engine)
