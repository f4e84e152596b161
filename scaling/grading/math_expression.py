"""Grader for LaTeX answers: math-verify, in a worker process with a time limit.

An answer that the worker cannot read in time, or that ends the worker, is wrong: it was given, and
was not shown to be right. The worker starts at the first use and is restarted after a kill.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import queue
import re
import subprocess
import sys
import threading
from pathlib import Path

from interp.errors import PruneScopeError, UserError
from scaling.grading import Grader, grader
from scaling.grading._extract import bare, last_announced, last_boxed, same_text
from scaling.problem import Problem

TIME_LIMIT = 5.0  # seconds per comparison
START_LIMIT = 120.0  # seconds for the worker to start
LONGEST = 2000  # characters; far more than any gold answer of a benchmark


class MathWorker:
    """One worker process. `equal` sends it a pair, and kills it when it takes too long.

    Attributes:
        time_limit: seconds per comparison.
        kills: number of times the worker was killed.
    """

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        self.time_limit = time_limit
        self.kills = 0
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.Queue[str | None] = queue.Queue()
        self._lock = threading.Lock()

    def equal(self, gold: str, answer: str) -> bool | None:
        """Compare two LaTeX expressions in the worker.

        Args:
            gold: the gold answer.
            answer: the extracted answer.

        Returns:
            Whether the two are equal; None where the worker did not find out in time.

        Raises:
            PruneScopeError: the worker does not start.
        """
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps({"gold": gold, "answer": answer}) + "\n")
                process.stdin.flush()
                reply = self._replies.get(timeout=self.time_limit)
            except (queue.Empty, OSError):
                reply = None
            if reply is None:  # too slow, or the worker ended (memory)
                self.close()
                self.kills += 1
                return None
            return bool(json.loads(reply)["equal"])

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        script = Path(__file__).with_name("_math_worker.py")
        # -P: the script's own folder must not shadow modules of the standard library.
        process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        self._process, self._replies = process, queue.Queue()
        threading.Thread(target=_pump, args=(process, self._replies), daemon=True).start()
        try:
            ready = self._replies.get(timeout=START_LIMIT)
        except queue.Empty:
            ready = None
        if ready is None:
            self.close()
            raise PruneScopeError(
                "The math-verify worker did not start; check that `python -c 'import math_verify'` "
                "works here."
            )
        return process

    def close(self) -> None:
        """Kill the worker if one is running."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _pump(process: subprocess.Popen[str], replies: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    with contextlib.suppress(ValueError, OSError):  # a kill closes the stream while it is read
        for line in process.stdout:
            replies.put(line)
    replies.put(None)


@grader("math")
class Math(Grader):
    """Grader for LaTeX answers, compared as mathematics."""

    def __init__(self) -> None:
        self._worker: MathWorker | None = None

    @property
    def worker(self) -> MathWorker:
        """The worker process, started at the first use and ended with the program."""
        if self._worker is None:
            self._worker = MathWorker()
            atexit.register(self._worker.close)
        return self._worker

    def strict(self, text: str, problem: Problem) -> str | None:
        """A box, an announced answer, or a text of one short line."""
        announced = last_announced(text)
        whole = text.strip() if len(text.strip()) <= 60 and "\n" not in text.strip() else ""
        return last_boxed(text) or (bare(announced) if announced else None) or bare(whole) or None

    def lenient(self, text: str, problem: Problem) -> str | None:
        """The strict answer, or the last formula between dollar signs, or the last line."""
        strict = self.strict(text, problem)
        if strict is not None:
            return strict
        formulas = re.findall(r"\$([^$]{1,200})\$", text)
        lines = [line for line in text.splitlines() if line.strip()]
        return formulas[-1].strip() if formulas else bare(lines[-1]) or None if lines else None

    def equal(self, extracted: str, problem: Problem) -> bool:
        """The same text, or equal by math-verify within the time limit."""
        if same_text(extracted) == same_text(problem.answer):
            return True
        if len(extracted) > LONGEST:
            return False
        return self.worker.equal(problem.answer, extracted) is True

    def check_gold(self, problem: Problem) -> None:
        """Check that math-verify is installed, before any decoding."""
        if importlib.util.find_spec("math_verify") is None:
            raise UserError(
                "The grader 'math' needs math-verify: pip install 'prunescope[math]', "
                "or choose another grader."
            )
