"""The training libraries: whether they are installed, and silencing them during a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from interp.errors import UserError

NEEDED = ("trl", "peft", "accelerate", "datasets")


def check_libraries() -> None:
    """Check that the training libraries are installed.

    Raises:
        UserError: one is missing; the message says what to install.
    """
    lacking = [name for name in NEEDED if not find_spec(name)]
    if lacking:
        raise UserError(
            f"Recovery trains through TRL, PEFT and Accelerate; {', '.join(lacking)} "
            "is not installed: pip install 'prunescope[recovery]'."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Switch off the libraries' progress bars and notices; a run has its own log.

    Deprecations among the libraries (FutureWarning raised in one of them) are not the user's
    concern.
    """
    import datasets
    import transformers

    bars = datasets.utils.logging.is_progress_bar_enabled()
    verbosity = transformers.logging.get_verbosity()
    own = transformers.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate)\b"
            )
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
        if own:
            transformers.utils.logging.enable_progress_bar()
