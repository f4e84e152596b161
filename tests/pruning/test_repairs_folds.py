"""Law: a repair folded into weights equals the repair as a hook, saved and reloaded too.

For every architecture that a fold supports, in float32 to 1e-5. Maps of the stream are exact but
for the norms' eps, so their models have an eps of 1e-12; what the usual eps does is bounded apart.
LinearPatch is folded exactly where its map is a rotation times a number, and only there.
"""

# Hugging Face modules are untyped from the outside: their children are `Tensor | Module`.

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache

from interp.errors import PruneScopeError, UserError
from interp.model.kv_cache import handing
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration
from pruning.plan import LayerPlan
from pruning.repairs import Map, Repaired, live, mend, save_repaired
from pruning.repairs.machinery.fold import checked, fold, untie
from pruning.repairs.machinery.gains import read_gains
from pruning.repairs.machinery.wiring import norm_offset, sublayers
from pruning.surgery import prune
from tests.models import ARCHS, tiny, untyped
from tests.slow_streams import plant_identity, texts
from tests.tolerances import close_to, kl_noise

NO_EPS: dict[str, Any] = {"rms_norm_eps": 1e-12}
PLANS = ((1, 3), (4,), (0, 2, 3))
LENGTHS = (24, 15, 24, 9, 20, 24)
BEHIND = ("gemma2", "gemma3", "olmo2")  # a norm behind their sublayers
AHEAD = tuple(arch for arch in ARCHS if arch not in BEHIND)


def data_of(model: ReasoningModel) -> Calibration:
    return Calibration.of(model, texts(model, LENGTHS))


def whole(model: ReasoningModel | Any) -> torch.Tensor:
    """Logits of two rows that no repair was fitted on."""
    hf = model.hf if isinstance(model, ReasoningModel) else model
    draw = torch.Generator().manual_seed(11)
    ids = torch.randint(6, 50, (2, 18), generator=draw)
    with torch.no_grad():
        return hf(ids, use_cache=False).logits


def hooked(model: ReasoningModel, plan: LayerPlan, maps: tuple[Map, ...]) -> torch.Tensor:
    pruned = prune(model, plan)
    with live(pruned, maps):
        return whole(pruned)


def reloaded(repaired: Repaired, folder: Path) -> Any:
    """The saved checkpoint through AutoModelForCausalLM, its loading checked."""
    save_repaired(repaired, folder)
    attention = repaired.model.hf.config._attn_implementation
    hf, info = untyped(AutoModelForCausalLM).from_pretrained(
        folder, output_loading_info=True, attn_implementation=attention
    )
    assert not any(info.values()), info
    assert len(info) >= 3  # missing, unexpected, mismatched were looked at
    return hf.eval()


def holds(
    repaired: Repaired, model: ReasoningModel, plan: LayerPlan, folder: Path | None = None
) -> None:
    """The law (saved and reloaded where there is a folder); and the repair changes something."""
    wanted = hooked(model, plan, repaired.maps)
    torch.testing.assert_close(whole(repaired.model), wanted, **close_to(model))
    if folder is not None:
        torch.testing.assert_close(whole(reloaded(repaired, folder)), wanted, **close_to(model))
    if plan.removed != (4,):  # behind the last block only the final norm reads
        assert (wanted - whole(prune(model, plan))).abs().max() > 1e-2


# ----------------------------------------------------------------------------------- the law


@pytest.mark.parametrize("removed", PLANS, ids=str)
@pytest.mark.parametrize("arch", ARCHS)
def test_prune_comp_folded_is_the_hook(arch: str, removed: tuple[int, ...], tmp_path: Path) -> None:
    model = tiny(arch, 5, **NO_EPS)
    plan = LayerPlan.without(model, *removed)
    repaired = mend("prune-comp", model, plan, data_of(model), measure=False)
    holds(repaired, model, plan, tmp_path / "out" if removed == PLANS[-1] else None)


@pytest.mark.parametrize("removed", PLANS, ids=str)
@pytest.mark.parametrize("arch", AHEAD)
def test_replaceme_folded_is_the_hook(arch: str, removed: tuple[int, ...], tmp_path: Path) -> None:
    model = tiny(arch, 5)
    plan = LayerPlan.without(model, *removed)
    repaired = mend("replaceme", model, plan, data_of(model), measure=False)
    holds(repaired, model, plan, tmp_path / "out" if removed == PLANS[-1] else None)


