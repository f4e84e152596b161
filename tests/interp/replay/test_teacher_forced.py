"""Teacher-forced passes: equal to running each text alone, whatever the batching and variant."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.activations.capture import CapturedBatch, Reducer
from interp.activations.reducers import BlockInfluence
from interp.chains.chain import Budget
from interp.errors import NonFiniteError, UserError
from interp.interventions.hooks import apply, bypass
from interp.interventions.interventions import Part, Scale, Skip, Variant, dense
from interp.interventions.patches import Patch
from interp.interventions.windows import Answer, Window
from interp.model.readout import as_read
from interp.model.reasoning_model import ReasoningModel
from interp.replay import teacher_forced
from interp.replay.batching import batches
from interp.replay.block_sweep import Sweeper, sweep
from interp.replay.chunked_forward import forward
from interp.replay.teacher_forced import (
    continuation_logprobs,
    losses,
    readout,
    replay,
    replay_chains,
)
from pruning.plan import LayerPlan
from pruning.surgery import prune
from tests.drawing import max_examples
from tests.models import ARCHS, tiny, tokenizer, untyped
from tests.slow_streams import hooks_of, logprobs, same_weights, snapshot, texts

LENGTHS = (5, 19, 2, 11)


@max_examples(40)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    batch_tokens=st.integers(1, 200),
)
def test_batches_hold_every_text_once_within_the_limit(
    lengths: list[int], batch_tokens: int
) -> None:
    model = tiny("qwen3", 1)
    sequences = texts(model, lengths)
    seen = []
    for batch in batches(model, sequences, batch_tokens):
        assert batch.ids.numel() <= batch_tokens or len(batch.ids) == 1
        for row, text in enumerate(batch.texts.tolist()):
            assert batch.ids[row][batch.mask[row]].tolist() == sequences[text].tolist()
            assert batch.mask[row].sum() == len(sequences[text])
            seen.append(text)
    assert sorted(seen) == list(range(len(lengths)))


@pytest.mark.parametrize("arch", ARCHS)
def test_readout_gives_the_models_own_logits(arch: str) -> None:
    model = tiny(arch, 2)
    ids = torch.tensor(texts(model, [12])[0])[None]
    with torch.no_grad():
        ours = readout(model, forward(model, ids))
        theirs = model.hf(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_losses_are_those_of_each_text_alone() -> None:
    model = tiny("qwen3", 3)
    sequences = texts(model, (*LENGTHS, 1))
    total, count = losses(model, sequences, batch_tokens=45)
    for ids, nll, n in zip(sequences, total, count, strict=True):
        logp = logprobs(model.hf, ids)
        expected = -sum(logp[t, ids[t + 1]] for t in range(len(ids) - 1))
        assert nll == pytest.approx(expected, abs=1e-4)
        assert n == len(ids) - 1


def test_losses_of_scored_tokens_only() -> None:
    model = tiny("llama", 2)
    sequences = texts(model, LENGTHS)
    scored = [np.arange(len(ids)) >= 3 for ids in sequences]
    total, count = losses(model, sequences, scored=scored)
    for ids, nll, n in zip(sequences, total, count, strict=True):
        logp = logprobs(model.hf, ids)
        positions = [t for t in range(1, len(ids)) if t >= 3]
        assert nll == pytest.approx(-sum(logp[t - 1, ids[t]] for t in positions), abs=1e-4)
        assert n == len(positions)


def test_a_variant_of_whole_blocks_is_the_model_without_them() -> None:
    model = tiny("qwen3", 4)
    plan = LayerPlan.without(model, 0, 2)
    sequences = texts(model, LENGTHS)
    live, _ = losses(model, sequences, variant=plan)
    gone, _ = losses(prune(model, plan), sequences)
    np.testing.assert_allclose(live, gone, atol=1e-4)
    plain, _ = losses(model, sequences)
    assert np.abs(live - plain).max() > 0.01


def test_replay_of_a_variant_records_the_variants_stream() -> None:
    model = tiny("qwen3", 4)
    sequences = texts(model, LENGTHS)
    replay(model, sequences, [live := BlockInfluence()], variant=Variant("x", (Skip(1),)))
    pruned = prune(model, LayerPlan.without(model, 1))
    replay(pruned, sequences, [gone := BlockInfluence()])
    values = live.result().values()
    assert values[1] == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(np.delete(values, 1), gone.result().values(), atol=1e-5)


def test_bypass_is_undone_after_an_exception() -> None:
    model = tiny("qwen3", 3)
    ids = torch.tensor(texts(model, [9])[0])[None]
    with torch.no_grad():
        before = model.hf(ids).logits
        with suppress(RuntimeError), bypass(model, [0, 2]):
            assert not torch.equal(model.hf(ids, use_cache=False).logits, before)
            raise RuntimeError
        assert torch.equal(model.hf(ids).logits, before)
    assert all("forward" not in block.__dict__ for block in model.blocks)


# ------------------------------------------------------------------------------ sweep


@pytest.mark.parametrize("arch", ARCHS)
def test_prefix_shared_sweep_is_the_naive_one(arch: str) -> None:
    """The naive one really removes each block and runs the whole model, a text at a time."""
    model = tiny(arch, 3)
    sequences = texts(model, (6, 14))
    found = sweep(model, sequences, batch_tokens=15)
    for n, ids in enumerate(sequences):
        base = logprobs(model.hf, ids)
        targets = (np.arange(len(ids) - 1), ids[1:])
        assert found.base_loss[n] == pytest.approx(-base[targets].sum(), abs=2e-4)
        for l in range(model.n_blocks):
            without = logprobs(prune(model, LayerPlan.without(model, l)).hf, ids)
            kl = (np.exp(base) * (base - without)).sum(-1)[:-1].sum()
            assert found.loss[l, n] == pytest.approx(-without[targets].sum(), abs=2e-4)
            assert found.kl[l, n] == pytest.approx(kl, abs=2e-4)
    assert found.blocks == (0, 1, 2)
    assert (found.counts == [5, 13]).all()


def test_sweep_of_a_model_that_lacks_blocks_already() -> None:
    model = tiny("qwen3", 5)
    sequences = texts(model, LENGTHS)
    found = sweep(model, sequences, removed=[3, 0])
    rest = prune(model, LayerPlan.without(model, 0, 3))
    expected = sweep(rest, sequences)
    assert found.blocks == expected.blocks == (1, 2, 4)
    assert found.removed == (0, 3)
    np.testing.assert_allclose(found.loss, expected.loss, atol=1e-4)
    np.testing.assert_allclose(found.kl, expected.kl, atol=1e-4)
    np.testing.assert_allclose(found.base_loss, expected.base_loss, atol=1e-4)


@max_examples(8)
@given(batch_tokens=st.integers(1, 90), seed=st.integers(0, 50))
def test_sweep_does_not_depend_on_batching_or_order(batch_tokens: int, seed: int) -> None:
    model = tiny("qwen3", 3)
    sequences = texts(model, LENGTHS, seed)
    one = sweep(model, sequences, batch_tokens=1)
    order = np.random.default_rng(seed).permutation(len(sequences))
    many = sweep(model, [sequences[i] for i in order], batch_tokens=batch_tokens)
    np.testing.assert_allclose(many.loss, one.loss[:, order], atol=2e-4)
    np.testing.assert_allclose(many.kl, one.kl[:, order], atol=2e-4)


def evaluations(model: ReasoningModel) -> Callable[[], int]:
    """Counts block forwards from now on; each call gives those since the last one.

    A block that hands its input on (bypassed: it has a `forward` of its own) does not count.
    """
    calls: list[int] = []

    def count(block: torch.nn.Module, *_: object) -> None:
        if "forward" not in block.__dict__:
            calls.append(1)

    for block in model.blocks:
        block.register_forward_hook(count)

    def since() -> int:
        found = len(calls)
        calls.clear()
        return found

    return since


def test_sweep_evaluates_half_of_the_blocks() -> None:
    model = tiny("qwen3", 6)
    since = evaluations(model)
    sweep(model, texts(model, [9, 9]))
    check = 6  # the pass that checks the readout on 8 tokens
    check_of_hf = 6
    assert since() == 6 + 6 * 5 // 2 + check + check_of_hf
    sweep(model, texts(model, [9, 9]), part="mlp")
    assert since() == 6 + 6 * 7 // 2 + check + check_of_hf


def test_a_sweeper_computes_nothing_below_the_last_change_again() -> None:
    """m blocks left, k of them above the removed one: m(m-1)/2 rows, and k for the new base."""
    model = tiny("qwen3", 7)
    sequences = texts(model, (9, 13, 6))
    since = evaluations(model)
    sweeper = Sweeper(model, sequences, batch_tokens=14)
    batches_of_14 = 3
    assert since() == 2 * 7  # the readout is checked once
    sweeper.sweep()
    assert since() == batches_of_14 * (7 + 7 * 6 // 2)
    sweeper.sweep()
    assert since() == batches_of_14 * (7 * 6 // 2)  # nothing has changed
    sweeper.remove(4)
    sweeper.sweep()
    assert since() == batches_of_14 * (6 * 5 // 2 + 2)
    sweeper.remove(2)
    sweeper.sweep(blocks=[5, 6])
    assert since() == batches_of_14 * ((1 + 0) + 3)  # 3, 5 and 6 lie above 2; 6 above 5
    sweeper.remove(6)
    sweeper.remove(1)
    sweeper.sweep()
    assert since() == batches_of_14 * (3 * 2 // 2 + 2)  # 0, 3, 5 are left
    sweeper.sweep(part="attention")
    assert since() == batches_of_14 * (3 * 4 // 2)
    sweeper.remove(3, part="attention")
    sweeper.sweep()
    assert since() == batches_of_14 * (3 * 2 // 2 + 2)  # 3 itself, and 5


def test_beyond_its_memory_a_sweeper_runs_the_base_again() -> None:
    model = tiny("qwen3", 5)
    sequences = texts(model, (10, 10))
    one = (5 + 1) * 10 * model.d_model * 4  # bytes of the streams of one text
    for keep_bytes, kept in ((0, 0), (int(1.5 * one), 1), (4 * one, 2)):
        sweeper = Sweeper(model, sequences, batch_tokens=10, keep_bytes=keep_bytes)
        sweeper.sweep()
        since = evaluations(model)
        sweeper.remove(3)
        found = sweeper.sweep()
        assert since() == 2 * (4 * 3 // 2) + kept * 1 + (2 - kept) * 4
        np.testing.assert_allclose(found.loss, sweep(model, sequences, removed=[3]).loss, atol=1e-4)


@pytest.mark.parametrize("arch", ["qwen3", "gemma2"])
def test_a_greedy_path_is_that_of_fresh_sweeps(arch: str) -> None:
    model = tiny(arch, 5)
    sequences = texts(model, LENGTHS)
    scored = [np.arange(len(ids)) >= 1 for ids in sequences]
    sweeper = Sweeper(model, sequences, scored, batch_tokens=30)
    gone: list[int] = []
    for block in (3, 1, 4):
        found = sweeper.sweep()
        fresh = sweep(model, sequences, removed=gone, scored=scored)
        assert (found.blocks, found.removed) == (fresh.blocks, fresh.removed)
        for name in ("loss", "kl", "base_loss", "counts"):
            np.testing.assert_allclose(getattr(found, name), getattr(fresh, name), atol=1e-4)
        sweeper.remove(block)
        gone.append(block)


@pytest.mark.parametrize("part", ["attention", "mlp", "block"])
@pytest.mark.parametrize("arch", ARCHS)
def test_each_row_of_a_sweep_is_the_loss_without_that_part(arch: str, part: Part) -> None:
    model = tiny(arch, 3)
    sequences = texts(model, (6, 14))
    found = sweep(model, sequences, batch_tokens=15, part=part)
    tokens = found.counts.sum()
    for row, block in enumerate(found.blocks):
        nll, count = losses(model, sequences, variant=Variant("x", (Skip(block, part=part),)))
        np.testing.assert_allclose(found.loss[row] / tokens, nll / tokens, atol=1e-5)
        np.testing.assert_array_equal(found.counts, count)
    base, _ = losses(model, sequences)
    np.testing.assert_allclose(found.base_loss, base, atol=2e-4)
    assert np.abs(found.loss - base).min() > 1e-3
    assert (found.to_frame()["part"] == part).all()


def test_sweeping_on_a_base_without_some_sublayers() -> None:
    """What BlockPruner does: attention and MLP go one by one, both together are the block."""
    model = tiny("gemma3", 4)
    sequences = texts(model, LENGTHS)
    sweeper = Sweeper(model, sequences, batch_tokens=40)
    steps: list[Skip] = []
    order: list[tuple[int, Part]] = [(2, "attention"), (1, "mlp"), (3, "block"), (2, "mlp")]
    for block, part in order:
        sweeper.sweep(part=part)
        sweeper.remove(block, part)
        steps.append(Skip(block, part=part))
    found = sweeper.sweep(part="attention")
    assert (found.blocks, found.removed, found.removed_parts) == ((0, 1), (2, 3), ((1, "mlp"),))
    base, _ = losses(model, sequences, Variant("base", tuple(steps)))
    np.testing.assert_allclose(found.base_loss, base, atol=2e-4)
    for row, block in enumerate(found.blocks):
        without = Variant("x", (*steps, Skip(block, part="attention")))
        np.testing.assert_allclose(found.loss[row], losses(model, sequences, without)[0], atol=2e-4)
    with pytest.raises(UserError, match="MLP of block 1 is removed already"):
        sweeper.remove(1, "mlp")
    with pytest.raises(UserError, match="Attention of block 2 is removed already"):
        sweeper.remove(2, "attention")
    with pytest.raises(UserError, match="cannot be skipped"):
        sweeper.sweep([1], part="mlp")
    with pytest.raises((UserError, TypeError)):  # types are checked in tests
        sweeper.sweep(part="head")  # pyright: ignore[reportArgumentType]
    sweeper.remove(0)
    with pytest.raises(UserError, match="without blocks"):
        sweeper.remove(1)
    assert sweeper.sweep().blocks == (1,)  # a refused removal changes nothing
    with pytest.raises(UserError, match="has its mlp left"):
        sweeper.sweep(part="mlp")


def test_sweep_of_chosen_blocks_with_scored_tokens_leaves_the_model_alone() -> None:
    model = tiny("qwen3", 4)
    before, hooks = snapshot(model), hooks_of(model)
    sequences = texts(model, LENGTHS)
    scored = [np.arange(len(ids)) >= 2 for ids in sequences]
    whole = sweep(model, sequences, scored=scored)
    some = sweep(model, sequences, blocks=[2, 1], scored=scored)
    np.testing.assert_allclose(some.loss, whole.loss[1:3], atol=1e-5)
    assert (whole.counts == [3, 17, 0, 9]).all()
    assert same_weights(model, before)
    assert hooks_of(model) == hooks
    frame = some.to_frame()
    assert list(frame["block"]) == [1, 2]
    assert (frame["kl_low"] <= frame["kl"]).all()
    assert (frame["kl"] <= frame["kl_high"]).all()


def test_sweep_hooks_are_gone_after_an_exception() -> None:
    model = tiny("qwen3", 3)
    hooks = hooks_of(model)
    with torch.no_grad():
        untyped(model.hf).get_input_embeddings().weight[9] = torch.nan
    with pytest.raises(NonFiniteError):
        sweep(model, [np.array([8, 7, 9, 10])])
    assert hooks_of(model) == hooks


def test_sweep_refuses_what_makes_no_sense() -> None:
    model = tiny("qwen3", 3)
    sequences = texts(model, [5])
    with pytest.raises(UserError, match="twice"):
        sweep(model, sequences, blocks=[1, 1])
    with pytest.raises(UserError, match="not there"):
        sweep(model, sequences, blocks=[3])
    with pytest.raises(UserError, match="removed"):
        sweep(model, sequences, blocks=[1], removed=[1])
    with pytest.raises(UserError, match="without blocks"):
        sweep(model, sequences, removed=[0, 1, 2])
    with pytest.raises(UserError, match="No token to score"):
        sweep(model, texts(model, [1]))
    pruned = prune(model, LayerPlan.without(model, 1))
    with pytest.raises(UserError, match="was removed"):
        sweep(pruned, sequences, blocks=[1])


# ---------------------------------------------------------------------- continuations


def test_continuations_are_the_sum_of_token_logprobs() -> None:
    """Options of one and several tokens, shared beginnings, ragged numbers of options."""
    model = tiny("qwen3", 4)
    prompts = [p.tolist() for p in texts(model, [7, 3, 12])]
    options = [[[8], [9], [10], [11]], [[8, 9], [8, 10], [12, 13, 14]], [[20, 21, 22], [20]]]
    plan = LayerPlan.without(model, 0, 2)
    half = Variant("half", (Scale(1, gain=0.5),))
    variants = [dense, plan, Variant("skip", (Skip(3),)), half]
    table = continuation_logprobs(model, prompts, options, variants, batch_tokens=30)
    assert table.shape == (4, 3, 4)
    models = {
        0: model.hf,
        1: prune(model, plan).hf,
        2: prune(model, LayerPlan.without(model, 3)).hf,
    }
    for p, (prompt, few) in enumerate(zip(prompts, options, strict=True)):
        assert np.isnan(table[:, p, len(few) :]).all()
        for o, option in enumerate(few):
            ids = prompt + option
            positions = [len(prompt) + k - 1 for k in range(len(option))]
            for v, hf in models.items():
                expected = logprobs(hf, ids)[positions, option].sum()
                assert table[v, p, o] == pytest.approx(expected, abs=1e-4)
            with apply(model, half):
                expected = logprobs(model.hf, ids)[positions, option].sum()
            assert table[3, p, o] == pytest.approx(expected, abs=1e-4)


def test_one_token_options_of_a_whole_vocabulary_sum_to_one() -> None:
    model = tiny("llama", 2)
    options = [[[i] for i in range(model.vocab_size)]]
    table = continuation_logprobs(model, [[7, 8, 9]], options, [dense])
    assert np.exp(table).sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("arch", ["qwen3", "gemma2", "granite", "cohere", "phi"])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_options_do_not_tie_in_half_precision(
    arch: str, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head's own logits are rounded; likelihoods are those of its product in float32.

    Gemma 2 caps logits, Granite and Cohere scale them, and Phi's head has a bias.
    """
    hf: Any = cast("Any", tiny(arch, 2).hf).to(kind)
    with torch.no_grad():
        weight, bias = hf.get_output_embeddings().weight, hf.get_output_embeddings().bias
        if bias is not None:
            bias[20:24] = 1.0
        weight.mul_(6.0)  # logits of about 10, as a trained model's
        likely = hf(torch.tensor([[7, 8, 9]])).logits[0, -1].argmax()
        weight[20:24] = weight[likely]  # four options, apart by one rounding step of one weight
        weight[range(20, 24), range(4)] *= 1 + 2**-7
    model = ReasoningModel.load(hf, tokenizer())
    prompt, vocabulary = [7, 8, 9], model.vocab_size
    with torch.no_grad():
        rounded = hf(torch.tensor([prompt])).logits[0, -1]
        normed = forward(model, torch.tensor([prompt]))[0, -1:]
        wide = copy.deepcopy(hf.get_output_embeddings()).float()
        exact = as_read(model, wide(normed.float()))[0].log_softmax(-1)
    if kind == torch.bfloat16:
        assert len(set(rounded[20:24].tolist())) < 4 == len(set(exact[20:24].tolist()))
    options = [[[i] for i in range(vocabulary)]]
    for most in (teacher_forced.LOGIT_FLOATS, 5 * model.d_model):  # in one slice, and in many
        monkeypatch.setattr(teacher_forced, "LOGIT_FLOATS", most)
        found = continuation_logprobs(model, [prompt], options, [dense])[0, 0]
        np.testing.assert_allclose(found, exact.numpy(), atol=1e-5)
    assert np.exp(found).sum() == pytest.approx(1.0, abs=1e-5)


