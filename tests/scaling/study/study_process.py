"""A process that runs studies in children and disturbs them: arguments FOLDER HOW TIMES SEED.

HOW is "kill" (SIGKILL at random moments) or "interrupt" (SIGINT, as Ctrl-C does, through the
command line's own handling). Everything slow (imports, model) is done once; each child is forked,
runs or goes on with the study, and is disturbed after a random while. The last one is left to
finish. A first, undisturbed study is written beside it. Not a test module: study/test_resume.py and
study/test_faults.py start it; it says what happened as JSON.
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

import scaling.study.runner
from prunescope import cli
from scaling.engines.local import LocalEngine
from scaling.study.config import StudyConfig
from scaling.study.runner import run_study
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


def child(out: Path, engine: LocalEngine, said: Path | None = None) -> int:
    """Start a study in a child; its pid. said: by the command line, which writes errors there."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if said is None:
                run_study(config(out), engine=engine)
                code = 0
            else:
                code = _through_the_command_line(out, engine, said)
        finally:
            os._exit(code)
    return pid


def _through_the_command_line(out: Path, engine: LocalEngine, said: Path) -> int:
    class Command:
        def run(self) -> list[str]:
            run_study(config(out), engine=engine)
            return []

    cli.parse = lambda *_: Command()  # the model is loaded already
    with said.open("a", encoding="utf-8") as file:
        sys.stderr = file
        return cli.run(["study"])


def main() -> None:
    """Undisturbed, then disturbed again and again, then to the end."""
    folder, how, times, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    # Started in the background of a shell that has no job control, SIGINT would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    scaling.study.runner.BATCH_SECONDS = 0.05  # commits between any two moments
    engine = LocalEngine(models.tiny(n_blocks=3), slots=7)
    began = time.monotonic()
    _, status = os.waitpid(child(folder / "undisturbed", engine), 0)
    whole = time.monotonic() - began
    rng = random.Random(seed)
    killed, codes, seconds = 0, list[int](), list[float]()
    for _ in range(times):
        said = folder / "said" if how == "interrupt" else None
        pid = child(folder / "disturbed", engine, said)
        # Together not much longer than the whole, so that each falls into a study at work.
        time.sleep(rng.uniform(0, whole * (0.4 if times < 5 else 1.6 / times)))
        asked = time.monotonic()
        os.kill(pid, signal.SIGKILL if how == "kill" else signal.SIGINT)
        _, ended = os.waitpid(pid, 0)
        seconds.append(time.monotonic() - asked)
        killed += os.WIFSIGNALED(ended)
        codes.append(os.waitstatus_to_exitcode(ended))
    _, last = os.waitpid(child(folder / "disturbed", engine), 0)
    found = {"statuses": [status, last], "killed": killed, "codes": codes}
    sys.stdout.write(json.dumps({**found, "seconds": seconds, "whole": whole}))


if __name__ == "__main__":
    main()
