"""Memory that a model may still take, on the host or on a CUDA device."""

from __future__ import annotations

import os
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # version 2; the limit of a container


def available_bytes(device: torch.device | str = "cpu") -> int:
    """Bytes that can be allocated on a device without swapping.

    On the host this counts what the kernel would give back, above all its page cache: reading a
    model's files fills the cache, so the free pages alone say little. The limit of a container
    counts where it is lower.

    Args:
        device: a CUDA device; any other is taken to be the host.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_machine(), _container())


def _machine() -> int:
    try:
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:  # not Linux, or a kernel without the line
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 2**62


def _container() -> int:
    try:
        limit = int(
            (CGROUP / "memory.max").read_text(encoding="ascii")
        )  # "max" where there is none
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        stat = dict(
            line.split() for line in (CGROUP / "memory.stat").read_text("ascii").splitlines()
        )
        return max(0, limit - used + int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 2**62
