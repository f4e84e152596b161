"""How quickly the viewer shows a study of 100,000 chains.

    python -m bench.viewer [--chains 100000] [--folder DIR]

The study is synthetic: chains of the testbed's expert on countdown-4 problems (searches with slips
and second thoughts; a quarter of them made to end in a loop), graded and diagnosed as in a study,
and repeated under 25 variants and 16 samples. Written once into --folder, kept for the next run.

Measured: opening (the table), how much longer the check of every row takes in the background, the
text index (made once, in the background), the server's answers, and in headless Chromium the time
from an address to the drawn page (two frames later): the first page, every kind of filter,
searches, sorting, one chain, two side by side. The browser is left out with a reason where there is
none. The last line is one JSON object; `slowest_page` is the largest of the page's times but for
the index.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from analyses.plumbing.tokenizer_text import TokenizerText
from analyses.viewer.links import chain_address, selection_address
from analyses.viewer.local_server import listening, viewer_app
from analyses.viewer.viewed_study import ViewedStudy
from interp.chains.chain import Budget, Chain, Span
from scaling.grading import Verdict
from scaling.problem import Problem
from scaling.store.chain_row import chain_row
from scaling.store.study_store import Store
from scaling.study.chain_diagnosis import Diagnoser
from testbed.problems import generate
from testbed.verify import check_answer
from tests.headless import HeadlessPage, browser_missing

BENCHMARK, BLOCKS, SAMPLES, POOL = "countdown-4", 24, 16, 6
VARIANTS = ["dense", *(f"skip {b}" for b in range(BLOCKS))]
DRAWN = """
const [hash, done] = arguments, start = performance.now();
history.replaceState(null, "", hash);
render().then(() => requestAnimationFrame(() => requestAnimationFrame(() =>
  done([performance.now() - start, document.querySelector(".notice")?.textContent ?? ""]))));
"""


def pool(problem: Any, text: TokenizerText, seed: int) -> list[tuple[Chain, Verdict]]:
    """A few chains of one problem: the expert's, some of them made to loop."""
    from testbed.expert import Habits, write

    rng = random.Random(seed)
    found = []
    for i in range(POOL):
        words = write(problem, rng, Habits(slip=0.5, slip_rate=0.1)).words
        words = words[words.index("<think>") + 1 :]
        end = words.index("</think>")
        if i % 4 == 3:
            tail = words[max(0, end - 8) : end] * 12
            words = words[:end] + tail
            end = None
        ids = np.array(text.tokenizer.convert_tokens_to_ids(words), dtype=np.int64)
        answer = None if end is None else Span(end + 1, len(ids) - 1)
        said = None if answer is None else " ".join(words[answer.start : answer.stop])
        right = check_answer(problem, said)
        outcome = "no answer" if right is None else "correct" if right else "wrong"
        none = np.full(len(ids), np.nan, dtype=np.float32)
        chain = Chain(
            problem=problem.id, variant="dense", sample=0, seed=0, budget=Budget(2048, 32),
            prompt_ids=np.zeros(8, dtype=np.int64), ids=ids, forced=np.zeros(len(ids), dtype=bool),
            thinking=Span(0, len(ids) if end is None else end), answer=answer, waits=0,
            finish="cut" if end is None else "stop", logprob=none, entropy=none, layer_map=(),
            thinking_finish="looped" if end is None else "end",
        )  # fmt: skip
        found.append((chain, Verdict(outcome, said, outcome, outcome)))
    return found


