"""The lens and the contributions: equal to a slow float64 reading of one text at a time."""

# Hugging Face modules are untyped from the outside: their children are `Tensor | Module`.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from torch import nn
from transformers import AutoModelForCausalLM

import interp.replay.teacher_forced
from interp.chains.chain import Budget, Chain
from interp.errors import NonFiniteError, PruneScopeError, UserError
from interp.interventions.interventions import ResampleDelta, Scale, Skip, Variant
from interp.interventions.windows import Answer, Window
from interp.lens import CHOSEN, EMBEDDING, Contributions, Lens, contributions, lens
from interp.model.reasoning_model import ReasoningModel
from pruning.plan import LayerPlan
from pruning.surgery import prune
from tests.chains import make_chain
from tests.drawing import max_examples
from tests.models import ARCHS, tiny, tokenizer, untyped
from tests.reference import skipped, slow_logits
from tests.slow_streams import hooks_of, plant_identity, same_weights, snapshot, texts

LENGTHS = (5, 19, 2, 11)
SET = [8, 30, 9]


def chain(
    model: ReasoningModel, prompt: int, steps: int, problem: str = "p", seed: int = 0
) -> Chain:
    """A chain of random tokens; nothing here looks at how it came about."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(6, model.vocab_size, size=prompt + steps)
    return make_chain(
        ids[prompt:], ids[:prompt], problem=problem, seed=seed, thinking_finish="none",
        layer_map=model.layer_map,
    )  # fmt: skip


# ------------------------------------------------------------------- the slow reference


@dataclass(frozen=True)
class SlowLens:
    """Everything of one text in float64: streams [L+1, T, D], what each part wrote [L, T, D]."""

    stream: np.ndarray
    attention: np.ndarray
    mlp: np.ndarray
    gain: np.ndarray
    eps: float
    head: np.ndarray
    cap: float | None

    def scale(self) -> np.ndarray:
        return 1 / np.sqrt((self.stream**2).mean(-1, keepdims=True) + self.eps)

    def logits(self) -> np.ndarray:
        """[L+1, T, V]: the root mean square norm and the head, written out."""
        raw = (self.stream * self.scale() * self.gain) @ self.head.T
        return raw if self.cap is None else np.tanh(raw / self.cap) * self.cap

    def direct(self, vectors: np.ndarray) -> np.ndarray:
        """[..., T, V]: what vectors add to every logit, the scale of the last norm held fixed."""
        return (vectors * self.scale()[-1] * self.gain) @ self.head.T


def slow(model: ReasoningModel, ids: Any) -> SlowLens:
    """Hooks written here, one text, unpadded. Where Gemma has its norms behind, they are read."""
    kept: dict[tuple[str, int], np.ndarray] = {}
    handles = []

    def keep(name: tuple[str, int]) -> Any:
        def hook(_: nn.Module, args: Any, out: Any) -> None:
            value = out[0] if isinstance(out, tuple) else out
            kept[name] = value[0].detach().double().numpy()

        return hook

    def keep_entering(_: nn.Module, args: Any, kwargs: Any) -> None:
        value = args[0] if args else kwargs["hidden_states"]
        kept["pre", 0] = value[0].detach().double().numpy()

    behind = {"gemma2", "gemma3_text", "olmo2"}
    kind = model.hf.config.model_type
    try:
        first = model.hf.model.layers[0].register_forward_pre_hook(keep_entering, with_kwargs=True)
        handles.append(first)
        for l, block in enumerate(model.hf.model.layers):
            named = {"post": block, "attention": block.self_attn, "mlp": block.mlp}
            if kind in behind:
                named["attention"] = block.post_attention_layernorm
                named["mlp"] = block.post_feedforward_layernorm
            handles += [m.register_forward_hook(keep((n, l))) for n, m in named.items()]
        with torch.no_grad():
            model.hf(torch.tensor([list(ids)]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    norm = model.hf.model.norm
    weight = norm.weight.detach().double().numpy()
    eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    blocks = range(model.n_blocks)
    return SlowLens(
        stream=np.stack([kept["pre", 0], *(kept["post", l] for l in blocks)]),
        attention=np.stack([kept["attention", l] for l in blocks]),
        mlp=np.stack([kept["mlp", l] for l in blocks]),
        gain=1 + weight if kind.startswith("gemma") else weight,
        eps=eps,
        head=model.hf.lm_head.weight.detach().double().numpy(),
        cap=getattr(model.hf.config, "final_logit_softcapping", None),
    )


def rows_of(found: Lens | Contributions, n: int) -> np.ndarray:
    return found.places.chain == n


# ------------------------------------------------------------------------------- the lens


@pytest.mark.parametrize("arch", ARCHS)
def test_every_row_is_what_the_slow_reading_says(arch: str) -> None:
    model = tiny(arch, 3)
    sequences = texts(model, LENGTHS)
    found = lens(model, sequences, {"one": 7, "some": SET}, batch_tokens=40)
    assert found.blocks == (EMBEDDING, 0, 1, 2)
    for n, ids in enumerate(sequences):
        logits = slow(model, ids).logits()
        logp = log_softmax(logits, axis=-1)
        own = rows_of(found, n)
        assert found.places.step[own].tolist() == list(range(len(ids)))
        np.testing.assert_allclose(found.entropy[:, own], -(np.exp(logp) * logp).sum(-1), atol=2e-5)
        kl = (np.exp(logp[-1]) * (logp[-1] - logp)).sum(-1)
        np.testing.assert_allclose(found.kl[:, own], kl, atol=2e-5)
        np.testing.assert_allclose(found.logprob["one"][:, own], logp[:, :, 7], atol=2e-5)
        some = logsumexp(logp[:, :, SET], axis=-1)
        np.testing.assert_allclose(found.logprob["some"][:, own], some, atol=2e-5)
        for name, members in (("one", [7]), ("some", SET)):
            best = logits[:, :, members].max(-1, keepdims=True)
            clear = (np.abs(logits - best) > 1e-4).sum(-1) == model.vocab_size - 1
            rank = (logits > best).sum(-1)
            assert clear.mean() > 0.5
            np.testing.assert_array_equal(found.rank[name][:, own][clear], rank[clear])
        chosen = found.logprob[CHOSEN][:, own]
        expected = logp[:, np.arange(len(ids) - 1), ids[1:]]
        np.testing.assert_allclose(chosen[:, :-1], expected, atol=2e-5)
        assert np.isnan(chosen[:, -1]).all()  # nothing was chosen after the last token
        assert np.isnan(found.rank[CHOSEN][:, own][:, -1]).all()


@pytest.mark.parametrize("arch", ARCHS)
def test_the_last_row_is_the_models_own_output_at_the_choice_of_each_token(arch: str) -> None:
    model = tiny(arch, 2)
    chains = [chain(model, 6, 13), chain(model, 3, 4, seed=1)]
    found = lens(model, chains)
    assert found.places.lengths.tolist() == [13, 4]
    for n, one in enumerate(chains):
        ids = [*one.prompt_ids.tolist(), *one.ids.tolist()]
        logp = slow_logits(model, ids).log_softmax(-1)
        at = len(one.prompt_ids) - 1 + torch.arange(one.n_tokens)
        own = rows_of(found, n)
        got = torch.from_numpy(found.logprob[CHOSEN][-1, own])
        torch.testing.assert_close(got, logp[at, torch.from_numpy(one.ids)], atol=1e-5, rtol=0)
        entropy = -(logp.exp() * logp).sum(-1)[at]
        torch.testing.assert_close(
            torch.from_numpy(found.entropy[-1, own]), entropy, atol=1e-5, rtol=0
        )
    assert (found.kl[-1] == 0).all()
    assert (found.kl[:-1] > 1e-4).all()


def test_the_last_row_is_what_the_decoder_noted() -> None:
    model = tiny("qwen3", 3)
    chains = model.generate(["use 3", "make 4 ?"], budget=Budget(12, 4), samples=2)
    found = lens(model, chains)
    noted = np.concatenate([c.logprob for c in chains])
    entropy = np.concatenate([c.entropy for c in chains])
    own = ~np.concatenate([c.forced for c in chains])
    assert own.sum() > 20
    np.testing.assert_allclose(found.logprob[CHOSEN][-1, own], noted[own], atol=1e-5)
    np.testing.assert_allclose(found.entropy[-1, own], entropy[own], atol=1e-4)


@max_examples(10)
@given(
    lengths=st.lists(st.integers(1, 24), min_size=1, max_size=5),
    batch_tokens=st.integers(1, 80),
    chunk_tokens=st.none() | st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_batching_padding_chunks_and_order_change_nothing(
    lengths: list[int], batch_tokens: int, chunk_tokens: int | None, seed: int
) -> None:
    model = tiny("qwen3", 2)
    sequences = texts(model, lengths, seed)
    order = np.random.default_rng(seed).permutation(len(sequences))
    shuffled = [sequences[i] for i in order]
    size = {"batch_tokens": batch_tokens, "chunk_tokens": chunk_tokens}
    one = lens(model, sequences, {"some": SET}, batch_tokens=1)
    many = lens(model, shuffled, {"some": SET}, **size)
    split = contributions(model, sequences, {"some": SET}, batch_tokens=1)
    joint = contributions(model, shuffled, {"some": SET}, **size)
    for there, here in enumerate(order):
        a, b = rows_of(one, here), rows_of(many, there)
        np.testing.assert_allclose(many.kl[:, b], one.kl[:, a], atol=2e-5)
        np.testing.assert_allclose(many.entropy[:, b], one.entropy[:, a], atol=2e-5)
        for name in (CHOSEN, "some"):
            np.testing.assert_allclose(many.logprob[name][:, b], one.logprob[name][:, a], atol=2e-5)
            np.testing.assert_allclose(
                joint.parts[name][..., b], split.parts[name][..., a], atol=5e-5
            )


def test_events_read_some_positions_and_change_no_number() -> None:
    model = tiny("mistral", 3)
    chains = [chain(model, 4, 30), chain(model, 9, 8, seed=1), chain(model, 2, 17, seed=2)]
    masks = [np.arange(c.n_tokens) % 5 == 2 for c in chains]
    masks[1][:] = False
    steps = [np.array([3, 11]), np.array([], dtype=np.int64), np.array([0])]
    every, some = lens(model, chains), lens(model, chains, events={"fifth": masks, "few": steps})
    kept = np.concatenate(
        [m | np.isin(np.arange(len(m)), s) for m, s in zip(masks, steps, strict=True)]
    )
    assert len(some.places) == kept.sum() == 12
    np.testing.assert_allclose(some.entropy, every.entropy[:, kept], atol=1e-5)
    np.testing.assert_allclose(some.logprob[CHOSEN], every.logprob[CHOSEN][:, kept], atol=1e-5)
    np.testing.assert_array_equal(some.places.chain, every.places.chain[kept])
    np.testing.assert_array_equal(some.places.step, every.places.step[kept])
    np.testing.assert_array_equal(some.places.events["fifth"], np.concatenate(masks)[kept])
    whole = contributions(model, chains)
    part = contributions(model, chains, events={"fifth": masks, "few": steps})
    np.testing.assert_allclose(part.parts[CHOSEN], whole.parts[CHOSEN][..., kept], atol=5e-5)


def test_only_what_is_read_is_run() -> None:
    """A chain is cut behind its last position, and one without positions is not run at all."""
    model = tiny("qwen3", 2)
    chains = [chain(model, 4, 40), chain(model, 4, 50, seed=1)]
    seen = []
    handle = model.hf.get_input_embeddings().register_forward_hook(
        lambda _, args, out: seen.append(args[0].shape)
    )
    lens(model, chains, events={"x": [np.array([2]), np.array([], dtype=np.int64)]})
    handle.remove()
    assert [tuple(shape) for shape in seen[2:]] == [(1, 6)]  # the first two check the readout


def test_a_target_of_its_own_at_every_position() -> None:
    model = tiny("qwen3", 2)
    chains = [chain(model, 4, 9), chain(model, 3, 5, seed=1)]
    shifted = [np.append(c.ids[1:], -1) for c in chains]  # the token after the chosen one
    found = lens(model, chains, {"next": shifted})
    split = contributions(model, chains, {"next": shifted}, centred=False)
    for n, one in enumerate(chains):
        ids = [*one.prompt_ids.tolist(), *one.ids.tolist()]
        logits = slow_logits(model, ids).numpy()
        logp = log_softmax(logits, axis=-1)
        at = len(one.prompt_ids) - 1 + np.arange(one.n_tokens - 1)
        got = found.logprob["next"][-1, rows_of(found, n)]
        np.testing.assert_allclose(got[:-1], logp[at, one.ids[1:]], atol=1e-5)
        logit = split.logit["next"][rows_of(split, n)]
        np.testing.assert_allclose(logit[:-1], logits[at, one.ids[1:]], atol=1e-5)
        assert np.isnan(got[-1]) and np.isnan(logit[-1])
        assert np.isnan(split.part("next")[:, rows_of(split, n)][:, -1]).all()


# ------------------------------------------------------------------------------- variants


@pytest.mark.parametrize("skipped_block", [0, 2, 3])
def test_a_skipped_block_has_the_row_before_it(skipped_block: int) -> None:
    model = tiny("qwen3", 4)
    sequences = texts(model, LENGTHS)
    found = lens(model, sequences, variant=Variant("x", (Skip(skipped_block),)))
    row = found.blocks.index(skipped_block)
    for values in (found.entropy, found.kl, found.logprob[CHOSEN]):
        np.testing.assert_allclose(values[row], values[row - 1], atol=1e-6)
    plan = LayerPlan.without(model, skipped_block)
    pruned = lens(prune(model, plan), sequences)
    assert pruned.blocks == tuple(b for b in found.blocks if b != skipped_block)
    np.testing.assert_allclose(np.delete(found.entropy, row, 0), pruned.entropy, atol=1e-5)
    plain = lens(model, sequences)
    assert np.abs(plain.entropy[-1] - found.entropy[-1]).max() > 0.01
    split = contributions(model, sequences, variant=plan)
    assert (split.parts[CHOSEN][skipped_block][..., ~np.isnan(split.logit[CHOSEN])] == 0).all()


def test_a_variant_that_changes_a_block_is_seen_after_the_change() -> None:
    """The row of the changed block itself shows the change, and its delta is what it became."""
    model = tiny("llama", 3)
    sequences = texts(model, LENGTHS)
    whole = Variant("half", (Scale(1, gain=0.5),))
    parts = Variant("halves", (Scale(1, gain=0.5, part="attention"), Skip(2, part="mlp")))
    plain, split_plain = lens(model, sequences), contributions(model, sequences)
    for variant in (whole, parts):
        found = lens(model, sequences, variant=variant)
        split = contributions(model, sequences, variant=variant)
        np.testing.assert_allclose(found.entropy[:2], plain.entropy[:2], atol=1e-5)
        assert np.abs(found.entropy[2] - plain.entropy[2]).max() > 1e-3
        for n, ids in enumerate(sequences):
            edits = {
                (s.block, s.part): (lambda d, s=s: d * getattr(s, "gain", 0.0))
                for s in variant.interventions()
            }
            logp = slow_logits(model, ids.tolist(), edits).log_softmax(-1)
            entropy = -(logp.exp() * logp).sum(-1)
            np.testing.assert_allclose(found.entropy[-1, rows_of(found, n)], entropy, atol=1e-5)
        known = ~np.isnan(split.logit[CHOSEN])
        total = split.embedding[CHOSEN] + split.part().sum(0)
        np.testing.assert_allclose(total[known], split.logit[CHOSEN][known], atol=1e-4)
        if variant is parts:
            both = split.part(CHOSEN, "attention") + split.part(CHOSEN, "mlp")
            np.testing.assert_allclose(both[:, known], split.part()[:, known], atol=1e-4)
            assert (split.part(CHOSEN, "mlp")[2, known] == 0).all()
        else:  # half of what the parts wrote; the scale of the last norm is the variant's own
            both = split.part(CHOSEN, "attention") + split.part(CHOSEN, "mlp")
            np.testing.assert_allclose(both[1, known] / 2, split.part()[1, known], atol=1e-4)
    assert np.isfinite(split_plain.part()[:, known]).all()


def test_windows_count_the_steps_of_each_chain() -> None:
    model = tiny("qwen3", 3)
    chains = [chain(model, 6, 13), chain(model, 3, 9, seed=1)]
    variant = Variant("late", (Skip(1, window=Window(2, 6)),))
    found = lens(model, chains, variant=variant)
    for n, one in enumerate(chains):
        ids = [*one.prompt_ids.tolist(), *one.ids.tolist()]
        logp = slow_logits(model, ids, {(1, "block"): skipped(one, 2, 6)}).log_softmax(-1)
        at = len(one.prompt_ids) - 1 + np.arange(one.n_tokens)
        got = found.logprob[CHOSEN][-1, rows_of(found, n)]
        np.testing.assert_allclose(got, logp.numpy()[at, one.ids], atol=1e-5)
        moved = np.abs(got - lens(model, [one]).logprob[CHOSEN][-1]) > 1e-5
        assert moved.any() and np.flatnonzero(moved).min() == 3  # the token after step 2


def test_windows_at_the_answer_lie_where_they_lay_when_decoding() -> None:
    model = tiny("qwen3", 3)
    variant = Variant("answer only", (Skip(1, window=Answer()), Scale(2, gain=0.5)))
    chains = model.generate(["use 3", "make 4 ?"], [variant], budget=Budget(12, 6), samples=2)
    own = np.concatenate([~c.forced for c in chains])
    noted = np.concatenate([c.logprob for c in chains])
    for chunk_tokens in (None, 5):
        found = lens(model, chains, variant=variant, chunk_tokens=chunk_tokens)
        np.testing.assert_allclose(found.logprob[CHOSEN][-1, own], noted[own], atol=1e-5)
    plain = lens(model, chains).logprob[CHOSEN][-1]
    assert np.abs(plain - noted)[own].max() > 0.01


def test_random_deltas_do_not_depend_on_the_batch() -> None:
    model = tiny("qwen3", 3)
    chains = [chain(model, 6, 13), chain(model, 3, 9, seed=1)]
    pool = torch.randn(20, model.d_model, generator=torch.Generator().manual_seed(0))
    variant = Variant("noise", (ResampleDelta(1, pool=pool),))
    one, many = (lens(model, chains, variant=variant, batch_tokens=n) for n in (1, 999))
    np.testing.assert_allclose(one.entropy, many.entropy, atol=1e-5)


# -------------------------------------------------------------------------- contributions


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("arch", ARCHS)
def test_contributions_are_the_slow_ones_and_add_up_to_the_logit(arch: str, centred: bool) -> None:
    model = tiny(arch, 3)
    sequences = texts(model, LENGTHS)
    found = contributions(model, sequences, {"some": SET}, centred=centred, batch_tokens=40)
    assert found.blocks == (0, 1, 2)
    for n, ids in enumerate(sequences):
        one, own = slow(model, ids), rows_of(found, n)
        wrote = {
            "block": one.stream[1:] - one.stream[:-1],
            "attention": one.attention,
            "mlp": one.mlp,
        }
        last = one.direct(one.stream[-1])
        for name in (CHOSEN, "some"):

            def of(table: np.ndarray, name: str = name, ids: np.ndarray = ids) -> np.ndarray:
                """[..., T, V] of the target, less the mean over the vocabulary."""
                if name == "some":
                    got = table[..., SET].mean(-1)
                else:
                    got = table[..., np.arange(len(ids)), np.append(ids[1:], 0)]
                    got[..., -1] = np.nan
                return got - table.mean(-1) if centred else got

            size = np.nanmax(np.abs(of(one.direct(one.stream)))) if len(ids) > 1 else 1.0
            for part, vectors in wrote.items():
                np.testing.assert_allclose(
                    found.part(name, part)[:, own], of(one.direct(vectors)), atol=1e-5 * size + 1e-6
                )
            np.testing.assert_allclose(
                found.embedding[name][own], of(one.direct(one.stream[0])), atol=1e-5 * size + 1e-6
            )
            np.testing.assert_allclose(found.logit[name][own], of(last), atol=1e-5 * size + 1e-6)
            total = found.embedding[name] + found.part(name).sum(0)
            both = found.part(name, "attention") + found.part(name, "mlp")
            logit = found.logit[name][own]
            np.testing.assert_allclose(total[own], logit, rtol=1e-4, atol=1e-4 * size)
            np.testing.assert_allclose(both[:, own], found.part(name)[:, own], atol=1e-4 * size)
            assert (found.constant[name][own][~np.isnan(logit)] == 0).all()  # no bias anywhere
    if arch == "gemma2" and not centred:  # the logit before its soft cap
        cap = model.hf.config.final_logit_softcapping
        with torch.no_grad():
            theirs = model.hf(torch.tensor(sequences[0])[None]).logits[0].numpy()
        got = np.tanh(found.logit["some"][rows_of(found, 0)] / cap) * cap
        assert np.abs(got - theirs[:, SET].mean(-1)).max() < 0.05  # a mean of caps, nearly


def other(kind: str, **shape: Any) -> ReasoningModel:
    """A tiny model of an architecture with LayerNorm, biases or factors on its logits."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer()), hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256,
        bos_token_id=None, eos_token_id=3, pad_token_id=1, **shape,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, weight in hf.named_parameters():
                drawn = torch.randn_like(weight) * 0.15
                weight.copy_(1 + drawn if weight.ndim == 1 and name.endswith("weight") else drawn)
    return ReasoningModel.load(hf.eval(), tokenizer(), name=kind)


