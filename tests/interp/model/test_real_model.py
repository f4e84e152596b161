"""Real models from their GGUF files, against plain calls of Hugging Face.

PRUNESCOPE_SMOLLM2 names SmolLM2-135M-Instruct; PRUNESCOPE_REAL_MODELS may name others (of the
architectures llama and qwen2), with the path separator of the system between them.
"""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.chains.chain import Budget
from interp.decoding.sampling import Sampling
from interp.interventions.hooks import apply
from interp.model.delimiters import Delimiters
from interp.model.reasoning_model import ReasoningModel
from pruning.criteria import score
from pruning.plan import LayerPlan
from pruning.surgery import save
from scaling.benchmarks import PromptChoice
from scaling.engines.local import LocalEngine
from scaling.store.study_store import Store
from scaling.study.config import StudyConfig
from scaling.study.runner import run_study

NAMED = [
    os.environ.get("PRUNESCOPE_SMOLLM2", ""),
    *os.environ.get("PRUNESCOPE_REAL_MODELS", "").split(os.pathsep),
]
FILES = [file for file in NAMED if file]
pytestmark = [
    pytest.mark.skipif(
        not FILES,
        reason="no real model: `make real-model` fetches one for `make test`, or set "
        "PRUNESCOPE_SMOLLM2 to the file SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the memory maps of the package gguf
]

TEXT = "In 1789 the revolution began in Paris; 12 + 345 = 357, and so on, il était une fois. " * 3
QUESTIONS = [
    "What is the capital of France?",
    "Count: 1, 2, 3,",
    "Write a short poem about the sea.",
]


@pytest.fixture(scope="module", params=FILES or [""], ids=lambda file: Path(file).name)
def file(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture(scope="module")
def model(file: Path) -> ReasoningModel:
    return ReasoningModel.load(file, delimiters=Delimiters("<think>", "</think>", wait=""))


@pytest.fixture(scope="module")
def plain(file: Path) -> tuple[Any, Any]:
    """Model and tokenizer as a script of plain transformers calls has them."""
    pytest.importorskip("gguf", reason="needs the extra gguf: pip install 'prunescope[gguf]'")
    path = file
    hf: Any = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return hf.eval(), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def test_logits_and_block_influence(model: ReasoningModel, plain: tuple[Any, Any]) -> None:
    hf, tokenizer = plain
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert model.encode(TEXT) == ids
    last: list[torch.Tensor] = []
    handle = hf.model.layers[-1].register_forward_hook(lambda _m, _i, out: last.append(out))
    with torch.no_grad():
        out = hf(torch.tensor([ids]), output_hidden_states=True)
        ours = model.hf(torch.tensor([ids])).logits
    handle.remove()
    torch.testing.assert_close(ours, out.logits, atol=1e-5, rtol=0)
    states = [*out.hidden_states[:-1], last[0]]  # the last hidden state of the output is normed
    influence = [
        1 - torch.cosine_similarity(a.double(), b.double(), dim=-1).mean().item()
        for a, b in pairwise(states)
    ]
    found = score("shortgpt", model, [ids]).values
    assert list(found) == pytest.approx(influence, abs=1e-4)


def test_greedy_chains(model: ReasoningModel, plain: tuple[Any, Any]) -> None:
    """Token for token, each alone and all in one batch, by either decoder."""
    import interp.decoding.generate  # noqa: F401  # the decoder of `model.generate`

    hf, tokenizer = plain
    asked, wanted = [], []
    for question in QUESTIONS:
        turns = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False)
        asked.append(ids)
        wanted.append(
            hf.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=32,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                repetition_penalty=1.0,
                eos_token_id=list(model.stop_ids),
            )[0, len(ids) :].tolist()
        )
    options: dict[str, Any] = {"budget": Budget(40, 8), "sampling": Sampling(temperature=0.0)}
    together = model.generate(asked, **options)
    alone = [model.generate([ids], **options)[0] for ids in asked]
    generic = model.generate(asked, decoder="generic", **options)
    for chains in (together, alone, generic):
        for chain, want, one in zip(chains, wanted, alone, strict=True):
            assert chain.ids[: len(want)].tolist() == want
            assert chain.ids.tolist() == one.ids.tolist()
            assert chain.logprob == pytest.approx(one.logprob, abs=1e-3, nan_ok=True)


