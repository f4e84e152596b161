"""What training the bundled reasoner (or one of another recipe) will cost.

Words and micro-batches are those of the recipe's own first steps; a step costs three forward
passes over its padded words (forward, gradients of activations and of weights), the readout only
where a word has a weight. Looks at held-out problems every `save_every` steps are counted.
Memory: weights, gradients, Muon's one moment (counted as AdamW's two), and the activations of a
micro-batch.
"""

from __future__ import annotations

import time
from typing import Any

from scaling.costs.estimate import WORKSPACE, Estimate, Line
from scaling.costs.machines import Machine
from scaling.costs.model_shape import ModelShape
from testbed.training import Optimizers, Recipe, batches, build_model, documents, weighted_loss

SAVE_EVERY = 50  # of `testbed.training.train`
HELD_OUT = 12  # documents of each kind at a look
STEPS = 3  # whose documents are counted


def estimate_reasoner(
    recipe: Recipe, machine: Machine | None = None, *, stop_after: int | None = None
) -> Estimate:
    """Estimate the cost of `testbed.training.train`.

    Args:
        recipe: the recipe of the reasoner.
        machine: a named machine. None: measure one training step here.
        stop_after: the step after which training stops early. Default: the end of the recipe.

    Returns:
        The estimate.
    """
    model: Any = build_model(recipe)
    shape = ModelShape.of(model.config)
    steps = recipe.steps if stop_after is None else min(recipe.steps, stop_after)
    counted = range(min(STEPS, steps))
    words = flops = 0.0
    for step in counted:
        docs = documents(recipe, step)
        words += sum(len(doc.words) for doc in docs) / len(counted)
        flops += 3 * _forward(shape, batches(docs, recipe.micro_batch_tokens)) / len(counted)
    looks = max(1, -(-steps // SAVE_EVERY))
    look = _forward(shape, _held_out(recipe))
    if machine is None:
        a_step, how = _tried(model, recipe)
        seconds, looking = steps * a_step, looks * look / (flops / a_step)
    else:
        peak = machine.flops * machine.efficiency
        seconds, looking, how = steps * flops / peak, looks * look / peak, machine.about
    width = recipe.width
    kept = recipe.micro_batch_tokens * recipe.blocks * (14 * width + 3 * recipe.feed_forward) * 4
    training, looking_on = (steps * words, steps * flops, seconds), (0.0, looks * look, looking)
    trained = Line.between("training", 0, 0, training, training)
    looked = Line.between("looks", 0, 0, looking_on, looking_on)
    return Estimate(
        what=f"training a reasoner of {shape.weights / 1e6:.2f} M parameters, {steps} steps",
        lines=(trained, looked),
        memory=shape.weights * 4 * 4 + kept + WORKSPACE,
        disk=shape.weights * 4 * 4.0,
        assumptions=(
            how,
            f"{words:,.0f} words a step, as in the first {len(counted)}; "
            f"a look at held-out problems every {SAVE_EVERY} steps",
            "weights and states in float32",
            *(
                [
                    "the least that products take: on a GPU a model this small waits for kernels "
                    "to be launched, and for the documents that the host writes"
                ]
                if machine is not None and machine.number_bytes == 2
                else []
            ),
        ),
    )


def _forward(shape: ModelShape, parts: list[Any]) -> float:
    """FLOPs of a forward pass over micro-batches; only words with a weight are read out."""
    total = 0.0
    head = 2 * shape.cost.head
    for ids, weights in parts:
        rows, length = ids.shape
        blocks = float(shape.cost.chain(1, length - 1)) - head * (length - 1)
        total += rows * blocks + head * float((weights[:, 1:] > 0).sum())
    return total


def _held_out(recipe: Recipe) -> list[Any]:
    """The micro-batches of one evaluation, as `testbed.training.held_out_losses` makes them."""
    import random

    from testbed.expert import write
    from testbed.problems import KINDS, stream

    found = []
    for kind in KINDS:
        rng, source = random.Random(f"held-out/{kind}"), stream(kind, "held-out", "test")
        docs = [write(next(source), rng) for _ in range(HELD_OUT)]
        found += batches(docs, recipe.micro_batch_tokens)
    return found


def _tried(model: Any, recipe: Recipe) -> tuple[float, str]:
    """Seconds per step, measured here on the second of two steps."""
    optimizers = Optimizers(model, recipe)
    model.train()
    seconds = 0.0
    for step in range(2):
        began = time.perf_counter()
        for ids, weights in batches(documents(recipe, step), recipe.micro_batch_tokens):
            weighted_loss(model, ids, weights).backward()
        optimizers.step(recipe.rate(step))
        seconds = time.perf_counter() - began
    return seconds, f"a step tried here took {seconds:.2f} s"