def test_continuations_refuse_bad_input() -> None:
    model = tiny("qwen3", 2)
    with pytest.raises(UserError, match="one each"):
        continuation_logprobs(model, [[7]], [], [dense])
    with pytest.raises(UserError, match="Prompt 0 is empty"):
        continuation_logprobs(model, [[]], [[[7]]], [dense])
    with pytest.raises(UserError, match="no options or an empty one"):
        continuation_logprobs(model, [[7]], [[[7], []]], [dense])
    with pytest.raises(UserError, match="No variant"):
        continuation_logprobs(model, [[7]], [[[7]]], [])
    with pytest.raises(UserError, match="No prompt"):
        continuation_logprobs(model, [], [], [dense])
    with pytest.raises(UserError, match="Block 5"):
        continuation_logprobs(model, [[7]], [[[7]]], [Variant("x", (Skip(5),))])


def test_bad_sequences_are_refused() -> None:
    model = tiny("qwen3", 1)
    with pytest.raises(UserError, match="Sequence 1 is empty"):
        losses(model, [[7, 8], []])
    with pytest.raises(UserError, match="positions"):
        losses(model, [[7] * (model.max_positions + 1)])
    with pytest.raises(UserError, match="outside the vocabulary"):
        losses(model, [[7, model.vocab_size]])
    with pytest.raises(UserError, match="batch_tokens"):
        losses(model, [[7, 8]], batch_tokens=0)


