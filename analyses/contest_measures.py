"""How well the measure of chain-aware ranks every set of a finished contest.

    python -m analyses.contest_measures --out studies/contest

For each set that any criterion chose: the share of the dense model's chains lost ("lost") and the
share of the pruned model's own chains that go astray ("astray"), on the contest's calibration
problems (`pruning.criteria.chain_aware`), beside the accuracy kept on its test problems. A better
set that the measure ranks lower was not missed by the search: the measure itself would have to
change. Rank correlations are over sets, of each size and of all.

Progress is kept in --out; a stopped run continues there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd

from analyses.criterion_contest import KINDS, TOGETHER, Contest, Set, calibration
from interp.errors import UserError
from interp.plumbing.command_line import Lines, command, run_command
from interp.plumbing.whole_files import write_whole

FILE = "measures.json"


def measured(contest: Contest, sets: list[Set], patience: float) -> dict[str, dict[str, float]]:
    """Measure every set, continuing from the results kept in the contest's folder.

    Args:
        contest: the finished contest.
        sets: the sets to measure.
        patience: nats by which a chain may be less likely under the dense model before it has gone
            astray.

    Returns:
        "lost" and "astray" of every set, by its name.
    """
    from interp.model.reasoning_model import ReasoningModel
    from interp.replay.batching import BATCH_TOKENS
    from pruning.criteria.chain_aware import FreeRuns
    from pruning.criteria.chain_survival import WINDOW, Survival

    file = contest.folder / FILE
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    todo = [s for s in sets if named(s) not in known]
    if not todo:
        return known
    model = ReasoningModel.load("testbed")
    chains = calibration(model, contest.settings["calibration"], contest.seed)
    survival = Survival.of(model, chains, None, WINDOW, BATCH_TOKENS)
    free = FreeRuns(model, survival.calibration, None, None, None, 0, patience, BATCH_TOKENS)
    for start in range(0, len(todo), TOGETHER):
        few = todo[start : start + TOGETHER]
        for removed, lost, astray in zip(few, survival.share(few), free.share(few), strict=True):
            known[named(removed)] = {"lost": float(lost), "astray": float(astray)}
        write_whole(file, json.dumps(known, indent=1))
        sys.stderr.write(f"{start + len(few)} of {len(todo)} sets\n")
    return known


def named(removed: Set) -> str:
    """The name of a set: its blocks separated by spaces."""
    return " ".join(map(str, removed))


def table(contest: Contest, found: dict[str, dict[str, float]]) -> pd.DataFrame:
    """One row per set: its measures, the accuracy kept, and the methods that chose it.

    Args:
        contest: the finished contest.
        found: the result of `measured`.

    Returns:
        The table, sorted by size and measure; the accuracy is over both kinds.
    """
    who: dict[Set, list[str]] = {}
    for method, plans in contest.plans.items():
        for plan in plans.values():
            who.setdefault(tuple(plan), []).append(method)
    rows = []
    for removed, methods in who.items():
        kept = np.mean([contest.right(kind, removed).mean() for kind in KINDS])
        row = {"n_removed": len(removed), "removed": named(removed), **found[named(removed)]}
        row["both"] = row["lost"] + row["astray"]
        rows.append(row | {"kept": kept, "named_by": " ".join(methods)})
    return pd.DataFrame(rows).sort_values(["n_removed", "both"], ignore_index=True)


def agreement(found: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of each measure with the accuracy kept, per size and over all sets."""
    from scipy.stats import spearmanr

    rows = []
    groups = [("all", found), *((str(n), part) for n, part in found.groupby("n_removed"))]
    for name, part in groups:
        row: dict[str, object] = {"n_removed": name, "sets": len(part)}
        for measure in ("lost", "astray", "both"):
            row[measure] = float(spearmanr(part[measure], part["kept"])[0])  # type: ignore[arg-type]
        rows.append(row)
    return pd.DataFrame(rows)


@command
class ContestMeasures:
    """Does the measure know? What chain-aware thinks of every set of a finished contest."""

    out: Path
    """Folder of a finished contest."""

    def run(self) -> Lines:
        """Measures every set and writes measures.csv; yields the tables."""
        from pruning.criteria.chain_aware import PATIENCE

        file = self.out / "settings.json"
        if not file.is_file():
            raise UserError(
                f"No contest in {str(self.out)!r}: run python -m analyses.criterion_contest first."
            )
        contest = Contest(self.out, json.loads(file.read_text(encoding="utf-8")))
        sets = sorted({tuple(plan) for plans in contest.plans.values() for plan in plans.values()})
        found = table(contest, measured(contest, sets, PATIENCE))
        found.to_csv(self.out / "measures.csv", index=False)
        agree = agreement(found)
        agree.to_csv(self.out / "measures_agreement.csv", index=False)
        yield from found.round(3).to_string(index=False).splitlines()
        yield ""
        yield from agree.round(3).to_string(index=False).splitlines()


def main(arguments: list[str] | None = None) -> NoReturn:
    """The command line; exits."""
    sys.exit(run_command(ContestMeasures, "python -m analyses.contest_measures", arguments))


if __name__ == "__main__":
    main()
