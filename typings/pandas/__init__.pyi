# pandas' own annotations give unions (a column may be a frame) that no check of ours can narrow:
# to pyright a frame is Any. Its use is tested, not typed.
from typing import Any

def __getattr__(name: str) -> Any: ...