def test_a_chunked_pass_holds_no_more_than_a_chunk_of_columns() -> None:
    model = tiny("qwen3", 2)
    widths: list[int] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, args, out: widths.append(out.shape[1]))
    sequences = texts(model, (40, 33, 6))
    losses(model, sequences, chunk_tokens=8)
    assert max(widths) == 8
    widths.clear()
    losses(model, sequences[2:], chunk_tokens=8)
    assert widths == [6, 6]  # short enough for the whole way: not even asked for its masks


def test_a_reducer_that_needs_whole_rows_is_given_them() -> None:
    class Widths(Reducer):
        def begin(self, model: ReasoningModel, n_texts: int) -> None:
            self.seen: list[tuple[int, int, bool]] = []

        def update(self, index: int, x: Any, y: Any, batch: CapturedBatch) -> None:
            self.seen.append((x.shape[1], batch.first, batch.last))

    class Chunked(Widths):
        chunked = True

    model = tiny("qwen3", 1)
    sequences = texts(model, [20])
    replay(model, sequences, [BlockInfluence(), widths := Widths()], chunk_tokens=8)
    assert widths.seen == [(20, 0, True)]
    replay(model, sequences, [widths := Chunked()], chunk_tokens=8)
    assert widths.seen == [(8, 0, False), (8, 8, False), (4, 16, True)]


