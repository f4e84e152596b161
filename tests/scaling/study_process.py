"""A process that runs studies in children and kills them: arguments FOLDER KILLS SEED.

Everything slow (imports, model) is done once; each child is forked, runs or goes on with the study
and is ended with SIGKILL after a random while. The last one is left to finish. A first, undisturbed
study is written beside it. Not a test module: test_resume.py starts it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from scaling.backends.local import LocalEngine
from scaling.config import StudyConfig
from scaling.runner import run_study
from tests import models


def config(out: Path) -> StudyConfig:
    """A small study with every part in it."""
    return StudyConfig(
        benchmarks=("recall", "arithmetic", "countdown-3"),
        limit=3,
        budgets=(6, 12, 24),
        answer=4,
        samples=2,
        waits=(1,),
        remove=(1, 2),
        methods=("shortgpt", "random"),
        out=out,
    )


def child(out: Path, engine: LocalEngine) -> int:
    """Start a study in a child of its own; its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run_study(config(out), engine=engine)
            code = 0
        finally:
            os._exit(code)
    return pid


def main() -> None:
    """Undisturbed, then killed and killed again, then to the end."""
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    engine = LocalEngine(models.tiny(n_blocks=3), slots=7)
    began = time.monotonic()
    _, status = os.waitpid(child(folder / "undisturbed", engine), 0)
    whole = time.monotonic() - began
    rng = random.Random(seed)
    killed = 0
    for _ in range(kills):
        pid = child(folder / "killed", engine)
        time.sleep(rng.uniform(0, whole * 0.8))
        os.kill(pid, signal.SIGKILL)
        _, ended = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(ended)
    _, last = os.waitpid(child(folder / "killed", engine), 0)
    sys.stdout.write(json.dumps({"statuses": [status, last], "killed": killed, "whole": whole}))


if __name__ == "__main__":
    main()
