"""Lengths of on-policy completions: the schedule, the cut, and what a run makes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import UserError
from prunescope.commands.recover import Recover
from recovery.recovery_config import RecoveryConfig
from recovery.rollouts import TOP, WINDOW, Rollouts, kept_tokens, likeliest, shared
from recovery.run import recover
from recovery.writing import Writer
from tests.models import tiny
from tests.recovery.small import config, examples, saved


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("base") / "dense")


# ------------------------------------------------------------------------------- the schedule


def test_lengths_grow_from_the_first_to_the_whole() -> None:
    rollouts = Rollouts(full=100, start=20, ramp=0.5)
    lengths = [rollouts.length(share) for share in np.linspace(0, 1, 101)]
    assert lengths[0] == 20 and lengths[25] == 60 and set(lengths[50:]) == {100}
    assert lengths == sorted(lengths)
    assert np.mean(lengths) == pytest.approx(rollouts.mean, rel=0.02)
    assert Rollouts(100).length(0.0) == 100 == Rollouts(100).mean
    assert Rollouts(100, 20, 1.0).length(1.0) == 100


# ------------------------------------------------------------------------------------ the cut


@pytest.mark.parametrize("step", [0, 5, WINDOW, 40, 63])
def test_completions_end_at_the_planted_step(step: int) -> None:
    overlap = np.r_[np.ones(step), np.zeros(64 - step)]
    found = kept_tokens(overlap, 0.5)
    # too few tokens are left behind the last ones to call them parted
    assert found == (max(1, step) if 64 - step > WINDOW / 2 else 64)


def test_a_single_odd_token_cuts_nothing() -> None:
    overlap = np.ones(64)
    overlap[[10, 30, 50]] = 0
    assert kept_tokens(overlap, 0.75) == 64
    assert kept_tokens(overlap, 1.0) == 10
    assert kept_tokens(np.zeros(WINDOW - 1), 0.5) == WINDOW - 1
    assert kept_tokens(np.full(64, 0.5), 0.5) == 64, "as much as is asked for is enough"


def test_the_overlap_is_that_of_sets() -> None:
    one = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4], [7, 8, 9, 5]])
    other = torch.tensor([[4, 3, 2, 1], [5, 6, 1, 2], [0, 1, 2, 3]])
    assert shared(one, other).tolist() == [1.0, 0.5, 0.0]


def test_likeliest_tokens_are_those_of_the_passes_that_chose() -> None:
    hf: Any = tiny("qwen3", 3).hf
    hf.train()
    ids = torch.tensor([[7, 9, 11, 20, 31, 8]])
    found = likeliest(hf, ids, prompt=2)
    assert hf.training and found.shape == (4, TOP)
    hf.eval()
    with torch.no_grad():
        logits = hf(ids).logits[0]
    for row, position in zip(found, (1, 2, 3, 4), strict=True):
        assert set(row.tolist()) == set(logits[position].topk(TOP).indices.tolist())


class Parting(torch.nn.Module):
    """A model whose likeliest tokens are the first ones up to a position, then the last ones."""

    def __init__(self, until: int) -> None:
        super().__init__()
        self.until, self.device = until, torch.device("cpu")

    def forward(self, ids: torch.Tensor, use_cache: bool = True) -> Any:
        rising = torch.arange(64.0).expand(*ids.shape, 64)
        early = torch.arange(ids.shape[1])[None, :, None] < self.until
        return SimpleNamespace(logits=torch.where(early, -rising, rising))


def test_a_completion_is_cut_where_the_models_part() -> None:
    prompt, completion = [1, 2, 3], list(range(60))
    # the pass that reads position p chooses token p - 2 of the completion
    student, teacher = Parting(1000), Parting(32)
    found = Rollouts(60, overlap=0.5).cut(student, teacher, prompt, completion)
    assert found == completion[:30]
    assert Rollouts(60, overlap=0.5).cut(student, student, prompt, completion) == completion
    assert Rollouts(60).cut(student, teacher, prompt, completion) == completion


# -------------------------------------------------------------------------------------- a run


Wrote = list[tuple[str, int | None, list[list[int]]]]


@pytest.fixture
def wrote(monkeypatch: pytest.MonkeyPatch) -> Wrote:
    """What is written, with its label and the longest that was allowed."""
    found: Wrote = []
    plain: Callable[..., list[list[int]]] = Writer.write

    def write(self: Writer, hf: Any, prompts: Any, label: str, *args: Any, **kwargs: Any) -> Any:
        made = plain(self, hf, prompts, label, *args, **kwargs)
        found.append((label, kwargs["longest"], made))
        return made

    monkeypatch.setattr(Writer, "write", write)
    return found


def test_a_run_reaches_the_whole_length_and_counts_what_it_learns(
    base: Path, tmp_path: Path, wrote: Wrote
) -> None:
    how = config("distill", steps=8, start_length=2, held_out=4, check_every=4, save_every=4)
    found = recover(base, how, tmp_path / "run", plan=[1], data=examples())
    steps = [(longest, made) for label, longest, made in wrote if label.startswith("step")]
    assert [longest for longest, _ in steps] == [2, 4, 7, 10, 12, 12, 12, 12]
    for longest, made in steps:
        assert longest is not None and max(map(len, made)) <= longest
    assert found.tokens == sum(len(ids) for _, made in steps for ids in made)
    looks = [(longest, made) for label, longest, made in wrote if label.startswith("look")]
    assert looks and all(longest is None for longest, _ in looks), "looks are not shortened"


def test_a_run_with_a_limit_of_tokens_reaches_the_whole_length(
    base: Path, tmp_path: Path, wrote: Wrote
) -> None:
    how = config("distill", steps=40, tokens=200, start_length=2)
    recover(base, how, tmp_path / "run", plan=[1], data=examples())
    lengths = [longest for _, longest, _ in wrote]
    assert lengths[0] == 2 and lengths[-1] == 12


def test_what_is_cut_away_is_not_learnt(
    base: Path, tmp_path: Path, wrote: Wrote, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[list[int]] = []
    plain = Rollouts.cut

    def cut(self: Rollouts, *args: Any) -> list[int]:
        kept.append(plain(self, *args))
        return kept[-1]

    monkeypatch.setattr(Rollouts, "cut", cut)
    how = config("distill", steps=2, thinking=40, overlap=1.0, context=128)
    found = recover(base, how, tmp_path / "run", plan=[1], data=examples())
    assert found.tokens == sum(map(len, kept))
    written = [ids for _, _, made in wrote for ids in made]
    assert all(ids[: len(few)] == few for ids, few in zip(written, kept, strict=True))
    assert 0 < sum(map(len, kept)) < sum(map(len, written))


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("method", "wrong", "match"),
    [
        ("distill", {"start_length": 13}, "more than the whole length"),
        ("distill", {"start_length": -1}, "not at least 0"),
        ("distill", {"overlap": 1.5}, "from 0 to 1"),
        ("distill", {"start_length": 2, "full_at": 0.0}, "above 0"),
        ("distill", {"overlap": 0.5, "on_policy": False}, "leave them out"),
        ("rl", {"start_length": 4, "batch": 8, "samples": 2}, "leave them out"),
        ("lora", {"overlap": 0.5}, "leave them out"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    method: str, wrong: dict[str, Any], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        config(method, **wrong)


def test_the_command_takes_them(tmp_path: Path) -> None:
    asked = Recover(out=tmp_path, method="distill", start_length=64, full_at=0.25, overlap=0.3)
    found: RecoveryConfig = asked._config()
    assert (found.start_length, found.full_at, found.overlap) == (64, 0.25, 0.3)
    assert found.settings()["start_length"] == 64
    assert "start_length" not in config("distill").settings(), "older runs are continued"
