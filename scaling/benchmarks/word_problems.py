"""Word problems made here: one quantity, two to four changes, an exact integer answer.

They need no download, no list of them is on the Web, and there are as many as anybody asks for, so
they serve for a first look at a model, and for training that must not have seen a public test set.
They are all of one kind; how hard they are beside GSM8K was not measured.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from scaling.benchmarks import generated
from scaling.benchmarks.gsm8k import QUESTION_AND_ANSWER, STEP_BY_STEP
from scaling.problem import Problem

NAMES = ("Ada", "Bruno", "Chen", "Dalia", "Emeka", "Freya", "Goran", "Hana", "Ivo", "Jamila",
         "Kofi", "Lena", "Mateo", "Noor", "Olga", "Pablo", "Rania", "Sven", "Tariq", "Uma", "Vera",
         "Yusuf")  # fmt: skip
THINGS = ("apples", "bolts", "bricks", "buttons", "candles", "cards", "coins", "eggs", "lemons",
          "marbles", "nails", "pears", "pencils", "plates", "ribbons", "roses", "seeds", "shells",
          "stamps", "stones", "tiles", "tulips")  # fmt: skip
LARGEST = 2000  # of the quantity, at any time
CHANGES = (2, 4)  # fewest and most


@dataclass
class Story:
    """A problem that is being told.

    Attributes:
        draw: the random numbers.
        name: whose things they are.
        things: what they are.
        value: how many there are by now.
        told: the sentences so far.
    """

    draw: random.Random
    name: str
    things: str
    value: int
    told: list[str]

    def tell(self, sentence: str, value: int) -> None:
        """Add a sentence, after which there are `value` things."""
        self.told.append(sentence)
        self.value = value


Change = Callable[[Story], None]


def begin(draw: random.Random) -> Story:
    """The first sentence."""
    name, things = draw.choice(NAMES), draw.choice(THINGS)
    a, b = draw.randint(2, 12), draw.randint(3, 20)
    opening, value = draw.choice([
        (f"{name} has {a * b} {things}.", a * b),
        (f"{name} fills {a} boxes with {b} {things} each.", a * b),
        (f"{name} collects {b} {things} on Monday and {a} more on Tuesday.", a + b),
    ])  # fmt: skip
    return Story(draw, name, things, value, [opening])


def more(story: Story) -> None:
    """Some are added."""
    n = story.draw.randint(3, 60)
    story.tell(f"Then {n} more are delivered.", story.value + n)


def packs(story: Story) -> None:
    """Several packs are bought."""
    n, size = story.draw.randint(2, 9), story.draw.randint(3, 15)
    sentence = f"{story.name} buys {n} packs of {size} {story.things}."
    story.tell(sentence, story.value + n * size)


def double(story: Story) -> None:
    """As many again are made."""
    story.tell(f"Over the week the number of {story.things} doubles.", 2 * story.value)


def give(story: Story) -> None:
    """Some are given away."""
    n = story.draw.randint(1, story.value - 1)
    story.tell(f"{story.name} gives {n} of them to a neighbour.", story.value - n)


def take(story: Story) -> None:
    """Several children take as many each."""
    children = story.draw.randint(2, min(9, (story.value - 1) // 2))
    each = story.draw.randint(2, (story.value - 1) // children)
    sentence = f"{children} children take {each} {story.things} each."
    story.tell(sentence, story.value - children * each)


def half(story: Story) -> None:
    """Half are sold."""
    story.tell("Half of them are sold.", story.value // 2)


def third(story: Story) -> None:
    """A third are lost."""
    story.tell("A third of them get lost.", story.value - story.value // 3)


def possible(value: int) -> list[Change]:
    """The changes that leave a whole number of things, at least 1 and at most `LARGEST`."""
    found: list[Change] = []
    if value + 135 <= LARGEST:
        found += [more, packs]
    if 2 * value <= min(LARGEST, 400):
        found.append(double)
    if value >= 6:
        found += [give, take]
    if value % 2 == 0 and value >= 4:
        found.append(half)
    if value % 3 == 0 and value >= 6:
        found.append(third)
    return found


def question(story: Story) -> int:
    """Ask; returns the answer."""
    draw, name, things = story.draw, story.name, story.things
    people = [n for n in range(2, 13) if story.value % n == 0 and story.value > n]
    kinds = ["left", "price", *(["share"] if people else [])]
    kind = draw.choice(kinds)
    if kind == "price":
        dollars = draw.randint(2, 9)
        story.told.append(f"{name} sells all that are left for {dollars} dollars each.")
        story.told.append(f"How many dollars does {name} get?")
        return story.value * dollars
    if kind == "share":
        n = draw.choice(people)
        story.told.append(f"{name} shares all that are left equally among {n} people.")
        story.told.append(f"How many {things} does each of them get?")
        return story.value // n
    story.told.append(f"How many {things} does {name} have now?")
    return story.value


@generated(
    "word-problems",
    version="1",
    grader="numeric",
    default_limit=100,
    instruction=STEP_BY_STEP,
    form=QUESTION_AND_ANSWER,
)
def word_problems(n: int, seed: int) -> list[Problem]:
    """Word problems made here: two to four changes of one quantity."""
    draw, found = random.Random(f"word problems, version 1, seed {seed}"), dict[str, Problem]()
    while len(found) < n:
        story, before = begin(draw), None
        changes = draw.randint(*CHANGES)
        for _ in range(changes):
            change = draw.choice([c for c in possible(story.value) if c is not before])
            change(story)
            before = change
        answer = question(story)
        text = " ".join(story.told)
        if text not in found:
            name = f"word-problems/{seed}/{len(found)}"
            found[text] = Problem(name, text, str(answer), metadata={"changes": changes})
    return list(found.values())