@pytest.mark.parametrize("removed", PLANS, ids=str)
@pytest.mark.parametrize("arch", ["qwen3", "qwen3_moe", *BEHIND])
def test_replaceme_of_diagonal_form_folded_is_the_hook(
    arch: str, removed: tuple[int, ...], tmp_path: Path
) -> None:
    model = tiny(arch, 5)
    plan = LayerPlan.without(model, *removed)
    data = data_of(model)
    repaired = mend("replaceme", model, plan, data, form="diagonal", measure=False)
    holds(repaired, model, plan, tmp_path / "out" if removed == PLANS[-1] else None)


@pytest.mark.parametrize("removed", PLANS, ids=str)
@pytest.mark.parametrize("arch", AHEAD)
def test_procrustes_folded_is_the_hook(arch: str, removed: tuple[int, ...], tmp_path: Path) -> None:
    model = tiny(arch, 5, **NO_EPS)
    plan = LayerPlan.without(model, *removed)
    repaired = mend("procrustes", model, plan, data_of(model), measure=False)
    holds(repaired, model, plan, tmp_path / "out" if removed == PLANS[-1] else None)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_run_that_starts_the_model_goes_into_the_embedding_of_every_architecture(
    arch: str, tmp_path: Path
) -> None:
    model = tiny(arch, 4, tie_word_embeddings=True)
    plan = LayerPlan.without(model, 0)
    head = untyped(model.head).weight.clone()
    for name in ("prune-comp", "replaceme", "linearpatch", "procrustes"):
        repaired = mend(name, model, plan, data_of(model), measure=False)
        holds(repaired, model, plan, tmp_path / name if name == "replaceme" else None)
        torch.testing.assert_close(repaired.model.head.weight, head)
        assert not repaired.model.hf.config.tie_word_embeddings
    assert model.hf.config.tie_word_embeddings


def test_a_number_leaves_a_tied_head_tied_and_a_rotation_unties_it(tmp_path: Path) -> None:
    model = tiny("qwen3", 5, tie_word_embeddings=True, **NO_EPS)
    plan = LayerPlan.without(model, 2)
    number = mend("prune-comp", model, plan, data_of(model))
    assert number.model.head.weight is number.model.hf.get_input_embeddings().weight
    turned = mend("procrustes", model, plan, data_of(model))
    assert turned.model.head.weight is not turned.model.hf.get_input_embeddings().weight
    for repaired, tied in ((number, True), (turned, False)):
        hf = reloaded(repaired, tmp_path / str(tied))
        assert (hf.lm_head.weight.data_ptr() == hf.model.embed_tokens.weight.data_ptr()) is tied
        torch.testing.assert_close(whole(hf), hooked(model, plan, repaired.maps), **close_to(model))


def test_biases_are_folded_too(tmp_path: Path) -> None:
    model = tiny("llama", 5, attention_bias=True, mlp_bias=True, **NO_EPS)
    plan = LayerPlan.without(model, 1, 3)
    for name in ("prune-comp", "replaceme", "procrustes"):
        repaired = mend(name, model, plan, data_of(model), measure=False)
        holds(repaired, model, plan, tmp_path / name)


def test_the_folded_model_decodes_with_a_cache() -> None:
    model = tiny("qwen3", 5, **NO_EPS)
    plan = LayerPlan.without(model, 1, 3)
    ids = torch.randint(6, 50, (2, 12), generator=torch.Generator().manual_seed(1))
    for name in ("prune-comp", "replaceme", "procrustes", "linearpatch"):
        hf = mend(name, model, plan, data_of(model), measure=False).model.hf
        cache = DynamicCache(config=hf.config)
        with torch.no_grad():
            steps = [
                hf(ids[:, i : i + 1], use_cache=True, **handing(hf, cache)).logits
                for i in range(ids.shape[1])
            ]
            at_once = hf(ids, use_cache=False).logits
        torch.testing.assert_close(torch.cat(steps, 1), at_once, **close_to(model))


