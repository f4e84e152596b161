"""Shapes are checked in every test, on the first calls of a function."""

from __future__ import annotations

import pytest
import torch
from beartype.roar import BeartypeException
from jaxtyping import Float, TypeCheckError

from interp.diagnosis.token_text import words
from tests import typechecking


def taken(x: Float[torch.Tensor, "B T"], y: Float[torch.Tensor, " B"]) -> int:
    """Rows of two tensors that must agree."""
    return len(x) + len(y)


def test_a_wrong_shape_is_refused_on_the_first_calls_of_every_test() -> None:
    call = typechecking.jaxtyped(taken, typechecker=typechecking.checked)
    right, wrong = torch.zeros(2, 3), torch.zeros(5)
    for _ in range(2):
        for _ in range(typechecking.CALLS):
            with pytest.raises(TypeCheckError):
                call(right, wrong)
        assert call(right, wrong) == 7  # not checked any more
        typechecking.next_test()
    assert call(right, torch.zeros(2)) == 4


def test_the_packages_are_checked() -> None:
    with pytest.raises((TypeCheckError, BeartypeException)):
        words(3)  # type: ignore[arg-type]
