"""A selection of a study as one HTML file that opens without a server and asks for nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from analyses.viewer.page_assets import filled_page
from analyses.viewer.viewed_study import ViewedStudy
from interp.errors import UserError

MOST_CHAINS = 5000


def write_single_file(
    study: ViewedStudy,
    out: Path,
    where: Mapping[str, str] | None = None,
    search: str = "",
    on_chain: Callable[[], object] = lambda: None,
    questions: bool = True,
) -> int:
    """Write a selection into one file.

    Args:
        study: the open study.
        out: the file.
        where: value by filter (`chain_table.FILTERS`); default: all chains.
        search: only chains whose text holds this.
        on_chain: called after each chain.
        questions: whether the page holds the questions and their right answers; without them it can
            be passed on where the problems may not. What a chain repeats of its question stays.

    Returns:
        The number of chains.

    Raises:
        UserError: no chain is selected, or more than `MOST_CHAINS`; or an unknown filter.
    """
    found = None
    if search:
        study.index_now()
        found = study.search(search)["rows"]
    rows = study.table.select(where or {}, found)
    if not len(rows):
        raise UserError("No chain passes these filters, so there is nothing to write.")
    if len(rows) > MOST_CHAINS:
        raise UserError(
            f"{len(rows)} chains are selected; one file holds at most {MOST_CHAINS}. Narrow the "
            "selection, such as --where variant=dense benchmark=NAME."
        )
    here = {int(row): i for i, row in enumerate(rows)}
    chains, trees, fork_of, groups = [], [], [], {}
    for row in here:
        withheld = {} if questions else {"question": None, "gold": None}
        chains.append({**study.chain(row), "row": here[row], **withheld})
        key = study.table.keys[row]
        group = (key.benchmark, key.problem, key.sample)
        if group not in groups:
            groups[group] = len(trees)
            trees.append(study.forks(row, here))
        fork_of.append(groups[group])
        on_chain()
    data: dict[str, Any] = {
        "overview": study.overview_of(rows),
        "chains": chains,
        "forks": trees,
        "fork_of": fork_of,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(filled_page(data), encoding="utf-8")
    return len(rows)