@pytest.mark.parametrize(
    ("kind", "constant"),
    [("GPTNeoX", True), ("StableLm", True), ("Phi", True), ("Cohere", False)],
)
def test_layer_norms_biases_and_factors_of_the_logits(kind: str, constant: bool) -> None:
    """Centred norms with bias, a bias of the head (Phi), logits times a factor (Cohere)."""
    model = other(kind)
    sequences = texts(model, LENGTHS)
    ids = sequences[1]
    with torch.no_grad():
        logits = model.hf(torch.tensor(ids)[None]).logits[0].numpy()
    for centred in (True, False):
        found = contributions(model, sequences, {"some": SET}, centred=centred)
        own = rows_of(found, 1)
        expected = logits[:, SET].mean(-1) - (logits.mean(-1) if centred else 0)
        np.testing.assert_allclose(found.logit["some"][own], expected, atol=1e-5)
        total = found.embedding["some"] + found.part("some").sum(0) + found.constant["some"]
        np.testing.assert_allclose(total[own], expected, rtol=1e-4, atol=1e-5)
        assert (np.abs(found.constant["some"]).max() > 1e-3) == constant
    seen = lens(model, sequences)
    np.testing.assert_allclose(
        seen.logprob[CHOSEN][-1, rows_of(seen, 1)][:-1],
        log_softmax(logits, axis=-1)[np.arange(len(ids) - 1), ids[1:]],
        atol=1e-5,
    )


