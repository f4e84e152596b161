"""A fingerprint of the project's behaviour, which must not change when its code is rearranged.

    python -m bench.fingerprint --out before.json [--work DIR]
    python -m bench.fingerprint --against before.json

It uses only the command line, so it survives any move of the code. It holds every row of a quick
study and the tables of its report, every criterion's scores on the bundled reasoner, the files that
`prune` writes, and the exit codes and messages of wrong commands. Numbers are compared to five
digits. It takes minutes, so it is not a test; --against exits with 1 and lists the differences.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DIGITS = 5
# names of what differs between runs anyway: times and figures derived from them
TIMED = re.compile(r"second|started|program|engine|created|tokens_per|version|hash")
LEFT_OUT = {"sessions", "sqlite_sequence", "meta", "checks"}
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PRUNESCOPE_KERNELS": "1"}
TEXTS = [f"use {a} {b} {a + b} to make {2 * a + 3 * b} . <think> {a} + {b}" for a, b in
         ((3, 4), (5, 2), (7, 9), (8, 6), (2, 11), (12, 5))]  # fmt: skip
WRONG: tuple[tuple[str, ...], ...] = (
    (),
    ("nonsense",),
    ("--version",),
    ("study", "--no-such-option"),
    ("study", "--model", "no/such-model-here", "--quick"),
    ("study", "--benchmarks", "countdwn-3", "--quick"),
    ("score", "--method", "shortgtp"),
    ("prune", "--blocks", "99", "--out", "x"),
    ("report", "no-such-folder"),
    ("diagnose", "no-such-file.jsonl"),
    ("rescue", "no-such-folder", "y"),
)


def main() -> int:
    """Takes the fingerprint, writes it or compares it; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="write the fingerprint here")
    parser.add_argument("--against", type=Path, help="compare with this one")
    parser.add_argument("--work", type=Path, help="keep what the commands write here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = fingerprint(options.work or Path(folder))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1, sort_keys=True))
    if options.against:
        differs = differences(json.loads(options.against.read_text()), found)
        print("\n".join(differs) or "nothing differs")
        return bool(differs)
    return 0


def fingerprint(work: Path) -> dict[str, Any]:
    """Everything that is looked at, as plain JSON."""
    work.mkdir(parents=True, exist_ok=True)
    texts = work / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    study = work / "study"
    said = {"study": run(work, "study", "--quick", "--out", str(study))[0]}
    found: dict[str, Any] = {"rows": rows(study / "study.sqlite"), "tables": tables(study)}
    criteria = re.findall(r"Known: (.*)\.", run(work, "score", "--method", "?")[1])[0].split(", ")
    found["scores"] = {}
    for name in criteria:
        out = work / f"{name}.csv"
        more = ("--remove", "2") if name in ("sleb", "laco") else ()
        code, words = run(
            work, "score", "--method", name, "--texts", str(texts), "--out", str(out), *more
        )
        found["scores"][name] = table(out) if code == 0 else f"{code} {plain(words)}"
    out = work / "pruned"
    said["prune"] = run(work, "prune", "--blocks", "7", "8", "--out", str(out))[0]
    found["checkpoint"] = {p.name: file_hash(p) for p in sorted(out.iterdir())}
    found["formats"] = {
        p.name: shape(json.loads(p.read_text())) for p in sorted(out.glob("*.json"))
    }
    found["exit codes"] = said
    found["wrong"] = {}
    for words in WRONG:
        code, text = run(work, *words)
        found["wrong"][" ".join(words)] = [code, plain(text)]
    return found


def run(work: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    command = [sys.executable, "-m", "prunescope", *words]
    root = Path(__file__).parents[1]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=work, env=environment, check=False
    )
    return done.returncode, done.stdout + done.stderr


def plain(text: str) -> str:
    """The words without paths, numbers of seconds and boxes drawn around them."""
    lines = [re.sub(r"[─│╭╮╰╯]", " ", line).strip() for line in text.splitlines()]
    return re.sub(r"/\S+", "PATH", " ".join(" ".join(lines).split()))


def rows(file: Path) -> dict[str, Any]:
    """Of every table of a study: how many rows, and a hash of each column."""
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    names = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {}
    for name in sorted(set(names) - LEFT_OUT):
        columns = [r[1] for r in db.execute(f"PRAGMA table_info({name})")]
        values = db.execute(f"SELECT * FROM {name}").fetchall()
        found[name] = columns_hashed(columns, values)
    return found


def tables(study: Path) -> dict[str, Any]:
    """The report's tables."""
    return {p.name: table(p) for p in sorted((study / "tables").glob("*.csv"))}


def table(file: Path) -> dict[str, Any]:
    """One CSV file."""
    with file.open(newline="") as handle:
        columns, *values = list(csv.reader(handle))
    return columns_hashed(columns, values)


def columns_hashed(columns: list[str], values: list[Any]) -> dict[str, Any]:
    """Rows are sorted: their order is nobody's promise."""
    kept = [i for i, c in enumerate(columns) if not TIMED.search(c)]
    shown = sorted(tuple(number(row[i]) for i in kept) for row in values)
    hashes = {
        columns[i]: hashlib.sha256("\n".join(r[k] for r in shown).encode()).hexdigest()[:12]
        for k, i in enumerate(kept)
    }
    return {"rows": len(values), "columns": hashes}


def number(value: Any) -> str:
    """A value as text, numbers to a few digits."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()[:12]
    text = str(value)
    if re.fullmatch(r"-?\d+\.\d*(e-?\d+)?", text):
        real = float(text)
        return f"{real:.{DIGITS}g}" if math.isfinite(real) and abs(real) > 1e-6 else "0"
    return re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda m: number(m[0]), text)


def file_hash(file: Path) -> str:
    """Of a file that must be the same to the byte (json aside, whose shape is compared)."""
    if file.suffix in (".json", ".md"):
        return "text"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def shape(value: Any) -> Any:
    """The form of a JSON value: its keys, and the types of what they hold."""
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Every place at which two fingerprints differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(set(old) | set(new)):
            if key not in old or key not in new:
                found.append(f"{where}/{key}: {'gone' if key in old else 'new'}")
            else:
                found += differences(old[key], new[key], f"{where}/{key}")
        return found
    return [] if old == new else [f"{where}: {old!r} -> {new!r}"]


if __name__ == "__main__":
    sys.exit(main())
