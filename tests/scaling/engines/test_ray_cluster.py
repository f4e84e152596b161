"""Ray: the rows of a cluster are those of one machine, a killed worker's piece is given out again.

One real cluster of two workers on this machine serves the whole file.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.chains.chain import Budget
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.interventions import Skip, Variant, dense
from scaling.engines.engine import Engine
from scaling.engines.local import LocalEngine
from scaling.engines.ray_cluster import ClusterEngine, ClusterError, connect
from scaling.engines.ray_worker import DecodeJob, cut_pieces
from scaling.engines.served_model import weightless
from scaling.store.study_store import Store
from scaling.study.config import StudyConfig
from scaling.study.runner import run_study
from tests import models
from tests.scaling.study.same import same_rows

REQUESTS = [
    Request(f"p{p}", (2, 8 + p, 4), variant, sample, budgets=(Budget(4, 2), Budget(9, 2)))
    for p in range(4)
    for sample in range(2)
    for variant in (dense, Variant("skip 1", (Skip(1),)))
]


def tiny_engine(seed: int = 0, die_on: str = "", mark: str = "") -> Engine:
    """What a worker holds in these tests; it may kill its own process, once or always."""

    class Mortal(LocalEngine):
        def decode(self, requests: Any, **options: Any) -> Iterator[Any]:
            for n, chain in enumerate(super().decode(requests, **options)):
                fatal = bool(die_on) and n >= 3 and any(r.problem == die_on for r in requests)
                if fatal and not (mark and Path(mark).exists()):
                    if mark:
                        Path(mark).write_text(str(os.getpid()))
                    os.kill(os.getpid(), signal.SIGKILL)
                yield chain

    return Mortal(models.tiny(n_blocks=3, seed=seed), slots=7)


def config(out: Path) -> StudyConfig:
    return StudyConfig(
        benchmarks=("recall", "arithmetic"),
        limit=4,
        budgets=(5, 10),
        answer=3,
        samples=2,
        waits=(1,),
        remove=(1,),
        methods=("shortgpt",),
        out=out,
    )


# ------------------------------------------------------------------ without a cluster


@given(problems=st.lists(st.integers(1, 6), min_size=1, max_size=12), workers=st.integers(1, 8))
def test_pieces_hold_every_request_once_and_no_problem_is_split(
    problems: list[int], workers: int
) -> None:
    requests = [
        Request(f"p{p}", (1,), sample=s) for p, count in enumerate(problems) for s in range(count)
    ]
    pieces = cut_pieces(requests, workers)
    assert sorted((r.problem, r.sample) for piece in pieces for r in piece) == sorted(
        (r.problem, r.sample) for r in requests
    )
    homes = Counter(name for piece in pieces for name in {r.problem for r in piece})
    assert set(homes.values()) == {1}
    assert len(pieces) >= min(workers, len(problems))
    assert all(pieces)


def test_what_a_lost_worker_leaves_is_what_had_not_come() -> None:
    engine = LocalEngine(models.tiny(n_blocks=3), slots=7)
    chains = list(engine.decode(REQUESTS, sampling=Sampling(), stop_on_loop=True))
    job = DecodeJob.of(REQUESTS, Sampling(), True)
    job.take(chains[:9])
    rest = job.left()
    assert rest is not None
    asked = {(r.problem, r.variant.name, r.sample, b) for r in rest.arguments[0] for b in r.budgets}
    assert asked == {(c.problem, c.variant, c.sample, c.budget) for c in chains[9:]}
    rest.take(chains[9:])
    assert rest.left() is None


def test_a_model_without_weights_reads_as_the_whole_one_does() -> None:
    from interp.model.reasoning_model import ReasoningModel

    whole, bare = ReasoningModel.load("testbed"), weightless("testbed")
    assert bare.device.type == "meta"
    question = "use 3 5 7 to make 22"
    for thinking in (True, False):
        assert bare.prompt_ids(question, thinking=thinking) == whole.prompt_ids(
            question, thinking=thinking
        )
    assert bare.encode("3 + 5") == whole.encode("3 + 5")
    assert bare.layer_map == whole.layer_map
    with pytest.raises(UserError, match="no-such-folder"):
        weightless("./no-such-folder")


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"prunescope\[ray\]"):
        connect("local")


@pytest.mark.parametrize("address", ["nonsense", "host:port", "ray://somewhere:10001"])
def test_a_strange_address_is_refused(address: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(UserError, match="--ray"):
        connect(address)


def test_a_cluster_that_is_not_there_is_said_at_once() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as one:  # a port that is surely nobody's
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with pytest.raises(UserError, match=r"Nothing answers at '127.0.0.1.*ray start --head"):
        connect(f"127.0.0.1:{port}")


# ------------------------------------------------------------------ on a real cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster on this machine with room for two workers."""
    ray: Any = pytest.importorskip("ray", reason="Ray is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, about its own future
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            logging_level="ERROR",
        )  # fmt: skip
    yield
    ray.shutdown()


