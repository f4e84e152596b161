"""What a worker of a cluster does: the jobs it is given, and the process that does them.

A job knows what of it has come back, so that of a lost worker's job only the rest is given out
again. Nothing here imports Ray: a worker is an ordinary class, and can be tested as one.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from interp.chains.chain import Budget, Chain
from scaling.engines.engine import Engine

if TYPE_CHECKING:
    from interp.decoding.request import Request
    from interp.decoding.sampling import Sampling

BATCH_CHAINS, BATCH_SECONDS = 32, 1.0  # chains that travel together
PIECES_A_WORKER = 4  # at most: a lost worker then costs little, and the last ones end together
FULL_PIECE = 256  # requests that fill a batch: smaller pieces would leave it half empty


@dataclass
class WorkerCall:
    """One call of a worker: a method and its arguments. losses: workers it has cost in a row."""

    what: str
    arguments: tuple[Any, ...]
    losses: int = 0

    def take(self, result: Any) -> None:
        """Note a result that has come; whoever delivers is not stuck."""
        self.losses = 0

    def left(self) -> WorkerCall | None:
        """What is still to be done, if the worker is lost now."""
        return self


@dataclass
class DecodeJob(WorkerCall):
    """A piece of requests; `open` holds the budgets that have not come back."""

    open: dict[tuple[str, str, int], list[Budget]] = field(default_factory=dict)

    @classmethod
    def of(cls, requests: Sequence[Request], sampling: Sampling, stop_on_loop: bool) -> DecodeJob:
        """The job of decoding a piece."""
        waiting = {(r.problem, r.variant.name, r.sample): list(r.budgets) for r in requests}
        return cls("decode", (tuple(requests), sampling, stop_on_loop), open=waiting)

    def take(self, result: Sequence[Chain]) -> None:
        """Chains have come."""
        super().take(result)
        for chain in result:
            self.open[chain.problem, chain.variant, chain.sample].remove(chain.budget)

    def left(self) -> DecodeJob | None:
        """The requests that have not come, with the budgets that have not."""
        requests, sampling, stop_on_loop = self.arguments
        again = []
        for r in requests:
            budgets = tuple(self.open[r.problem, r.variant.name, r.sample])
            if budgets:
                again.append(replace(r, budgets=budgets))
        if not again:
            return None
        job = DecodeJob.of(again, sampling, stop_on_loop)
        job.losses = self.losses
        return job


def cut_pieces(requests: Sequence[Request], workers: int) -> list[list[Request]]:
    """Requests in pieces of about equal size, those of one problem in one piece.

    At least one piece a worker where there are problems enough; more only where each still fills
    a batch.
    """
    by_problem: dict[str, list[Request]] = {}
    for request in requests:
        by_problem.setdefault(request.problem, []).append(request)
    most = max(workers, min(PIECES_A_WORKER * workers, len(requests) // FULL_PIECE))
    groups = list(by_problem.values())
    cuts = np.array_split(np.arange(len(groups)), min(most, len(groups)) or 1)
    return [[r for i in part for r in groups[i]] for part in cuts if len(part)]


# ------------------------------------------------------------------ a worker


def program() -> str:
    """This package's name and version."""
    try:
        return f"prunescope {metadata.version('prunescope')}"
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "prunescope"


class Worker:
    """Lives in a process of its own: one engine, loaded once, and what is asked of it."""

    def __init__(self, load: Callable[[], Engine]) -> None:
        self._load = load
        self._engine: Engine | None = None

    def hello(self) -> dict[str, Any]:
        """Load the model, and say what it is and where."""
        self._engine = self._load()
        return {
            "fingerprint": self._engine.fingerprint(),
            "layer_map": tuple(self._engine.layer_map),
            "program": program(),
            "node": socket.gethostname(),
            "pid": os.getpid(),
        }

    def work(self, what: str, arguments: tuple[Any, ...]) -> Iterator[Any]:
        """The results of one job, as they come."""
        assert self._engine is not None
        if what == "decode":
            yield from self._decode(*arguments)
        else:
            yield getattr(self._engine, what)(*arguments)

    def _decode(
        self, requests: Sequence[Request], sampling: Sampling, stop_on_loop: bool
    ) -> Iterator[list[Chain]]:
        assert self._engine is not None
        batch: list[Chain] = []
        sent = time.monotonic()
        for chain in self._engine.decode(requests, sampling=sampling, stop_on_loop=stop_on_loop):
            batch.append(chain)
            if len(batch) >= BATCH_CHAINS or time.monotonic() - sent > BATCH_SECONDS:
                yield batch
                batch, sent = [], time.monotonic()
        if batch:
            yield batch


# ------------------------------------------------------------------ models, there and here


@runtime_checkable
class TextReader(Protocol):
    """The part of a model that needs no weights: texts to ids and back."""

    def prompt_ids(self, question: str, *, thinking: bool) -> list[int]: ...
    def encode(self, text: str) -> list[int]: ...
    def text(self, ids: Sequence[int], skip_special: bool = True) -> str: ...


def load_local(source: str, trust_remote_code: bool = False) -> Engine:
    """What a worker of the command line holds: the local engine on a loaded model."""
    from interp.model.reasoning_model import ReasoningModel
    from scaling.engines.local import LocalEngine

    return LocalEngine(ReasoningModel.load(source, trust_remote_code=trust_remote_code))
