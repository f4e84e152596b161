"""ReasoningModel: anatomy of every architecture, loading, prompts, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from interp.errors import UserError
from interp.model.delimiters import Delimiters
from interp.model.reasoning_model import ReasoningModel
from tests.models import ARCHS, tiny, tiny_hf, tokenizer


@pytest.mark.parametrize("arch", ARCHS)
def test_anatomy(arch: str) -> None:
    model = tiny(arch, n_blocks=3)
    assert model.n_blocks == 3 and model.d_model == 32 and model.layer_map == (0, 1, 2)
    assert model.vocab_size == len(tokenizer())
    ids = torch.tensor([model.prompt_ids("use 3 7 to make 21")])
    seen: dict[str, torch.Tensor] = {}
    handles = []

    def keep(name: str):
        def hook(_, args, kwargs, out) -> None:
            seen[f"{name} in"] = args[0] if args else kwargs["hidden_states"]
            seen[name] = out[0] if isinstance(out, tuple) else out

        return hook

    a = model.anatomy
    for name, module in (
        ("block", a.blocks[1]), ("attention", a.adds(1, "attention")), ("mlp", a.adds(1, "mlp")),
        ("last", a.blocks[2]), ("norm", model.final_norm),
    ):  # fmt: skip
        handles.append(module.register_forward_hook(keep(name), with_kwargs=True))
    with torch.no_grad():
        logits = model.hf(ids).logits
    for handle in handles:
        handle.remove()
    # what the sublayers add is the whole of the block's delta
    delta = seen["block"] - seen["block in"]
    torch.testing.assert_close(delta, seen["attention"] + seen["mlp"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen["norm in"], seen["last"])
    cap = getattr(model.hf.config, "final_logit_softcapping", None)
    raw = model.head(seen["norm"])
    torch.testing.assert_close(logits, cap * torch.tanh(raw / cap) if cap else raw)


def test_prompts() -> None:
    model = tiny()
    ids = model.prompt_ids("use 3 7 to make 21")
    assert model.text(ids, skip_special=False).endswith("<think>")
    assert model.delimiter_ids.closed_in(tuple(ids)) is False
    closed = model.prompt_ids("use 3 7 to make 21", thinking=False)
    assert model.text(closed, skip_special=False).endswith("<think> </think>")
    assert model.delimiter_ids.closed_in(tuple(closed)) is True
    turns = [{"role": "user", "content": "use 3 7 to make 21"}]
    assert model.prompt_ids(turns) == ids
    assert model.encode("3 + 7") == [tokenizer().convert_tokens_to_ids(w) for w in "3 + 7".split()]
    with pytest.raises(UserError, match="empty question"):
        model.prompt_ids("  ")


def test_prompt_without_a_template_that_thinks() -> None:
    tok = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer()._tokenizer, eos_token="<|im_end|>", unk_token="<unk>"
    )
    model = ReasoningModel.load(tiny_hf(), tok)
    assert model.text(model.prompt_ids("use 3"), skip_special=False) == "use 3 <think>"
    closed = model.prompt_ids("use 3", thinking=False)
    assert model.text(closed, skip_special=False) == "use 3 <think> </think>"


def test_folder_round_trip_with_layer_map_and_delimiters(tmp_path: Path) -> None:
    live = tiny(n_blocks=3)
    live.hf.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    (tmp_path / "pruning.json").write_text(json.dumps({"layer_map": [0, 2, 5], "n_blocks": 8}))
    words = Delimiters("<think>", "</think>", answer_prefix="is", wait="again")
    (tmp_path / "delimiters.json").write_text(json.dumps(words.to_dict()))
    model = ReasoningModel.load(tmp_path)
    assert model.layer_map == (0, 2, 5) and model.n_dense == 8
    assert model.index_of(2) == 1 and model.index_of(1) is None and model.index_of(7) is None
    with pytest.raises(UserError, match="Block 8 is not there"):
        model.index_of(8)
    assert model.delimiters == words
    assert model.delimiter_ids.wait == tuple(model.encode("again"))
    ids = torch.tensor([live.prompt_ids("use 3 7 to make 21")])
    with torch.no_grad():
        torch.testing.assert_close(model.hf(ids).logits, live.hf(ids).logits)
    assert model.dtype == torch.float32
    (tmp_path / "pruning.json").write_text(json.dumps({"layer_map": [0, 1]}))
    with pytest.raises(UserError, match="2 entries for 3 blocks"):
        ReasoningModel.load(tmp_path)
    (tmp_path / "pruning.json").write_text("{")
    with pytest.raises(UserError, match=r"pruning\.json: not JSON"):
        ReasoningModel.load(tmp_path)


def test_fingerprint_follows_weights_and_configuration() -> None:
    assert tiny(seed=1).fingerprint() == tiny(seed=1).fingerprint()
    prints = {tiny(seed=s, n_blocks=n).fingerprint() for s in (1, 2) for n in (2, 3)}
    assert len(prints) == 4


def test_unknown_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="Did you mean 'testbed'"):
        ReasoningModel.load("tesbed")
    with pytest.raises(UserError, match="No folder"):
        ReasoningModel.load("./nowhere")
    with pytest.raises(UserError, match=r"config\.json"):
        ReasoningModel.load(tmp_path)
    tiny_hf().config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="safetensors only"):
        ReasoningModel.load(tmp_path)
    with pytest.raises(UserError, match="live tokenizer"):
        ReasoningModel.load(tiny_hf())


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    hf = tiny_hf()
    hf.config.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    torch.save(hf.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "broken.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="Cannot load"):
        ReasoningModel.load(tmp_path)


def test_unsupported_architectures() -> None:
    tok = tokenizer()
    small: dict[str, Any] = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2}
    griffin = transformers.RecurrentGemmaForCausalLM(
        transformers.RecurrentGemmaConfig(**small, intermediate_size=48, lru_width=16)
    )
    with pytest.raises(UserError, match="found no list of 2 decoder blocks"):
        ReasoningModel.load(griffin, tok)
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=60, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    )
    with pytest.raises(UserError, match="encoder-decoder"):
        ReasoningModel.load(t5, tok)


def test_a_tokenizer_without_delimiters_has_the_plain_format() -> None:
    inner: Any = tokenizer()._tokenizer
    plain = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner.from_str(inner.to_str().replace("think>", "thimk>")),
        unk_token="<unk>",
        eos_token="<|im_end|>",
    )
    model = ReasoningModel.load(tiny_hf(), plain)
    assert model.delimiters.is_plain and model.delimiter_ids.think_end == ()
    assert model.text(model.prompt_ids("use 3"), skip_special=False) == "use 3"
    with pytest.raises(UserError, match="cannot spell"):
        ReasoningModel.load(tiny_hf(), plain, delimiters=Delimiters("use", "nonsense"))
    named = ReasoningModel.load(tiny_hf(), plain, delimiters=Delimiters("use", "to make"))
    assert len(named.delimiter_ids.think_end) == 2


def test_layer_map_must_rise() -> None:
    for bad in ([0, 0, 1], [2, 1, 3], [-1, 0, 1]):
        with pytest.raises(UserError, match="rise strictly"):
            ReasoningModel(tiny_hf(n_blocks=3), tokenizer(), name="x", layer_map=bad)
