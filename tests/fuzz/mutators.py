"""Mutations of JSON values, texts and bytes, all drawn from one seeded generator.

A mutation keeps most of the original, so that a mutated file gets past the first check. Values are
those at which readers fail: wrong types, extreme numbers, names of paths, half characters, nesting
deeper than the stack, integers with more digits than Python converts.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

# Values that `json.dumps` cannot write: each is put in the place of a word that stands for it.
RAW = {
    "@deep list@": "[" * 3_000 + "]" * 3_000,
    "@deep object@": '{"a":' * 3_000 + "1" + "}" * 3_000,
    "@very deep@": "[" * 100_000,
    "@many digits@": "7" * 5_000,
    "@big float@": "1e999",
    "@nan@": "NaN",
    "@minus infinity@": "-Infinity",
    "@half character@": '"\\ud83e"',
    "@bare word@": "undefined",
    "@same field twice@": '{"a": 1, "a": 2}',
}
NUMBERS = (0, 1, -1, 2, 3, 7, 16, 100, 9_999, 10_001, 65_536, 2**31, 2**32, 2**53, 2**63, 2**64)
NUMBERS += (-(2**31), -(2**63), 10**18, 10**30)
FLOATS = (0.0, -0.0, 0.5, 1.5, -1.0, 1e-30, 1e30, 1e300, 1e308)
TEXTS = ("", " ", "\n", "0", "1", "-1", "x", "true", "null", "\0", "\x1b[31mred", "ñ", "😀", "٣")
TEXTS += ("../x", "../../../etc/passwd", "/etc/passwd", "a/b", "C:\\x", "%s", "$\\frac$", "{{x}}")
TEXTS += ("<think>", "</think>", "<|im_end|>", "model", "gpt2", "llama", "qwen3", "auto", "eager")
TEXTS += ("x" * 300, "x" * 70_000, "float16", "bfloat16", "int8", "F16", "full_attention")
WORDS = (None, True, False, [], {}, [None], [[]], {"": None}, [1, 2], ["a", "b"], {"a": {"b": 1}})
BYTES = (b"\0", b"\xff", b"\x80", b"\xc3", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"', b"{", b"}", b"]")
BYTES += (b",", b":", b"\\", b"\n", b"\r", b"-", b"9", b"\xf0\x9f", b"\x7f" * 8, b"\xff" * 8)


class Mutator:
    """Draws mutations.

    Args:
        seed: what the draws depend on.
    """

    def __init__(self, seed: str) -> None:
        self.rng = random.Random(seed)

    def value(self) -> Any:
        """A value that is likely to be wrong."""
        draw = self.rng.random()
        if draw < 0.3:
            return self.rng.choice(NUMBERS)
        if draw < 0.4:
            return self.rng.choice(FLOATS)
        if draw < 0.65:
            return self.rng.choice(TEXTS)
        return copy.deepcopy(self.rng.choice(WORDS)) if draw < 0.92 else self.rng.choice(list(RAW))

    def json(self, text: str, times: int | None = None) -> str:
        """A JSON text with a few values, names or lengths changed.

        Args:
            text: the JSON text; it is left as it is.
            times: how many changes. Default: 1 to 3.

        Returns:
            The changed text; not always JSON.
        """
        whole = [json.loads(text)]
        for _ in range(times or self.rng.choice((1, 1, 1, 2, 3))):
            self._change(whole)
        return written(whole[0])

    def _change(self, whole: list[Any]) -> None:
        """Change one place in `whole[0]`, at any depth."""
        holder: Any = whole
        place: Any = 0
        while True:
            inner = holder[place]
            inside = isinstance(inner, (dict, list)) and bool(inner)
            if not inside or self.rng.random() < (0.02 if holder is whole else 0.2):
                break
            holder = inner
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))
            place = self.rng.choice(keys)
        old, draw = copy.deepcopy(holder[place]), self.rng.random()
        if draw < 0.45:
            holder[place] = self.value()
        elif draw < 0.6 and isinstance(old, (int, float)) and not isinstance(old, bool):
            near = (old + 1, old - 1, -old, old * 2, old * 1000, str(old), float(old), [old])
            holder[place] = self.rng.choice(near)
        elif draw < 0.7:
            holder[place] = self.rng.choice(([old], {"a": old}, str(old), [old, old]))
        elif draw < 0.8 and holder is not whole:
            if isinstance(holder, dict):
                del holder[place]
            else:
                holder.pop(place)
        elif draw < 0.88 and isinstance(holder, list) and holder is not whole:
            holder.insert(place, self.rng.choice((old, self.value())))
        elif draw < 0.95 and isinstance(holder, dict):
            name = self.rng.choice((*TEXTS, *holder))
            holder[name] = self.rng.choice((old, self.value()))
        elif isinstance(holder, dict):
            other = self.rng.choice(list(holder))
            holder[place], holder[other] = holder[other], holder[place]
        else:
            holder[place] = self.value()

    def text(self, text: str) -> str:
        """A text with a few pieces cut out, repeated, moved or replaced."""
        for _ in range(self.rng.choice((1, 1, 2, 4))):
            start = self.rng.randrange(len(text) + 1)
            stop = min(len(text), start + self.rng.choice((0, 1, 1, 3, 10, 60)))
            piece = text[start:stop]
            new = self.rng.choice(
                ("", piece * 2, piece[::-1], self.rng.choice(TEXTS), text[: self.rng.randrange(80)])
            )
            text = text[:start] + new + text[stop:]
        return text

    def bytes(self, data: bytes, first: int | None = None) -> bytes:
        """Bytes with a few flipped, cut out, inserted or cut off.

        Args:
            data: the bytes.
            first: changes are made within so many first bytes. Default: anywhere.
        """
        changed = bytearray(data)
        for _ in range(self.rng.choice((1, 1, 1, 2, 4, 16))):
            most = min(first or len(changed), len(changed))
            if not most:
                break
            at, draw = self.rng.randrange(most), self.rng.random()
            if draw < 0.4:
                changed[at] ^= 1 << self.rng.randrange(8)
            elif draw < 0.6:
                changed[at] = self.rng.randrange(256)
            elif draw < 0.7:
                changed[at : at + 8] = self.rng.choice(NUMBERS).to_bytes(16, "little", signed=True)[
                    : self.rng.choice((1, 2, 4, 8))
                ]
            elif draw < 0.8:
                changed[at:at] = self.rng.choice(BYTES)
            elif draw < 0.88:
                del changed[at : at + self.rng.choice((1, 2, 8, 100))]
            elif draw < 0.94:
                size = self.rng.choice((1, 4, 64))
                other = self.rng.randrange(len(changed))
                changed[at : at + size] = changed[other : other + size]
            else:
                del changed[self.rng.randrange(len(changed)) :]
        return bytes(changed)

    def json_bytes(self, text: str) -> bytes:
        """A JSON file with values changed, or sometimes its bytes, or both."""
        draw = self.rng.random()
        data = self.json(text).encode() if draw < 0.85 else text.encode()
        return self.bytes(data) if draw > 0.8 else data


def written(value: Any) -> str:
    """A value as JSON, with what `RAW` stands for."""
    text = json.dumps(value)
    if "@" in text:
        for word, raw in RAW.items():
            text = text.replace(f'"{word}"', raw)
    return text
