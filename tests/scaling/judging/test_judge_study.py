"""A study on a server, and a judge on its rows, from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.chains.chain import Budget
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from prunescope import cli
from scaling.engines.endpoint import EndpointError, Retry
from scaling.engines.server import ServerEngine
from scaling.judging import Judge, judge_study
from scaling.store import checksums
from scaling.store.study_store import Store
from scaling.study.config import StudyConfig
from scaling.study.places import run_on_server
from scaling.study.runner import run_study
from tests import models
from tests.scaling.engines.fake_endpoint import FakeEndpoint, FakeModel
from tests.scaling.judging.test_llm_judge import data_of, honest

QUICK = Retry(tries=4, patience=5.0, first=0.01, longest=0.03)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder."""
    model = models.tiny(n_blocks=2)
    out = tmp_path_factory.mktemp("model")
    model.hf.save_pretrained(out)
    model.tokenizer.save_pretrained(out)
    (out / "delimiters.json").write_text(json.dumps(model.delimiters.to_dict()))
    return out


@pytest.fixture(scope="module")
def server() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(FakeModel(models.tiny(n_blocks=2))) as fake:
        yield fake


def config(source: Path | str, out: Path, **changes: Any) -> StudyConfig:
    small: dict[str, Any] = {
        "model": str(source), "benchmarks": ("recall", "arithmetic"), "limit": 4,
        "budgets": (5, 10), "answer": 6, "samples": 2, "waits": (1,),
        "methods": (), "blocks": False, "out": out,
    }  # fmt: skip
    return StudyConfig(**(small | changes))


