"""Laws of programs: live == the checkpoint; once == dense; an order without a block == its Skip.

Live, rows of several programs share one batch with other variants (`interp.decoding.unrolled`).
The checkpoint (`save_program`) is loaded by `AutoModelForCausalLM` and knows nothing of programs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.activations.reducers import Moments
from interp.chains.chain import Budget, Chain
from interp.decoding.generate import decode
from interp.decoding.request import cross, fork
from interp.decoding.sampling import Sampling
from interp.decoding.unrolled import common_order, unrolled
from interp.errors import UserError
from interp.interventions.function_edits import EditDelta
from interp.interventions.interventions import (
    Intervention,
    ResampleDelta,
    Scale,
    Skip,
    Variant,
    dense,
)
from interp.interventions.programs import Order, Repeat, program_blocks, program_model
from interp.interventions.windows import Window
from interp.model.checkpoint_files import PRUNING_FILE, side_file
from interp.model.reasoning_model import ReasoningModel
from interp.replay.divergence import divergence
from interp.replay.teacher_forced import losses
from pruning.folder import prune_folder
from pruning.plan import LayerPlan
from pruning.surgery import prune, save, save_program
from tests.backends import fused, use
from tests.laws.test_surgery_laws import loaded, stored
from tests.models import ARCHS, tiny
from tests.reference import same_chain, slow_logprobs
from tests.tolerances import close_to, kl_noise, logit_noise

GREEDY = Sampling(temperature=0.0)
PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7", "what ?"]
BUDGET = Budget(24, 4)
PROGRAMS = (
    Variant("twice", (Repeat(1),)),
    Variant("thrice first", (Repeat(0, times=3),)),
    Variant("middle run again", (Order((0, 1, 2, 1, 2, 3)),)),
    Variant("swap", (Order((0, 2, 1, 3)),)),
    Variant("swap, repeat and skip", (Order((1, 0, 2, 3)), Repeat(2), Skip(3))),
)


def decoded(model: ReasoningModel, *variants: Any, **options: Any) -> dict[str, list[Chain]]:
    """The chains of each variant, all in one batch."""
    found: dict[str, list[Chain]] = {}
    options = {"sampling": GREEDY, "budget": BUDGET, **options}
    for chain in model.generate(PROMPTS, variants=variants, **options):
        found.setdefault(chain.variant, []).append(chain)
    return found


def equal(a: list[Chain], b: list[Chain]) -> bool:
    """Whether chains are equal to the bit."""
    return len(a) == len(b) and all(
        np.array_equal(x.ids, y.ids)
        and np.array_equal(x.logprob, y.logprob, equal_nan=True)
        and np.array_equal(x.entropy, y.entropy, equal_nan=True)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("arch", ARCHS)
def test_a_program_live_is_its_checkpoint_saved_and_reloaded(arch: str, tmp_path: Path) -> None:
    """Greedy chains and log-probabilities, in a batch with other programs and plain variants."""
    model = tiny(arch, ends=False)
    found = decoded(model, dense, *PROGRAMS, Variant("no 2", (Skip(2),)))
    for i, program in enumerate(PROGRAMS if arch == "qwen3" else PROGRAMS[2::2]):
        folder = save_program(model, program, tmp_path / str(i))
        hf = loaded(folder, model)
        blocks = program_blocks(model, program)
        assert hf.config.num_hidden_layers == len(blocks)
        own = ReasoningModel.load(folder)
        record = side_file(str(folder), "pruning.json")
        assert record is not None and record["program"] == list(blocks)
        assert own.layer_map == tuple(range(len(blocks)))
        for chain in found[program.name]:
            slow = slow_logprobs(own, chain)
            np.testing.assert_allclose(chain.logprob, slow, atol=logit_noise(own), rtol=0)
            assert chain.layer_map == model.layer_map
        assert not equal(found[program.name], found["dense"])
        for chain, same in zip(found[program.name], decoded(own, dense)["dense"], strict=True):
            assert same_chain(chain, same)
        with torch.no_grad():
            ids = torch.tensor([[7, 9, 11, 20, 31, 8]])
            torch.testing.assert_close(
                hf(ids).logits, program_model(model, program).hf(ids).logits, **close_to(own)
            )


def test_a_checkpoint_stores_every_run_of_a_block(tmp_path: Path) -> None:
    model = tiny(n_blocks=3)
    folder = save_program(model, PROGRAMS[0], tmp_path / "out")
    weights = stored(folder)
    key = "model.layers.{}.mlp.up_proj.weight"
    assert weights[key.format(1)] == weights[key.format(2)] != weights[key.format(3)]
    again = prune(ReasoningModel.load(folder), LayerPlan.without(ReasoningModel.load(folder), 2))
    ids = torch.tensor([[7, 9, 11, 20]])
    with torch.no_grad():  # without the second run, it is the dense model
        torch.testing.assert_close(again.hf(ids).logits, model.hf(ids).logits, **close_to(model))
    assert model.n_blocks == 3 and len({id(b) for b in model.blocks}) == 3


def test_what_is_pruned_from_a_program_still_says_whose_blocks_it_has(tmp_path: Path) -> None:
    """Written either way, and pruned twice: block i is `program[layer_map[i]]` of the original."""
    model = tiny(n_blocks=3)
    source = save_program(model, Variant("p", (Order((0, 1, 2, 1, 2)),)), tmp_path / "program")
    loaded = ReasoningModel.load(source)
    assert loaded.program == (0, 1, 2, 1, 2) and not model.program
    streamed = prune_folder(source, [1], tmp_path / "streamed")
    saved = save(loaded, LayerPlan.without(loaded, 1), tmp_path / "saved")
    twice = prune_folder(streamed, [4], tmp_path / "twice")
    key = "model.layers.{}.mlp.up_proj.weight"
    own = [stored(source)[key.format(block)] for block in range(3)]
    for folder, left in ((streamed, [0, 2, 1, 2]), (saved, [0, 2, 1, 2]), (twice, [0, 2, 1])):
        record = json.loads((folder / PRUNING_FILE).read_text())
        assert [record["program"][b] for b in record["layer_map"]] == left
        pruned = ReasoningModel.load(folder)
        assert pruned.program == loaded.program and pruned.n_blocks == len(left)
        for i, block in enumerate(left):
            assert stored(folder)[key.format(i)] == own[block]
    again = save_program(
        ReasoningModel.load(saved), Variant("q", (Order((4, 0)),)), tmp_path / "again"
    )
    assert ReasoningModel.load(again).program == (2, 0), "a program of a program is composed"


@pytest.mark.parametrize("wrong", ["0 1", [0, -1, 2], [0, 1], [0, 1.5, 2], []])
def test_a_damaged_program_is_refused(wrong: Any, tmp_path: Path) -> None:
    folder = save_program(tiny(n_blocks=3), Variant("p", (Order((2, 1, 0)),)), tmp_path / "out")
    record = json.loads((folder / PRUNING_FILE).read_text()) | {"program": wrong}
    (folder / PRUNING_FILE).write_text(json.dumps(record))
    with pytest.raises(UserError, match="program is"):
        ReasoningModel.load(folder)


def test_once_is_dense_to_the_bit() -> None:
    model = tiny(ends=False)
    alone = decoded(model, dense)["dense"]
    for same in (Repeat(2, times=1), Order(model.layer_map)):
        assert equal(decoded(model, Variant("same", (same,)))["same"], alone)
    twice = Variant("twice", (Repeat(2),))
    assert not equal(decoded(model, twice)["twice"], alone)
    beside = decoded(model, dense, twice)["dense"]
    assert all(same_chain(a, b) for a, b in zip(beside, alone, strict=True))


def test_an_order_without_a_block_is_its_skip_to_the_bit() -> None:
    model = tiny(ends=False)
    lacking, skip = Variant("x", (Order((0, 1, 3)),)), Variant("x", (Skip(2),))
    for beside in ((), (dense, *PROGRAMS)):
        a, b = decoded(model, lacking, *beside)["x"], decoded(model, skip, *beside)["x"]
        assert equal(a, b)
        assert not equal(a, decoded(model, dense)["dense"])
    texts = [model.encode(prompt) for prompt in PROMPTS]  # outside the decoder, too
    assert np.array_equal(losses(model, texts, lacking)[0], losses(model, texts, skip)[0])
    one, other = (
        model.run_with_cache(PROMPTS[:1], variant=v, names=["blocks.3.hook_resid_post"])
        for v in (lacking, skip)
    )
    assert torch.equal(*(seen["blocks.3.hook_resid_post"] for seen in (one, other)))


@pytest.mark.parametrize("way", ["torch", "kernels"])
def test_rows_do_not_know_the_programs_beside_them(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 2, noise of single rows included: it goes by the block, not by its place in a batch."""
    use(monkeypatch) if way == "torch" else use(monkeypatch, fused())
    model = tiny(ends=False)
    pool = torch.randn(8, model.d_model, generator=torch.Generator().manual_seed(0))
    others = (
        dense,
        Variant("noise", (ResampleDelta(3, pool=pool),)),
        Variant("again, louder", (Repeat(1, times=3), Scale(1, gain=1.5), Scale(2, gain=0.5))),
        Variant("edited", (Repeat(0), EditDelta(2, lambda delta, _: delta * 0.9))),
        *PROGRAMS,
    )
    noise = {"sampling": Sampling(), "samples": 2, "seed": 3}
    together = decoded(model, *others, **noise)
    for variant in others:
        for a, b in zip(
            together[variant.name], decoded(model, variant, **noise)[variant.name], strict=True
        ):
            assert same_chain(a, b)
    few = decoded(model, *others, slots=3, drafts=False, **noise)
    for name, chains in few.items():
        assert all(same_chain(a, b) for a, b in zip(chains, together[name], strict=True))


