"""The worker process of the `math` grader: JSON requests in, JSON replies out, one per line.

Run as a script of its own: LaTeX from a model can make a parser run forever or use all memory, so
it is parsed in a process that can be killed. It imports nothing from this package.
"""

from __future__ import annotations

import json
import sys
from typing import Any

MEMORY_LIMIT = 4 << 30


def _parse(text: str) -> Any:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    untimed: Any = None  # the parent process enforces the time limit
    configs = [LatexExtractionConfig(), ExprExtractionConfig()]
    found = parse(f"${text}$", extraction_config=configs, parsing_timeout=untimed)
    return found or parse(text, extraction_config=configs, parsing_timeout=untimed)


def main() -> None:
    """Answer requests until standard input ends."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    except (ImportError, ValueError, OSError):
        pass  # this system has no such limit; the time limit still applies
    from math_verify import verify

    replies = sys.stdout
    sys.stdout = sys.stderr  # output of libraries must not mix with the replies
    replies.write(json.dumps({"ready": True}) + "\n")
    replies.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            gold, answer = _parse(request["gold"]), _parse(request["answer"])
            equal = bool(gold and answer and verify(gold, answer, timeout_seconds=None))
            reply: dict[str, object] = {"equal": equal}
        except Exception as error:  # an answer that makes the parser fail is not equal
            reply = {"equal": False, "error": type(error).__name__}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
