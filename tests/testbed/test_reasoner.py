"""The shipped reasoner: an ordinary checkpoint, and a card whose figures a command makes."""

from __future__ import annotations

import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from testbed.evaluation import BEGIN, END, _by_content, card_figures, evaluate, write_card
from testbed.problems import generate

FOLDER = Path(str(files("testbed") / "reasoner"))


@pytest.fixture(scope="module")
def found():
    return evaluate(
        ReasoningModel.load("testbed"),
        problems=40,
        parallel_problems=6,
        samples=2,
        kinds=("recall", "arithmetic", "countdown-3"),
    )


def test_it_is_an_ordinary_checkpoint_of_at_most_16_mb():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert sum(f.stat().st_size for f in FOLDER.iterdir()) < 16e6
    loaded: Any = AutoModelForCausalLM.from_pretrained(FOLDER, output_loading_info=True)
    model, info = loaded
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.config.num_hidden_layers >= 12
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    for mark in ("<think>", "</think>"):
        assert len(tokenizer.encode(mark, add_special_tokens=False)) == 1


def test_it_knows_and_reasons_about_as_well_as_its_card_says(found):
    """40 problems cannot tell .93 from .90; they can tell a broken checkpoint from a good one."""
    assert found.accuracy["recall"].value > 0.95
    assert found.accuracy["arithmetic"].value > 0.9
    assert found.accuracy["countdown-3"].value > 0.7


def test_budgets_pay_and_samples_pay(found):
    by = found.by_budget["countdown-3"]
    assert by[512].value > by[32].value
    assert found.pass_at["countdown-3"][2].value >= found.pass_at["countdown-3"][1].value


def test_the_card_holds_figures_and_is_written_between_its_marks(found, tmp_path):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for kind in ("recall", "arithmetic", "countdown-3", "countdown-4", "countdown-5"):
        assert re.search(rf"\| {kind} \| [01]\.\d{{3}} \[", card)
    shutil.copy(FOLDER / "README.md", tmp_path / "README.md")
    write_card(tmp_path, card_figures(found))
    new = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card_figures(found) in new
    assert new.split(BEGIN)[0] == card.split(BEGIN)[0]
    assert new.split(END)[1] == card.split(END)[1]


def test_a_folder_without_a_card_is_refused(tmp_path):
    with pytest.raises(UserError, match="no model card"):
        write_card(tmp_path, "")
    (tmp_path / "README.md").write_text("no marks")
    with pytest.raises(UserError, match="marks"):
        write_card(tmp_path, "")


def test_reorderings_share_a_row():
    problems = generate("countdown-3", 60)
    values = np.arange(60, dtype=float)[:, None]
    table = _by_content(problems, values)
    assert sorted(table[~np.isnan(table)]) == list(range(60))
    assert len(table) == len({(*tuple(sorted(p.numbers)), p.target) for p in problems})


def test_too_little_is_refused():
    with pytest.raises(UserError, match="at least 2"):
        evaluate(ReasoningModel.load("testbed"), problems=1)
