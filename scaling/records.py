"""Records of a benchmark from a local JSON, JSONL or parquet file, or from the Hugging Face Hub.

A `Record` keeps its origin, so every error names file, line and field. This module knows no
benchmark. The Hub is used only when no file is given; `datasets` (extra `hub`) and `pyarrow` are
imported only when they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import UserError, printable, reason_of
from interp.json_reader import parse_json, read_utf8, short, whole_text


@dataclass(frozen=True)
class Record:
    """One record of a data set, with its origin.

    Attributes:
        fields: field values by name.
        where: origin for error messages, e.g. "data.jsonl, line 3".
        index: number of the record among all records, from 0.
    """

    fields: Mapping[str, Any]
    where: str
    index: int

    def wrong(self, name: str, problem: str) -> UserError:
        """Make the error for a bad field.

        Args:
            name: the field.
            problem: what is wrong and what was expected.

        Returns:
            The error, to be raised by the caller.
        """
        return UserError(f"{self.where}, field {name!r}: {printable(problem, 600)}")

    def get(self, *names: str) -> Any:
        """The value of the first of `names` that the record has.

        Args:
            names: field names to try in order, since public schemas differ.

        Returns:
            The value; never None.

        Raises:
            UserError: the record has none of the fields.
        """
        for name in names:
            if self.fields.get(name) is not None:
                return self.fields[name]
        has = ", ".join(sorted(map(str, self.fields))) or "no fields"
        raise self.wrong(names[0], f"missing; expected one of {list(names)}; the record has {has}.")

    def text(self, *names: str) -> str:
        """A non-empty text; a number is converted to its text.

        Args:
            names: field names to try in order.

        Returns:
            The text.

        Raises:
            UserError: the field is missing, empty or not a text.
        """
        value = self.get(*names)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.wrong(names[0], f"expected a text, got {short(value)}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.wrong(names[0], f"expected a text or a finite number, got {value}.")
        if not str(value).strip():
            raise self.wrong(names[0], "empty; expected a text.")
        return self._whole(names[0], str(value))

    def texts(self, *names: str) -> tuple[str, ...]:
        """A list of texts, e.g. options.

        Args:
            names: field names to try in order.

        Returns:
            The texts; numbers are converted to text.

        Raises:
            UserError: the field is missing or not a list of texts.
        """
        value = self.get(*names)
        if hasattr(value, "tolist"):  # parquet gives arrays
            value = value.tolist()
        if not isinstance(value, (list, tuple)):
            raise self.wrong(names[0], f"expected a list of texts, got {short(value)}.")
        for item in value:
            if isinstance(item, bool) or not isinstance(item, (str, int, float)):
                raise self.wrong(names[0], f"expected texts in the list, got {short(item)}.")
        return tuple(self._whole(names[0], str(item)) for item in value)

    def _whole(self, name: str, text: str) -> str:
        return whole_text(text, f"{self.where}, field {name!r}")

    def index_in(self, n: int, *names: str) -> int:
        """A whole number in 0..n-1; a letter A, B, ... counts as its position.

        Args:
            n: number of options.
            names: field names to try in order.

        Returns:
            The index.

        Raises:
            UserError: the field is missing or not an index below `n`.
        """
        value = self.get(*names)
        if isinstance(value, str) and len(value) == 1 and value.isascii() and value.isalpha():
            value = ord(value.upper()) - ord("A")
        if isinstance(value, str) and value.isdecimal() and len(value) < 4:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < n:
            raise self.wrong(
                names[0], f"expected the number of an option (0 to {n - 1}), got {short(value)}."
            )
        return value


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face Hub.

    Attributes:
        path: repository, e.g. "openai/gsm8k".
        split: split, e.g. "test".
        config: configuration of the data set; None where it has only one.
    """

    path: str
    split: str
    config: str | None = None


def read_file(path: str | Path) -> list[Record]:
    """Read all records of a .json (list of objects), .jsonl, .ndjson or .parquet file.

    Args:
        path: the file.

    Returns:
        The records in file order, at least one.

    Raises:
        UserError: no such file, unknown suffix, unreadable content, or no records.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"No file {str(file)!r}; expected a JSON, JSONL or parquet file.")
    readers = {".json": _json, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise UserError(
            f"{file.name}: unknown file type {file.suffix!r}; expected {', '.join(readers)}."
        )
    records = []
    for index, (where, value) in enumerate(reader(file)):
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: expected an object with fields, got {short(value)}.")
        records.append(Record(value, where, index))
    if not records:
        raise UserError(f"{file.name} holds no records; expected at least one problem.")
    return records


def _jsonl(file: Path) -> Iterator[tuple[str, Any]]:
    # Split at "\n" only: str.splitlines would also cut at U+2028, which may occur inside a text.
    for number, line in enumerate(read_utf8(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file.name}, line {number}"
        yield where, parse_json(line, where)


def _json(file: Path) -> Iterator[tuple[str, Any]]:
    value = parse_json(read_utf8(file), file.name)
    if not isinstance(value, list):
        raise UserError(f"{file.name}: expected a list of objects, got {short(value)}.")
    for number, item in enumerate(value, start=1):
        yield f"{file.name}, record {number}", item


def _parquet(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError("Reading parquet needs pyarrow: pip install 'prunescope[hub]'.") from None
    try:
        rows: Sequence[Any] = parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{file.name}: not a readable parquet file: {reason_of(error)}") from None
    for number, item in enumerate(rows, start=1):
        yield f"{file.name}, row {number}", item


def read_hub(name: str, hub: Hub) -> list[Record]:
    """Read all records of a Hub data set.

    The data set is downloaded once; later calls read the cache of `datasets`.

    Args:
        name: the benchmark's name, for error messages.
        hub: the data set.

    Returns:
        The records in order.

    Raises:
        UserError: `datasets` is not installed, or the data set cannot be read.
    """
    remedy = f"give a local file instead: --data {name}=FILE"
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"Reading {name} from the Hub needs `datasets`: pip install 'prunescope[hub]', "
            f"or {remedy}."
        ) from None
    try:
        rows = datasets.load_dataset(hub.path, hub.config, split=hub.split)
    except Exception as error:  # datasets raises many kinds: offline, gated, renamed
        raise UserError(
            f"Could not read {name} from the Hub ({hub.path}): {reason_of(error)} "
            f"If it is gated, log in with `hf auth login`; or {remedy}."
        ) from error
    return [
        Record(dict(row), f"{hub.path} {hub.split}, row {number}", number - 1)
        for number, row in enumerate(rows, start=1)
    ]