def test_a_block_that_scales_what_its_parts_wrote_is_refused() -> None:
    """Granite multiplies the outputs of attention and MLP: they are not what is added."""
    model = other("Granite", residual_multiplier=0.3, logits_scaling=4.0)
    sequences = texts(model, LENGTHS)
    with pytest.raises(PruneScopeError, match="attention and MLP"):
        contributions(model, sequences)
    assert hooks_of(model) == 0
    fine = other("Granite", residual_multiplier=1.0, logits_scaling=4.0)
    found = contributions(fine, sequences, centred=False)
    with torch.no_grad():
        logits = fine.hf(torch.tensor(sequences[0])[None]).logits[0].numpy()
    got = found.logit[CHOSEN][rows_of(found, 0)][:-1]
    np.testing.assert_allclose(got, logits[np.arange(4), sequences[0][1:]], atol=1e-5)


def test_an_unknown_final_norm_is_refused() -> None:
    class Squash(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(size))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x) * self.weight

    plain = tiny("qwen3", 2)
    plain.hf.model.norm = Squash(plain.d_model)
    model = ReasoningModel.load(plain.hf, tokenizer(), name="squashed")
    sequences = texts(model, LENGTHS)
    assert np.isfinite(lens(model, sequences).entropy).all()  # the lens needs no linearity
    with pytest.raises(UserError, match=r"Squash.*neither an RMSNorm nor a LayerNorm"):
        contributions(model, sequences)
    assert hooks_of(model) == 0


