"""Laws of teacher forcing: in chunks as in one piece, replayed as decoded, bypassed as hooked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.activations.capture import capture
from interp.activations.reducers import BlockInfluence, Moments, ResidualNorms
from interp.chains.chain import Budget, Chain, Span
from interp.chains.periods import loop_start
from interp.decoding.sampling import Sampling
from interp.interventions.hooks import apply
from interp.interventions.interventions import (
    MeanDelta,
    ResampleDelta,
    Scale,
    Skip,
    Variant,
)
from interp.interventions.patches import Patch
from interp.interventions.windows import AfterLoop, Answer, AtTokens, Thinking, Window
from interp.model.reasoning_model import ReasoningModel
from interp.replay.chunked_forward import ChunkedReader
from interp.replay.teacher_forced import (
    continuation_logprobs,
    losses,
    readout,
    replay,
    replay_chains,
)
from tests.chains import Ids, make_chain
from tests.drawing import max_examples
from tests.models import ARCHS, tiny, untyped
from tests.reference import skipped, slow_logits
from tests.slow_streams import texts

LENGTHS = (37, 5, 50, 23, 41)
WITHOUT_FIRST = Variant("without 0", (Skip(0),))
MIXED = Variant("mixed", (Skip(1), Scale(2, gain=0.5), Skip(0, part="mlp")))


def chain_of(prompt: Ids, ids: Ids, **more: Any) -> Chain:
    """A finished chain of these tokens, the last 3 of them its answer."""
    n = len(ids)
    unknown = np.full(n, np.nan, np.float32)
    fields = {
        "budget": Budget(n, 8),
        "thinking": Span(0, max(n - 4, 0)),
        "answer": Span(max(n - 3, 0), n),
        "thinking_finish": "end",
        "logprob": unknown,
        "entropy": unknown,
    }
    return make_chain(ids, prompt, **(fields | more))


def chains_of(
    model: ReasoningModel, sizes: Sequence[tuple[int, int]], seed: int = 0
) -> list[Chain]:
    """Chains of random tokens; (prompt tokens, generated tokens) each."""
    made = texts(model, [p + s for p, s in sizes], seed)
    return [
        chain_of(ids[:p], ids[p:], problem=f"p{i}", sample=i)
        for i, (ids, (p, _)) in enumerate(zip(made, sizes, strict=True))
    ]


def normed(
    model: ReasoningModel, sequences: list[np.ndarray], variant: Variant | None, chunk: int | None
) -> list[torch.Tensor]:
    """The stream after the final norm of every sequence, through a reader."""
    reader = ChunkedReader(model, sequences, batch_tokens=100, chunk_tokens=chunk)
    found = {}
    for batch in reader.batches():
        reading = reader.read(batch, variant)
        whole = torch.cat([reading(columns) for columns in reading.pieces], dim=1)
        for row, text in enumerate(batch.texts.tolist()):
            found[text] = whole[row][batch.mask[row]]
    return [found[text] for text in range(len(sequences))]


# ------------------------------------------------------------------- chunked == whole


@pytest.mark.parametrize("variant", [None, WITHOUT_FIRST, MIXED], ids=["plain", "skip 0", "mixed"])
@pytest.mark.parametrize("arch", ARCHS)
def test_chunked_logits_are_the_models_own(arch: str, variant: Variant | None) -> None:
    """Sliding windows of 9 columns, chunks of 7: windows reach over several pieces."""
    model = tiny(arch, 4)
    sequences = texts(model, LENGTHS)
    for ids, stream in zip(sequences, normed(model, sequences, variant, 7), strict=True):
        with torch.no_grad(), apply(model, variant or Variant("plain")):
            theirs = model.hf(torch.tensor(ids)[None], use_cache=False).logits[0]
            torch.testing.assert_close(readout(model, stream), theirs, atol=1e-5, rtol=0)


@max_examples(15)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=7),
    chunk=st.integers(1, 70),
    batch_tokens=st.integers(1, 200),
    arch=st.sampled_from(["qwen3", "mistral", "gemma2"]),
)
def test_chunks_and_batches_of_any_size_change_nothing(
    lengths: list[int], chunk: int, batch_tokens: int, arch: str
) -> None:
    model = tiny(arch, 2)
    sequences = texts(model, lengths)
    whole, count = losses(model, sequences, batch_tokens=batch_tokens, chunk_tokens=None)
    pieces, same = losses(model, sequences, batch_tokens=batch_tokens, chunk_tokens=chunk)
    np.testing.assert_allclose(pieces, whole, atol=2e-4)
    np.testing.assert_array_equal(same, count)


@pytest.mark.parametrize("arch", ["qwen3", "gemma3"])
def test_no_reducer_notices_the_chunks(arch: str) -> None:
    """With sinks, one of them a whole chunk: the median is that of the row and not of the piece."""
    model = tiny(arch, 3)
    with torch.no_grad():
        untyped(model.hf).get_input_embeddings().weight[7] *= 500
    sequences = [np.where(ids == 7, 8, ids) for ids in texts(model, LENGTHS)]
    sequences[0][20] = sequences[2][3] = 7
    sequences[4][12:18] = 7
    counted = [np.arange(len(ids)) >= 2 for ids in sequences]
    found = []
    for chunk in (None, 6):
        reducers = (BlockInfluence(), ResidualNorms(), Moments(), Moments("resid_post", full=True))
        replay(model, sequences, reducers, counted=counted, chunk_tokens=chunk, batch_tokens=90)
        found.append(reducers)
    for whole, pieces in zip(*(f[:2] for f in found), strict=True):
        for name in whole.quantities:
            expected, n = whole.result().tables[name]
            got, m = pieces.result().tables[name]
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(m, n)
    every, without = (found[1][0].result().tables[n][1] for n in BlockInfluence.quantities)
    assert (every - without)[0].tolist() == [1, 0, 1, 0, 6]
    for whole, pieces in zip(*(f[2:] for f in found), strict=True):
        torch.testing.assert_close(pieces.mean(), whole.mean(), atol=1e-5, rtol=1e-5)
        moments = pieces.second_moment(), whole.second_moment()
        torch.testing.assert_close(*moments, atol=1e-4, rtol=1e-5)


def test_chunked_continuations_are_whole_ones() -> None:
    model = tiny("gemma2", 3)
    prompts = [p.tolist() for p in texts(model, [21, 3, 12])]
    options = [[[8], [9]], [[8, 9], [8, 10], [12, 13, 14]], [[20, 21, 22], [20]]]
    variants = [Variant("dense"), WITHOUT_FIRST, MIXED]
    whole = continuation_logprobs(model, prompts, options, variants, chunk_tokens=None)
    pieces = continuation_logprobs(model, prompts, options, variants, chunk_tokens=5)
    np.testing.assert_allclose(pieces, whole, atol=1e-5)


# ------------------------------------------------------------------- windows, steps, chains


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("arch", ARCHS)
def test_a_window_lies_at_the_steps_of_each_sequence(arch: str, chunk: int | None) -> None:
    """Against whole-output hooks of the reference, one row at a time."""
    model = tiny(arch, 3)
    chains = chains_of(model, [(4, 17), (11, 9), (1, 20), (7, 2)])
    sequences = [np.concatenate([c.prompt_ids, c.ids]) for c in chains]
    prompts = [len(c.prompt_ids) for c in chains]
    window = Variant("window", (Skip(1, window=Window(2, 6)), Skip(0, window=Window(-1, 1))))
    found, count = losses(model, sequences, window, prompts=prompts, chunk_tokens=chunk)
    for chain, ids, nll, n in zip(chains, sequences, found, count, strict=True):
        edits = {(1, "block"): skipped(chain, 2, 6), (0, "block"): skipped(chain, -1, 1)}
        logp = slow_logits(model, ids.tolist(), edits).log_softmax(-1)[:-1]
        expected = -logp.gather(1, torch.tensor(ids[1:])[:, None]).sum()
        assert nll == pytest.approx(float(expected), abs=2e-4)
        assert n == len(ids) - 1


@pytest.mark.parametrize(("window", "samples"), [(None, 1), (Window.decode_only(), 2)])
def test_random_deltas_of_replay_are_those_of_decoding(window: Window | None, samples: int) -> None:
    model = tiny("qwen3", 3, ends=False)
    pool = torch.randn(9, model.d_model, generator=torch.Generator().manual_seed(0))
    variant = Variant("noisy", (ResampleDelta(1, pool=pool, seed=5, window=window),))
    prompts = [[6, 7, 8, 9], [10, 11]]
    chains = list(model.generate(prompts, [variant], Budget(9, 3), samples=samples, seed=3))
    found = replayed_logprobs(model, chains, variant, chunk=4)
    for chain, logprob in zip(chains, found, strict=True):
        own = ~chain.forced
        np.testing.assert_allclose(logprob[own], chain.logprob[own], atol=1e-5)


def test_a_chain_replayed_is_the_chain_decoded() -> None:
    """Windows at steps and at events, greedy chains that come to loop, forced ends."""
    model = tiny("qwen3", 3, seed=2, ends=False)
    windows = {
        "steps": Window(3, 60),
        "tokens": AtTokens((7, 8, 9, 12, 20), after=2),
        "answer": Answer(),
        "looping": AfterLoop() | Window(0, 2),
        "thinking": Thinking() & ~AtTokens((10, 11)),
    }
    variants = [Variant(name, (Skip(1, window=w),)) for name, w in windows.items()]
    variants += [WITHOUT_FIRST, MIXED]
    prompts = [[6, 7, 8, 9, 10, 11], [12, 13]]
    greedy = Sampling(temperature=0)
    chains = list(model.generate(prompts, variants, Budget(130, 6), sampling=greedy))
    for variant in variants:
        mine = [c for c in chains if c.variant == variant.name]
        assert len(mine) == 2
        for chunk in (None, 11):
            replayed = replayed_logprobs(model, mine, variant, chunk)
            for chain, found in zip(mine, replayed, strict=True):
                own = ~chain.forced
                np.testing.assert_allclose(found[own], chain.logprob[own], atol=1e-5)
    assert loop_start(next(c for c in chains if c.variant == "looping").thinking_ids) == 96


@torch.no_grad()
def replayed_logprobs(
    model: ReasoningModel, chains: Sequence[Chain], variant: Variant, chunk: int | None
) -> list[np.ndarray]:
    reader = ChunkedReader.of_chains(model, chains, 60, chunk)
    found = {}
    for batch in reader.batches():
        reading = reader.read(batch, variant)
        stream = torch.cat([reading(columns) for columns in reading.pieces], dim=1)
        for row, text in enumerate(batch.texts.tolist()):
            chain = chains[text]
            at = len(chain.prompt_ids) - 1 + torch.arange(chain.n_tokens)
            logp = readout(model, stream[row, at]).log_softmax(-1)
            found[text] = logp.gather(1, torch.tensor(chain.ids)[:, None])[:, 0].numpy()
    return [found[text] for text in range(len(chains))]


@pytest.mark.parametrize("chunk", [None, 6])
def test_replay_of_chains_records_what_a_hooked_pass_shows(chunk: int | None) -> None:
    """Each chain under its own variant; the recorded stream is the changed one."""
    model = tiny("qwen3", 4)
    chains = chains_of(model, [(4, 17), (9, 8), (2, 20), (5, 11)])
    mean = torch.linspace(-1, 1, model.d_model)
    windowed = Variant(
        "windowed",
        (
            MeanDelta(1, mean=mean, window=Window(3, 9)),
            Scale(2, gain=0.25, part="mlp"),
            Skip(3, window=Window.prefill_only()),
        ),
    )
    each = [windowed, None, MIXED, windowed]
    norms = ResidualNorms()
    replay_chains(model, chains, [norms], each, chunk_tokens=chunk, batch_tokens=70)
    tables = norms.result().tables
    for n, (chain, variant) in enumerate(zip(chains, each, strict=True)):
        x = streams_under(model, chain, variant or Variant("plain"))
        rows = slice(len(chain.prompt_ids) - 1, None)
        assert (tables["delta"][1][:, n] == chain.n_tokens).all()
        for name, kept in (
            ("resid_pre", x[:-1]),
            ("resid_post", x[1:]),
            ("delta", x[1:] - x[:-1]),
        ):
            expected = np.linalg.norm(kept[:, rows], axis=-1).sum(1)
            np.testing.assert_allclose(tables[name][0][:, n], expected, rtol=2e-5)


def streams_under(model: ReasoningModel, chain: Chain, variant: Variant) -> np.ndarray:
    """x_0 .. x_L [L + 1, T, D]: what each block and the final norm are given, in one pass."""
    ids = torch.tensor(np.concatenate([chain.prompt_ids, chain.ids[:-1]]))[None]
    steps = (torch.arange(ids.shape[1]) - len(chain.prompt_ids)).clamp(min=-1)[None]
    kept: list[np.ndarray] = []

    def keep(_: object, args: tuple, kwargs: dict) -> None:
        kept.append((args[0] if args else kwargs["hidden_states"])[0].double().numpy())

    modules = [*model.blocks, model.final_norm]
    handles = [m.register_forward_pre_hook(keep, with_kwargs=True) for m in modules]
    try:
        with torch.no_grad(), apply(model, variant, steps=steps):
            model.hf(ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return np.stack(kept)


def test_a_capture_sees_the_changed_stream_whichever_was_opened_first() -> None:
    model = tiny("llama", 3)
    chain = chains_of(model, [(1, 12)])[0]
    variant = Variant("half", (Scale(1, gain=0.5), Skip(2)))
    expected = streams_under(model, chain, variant)
    wanted = np.linalg.norm(expected[1:] - expected[:-1], axis=-1).sum(1)
    ids = torch.tensor(np.concatenate([chain.prompt_ids, chain.ids[:-1]]))[None]
    for first in ("capture", "apply"):
        norms = ResidualNorms()
        with torch.no_grad():
            if first == "capture":
                with capture(model, norms, n_texts=1), apply(model, variant):
                    model.hf(ids)
            else:
                with apply(model, variant), capture(model, norms, n_texts=1):
                    model.hf(ids)
        np.testing.assert_allclose(norms.result().tables["delta"][0][:, 0], wanted, rtol=1e-5)


@pytest.mark.parametrize("extra", [(), (Scale(3, gain=0.5),), (MeanDelta(1),)])
def test_a_bypassed_block_is_a_skipped_one(extra: tuple) -> None:
    """Also where other interventions stand beside the skip, at its own block and elsewhere."""
    model = tiny("gemma3", 4)
    if extra and isinstance(extra[0], MeanDelta):
        extra = (MeanDelta(1, mean=torch.linspace(-1, 1, model.d_model)),)
    variant = Variant("x", (Skip(1), *extra, Skip(0)))
    sequences = texts(model, LENGTHS)
    for ids, stream in zip(sequences, normed(model, sequences, variant, None), strict=True):
        with torch.no_grad(), apply(model, variant):
            theirs = model.hf(torch.tensor(ids)[None], use_cache=False).logits[0]
        torch.testing.assert_close(readout(model, stream), theirs, atol=1e-5, rtol=0)


def test_a_stored_delta_is_patched_in_at_its_steps() -> None:
    model = tiny("qwen3", 3)
    chain = chains_of(model, [(5, 14)])[0]
    stream = torch.randn(4, model.d_model, generator=torch.Generator().manual_seed(1))
    variant = Variant("patched", (Patch(1, stream=stream, first=3),))

    def edit(delta: torch.Tensor) -> torch.Tensor:
        new = delta.clone()
        new[5 + 3 : 5 + 3 + 4] = stream
        return new

    logp = slow_logits(model, [*chain.prompt_ids, *chain.ids], {(1, "block"): edit}).log_softmax(-1)
    expected = logp[4:-1].gather(1, torch.tensor(chain.ids)[:, None])[:, 0].numpy()
    for chunk in (None, 6):
        found = replayed_logprobs(model, [chain], variant, chunk)[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
