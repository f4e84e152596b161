"""Task-greedy: the greedy path on generated answers, ties, and how answers are judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from interp.chains.chain import Budget, Chain
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.interventions import Skip, Variant
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration
from pruning.criteria import score
from pruning.criteria.task_greedy import task_greedy
from pruning.plan import LayerPlan
from pruning.scores import Scores
from tests.models import tiny
from tests.slow_streams import hooks_of, logprobs, plant_identity, same_weights, snapshot

PROMPTS = [[2, 8, 9, 4], [2, 11, 12, 13, 4], [2, 14, 15, 4], [2, 30, 7, 4], [2, 9, 33, 21, 4]]
BUDGET = Budget(12, 6)


def answers(model: ReasoningModel, gone: tuple[int, ...]) -> dict[Any, str | None]:
    """Answers (None: no answer) by (prompt, sample) without the blocks `gone`."""
    from pruning.criteria.task_greedy import _answer, _names

    names = _names(PROMPTS)
    variant = Variant("x", tuple(map(Skip, gone)))
    chains = model.generate(PROMPTS, [variant], BUDGET, problem_ids=names)
    return {(names.index(c.problem), c.sample): _answer(model, c) for c in chains}


def first_word(model: ReasoningModel) -> Any:
    """Right is what begins like the dense model's own answer, if it gave one."""
    gold = {i: (text or "none").split()[:1] for (i, _), text in answers(model, ()).items()}
    return lambda index, answer: answer.split()[:1] == gold[index]


def run(model: ReasoningModel, **options: Any) -> Scores:
    usual = {"accept": first_word(model), "budget": BUDGET}
    return score("task-greedy", model, PROMPTS, **(usual | options))


def slow_loss(model: ReasoningModel, chains: list[Chain], gone: tuple[int, ...]) -> float:
    """Loss a generated token of the dense model's chains without the blocks `gone`."""
    from pruning.surgery import prune

    hf = prune(model, LayerPlan.without(model, *gone)).hf
    parts = []
    for chain in chains:
        ids = [*chain.prompt_ids.tolist(), *chain.ids.tolist()]
        logp = logprobs(hf, ids)
        first = len(chain.prompt_ids)
        parts += [-logp[t - 1, ids[t]] for t in range(first, len(ids))]
    return float(np.mean(parts))


def test_the_greedy_path_against_one_generation_after_another() -> None:
    model = tiny("qwen3", 5)
    right = first_word(model)
    from pruning.criteria.task_greedy import _names

    dense = list(model.generate(PROMPTS, budget=BUDGET, problem_ids=_names(PROMPTS)))

    def key(gone: tuple[int, ...]) -> tuple[float, float]:
        found = answers(model, gone).items()
        each = [text is not None and right(i, text) for (i, _), text in found]
        return -float(np.mean(each)), slow_loss(model, dense, gone)

    first = {l: key((l,)) for l in range(1, 5)}
    gone: tuple[int, ...] = ()
    for _ in range(2):
        gone += (min((l for l in range(1, 5) if l not in gone), key=lambda l: key((*gone, l))),)
    found = run(model, remove=2)
    assert found.picks == (gone[:1], gone)
    lost = [first[l][0] - key(())[0] for l in range(1, 5)]
    np.testing.assert_allclose(found.values[1:], lost, atol=1e-9)
    assert found.tie_break is not None
    np.testing.assert_allclose(found.tie_break[1:], [first[l][1] for l in range(1, 5)], rtol=1e-4)
    assert np.isinf(found.values[0])
    assert (found.low[1:] <= found.values[1:]).all() and (found.values[1:] <= found.high[1:]).all()
    assert found.lowest(1) == (found.ranking[0],)


def test_a_block_that_does_nothing_costs_no_answer() -> None:
    model = tiny("qwen3", 5)
    plant_identity(model, 2)
    before, hooks = snapshot(model), hooks_of(model)
    found = run(model, remove=1)
    assert found.lowest(1) == (2,)
    assert found.values[2] == 0
    assert same_weights(model, before)
    assert hooks_of(model) == hooks