def test_a_planted_block_is_named() -> None:
    """Block 2 writes the unembedding of token 9 after token 8, and nothing else does much."""
    model = tiny("qwen3", 4)
    token = 9
    with torch.no_grad():
        for block in untyped(model.blocks):
            block.self_attn.o_proj.weight.mul_(0.05)
            block.mlp.down_proj.weight.mul_(0.05)
        plant_identity(model, 2)
        toward = untyped(model.hf).lm_head.weight[token] / model.hf.model.norm.weight
        embedding = untyped(model.hf.get_input_embeddings()).weight
        embedding[:, 3] = 0
        embedding[8] = 0
        embedding[8, 3] = 4.0  # the gate of one neuron opens on this token alone
        planted = untyped(model.blocks[2])
        planted.mlp.gate_proj.weight[0] = 0
        planted.mlp.gate_proj.weight[0, 3] = 20.0
        planted.mlp.up_proj.weight[0] = 0
        planted.mlp.up_proj.weight[0, 3] = 1.0
        planted.mlp.down_proj.weight[:, 0] = toward
    chains = [chain(model, 5, 40, f"p{i}", seed=i) for i in range(6)]
    after = [np.append(c.prompt_ids[-1:], c.ids[:-1]) == 8 for c in chains]
    events = {"after 8": after, "elsewhere": [~mask for mask in after]}
    assert sum(mask.sum() for mask in after) > 3
    table = contributions(model, chains, {"planted": token}, events).by_event()
    here = table[(table["event"] == "after 8") & (table["target"] == "planted")]
    whole = here[here["part"].isin(["attention", "mlp"])].set_index(["part", "block"])
    assert whole["mean"].idxmax() == ("mlp", 2)
    others = whole["mean"].drop(("mlp", 2))
    assert whole["mean"].max() > 5 * others.abs().max()
    assert whole.loc[("mlp", 2), "low"] > others.abs().max()
    elsewhere = table[(table["event"] == "elsewhere") & (table["target"] == "planted")]
    assert elsewhere.set_index(["part", "block"]).loc[("mlp", 2), "mean"] < whole["mean"].max() / 5
    seen = lens(model, chains, {"planted": token}, events).by_event()
    rank = seen[(seen["event"] == "after 8") & (seen["quantity"] == "planted_rank")]
    assert rank.set_index("block")["mean"].loc[[2, 3]].max() == 0  # top once block 2 has written
    assert rank.set_index("block")["mean"].loc[[-1, 0, 1]].min() > 0


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_half_precision(arch: str) -> None:
    model = tiny(arch, 3)
    sequences = texts(model, LENGTHS)
    exact, exact_lens = contributions(model, sequences), lens(model, sequences)
    untyped(model.hf).to(torch.bfloat16)
    found, found_lens = contributions(model, sequences), lens(model, sequences)
    known = ~np.isnan(found.logit[CHOSEN])
    size = np.abs(exact.logit[CHOSEN][known]).max()
    total = found.embedding[CHOSEN] + found.part().sum(0)
    np.testing.assert_allclose(total[known], found.logit[CHOSEN][known], atol=0.02 * size)
    np.testing.assert_allclose(found.part()[:, known], exact.part()[:, known], atol=0.1 * size)
    np.testing.assert_allclose(found_lens.entropy, exact_lens.entropy, atol=0.3)


