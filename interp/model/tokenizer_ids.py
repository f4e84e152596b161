"""Law 9: a tokenizer gives the ids of its own tokenizer.json, at load and after save.

transformers 5 builds some tokenizers anew from vocabulary and merges by the model's type, and
puts that type's pre-tokenizer in the place of the file's: a qwen2 model with another byte-level
BPE then reads its digits in other pieces, and saves them so.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import UserError, printable, reason_of
from interp.json_reader import parse_json, short

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

FILE = "tokenizer.json"
PROBE = (
    "0 7 42 123 4567 89012345 3.14159 1,000,000 2026-11-26 x_1 == y[22]; f(10)\n\n\tlet's DON'T "
    "we'LL  two   three    spaces \n café naïve Straße Ünïcödé e\u0301 ½ ² Ⅻ ٣٤٥ 中文字 日本語 "
    "한국어 русский हिन्दी 😀 👩\u200d🚀 🇫🇷 ∑∫√ \u00a0end."
)
PREFIX = re.compile(rb'"continuing_subword_prefix"\s*:\s*"[^"]')
MOST_SPECIAL = 64  # special tokens in the probe
# What describes another backend than tokenizer.json, or is derived from it.
BACKEND = (
    "vocab", "merges", "vocab_file", "merges_file", "tokenizer_file", "tokenizer_object",
    "added_tokens_decoder", "backend", "pre_tokenizer", "normalizer", "post_processor",
    "__slow_tokenizer", "spm_file", "name_or_path", "is_local", "files_loaded",
)  # fmt: skip


def with_own_ids(
    tokenizer: PreTrainedTokenizerBase, place: str, download: bool = True
) -> PreTrainedTokenizerBase:
    """The tokenizer, or one made of its tokenizer.json where it gives other ids than that file.

    Args:
        tokenizer: as transformers loaded it.
        place: the folder or Hub name that it comes from.
        download: whether to contact the Hub; if False, only its local cache is read.

    Raises:
        UserError: the ids differ, and the file alone does not give its own ids either.
    """
    file = _file(place, download)
    if file is None or not getattr(tokenizer, "is_fast", False):
        return tokenizer
    own = _read(file)
    probe = probe_of(own)
    if differing(tokenizer, own, probe) is None:
        return tokenizer
    from transformers import PreTrainedTokenizerFast

    settings = {k: v for k, v in tokenizer.init_kwargs.items() if k not in BACKEND}
    settings |= dict(tokenizer.special_tokens_map)
    mended = PreTrainedTokenizerFast(tokenizer_object=own, **settings)
    mended.chat_template = tokenizer.chat_template
    mended.name_or_path = tokenizer.name_or_path
    piece = differing(mended, own, probe)
    if piece is not None:
        raise UserError(
            f"{file}: transformers reads {printable(piece, 60)!r} as other token ids than this "
            "file gives, with its own class of tokenizer and without. The settings in "
            "tokenizer_config.json contradict it: correct them, or pass a tokenizer of your own."
        )
    log.warning(
        "%s: transformers' %s gives other token ids than this file; the file's own are used.",
        file,
        type(tokenizer).__name__,
    )
    return mended


def check_saved(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Refuse a saved tokenizer whose tokenizer.json gives other ids than the one in memory.

    Args:
        tokenizer: the one that was saved.
        folder: where it was saved.

    Raises:
        UserError: names a text that is read in another way.
    """
    if not getattr(tokenizer, "is_fast", False) or not (folder / FILE).is_file():
        return
    own = _read(folder / FILE)
    piece = differing(tokenizer, own, probe_of(own))
    if piece is not None:
        raise UserError(
            f"The tokenizer reads {printable(piece, 60)!r} as other token ids than the "
            f"{FILE} that it saves, so the checkpoint would not read as this model does. Pass a "
            "tokenizer that is saved whole (PreTrainedTokenizerFast(tokenizer_file=...))."
        )


def check_merges(folder: Path) -> None:
    """Refuse a tokenizer.json whose merges contradict its prefix: reading it would end the process.

    The library takes the prefix off the second part of every merge without a look at it, which is a
    panic in the middle of a character, and not one that Python can catch.

    Args:
        folder: a checkpoint folder; anything else is not looked at.

    Raises:
        UserError: a merge continues a word without the prefix.
    """
    file = folder / FILE
    if not file.is_file() or not PREFIX.search(raw := file.read_bytes()):
        return
    content = parse_json(raw.decode("utf-8", "surrogatepass"), str(file))
    found = content.get("model") if isinstance(content, dict) else None
    prefix = found.get("continuing_subword_prefix") if isinstance(found, dict) else None
    merges = found.get("merges") if isinstance(found, dict) else None
    if not isinstance(prefix, str) or not isinstance(merges, list):
        return
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        second = parts[-1] if isinstance(parts, list) and parts else ""
        if isinstance(second, str) and not second.startswith(prefix):
            raise UserError(
                f"{file} is damaged: the merge {short(merge)} continues a word without its "
                f"continuing_subword_prefix {short(prefix)}. Fetch it again."
            )


def probe_of(own: Tokenizer) -> list[str]:
    """Texts that tell tokenizers apart: digits, spaces, accents, scripts, emoji, special tokens."""
    special = [token.content for _, token in sorted(own.get_added_tokens_decoder().items())]
    marked = "".join(f"{token} a1 " for token in special[:MOST_SPECIAL])
    return [*PROBE.split(" "), PROBE, *special[:MOST_SPECIAL], marked]


def differing(tokenizer: Any, own: Tokenizer, probe: list[str]) -> str | None:
    """The first text of the probe that `tokenizer` and `own` give other ids; None if all agree."""
    for text in probe:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if list(ids) != own.encode(text, add_special_tokens=False).ids:
            return text
    return None


def _read(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        own = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises Exception itself
        raise UserError(f"Cannot read {file}: {reason_of(error)} Fetch it again.") from error
    own.no_truncation()
    own.no_padding()
    return own


def _file(place: str, download: bool) -> Path | None:
    if Path(place).is_dir():
        file = Path(place) / FILE
        return file if file.is_file() else None
    from transformers.utils.hub import cached_file

    found = cached_file(
        place, FILE, local_files_only=not download, _raise_exceptions_for_missing_entries=False
    )
    return Path(found) if found else None
