"""Triton kernels where there is no CUDA device: in Triton's interpreter, if Triton is installed.

`tests/conftest.py` turns the interpreter on, before anything imports Triton.
"""

from __future__ import annotations

from typing import Any

import torch

CUDA = torch.cuda.is_available()


def triton_kernels() -> Any:
    """The module of kernels, ready to run on `CUDA` or on the CPU."""
    from interp.kernels import triton_kernels as found

    if not CUDA:
        _mend_interpreter()
    return found


def _mend_interpreter() -> None:
    """Lets the interpreter of Triton 3.6 loop over scalars with numpy 2.4, which it cannot."""
    from triton.runtime import interpreter as found

    interpreter: Any = found
    patch = interpreter._patch_lang_tensor
    if getattr(patch, "mended", False):
        return

    def mended(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    mended.mended = True
    interpreter._patch_lang_tensor = mended