# -------------------------------------------------------------------------------- results


def test_means_over_events_are_those_of_plain_loops() -> None:
    model = tiny("qwen3", 2)
    problems = ["a", "a", "b", "c", "c"]
    chains = [chain(model, 4, 8 + 3 * i, p, seed=i) for i, p in enumerate(problems)]
    events = {
        "early": [np.arange(c.n_tokens) < 3 + i for i, c in enumerate(chains)],
        "never": [np.zeros(c.n_tokens, dtype=bool) for c in chains],
    }
    found = lens(model, chains)
    table = found.by_event(events).set_index(["event", "quantity", "block"])
    by_chain = found.by_event(events, unit="chain").set_index(["event", "quantity", "block"])
    early = [rows_of(found, n) & (found.places.step < 3 + n) for n in range(5)]
    for quantity in found.quantities:
        for row, block in enumerate(found.blocks):
            values = found.values(quantity)[row].astype(np.float64)
            got = table.loc["early", quantity, block]
            every = np.concatenate([values[mask] for mask in early])
            assert got["mean"] == pytest.approx(every.mean(), rel=1e-6, abs=1e-7)
            assert got["positions"] == len(every) == 25
            assert got["problems"] == 3
            assert by_chain.loc["early", quantity, block]["chains"] == 5

    def early_of(kept: Callable[[str], bool]) -> np.ndarray:
        masks = [m for m, q in zip(early, problems, strict=True) if kept(q)]
        return np.logical_or.reduce(masks)

    left = {p: found.entropy[1, early_of(lambda q, p=p: q != p)].mean() for p in "abc"}
    error = np.sqrt(2 / 3 * sum((v - np.mean(list(left.values()))) ** 2 for v in left.values()))
    got = table.loc["early", "entropy", 0]
    assert (got["high"] - got["low"]) / 2 == pytest.approx(4.30265 * error, rel=1e-4)  # t, 2 d.f.
    never = table.loc["never", "entropy", 0]
    assert np.isnan(never["mean"]) and np.isnan(never["low"]) and never["positions"] == 0
    split = contributions(model, chains, {"some": SET}, events)
    sums = split.by_event().set_index(["event", "target", "part", "block"]).sort_index()
    blocks = sums.loc["early", "some", "block"]["mean"]
    embedding = sums.loc["early", "some", "embedding"]["mean"].iloc[0]
    logit = sums.loc["early", "some", "logit"]["mean"].iloc[0]
    assert embedding + blocks.sum() == pytest.approx(logit, abs=1e-4)
    assert blocks.index.tolist() == [0, 1]
    one = split.part("some", "mlp")[1, split.places.events["early"]].astype(np.float64)
    assert sums.loc[("early", "some", "mlp", 1), "mean"] == pytest.approx(one.mean(), rel=1e-5)


