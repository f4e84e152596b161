"""Machines by name: what they could do at best, for estimates made before anything runs.

Peak FLOP/s are of dense matrix products in the number format named (data sheets like to give twice
that, "with sparsity"). A decoder reaches a share of a peak only; `efficiency` is that share, of
FLOP/s and of bandwidth alike. It is an assumption, shown with every estimate: this package's own
engine reached .43 of the roofline on a CPU, and .36 to .74 on one H100 (bench/README.md). Small
models wait for the host there, whatever the roofline says, so a token takes no less than it took
with the smallest model that was measured.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from interp.errors import UserError, did_you_mean

EFFICIENCY = 0.4
HOST = 1 / 15_527  # seconds per token: Qwen3-0.6B's shape, 64 rows, one H100 (bench/results)


@dataclass(frozen=True)
class Machine:
    """One device.

    Attributes:
        name: name of the device.
        flops: peak FLOP/s of dense matrix products.
        bandwidth: memory bandwidth in bytes per second.
        memory: bytes of memory.
        number_bytes: bytes per weight, in the number format of the peak.
        rows: the largest number of chains that the local engine decodes side by side.
        source: where the figures are from.
        efficiency: the part of both peaks that is reached.
        host: seconds that a decoded token takes at least, for the work of the host.
        decoding: if it was measured (`scaling.costs.measured_machine`), (a, b, c): a decoding pass
            over n rows of the measured model takes the larger of a + b n and c n seconds.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float
    number_bytes: int
    rows: int
    source: str
    efficiency: float = EFFICIENCY
    host: float = 0.0
    decoding: tuple[float, float, float] | None = None

    @property
    def about(self) -> str:
        """The figures as a sentence."""
        if self.decoding is not None:
            fixed, each, full = self.decoding
            return (
                f"{self.name}, {self.source}: {self.flops / 1e9:,.3g} GFLOP/s in a forward pass; "
                f"a pass of decoding over n rows takes {fixed * 1e3:.2f} + {each * 1e3:.3f} n ms, "
                f"and no less than {full * 1e3:.3f} n ms"
            )
        kind = {2: "bfloat16", 4: "float32"}[self.number_bytes]
        return (
            f"{self.name}: {self.flops / 1e12:.4g} TFLOP/s {kind}, "
            f"{self.bandwidth / 1e12:.3g} TB/s, {self.memory / 1e9:.0f} GB ({self.source}), "
            f"of which {self.efficiency:.0%} is assumed to be reached"
            + (f"; at most {1 / self.host:,.0f} tokens/s, for the host" if self.host else "")
        )


MACHINES = {
    "h200": Machine(
        "H200", 989.4e12, 4.8e12, 141e9, 2, 256, "NVIDIA H200 SXM data sheet", host=HOST
    ),
    "h100": Machine(
        "H100", 989.4e12, 3.35e12, 80e9, 2, 256, "NVIDIA H100 SXM data sheet", host=HOST
    ),
    "a100": Machine(
        "A100", 312e12, 2.039e12, 80e9, 2, 256, "NVIDIA A100 80GB SXM data sheet", host=HOST
    ),
    "rtx4090": Machine(
        "RTX 4090", 165.2e12, 1.008e12, 24e9, 2, 256, "NVIDIA Ada white paper", host=HOST
    ),
}
CPU_CORE_FLOPS = 96e9  # 3 GHz, two units of eight float32 multiply-adds a cycle (AVX2)
CPU_BANDWIDTH = 51.2e9  # two channels of DDR4-3200


def machine(name: str) -> Machine:
    """The machine of that name.

    Args:
        name: name of the machine; "cpu" stands for the cores of this computer, taken as those of an
            ordinary processor.

    Returns:
        The machine.

    Raises:
        UserError: no machine has that name.
    """
    key = name.lower().replace(" ", "").replace("-", "").replace("_", "")
    if key == "cpu":
        cores = os.cpu_count() or 1
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        source = "3 GHz AVX2, two channels of DDR4-3200, this computer's memory"
        return Machine(
            f"CPU, {cores} cores", cores * CPU_CORE_FLOPS, CPU_BANDWIDTH, memory, 4, 128, source
        )
    if key not in MACHINES:
        raise UserError(did_you_mean(name, [*MACHINES, "cpu"], "machine"))
    return MACHINES[key]