@pytest.mark.parametrize("arch", ARCHS)
def test_the_usual_eps_of_the_norms_is_all_that_is_lost(arch: str) -> None:
    model = tiny(arch, 5)
    plan = LayerPlan.without(model, 1, 3)
    repaired = mend("prune-comp", model, plan, data_of(model), measure=False)
    gap = (whole(repaired.model) - hooked(model, plan, repaired.maps)).abs().max()
    assert gap < 3e-4


# ------------------------------------------------------------------- identity needs no repair


@pytest.mark.parametrize("name", ["prune-comp", "replaceme", "linearpatch", "procrustes"])
def test_a_run_that_adds_nothing_is_repaired_to_the_whole_model(name: str) -> None:
    model = tiny("qwen3", 5, **NO_EPS)
    for block in (1, 3):
        plant_identity(model, block)
    repaired = mend(name, model, LayerPlan.without(model, 1, 3), data_of(model))
    torch.testing.assert_close(whole(repaired.model), whole(model), **close_to(model))
    assert repaired.record["kl"]["repaired"] < kl_noise(model)
    for cut in repaired.record["cuts"]:
        assert max(cut["error_removed"], cut["error_repaired"]) < 1e-12


# -------------------------------------------------------------------------------- linearpatch


def patched(model: ReasoningModel, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits with a matrix on what enters block 2: folded, and as a hook."""
    maps = [Map(matrix, 2)]
    plan = LayerPlan.without(model, 1)
    pruned = prune(model, plan)
    gains = read_gains(pruned, maps, data_of(model), 4096)
    fold(pruned, maps, gains.kappa)
    return whole(pruned), hooked(model, plan, tuple(maps))


def test_a_matrix_folds_exactly_if_and_only_if_it_is_a_rotation_times_a_number() -> None:
    model = tiny("qwen3", 4, **NO_EPS)
    draw = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(32, 32, generator=draw).double())[0]
    folded, hook = patched(model, 1.7 * rotation)
    torch.testing.assert_close(folded, hook, **close_to(model))
    gaps = []
    for spread in (0.01, 0.1, 0.4):
        gains = 1 + spread * torch.randn(32, generator=draw).double()
        folded, hook = patched(model, rotation @ (gains[:, None] * rotation.T))
        gaps.append(float((folded - hook).abs().max()))
    assert 1e-4 < gaps[0] < gaps[1] < gaps[2]


@pytest.mark.parametrize("rotate", [True, False])
def test_what_linearpatch_leaves_out_is_small_and_recorded(rotate: bool, tmp_path: Path) -> None:
    model = tiny("qwen3", 6)
    plan = LayerPlan.without(model, 1, 4)
    data = data_of(model)
    repaired = mend("linearpatch", model, plan, data, rotate=rotate)
    record = repaired.record
    row = torch.tensor(data.sequences[0])[None]
    pruned = prune(model, plan)
    with torch.no_grad():
        folded = repaired.model.hf(row).logits
        plain = pruned.hf(row).logits
        with live(pruned, repaired.maps):
            hook = pruned.hf(row).logits
    gap = float((folded - hook).norm() / hook.norm())
    assert record["logit_error"] == pytest.approx(gap, rel=1e-3)
    assert 0 < gap < 0.5 * float((plain - hook).norm() / hook.norm())
    assert 0 < record["read_error"]["mean"] <= record["read_error"]["worst"] < 0.05
    assert record["fold"].startswith("approximate")
    assert record["kl_hook"] == pytest.approx(record["kl"]["repaired"], rel=0.2)
    torch.testing.assert_close(
        whole(reloaded(repaired, tmp_path / "out")), whole(repaired.model), **close_to(model)
    )
    start = mend("linearpatch", model, LayerPlan.without(model, 0), data)
    assert (start.record["fold"], start.record["read_error"]["worst"]) == ("exact", 0.0)
    assert start.record["logit_error"] < 1e-5


def test_kappa_is_the_best_number_for_each_read() -> None:
    model = tiny("qwen3", 5)
    plan = LayerPlan.without(model, 1)
    pruned = prune(model, plan)
    draw = torch.Generator().manual_seed(3)
    a = torch.eye(32) + 0.1 * torch.randn(32, 32, generator=draw)
    maps = [Map(a, 3)]
    data = data_of(model)
    got = read_gains(pruned, maps, data, 50)
    seen: dict[str, list[torch.Tensor]] = {}
    places: dict[str, Any] = {"head": pruned.final_norm}
    for index in (2, 3):
        block = untyped(pruned.blocks[index])
        places[f"blocks[{index}].attention"] = block.input_layernorm
        places[f"blocks[{index}].mlp"] = block.post_attention_layernorm
    assert set(got.kappa) == set(places)
    with live(pruned, maps), torch.no_grad():
        handles = [
            norm.register_forward_pre_hook(
                lambda _, args, name=name: seen.setdefault(name, []).append(args[0][0])
            )
            for name, norm in places.items()
        ]
        for ids in data.sequences:
            pruned.hf(torch.tensor(ids)[None])
    for handle in handles:
        handle.remove()
    inverse = torch.linalg.inv(a.double())
    for name, rows in seen.items():
        stream = torch.cat(rows).double()
        rho = stream.norm(dim=-1) / (stream @ inverse).norm(dim=-1)
        tries = torch.linspace(0.5, 2.0, 30001).double()
        losses = (1 - rho[:, None] / tries).square().mean(0)
        assert got.kappa[name] == pytest.approx(float(tries[losses.argmin()]), abs=1e-4)
        assert got.errors[name] == pytest.approx(float(losses.min()), rel=1e-3)


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("arch", BEHIND)
def test_a_matrix_through_a_norm_behind_is_refused(arch: str) -> None:
    model = tiny(arch, 4)
    plan = LayerPlan.without(model, 2)
    data = data_of(model)
    with pytest.raises(UserError, match='form="diagonal"'):
        mend("replaceme", model, plan, data)
    for name in ("linearpatch", "procrustes"):
        with pytest.raises(UserError, match='"prune-comp"'):
            mend(name, model, plan, data)


class Renamed(nn.Module):
    """An MLP whose weights have names that no fold knows."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.odd_proj: nn.Module = inner.gate_proj
        self.up_proj: nn.Module = inner.up_proj
        self.down_proj: nn.Module = inner.down_proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(torch.nn.functional.silu(self.odd_proj(x)) * self.up_proj(x))


def test_wiring_that_is_not_known_is_refused() -> None:
    model = tiny("qwen3", 3)
    block = untyped(model.blocks[1])
    block.mlp = Renamed(block.mlp)
    renamed = ReasoningModel.load(model.hf, model.tokenizer)
    with pytest.raises(UserError, match="in its mlp, which folding does not know"):
        sublayers(renamed, 1)
    model = tiny("qwen3", 3)
    block = untyped(model.blocks[1])
    block.input_layernorm = nn.Identity()
    with pytest.raises(UserError, match="no plain RMS norm"):
        norm_offset(model, block.input_layernorm)
    block.self_attn.o_proj.weight = nn.Parameter(torch.zeros(16, 64))
    with pytest.raises(UserError, match="other shapes"):
        sublayers(model, 1)
    del block.input_layernorm
    with pytest.raises(UserError, match="no norm in front"):
        sublayers(model, 1)


@pytest.mark.parametrize("arch", ARCHS)
def test_norms_multiply_by_w_or_by_one_plus_w(arch: str) -> None:
    model = tiny(arch, 2)
    wanted = 1.0 if arch.startswith("gemma") else 0.0
    assert norm_offset(model, model.final_norm) == wanted
    untyped(model.hf).to(torch.bfloat16)
    assert norm_offset(model, model.final_norm) == wanted


def test_a_fold_that_does_not_equal_its_hook_is_caught() -> None:
    """An MLP whose output is multiplied behind the down-projection by something not linear."""
    model = tiny("qwen3", 4)
    data = data_of(model)
    for block in untyped(model.blocks):
        block.mlp.register_forward_hook(lambda _, args, out: torch.tanh(out))
    with pytest.raises(PruneScopeError, match="the result would be wrong"):
        mend("replaceme", model, LayerPlan.without(model, 2), data)
    with (
        pytest.raises(PruneScopeError, match="the result would be wrong"),
        checked(tiny("qwen3", 4), [Map(torch.tensor(2.0), 2)], data),
    ):
        pass  # nothing was folded


def test_untying_twice_changes_nothing() -> None:
    model = tiny("qwen3", 2, tie_word_embeddings=True)
    before = whole(model)
    untie(model)
    weight = model.head.weight
    untie(model)
    assert model.head.weight is weight
    torch.testing.assert_close(whole(model), before)
