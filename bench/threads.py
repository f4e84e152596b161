"""What the thread tuner costs and saves, on quiet cores and on busy ones.

    python -m bench.threads [--model M] [--random-weights CONFIG] [--rounds 3] [--rows 64]
        [--tokens 512] [--busy N]

The same chains are decoded with every fixed number of threads and with the tuner, which looks for
the fastest one while it decodes: first on the machine as it is, then with `--busy` endless loops
beside it (by default one per core). Rounds are interleaved. `tuned_over_best`: tokens per second of
the tuner over those of the best fixed number, medians (goal .9, quiet and busy). OMP_NUM_THREADS
must not be set, because the tuner keeps a user's choice. The last line is one JSON object.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.common import Clock, arguments, close, load, parse, problems
from interp.decoding.generate import decode
from interp.decoding.thread_tuner import cores, thread_counts

TUNED = 0  # stands for the tuner among the numbers of threads


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes that each keep one core busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Decoding with this number of threads; with `TUNED`, with the number that the tuner finds."""
    before = os.environ.pop("OMP_NUM_THREADS", None)
    usual = torch.get_num_threads()
    if count != TUNED:
        os.environ["OMP_NUM_THREADS"] = str(count)  # the tuner reads it when a batch is made
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
        os.environ.pop("OMP_NUM_THREADS", None)
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--busy", type=int, default=cores(), help="endless loops beside it")
    options = parse(parser)
    counts = thread_counts()
    if len(counts) == 1:
        parser.error("the tuner has one number of threads: one core, or OMP_NUM_THREADS is set")
    model = load(options)
    clock = Clock("wall", model.device)
    requests = problems(model, "countdown-4", options.rows, options.tokens)

    def run() -> int:
        return sum(c.n_tokens for c in decode(model, requests, slots=len(requests)))

    for count in (*counts, TUNED):  # warm-up: compile and choose kernels, touch memory
        with threads(count):
            run()
    rates: dict[str, dict[int, float]] = {}
    for machine, loops in (("quiet", 0), ("busy", options.busy)):
        seen: dict[int, list[float]] = {count: [] for count in (*counts, TUNED)}
        with busy_loops(loops):
            for _ in range(options.rounds):
                for count in seen:
                    with threads(count):
                        seconds, tokens = clock(run)
                    seen[count].append(tokens / seconds)
        rates[machine] = {count: statistics.median(r) for count, r in seen.items()}

    print(f"{model}, {options.rows} rows, {options.rounds} rounds, tokens/s")
    print(f"{'':>8}" + "".join(f"{c:>5} threads" for c in counts) + f"{'tuned':>12}{'of best':>9}")
    ratios = {}
    for machine, found in rates.items():
        best = max(found[c] for c in counts)
        ratios[machine] = round(found[TUNED] / best, 3)
        row = "".join(f"{found[c]:>13.0f}" for c in counts)
        print(f"{machine:>8}{row}{found[TUNED]:>12.0f}{ratios[machine]:>9.2f}")
    figures = {
        "tuned_over_best": ratios,
        "tokens_per_second": {
            machine: {("tuned" if c == TUNED else str(c)): round(rate) for c, rate in found.items()}
            for machine, found in rates.items()
        },
        "busy_loops": options.busy,
        "rows": options.rows,
        "max_tokens": options.tokens,
        "rounds": options.rounds,
    }
    close("threads", model, figures)


if __name__ == "__main__":
    main()