def test_positions_without_a_target_do_not_enter_its_mean() -> None:
    model = tiny("qwen3", 2)
    chains = [chain(model, 4, 9, "a"), chain(model, 3, 6, "b", seed=1)]
    few = [np.where(np.arange(c.n_tokens) % 3 == 0, 7, -1) for c in chains]
    found = lens(model, chains, {"every": 7, "few": few})
    table = found.by_event().set_index(["quantity", "block"])
    here = found.places.step % 3 == 0
    expected = found.logprob["every"][1, here].astype(np.float64).mean()
    got = table.loc["few_logprob", 0]
    assert got["positions"] == here.sum() == 5
    assert got["mean"] == pytest.approx(expected, rel=1e-6)
    assert table.loc["every_logprob", 0]["positions"] == 15
    split = contributions(model, chains, {"every": 7, "few": few})
    means = split.by_event().set_index(["target", "part", "block"])["mean"]
    expected = split.part("every", "mlp")[1, here].astype(np.float64).mean()
    assert means["few", "mlp", 1] == pytest.approx(expected, rel=1e-5)


def test_frames_name_dense_blocks() -> None:
    model = prune(tiny("qwen3", 4), LayerPlan.without(tiny("qwen3", 4), 1))
    sequences = texts(model, (5, 3))
    found = lens(model, sequences, {"some": SET})
    frame = found.to_frame()
    assert list(frame.columns[:5]) == ["chain", "step", "block", "entropy", "kl"]
    assert set(frame["block"]) == {-1, 0, 2, 3}
    one = frame[(frame["chain"] == 1) & (frame["step"] == 2) & (frame["block"] == 2)].iloc[0]
    at = found.blocks.index(2), 5 + 2
    assert one["entropy"] == found.entropy[at]
    assert one["some_logprob"] == found.logprob["some"][at]
    assert one["some_probability"] == np.exp(found.logprob["some"][at])
    split = contributions(model, sequences, {"some": SET})
    table = split.to_frame()
    some = table[(table["target"] == "some") & (table["chain"] == 1) & (table["step"] == 2)]
    assert some["block"].tolist() == [-1, 0, 2, 3]
    assert some["total"].sum() == pytest.approx(some["logit"].iloc[0], abs=1e-4)
    assert some["mlp"].iloc[2] == split.part("some", "mlp")[1, 7]
    assert np.isnan(some["mlp"].iloc[0])


