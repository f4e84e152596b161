"""Which examples property tests draw, and how many: the profiles of hypothesis."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

USUAL = 50
MORE = 4  # the profile "random" draws so many times as much


def load_profile() -> None:
    """Load the profile that HYPOTHESIS_PROFILE names, "prunescope" by default.

    "prunescope" draws the same examples every time, so that a failure is about the change and not
    about the draw. "random" draws other ones, and more; it prints how to repeat a failure, and
    keeps failures in .hypothesis to try them first next time. hypothesis itself chooses other
    defaults where CI is set, hence the explicit parent.
    """
    # A first example may pay for an import or a model: time is bounded by pytest-timeout instead.
    unhurried = settings(
        settings.get_profile("default"),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.register_profile("prunescope", unhurried, max_examples=USUAL, derandomize=True)
    settings.register_profile(
        "random",
        unhurried,
        max_examples=USUAL * MORE,
        derandomize=False,
        print_blob=True,
        database=DirectoryBasedExampleDatabase(".hypothesis/examples"),
    )
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "prunescope"))


def max_examples(n: int) -> settings:
    """n examples in the place of the usual number; more in the same proportion with "random"."""
    return settings(max_examples=n * settings().max_examples // USUAL)
