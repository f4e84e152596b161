"""Interventions by a function: laws against dense, Skip and slow passes, live and by replay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.chains.chain import Budget
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.function_edits import EditDelta, EditStream
from interp.interventions.hooks import apply
from interp.interventions.interventions import Skip, Variant, dense
from interp.interventions.windows import Window
from interp.replay.divergence import divergence
from tests.models import tiny
from tests.reference import same_chain, skipped, slow_logits, slow_logprobs
from tests.tolerances import logit_noise

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7"]
LONG = Sampling(top_k=8)
PARTS = ("block", "attention", "mlp")


def same(values, at):
    return values


def nothing(values, at):
    return torch.zeros_like(values)


def turned(values, at):
    return values.flip(-1)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("decoder", ["fast", "generic"])
def test_the_identity_is_dense_and_zeros_are_skip(part, decoder: str) -> None:
    model = tiny(ends=False)
    variants = [
        dense,
        Variant("same", (EditDelta(1, same, part=part),)),
        Variant("skip", (Skip(1, part=part),)),
        Variant("none", (EditDelta(1, nothing, part=part),)),
        Variant("stream", (EditStream(1, same),)),
    ]
    chains = model.generate(
        PROMPTS, variants=variants, budget=Budget(20, 4), sampling=LONG, decoder=decoder
    )
    by = {(c.problem, c.variant): c for c in chains}
    for problem in {c.problem for c in chains}:
        plain, skip = by[problem, "dense"], by[problem, "skip"]
        assert same_chain(by[problem, "same"], plain) and same_chain(by[problem, "stream"], plain)
        assert same_chain(by[problem, "none"], skip)
        assert not same_chain(skip, plain)


@pytest.mark.parametrize("part", PARTS)
def test_a_function_acts_live_as_in_one_slow_pass(part) -> None:
    model = tiny(ends=False)
    edits = Variant("edits", (EditDelta(2, turned, part=part, window=Window(3)),))
    chains = model.generate(PROMPTS, variants=[dense, edits], budget=Budget(20, 4), sampling=LONG)
    for chain in chains:
        steps = torch.arange(len(chain.prompt_ids) + chain.n_tokens) - len(chain.prompt_ids)

        def edit(delta, steps=steps):
            return torch.where((steps >= 3)[:, None], delta.flip(-1), delta)

        want = slow_logprobs(model, chain, {(2, part): edit} if chain.variant == "edits" else None)
        np.testing.assert_allclose(chain.logprob, want, atol=logit_noise(model), rtol=0)


def test_the_step_and_the_row_reach_the_function() -> None:
    """A delta that is dropped at even steps, by the function itself, is `Skip` at those steps."""
    model = tiny(ends=False)

    def odd_steps(delta, at):
        return torch.where((at.steps % 2 == 0)[..., None], 0.0, delta)

    (chain,) = model.generate(
        PROMPTS[:1], variants=[EditDelta(1, odd_steps)], budget=Budget(16, 4), sampling=LONG
    )
    gone = skipped(chain, 0)

    def edit(delta):
        steps = torch.arange(len(delta)) - len(chain.prompt_ids)
        return torch.where((steps % 2 == 0)[:, None], gone(delta), delta)

    want = slow_logprobs(model, chain, {(1, "block"): edit})
    np.testing.assert_allclose(chain.logprob, want, atol=logit_noise(model), rtol=0)
    assert chain.variant == "edit 1 odd_steps"


def test_the_stream_itself_can_be_edited_also_in_replay() -> None:
    model = tiny(ends=False)
    turn = EditStream(1, turned, label="turned")
    chains = model.generate(PROMPTS, variants=[turn], budget=Budget(12, 2), sampling=LONG)
    assert {c.variant for c in chains} == {"edit stream 1 turned"}
    found = divergence(model, chains, Variant("turned", (turn,)), dense)
    for chain, logprob in zip(chains, found.quantities["logprob"], strict=True):
        own = ~chain.forced
        np.testing.assert_allclose(logprob[own], chain.logprob[own], atol=logit_noise(model))
    ids = [2, 6, 8, 33, 37]
    with torch.no_grad(), apply(model, turn):
        got = model.hf(torch.tensor([ids]), use_cache=False).logits[0]
    handle = model.blocks[1].register_forward_hook(lambda _, __, out: out.flip(-1))
    want = slow_logits(model, ids)
    handle.remove()
    assert torch.equal(got, want)


def test_a_function_may_write_into_what_it_is_given() -> None:
    """It gets a copy: the other rows keep their own numbers."""
    model = tiny(ends=False)

    def wipe(values, at):
        values[..., :16] = 0.0
        return values

    for part in PARTS:
        chains = model.generate(
            PROMPTS, variants=[dense, EditDelta(1, wipe, part=part)], budget=Budget(12, 2)
        )
        alone = model.generate(PROMPTS, budget=Budget(12, 2))
        for chain, plain in zip([c for c in chains if c.variant == "dense"], alone, strict=True):
            assert same_chain(chain, plain)


def test_errors_in_a_function_name_the_block_and_the_step() -> None:
    model = tiny(ends=False)

    def late(values, at):
        if int(at.steps.max()) >= 3:
            raise ValueError("no more")
        return values

    with pytest.raises(UserError, match=r"EditDelta 'late' of block 2 at step 3.*ValueError: no"):
        model.generate(PROMPTS[:1], variants=[EditDelta(2, late)], budget=Budget(8, 2))
    wrong = EditDelta(2, lambda values, at: values[..., :3])
    with pytest.raises(UserError, match=r"'lambda' of block 2 at step -1.*expected a tensor of"):
        model.generate(PROMPTS[:1], variants=[wrong], budget=Budget(8, 2))
    with pytest.raises(UserError, match="returned NoneType"):
        model.generate(
            PROMPTS[:1], variants=[EditStream(0, lambda *_: None)],  # type: ignore[arg-type]
            budget=Budget(8, 2),
        )  # fmt: skip
    with pytest.raises(UserError, match="the stream leaves whole blocks only"):
        EditStream(1, same, part="mlp")
    assert not any(m._forward_hooks for b in model.blocks for m in b.modules() if m is not b)
