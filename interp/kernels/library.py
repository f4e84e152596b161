"""The CPU kernels in `kernels.c`: compiled once by the machine's own C compiler, and checked.

Decoding spends most of its time on reading keys and values, and the rest on small element-wise
steps. A fused kernel reads each row's used columns once and nothing else. If there is no compiler,
or the check against torch fails, `kernels()` is None and the decoder does the same work in torch.

There is one source and one build per target; `builds()` names those that this processor can run.
`interp.decoding.block_backend` measures which of them (or torch) is fastest for a model. The
compiled file is in the user's cache folder, under a name made from the source, the compiler, the
target and the processor, so it is built once per machine (in about two seconds).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange

from interp.errors import UserError

log = logging.getLogger(__name__)

NATIVE, AVX2 = "native", "x86-64-v3"
_SAFE = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-shared", "-fPIC"]
# Flags of the native build, tried in order: the widest vectors and threads first.
_NATIVE_FLAGS = (
    ["-march=native", "-mprefer-vector-width=512", "-fopenmp"],
    ["-march=native", "-fopenmp"],
    ["-mcpu=native", "-fopenmp"],
    ["-fopenmp"],
    [],
)
# Waiting threads release their core after some microseconds. If other processes run on the machine,
# a thread that spins while it waits for another takes the core that the other needs.
_SPINS = "2000"
_P, _I, _F, _C = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_SIGNATURES = {
    "attend": [_P, _P, _P, _I, _P, _P, _I, _I, _I, _I, _I, _F, _F, _P, _C],
    "run_block": [_P, _P, _P, _P, _I, _P, _P, _P, _P, _I, _P, _P, _P, _I, _C],
    "choose_and_measure": [_P, _I, _I, _I, _F, _P, _P, _P, _P, _C],
    "product": [_P, _I, _I, _P, _I, _P, _C],
    "stream_numbers": [_P, _P, _I, _I, _P, _I, _C],
}
SMALL = 2**16  # numbers in a stream that one thread finishes before a second has started


class BlockStruct(ctypes.Structure):
    """`Block` of kernels.c, field by field."""

    _fields_ = (
        *((name, _I) for name in ("d", "heads", "kv", "width", "inner", "window")),
        *((name, _F) for name in ("scale", "eps", "eps_mlp", "eps_qk")),
        *((name, _P) for name in ("norm", "norm_mlp", "q_norm", "k_norm", "qkv", "qkv_bias")),
        *((name, _P) for name in ("o", "o_bias", "up", "down")),
    )


class WorkspaceStruct(ctypes.Structure):
    """`Room` of kernels.c, field by field."""

    _fields_ = tuple((name, _P) for name in ("normed", "qkv", "attended", "middle", "inner"))


def panels(weight: torch.Tensor, width: int) -> torch.Tensor:
    """Pack a matrix as kernels.c reads it.

    Args:
        weight: [k, out].
        width: columns per panel: `Kernels.panel` of the build that will read it.

    Returns:
        [ceil(out / width), k, width], contiguous; the last panel is filled with zeros.
    """
    whole = -(-weight.shape[1] // width) * width
    filled = torch.nn.functional.pad(weight, (0, whole - weight.shape[1]))
    return rearrange(filled, "k (p c) -> p k c", c=width).contiguous()


class Kernels:
    """Typed access to the compiled functions (kernels.c describes them).

    Args:
        path: the compiled library.
        build: the target it was compiled for, one of `builds()`.

    Attributes:
        build: the target it was compiled for.
        panel: columns of a packed panel of weights (see `panels`).
    """

    def __init__(self, path: Path, build: str = NATIVE) -> None:
        self.build = build
        with _passive_waiting():
            library = ctypes.CDLL(str(path))
        library.panel_width.restype = _I
        self.panel = int(library.panel_width())
        for name, types in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = types, None
            setattr(self, name, function)

    def attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        columns: torch.Tensor,
        scale: float,
        window: int,
        softcap: float,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention of one query per lane over the used columns of the cache.

        Lane r attends columns (columns[r] - window, columns[r]] of its row.

        Args:
            query: float32 [n, H, d], contiguous.
            key: float32 [n, kv heads, used, d], a view of the cache.
            value: float32 [n, kv heads, used, d], a view of the cache.
            columns: int64 [n], the last column of each lane.
            scale: factor of the scores.
            window: columns that a query sees; 0 for all.
            softcap: limit of the scores; 0 for none.
            rows: int64 [n], the row of each lane; None if lane r is row r.

        Returns:
            float32 [n, H, d].
        """
        n, heads, width = query.shape
        out = torch.empty_like(query)
        self.attend(  # type: ignore[attr-defined]
            query.data_ptr(), key.data_ptr(), value.data_ptr(), key.stride(1) // width,
            columns.data_ptr(), address(rows), n, heads, key.shape[1], width, window, scale,
            softcap, out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return out

    def stream(self, x: torch.Tensor, y: torch.Tensor, place: int, stride: int) -> None:
        """Write the four numbers of each row of two streams (see `interp.chains.residual_record`).

        Args:
            x: the stream entering a block, float32 [..., D], contiguous.
            y: the stream leaving it, likewise.
            place: address of the output of row 0.
            stride: distance between the outputs of two rows, in floats.
        """
        d = x.shape[-1]
        n = x.numel() // d
        threads = torch.get_num_threads() if n * d > SMALL else 1
        self.stream_numbers(x.data_ptr(), y.data_ptr(), n, d, place, stride, threads)  # type: ignore[attr-defined]

    def choose(
        self, logits: torch.Tensor, temperature: float, starts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Choose the next token of every lane, and measure its distribution.

        Args:
            logits: float32 [n, V].
            temperature: divisor of the logits; 0 chooses the most likely token.
            starts: where the hash of each lane's noise starts (`interp.chains.noise.step_start`),
                int64 [n].

        Returns:
            Token ids, int64 [n]; the entropy in nats and the log normalizer of the logits, not
            divided by the temperature, float32 [n] each, nan where a logit is nan or infinite.
        """
        n, vocab = logits.shape
        if logits.stride(1) != 1:
            logits = logits.contiguous()
        tokens = torch.empty(n, dtype=torch.int64)
        numbers = torch.empty((2, n))
        starts = starts.contiguous()
        threads = torch.get_num_threads() if n * vocab > SMALL else 1
        self.choose_and_measure(  # type: ignore[attr-defined]
            logits.data_ptr(), n, vocab, logits.stride(0), temperature, starts.data_ptr(),
            tokens.data_ptr(), numbers[0].data_ptr(), numbers[1].data_ptr(), threads,
        )  # fmt: skip
        return tokens, numbers[0], numbers[1]


def address(numbers: torch.Tensor | None) -> int | None:
    """The address of a tensor's numbers, None for no tensor."""
    return None if numbers is None else numbers.data_ptr()


def triton_installed() -> bool:
    """Whether the Triton kernels can be imported (PyTorch for CUDA brings Triton along)."""
    return importlib.util.find_spec("triton") is not None


def suits(width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether heads of a width can go through the kernels (if there are any).

    Args:
        width: head width d.
        dtype: of queries, keys and values.
        device: where they are.

    Returns:
        True for float32 on the CPU with a width that is a multiple of 16.
    """
    return device.type == "cpu" and dtype == torch.float32 and width % 16 == 0


def wanted() -> str:
    """The value of PRUNESCOPE_KERNELS: "0" (never), "1" (always) or "auto" (where they are faster).

    Raises:
        UserError: the variable has another value.
    """
    said = os.environ.get("PRUNESCOPE_KERNELS", "auto")
    if said not in ("0", "1", "auto"):
        raise UserError(
            f"PRUNESCOPE_KERNELS={said!r}: expected 0 (torch only), 1 (compiled kernels wherever "
            "they can be used) or auto (whichever is faster, the default)."
        )
    return said


@cache
def builds() -> tuple[str, ...]:
    """Targets that kernels.c can be compiled for and run on this processor, the likeliest first.

    `PRUNESCOPE_MARCH` (such as x86-64-v3) replaces them by one target, to try another processor's.
    On a processor with AVX-512 the AVX2 build is a candidate too, because some run it faster.
    """
    if asked := os.environ.get("PRUNESCOPE_MARCH"):
        return (asked,)
    return (NATIVE, AVX2) if "avx512f" in processor().split() else (NATIVE,)


@cache
def kernels(build: str | None = None) -> Kernels | None:
    """The compiled kernels, built on first use.

    Args:
        build: one of `builds()`; default: the first.

    Returns:
        The kernels; None if there is no compiler, the build fails or disagrees with torch, or
        PRUNESCOPE_KERNELS is 0.
    """
    if wanted() == "0":
        return None
    build = build or builds()[0]
    try:
        path = _build(build)
        found = None if path is None else Kernels(path, build)
        if found is not None and not _right(found):
            log.warning("The compiled kernels (%s) disagree with torch and are not used.", build)
            return None
        return found
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        log.info("No compiled kernels: %s", error)
        return None


@contextmanager
def _passive_waiting() -> Iterator[None]:
    """While open, an OpenMP runtime that is loaded learns to spin only briefly (GNU's libgomp)."""
    asked = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ)
    if not asked:
        os.environ["GOMP_SPINCOUNT"] = _SPINS
    try:
        yield
    finally:
        if not asked:
            del os.environ["GOMP_SPINCOUNT"]


def cache_folder() -> Path:
    """The folder for what was built or measured on this machine.

    Returns:
        `$XDG_CACHE_HOME/prunescope` or `~/.cache/prunescope`; a temporary folder if that cannot be
        written.
    """
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "prunescope"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    return folder if writable else Path(tempfile.mkdtemp(prefix="prunescope-"))


def source() -> bytes:
    """The text of kernels.c."""
    return Path(str(resources.files("interp.kernels") / "kernels.c")).read_bytes()


def _build(build: str) -> Path | None:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc"))), None)
    if compiler is None:
        return None
    known = [f"-march={build}", "-fopenmp"]
    tried = _NATIVE_FLAGS if build == NATIVE else (known, known[:1])
    text = source() + f"{compiler}{processor()}{_SAFE}{tried}".encode()
    folder = cache_folder()
    target = folder / f"kernels-{hashlib.sha256(text).hexdigest()[:16]}.so"
    if target.is_file():
        return target
    code = Path(str(resources.files("interp.kernels") / "kernels.c"))
    for flags in tried:
        handle, made = tempfile.mkstemp(suffix=".so", dir=folder)
        os.close(handle)
        command = [compiler, *_SAFE, *flags, "-o", made, str(code), "-lm"]
        result = subprocess.run(command, capture_output=True, timeout=120, check=False)
        if result.returncode == 0:
            Path(made).replace(target)  # atomic, in case another process builds it too
            return target
        Path(made).unlink()
    return None


@cache
def processor() -> str:
    """A string that identifies this processor: its model and the instructions it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    names = ("model name", "flags", "Features")
    return " ".join(next((x for x in lines if x.startswith(name)), "") for name in names)


def _right(found: Kernels) -> bool:
    """Whether one small case agrees with torch: row lengths, a window, grouped heads."""
    g = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, 32, generator=g)
    key, value = torch.randn(2, 3, 2, 40, 32, generator=g)
    columns = torch.tensor([0, 37, 20])
    at = torch.arange(40)
    for window in (0, 7):
        seen = at <= columns[:, None]
        if window:
            seen &= at > columns[:, None] - window
        mask = seen[:, None, None, :]
        want = F.scaled_dot_product_attention(query.view(3, 2, 2, 32), key, value, attn_mask=mask)
        got = found.attention(query, key, value, columns, 32**-0.5, window, 0.0)
        if not torch.allclose(got, want.reshape(3, 4, 32), atol=1e-5):
            return False
    x, y = torch.randn(2, 3, 32, generator=g)
    found_numbers = torch.zeros(3, 2, 4)
    found.stream(x, y, found_numbers[:, 1].data_ptr(), found_numbers.stride(0))
    norms = torch.stack((x.norm(dim=1), y.norm(dim=1), (y - x).norm(dim=1), (x * y).sum(1)), 1)
    if not torch.allclose(found_numbers[:, 1], norms, atol=1e-4):
        return False
    logits = torch.randn(3, 70, generator=g)
    token, _, norm = found.choose(logits, 0.0, columns)
    right = torch.allclose(norm, logits.logsumexp(1), atol=1e-5)
    return right and bool((token == logits.argmax(1)).all())
