"""Targets: stored studies, logs of another harness, and a judge's cache."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

from interp.errors import UserError
from tests.fuzz.mutators import Mutator
from tests.fuzz.target import DELIMITERS, RECORDS, Target, check, tiny_model


class HarnessLog(Target):
    """A log of lm-evaluation-harness, imported into a new store."""

    share = 0.1

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        fields = {
            "doc_id": 0,
            "doc": RECORDS["gsm8k"],
            "target": "7",
            "arguments": {"gen_args_0": {"arg_0": "Q <think>", "arg_1": {"max_gen_toks": 64}}},
            "resps": [["1 + 3 = 4 </think> 7", "wait </think> 8"]],
            "filtered_resps": ["7"],
            "filter": "strict-match",
            "metrics": ["exact_match"],
            "exact_match": 1.0,
        }
        own = {"finish": ["stop", "cut"], "thinking_finish": ["end", "end"], "budget": [64, 16, 0]}
        self.lines = [json.dumps(fields), json.dumps({**fields, "prunescope": own})]

    def attempt(self, m: Mutator) -> None:
        from scaling.lm_eval.importer import import_samples
        from scaling.store.study_store import Store

        log, out = self.folder / "samples.jsonl", self.folder / "out"
        log.write_bytes(m.json_bytes(m.rng.choice(self.lines)))
        shutil.rmtree(out, ignore_errors=True)
        import_samples([log], out, tiny_model(), "gsm8k")
        with Store(out, read_only=True) as store:
            rows = store.rows(ids=True)
        check(set(rows["outcome"]) <= {"correct", "wrong", "no answer"}, "an unknown outcome")


def _study(folder: Path) -> Path:
    """A small finished study with all kinds of rows, in one file without a log beside it."""
    from interp.chains.chain import Span
    from scaling.grading import Verdict
    from scaling.problem import Problem
    from scaling.store.chain_row import chain_row
    from scaling.store.schema import DERIVED
    from scaling.store.study_file import FILE
    from scaling.store.study_store import Store
    from tests.chains import make_chain

    with Store(folder) as store:
        facts = {"model fingerprint": "f", "thinking format": json.dumps({"name": "think",
                 **json.loads(DELIMITERS)})}  # fmt: skip
        store.claim({"model": "m", "seed": 0, "budgets": [8, 16]}, facts)
        store.put("variants", [
            {"variant": v, "kind": k, "method": "", "n_removed": len(r), "removed": json.dumps(r),
             "plan": ""} for v, k, r in (("dense", "dense", []), ("block 1", "block", [1]))
        ])  # fmt: skip
        store.put("scores", [
            {"criterion": "shortgpt", "block": b, "score": 0.5, "low": 0.4, "high": None,
             "n_tokens": 9, "calibration": "c"} for b in range(3)
        ])  # fmt: skip
        rows = []
        for p in range(6):
            problem = Problem(f"p{p}", f"what is {p}?", str(p))
            store.put("problems", [{"benchmark": "b", "problem": problem.id, "position": p,
                      "question": problem.question, "answer": problem.answer, "choices": "[]",
                      "metadata": "{}"}])  # fmt: skip
            for variant in ("dense", "block 1"):
                chain = make_chain(
                    range(9), range(3), problem=problem.id, variant=variant, thinking=Span(0, 4),
                    answer=Span(5, 8), finish="stop", thinking_finish="end",
                )  # fmt: skip
                verdict = Verdict("correct", "7", "correct", "correct")
                rows.append(chain_row("b", problem, p, chain, verdict, {"looped": p % 2}))
        store.add_chains(rows)
        label = str(rows[0].values["budget"])
        store.put("cells", [
            {"purpose": "accuracy", "benchmark": "b", "variant": v, "budget": label,
             "n_problems": 6, "samples": 1} for v in ("dense", "block 1")
        ])  # fmt: skip
        store.put("diversity", [{"benchmark": "b", "problem": "p0", "variant": "dense",
                  "budget": label, "samples": 2, "measures": '{"distinct": 0.5}'}])  # fmt: skip
        store.put("sessions", [{"session": 1, "started": "2026-01-01", "seconds": 1.0,
                  "decode_seconds": 1.0, "tokens": 9, "chains": 12}])  # fmt: skip
        with sqlite3.connect(store.path) as db:
            db.execute(DERIVED)
        db.close()
        frame = '{"rows": 1, "columns": [{"name": "x", "dtype": "int64", "values": [3]}]}'
        store.put("derived", [{"name": "t", "settings": "{}", "frame": frame, "created": "now"}])
    with sqlite3.connect(folder / FILE) as db:
        db.execute("PRAGMA journal_mode=DELETE")
    db.close()
    return folder / FILE


class StudyStore(Target):
    """study.sqlite with changed bytes: read, upgraded, continued, and rescued."""

    share = 0.2

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from scaling.store.study_file import StoreError

        type(self).refusals = (UserError, StoreError)
        file = _study(folder / "whole")
        self.whole = file.read_bytes()
        self.rows = self._read(folder / "whole")
        (folder / "it").mkdir()

    @staticmethod
    def _read(folder: Path) -> dict[str, str]:
        """Every chain as text by its key, after all that a report reads of a study was read."""
        from analyses.plumbing.frames import StudyData
        from scaling.store.chain_row import stored_chain
        from scaling.store.study_store import Store
        from scaling.store.thinking_format import stored_format

        StudyData.read(folder)
        with Store(folder, read_only=True) as store:
            rows = store.rows(ids=True)
            stored_format(store.meta())
        found = {}
        for row in rows.to_dict("records"):
            chain = stored_chain(row, range(int(row["prompt_tokens"])))
            key = f"{row['benchmark']}/{row['problem']}/{row['variant']}/{row['sample']}"
            found[key] = f"{chain.ids.tolist()} {row['outcome']} {row['looped']} {row['budget']}"
        return found

    def attempt(self, m: Mutator) -> None:
        from scaling.store.rescue import rescue
        from scaling.store.study_file import FILE, StoreError

        place, saved = self.folder / "it", self.folder / "saved"
        for leftover in place.iterdir():
            leftover.unlink()
        shutil.rmtree(saved, ignore_errors=True)
        data = m.bytes(self.whole)
        if m.rng.random() < 0.2:  # a page that the disk lost
            at = m.rng.randrange(len(data) // 4096 + 1) * 4096
            data = data[:at] + bytes(4096) + data[at + 4096 :]
        (place / FILE).write_bytes(data)
        try:
            check(self._read(place) == self.rows, "other rows, and nothing is said")
        except (UserError, StoreError):
            done = rescue(place, saved)
            kept = self._read(saved) if done.resumable else {}
            other = [key for key, row in kept.items() if self.rows.get(key) != row]
            check(not other, f"rescued other rows than were stored: {other[:3]}")
            raise


class DerivedFrame(Target):
    """A table that an analysis keeps in the study."""

    share = 1

    def attempt(self, m: Mutator) -> None:
        import pandas as pd

        from analyses.plumbing.derived import as_text, from_text

        frame = pd.DataFrame({"a": [1, 2], "b": [0.5, float("nan")], "c": ["x", None]})
        from_text(m.json_bytes(as_text(frame)).decode(errors="surrogateescape"))


class JudgeCacheFile(Target):
    """The judge's cache, a SQLite file."""

    share = 0.3

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from scaling.judging.verdict_cache import JudgeCache

        kept = JudgeCache(folder / "whole.sqlite")
        for i in range(20):
            kept.put(f"key {i}", "same", "m", "same")
        kept.close()
        self.whole = (folder / "whole.sqlite").read_bytes()

    def attempt(self, m: Mutator) -> None:
        from scaling.judging.verdict_cache import JudgeCache

        for leftover in self.folder.glob("it.sqlite*"):
            leftover.unlink()
        (self.folder / "it.sqlite").write_bytes(m.bytes(self.whole))
        kept = JudgeCache(self.folder / "it.sqlite")
        try:
            len(kept)
            for i in range(20):
                json.dumps(kept.get(f"key {i}"))
            kept.put("new", "same", "m", "different")
        finally:
            kept.close()
