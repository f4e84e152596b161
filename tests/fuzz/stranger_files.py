"""What is fuzzed: every reader of a file, a reply or a text that a stranger wrote.

A target is made once in a process, in a folder of its own, and then tries one mutation at a time:
`attempt` mutates a healthy original, reads the result, and checks what was let in. It raises what
the reader raises. Whatever is not of the target's `refusals` is a fault.
"""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, get_args

import numpy as np
import torch

from interp.errors import NonFiniteError, UserError
from tests import models
from tests.fuzz.mutators import Mutator
from tests.fuzz.sentry import OWN_CODE, LetInError

MOST = 1_000  # blocks of a model
QUESTION = "what is 7 + 5 ? let's see: 12,345.6 naïve 中文 😀"
REMOTE = {"AutoConfig": "own_code.Own", "AutoModelForCausalLM": "own_code.Own"}
REMOTE |= {"AutoTokenizer": ["own_code.Own", "own_code.Own"]}


class Target(ABC):
    """One reader, or a few that read the same file.

    Attributes:
        share: the part of all attempts that this target gets; those that read quickly get more.
        refusals: the errors by which the reader may refuse.
    """

    share: ClassVar[float] = 1.0
    refusals: ClassVar[tuple[type[Exception], ...]] = (UserError,)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def attempt(self, m: Mutator) -> None:
        """Mutate an original, read the result, and check what was let in."""


def check(held: bool, what: str) -> None:
    """Raise LetInError unless `held`."""
    if not held:
        raise LetInError(what)


@cache
def tiny_model() -> Any:
    """The model with weights that serves where a reader needs one."""
    return models.tiny(n_blocks=2)


def checkpoint(folder: Path, hf: Any = None, tokenizer: Any = None) -> Path:
    """Write a whole, healthy checkpoint, with a module that a stranger would like to run."""
    folder.mkdir(parents=True, exist_ok=True)
    (hf or tiny_model().hf).save_pretrained(folder)
    (tokenizer or models.tokenizer()).save_pretrained(folder)
    (folder / "own_code.py").write_text(OWN_CODE, encoding="utf-8")
    (folder / "pruning.json").write_text(PRUNING, encoding="utf-8")
    (folder / "delimiters.json").write_text(DELIMITERS, encoding="utf-8")
    return folder


PLAN = json.dumps(
    {
        "format": 1,
        "removed": [1, 3],
        "n_blocks": 4,
        "name": "a plan",
        "criterion": "shortgpt",
        "scores": [0.5, 0.25, "inf", 0.125],
        "calibration": "c",
        "model": "f",
        "base": [0, 1, 2, 3],
        "source": "",
    }
)
PRUNING = json.dumps(
    {
        "layer_map": [0, 2],
        "n_blocks": 4,
        "plan": json.loads(PLAN),
        "provenance": {"format": "gguf", "file": "a.gguf", "sha256": "0", "quantization": "Q8_0"},
    }
)
DELIMITERS = json.dumps(
    {"think_start": "<think>", "think_end": "</think>", "answer_prefix": "the", "wait": "wait"}
)

# ------------------------------------------------------------------------------- small JSON files


class PlanFile(Target):
    """A plan (--plan), or the pruning.json of a pruned checkpoint as one."""

    share = 3

    def attempt(self, m: Mutator) -> None:
        from pruning.plan import LayerPlan

        file = self.folder / "plan.json"
        file.write_bytes(m.json_bytes(m.rng.choice((PLAN, PRUNING))))
        plan = LayerPlan.named(str(file))
        check(set(plan.removed) < set(plan.base), f"removed {plan.removed} of {plan.base}")
        check(len(plan.kept) + len(plan.removed) == plan.n_blocks <= MOST, "kept and removed")
        check(LayerPlan.from_json(plan.to_json()).kept == plan.kept, "another plan when read again")


class PruningFile(Target):
    """pruning.json beside weights: layer map, number of blocks, provenance."""

    share = 3

    def attempt(self, m: Mutator) -> None:
        from interp.model.checkpoint_files import checked_layer_map, folder_blocks, provenance_of

        (self.folder / "pruning.json").write_bytes(m.json_bytes(PRUNING))
        layer_map, n_dense = folder_blocks(str(self.folder))
        check(n_dense is None or 0 <= n_dense <= MOST, f"n_blocks is {n_dense}")
        found = checked_layer_map(layer_map, 2)
        check(len(set(found)) == 2 and found[0] < found[1], f"layer_map is {found}")
        json.dumps(provenance_of(str(self.folder)))


