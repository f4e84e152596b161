"""The expert's documents: right where they claim to be, and honest in what the loss may see."""

from __future__ import annotations

import random

import pytest

from testbed.expert import Habits, write
from testbed.problems import KINDS, apply, generate
from testbed.verify import check_answer
from testbed.vocabulary import ID, THINK_END, THINK_START, TURN_END, build_tokenizer


def documents(kind, n=150, habits=None):
    for problem in generate(kind, n, split="train"):
        yield problem, write(problem, random.Random(problem.id), habits)


@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_prompt_thinking_answer_in_known_words(kind):
    for _, document in documents(kind):
        words, weights = document.words, document.weights
        assert len(words) == len(weights)
        assert all(word in ID for word in words)
        assert words.count(THINK_START) == words.count(THINK_END) == 1
        assert words[-1] == TURN_END
        assert not any(weights[: words.index(THINK_START) + 1]), "a prompt has no loss"


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "recall"])
def test_no_wrong_result_is_ever_learnt(kind):
    """A result in the thinking that is not what its line computes weighs nothing."""
    slips = 0
    for _, document in documents(kind, habits=Habits(slip=1, slip_rate=0.3)):
        words, weights = document.words, document.weights
        for i in range(4, len(words)):
            line = words[i - 4 : i + 1]
            if line[3] == "=" and all(line[k].isdigit() for k in (0, 2, 4)):
                wrong = apply(int(line[0]), line[1], int(line[2])) != int(line[4])
                slips += wrong
                if wrong:
                    assert weights[i] == 0
    assert slips > 10


@pytest.mark.parametrize("kind", ["countdown-3", "countdown-4"])
def test_a_cut_thinking_is_not_learnt_but_its_answer_is(kind):
    habits = Habits(forced=1, early=0, wait=0, wait_after_yes=0)
    for _, document in documents(kind, habits=habits):
        at = document.words.index(THINK_END)
        assert document.weights[at] == 0
        assert min(document.weights[at + 1 :]) > 0


def test_solved_chains_answer_rightly():
    habits = Habits(forced=0, early=0)
    for kind in ("arithmetic", "countdown-3", "countdown-4"):
        for problem, document in documents(kind, habits=habits):
            answer = " ".join(document.words[document.words.index(THINK_END) + 1 :])
            assert check_answer(problem, answer) is True


def test_the_tokenizer_is_one_word_one_token_and_knows_its_chat():
    tokenizer = build_tokenizer()
    assert len(tokenizer) == len(ID)
    for kind in KINDS:
        problem, document = next(documents(kind, 1))
        ids = tokenizer.encode(" ".join(document.words), add_special_tokens=False)
        assert ids == [ID[w] for w in document.words]
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.question}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=kind != "recall",
        )
        cut = document.words.index(THINK_START) + (0 if kind != "recall" else 2)
        assert str(prompt).split() == document.words[:cut]
