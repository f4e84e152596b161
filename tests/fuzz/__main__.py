"""Fuzz the readers of strangers' files.

    python -m tests.fuzz --cases 1000000          every target, each with its share
    python -m tests.fuzz --targets config plan    some of them
    python -m tests.fuzz --minutes 30             until the time is over
    python -m tests.fuzz --targets plan --only 4711    one attempt again, with its whole traceback

Exits with 1 where there is a fault: an error that is not a refusal, a hang, the end of the process,
or something that was let in. Faults are printed once per place, with the number of an attempt that
shows each.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.fuzz.campaign import Tally, fuzz, prepare
from tests.fuzz.stranger_files import TARGETS
from tests.fuzz.target import Target


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign that the arguments describe; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--targets", nargs="+", choices=sorted(TARGETS), default=list(TARGETS))
    parser.add_argument("--cases", type=int, default=20_000, help="attempts in all")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first attempt")
    parser.add_argument("--only", type=int, help="one attempt of each target")
    given = parser.parse_args(arguments)
    prepare()
    started, tallies = time.monotonic(), list[Tally]()
    shares = {name: _share(name) for name in given.targets}
    whole = sum(shares.values())
    for name in given.targets:
        until, numbers = float("inf"), range(given.first)
        if given.only is not None:
            numbers = range(given.only, given.only + 1)
        else:
            n = max(1, round(given.cases * shares[name] / whole))
            numbers = range(given.first, given.first + n)
        if given.minutes is not None:
            left = given.minutes * 60 - (time.monotonic() - started)
            until = time.monotonic() + max(1.0, left / (len(given.targets) - len(tallies)))
        tallies.append(fuzz(name, given.seed, numbers, until))
        print(tallies[-1].line, flush=True)
        for fault in sorted(tallies[-1].faults.values(), key=lambda f: -f.times):
            again = f"--targets {name} --seed {given.seed} --only {fault.first}"
            print(f"\n  {fault.key}\n  {fault.times} times; again: python -m tests.fuzz {again}")
            print("    " + fault.told.strip().replace("\n", "\n    ") + "\n", flush=True)
    n, faults = sum(t.tried for t in tallies), sum(len(t.faults) for t in tallies)
    print(f"{n:,} attempts in {time.monotonic() - started:,.0f} s: {faults} kinds of fault")
    return 1 if faults else 0


def _share(name: str) -> float:
    made = TARGETS[name]
    assert isinstance(made, type) and issubclass(made, Target)
    return made.share


if __name__ == "__main__":
    sys.exit(main())
