"""The worker side of a cluster: the jobs, and the class that runs them.

A job records which of its results have come back, so that only the rest of a lost worker's job is
given out again. This module does not import Ray: a worker is an ordinary class and can be tested as
one.
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
    from interp.model.delimiters import FormatChoice
    from interp.model.reasoning_model import DecoderName, Question

BATCH_CHAINS, BATCH_SECONDS = 32, 1.0  # chains are sent together, this many or this often
PIECES_A_WORKER = 4  # most pieces per worker: a lost one costs little, the last end together
FULL_PIECE = 256  # requests that fill a batch: smaller pieces would leave it half empty


@dataclass
class WorkerCall:
    """One call of a worker's method.

    Attributes:
        what: name of the method.
        arguments: its arguments.
        losses: workers lost in a row over this call.
    """

    what: str
    arguments: tuple[Any, ...]
    losses: int = 0

    def take(self, result: Any) -> None:
        """Note that a result has come: the call makes progress."""
        self.losses = 0

    def left(self) -> WorkerCall | None:
        """The work that remains if the worker is lost now; None if nothing remains."""
        return self


@dataclass
class DecodeJob(WorkerCall):
    """A piece of requests to decode.

    Attributes:
        what: name of the worker's method.
        arguments: its arguments.
        losses: workers lost in a row over this job.
        open: by (problem, variant, sample), the budgets whose chains have not come back.
    """

    open: dict[tuple[str, str, int], list[Budget]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        requests: Sequence[Request],
        sampling: Sampling,
        stop_on_loop: bool,
        stop: Sequence[str] = (),
    ) -> DecodeJob:
        """Make the job of decoding a piece.

        Args:
            requests: the requests of the piece.
            sampling: sampling settings.
            stop_on_loop: whether to end chains that certainly loop.
            stop: strings that end an answer.

        Returns:
            The job, with all budgets open.
        """
        waiting = {(r.problem, r.variant.name, r.sample): list(r.budgets) for r in requests}
        arguments = (tuple(requests), sampling, stop_on_loop, tuple(stop))
        return cls("decode", arguments, open=waiting)

    def take(self, result: Sequence[Chain]) -> None:
        """Note the chains that have come."""
        super().take(result)
        for chain in result:
            self.open[chain.problem, chain.variant, chain.sample].remove(chain.budget)

    def left(self) -> DecodeJob | None:
        """The open requests with their open budgets; None if nothing remains."""
        requests, *how = self.arguments
        again = []
        for r in requests:
            budgets = tuple(self.open[r.problem, r.variant.name, r.sample])
            if budgets:
                again.append(replace(r, budgets=budgets))
        if not again:
            return None
        job = DecodeJob.of(again, *how)
        job.losses = self.losses
        return job


def cut_pieces(requests: Sequence[Request], workers: int) -> list[list[Request]]:
    """Cut requests into pieces of about equal size; all requests of one problem stay together.

    Args:
        requests: the requests.
        workers: number of workers.

    Returns:
        The pieces: at least one per worker where there are enough problems, more only where each
        piece still fills a batch.
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
    """A worker in its own process: one engine, loaded once, and the calls it answers."""

    def __init__(self, load: Callable[[], Engine]) -> None:
        self._load = load
        self._engine: Engine | None = None

    def hello(self) -> dict[str, Any]:
        """Load the model, and return its identity and the worker's location."""
        self._engine = self._load()
        return {
            "fingerprint": self._engine.fingerprint(),
            "layer_map": tuple(self._engine.layer_map),
            "program": program(),
            "node": socket.gethostname(),
            "pid": os.getpid(),
        }

    def work(self, what: str, arguments: tuple[Any, ...]) -> Iterator[Any]:
        """Run one call.

        Args:
            what: name of the method: "decode", "option_logprobs", "score" or "choose".
            arguments: its arguments.

        Yields:
            The results as they come; decoding yields lists of chains.
        """
        assert self._engine is not None
        if what == "decode":
            yield from self._decode(*arguments)
        else:
            yield getattr(self._engine, what)(*arguments)

    def _decode(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        stop_on_loop: bool,
        stop: Sequence[str] = (),
    ) -> Iterator[list[Chain]]:
        assert self._engine is not None
        batch: list[Chain] = []
        sent = time.monotonic()
        for chain in self._engine.decode(
            requests, sampling=sampling, stop_on_loop=stop_on_loop, stop=stop
        ):
            batch.append(chain)
            if len(batch) >= BATCH_CHAINS or time.monotonic() - sent > BATCH_SECONDS:
                yield batch
                batch, sent = [], time.monotonic()
        if batch:
            yield batch


# ------------------------------------------------------------------ models, there and here


@runtime_checkable
class TextReader(Protocol):
    """The part of a model that needs no weights: texts to token ids and back."""

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer has a chat template."""
        ...

    def prompt_ids(self, question: Question, *, thinking: bool) -> list[int]:
        """Token ids of the prompt of a question (see `Engine.prompt_ids`)."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        ...

    def text(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of token ids (see `Engine.text`)."""
        ...


def load_local(
    source: str,
    trust_remote_code: bool = False,
    thinking_format: FormatChoice | None = None,
    device: str | None = None,
    dtype: str | None = None,
    decoder: DecoderName = "auto",
) -> Engine:
    """Load the local engine that a worker of the command line holds.

    Args:
        source: "testbed", a folder or a Hub name.
        trust_remote_code: whether the checkpoint's own code may run.
        thinking_format: the thinking format; None takes the model's own.
        device: where to put the model; None is CUDA if there is a GPU.
        dtype: of the weights; None is the usual one of the device.
        decoder: which decoder takes the model.

    Returns:
        The engine.
    """
    from interp.model.reasoning_model import ReasoningModel
    from scaling.engines.local import LocalEngine

    model = ReasoningModel.load(
        source,
        delimiters=thinking_format,
        trust_remote_code=trust_remote_code,
        device=device,
        dtype=dtype,
        decoder=decoder,
    )
    return LocalEngine(model)
