"""Block Influence by each public definition, against what such code does, written out slowly."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import NonFiniteError, UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration
from pruning.criteria.block_influence import block_influence
from pruning.criteria.influence_definitions import DEFINITIONS, Definition
from tests.models import tiny, untyped
from tests.slow_streams import hooks_of, same_weights, snapshot, streams, texts

LENGTHS = (6, 17, 4, 9, 12)


def cosines(kept: np.ndarray) -> np.ndarray:
    """cos(x_l, x_{l+1}) of streams [L + 1, T, D]: [L, T]."""
    unit = kept / np.linalg.norm(kept, axis=-1, keepdims=True)
    return (unit[:-1] * unit[1:]).sum(-1)


def padded_states(model: ReasoningModel, few: list[np.ndarray], side: str) -> np.ndarray:
    """Hidden states of one padded batch as Hugging Face gives them, [L + 1, B, T, D]."""
    width, pad = max(map(len, few)), model.tokenizer.pad_token_id
    rows, mask = [], []
    for ids in few:
        more = [pad] * (width - len(ids))
        rows.append([*more, *ids] if side == "left" else [*ids, *more])
        real, none = [1] * len(ids), [0] * len(more)
        mask.append([*none, *real] if side == "left" else [*real, *none])
    last: list[torch.Tensor] = []
    handle = model.final_norm.register_forward_pre_hook(lambda _, args: last.append(args[0]))
    with torch.no_grad():
        out = model.hf(
            input_ids=torch.tensor(rows),
            attention_mask=torch.tensor(mask),
            output_hidden_states=True,
            use_cache=False,
        )
    handle.remove()
    return np.stack([h.double().numpy() for h in (*out.hidden_states[:-1], last[0])])


def public_half(x: np.ndarray, y: np.ndarray) -> float:
    """1 - cos of two tokens as public code has it in float16, one rounding after the other."""
    with np.errstate(all="ignore"):
        a, b = x.astype(np.float16), y.astype(np.float16)
        norm_a, norm_b = (np.float16(np.sqrt((z.astype(np.float64) ** 2).sum())) for z in (a, b))
        dot = np.float16((a.astype(np.float64) * b.astype(np.float64)).sum())
        cos = np.float16(dot / np.float16(norm_a * norm_b))
        return float(np.float16(1) - (np.float16(0.5) if np.isnan(cos) else cos))


@pytest.mark.parametrize("arch", ["qwen3", "gemma2"])
def test_the_last_position_only(arch: str) -> None:
    model = tiny(arch, 4)
    data = texts(model, LENGTHS)
    expected = np.mean([1 - cosines(streams(model, ids)[:, -1:])[:, 0] for ids in data], axis=0)
    found = block_influence(model, data, positions="last", batch_tokens=40)
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-5)
    assert (found.criterion, found.n_tokens) == ("shortgpt, last position", len(data))


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_counted(side: Any) -> None:
    model = tiny("llama", 4)
    data = texts(model, LENGTHS)
    values = [
        (1 - cosines(padded_states(model, data[i : i + 2], side))).reshape(4, -1) for i in (0, 2, 4)
    ]
    expected = np.concatenate(values, axis=1).mean(1)
    found = block_influence(model, data, padding=side, padded_batch=2)
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-5)
    assert found.n_tokens == 2 * 17 + 2 * 9 + 12
    plain = block_influence(model, data)
    assert np.abs(found.values - plain.values).max() > 1e-3  # it is not the same thing
    alike = block_influence(model, [data[1]] * 3, padding=side)  # nothing to pad
    np.testing.assert_allclose(alike.values, block_influence(model, [data[1]]).values, rtol=1e-5)


def test_padding_counted_at_the_last_position_reads_padding() -> None:
    model = tiny("llama", 3)
    data = texts(model, LENGTHS)
    found = block_influence(model, data, padding="right", positions="last")
    last = padded_states(model, data, "right")[:, :, -1]
    np.testing.assert_allclose(found.values, (1 - cosines(last)).mean(1), rtol=1e-4, atol=1e-5)


def test_padding_leaves_out_the_part_that_does_not_count() -> None:
    model = tiny("llama", 3)
    sequences = tuple(texts(model, (8, 5)))
    half = Calibration(sequences, (3, 2), "generated", "x")
    kept = padded_states(model, list(sequences), "right")
    value = 1 - cosines(kept.reshape(4, -1, 32)).reshape(3, 2, 8)
    counted = np.ones((2, 8), dtype=bool)
    counted[0, :3] = counted[1, :2] = False
    found = block_influence(model, half, padding="right")
    np.testing.assert_allclose(found.values, value[:, counted].mean(1), rtol=1e-4)


def test_the_last_block_behind_the_final_norm_and_unscored() -> None:
    model = tiny("qwen3", 4)
    data = texts(model, LENGTHS)
    plain = block_influence(model, data)
    behind = block_influence(model, data, last_block="after norm")
    np.testing.assert_allclose(behind.values[:-1], plain.values[:-1], rtol=1e-5)
    cos = []
    for ids in data:
        with torch.no_grad():
            states = model.hf(torch.tensor([list(ids)]), output_hidden_states=True).hidden_states
        x, y = (states[i][0].double() for i in (-2, -1))
        cos += torch.nn.functional.cosine_similarity(x, y, dim=-1).tolist()
    assert behind.values[-1] == pytest.approx(1 - np.mean(cos), rel=1e-4)
    assert abs(behind.values[-1] - plain.values[-1]) > 1e-3
    without = block_influence(model, data, last_block="unscored")
    assert np.isinf(without.values[-1])
    np.testing.assert_allclose(without.values[:-1], plain.values[:-1], rtol=1e-5)
    assert 3 not in without.lowest(3)


def test_half_precision_rounds_as_public_code_does() -> None:
    model = tiny("llama", 3)
    data = texts(model, LENGTHS)
    kept = [streams(model, ids) for ids in data]
    for l in range(3):
        each = [public_half(x, y) for k in kept for x, y in zip(k[l], k[l + 1], strict=True)]
        found = block_influence(model, data, precision="float16").values[l]
        assert found == pytest.approx(np.mean(each), abs=2e-4)
    plain = block_influence(model, data).values
    coarse = block_influence(model, data, precision="bfloat16").values
    assert 0 < np.abs(coarse - plain).max() < 0.02
    np.testing.assert_allclose(coarse, plain, atol=0.02)


def test_half_precision_overflows_to_one_half_and_one() -> None:
    """Norms over 256 and 65504 / 256: |x| |y| is inf in float16, and for aligned tokens x.y too."""
    model = tiny("llama", 2)
    data = texts(model, LENGTHS)
    with torch.no_grad():
        for block in model.blocks:
            untyped(block).self_attn.o_proj.weight.zero_()
        untyped(model.blocks[0]).mlp.down_proj.weight.zero_()  # block 0 hands x on: x.x over 65504
        untyped(model.hf).get_input_embeddings().weight.mul_(4000)
    plain = block_influence(model, data)
    half = block_influence(model, data, precision="float16")
    assert plain.values[0] == pytest.approx(0, abs=1e-6)
    assert half.values[0] == 0.5  # inf / inf is nan, and nan becomes 0.5
    with torch.no_grad():  # block 1: |x| about 200, |y| about 3000, nearly orthogonal
        untyped(model.hf).get_input_embeddings().weight.mul_(200 / 3400)
        kept = [streams(model, ids) for ids in data]
        added = np.mean([np.linalg.norm(k[2] - k[1], axis=-1).mean() for k in kept])
        untyped(model.blocks[1]).mlp.down_proj.weight.mul_(3000 / added)
    kept = [streams(model, ids) for ids in data]
    each = [public_half(x, y) for k in kept for x, y in zip(k[1], k[2], strict=True)]
    half = block_influence(model, data, precision="float16")
    assert half.values[1] == pytest.approx(np.mean(each), abs=1e-3)
    assert each.count(1.0) > len(each) / 4  # finite / inf is 0, whatever the angle
    assert abs(half.values[1] - block_influence(model, data).values[1]) > 0.02


def test_sinks_left_out_in_every_definition() -> None:
    model = tiny("llama", 3)
    with torch.no_grad():
        untyped(model.hf).get_input_embeddings().weight[7] *= 500
    data = [[8, 9, 7, 10, 11, 12, 13], [14, 15, 16, 17]]
    plain = block_influence(model, data, sinks=False)
    other = block_influence(model, data, sinks=False, last_block="after norm")
    np.testing.assert_allclose(other.values[:-1], plain.values[:-1], rtol=1e-5)
    with pytest.raises(UserError, match="no token is left"):
        block_influence(model, [[8, 9, 10, 11, 7]], sinks=False, positions="last")


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
def test_every_definition_leaves_the_model_alone_and_says_what_it_is(
    definition: Definition,
) -> None:

    model = tiny("qwen3", 3)
    before, hooks = snapshot(model), hooks_of(model)
    found = block_influence(model, texts(model, LENGTHS), **asdict(definition))
    assert found.criterion == definition.name
    assert same_weights(model, before)
    assert hooks_of(model) == hooks
    if definition.last_block != "unscored":
        assert ((found.low <= found.values) & (found.values <= found.high)).all()


def test_the_definitions_are_told_apart_by_name() -> None:
    names = [definition.name for definition in DEFINITIONS]
    assert len(set(names)) == len(names)
    assert names[0] == "shortgpt"
    every = Definition("last", "left", False, "float16", "unscored")
    assert every.name == (
        "shortgpt, no sinks, last position, left padding, float16, last block unscored"
    )


def test_bad_definitions_are_refused() -> None:
    model = tiny("qwen3", 3)
    data = texts(model, (6, 5))
    with pytest.raises(UserError, match="Did you mean 'float16'"):
        block_influence(model, data, precision="float61")
    with pytest.raises(UserError, match="Unknown padding 'both'"):
        block_influence(model, data, padding="both")
    with pytest.raises(UserError, match="at least 1 text"):
        block_influence(model, data, padding="left", padded_batch=0)
    with pytest.raises(UserError, match="outside the vocabulary"):
        block_influence(model, [[6, 99999]], padding="left")
    with torch.no_grad():
        untyped(model.blocks[1]).mlp.down_proj.weight[0, 0] = torch.nan
    hooks = hooks_of(model)
    with pytest.raises(NonFiniteError):
        block_influence(model, data, positions="last")
    assert hooks_of(model) == hooks
