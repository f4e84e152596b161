"""The worker process of the `math` grader: JSON requests in, JSON replies out, one per line.

Run as a script of its own: an expression from a model can make algebra run forever or use all
memory, so it is compared in a process that can be killed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

MEMORY_LIMIT = 4 << 30


def main() -> None:
    """Answer requests until standard input ends."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    except (ImportError, ValueError, OSError):
        pass  # this system has no such limit; the time limit still applies
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this package, and no other copy
    from scaling.grading._compare import same_answer

    replies = sys.stdout
    sys.stdout = sys.stderr  # output of libraries must not mix with the replies
    replies.write(json.dumps({"ready": True}) + "\n")
    replies.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply: dict[str, object] = {"equal": same_answer(request["gold"], request["answer"])}
        except Exception as error:  # an answer that makes the comparison fail is not equal
            reply = {"equal": False, "error": type(error).__name__}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
