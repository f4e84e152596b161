"""Where lines end, in tokens: prose, a formal grammar, and text without lines."""

from __future__ import annotations

import numpy as np
import pytest

from interp.chains.chain import Span
from interp.diagnosis.chain_lines import line_ends
from interp.diagnosis.reflection_lexicon import NATURAL, TESTBED
from interp.errors import UserError
from tests.chains import make_chain


class Spelled:
    """Decodes ids by a list of words; ids are positions in it."""

    def __init__(self, text: str) -> None:
        self.words = text.split(" ")

    def text(self, ids, skip_special: bool = True) -> str:
        return " ".join(self.words[int(i)] for i in ids)


def ends_of(text: str, **more) -> list[int]:
    reads = Spelled(text)
    chain = make_chain(range(len(reads.words)))
    return line_ends(chain, reads, **more).tolist()


def test_formal_lines_end_at_full_stops() -> None:
    text = "try 3 + 4 = 7 left 2 . 7 x 2 = 14 no . back 7"
    assert ends_of(text, lexicon=TESTBED) == [0, 9, 16, 18]


def test_prose_lines_are_sentences_and_a_decimal_point_ends_none() -> None:
    text = "It is 3.5 today. Then we add two. So it is 5.5 now. Done."
    assert ends_of(text, lexicon=NATURAL) == [0, 4, 8, 13, 14]


def test_thinking_without_lines_is_split_by_tokens() -> None:
    assert ends_of(" ".join("a" * 10), lexicon=TESTBED, every=4) == [0, 4, 8, 10]
    assert ends_of("a b . c", lexicon=TESTBED, every=2) == [0, 2, 4]


def test_lines_are_joined_evenly_and_only_the_thinking_counts() -> None:
    text = " ".join(["a .", *["b ."] * 9])
    found = ends_of(text, lexicon=TESTBED, most=5)
    assert found == [0, 4, 8, 12, 16, 20]
    reads = Spelled(text)
    chain = make_chain(range(20), thinking=Span(0, 9))
    assert line_ends(chain, reads, lexicon=TESTBED).tolist() == [0, 2, 4, 6, 8, 9]
    none = make_chain(range(3), thinking=Span(0, 0))
    np.testing.assert_array_equal(line_ends(none, reads, lexicon=TESTBED), [0])


@pytest.mark.parametrize("wrong", [{"every": 0}, {"most": 0}])
def test_senseless_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="expected 1 or more"):
        ends_of("a . b .", **wrong)
