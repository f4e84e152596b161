"""Addresses in the viewer: of a chain, of one of its tokens, of a selection.

An address is the fragment of a URL, the same on the server and in an exported file:
`#/chain/BENCHMARK/PROBLEM/VARIANT/BUDGET/SAMPLE?t=57` and `#/?variant=skip%2011&loop=exact`. Put it
behind the server's URL or the name of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote, urlencode

from interp.errors import UserError
from scaling.store.chain_row import Key

HOST, PORT = "127.0.0.1", 8765  # where `prunescope view` serves, unless the port is taken


def chain_id(key: Key) -> str:
    """The five parts of a chain's key, percent-encoded and joined by slashes.

    Args:
        key: the chain's key in the store.

    Returns:
        The id, such as "countdown-4/17/skip%2011/256/0".
    """
    return "/".join(quote(str(part), safe="") for part in key)


def key_of(identifier: str) -> Key:
    """The key of a chain from its id.

    Args:
        identifier: what `chain_id` returned.

    Returns:
        The key.

    Raises:
        UserError: it is not the id of a chain.
    """
    parts = [unquote(part) for part in identifier.split("/")]
    if len(parts) != len(Key._fields) or not (parts[4].isascii() and parts[4].isdigit()):
        raise UserError(
            f"{identifier[:200]!r} is not the id of a chain; expected "
            "BENCHMARK/PROBLEM/VARIANT/BUDGET/SAMPLE, each part percent-encoded."
        )
    benchmark, problem, variant, budget, sample = parts
    return Key(benchmark, problem, variant, budget, int(sample))


def chain_address(key: Key, token: int | None = None, beside: str | None = None) -> str:
    """The address of a chain.

    Args:
        key: the chain's key in the store.
        token: the token to show, counted from the first generated one.
        beside: a variant whose chain is shown beside it.

    Returns:
        The fragment, "#" included.
    """
    options = {"t": token, "with": beside}
    return _with(
        f"#/chain/{chain_id(key)}", {k: str(v) for k, v in options.items() if v is not None}
    )


def selection_address(where: Mapping[str, str], search: str = "") -> str:
    """The address of a selection.

    Args:
        where: value by filter (`chain_table.FILTERS`).
        search: text to search for.

    Returns:
        The fragment, "#" included.
    """
    return _with("#/", {**where, **({"q": search} if search else {})})


def _with(path: str, options: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(options, quote_via=quote)}" if options else path