def test_the_heat_map_shows_one_chain() -> None:
    import matplotlib.pyplot as plt

    model = tiny("qwen3", 3)
    found = lens(model, texts(model, (5, 12)))
    ax = found.plot("chosen_probability", chain=1)
    image = ax.get_images()[0].get_array()
    np.testing.assert_array_equal(image, found.values("chosen_probability")[:, 5:])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["embedding", "0", "1", "2"]
    assert ax.get_xticklabels()[-1].get_text() == "11"
    _, mine = plt.subplots()
    assert found.plot(ax=mine) is mine
    with pytest.raises(UserError, match="Chain 2"):
        found.plot(chain=2)
    with pytest.raises(UserError, match="quantity"):
        found.plot("entropie")
    plt.close("all")


# ------------------------------------------------------------------ memory, hooks, errors


def test_no_more_than_a_chunk_of_logits_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("qwen3", 3)
    sequences = texts(model, LENGTHS)
    sizes: list[int] = []
    whole = lens(model, sequences, {"some": SET})
    handle = model.head.register_forward_hook(
        lambda _, args, out: sizes.append(out[..., 0].numel())
    )
    monkeypatch.setattr(interp.replay.teacher_forced, "LOGIT_FLOATS", 3 * model.vocab_size)
    parts = lens(model, sequences, {"some": SET})
    handle.remove()
    assert max(sizes[2:]) == 3  # of the 37 positions; the first two calls check the readout
    assert len(sizes[2:]) == 4 * sum(-(-n // 3) for n in [37])
    np.testing.assert_allclose(parts.entropy, whole.entropy, atol=1e-5)
    np.testing.assert_allclose(parts.kl, whole.kl, atol=1e-5)
    np.testing.assert_allclose(parts.logprob["some"], whole.logprob["some"], atol=1e-5)
    np.testing.assert_array_equal(parts.places.step, whole.places.step)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny("gemma2", 3)
    before, hooks = snapshot(model), hooks_of(model)
    chains = [chain(model, 4, 9)]
    for variant in (None, Variant("x", (Skip(1),)), Variant("y", (Scale(0, gain=0.5),))):
        lens(model, chains, variant=variant)
        contributions(model, chains, variant=variant)
    assert same_weights(model, before)
    assert hooks_of(model) == hooks
    handle = untyped(model.blocks[2]).mlp.register_forward_hook(fails)
    with pytest.raises(RuntimeError, match="planted"):
        lens(model, chains, variant=Variant("y", (Scale(0, gain=0.5),)))
    assert hooks_of(model) == hooks + 1
    with pytest.raises(RuntimeError, match="planted"):
        contributions(model, chains, variant=Variant("x", (Skip(1),)))
    assert hooks_of(model) == hooks + 1
    handle.remove()
    assert all("forward" not in block.__dict__ for block in model.blocks)


def fails(_: nn.Module, args: Any, out: torch.Tensor) -> None:
    if out.shape[1] > 8:  # not in the short pass that checks the readout
        raise RuntimeError("planted")


def test_numbers_that_are_not_finite_are_an_error() -> None:
    model = tiny("qwen3", 2)
    with torch.no_grad():
        untyped(model.hf.get_input_embeddings()).weight[9] = torch.nan
    ids = np.array([8, 10, 11, 12, 13, 14, 15, 16, 17, 9, 10])
    for call in (lens, contributions):
        with pytest.raises(NonFiniteError, match="inf or nan"):
            call(model, [ids])
    assert hooks_of(model) == 0


@pytest.mark.parametrize("call", [lens, contributions])
def test_mistakes_are_named(call: Any) -> None:
    model = tiny("qwen3", 2)
    chains = [chain(model, 4, 9), chain(model, 3, 5, seed=1)]
    top = model.vocab_size
    with pytest.raises(UserError, match="No chain given"):
        call(model, [])
    with pytest.raises(UserError, match="No position to read"):
        call(model, chains, events={"x": [np.zeros(9, dtype=bool), np.zeros(5, dtype=bool)]})
    with pytest.raises(UserError, match="No position to read"):
        call(model, [chain(model, 4, 0)])
    with pytest.raises(UserError, match="in one call"):
        call(model, [chains[0], [7, 8]])
    with pytest.raises(UserError, match="Chain 0 has no prompt"):
        call(model, [chain(model, 0, 4)])
    with pytest.raises(UserError, match="Sequence 0 has shape"):
        call(model, [np.zeros((1, 3), dtype=np.int64)])
    with pytest.raises(UserError, match="1 masks for 2 chains"):
        call(model, chains, events={"x": [np.zeros(9, dtype=bool)]})
    with pytest.raises(UserError, match="mask of chain 1 has shape"):
        call(model, chains, events={"x": [np.ones(9, dtype=bool)] * 2})
    for outside in ([9], [-1]):
        with pytest.raises(UserError, match="outside its 9 steps"):
            call(model, chains, events={"x": [np.array(outside), np.array([0])]})
    with pytest.raises(UserError, match="boolean mask"):
        call(model, chains, events={"x": [np.array([0.5]), np.array([0])]})
    for target in (top, [7, top], [-1], [np.full(9, top), np.zeros(5, dtype=np.int64)]):
        with pytest.raises(UserError, match="outside the vocabulary"):
            call(model, chains, {"x": target})
    with pytest.raises(UserError, match="empty set"):
        call(model, chains, {"x": []})
    with pytest.raises(UserError, match="expected token ids"):
        call(model, chains, {"x": np.array([0.5])})
    with pytest.raises(UserError, match="one id per step"):
        call(model, chains, {"x": [np.zeros(9, dtype=np.int64)] * 2})
    with pytest.raises(UserError, match="always there"):
        call(model, chains, {"chosen": 7})
    with pytest.raises(UserError, match="Block 5"):
        call(model, chains, variant=Variant("x", (Skip(5),)))
    found = call(model, chains, events={"x": [np.array([0]), np.array([2])]})
    with pytest.raises(UserError, match="2 positions that were not read"):
        found.by_event({"y": [np.array([0, 1]), np.array([1, 2])]})
    with pytest.raises(UserError, match="unit"):
        found.places.means(np.zeros((1, 2)), np.ones(2, dtype=bool), "token")


def test_an_unknown_part_or_target_is_named() -> None:
    model = tiny("qwen3", 2)
    found = contributions(model, texts(model, (5,)))
    with pytest.raises(UserError, match="Did you mean 'chosen'"):
        found.part("chose")
    with pytest.raises(UserError, match="Did you mean 'mlp'"):
        found.part(CHOSEN, "mpl")
    quantised = tiny("qwen3", 2)
    head = untyped(quantised.head)
    head.weight.data = head.weight.data[:30]
    with pytest.raises(UserError, match="does not hold its weight"):
        contributions(quantised, texts(model, (5,)))


def test_the_bundled_reasoner_decides_late_and_its_contributions_add_up() -> None:
    model = ReasoningModel.load("testbed")
    chains = model.generate(["3 5 7 -> 15"], budget=Budget(60, 8), samples=2)
    end = model.delimiter_ids.think_end[0]
    events = {"end of thinking": [c.ids == end for c in chains]}
    events["all"] = [np.ones(c.n_tokens, dtype=bool) for c in chains]
    found = lens(model, chains, {"end": end}, events)
    assert len(found.blocks) == model.n_blocks + 1
    mean = found.by_event(unit="chain").set_index(["event", "quantity", "block"])["mean"]
    assert mean["all", "kl", EMBEDDING] > mean["all", "kl", model.layer_map[-2]] > 0
    split = contributions(model, chains, {"end": end}, events)
    total = split.embedding["end"] + split.part("end").sum(0) + split.constant["end"]
    np.testing.assert_allclose(total, split.logit["end"], rtol=1e-4, atol=1e-3)
