"""The server engine and the judge against a real `transformers serve` of the bundled reasoner."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from interp.chains.chain import Budget
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.interventions import dense
from interp.model.checkpoint_files import locate
from interp.model.reasoning_model import ReasoningModel
from scaling.engines.budget_check import check_budget
from scaling.engines.dialects import RetokenisedWarning
from scaling.engines.endpoint import Retry
from scaling.engines.server import ServerEngine
from scaling.judging import Item, Judge
from testbed.problems import generate

# the server alone takes some ten seconds to come up
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn", "openai")),
        reason="transformers serve needs fastapi, uvicorn and openai (the dev extra)",
    ),
]
GREEDY = Sampling(temperature=0.0)
UP = 180.0


class Served:
    """`transformers serve` as a child process, on a port that stays the same."""

    def __init__(self, home: Path) -> None:
        self.model = locate("testbed")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)}
        self.log = home / "log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, without waiting."""
        command = [str(Path(sys.executable).with_name("transformers")), "serve", self.model]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )

    def wait(self) -> None:
        """Until it answers."""
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
        raise AssertionError(f"transformers serve did not come up:\n{self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """Ends it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("hub"))
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


def engine_at(served: Served) -> ServerEngine:
    retry = Retry(tries=1000, patience=UP, first=0.1, longest=0.5)
    with pytest.warns(RetokenisedWarning, match="text"):
        return ServerEngine(served.url, "testbed", served=served.model, retry=retry, timeout=60.0)


LADDER = (Budget(24, 4), Budget(160, 6), Budget(160, 6, 1))


def some_requests(
    engine: ServerEngine, samples: int = 1, ladder: tuple[Budget, ...] = LADDER
) -> list[Request]:
    return [
        Request(p.id, tuple(engine.prompt_ids(p.question, thinking=True)), dense, s, 5, ladder)
        for p in generate("countdown-3", 3, 0, split="test")
        for s in range(samples)
    ]


def test_greedy_chains_are_the_local_ones(served: Served) -> None:
    engine = engine_at(served)
    assert engine.kind == "transformers" and not engine.exact
    model = ReasoningModel.load("testbed")
    assert engine.layer_map == model.layer_map
    assert engine.model.delimiters == model.delimiters
    requests = some_requests(engine)
    here = {(c.problem, c.budget): c for c in decode(model, requests, sampling=GREEDY)}
    there = {(c.problem, c.budget): c for c in engine.decode(requests, sampling=GREEDY)}
    assert set(here) == set(there)
    for key, chain in there.items():
        other = here[key]
        assert chain.ids.tolist() == other.ids.tolist()
        assert chain.forced.tolist() == other.forced.tolist()
        assert (chain.thinking, chain.answer, chain.finish) == (
            other.thinking, other.answer, other.finish
        )  # fmt: skip
        assert (chain.thinking_finish, chain.waits) == (other.thinking_finish, other.waits)
    assert {c.thinking_finish for c in there.values()} == {"end", "forced"}
    assert {c.waits for c in there.values()} == {0, 1}


def test_seeds_repeat_and_samples_differ(served: Served) -> None:
    engine, warm = engine_at(served), Sampling(temperature=1.5)
    requests = some_requests(engine, 3, (Budget(20, 2), Budget(40, 2)))

    def asked(few: list[Request]) -> dict[tuple[str, int, Budget], list[int]]:
        chains = engine.decode(few, sampling=warm)
        return {(c.problem, c.sample, c.budget): c.ids.tolist() for c in chains}

    first = asked(requests)
    assert asked(requests[::-1]) == first
    by_problem = {
        p: {tuple(ids) for (q, _, _), ids in first.items() if q == p} for p, _, _ in first
    }
    assert all(len(different) > 2 for different in by_problem.values())


def test_its_counts_obey_the_budget(served: Served) -> None:
    found = check_budget(engine_at(served), (1, 16, 200))
    assert found.obeys and all(row.repeats for row in found.rows)
    assert [row.prompt_sent for row in found.rows] == [row.prompt_counted for row in found.rows]


def test_another_name_is_refused(served: Served) -> None:
    with pytest.raises(UserError, match=r"no model 'another'.*pinned"):
        ServerEngine(served.url, "testbed", served="another")


def test_a_judge_that_is_no_judge_is_an_error_on_each_item(served: Served) -> None:
    with Judge(served.url, served.model, retry=Retry(tries=2, first=0.01), timeout=60.0) as judge:
        judge.check()  # it is not in the server's list, and it answers
        found = judge.compare([Item("compute 1 + 1", "2", str(i)) for i in range(2)])
    assert all(j.verdict is None and str(j.error).startswith("nonsense") for j in found)


def test_killed_and_started_again_in_mid_run_no_chain_is_lost(served: Served) -> None:
    engine = engine_at(served)
    requests = some_requests(engine)
    undisturbed = {
        (c.problem, c.budget): c.ids.tolist() for c in engine.decode(requests, sampling=GREEDY)
    }
    found = {}
    for chain in engine.decode(requests, sampling=GREEDY):
        assert (chain.problem, chain.budget) not in found
        found[chain.problem, chain.budget] = chain.ids.tolist()
        if len(found) == 2:
            served.kill()
            served.start()
    assert found == undisturbed