def test_what_is_not_known_of_steps_is_refused() -> None:
    model = tiny("qwen3", 2)
    sequences = texts(model, (7, 9))
    windowed = Variant("w", (Skip(1, window=Window(2)),))
    at_answer = Variant("a", (Skip(1, window=Answer()),))
    with pytest.raises(UserError, match="steps"):
        losses(model, sequences, windowed)
    with pytest.raises(UserError, match="answer_from"):
        losses(model, sequences, at_answer, prompts=[2, 3])
    with pytest.raises(UserError, match="1 prompts for 2 sequences"):
        losses(model, sequences, windowed, prompts=[2])
    with pytest.raises(UserError, match="prompt of 8 tokens in a sequence of 7"):
        losses(model, sequences, windowed, prompts=[8, 3])
    with pytest.raises(UserError, match="names a row of a batch"):
        losses(model, sequences, Variant("p", (Patch(1, row=0),)))
    with pytest.raises(UserError, match="chunk_tokens"):
        losses(model, sequences, chunk_tokens=0)
    assert hooks_of(model) == 0


def test_chains_that_cannot_be_replayed_are_refused() -> None:
    model = tiny("qwen3", 2, ends=False)
    chains = list(model.generate([[6, 7, 8]], budget=Budget(4, 2)))
    empty = replace(chains[0], prompt_ids=chains[0].prompt_ids[:0])
    with pytest.raises(UserError, match="Chain 1 has no prompt"):
        replay_chains(model, [chains[0], empty])
    names = ("ids", "forced", "logprob", "entropy")
    nothing = replace(chains[0], **{name: getattr(chains[0], name)[:0] for name in names})
    with pytest.raises(UserError, match="Chain 0 has no generated token"):
        replay_chains(model, [nothing])
    with pytest.raises(UserError, match="2 variants for 1 chains"):
        replay_chains(model, chains, variant=[None, dense])
    with pytest.raises(UserError, match="2 masks for 1 chains"):
        replay_chains(model, chains, counted=[np.ones(3, bool)] * 2)
    with pytest.raises(UserError, match="one entry per token"):
        replay_chains(model, chains, counted=[np.ones(3, bool)])


def test_texts_are_sorted_so_that_little_is_padded() -> None:
    model = tiny("qwen3", 1)
    sequences = texts(model, np.random.default_rng(0).integers(2, 200, size=60).tolist())
    made = list(batches(model, sequences, 2000))
    widths = [batch.ids.shape[1] for batch in made]
    assert all(a >= b for a, b in pairwise(widths))
    padded = sum(batch.ids.numel() for batch in made) / sum(len(s) for s in sequences)
    assert padded < 1.25
