"""The server engine and the judge against real servers of the bundled reasoner.

`make servers` runs this with vLLM and `transformers serve`, each with the dense model and with a
pruned checkpoint. The figures that it prints are those of docs/serving.md.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from interp.chains.chain import Budget, Chain
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.interventions import dense
from interp.model.checkpoint_files import locate
from interp.model.reasoning_model import ReasoningModel
from interp.statistics import jeffreys, paired_difference
from pruning.plan import LayerPlan
from pruning.surgery import save
from scaling.engines.budget_check import check_budget
from scaling.engines.endpoint import EndpointError, Retry
from scaling.engines.engine import Engine
from scaling.engines.local import LocalEngine
from scaling.engines.server import ServerEngine
from scaling.judging import Item, Judge
from scaling.store.study_store import Store
from scaling.study.config import StudyConfig
from scaling.study.runner import run_study
from scaling.study.study_progress import Event
from testbed.problems import generate
from tests.scaling.engines.served_process import POSITIONS, UP, VLLM, ServedProcess

NO_VLLM = pytest.mark.skipif(
    not VLLM,
    reason="no vLLM: `make servers` installs it and runs this, or set PRUNESCOPE_VLLM to the "
    "command vllm of another environment",
)
NO_TRANSFORMERS = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn", "openai")),
    reason="transformers serve needs fastapi, uvicorn and openai (the dev extra)",
)
pytestmark = [
    pytest.mark.slow,  # a server alone takes half a minute to come up
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::scaling.engines.dialects.RetokenisedWarning"),
]
GREEDY = Sampling(temperature=0.0)
STAYS = Retry(tries=1000, patience=UP, first=0.1, longest=0.5)
LEAVES = Retry(tries=3, patience=5.0, first=0.1, longest=0.2)
KEY_ENV = "PRUNESCOPE_TEST_SERVER_KEY"
KEY = "the-key-of-a-test-server"
REMOVED = (7, 12)  # what ShortGPT removes first
# A study whose server is killed, by whether the server is fast: long enough to be in the middle.
SETTINGS: dict[bool, dict[str, Any]] = {
    True: {"limit": 100, "budgets": (48, 192)},
    False: {"limit": 24, "budgets": (48, 192)},
}
LADDER = (Budget(24, 4), Budget(160, 6), Budget(160, 6, 1))


@dataclass
class Served:
    """A server and the checkpoint that it has.

    Attributes:
        process: the server.
        what: "dense" or "pruned".
        folder: for studies.
    """

    process: ServedProcess
    what: str
    folder: Path

    @property
    def exact(self) -> bool:
        return self.process.kind == "vllm"

    @cached_property
    def model(self) -> ReasoningModel:
        """The same checkpoint, loaded here."""
        return ReasoningModel.load(self.process.model)

    def engine(self, **options: Any) -> ServerEngine:
        given = {"retry": STAYS, "timeout": 60.0, "key_env": KEY_ENV} | options
        return ServerEngine(self.process.url, self.process.model, served=self.process.name, **given)

    def config(self, out: str, **settings: Any) -> StudyConfig:
        """A study of the checkpoint alone."""
        given: dict[str, Any] = {"benchmarks": ("countdown-3",), "waits": (), "samples": 1}
        given |= {"model": str(self.process.model), "methods": (), "blocks": False} | settings
        return StudyConfig(out=self.folder / out, **given)

    def requests(
        self, n: int = 6, samples: int = 1, ladder: tuple[Budget, ...] = LADDER
    ) -> list[Request]:
        return [
            Request(p.id, tuple(self.model.prompt_ids(p.question)), dense, s, 5, ladder)
            for p in generate("countdown-3", n, 0, split="test")
            for s in range(samples)
        ]

    def say(self, text: str) -> None:
        """A figure; pytest -rP shows it."""
        sys.stdout.write(f"{self.process.kind}, {self.what}: {text}\n")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("vllm", "dense"), marks=NO_VLLM),
        pytest.param(("vllm", "pruned"), marks=NO_VLLM),
        pytest.param(("transformers", "dense"), marks=NO_TRANSFORMERS),
        pytest.param(("transformers", "pruned"), marks=NO_TRANSFORMERS),
    ],
    ids=" ".join,
)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server; the pruned one of vLLM asks for a key."""
    kind, what = request.param
    home = tmp_path_factory.mktemp(kind)
    checkpoint = Path(locate("testbed"))
    if what == "pruned":
        model = ReasoningModel.load("testbed")
        checkpoint = save(model, LayerPlan.without(model, *REMOVED), home / "pruned")
    key = KEY if (kind, what) == ("vllm", "pruned") else ""
    server = Served(ServedProcess(kind, checkpoint, home, key), what, home)
    began = time.monotonic()
    server.process.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_ENV, key)
        try:
            server.process.wait()
            server.say(f"up after {time.monotonic() - began:.0f} s")
            yield server
        finally:
            server.process.kill()


