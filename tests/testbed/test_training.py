"""Training: exact resume, refusal of another run's folder, an ordinary checkpoint at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from interp.errors import UserError
from testbed.training import Recipe, batches, build_model, documents, train, weighted_loss

TINY = Recipe(blocks=2, width=32, heads=2, key_value_heads=1, head_width=16, feed_forward=48,
              tokens=1800, tokens_per_step=300, micro_batch_tokens=400, warm_up_steps=2,
              shares=(("recall", 0.3), ("arithmetic", 0.4), ("countdown-3", 0.3)))  # fmt: skip


def weights(folder):
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.state_dict()


def test_a_stopped_run_ends_with_the_same_weights(tmp_path):
    whole = train(tmp_path / "whole", TINY, device="cpu", save_every=2, quiet=True)
    for _ in range(3):
        train(tmp_path / "parts", TINY, device="cpu", save_every=2, stop_after=2, quiet=True)
    parts = tmp_path / "parts" / "reasoner"
    a, b = weights(whole), weights(parts)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    lines = [json.loads(x) for x in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == TINY.steps
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    whole = train(tmp_path / "whole", TINY, device="cpu", save_every=1, quiet=True)
    code = (
        "import sys; from pathlib import Path; from testbed.training import Recipe, train\n"
        f"train(Path(sys.argv[1]), {TINY!r}, device='cpu', save_every=1, quiet=True)"
    )
    run = tmp_path / "killed"
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", code, str(run)])
        before = (run / "log.jsonl").read_text() if (run / "log.jsonl").exists() else ""
        while process.poll() is None:
            now = (run / "log.jsonl").read_text() if (run / "log.jsonl").exists() else ""
            if now != before:
                os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.01)
        if (run / "reasoner" / "model.safetensors").exists() and process.returncode == 0:
            break
    a, b = weights(whole), weights(run / "reasoner")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_folder_of_another_recipe_is_refused(tmp_path):
    train(tmp_path, TINY, device="cpu", stop_after=1, quiet=True)
    with pytest.raises(UserError, match="another recipe"):
        train(tmp_path, Recipe(seed=1), device="cpu", stop_after=1, quiet=True)


def test_micro_batches_lose_and_double_nothing():
    recipe = Recipe()
    docs = documents(recipe, 0)
    parts = batches(docs, recipe.micro_batch_tokens)
    assert sum(len(ids) for ids, _ in parts) == len(docs)
    total = sum(sum(doc.weights) for doc in docs)
    assert sum(float(w.sum()) for _, w in parts) == pytest.approx(total, rel=1e-5)
    assert all(ids.numel() <= max(recipe.micro_batch_tokens, ids.shape[1]) for ids, _ in parts)
    shares = dict(recipe.shares)
    assert sum(shares.values()) == pytest.approx(1.0)


def test_the_loss_does_not_depend_on_how_it_is_batched():
    model = build_model(TINY).eval()
    docs = documents(TINY, 1)
    with torch.no_grad():
        one = sum(float(weighted_loss(model, *part)) for part in batches(docs, 1))
        many = sum(float(weighted_loss(model, *part)) for part in batches(docs, 10_000))
    assert one == pytest.approx(many, rel=1e-4)