def test_the_order_of_prompts_and_the_batch_change_nothing() -> None:
    model = tiny("qwen3", 4)
    right = first_word(model)
    found = run(model, remove=2, samples=2)
    order = [3, 0, 4, 1, 2]
    other = task_greedy(
        model,
        [PROMPTS[i] for i in order],
        accept=lambda index, answer: right(order[index], answer),
        budget=BUDGET,
        remove=2,
        samples=2,
        slots=3,
        batch_tokens=20,
    )
    np.testing.assert_allclose(other.values, found.values)
    assert other.picks == found.picks
    assert other.calibration == found.calibration


def test_block_0_stays_unless_asked() -> None:
    model = tiny("qwen3", 3)
    assert 0 not in run(model, remove=2).lowest(2)
    free = run(model, remove=1, protect_first=0)
    assert np.isfinite(free.values).all()
    with pytest.raises(UserError, match="expected 1 to 2 blocks"):
        run(model, remove=3)
    with pytest.raises(UserError, match="protect_first=-1: expected a number of at least 0"):
        run(model, protect_first=-1)


def test_gold_answers_and_functions_of_the_answer() -> None:
    model = tiny("qwen3", 3)
    gold = [text or "none" for _, text in sorted(answers(model, ()).items())]
    by_text = run(model, accept=[f" {text} " for text in gold], remove=1)
    by_function = run(model, accept=lambda i, answer: answer == gold[i], remove=1)
    mixed = run(model, accept=[gold[0], *(lambda a, g=g: a == g for g in gold[1:])], remove=1)
    for other in (by_function, mixed):
        np.testing.assert_array_equal(other.values, by_text.values)
    assert by_text.values[1:].max() > 0


def test_prompts_may_be_questions_chains_or_a_calibration() -> None:
    model = tiny("qwen3", 3)
    options: dict[str, Any] = {"accept": lambda _i, _a: True, "budget": BUDGET, "remove": 1}
    questions = ["use 3 and 4 to make 7", "what is 3 x 4"]
    turns = [[{"role": "user", "content": q}] for q in questions]
    chains = list(model.generate(questions, budget=BUDGET))
    found = [
        task_greedy(model, prompts, **options)
        for prompts in (questions, turns, chains, Calibration.of(model, chains))
    ]
    assert len({s.calibration for s in found}) == 1
    with pytest.raises(UserError, match="no prompts"):
        task_greedy(model, Calibration.of(model, ["use 3 and 4"]), **options)
    with pytest.raises(UserError, match="list of prompts"):
        task_greedy(model, "use 3", **options)


def test_the_last_word_of_a_cut_answer_is_left_out() -> None:
    model = tiny("qwen3", 3, ends=False)
    heard: list[str] = []

    def accept(_: int, answer: str) -> bool:
        heard.append(answer)
        return True

    task_greedy(
        model,
        PROMPTS[:2],
        accept=accept,
        budget=Budget(6, 4),
        sampling=Sampling(temperature=0),
        remove=1,
    )
    chains = model.generate(
        PROMPTS[:2], budget=Budget(6, 4), sampling=Sampling(temperature=0), problem_ids=["a", "b"]
    )
    assert {c.finish for c in chains} == {"cut"}
    whole = [model.text(c.answer_ids.tolist()).strip() for c in chains]
    for text, judged in zip(whole, heard[:2], strict=True):
        assert text.startswith(judged) and len(judged) < len(text)


def test_what_is_not_a_judgement_is_refused() -> None:
    model = tiny("qwen3", 3)
    for accept, said in (
        (None, "needs to know which answers are right"),
        ("7", "accept is str"),
        (7, "accept is int"),
        (["7"], "1 accepted answers for 5 prompts"),
        (["7", "8", "9", "1", 2], r"accept\[4\] is int"),
        (lambda _i, _a: False, "none of the prompts acceptably"),
    ):
        with pytest.raises(UserError, match=said):
            run(model, accept=accept)
