"""Many machines: an engine that spreads its work over the workers of a Ray cluster.

Requests are cut into pieces by problem, so that all variants and samples of one problem are decoded
in one batch with the same noise. Each worker is a Ray actor that loads the model once. Chains
travel back as they finish, and only the calling process writes to the store.

A lost worker (killed, out of memory, its node gone) is replaced, and the undelivered part of its
piece is given out again. A chain depends only on its seed, problem and sample, so the rows equal
those of one machine (law 2: except for ties of float noise). A worker whose weights or package
version differ from the first worker's is an error.

Caveats: the nodes need this package and the model (a folder on a shared disk, or a Hub name). Run
the command on a machine of the cluster: Ray's client protocol (ray://) streams no results.
"""

from __future__ import annotations

import importlib
import os
import socket
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.chains.chain import Chain
from interp.errors import PruneScopeError, UserError
from scaling.engines.engine import Engine, EngineText
from scaling.engines.ray_worker import DecodeJob, Worker, WorkerCall, cut_pieces

if TYPE_CHECKING:
    from interp.decoding.request import Request
    from interp.decoding.sampling import Sampling
    from interp.model.reasoning_model import ReasoningModel
    from pruning.plan import LayerPlan
    from pruning.scores import Scores

LOSSES = 3  # workers lost over one piece, after which the piece counts as the cause
CONNECT_SECONDS = 5.0
WAIT_SECONDS = 120.0  # wait for the first worker before a warning


class ClusterError(PruneScopeError, RuntimeError):
    """The cluster cannot do the work: workers are lost repeatedly, or none can start."""


# ------------------------------------------------------------------ the engine


def connect(address: str) -> tuple[Any, bool]:
    """Connect to Ray.

    Args:
        address: "local" starts a cluster of this machine's cores and GPUs; "auto" is the cluster
            that this machine belongs to; else HOST:PORT.

    Returns:
        The module `ray`, and whether this call connected it.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise UserError("--ray needs Ray: pip install 'prunescope[ray]'.") from None
    if ray.is_initialized():
        return ray, False
    if address.startswith("ray://"):
        raise UserError(
            f"--ray {address!r}: Ray's client protocol streams no results. Run the command on a "
            "machine of the cluster with --ray auto, or submit it with `ray job submit`."
        )
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        # A cluster for one study needs no usage reports and no web page.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(address="local", include_dashboard=False, **quiet)
        return ray, True
    remedy = "Start one with `ray start --head`, name the right HOST:PORT, or use --ray local."
    if address != "auto":
        _answers(address, remedy)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"No Ray cluster at {address!r}: {_first_line(error)} {remedy}") from error
    return ray, True


def _answers(address: str, remedy: str) -> None:
    """Check that something listens at `address`: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--ray {address!r}: expected local, auto or HOST:PORT. {remedy}")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"Nothing answers at {address!r} ({error}). {remedy}") from error