class DelimitersFile(Target):
    """delimiters.json, as far as token ids."""

    share = 2

    def attempt(self, m: Mutator) -> None:
        from interp.model.checkpoint_files import folder_delimiters

        (self.folder / "delimiters.json").write_bytes(m.json_bytes(DELIMITERS))
        found = folder_delimiters(str(self.folder))
        if found is not None:
            ids = found.resolve(models.tokenizer())
            check(bool(ids.think_start) == bool(ids.think_end), "one delimiter without the other")
            found.fitted(models.tokenizer()).described.encode()


# -------------------------------------------------------------------------------- data of problems

RECORDS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "How many?", "answer": "3 + 4 = 7\n#### 7"},
    "math500": {"problem": "x?", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 1},
    "mmlu": {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2, "subject": "s"},
    "aime24": {"problem": "How many?", "answer": "073"},
    "gpqa_diamond": {
        "Question": "Which?", "Correct Answer": "a", "Incorrect Answer 1": "b",
        "Incorrect Answer 2": "c", "Incorrect Answer 3": "d", "Record ID": "r",
        "High-level domain": "physics",
    },
    "jsonl:numeric": {"id": "q", "question": "what?", "answer": "7", "source": {"page": 3}},
    "jsonl": {"id": "q", "question": "what?", "answer": "B", "choices": ["a", "b"],
              "grader": "choice"},
    "jsonl:math:own": {"id": "q", "question": "what?", "answer": "2x+1"},
}  # fmt: skip


class DataFile(Target):
    """A benchmark's records (--data), JSON and JSONL, for every benchmark that reads records."""

    share = 4

    def attempt(self, m: Mutator) -> None:
        from scaling.benchmarks import load_benchmark

        name = m.rng.choice(list(RECORDS))
        lines = []
        for i in range(3):
            record = {k: f"{v} {i}" if k.lower() in ASKED else v for k, v in RECORDS[name].items()}
            lines.append(json.dumps(record))
        lines[1] = m.json(lines[1])
        listed = m.rng.random() < 0.3
        text = f"[{', '.join(lines)}]" if listed else "\n".join(lines)
        data = text.encode()
        file = self.folder / ("data.json" if listed else "data.jsonl")
        file.write_bytes(m.bytes(data) if m.rng.random() < 0.2 else data)
        limit = m.rng.choice((None, 1, 2))
        bench = load_benchmark(name, file, limit=limit, seed=1)
        check(1 <= len(bench) <= (limit or 10_000), f"{len(bench)} problems")
        check(len(bench.fingerprint) == 16, "no fingerprint")
        for problem in bench.problems:
            json.dumps(problem.as_dict()).encode()
            str(bench.prompt(problem)).encode()


ASKED = ("question", "problem", "id", "record id")


class ParquetFile(Target):
    """A benchmark's records as Parquet."""

    share = 0.3

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [{"question": f"q {i}", "answer": f"#### {i}"} for i in range(20)]
        pq.write_table(pa.Table.from_pylist(rows), folder / "whole.parquet")
        self.whole = (folder / "whole.parquet").read_bytes()

    def attempt(self, m: Mutator) -> None:
        from scaling.benchmarks import load_benchmark

        file = self.folder / "data.parquet"
        file.write_bytes(m.bytes(self.whole))
        for problem in load_benchmark("gsm8k", file).problems:
            problem.question.encode()


class TextFile(Target):
    """Texts to calibrate on, or chains to diagnose: lines, paragraphs, or JSON objects."""

    share = 2

    def attempt(self, m: Mutator) -> None:
        from pruning.calibration import read_texts

        draw = m.rng.random()
        if draw < 0.6:
            lines = [json.dumps({"text": f"line {i}", "other": [i]}) for i in range(3)]
            lines[1] = m.json(lines[1])
            file, data = self.folder / "texts.jsonl", "\n".join(lines).encode()
        else:
            text = "one line\n\nanother: naïve 中文\r\n \nthe last"
            file, data = self.folder / "texts.txt", m.text(text).encode(errors="surrogatepass")
        file.write_bytes(m.bytes(data) if m.rng.random() < 0.3 else data)
        field = m.rng.choice((None, None, "text", "other"))
        for text in read_texts(file, field, paragraphs=m.rng.random() < 0.3):
            text.encode()


