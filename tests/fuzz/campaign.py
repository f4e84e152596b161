"""Runs targets: each in a process of its own, watched, with a limit on time and memory.

An attempt is decided by the name of its target, the seed and its number, so a fault is repeated by
naming them. The process of a target is a fork of this one, which has imported everything. It counts
its attempts in shared memory: where the count stands still too long, or the process dies, that
attempt is the fault, and a new process goes on after it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import re
import resource
import shutil
import signal
import struct
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.mutators import Mutator
from tests.fuzz.sentry import PROJECT, LetInError, Sentry
from tests.fuzz.stranger_files import TARGETS
from tests.fuzz.target import Target, tiny_model

PATIENCE = 10.0  # seconds for one attempt, before it counts as a hang
DEADLY = 25.0  # seconds after which the process is ended: compiled code cannot be interrupted
MEMORY = 4 * 2**30  # bytes more than the process has at the start
SHARED = struct.Struct("<qqqd")  # number of the attempt; tried, refused; when it began
LONGEST_REFUSAL = 3_000  # characters
HOME = str(PROJECT) + os.sep
PRODUCT = tuple(
    HOME + room + os.sep
    for room in ("interp", "pruning", "scaling", "recovery", "testbed", "analyses", "prunescope")
)


class HangError(BaseException):
    """An attempt took too long; no `except Exception` may catch it."""


@dataclass
class Fault:
    """One kind of fault, by the place where it was raised.

    Attributes:
        key: kind of exception and place.
        first: number of the first attempt that showed it.
        told: the end of its traceback.
        times: how many attempts showed it.
    """

    key: str
    first: int
    told: str
    times: int = 1


@dataclass
class Tally:
    """What came out of one target's attempts."""

    name: str
    tried: int = 0
    refused: int = 0
    seconds: float = 0.0
    faults: dict[str, Fault] = field(default_factory=dict)

    def add(self, key: str, number: int, told: str) -> None:
        """Count a fault."""
        if key in self.faults:
            self.faults[key].times += 1
        else:
            self.faults[key] = Fault(key, number, told)

    @property
    def line(self) -> str:
        """One line for the terminal."""
        rate = self.tried / self.seconds if self.seconds else 0.0
        return (
            f"{self.name:16} {self.tried:9,} tried  {self.refused:9,} refused  {rate:7,.0f}/s  "
            f"{len(self.faults)} kinds of fault"
        )


