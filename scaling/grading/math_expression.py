"""Grader for mathematical answers: read as a whole, then compared in a process with a time limit.

An answer that is not understood as a whole is correct only as the same text. One that the worker
cannot compare in time, or that ends the worker, is wrong: it was given, and was not shown to be
right. The worker starts at the first use and is restarted after a kill.
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
from scaling.grading._boxes import boxed_answer
from scaling.grading._dressing import bare, same_text, without_label
from scaling.grading._extract import (
    announced,
    candidates,
    formula_content,
    formulas,
    own_part,
    without_filler,
)
from scaling.grading._reader import understood
from scaling.grading._tree import Node
from scaling.problem import Problem

TIME_LIMIT = 5.0  # seconds per comparison
START_LIMIT = 120.0  # seconds for the worker to start


# An option of a question whose gold answer is its label: "(C)", perhaps with the option's text.
_DRESS = r"(?:\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{\s*)?"
_OPTION = re.compile(rf"{_DRESS}\(?{_DRESS}(?P<letter>[A-J])\}}?\)?\s*\}}?")
_CHOSEN = re.compile(
    rf"(?:{_DRESS}(?:option|choice)\s*)?{_DRESS}(?P<left>\(?){_DRESS}(?P<letter>(?-i:[A-J]))\}}?"
    r"(?P<right>\)?)(?![A-Za-z\d])(?!\W*(?:\\text\s*\{)?\s*(?:and|or|is|if|not|to|wrong)\b)"
    r"(?!\s*\}?\s*(?:[+*/^=<>_!'?|&]|[,;:-]\s*[\d(]))(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)


# Words before a formula that make it another answer, or none: "more than $7$", "it is not $7$".
_CHANGED = re.compile(
    r"\b(?:not|wrong|incorrect|if|whether|perhaps|maybe|could|might|cannot)\b|n['’]t\b"
    r"|\b(?:than|least|most|except|without|below|above|under|over|times|plus|minus|between|nearly"
    r"|almost|half|twice|negative|either|or|divided|never|unless|near)[\s,:]*$",
    re.IGNORECASE,
)


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
            Whether the two are equal; None where the worker does not understand them as a whole,
            or did not find out in time.

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
            equal = json.loads(reply)["equal"]
            return None if equal is None else bool(equal)

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
                "The worker of the grader 'math' did not start; check that "
                "`python -c 'import sympy'` works here."
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
        """A box, an announced answer, or a text that is one expression or one short sentence."""
        text = own_part(text)
        opened, boxed = boxed_answer(text)
        if opened:
            return boxed
        words = _is_words(problem.answer)
        for passage in announced(text):
            for candidate in candidates(passage):
                if _readable(candidate, words):
                    return candidate
        whole = without_filler(text).strip()
        formula = _only_formula(whole)
        if formula is not None:
            return formula
        if _readable(bare(whole), words) or same_text(whole) == same_text(problem.answer):
            return bare(whole) or None
        return None

    def lenient(self, text: str, problem: Problem) -> str | None:
        """The strict answer, or the last formula, or the end of the last line."""
        found = self.strict(text, problem)
        text = own_part(text)
        if found is not None or boxed_answer(text)[0]:
            return found
        written = formulas(text[-5000:])
        if written:
            return formula_content(written[-1]) or None
        lines = [line for line in text.splitlines() if line.strip()]
        last = lines[-1][-200:] if lines else ""
        ends = [bare(part) for part in re.split(r"(?:\bis|\bare|=|:)(?=\s)", last)]
        for end in (bare(last), *reversed(ends)):
            if _readable(end, _is_words(problem.answer)):
                return end
        return None

    def equal(self, extracted: str, problem: Problem) -> bool:
        """The same text, the same number, or the same mathematics within the time limit."""
        return self.same(problem.answer, extracted)

    def same(self, gold: str, answer: str) -> bool:
        """Compare two answers.

        Args:
            gold: the gold answer.
            answer: another answer.

        Returns:
            Whether they are the same text, the same number, or the same mathematics by the worker
            within its time limit.
        """
        if same_text(answer) == same_text(gold):
            return True
        if _same_option(bare(gold), bare(answer)):
            return True
        answer = without_label(answer)
        one, two = understood(bare(gold)), understood(bare(answer))
        if one is None or two is None:
            return False
        if one.kind == two.kind == "num" and one.exact and two.exact and one.number == two.number:
            return True
        return self.worker.equal(bare(gold), bare(answer)) is True

    def check_gold(self, problem: Problem) -> None:
        """Check that sympy is installed, before any decoding."""
        if importlib.util.find_spec("sympy") is None:
            raise UserError(
                "The grader 'math' needs sympy: pip install 'prunescope[math]', "
                "or choose another grader."
            )


def _same_option(gold: str, answer: str) -> bool:
    """Whether the gold answer is the label of an option, and the other that label."""
    option, chosen = _OPTION.fullmatch(gold), _CHOSEN.fullmatch(answer)
    if not (option and chosen and option["letter"] == chosen["letter"]):
        return False
    label = chosen["right"] and (chosen["left"] or "(" in gold)
    return bool(label) or ("(" in gold and not chosen["rest"].strip(" .}"))


def _readable(text: str, words: bool) -> bool:
    """Whether a text is an answer as a whole: an expression; words only where the gold is words."""
    if not text:
        return False
    found = understood(text)
    if found is None or (found.kind == "unit" and not _has_number(found)):  # "I cannot tell"
        return False
    return found.kind != "text" or words


def _has_number(node: Node) -> bool:
    if node.kind == "num" or node == Node("sym", value="pi"):
        return True
    return any(map(_has_number, node.args))


def _is_words(gold: str) -> bool:
    found = understood(bare(gold))
    return found is not None and found.kind in ("text", "sym")


def _only_formula(text: str) -> str | None:
    """The formula that ends a text of one sentence with no other formula."""
    if len(text) > 200 or "\n\n" in text:
        return None
    written = formulas(text)
    if len(written) != 1 or text[written[0].end() :].strip(" .!*"):
        return None
    before = text[: written[0].start()]
    if not re.search(r"[A-Za-z]{2,}[\s,:]*$", before) or _CHANGED.search(before):
        return None
    content = formula_content(written[0])
    return content if _readable(content, words=True) else None
