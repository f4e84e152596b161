"""What neurons add to a logit: they sum to the MLP's contribution, with and without a variant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.chains.chain import Budget
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.interventions import Skip, Variant
from interp.interventions.neurons import Neurons
from interp.lens import contributions
from interp.lens.neuron_attribution import neuron_contributions
from tests.models import tiny

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7"]
CHANGED = Variant("changed", (Skip(0), Neurons(2, (1, 5), scale=-3.0)))


@pytest.mark.parametrize("variant", [None, CHANGED], ids=["dense", "changed"])
@pytest.mark.parametrize("arch", ["qwen3", "phi3", "mistral"])
def test_neurons_add_up_to_their_mlp(arch: str, variant: Variant | None) -> None:
    model = tiny(arch, ends=False)
    sampling = Sampling(top_k=8)  # the end is never drawn
    chains = model.generate(PROMPTS, budget=Budget(12, 2), samples=2, sampling=sampling)
    rows = [np.array([0, 3, 7]), np.array([5]), np.zeros(0, int), np.array([2, 9])]
    found = neuron_contributions(model, chains, rows, variant=variant)
    assert found.blocks == ((0, 1, 2, 3) if variant is None else (1, 2, 3))
    assert found.problems == ("0", "1") and found.n == 6
    whole = contributions(model, chains, events={"rows": rows}, variant=variant)
    mlp = whole.part("chosen", "mlp")[list(found.blocks)]  # [L, K]
    of_first = np.isin(whole.places.chain, [0, 1])
    want = np.stack([mlp[:, of_first].mean(1), mlp[:, ~of_first].mean(1)], 1)  # [L, P]
    got = np.stack([added.sum(1) for added in found.added])
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert np.abs(want).max() > 0.1
    frame = found.to_frame()
    assert len(frame) == 48 * len(found.blocks)
    if variant is not None:
        plain = neuron_contributions(model, chains, rows, variant=Variant("x", (Skip(0),)))
        for j, factor in ((1, 3.0), (5, 3.0), (6, 1.0)):
            np.testing.assert_allclose(found.size[1][:, j], factor * plain.size[1][:, j], rtol=1e-4)


def test_the_size_is_the_norm_of_what_a_neuron_writes() -> None:
    model = tiny()
    (chain,) = model.generate(PROMPTS[:1], budget=Budget(8, 2))
    row = 4
    found = neuron_contributions(model, [chain], [np.array([row])], blocks=[2])
    seen = {}
    down = model.anatomy.down_projection(2)
    handle = down.register_forward_pre_hook(lambda _, args: seen.update(z=args[0]))
    with torch.no_grad():
        model.hf(torch.tensor([[*chain.prompt_ids, *chain.ids]]), use_cache=False)
    handle.remove()
    z = seen["z"][0, len(chain.prompt_ids) - 1 + row]
    want = (z[None] * down.weight).norm(dim=0).detach().numpy()
    np.testing.assert_allclose(found.size[0][0], want, rtol=1e-4)


def test_what_has_no_terms_is_refused() -> None:
    for arch, words in (("gemma2", "norm between its MLP"), ("qwen3_moe", "one per expert")):
        model = tiny(arch)
        chains = model.generate(PROMPTS[:1], budget=Budget(4, 2))
        with pytest.raises(UserError, match=words):
            neuron_contributions(model, chains, [np.array([1])])
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())
    model = tiny()
    with pytest.raises(UserError, match="No position to read"):
        neuron_contributions(
            model, model.generate(PROMPTS[:1], budget=Budget(4, 2)), [np.zeros(0, int)]
        )