@pytest.fixture(scope="module")
def finished(folder: Path, server: FakeEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    run_study(config(folder, out), engine=ServerEngine(server.url, folder, retry=QUICK))
    return out


def test_a_study_runs_on_a_server_and_says_so(finished: Path) -> None:
    with Store(finished, read_only=True) as store:
        rows, meta = store.rows(), store.meta()
        sessions = store.frame("sessions")
    assert set(rows["variant"]) == {"dense"}
    assert set(rows["benchmark"]) == {"recall", "arithmetic"}
    assert meta["model fingerprint"].endswith("served as 'm' by vllm, tokens")
    assert sessions["engine"].str.contains("token ids").all()
    thought = rows[rows["scoring"] == "generate"]
    within = thought["thinking_stop"] - thought["thinking_start"]  # what an answer reopens aside
    assert (within <= thought["thinking_budget"]).all()
    assert (thought["answer_tokens"] <= thought["answer_budget"]).all()
    assert thought["mean_logprob"].notna().all()


def test_a_study_whose_server_went_away_goes_on_to_the_same_rows(
    folder: Path, finished: Path, tmp_path: Path
) -> None:
    with FakeEndpoint(FakeModel(models.tiny(n_blocks=2))) as fake:
        engine = ServerEngine(fake.url, folder, retry=QUICK, concurrency=2)
        asked = 0
        answer = fake.answer

        def leaves(path: str, body: dict[str, Any]) -> tuple[int, Any]:
            nonlocal asked
            asked += 1
            return answer(path, body) if asked < 28 else (503, {"error": "loading"})

        fake.answer = leaves
        with pytest.raises(EndpointError, match="503"):
            run_study(config(folder, tmp_path), engine=engine)
        with Store(tmp_path, read_only=True) as store:
            kept = len(store.done())
        fake.answer = answer
        run_study(config(folder, tmp_path), engine=engine)
    keys = ["benchmark", "problem", "variant", "budget", "sample", "ids_hash", "outcome"]
    with Store(tmp_path, read_only=True) as one, Store(finished, read_only=True) as whole:
        assert 0 < kept < len(whole.done())
        assert one.rows()[keys].equals(whole.rows()[keys])


@pytest.mark.parametrize("changes", [{"methods": ("shortgpt",), "remove": (1,)}, {"blocks": True}])
def test_pruning_on_a_server_is_refused(
    changes: dict[str, Any], folder: Path, server: FakeEndpoint, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    with pytest.raises(UserError, match="prunescope prune"):
        run_on_server(config(folder, out, **changes), server.url)
    assert not out.exists()


def test_likelihood_on_a_server_of_text_is_refused_before_it_begins(tmp_path: Path) -> None:
    from interp.model.reasoning_model import ReasoningModel

    reasoner = ReasoningModel.load("testbed")
    settings = config("testbed", tmp_path / "study")
    with (
        FakeEndpoint(FakeModel(reasoner, "transformers")) as fake,
        pytest.warns(UserWarning, match="text"),
        pytest.raises(UserError, match="recall"),
    ):
        run_on_server(settings, fake.url)
    assert not (tmp_path / "study").exists()


# ------------------------------------------------------------------------------- the judge


@pytest.fixture
def judged() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(honest) as fake:
        yield fake


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy with answers planted: a tiny model gives none."""
    import shutil
    import sqlite3

    out = tmp_path / "study"
    shutil.copytree(finished, out)
    with sqlite3.connect(out / "study.sqlite") as db:
        gold = dict(db.execute("SELECT problem, answer FROM problems"))
        rows = db.execute("SELECT problem, budget, sample, position FROM chains "
                          "WHERE scoring='generate'").fetchall()  # fmt: skip
        for problem, budget, sample, position in rows:
            right = position % 2 == 0
            answer = gold[problem] if right else f"{gold[problem]}7"
            outcome = "no answer" if position == 3 else "correct" if right else "wrong"
            db.execute(
                "UPDATE chains SET outcome=?, extracted=? "
                "WHERE problem=? AND budget=? AND sample=?",
                (outcome, None if position == 3 else answer, problem, budget, sample),
            )
        checksums.seal_all(db)
    db.close()
    return out


def test_the_judge_sees_every_answer_and_kappa_is_its_agreement(
    study: Path, judged: FakeEndpoint
) -> None:
    with Judge(judged.url, "m", retry=QUICK) as judge:
        found = judge_study(study, judge, behaviours=5)
    with Store(study, read_only=True) as store:
        rows = store.rows()
    rows = rows[rows["scoring"] == "generate"]
    assert len(found.rows) == len(rows)
    answered = found.rows["outcome"] != "no answer"
    assert found.rows.loc[answered, "verdict"].isin(["same", "different"]).all()
    assert found.rows.loc[~answered, ["verdict", "error"]].isna().all(axis=None)
    assert found.errors == 0
    whole = found.agreements["all"]
    assert set(found.agreements) == {"all", "arithmetic"}
    assert whole.kappa.value == 1.0 and whole.kappa.n_problems == 3 and whole.n == answered.sum()
    assert whole.kappa.high - whole.kappa.low > 0.5  # three problems, however many rows
    assert len([b for b in judged.posts() if "answer_1" in data_of(b)]) == 3  # each once
    counted = found.rows["judged_verification"].notna()
    assert counted.sum() == 5 and found.rows["behaviour_error"].isna().all()


def test_the_command_writes_tables_and_keeps_errors_apart(
    study: Path, judged: FakeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    judged.models = ("m",)
    asked = ["judge", str(study), "--url", judged.url, "--model", "m", "--concurrency", "1"]
    judged.faults = [("status", 400)]
    assert cli.run(asked) == 0
    said_first = capsys.readouterr().out
    assert "error in the place of a verdict" in said_first and "kappa" in said_first
    table = pd.read_csv(study / "tables" / "judge_verdicts.csv")
    assert (
        table["error"].notna().any()
        and not (table["error"].notna() & table["verdict"].notna()).any()
    )
    before = len(judged.posts())
    assert cli.run(asked) == 0
    assert len(judged.posts()) - before == 1  # only what failed
    assert "error in the place" not in capsys.readouterr().out
    assert pd.read_csv(study / "tables" / "judge_verdicts.csv")["error"].isna().all()
    kappa = pd.read_csv(study / "tables" / "judge_agreement.csv")
    assert set(kappa["benchmark"]) == {"all", "arithmetic"} and set(kappa["judge"]) == {"m"}


@pytest.mark.parametrize(
    ("arguments", "said_text"),
    [
        (["--model", "m"], "--url ENDPOINT and --model"),
        (["--model", "other"], "no model"),
        (["--benchmarks", "arithmatic"], "Did you mean 'arithmetic'"),
        (["--limit", "0"], "limit=0"),
        (["--behaviours", "-1"], "behaviours=-1"),
    ],
)
def test_mistakes_end_with_code_two_and_a_sentence(
    arguments: list[str], said_text: str, study: Path, judged: FakeEndpoint,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    usual = [] if "--url" in said_text else ["--url", judged.url]
    if "--model" not in arguments:
        usual += ["--model", "m"]
    if "other" in arguments:
        said_text = "does not answer as model 'other'"
    assert cli.run(["judge", str(study), *usual, *arguments]) == 2
    assert said_text in capsys.readouterr().err


def test_an_estimate_asks_nobody_and_counts_what_will_be_asked(
    study: Path, judged: FakeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    from scaling.costs.judge_costs import estimate_judging
    from scaling.judging.judge_study import CACHE, questions_of

    work = questions_of(study, behaviours=3)
    cache = study / CACHE
    with Judge(judged.url, "m", cache=cache) as judge:
        planned = judge.planned(work.items, work.texts)
        assert not judged.posts()
        found = estimate_judging(planned, max_tokens=1024, concurrency=8)
        judge_study(study, judge, behaviours=3)
        again = judge.planned(work.items, work.texts)
    bodies = judged.posts()
    assert found.requests == len(bodies) > 0
    sent = sum(len(m["content"]) for body in bodies for m in body["messages"])
    assert sum(p.characters for p in planned) == sent
    frame = found.to_frame()
    assert (frame["most_tokens"] > frame["tokens"]).all()
    assert sum(p.asked for p in again) == 0  # all of it is in the cache now
    before = len(judged.posts())
    usual = ["judge", str(study), "--estimate", "--behaviours", "3"]
    assert cli.run([*usual, "--url", judged.url, "--model", "m"]) == 0
    assert ": 0 requests" in capsys.readouterr().out
    assert cli.run(usual) == 0  # no judge is named: all of it is new
    out = capsys.readouterr().out
    assert "nobody was asked" in out and f"{planned[0].asked:,} requests" in out
    assert len(judged.posts()) == before


def test_no_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["judge", str(tmp_path), "--url", "http://localhost:1", "--model", "m"]
    assert cli.run(arguments) == 2
    assert "There is no study" in capsys.readouterr().err


def test_a_study_with_a_judge_that_is_not_there_does_not_begin(
    tmp_path: Path, judged: FakeEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    arguments = ["study", "--quick", "--out", str(out), "--judge", judged.url]
    assert cli.run(arguments) == 2
    assert "go together" in capsys.readouterr().err
    assert cli.run([*arguments, "--judge-model", "other"]) == 2
    assert "'other'" in capsys.readouterr().err
    assert not out.exists()


def test_scale_on_a_server(
    folder: Path, server: FakeEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    arguments = ["scale", "--model", str(folder), "--server", server.url, "--out", str(out)]
    arguments += ["--benchmarks", "arithmetic", "--budgets", "4", "8", "--limit", "2"]
    assert cli.run([*arguments, "--samples", "1"]) == 0
    assert str(out / "study.sqlite") in capsys.readouterr().out
    assert cli.run(["scale", "--served-model", "m", "--out", str(out)]) == 2
    assert "--served-model without --server" in capsys.readouterr().err


def test_chains_that_do_not_fit_are_said(folder: Path, server: FakeEndpoint) -> None:
    engine = ServerEngine(server.url, folder, retry=QUICK)
    engine.max_positions = 24  # as if the server had been started with a short window
    prompt = tuple(engine.prompt_ids("what is 1 + 1 ?", thinking=True))
    from interp.decoding.request import Request

    (chain,) = engine.decode([Request("p", prompt, budgets=(Budget(50, 4),))], sampling=Sampling())
    assert chain.finish in ("positions", "stop")
    assert len(chain.prompt_ids) + chain.n_tokens <= 24


def test_a_folder_without_a_study_is_said_before_the_judge_is_asked(tmp_path: Path) -> None:
    from scaling.judging import judge_at

    with pytest.raises(UserError, match="There is no study"):
        judge_at(tmp_path, "http://127.0.0.1:1", "judge")
    assert not list(tmp_path.iterdir())
