"""The server engine: chains as the local decoder makes them, whatever the server does meanwhile."""

from __future__ import annotations

import copy
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from interp.chains.chain import Budget, Chain
from interp.decoding.generate import decode
from interp.decoding.request import Request, fork
from interp.decoding.sampling import Sampling
from interp.errors import NonFiniteError, UserError
from interp.interventions.interventions import Skip, Variant, dense
from interp.model.reasoning_model import ReasoningModel
from interp.replay.teacher_forced import continuation_logprobs
from scaling.engines.budget_check import check_budget
from scaling.engines.budget_walk import seed_of
from scaling.engines.dialects import Ask, RetokenisedWarning, TextDialect, TokenDialect
from scaling.engines.endpoint import Endpoint, EndpointError, Retry
from scaling.engines.engine import Engine
from scaling.engines.server import ServerEngine
from tests import models
from tests.scaling.engines.fake_endpoint import FakeEndpoint, FakeModel

GREEDY = Sampling(temperature=0.0)
QUICK = Retry(tries=50, patience=20.0, first=0.01, longest=0.05)
KINDS = ("vllm", "sglang")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReasoningModel, str]:
    """A tiny model, and the folder that its tokenizer is read from at this side."""
    model = models.tiny(n_blocks=2)
    folder = tmp_path_factory.mktemp("served")
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    (folder / "delimiters.json").write_text(json.dumps(model.delimiters.to_dict()))
    return model, str(folder)


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReasoningModel, str]:
    """A tiny model whose delimiters are ordinary tokens, as in Qwen3: text shows them."""
    base = models.tiny(n_blocks=2)
    inner = Tokenizer(WordLevel(base.tokenizer.get_vocab(), unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tok = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    tok.chat_template = base.tokenizer.chat_template
    model = ReasoningModel(base.hf, tok, name="talking", delimiters=base.delimiters)
    folder = tmp_path_factory.mktemp("talking")
    model.hf.save_pretrained(folder)
    tok.save_pretrained(folder)
    (folder / "delimiters.json").write_text(json.dumps(model.delimiters.to_dict()))
    return model, str(folder)


@pytest.fixture
def server(tiny: tuple[ReasoningModel, str]) -> Iterator[FakeEndpoint]:
    with FakeEndpoint(FakeModel(tiny[0])) as fake:
        yield fake


def engine_of(fake: FakeEndpoint, source: str, **options: Any) -> ServerEngine:
    return ServerEngine(fake.url, source, **({"retry": QUICK, "timeout": 5.0} | options))


def some_requests(
    model: ReasoningModel, n: int = 12, budgets: tuple[Budget, ...] | None = None, samples: int = 1
) -> list[Request]:
    ladder = budgets or (Budget(4, 3), Budget(20, 5), Budget(20, 5, 1), Budget(90, 70, 2))
    return [
        Request(
            f"p{i}",
            tuple(model.prompt_ids(f"what is {i} + {i * 7 % 11} ?", thinking=i % 5 != 4)),
            dense,
            sample,
            3,
            ladder,
        )
        for i in range(n)
        for sample in range(samples)
    ]


def plain(chain: Chain) -> dict[str, Any]:
    return {
        "key": (chain.problem, chain.sample, chain.budget),
        "ids": chain.ids.tolist(),
        "forced": chain.forced.tolist(),
        "thinking": chain.thinking,
        "answer": chain.answer,
        "finish": (chain.finish, chain.thinking_finish, chain.waits),
        "prompt": chain.prompt_ids.tolist(),
    }


def by_key(chains: Any) -> list[dict[str, Any]]:
    return sorted((plain(c) for c in chains), key=lambda c: str(c["key"]))


# ------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_chains_are_those_of_the_local_decoder(
    kind: str, tiny: tuple[ReasoningModel, str]
) -> None:
    model, folder = tiny
    ladder = (Budget(4, 3), Budget(20, 5), Budget(20, 5, 1), Budget(140, 140, 2))
    requests = some_requests(model, 10, ladder)
    here = list(decode(model, requests, sampling=GREEDY, stop_on_loop=True))
    with FakeEndpoint(FakeModel(model, kind)) as fake:
        engine = engine_of(fake, folder)
        assert isinstance(engine, Engine) and engine.kind == kind and engine.exact
        there = list(engine.decode(requests, sampling=GREEDY, stop_on_loop=True))
    assert by_key(there) == by_key(here)
    assert {c.thinking_finish for c in here} == {"end", "forced", "looped", "none"}
    assert {c.finish for c in here} >= {"cut", "stop"}
    local = {(c.problem, c.budget): c for c in here}
    for chain in there:
        other = local[chain.problem, chain.budget]
        np.testing.assert_allclose(chain.logprob, other.logprob, atol=1e-4)
        assert chain.layer_map == other.layer_map


class ScriptedServer:
    """A server that says what stands in its script: token i of a chain is script[i]."""

    def __init__(self, script: list[int], prompt: int, *, shows_end: bool) -> None:
        self.script, self.prompt, self.shows_end = script, prompt, shows_end

    def __call__(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        begin = len(body["prompt"]) - self.prompt
        ids: list[int] = []
        stops = set(body.get("stop_token_ids", ()))
        finish, why = "length", None
        for token in self.script[max(begin, 0) :][: body["max_tokens"]]:
            ids.append(token)
            if token in stops:
                finish, why = "stop", token
                break
        if why is not None and not self.shows_end:
            ids = ids[:-1]
        choice = {"finish_reason": finish, "token_ids": ids, "stop_reason": why, "text": ""}
        return 200, {"choices": [choice], "usage": {}}


@pytest.mark.parametrize("shows_end", [True, False])
def test_ends_waits_and_forced_ends_by_hand(
    shows_end: bool, tiny: tuple[ReasoningModel, str]
) -> None:
    model, folder = tiny
    (end,), (wait,) = model.delimiter_ids.think_end, model.delimiter_ids.wait
    prefix = model.delimiter_ids.answer_prefix
    eos, (a, b, c) = model.stop_ids[0], model.encode("1 2 3")
    prompt = tuple(model.prompt_ids("what is 1 + 1 ?", thinking=True))
    # thinks a b and ends; after a "wait" (which takes the end's place) thinks b and ends again
    script = [a, b, end, b, end, c, eos, a, a, a, a, a]
    budgets = (Budget(1, 2), Budget(2, 2), Budget(9, 4), Budget(9, 4, 1))
    request = Request("p", prompt, dense, 0, 0, budgets)
    with FakeEndpoint(ScriptedServer(script, len(prompt), shows_end=shows_end)) as fake:
        engine = engine_of(fake, folder)
        found = {c.budget: c for c in engine.decode([request], sampling=GREEDY)}
    natural = found[budgets[2]]  # a b </think> b </think> c <eos>: the answer may hold anything
    assert natural.ids.tolist() == [a, b, end, b, end, c, eos][:7]
    assert (natural.thinking_finish, natural.finish, natural.n_thinking) == ("end", "stop", 2)
    cut = found[budgets[0]]
    closing = list(model.delimiter_ids.closing)
    assert cut.ids.tolist()[: 1 + len(closing)] == [a, *closing]
    assert cut.forced.tolist()[: 1 + len(closing)] == [False] + [True] * len(closing)
    assert (cut.thinking_finish, cut.n_thinking, cut.n_answer) == ("forced", 1, 2)
    assert found[budgets[1]].thinking_finish == "forced"  # the end itself would be the third token
    waited = found[budgets[3]]
    assert waited.ids.tolist()[:5] == [a, b, wait, b, end]
    assert waited.forced.tolist()[:5] == [False, False, True, False, False]
    assert (waited.waits, waited.n_thinking, waited.thinking_finish) == (1, 4, "end")
    assert waited.ids.tolist()[5:] == [c, eos] and waited.finish == "stop"
    assert prefix == () or cut.ids.tolist()[2] == prefix[0]


def test_loops_end_where_they_are_certain(tiny: tuple[ReasoningModel, str]) -> None:
    model, folder = tiny
    (a,) = model.encode("1")
    prompt = tuple(model.prompt_ids("what is 1 + 1 ?", thinking=True))
    closed = tuple(model.prompt_ids("what is 1 + 1 ?", thinking=False))
    assert len(prompt) + 1 == len(closed)
    thinks = Request("t", prompt, dense, 0, 0, (Budget(40, 3), Budget(100, 3)))
    answers = Request("a", closed, dense, 0, 0, (Budget(1, 9), Budget(1, 100)))
    with FakeEndpoint(ScriptedServer([a] * 150, len(prompt), shows_end=True)) as fake:
        engine = engine_of(fake, folder)
        found = list(engine.decode([thinks, answers], sampling=GREEDY, stop_on_loop=True))
        whole = list(engine.decode([thinks, answers], sampling=GREEDY, stop_on_loop=False))
    by = {
        (c.problem, c.budget): (c.n_thinking, c.n_answer, c.thinking_finish, c.finish)
        for c in found
    }
    assert by == {  # looked at every 64 tokens; four repeats and 64 tokens are certain
        ("t", Budget(40, 3)): (40, 3, "forced", "cut"),
        ("t", Budget(100, 3)): (64, 3, "looped", "cut"),
        ("a", Budget(1, 9)): (0, 9, "none", "cut"),
        ("a", Budget(1, 100)): (0, 64, "none", "looped"),
    }
    assert {c.finish for c in whole} == {"cut"}


def test_an_end_of_sequence_inside_thinking_is_no_answer(tiny: tuple[ReasoningModel, str]) -> None:
    model, folder = tiny
    eos, (a,) = model.stop_ids[0], model.encode("1")
    prompt = tuple(model.prompt_ids("what is 1 + 1 ?", thinking=True))
    request = Request("p", prompt, dense, 0, 0, (Budget(2, 2), Budget(9, 2)))
    with FakeEndpoint(ScriptedServer([a, a, a, eos, a, a, a], len(prompt), shows_end=True)) as fake:
        chains = {
            c.budget.thinking: c for c in engine_of(fake, folder).decode([request], sampling=GREEDY)
        }
    assert chains[9].answer is None and chains[9].finish == "stop" and chains[9].n_thinking == 3
    assert chains[2].answer is not None and chains[2].thinking_finish == "forced"


def test_budgets_nest_and_pieces_do_not_show(
    server: FakeEndpoint, tiny: tuple[ReasoningModel, str]
) -> None:
    model, folder = tiny
    ladder = (Budget(7, 4), Budget(13, 4), Budget(13, 6, 1), Budget(40, 6))
    together = some_requests(model, 4, ladder, samples=2)
    engine = engine_of(server, folder, piece=16)
    one = by_key(engine.decode(together, sampling=Sampling()))
    each: list[Chain] = []
    for budget in ladder:
        each += engine.decode(some_requests(model, 4, (budget,), samples=2), sampling=Sampling())
    assert by_key(each) == one
    by_budget = {(k[0], k[1], k[2]): c["ids"] for c in one for k in [c["key"]]}
    differ = sum(
        by_budget[f"p{i}", 0, ladder[3]] != by_budget[f"p{i}", 1, ladder[3]] for i in range(4)
    )
    assert differ >= 3  # samples have noise of their own
    assert max(b["max_tokens"] for b in server.posts()) <= 16


def test_a_fork_goes_on_from_its_prefix(
    server: FakeEndpoint, tiny: tuple[ReasoningModel, str]
) -> None:
    model, folder = tiny
    budget = Budget(30, 4)
    first = next(decode(model, some_requests(model, 1, (budget,)), sampling=GREEDY))
    forked = fork(first, 5)
    here = list(decode(model, forked, sampling=GREEDY))
    there = list(engine_of(server, folder).decode(forked, sampling=GREEDY))
    assert by_key(there) == by_key(here)


def test_seeds_belong_to_the_place() -> None:
    def request(problem: str = "a", sample: int = 0, seed: int = 0) -> Request:
        return Request(problem, (1,), dense, sample, seed)

    places = [
        seed_of(request(), 0, "thinking", 0),
        seed_of(request("b"), 0, "thinking", 0),
        seed_of(request(sample=1), 0, "thinking", 0),
        seed_of(request(seed=1), 0, "thinking", 0),
        seed_of(request(), 1, "thinking", 0),
        seed_of(request(), 0, "answer", 0),
        seed_of(request(), 0, "thinking", 1),
    ]
    assert len(set(places)) == len(places)
    assert places[0] == seed_of(request(), 0, "thinking", 0)
    assert all(0 <= p < 2**31 for p in places)


def test_options_score_as_they_do_locally(
    server: FakeEndpoint, tiny: tuple[ReasoningModel, str]
) -> None:
    model, folder = tiny
    prompts = [model.prompt_ids(f"what is {i} ?", thinking=False) for i in range(3)]
    options = [[model.encode("1 2"), model.encode("yes")], [model.encode("no")]] * 2
    here = continuation_logprobs(model, prompts, options[:3], [dense])
    there = engine_of(server, folder).option_logprobs(prompts, options[:3], [dense])
    assert there.shape == here.shape == (1, 3, 2)
    np.testing.assert_allclose(there, here, atol=1e-4)


def test_the_positions_of_the_server_are_kept(tiny: tuple[ReasoningModel, str]) -> None:
    model, folder = tiny
    window = 64
    prompt = tuple(model.prompt_ids("what is 1 + 1 ?", thinking=True))
    with FakeEndpoint(FakeModel(model), window=window) as fake:
        engine = engine_of(fake, folder)
        assert engine.max_positions == window < model.max_positions
        ladder = (Budget(5, 3), Budget(200, 30), Budget(200, 30, 1))
        for room in (1, 2, 3, 9, 40):
            long = (prompt[:-1] * window + prompt[-1:])[room - window :]
            request = Request("p", long, dense, 0, 0, ladder)
            for chain in engine.decode([request], sampling=GREEDY):
                used = len(long) + chain.n_tokens
                assert used == window if chain.finish == "positions" else used <= window
        full = (prompt[:-1] * window + prompt[-1:])[-window:]
        with pytest.raises(UserError, match="64 tokens; the server has 64 positions"):
            engine.decode([Request("p", full, dense, 0, 0, ladder)], sampling=GREEDY)
        assert np.isfinite(engine.option_logprobs([full[3:]], [[[5], [5, 6]]], [dense])).all()
        asked = len(fake.posts())
        with pytest.raises(UserError, match="Prompt 1 with its longest option has 64 tokens"):
            engine.option_logprobs([[1], full[3:]], [[[2]], [[5], [5, 6, 7]]], [dense])
        assert len(fake.posts()) == asked


# ---------------------------------------------------------------------------- text in and out


def test_a_server_of_text_gives_the_same_chains_and_says_what_it_is(
    talking: tuple[ReasoningModel, str],
) -> None:
    model, folder = talking
    requests = some_requests(model, 10)
    here = by_key(decode(model, requests, sampling=GREEDY, stop_on_loop=True))
    with FakeEndpoint(FakeModel(model, "transformers")) as fake:
        with pytest.warns(RetokenisedWarning, match="read back"):
            engine = engine_of(fake, folder)
        assert engine.kind == "transformers" and not engine.exact
        assert engine.concurrency == 1
        assert engine.fingerprint().endswith("transformers, text")
        chains = list(engine.decode(requests, sampling=GREEDY, stop_on_loop=True))
        assert by_key(chains) == here
        assert np.isnan(np.concatenate([c.logprob for c in chains])).all()
        assert check_budget(engine, (1, 8, 32), question="what is 1 ?").obeys
        with pytest.raises(UserError, match="gives no log-probabilities"):
            engine.option_logprobs([[1]], [[[2], [3]]], [dense])
        assert fake.most_busy == 1


def test_a_server_that_hides_the_delimiters_is_refused(tiny: tuple[ReasoningModel, str]) -> None:
    model, folder = tiny
    with FakeEndpoint(FakeModel(model, "transformers")) as fake:  # noqa: SIM117
        with pytest.raises(UserError, match="leaves special tokens out"):
            engine_of(fake, folder)


def test_ids_out_of_names_where_a_server_has_no_other(tiny: tuple[ReasoningModel, str]) -> None:
    model, folder = tiny
    older = FakeModel(model)
    older.says_ids = False
    with FakeEndpoint(older) as fake:
        engine = engine_of(fake, folder)
        found = by_key(engine.decode(some_requests(model, 2), sampling=GREEDY))
    assert found == by_key(decode(model, some_requests(model, 2), sampling=GREEDY))


# --------------------------------------------------------------------------- what is refused


def test_only_what_is_served_can_be_asked(
    server: FakeEndpoint, tiny: tuple[ReasoningModel, str]
) -> None:
    model, folder = tiny
    engine = engine_of(server, folder)
    skipped = Variant("skip 1", (Skip(1),))
    request = Request("p", tuple(model.prompt_ids("what is 1 ?")), skipped)
    asked = len(server.posts())
    with pytest.raises(UserError, match="serve that"):
        engine.decode([request], sampling=GREEDY)
    with pytest.raises(UserError, match="serve that"):
        engine.option_logprobs([[1]], [[[2]]], [skipped])
    with pytest.raises(UserError, match="cannot score blocks"):
        engine.score("shortgpt", [], 0, 1)
    long = Request("p", (5,) * model.max_positions, dense)
    with pytest.raises(UserError, match="positions"):
        engine.decode([long], sampling=GREEDY)
    assert len(server.posts()) == asked  # nothing was computed


def test_a_model_that_is_not_there_is_said_before_anything_is_computed(
    server: FakeEndpoint, tiny: tuple[ReasoningModel, str]
) -> None:
    with pytest.raises(UserError, match=r"no model 'other'.*It lists: m"):
        engine_of(server, tiny[1], served="other")
    server.models = ("m", "n")
    with pytest.raises(UserError, match=r"--served-model.*m, n"):
        engine_of(server, tiny[1])
    assert engine_of(server, tiny[1], served="m").served == "m"


def test_a_server_that_is_none_of_the_three_is_refused(tiny: tuple[ReasoningModel, str]) -> None:
    def other(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        choice = {"text": "x", "finish_reason": "length"}
        return 200, {"choices": [choice], "usage": {"completion_tokens": 16, "prompt_tokens": 1}}

    with FakeEndpoint(other) as fake, pytest.raises(UserError, match="one of the three"):
        engine_of(fake, tiny[1])


def test_bad_numbers(server: FakeEndpoint, tiny: tuple[ReasoningModel, str]) -> None:
    with pytest.raises(UserError, match="concurrency=0"):
        engine_of(server, tiny[1], concurrency=0)
    with pytest.raises(UserError, match="piece=0"):
        engine_of(server, tiny[1], piece=0)
    engine = engine_of(server, tiny[1])
    with pytest.raises(UserError, match="budgets"):
        check_budget(engine, (0,))
    with pytest.raises(UserError, match="room for"):
        check_budget(engine, (10**6,))


# --------------------------------------------------------------------------------- faults

FAULTS: dict[str, list[tuple[Any, ...]]] = {
    "dies": [("die",)] * 3,
    "is busy": [("status", 429, {"Retry-After": "0.1"}), ("status", 503)],
    "hangs": [("hang", 1.2), ("hang", 1.2)],
    "gives half a JSON": [("half",), ("half",)],
    "talks nonsense once": [("text", "<html>Bad gateway</html>"), ("text", "[1]")],
    "fails": [("status", 500), ("status", 502), ("status", 504)],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_changes_no_chain(
    fault: str, server: FakeEndpoint, tiny: tuple[ReasoningModel, str]
) -> None:
    model, folder = tiny
    requests = some_requests(model, 4, (Budget(6, 3), Budget(12, 3)))
    undisturbed = by_key(engine_of(server, folder).decode(requests, sampling=Sampling()))
    engine = engine_of(server, folder, timeout=0.8 if fault == "hangs" else 5.0, concurrency=2)
    server.faults = list(FAULTS[fault])
    assert by_key(engine.decode(requests, sampling=Sampling())) == undisturbed
    assert not server.faults


def test_a_server_that_restarts_in_mid_run_loses_no_row(tiny: tuple[ReasoningModel, str]) -> None:
    model, folder = tiny
    requests = some_requests(model, 8, (Budget(6, 3), Budget(12, 3)))
    with FakeEndpoint(FakeModel(model)) as fake:
        engine = engine_of(fake, folder, concurrency=3)
        undisturbed = by_key(engine.decode(requests, sampling=Sampling()))
        found: list[Chain] = []
        for chain in engine.decode(requests, sampling=Sampling()):
            found.append(chain)
            if len(found) in (2, 9):
                fake.close()
                threading.Timer(0.3, fake.open).start()
        time.sleep(0.4)
    assert by_key(found) == undisturbed
    assert max(Counter((c.problem, c.budget) for c in found).values()) == 1


def test_a_server_that_stays_away_is_an_error_and_what_was_finished_stands(
    tiny: tuple[ReasoningModel, str],
) -> None:
    model, folder = tiny
    requests = some_requests(model, 6, (Budget(6, 3),))
    found: list[Chain] = []
    with FakeEndpoint(FakeModel(model)) as fake:
        retry = Retry(tries=4, patience=5.0, first=0.01, longest=0.02)
        engine = engine_of(fake, folder, concurrency=1, retry=retry)
        with pytest.raises(EndpointError, match=r"no connection.*tried 4 times") as caught:  # noqa: PT012
            for chain in engine.decode(requests, sampling=GREEDY):
                found.append(chain)
                if len(found) == 2:
                    fake.close()
        fake.open()
        assert caught.value.kind == "down"
        assert 2 <= len(found) < 6
        left = [r for r in requests if r.problem not in {c.problem for c in found}]
        rest = list(engine.decode(left, sampling=GREEDY))
    assert by_key([*found, *rest]) == by_key(decode(model, requests, sampling=GREEDY))


def test_nonsense_is_not_borne_for_long(
    server: FakeEndpoint, tiny: tuple[ReasoningModel, str]
) -> None:
    model, folder = tiny
    engine = engine_of(server, folder)
    request = some_requests(model, 1, (Budget(6, 3),))
    assert isinstance(server.answer, FakeModel)
    server.answer.extra_tokens = 5
    before = len(server.posts())
    with pytest.raises(EndpointError, match="11 tokens where 6 were requested") as caught:
        list(engine.decode(request, sampling=GREEDY))
    assert caught.value.kind == "nonsense" and len(server.posts()) - before == 3


ODD: list[Any] = [
    True, False, 0, 5.0, 1.7, -1, 10**400, -(10**400), math.inf, -math.inf, 1e300, -1e300, "a", "",
    "1", [], [1, 2], [[]], {}, {"1": 2}, {"token_logprobs": 5}, {"token_logprobs": "a"},
    {"token_logprobs": {}}, {"tokens": 1}, {"tokens": ["token_id:" + "9" * 5000]},
    {"tokens": ["token_id:\u0665"]}, {"tokens": ["token_id:-1"]}, "\x1b[31mred", "\ud800",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::scaling.engines.dialects.RetokenisedWarning")
@pytest.mark.parametrize("kind", ["vllm", "sglang", "transformers"])
def test_an_odd_field_of_a_reply_is_read_or_counts_as_nonsense(
    kind: Any, tiny: tuple[ReasoningModel, str], talking: tuple[ReasoningModel, str]
) -> None:
    """Every field, and every value inside it, is anything JSON can hold; none of it raises."""
    model, _ = talking if kind == "transformers" else tiny
    dialect = TextDialect("m", model) if kind == "transformers" else TokenDialect(kind, "m", model)
    ask = Ask(tuple(model.prompt_ids("what is 1 + 1 ?")), 4, (), 0, Sampling())
    whole = FakeModel(model, kind)("completions", dialect.body(ask))[1]
    assert len(dialect.read(ask, whole).ids) == 4
    places = [("choices",), ("usage",), ("choices", 0), ("usage", "prompt_tokens")]
    places += [("usage", "completion_tokens")]
    names = ["finish_reason", "text", "logprobs", "token_ids", "stop_reason", "matched_stop"]
    places += [("choices", 0, name) for name in names]
    if kind != "transformers":
        places += [("choices", 0, "token_ids", 1), ("choices", 0, "logprobs", "token_logprobs", 1)]
        places += [
            ("choices", 0, "logprobs", "token_logprobs"),
            ("choices", 0, "logprobs", "tokens"),
        ]
        places += [("choices", 0, "logprobs", "tokens", 0)]
    errors: list[EndpointError] = []
    for place in places:
        for value in ODD:
            for without_ids in (False, True):
                reply = copy.deepcopy(whole)
                if without_ids and place != ("choices",):
                    reply["choices"][0].pop("token_ids", None)
                inner = reply
                try:
                    for step in place[:-1]:
                        inner = inner[step]
                    inner[place[-1]] = value
                except KeyError:  # the part that was left out
                    continue
                try:
                    said = dialect.read(ask, reply)
                except EndpointError as error:
                    errors.append(error)
                else:
                    assert all(type(i) is int and 0 <= i < model.vocab_size for i in said.ids)
                    assert not (said.logprob > 0).any() and not np.isinf(said.logprob).any()
                    assert said.tokens is None or type(said.tokens) is int
    assert len(errors) > (40 if kind == "transformers" else 100)
    assert {error.kind for error in errors} <= {"nonsense", "server error"}
    assert all(len(str(error)) < 300 and str(error).isprintable() for error in errors)


@pytest.mark.parametrize("value", [*ODD, float("nan")])
def test_an_odd_log_probability_of_an_option_is_an_error(
    value: Any, tiny: tuple[ReasoningModel, str]
) -> None:
    model, folder = tiny
    good = FakeModel(model)

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        status, reply = good(path, body)
        if body.get("echo"):
            reply["choices"][0]["logprobs"]["token_logprobs"][-2] = value
        return status, reply

    retry = Retry(tries=1, patience=5.0, first=0.01, longest=0.02)
    with FakeEndpoint(answer) as fake:
        engine = engine_of(fake, folder, retry=retry)
        ids = model.encode("what is 1 + 1 ?")
        if value in (0, -1) and type(value) is int:
            assert np.isfinite(engine.option_logprobs([ids], [[ids[:1]]], [dense])).all()
            return
        with pytest.raises((EndpointError, NonFiniteError)):
            engine.option_logprobs([ids], [[ids[:1]]], [dense])


@pytest.mark.parametrize("fault", [("drip head", 0.02), ("drip", 0.02), ("drip error", 0.02)])
def test_a_server_that_drips_is_given_up_after_the_timeout(fault: tuple[Any, ...]) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"much": "x" * 10_000}

    retry = Retry(tries=1, patience=5.0, first=0.01, longest=0.02)
    with FakeEndpoint(answer) as fake:
        fake.faults = [fault]
        began = time.monotonic()
        with pytest.raises(EndpointError) as caught:
            Endpoint(fake.url, timeout=0.5, retry=retry).post("x", {"a": 1}, read=dict)
        assert 0.1 < time.monotonic() - began < 2
        kinds = {"drip head": "timeout", "drip": "timeout", "drip error": "refused"}
        assert caught.value.kind == kinds[fault[0]]
        assert fake.posts()
        assert Endpoint(fake.url, timeout=5.0).post("x", {"a": 1}, read=dict)["much"]


def test_a_number_that_is_none_is_not_retried(tiny: tuple[ReasoningModel, str]) -> None:
    model, folder = tiny
    good = FakeModel(model)
    broken = False

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        status, reply = good(path, body)
        if broken:
            reply["choices"][0]["logprobs"]["token_logprobs"][0] = float("nan")
        return status, reply

    with FakeEndpoint(answer) as fake:
        engine = engine_of(fake, folder)
        broken = True
        with pytest.raises(NonFiniteError):
            list(engine.decode(some_requests(model, 1), sampling=GREEDY))


# ---------------------------------------------------------------------------- concurrency


def test_requests_are_side_by_side_and_bounded(
    server: FakeEndpoint, tiny: tuple[ReasoningModel, str]
) -> None:
    model, folder = tiny
    engine = engine_of(server, folder, concurrency=3)
    server.faults = [("hang", 0.05)] * 40
    assert (
        len(list(engine.decode(some_requests(model, 10, (Budget(3, 2),)), sampling=GREEDY))) == 10
    )
    assert server.most_busy == 3


def test_leaving_early_ends_the_threads_and_not_the_engine(
    server: FakeEndpoint, tiny: tuple[ReasoningModel, str]
) -> None:
    model, folder = tiny
    engine = engine_of(server, folder, concurrency=2)
    requests = some_requests(model, 30, (Budget(6, 3),))
    chains = engine.decode(requests, sampling=GREEDY)
    next(chains)
    server.faults = [("status", 503)] * 1000
    began = time.monotonic()
    chains.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert time.monotonic() - began < 0.5
    deadline = time.monotonic() + 5
    while any(t.name.startswith("prunescope-request") for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.faults = []
    assert len(list(engine.decode(requests[:2], sampling=GREEDY))) == 2


# ------------------------------------------------------------------------ counting tokens


def test_check_budget_agrees_with_an_honest_server_and_finds_others(
    server: FakeEndpoint, tiny: tuple[ReasoningModel, str]
) -> None:
    engine = engine_of(server, tiny[1])
    found = check_budget(engine, (1, 4, 40), question="what is 1 ?")
    assert found.obeys and found.exact and all(r.repeats for r in found.rows)
    frame = found.to_frame()
    assert list(frame["budget"]) == [1, 4, 40] and frame["obeys"].all()
    honest = server.answer

    def counts_a_token_more(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        status, reply = honest(path, body)
        reply["usage"]["prompt_tokens"] += 1
        return status, reply

    def falls_short(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return honest(path, {**body, "max_tokens": max(1, body["max_tokens"] - 2)})

    server.answer = counts_a_token_more
    assert not check_budget(engine, (4,), question="what is 1 ?").obeys
    server.answer = falls_short
    assert not check_budget(engine, (4,), question="what is 1 ?").obeys
