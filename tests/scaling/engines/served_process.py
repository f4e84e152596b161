"""A real server as a child process: `vllm serve` or `transformers serve`, on this machine alone.

vLLM lives in an environment of its own (`make vllm`); PRUNESCOPE_VLLM names its command.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

VLLM = os.environ.get("PRUNESCOPE_VLLM", "")
POSITIONS = 2048  # of vLLM, fewer than the bundled reasoner has
UP = 180.0  # seconds to come up on a busy machine


class ServedProcess:
    """A server that can be killed and started again on the same port.

    Args:
        kind: "vllm" or "transformers".
        model: folder of the checkpoint.
        home: folder for its caches and its log.
        key: the key that it asks for (vLLM only); "" for none.
        vllm: the command of vLLM.
        threads: threads of vLLM.
    """

    def __init__(
        self,
        kind: str,
        model: Path,
        home: Path,
        key: str = "",
        *,
        vllm: str = VLLM,
        threads: int = 1,
    ) -> None:
        self.kind, self.model, self.key = kind, model, key
        self.vllm, self.threads = vllm, threads
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.name = "reasoner" if kind == "vllm" else str(model)
        self.command = [*self._command(), "--host", "127.0.0.1", "--port", str(self.port)]
        self.environment = {**os.environ, **self._environment(home)}
        self.environment.pop("PYTHONPATH", None)  # the server has packages of its own
        self.log = home / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def _command(self) -> Sequence[str]:
        if self.kind == "transformers":
            command = str(Path(sys.executable).with_name("transformers"))
            return (command, "serve", str(self.model), "--device", "cpu")
        sizes = ("--dtype", "float32", "--max-model-len", str(POSITIONS), "--enforce-eager")
        key = ("--api-key", self.key) if self.key else ()
        return (self.vllm, "serve", str(self.model), "--served-model-name", self.name, *sizes, *key)

    def _environment(self, home: Path) -> Mapping[str, str]:
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
        if self.kind == "transformers":
            return offline
        return {
            **offline,
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CACHE_ROOT": str(home),
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": str(self.threads),
        }

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, without waiting."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # vLLM decodes in a child, which must not outlive it
            )

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + UP
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        said = self.log.read_text(errors="replace")[-3000:]
        raise AssertionError(f"{self.kind} serve did not come up:\n{said}")

    def stop(self) -> None:
        """End it as an operator does: by a signal that lets it finish or abort what it does."""
        assert self.process is not None
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.kill()

    def kill(self) -> None:
        """End it as a crash would, with all its processes."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
