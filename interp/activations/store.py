"""The streams themselves, on disk: chosen blocks in sharded safetensors with an index.

    replay(model, texts, [RawCapture("streams", blocks=[3, 7])])
    raw = load_raw("streams")
    raw.stream(text=0, block=7)                        # [T, D]

`RawCapture` is a reducer that writes during the passes and holds at most one shard. A text may come
in pieces, each a tensor [T of the piece, D]; `positions` gives the tokens that were kept, because
tokens that do not count (`CapturedBatch.mask`) are left out. A file gets its name when it is
complete, and `index.json` is written last, so an interrupted capture can be recognised. Caveat:
unlike other reducers it waits for the device in every block, because what it writes must first be
on the host. Disk: tokens x blocks x streams x D x bytes per number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.capture import CapturedBatch, Reducer
from interp.errors import NonFiniteError, PruneScopeError, UserError, printable
from interp.interventions.hooks import present
from interp.json_reader import read_json_object, short
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table

FORMAT = 1
INDEX = "index.json"
SHARD_BYTES = 2**28
Stream = Literal["resid_pre", "resid_post", "delta"]
STREAMS = ("resid_pre", "resid_post", "delta")
Key = tuple[int, int, str]  # text, block (dense index), stream


@checked
class RawCapture(Reducer):
    """Writes streams of some blocks into an empty or new directory.

    Args:
        directory: where to write.
        blocks: dense indices; default: all.
        streams: which of "resid_pre", "resid_post" and "delta" to write.
        shard_bytes: largest size of a file, in bytes (one piece, if that is larger). As much is
            held in memory until it is written.
        dtype: of the numbers on disk; default: the model's.

    Raises:
        UserError: an argument has a value that is not allowed.
    """

    chunked: ClassVar[bool] = True

    def __init__(
        self,
        directory: str | Path,
        blocks: Sequence[int] | None = None,
        streams: Sequence[Stream] = ("resid_post",),
        *,
        shard_bytes: int = SHARD_BYTES,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.directory = Path(directory).expanduser()
        self.blocks, self.streams, self.dtype = blocks, tuple(streams), dtype
        unknown = set(self.streams) - set(STREAMS)
        if unknown or not self.streams:
            raise UserError(f"RawCapture(streams={unknown or '()'}): expected some of {STREAMS}.")
        if blocks is not None and (not len(blocks) or len(set(blocks)) < len(blocks)):
            raise UserError(f"RawCapture(blocks={list(blocks)}): expected some, none named twice.")
        if shard_bytes < 1:
            raise UserError(f"RawCapture(shard_bytes={shard_bytes}): expected 1 or more.")
        self.shard_bytes = shard_bytes

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        """Check the blocks and create the directory."""
        blocks = list(model.layer_map) if self.blocks is None else list(self.blocks)
        self.dense = dict(zip(present(model, blocks), blocks, strict=True))  # position -> dense
        if self.directory.exists() and (
            not self.directory.is_dir() or any(self.directory.iterdir())
        ):
            raise UserError(f"{self.directory} exists and is not an empty folder: name a new one.")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.head = {
            "format": FORMAT,
            "model": model.name,
            "fingerprint": model.fingerprint(),
            "provenance": model.provenance,
            "layer_map": list(model.layer_map),
            "blocks": blocks,
            "streams": list(self.streams),
            "dtype": str(self.dtype or model.dtype).removeprefix("torch."),
            "width": model.d_model,
            "n_texts": n_texts,
        }
        self.pieces: list[dict[str, Any]] = []
        self.held: dict[str, Tensor] = {}
        self.next: dict[Key, int] = {}  # the first position that has not arrived yet
        self.lengths = [0] * n_texts
        self.size = self.shards = self.written = 0  # written: how many pieces are in a shard

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        """Keep the counted tokens of a chosen block, and write a shard when it is full."""
        if index not in self.dense:
            return
        mask = batch.mask.cpu()
        for stream in self.streams:
            value = {"resid_pre": x, "resid_post": y}.get(stream)
            value = y.float() - x.float() if value is None else value
            for row, text in enumerate(batch.texts.tolist()):
                kept = mask[row].nonzero()[:, 0]
                if len(kept):
                    part = value[row, kept.to(value.device)].to("cpu", self.dtype or y.dtype)
                    self._add((text, self.dense[index], stream), part, kept + batch.first)

    def _add(self, key: Key, part: Float[Tensor, "T D"], positions: Int[Tensor, " T"]) -> None:
        text, block, stream = key
        runs = _runs(positions.tolist())
        if not 0 <= text < len(self.lengths):
            raise UserError(
                f"A row belongs to text {text}; the capture is of {len(self.lengths)} texts "
                f"(0..{len(self.lengths) - 1}). Correct `CapturedBatch.texts` or `n_texts`."
            )
        if runs[0][0] < self.next.get(key, 0):
            raise UserError(
                f"Text {text} came back at position {runs[0][0]}: a raw capture keeps each token "
                "once, in order. Set `recording.batch` before each pass, with texts and `first`."
            )
        if not part.isfinite().all():
            raise NonFiniteError(
                f"{stream} of block {block} holds inf or nan in text {text} (as {part.dtype})."
            )
        if self.size + part.nbytes > self.shard_bytes:
            self._write()
        name = f"{text}.{block}.{stream}.{runs[0][0]}"
        self.held[name] = part
        self.size += part.nbytes
        self.next[key] = runs[-1][1]
        if (block, stream) == (next(iter(self.dense.values())), self.streams[0]):
            self.lengths[text] += len(part)
        self.pieces.append(
            {"key": name, "text": text, "block": block, "stream": stream, "positions": runs}
        )

    def end(self, complete: bool) -> None:
        """Write the last shard and the index, if the capture is complete."""
        if complete:
            self._write()
            whole = self.head | {"lengths": self.lengths, "shards": self.shards}
            text = json.dumps(whole | {"pieces": self.pieces})
            self._put(INDEX, lambda path: path.write_text(text, encoding="utf-8"))
        self.held.clear()

    def _write(self) -> None:
        from safetensors.torch import save_file

        if not self.held:
            return
        name = f"streams-{self.shards:05d}.safetensors"
        self._put(name, lambda path: save_file(self.held, path))
        for piece in self.pieces[self.written :]:
            piece["shard"] = name
        self.held.clear()
        self.written, self.size = len(self.pieces), 0
        self.shards += 1

    def _put(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file that gets its name when it is complete."""
        partial = self.directory / f".{name}.partial"
        try:
            write(partial)
            partial.replace(self.directory / name)
        except Exception as error:
            partial.unlink(missing_ok=True)
            raise PruneScopeError(
                f"{self.directory / name} could not be written ({error}). Is there room on the "
                "disk? The capture is incomplete: delete the folder and run it again."
            ) from error