def test_other_interventions_act_on_every_run_of_their_block() -> None:
    model = tiny(ends=False)
    half = Variant("half", (Repeat(1), Scale(1, gain=0.5)))
    own = program_model(model, Variant("twice", (Repeat(1),)))
    want = decoded(own, Variant("half", (Scale(1, gain=0.5), Scale(2, gain=0.5))))
    for a, b in zip(decoded(model, half)["half"], want["half"], strict=True):
        assert same_chain(a, b)


@pytest.mark.parametrize("stop", [None, 6])
def test_a_repeat_in_a_window_is_the_copy_skipped_outside_it(stop: int | None) -> None:
    """The copy still writes keys and values outside, as a part skipped in a window does."""
    model = tiny(ends=False)
    window = Window(3, stop)
    late = Variant("late", (Repeat(1, window=window),))
    own = program_model(model, Variant("twice", (Repeat(1),)))
    want = decoded(own, Variant("late", (Skip(2, window=~window),)))["late"]
    found = decoded(model, late, dense, Variant("always", (Repeat(1, window=Window(-1)),)),
                    Variant("twice", (Repeat(1),)))  # fmt: skip
    for a, b, d in zip(found["late"], want, found["dense"], strict=True):
        assert same_chain(a, b)
        assert np.array_equal(a.ids[:4], d.ids[:4]) and not np.array_equal(a.ids, d.ids)
    assert equal(found["always"], found["twice"])
    never = Variant("never", (Repeat(1, window=Window(1000)),))
    for a, b in zip(decoded(model, never, dense)["never"], found["dense"], strict=True):
        assert same_chain(a, b)


