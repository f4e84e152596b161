"""Training the reasoner costs what was said: words and FLOPs counted while it trains."""

from __future__ import annotations

import json
from pathlib import Path

from scaling.costs.machines import machine
from scaling.costs.reasoner_costs import estimate_reasoner
from testbed.training import Recipe, train
from tests.counting import counted, within

SMALL = Recipe(blocks=2, width=128, heads=2, key_value_heads=1, head_width=16, feed_forward=384,
               tokens=9600, tokens_per_step=1600, micro_batch_tokens=800,
               warm_up_steps=2)  # fmt: skip


def test_words_and_flops_are_those_of_the_training(tmp_path: Path) -> None:
    said = estimate_reasoner(SMALL, machine("cpu"))
    _, real = counted(lambda: train(tmp_path / "run", SMALL, device="cpu", quiet=True))
    (line,) = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert line["step"] == SMALL.steps
    assert within(said.tokens, line["tokens"], 1.2)
    assert within(said.total("flops"), real), said.total("flops") / real
    kept = [tmp_path / "run/state.pt", *(tmp_path / "run/reasoner").glob("*.safetensors")]
    assert within(said.disk, sum(f.stat().st_size for f in kept), 2)


def test_a_step_tried_here_and_a_training_that_stops_early() -> None:
    whole, part = estimate_reasoner(SMALL), estimate_reasoner(SMALL, stop_after=3)
    assert part.lines[0].flops * 2 == whole.lines[0].flops
    assert "tried here" in whole.assumptions[0]
    assert whole.seconds > 0
    gpu = estimate_reasoner(SMALL, machine("h200"))
    assert any("waits for kernels" in text for text in gpu.assumptions)
    assert gpu.total("flops") == whole.total("flops")