def _runs(positions: list[int]) -> list[list[int]]:
    """Positions as half-open ranges."""
    runs: list[list[int]] = []
    for p in positions:
        if runs and runs[-1][1] == p:
            runs[-1][1] = p + 1
        else:
            runs.append([p, p + 1])
    return runs


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _listed(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(holds, value))


def _is_run(value: Any) -> bool:
    return _listed(value, _whole) and len(value) == 2 and value[0] < value[1]


def _is_name(value: Any) -> bool:
    """Whether it is a text that a file can hold: JSON may have half of a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_piece(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_name(value.get("key"))
        and _is_name(value.get("shard"))
        and _whole(value.get("text"))
        and _whole(value.get("block"))
        and value.get("stream") in STREAMS
        and _listed(value.get("positions"), _is_run)
    )


# The fields of index.json that are read again, and what they must hold.
FIELDS: dict[str, Callable[[Any], bool]] = {
    "layer_map": lambda value: _listed(value, _whole),
    "blocks": lambda value: _listed(value, _whole),
    "streams": lambda value: _listed(value, lambda name: name in STREAMS),
    "lengths": lambda value: value == [] or _listed(value, _whole),
    "pieces": lambda value: value == [] or _listed(value, _is_piece),
}


@checked
@as_table
@dataclass(frozen=True)
class RawStreams:
    """A capture on disk; tensors are read on request.

    Attributes:
        directory: where it is.
        index: the content of index.json.
    """

    directory: Path
    index: dict[str, Any]

    @property
    def layer_map(self) -> tuple[int, ...]:
        """Dense index of each block of the captured model."""
        return tuple(self.index["layer_map"])

    @cached_property
    def texts(self) -> tuple[int, ...]:
        """Numbers of the texts of which something was kept."""
        return tuple(sorted({piece["text"] for piece in self.index["pieces"]}))

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many tokens of each text were kept."""
        return tuple(self.index["lengths"])

    def stream(self, text: int, block: int, stream: Stream | None = None) -> Float[Tensor, "T D"]:
        """The kept tokens of one text at one block, in order.

        Args:
            text: number of the text.
            block: dense index.
            stream: name of the stream; default: the first that was captured.

        Returns:
            [T, D] in the dtype on disk.

        Raises:
            UserError: the capture does not hold it, or a file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        read = []
        for piece in self._pieces(text, block, stream):
            path = self.directory / piece["shard"]
            try:
                with safe_open(path, framework="pt") as shard:
                    part = shard.get_tensor(piece["key"])
            except SafetensorError as error:
                why = printable(str(error), 200)
                raise UserError(f"{path} is damaged ({why}): run the capture again.") from error
            if part.ndim != 2 or len(part) != sum(b - a for a, b in piece["positions"]):
                raise UserError(
                    f"{path} is damaged: {short(piece['key'])} has the shape {tuple(part.shape)}, "
                    f"and {INDEX} names other positions. Run the capture again."
                )
            read.append(part)
        return torch.cat(read)

    def positions(self, text: int, block: int, stream: Stream | None = None) -> Int[Tensor, " T"]:
        """The position in the text of each row of `stream`.

        Args:
            text: number of the text.
            block: dense index.
            stream: name of the stream; default: the first that was captured.

        Returns:
            int64 [T].

        Raises:
            UserError: the capture does not hold it.
        """
        found = [run for p in self._pieces(text, block, stream) for run in p["positions"]]
        return torch.cat([torch.arange(a, b) for a, b in found])

    @cached_property
    def _by_key(self) -> dict[Key, list[dict[str, Any]]]:
        found: dict[Key, list[dict[str, Any]]] = {}
        for piece in self.index["pieces"]:
            found.setdefault((piece["text"], piece["block"], piece["stream"]), []).append(piece)
        return found

    def _pieces(self, text: int, block: int, stream: Stream | None) -> list[dict[str, Any]]:
        name = stream or self.index["streams"][0]
        found = self._by_key.get((text, block, name))
        if not found:
            raise UserError(
                f"{self.directory} holds no {name} of text {text} at block {block}: it has blocks "
                f"{self.index['blocks']}, {', '.join(self.index['streams'])}, and "
                f"{len(self.texts)} texts."
            )
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row per piece: text, block (dense index), stream, first position, tokens, shard."""
        rows = [
            {
                **{k: p[k] for k in ("text", "block", "stream", "shard")},
                "first": p["positions"][0][0],
                "tokens": sum(b - a for a, b in p["positions"]),
            }
            for p in self.index["pieces"]
        ]
        return pd.DataFrame(rows)


@checked
def load_raw(directory: str | Path) -> RawStreams:
    """Open a finished capture.

    Args:
        directory: where `RawCapture` wrote it.

    Returns:
        The capture; no tensor is read yet.

    Raises:
        UserError: the capture is missing, incomplete or damaged.
    """
    folder = Path(directory).expanduser()
    path = folder / INDEX
    if not path.is_file():
        state = "was stopped before it ended" if folder.is_dir() else "is not there"
        raise UserError(f"The capture {folder} {state}: it has no {INDEX}. Run it again.")
    index = read_json_object(path)
    if index.get("format") != FORMAT:
        raise UserError(
            f"{path} is not of format {FORMAT}: it was written by another version. "
            "Run the capture again."
        )
    if wrong := next((name for name, holds in FIELDS.items() if not holds(index.get(name))), None):
        raise UserError(
            f"{path} is damaged: {wrong} is {short(index.get(wrong))}. Run the capture again."
        )
    lacking = {p["shard"] for p in index["pieces"]} - {f.name for f in folder.iterdir()}
    if lacking:
        few = ", ".join(printable(name, 60) for name in sorted(lacking)[:3])
        raise UserError(f"{folder} lacks {few}: run the capture again.")
    return RawStreams(folder, index)
