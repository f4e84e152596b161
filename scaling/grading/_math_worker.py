"""The worker process of the `math` grader: one JSON request a line in, one JSON reply a line out.

Run as a script, alone: LaTeX from a model can make a parser run for ever or eat all memory, so it
is read here, where it can be killed. Imports nothing of this package.
"""

from __future__ import annotations

import json
import sys
from typing import Any

MEMORY_LIMIT = 4 << 30


def _parse(text: str) -> Any:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    untimed: Any = None  # the whole process is timed from outside
    configs = [LatexExtractionConfig(), ExprExtractionConfig()]
    found = parse(f"${text}$", extraction_config=configs, parsing_timeout=untimed)
    return found or parse(text, extraction_config=configs, parsing_timeout=untimed)


def main() -> None:
    """Answer requests until the input ends."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    except (ImportError, ValueError, OSError):
        pass  # no such limit on this system; the time limit remains
    from math_verify import verify

    replies = sys.stdout
    sys.stdout = sys.stderr  # nothing a library says may mix with the replies
    replies.write(json.dumps({"ready": True}) + "\n")
    replies.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            gold, answer = _parse(request["gold"]), _parse(request["answer"])
            equal = bool(gold and answer and verify(gold, answer, timeout_seconds=None))
            reply: dict[str, object] = {"equal": equal}
        except Exception as error:  # whatever hostile input raises is its verdict: not equal
            reply = {"equal": False, "error": type(error).__name__}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
