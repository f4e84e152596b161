"""Processes: two train as one does (`accelerate launch`, gloo); a killed one goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recovery import configs
from recovery.result import Recovered
from tests.recovery.small import farthest, saved, weights
from tests.recovery.test_data import written

ROOT = Path(__file__).parents[2]
COMMON = ["--rates", "1e-2", "--max-steps", "3", "--batch", "4", "--context", "64"]
COMMON += ["--held-out", "0", "--thinking", "16", "--answer", "4", "--blocks", "1"]


ENV = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def launch(processes: int, *arguments: object) -> None:
    """`prunescope recover` in one process, or in several as docs/recovery.md has it."""
    command = ["-m", "prunescope", "recover", *map(str, arguments)]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = ["-m", "accelerate.commands.launch", "--config_file", str(configs.path("gloo")),
                   "--num_processes", str(processes), "--main_process_port", str(port),
                   *command]  # fmt: skip
    found = subprocess.run([sys.executable, *command], cwd=ROOT, env=ENV, capture_output=True,
                           text=True, timeout=280)  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr


def sums(path: Path) -> Path:
    """Sixteen sums as chat messages."""
    records = [
        {
            "messages": [
                {"role": "user", "content": f"what is {2 + i % 7} + {3 + i // 7} ?"},
                {"role": "assistant", "content": f"<think> try {i} yes . </think> {5 + i % 7}"},
            ]
        }
        for i in range(16)
    ]
    return written(path, *records)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "distill"])
def test_two_processes_are_one(method: str, tmp_path: Path) -> None:
    base = saved(tmp_path / "tiny")
    data = sums(tmp_path / "data.jsonl")
    # What is drawn differs by process: dropout, and text of the model's own.
    extra = {"distill": ["--off-policy"], "lora": ["--dropout", "0"]}.get(method, [])
    shared = ["--model", base, "--data", data, "--method", method, *extra, *COMMON]
    launch(1, *shared, "--micro", "2", "--out", tmp_path / "one")
    launch(2, *shared, "--micro", "1", "--out", tmp_path / "two")
    one, two = Recovered.read(tmp_path / "one"), Recovered.read(tmp_path / "two")
    assert farthest(weights(one.model), weights(two.model)) <= 1e-6
    assert farthest(weights(one.model), weights(one.folder / "pruned")) > 1e-4
    assert one.tokens == two.tokens


@pytest.mark.slow
def test_a_killed_process_ends_with_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL whenever the log has grown, until the run gets through."""
    base, data = saved(tmp_path / "tiny"), sums(tmp_path / "data.jsonl")
    shared = ["--model", base, "--data", data, "--method", "full", *COMMON, "--micro", "2"]
    shared += ["--save-every", "1", "--log-every", "1", "--max-steps", "5"]
    launch(1, *shared, "--out", tmp_path / "whole")
    out, kills = tmp_path / "killed", 0
    command = [sys.executable, "-m", "prunescope", "recover", *map(str, shared), "--out", str(out)]
    for _ in range(12):
        process = subprocess.Popen(command, cwd=ROOT, env=ENV, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        log = out / "log.jsonl"
        before = log.stat().st_size if log.exists() else 0
        while process.poll() is None:
            if kills < 4 and log.exists() and log.stat().st_size > before:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        if process.wait() == 0:
            break
    assert kills >= 3
    whole, killed = Recovered.read(tmp_path / "whole"), Recovered.read(out)
    assert farthest(weights(whole.model), weights(killed.model)) <= 1e-6
    assert whole.tokens == killed.tokens
