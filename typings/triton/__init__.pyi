# Triton is no dependency: PyTorch for CUDA brings it along. Its kernels are checked by their tests.
from typing import Any

def __getattr__(name: str) -> Any: ...
