"""What PruneScope finds on this machine: processor, kernels, threads, speeds, memory, versions."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.plumbing.notebook import as_table

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

PACKAGES = ("torch", "transformers", "transformer-lens", "numpy", "safetensors", "tokenizers")
TIMED = 0.2  # seconds for which each number of threads is tried


@as_table
@dataclass(frozen=True)
class Checkup:
    """The result of `examine`.

    Attributes:
        processor: name of the processor and the vector instructions that it has.
        packages: version by package name; "not installed" where a package is missing.
        memory: total and free memory, in bytes.
        kernels: state of each build of the compiled kernels on this machine, in words.
        threads: torch's number of threads, and whether it is chosen while decoding.
        thread_seconds: seconds of one matrix product by number of threads, measured now.
        backends: for each number of rows, seconds of a forward pass through two blocks by backend.
        chosen: for each number of rows, the name of the backend that decoding uses.
        model: name of the model that was timed.
        devices: names of the CUDA devices.
    """

    processor: str
    packages: dict[str, str]
    memory: tuple[int, int]
    kernels: dict[str, str]
    threads: str
    thread_seconds: dict[int, float]
    backends: dict[int, dict[str, float]]
    chosen: dict[int, str]
    model: str
    devices: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per number of rows and backend: its seconds, and whether it is the chosen one."""
        rows = [
            {"rows": rows, "way": way, "seconds": s, "chosen": way == self.chosen[rows]}
            for rows, timed in self.backends.items()
            for way, s in timed.items()
        ]
        return pd.DataFrame(rows, columns=["rows", "way", "seconds", "chosen"])

    def to_dict(self) -> dict[str, Any]:
        """All fields as a dictionary, for JSON."""
        return asdict(self)

    def report(self) -> list[str]:
        """The result as lines for a terminal."""
        total, free = (f"{b / 2**30:.1f} GiB" for b in self.memory)
        lines = [f"Processor  {self.processor}", f"Memory     {total}, {free} free"]
        lines.append(f"GPU        {', '.join(self.devices) or 'none that CUDA sees'}")
        lines += [f"Threads    {self.threads}"]
        speeds = ", ".join(f"{n}: {s * 1e3:.1f} ms" for n, s in self.thread_seconds.items())
        lines += [f"           one matrix product now, by threads: {speeds}"]
        lines += [f"Kernels    {build}: {said}" for build, said in self.kernels.items()]
        lines += ["", f"Two blocks of {self.model}, one token per row, milliseconds:"]
        for rows, timed in self.backends.items():
            said = ", ".join(f"{way} {s * 1e3:.2f}" for way, s in timed.items())
            lines.append(f"  {rows:>4} rows: {self.chosen[rows]} (of {said or 'no other way'})")
        lines += ["", *(f"{name:<17} {version}" for name, version in self.packages.items())]
        return lines


def examine(model: ReasoningModel, rows: Sequence[int] = (8, 32, 128)) -> Checkup:
    """Examine the machine, and time which backend runs a model's blocks fastest on it.

    Args:
        model: the model whose blocks are timed.
        rows: batch sizes to time (rows decoded side by side).

    Returns:
        What was found. Backend timings are those of the user's cache where the cache has them.
    """
    import torch

    from interp.decoding.model_runner import choose
    from interp.decoding.thread_tuner import cores, thread_counts
    from interp.kernels import library

    counts = thread_counts()
    how = "chosen while decoding" if len(counts) > 1 else "fixed (OMP_NUM_THREADS, or set)"
    found = {n: choose(model, n) for n in rows}
    return Checkup(
        processor=_processor(library.processor()),
        packages=_packages(),
        memory=_memory(),
        kernels={build: _kernels(library.kernels(build)) for build in library.builds()},
        threads=f"{max(counts)} of {cores()} cores, {how}",
        thread_seconds={n: _seconds(n) for n in counts},
        backends={n: choice.seconds for n, choice in found.items()},
        chosen={n: choice.backend.name for n, choice in found.items()},
        model=model.name,
        devices=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
    )


def _processor(said: str) -> str:
    name, _, flags = said.partition("flags")
    words = set(flags.split())
    known = ("avx", "avx2", "avx512f", "avx512_bf16", "amx_tile")
    name = name.partition(":")[2].strip() or platform.processor() or platform.machine()
    return f"{name} ({', '.join(k for k in known if k in words) or platform.machine()})"


def _packages() -> dict[str, str]:
    found = {"prunescope": _version("prunescope"), "python": platform.python_version()}
    return found | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _memory() -> tuple[int, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page


def _kernels(found: Any) -> str:
    if found is None:
        return "not to be had (no C compiler, PRUNESCOPE_KERNELS=0, or they disagree with torch)"
    return f"compiled, agree with torch; {found.panel // 2} numbers per vector"


def _seconds(threads: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds of one matrix product of the size of a 0.5B model's MLP at 64 rows."""
    import torch

    before = torch.get_num_threads()
    a, b = torch.randn(64, 896), torch.randn(896, 4864)
    torch.set_num_threads(threads)
    try:
        times, end = [], clock() + TIMED
        while len(times) < 3 or clock() < end:
            begin = clock()
            torch.mm(a, b)
            times.append(clock() - begin)
        return sorted(times)[len(times) // 2]
    finally:
        torch.set_num_threads(before)
