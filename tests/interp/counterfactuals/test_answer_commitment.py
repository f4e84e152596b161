"""Commitment: on a model that answers with what stands in the last line, and at the null."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from interp.chains.chain import Budget, Chain, Span
from interp.counterfactuals.answer_commitment import (
    Commitment,
    boundary_of,
    commitment,
    gradual_mean,
    gradual_p,
    perturbed_steps,
    sharpness_of,
)
from interp.diagnosis.reflection_lexicon import TESTBED
from interp.errors import UserError
from interp.interventions.interventions import Skip, Variant, dense
from interp.model.reasoning_model import ReasoningModel
from tests.chains import answered_chain, make_chain
from tests.planted import END, NUMBERS, STOP, WORD, Planted

# The copier answers with the token four places before the end of thinking: the third word of the
# last line. So a line is written with the answer there, or with another number.
PLANTED = Planted(n_blocks=3, copier=1, copy=30.0)
ANSWER, OTHER = NUMBERS[25], NUMBERS[28]
LINES = 8
SKIPS = [Variant(f"skip {b}", (Skip(b),)) for b in range(3)]


@pytest.fixture(scope="module")
def model() -> ReasoningModel:
    return PLANTED.model()


def line(third: int) -> list[int]:
    return [NUMBERS[20], NUMBERS[21], third, NUMBERS[22], NUMBERS[23], WORD["."]]


def chain_of(first: int, name: str, lines: int = LINES) -> Chain:
    """A chain whose answer stands in its lines from number `first` (from 1) on."""
    ids = [t for k in range(1, lines + 1) for t in line(ANSWER if k >= first else OTHER)]
    prompt = [WORD["what"], WORD["is"], NUMBERS[26], WORD["<think>"]]
    return answered_chain(ids, END, [ANSWER], prompt_ids=prompt, problem=name, finish="cut",
                          budget=Budget(64, 1))  # fmt: skip


@pytest.fixture(scope="module")
def chains() -> list[Chain]:
    return [chain_of(1 + i % LINES, f"p{i}") for i in range(2 * LINES)]


@pytest.fixture(scope="module")
def found(model: ReasoningModel, chains: list[Chain]) -> Commitment:
    return commitment(model, chains, [dense, *SKIPS], lexicon=TESTBED)


def test_the_line_that_fixes_the_answer_is_found(found: Commitment) -> None:
    assert found.boundary().tolist() == [1 + i % LINES for i in range(2 * LINES)]
    np.testing.assert_allclose(found.fraction(), found.boundary() / LINES)
    assert (found.sharpness() > 0.99).all() and (found.jump_ratio() > 100).all()
    gap = found.sharper_than_gradual()
    assert gap is not None and gap.p < 1e-3 and gap.low > 0.5
    grid = found.by_fraction([0.0, 0.5, 1.0])
    np.testing.assert_allclose(grid[0], [0, 1, 1], atol=1e-3)
    np.testing.assert_allclose(grid[LINES - 1], [0, 0, 1], atol=1e-3)


def test_only_the_block_that_answers_moves_it(found: Commitment) -> None:
    for variant, block in ((1, 0), (3, 2)):
        shift = found.moved(variant)
        assert shift is not None and shift.value == 0 and shift.p == 1, block
        assert found.settled(variant).value == 0
    assert found.moved(2) is None, "no chain settles without the copier"
    gone = found.settled(2)
    assert gone.value == -1 and gone.p < 1e-3


def test_the_probability_is_that_of_the_tokens(model: ReasoningModel, found: Commitment) -> None:
    frame = found.to_frame()
    row = frame[(frame["problem"] == "p3") & (frame["variant"] == "dense") & (frame["line"] == 5)]
    chain = chain_of(4, "p3")
    ids = [*chain.prompt_ids.tolist(), *chain.ids[: 5 * 6].tolist(), END]
    logits = model.run_with_cache(ids, names=["unembed.hook_out"])["unembed.hook_out"]
    want = logits[0, -1].softmax(-1)[ANSWER].item()
    assert row["probability"].item() == pytest.approx(want, abs=1e-5)


def test_a_step_counts_only_where_the_answer_reads_it(
    model: ReasoningModel, chains: list[Chain]
) -> None:
    """Chains fixed by their last line, and chains fixed by an earlier one."""
    last = [chain_of(LINES, f"last{i}") for i in range(12)]
    found = commitment(model, last, lexicon=TESTBED)
    steps = perturbed_steps(model, last, found, per_side=3)
    dropped = steps.means("dropped")
    assert (dropped["boundary"] == 1).all() and (dropped["before"] == 0).all()
    assert "after" not in dropped
    gap = steps.compare("dropped", "before", "boundary")
    assert gap is not None and gap.value == 1 and gap.p < 0.01
    assert steps.compare("dropped", "before", "after") is None
    changed = steps.to_frame().query("edit == 'number changed' and place == 'before'")
    assert (changed["moved"] == 0).all()
    early = [chain_of(2, f"early{i}") for i in range(4)]
    late = perturbed_steps(model, early, commitment(model, early, lexicon=TESTBED), per_side=9)
    rows = late.to_frame().query("edit == 'dropped'")
    assert (rows["moved"] == 0).all(), "every later line says the same"
    # Without the block that reads it, nothing is settled, so nothing moves.
    blind = perturbed_steps(model, last, found, SKIPS[1], per_side=2)
    assert (blind.to_frame()["moved"] == 0).all()


def test_a_forced_answer_serves_where_the_chain_has_none_of_its_own(model: ReasoningModel) -> None:
    chain = replace(chain_of(3, "plain"), plain=True)
    found = commitment(model, [chain], lexicon=TESTBED, longest=1)
    assert found.finals == ((ANSWER,),) and found.boundary().tolist() == [3]
    thinking = chain_of(3, "s").thinking_ids
    ended = answered_chain(thinking, END, [ANSWER, STOP], prompt_ids=chain.prompt_ids, problem="s")
    # the token that ends the sequence is behind the answer's span, and part of the answer
    ended = replace(ended, answer=Span(ended.n_tokens - 2, ended.n_tokens - 1))
    assert commitment(model, [ended], lexicon=TESTBED).finals == ((ANSWER, STOP),)


def test_curves_that_never_settle_or_never_change() -> None:
    assert boundary_of(np.array([0.9, 0.2, 0.6, 0.7])) == 2
    assert boundary_of(np.array([0.6, 0.7])) == 0
    assert np.isnan(boundary_of(np.array([0.6, 0.4])))
    assert np.isnan(sharpness_of(np.full(5, 0.7)))
    assert sharpness_of(np.array([0.0, 0.5, 0.0])) == pytest.approx(0.5)
    assert sharpness_of(np.array([1.0, 0.5, 0.0])) == 0, "a fall is no rise"


def test_gradual_change_is_called_sharp_at_the_nominal_rate() -> None:
    rng = np.random.default_rng(0)
    for steps in (3, 8, 24, 48):
        pieces = rng.dirichlet(np.ones(steps), 4000)
        shares = np.array([sharpness_of(np.r_[0, np.cumsum(p)]) for p in pieces])
        p = np.array([gradual_p(float(s), steps) for s in shares])
        assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.011), steps
        assert shares.mean() == pytest.approx(gradual_mean(steps), rel=0.02)


def test_an_unmoved_boundary_is_called_moved_at_the_nominal_rate(found: Commitment) -> None:
    """Two readings with the same law: curves that rise at a random line in each."""
    rng = np.random.default_rng(1)

    def made() -> Commitment:
        at = rng.integers(1, LINES + 1, (len(found.problems), 2))
        curves = tuple(
            np.array([(np.arange(LINES + 1) >= one).astype(float) for one in pair]) for pair in at
        )
        return replace(found, variants=("a", "b"), probability=curves)

    p = []
    for _ in range(400):
        shift = made().moved(1)
        assert shift is not None
        p.append(shift.p)
    assert np.mean(np.array(p) < 0.05) < 0.075


def test_what_cannot_be_measured_is_refused(model: ReasoningModel, chains: list[Chain]) -> None:
    with pytest.raises(UserError, match="at least one chain and one variant"):
        commitment(model, chains, [])
    with pytest.raises(UserError, match="occurs twice"):
        commitment(model, [chains[0], chains[0]])
    with pytest.raises(UserError, match="two lines of thinking and an answer"):
        commitment(model, [make_chain([NUMBERS[20]] * 40)])
    with pytest.raises(UserError, match="per_side=0"):
        perturbed_steps(model, chains, commitment(model, chains[:1], lexicon=TESTBED), per_side=0)
    settled = commitment(model, [chain_of(1, "a")], [SKIPS[1]], lexicon=TESTBED)
    with pytest.raises(UserError, match="no chain is committed"):
        perturbed_steps(model, [chain_of(1, "a")], settled)
    for share, steps in ((1.5, 3), (0.5, 0), (0.5, 65)):
        with pytest.raises(UserError, match="1 to 64 steps"):
            gradual_p(share, steps)


def test_the_figure_shows_the_mean_curve(found: Commitment) -> None:
    ax = found.plot()
    assert len(ax.get_lines()) == 4
    y = np.asarray(ax.get_lines()[0].get_ydata())
    assert y[0] < 0.01 and y[-1] > 0.99