# ------------------------------------------------------------------------------------- chains


def by_place(chains: Any) -> dict[tuple[str, int, Budget], Chain]:
    came = list(chains)
    found = {(c.problem, c.sample, c.budget): c for c in came}
    assert len(found) == len(came)
    return found


def equal_share(here: dict[Any, Chain], there: dict[Any, Chain]) -> float:
    assert set(here) == set(there)
    return float(np.mean([here[k].ids.tolist() == there[k].ids.tolist() for k in here]))


def test_greedy_chains_are_the_local_ones(served: Served) -> None:
    engine, model = served.engine(), served.model
    assert (engine.kind, engine.exact) == (served.process.kind, served.exact)
    assert engine.layer_map == model.layer_map
    assert engine.model.delimiters == model.delimiters
    requests = served.requests()
    here = by_place(decode(model, requests, sampling=GREEDY))
    there = by_place(engine.decode(requests, sampling=GREEDY))
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
    """Whatever else is in the batch: a chain has its own seed, not the server's."""
    warm = Sampling(temperature=1.5)
    requests = served.requests(4, 3, (Budget(20, 2), Budget(40, 2)))
    first = by_place(served.engine().decode(requests, sampling=warm))
    again = by_place(served.engine(concurrency=1).decode(requests[::-1], sampling=warm))
    share = equal_share(first, again)
    served.say(f"{share:.0%} of {len(first)} sampled chains are the same in another batch")
    # vLLM's batches differ in the last bits of a logit, which may change a token now and then
    assert share > 0.9 if served.exact else share == 1
    by_problem = {
        problem: {tuple(c.ids.tolist()) for c in first.values() if c.problem == problem}
        for problem, _, _ in first
    }
    assert all(len(different) > 2 for different in by_problem.values())


def test_its_counts_obey_the_budget(served: Served) -> None:
    found = check_budget(served.engine(), (1, 2, 16, 200))
    assert found.obeys and all(row.repeats for row in found.rows)
    assert [row.prompt_sent for row in found.rows] == [row.prompt_counted for row in found.rows]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7), Sampling(1.3, top_k=5)])
