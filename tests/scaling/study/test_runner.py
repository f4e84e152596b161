"""The study: what it asks once, what it refuses before computing, what it keeps when it breaks."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interp.errors import NonFiniteError, UserError
from interp.plumbing.work_listener import Heard
from scaling.engines.local import LocalEngine
from scaling.store.study_store import Store
from scaling.study.config import StudyConfig
from scaling.study.problem_sets import gather
from scaling.study.runner import run_study
from scaling.study.study_progress import Event, Progress
from scaling.study.variants import calibration_chains, read_variants
from tests import models


class WatchedEngine(LocalEngine):
    """The local engine, noting what it is asked; it may fail after some chains."""

    def __init__(self, fail_after: int | None = None, error: type[BaseException] = NonFiniteError):
        super().__init__(models.tiny(n_blocks=3), slots=9)
        self.asked: list[Any] = []
        self.calls: list[list[Any]] = []
        self.fail_after, self.error = fail_after, error

    def decode(self, requests: Any, **options: Any) -> Iterator[Any]:
        self.asked += list(requests)
        self.calls.append(list(requests))
        measured = not requests[0].problem.startswith("calibration/")
        for n, chain in enumerate(super().decode(requests, **options)):
            if measured and n == self.fail_after:
                raise self.error("a logit is nan")
            yield chain


def config(out: Path, **changes: Any) -> StudyConfig:
    small: dict[str, Any] = {
        "benchmarks": ("recall", "arithmetic"),
        "limit": 2,
        "budgets": (5, 10),
        "answer": 3,
        "samples": 2,
        "waits": (1,),
        "remove": (1,),
        "methods": ("shortgpt",),
        "out": out,
    }
    return StudyConfig(**(small | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WatchedEngine, list[Event]]:
    out = tmp_path_factory.mktemp("study") / "new" / "folder"
    engine, events = WatchedEngine(), list[Event]()
    run_study(config(out), events.append, engine=engine)
    return out, engine, events


def test_all_parts_are_there(finished: tuple[Path, WatchedEngine, list[Event]]) -> None:
    with Store(finished[0], read_only=True) as store:
        rows = store.rows()
        names = set(rows["variant"])
        assert names == {"dense", "shortgpt-1", "skip 0", "skip 1", "skip 2"}
        budgets = {"5", "10"}
        assert set(store.rows("sequential")["budget"]) == budgets
        parallel = store.rows("parallel")
        assert Counter(parallel["sample"]) == {0: 4, 1: 4}
        blocks = store.rows("blocks")
        assert {("arithmetic", "skip 2"), ("recall", "skip 2"), ("recall", "dense")} <= set(
            zip(blocks["benchmark"], blocks["variant"], strict=True)
        )
        for purpose in ("accuracy", "sequential", "parallel", "blocks"):
            part = store.rows(purpose)
            assert not part.duplicated(
                ["benchmark", "problem", "variant", "budget", "sample"]
            ).any()
            assert set(part["position"]) == {0, 1}
        assert {"looped", "reflections", "step_kind", "step_mended"} <= set(rows.columns)
        assert set(store.frame("scores")["criterion"]) == {"shortgpt"}
        assert len(store.frame("diversity")) == 4  # 2 problems x (dense, shortgpt-1)
        assert set(rows["outcome"]) <= {"correct", "wrong", "no answer"}


def test_each_chain_is_decoded_once_beside_its_dense_row(
    finished: tuple[Path, WatchedEngine, list[Event]],
) -> None:
    _, engine, _ = finished
    keys = [(r.problem, r.variant.name, r.sample) for r in engine.asked]
    assert len(keys) == len(set(keys))
    calls = [c for c in engine.calls if not c[0].problem.startswith("calibration/")]
    assert len(calls) == 1  # all purposes of a benchmark in one go
    first = [r for r in calls[0] if (r.problem, r.sample) == (calls[0][0].problem, 0)]
    assert [r.variant.name for r in first] == ["dense", "shortgpt-1", "skip 0", "skip 1", "skip 2"]
    assert {r.seed for r in first} == {0}
    assert calls[0][: len(first)] == first  # side by side


def test_calibration_problems_are_not_measured(
    finished: tuple[Path, WatchedEngine, list[Event]],
) -> None:
    out, engine, _ = finished
    with Store(out, read_only=True) as store:
        measured = set(store.frame("problems")["problem"])
    used = {r.problem for r in engine.asked if r.problem.startswith("calibration/")}
    assert used
    assert not {name.removeprefix("calibration/") for name in used} & measured


def test_as_many_calibration_problems_as_asked_for(tmp_path: Path) -> None:
    usual, asked = config(tmp_path), config(tmp_path, calibration=11)
    (_, few), (benches, more) = gather(usual), gather(asked)
    assert len(few["arithmetic"]) == 8 and len(more["arithmetic"]) == 11
    assert more["arithmetic"][:8] == few["arithmetic"]  # more of the same, so 8 and 11 compare
    assert not {p.id for p in more["arithmetic"]} & {p.id for b in benches for p in b.problems}
    engine = WatchedEngine()
    chains = calibration_chains(asked, engine, [b for b in benches if b.name == "arithmetic"], more)
    assert len({c.problem for c in chains}) == 11
    # a study of the usual number was stored without it, and goes on
    assert "calibration" not in usual.settings()
    assert config(tmp_path, calibration=8).settings() == usual.settings()
    assert asked.settings()["calibration"] == 11
    with pytest.raises(UserError, match="calibration: 0 is not at least 1"):
        config(tmp_path, calibration=0)


def test_events_tell_how_far_it_is(finished: tuple[Path, WatchedEngine, list[Event]]) -> None:
    events = finished[2]
    assert [e.stage for e in events if e.kind == "stage"] == [
        "load",
        "calibration",
        "recall",
        "arithmetic",
        "samples",
    ]
    last = events[-1]
    assert last.kind == "done"
    assert last.chains == last.chains_total
    assert last.tokens == last.tokens_expected > 0
    assert last.seconds_left == 0


def test_what_a_criterion_does_is_told_once_a_second() -> None:
    now = [0.0]
    events: list[Event] = []
    progress = Progress(events.append, clock=lambda: now[0])
    progress.begin("calibration")
    progress.task = "blocks by skip-kl (2 of 5)"
    for seconds in (0.2, 0.9, 1.0, 1.5, 2.0):
        now[0] = seconds
        progress.hear(Heard("skipping", round(10 * seconds), 24, what="blocks"))
    said = [(e.seconds, e.message) for e in events if e.kind == "progress"]
    assert said == [
        (1.0, "blocks by skip-kl (2 of 5): skipping 10 of 24 blocks"),
        (2.0, "blocks by skip-kl (2 of 5): skipping 20 of 24 blocks"),
    ]
    progress.begin("recall")
    now[0] = 5.0
    progress.hear(Heard("reading", 1, 1_200, 9))
    assert events[-1].message == "reading 1 of 1,200 chains"


def test_a_finished_study_decodes_nothing_again(
    finished: tuple[Path, WatchedEngine, list[Event]],
) -> None:
    out, _, _ = finished
    engine = WatchedEngine()
    result = run_study(config(out), engine=engine)
    assert engine.asked == []
    assert result.chains_added == 0
    frame = result.to_frame()
    with Store(out, read_only=True) as store:
        rows = store.rows()
    assert int(frame["chains"].sum()) == len(rows) == result.chains
    one = frame.iloc[0]
    keys = ["benchmark", "variant", "budget"]
    same = rows[(rows[keys] == one[keys].to_numpy()).all(axis=1)]
    assert one["chains"] == len(same)
    assert one["correct"] == (same["outcome"] == "correct").mean()
    assert "<table>" in result._repr_html_()  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [NonFiniteError, KeyboardInterrupt])
def test_what_was_finished_before_an_error_is_kept(
    tmp_path: Path, error: type[BaseException], finished: tuple[Path, WatchedEngine, list[Event]]
) -> None:
    with pytest.raises(error):
        run_study(config(tmp_path), engine=WatchedEngine(fail_after=7, error=error))
    with Store(tmp_path, read_only=True) as store:
        kept = store.rows()
        assert (kept["benchmark"] == "arithmetic").sum() == 7
    engine = WatchedEngine()
    run_study(config(tmp_path), engine=engine)
    assert not any(r.problem.startswith("calibration/") for r in engine.asked)
    with Store(tmp_path, read_only=True) as store, Store(finished[0], read_only=True) as whole:
        keys = ["benchmark", "problem", "variant", "budget", "sample", "ids_hash"]
        assert store.rows()[keys].equals(whole.rows()[keys])


class DyingEngine(WatchedEngine):
    """Dies when it has judged blocks so many times, and notes by what it judged them."""

    def __init__(self, judgements: int) -> None:
        super().__init__()
        self.judgements = judgements
        self.judged: list[str] = []

    def _judging(self, name: Any) -> None:
        if len(self.judged) == self.judgements:
            raise NonFiniteError("died")
        self.judged.append(name)

    def score(self, *args: Any, **kwargs: Any) -> Any:
        self._judging(args[0])
        return super().score(*args, **kwargs)

    def choose(self, *args: Any, **kwargs: Any) -> Any:
        self._judging(args[0])
        return super().choose(*args, **kwargs)


def test_what_was_decided_before_an_end_is_not_decided_again(tmp_path: Path) -> None:
    own: dict[str, Any] = {
        "methods": ("skip-kl", "laco", "random", "random@1"),
        "remove": (1, 2),
        "samples": 1,
        "waits": (),
    }

    def kept(out: Path) -> list[Any]:
        with Store(out, read_only=True) as store:
            frames = store.frame("scores"), store.frame("variants")
            assert next(iter(read_variants(store))) == "dense"
        return [
            frame.sort_values(list(frame)[:2]).fillna(-1).to_numpy().tolist() for frame in frames
        ]

    whole = DyingEngine(99)
    run_study(config(tmp_path / "whole", **own), engine=whole)
    total = len(whole.judged)
    assert total == 4 + 2  # Block Influence, three criteria, and a repair for each number
    for survived in range(total):
        out, before = tmp_path / str(survived), DyingEngine(survived)
        with pytest.raises(NonFiniteError, match="died"):
            run_study(config(out, **own), engine=before)
        with Store(out, read_only=True) as store:
            assert not read_variants(store) and not len(store.rows())
        after = DyingEngine(99)
        run_study(config(out, **own), engine=after)
        # a repair that finds nothing is asked again; nothing else is judged twice
        both = [name for name in (*before.judged, *after.judged) if name != "laco"]
        assert both == [name for name in whole.judged if name != "laco"]
        assert kept(out) == kept(tmp_path / "whole")


def test_another_configuration_is_refused_before_decoding(
    finished: tuple[Path, WatchedEngine, list[Event]],
) -> None:
    out, _, _ = finished
    engine = WatchedEngine()
    with pytest.raises(UserError, match="seed is 0 there and 1 now"):
        run_study(config(out, seed=1), engine=engine)
    other = WatchedEngine()
    other.model = models.tiny(n_blocks=3, seed=5)
    with pytest.raises(UserError, match="weights or configuration"):
        run_study(config(out), engine=other)
    assert engine.asked == other.asked == []


def test_a_second_study_on_the_folder_is_told(tmp_path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Slow(WatchedEngine):
        def decode(self, requests: Any, **options: Any) -> Iterator[Any]:
            inside.set()
            go_on.wait(60)
            yield from super().decode(requests, **options)

    first = threading.Thread(target=run_study, args=(config(tmp_path),), kwargs={"engine": Slow()})
    first.start()
    try:
        assert inside.wait(60)
        with pytest.raises(UserError, match="Another process"):
            run_study(config(tmp_path), engine=WatchedEngine())
    finally:
        go_on.set()
        first.join()
    with Store(tmp_path, read_only=True) as store:
        assert len(store.rows())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"benchmarks": ("arithmatic",)}, "Did you mean 'arithmetic'"),
        ({"methods": ("shortgtp",)}, "Did you mean 'shortgpt'"),
        ({"remove": (3,)}, "Cannot remove 3 blocks of 3"),
        ({"remove": (0,)}, "remove: 0"),
        ({"budgets": (0,)}, "budgets: 0"),
        ({"limit": 0}, "limit"),
        ({"limit": {"gsm8k": 3}}, "not among the benchmarks"),
        ({"data": {"gsm8k": "x"}}, "not among the benchmarks"),
        ({"data": {"recall": "x.jsonl"}}, "reads no file"),
        ({"benchmarks": ("recall", "recall")}, "twice"),
        ({"temperature": 0.0}, "the same chain"),
        ({"methods": ("blockpruner",)}, "removes sublayers; a study removes whole blocks"),
        ({"methods": ("task-greedy",)}, "`accept`"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    out = tmp_path / "study"
    with pytest.raises(UserError, match=said):
        run_study(config(out, **changes), engine=WatchedEngine())
    assert not out.exists()


def test_what_removes_nothing_scores_nothing(tmp_path: Path) -> None:
    engine = WatchedEngine()
    run_study(config(tmp_path, methods=(), blocks=False), engine=engine)
    assert not any(r.problem.startswith("calibration/") for r in engine.asked)
    with Store(tmp_path, read_only=True) as store:
        assert set(store.rows()["variant"]) == {"dense"}
        assert not len(store.frame("scores"))
        session = store.frame("sessions").iloc[0]
    assert session["engine"].startswith("LocalEngine: "), "and how its blocks run"
    assert session["program"].startswith("prunescope")
    run_study(config(tmp_path, methods=(), blocks=False), engine=(again := WatchedEngine()))
    assert again.asked == []


def test_single_blocks_are_compared_with_their_influence(tmp_path: Path) -> None:
    run_study(config(tmp_path, methods=(), benchmarks=("recall",)), engine=WatchedEngine())
    with Store(tmp_path, read_only=True) as store:
        assert set(store.frame("scores")["criterion"]) == {"shortgpt"}


def test_own_file_through_a_study(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text(
        "\n".join(
            f'{{"id": "{i}", "question": "what is {i} + {i} ?", "answer": "{2 * i}"}}'
            for i in range(4)
        )
    )
    name = "jsonl:integer:mine"
    out = tmp_path / "study"
    setting = config(out, benchmarks=(name,), data={name: str(own)}, samples=None, blocks=False)
    run_study(setting, engine=WatchedEngine())
    with Store(out, read_only=True) as store:
        rows = store.rows()
    assert set(rows["benchmark"]) == {name}
    assert not any(v.startswith("skip") for v in rows["variant"])
    assert rows["problem"].nunique() == 2


def test_settings_hold_what_decides_a_row_and_not_the_folder() -> None:
    one = config(Path("a"))
    assert one.settings() == replace(one, out=Path("b")).settings()
    assert one.settings() != replace(one, budgets=(5, 11)).settings()
    quick, whole = StudyConfig(quick=True), StudyConfig()
    for name in quick.benchmark_names:
        assert quick.workload(name).problems < whole.workload(name).problems


def test_time_left_follows_what_was_measured() -> None:
    now = [0.0]
    events: list[Event] = []
    progress = Progress(events.append, clock=lambda: now[0])
    progress.expect(("b", "dense"), 10, 100, 10)
    progress.tell()
    assert events[-1].tokens_expected == 500  # half the limit, before anything is known
    assert events[-1].seconds_left is None
    progress.decoding("b")
    for _ in range(5):
        progress.came(("b", "dense"), 20, 1, request_over=True)
    now[0] = 10.0
    progress.tell()
    assert events[-1].tokens_expected == 200
    assert events[-1].seconds_left == pytest.approx(10.0)