def test_a_fork_goes_on_under_a_program() -> None:
    model = tiny(ends=False)
    chain = decoded(model, dense)["dense"][0]
    twice = Variant("twice", (Repeat(1),))
    late = Variant("late", (Repeat(1, window=Window(8)),))
    asked = fork(chain, 8, (dense, twice, late))
    found = {c.variant: c for c in decode(model, asked, sampling=GREEDY)}
    assert np.array_equal(found["dense"].ids, chain.ids)
    own = program_model(model, twice)
    (want,) = decode(own, fork(chain, 8), sampling=GREEDY)
    assert same_chain(found["twice"], want)
    assert np.array_equal(found["late"].ids[:9], chain.ids[:9])
    assert not np.array_equal(found["late"].ids, chain.ids)


def test_the_record_of_a_program_has_a_column_for_every_run() -> None:
    model = tiny(ends=False)
    found = decoded(model, dense, *PROGRAMS, Variant("no 2", (Skip(2),)), record=True)
    alone = decoded(model, dense, record=True)["dense"]
    for a, b in zip(found["dense"], alone, strict=True):
        assert a.stream is not None and b.stream is not None
        assert a.stream.layer_map == b.stream.layer_map == model.layer_map
        np.testing.assert_allclose(a.stream.delta_norm, b.stream.delta_norm, rtol=1e-4)
    for program in PROGRAMS:
        own = decoded(program_model(model, program), dense, record=True)["dense"]
        for a, b in zip(found[program.name], own, strict=True):
            assert a.stream is not None and b.stream is not None
            assert a.stream.layer_map == program_blocks(model, program)
            np.testing.assert_allclose(a.stream.delta_norm, b.stream.delta_norm, rtol=1e-4)


def test_a_program_model_can_be_compared_along_chains() -> None:
    """What only reads chains takes the program as a model; with the variant it refuses."""
    model = tiny(ends=False)
    chains = decoded(model, dense)["dense"]
    again = program_model(model, Variant("all", (Order(model.layer_map),)))
    assert divergence(again, chains, dense).mean()[0] <= kl_noise(model)
    ids = [np.concatenate([c.prompt_ids, c.ids]) for c in chains]
    twice = program_model(model, Repeat(1))
    assert np.abs(losses(twice, ids)[0] - losses(model, ids)[0]).min() > 0.1
    for wrong in (
        lambda: divergence(model, chains, Repeat(1)),
        lambda: losses(model, ids, Repeat(1)),
    ):
        with pytest.raises(UserError, match="program_model"):
            wrong()