class ClusterEngine(EngineText):
    """An `Engine` over the workers of a Ray cluster: a context manager that ends them on exit.

    Args:
        load: makes the engine of a worker (it is pickled; loading happens at the worker).
        reader: converts texts to token ids and back on this side.
        address: see `connect`.
        workers: number of workers; None takes one per GPU, or one per `cpus` cores without GPUs.
        cpus: cores per worker.
        gpus: GPUs per worker; None is 1 where the cluster has any.
    """

    model: Any = None  # the weights are elsewhere

    def __init__(
        self,
        load: Callable[[], Engine],
        reader: ReasoningModel,
        address: str = "local",
        *,
        workers: int | None = None,
        cpus: int = 1,
        gpus: float | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise UserError(f"{workers} workers: expected at least 1.")
        super().__init__(reader)
        self._load = load
        self._ray, self._ours = connect(address)
        self._free: list[Any] = []
        self._starting: dict[Any, Any] = {}  # reference to a new worker's hello -> the worker
        self._said: dict[str, Any] | None = None
        self._false_starts = 0
        try:
            self._takes, self.workers = self._size(workers, cpus, gpus)
            for _ in range(self.workers):
                self._start()
            while not self._free:
                ready, _ = self._ray.wait(list(self._starting), num_returns=1, timeout=WAIT_SECONDS)
                if ready:
                    self._greet(ready[0])
                else:
                    warnings.warn(
                        "Still waiting for the first worker: the cluster may be busy with other "
                        "work, or the model takes long to load.",
                        stacklevel=2,
                    )
        except BaseException:
            self.close()
            raise

    def _size(
        self, workers: int | None, cpus: int, gpus: float | None
    ) -> tuple[dict[str, float], int]:
        """The resources of one worker, and the number of workers."""
        there = self._ray.cluster_resources()
        have = {"cpu": float(there.get("CPU", 0)), "gpu": float(there.get("GPU", 0))}
        each = float(1 if have["gpu"] else 0) if gpus is None else gpus
        fit = int(have["cpu"] // max(cpus, 1))
        if each:
            fit = min(fit, int(have["gpu"] // each))
        if fit < (workers or 1):
            raise UserError(
                f"The cluster has {have['cpu']:g} CPUs and {have['gpu']:g} GPUs: room for {fit} "
                f"workers of {cpus} CPUs and {each:g} GPUs, {workers or 1} asked for. Ask for "
                "fewer or smaller workers, or add nodes."
            )
        return {"num_cpus": float(cpus), "num_gpus": each}, workers or fit

    # ------------------------------------------------------------------ what a study asks

    @property
    def about(self) -> str:
        """One line for the study's table of sessions."""
        return f"ray, {self.workers} workers"

    @property
    def layer_map(self) -> tuple[int, ...]:
        """Dense index of each block."""
        assert self._said is not None
        return self._said["layer_map"]

    def fingerprint(self) -> str:
        """Identity of the weights that every worker holds."""
        assert self._said is not None
        return self._said["fingerprint"]

    def decode(
        self,
        requests: Sequence[Request],
        *,
        sampling: Sampling,
        stop_on_loop: bool,
        stop: Sequence[str] = (),
    ) -> Iterator[Chain]:
        """Yield chains as they come from the workers."""
        pieces = cut_pieces(requests, self.workers)
        jobs = [DecodeJob.of(piece, sampling, stop_on_loop, stop) for piece in pieces]
        for _, chains in self._run(jobs):
            yield from chains

    def option_logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        options: Sequence[Sequence[Sequence[int]]],
        variants: Sequence[Any],
    ) -> np.ndarray:
        """Log-probabilities of options in nats: [V, P, O]; prompts are spread over the workers."""
        parts = [p for p in np.array_split(np.arange(len(prompts)), self.workers) if len(p)]
        jobs = [
            WorkerCall(
                "option_logprobs", ([prompts[i] for i in p], [options[i] for i in p], variants)
            )
            for p in parts
        ]
        place = {id(job): part for job, part in zip(jobs, parts, strict=True)}
        widest = max((len(o) for o in options), default=0)
        table = np.full((len(variants), len(prompts), widest), np.nan, np.float32)
        for job, found in self._run(jobs):
            table[:, place[id(job)], : found.shape[2]] = found
        return table

    def score(self, criterion: str, chains: Sequence[Chain], seed: int, remove: int) -> Scores:
        """Score the blocks by a criterion, on one worker."""
        (found,) = [
            r for _, r in self._run([WorkerCall("score", (criterion, list(chains), seed, remove))])
        ]
        return found

    def choose(self, repair: str, chains: Sequence[Chain], remove: int) -> LayerPlan:
        """The plan of a repair that chooses the blocks itself, found on one worker."""
        call = WorkerCall("choose", (repair, list(chains), remove))
        return next(iter(self._run([call])))[1]

    # ------------------------------------------------------------------ giving out

    def _run(self, jobs: Sequence[WorkerCall]) -> Iterator[tuple[WorkerCall, Any]]:
        """Yield every result of every job as it comes; work of a lost worker is given out again."""
        waiting: deque[WorkerCall] = deque(jobs)
        working: dict[Any, tuple[Any, WorkerCall]] = {}  # stream of results -> (worker, job)
        try:
            while waiting or working:
                while waiting and self._free:
                    worker, job = self._free.pop(), waiting.popleft()
                    call = worker.work.options(num_returns="streaming")
                    working[call.remote(job.what, job.arguments)] = (worker, job)
                ready, _ = self._ray.wait([*self._starting, *working], num_returns=1)
                for one in ready:
                    if one in self._starting:
                        self._greet(one)
                        continue
                    worker, job = working[one]
                    try:
                        result = self._get(next(one))
                    except StopIteration:
                        del working[one]
                        self._free.append(worker)
                    except _LostError as lost:
                        del working[one]
                        self._replace(worker, job, waiting, str(lost))
                    else:
                        job.take(result)
                        yield job, result
        finally:  # after an error or Ctrl-C, nothing waits for these results
            for worker, _ in working.values():
                self._ray.kill(worker)
                self._start()

    def _replace(self, worker: Any, job: WorkerCall, waiting: deque[WorkerCall], how: str) -> None:
        self._ray.kill(worker)  # in case it is only unreachable
        job.losses += 1
        rest = job.left()
        if rest is not None and rest.losses >= LOSSES:
            raise ClusterError(
                f"{rest.losses} workers were lost over the same work ({how}); it may need more "
                "memory than a worker has. Finished chains are kept: give each worker more memory, "
                "or lower the budgets, and run the same command again."
            )
        warnings.warn(f"A worker was lost ({how}). What it left is given out again.", stacklevel=4)
        if rest is not None:
            waiting.append(rest)  # at the end: if it is the cause, the others finish first
        self._start()

    def _get(self, ref: Any) -> Any:
        """Get a result; an error of the work is raised as it was, a lost worker as `_LostError`."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, Exception) and not isinstance(cause, errors.RayError):
                raise cause from error
            raise
        except errors.RayError as error:
            raise _LostError(_first_line(error)) from error

    # ------------------------------------------------------------------ workers come and go

    def _start(self) -> None:
        actor = self._ray.remote(Worker).options(max_restarts=0, **self._takes)
        worker = actor.remote(self._load)
        self._starting[worker.hello.remote()] = worker

    def _greet(self, hello: Any) -> None:
        """Take in a worker that has loaded its model, or replace one that could not."""
        worker = self._starting.pop(hello)
        try:
            said: Mapping[str, Any] = self._get(hello)
        except _LostError as lost:
            self._false_starts += 1
            if self._false_starts >= LOSSES:
                raise ClusterError(
                    f"{LOSSES} workers ended before they had loaded the model ({lost}); the usual "
                    "cause is too little memory. Give each worker more (use fewer workers)."
                ) from lost
            self._start()
            return
        if self._said is None:
            self._said = dict(said)
        for what in ("fingerprint", "layer_map", "program"):
            if said[what] != self._said[what]:
                raise UserError(
                    f"{said['node']} differs from {self._said['node']}: {what} {said[what]} here, "
                    f"{self._said[what]} there. Give every node the same checkpoint and the "
                    "same version of prunescope."
                )
        self._free.append(worker)

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        if not self._ray.is_initialized():
            return
        for worker in [*self._free, *self._starting.values()]:
            self._ray.kill(worker)
        self._free, self._starting = [], {}
        if self._ours:
            self._ray.shutdown()

    def __enter__(self) -> ClusterEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _LostError(Exception):
    """A worker is gone; its work can be given out again."""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