def cluster_engine(**options: Any) -> ClusterEngine:
    return ClusterEngine(partial(tiny_engine, **options), models.tiny(n_blocks=3), workers=2)


@pytest.mark.slow
def test_two_workers_one_killed_in_mid_run_end_with_the_rows_of_one_machine(
    cluster: None, tmp_path: Path
) -> None:
    run_study(config(tmp_path / "one"), engine=tiny_engine())
    with Store(tmp_path / "one", read_only=True) as store:
        rows = store.rows()
    victim = rows.loc[rows["benchmark"] == "arithmetic", "problem"].iloc[-1]
    mark = tmp_path / "killed"
    with cluster_engine(die_on=str(victim), mark=str(mark)) as engine:
        with pytest.warns(UserWarning, match="worker was lost"):
            result = run_study(config(tmp_path / "two"), engine=engine)
        assert "2 workers" in engine.about
    assert mark.exists()  # it did happen
    assert result.chains == len(rows)
    same_rows(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_the_engine_gives_what_the_local_one_gives(cluster: None) -> None:
    local = tiny_engine()
    prompts = [[2, 8, 4], [2, 9, 10, 4], [2, 11, 4]]
    options: list[list[list[int]]] = [[[5], [6]], [[5], [6], [7]], [[8], [9]]]
    variants = [dense, Variant("skip 1", (Skip(1),))]
    with cluster_engine() as engine:
        assert engine.fingerprint() == local.fingerprint()
        assert engine.layer_map == local.layer_map
        here, there = (e.option_logprobs(prompts, options, variants) for e in (local, engine))
        np.testing.assert_allclose(there, here, atol=1e-5)
        assert np.isnan(there[:, 0, 2]).all()
        few = [r for r in REQUESTS if r.variant is dense]
        chains = list(engine.decode(few, sampling=Sampling(), stop_on_loop=True))
        assert Counter((c.problem, c.sample, c.budget) for c in chains) == Counter(
            (r.problem, r.sample, b) for r in few for b in r.budgets
        )
        with pytest.raises(UserError, match="Unknown criterion"):  # as it was raised over there
            engine.score("shortgtp", chains, 0, 1)
        scores = engine.score("shortgpt", chains, 0, 1)
        np.testing.assert_allclose(
            scores.to_frame()["score"],
            local.score("shortgpt", chains, 0, 1).to_frame()["score"],
            atol=1e-5,
        )


@pytest.mark.slow
def test_work_that_kills_every_worker_ends_and_what_was_finished_is_kept(cluster: None) -> None:
    with cluster_engine(die_on="p0") as engine:
        finished: list[Any] = []
        chains = engine.decode(REQUESTS, sampling=Sampling(), stop_on_loop=True)
        with (
            pytest.warns(UserWarning, match="worker was lost"),
            pytest.raises(ClusterError, match="3 workers were lost over the same work"),
        ):
            finished.extend(chains)
        assert {c.problem for c in finished} >= {"p2", "p3"}  # the other worker's piece


@pytest.mark.slow
def test_an_engine_whose_stream_was_left_in_the_middle_goes_on_working(cluster: None) -> None:
    with cluster_engine() as engine:
        stream: Any = engine.decode(REQUESTS, sampling=Sampling(), stop_on_loop=True)
        next(stream)
        stream.close()  # as Ctrl-C or an error of the consumer does
        chains = list(engine.decode(REQUESTS, sampling=Sampling(), stop_on_loop=True))
        assert len(chains) == sum(len(r.budgets) for r in REQUESTS)


def differing_engine() -> Engine:
    """Other weights in every process."""
    return tiny_engine(seed=os.getpid())


@pytest.mark.slow
def test_nodes_with_different_weights_are_refused(cluster: None) -> None:
    engine = ClusterEngine(differing_engine, models.tiny(n_blocks=3), workers=2)
    with engine, pytest.raises(UserError, match=r"fingerprint .*the same checkpoint"):
        engine._greet(next(iter(engine._starting)))


@pytest.mark.slow
def test_what_the_cluster_has_no_room_for_is_said(cluster: None) -> None:
    with pytest.raises(UserError, match="room for 2 workers"):
        ClusterEngine(tiny_engine, models.tiny(n_blocks=3), workers=3)
    with pytest.raises(UserError, match="0 GPUs"):
        ClusterEngine(tiny_engine, models.tiny(n_blocks=3), gpus=1)
