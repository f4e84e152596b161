"""Texts of any model as a table of loops and reflections."""

from __future__ import annotations

from pathlib import Path

import pytest

from interp.diagnosis.text_table import FIELDS, diagnose_texts
from interp.errors import UserError
from pruning.calibration import read_texts

LOOP = "first we add . " + "so the answer is two plus two . " * 12


def test_a_row_per_text_says_what_is_in_it() -> None:
    found = diagnose_texts(["Wait, let me check that again. It is four.", "", LOOP])
    assert found["row"].tolist() == [0, 1, 2]
    assert found["loop"].tolist() == ["", "", "exact"]
    assert found["reflections"].iloc[0] > 0 == found["reflections"].iloc[1]
    loop = found.iloc[2]
    assert loop["period"] == 8
    assert 0 < loop["onset"] < loop["wasted"] < loop["words"]


def test_rows_are_those_of_the_file_blank_answers_too(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"output": "one"}\n{"output": ""}\n{"text": "two"}\n', encoding="utf-8")
    assert read_texts(file, fields=FIELDS, blank=True) == ["one", "", "two"]
    assert read_texts(file, fields=FIELDS) == ["one", "two"]
    with pytest.raises(UserError, match=r"line 1: no text.*output.*--field"):
        read_texts(file)