def write_study(folder: Path, chains: int) -> float:
    """A study of about this many chains; the mean number of their tokens."""
    import dataclasses

    text = TokenizerText.of("testbed")
    diagnoser = Diagnoser(text)
    few = generate(BENCHMARK, max(1, chains // (len(VARIANTS) * SAMPLES)), seed=1)
    tokens = 0
    with Store(folder) as store:
        store.claim({"model": "testbed"}, {})
        store.put("variants", [
            {"variant": name, "kind": "block" if b else "dense", "method": "single",
             "n_removed": int(b > 0), "removed": json.dumps([b - 1] if b else []), "plan": ""}
            for b, name in enumerate(VARIANTS)
        ])  # fmt: skip
        for position, made in enumerate(few):
            meta = {"kind": made.kind, "numbers": list(made.numbers), "target": made.target}
            problem = Problem(made.id, made.question, made.answer, metadata=meta)
            store.put("problems", [
                {"benchmark": BENCHMARK, "problem": made.id, "position": position,
                 "question": made.question, "answer": made.answer, "choices": "[]",
                 "metadata": json.dumps(meta)}
            ])  # fmt: skip
            some = [(c, v, diagnoser.columns(problem, c)) for c, v in pool(made, text, position)]
            rows = []
            for b, variant in enumerate(VARIANTS):
                for sample in range(SAMPLES):
                    chain, verdict, columns = some[(7 * b + 5 * sample) % POOL]
                    own = dataclasses.replace(chain, variant=variant, sample=sample)
                    rows.append(chain_row(BENCHMARK, problem, position, own, verdict, columns))
                    tokens += own.n_tokens
            store.add_chains(rows)
    return tokens / (len(few) * len(VARIANTS) * SAMPLES)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long a piece of work takes, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def addresses(study: ViewedStudy) -> dict[str, str]:
    """What the page is asked for: every kind of filter, searches, chains."""
    key = next(k for k in study.table.keys if k.variant == "skip 11")
    some = {
        "benchmark": BENCHMARK, "variant": "skip 11", "block": "3|4", "verdict": "wrong",
        "ending": "cut", "thinking": "looped", "loop": "exact", "wrong": "arithmetic slip",
        "sample": "3", "problem": key.problem,
    }  # fmt: skip
    found = {f"filter {name}": selection_address({name: value}) for name, value in some.items()}
    found["two filters"] = selection_address({"verdict": "wrong", "block": "11"})
    found["last page"] = selection_address({"page": str(len(study.table) // 50)})
    found["sorted"] = selection_address({"sort": "longest"})
    for query in ("wait", '"try 3"', '"= 24 no" check', "again 9"):
        found[f"search {query}"] = selection_address({}, query)
    found["search and filter"] = selection_address({"verdict": "wrong"}, "wait")
    found["chain"] = chain_address(key, token=40)
    found["two chains"] = chain_address(key, beside="dense")
    return found


def in_browser(study: ViewedStudy) -> dict[str, float]:
    """Seconds to each drawn page."""
    import uvicorn

    place = listening(0)
    config = uvicorn.Config(viewer_app(study), log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    found: dict[str, float] = {}
    try:
        with HeadlessPage() as page:
            url = f"http://127.0.0.1:{place.getsockname()[1]}/"
            page.open(url)  # the server makes the table's text once
            for name in ("first page", "first page again"):
                took, _ = seconds(lambda: page.open(url))
                found[name] = took
            page.driver.set_script_timeout(60)
            for name, hash_ in addresses(study).items():
                took, notice = page.driver.execute_async_script(DRAWN, hash_)
                if notice:
                    raise AssertionError(f"{name}: {notice}")
                found[name] = took / 1000
    finally:
        server.should_exit = True
        thread.join()
        place.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chains", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="keep the study here for the next run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "study"
        if not (folder / "study.sqlite").exists():
            took, tokens = seconds(lambda: write_study(folder, options.chains))
            print(f"wrote {folder} in {took:.0f} s, {tokens:.0f} tokens a chain")
        figures: dict[str, Any] = {}
        figures["open"], study = seconds(lambda: ViewedStudy(folder, index_folder=Path(scratch)))
        with study:
            figures["chains"] = len(study.table)
            figures["check"], _ = seconds(study.check.result)
            figures["index"], _ = seconds(study.index_now)
            size = sum(path.stat().st_size for path in Path(scratch).glob("texts-*"))
            figures["index_mb"] = size / 1e6
            figures["study_mb"] = (folder / "study.sqlite").stat().st_size / 1e6
            for query in ("wait", '"= 24 no" check'):
                figures[f"server search {query}"], _ = seconds(lambda q=query: study.search(q))
            figures["server chain"], _ = seconds(lambda: study.chain(len(study.table) // 2))
            figures["server forks"], _ = seconds(lambda: study.forks(len(study.table) // 2))
            missing = browser_missing()
            pages = {} if missing else in_browser(study)
        for name, value in {**figures, **pages}.items():
            print(f"{name:<32} {value:10.3f}")
        if missing:
            print(f"no pages: {missing}")
        figures["pages"] = {name: round(value, 3) for name, value in pages.items()}
        figures["slowest_page"] = max(pages.values(), default=None)
        print(json.dumps({"bench": "viewer"} | figures))


if __name__ == "__main__":
    main()
