"""Targets: a GGUF file, written by a stranger."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fuzz.mutators import Mutator
from tests.fuzz.target import MOST, QUESTION, Target, check


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
