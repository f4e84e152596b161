"""What recording costs while decoding.

    python -m bench.recording [--model M] [--device D] [--random-weights CONFIG] [--rounds 5]

Each round decodes the same chains twice in one process: without recording, and with the norms and
inner products of every block's stream for every token (from which Block Influence, its sinks and
its averages by event are computed). Both give the same tokens; figures are medians of each round's
ratio. The last line is one JSON object.
"""

from __future__ import annotations

import statistics

import torch

from bench.common import Clock, arguments, close, load, parse, problems
from interp.chains.chain import Chain
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.model.reasoning_model import ReasoningModel


def run(model: ReasoningModel, requests: list[Request], record: bool) -> list[Chain]:
    return list(decode(model, requests, slots=len(requests), record=record))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=768)
    options = parse(parser)
    torch.set_num_threads(options.threads)
    model = load(options)
    clock = Clock(options.clock, model.device)
    requests = problems(model, "countdown-4", options.rows, options.tokens)
    run(model, requests[:4], True)  # warm-up: compile kernels, touch memory
    times: list[tuple[float, float]] = []
    chains: list[Chain] = []
    for r in range(options.rounds):
        found = {}
        for record in (False, True) if r % 2 == 0 else (True, False):
            found[record], made = clock(lambda record=record: run(model, requests, record))
            if record:
                chains = made
        times.append((found[False], found[True]))
    tokens = sum(c.n_tokens for c in chains)
    numbers = sum(c.stream.pre_norm.size * 4 for c in chains if c.stream is not None)
    plain, recorded = (statistics.median(t[i] for t in times) for i in (0, 1))
    ratios = sorted(b / a for a, b in times)
    print(f"{model}, {options.rows} rows, {tokens} tokens, {options.threads} threads, ", end="")
    print(f"{options.clock} seconds, {options.rounds} rounds")
    print(
        f"plain {tokens / plain:.0f} tokens/s, recorded {tokens / recorded:.0f} tokens/s, ", end=""
    )
    print(f"{numbers * 4 / 2**20:.1f} MiB kept")
    print(f"overhead by round: {' '.join(f'{x:.3f}' for x in ratios)}")
    figures = {
        "overhead": round(statistics.median(ratios), 3),
        "overhead_by_round": [round(x, 3) for x in ratios],
        "tokens_per_second": {"plain": round(tokens / plain), "recorded": round(tokens / recorded)},
        "rows": options.rows,
        "max_tokens": options.tokens,
        "threads": options.threads,
        "clock": options.clock,
        "rounds": options.rounds,
    }
    close("recording", model, figures)


if __name__ == "__main__":
    main()