def test_a_pruned_checkpoint(
    model: ReasoningModel, plain: tuple[Any, Any], file: Path, tmp_path: Path
) -> None:
    gone = (0, model.n_blocks - 10)
    plan = LayerPlan.without(model, *gone)
    folder = save(model, plan, tmp_path / "pruned")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert config["num_hidden_layers"] == model.n_blocks - 2
    found: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    hf, report = found
    assert not any(report.values())
    ids = torch.tensor([model.encode(TEXT)])
    with torch.no_grad():
        saved = hf.eval()(ids).logits
        with apply(model, plan):
            live = model.hf(ids).logits
        theirs = plain[0].model
        whole = theirs.layers
        theirs.layers = torch.nn.ModuleList(b for i, b in enumerate(whole) if i not in gone)
        theirs.config.num_hidden_layers = len(theirs.layers)
        removed = plain[0](ids, use_cache=False).logits
        theirs.layers, theirs.config.num_hidden_layers = whole, len(whole)
    for other in (live, removed):
        torch.testing.assert_close(saved, other, atol=1e-5 * float(live.abs().max()), rtol=0)
    assert AutoTokenizer.from_pretrained(folder).encode(TEXT) == model.encode(TEXT)
    record = json.loads((folder / "pruning.json").read_text(encoding="utf-8"))
    assert record["provenance"]["file"] == file.name
    assert record["provenance"]["quantization"] in file.name


RECORDS = [
    ("Which planet is closest to the Sun?", ["Mercury", "Venus", "Mars", "Earth"], 0),
    ("What is the capital of France?", ["Rome", "Berlin", "Paris", "Madrid"], 2),
    ("How many legs does a spider have?", ["Four", "Six", "Ten", "Eight"], 3),
    ("Water freezes at which temperature in degrees Celsius?", ["0", "32", "100", "-10"], 0),
    ("Which of these is a mammal?", ["Trout", "Whale", "Hen", "Frog"], 1),
]


@pytest.mark.parametrize("chat", ["yes", "no"])
@pytest.mark.parametrize("name", ["mmlu", "mmlu-text"])
def test_mmlu_by_likelihood(
    name: str, chat: str, model: ReasoningModel, plain: tuple[Any, Any], tmp_path: Path
) -> None:
    rows = [{"question": q, "choices": c, "answer": a, "subject": ""} for q, c, a in RECORDS]
    for file, part in (("test.jsonl", rows[:3]), ("dev.jsonl", rows[3:])):
        (tmp_path / file).write_text("\n".join(map(json.dumps, part)), encoding="utf-8")
    own = ReasoningModel.load(model.hf, model.tokenizer, delimiters=Delimiters.plain())
    config = StudyConfig(
        benchmarks=(name,),
        data={name: str(tmp_path / "test.jsonl")},
        prompts=PromptChoice(chat, {name: 2}, {name: str(tmp_path / "dev.jsonl")}),
        methods=(),
        blocks=False,
        out=tmp_path / "study",
    )
    run_study(config, engine=LocalEngine(own))
    with Store(config.out, read_only=True) as store:
        stored = store.rows().set_index("position")
    hf, tokenizer = plain
    bare = name == "mmlu-text"
    header = (
        "The following are " + ("" if bare else "multiple choice ") + "questions (with answers)."
    )
    asked = []
    for question, choices, answer in RECORDS:
        lines = [f"{letter}. {c}" for letter, c in zip("ABCD", choices, strict=True)]
        ask = f"Question: {question}" if bare else "\n".join([question, *lines])
        asked.append((f"{ask}\nAnswer:", choices if bare else list("ABCD"), answer))
    for i, (ask, options, gold) in enumerate(asked[:3]):
        shots = [(a, o[g]) for a, o, g in asked[3:]]
        if chat == "yes":
            turns = [
                {"role": role, "content": text}
                for pair in shots
                for role, text in zip(("user", "assistant"), pair, strict=True)
            ]
            turns.append({"role": "user", "content": ask})
            turns[0]["content"] = f"{header}\n\n{turns[0]['content']}"
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        else:
            told = "\n\n".join(f"{a} {o}" for a, o in shots)
            text = f"{header}\n\n{told}\n\n{ask}"
        values = []
        for option in options:
            ids = tokenizer.encode(text, add_special_tokens=False)
            more = tokenizer.encode(
                option if chat == "yes" else f" {option}", add_special_tokens=False
            )
            with torch.no_grad():
                logp = hf(torch.tensor([[*ids, *more]])).logits[0].double().log_softmax(-1)
            at = range(len(ids) - 1, len(ids) + len(more) - 1)
            values.append(sum(logp[p, t].item() for p, t in zip(at, more, strict=True)))
        row = stored.loc[i]
        assert row["prompt_tokens"] == len(ids)
        assert row["choice_logprobs"] == pytest.approx(values, abs=1e-3)
        means = [v / len(o) for v, o in zip(values, options, strict=True)] if bare else values
        assert row["extracted"] == options[means.index(max(means))]
        assert (row["outcome"] == "correct") == (row["extracted"] == options[gold])
