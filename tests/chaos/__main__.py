"""Disturb studies at random moments for some minutes, and compare their rows with undisturbed ones.

    python -m tests.chaos --minutes 20
    python -m tests.chaos --seed 7 --only 31      one trial again, its moments almost the same

A trial is a study of the bundled reasoner that is killed, stopped, given a full disk, damaged and
rescued, crowded by a second run, held by another program, or robbed of its server, up to three
times, and then run to its end. Exits with 1 where a row is lost, doubled or changed, a run ends in
a traceback or hangs, or advice does not work.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PRUNESCOPE_KERNELS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tests.chaos.disturbances import KINDS, ChaosTrial, Server, UndisturbedStudy, finished_rows
from tests.chaos.disturbed_study import FILE, ChaosError, check_same, rows_of, start

MOST = 3  # disturbances of one study
SHORT = ("--no-report",)
STUDIES = {
    "plans": ("study", "--benchmarks", "arithmetic", "recall", "--limit", "3", "--no-blocks",
              "--methods", "reverse-order", "--remove", "1", "--budgets", "24", "64", *SHORT),
    "blocks": ("study", "--benchmarks", "arithmetic", "--limit", "2", "--methods", "shortgpt",
               "--remove", "1", "--budgets", "16", "32", "--samples", "2", "--waits", *SHORT),
    "served": ("scale", "--benchmarks", "arithmetic", "--limit", "3", "--budgets", "8", "24",
               "--samples", "2"),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trials that the arguments describe; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of one trial")
    parser.add_argument("--keep", type=Path, help="where folders of failed trials are kept")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="chaos-"))
    _prepare(place / "warm")
    server = Server()
    happened, wrong, largest, anew, trials = Counter[str](), 0, 0.0, 0, 0
    try:
        recipes = {name: _undisturbed(name, place, server) for name in STUDIES}
        number = 0 if given.only is None else given.only
        while trials == 0 or (
            given.only is None and time.monotonic() - started < 60 * given.minutes
        ):
            home = place / str(number)
            home.mkdir()
            rng = random.Random(f"{given.seed}/{number}")
            name = rng.choice(list(recipes))
            trial = ChaosTrial(recipes[name], home, rng, home / "out")
            done: list[str] = []
            try:
                for _ in range(rng.randint(1, MOST)):
                    kind = rng.choice([k for k in KINDS if k != "restarted" or name == "served"])
                    trial.note(kind)
                    if KINDS[kind](trial):
                        done.append(kind)
                largest = max(largest, check_same(finished_rows(trial), recipes[name].rows))
                happened.update(done)
            except Exception as error:
                wrong += 1
                print(f"\ntrial {number} ({name}; {'; '.join(trial.notes)}): FAILED", flush=True)
                told = str(error) if isinstance(error, ChaosError) else traceback.format_exc()
                print(f"  {told}\n  again: --seed {given.seed} --only {number}", flush=True)
                if given.keep is not None:
                    shutil.copytree(home, given.keep / str(number), dirs_exist_ok=True)
            anew += trial.begun_anew
            trials, number = trials + 1, number + 1
            shutil.rmtree(home, ignore_errors=True)
    finally:
        server.close()
        shutil.rmtree(place, ignore_errors=True)
    print(f"\n{trials} studies in {(time.monotonic() - started) / 60:.1f} minutes. Survived:")
    for kind in KINDS:
        print(f"  {happened[kind]:5} {kind}")
    print(
        f"{sum(happened.values())} faults; {anew} studies began anew as they were told to; the "
        f"largest difference of a mean is {largest:.1e}; {wrong} studies failed."
    )
    return 1 if wrong else 0


def _prepare(out: Path) -> None:
    """Run a study in this process, so that all it imports is there before any process is forked."""
    import torch
    from tqdm import tqdm

    import prunescope.cli
    import scaling.benchmarks
    import scaling.engines.server
    import scaling.grading
    import scaling.store.rescue
    import scaling.study.places  # noqa: F401
    import tests.scaling.engines.fake_endpoint  # noqa: F401

    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # no thread of tqdm's, which a fork would lose
    if prunescope.cli.run((*STUDIES["plans"], "--out", str(out))):
        raise SystemExit("The first study, which nothing disturbs, fails.")


def _undisturbed(name: str, place: Path, server: Server) -> UndisturbedStudy:
    """Run a study twice without any disturbance: its rows, and how long it takes."""
    recipe = UndisturbedStudy(STUDIES[name])
    if name == "served":
        recipe.server = server
        recipe.words += ("--server", server.url, "--model", "testbed")
    for out in (place / f"{name}-first", place / f"{name}-again"):
        began = time.monotonic()
        run = start((*recipe.words, "--out", str(out)), place / "log")
        if run.wait():
            raise ChaosError(f"{name} fails undisturbed: {run.said()[-800:]}")
        recipe.seconds = time.monotonic() - began
    recipe.rows, recipe.size = rows_of(out), (out / FILE).stat().st_size
    check_same(rows_of(place / f"{name}-first"), recipe.rows)
    n = len(recipe.rows["chains"])
    print(f"{name}: {n} chains in {recipe.seconds:.1f} s, {recipe.size:,} bytes", flush=True)
    return recipe


if __name__ == "__main__":
    sys.exit(main())
