"""Set-up of every test: offline, one thread, no display, and array shapes checked.

jaxtyping's import hook lays beartype over every function of the packages, so an annotation such as
`Float[Tensor, "B T D"]` is checked when a test calls through it (`tests.typechecking`). It must be
installed before the packages are imported, hence here, at import.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
# The compiled kernels wherever they can be used: timing them would let a test differ from the next.
os.environ.setdefault("PRUNESCOPE_KERNELS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

if not torch.cuda.is_available():  # before anything imports Triton
    os.environ.setdefault("TRITON_INTERPRET", "1")

from importlib.util import find_spec

from tests import typechecking

# Of the testbed only what handles arrays: checking every step of a search would take minutes.
PACKAGES = ["interp", "pruning", "scaling", "recovery", "analyses", "prunescope"]
PACKAGES += ["testbed.training", "testbed.evaluation"]
if find_spec("triton"):  # Triton compiles functions as they are written: no checks around them
    import interp.kernels.triton_kernels
typechecking.install(PACKAGES)

import interp.decoding.generate  # noqa: F401  (gives models their `generate`)
from tests.drawing import load_profile

torch.set_num_threads(1)
load_profile()


def pytest_runtest_setup() -> None:
    """Every test has its own first calls."""
    typechecking.next_test()
