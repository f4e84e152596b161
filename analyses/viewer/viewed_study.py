"""An open study: what the pages of the viewer ask for, as JSON values.

The study is opened read-only once. Every row is checked in the background, so that the list is
there at once, and no chain is shown before that. Calls from several threads take turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from threading import Event, RLock, Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.plumbing.tokenizer_text import TokenizerText
from analyses.viewer.chain_table import ChainTable
from analyses.viewer.chain_view import chain_content, fork_tree
from analyses.viewer.links import chain_id
from analyses.viewer.text_index import TextIndex
from interp.diagnosis import Pieces
from interp.errors import UserError
from pruning.model_card import shared_name
from scaling.problem import Problem
from scaling.store.chain_row import Key, stored_chain
from scaling.store.stored_benchmark import stored_problem
from scaling.store.study_store import Store
from scaling.store.thinking_format import stored_format

if TYPE_CHECKING:
    from analyses.viewer.token_numbers import TokenNumbers

MOST_FORKS = 200  # chains in one tree


class ViewedStudy:
    """A study, open to be looked at; close it, or use it as a context manager.

    Args:
        folder: the study.
        text: decodes tokens; default: the tokenizer of the study's model.
        measure: whether token numbers are computed, with the model's weights.
        trust_remote_code: whether the model's own code may run, for a tokenizer that needs it.
        index_folder: where the text index is kept; default: the cache folder.

    Attributes:
        check: the check of every row; its result is a `DamagedStoreError` where one is not as it
            was written.

    Raises:
        UserError: there is no study, it has no chains, or its tokenizer cannot be read.
    """

    check: Future[None]

    def __init__(
        self,
        folder: Path,
        *,
        text: TokenizerText | None = None,
        measure: bool = False,
        trust_remote_code: bool = False,
        index_folder: Path | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._lock, self._stop, self._thread = RLock(), Event(), None
        self._store = Store(folder, read_only=True, check=False)
        try:
            self.model = str(self._store.config().get("model", "testbed"))
            self.table = ChainTable.read(self._store)
            if not len(self.table):
                raise UserError(f"The study in {str(folder)!r} has no chains yet; run it first.")
            self._text = text or self._own_text(trust_remote_code)
            form = stored_format(self._store.meta())
        except Exception:
            self._store.close()
            check_rows(self.folder)  # what could not be read may be damage, which says more
            raise
        self._pieces = Pieces(self._text)
        self._plain = form is not None and form.is_plain
        self.numbers: TokenNumbers | None = None
        if measure:
            from analyses.viewer.token_numbers import TokenNumbers

            self.numbers = TokenNumbers(self._store)
        self._index_folder = index_folder
        self._checker = ThreadPoolExecutor(1)
        self.check = self._checker.submit(check_rows, self.folder)

    def _own_text(self, trust_remote_code: bool) -> TokenizerText:
        try:
            return TokenizerText.of(self.model, trust_remote_code)
        except UserError as error:
            raise UserError(
                f"The tokenizer of this study's model cannot be read: {error} Name a folder that "
                "has it with --tokenizer."
            ) from error

    # ------------------------------------------------------------------ the list

    @cached_property
    def overview(self) -> dict[str, Any]:
        """What the page begins with: facts of the study and the whole table."""
        return self.overview_of(None)

    def overview_of(self, rows: np.ndarray | None) -> dict[str, Any]:
        """The same for some rows only."""
        facts = {
            "study": self.folder.resolve().name,
            "model": shared_name(self.model),  # a page may be passed on: no local path
            "measured": self.numbers is not None,
        }
        return {**facts, "table": self.table.columns(rows)}

    @cached_property
    def _index(self) -> TextIndex:
        rows = {chain_id(key): i for key, i in self.table.row_of.items()}
        name = str(getattr(self._text.tokenizer, "name_or_path", self.model))
        return TextIndex(self._store.path, self._text.texts, rows, name, self._index_folder)

    def build_index(self) -> None:
        """Index the texts in the background, once they are checked."""
        self._thread = Thread(target=self.index_now, daemon=True)
        self._thread.start()

    def index_now(self) -> None:
        """Index the texts, and wait for it; those of a damaged study are not indexed."""
        if self.check.exception() is None:
            self._index.update(self._stop)

    def search(self, query: str) -> dict[str, Any]:
        """Search the texts.

        Args:
            query: words, or phrases in double quotes.

        Returns:
            `rows`: row numbers; `indexed` and `total`: how many chains were searched, of how many.
        """
        self.check.result()
        found = self._index.search(query).tolist()
        return {"rows": found, "indexed": self._index.indexed(), "total": len(self.table)}

    def texts(self, rows: Sequence[int]) -> list[str]:
        """The texts of some rows, for the list of hits."""
        with self._lock:
            ids = [self._store.ids_of(self._key(row)).tolist() for row in rows]
        return self._text.texts(ids)

    # ------------------------------------------------------------------ one chain

    def chain(self, row: int) -> dict[str, Any]:
        """One chain, with its numbers where they are measured."""
        with self._lock:
            key = self._key(row)
            stored, problem = self._row(key), self._problem(key)
            chain = stored_chain(stored, (), plain=self._plain)
            content = {"row": row, **chain_content(chain, problem, stored, self._pieces)}
            if self.numbers is not None and chain.n_tokens:
                try:
                    content["numbers"] = self.numbers.measure(key, stored)
                except UserError as error:
                    content["unmeasured"] = str(error)
            return content

    def kl(self, row: int, variant: str) -> list[float | None]:
        """KL(dense || variant) along a chain; empty where nothing is measured."""
        if self.numbers is None:
            return []
        with self._lock:
            key = self._key(row)
            return self.numbers.kl_along(key, self._row(key), variant)

    def forks(self, row: int, among: Mapping[int, int] | None = None) -> dict[str, Any]:
        """The chains of the same problem and sample, as a tree of what they share.

        A chain at a larger budget goes on where a smaller one was cut, and a variant leaves the
        dense chain where its first token differs.

        Args:
            row: the chain.
            among: only these rows, and the number each is given; default: all, as they are.

        Returns:
            `tree` (`chain_view.fork_tree`), with the beginning of each node's text, and `left_out`,
            the number of chains over `MOST_FORKS`.
        """
        key = self._key(row)
        with self._lock:
            same = {"benchmark": key.benchmark, "problem": key.problem, "sample": key.sample}
            frame = self._store.rows(ids=True, where=same)
        some = []
        for values in frame.to_dict("records"):
            other = self.table.row_of.get(Key(*(values[name] for name in Key._fields)))
            if other is None:  # written since the viewer was started
                continue
            other = other if among is None else among.get(other)
            if other is not None:
                some.append((other, values["ids"].tolist()))
        some.sort()
        tree = fork_tree(some[:MOST_FORKS])
        self._name(tree, dict(some))
        return {"tree": tree, "left_out": max(0, len(some) - MOST_FORKS)}

    def _name(self, node: dict[str, Any], ids: Mapping[int, Sequence[int]]) -> None:
        """Give every node the beginning of its text."""
        here = list(ids[node["rows"][0]][node["start"] : node["stop"]])
        node["text"] = self._text.text(here[:24], skip_special=False)
        node["more"] = len(here) > 24
        for child in node["children"]:
            self._name(child, ids)

    def _key(self, row: int) -> Key:
        self.check.result()
        if not 0 <= row < len(self.table):
            raise UserError(f"There is no chain {row}; the study has {len(self.table)}.")
        return self.table.keys[row]

    def _row(self, key: Key) -> dict[str, Any]:
        with self._lock:
            found = self._store.rows(ids=True, where=key._asdict())
        return found.to_dict("records")[0]

    @cached_property
    def _problems(self) -> dict[tuple[str, str], Problem]:
        return {
            (row["benchmark"], row["problem"]): stored_problem(row)
            for row in self._store.frame("problems").to_dict("records")
        }

    def _problem(self, key: Key) -> Problem:
        found = self._problems.get((key.benchmark, key.problem))
        return found or Problem(key.problem, "(the problem is not stored)", "?")

    # ------------------------------------------------------------------ closing

    def close(self) -> None:
        """Stop the indexing after its current batch, end the check, and close the file."""
        self._stop.set()
        self._checker.shutdown()
        if self._thread is not None:
            self._thread.join()
        self._store.close()

    def __enter__(self) -> ViewedStudy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_rows(folder: Path) -> None:
    """Check every row of a study.

    Args:
        folder: the study.

    Raises:
        DamagedStoreError: a row is not as it was written.
    """
    Store(folder, read_only=True).close()
