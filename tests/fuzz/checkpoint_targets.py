"""Targets: the files of a checkpoint and of a capture, written by a stranger."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path

import torch

from tests import models
from tests.fuzz.mutators import Mutator
from tests.fuzz.sentry import OWN_CODE
from tests.fuzz.target import MOST, QUESTION, REMOTE, Target, check, checkpoint, tiny_model


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
