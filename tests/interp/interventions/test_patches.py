"""Patches of a chain's own deltas: put back they change nothing, elsewhere they carry the block."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.chains.chain import Budget
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.interventions import Scale, Skip, Variant, dense
from interp.interventions.patches import Patch
from interp.probes import gather
from interp.replay.divergence import divergence
from tests.models import tiny
from tests.reference import same_chain, slow_logprobs
from tests.tolerances import kl_noise, logit_noise

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7"]
LONG = Sampling(top_k=8)


def decoded(model, *variants):
    return model.generate(
        PROMPTS, variants=list(variants), budget=Budget(20, 4), sampling=LONG, samples=2
    )


@pytest.mark.parametrize("part", ["block", "attention", "mlp"])
@pytest.mark.parametrize("arch", ["qwen3", "gemma2"])
def test_own_values_put_back_change_nothing(arch: str, part) -> None:
    model = tiny(arch, ends=False)
    chains = decoded(model, dense)
    own = Variant("own", (Patch.from_chains(model, 2, chains, part=part),))
    found = divergence(model, chains, own)
    assert max(float(kl.max()) for kl in found.quantities["kl"]) <= kl_noise(model)
    for chain, again in zip(chains, decoded(model, own), strict=True):
        assert same_chain(chain, again)


def test_the_rows_of_gather_put_back_change_nothing() -> None:
    """`gather` and `Patch.chains` count rows alike: row s chose token s."""
    model = tiny(ends=False)
    chains = decoded(model, dense)
    rows = gather(model, chains, [range(c.n_tokens) for c in chains], blocks=[2], stream="delta")
    parts = np.split(rows[:, 0], np.cumsum([c.n_tokens for c in chains])[:-1])
    own = Variant("own", (Patch.chains(2, chains, [torch.from_numpy(p) for p in parts]),))
    for chain, again in zip(chains, decoded(model, own), strict=True):
        assert same_chain(chain, again)
    shifted = [torch.from_numpy(np.roll(p, 1, axis=0)) for p in parts]
    other = decoded(model, Variant("off by one", (Patch.chains(2, chains, shifted),)))
    assert not all(same_chain(a, b) for a, b in zip(chains, other, strict=True))


def test_a_blocks_values_under_a_variant() -> None:
    """Block 2 adds what it adds where block 0 is halved, though block 0 is whole."""
    model = tiny(ends=False)
    chains = decoded(model, dense)
    half = Variant("half", (Scale(0, 0.5),))
    hurt = Variant("hurt", (Patch.from_chains(model, 2, chains, variant=half),))
    for chain in decoded(model, hurt):
        source = next(c for c in chains if (c.problem, c.sample) == (chain.problem, chain.sample))
        prompt, n = len(source.prompt_ids), source.n_tokens - 1
        cache = model.run_with_cache(source, half)
        delta = (cache["resid_post", 2] - cache["resid_pre", 2])[0, prompt:]

        def edit(own, delta=delta, prompt=prompt, n=n):
            new = own.clone()
            size = min(n, len(own) - prompt)
            new[prompt : prompt + size] = delta[:size]
            return new

        want = slow_logprobs(model, chain, {(2, "block"): edit})
        np.testing.assert_allclose(chain.logprob, want, atol=logit_noise(model), rtol=0)


def test_a_skipped_blocks_values_are_zeros() -> None:
    model = tiny(ends=False)
    chains = decoded(model, dense)
    patch = Patch.from_chains(model, 1, chains, variant=Skip(1))
    assert patch.stream is not None
    assert (patch.stream[~patch.stream.isnan()] == 0).all()


def test_what_cannot_be_patched_is_refused() -> None:
    model = tiny(ends=False)
    chains = decoded(model, dense)
    with pytest.raises(UserError, match="is no activation of this model"):
        Patch.from_chains(model, 9, chains)
    with pytest.raises(UserError, match="two chains have the same problem"):
        Patch.from_chains(model, 1, [chains[0], chains[0]])
    with pytest.raises(UserError, match="at least one"):
        Patch.from_chains(model, 1, [])