# ------------------------------------------------------------------------------------------ weights


class WeightsHeader(Target):
    """The header of a safetensors file; compared with the library's reader."""

    share = 3

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from safetensors.torch import save_file

        tensors = {
            "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
            "b.0.weight": torch.arange(4, dtype=torch.bfloat16),
            "b.1.weight": torch.zeros(0, 3, dtype=torch.float16),
            "c": torch.tensor(7, dtype=torch.int64),
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        whole = (folder / "model.safetensors").read_bytes()
        size = struct.unpack("<Q", whole[:8])[0]
        self.header, self.rest, self.size = whole[8 : 8 + size].decode(), whole[8 + size :], size

    def attempt(self, m: Mutator) -> None:
        from safetensors import safe_open

        from pruning.stored import FLOATS, few_numbers, stored_weights

        text = m.json(self.header).encode(errors="surrogatepass")
        length = len(text) if m.rng.random() < 0.9 else m.rng.choice((0, 1, self.size, 2**63))
        data = struct.pack("<Q", length) + text + self.rest
        file = self.folder / "model.safetensors"
        file.write_bytes(m.bytes(data, self.size + 8) if m.rng.random() < 0.3 else data)
        found = stored_weights(self.folder)
        with safe_open(file, framework="pt") as opened:
            keys = set(opened.keys())
            check(keys == set(found), f"{set(found)} where the library reads {keys}")
            for key, weight in found.items():
                shape = tuple(opened.get_slice(key).get_shape())
                check(shape == weight.shape, f"{weight.shape} where the library reads {shape}")
                if weight.dtype in FLOATS and math.prod(weight.shape):
                    flat = opened.get_tensor(key).reshape(-1)
                    few = flat[:: max(1, flat.numel() // 7)][:8].float()
                    same = torch.equal(few.nan_to_num(), few_numbers(weight).nan_to_num())
                    check(same, "other numbers than the library reads")


class IndexFile(Target):
    """model.safetensors.index.json: which file holds which weight."""

    share = 2

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "inside")
        self.folder.mkdir()
        for name in ("one.safetensors", "two.safetensors", "../outside.safetensors", "config.json"):
            (self.folder / name).write_bytes(b"")
        home = {"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"}
        self.whole = json.dumps({"metadata": {"total_size": 0}, "weight_map": home})

    def attempt(self, m: Mutator) -> None:
        from interp.model.checkpoint_files import INDEX, weight_files

        text = m.json_bytes(self.whole)
        if m.rng.random() < 0.2:
            elsewhere = ("../outside.safetensors", str(self.folder.parent / "outside.safetensors"))
            text = text.replace(b"two.safetensors", m.rng.choice(elsewhere).encode())
        (self.folder / INDEX).write_bytes(text)
        for file in weight_files(self.folder):
            check(file.resolve().parent == self.folder.resolve(), f"{file} is followed")
            check(file.suffix == ".safetensors", f"{file} is read as weights")


class GgufHeader(Target):
    """A GGUF file: header, configuration and ends of turns; compared with the library's reader."""

    share = 2

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from tests.gguf_files import dense, write_gguf

        self.whole = []
        for arch in ("llama", "qwen3", "gemma3"):
            file = write_gguf(folder / f"{arch}.gguf", dense(arch, n_blocks=2))
            data = file.read_bytes()
            self.whole.append((data, _gguf_places(data)))
            file.unlink()

    def attempt(self, m: Mutator) -> None:
        from interp.model.gguf_config import gguf_config
        from interp.model.gguf_file import read_gguf
        from interp.model.gguf_tokenizer import special_ids

        data, places = m.rng.choice(self.whole)
        if m.rng.random() < 0.4:
            changed = m.bytes(data, places[-1])
        else:  # the value of one field, or an entry of the table of tensors
            at = m.rng.choice(places)
            changed = data[:at] + m.bytes(data[at:], m.rng.choice((4, 12, 24)))
        file = self.folder / "model.gguf"
        file.unlink(missing_ok=True)
        file.write_bytes(changed)
        header = read_gguf(file)
        for tensor in header.tensors.values():
            inside = 0 <= tensor.start <= tensor.start + tensor.n_bytes <= len(changed)
            check(inside, f"{tensor} is outside of the file")
        json.dumps(header.provenance())
        special_ids(header)
        config = gguf_config(header)
        check(0 < config.num_hidden_layers <= MOST, f"{config.num_hidden_layers} blocks")


class GgufTokenizer(GgufHeader):
    """The tokenizer that is made of a GGUF file."""

    share = 0.1

    def attempt(self, m: Mutator) -> None:
        from interp.model.loading import load_tokenizer

        data, places = m.rng.choice(self.whole)
        at = m.rng.choice(places)
        file = self.folder / "model.gguf"
        file.unlink(missing_ok=True)
        file.write_bytes(data[:at] + m.bytes(data[at:], m.rng.choice((12, 24, 4_000))))
        tokenizer = load_tokenizer(file, trust_remote_code=False)
        tokenizer.decode(tokenizer.encode(QUESTION))


def _gguf_places(data: bytes) -> list[int]:
    """Where the name of every field and of every tensor of a healthy GGUF file begins."""
    import mmap
    import tempfile

    from interp.model import gguf_file

    places: list[int] = []
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as blob:
            cursor = gguf_file._HeaderBytes(blob)
            cursor.number("I")
            n_tensors, n_fields = cursor.numbers("Q", 2)
            for _ in range(n_fields):
                places.append(cursor.at)
                cursor.string()
                cursor.value(cursor.number("I"))
            for _ in range(n_tensors):
                places.append(cursor.at)
                cursor.string()
                cursor.numbers("Q", cursor.number("I"))
                cursor.numbers("I", 1)
                cursor.numbers("Q", 1)
            places.append(cursor.at)
    return places


# ------------------------------------------------------------------------- configuration and words


class ConfigFile(Target):
    """config.json: the outline that `prune` builds, and the shape that estimates use."""

    share = 0.3

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.whole = []
        for arch in models.ARCHS:
            fields = models.config(arch, n_blocks=2).to_dict() | {"auto_map": REMOTE}
            self.whole.append(json.dumps(fields, default=str))
        (folder / "own_code.py").write_text(OWN_CODE, encoding="utf-8")
        (folder / "model.safetensors").write_bytes(b"")

    def attempt(self, m: Mutator) -> None:
        from pruning.folder import outline
        from scaling.costs.model_shape import ModelShape

        file = self.folder / "config.json"
        file.write_bytes(m.json_bytes(m.rng.choice(self.whole)))
        if m.rng.random() < 0.5:
            found = outline(self.folder, "it")
            check(0 < found.n_blocks <= MOST, f"{found.n_blocks} blocks")
            check(found.d_model >= 0 and found.vocab_size >= 0, "a width or vocabulary below 0")
        else:
            shape = ModelShape.of(m.rng.choice((file, self.folder)))
            check(shape.weights > 0 and shape.kv > 0 and shape.vocab > 0, f"{shape}")


class TokenizerFiles(Target):
    """The tokenizer's files and the chat template, to the ids of a prompt and back to text."""

    share = 0.3

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from transformers import PreTrainedTokenizerFast

        from tests.gguf_files import CHAT, byte_level

        pieces = PreTrainedTokenizerFast(
            tokenizer_object=byte_level(), bos_token="<|im_start|>", eos_token="<|im_end|>"
        )
        pieces.chat_template = CHAT
        self.whole: list[dict[str, str]] = []
        for i, tokenizer in enumerate((models.tokenizer(), pieces)):
            place = checkpoint(folder / f"whole{i}", tokenizer=tokenizer)
            settings = json.loads((place / "tokenizer_config.json").read_text("utf-8"))
            settings["auto_map"] = REMOTE
            settings["prunescope_delimiters"] = {"think_start": "<think>", "think_end": "</think>"}
            (place / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
            texts = {
                f.name: f.read_text("utf-8")
                for f in place.iterdir()
                if f.name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
            }
            self.whole.append(texts)
        self.place = checkpoint(folder / "it")

    def attempt(self, m: Mutator) -> None:
        from interp.model.loading import load_tokenizer
        from interp.model.reasoning_model import ReasoningModel

        texts = m.rng.choice(self.whole)
        name = m.rng.choice(list(texts))
        for other, text in texts.items():
            changed = text.encode()
            if other == name and name.endswith(".jinja"):
                changed = m.text(text).encode(errors="surrogatepass")
            elif other == name:
                changed = m.json_bytes(text)
            (self.place / other).write_bytes(changed)
        (self.place / "delimiters.json").unlink(missing_ok=True)
        (self.place / "pruning.json").unlink(missing_ok=True)
        tokenizer = load_tokenizer(self.place, trust_remote_code=False)
        model = ReasoningModel.from_parts(tiny_model().hf, tokenizer, str(self.place), "it")
        for thinking in (True, False):
            ids = model.prompt_ids(QUESTION, thinking=thinking)
            check(all(isinstance(i, int) and i >= 0 for i in ids), "ids that are no numbers")
            model.text(ids).encode()
        check(all(i >= 0 for i in model.stop_ids), f"ends at {model.stop_ids}")


class CheckpointFolder(Target):
    """Any file of a checkpoint folder, read whole, weights too."""

    share = 0.05

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.whole = checkpoint(folder / "whole")
        self.place = folder / "it"
        self.names = [f.name for f in self.whole.iterdir() if f.name != "own_code.py"]

    def attempt(self, m: Mutator) -> None:
        from safetensors.torch import load_file

        from interp.model.reasoning_model import ReasoningModel

        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.whole, self.place)
        name = m.rng.choice((*self.names, "model.safetensors"))
        file, data = self.place / name, (self.whole / name).read_bytes()
        if name.endswith(".json"):
            file.write_bytes(m.json_bytes(data.decode()))
        else:
            file.write_bytes(m.bytes(data, 4_000))
        model = ReasoningModel.load(str(self.place), device="cpu")
        stored = load_file(self.place / "model.safetensors")
        state = model.hf.state_dict()
        for key, weight in stored.items():
            same = key in state and torch.equal(
                state[key].float().nan_to_num(), weight.float().nan_to_num()
            )
            check(same, f"{key} is not as it is stored")
        untied = {k for k in state if k not in (model.hf.all_tied_weights_keys or ())}
        check(untied <= set(stored), f"{sorted(untied - set(stored))[:3]} come from nowhere")
        model.prompt_ids(QUESTION)


class CaptureFolder(Target):
    """The index of captured streams, and their shards."""

    share = 1

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "capture")
        from interp.activations.capture import capture
        from interp.activations.store import RawCapture

        model = tiny_model()
        ids = torch.tensor([model.encode("what is 1 + 2 ?")])
        with torch.no_grad(), capture(model, RawCapture(self.folder), n_texts=1):
            model.hf(input_ids=ids)
        self.index = (self.folder / "index.json").read_text("utf-8")

    def attempt(self, m: Mutator) -> None:
        from interp.activations.store import load_raw

        (self.folder / "index.json").write_bytes(m.json_bytes(self.index))
        found = load_raw(self.folder)
        found.to_frame()
        check(all(n >= 0 for n in (*found.lengths, *found.texts, *found.layer_map)), "below 0")
        stream = found.stream(0, 0)
        check(len(found.positions(0, 0)) == len(stream), "positions and streams")


# ------------------------------------------------------------------------------- what servers reply


def _replies() -> dict[str, str]:
    text = {"index": 0, "text": "1 + 2 </think>", "finish_reason": "stop"}
    ids = [12, 40, 12, 5]
    lp = {"token_logprobs": [-0.5, -1.0, -0.25, -0.125], "tokens": [f"token_id:{i}" for i in ids]}
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    token = {**text, "token_ids": ids, "logprobs": lp, "stop_reason": 5}
    chat = {"message": {"role": "assistant", "content": '{"verdict": "same"}'}}
    return {
        "vllm": json.dumps({"choices": [token], "usage": usage}),
        "sglang": json.dumps({"choices": [{**text, "logprobs": lp}], "usage": usage}),
        "transformers": json.dumps({"choices": [text], "usage": usage}),
        "chat": json.dumps({"choices": [chat], "usage": usage}),
        "models": json.dumps({"object": "list", "data": [{"id": "m"}, {"id": "n"}]}),
        "error": json.dumps({"error": {"message": "no", "type": "t", "code": 404}}),
    }


class ServerReply(Target):
    """A completion as vLLM, SGLang and transformers send it, an error's body, a list of models."""

    share = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from scaling.engines.dialects import TextDialect, TokenDialect
        from scaling.engines.endpoint import EndpointError, _Failed

        type(self).refusals = (EndpointError, _Failed, NonFiniteError)
        served = tiny_model()
        self.replies = _replies()
        self.dialects = {
            "vllm": TokenDialect("vllm", "m", served),
            "sglang": TokenDialect("sglang", "m", served),
        }
        try:
            self.dialects["transformers"] = TextDialect("m", served)  # type: ignore[assignment]
        except UserError:  # its delimiters are special tokens, which a server of text leaves out
            self.replies.pop("transformers")

    def attempt(self, m: Mutator) -> None:
        from interp.decoding.sampling import Sampling
        from scaling.engines.dialects import Ask
        from scaling.engines.endpoint import Blot, _message, _object

        kind = m.rng.choice([*self.dialects, "models", "error"])
        body = m.json_bytes(self.replies[kind])
        blot = Blot("sk-0123456789abcdef")
        if kind == "error":
            check(isinstance(_message(body, blot), str), "no message")
            return
        found = _object(body, blot)
        if kind == "models":
            return
        ask = Ask(ids=(3, 4, 5), limit=4, seed=0, sampling=Sampling(temperature=0.0), ends=(5,))
        said = self.dialects[kind].read(ask, found)
        check(0 < len(said.ids) <= 4 and len(said.logprob) == len(said.ids), f"{said}")
        in_range = all(type(i) is int and 0 <= i < tiny_model().vocab_size for i in said.ids)
        check(in_range, f"ids {said.ids}")
        known = said.logprob[~np.isnan(said.logprob)]
        check(bool(np.all(np.isfinite(known) & (known <= 1e-3))), f"log-probabilities {known}")


class OneReply:
    """In the place of an endpoint: any request gets the same body."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def post(self, path: str, body: Any, *, read: Callable[[dict[str, Any]], Any]) -> Any:
        """Read the body as an endpoint reads it."""
        from scaling.engines.endpoint import Blot, _object

        return read(_object(self.body, Blot(None)))


class JudgeReply(Target):
    """A judge's chat completion, and the verdict or counts in its text."""

    share = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from scaling.engines.endpoint import EndpointError, _Failed
        from scaling.judging.llm_judge import Judge

        type(self).refusals = (EndpointError, _Failed)
        self.judge = Judge("http://localhost:1", "m")
        self.question = SimpleNamespace(messages=[])

    def attempt(self, m: Mutator) -> None:
        from scaling.judging.prompts import KINDS, JudgedVerdict, read_counts, read_verdict

        if m.rng.random() < 0.3:
            reply: Any = OneReply(m.json_bytes(_replies()["chat"]))
            question: Any = self.question
            said = self.judge._ask(reply, question, read_verdict)
            check(said in get_args(JudgedVerdict), f"the verdict {said!r}")
        counts = json.dumps(dict.fromkeys(KINDS, 2))
        inner = m.rng.choice(('{"verdict": "same"}', counts))
        text = f"<think> maybe {inner} hmm </think> So: {m.json(inner)} {m.rng.choice(('', inner))}"
        text = m.text(text) if m.rng.random() < 0.5 else text
        verdict, found = read_verdict(text), read_counts(text)
        check(verdict is None or verdict in get_args(JudgedVerdict), f"the verdict {verdict!r}")
        good = found is None or (
            set(found) == set(KINDS) and all(type(n) is int and n >= 0 for n in found.values())
        )
        check(good, f"the counts {found!r}")


# --------------------------------------------------------------------------------- logs and stores


class HarnessLog(Target):
    """A log of lm-evaluation-harness, imported into a new store."""

    share = 0.1

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        fields = {
            "doc_id": 0,
            "doc": RECORDS["gsm8k"],
            "target": "7",
            "arguments": {"gen_args_0": {"arg_0": "Q <think>", "arg_1": {"max_gen_toks": 64}}},
            "resps": [["1 + 3 = 4 </think> 7", "wait </think> 8"]],
            "filtered_resps": ["7"],
            "filter": "strict-match",
            "metrics": ["exact_match"],
            "exact_match": 1.0,
        }
        own = {"finish": ["stop", "cut"], "thinking_finish": ["end", "end"], "budget": [64, 16, 0]}
        self.lines = [json.dumps(fields), json.dumps({**fields, "prunescope": own})]

    def attempt(self, m: Mutator) -> None:
        from scaling.lm_eval.importer import import_samples
        from scaling.store.study_store import Store

        log, out = self.folder / "samples.jsonl", self.folder / "out"
        log.write_bytes(m.json_bytes(m.rng.choice(self.lines)))
        shutil.rmtree(out, ignore_errors=True)
        import_samples([log], out, tiny_model(), "gsm8k")
        with Store(out, read_only=True) as store:
            rows = store.rows(ids=True)
        check(set(rows["outcome"]) <= {"correct", "wrong", "no answer"}, "an unknown outcome")


def _study(folder: Path) -> Path:
    """A small finished study with all kinds of rows, in one file without a log beside it."""
    from interp.chains.chain import Span
    from scaling.grading import Verdict
    from scaling.problem import Problem
    from scaling.store.chain_row import chain_row
    from scaling.store.schema import DERIVED
    from scaling.store.study_file import FILE
    from scaling.store.study_store import Store
    from tests.chains import make_chain

    with Store(folder) as store:
        facts = {"model fingerprint": "f", "thinking format": json.dumps({"name": "think",
                 **json.loads(DELIMITERS)})}  # fmt: skip
        store.claim({"model": "m", "seed": 0, "budgets": [8, 16]}, facts)
        store.put("variants", [
            {"variant": v, "kind": k, "method": "", "n_removed": len(r), "removed": json.dumps(r),
             "plan": ""} for v, k, r in (("dense", "dense", []), ("block 1", "block", [1]))
        ])  # fmt: skip
        store.put("scores", [
            {"criterion": "shortgpt", "block": b, "score": 0.5, "low": 0.4, "high": None,
             "n_tokens": 9, "calibration": "c"} for b in range(3)
        ])  # fmt: skip
        rows = []
        for p in range(6):
            problem = Problem(f"p{p}", f"what is {p}?", str(p))
            store.put("problems", [{"benchmark": "b", "problem": problem.id, "position": p,
                      "question": problem.question, "answer": problem.answer, "choices": "[]",
                      "metadata": "{}"}])  # fmt: skip
            for variant in ("dense", "block 1"):
                chain = make_chain(
                    range(9), range(3), problem=problem.id, variant=variant, thinking=Span(0, 4),
                    answer=Span(5, 8), finish="stop", thinking_finish="end",
                )  # fmt: skip
                verdict = Verdict("correct", "7", "correct", "correct")
                rows.append(chain_row("b", problem, p, chain, verdict, {"looped": p % 2}))
        store.add_chains(rows)
        label = str(rows[0].values["budget"])
        store.put("cells", [
            {"purpose": "accuracy", "benchmark": "b", "variant": v, "budget": label,
             "n_problems": 6, "samples": 1} for v in ("dense", "block 1")
        ])  # fmt: skip
        store.put("diversity", [{"benchmark": "b", "problem": "p0", "variant": "dense",
                  "budget": label, "samples": 2, "measures": '{"distinct": 0.5}'}])  # fmt: skip
        store.put("sessions", [{"session": 1, "started": "2026-01-01", "seconds": 1.0,
                  "decode_seconds": 1.0, "tokens": 9, "chains": 12}])  # fmt: skip
        with sqlite3.connect(store.path) as db:
            db.execute(DERIVED)
        db.close()
        frame = '{"rows": 1, "columns": [{"name": "x", "dtype": "int64", "values": [3]}]}'
        store.put("derived", [{"name": "t", "settings": "{}", "frame": frame, "created": "now"}])
    with sqlite3.connect(folder / FILE) as db:
        db.execute("PRAGMA journal_mode=DELETE")
    db.close()
    return folder / FILE


class StudyStore(Target):
    """study.sqlite with changed bytes: read, upgraded, continued, and rescued."""

    share = 0.2

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from scaling.store.study_file import StoreError

        type(self).refusals = (UserError, StoreError)
        file = _study(folder / "whole")
        self.whole = file.read_bytes()
        self.rows = self._read(folder / "whole")
        (folder / "it").mkdir()

    @staticmethod
    def _read(folder: Path) -> dict[str, str]:
        """Every chain as text by its key, after all that a report reads of a study was read."""
        from analyses.plumbing.frames import StudyData
        from scaling.store.chain_row import stored_chain
        from scaling.store.study_store import Store
        from scaling.store.thinking_format import stored_format

        StudyData.read(folder)
        with Store(folder, read_only=True) as store:
            rows = store.rows(ids=True)
            stored_format(store.meta())
        found = {}
        for row in rows.to_dict("records"):
            chain = stored_chain(row, range(int(row["prompt_tokens"])))
            key = f"{row['benchmark']}/{row['problem']}/{row['variant']}/{row['sample']}"
            found[key] = f"{chain.ids.tolist()} {row['outcome']} {row['looped']} {row['budget']}"
        return found

    def attempt(self, m: Mutator) -> None:
        from scaling.store.rescue import rescue
        from scaling.store.study_file import FILE, StoreError

        place, saved = self.folder / "it", self.folder / "saved"
        for leftover in place.iterdir():
            leftover.unlink()
        shutil.rmtree(saved, ignore_errors=True)
        data = m.bytes(self.whole)
        if m.rng.random() < 0.2:  # a page that the disk lost
            at = m.rng.randrange(len(data) // 4096 + 1) * 4096
            data = data[:at] + bytes(4096) + data[at + 4096 :]
        (place / FILE).write_bytes(data)
        try:
            check(self._read(place) == self.rows, "other rows, and nothing is said")
        except (UserError, StoreError):
            done = rescue(place, saved)
            kept = self._read(saved) if done.resumable else {}
            other = [key for key, row in kept.items() if self.rows.get(key) != row]
            check(not other, f"rescued other rows than were stored: {other[:3]}")
            raise


class DerivedFrame(Target):
    """A table that an analysis keeps in the study."""

    share = 1

    def attempt(self, m: Mutator) -> None:
        import pandas as pd

        from analyses.plumbing.derived import as_text, from_text

        frame = pd.DataFrame({"a": [1, 2], "b": [0.5, float("nan")], "c": ["x", None]})
        from_text(m.json_bytes(as_text(frame)).decode(errors="surrogateescape"))


class JudgeCacheFile(Target):
    """The judge's cache, a SQLite file."""

    share = 0.3

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from scaling.judging.verdict_cache import JudgeCache

        kept = JudgeCache(folder / "whole.sqlite")
        for i in range(20):
            kept.put(f"key {i}", "same", "m", "same")
        kept.close()
        self.whole = (folder / "whole.sqlite").read_bytes()

    def attempt(self, m: Mutator) -> None:
        from scaling.judging.verdict_cache import JudgeCache

        for leftover in self.folder.glob("it.sqlite*"):
            leftover.unlink()
        (self.folder / "it.sqlite").write_bytes(m.bytes(self.whole))
        kept = JudgeCache(self.folder / "it.sqlite")
        try:
            len(kept)
            for i in range(20):
                json.dumps(kept.get(f"key {i}"))
            kept.put("new", "same", "m", "different")
        finally:
            kept.close()


TARGETS: dict[str, Callable[[Path], Target]] = {
    "plan": PlanFile,
    "pruning": PruningFile,
    "delimiters": DelimitersFile,
    "data": DataFile,
    "parquet": ParquetFile,
    "texts": TextFile,
    "weights": WeightsHeader,
    "index": IndexFile,
    "gguf": GgufHeader,
    "gguf-tokenizer": GgufTokenizer,
    "config": ConfigFile,
    "tokenizer": TokenizerFiles,
    "checkpoint": CheckpointFolder,
    "capture": CaptureFolder,
    "server": ServerReply,
    "judge": JudgeReply,
    "log": HarnessLog,
    "store": StudyStore,
    "derived": DerivedFrame,
    "judge-cache": JudgeCacheFile,
}