def test_tokens_are_drawn_from_the_model_and_have_its_log_probabilities(
    served: Served, sampling: Sampling
) -> None:
    """Along the same tokens as a plain pass of Hugging Face here.

    The surprise of a drawn token is the entropy of its distribution on average, so a server that
    samples otherwise than it was asked to (its own temperature, top-k or top-p) stands out.
    """
    requests = served.requests(8 if served.exact else 6, ladder=LADDER[1:2])
    excess = variance = worst = 0.0
    n = 0
    for chain in served.engine().decode(requests, sampling=sampling):
        own = torch.from_numpy(~chain.forced)
        ids = torch.tensor([[*chain.prompt_ids.tolist(), *chain.ids.tolist()]])
        start = len(chain.prompt_ids)
        with torch.no_grad():
            logits = served.model.hf(ids).logits[0, start - 1 : -1][own].double()
        chosen = ids[0, start:][own, None]
        if served.exact:
            assert np.array_equal(np.isnan(chain.logprob), chain.forced)
            raw = logits.log_softmax(-1).gather(-1, chosen)[:, 0].numpy()
            worst = max(worst, float(np.abs(raw - chain.logprob[~chain.forced]).max()))
        else:
            assert np.isnan(chain.logprob).all()
        if sampling.top_k:
            least = logits.topk(sampling.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        logp = (logits / sampling.temperature).log_softmax(-1)
        p, surprise = logp.exp(), -logp.masked_fill(logp == -torch.inf, 0.0)
        entropy = (p * surprise).sum(-1)
        drawn = -logp.gather(-1, chosen)[:, 0]
        assert torch.isfinite(drawn).all()
        excess += float((drawn - entropy).sum())
        variance += float(((p * surprise**2).sum(-1) - entropy**2).sum())
        n += len(drawn)
    z = excess / variance**0.5
    served.say(
        f"{sampling}: {n} tokens, their surprise {z:+.1f} standard errors from the entropy"
        + (f", log-probabilities within {worst:.1e}" if served.exact else "")
    )
    assert n > 200
    assert abs(z) < 4
    assert worst < 1e-3


def test_the_positions_of_the_server_are_kept(served: Served) -> None:
    """Nothing is asked that does not fit, to the last position."""
    engine = served.engine()
    if not served.exact:  # it says nothing of its positions: they are those of the checkpoint
        assert engine.max_positions == served.model.max_positions
        return
    assert engine.max_positions == POSITIONS < served.model.max_positions
    prompt = tuple(served.model.prompt_ids("compute 1 + 1"))
    full = (prompt[:-1] * POSITIONS + prompt[-1:])[-POSITIONS:]
    ladder = (Budget(64, 8), Budget(256, 8))
    for room in (1, 2, 12, 100):
        request = Request("p", full[room:], dense, 0, 0, ladder)
        for chain in engine.decode([request], sampling=GREEDY):
            used = len(full) - room + chain.n_tokens
            assert used == POSITIONS if chain.finish == "positions" else used <= POSITIONS
    with pytest.raises(UserError, match="positions"):
        engine.decode([Request("p", full, dense, 0, 0, ladder)], sampling=GREEDY)
    assert np.isfinite(engine.option_logprobs([full[3:]], [[[5], [5, 6]]], [dense])).all()


# ------------------------------------------------------------------------------------- studies


def study(config: StudyConfig, engine: Engine, on_event: Any = None) -> pd.DataFrame:
    """The rows of a study, run or continued; no key is there twice."""
    run_study(config, on_event, engine=engine)
    return rows_of(config)


def rows_of(config: StudyConfig) -> pd.DataFrame:
    keys = ["benchmark", "problem", "budget", "sample"]
    with Store(config.out, read_only=True) as store:
        rows = store.rows(ids=True)
    rows = rows.set_index(keys).sort_index()
    assert rows.index.is_unique
    return rows


@pytest.fixture(scope="module")
def both(served: Served) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One study of 200 problems per benchmark on the server and here."""
    names = ("recall",) if served.exact else ()
    settings: dict[str, Any] = {
        "benchmarks": (*names, "countdown-3", "countdown-4"),
        "limit": {**dict.fromkeys(names, 200), "countdown-3": 200, "countdown-4": 16},
        "budgets": (48, 192),
        "waits": (1,),
    }
    began = time.monotonic()
    there = study(served.config("there", **settings), served.engine())
    between = time.monotonic()
    here = study(served.config("here", **settings), LocalEngine(served.model))
    served.say(
        f"{len(there)} rows in {between - began:.0f} s, here in {time.monotonic() - between:.0f} s"
    )
    assert set(there.index) == set(here.index)
    return there, here


def test_budgets_are_obeyed_to_the_token(
    served: Served, both: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    rows = both[0].query("budget != 'likelihood'")
    ids = served.model.delimiter_ids
    thinking = rows["thinking_stop"] - rows["thinking_start"]
    assert (thinking <= rows["thinking_budget"]).all()
    assert (rows["answer_tokens"] <= rows["answer_budget"]).all()
    cut = rows["thinking_finish"] == "forced"
    assert cut.sum() > 20
    assert (thinking[cut] == rows["thinking_budget"][cut]).all()
    closed = cut | (rows["thinking_finish"] == "looped")
    written = closed * len(ids.closing) + rows["waits"] * len(ids.wait)
    assert (rows["forced_tokens"] == written).all()

    def at(benchmark: str, budget: str) -> pd.DataFrame:
        return rows.xs((benchmark, budget), level=("benchmark", "budget"))

    small, large = at("countdown-3", "48"), at("countdown-3", "192")
    for place, row in small.iterrows():  # a small budget's thinking begins a large one's
        n = int(row["thinking_stop"])
        assert row["ids"][:n].tolist() == large.loc[place, "ids"][:n].tolist()
    plain, waited = at("countdown-4", "192"), at("countdown-4", "192+1wait")
    assert set(waited["waits"]) == {0, 1}
    for place, row in waited[waited["waits"] == 1].iterrows():
        n = int(plain.loc[place, "thinking_stop"])
        assert row["ids"][:n].tolist() == plain.loc[place, "ids"][:n].tolist()
        assert row["ids"][n] == ids.wait[0]


def test_accuracy_is_that_of_the_local_engine(
    served: Served, both: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    """On 200 problems, with another noise: within the interval of the paired difference."""
    there, here = (frame["outcome"].eq("correct").astype(float) for frame in both)
    kinds = there.groupby(level=["benchmark", "budget"]).size()
    for name, budget in kinds[kinds == 200].index:
        a, b = (f.xs((name, budget), level=("benchmark", "budget")) for f in (here, there))
        found = paired_difference(a.to_numpy(), b.reindex(a.index).to_numpy())
        own = jeffreys(float(b.sum()), len(b))
        served.say(
            f"{name}, budget {budget}: {found.variant:.3f} [{own.low:.3f}, {own.high:.3f}] on the "
            f"server, {found.dense:.3f} here; difference {found.value:+.3f} [{found.low:+.3f}, "
            f"{found.high:+.3f}], n = {found.n_problems}"
        )
        assert found.low <= 0 <= found.high
    assert (kinds == 200).sum() == (3 if served.exact else 2)


def test_choices_score_as_they_do_here(
    served: Served, both: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    if not served.exact:
        with pytest.raises(UserError, match="gives no log-probabilities"):
            served.engine().option_logprobs([[1]], [[[2], [3]]], [dense])
        return
    there, here = (np.array(f.loc["recall", "choice_logprobs"].tolist()) for f in both)
    assert there.shape == (200, 4)
    worst = float(np.abs(there - here).max())
    served.say(f"log-probabilities of {there.size} choices differ by {worst:.1e} at most")
    assert worst < 1e-3


def test_killed_and_started_again_in_mid_study_no_row_is_lost(served: Served) -> None:
    settings = SETTINGS[served.exact]
    undisturbed = study(served.config("undisturbed", **settings), served.engine())
    killed = []

    def kill_once(event: Event) -> None:
        if 0 < event.chains < event.chains_total and not killed:
            killed.append(event.chains)
            served.process.kill()
            served.process.start()

    began = time.monotonic()
    found = study(served.config("killed", **settings), served.engine(), kill_once)
    served.say(
        f"killed after {killed} of {len(found)} chains and started again: "
        f"{time.monotonic() - began:.0f} s"
    )
    assert killed
    assert_same_rows(served, undisturbed, found)


def test_a_study_whose_server_is_stopped_is_continued(served: Served) -> None:
    settings = SETTINGS[served.exact]
    config = served.config("left", **settings)
    stopped = []

    def stop_once(event: Event) -> None:
        if 0 < event.chains < event.chains_total and not stopped:
            stopped.append(event.chains)
            served.process.stop()

    try:
        with pytest.raises(EndpointError, match="tried 3 times"):
            run_study(config, stop_once, engine=served.engine(retry=LEAVES))
    finally:
        served.process.kill()
        served.process.start()
        served.process.wait()
    stored = len(rows_of(config))
    assert stopped[0] <= stored < 2 * settings["limit"]
    served.say(f"{stored} of {2 * settings['limit']} chains were stored when the server stopped")
    undisturbed = study(served.config("undisturbed", **settings), served.engine())
    assert_same_rows(served, undisturbed, study(config, served.engine()))


def assert_same_rows(served: Served, undisturbed: pd.DataFrame, found: pd.DataFrame) -> None:
    assert list(found.index) == list(undisturbed.index)  # none lost, none doubled
    pairs = zip(found["ids"], undisturbed["ids"], strict=True)
    share = np.mean([a.tolist() == b.tolist() for a, b in pairs])
    served.say(f"{share:.1%} of {len(found)} chains are those of the undisturbed study")
    assert share > 0.9 if served.exact else share == 1


# ------------------------------------------------------------------------------- what is refused


def test_another_name_is_refused(served: Served) -> None:
    with pytest.raises(UserError, match="no model 'another'"):
        ServerEngine(served.process.url, served.process.model, served="another", key_env=KEY_ENV)


def test_a_key_is_needed_where_the_server_has_one(served: Served) -> None:
    if not served.process.key:
        served.engine(key_env=None)
        return
    with pytest.raises(EndpointError, match="key is not accepted") as caught:
        served.engine(key_env=None)
    assert caught.value.status == 401


def test_a_judge_that_is_no_judge_is_an_error_on_each_item(served: Served) -> None:
    with Judge(
        served.process.url,
        served.process.name,
        key_env=KEY_ENV,
        retry=Retry(tries=2, first=0.01),
        timeout=60.0,
    ) as judge:
        judge.check()  # transformers serve does not list it, and it answers
        found = judge.compare([Item("compute 1 + 1", "2", str(i)) for i in range(2)])
    assert all(j.verdict is None and str(j.error).startswith("nonsense") for j in found)