def test_programs_share_a_batch_where_that_is_cheaper() -> None:
    """Few rows of each program go through one deeper model; many rows of each go alone."""
    model = tiny(n_blocks=6, ends=False)
    many = [Variant(f"repeat {b}", (Repeat(b),)) for b in range(6)]
    few = cross(model, PROMPTS, variants=[dense, *many], budgets=BUDGET)
    (part,) = unrolled(model, few)
    assert part.model.n_blocks == 12 and len(part.requests) == len(few)
    more = cross(model, PROMPTS, variants=[dense, *many], budgets=BUDGET, samples=99)
    parts = list(unrolled(model, more))
    assert [part.model.n_blocks for part in parts] == [6] + [7] * 6
    assert parts[0].model is model and sum(len(part.requests) for part in parts) == len(more)
    plain = cross(model, PROMPTS, variants=[dense, Variant("no 2", (Skip(2),))])
    (part,) = unrolled(model, plain)
    assert part.model is model and part.requests == plain


def test_parts_are_decoded_as_one_batch_would_be() -> None:
    model = tiny(ends=False)
    rng = np.random.default_rng(0)
    many = [Variant(f"p{i}", (Order(tuple(rng.integers(0, 4, 9).tolist())),)) for i in range(8)]
    requests = cross(model, PROMPTS, variants=[dense, *many], budgets=Budget(6, 2), samples=2)
    assert 1 < len(list(unrolled(model, requests))) < 9
    told: list[tuple[int, int, int]] = []
    chains = list(decode(model, requests, progress=lambda *a: told.append(a)))
    assert len(chains) == len(requests)
    assert told == sorted(told) and told[-1][1:] == (len(requests), len(requests))
    for variant in many[:2]:
        own = {(c.problem, c.sample): c for c in chains if c.variant == variant.name}
        (alone,) = unrolled(model, cross(model, PROMPTS, variants=[variant], budgets=Budget(6, 2)))
        for chain in map(alone.restored, decode(alone.model, alone.requests)):
            assert same_chain(chain, own[chain.problem, chain.sample])


def test_the_common_order_is_the_shortest_that_holds_both() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        a, b = (tuple(rng.integers(0, 3, rng.integers(0, 5)).tolist()) for _ in range(2))
        found = common_order(a, b)
        assert _within(a, found) and _within(b, found)
        least = next(
            n for n in range(9)
            if any(_within(a, c) and _within(b, c) for c in np.ndindex(*[3] * n))
        )  # fmt: skip
        assert len(found) == least
    assert common_order((0, 1, 1, 2), (0, 1, 2)) == (0, 1, 1, 2)


def _within(part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    rest = iter(whole)
    return all(block in rest for block in part)


def test_a_pruned_model_runs_programs_of_dense_indices() -> None:
    model = tiny(n_blocks=5, ends=False)
    pruned = prune(model, LayerPlan.without(model, 1))
    found = decoded(pruned, Variant("twice", (Repeat(3),)))["twice"]
    want = decoded(model, Variant("twice", (Order((0, 2, 3, 3, 4)),)))["twice"]
    for a, b in zip(found, want, strict=True):
        assert same_chain(a, b)
        assert a.layer_map == (0, 2, 3, 4)
    with pytest.raises(UserError, match="block \\[1\\]"):
        decoded(pruned, Repeat(1))


WRONG: list[tuple[tuple[Intervention, ...], str]] = [
    ((Repeat(9),), "runs block \\[9\\]"),
    ((Order((0, 9)),), "runs block \\[9\\]"),
    ((Order((0, 1)), Order((1, 0))), "at most one Order"),
    ((Repeat(1), Repeat(1, times=3)), "one Repeat of a block"),
    ((Order((0, 2)), Repeat(1)), "which its order leaves out"),
    ((Order((1,)), Skip(1)), "runs no block"),
]


@pytest.mark.parametrize(("steps", "said"), WRONG)
def test_what_contradicts_itself_is_refused(steps: tuple[Intervention, ...], said: str) -> None:
    model = tiny()
    with pytest.raises(UserError, match=said):
        decoded(model, Variant("wrong", steps))
    with pytest.raises(UserError, match=said):
        program_model(model, Variant("wrong", steps))


def test_what_no_program_can_be_is_refused(tmp_path: Path) -> None:
    model = tiny()
    for make, said in (
        (lambda: Repeat(1, times=0), "times=0"),
        (lambda: Repeat(1, part="mlp"), "only whole blocks"),
        (lambda: Order(()), "dense indices"),
        (lambda: Order((0, 1), window=Window(3)), "no window"),
        (lambda: program_model(model, Repeat(1, window=Window(3))), "at all steps"),
        (lambda: save_program(model, Scale(1, gain=0.5), tmp_path / "out"), "repeat, move"),
        (lambda: decoded(model, Repeat(1), moments=Moments(), samples=1), "moments cannot"),
    ):
        with pytest.raises(UserError, match=said):
            make()
    assert not (tmp_path / "out").exists()
    assert [Repeat(3).name, Repeat(3, times=4).name] == ["repeat 3", "repeat 3 times=4"]
    assert Order((0, 1, 2, 3, 2, 3, 5)).name == "order 0-3,2-3,5"