def fuzz(name: str, seed: int, numbers: range, until: float = float("inf")) -> Tally:
    """Run attempts of one target.

    Args:
        name: the target.
        seed: seed of the campaign.
        numbers: the numbers of the attempts.
        until: the time (`time.monotonic`) at which to stop.

    Returns:
        What came out.
    """
    tally, started = Tally(name), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir=_quick_disk()))
    news = folder / "news"
    count = mmap.mmap(-1, SHARED.size)
    first = numbers.start
    try:
        while first < numbers.stop and time.monotonic() < until:
            place = folder / f"from-{first}"
            place.mkdir()
            count[:] = SHARED.pack(first - 1, 0, 0, time.monotonic())
            news.write_bytes(b"")
            child = os.fork()
            if child == 0:
                _work(name, seed, range(first, numbers.stop), until, place, count, news)
            status = _watched(child, count)
            _read_news(news, tally)
            reached, tried, refused, _ = SHARED.unpack(count[:])
            tally.tried += tried
            tally.refused += refused
            if status == 0:
                break
            tally.tried += 1
            said = "hang" if status == signal.SIGKILL else f"the process ended ({status})"
            tally.add(f"{said} in {name}", reached, f"attempt {reached}: {said}")
            first = reached + 1
            shutil.rmtree(place, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tally.seconds = time.monotonic() - started
    return tally


def _quick_disk() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _watched(child: int, count: mmap.mmap) -> int:
    """Wait for a process; end it where its count stands still. Returns 0 or a number that tells."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) and abs(os.waitstatus_to_exitcode(status))
        if time.monotonic() - SHARED.unpack(count[:])[-1] > DEADLY:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)


def _read_news(news: Path, tally: Tally) -> None:
    """Add what a process wrote before it ended."""
    for line in news.read_text("utf-8").splitlines():
        with contextlib.suppress(ValueError):  # the last line of a process that was killed
            found = json.loads(line)
            tally.add(found["key"], found["number"], found["told"])


def _work(
    name: str,
    seed: int,
    numbers: range,
    until: float,
    folder: Path,
    count: mmap.mmap,
    news: Path,
) -> None:
    """What the forked process does; it never returns."""
    code = 1
    try:
        _bounded()
        os.chdir(folder)
        sentry = Sentry(folder)
        with news.open("a", encoding="utf-8", buffering=1) as out:
            target = TARGETS[name](folder)
            tried = refused = 0
            for number in numbers:
                now = time.monotonic()
                count[:] = SHARED.pack(number, tried, refused, now)
                if now > until:
                    break
                outcome = one(target, name, seed, number, sentry)
                tried += 1
                refused += outcome == "refused"
                if isinstance(outcome, dict):
                    out.write(json.dumps({**outcome, "number": number}) + "\n")
            count[:] = SHARED.pack(number, tried, refused, time.monotonic())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _bounded() -> None:
    """Bound the memory of this process, and interrupt an attempt that takes too long."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        here = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (here + MEMORY, here + MEMORY))
    signal.signal(signal.SIGALRM, _interrupt)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"


def _interrupt(*_: Any) -> None:
    raise HangError(f"no end after {PATIENCE:.0f} s")


def one(target: Target, name: str, seed: int, number: int, sentry: Sentry) -> str | dict[str, Any]:
    """Try one mutation.

    Args:
        target: the target.
        name: its name.
        seed: seed of the campaign.
        number: number of the attempt.
        sentry: watches what is done meanwhile.

    Returns:
        "read", "refused", or a fault with `key` and `told`.
    """
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        with sentry.watching():
            target.attempt(Mutator(f"{seed}/{name}/{number}"))
        return "read"
    except target.refusals as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        return _refusal(error)
    except (Exception, HangError) as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        return {"key": _key(error), "told": _told(error)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _refusal(error: BaseException) -> str | dict[str, Any]:
    """A refusal is a fault too where it goes on for pages, or says nothing.

    The command line cleans what it prints, so characters that a terminal cannot show are allowed.
    """
    said = str(error)
    if 0 < len(said.strip()) <= LONGEST_REFUSAL:
        return "refused"
    size = "long" if said.strip() else "empty"
    return {"key": f"{_key(error)} (its text is {size})", "told": repr(said[:500])}


def _frames(error: BaseException) -> Iterator[tuple[str, int, str]]:
    for frame in traceback.extract_tb(error.__traceback__):
        yield frame.filename, frame.lineno or 0, frame.name


def _key(error: BaseException) -> str:
    """Kind of the exception and where in the product it passed, or where it was raised."""
    frames = list(_frames(error))
    product = [f for f in frames if f[0].startswith(PRODUCT)]
    filename, line, function = (product or frames)[-1]
    text = f": {re.sub(r'[0-9]+', 'N', str(error))[:80]}" if isinstance(error, LetInError) else ""
    return f"{type(error).__name__}{text} in {filename.removeprefix(HOME)}:{line} {function}"


def _told(error: BaseException) -> str:
    """The end of a traceback."""
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-5)
    return "".join(lines)[-1_500:]


def prepare() -> None:
    """Import what the targets read with, and make the models that they share, before any fork."""
    import pyarrow.parquet  # noqa: F401
    import torch

    import scaling.benchmarks
    import scaling.costs.model_shape
    import scaling.engines.dialects
    import scaling.grading
    import scaling.judging.llm_judge
    import scaling.judging.verdict_cache
    import scaling.lm_eval.importer
    import scaling.store.rescue

    torch.set_num_threads(1)
    scaling.benchmarks.benchmarks()
    scaling.grading.graders()
    tiny_model()
